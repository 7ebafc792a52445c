#include "worker/kv_blocks.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "worker/base/mem.h"

mw_status mw_kv_blocks_init(mw_kv_blocks *k, int n_blocks, int block_tokens) {
    mw_status st = MW_OK;
    *k = (mw_kv_blocks){.n = n_blocks, .n_free = n_blocks, .block_tokens = block_tokens, .n_buckets = 16};
    while (k->n_buckets < (uint32_t)n_blocks) k->n_buckets *= 2;
    MW_TRY(st, MW_CALLOC(&k->block, (size_t)n_blocks, "KV block list"));
    MW_TRY(st, MW_CALLOC(&k->tokens, (size_t)n_blocks * (size_t)block_tokens, "KV block texts"));
    MW_TRY(st, MW_CALLOC(&k->bucket, k->n_buckets, "KV block names"));
    for (int i = 0; i < n_blocks; i++)
        k->block[i] = (mw_kv_block){.prev = i - 1, .next = i + 1 < n_blocks ? i + 1 : -1, .same_bucket = -1};
    for (uint32_t i = 0; i < k->n_buckets; i++) k->bucket[i] = -1;
    k->head = n_blocks ? 0 : -1;
    k->tail = n_blocks - 1;
    return MW_OK;
fail:
    mw_kv_blocks_free(k);
    return st;
}

void mw_kv_blocks_free(mw_kv_blocks *k) {
    free(k->block);
    free(k->tokens);
    free(k->bucket);
    *k = (mw_kv_blocks){0};
}

/* ---- the unused blocks ---- */

static void unlink_block(mw_kv_blocks *k, int32_t b) {
    mw_kv_block *x = &k->block[b];
    *(x->prev >= 0 ? &k->block[x->prev].next : &k->head) = x->next;
    *(x->next >= 0 ? &k->block[x->next].prev : &k->tail) = x->prev;
    x->prev = x->next = -1;
    k->n_free--;
    k->n_cached -= x->name != 0;
}

/* Blocks without a name are taken first, the one that was used last before the others: its memory is warm. */
static void link_block(mw_kv_blocks *k, int32_t b) {
    mw_kv_block *x = &k->block[b];
    x->prev = x->name ? k->tail : -1;
    x->next = x->name ? -1 : k->head;
    *(x->prev >= 0 ? &k->block[x->prev].next : &k->head) = b;
    *(x->next >= 0 ? &k->block[x->next].prev : &k->tail) = b;
    k->n_free++;
    k->n_cached += x->name != 0;
}

/* ---- names ---- */

static int32_t *text_of(const mw_kv_blocks *k, int32_t b) {
    return k->tokens + (size_t)b * (size_t)k->block_tokens;
}

static int32_t *bucket_of(const mw_kv_blocks *k, uint64_t parent, const int32_t *tokens) {
    uint64_t h = XXH3_64bits_withSeed(tokens, (size_t)k->block_tokens * sizeof *tokens, parent);
    return &k->bucket[h & (k->n_buckets - 1)];
}

static void forget(mw_kv_blocks *k, int32_t b) {
    mw_kv_block *x = &k->block[b];
    int32_t *at = bucket_of(k, x->parent, text_of(k, b));
    while (*at != b) at = &k->block[*at].same_bucket;
    *at = x->same_bucket;
    x->same_bucket = -1;
    x->name = 0;
}

int32_t mw_kv_find(const mw_kv_blocks *k, uint64_t parent, const int32_t *tokens) {
    size_t bytes = (size_t)k->block_tokens * sizeof *tokens;
    int32_t b = *bucket_of(k, parent, tokens);
    while (b >= 0 && (k->block[b].parent != parent || memcmp(text_of(k, b), tokens, bytes) != 0))
        b = k->block[b].same_bucket;
    return b;
}

int32_t mw_kv_name(mw_kv_blocks *k, int32_t b, uint64_t parent, const int32_t *tokens) {
    int32_t other = mw_kv_find(k, parent, tokens);
    if (other >= 0) return other;
    mw_kv_block *x = &k->block[b];
    int32_t *bucket = bucket_of(k, parent, tokens);
    memcpy(text_of(k, b), tokens, (size_t)k->block_tokens * sizeof *tokens);
    x->name = ++k->last_name;
    x->parent = parent;
    x->same_bucket = *bucket;
    *bucket = b;
    return b;
}

/* ---- users ---- */

int32_t mw_kv_take(mw_kv_blocks *k) {
    int32_t b = k->head;
    if (b < 0) return -1;
    unlink_block(k, b);
    if (k->block[b].name) forget(k, b);
    k->block[b].users = 1;
    return b;
}

void mw_kv_share(mw_kv_blocks *k, int32_t b) {
    if (k->block[b].users == 0) unlink_block(k, b);
    k->block[b].users++;
}

mw_status mw_kv_give(mw_kv_blocks *k, const int32_t *block, int n) {
    for (int i = 0; i < n; i++)
        if (block[i] < 0 || block[i] >= k->n || k->block[block[i]].users == 0)
            return MW_FAIL(MW_ERR_INTERNAL, "KV block %d given back, but it was not taken", block[i]);
    for (int i = n - 1; i >= 0; i--)
        if (--k->block[block[i]].users == 0) link_block(k, block[i]);
    return MW_OK;
}
