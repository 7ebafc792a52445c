#include "worker/text/tok_bpe.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/text/tok_utf8.h"

#define SHORT_WORD 48 /* units up to which a scan beats the heap */
#define KEY_MAX    25 /* bytes of a word that the cache takes */
#define CACHE_MAX  4096

#define METASPACE   "\xE2\x96\x81" /* U+2581 */
#define METASPACE_N 3

typedef struct mw_tok_heap_item {
    uint64_t key; /* rank << 32 | position of the left symbol */
    int32_t id;   /* what the pair becomes */
} heap_item;

typedef struct mw_tok_cached {
    char key[KEY_MAX];
    uint8_t key_n, ids_n; /* key_n 0: free */
    uint32_t at;          /* where in the output this word's ids stand */
} cached;

void mw_tok_bpe_free(mw_tok_bpe *b) {
    mw_tok_names_free(&b->vocab);
    mw_tok_merges_free(&b->merges);
}

/* May words be cut before every U+2581 that does not follow another? Yes if that character is a token, so that an
 * unknown unit never reaches over it, and no merge joins across such a place. */
static bool may_cut(const mw_tok_bpe *b) {
    const mw_tok_names *v = &b->vocab;
    if (b->byte_units || mw_tok_names_find(v, METASPACE, METASPACE_N) < 0) return false;
    for (uint32_t i = 0; i <= b->merges.mask; i++) {
        mw_tok_pair p = b->merges.slot[i];
        if (p.left < 0) continue;
        mw_tok_span l = v->span[p.left], r = v->span[p.right];
        if (r.len < METASPACE_N || memcmp(v->bytes.p + r.off, METASPACE, METASPACE_N) != 0) continue;
        if (p.left == b->unk || l.len < METASPACE_N ||
            memcmp(v->bytes.p + l.off + l.len - METASPACE_N, METASPACE, METASPACE_N) != 0)
            return false;
    }
    return true;
}

mw_status mw_tok_bpe_ready(mw_tok_bpe *b, const char *unk_token, size_t unk_n) {
    bool all_units = b->byte_units, all_bytes = b->byte_fallback;
    for (int i = 0; i < 256; i++) {
        char text[8], c[4];
        int n = mw_utf8_put(mw_tok_byte_char((unsigned char)i), c);
        memcpy(b->alphabet[i], c, (size_t)n);
        b->alphabet_n[i] = (uint8_t)n;
        if (!b->byte_units) n = mw_utf8_put((uint32_t)i, c);
        b->unit[i] = mw_tok_names_find(&b->vocab, c, (size_t)n);
        all_units = all_units && b->unit[i] >= 0;
        snprintf(text, sizeof text, "<0x%02X>", i);
        b->fallback[i] = mw_tok_names_find(&b->vocab, text, 6);
        all_bytes = all_bytes && b->fallback[i] >= 0;
    }
    if (b->byte_units && b->byte_fallback && !all_units)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "model: byte_fallback with a ByteLevel pre_tokenizer");
    b->unk = unk_token ? mw_tok_names_find(&b->vocab, unk_token, unk_n) : -1;
    if (unk_token && b->unk < 0 && !all_units && !all_bytes)
        return MW_FAIL(MW_ERR_FORMAT, "model: unk_token '%.64s' is not in vocab", unk_token);
    b->cut_at_space = may_cut(b);
    return MW_OK;
}

void mw_tok_bpe_work_free(mw_tok_bpe_work *w) {
    free(w->id);
    free(w->prev);
    free(w->next);
    free(w->heap);
    free(w->cache);
    mw_str_free(&w->mapped);
    *w = (mw_tok_bpe_work){0};
}

mw_status mw_tok_bpe_work_cache(mw_tok_bpe_work *w, size_t n) {
    uint32_t size = 64;
    if (n < 512) return MW_OK; /* too few words to come again */
    while (size < CACHE_MAX && size < n / 8) size *= 2;
    w->cache_mask = size - 1;
    return MW_CALLOC(&w->cache, size, "word cache");
}

static mw_status grow(mw_tok_bpe_work *w, size_t n) {
    if (n <= w->cap) return MW_OK;
    size_t cap = w->cap ? w->cap : 256;
    while (cap < n) cap *= 2;
    int32_t *id = realloc(w->id, cap * sizeof *id);
    if (id) w->id = id;
    uint32_t *prev = realloc(w->prev, cap * sizeof *prev);
    if (prev) w->prev = prev;
    uint32_t *next = realloc(w->next, cap * sizeof *next);
    if (next) w->next = next;
    if (!id || !prev || !next) return MW_FAIL(MW_ERR_NOMEM, "merging %zu symbols", n);
    w->cap = cap;
    return MW_OK;
}

/* The bytes' tokens of an unknown character; false if one is missing. */
static bool fall_back(const mw_tok_bpe *b, const char *p, int n, int32_t *id) {
    for (int i = 0; i < n; i++)
        if ((id[i] = b->fallback[(unsigned char)p[i]]) < 0) return false;
    return true;
}

/* First tokens of a pre-token, at most one a byte; returns how many. An unknown unit waits until a known one comes, so
 * that a run of them can be fused, and byte tokens overtake it: so does the reference. */
static size_t first_units(const mw_tok_bpe *b, const char *p, size_t n, int32_t *id) {
    size_t k = 0;
    bool unk_waits = false;
    for (size_t i = 0; i < n;) {
        int len = b->byte_units ? 1 : mw_utf8_len((unsigned char)p[i]);
        int32_t unit = len == 1 ? b->unit[(unsigned char)p[i]] : mw_tok_names_find(&b->vocab, p + i, (size_t)len);
        if (unit >= 0) {
            if (unk_waits) id[k++] = b->unk;
            unk_waits = false;
            id[k++] = unit;
        } else if (b->byte_fallback && fall_back(b, p + i, len, id + k)) {
            k += (size_t)len;
        } else if (b->unk >= 0) {
            if (unk_waits && !b->fuse_unk) id[k++] = b->unk;
            unk_waits = true;
        }
        i += (size_t)len;
    }
    if (unk_waits) id[k++] = b->unk;
    return k;
}

static size_t merge_short(const mw_tok_bpe *b, int32_t *id, size_t n) {
    uint64_t merge[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++) merge[i] = mw_tok_merges_find(&b->merges, id[i], id[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (merge[i] < merge[best]) best = i;
        if (merge[best] == MW_TOK_NO_MERGE) break;
        id[best] = (int32_t)(uint32_t)merge[best];
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (best + 1 < n) {
            memmove(merge + best, merge + best + 1, (n - 1 - best) * sizeof *merge);
            merge[best] = mw_tok_merges_find(&b->merges, id[best], id[best + 1]);
        }
        if (best > 0) merge[best - 1] = mw_tok_merges_find(&b->merges, id[best - 1], id[best]);
    }
    return n;
}

static mw_status heap_push(mw_tok_bpe_work *w, uint64_t merge, uint32_t pos) {
    if (merge == MW_TOK_NO_MERGE) return MW_OK;
    if (w->heap_n == w->heap_cap) {
        size_t cap = w->heap_cap ? 2 * w->heap_cap : 1024;
        heap_item *p = realloc(w->heap, cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "queue of %zu merges", cap);
        w->heap = p;
        w->heap_cap = cap;
    }
    heap_item item = {.key = (merge & ~(uint64_t)UINT32_MAX) | pos, .id = (int32_t)(uint32_t)merge};
    size_t i = w->heap_n++;
    while (i > 0 && w->heap[(i - 1) / 2].key > item.key) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = item;
    return MW_OK;
}

static heap_item heap_pop(mw_tok_bpe_work *w) {
    heap_item top = w->heap[0], last = w->heap[--w->heap_n];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < w->heap_n) {
        if (child + 1 < w->heap_n && w->heap[child + 1].key < w->heap[child].key) child++;
        if (w->heap[child].key >= last.key) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

/* Symbols are a doubly linked list over positions; the left one of a merged pair stays. An item of the heap whose pair
 * has changed since is passed over: a pair at the same place that gives the same token is the same pair. */
static mw_status merge_long(const mw_tok_bpe *b, mw_tok_bpe_work *w, size_t *count) {
    const uint32_t none = UINT32_MAX, n = (uint32_t)*count;
    int32_t *id = w->id;
    mw_status st;
    w->heap_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        w->prev[i] = i ? i - 1 : none;
        w->next[i] = i + 1 < n ? i + 1 : none;
        if (i + 1 == n) break;
        if ((st = heap_push(w, mw_tok_merges_find(&b->merges, id[i], id[i + 1]), i)) != MW_OK) return st;
    }
    while (w->heap_n) {
        heap_item top = heap_pop(w);
        uint32_t i = (uint32_t)top.key, j = w->next[i];
        if (id[i] < 0 || j == none) continue;
        uint64_t merge = mw_tok_merges_find(&b->merges, id[i], id[j]);
        if (merge == MW_TOK_NO_MERGE || (int32_t)(uint32_t)merge != top.id) continue;
        id[i] = top.id;
        id[j] = -1; /* gone */
        uint32_t after = w->next[i] = w->next[j], before = w->prev[i];
        if (after != none) {
            w->prev[after] = i;
            if ((st = heap_push(w, mw_tok_merges_find(&b->merges, id[i], id[after]), i)) != MW_OK) return st;
        }
        if (before != none && (st = heap_push(w, mw_tok_merges_find(&b->merges, id[before], id[i]), before)) != MW_OK)
            return st;
    }
    size_t k = 0;
    for (uint32_t i = 0; i < n; i++)
        if (id[i] >= 0) id[k++] = id[i];
    *count = k;
    return MW_OK;
}

/* Id of the whole pre-token if it is one token of the vocabulary, or -1. */
static mw_status whole(const mw_tok_bpe *b, mw_tok_bpe_work *w, const char *p, size_t n, int32_t *id) {
    if (!b->byte_units || n > b->vocab.max_len) {
        *id = mw_tok_names_find(&b->vocab, p, n);
        return MW_OK;
    }
    w->mapped.n = 0;
    mw_status st = mw_str_reserve(&w->mapped, 2 * n);
    if (st != MW_OK) return st;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        memcpy(w->mapped.p + w->mapped.n, b->alphabet[c], 2);
        w->mapped.n += b->alphabet_n[c];
    }
    *id = mw_tok_names_find(&b->vocab, w->mapped.p, w->mapped.n);
    return MW_OK;
}

static mw_status merge_word(const mw_tok_bpe *b, mw_tok_bpe_work *w, const char *p, size_t n, mw_ids *out) {
    mw_status st = grow(w, n);
    if (st != MW_OK) return st;
    size_t k = first_units(b, p, n, w->id);
    if (k <= SHORT_WORD)
        k = merge_short(b, w->id, k);
    else if ((st = merge_long(b, w, &k)) != MW_OK)
        return st;
    return mw_ids_append(out, w->id, k);
}

/* One word that merges on its own, through the cache. try_whole: it may be one token without any merge. */
static mw_status encode_word(const mw_tok_bpe *b, mw_tok_bpe_work *w, const char *p, size_t n, bool try_whole,
                             mw_ids *out) {
    cached *c = NULL;
    if (w->cache && n <= KEY_MAX) {
        c = &w->cache[mw_tok_hash(p, n) & w->cache_mask];
        if (c->key_n == n && memcmp(c->key, p, n) == 0) {
            int32_t ids[KEY_MAX]; /* not from `out` itself: it may move while it grows */
            memcpy(ids, out->p + c->at, c->ids_n * sizeof *ids);
            return mw_ids_append(out, ids, c->ids_n);
        }
    }
    size_t at = out->n;
    int32_t id = -1;
    mw_status st = try_whole ? whole(b, w, p, n, &id) : MW_OK;
    if (st == MW_OK) st = id >= 0 ? mw_ids_add(out, id) : merge_word(b, w, p, n, out);
    if (st == MW_OK && c && at <= UINT32_MAX) {
        memcpy(c->key, p, n);
        c->key_n = (uint8_t)n;
        c->ids_n = (uint8_t)(out->n - at);
        c->at = (uint32_t)at;
    }
    return st;
}

mw_status mw_tok_bpe_encode(const mw_tok_bpe *b, mw_tok_bpe_work *w, const char *p, size_t n, mw_ids *out) {
    if (!b->cut_at_space) return n ? encode_word(b, w, p, n, b->ignore_merges, out) : MW_OK;
    if (b->ignore_merges) {
        int32_t id = mw_tok_names_find(&b->vocab, p, n);
        if (id >= 0) return mw_ids_add(out, id);
    }
    for (size_t begin = 0; begin < n;) {
        /* up to the next U+2581 that does not follow another */
        const char *q = p + begin, *end = p + n;
        while (end - q >= METASPACE_N && memcmp(q, METASPACE, METASPACE_N) == 0) q += METASPACE_N;
        const char *cut = memmem(q, (size_t)(end - q), METASPACE, METASPACE_N);
        if (!cut) cut = end;
        mw_status st = encode_word(b, w, p + begin, (size_t)(cut - p) - begin, false, out);
        if (st != MW_OK) return st;
        begin = (size_t)(cut - p);
    }
    return MW_OK;
}
