/* kernels/cuda/w4_lean_bf16.cu - the int4 GEMM for one to eight rows, bf16 activations. */
#include "kernels/cuda/w4_lean.cuh"

mw_w4_kernel mw_w4_lean_bf16(bool zeros, bool scale_act, bool one, bool second) {
    return mw_w4_pick_lean<__nv_bfloat16>(zeros, scale_act, one, second);
}
