/* tests/ref/ref_gemm.h - linear layers in double, one output at a time, and random int4 matrices in Marlin tiles. */
#ifndef MW_TESTS_REF_GEMM_H
#define MW_TESTS_REF_GEMM_H
#include "kernels/kernels.h"
#include "tests/ref/ref_util.h"

/* Word and shift of q[k,n] in tiles u32 [k/16][2*n_total]: the closed form of kernels.h, solved for the word. */
size_t ref_tile_word(int64_t k, int64_t n, int64_t n_total, int *shift);
void ref_tile_put(uint32_t *tiles, int64_t n_total, int64_t k, int64_t n, unsigned q);
unsigned ref_tile_get(const uint32_t *tiles, int64_t n_total, int64_t k, int64_t n);
/* Position of column n of a row of scales or zero points: 8a+b holds column a+8b inside 64. */
int64_t ref_scale_at(int64_t n);

/* A random matrix: tiles, scales (some of them 0 in the last `pad` columns), zeros 0..16 or NULL, bias or NULL. The
 * memory is guarded; ref_w4_free gives it back. */
mw_linear ref_w4_random(int64_t k, int64_t n, int64_t group, mw_dtype scale_dtype, bool zeros, bool bias, int64_t pad);
void ref_w4_free(mw_linear *w);

/* w[k,n] of an int4 or dense layer, exactly. */
double ref_weight(const mw_linear *w, int64_t k, int64_t n);

/* One element of y, and what bounds its rounding. */
typedef struct ref_dot {
    double y;
    double abs_sum;   /* sum |x| |w| + |bias| */
    double act_error; /* sum over activation blocks of max|x| * sum |w|: times half a step per level = rounding of x */
} ref_dot;
/* weights: [k] of one column; x: [k]. Activation blocks: at most 128 rows of k inside a group. */
ref_dot ref_linear(const double *weights, const float *x, int64_t k, int64_t group, double bias);
#endif
