/* worker/text/tok_post.c - the "post_processor" of tokenizer.json, which for one text is: ids before, ids behind.
 *
 * In a Sequence each processor wraps what the ones before it made.
 */
#include <string.h>

#include "worker/text/tok_json.h"
#include "worker/text/tok_private.h"

typedef struct {
    mw_ids *before, *after;
} around;

/* a stands before everything so far, z behind it. */
static mw_status wrap(around *r, const mw_ids *a, const mw_ids *z) {
    mw_ids joined = {0};
    mw_status st;
    MW_TRY(st, mw_ids_append(&joined, a->p, a->n));
    MW_TRY(st, mw_ids_append(&joined, r->before->p, r->before->n));
    MW_TRY(st, mw_ids_append(r->after, z->p, z->n));
    mw_ids_free(r->before);
    *r->before = joined;
    return MW_OK;
fail:
    mw_ids_free(&joined);
    return st;
}

/* special_tokens[name].ids */
static mw_status special_ids(const json_t *specials, const char *name, const char *where, mw_ids *out) {
    static const char *const KNOWN[] = {"id", "ids", "tokens", NULL};
    const json_t *token = json_object_get(specials, name), *ids = NULL;
    mw_status st;
    if (!token) return MW_FAIL(MW_ERR_FORMAT, "%s: special_tokens has no '%.64s'", where, name);
    MW_TRY(st, mw_tok_json_fields(token, where, KNOWN));
    MW_TRY(st, mw_tok_json_array(token, where, "ids", &ids));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= MW_TOK_MAX_ID)
            return MW_FAIL(MW_ERR_FORMAT, "%s: special_tokens '%.64s' has an id that is none", where, name);
        MW_TRY(st, mw_ids_add(out, (int32_t)json_integer_value(id)));
    }
fail:
    return st;
}

/* {"Sequence": {"id": "A"}} or {"SpecialToken": {"id": name}}. *text: it is the text; else ids went to *out. */
static mw_status parse_piece(const json_t *piece, const json_t *specials, const char *where, bool *text, mw_ids *out) {
    static const char *const KNOWN[] = {"Sequence", "SpecialToken", NULL}, *const PART[] = {"id", "type_id", NULL};
    const json_t *sequence = json_object_get(piece, "Sequence");
    const json_t *body = sequence ? sequence : json_object_get(piece, "SpecialToken");
    const char *id = NULL;
    size_t n;
    mw_status st;
    MW_TRY(st, mw_tok_json_fields(piece, where, KNOWN));
    MW_TRY(st, mw_tok_json_fields(body, where, PART));
    MW_TRY(st, mw_tok_json_string(body, where, "id", &id, &n));
    *text = sequence != NULL;
    if (!sequence) return special_ids(specials, id, where, out);
    if (strcmp(id, "A") != 0) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: sequence '%.64s' for a single text", where, id);
fail:
    return st;
}

static mw_status parse_template(around *r, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "single", "pair", "special_tokens", NULL};
    const json_t *single = NULL, *specials = json_object_get(o, "special_tokens");
    mw_ids a = {0}, z = {0};
    int texts = 0;
    mw_status st;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_array(o, where, "single", &single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        bool text = false;
        MW_TRY(st, parse_piece(json_array_get(single, i), specials, where, &text, texts ? &z : &a));
        texts += text;
    }
    if (texts == 1)
        st = wrap(r, &a, &z);
    else
        st = MW_FAIL(MW_ERR_UNSUPPORTED, "%s: template with the text %d times", where, texts);
fail:
    mw_ids_free(&a);
    mw_ids_free(&z);
    return st;
}

/* ["<s>", id] */
static mw_status parse_token_pair(const json_t *o, const char *where, const char *key, mw_ids *out) {
    const json_t *pair = NULL;
    mw_status st = mw_tok_json_array(o, where, key, &pair);
    if (st != MW_OK) return st;
    const json_t *id = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= MW_TOK_MAX_ID)
        return MW_FAIL(MW_ERR_FORMAT, "%s: '%s' is not a token and its id", where, key);
    return mw_ids_add(out, (int32_t)json_integer_value(id));
}

static mw_status parse_cls_sep(around *r, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "sep", "cls", "trim_offsets", "add_prefix_space", NULL};
    mw_ids a = {0}, z = {0};
    mw_status st;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, parse_token_pair(o, where, "cls", &a));
    MW_TRY(st, parse_token_pair(o, where, "sep", &z));
    MW_TRY(st, wrap(r, &a, &z));
fail:
    mw_ids_free(&a);
    mw_ids_free(&z);
    return st;
}

static mw_status parse_step(void *arg, const json_t *o, const char *type, const char *where) {
    static const char *const BYTE_LEVEL[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    if (strcmp(type, "ByteLevel") == 0) return mw_tok_json_fields(o, where, BYTE_LEVEL); /* only about offsets */
    if (strcmp(type, "TemplateProcessing") == 0) return parse_template(arg, o, where);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return parse_cls_sep(arg, o, where);
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: type '%.64s'", where, type);
}

mw_status mw_tok_post_parse(mw_ids *before, mw_ids *after, const json_t *json) {
    around r = {before, after};
    if (!json || json_is_null(json)) return MW_OK;
    return mw_tok_json_sequence(json, "post_processor", "processors", parse_step, &r);
}
