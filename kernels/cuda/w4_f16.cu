/* kernels/cuda/w4_f16.cu - the int4 GEMM's kernels for f16 activations. */
#include "kernels/cuda/w4_kernel.cuh"

mw_w4_kernel mw_w4_kernel_f16(mw_w4_variant v) {
    return mw_w4_pick_kernel<__half>(v);
}
