#include <stdlib.h>
#include <string.h>

#include "worker/text/tok_decode.h"
#include "worker/text/tok_json.h"
#include "worker/text/tok_split.h"
#include "worker/text/tok_utf8.h"

static mw_status parse_byte_level(mw_tok_decoder *d, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    bool ignored = false; /* these fields are about encoding */
    mw_status st;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_bool(o, where, "add_prefix_space", &ignored));
    MW_TRY(st, mw_tok_json_bool(o, where, "trim_offsets", &ignored));
    MW_TRY(st, mw_tok_json_bool_opt(o, where, "use_regex", &ignored));
    d->byte_level = true;
fail:
    return st;
}

static mw_status parse_replace(mw_tok_decoder *d, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "pattern", "content", NULL};
    const char *text = NULL;
    size_t n = 0;
    bool regex = false;
    mw_status st;
    if (d->n_replace == MW_TOK_MAX_STEPS) return MW_FAIL(MW_ERR_LIMIT, "%s: over %d Replace", where, MW_TOK_MAX_STEPS);
    mw_tok_replace *r = &d->replace[d->n_replace++];
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_pattern(o, where, &text, &n, &regex));
    if (regex || n == 0) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: Replace of a Regex or of nothing", where);
    MW_TRY(st, mw_str_add(&r->pattern, text, n));
    MW_TRY(st, mw_tok_json_string(o, where, "content", &text, &n));
    MW_TRY(st, mw_str_add(&r->content, text, n));
fail:
    return st;
}

static mw_status parse_metaspace(mw_tok_decoder *d, const json_t *o, const char *where) {
    mw_tok_split_step s = {0};
    mw_tok_replace *r = &d->replace[0];
    mw_status st;
    if (d->n_replace) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: Metaspace after Replace or Metaspace", where);
    d->n_replace = 1;
    MW_TRY(st, mw_tok_metaspace_parse(&s, o, where));
    MW_TRY(st, mw_str_add(&r->pattern, s.mark, (size_t)s.mark_n));
    MW_TRY(st, mw_str_add(&r->content, " ", 1));
    d->drop_first = s.prepend != MW_TOK_PREPEND_NEVER;
fail:
    return st;
}

static mw_status parse_strip(mw_tok_decoder *d, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "content", "start", "stop", NULL};
    uint32_t c = 0;
    int64_t start = 0, stop = 0;
    mw_status st;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_char(o, where, "content", &c));
    MW_TRY(st, mw_tok_json_int(o, where, "start", 0, 1 << 20, &start));
    MW_TRY(st, mw_tok_json_int(o, where, "stop", 0, 1 << 20, &stop));
    if (stop) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: Strip with stop %lld, only 0", where, (long long)stop);
    d->strip_n = mw_utf8_put(c, d->strip);
    d->strip_max = (int)start;
fail:
    return st;
}

/* Steps are taken in this order only: each on single tokens before Fuse, Strip behind it. */
static mw_status parse_step(void *arg, const json_t *o, const char *type, const char *where) {
    static const char *const KNOWN[] = {"type", NULL};
    mw_tok_decoder *d = arg;
    bool text_step = !d->byte_level && !d->byte_fallback && !d->fused && !d->strip_n;
    if (strcmp(type, "ByteLevel") == 0 && text_step && !d->n_replace) return parse_byte_level(d, o, where);
    if (strcmp(type, "Replace") == 0 && text_step && !d->drop_first) return parse_replace(d, o, where);
    if (strcmp(type, "Metaspace") == 0 && text_step) return parse_metaspace(d, o, where);
    if (strcmp(type, "ByteFallback") == 0 && text_step) {
        d->byte_fallback = true;
        return mw_tok_json_fields(o, where, KNOWN);
    }
    if (strcmp(type, "Fuse") == 0 && !d->byte_level && !d->fused) {
        d->fused = true;
        return mw_tok_json_fields(o, where, KNOWN);
    }
    if (strcmp(type, "Strip") == 0 && d->fused && !d->strip_n) return parse_strip(d, o, where);
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: type '%.64s' at this place", where, type);
}

mw_status mw_tok_decoder_parse(mw_tok_decoder *out, const json_t *json) {
    if (!json || json_is_null(json)) return MW_FAIL(MW_ERR_UNSUPPORTED, "decoder is null");
    return mw_tok_json_sequence(json, "decoder", "decoders", parse_step, out);
}

void mw_tok_decoder_free(mw_tok_decoder *d) {
    for (int i = 0; i < d->n_replace; i++) {
        mw_str_free(&d->replace[i].pattern);
        mw_str_free(&d->replace[i].content);
    }
    mw_str_free(&d->bytes);
    free(d->piece);
    free(d->first_piece);
    free(d->flags);
    *d = (mw_tok_decoder){0};
}

/* GPT-2's alphabet back to bytes; a token with any other character stands for itself. */
static mw_status spell_bytes(const char *p, size_t n, mw_str *out) {
    size_t begin = out->n;
    mw_status st = mw_str_reserve(out, n);
    for (size_t i = 0; i < n && st == MW_OK; i += (size_t)mw_utf8_len((unsigned char)p[i])) {
        int b = mw_tok_char_byte(mw_utf8_get(p + i));
        if (b < 0) {
            out->n = begin;
            return mw_str_add(out, p, n);
        }
        char c = (char)b;
        st = mw_str_add(out, &c, 1);
    }
    return st;
}

static mw_status replace_all(const char *p, size_t n, const mw_str *pattern, const char *with, size_t with_n,
                             mw_str *out) {
    mw_status st;
    for (;;) {
        const char *hit = n ? memmem(p, n, pattern->p, pattern->n) : NULL;
        size_t before = hit ? (size_t)(hit - p) : n;
        if ((st = mw_str_add(out, p, before)) != MW_OK || !hit) return st;
        if ((st = mw_str_add(out, with, with_n)) != MW_OK) return st;
        p += before + pattern->n;
        n -= before + pattern->n;
    }
}

/* The value of <0xHH>, or -1. The reference takes lower case, and a plus sign for the first digit, too. */
static int byte_token(const char *p, size_t n) {
    static const char DIGITS[] = "0123456789abcdef";
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>') return -1;
    const char *lo = p[4] ? strchr(DIGITS, p[4] | 0x20) : NULL, *hi = p[3] ? strchr(DIGITS, p[3] | 0x20) : NULL;
    if (!lo || p[4] < '0') return -1;
    if (p[3] == '+') return (int)(lo - DIGITS);
    return hi && p[3] >= '0' ? (int)(hi - DIGITS) * 16 + (int)(lo - DIGITS) : -1;
}

/* The text of a token that is not bytes. first: as the first one of a text. */
static mw_status spell_text(mw_tok_decoder *d, const char *p, size_t n, bool first, mw_str work[2], bool *byte) {
    mw_status st;
    for (int i = 0; i < d->n_replace; i++) {
        const mw_tok_replace *r = &d->replace[i];
        mw_str *to = &work[i & 1];
        to->n = 0;
        if ((st = mw_str_reserve(to, 0)) != MW_OK) return st;
        if ((st = replace_all(p, n, &r->pattern, r->content.p, first ? 0 : r->content.n, to)) != MW_OK) return st;
        p = to->p;
        n = to->n;
    }
    int b = d->byte_fallback ? byte_token(p, n) : -1;
    *byte = b >= 0;
    if (b < 0) return mw_str_add(&d->bytes, p, n);
    char c = (char)b;
    return mw_str_add(&d->bytes, &c, 1);
}

static mw_status index_token(mw_tok_decoder *d, int32_t id, const char *p, size_t n, mw_str work[2]) {
    mw_tok_span *to[2] = {d->piece, d->first_piece};
    mw_status st = MW_OK;
    for (int first = 0; first < 2 && to[first] && st == MW_OK; first++) {
        size_t at = d->bytes.n;
        bool byte = false;
        st = d->byte_level ? spell_bytes(p, n, &d->bytes) : spell_text(d, p, n, first, work, &byte);
        if (d->bytes.n > UINT32_MAX) return MW_FAIL(MW_ERR_LIMIT, "decoder: over 4 GiB of token texts");
        to[first][id] = (mw_tok_span){.off = (uint32_t)at, .len = (uint32_t)(d->bytes.n - at)};
        if (byte) d->flags[id] |= first ? MW_TOK_FIRST_BYTE : MW_TOK_BYTE;
    }
    d->flags[id] |= MW_TOK_HAS;
    return st;
}

mw_status mw_tok_decoder_index(mw_tok_decoder *d, const mw_tok_names *vocab, const mw_tok_added *added) {
    size_t size = (size_t)(vocab->size > added->ids.size ? vocab->size : added->ids.size);
    mw_str work[2] = {{0}, {0}};
    mw_status st;
    d->size = (int32_t)size;
    MW_TRY(st, MW_CALLOC(&d->piece, size, "token pieces"));
    if (d->drop_first) MW_TRY(st, MW_CALLOC(&d->first_piece, size, "token pieces"));
    MW_TRY(st, MW_CALLOC(&d->flags, size, "token flags"));
    MW_TRY(st, mw_str_reserve(&d->bytes, 0));
    for (size_t i = 0; i < added->n; i++) {
        const mw_tok_added_token *t = &added->token[i];
        MW_TRY(st, index_token(d, t->id, added->bytes.p + t->pattern.off, t->pattern.len, work));
        if (t->special) d->flags[t->id] |= MW_TOK_SPECIAL;
    }
    for (int32_t id = 0; id < vocab->size; id++) {
        mw_tok_span s = vocab->span[id];
        if (s.len && !(d->flags[id] & MW_TOK_HAS)) MW_TRY(st, index_token(d, id, vocab->bytes.p + s.off, s.len, work));
    }
fail:
    mw_str_free(&work[0]);
    mw_str_free(&work[1]);
    return st;
}
