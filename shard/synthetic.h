/* shard/synthetic.h - models without a file: random weights in the shapes of well-known models, for measuring.
 *
 * The name stands in place of a file's path, everywhere a model is asked for:
 *     synthetic:llama-3.1-8b
 *     synthetic:llama-3.1-70b,layers=4,group=64,zeros,head=int4,act=bf16
 * The weights are packed Marlin tiles with f16 (or bf16) scales and embeddings, drawn from a fixed table of random
 * words: the same on every rank and every run, and as fast to come by as a copy in memory. Weights have
 * the mean 0 and scales so small that the residual stream stays near 1, however many layers there are. There is no
 * tokenizer. Shapes are those of the models' config.json.
 */
#ifndef MW_SHARD_SYNTHETIC_H
#define MW_SHARD_SYNTHETIC_H
#include "shard/checkpoint.h"
MW_BEGIN_DECLS

/* Does `path` name a synthetic model? NULL allowed. */
bool mw_is_synthetic(const char *path);

/* MW_ERR_USAGE: an unknown model (the text lists those there are) or option. */
MW_MUST_CHECK mw_status mw_ckpt_open_synthetic(mw_ckpt **out, const char *path);

/* The i-th known model's name, NULL behind the last. */
const char *mw_synthetic_name(int i);

/* Private to shard/: what mw_ckpt_read and mw_ckpt_close do for such a checkpoint. */
typedef struct mw_synthetic mw_synthetic;
void mw_synthetic_read(const mw_synthetic *s, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0, int64_t nc,
                       void *dst, size_t dst_ld);
void mw_synthetic_free(mw_synthetic *s); /* NULL allowed */

MW_END_DECLS
#endif
