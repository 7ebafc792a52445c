#include "worker/kv_blocks.h"

#include <stdlib.h>

#include "worker/base/mem.h"

mw_status mw_kv_blocks_init(mw_kv_blocks *k, int n_blocks, int block_tokens) {
    mw_status st = MW_OK;
    *k = (mw_kv_blocks){.n = n_blocks, .n_free = n_blocks, .block_tokens = block_tokens};
    MW_TRY(st, MW_CALLOC(&k->free_list, (size_t)n_blocks, "KV block list"));
    MW_TRY(st, MW_CALLOC(&k->used, (size_t)n_blocks, "KV block marks"));
    for (int i = 0; i < n_blocks; i++) k->free_list[i] = n_blocks - 1 - i; /* block 0 goes first */
    return MW_OK;
fail:
    mw_kv_blocks_free(k);
    return st;
}

void mw_kv_blocks_free(mw_kv_blocks *k) {
    free(k->free_list);
    free(k->used);
    *k = (mw_kv_blocks){0};
}

int32_t mw_kv_take(mw_kv_blocks *k) {
    if (k->n_free == 0) return -1;
    int32_t b = k->free_list[--k->n_free];
    k->used[b] = 1;
    return b;
}

mw_status mw_kv_give(mw_kv_blocks *k, const int32_t *block, int n) {
    for (int i = 0; i < n; i++)
        if (block[i] < 0 || block[i] >= k->n || !k->used[block[i]])
            return MW_FAIL(MW_ERR_INTERNAL, "KV block %d given back, but it was not taken", block[i]);
    for (int i = 0; i < n; i++) {
        k->used[block[i]] = 0;
        k->free_list[k->n_free++] = block[i];
    }
    return MW_OK;
}
