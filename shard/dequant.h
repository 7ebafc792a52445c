/* shard/dequant.h - the way back: int4 matrices of a model.h5 as logical matrices, as float weights, as GPTQ tensors.
 */
#ifndef MW_SHARD_DEQUANT_H
#define MW_SHARD_DEQUANT_H
#include "shard/checkpoint.h"
#include "shard/quant.h"
MW_BEGIN_DECLS

/* The int4 weight `w` of a whole-model file, packed or not, into `mem` (mw_matrix_bytes) as rows; checksums verified.
 * The bias is left out. MW_ERR_CORRUPT: perm is not a permutation, or a zero is above 16. */
MW_MUST_CHECK mw_status mw_dequant_read(mw_matrix *m, void *mem, const mw_ckpt *c, const mw_weight *w, mw_pool *pool);

/* Output channels [n0, n1) (even numbers) as rows of K floats in `out` (f16, bf16, f32), inputs in their original
 * order: dst is [n1 - n0][K]. MW_ERR_NUMERIC names the weight when a value does not fit. */
MW_MUST_CHECK mw_status mw_dequant_channels(const mw_matrix *m, const char *name, int64_t n0, int64_t n1, mw_dtype out,
                                            void *dst);

/* Rows [r0, r1) of GPTQ's qweight, I32 [K/8, N], original order of inputs. place: stored row of each input, or NULL. */
void mw_dequant_gptq_rows(const mw_matrix *m, const int32_t *place, int64_t r0, int64_t r1, uint32_t *dst);
/* qzeros, I32 [K/group, N/8], each nibble the zero minus `offset`. */
void mw_dequant_gptq_zeros(const mw_matrix *m, int offset, uint32_t *dst);
/* g_idx, I32 [K]. */
void mw_dequant_gptq_groups(const mw_matrix *m, int32_t *dst);

MW_END_DECLS
#endif
