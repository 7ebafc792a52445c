/* kernels/cuda/w4_bf16.cu - the int4 GEMM's kernels for bf16 activations. */
#include "kernels/cuda/w4_kernel.cuh"

mw_w4_kernel mw_w4_kernel_bf16(mw_w4_variant v) {
    return mw_w4_pick_kernel<__nv_bfloat16>(v);
}
