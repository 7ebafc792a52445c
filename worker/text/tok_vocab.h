/* worker/text/tok_vocab.h - the tables behind ids: text of an id, id of a text, and what two ids merge into.
 *
 * Texts are as tokenizer.json spells them (so, for byte-level models, in the GPT-2 alphabet). Both maps use open
 * addressing with linear probing; they are filled while the file is read and constant after.
 */
#ifndef MW_TEXT_TOK_VOCAB_H
#define MW_TEXT_TOK_VOCAB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_TOK_MAX_ID (1 << 22) /* ids are below; the largest public vocabularies have 2^18 */

typedef struct mw_tok_span { /* a text inside some mw_str */
    uint32_t off, len;
} mw_tok_span;

typedef struct mw_tok_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
} mw_tok_slot;

/* Texts by id and ids by text. Ids may have holes. */
typedef struct mw_tok_names {
    mw_str bytes;      /* all texts, one behind the other */
    mw_tok_span *span; /* [size]; len 0: no such id (no token has an empty text) */
    size_t cap;        /* elements of span */
    int32_t size;      /* one past the largest id */
    size_t count, max_len;
    mw_tok_slot *slot; /* [mask + 1] */
    uint32_t mask;
} mw_tok_names;

/* Room for n texts in the map. */
MW_MUST_CHECK mw_status mw_tok_names_init(mw_tok_names *t, size_t n);
void mw_tok_names_free(mw_tok_names *t);
/* MW_ERR_FORMAT: the id or the text is there already, or the text is empty. MW_ERR_LIMIT: id out of range. */
MW_MUST_CHECK mw_status mw_tok_names_add(mw_tok_names *t, const char *text, size_t n, int64_t id, const char *where);

/* Eight bytes a step, by multiplication; quality enough for linear probing. */
static inline uint32_t mw_tok_hash(const char *p, size_t n) {
    uint64_t h = n * UINT64_C(0x9E3779B97F4A7C15), w;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * UINT64_C(0xD6E8FEB86659FD93);
        h ^= h >> 32;
    }
    w = 0;
    memcpy(&w, p, n);
    h = (h ^ w) * UINT64_C(0xD6E8FEB86659FD93);
    return (uint32_t)(h >> 32 ^ h);
}

/* Id of a text, or -1. */
static inline int32_t mw_tok_names_find(const mw_tok_names *t, const char *p, size_t n) {
    if (n == 0 || n > t->max_len) return -1;
    uint32_t h = mw_tok_hash(p, n);
    for (uint32_t i = h & t->mask;; i = (i + 1) & t->mask) {
        mw_tok_slot s = t->slot[i];
        if (s.id < 0) return -1;
        if (s.hash != h) continue;
        mw_tok_span sp = t->span[s.id];
        if (sp.len == n && memcmp(t->bytes.p + sp.off, p, n) == 0) return s.id;
    }
}

static inline bool mw_tok_names_has(const mw_tok_names *t, int64_t id) {
    return id >= 0 && id < t->size && t->span[id].len > 0;
}

#define MW_TOK_NO_MERGE UINT64_MAX

typedef struct mw_tok_pair {
    int32_t left, right; /* left -1: free */
    uint64_t merge;      /* rank << 32 | id of the result: comparing merges compares ranks */
} mw_tok_pair;

typedef struct mw_tok_merges {
    mw_tok_pair *slot; /* [mask + 1] */
    uint32_t mask;
} mw_tok_merges;

MW_MUST_CHECK mw_status mw_tok_merges_init(mw_tok_merges *m, size_t n);
void mw_tok_merges_free(mw_tok_merges *m);
/* A pair that is there already takes the new rank, as in the reference. At most the n of init. */
void mw_tok_merges_add(mw_tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id);

static inline uint32_t mw_tok_pair_hash(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(h >> 32) ^ (uint32_t)(h >> 58);
}

/* What the pair merges into, or MW_TOK_NO_MERGE. */
static inline uint64_t mw_tok_merges_find(const mw_tok_merges *m, int32_t left, int32_t right) {
    for (uint32_t i = mw_tok_pair_hash(left, right) & m->mask;; i = (i + 1) & m->mask) {
        const mw_tok_pair *p = &m->slot[i];
        if (p->left == left && p->right == right) return p->merge;
        if (p->left < 0) return MW_TOK_NO_MERGE;
    }
}

MW_END_DECLS
#endif
