/* worker/rope.h - the table of rotary position embeddings. */
#ifndef MW_WORKER_ROPE_H
#define MW_WORKER_ROPE_H
#include "shard/model_config.h"
MW_BEGIN_DECLS

/* table [positions][head_dim/2][2]: cos and sin of position * f_i, f_i = theta^(-2i/head_dim), scaled as the model
 * says: linear   f_i / factor llama3   wavelength L = 2 pi / f_i against the original context C: L < C/high keeps f_i,
 * L > C/low takes f_i / factor, between them t = (C/L - low) / (high - low) blends: (1-t) f_i/factor + t f_i Angles in
 * double. (Source: the model families' published configurations; docs/MODEL.md.) */
void mw_rope_table(const mw_model_config *c, int64_t positions, float *table);

MW_END_DECLS
#endif
