#include "worker/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "worker/text/tok_json.h"
#include "worker/text/tok_private.h"
#include "worker/text/tok_unicode.h"
#include "worker/text/tok_utf8.h"

#define MAX_JSON ((size_t)1 << 29) /* bytes of a tokenizer.json; the largest public ones have 34 MB */
#define MAX_TEXT ((size_t)1 << 30) /* bytes of one text: positions stay within 32 bits */

static mw_status check_top(const json_t *o) {
    static const char *const KNOWN[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    const json_t *version = json_object_get(o, "version");
    mw_status st = mw_tok_json_fields(o, "the top level", KNOWN);
    if (st != MW_OK) return st;
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "version is not \"1.0\"");
    for (int i = 1; i <= 2; i++) {
        const json_t *v = json_object_get(o, KNOWN[i]);
        if (v && !json_is_null(v)) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s is not null", KNOWN[i]);
    }
    return MW_OK;
}

/* Every id that encode may give must be one that decode takes. */
static mw_status check_around(const mw_tokenizer *t, const mw_ids *ids) {
    for (size_t i = 0; i < ids->n; i++)
        if (ids->p[i] >= t->decoder.size || !(t->decoder.flags[ids->p[i]] & MW_TOK_HAS))
            return MW_FAIL(MW_ERR_FORMAT, "post_processor: id %d is not in the vocabulary", ids->p[i]);
    return MW_OK;
}

static mw_status build(mw_tokenizer *t, const json_t *o) {
    mw_status st;
    MW_TRY(st, check_top(o));
    MW_TRY(st, mw_tok_norm_parse(&t->norm, json_object_get(o, "normalizer")));
    MW_TRY(st, mw_tok_split_parse(&t->split, json_object_get(o, "pre_tokenizer")));
    if (mw_tok_split_asks_origin(&t->split) && mw_tok_norm_recomposes(&t->norm))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "pre_tokenizer: prepend_scheme 'first' behind a Unicode normalization");
    t->bpe.byte_units = t->split.byte_level;
    MW_TRY(st, mw_tok_model_parse(&t->bpe, json_object_get(o, "model")));
    MW_TRY(st, mw_tok_added_parse(&t->added, json_object_get(o, "added_tokens"), &t->bpe.vocab, &t->norm));
    MW_TRY(st, mw_tok_decoder_parse(&t->decoder, json_object_get(o, "decoder")));
    MW_TRY(st, mw_tok_decoder_index(&t->decoder, &t->bpe.vocab, &t->added));
    MW_TRY(st, mw_tok_post_parse(&t->before, &t->after, json_object_get(o, "post_processor")));
    MW_TRY(st, check_around(t, &t->before));
    MW_TRY(st, check_around(t, &t->after));
fail:
    return st;
}

mw_status mw_tokenizer_open(mw_tokenizer **out, const char *json, size_t n) {
    json_error_t error;
    json_t *root = NULL;
    mw_tokenizer *t = NULL;
    mw_status st;
    if (n > MAX_JSON) return MW_FAIL(MW_ERR_LIMIT, "tokenizer.json: %zu bytes, at most %zu", n, MAX_JSON);
    MW_TRY(st, MW_CALLOC(&t, 1, "tokenizer"));
    root = json_loadb(json, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root) {
        st = MW_FAIL(MW_ERR_FORMAT, "tokenizer.json: line %d: %s", error.line, error.text);
        goto fail;
    }
    st = build(t, root);
    if (st != MW_OK) mw_error_prefix("tokenizer.json");
fail:
    json_decref(root);
    if (st != MW_OK) {
        mw_tokenizer_close(t);
        return st;
    }
    *out = t;
    return MW_OK;
}

void mw_tokenizer_close(mw_tokenizer *t) {
    if (!t) return;
    mw_tok_norm_free(&t->norm);
    mw_tok_split_free(&t->split);
    mw_tok_bpe_free(&t->bpe);
    mw_tok_added_free(&t->added);
    mw_tok_decoder_free(&t->decoder);
    mw_ids_free(&t->before);
    mw_ids_free(&t->after);
    free(t);
}

int32_t mw_tokenizer_id(const mw_tokenizer *t, const char *content) {
    size_t n = strlen(content);
    int32_t id = mw_tok_names_find(&t->added.ids, content, n);
    return id >= 0 ? id : mw_tok_names_find(&t->bpe.vocab, content, n);
}

/* One call of encode. */
typedef struct {
    const mw_tokenizer *t;
    bool specials;
    mw_tok_split_run run;
    mw_tok_norm_work norm_work;
    mw_tok_bpe_work bpe_work;
    mw_tok_matcher matcher;
} encoder;

/* Text between two added tokens, normalized. */
static mw_status visit_normalized(void *arg, const mw_tok_added_token *token, mw_tok_piece piece) {
    encoder *e = arg;
    return token ? mw_ids_add(e->run.out, token->id) : mw_tok_split_encode(&e->run, piece);
}

/* Text between two added tokens, as it came. */
static mw_status visit_raw(void *arg, const mw_tok_added_token *token, mw_tok_piece piece) {
    encoder *e = arg;
    if (token) return mw_ids_add(e->run.out, token->id);
    mw_status st = mw_tok_norm_run(&e->t->norm, &e->norm_work, &e->matcher, e->run.late, piece, &piece);
    if (st != MW_OK) return st;
    return mw_tok_added_scan(&e->t->added, true, e->specials, &e->matcher, piece, visit_normalized, e);
}

static mw_status encode_text(encoder *e, const char *p, size_t n) {
    mw_tok_piece text = {.p = p, .n = n, .zero = n ? (size_t)mw_utf8_len((unsigned char)p[0]) : 0};
    e->run.late = e->t->norm.late || mw_unicode_has_late(p, n);
    mw_status st = mw_tok_bpe_work_cache(&e->bpe_work, n);
    if (st != MW_OK) return st;
    return mw_tok_added_scan(&e->t->added, false, e->specials, &e->matcher, text, visit_raw, e);
}

static void encoder_free(encoder *e) {
    mw_tok_norm_work_free(&e->norm_work);
    mw_tok_bpe_work_free(&e->bpe_work);
    mw_tok_matcher_free(&e->matcher);
    for (int i = 0; i < MW_TOK_MAX_STEPS; i++) mw_str_free(&e->run.text[i]);
}

mw_status mw_tokenizer_encode(const mw_tokenizer *t, const char *text, size_t n, unsigned flags, mw_ids *out) {
    encoder e = {.t = t, .specials = (flags & MW_TOK_PARSE_SPECIAL) != 0};
    mw_str repaired = {0};
    size_t before = out->n;
    mw_status st;
    if (n > MAX_TEXT) return MW_FAIL(MW_ERR_LIMIT, "text of %zu bytes, at most %zu", n, MAX_TEXT);
    e.run.split = &t->split;
    e.run.bpe = &t->bpe;
    e.run.bpe_work = &e.bpe_work;
    e.run.matcher = &e.matcher;
    e.run.out = out;
    if (mw_utf8_valid_prefix(text, n) < n) {
        MW_TRY(st, mw_utf8_add_lossy(&repaired, text, n));
        text = repaired.p;
        n = repaired.n;
    }
    if (flags & MW_TOK_ADD_SPECIAL) MW_TRY(st, mw_ids_append(out, t->before.p, t->before.n));
    MW_TRY(st, encode_text(&e, text, n));
    if (flags & MW_TOK_ADD_SPECIAL) MW_TRY(st, mw_ids_append(out, t->after.p, t->after.n));
fail:
    if (st != MW_OK) out->n = before;
    encoder_free(&e);
    mw_str_free(&repaired);
    return st;
}
