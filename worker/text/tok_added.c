#include "worker/text/tok_added.h"

#include <stdlib.h>

#include "worker/text/tok_json.h"
#include "worker/text/tok_unicode.h"
#include "worker/text/tok_utf8.h"

/* Alphabetic, marks, decimal numbers, connectors and joiners: \w of the Unicode standard. */
static const char WORD_REGEX[] =
    "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"
    "\\x{1F170}-\\x{1F189}]";

static int32_t trie_find(const mw_tok_trie *t, int32_t first, unsigned char byte) {
    while (first >= 0 && t->node[first].byte != byte) first = t->node[first].sibling;
    return first;
}

static mw_status trie_node(mw_tok_trie *t, unsigned char byte, int32_t sibling, int32_t *out) {
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 256;
        if (cap > INT32_MAX) return MW_FAIL(MW_ERR_LIMIT, "added_tokens: more than 2 GiB of texts");
        mw_tok_trie_node *p = realloc(t->node, cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "added_tokens: %zu nodes", cap);
        t->node = p;
        t->cap = cap;
    }
    t->node[t->n] = (mw_tok_trie_node){.child = -1, .sibling = sibling, .token = -1, .byte = byte};
    *out = (int32_t)t->n++;
    return MW_OK;
}

static mw_status trie_add(mw_tok_trie *t, const char *p, size_t n, int32_t token) {
    int32_t at = -1;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)p[i];
        int32_t first = i ? t->node[at].child : t->root[b], next = trie_find(t, first, b);
        if (next < 0) {
            mw_status st = trie_node(t, b, first, &next);
            if (st != MW_OK) return st;
            if (i)
                t->node[at].child = next;
            else
                t->root[b] = next;
        }
        at = next;
    }
    if (at < 0 || t->node[at].token >= 0)
        return MW_FAIL(MW_ERR_FORMAT, "added_tokens: '%.64s' normalizes to %s", p,
                       at < 0 ? "nothing" : "what another token is");
    t->node[at].token = token;
    return MW_OK;
}

/* *content belongs to o. */
static mw_status parse_token(mw_tok_added *a, const json_t *o, size_t i, mw_tok_added_token *t, int64_t *id,
                             const char **content) {
    static const char *const KNOWN[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    char where[48];
    const char *text = NULL;
    size_t n = 0;
    mw_status st;
    snprintf(where, sizeof where, "added_tokens[%zu]", i);
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_int(o, where, "id", 0, MW_TOK_MAX_ID - 1, id));
    MW_TRY(st, mw_tok_json_string(o, where, "content", &text, &n));
    MW_TRY(st, mw_tok_json_bool(o, where, "single_word", &t->single_word));
    MW_TRY(st, mw_tok_json_bool(o, where, "lstrip", &t->lstrip));
    MW_TRY(st, mw_tok_json_bool(o, where, "rstrip", &t->rstrip));
    MW_TRY(st, mw_tok_json_bool(o, where, "normalized", &t->normalized));
    MW_TRY(st, mw_tok_json_bool(o, where, "special", &t->special));
    if (a->bytes.n + n > UINT32_MAX) return MW_FAIL(MW_ERR_LIMIT, "added_tokens: more than 4 GiB of texts");
    t->content = (mw_tok_span){.off = (uint32_t)a->bytes.n, .len = (uint32_t)n};
    MW_TRY(st, mw_str_add(&a->bytes, text, n));
    t->pattern = t->content;
    *content = text;
fail:
    return st;
}

/* The pattern of a "normalized" token. */
static mw_status normalize_token(mw_tok_added *a, const mw_tok_norm *norm, mw_tok_norm_work *w, mw_tok_matcher *m,
                                 const char *content, mw_tok_added_token *t) {
    mw_tok_piece in = {.p = content, .n = t->content.len}, out = in;
    mw_status st = mw_tok_norm_run(norm, w, m, true, in, &out);
    if (st != MW_OK) return st;
    if (out.n == in.n && memcmp(out.p, in.p, in.n) == 0) return MW_OK;
    if (a->bytes.n + out.n > UINT32_MAX) return MW_FAIL(MW_ERR_LIMIT, "added_tokens: more than 4 GiB of texts");
    t->pattern = (mw_tok_span){.off = (uint32_t)a->bytes.n, .len = (uint32_t)out.n};
    return mw_str_add(&a->bytes, out.p, out.n);
}

static mw_status check_id(const mw_tok_added *a, const mw_tok_added_token *t, const mw_tok_names *vocab, int64_t id,
                          int64_t *next_id) {
    const char *text = a->bytes.p + t->content.off;
    int32_t known = mw_tok_names_find(vocab, text, t->content.len);
    int64_t expected = known >= 0 ? known : (*next_id)++;
    if (id != expected)
        return MW_FAIL(MW_ERR_FORMAT, "added_tokens: '%.*s' has id %lld, but %s makes it %lld",
                       (int)(t->content.len < 64 ? t->content.len : 64), text, (long long)id,
                       known >= 0 ? "the vocabulary" : "the order behind the vocabulary", (long long)expected);
    if (known < 0 && mw_tok_names_has(vocab, id))
        return MW_FAIL(MW_ERR_FORMAT, "added_tokens: id %lld belongs to another token of the vocabulary",
                       (long long)id);
    return MW_OK;
}

static mw_status parse_tokens(mw_tok_added *a, const json_t *json, const mw_tok_names *vocab, const mw_tok_norm *norm,
                              mw_tok_norm_work *w, mw_tok_matcher *m) {
    int64_t next_id = (int64_t)vocab->count;
    bool words = false;
    mw_status st;
    for (size_t i = 0; i < json_array_size(json); i++) {
        mw_tok_added_token *t = &a->token[a->n];
        const char *content = "";
        int64_t id = 0;
        MW_TRY(st, parse_token(a, json_array_get(json, i), i, t, &id, &content));
        if (t->content.len == 0) continue; /* such a token does not exist for the reference */
        MW_TRY(st, check_id(a, t, vocab, id, &next_id));
        MW_TRY(st, mw_tok_names_add(&a->ids, a->bytes.p + t->content.off, t->content.len, id, "added_tokens"));
        t->id = (int32_t)id;
        if (t->normalized) MW_TRY(st, normalize_token(a, norm, w, m, content, t));
        MW_TRY(st, trie_add(t->normalized ? &a->normalized : &a->raw, a->bytes.p + t->pattern.off, t->pattern.len,
                            (int32_t)a->n));
        words = words || t->single_word;
        a->n++;
    }
    if (words) MW_TRY(st, mw_tok_regex_open(&a->word, WORD_REGEX, sizeof WORD_REGEX - 1, false, "added_tokens"));
    st = MW_OK;
fail:
    return st;
}

mw_status mw_tok_added_parse(mw_tok_added *out, const json_t *json, const mw_tok_names *vocab,
                             const mw_tok_norm *norm) {
    size_t n = json_array_size(json);
    mw_tok_norm_work work = {0};
    mw_tok_matcher matcher = {0};
    mw_status st;
    memset(out->raw.root, -1, sizeof out->raw.root);
    memset(out->normalized.root, -1, sizeof out->normalized.root);
    if (json && !json_is_array(json)) return MW_FAIL(MW_ERR_FORMAT, "added_tokens is not an array");
    if (n > MW_TOK_MAX_ID) return MW_FAIL(MW_ERR_LIMIT, "%zu added_tokens, at most %d", n, MW_TOK_MAX_ID);
    MW_TRY(st, mw_tok_names_init(&out->ids, n));
    MW_TRY(st, MW_CALLOC(&out->token, n, "added_tokens"));
    MW_TRY(st, parse_tokens(out, json, vocab, norm, &work, &matcher));
fail:
    mw_tok_norm_work_free(&work);
    mw_tok_matcher_free(&matcher);
    return st;
}

void mw_tok_added_free(mw_tok_added *a) {
    free(a->token);
    free(a->raw.node);
    free(a->normalized.node);
    mw_str_free(&a->bytes);
    mw_tok_names_free(&a->ids);
    mw_tok_regex_close(a->word);
    *a = (mw_tok_added){0};
}

/* The leftmost token at or behind `at`, the longest of those there: its index, or -1. */
static int32_t next_token(const mw_tok_trie *t, mw_tok_piece text, size_t at, size_t *begin, size_t *end) {
    const unsigned char *p = (const unsigned char *)text.p;
    for (; at < text.n; at++) {
        int32_t node = t->root[p[at]], token = -1;
        for (size_t i = at; node >= 0;) {
            i++;
            if (t->node[node].token >= 0) {
                token = t->node[node].token;
                *begin = at;
                *end = i;
            }
            node = i < text.n ? trie_find(t, t->node[node].child, p[i]) : -1;
        }
        if (token >= 0) return token;
    }
    return -1;
}

static mw_status is_word(const mw_tok_added *a, mw_tok_matcher *m, const char *p, bool *word) {
    mw_tok_matches it;
    size_t b = 0, e = 0;
    mw_status st = mw_tok_matches_begin(&it, a->word, m, p, (size_t)mw_utf8_len((unsigned char)*p), true);
    if (st == MW_OK) st = mw_tok_matches_next(&it, word, &b, &e);
    mw_tok_matches_end(&it);
    return st;
}

/* Does a word run on across an end of [begin, end)? */
static mw_status inside_word(const mw_tok_added *a, mw_tok_matcher *m, mw_tok_piece text, size_t begin, size_t end,
                             bool *inside) {
    mw_status st = MW_OK;
    *inside = false;
    if (begin > 0) st = is_word(a, m, mw_utf8_prev(text.p + begin), inside);
    if (st == MW_OK && !*inside && end < text.n) st = is_word(a, m, text.p + end, inside);
    return st;
}

static mw_tok_piece part(mw_tok_piece text, size_t b, size_t e) {
    size_t zero = text.zero > b ? text.zero - b : 0;
    return (mw_tok_piece){.p = text.p + b, .n = e - b, .zero = zero < e - b ? zero : e - b};
}

mw_status mw_tok_added_scan(const mw_tok_added *a, bool normalized, bool specials, mw_tok_matcher *m, mw_tok_piece text,
                            mw_tok_added_visit visit, void *arg) {
    const mw_tok_trie *t = normalized ? &a->normalized : &a->raw;
    size_t done = 0, begin = 0, end = 0;
    int32_t k;
    mw_status st = MW_OK;
    for (size_t at = 0; t->n && (k = next_token(t, text, at, &begin, &end)) >= 0;) {
        const mw_tok_added_token *token = &a->token[k];
        bool inside = false;
        at = end;
        if (token->special && !specials) continue;
        if (token->single_word && (st = inside_word(a, m, text, begin, end, &inside)) != MW_OK) return st;
        if (inside) continue;
        while (token->lstrip && begin > done && mw_unicode_is_space(mw_utf8_get(mw_utf8_prev(text.p + begin))))
            begin = (size_t)(mw_utf8_prev(text.p + begin) - text.p);
        if (token->rstrip && end < done) end = done; /* inside the spaces that the token before has taken */
        while (token->rstrip && end < text.n && mw_unicode_is_space(mw_utf8_get(text.p + end)))
            end += (size_t)mw_utf8_len((unsigned char)text.p[end]);
        if (done < begin && (st = visit(arg, NULL, part(text, done, begin))) != MW_OK) return st;
        if ((st = visit(arg, token, (mw_tok_piece){0})) != MW_OK) return st;
        done = end;
    }
    return done == text.n ? st : visit(arg, NULL, part(text, done, text.n));
}
