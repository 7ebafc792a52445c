/* shard/dense.h - the float tensors of a folder, in rows, as model.h5 keeps them. */
#ifndef MW_SHARD_DENSE_H
#define MW_SHARD_DENSE_H
#include "shard/chunks.h"
#include "shard/hf_model.h"
MW_BEGIN_DECLS

/* How the weight is stored: f16 and bf16 as they are; f32 norms as f32; f32 matrices as `act` (f16 or bf16). */
mw_dtype mw_dense_dtype(const mw_hf_weight *w, mw_dtype act);

/* Rows [row0, row0 + rows) of the float weight `w` (norms: one row) as `out` into dst, with the threads of the pool.
 * MW_ERR_CORRUPT: NaN or infinity, with its position; MW_ERR_NUMERIC: an f32 value that f16 cannot hold. */
MW_MUST_CHECK mw_status mw_dense_rows(const mw_hf_model *model, const mw_hf_weight *w, int64_t row0, int64_t rows,
                                      mw_dtype out, void *dst, mw_pool *pool);

/* MW_ERR_UNSUPPORTED unless the model's tied lm_head.weight (if the folder has one) is bit for bit the embedding. */
MW_MUST_CHECK mw_status mw_dense_check_tied_head(const mw_hf_model *model);

MW_END_DECLS
#endif
