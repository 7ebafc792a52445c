/* worker/text/jinja.h - the template engine behind chat.h: any variables, and a clock passed in. */
#ifndef MW_TEXT_JINJA_H
#define MW_TEXT_JINJA_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_JINJA_MAX ((size_t)1 << 20) /* bytes of a template */

typedef struct mw_jinja mw_jinja;

/* MW_ERR_FORMAT: not a template. MW_ERR_UNSUPPORTED: a construct that is not rendered exactly as Jinja2 does.
 * MW_ERR_LIMIT: too large or too deeply nested. All name line and column. */
MW_MUST_CHECK mw_status mw_jinja_open(mw_jinja **out, const char *text, size_t n);
void mw_jinja_close(mw_jinja *t); /* NULL allowed */

/* A variable of the template: JSON, or text when json is NULL, or None when both are. */
typedef struct mw_jinja_var {
    const char *name;
    const json_t *json;
    const char *text;
} mw_jinja_var;

/* vars come before the members of `extra` (an object or NULL), and those before Jinja's own globals. now_us: wall clock
 * for strftime_now, microseconds since 1970. The text is appended to *out on success only. *raised (may be NULL): the
 * failure is the template's own raise_exception. */
MW_MUST_CHECK mw_status mw_jinja_render(const mw_jinja *t, const mw_jinja_var *vars, size_t n_vars, const json_t *extra,
                                        int64_t now_us, mw_str *out, bool *raised);

MW_END_DECLS
#endif
