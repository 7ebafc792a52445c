#include "worker/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mw_status mw_calloc(void **out, size_t n, size_t size, const char *what) {
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "%s: %zu x %zu bytes", what, n, size);
    *out = p;
    return MW_OK;
}

mw_status mw_alloc64(void **out, size_t bytes, const char *what) {
    size_t rounded = (bytes + 63) & ~(size_t)63;
    void *p = rounded >= bytes ? aligned_alloc(64, rounded ? rounded : 64) : NULL;
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "%s: %zu bytes", what, bytes);
    *out = p;
    return MW_OK;
}

/* Room for `want` elements of `size` bytes in a block of *cap elements, doubling. */
static mw_status grow(void **p, size_t *cap, size_t want, size_t size) {
    if (want <= *cap) return MW_OK;
    size_t next = *cap ? *cap : 32, bytes;
    while (next < want && next <= SIZE_MAX / 4) next *= 2;
    if (next < want) next = want;
    void *q = mw_mul_size(next, size, &bytes) ? realloc(*p, bytes) : NULL;
    if (!q) return MW_FAIL(MW_ERR_NOMEM, "growing an array to %zu elements of %zu bytes", want, size);
    *p = q;
    *cap = next;
    return MW_OK;
}

mw_status mw_str_reserve(mw_str *s, size_t extra) {
    if (extra >= SIZE_MAX - s->n) return MW_FAIL(MW_ERR_NOMEM, "string of %zu + %zu bytes", s->n, extra);
    return grow((void **)&s->p, &s->cap, s->n + extra + 1, 1);
}

mw_status mw_str_add(mw_str *s, const void *bytes, size_t n) {
    mw_status st = mw_str_reserve(s, n);
    if (st != MW_OK) return st;
    if (n) memcpy(s->p + s->n, bytes, n);
    s->n += n;
    s->p[s->n] = 0;
    return MW_OK;
}

mw_status mw_str_adds(mw_str *s, const char *text) {
    return mw_str_add(s, text, strlen(text));
}

mw_status mw_str_addf(mw_str *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return MW_FAIL(MW_ERR_INTERNAL, "bad format string '%s'", fmt);
    mw_status st = mw_str_reserve(s, (size_t)n);
    if (st != MW_OK) return st;
    va_start(ap, fmt);
    vsnprintf(s->p + s->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->n += (size_t)n;
    return MW_OK;
}

void mw_str_free(mw_str *s) {
    free(s->p);
    *s = (mw_str){0};
}

mw_status mw_ids_append(mw_ids *v, const int32_t *x, size_t n) {
    if (n > SIZE_MAX - v->n) return MW_FAIL(MW_ERR_NOMEM, "id list of %zu + %zu", v->n, n);
    mw_status st = grow((void **)&v->p, &v->cap, v->n + n, sizeof *v->p);
    if (st != MW_OK) return st;
    if (n) memcpy(v->p + v->n, x, n * sizeof *x);
    v->n += n;
    return MW_OK;
}

mw_status mw_ids_add(mw_ids *v, int32_t x) {
    return mw_ids_append(v, &x, 1);
}

void mw_ids_free(mw_ids *v) {
    free(v->p);
    *v = (mw_ids){0};
}

const char *mw_human_bytes(uint64_t bytes, char buf[16]) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double x = (double)bytes;
    int u = 0;
    while (x >= 999.5 && u < 5) x /= 1000, u++;
    snprintf(buf, 16, u == 0 ? "%.0f %s" : "%.3g %s", x, unit[u]);
    return buf;
}
