/* worker/text/tok_model.c - the "model" of tokenizer.json: vocabulary and merges of a BPE. */
#include <string.h>

#include "worker/text/tok_json.h"
#include "worker/text/tok_private.h"

static mw_status parse_vocab(mw_tok_names *v, const json_t *json) {
    const char *key;
    json_t *id;
    if (!json_is_object(json)) return MW_FAIL(MW_ERR_FORMAT, "model: 'vocab' is not an object");
    mw_status st = mw_tok_names_init(v, json_object_size(json));
    if (st != MW_OK) return st;
    json_object_foreach((json_t *)json, key, id) {
        if (!json_is_integer(id)) return MW_FAIL(MW_ERR_FORMAT, "model: vocab: id of '%.64s' is not an integer", key);
        if ((st = mw_tok_names_add(v, key, strlen(key), json_integer_value(id), "model: vocab")) != MW_OK) return st;
    }
    return MW_OK;
}

typedef struct {
    const char *p[2];
    size_t n[2];
} pair_text;

/* "a b" or ["a", "b"]. */
static mw_status parse_pair(const json_t *m, size_t i, pair_text *out) {
    if (json_is_string(m)) {
        const char *s = json_string_value(m), *end = s + json_string_length(m);
        const char *space = memchr(s, ' ', (size_t)(end - s));
        if (!space || memchr(space + 1, ' ', (size_t)(end - space - 1)))
            return MW_FAIL(MW_ERR_FORMAT, "model: merges[%zu] is '%.64s', expected two tokens and a space", i, s);
        *out = (pair_text){{s, space + 1}, {(size_t)(space - s), (size_t)(end - space - 1)}};
        return MW_OK;
    }
    const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
    if (json_array_size(m) != 2 || !json_is_string(a) || !json_is_string(b))
        return MW_FAIL(MW_ERR_FORMAT, "model: merges[%zu] is not a pair of strings", i);
    *out = (pair_text){{json_string_value(a), json_string_value(b)}, {json_string_length(a), json_string_length(b)}};
    return MW_OK;
}

static mw_status find_token(const mw_tok_names *v, const char *p, size_t n, size_t i, int32_t *id) {
    *id = mw_tok_names_find(v, p, n);
    if (*id >= 0) return MW_OK;
    return MW_FAIL(MW_ERR_FORMAT, "model: merges[%zu]: '%.*s' is not in vocab", i, n < 64 ? (int)n : 64, p);
}

static mw_status parse_merges(mw_tok_bpe *b, const json_t *json) {
    const mw_tok_names *v = &b->vocab;
    mw_str joined = {0};
    mw_status st;
    if (!json_is_array(json)) return MW_FAIL(MW_ERR_FORMAT, "model: 'merges' is not an array");
    size_t n = json_array_size(json);
    MW_TRY(st, mw_tok_merges_init(&b->merges, n));
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(json, i);
        pair_text t = {0};
        int32_t left = -1, right = -1, id = -1;
        /* The first line of a merges.txt; the reference passes it over wherever it stands. */
        if (json_is_string(m) && strncmp(json_string_value(m), "#version", 8) == 0) continue;
        if (json_is_string(m) != json_is_string(json_array_get(json, 0))) {
            st = MW_FAIL(MW_ERR_FORMAT, "model: merges[%zu] is of another kind than merges[0]", i);
            goto fail;
        }
        MW_TRY(st, parse_pair(m, i, &t));
        MW_TRY(st, find_token(v, t.p[0], t.n[0], i, &left));
        MW_TRY(st, find_token(v, t.p[1], t.n[1], i, &right));
        joined.n = 0;
        MW_TRY(st, mw_str_add(&joined, t.p[0], t.n[0]));
        MW_TRY(st, mw_str_add(&joined, t.p[1], t.n[1]));
        MW_TRY(st, find_token(v, joined.p, joined.n, i, &id));
        mw_tok_merges_add(&b->merges, left, right, (uint32_t)i, id);
    }
fail:
    mw_str_free(&joined);
    return st;
}

/* Options that we take only as "off". */
static mw_status check_off(const json_t *o) {
    static const char *const AFFIX[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(o, "dropout");
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "model: dropout");
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(o, AFFIX[i]);
        if (v && !json_is_null(v) && !(json_is_string(v) && json_string_length(v) == 0))
            return MW_FAIL(MW_ERR_UNSUPPORTED, "model: %s", AFFIX[i]);
    }
    return MW_OK;
}

static mw_status flag(const json_t *o, const char *key, bool *out) {
    return json_is_null(json_object_get(o, key)) ? MW_OK : mw_tok_json_bool_opt(o, "model", key, out);
}

mw_status mw_tok_model_parse(mw_tok_bpe *b, const json_t *o) {
    static const char *const KNOWN[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "end_of_word_suffix",
                                        "vocab",
                                        "merges",
                                        NULL};
    const char *type = "BPE", *unk = NULL;
    size_t unk_n = 0;
    mw_status st;
    if (!json_is_object(o)) return MW_FAIL(MW_ERR_FORMAT, "'model' is not an object");
    if (json_object_get(o, "type")) MW_TRY(st, mw_tok_json_type(o, "model", &type)); /* old files leave it out */
    if (strcmp(type, "BPE") != 0) return MW_FAIL(MW_ERR_UNSUPPORTED, "model: type '%.64s', only BPE", type);
    MW_TRY(st, mw_tok_json_fields(o, "model", KNOWN));
    MW_TRY(st, check_off(o));
    MW_TRY(st, flag(o, "fuse_unk", &b->fuse_unk));
    MW_TRY(st, flag(o, "byte_fallback", &b->byte_fallback));
    MW_TRY(st, flag(o, "ignore_merges", &b->ignore_merges));
    if (json_object_get(o, "unk_token") && !json_is_null(json_object_get(o, "unk_token")))
        MW_TRY(st, mw_tok_json_string(o, "model", "unk_token", &unk, &unk_n));
    MW_TRY(st, parse_vocab(&b->vocab, json_object_get(o, "vocab")));
    MW_TRY(st, parse_merges(b, json_object_get(o, "merges")));
    MW_TRY(st, mw_tok_bpe_ready(b, unk, unk_n));
fail:
    return st;
}
