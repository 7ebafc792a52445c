/* kernels/cuda/dense_edges.cu - what stands around cuBLASLt: activations for weights of another type, the sums' way
 * back, and a plain product for rows that do not begin at multiples of 16 bytes. See dense.c. */
#include "kernels/cuda/device.cuh"

#define THREADS 256

static __device__ float block_max(float x) {
    __shared__ float part[THREADS / 32];
    for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) x = fmaxf(x, part[w]);
    return x;
}

/* 2^e with e the power that brings `most` to 2^14 .. 2^15; 1 for 0, infinity and NaN. */
static __device__ float row_unit(float most) {
    int e = 0;
    if (!(most > 0) || !isfinite(most)) return 1;
    frexpf(most, &e); /* most = f 2^e, f in [1/2, 1) */
    return ldexpf(1, e - 15);
}

/* One block a row. */
template <typename T, typename W>
static __global__ void split_kernel(W *dst, float *row_scale, const T *x, int64_t ldx, int64_t k) {
    mw_pdl_wait();
    const int64_t i = blockIdx.x, m = gridDim.x;
    float inv = 1;
    if (row_scale) {
        float most = 0;
        for (int64_t j = threadIdx.x; j < k; j += THREADS) most = fmaxf(most, fabsf(mw_to_float(x[i * ldx + j])));
        float unit = row_unit(block_max(most));
        if (threadIdx.x == 0) row_scale[i] = unit;
        inv = 1 / unit; /* both are powers of two: exact, or the largest element is below 2^-110 */
    }
    for (int64_t j = threadIdx.x; j < k; j += THREADS) {
        float a = mw_to_float(x[i * ldx + j]) * inv;
        W hi = mw_from_float<W>(a);
        dst[i * k + j] = hi;
        if (sizeof(T) == 2 && sizeof(W) == 2 && !row_scale)
            dst[(m + i) * k + j] = mw_from_float<W>(a - mw_to_float(hi));
    }
}

mw_status mw_cuda_dense_split(mw_dev *d, mw_dtype weights, void *dst, float *row_scale, const void *x, int64_t ldx,
                              int64_t m, int64_t k) {
    cudaError_t e;
    unsigned blocks = (unsigned)m;
    if (d->act == MW_F16 && weights == MW_BF16)
        e = mw_launch(d, split_kernel<__half, __nv_bfloat16>, blocks, THREADS, 0, dst, row_scale, x, ldx, k);
    else if (d->act == MW_F16)
        e = mw_launch(d, split_kernel<__half, float>, blocks, THREADS, 0, dst, row_scale, x, ldx, k);
    else if (weights == MW_F16)
        e = mw_launch(d, split_kernel<__nv_bfloat16, __half>, blocks, THREADS, 0, dst, row_scale, x, ldx, k);
    else
        e = mw_launch(d, split_kernel<__nv_bfloat16, float>, blocks, THREADS, 0, dst, row_scale, x, ldx, k);
    return mw_cuda_check(e, "activations for a dense layer");
}

template <typename Y>
static __global__ void finish_kernel(Y *y, int64_t ldy, const float *t, int64_t ldt, bool two, const float *row_scale,
                                     const float *bias, int64_t m, int64_t n) {
    mw_pdl_wait();
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= n) return;
    float b = bias ? bias[j] : 0.0f;
    for (int64_t i = blockIdx.y; i < m; i += gridDim.y) {
        float a = t[i * ldt + j];
        if (two) a += t[(m + i) * ldt + j];
        if (row_scale) a *= row_scale[i];
        y[i * ldy + j] = mw_from_float<Y>(a + b);
    }
}

mw_status mw_cuda_dense_finish(mw_dev *d, void *y, int64_t ldy, bool y_f32, const float *t, int64_t ldt, bool two,
                               const float *row_scale, const float *bias, int64_t m, int64_t n) {
    dim3 grid((unsigned)((n + THREADS - 1) / THREADS), (unsigned)(m < 65535 ? m : 65535));
    cudaError_t e;
    if (y_f32)
        e = mw_launch(d, finish_kernel<float>, grid, THREADS, 0, y, ldy, t, ldt, two, row_scale, bias, m, n);
    else if (d->act == MW_F16)
        e = mw_launch(d, finish_kernel<__half>, grid, THREADS, 0, y, ldy, t, ldt, two, row_scale, bias, m, n);
    else
        e = mw_launch(d, finish_kernel<__nv_bfloat16>, grid, THREADS, 0, y, ldy, t, ldt, two, row_scale, bias, m, n);
    return mw_cuda_check(e, "results of a dense layer");
}

/* ---- any shape -------------------------------------------------------------------------------------------------- */

struct plain_args {
    const void *w, *x;
    void *y;
    const float *bias;
    int64_t m, n, k, ldx, ldy;
    mw_dtype w_type, x_type, y_type;
};

static __device__ float load(const void *p, mw_dtype t, int64_t i) {
    if (t == MW_F16) return mw_to_float(((const __half *)p)[i]);
    if (t == MW_BF16) return mw_to_float(((const __nv_bfloat16 *)p)[i]);
    return ((const float *)p)[i];
}

static __global__ void plain_kernel(const __grid_constant__ plain_args a) {
    mw_pdl_wait();
    const int64_t j = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (j >= a.n) return;
    for (int64_t i = blockIdx.y; i < a.m; i += gridDim.y) {
        float sum = 0;
        for (int64_t l = threadIdx.x % 32; l < a.k; l += 32)
            sum += load(a.x, a.x_type, i * a.ldx + l) * load(a.w, a.w_type, j * a.k + l);
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (threadIdx.x % 32) continue;
        if (a.bias) sum += a.bias[j];
        int64_t at = i * a.ldy + j;
        if (a.y_type == MW_F16)
            ((__half *)a.y)[at] = __float2half_rn(sum);
        else if (a.y_type == MW_BF16)
            ((__nv_bfloat16 *)a.y)[at] = __float2bfloat16_rn(sum);
        else
            ((float *)a.y)[at] = sum;
    }
}

mw_status mw_cuda_dense_plain(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y,
                              int64_t ldy, bool y_f32) {
    plain_args a = {};
    a.w = w->dense.w;
    a.x = x;
    a.y = y;
    a.bias = w->bias;
    a.m = m;
    a.n = w->n;
    a.k = w->k;
    a.ldx = ldx;
    a.ldy = ldy;
    a.w_type = w->dense.dtype;
    a.x_type = d->act;
    a.y_type = y_f32 ? MW_F32 : d->act;
    dim3 grid((unsigned)((w->n + THREADS / 32 - 1) / (THREADS / 32)), (unsigned)(m < 65535 ? m : 65535));
    return mw_cuda_check(mw_launch(d, plain_kernel, grid, THREADS, 0, a), "dense layer");
}
