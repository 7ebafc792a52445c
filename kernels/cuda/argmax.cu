/* kernels/cuda/argmax.cu - the greedy choice of every row, in one launch.
 *
 * A value and its column become one 64-bit key whose order is the wanted one: larger value first, then lower column,
 * any NaN before everything (so that a fault is seen). Blocks share a row; the last one to finish takes the best of
 * their keys, so there is no order of blocks to depend on. */
#include "kernels/cuda/device.cuh"

#define THREADS 256
#define NAN_KEY (~0ull)

static __device__ __forceinline__ unsigned long long key_of(float x, int64_t j) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return NAN_KEY;
    if (u == 0x80000000u) u = 0; /* -0 equals 0 */
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (unsigned long long)u << 32 | (uint32_t) ~(uint32_t)j;
}

static __device__ unsigned long long block_max(unsigned long long k) {
    __shared__ unsigned long long part[THREADS / 32];
    for (int o = 16; o; o >>= 1) {
        unsigned long long other = __shfl_xor_sync(~0u, k, o);
        k = other > k ? other : k;
    }
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = k;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) k = part[w] > k ? part[w] : k;
    __syncthreads();
    return k;
}

static __global__ void argmax_kernel(int32_t *token, float *best, const float *logits, int64_t ld, int64_t vocab,
                                     unsigned long long *keys, uint32_t *counters) {
    __shared__ bool last;
    const float *x = logits + blockIdx.y * ld;
    unsigned long long k = 0;
    mw_pdl_wait();
    for (int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x; j < vocab; j += (int64_t)gridDim.x * THREADS) {
        unsigned long long other = key_of(x[j], j);
        k = other > k ? other : k;
    }
    k = block_max(k);
    keys += (int64_t)blockIdx.y * gridDim.x;
    if (threadIdx.x == 0) {
        keys[blockIdx.x] = k;
        __threadfence();
        last = atomicAdd(counters + blockIdx.y, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    k = threadIdx.x < gridDim.x ? __ldcg(keys + threadIdx.x) : 0;
    k = block_max(k);
    if (threadIdx.x) return;
    counters[blockIdx.y] = 0;
    int32_t at = k == NAN_KEY ? -1 : (int32_t) ~(uint32_t)k;
    token[blockIdx.y] = at >= 0 && isfinite(x[at]) ? at : -1;
    if (best) best[blockIdx.y] = at < 0 ? NAN : x[at];
}

mw_status mw_cuda_argmax(mw_dev *d, int32_t *token, float *best, const float *logits, int64_t ld, int64_t rows,
                         int64_t vocab) {
    if (rows <= 0) return MW_OK;
    if (vocab <= 0 || vocab > INT32_MAX) return MW_FAIL(MW_ERR_INTERNAL, "argmax over %lld columns", (long long)vocab);
    mw_status st = MW_OK;
    /* Some 2048 blocks in all, at least 4 values a thread, at most one key a thread of the last block. */
    int64_t blocks = 2048 / rows, most = (vocab + 4 * THREADS - 1) / (4 * THREADS);
    blocks = blocks < most ? blocks : most;
    blocks = blocks > d->n_sm ? d->n_sm : blocks;
    blocks = blocks < 1 ? 1 : blocks > THREADS ? THREADS : blocks;
    for (int64_t i = 0; i < rows && st == MW_OK; i += 16384) {
        int64_t n = rows - i < 16384 ? rows - i : 16384;
        st = mw_cuda_check(mw_launch(d, argmax_kernel, dim3((unsigned)blocks, (unsigned)n), THREADS, 0, token + i,
                                     best ? best + i : best, logits + i * ld, ld, vocab,
                                     (unsigned long long *)d->workspace, d->counters),
                           "argmax");
    }
    return st;
}

/* One thread a row: a handful of parts. */
static __global__ void best_of_kernel(int32_t *chosen, const int32_t *parts, int n, int64_t stride,
                                      const int32_t *first, int64_t rows) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    mw_pdl_wait();
    if (i >= rows) return;
    float best = -INFINITY;
    int32_t at = -1;
    bool nan = false;
    for (int p = 0; p < n; p++) {
        if (first[p] < 0) continue;
        const int32_t *token = parts + 2 * stride * p + i;
        float value = __int_as_float(token[stride]);
        nan |= isnan(value);
        if (value <= best) continue;
        best = value;
        at = first[p] + token[0];
    }
    chosen[i] = nan || !isfinite(best) ? -1 : at;
}

mw_status mw_cuda_best_of(mw_dev *d, int32_t *chosen, const int32_t *parts, int n, int64_t stride, const int32_t *first,
                          int64_t rows) {
    if (rows <= 0) return MW_OK;
    return mw_cuda_check(mw_launch(d, best_of_kernel, dim3((unsigned)((rows + THREADS - 1) / THREADS)), THREADS, 0,
                                   chosen, parts, n, stride, first, rows),
                         "the best of all ranks");
}
