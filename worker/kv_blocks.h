/* worker/kv_blocks.h - the blocks of the KV cache: who uses them, and what the unused ones still hold. Pure bookkeeping
 * on rank 0: block numbers mean the same memory on every rank, because only rank 0 hands them out.
 *
 * A full block may get a NAME, after which others may share it. A name stands for the whole text up to the block's end:
 * it is a number given to the pair (name of the block before it, the block's own tokens) and never given again. So two
 * blocks with one name hold the K and V of the same tokens at the same positions. The pair is looked up by its hash and
 * compared in full: colliding hashes cost time, never a wrong text.
 *
 * A named block that nobody uses any more keeps its contents until the block is needed: least recently used first, and
 * of one text's blocks the last first, because a block can only be found through the one before it.
 */
#ifndef MW_WORKER_KV_BLOCKS_H
#define MW_WORKER_KV_BLOCKS_H
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

#define MW_KV_BEGINNING 0 /* the name "before" a text's first block */

typedef struct mw_kv_block {
    int32_t users;
    int32_t prev, next;    /* among the unused blocks; -1 at the ends */
    int32_t same_bucket;   /* the next named block with the same hash bucket, or -1 */
    uint64_t name, parent; /* name 0: none */
} mw_kv_block;

typedef struct mw_kv_blocks {
    int n, block_tokens;
    int n_free;     /* unused; of these */
    int n_cached;   /* have a name */
    int head, tail; /* of the unused blocks: in the order in which they are taken */
    mw_kv_block *block;
    int32_t *tokens; /* [n][block_tokens] of named blocks */
    int32_t *bucket; /* [n_buckets] first block, or -1 */
    uint32_t n_buckets;
    uint64_t last_name;
} mw_kv_blocks;

MW_MUST_CHECK mw_status mw_kv_blocks_init(mw_kv_blocks *k, int n_blocks, int block_tokens);
void mw_kv_blocks_free(mw_kv_blocks *k);

/* Blocks that hold `tokens` tokens. */
static inline int mw_kv_blocks_for(const mw_kv_blocks *k, int64_t tokens) {
    return (int)((tokens + k->block_tokens - 1) / k->block_tokens);
}

/* An unused block for one user, its name and contents forgotten; -1 when there is none. */
int32_t mw_kv_take(mw_kv_blocks *k);
/* One more user of a block that has a name. */
void mw_kv_share(mw_kv_blocks *k, int32_t b);
/* n blocks of one text, in its order, have one user less each. MW_ERR_INTERNAL when one of them has none (nothing
 * happens then). */
MW_MUST_CHECK mw_status mw_kv_give(mw_kv_blocks *k, const int32_t *block, int n);

/* The block with these block_tokens tokens behind the text `parent`, or -1. */
int32_t mw_kv_find(const mw_kv_blocks *k, uint64_t parent, const int32_t *tokens);
/* Names a block in use, unless another has that name already: returns the block that has it, b or the other one. */
int32_t mw_kv_name(mw_kv_blocks *k, int32_t b, uint64_t parent, const int32_t *tokens);

MW_END_DECLS
#endif
