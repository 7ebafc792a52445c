/* kernels/cpu/vec_scalar.c - the f32 operations with portable C (compiler vectors), for any CPU. */
#define MW_VEC_OPS mw_vec_scalar
#include "kernels/cpu/vec_impl.h"
