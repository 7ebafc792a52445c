/* kernels/cuda/w4_wgmma_f16.cu - the int4 GEMM's wgmma kernels for f16 activations. */
#include "kernels/cuda/w4_wgmma.cuh"

mw_w4_kernel mw_w4_wgmma_f16(mw_w4_variant v, bool fine, bool zeros) {
    return mw_wg_pick_kernel<__half>(v, fine, zeros);
}
