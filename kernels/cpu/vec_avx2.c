/* kernels/cpu/vec_avx2.c - the f32 operations with AVX2, FMA and F16C. */
#define MW_VEC_OPS mw_vec_avx2
#include "kernels/cpu/vec_impl.h"
