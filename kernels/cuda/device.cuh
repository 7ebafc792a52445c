/* kernels/cuda/device.cuh - device-side helpers that all kernels share: programmatic dependent launch, conversions.
 *
 * Dependent launch (sm_90): a kernel may start while its predecessor on the stream still runs. Every kernel of this
 * folder therefore calls mw_pdl_wait() in every thread before it reads or writes memory that an earlier kernel wrote or
 * reads; before it only weights, scales, kernel arguments and what was complete before the step began may be touched:
 * the arrays of the batch, K and V of earlier steps. mw_pdl_trigger() lets the successor start before this kernel ends.
 * Only the GEMMs call it, whose successor may read weights, or K and V, meanwhile, and decode attention, once its own
 * q, k and v are here: with a trigger at the start of every kernel whole chains of waiting kernels sat on the
 * multiprocessors: a decode step took 11 % longer (docs/PERF.md). On older chips both are nothing, and launches are
 * ordinary ones. */
#ifndef MW_KERNELS_CUDA_DEVICE_CUH
#define MW_KERNELS_CUDA_DEVICE_CUH
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

static __device__ __forceinline__ void mw_pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void mw_pdl_trigger() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* ---- 16-bit types ------------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ float mw_to_float(__half x) {
    return __half2float(x);
}
static __device__ __forceinline__ float mw_to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
static __device__ __forceinline__ float mw_to_float(float x) {
    return x;
}

template <typename T> static __device__ __forceinline__ T mw_from_float(float x);
template <> __device__ __forceinline__ __half mw_from_float<__half>(float x) {
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 mw_from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ float mw_from_float<float>(float x) {
    return x;
}

/* Two elements in a register: the first one in the lower half. */
template <typename T> static __device__ __forceinline__ uint32_t mw_pack(float lo, float hi);
template <> __device__ __forceinline__ uint32_t mw_pack<__half>(float lo, float hi) {
    __half2 h = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}
template <> __device__ __forceinline__ uint32_t mw_pack<__nv_bfloat16>(float lo, float hi) {
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}
template <typename T> static __device__ __forceinline__ float2 mw_unpack(uint32_t u);
template <> __device__ __forceinline__ float2 mw_unpack<__half>(uint32_t u) {
    return __half22float2(*reinterpret_cast<__half2 *>(&u));
}
template <> __device__ __forceinline__ float2 mw_unpack<__nv_bfloat16>(uint32_t u) {
    return make_float2(__uint_as_float(u << 16), __uint_as_float(u & 0xffff0000u));
}

/* Eight elements as floats, and back. */
template <typename T> static __device__ __forceinline__ void mw_unpack8(uint4 u, float x[8]) {
    const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = mw_unpack<T>(w[i]);
        x[2 * i] = f.x;
        x[2 * i + 1] = f.y;
    }
}
template <typename T> static __device__ __forceinline__ uint4 mw_pack8(const float x[8]) {
    return make_uint4(mw_pack<T>(x[0], x[1]), mw_pack<T>(x[2], x[3]), mw_pack<T>(x[4], x[5]), mw_pack<T>(x[6], x[7]));
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

/* Whether rows at stride `ld` (elements of 2 bytes) from p can be read 16 bytes at a time. */
static inline bool mw_aligned8(const void *p, int64_t ld) {
    return (uintptr_t)p % 16 == 0 && ld % 8 == 0;
}

/* Launch on the device's stream, as a dependent launch where the chip has them. */
template <typename... P, typename... A>
static cudaError_t mw_launch(mw_dev *d, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, A... args) {
    cudaError_t e = cudaSetDevice(d->ordinal); /* of this thread: any thread may use a device, one at a time */
    if (e != cudaSuccess) return e;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = grid;
    cfg.blockDim = block;
    cfg.dynamicSmemBytes = smem;
    cfg.stream = d->stream;
    cfg.attrs = &attr;
    cfg.numAttrs = d->sm >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, kernel, static_cast<P>(args)...);
}

#endif
