/* shard/plan.h - which part of which tensor a rank owns. One table of roles; one place where a cut is decided.
 *
 *   column     cut along N (q, k, v by heads; gate, up by columns of the MLP)
 *   row        cut along K (o by heads; down by rows of the MLP); the partial results are summed over ranks
 *   vocab      cut along the vocabulary (embed_tokens, lm_head)
 *   replicated norms
 *
 * Shards may be uneven. Cuts fall on whole units:
 *   heads      up to n_kv_heads ranks: whole KV heads with their q heads. Beyond: every rank has one KV head
 * (replicated) and a part of its q heads. Always so many heads that o_proj is cut at whole quantisation groups; where
 *              that allows too few ranks, at half or quarter groups (>= 32 rows) whose scale row both sides keep.
 *   MLP        columns of gate/up = rows of down: multiples of lcm(group, 64), or of the group where that allows too
 * few. vocab      multiples of 64 rows. With act-order in o_proj its rows are stored sorted by group, across heads: it
 * is cut in that order at whole groups and its input is all-gathered first (docs/ARCHITECTURE.md, "act-order").
 * down_proj needs nothing: marlin-convert has put its order into gate's and up's columns.
 */
#ifndef MW_SHARD_PLAN_H
#define MW_SHARD_PLAN_H
#include <stdio.h>

#include "shard/checkpoint.h"
MW_BEGIN_DECLS

typedef enum { MW_ROLE_COLUMN, MW_ROLE_ROW, MW_ROLE_VOCAB, MW_ROLE_REPLICATED } mw_role;

typedef struct mw_range {
    int64_t lo, hi; /* [lo, hi) in elements */
} mw_range;
static inline int64_t mw_range_len(mw_range r) {
    return r.hi - r.lo;
}

typedef struct mw_rank_share {
    mw_range q_heads, kv_heads; /* heads; kv_heads of two ranks may be equal (replicas) */
    mw_range mlp;               /* columns of gate/up, rows of down */
    mw_range vocab;             /* rows of embed_tokens and lm_head */
    mw_range o_sorted;          /* rows of an act-order o_proj in its stored (sorted) order */
    uint64_t weight_bytes;      /* held in memory by this rank, padding included */
    uint64_t file_bytes;        /* read from the file by this rank */
    uint64_t kv_bytes_per_token;
} mw_rank_share;

typedef struct mw_plan {
    int n_ranks;
    const mw_ckpt *ckpt;
    mw_rank_share *rank; /* [n_ranks] */
} mw_plan;

/* MW_ERR_LIMIT when n_ranks is larger than the model can be cut into; the text says how many are possible and why. */
MW_MUST_CHECK mw_status mw_plan_make(mw_plan **out, const mw_ckpt *ckpt, int n_ranks);
void mw_plan_free(mw_plan *p); /* NULL allowed */

/* Largest number of ranks the model can be cut into. */
int mw_plan_max_ranks(const mw_ckpt *ckpt);

/* Role of a weight name ("layers/012/mlp/down_proj"). MW_ERR_FORMAT for a name the table does not know. */
MW_MUST_CHECK mw_status mw_plan_role(const char *weight, mw_role *role);
const char *mw_role_name(mw_role r);

/* The part of `w` that `rank` owns: k and n ranges of the logical matrix (VECTOR and vocab: n; k is whole). */
void mw_plan_slice(const mw_plan *p, int rank, const mw_weight *w, mw_range *k, mw_range *n);

/* Group size inside a slice: w->group_size when the cut is at whole groups, else the largest divisor that fits. */
int64_t mw_plan_local_group(const mw_weight *w, mw_range k);

/* KV bytes of one token on `rank` when K and V are stored with elem_size bytes. */
uint64_t mw_plan_kv_bytes(const mw_plan *p, int rank, size_t elem_size);

/* The plan as a table for people: `verbose` one line a tensor and rank, else one line a kind. */
void mw_plan_print(const mw_plan *p, FILE *f, bool verbose);

MW_END_DECLS
#endif
