/* kernels/cuda/rope.cuh - q/k norm and RoPE of one head by sixteen neighbouring lanes: lane l holds elements
 * 8l .. 8l+7 of either half of the head. Spelled out to the last rounding, so that rope.cu and the decode kernel, which
 * does this for its own row, give the same bits. */
#ifndef MW_KERNELS_CUDA_ROPE_CUH
#define MW_KERNELS_CUDA_ROPE_CUH
#include "kernels/cuda/device.cuh"

#define MW_ROPE_LANES 16

/* The rows of a step before their K and V are in the cache: q not rotated yet, k and v columns of the same rows. */
struct mw_rope_args {
    const float *table; /* mw_attn.rope. In the decode kernel NULL: nothing of this is to be done */
    const float *q_norm, *k_norm;
    const uint16_t *k, *v; /* first KV head of row 0, in act; rows apart as q's */
    const int32_t *pos, *slot;
    void *k_cache, *v_cache;
    float eps;
};

struct mw_head_part {
    float lo[8], hi[8];
};

struct mw_angles {
    float4 v[4]; /* cos, sin of pair 8l, of pair 8l + 1; and so on */
};

static __device__ __forceinline__ mw_angles mw_load_angles(const float *table, int pos, int head_dim, int l) {
    mw_angles a = {};
    if (8 * l >= head_dim / 2) return a;
    const float4 *from = (const float4 *)(table + (int64_t)pos * head_dim + 16 * l);
#pragma unroll
    for (int i = 0; i < 4; i++) a.v[i] = from[i];
    return a;
}

static __device__ __forceinline__ void mw_unpack8_act(uint4 u, mw_dtype act, float x[8]) {
    if (act == MW_F16)
        mw_unpack8<__half>(u, x);
    else
        mw_unpack8<__nv_bfloat16>(u, x);
}

/* Zeros in lanes past the head's end. Not through L1: another kernel wrote this a moment ago. */
static __device__ __forceinline__ mw_head_part mw_load_head(const uint16_t *x, mw_dtype act, int head_dim, int l) {
    mw_head_part h;
    uint4 lo = make_uint4(0, 0, 0, 0), hi = lo;
    if (8 * l < head_dim / 2) {
        lo = __ldcg((const uint4 *)(x + 8 * l));
        hi = __ldcg((const uint4 *)(x + head_dim / 2 + 8 * l));
    }
    mw_unpack8_act(lo, act, h.lo);
    mw_unpack8_act(hi, act, h.hi);
    return h;
}

/* All sixteen lanes of a head call this together, with the same w (NULL: no norm). */
static __device__ __forceinline__ void mw_norm_head(mw_head_part &h, const float *w, float eps, int head_dim, int l) {
    const int lane = threadIdx.x % 32;
    const uint32_t lanes = 0xffffu << (lane & 16);
    float sum = 0;
    if (!w) return;
#pragma unroll
    for (int i = 0; i < 8; i++) sum = __fmaf_rn(h.lo[i], h.lo[i], __fmaf_rn(h.hi[i], h.hi[i], sum));
#pragma unroll
    for (int o = MW_ROPE_LANES / 2; o; o >>= 1) sum += __shfl_xor_sync(lanes, sum, o);
    if (8 * l >= head_dim / 2) return;
    const float inv = rsqrtf(__fdiv_rn(sum, (float)head_dim) + eps);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        h.lo[i] = __fmul_rn(h.lo[i], __fmul_rn(inv, w[8 * l + i]));
        h.hi[i] = __fmul_rn(h.hi[i], __fmul_rn(inv, w[head_dim / 2 + 8 * l + i]));
    }
}

static __device__ __forceinline__ void mw_rotate(mw_head_part &h, const mw_angles &a) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float c = i % 2 ? a.v[i / 2].z : a.v[i / 2].x, s = i % 2 ? a.v[i / 2].w : a.v[i / 2].y;
        float lo = h.lo[i], hi = h.hi[i];
        h.lo[i] = __fmaf_rn(lo, c, -__fmul_rn(hi, s));
        h.hi[i] = __fmaf_rn(hi, c, __fmul_rn(lo, s));
    }
}

/* What rows in memory would have been rounded to. */
static __device__ __forceinline__ void mw_round_head(mw_head_part &h, mw_dtype act) {
    if (act == MW_F16) {
        mw_unpack8<__half>(mw_pack8<__half>(h.lo), h.lo);
        mw_unpack8<__half>(mw_pack8<__half>(h.hi), h.hi);
    } else {
        mw_unpack8<__nv_bfloat16>(mw_pack8<__nv_bfloat16>(h.lo), h.lo);
        mw_unpack8<__nv_bfloat16>(mw_pack8<__nv_bfloat16>(h.hi), h.hi);
    }
}

#endif
