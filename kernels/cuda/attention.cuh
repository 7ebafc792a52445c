/* kernels/cuda/attention.cuh - what the attention kernels share: their arguments, the cut between them, fragments.
 *
 * One KV head serves `group` q heads. The rows of a sequence and the q heads of a group are counted together:
 * flat = row * group + head in group, so that K and V are read once for all of them. */
#ifndef MW_KERNELS_CUDA_ATTENTION_CUH
#define MW_KERNELS_CUDA_ATTENTION_CUH
#include <type_traits>

#include "kernels/cuda/rope.cuh"

/* Sequences of at most this many flat rows are decoded: cut along the context instead of along the rows. */
#define MW_DECODE_COLS 32

struct mw_attn_args {
    const void *q; /* the first q head of row 0, in act */
    int64_t ld;
    const void *k_cache, *v_cache;
    void *out; /* act */
    int64_t ld_out;
    const int32_t *q_start, *ctx_len, *block_table;
    int block_stride, block_shift; /* log2 of the block size */
    int rows;                      /* of the whole batch */
    int n_kv, group, head_dim, window;
    uint32_t group_inverse; /* 2^32 / group rounded up, or 0 for a group of 1 */
    float scale_log2;       /* scale * log2(e): exponentials are powers of two */
    mw_dtype act, kv_dtype;
};

static __device__ __forceinline__ bool mw_is_decode(int rows, int group) {
    return rows == 1 || rows * group <= MW_DECODE_COLS;
}

/* flat / group, exactly for flat < 2^32 / group. */
static __device__ __forceinline__ int mw_row_of(const mw_attn_args &a, int flat) {
    return a.group_inverse ? (int)__umulhi((unsigned)flat, a.group_inverse) : flat;
}

/* Element offset of flat row `flat` of kv head kvh among q heads, rows `ld` apart, from row0 on. */
static __device__ __forceinline__ int64_t mw_q_offset(const mw_attn_args &a, int row0, int kvh, int flat, int64_t ld) {
    int row = mw_row_of(a, flat);
    return (int64_t)(row0 + row) * ld + (int64_t)(kvh * a.group + flat - row * a.group) * a.head_dim;
}

/* Element offset of position p's block, for kv head h, and of p inside it. */
static __device__ __forceinline__ int64_t mw_kv_offset(const mw_attn_args &a, int block, int h, int p) {
    return ((((int64_t)block * a.n_kv + h) << a.block_shift) + (p & ((1 << a.block_shift) - 1))) * a.head_dim;
}

/* Eight q elements from act to the cache's type: the matrix units want both operands alike. */
template <typename KV> static __device__ __forceinline__ uint4 mw_q_convert(uint4 u, mw_dtype act) {
    constexpr mw_dtype mine = std::is_same<KV, __half>::value ? MW_F16 : MW_BF16;
    if (act == mine) return u;
    float x[8];
    if (act == MW_F16)
        mw_unpack8<__half>(u, x);
    else
        mw_unpack8<__nv_bfloat16>(u, x);
    return mw_pack8<KV>(x);
}

static __device__ __forceinline__ float mw_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* d += a * b of one mma.m16n8k16. With g = lane / 4, t = lane % 4, pairs of neighbours in a register:
 *   a0: row g, columns 2t, 2t+1    a1: row g+8    a2: row g, columns 2t+8, 2t+9    a3: row g+8, the same
 *   b0: rows 2t, 2t+1, column g    b1: rows 2t+8, 2t+9
 *   d0, d1: row g, columns 2t, 2t+1    d2, d3: row g+8 */
template <typename T>
static __device__ __forceinline__ void mw_mma(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
    if (std::is_same<T, __half>::value)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif
