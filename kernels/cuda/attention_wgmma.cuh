/* kernels/cuda/attention_wgmma.cuh - the matrix products of attention_hopper.cu, those of a warpgroup of sm_90a:
 * d[64][N] += a[64][16] b[16][N], asynchronously.
 *
 * d: lane 4g + t of warp w holds rows 16w + g and 16w + g + 8; d[4j], d[4j+1] are columns 8j + 2t, 8j + 2t + 1 of the
 * first, d[4j+2], d[4j+3] of the second row. a in registers: as mw_mma's. In shared memory operands are described by 64
 * bits (mw_operand), 128-byte swizzle: blocks of eight rows of 128 bytes, 1024-byte aligned. */
#ifndef MW_KERNELS_CUDA_ATTENTION_WGMMA_CUH
#define MW_KERNELS_CUDA_ATTENTION_WGMMA_CUH
#include <type_traits>

#include "kernels/cuda/device.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* Operands whose rows run along k (64 elements of it a block): stride from a block to the one eight rows on.
 * Operands whose rows run along n: `lead` to the next 64 columns, `stride` to the next eight rows. */
static __device__ __forceinline__ uint64_t mw_operand(uint32_t at, int lead, int stride) {
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | 1ull << 62;
}

/* Before the first product that reads registers written otherwise. */
static __device__ __forceinline__ void mw_wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void mw_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All but the youngest N groups are done. */
template <int N> static __device__ __forceinline__ void mw_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler must not move accesses of x over this. */
template <int N> static __device__ __forceinline__ void mw_pin(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> static __device__ __forceinline__ void mw_pin(uint32_t (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(x[i])::"memory");
}

#define MW_D8(d, i)                                                                                                    \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define MW_D32(d, i) MW_D8(d, i), MW_D8(d, i + 8), MW_D8(d, i + 16), MW_D8(d, i + 24)
#define MW_L0                                                                                                          \
    "%0, %1, %2, %3, %4, %5, %6, %7, "                                                                                 \
    "%8, %9, %10, %11, %12, %13, %14, %15, "                                                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, "                                                                         \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define MW_L1                                                                                                          \
    "%32, %33, %34, %35, %36, %37, %38, %39, "                                                                         \
    "%40, %41, %42, %43, %44, %45, %46, %47, "                                                                         \
    "%48, %49, %50, %51, %52, %53, %54, %55, "                                                                         \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define MW_L2                                                                                                          \
    "%64, %65, %66, %67, %68, %69, %70, %71, "                                                                         \
    "%72, %73, %74, %75, %76, %77, %78, %79, "                                                                         \
    "%80, %81, %82, %83, %84, %85, %86, %87, "                                                                         \
    "%88, %89, %90, %91, %92, %93, %94, %95"
#define MW_L3                                                                                                          \
    "%96, %97, %98, %99, %100, %101, %102, %103, "                                                                     \
    "%104, %105, %106, %107, %108, %109, %110, %111, "                                                                 \
    "%112, %113, %114, %115, %116, %117, %118, %119, "                                                                 \
    "%120, %121, %122, %123, %124, %125, %126, %127"

/* b's rows along k. */
#define MW_WGMMA_SS_64(type)                                                                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" MW_L0                                \
                 "}, %32, %33, p, 1, 1, 0, 0;\n}"                                                                      \
                 : MW_D32(d, 0)                                                                                        \
                 : "l"(a), "l"(b), "r"((int)add))
/* b's rows along n. */
#define MW_WGMMA_RS_64(type)                                                                                           \
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" MW_L0 "}, "                          \
                 "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"                                                           \
                 : MW_D32(d, 0)                                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
/* b's rows along k. */
#define MW_WGMMA_SS_128(type)                                                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" MW_L0 ", " MW_L1                    \
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"                                                                      \
                 : MW_D32(d, 0), MW_D32(d, 32)                                                                         \
                 : "l"(a), "l"(b), "r"((int)add))
/* b's rows along n. */
#define MW_WGMMA_RS_128(type)                                                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" MW_L0 ", " MW_L1 "}, "              \
                 "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"                                                           \
                 : MW_D32(d, 0), MW_D32(d, 32)                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
/* b's rows along n. */
#define MW_WGMMA_RS_256(type)                                                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" MW_L0 ", " MW_L1 ", " MW_L2         \
                 ", " MW_L3 "}, "                                                                                      \
                 "{%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}"                                                      \
                 : MW_D32(d, 0), MW_D32(d, 32), MW_D32(d, 64), MW_D32(d, 96)                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

/* d = a b^T, or d += a b^T where `add`; a and b in shared memory, rows of both along k. */
template <typename T>
static __device__ __forceinline__ void mw_wgmma_ss(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    if constexpr (std::is_same<T, __half>::value)
        MW_WGMMA_SS_64("f16");
    else
        MW_WGMMA_SS_64("bf16");
}
template <typename T>
static __device__ __forceinline__ void mw_wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, bool add) {
    if constexpr (std::is_same<T, __half>::value)
        MW_WGMMA_SS_128("f16");
    else
        MW_WGMMA_SS_128("bf16");
}

/* d += a b; a in registers, b's rows along n. */
template <typename T>
static __device__ __forceinline__ void mw_wgmma_rs(float (&d)[32], const uint32_t *a, uint64_t b) {
    if constexpr (std::is_same<T, __half>::value)
        MW_WGMMA_RS_64("f16");
    else
        MW_WGMMA_RS_64("bf16");
}
template <typename T>
static __device__ __forceinline__ void mw_wgmma_rs(float (&d)[64], const uint32_t *a, uint64_t b) {
    if constexpr (std::is_same<T, __half>::value)
        MW_WGMMA_RS_128("f16");
    else
        MW_WGMMA_RS_128("bf16");
}
template <typename T>
static __device__ __forceinline__ void mw_wgmma_rs(float (&d)[128], const uint32_t *a, uint64_t b) {
    if constexpr (std::is_same<T, __half>::value)
        MW_WGMMA_RS_256("f16");
    else
        MW_WGMMA_RS_256("bf16");
}

#endif
#endif
