/* shard/rtn.h - our own quantiser: 16- or 32-bit weights to int4, round to nearest, one group at a time.
 *
 * Per group several scales are tried, the range being clipped a little more each time, and the one with the least sum
 * of squared errors is kept. Errors are taken against the scale as it is stored (rounded to f16 or bf16).
 *   symmetric    zero is 8. The scale's sign is so chosen that the largest weight lies on the side of -8, where the
 *                grid reaches further: scales may be negative.
 *   zero points  zero 0..15, the range includes 0.
 */
#ifndef MW_SHARD_RTN_H
#define MW_SHARD_RTN_H
#include "shard/quant.h"
MW_BEGIN_DECLS

typedef struct mw_rtn_opts {
    int64_t group_size; /* 32, 64, 128, or -1: one per output channel */
    bool zero_points;
    int clip_search;      /* ratios tried per group, 1 (no clipping) to 64: 1 - i / (2 * clip_search) */
    mw_dtype scale_dtype; /* f16 or bf16 */
} mw_rtn_opts;

/* Group of a weight of k inputs; MW_ERR_UNSUPPORTED names the weight when the group size does not divide k. */
MW_MUST_CHECK mw_status mw_rtn_group(const mw_rtn_opts *o, const mw_hf_weight *w, int64_t *group);

/* Quantise the dense weight `w` into `mem` (mw_matrix_bytes). MW_ERR_CORRUPT: NaN or infinity; MW_ERR_NUMERIC: a scale
 * that the scale dtype cannot hold. */
MW_MUST_CHECK mw_status mw_rtn_read(mw_matrix *m, void *mem, const mw_hf_model *model, const mw_hf_weight *w,
                                    const mw_rtn_opts *o, mw_pool *pool);

/* One group of n floats (n % 8 == 0) -> codes, scale bits as stored (f16/bf16 in the low half), zero. For tests too. */
void mw_rtn_group_of(const float *x, int64_t n, const mw_rtn_opts *o, uint8_t *q, uint16_t *scale, uint8_t *zero);

MW_END_DECLS
#endif
