/* kernels/cuda/rope.cu - q/k norm, RoPE and the store to the paged KV cache: one warp a head of a row. */
#include "kernels/cuda/device.cuh"

#define WARPS 4

struct rope_args {
    void *qkv;
    int64_t ld, q_off, k_off, v_off;
    void *k_cache, *v_cache;
    const int32_t *pos, *slot;
    const float *rope, *q_norm, *k_norm;
    float eps;
    int rows, n_q, n_kv, head_dim, block_shift;
};

/* A pair of columns 2l, 2l+1 of either half of the head: hd <= 256 needs at most two rounds of 32 lanes. */
#define ROUNDS 2

template <typename T, typename KV> static __global__ void rope_kernel(const __grid_constant__ rope_args a) {
    const int heads = a.n_q + 2 * a.n_kv, lane = threadIdx.x % 32, half = a.head_dim / 2;
    const int64_t task = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t row = task / heads;
    const int head = (int)(task % heads);
    mw_pdl_wait();
    if (row >= a.rows) return;
    const bool is_q = head < a.n_q, is_v = head >= a.n_q + a.n_kv;
    const int kvh = is_q ? 0 : is_v ? head - a.n_q - a.n_kv : head - a.n_q;
    T *x = (T *)a.qkv + row * a.ld;
    x += is_q ? a.q_off + (int64_t)head * a.head_dim : (is_v ? a.v_off : a.k_off) + (int64_t)kvh * a.head_dim;
    float2 lo[ROUNDS], hi[ROUNDS];
    float sum = 0;
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        int d = r * 64 + 2 * lane;
        lo[r] = hi[r] = make_float2(0, 0);
        if (d >= half) continue;
        lo[r] = mw_unpack<T>(*(const uint32_t *)(x + d));
        hi[r] = mw_unpack<T>(*(const uint32_t *)(x + half + d));
        sum += lo[r].x * lo[r].x + lo[r].y * lo[r].y + hi[r].x * hi[r].x + hi[r].y * hi[r].y;
    }
    const float *w = is_q ? a.q_norm : is_v ? nullptr : a.k_norm;
    float inv = 1;
    if (w) {
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        inv = rsqrtf(sum / (float)a.head_dim + a.eps);
    }
    KV *cache = nullptr;
    if (!is_q) {
        int slot = a.slot[row], block = slot >> a.block_shift, offset = slot & ((1 << a.block_shift) - 1);
        cache = (KV *)(is_v ? a.v_cache : a.k_cache) +
                ((((int64_t)block * a.n_kv + kvh) << a.block_shift) + offset) * a.head_dim;
    }
    const float *table = a.rope + (is_v ? 0 : (int64_t)a.pos[row] * a.head_dim);
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        int d = r * 64 + 2 * lane;
        if (d >= half) continue;
        if (w) {
            lo[r].x *= inv * w[d], lo[r].y *= inv * w[d + 1];
            hi[r].x *= inv * w[half + d], hi[r].y *= inv * w[half + d + 1];
        }
        if (!is_v) {
            float4 c = *(const float4 *)(table + 2 * d); /* cos, sin of pair d; of pair d + 1 */
            float2 l = lo[r], h = hi[r];
            lo[r] = make_float2(l.x * c.x - h.x * c.y, l.y * c.z - h.y * c.w);
            hi[r] = make_float2(h.x * c.x + l.x * c.y, h.y * c.z + l.y * c.w);
        }
        if (is_q) {
            *(uint32_t *)(x + d) = mw_pack<T>(lo[r].x, lo[r].y);
            *(uint32_t *)(x + half + d) = mw_pack<T>(hi[r].x, hi[r].y);
        } else {
            *(uint32_t *)(cache + d) = mw_pack<KV>(lo[r].x, lo[r].y);
            *(uint32_t *)(cache + half + d) = mw_pack<KV>(hi[r].x, hi[r].y);
        }
    }
}

template <typename T> static cudaError_t launch(mw_dev *d, const rope_args &a, mw_dtype kv) {
    int64_t tasks = (int64_t)a.rows * (a.n_q + 2 * a.n_kv);
    unsigned blocks = (unsigned)((tasks + WARPS - 1) / WARPS);
    if (kv == MW_F16) return mw_launch(d, rope_kernel<T, __half>, blocks, 32 * WARPS, 0, a);
    return mw_launch(d, rope_kernel<T, __nv_bfloat16>, blocks, 32 * WARPS, 0, a);
}

mw_status mw_cuda_rope_kv(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                          void *v_cache) {
    mw_status st = mw_cuda_attn_check(a, qkv, ld);
    if (st != MW_OK || b->n_tokens <= 0) return st;
    rope_args p = {};
    p.qkv = qkv;
    p.ld = ld;
    p.q_off = a->q_off;
    p.k_off = a->k_off;
    p.v_off = a->v_off;
    p.k_cache = k_cache;
    p.v_cache = v_cache;
    p.pos = b->pos;
    p.slot = b->slot;
    p.rope = a->rope;
    p.q_norm = a->q_norm;
    p.k_norm = a->k_norm;
    p.eps = a->norm_eps;
    p.rows = b->n_tokens;
    p.n_q = a->n_q;
    p.n_kv = a->n_kv;
    p.head_dim = a->head_dim;
    p.block_shift = __builtin_ctz((unsigned)a->block_size);
    return mw_cuda_check(
        d->act == MW_F16 ? launch<__half>(d, p, a->kv_dtype) : launch<__nv_bfloat16>(d, p, a->kv_dtype), "rope_kv");
}
