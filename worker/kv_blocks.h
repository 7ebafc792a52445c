/* worker/kv_blocks.h - which blocks of the KV cache are free. Pure bookkeeping on rank 0: block numbers mean the same
 * memory on every rank, because only rank 0 hands them out. */
#ifndef MW_WORKER_KV_BLOCKS_H
#define MW_WORKER_KV_BLOCKS_H
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef struct mw_kv_blocks {
    int n, n_free, block_tokens;
    int32_t *free_list; /* [n], the first n_free are free; a stack, so blocks just freed are reused warm */
    uint8_t *used;      /* [n], to catch a block freed twice */
} mw_kv_blocks;

MW_MUST_CHECK mw_status mw_kv_blocks_init(mw_kv_blocks *k, int n_blocks, int block_tokens);
void mw_kv_blocks_free(mw_kv_blocks *k);

/* Blocks that hold `tokens` tokens. */
static inline int mw_kv_blocks_for(const mw_kv_blocks *k, int64_t tokens) {
    return (int)((tokens + k->block_tokens - 1) / k->block_tokens);
}

/* A block number, or -1 when none is free. */
int32_t mw_kv_take(mw_kv_blocks *k);
/* Gives back n blocks. MW_ERR_INTERNAL when one of them was not taken (nothing is given back then). */
MW_MUST_CHECK mw_status mw_kv_give(mw_kv_blocks *k, const int32_t *block, int n);

MW_END_DECLS
#endif
