/* kernels/cuda/w4_math.cuh - int4 to fragments of mma.m16n8k16, for f16 and bf16 activations.
 *
 * The weights are the A operand (16 columns of y x 16 of k), the activations the B operand (16 of k x 8 rows of x), so
 * that one to eight rows of x waste nothing. A word of a Marlin tile is a lane's whole A fragment: nibbles (0,4) are
 * a0 (column n, k and k+1), (2,6) a1 (n+8), (1,5) a2 (n, k+8), (3,7) a3 (n+8, k+8). q - zero is exact in f16 and in
 * bf16; scales multiply the fp32 sums of a group, so no weight is ever rounded. */
#ifndef MW_KERNELS_CUDA_W4_MATH_CUH
#define MW_KERNELS_CUDA_W4_MATH_CUH
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* (a & mask) | bits */
template <uint32_t mask, uint32_t bits> static __device__ __forceinline__ uint32_t mw_pick(uint32_t a) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "n"(mask), "n"(bits));
    return r;
}

template <typename T> struct mw_w4_math;

template <> struct mw_w4_math<__half> {
    static constexpr int dtype = MW_F16;
    static __device__ __forceinline__ uint32_t mul(uint32_t a, uint32_t b) {
        uint32_t r;
        asm("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        return r;
    }
    static __device__ __forceinline__ uint32_t sub(uint32_t a, uint32_t b) {
        uint32_t r;
        asm("sub.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        return r;
    }
    static __device__ __forceinline__ uint32_t add(uint32_t a, uint32_t b) {
        uint32_t r;
        asm("add.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        return r;
    }
    /* Eight times q - 8. A nibble in the mantissa's low bits of 1024 makes 1024 + q; four bits higher, 1024 + 16q. */
    static __device__ __forceinline__ void unpack(uint32_t w, uint32_t a[4]) {
        uint32_t v = w >> 8;
        a[0] = sub(mw_pick<0x000f000f, 0x64006400>(w), 0x64086408);
        a[1] = sub(mw_pick<0x000f000f, 0x64006400>(v), 0x64086408);
        uint32_t x = mw_pick<0x00f000f0, 0x64006400>(w), y = mw_pick<0x00f000f0, 0x64006400>(v);
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(a[2]) : "r"(x), "r"(0x2c002c00), "r"(0xd480d480)); /* x/16 - 72 */
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(a[3]) : "r"(y), "r"(0x2c002c00), "r"(0xd480d480));
    }
    /* 64 + q: a nibble in the upper four of eight bits of mantissa. lo: k 0..7 of a tile for n and n + 8, hi: k 8..15.
     * (q alone, as a subnormal, takes two instructions less, but then tensor cores lose ten bits of the sum.) */
    static constexpr float raw_offset = 64;
    static constexpr uint32_t raw_one = 0x3c003c00;
    static __device__ __forceinline__ void raw(uint32_t w, uint32_t lo[2], uint32_t hi[2]) {
        lo[0] = mw_pick<0x00f000f0, 0x54005400>(w << 4), lo[1] = mw_pick<0x00f000f0, 0x54005400>(w >> 4);
        hi[0] = mw_pick<0x00f000f0, 0x54005400>(w), hi[1] = mw_pick<0x00f000f0, 0x54005400>(w >> 8);
    }
    static __device__ __forceinline__ uint32_t twice(int x) {
        __half2 h = __half2half2(__int2half_rn(x));
        return *reinterpret_cast<uint32_t *>(&h);
    }
    static __device__ __forceinline__ void mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
    static __device__ __forceinline__ uint32_t pack(float lo, float hi) {
        __half2 h = __floats2half2_rn(lo, hi);
        return *reinterpret_cast<uint32_t *>(&h);
    }
};

template <> struct mw_w4_math<__nv_bfloat16> {
    static constexpr int dtype = MW_BF16;
    static __device__ __forceinline__ uint32_t mul(uint32_t a, uint32_t b) {
        __nv_bfloat162 r = __hmul2(*reinterpret_cast<__nv_bfloat162 *>(&a), *reinterpret_cast<__nv_bfloat162 *>(&b));
        return *reinterpret_cast<uint32_t *>(&r);
    }
    static __device__ __forceinline__ uint32_t add(uint32_t a, uint32_t b) {
        __nv_bfloat162 r = __hadd2(*reinterpret_cast<__nv_bfloat162 *>(&a), *reinterpret_cast<__nv_bfloat162 *>(&b));
        return *reinterpret_cast<uint32_t *>(&r);
    }
    /* 128 + q in seven bits of mantissa, so every nibble must come down to the low bits. Then minus 136: exact. */
    static __device__ __forceinline__ void unpack(uint32_t w, uint32_t a[4]) {
        a[0] = add(mw_pick<0x000f000f, 0x43004300>(w), 0xc308c308);
        a[2] = add(mw_pick<0x000f000f, 0x43004300>(w >> 4), 0xc308c308);
        a[1] = add(mw_pick<0x000f000f, 0x43004300>(w >> 8), 0xc308c308);
        a[3] = add(mw_pick<0x000f000f, 0x43004300>(w >> 12), 0xc308c308);
    }
    static constexpr float raw_offset = 128; /* 128 + q */
    static constexpr uint32_t raw_one = 0x3f803f80;
    static __device__ __forceinline__ void raw(uint32_t w, uint32_t lo[2], uint32_t hi[2]) {
        lo[0] = mw_pick<0x000f000f, 0x43004300>(w), lo[1] = mw_pick<0x000f000f, 0x43004300>(w >> 8);
        hi[0] = mw_pick<0x000f000f, 0x43004300>(w >> 4), hi[1] = mw_pick<0x000f000f, 0x43004300>(w >> 12);
    }
    static __device__ __forceinline__ uint32_t twice(int x) {
        __nv_bfloat162 h = __bfloat162bfloat162(__int2bfloat16_rn(x));
        return *reinterpret_cast<uint32_t *>(&h);
    }
    static __device__ __forceinline__ void mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
    static __device__ __forceinline__ uint32_t pack(float lo, float hi) {
        __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
        return *reinterpret_cast<uint32_t *>(&h);
    }
};

static __device__ __forceinline__ float2 mw_two(uint32_t bits, bool bf16) {
    if (bf16) return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
    return __half22float2(*reinterpret_cast<__half2 *>(&bits));
}

/* Eight consecutive scales in shared memory as floats. */
static __device__ __forceinline__ void mw_load_scales(const char *p, int dtype, float s[8]) {
    if (dtype == MW_F32) {
        const float4 *f = reinterpret_cast<const float4 *>(p);
        float4 a = f[0], b = f[1];
        s[0] = a.x, s[1] = a.y, s[2] = a.z, s[3] = a.w, s[4] = b.x, s[5] = b.y, s[6] = b.z, s[7] = b.w;
    } else {
        uint4 h = *reinterpret_cast<const uint4 *>(p);
        bool bf16 = dtype == MW_BF16;
        float2 a = mw_two(h.x, bf16), b = mw_two(h.y, bf16), c = mw_two(h.z, bf16), e = mw_two(h.w, bf16);
        s[0] = a.x, s[1] = a.y, s[2] = b.x, s[3] = b.y, s[4] = c.x, s[5] = c.y, s[6] = e.x, s[7] = e.y;
    }
}

/* Four 8x8 matrices of 16-bit elements: lane l gives the address of row l%8 of matrix l/8. */
static __device__ __forceinline__ void mw_ldmatrix4(uint32_t r[4], uint32_t smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem));
}

static __device__ __forceinline__ void mw_ldmatrix2(uint32_t r[2], uint32_t smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem));
}

static __device__ __forceinline__ uint32_t mw_transpose8(uint32_t a) {
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(a));
    return r;
}

#endif
