/* tests/ref/ref_attn.h - attention in double over a paged KV cache, one query head at a time. */
#ifndef MW_TESTS_REF_ATTN_H
#define MW_TESTS_REF_ATTN_H
#include "kernels/kernels.h"

typedef struct ref_attn_bounds {
    double max_abs_score; /* over the positions seen: sum_d |q_d k_d| * scale */
    double sum_v;         /* sum over positions of weight * |v|, of the largest column */
    double max_v;         /* largest |v| among the positions seen */
    double max_w;         /* largest weight */
} ref_attn_bounds;

/* out[0 .. head_dim) for q head `head` with query vector q at position `pos` of sequence `seq`. */
ref_attn_bounds ref_attention(const mw_attn *a, const mw_batch *b, int seq, int64_t pos, int head, const float *q,
                              const void *k_cache, const void *v_cache, double *out);

/* Element index of position p, kv head h in the cache of sequence `seq`. */
size_t ref_kv_at(const mw_attn *a, const mw_batch *b, int seq, int64_t p, int h);
#endif
