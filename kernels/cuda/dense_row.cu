/* kernels/cuda/dense_row.cu - y[n] = sum_k x[k] * w[n,k] for one row of x: nothing but reading w.
 *
 * A warp takes two rows of w at a time, 16 bytes a lane and load, eight loads ahead of the eight that it multiplies; x
 * is in shared memory as f32. Products and sums are f32, in an order that depends on k alone. The first loads are
 * issued before the dependency wait: weights depend on no earlier kernel. */
#include "kernels/cuda/device.cuh"

#define WARPS 8
#define ROWS  2
#define STEPS 4 /* of 256 elements of k */
#define MAX_K 16384

typedef struct {
    const void *w, *x;
    void *y;
    const float *bias;
    int64_t n;
    int k;
    bool y_f32;
} row_args;

/* Which elements of w a warp has before it. */
struct row_place {
    int64_t row;
    int k;
    __device__ __forceinline__ void next(const row_args &a) {
        k += STEPS * 256;
        if (k >= a.k) k = 0, row += (int64_t)gridDim.x * WARPS * ROWS;
    }
};

template <typename T>
static __device__ __forceinline__ void load(const row_args &a, const row_place &p, uint4 v[ROWS][STEPS], int lane) {
    if (p.row >= a.n) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const T *w = static_cast<const T *>(a.w) + min(p.row + r, a.n - 1) * a.k;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            int k = p.k + s * 256 + lane * 8;
            v[r][s] = k < a.k ? __ldcs(reinterpret_cast<const uint4 *>(w + k)) : make_uint4(0, 0, 0, 0);
        }
    }
}

template <typename T>
static __device__ __forceinline__ void multiply(const row_args &a, const row_place &p, const uint4 v[ROWS][STEPS],
                                                const float *x, float sum[ROWS], int lane) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        int k = p.k + s * 256 + lane * 8;
        float f[8] = {};
        if (k < a.k) *(float4 *)f = *(const float4 *)(x + k), *(float4 *)(f + 4) = *(const float4 *)(x + k + 4);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float w[8];
            mw_unpack8<T>(v[r][s], w);
#pragma unroll
            for (int e = 0; e < 8; e++) sum[r] = fmaf(w[e], f[e], sum[r]);
        }
    }
}

template <typename T>
static __device__ __forceinline__ void finish(const row_args &a, int64_t row, float sum[ROWS], int lane) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int o = 16; o; o >>= 1) sum[r] += __shfl_xor_sync(~0u, sum[r], o);
        if (lane == r && row + r < a.n) {
            float y = sum[r] + (a.bias ? a.bias[row + r] : 0);
            if (a.y_f32)
                static_cast<float *>(a.y)[row + r] = y;
            else
                static_cast<T *>(a.y)[row + r] = mw_from_float<T>(y);
        }
        sum[r] = 0;
    }
}

template <typename T> static __global__ void __launch_bounds__(32 * WARPS, 2) row_kernel(const row_args a) {
    extern __shared__ float x[];
    const int lane = threadIdx.x % 32;
    row_place now = {((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * ROWS, 0}, ahead = now;
    uint4 v[2][ROWS][STEPS];
    float sum[ROWS] = {};
    load<T>(a, ahead, v[0], lane);
    mw_pdl_wait();
    for (int i = threadIdx.x; i < a.k / 8; i += 32 * WARPS)
        mw_unpack8<T>(static_cast<const uint4 *>(a.x)[i], x + i * 8);
    __syncthreads();
    while (now.row < a.n) {
#pragma unroll
        for (int b = 0; b < 2; b++) {
            ahead.next(a);
            load<T>(a, ahead, v[b ^ 1], lane);
            multiply<T>(a, now, v[b], x, sum, lane);
            if (ahead.k == 0) finish<T>(a, now.row, sum, lane);
            now = ahead;
            if (now.row >= a.n) break;
        }
    }
}

bool mw_cuda_dense_row_takes(const mw_dev *d, const mw_linear *w, const void *x) {
    return w->dense.dtype == d->act && w->k % 8 == 0 && w->k >= 256 && w->k <= MAX_K && w->n >= 256 &&
           (uintptr_t)x % 16 == 0 && (uintptr_t)w->dense.w % 16 == 0;
}

mw_status mw_cuda_dense_row(mw_dev *d, const mw_linear *w, const void *x, void *y, bool y_f32) {
    const row_args a = {w->dense.w, x, y, w->bias, w->n, (int)w->k, y_f32};
    const int64_t most = (w->n + WARPS * ROWS - 1) / (WARPS * ROWS), blocks = most < 2 * d->n_sm ? most : 2 * d->n_sm;
    const size_t smem = (size_t)w->k * sizeof(float);
    void (*kernel)(row_args) = d->act == MW_F16 ? row_kernel<__half> : row_kernel<__nv_bfloat16>;
    mw_status st = mw_cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem),
                                 "shared memory of a dense row");
    if (st != MW_OK) return st;
    return mw_cuda_check(mw_launch(d, kernel, dim3((unsigned)blocks), dim3(32 * WARPS), smem, a), "dense row");
}
