/* worker/text/jinja_str.h - Python's string functions, shared by methods and filters. Arguments are strings. */
#ifndef MW_TEXT_JINJA_STR_H
#define MW_TEXT_JINJA_STR_H
#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_call.h"
MW_BEGIN_DECLS

/* s.strip(chars) and its halves; chars None or MISSING: white space. */
MW_MUST_CHECK mw_status mw_jstr_strip(mw_jrun *r, mw_jval s, mw_jval chars, bool lead, bool trail, mw_jval *out);
/* s.replace(old, new, count); a negative count replaces all. */
MW_MUST_CHECK mw_status mw_jstr_replace(mw_jrun *r, mw_jval s, mw_jval old, mw_jval with, int64_t count, mw_jval *out);
MW_MUST_CHECK mw_status mw_jstr_splitlines(mw_jrun *r, mw_jval s, bool keep_ends, mw_jval *out);
/* sep.join(list); `any` takes str() of the elements, else each must be a string. */
MW_MUST_CHECK mw_status mw_jstr_join(mw_jrun *r, mw_jval sep, mw_jval iterable, bool any, mw_jval *out);

/* A method of str with its bound arguments (MISSING where not given). */
MW_MUST_CHECK mw_status mw_jstr_method(mw_jrun *r, mw_jmethod m, mw_jval self, const mw_jval *a, mw_jval *out);

MW_END_DECLS
#endif
