/* kernels/cuda/rope.cu - q/k norm, RoPE and the store to the paged KV cache for all rows of a step that is not a decode
 * step: sixteen lanes a head. */
#include "kernels/cuda/attention.cuh"

#define THREADS 256

struct rope_rows {
    mw_attn_args a;
    mw_rope_args r;
    int n_q;
};

template <typename T>
static __device__ __forceinline__ void store_head(uint16_t *x, const mw_head_part &h, int head_dim, int l) {
    if (8 * l >= head_dim / 2) return;
    *(uint4 *)(x + 8 * l) = mw_pack8<T>(h.lo);
    *(uint4 *)(x + head_dim / 2 + 8 * l) = mw_pack8<T>(h.hi);
}

static __device__ __forceinline__ void store_head_as(mw_dtype t, uint16_t *x, const mw_head_part &h, int hd, int l) {
    if (t == MW_F16)
        store_head<__half>(x, h, hd, l);
    else
        store_head<__nv_bfloat16>(x, h, hd, l);
}

/* A block a row: its lanes' angles serve all heads. */
static __global__ void __launch_bounds__(THREADS) rope_kernel(const __grid_constant__ rope_rows p) {
    const mw_attn_args &a = p.a;
    const int l = threadIdx.x % MW_ROPE_LANES, hd = a.head_dim, heads = p.n_q + 2 * a.n_kv;
    const int64_t row = blockIdx.x;
    mw_pdl_wait();
    const mw_angles angles = mw_load_angles(p.r.table, p.r.pos[row], hd, l);
    const int slot = p.r.slot[row];
    for (int head = threadIdx.x / MW_ROPE_LANES; head < heads; head += THREADS / MW_ROPE_LANES) {
        const bool is_q = head < p.n_q, is_v = head >= p.n_q + a.n_kv;
        const int kvh = is_q ? 0 : is_v ? head - p.n_q - a.n_kv : head - p.n_q;
        const uint16_t *x = is_q ? (const uint16_t *)a.q + head * hd : (is_v ? p.r.v : p.r.k) + kvh * hd;
        x += row * a.ld;
        mw_head_part h = mw_load_head(x, a.act, hd, l);
        if (!is_v) {
            mw_norm_head(h, is_q ? p.r.q_norm : p.r.k_norm, p.r.eps, hd, l);
            mw_rotate(h, angles);
        }
        if (is_q) {
            store_head_as(a.act, const_cast<uint16_t *>(x), h, hd, l);
            continue;
        }
        uint16_t *cache = (uint16_t *)(is_v ? p.r.v_cache : p.r.k_cache);
        store_head_as(a.kv_dtype, cache + mw_kv_offset(a, slot >> a.block_shift, kvh, slot), h, hd, l);
    }
}

mw_status mw_cuda_rope_rows(mw_dev *d, const mw_attn_args *a, const mw_rope_args *r, int rows) {
    if (rows <= 0) return MW_OK;
    rope_rows p = {*a, *r, a->n_kv * a->group};
    return mw_cuda_check(mw_launch(d, rope_kernel, (unsigned)rows, THREADS, 0, p), "RoPE and KV store");
}
