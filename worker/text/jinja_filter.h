/* worker/text/jinja_filter.h - filters (value | name) and tests (value is name). */
#ifndef MW_TEXT_JINJA_FILTER_H
#define MW_TEXT_JINJA_FILTER_H
#include "worker/text/jinja_call.h"
MW_BEGIN_DECLS

#define MW_JFILTER_ARGS 4

typedef struct mw_jfilter {
    const char *name;
    const char *param[MW_JFILTER_ARGS]; /* Python's names, which keyword arguments use */
    uint8_t n_min, n_max;
    mw_status (*fn)(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out);
    mw_status (*raw)(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out); /* instead of fn: any arguments */
    bool context; /* Jinja gives it the context of the render, so never evaluates it at compile time */
} mw_jfilter;

const mw_jfilter *mw_jfilter_find(mw_jval name);
MW_MUST_CHECK mw_status mw_jfilter_apply(mw_jrun *r, const mw_jfilter *f, mw_jval in, const mw_jargs *args,
                                         mw_jval *out);

typedef struct mw_jtest {
    const char *name;
    const char *param; /* of the one argument, NULL: takes none; "": by position only */
    mw_status (*fn)(mw_jrun *r, mw_jval v, mw_jval arg, bool *out);
} mw_jtest;

const mw_jtest *mw_jtest_find(mw_jval name);
MW_MUST_CHECK mw_status mw_jtest_apply(mw_jrun *r, const mw_jtest *t, mw_jval v, const mw_jargs *args, bool *out);

/* The tables' parts; each ends with a NULL name. */
extern const mw_jfilter mw_jfilters_text[], mw_jfilters_seq[], mw_jfilters_lazy[];

/* Keys to sort, compare or make unique by: the value at `attribute`, text in lower case unless case_sensitive. */
typedef struct mw_jkeyer {
    mw_jval path; /* from mw_jattr_path */
    bool fold;
} mw_jkeyer;
MW_MUST_CHECK mw_status mw_jkeyer_make(mw_jrun *r, mw_jval attribute, mw_jval case_sensitive, mw_jkeyer *out);
MW_MUST_CHECK mw_status mw_jkeyer_key(mw_jrun *r, const mw_jkeyer *k, mw_jval item, mw_jval *out);

/* An undefined value whose use gives this message. */
MW_MUST_CHECK mw_status mw_jundefined_text(mw_jrun *r, const char *hint, mw_jval *out);

MW_END_DECLS
#endif
