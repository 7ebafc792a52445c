/* The loops over a group run in LANES independent sums, so that the compiler may use vectors without reordering one. */
#include "shard/rtn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES   8
#define COLUMNS 128 /* outputs of a chunk: 64 bytes of every stored row */
#define ROWS    64  /* stored rows of a block that is turned around */

typedef struct {
    float scale, inverse, zero; /* inverse 0: the scale is 0, every code is the zero */
} grid;

/* Nearest integer, ties to even, of |x| < 2^22. */
static inline float nearest(float x) {
    return (x + 12582912.0f) - 12582912.0f;
}

/* The code of x: 0..15 as a float. */
static inline float code(float x, grid g) {
    float q = nearest(x * g.inverse) + g.zero;
    q = q < 0 ? 0 : q;
    return q > 15 ? 15 : q;
}

static float squared_error(const float *x, int64_t n, grid g) {
    float sum[LANES] = {0};
    for (int64_t i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float e = x[i + l] - (code(x[i + l], g) - g.zero) * g.scale;
            sum[l] += e * e;
        }
    float all = 0;
    for (int l = 0; l < LANES; l++) all += sum[l];
    return all;
}

static void range(const float *x, int64_t n, float *lo, float *hi) {
    float a[LANES] = {0}, b[LANES] = {0};
    for (int64_t i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            a[l] = x[i + l] < a[l] ? x[i + l] : a[l];
            b[l] = x[i + l] > b[l] ? x[i + l] : b[l];
        }
    *lo = *hi = 0;
    for (int l = 0; l < LANES; l++) {
        *lo = a[l] < *lo ? a[l] : *lo;
        *hi = b[l] > *hi ? b[l] : *hi;
    }
}

static uint16_t store_scale(float s, mw_dtype t) {
    return t == MW_F16 ? mw_f32_to_f16(s) : mw_f32_to_bf16(s);
}

static float load_scale(uint16_t bits, mw_dtype t) {
    return t == MW_F16 ? mw_f16_to_f32(bits) : mw_bf16_to_f32(bits);
}

/* The grid whose range [lo, hi] (lo <= 0 <= hi) is shrunk by `ratio`, with the scale as it will be stored. */
static grid make_grid(float lo, float hi, float ratio, const mw_rtn_opts *o, uint16_t *bits) {
    grid g = {.zero = 8};
    if (o->zero_points)
        g.scale = (hi - lo) / 15 * ratio;
    else
        g.scale = (-lo > hi ? -lo : -hi) / 8 * ratio;
    *bits = store_scale(g.scale, o->scale_dtype);
    g.scale = load_scale(*bits, o->scale_dtype);
    g.inverse = 1 / g.scale;
    if (!isfinite(g.inverse)) { /* smaller than what has a reciprocal: as good as 0 */
        *bits = 0;
        g.scale = g.inverse = 0;
    }
    if (o->zero_points) {
        float z = nearest(-lo * ratio * g.inverse);
        g.zero = z > 15 ? 15 : z;
    }
    return g;
}

void mw_rtn_group_of(const float *x, int64_t n, const mw_rtn_opts *o, uint8_t *q, uint16_t *scale, uint8_t *zero) {
    float lo, hi, least = INFINITY;
    grid best = {0};
    range(x, n, &lo, &hi);
    for (int i = 0; i < o->clip_search; i++) {
        uint16_t bits;
        grid g = make_grid(lo, hi, 1 - (float)i / (2 * (float)o->clip_search), o, &bits);
        float e = o->clip_search > 1 ? squared_error(x, n, g) : 0;
        if (i == 0 || e < least) {
            least = e;
            best = g;
            *scale = bits;
        }
    }
    *zero = (uint8_t)best.zero;
    for (int64_t i = 0; i < n; i++) q[i] = (uint8_t)code(x[i], best);
}

/* ---- a matrix --------------------------------------------------------------------------------------------------- */

typedef struct {
    const mw_st_folder *folder;
    const mw_hf_weight *w;
    const mw_rtn_opts *o;
    mw_matrix *m;
    mw_dtype source;
} job;

/* One output channel: K weights -> K codes, and its column of scales and zeros. */
static mw_status channel(const job *j, int64_t column, const void *src, float *x, uint8_t *q) {
    mw_matrix *m = j->m;
    for (int64_t k = 0; k < m->k; k++) x[k] = mw_load_f32(src, j->source, (size_t)k);
    for (int64_t g = 0; g < m->k / m->group; g++) {
        uint16_t scale = 0;
        uint8_t zero = 8;
        mw_rtn_group_of(x + g * m->group, m->group, j->o, q + g * m->group, &scale, &zero);
        if (!isfinite(load_scale(scale, m->scale_dtype)))
            return MW_FAIL(MW_ERR_NUMERIC, "tensor '%s': the scale of group %lld of output %lld does not fit %s",
                           j->w->main->name, (long long)g, (long long)column, mw_dtype_name(m->scale_dtype));
        ((uint16_t *)m->scales)[g * m->n + column] = scale;
        if (m->zeros) m->zeros[g * m->n + column] = zero;
    }
    return MW_OK;
}

/* codes [cols][K] -> stored rows, columns n0 .. n0+cols-1. */
static void turn(const job *j, const uint8_t *q, int64_t n0, int64_t cols) {
    uint8_t block[ROWS][COLUMNS / 2];
    int64_t k_all = j->m->k, half = j->m->n / 2;
    for (int64_t k0 = 0; k0 < k_all; k0 += ROWS) {
        int64_t rows = k_all - k0 < ROWS ? k_all - k0 : ROWS;
        for (int64_t c = 0; c < cols / 2; c++) {
            const uint8_t *even = q + 2 * c * k_all + k0, *odd = even + k_all;
            for (int64_t r = 0; r < rows; r++) block[r][c] = (uint8_t)(even[r] | odd[r] << 4);
        }
        for (int64_t r = 0; r < rows; r++) memcpy(j->m->q + (k0 + r) * half + n0 / 2, block[r], (size_t)cols / 2);
    }
}

/* Source rows [n0, n1). Scratch: one source row, the same as floats, codes of COLUMNS channels. */
static mw_status chunk(const void *arg, int64_t n0, int64_t n1, void *scratch) {
    mw_status st = MW_OK;
    const job *j = arg;
    size_t k = (size_t)j->m->k, row = k * mw_dtype_size(j->source);
    float *x = scratch;
    uint8_t *src = (uint8_t *)(x + k), *q = src + row;
    for (int64_t n = n0; n < n1; n++) {
        MW_TRY(st, mw_st_read(j->folder, j->w->main, (uint64_t)n * row, row, src));
        MW_TRY(st, mw_check_finite(j->w->main->name, src, j->source, n, 1, j->m->k));
        MW_TRY(st, channel(j, n, src, x, q + (size_t)(n - n0) * k));
    }
    turn(j, q, n0, n1 - n0);
fail:
    return st;
}

mw_status mw_rtn_group(const mw_rtn_opts *o, const mw_hf_weight *w, int64_t *group) {
    *group = o->group_size == -1 ? w->k : o->group_size;
    if (w->k % *group == 0) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "'%s': %lld inputs are not a multiple of group size %lld; try a smaller one",
                   w->hf, (long long)w->k, (long long)*group);
}

mw_status mw_rtn_read(mw_matrix *m, void *mem, const mw_hf_model *model, const mw_hf_weight *w, const mw_rtn_opts *o,
                      mw_pool *pool) {
    mw_status st = MW_OK;
    mw_matrix r = {.k = w->k, .n = w->n, .scale_dtype = o->scale_dtype};
    bool biased;
    MW_TRY(st, mw_rtn_group(o, w, &r.group));
    mw_matrix_place(&r, mem);
    r.perm = NULL;
    if (!o->zero_points) r.zeros = NULL;
    if (w->bias) r.bias_dtype = mw_hf_dtype(w->bias);
    MW_TRY(st, mw_quant_bias(model->folder, w, r.bias, &biased));
    if (!biased) r.bias = NULL;
    job j = {model->folder, w, o, &r, mw_hf_dtype(w->main)};
    size_t k = (size_t)w->k;
    MW_TRY(st, mw_chunks(pool, w->n, COLUMNS, k * (4 + mw_dtype_size(j.source) + COLUMNS), chunk, &j));
    bool all_eight = r.zeros != NULL;
    for (int64_t i = 0; all_eight && i < r.k / r.group * r.n; i++) all_eight = r.zeros[i] == 8;
    if (all_eight) r.zeros = NULL;
    *m = r;
fail:
    return st;
}
