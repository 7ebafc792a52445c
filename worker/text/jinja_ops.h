/* worker/text/jinja_ops.h - the operators of expressions. */
#ifndef MW_TEXT_JINJA_OPS_H
#define MW_TEXT_JINJA_OPS_H
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

MW_MUST_CHECK mw_status mw_jop_arith(mw_jrun *r, mw_jarith op, mw_jval a, mw_jval b, mw_jval *out);
MW_MUST_CHECK mw_status mw_jop_sign(mw_jrun *r, bool minus, mw_jval v, mw_jval *out); /* -v, +v */
/* item in seq */
MW_MUST_CHECK mw_status mw_jop_contains(mw_jrun *r, mw_jval seq, mw_jval item, bool *out);
/* *at: byte offset of the first (last) `what` in s[from, to), or -1. An empty `what` is found at either end. */
MW_MUST_CHECK mw_status mw_jop_find(mw_jrun *r, const char *s, size_t from, size_t to, mw_jval what, bool last,
                                    int64_t *at);

MW_END_DECLS
#endif
