/* worker/text/tok_nfx.c - the Unicode normalization forms.
 *
 * Decompositions, combining classes and compositions are utf8proc's. Ordering is ours, since utf8proc's sort is
 * quadratic in the length of a run of marks; and code points that the reference does not know stay as they are
 * (tok_unicode.h), whatever the installed utf8proc thinks of them.
 */
#include <string.h>
#include <utf8proc.h>

#include "worker/text/tok_norm.h"
#include "worker/text/tok_unicode.h"
#include "worker/text/tok_utf8.h"

static int combining_class(int32_t c) {
    if (c < 0x300 || mw_unicode_is_inert((uint32_t)c)) return 0;
    return utf8proc_get_property(c)->combining_class;
}

static mw_status decompose(mw_ids *chars, const char *p, size_t n, bool compat) {
    utf8proc_option_t how = compat ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
    mw_status st = MW_OK;
    for (size_t i = 0; i < n && st == MW_OK; i += (size_t)mw_utf8_len((unsigned char)p[i])) {
        int32_t c = (int32_t)mw_utf8_get(p + i), parts[32];
        int boundary = 0;
        if (c < 0x80 || mw_unicode_is_inert((uint32_t)c)) {
            st = mw_ids_add(chars, c);
            continue;
        }
        utf8proc_ssize_t k = utf8proc_decompose_char(c, parts, 32, how, &boundary);
        if (k < 0 || k > 32) return MW_FAIL(MW_ERR_INTERNAL, "decomposing U+%04X: %s", (unsigned)c, utf8proc_errmsg(k));
        st = mw_ids_append(chars, parts, (size_t)k);
    }
    return st;
}

/* Stable order by combining class of a run without starters. Few marks: insertion; many: one count per class. */
static mw_status order_run(int32_t *run, size_t n, mw_ids *sorted) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            int32_t c = run[i];
            int cc = combining_class(c);
            size_t j = i;
            for (; j > 0 && combining_class(run[j - 1]) > cc; j--) run[j] = run[j - 1];
            run[j] = c;
        }
        return MW_OK;
    }
    size_t at[257] = {0};
    sorted->n = 0;
    mw_status st = mw_ids_append(sorted, run, n);
    if (st != MW_OK) return st;
    for (size_t i = 0; i < n; i++) at[combining_class(run[i]) + 1]++;
    for (size_t k = 0; k < 256; k++) at[k + 1] += at[k];
    for (size_t i = 0; i < n; i++) run[at[combining_class(sorted->p[i])]++] = sorted->p[i];
    return MW_OK;
}

static mw_status order(mw_ids *chars, mw_ids *sorted) {
    for (size_t i = 0; i < chars->n;) {
        size_t j = i;
        while (j < chars->n && combining_class(chars->p[j]) != 0) j++;
        if (j - i > 1) {
            mw_status st = order_run(chars->p + i, j - i, sorted);
            if (st != MW_OK) return st;
        }
        i = j + 1;
    }
    return MW_OK;
}

/* Characters [0, n) in composed form; an inert one composes with nothing, so it parts the text. Returns what is left.
 */
static size_t compose(int32_t *c, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        size_t j = i;
        while (j < n && !mw_unicode_is_inert((uint32_t)c[j])) j++;
        utf8proc_ssize_t left =
            utf8proc_normalize_utf32(c + i, (utf8proc_ssize_t)(j - i), UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        memmove(c + k, c + i, (size_t)left * sizeof *c);
        k += (size_t)left;
        if (j < n) c[k++] = c[j++];
        i = j;
    }
    return k;
}

/* A stretch that nothing around it can join or pass. */
static mw_status stretch(mw_tok_norm_kind form, const char *p, size_t n, mw_tok_norm_work *w, mw_str *out) {
    w->chars.n = 0;
    mw_status st = decompose(&w->chars, p, n, form == MW_TOK_NFKC || form == MW_TOK_NFKD);
    if (st == MW_OK) st = order(&w->chars, &w->sorted);
    if (st != MW_OK) return st;
    size_t k = w->chars.n;
    if (form == MW_TOK_NFC || form == MW_TOK_NFKC) k = compose(w->chars.p, k);
    if ((st = mw_str_reserve(out, 4 * k)) != MW_OK) return st;
    for (size_t i = 0; i < k; i++) out->n += (size_t)mw_utf8_put((uint32_t)w->chars.p[i], out->p + out->n);
    out->p[out->n] = 0;
    return MW_OK;
}

mw_status mw_tok_nfx(mw_tok_norm_kind form, const char *p, size_t n, mw_tok_norm_work *w, mw_str *out) {
    /* Below `plain` a character is its own form and joins nothing before it; U+0300 begins with the byte CC. */
    const unsigned char plain = form == MW_TOK_NFC ? 0xCC : 0x80;
    mw_status st;
    for (size_t done = 0; done < n;) {
        size_t begin = done;
        while (begin < n && ((unsigned char)p[begin] < plain)) begin++;
        if (begin == n) return mw_str_add(out, p + done, n - done);
        size_t end = begin;
        while (end < n && (unsigned char)p[end] >= plain) end += (size_t)mw_utf8_len((unsigned char)p[end]);
        if (begin > done) begin = (size_t)(mw_utf8_prev(p + begin) - p); /* what a mark may join */
        if ((st = mw_str_add(out, p + done, begin - done)) != MW_OK) return st;
        if ((st = stretch(form, p + begin, end - begin, w, out)) != MW_OK) return st;
        done = end;
    }
    return MW_OK;
}
