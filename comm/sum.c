/* Loops over floats that the collectives share; built with -O3 so that they are vectorised. */
#include <string.h>

#include "comm/internal.h"

enum { BLOCK = 2048 }; /* floats that stay in the first-level cache between the passes over the sources */

static void add2(float *restrict dst, const float *restrict a, const float *restrict b, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = a[i] + b[i];
}

static void add1(float *restrict dst, const float *restrict a, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] += a[i];
}

void mw_sum_f32(float *dst, const float *const *src, int n_src, size_t n) {
    float sum[BLOCK];
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;
        if (n_src == 1) {
            memmove(dst + at, src[0] + at, m * sizeof *dst);
            continue;
        }
        add2(sum, src[0] + at, src[1] + at, m);
        for (int s = 2; s < n_src; s++) add1(sum, src[s] + at, m);
        memcpy(dst + at, sum, m * sizeof *dst);
    }
}

void mw_place_cols_f32(float *dst, size_t ld, size_t cols, size_t first, const float *src, size_t n) {
    while (n > 0) {
        size_t row = first / cols, col = first % cols, m = cols - col < n ? cols - col : n;
        memcpy(dst + row * ld + col, src, m * sizeof *dst);
        first += m;
        src += m;
        n -= m;
    }
}
