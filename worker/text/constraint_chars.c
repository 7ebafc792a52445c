#include "worker/text/constraint_chars.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/tok_utf8.h"

/* ---- sets ---- */

mw_status mw_chars_add(mw_chars *s, uint32_t first, uint32_t last) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 8;
        uint32_t *p = realloc(s->r, 2 * cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "character set");
        s->r = p;
        s->cap = cap;
    }
    s->r[2 * s->n] = first;
    s->r[2 * s->n + 1] = last;
    s->n++;
    return MW_OK;
}

static int by_first(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void mw_chars_sort(mw_chars *s) {
    size_t n = 0;
    if (s->n == 0) return;
    qsort(s->r, s->n, 2 * sizeof *s->r, by_first);
    for (size_t i = 1; i < s->n; i++) {
        const uint32_t *next = s->r + 2 * i;
        uint32_t *at = s->r + 2 * n;
        if (next[0] <= at[1] + 1) {
            if (next[1] > at[1]) at[1] = next[1];
        } else {
            n++;
            s->r[2 * n] = next[0];
            s->r[2 * n + 1] = next[1];
        }
    }
    s->n = n + 1;
}

mw_status mw_chars_negate(mw_chars *s, uint32_t last) {
    mw_chars out = {0};
    mw_status st = MW_OK;
    uint32_t next = 0;
    for (size_t i = 0; i < s->n && next <= last; i++) {
        if (s->r[2 * i] > next) MW_TRY(st, mw_chars_add(&out, next, s->r[2 * i] - 1 < last ? s->r[2 * i] - 1 : last));
        next = s->r[2 * i + 1] + 1;
    }
    if (next <= last) MW_TRY(st, mw_chars_add(&out, next, last));
    mw_chars_free(s);
    *s = out;
    return MW_OK;
fail:
    mw_chars_free(&out);
    return st;
}

bool mw_chars_equal(const mw_chars *a, const mw_chars *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->r, b->r, 2 * a->n * sizeof *a->r) == 0);
}

void mw_chars_free(mw_chars *s) {
    free(s->r);
    *s = (mw_chars){0};
}

/* ---- UTF-8 ---- */

/* Byte sequences of n bytes between a and b, whose first bytes begin characters of one length. */
static void sequences(mw_nfa *g, int32_t from, const char *a, const char *b, int n, int32_t to) {
    static const char low[] = "\x80\x80\x80", high[] = "\xBF\xBF\xBF";
    int first = (unsigned char)a[0], last = (unsigned char)b[0];
    if (n == 1) {
        mw_nfa_bytes(g, from, first, last, to);
        return;
    }
    size_t rest = (size_t)n - 1;
    bool from_low = memcmp(a + 1, low, rest) == 0, to_high = memcmp(b + 1, high, rest) == 0;
    if (first == last || !from_low) {
        int32_t next = mw_nfa_node_new(g);
        mw_nfa_bytes(g, from, first, first, next);
        sequences(g, next, a + 1, first == last ? b + 1 : high, n - 1, to);
        if (first++ == last) return;
    }
    if (!to_high) {
        int32_t next = mw_nfa_node_new(g);
        mw_nfa_bytes(g, from, last, last, next);
        sequences(g, next, low, b + 1, n - 1, to);
        last--;
    }
    if (first > last) return;
    int32_t next = mw_nfa_node_new(g);
    mw_nfa_bytes(g, from, first, last, next);
    sequences(g, next, low, high, n - 1, to);
}

static void utf8(mw_nfa *g, int32_t from, uint32_t lo, uint32_t hi, int32_t to) {
    static const uint32_t ends[] = {0x7F, 0x7FF, 0xFFFF, MW_CHARS_LAST};
    for (int i = 0; i < 4 && lo <= hi; i++) {
        char a[4], b[4];
        if (lo > ends[i]) continue;
        uint32_t last = hi < ends[i] ? hi : ends[i];
        int n = mw_utf8_put(lo, a);
        mw_utf8_put(last, b);
        sequences(g, from, a, b, n, to);
        lo = last + 1;
    }
}

/* ---- characters of a JSON string ---- */

/* A character below U+0080 that stands for itself? */
static bool is_plain(uint32_t c) {
    return c >= 0x20 && c != '"' && c != '\\';
}

static void escape(mw_nfa *g, int32_t from, uint32_t c, int32_t to) {
    static const char chars[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    const char *at = c ? memchr(chars, (int)c, sizeof chars - 1) : NULL;
    char text[8];
    if (at)
        snprintf(text, sizeof text, "\\%c", names[at - chars]);
    else
        snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
    mw_nfa_text(g, from, text, strlen(text), to);
}

static void range(mw_nfa *g, int32_t from, uint32_t lo, uint32_t hi, bool raw, int32_t to) {
    if (lo == 0) lo = 1;
    while (lo <= hi && lo < 0x80 && g->st == MW_OK) { /* stretches of plain ASCII, escapes between them */
        uint32_t end = lo;
        while (end + 1 <= hi && end + 1 < 0x80 && is_plain(end) && is_plain(end + 1)) end++;
        if (is_plain(lo))
            mw_nfa_bytes(g, from, (int)lo, (int)end, to);
        else if (!raw)
            escape(g, from, lo, to);
        lo = end + 1;
    }
    if (lo > hi) return;
    if (lo < 0xD800) utf8(g, from, lo, hi < 0xD7FF ? hi : 0xD7FF, to);
    if (hi > 0xDFFF) utf8(g, from, lo > 0xE000 ? lo : 0xE000, hi, to);
}

int32_t mw_chars_rule(mw_nfa *g, const mw_chars *s, bool raw) {
    int32_t rule = mw_nfa_rule_new(g), start = g->rule[rule].start, end = g->rule[rule].end;
    for (size_t i = 0; i < s->n && g->st == MW_OK; i++) range(g, start, s->r[2 * i], s->r[2 * i + 1], raw, end);
    return rule;
}

static void hex(mw_nfa *g, int32_t from, int lo, int hi, int32_t to) { /* digit values */
    if (lo < 10) mw_nfa_bytes(g, from, '0' + lo, '0' + (hi < 9 ? hi : 9), to);
    if (hi < 10) return;
    int first = lo > 10 ? lo - 10 : 0;
    mw_nfa_bytes(g, from, 'a' + first, 'a' + hi - 10, to);
    mw_nfa_bytes(g, from, 'A' + first, 'A' + hi - 10, to);
}

/* What follows "\u": four digits, not 0000; a high surrogate with its low one behind it. */
static void unicode_escape(mw_nfa *g, int32_t from, int32_t to) {
    int32_t left[4] = {to}; /* that many digits, any, are left */
    for (int i = 1; i < 4; i++) {
        left[i] = mw_nfa_node_new(g);
        hex(g, left[i], 0, 15, left[i - 1]);
    }
    int32_t zero = from;
    for (int i = 3; i >= 0; i--) { /* only zeros so far */
        hex(g, zero, 1, i == 3 ? 12 : 15, left[i]);
        if (i == 0) break;
        int32_t next = mw_nfa_node_new(g);
        hex(g, zero, 0, 0, next);
        zero = next;
    }
    hex(g, from, 14, 15, left[3]);
    int32_t d = mw_nfa_node_new(g), high[3], low = mw_nfa_node_new(g), low_d = mw_nfa_node_new(g);
    for (int i = 0; i < 3; i++) high[i] = mw_nfa_node_new(g);
    hex(g, from, 13, 13, d);
    hex(g, d, 0, 7, left[2]);
    hex(g, d, 8, 11, high[0]);
    hex(g, high[0], 0, 15, high[1]);
    hex(g, high[1], 0, 15, high[2]);
    mw_nfa_text(g, high[2], "\\u", 2, low);
    hex(g, low, 13, 13, low_d);
    hex(g, low_d, 12, 15, left[2]);
}

int32_t mw_chars_any(mw_nfa *g) {
    static uint32_t all[] = {0x20, MW_CHARS_LAST};
    if (g->any_char >= 0) return g->any_char;
    int32_t rule = mw_chars_rule(g, &(mw_chars){.r = all, .n = 1}, true);
    int32_t escaped = mw_nfa_node_new(g), u = mw_nfa_node_new(g);
    int32_t end = g->rule[rule].end;
    mw_nfa_bytes(g, g->rule[rule].start, '\\', '\\', escaped);
    for (const char *p = "\"\\/bfnrt"; *p; p++) mw_nfa_bytes(g, escaped, *p, *p, end);
    mw_nfa_bytes(g, escaped, 'u', 'u', u);
    unicode_escape(g, u, end);
    g->any_char = rule;
    return rule;
}

void mw_chars_string(mw_nfa *g, int32_t from, int64_t min, int64_t max, int32_t to) {
    int32_t any = mw_chars_any(g), *chain = NULL;
    size_t n = (size_t)(max >= 0 ? max : min) + 1;
    if (n > MW_NFA_MAX_NODES && g->st == MW_OK)
        g->st = MW_FAIL(MW_ERR_LIMIT, "minLength or maxLength: at most %d", MW_NFA_MAX_NODES - 1);
    if (g->st == MW_OK) g->st = MW_CALLOC(&chain, n, "string lengths");
    for (size_t i = 0; i < n && g->st == MW_OK; i++) chain[i] = mw_nfa_node_new(g);
    if (g->st == MW_OK) mw_nfa_bytes(g, from, '"', '"', chain[0]);
    for (size_t i = 0; i < n && g->st == MW_OK; i++) {
        if (i + 1 < n) mw_nfa_call(g, chain[i], any, chain[i + 1]);
        if (i + 1 == n && max < 0) mw_nfa_call(g, chain[i], any, chain[i]);
        if ((int64_t)i >= min) mw_nfa_bytes(g, chain[i], '"', '"', to);
    }
    if (g->st == MW_OK) mw_nfa_mark_chain(g, chain, n, min, max);
    free(chain);
}
