/* worker/text/tok_json.h - reading the objects of tokenizer.json: each field checked, each unknown one refused.
 * `where` is the object's place in the file, for errors.
 */
#ifndef MW_TEXT_TOK_JSON_H
#define MW_TEXT_TOK_JSON_H
#include <jansson.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_TOK_MAX_NESTING 8 /* Sequences inside Sequences */

/* o is an object and has no field but those of `known` (ended by NULL). A field that a later version of the format adds
 * may change the meaning of the others, so an unknown one is MW_ERR_UNSUPPORTED. */
MW_MUST_CHECK mw_status mw_tok_json_fields(const json_t *o, const char *where, const char *const *known);

/* The string in "type". */
MW_MUST_CHECK mw_status mw_tok_json_type(const json_t *o, const char *where, const char **out);

/* Required; *n bytes, a zero byte behind them. */
MW_MUST_CHECK mw_status mw_tok_json_string(const json_t *o, const char *where, const char *key, const char **out,
                                           size_t *n);
/* A string of one character: its code point. */
MW_MUST_CHECK mw_status mw_tok_json_char(const json_t *o, const char *where, const char *key, uint32_t *out);
MW_MUST_CHECK mw_status mw_tok_json_bool(const json_t *o, const char *where, const char *key, bool *out);
/* *out keeps its value where the field is absent. */
MW_MUST_CHECK mw_status mw_tok_json_bool_opt(const json_t *o, const char *where, const char *key, bool *out);
MW_MUST_CHECK mw_status mw_tok_json_array(const json_t *o, const char *where, const char *key, const json_t **out);
MW_MUST_CHECK mw_status mw_tok_json_int(const json_t *o, const char *where, const char *key, int64_t lo, int64_t hi,
                                        int64_t *out);
/* {"String": text} or {"Regex": text}. */
MW_MUST_CHECK mw_status mw_tok_json_pattern(const json_t *o, const char *where, const char **text, size_t *n,
                                            bool *regex);

/* The parts of something that may be a Sequence, in order: visit is called with each part that is not a Sequence
 * itself. list: the field that holds a Sequence's parts. */
typedef mw_status (*mw_tok_json_visit)(void *arg, const json_t *part, const char *type, const char *where);
MW_MUST_CHECK mw_status mw_tok_json_sequence(const json_t *o, const char *where, const char *list,
                                             mw_tok_json_visit visit, void *arg);

MW_END_DECLS
#endif
