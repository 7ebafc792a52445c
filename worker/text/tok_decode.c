#include "worker/text/tok_decode.h"

#include <string.h>

#include "worker/text/tok_private.h"
#include "worker/text/tok_utf8.h"

int32_t mw_tokenizer_size(const mw_tokenizer *t) {
    return t->decoder.size;
}

static bool has(const mw_tok_decoder *d, int32_t id) {
    return id >= 0 && id < d->size && (d->flags[id] & MW_TOK_HAS);
}

bool mw_tokenizer_is_special(const mw_tokenizer *t, int32_t id) {
    return has(&t->decoder, id) && (t->decoder.flags[id] & MW_TOK_SPECIAL);
}

static mw_status unknown(const mw_tokenizer *t, int32_t id) {
    return MW_FAIL(MW_ERR_USAGE, "token id %d is not in the tokenizer's vocabulary of %d", id, t->decoder.size);
}

mw_status mw_tokenizer_piece(const mw_tokenizer *t, int32_t id, mw_str *out) {
    const mw_tok_decoder *d = &t->decoder;
    if (!has(d, id)) return unknown(t, id);
    if (d->flags[id] & MW_TOK_SPECIAL) {
        mw_tok_span s = t->added.ids.span[id];
        return mw_str_add(out, t->added.ids.bytes.p + s.off, s.len);
    }
    return mw_str_add(out, d->bytes.p + d->piece[id].off, d->piece[id].len);
}

void mw_detok_init(mw_detok *d, const mw_tokenizer *t, bool skip_special) {
    *d = (mw_detok){.t = t, .skip_special = skip_special, .to_strip = t->decoder.strip_max};
}

void mw_detok_free(mw_detok *d) {
    mw_str_free(&d->run);
}

/* Bytes of a ByteLevel token, joined to the character that the last one left open. */
static mw_status push_bytes(mw_detok *d, const char *p, size_t n, mw_str *out) {
    mw_status st = MW_OK;
    size_t len;
    while (n && st == MW_OK) {
        size_t good = d->n_held ? 0 : mw_utf8_valid_prefix(p, n), held = (size_t)d->n_held;
        if (good) {
            st = mw_str_add(out, p, good);
            p += good;
            n -= good;
            continue;
        }
        size_t take = n < 4 ? n : 4; /* no character needs more */
        memcpy(d->held + held, p, take);
        mw_utf8_kind kind = mw_utf8_scan((const char *)d->held, held + take, &len);
        if (kind == MW_UTF8_CUT) {
            d->n_held = (int)len;
        } else {
            d->n_held = 0;
            st = kind == MW_UTF8_GOOD ? mw_str_add(out, d->held, len) : mw_str_add(out, MW_UTF8_REPLACEMENT, 3);
        }
        p += len - held; /* the held bytes began a character well, so it goes at least as far */
        n -= len - held;
    }
    return st;
}

/* Text, without the characters that Strip takes off the front. */
static mw_status push_text(mw_detok *d, const char *p, size_t n, mw_str *out) {
    const mw_tok_decoder *dec = &d->t->decoder;
    size_t len = (size_t)dec->strip_n;
    while (d->to_strip && n) {
        bool hit = n >= len && memcmp(p, dec->strip, len) == 0;
        d->to_strip = hit ? d->to_strip - 1 : 0;
        if (hit) p += len, n -= len;
    }
    return mw_str_add(out, p, n);
}

static mw_status end_run(mw_detok *d, mw_str *out) {
    size_t n = d->run.n;
    mw_status st = MW_OK;
    d->run.n = 0;
    if (n == 0) return MW_OK;
    if (mw_utf8_valid_prefix(d->run.p, n) == n) return push_text(d, d->run.p, n, out);
    for (size_t i = 0; i < n && st == MW_OK; i++) st = push_text(d, MW_UTF8_REPLACEMENT, 3, out);
    return st;
}

mw_status mw_detok_push(mw_detok *d, int32_t id, mw_str *out) {
    const mw_tok_decoder *dec = &d->t->decoder;
    if (!has(dec, id)) return unknown(d->t, id);
    unsigned flags = dec->flags[id];
    if (d->skip_special && (flags & MW_TOK_SPECIAL)) return MW_OK;
    bool first = !d->started && dec->first_piece;
    mw_tok_span s = first ? dec->first_piece[id] : dec->piece[id];
    const char *p = dec->bytes.p + s.off;
    d->started = true;
    if (dec->byte_level) return push_bytes(d, p, s.len, out);
    if (flags & (first ? MW_TOK_FIRST_BYTE : MW_TOK_BYTE)) return mw_str_add(&d->run, p, s.len);
    mw_status st = end_run(d, out);
    return st == MW_OK ? push_text(d, p, s.len, out) : st;
}

mw_status mw_detok_flush(mw_detok *d, mw_str *out) {
    mw_status st = end_run(d, out);
    if (st == MW_OK && d->n_held) st = mw_str_add(out, MW_UTF8_REPLACEMENT, 3);
    mw_detok_free(d);
    mw_detok_init(d, d->t, d->skip_special);
    return st;
}

mw_status mw_tokenizer_decode(const mw_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, mw_str *out) {
    size_t before = out->n;
    mw_status st = MW_OK;
    mw_detok d;
    mw_detok_init(&d, t, skip_special);
    for (size_t i = 0; i < n && st == MW_OK; i++) st = mw_detok_push(&d, ids[i], out);
    if (st == MW_OK) st = mw_detok_flush(&d, out);
    mw_detok_free(&d);
    if (st != MW_OK && out->p) {
        out->n = before;
        out->p[before] = 0;
    }
    return st;
}
