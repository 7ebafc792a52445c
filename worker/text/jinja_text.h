/* worker/text/jinja_text.h - values to text: Python's str() and repr(), JSON in and out, formatting. */
#ifndef MW_TEXT_JINJA_TEXT_H
#define MW_TEXT_JINJA_TEXT_H
#include <jansson.h>

#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* str(v) and repr(v), appended. What Python prints with an address (iterators, methods, functions) is refused. */
MW_MUST_CHECK mw_status mw_jtext_str(mw_jrun *r, mw_jval v, mw_jbuf *b);
MW_MUST_CHECK mw_status mw_jtext_repr(mw_jrun *r, mw_jval v, mw_jbuf *b);
/* str(v) as a value; a string is passed through. */
MW_MUST_CHECK mw_status mw_jtext_value(mw_jrun *r, mw_jval v, mw_jval *out);

/* json.dumps(v, ensure_ascii, indent, separators, sort_keys); item and key are the separators. */
typedef struct mw_jdump {
    bool ascii, sort, lines; /* lines: one element a line, indented by `indent` */
    mw_jval indent, item, key;
} mw_jdump;
MW_MUST_CHECK mw_status mw_jtext_json(mw_jrun *r, const mw_jdump *how, mw_jval v, mw_jbuf *b);

/* A jansson value as a template value. Strings are shared, not copied: `json` outlives the render. */
MW_MUST_CHECK mw_status mw_jtext_from_json(mw_jrun *r, const json_t *json, mw_jval *out);

/* format % args, and format.format(*pos, **kw). */
MW_MUST_CHECK mw_status mw_jtext_percent(mw_jrun *r, mw_jval format, mw_jval args, mw_jval *out);
typedef struct mw_jargs mw_jargs;
MW_MUST_CHECK mw_status mw_jtext_format(mw_jrun *r, mw_jval format, const mw_jargs *args, mw_jval *out);

MW_END_DECLS
#endif
