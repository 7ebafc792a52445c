#include "worker/text/tok_vocab.h"

#include <stdlib.h>

/* Slots for n entries: a power of two, at most half full. */
static mw_status table_size(size_t n, const char *what, uint32_t *out) {
    uint32_t size = 16;
    if (n > (size_t)1 << 28) return MW_FAIL(MW_ERR_LIMIT, "%zu %s, at most %d", n, what, 1 << 28);
    while (size < 2 * n) size *= 2;
    *out = size;
    return MW_OK;
}

mw_status mw_tok_names_init(mw_tok_names *t, size_t n) {
    uint32_t size = 0;
    mw_status st = table_size(n, "tokens", &size);
    if (st == MW_OK) st = MW_CALLOC(&t->slot, size, "token map");
    if (st != MW_OK) return st;
    for (uint32_t i = 0; i < size; i++) t->slot[i].id = -1;
    t->mask = size - 1;
    return MW_OK;
}

void mw_tok_names_free(mw_tok_names *t) {
    mw_str_free(&t->bytes);
    free(t->span);
    free(t->slot);
    *t = (mw_tok_names){0};
}

/* Spans up to `id`, new ones empty. */
static mw_status room_for(mw_tok_names *t, size_t id) {
    if (id < t->cap) return MW_OK;
    size_t cap = t->cap ? t->cap : 1024;
    while (cap <= id) cap *= 2;
    mw_tok_span *p = realloc(t->span, cap * sizeof *p);
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "token table of %zu", cap);
    memset(p + t->cap, 0, (cap - t->cap) * sizeof *p);
    t->span = p;
    t->cap = cap;
    return MW_OK;
}

mw_status mw_tok_names_add(mw_tok_names *t, const char *text, size_t n, int64_t id, const char *where) {
    mw_status st;
    if (id < 0 || id >= MW_TOK_MAX_ID)
        return MW_FAIL(MW_ERR_LIMIT, "%s: token '%.64s' has id %lld, expected 0..%d", where, text, (long long)id,
                       MW_TOK_MAX_ID - 1);
    if (n == 0) return MW_FAIL(MW_ERR_FORMAT, "%s: token %lld is empty", where, (long long)id);
    if (mw_tok_names_has(t, id))
        return MW_FAIL(MW_ERR_FORMAT, "%s: id %lld belongs to two tokens, '%.64s' is the second", where, (long long)id,
                       text);
    if (mw_tok_names_find(t, text, n) >= 0)
        return MW_FAIL(MW_ERR_FORMAT, "%s: token '%.64s' is there twice", where, text);
    if (t->bytes.n + n > UINT32_MAX) return MW_FAIL(MW_ERR_LIMIT, "%s: more than 4 GiB of token texts", where);
    if ((st = room_for(t, (size_t)id)) != MW_OK || (st = mw_str_reserve(&t->bytes, n)) != MW_OK) return st;
    t->span[id] = (mw_tok_span){.off = (uint32_t)t->bytes.n, .len = (uint32_t)n};
    if ((st = mw_str_add(&t->bytes, text, n)) != MW_OK) return st;
    if (id >= t->size) t->size = (int32_t)id + 1;
    if (n > t->max_len) t->max_len = n;
    t->count++;
    uint32_t h = mw_tok_hash(text, n), i = h & t->mask;
    while (t->slot[i].id >= 0) i = (i + 1) & t->mask;
    t->slot[i] = (mw_tok_slot){.hash = h, .id = (int32_t)id};
    return MW_OK;
}

mw_status mw_tok_merges_init(mw_tok_merges *m, size_t n) {
    uint32_t size = 0;
    mw_status st = table_size(n, "merges", &size);
    if (st == MW_OK) st = MW_CALLOC(&m->slot, size, "merge map");
    if (st != MW_OK) return st;
    for (uint32_t i = 0; i < size; i++) m->slot[i].left = -1;
    m->mask = size - 1;
    return MW_OK;
}

void mw_tok_merges_free(mw_tok_merges *m) {
    free(m->slot);
    *m = (mw_tok_merges){0};
}

void mw_tok_merges_add(mw_tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    uint32_t i = mw_tok_pair_hash(left, right) & m->mask;
    while (m->slot[i].left >= 0 && (m->slot[i].left != left || m->slot[i].right != right)) i = (i + 1) & m->mask;
    m->slot[i] = (mw_tok_pair){.left = left, .right = right, .merge = (uint64_t)rank << 32 | (uint32_t)id};
}
