/* kernels/cpu/vec_avx512.c - the f32 operations with AVX-512 F, BW, VL and DQ. */
#define MW_VEC_OPS mw_vec_avx512
#include "kernels/cpu/vec_impl.h"
