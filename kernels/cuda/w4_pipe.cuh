/* kernels/cuda/w4_pipe.cuh - filling shared memory: bulk tensor copies and their barriers (sm_90), cp.async before. */
#ifndef MW_KERNELS_CUDA_W4_PIPE_CUH
#define MW_KERNELS_CUDA_W4_PIPE_CUH
#include <cuda.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t mw_smem(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Registers a thread, for all warps of a warpgroup: those that feed give theirs to those that compute. */
template <int N> static __device__ __forceinline__ void mw_fewer_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

template <int N> static __device__ __forceinline__ void mw_more_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ void mw_bar_init(uint32_t bar, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

/* Makes initialised barriers known to the copy engine; a block barrier must follow. */
static __device__ __forceinline__ void mw_bar_publish() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void mw_bar_expect(uint32_t bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void mw_bar_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Until the phase of this parity is over. */
static __device__ __forceinline__ void mw_bar_wait(uint32_t bar, uint32_t parity) {
    asm volatile("{\n.reg .pred p;\nagain%=:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra again%=;\n}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

static __device__ __forceinline__ uint64_t mw_policy_evict_first() {
    uint64_t p;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
    return p;
}

static __device__ __forceinline__ uint64_t mw_policy_normal() {
    uint64_t p;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(p));
    return p;
}

static __device__ __forceinline__ void mw_prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

static __device__ __forceinline__ void mw_bulk2(uint32_t dst, const CUtensorMap *map, int x, int y, uint32_t bar,
                                                uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(dst),
                 "l"(map), "r"(x), "r"(y), "r"(bar), "l"(policy)
                 : "memory");
}

/* The same box, to L2 only. */
static __device__ __forceinline__ void mw_bulk2_l2(const CUtensorMap *map, int x, int y) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(x), "r"(y) : "memory");
}

static __device__ __forceinline__ void mw_bulk3(uint32_t dst, const CUtensorMap *map, int x, int y, int z, uint32_t bar,
                                                uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(dst),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(bar), "l"(policy)
                 : "memory");
}
#else
/* 16 bytes, or zeros. */
static __device__ __forceinline__ void mw_cp16(uint32_t dst, const void *src, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void mw_cp_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `left` of this thread's groups are on their way (rounded down to 0, 1, 2, 4 or 6). */
static __device__ __forceinline__ void mw_cp_wait(int left) {
    if (left >= 6)
        asm volatile("cp.async.wait_group 6;" ::: "memory");
    else if (left >= 4)
        asm volatile("cp.async.wait_group 4;" ::: "memory");
    else if (left >= 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else if (left == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 0;" ::: "memory");
}
#endif

#endif
