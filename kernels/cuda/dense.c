/* kernels/cuda/dense.c - linear layers with 16- or 32-bit weights.
 *
 * cuBLASLt wants both operands of one type. Where weights and activations differ, the activations are converted so
 * that nothing is lost, and the weights are read once all the same:
 *   f32 weights                x as f32, products in f32
 *   bf16 weights, f16 x        x = hi + lo, both bf16, exactly (8 + 8 bits hold 11): 2m rows, added up afterwards
 *   f16 weights, bf16 x        each row times a power of two that brings its largest element to 2^14 .. 2^15, as f16;
 *                              what falls below f16's smallest step is less than 2^-39 of the row's largest element
 * One row of the weights' own type is a matter of reading alone, which dense_row.cu does.
 * Sums are f32. A bias is added in f32 before the one rounding to the activation type, which needs the sums in the
 * workspace first: few dense layers have a bias. */
#include "kernels/cuda/cuda.h"

#define TEMPORARY (MW_CUDA_WORKSPACE / 2) /* bytes for converted x and f32 sums; the rest is cuBLASLt's */

/* Rows at a time, when a row takes this many bytes of TEMPORARY. */
static int64_t rows_at_once(int64_t m, size_t row_bytes) {
    int64_t rows = (int64_t)((TEMPORARY - 4096) / row_bytes);
    return rows < m ? rows : m;
}

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

typedef struct {
    mw_dtype dtype; /* of weights and converted x */
    int parts;      /* rows of converted x a row of x */
    bool convert, scaled;
} scheme;

static scheme scheme_of(mw_dtype act, mw_dtype weights) {
    scheme s = {.dtype = weights, .parts = 1, .convert = weights != act};
    if (act == MW_F16 && weights == MW_BF16) s.parts = 2;
    if (act == MW_BF16 && weights == MW_F16) s.scaled = true;
    return s;
}

/* `m` rows, few enough for the workspace. */
static mw_status some_rows(mw_dev *d, const mw_linear *w, scheme s, int64_t m, const char *x, int64_t ldx, void *y,
                           int64_t ldy, bool y_f32) {
    mw_status st = MW_OK;
    int64_t rows = m * s.parts;
    char *at = d->workspace, *scratch = at + TEMPORARY;
    float *scale = (float *)at;
    char *converted = at + rounded((size_t)m * sizeof(float));
    bool in_place = y_f32 && s.parts == 1; /* the sums may stand in y */
    float *sums =
        in_place ? y : (float *)(converted + rounded(s.convert ? (size_t)(rows * w->k) * mw_dtype_size(s.dtype) : 0));
    int64_t ld_sums = in_place ? ldy : w->n;
    if (s.convert) MW_TRY(st, mw_cuda_dense_split(d, s.dtype, converted, s.scaled ? scale : NULL, x, ldx, m, w->k));
    MW_TRY(st, mw_blas_gemm(d, s.dtype, MW_F32, rows, w->n, w->k, s.convert ? converted : x, s.convert ? w->k : ldx,
                            w->dense.w, sums, ld_sums, scratch, MW_CUDA_WORKSPACE - TEMPORARY));
    if (!in_place || s.scaled || w->bias)
        MW_TRY(st, mw_cuda_dense_finish(d, y, ldy, y_f32, sums, ld_sums, s.parts == 2, s.scaled ? scale : NULL, w->bias,
                                        m, w->n));
fail:
    return st;
}

mw_status mw_cuda_linear_dense(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y,
                               int64_t ldy, bool y_f32) {
    mw_dtype t = w->dense.dtype, out = y_f32 ? MW_F32 : d->act;
    if (w->k <= 0 || w->n <= 0)
        return MW_FAIL(MW_ERR_INTERNAL, "dense matrix k=%lld n=%lld", (long long)w->k, (long long)w->n);
    if (t != MW_F16 && t != MW_BF16 && t != MW_F32)
        return MW_FAIL(MW_ERR_INTERNAL, "dense matrix is %s, expected f16, bf16 or f32", mw_dtype_name(t));
    if (m <= 0) return MW_OK;
    if (m == 1 && mw_cuda_dense_row_takes(d, w, x)) return mw_cuda_dense_row(d, w, x, y, y_f32);
    scheme s = scheme_of(d->act, t);
    size_t act = mw_dtype_size(d->act), row_bytes = sizeof(float) + 1024;
    row_bytes += (size_t)s.parts * ((size_t)w->k * mw_dtype_size(t) + (size_t)w->n * sizeof(float));
    bool fits = row_bytes < TEMPORARY - 4096;
    bool direct = !s.convert && !w->bias;
    bool takes = mw_blas_takes(t, out, w->k, s.convert ? w->dense.w : x, s.convert ? w->k : ldx, w->dense.w, y, ldy) &&
                 (direct || (fits && w->n % 4 == 0));
    if (!takes) return mw_cuda_dense_plain(d, w, m, x, ldx, y, ldy, y_f32);
    if (direct)
        return mw_blas_gemm(d, t, out, m, w->n, w->k, x, ldx, w->dense.w, y, ldy, (char *)d->workspace + TEMPORARY,
                            MW_CUDA_WORKSPACE - TEMPORARY);
    int64_t step = rows_at_once(m, row_bytes);
    for (int64_t i = 0; i < m; i += step) {
        int64_t rows = m - i < step ? m - i : step;
        mw_status st = some_rows(d, w, s, rows, (const char *)x + (size_t)(i * ldx) * act, ldx,
                                 (char *)y + (size_t)(i * ldy) * mw_dtype_size(out), ldy, y_f32);
        if (st != MW_OK) return st;
    }
    return MW_OK;
}
