#include "tests/ref/ref_gemm.h"

#include <math.h>

size_t ref_tile_word(int64_t k, int64_t n, int64_t n_total, int *shift) {
    int64_t kk = k % 16, nn = n % 64;
    int64_t lane = nn % 8 * 4 + kk % 8 / 2, j = nn / 16;
    int64_t v = (kk & 1) << 2 | (nn >> 3 & 1) << 1 | kk >> 3;
    *shift = (int)(4 * v);
    return (size_t)(k / 16 * 2 * n_total + n / 64 * 128 + 4 * lane + j);
}

void ref_tile_put(uint32_t *tiles, int64_t n_total, int64_t k, int64_t n, unsigned q) {
    int shift;
    size_t at = ref_tile_word(k, n, n_total, &shift);
    tiles[at] = (tiles[at] & ~(15u << shift)) | (uint32_t)q << shift;
}

unsigned ref_tile_get(const uint32_t *tiles, int64_t n_total, int64_t k, int64_t n) {
    int shift;
    size_t at = ref_tile_word(k, n, n_total, &shift);
    return tiles[at] >> shift & 15;
}

int64_t ref_scale_at(int64_t n) {
    int64_t c = n % 64;
    return n - c + c % 8 * 8 + c / 8;
}

mw_linear ref_w4_random(int64_t k, int64_t n, int64_t group, mw_dtype scale_dtype, bool zeros, bool bias, int64_t pad) {
    mw_linear w = {.kind = MW_LINEAR_W4, .k = k, .n = n};
    int64_t groups = k / group;
    uint32_t *tiles = ref_guarded((size_t)(k / 16 * 2 * n) * sizeof *tiles);
    void *scales = ref_guarded((size_t)(groups * n) * mw_dtype_size(scale_dtype));
    uint8_t *z = zeros ? ref_guarded((size_t)(groups * n)) : NULL;
    float *b = bias ? ref_guarded((size_t)n * sizeof *b) : NULL;
    for (int64_t i = 0; i < k; i++)
        for (int64_t c = 0; c < n; c++) ref_tile_put(tiles, n, i, c, ref_u32() & 15);
    for (int64_t g = 0; g < groups; g++)
        for (int64_t c = 0; c < n; c++) {
            double s = c >= n - pad ? 0 : ref_uniform(0.001, 0.02) * (ref_chance(0.05) ? -4 : 1);
            ref_store(scales, scale_dtype, (size_t)(g * n + ref_scale_at(c)), s);
            if (z) z[g * n + ref_scale_at(c)] = (uint8_t)ref_int(0, 16);
        }
    for (int64_t c = 0; b && c < n; c++) b[c] = (float)ref_normal();
    w.w4 = (mw_w4){.tiles = tiles, .scales = scales, .zeros = z, .scale_dtype = scale_dtype, .group = group};
    w.bias = b;
    return w;
}

void ref_w4_free(mw_linear *w) {
    ref_guarded_free((void *)w->w4.tiles);
    ref_guarded_free((void *)w->w4.scales);
    ref_guarded_free((void *)w->w4.zeros);
    ref_guarded_free((void *)w->bias);
    *w = (mw_linear){0};
}

double ref_weight(const mw_linear *w, int64_t k, int64_t n) {
    if (w->kind == MW_LINEAR_DENSE) return mw_load_f32(w->dense.w, w->dense.dtype, (size_t)(n * w->k + k));
    int64_t at = k / w->w4.group * w->n + ref_scale_at(n);
    double q = ref_tile_get(w->w4.tiles, w->n, k, n), zero = w->w4.zeros ? w->w4.zeros[at] : 8;
    return (q - zero) * mw_load_f32(w->w4.scales, w->w4.scale_dtype, (size_t)at);
}

ref_dot ref_linear(const double *weights, const float *x, int64_t k, int64_t group, double bias) {
    ref_dot d = {bias, fabs(bias), 0};
    for (int64_t g = 0; g < k; g += group)
        for (int64_t b = g; b < g + group; b += 128) {
            double top = 0, sum = 0;
            for (int64_t i = b; i < b + 128 && i < g + group; i++) {
                d.y += weights[i] * x[i];
                d.abs_sum += fabs(weights[i] * x[i]);
                sum += fabs(weights[i]);
                if (fabs(x[i]) > top) top = fabs(x[i]);
            }
            d.act_error += top * sum;
        }
    return d;
}
