/* worker/text/jinja_iter.h - Python's iterators: what for, list, in and the lazy filters run through. */
#ifndef MW_TEXT_JINJA_ITER_H
#define MW_TEXT_JINJA_ITER_H
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* One pass over something. An iterator is a value with state: map, select and their kin yield each element once, when
 * it is asked for, and templates can tell. */
struct mw_jiter {
    mw_status (*next)(mw_jrun *r, mw_jiter *it, mw_jval *out); /* sets *out, or leaves it MISSING at the end */
    mw_jval over;                                              /* what is run through */
    mw_jiter *src;                                             /* iterator over `over`, for those that begin late */
    void *state;                                               /* of the kind of iterator */
    int64_t at;                                                /* position, by kind */
    bool done;
};

/* The variable `loop` of a for block. */
struct mw_jloop {
    mw_jiter *it;
    mw_jval over;                   /* the iterable, for its length */
    int64_t index0, length;         /* length -1: not asked for yet */
    mw_jval before, current, after; /* MISSING: none, or not looked at yet */
    mw_jval changed;                /* arguments of the last loop.changed() */
};

bool mw_jiterable(mw_jval v);
/* iter(v). */
MW_MUST_CHECK mw_status mw_jiter_of(mw_jrun *r, mw_jval v, mw_jiter **out);
/* An iterator of another kind, with its own `next`. */
MW_MUST_CHECK mw_status mw_jiter_make(mw_jrun *r, mw_status (*next)(mw_jrun *, mw_jiter *, mw_jval *), mw_jval over,
                                      void *state, mw_jval *out);
/* The next element of what it->over yields, for iterators that begin when first asked. */
MW_MUST_CHECK mw_status mw_jiter_source(mw_jrun *r, mw_jiter *it, mw_jval *out);
/* *out is MISSING at the end. */
MW_MUST_CHECK mw_status mw_jiter_next(mw_jrun *r, mw_jiter *it, mw_jval *out);
/* list(v), always a MW_J_LIST. */
MW_MUST_CHECK mw_status mw_jiter_list(mw_jrun *r, mw_jval v, mw_jval *out);
/* reversed(v): *can is false when Python has none for the type; else *out is a list of the elements, last first. */
MW_MUST_CHECK mw_status mw_jiter_reversed(mw_jrun *r, mw_jval v, bool *can, mw_jval *out);

MW_MUST_CHECK mw_status mw_jloop_next(mw_jrun *r, mw_jloop *l, mw_jval *out);
MW_MUST_CHECK mw_status mw_jloop_length(mw_jrun *r, mw_jloop *l, int64_t *out);
/* loop.NAME; out->type is MW_J_MISSING when it has none such. */
MW_MUST_CHECK mw_status mw_jloop_attr(mw_jrun *r, mw_jloop *l, mw_jval name, mw_jval *out);

MW_END_DECLS
#endif
