/* kernels/cuda/rows.cu - the operations that work row by row: embedding, norm, gathers, SiLU, the count of faults.
 *
 * Where base addresses and strides allow, a thread handles eight elements (16 bytes) at a time; otherwise the same
 * kernels go element by element. */
#include "kernels/cuda/device.cuh"

#define THREADS 256

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Grid's second dimension for one block (or more) a row. Kernels stride over the rest. */
static unsigned row_blocks(int64_t m) {
    return (unsigned)(m < 65535 ? m : 65535);
}

/* ---- embedding -------------------------------------------------------------------------------------------------- */

template <typename T, typename W>
static __global__ void embed_kernel(T *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                                    const W *table, int64_t v0, int64_t v1) {
    mw_pdl_wait();
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= h) return;
    for (int64_t i = blockIdx.y; i < m; i += gridDim.y) {
        int64_t t = token[i];
        if (t < 0 && chosen) t = chosen[-1 - t];
        float x = t >= v0 && t < v1 ? mw_to_float(table[(t - v0) * h + j]) : 0.0f;
        dst[i * h + j] = mw_from_float<T>(x);
    }
}

template <typename T>
static cudaError_t embed(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                         const void *table, mw_dtype dtype, int64_t v0, int64_t v1) {
    dim3 grid((unsigned)ceil_div(h, THREADS), row_blocks(m));
    T *y = (T *)dst;
    if (dtype == MW_F16)
        return mw_launch(d, embed_kernel<T, __half>, grid, THREADS, 0, y, m, h, token, chosen, table, v0, v1);
    if (dtype == MW_BF16)
        return mw_launch(d, embed_kernel<T, __nv_bfloat16>, grid, THREADS, 0, y, m, h, token, chosen, table, v0, v1);
    return mw_launch(d, embed_kernel<T, float>, grid, THREADS, 0, y, m, h, token, chosen, table, v0, v1);
}

mw_status mw_cuda_embed(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                        const void *table, mw_dtype dtype, int64_t v0, int64_t v1) {
    if (dtype != MW_F16 && dtype != MW_BF16 && dtype != MW_F32)
        return MW_FAIL(MW_ERR_INTERNAL, "embedding table is %s, expected f16, bf16 or f32", mw_dtype_name(dtype));
    if (m <= 0 || h <= 0) return MW_OK;
    return mw_cuda_check(d->act == MW_F16 ? embed<__half>(d, dst, m, h, token, chosen, table, dtype, v0, v1)
                                          : embed<__nv_bfloat16>(d, dst, m, h, token, chosen, table, dtype, v0, v1),
                         "embedding");
}

/* ---- residual and norm ------------------------------------------------------------------------------------------ */

/* The sum over all threads of a block, the same bits in each of them. */
static __device__ float block_sum(float x) {
    __shared__ float part[32];
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    __syncthreads(); /* an earlier call's readers are done */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < (blockDim.x + 31) / 32 ? part[threadIdx.x % 32] : 0.0f;
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}

/* Squares of bf16 values can leave f32: then the sum is taken of values 2^-64 times as large. */
#define DOWN 5.421010862427522e-20f /* 2^-64 */

static __device__ float inverse_norm(float sum, int64_t h, float eps, float down) {
    return rsqrtf(sum / (float)h + eps * down * down) * down;
}

/* One block a row, NV vectors of eight a thread, kept in registers between sum and scaling. `staged`: the row in the
 * order it came, in shared memory, for the gather through perm. */
template <typename T, int NV>
static __global__ void __launch_bounds__(1024)
    add_norm_kernel(T *x, const T *delta, T *dst, int64_t h, const float *w, float eps, const int32_t *perm) {
    extern __shared__ uint4 staged[];
    const int64_t vectors = h / 8, row = (int64_t)blockIdx.x * vectors;
    uint4 *xv = (uint4 *)x + row;
    float v[NV][8], scale[NV][8];
    int32_t from[NV][8];
#pragma unroll
    for (int n = 0; n < NV; n++) { /* constants: may be read before the predecessor is done */
        int64_t i = threadIdx.x + (int64_t)n * blockDim.x;
        if (i >= vectors || !dst) continue;
#pragma unroll
        for (int e = 0; e < 8; e += 4) {
            if (perm) *(int4 *)&from[n][e] = __ldg((const int4 *)(perm + i * 8 + e));
            if (!perm) *(float4 *)&scale[n][e] = __ldg((const float4 *)(w + i * 8 + e));
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (perm) scale[n][e] = __ldg(w + from[n][e]);
    }
    mw_pdl_wait();
    float sum = 0;
#pragma unroll
    for (int n = 0; n < NV; n++) {
        int64_t i = threadIdx.x + (int64_t)n * blockDim.x;
        if (i >= vectors) continue;
        uint4 u = xv[i];
        mw_unpack8<T>(u, v[n]);
        if (delta) {
            float a[8];
            mw_unpack8<T>(((const uint4 *)delta)[row + i], a);
#pragma unroll
            for (int e = 0; e < 8; e++) v[n][e] += a[e];
            u = mw_pack8<T>(v[n]);
            xv[i] = u;
            mw_unpack8<T>(u, v[n]); /* the norm is of what was stored */
        }
        if (perm && dst) staged[i] = u;
#pragma unroll
        for (int e = 0; e < 8; e++) sum += v[n][e] * v[n][e];
    }
    if (!dst) return;
    float down = 1;
    sum = block_sum(sum);
    if (!(sum < INFINITY)) {
        down = DOWN;
        sum = 0;
#pragma unroll
        for (int n = 0; n < NV; n++)
            if (threadIdx.x + (int64_t)n * blockDim.x < vectors)
#pragma unroll
                for (int e = 0; e < 8; e++) sum += (v[n][e] * DOWN) * (v[n][e] * DOWN);
        sum = block_sum(sum);
    }
    float inv = inverse_norm(sum, h, eps, down);
#pragma unroll
    for (int n = 0; n < NV; n++) {
        int64_t i = threadIdx.x + (int64_t)n * blockDim.x;
        if (i >= vectors) continue;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float a = perm ? mw_to_float(((const T *)staged)[from[n][e]]) : v[n][e];
            v[n][e] = a * inv * scale[n][e];
        }
        ((uint4 *)dst)[row + i] = mw_pack8<T>(v[n]);
    }
}

/* Any h and alignment: element by element, the stored row read again. */
template <typename T>
static __global__ void __launch_bounds__(1024)
    add_norm_any_kernel(T *x, const T *delta, T *dst, int64_t h, const float *w, float eps, const int32_t *perm) {
    mw_pdl_wait();
    T *row = x + blockIdx.x * h;
    float sum = 0, sum_down = 0;
    for (int64_t j = threadIdx.x; j < h; j += blockDim.x) {
        float a = mw_to_float(row[j]);
        if (delta) {
            row[j] = mw_from_float<T>(a + mw_to_float(delta[blockIdx.x * h + j]));
            a = mw_to_float(row[j]);
        }
        sum += a * a;
        sum_down += (a * DOWN) * (a * DOWN);
    }
    if (!dst) return;
    sum = block_sum(sum); /* also orders the stores to the row before the reads below */
    sum_down = block_sum(sum_down);
    bool fits = sum < INFINITY;
    float inv = inverse_norm(fits ? sum : sum_down, h, eps, fits ? 1 : DOWN);
    for (int64_t j = threadIdx.x; j < h; j += blockDim.x) {
        int64_t p = perm ? perm[j] : j;
        dst[blockIdx.x * h + j] = mw_from_float<T>(mw_to_float(row[p]) * inv * w[p]);
    }
}

template <typename T>
static cudaError_t add_norm(mw_dev *d, T *x, const T *delta, T *dst, int64_t m, int64_t h, const float *w, float eps,
                            const int32_t *perm) {
    size_t smem = perm && dst ? (size_t)h * sizeof(T) : 0;
    bool fast = h % 8 == 0 && h <= 4 * 8 * 1024 && smem <= 48 << 10 && mw_aligned8(x, 8) && mw_aligned8(delta, 8) &&
                mw_aligned8(dst, 8) && mw_aligned8(w, 8) && mw_aligned8(perm, 8);
    int64_t vectors = fast ? h / 8 : h, threads = vectors < 1024 ? (vectors + 31) / 32 * 32 : 1024;
    if (!fast)
        return mw_launch(d, add_norm_any_kernel<T>, (unsigned)m, (unsigned)threads, 0, x, delta, dst, h, w, eps, perm);
    if (vectors <= 1024)
        return mw_launch(d, add_norm_kernel<T, 1>, (unsigned)m, (unsigned)threads, smem, x, delta, dst, h, w, eps,
                         perm);
    return mw_launch(d, add_norm_kernel<T, 4>, (unsigned)m, (unsigned)threads, smem, x, delta, dst, h, w, eps, perm);
}

mw_status mw_cuda_add_norm(mw_dev *d, void *x, const void *delta, void *dst, int64_t m, int64_t h, const float *w,
                           float eps, const int32_t *perm) {
    if ((!delta && !dst) || m <= 0) return MW_OK;
    if (h <= 0) return MW_FAIL(MW_ERR_INTERNAL, "norm over %lld columns", (long long)h);
    cudaError_t e;
    if (d->act == MW_F16)
        e = add_norm(d, (__half *)x, (const __half *)delta, (__half *)dst, m, h, w, eps, perm);
    else
        e = add_norm(d, (__nv_bfloat16 *)x, (const __nv_bfloat16 *)delta, (__nv_bfloat16 *)dst, m, h, w, eps, perm);
    return mw_cuda_check(e, "add_norm");
}

/* ---- gathers: bits are moved, f16 and bf16 alike ---------------------------------------------------------------- */

static __global__ void gather_cols_kernel(uint16_t *dst, int64_t ld_dst, const uint16_t *src, int64_t ld_src, int64_t m,
                                          int64_t n, const int32_t *idx) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t from = j < n ? idx[j] : 0;
    mw_pdl_wait();
    if (j >= n) return;
    for (int64_t i = blockIdx.y; i < m; i += gridDim.y) dst[i * ld_dst + j] = src[i * ld_src + from];
}

mw_status mw_cuda_gather_cols(mw_dev *d, void *dst, int64_t ld_dst, const void *src, int64_t ld_src, int64_t m,
                              int64_t n, const int32_t *idx) {
    if (m <= 0 || n <= 0) return MW_OK;
    dim3 grid((unsigned)ceil_div(n, THREADS), row_blocks(m));
    return mw_cuda_check(
        mw_launch(d, gather_cols_kernel, grid, THREADS, 0, (uint16_t *)dst, ld_dst, (uint16_t *)src, ld_src, m, n, idx),
        "gather_cols");
}

template <typename V>
static __global__ void take_rows_kernel(V *dst, const V *src, int64_t n, int64_t h, const int32_t *row) {
    mw_pdl_wait();
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= h) return;
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y) dst[i * h + j] = src[row[i] * h + j];
}

mw_status mw_cuda_take_rows(mw_dev *d, void *dst, const void *src, int64_t n, int64_t h, const int32_t *row) {
    if (n <= 0 || h <= 0) return MW_OK;
    cudaError_t e;
    if (mw_aligned8(dst, h) && mw_aligned8(src, h)) {
        dim3 grid((unsigned)ceil_div(h / 8, THREADS), row_blocks(n));
        e = mw_launch(d, take_rows_kernel<uint4>, grid, THREADS, 0, (uint4 *)dst, (const uint4 *)src, n, h / 8, row);
    } else {
        dim3 grid((unsigned)ceil_div(h, THREADS), row_blocks(n));
        e = mw_launch(d, take_rows_kernel<uint16_t>, grid, THREADS, 0, (uint16_t *)dst, (const uint16_t *)src, n, h,
                      row);
    }
    return mw_cuda_check(e, "take_rows");
}

/* ---- SiLU ------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float silu(float x) {
    return x / (1.0f + __expf(-x));
}

/* Gate is read before dst is written, by the same thread: dst may be x. */
template <typename T>
static __global__ void silu_mul_kernel(T *dst, int64_t ld_dst, const T *x, int64_t ld, int64_t m, int64_t vectors,
                                       int64_t up_off) {
    mw_pdl_wait();
    int64_t j = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (j >= vectors * 8) return;
    for (int64_t i = blockIdx.y; i < m; i += gridDim.y) {
        float g[8], u[8];
        mw_unpack8<T>(*(const uint4 *)(x + i * ld + j), g);
        mw_unpack8<T>(*(const uint4 *)(x + i * ld + up_off + j), u);
#pragma unroll
        for (int e = 0; e < 8; e++) g[e] = silu(g[e]) * u[e];
        *(uint4 *)(dst + i * ld_dst + j) = mw_pack8<T>(g);
    }
}

template <typename T>
static __global__ void silu_mul_any_kernel(T *dst, int64_t ld_dst, const T *x, int64_t ld, int64_t m, int64_t n,
                                           int64_t up_off) {
    mw_pdl_wait();
    int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) return;
    for (int64_t i = blockIdx.y; i < m; i += gridDim.y) {
        float g = mw_to_float(x[i * ld + j]), u = mw_to_float(x[i * ld + up_off + j]);
        dst[i * ld_dst + j] = mw_from_float<T>(silu(g) * u);
    }
}

template <typename T>
static cudaError_t silu_mul(mw_dev *d, T *dst, int64_t ld_dst, const T *x, int64_t ld, int64_t m, int64_t n,
                            int64_t up_off) {
    if (n % 8 == 0 && up_off % 8 == 0 && mw_aligned8(dst, ld_dst) && mw_aligned8(x, ld)) {
        unsigned threads = m < 64 ? 64 : 256; /* few rows: spread them over the multiprocessors */
        dim3 grid((unsigned)ceil_div(n / 8, threads), row_blocks(m));
        return mw_launch(d, silu_mul_kernel<T>, grid, threads, 0, dst, ld_dst, x, ld, m, n / 8, up_off);
    }
    dim3 grid((unsigned)ceil_div(n, THREADS), row_blocks(m));
    return mw_launch(d, silu_mul_any_kernel<T>, grid, THREADS, 0, dst, ld_dst, x, ld, m, n, up_off);
}

mw_status mw_cuda_silu_mul(mw_dev *d, void *dst, int64_t ld_dst, const void *x, int64_t ld, int64_t m, int64_t n,
                           int64_t up_off) {
    if (dst == x && ld_dst != ld && m > 1)
        return MW_FAIL(MW_ERR_INTERNAL, "silu in place with row strides %lld and %lld", (long long)ld_dst,
                       (long long)ld);
    if (m <= 0 || n <= 0) return MW_OK;
    cudaError_t e;
    if (d->act == MW_F16)
        e = silu_mul(d, (__half *)dst, ld_dst, (const __half *)x, ld, m, n, up_off);
    else
        e = silu_mul(d, (__nv_bfloat16 *)dst, ld_dst, (const __nv_bfloat16 *)x, ld, m, n, up_off);
    return mw_cuda_check(e, "silu_mul");
}

/* ---- fault finding ---------------------------------------------------------------------------------------------- */

template <typename T>
static __global__ void count_nonfinite_kernel(const T *x, int64_t ld, int64_t m, int64_t n, unsigned long long *count) {
    mw_pdl_wait();
    unsigned long long bad = 0;
    for (int64_t i = blockIdx.x; i < m; i += gridDim.x)
        for (int64_t j = threadIdx.x; j < n; j += THREADS) bad += !isfinite(mw_to_float(x[i * ld + j]));
    if (bad) atomicAdd(count, bad);
}

mw_status mw_cuda_count_nonfinite(mw_dev *d, const void *x, int64_t ld, int64_t m, int64_t n, bool f32,
                                  int64_t *count) {
    unsigned blocks = (unsigned)(m < 2048 ? (m > 0 ? m : 1) : 2048);
    unsigned long long *result = (unsigned long long *)d->nonfinite, bad = 0;
    mw_status st = MW_OK;
    cudaError_t e;
    MW_TRY(st, mw_cuda_check(cudaSetDevice(d->ordinal), "count_nonfinite"));
    MW_TRY(st, mw_cuda_check(cudaMemsetAsync(result, 0, sizeof *result, d->stream), "count_nonfinite"));
    if (f32)
        e = mw_launch(d, count_nonfinite_kernel<float>, blocks, THREADS, 0, (const float *)x, ld, m, n, result);
    else if (d->act == MW_F16)
        e = mw_launch(d, count_nonfinite_kernel<__half>, blocks, THREADS, 0, (const __half *)x, ld, m, n, result);
    else
        e = mw_launch(d, count_nonfinite_kernel<__nv_bfloat16>, blocks, THREADS, 0, (const __nv_bfloat16 *)x, ld, m, n,
                      result);
    MW_TRY(st, mw_cuda_check(e, "count_nonfinite"));
    MW_TRY(st, mw_cuda_check(cudaMemcpyAsync(&bad, result, sizeof bad, cudaMemcpyDeviceToHost, d->stream),
                             "count_nonfinite"));
    MW_TRY(st, mw_cuda_check(cudaStreamSynchronize(d->stream), "count_nonfinite"));
    *count = (int64_t)bad;
fail:
    return st;
}

/* ---- which code runs --------------------------------------------------------------------------------------------- */

mw_status mw_cuda_match_code(mw_dev *d) {
    cudaFuncAttributes a = {};
    cudaError_t e = cudaFuncGetAttributes(&a, count_nonfinite_kernel<float>);
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return MW_FAIL(MW_ERR_UNAVAIL, "GPU %d: this build has no code for %s, compute capability %d.%d", d->ordinal,
                       d->name, d->sm / 10, d->sm % 10);
    }
    if (e == cudaSuccess && a.ptxVersion < d->sm) d->sm = a.ptxVersion;
    return mw_cuda_check(e, "looking for this GPU's code");
}
