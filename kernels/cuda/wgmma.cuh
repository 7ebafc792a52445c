/* kernels/cuda/wgmma.cuh - sm_90a's asynchronous matrix product of a warpgroup: d[64][N] += a[64][16] * b[16][N], f32
 * sums.
 *
 * a: registers. Warp w of the four holds rows 16w .. 16w+15 laid out as the A operand of mma.m16n8k16.
 * b: shared memory, [N][64] 16-bit elements (k contiguous), rows of 128 bytes whose 16-byte pieces are exchanged by
 *    piece ^ (row & 7), as a tensor copy with 128-byte swizzle leaves them; base aligned to 1024 bytes.
 * d: registers: d[4i + 2h + e] is row 16w + lane/4 + 8h, column 8i + 2*(lane%4) + e.
 * The registers of a and d belong to the product until wgmma_wait says that its group is over. */
#ifndef MW_KERNELS_CUDA_WGMMA_CUH
#define MW_KERNELS_CUDA_WGMMA_CUH
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Where b is, for 16 of k: the lower half of its description, of which the next 16 of the same 64 are two further on,
 * and all of it. */
static __device__ __forceinline__ uint32_t mw_wgmma_b_low(uint32_t smem) {
    return 1u << 16 | (smem & 0x3ffff) >> 4;
}
static __device__ __forceinline__ uint64_t mw_wgmma_b(uint32_t low) {
    const uint64_t swizzle_128 = 1ull << 62, eight_rows = (uint64_t)(1024 >> 4) << 32;
    return swizzle_128 | eight_rows | low;
}

/* Between the writing of registers of a and d and the fence: the compiler may not move the writing past it. */
static __device__ __forceinline__ void mw_wgmma_pin(uint32_t &r) {
    asm volatile("" : "+r"(r)::"memory");
}
static __device__ __forceinline__ void mw_wgmma_pin(float &r) {
    asm volatile("" : "+f"(r)::"memory");
}

/* Before the first product, and after registers of a or d were written. */
static __device__ __forceinline__ void mw_wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void mw_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most LEFT groups are under way. */
template <int LEFT> static __device__ __forceinline__ void mw_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

template <typename T, int N> struct mw_wgmma;

#define MW_WGMMA_N32(type)                                                                                             \
    asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " "   \
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "                            \
                 "{%16, %17, %18, %19}, %20, p, 1, 1, 0;}"                                                             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),     \
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),            \
                   "+f"(d[15])                                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define MW_WGMMA_N64(type)                                                                                             \
    asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " "   \
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                             \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                   \
                 "{%32, %33, %34, %35}, %36, p, 1, 1, 0;}"                                                             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),     \
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),            \
                   "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),          \
                   "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),          \
                   "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define MW_WGMMA_N128(type)                                                                                            \
    asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " "  \
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                             \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                    \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                    \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                   \
                 "{%64, %65, %66, %67}, %68, p, 1, 1, 0;}"                                                             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),     \
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),            \
                   "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),          \
                   "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),          \
                   "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),          \
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),          \
                   "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),          \
                   "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),          \
                   "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <> struct mw_wgmma<__half, 32> {
    static __device__ __forceinline__ void mma(float d[16], const uint32_t a[4], uint64_t b) { MW_WGMMA_N32("f16"); }
};
template <> struct mw_wgmma<__nv_bfloat16, 32> {
    static __device__ __forceinline__ void mma(float d[16], const uint32_t a[4], uint64_t b) { MW_WGMMA_N32("bf16"); }
};
template <> struct mw_wgmma<__half, 64> {
    static __device__ __forceinline__ void mma(float d[32], const uint32_t a[4], uint64_t b) { MW_WGMMA_N64("f16"); }
};
template <> struct mw_wgmma<__nv_bfloat16, 64> {
    static __device__ __forceinline__ void mma(float d[32], const uint32_t a[4], uint64_t b) { MW_WGMMA_N64("bf16"); }
};
template <> struct mw_wgmma<__half, 128> {
    static __device__ __forceinline__ void mma(float d[64], const uint32_t a[4], uint64_t b) { MW_WGMMA_N128("f16"); }
};
template <> struct mw_wgmma<__nv_bfloat16, 128> {
    static __device__ __forceinline__ void mma(float d[64], const uint32_t a[4], uint64_t b) { MW_WGMMA_N128("bf16"); }
};
#endif

#endif
