/* kernels/cpu/attention.h - the contract between the attention driver (attention.c) and its vector code.
 *
 * Softmax is kept in base 2: queries are multiplied by scale * log2(e) once. Positions are read in tiles of
 * MW_ATTN_TILE cut at fixed multiples, and decode rows are summed up in segments of MW_ATTN_SEGMENT positions that are
 * merged from left to right: so a row's bits do not depend on the number of threads or on other sequences.
 */
#ifndef MW_KERNELS_CPU_ATTENTION_H
#define MW_KERNELS_CPU_ATTENTION_H
#include "kernels/kernels.h"

#define MW_ATTN_TILE    64
#define MW_ATTN_SEGMENT 256
#define MW_ATTN_HD_MAX  256

/* Some query rows of one sequence and the q heads of one KV head: G = n_q / n_kv heads a row. */
typedef struct mw_attn_part {
    const mw_attn *a;
    const int32_t *blocks; /* the sequence's block table */
    const void *k_cache, *v_cache;
    int kv_head, rows;
    int64_t pos;    /* position of the first row */
    const float *q; /* row i, head g: q + i*ldq + g*head_dim */
    int64_t ldq;
    int64_t from, to; /* decode: the positions of the segment, inside the row's window */
    int64_t limit;    /* decode: what follows up to here is wanted soon and may be prefetched; >= to */
    float *state;     /* decode: [G][mw_attn_state_floats()] result of the segment */
    float *out;       /* prefill: out + i*ldo + g*head_dim */
    int64_t ldo;
    float *scratch; /* mw_attn_scratch_floats() */
} mw_attn_part;

/* Heads are padded to whole vectors of any instruction set. */
static inline int64_t mw_attn_padded(int head_dim) {
    return (head_dim + 15) / 16 * 16;
}

/* Of one head: the unnormalised output, padded, then the running maximum and the running sum. */
static inline int64_t mw_attn_state_floats(int head_dim) {
    return mw_attn_padded(head_dim) + 16;
}

/* Query rows of a prefill part: about 64 rows x heads share a tile of K and V. */
static inline int mw_attn_part_rows(int group) {
    return group >= 64 ? 1 : 64 / group;
}

/* q and O of every row x head, their scores against a tile, their state, and one tile of K transposed. */
static inline int64_t mw_attn_scratch_floats(int head_dim, int group) {
    int64_t r = (int64_t)mw_attn_part_rows(group) * group, hd = mw_attn_padded(head_dim);
    return r * (2 * hd + MW_ATTN_TILE) + (2 * r + 31) / 16 * 16 + hd * MW_ATTN_TILE;
}
#endif
