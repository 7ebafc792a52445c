#include "worker/text/constraint_vocab.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *p;
    uint32_t n;
    int32_t id;
} entry;

static int by_bytes(const void *x, const void *y) {
    const entry *a = x, *b = y;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (c) return c;
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static bool is_in(const int32_t *list, size_t n, int32_t id) {
    for (size_t i = 0; i < n; i++)
        if (list[i] == id) return true;
    return false;
}

static mw_status read_tokens(mw_vocab *v, const mw_tokenizer *t, const int32_t *leave_out, size_t n_leave_out) {
    mw_status st = MW_OK;
    for (int32_t id = 0; id < v->size; id++) {
        size_t before = v->bytes.n;
        v->at[id] = (uint32_t)before;
        if (id >= mw_tokenizer_size(t) || mw_tokenizer_is_special(t, id) || is_in(leave_out, n_leave_out, id)) continue;
        st = mw_tokenizer_piece(t, id, &v->bytes);
        if (st != MW_OK && st != MW_ERR_USAGE) return st; /* USAGE: a hole in the vocabulary */
        if (v->bytes.n - before > MW_VOCAB_MAX_TOKEN) v->bytes.n = before;
        if (v->bytes.n > UINT32_MAX) return MW_FAIL(MW_ERR_LIMIT, "over 4 GiB of token texts");
    }
    v->at[v->size] = (uint32_t)v->bytes.n;
    return MW_OK;
}

static mw_status push_node(mw_vocab *v, uint16_t depth, uint8_t byte) {
    if (v->n == v->cap) {
        size_t cap = v->cap ? 2 * v->cap : 4096;
        mw_vocab_node *p = realloc(v->node, cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "tree of %zu token bytes", cap);
        v->node = p;
        v->cap = cap;
    }
    v->node[v->n++] = (mw_vocab_node){.token = -1, .depth = depth, .byte = byte};
    return MW_OK;
}

/* Sorted texts: each shares its beginning with the path of the one before. */
static mw_status build_tree(mw_vocab *v, const entry *e, size_t n) {
    int32_t path[MW_VOCAB_MAX_TOKEN + 1];
    size_t depth = 0;
    mw_status st = MW_OK;
    for (size_t i = 0; i < n; i++) {
        size_t same = 0;
        while (i > 0 && same < depth && same < e[i].n && e[i].p[same] == e[i - 1].p[same]) same++;
        for (; depth > same; depth--) v->node[path[depth - 1]].skip = (int32_t)v->n;
        for (; depth < e[i].n; depth++) {
            path[depth] = (int32_t)v->n;
            MW_TRY(st, push_node(v, (uint16_t)(depth + 1), (uint8_t)e[i].p[depth]));
        }
        if (depth == 0) continue; /* no text */
        mw_vocab_node *last = &v->node[path[depth - 1]];
        v->twin[e[i].id] = last->token;
        last->token = e[i].id;
        if ((int)e[i].n > v->longest) v->longest = (int)e[i].n;
    }
    for (; depth > 0; depth--) v->node[path[depth - 1]].skip = (int32_t)v->n;
fail:
    return st;
}

mw_status mw_vocab_init(mw_vocab *v, const mw_tokenizer *t, int32_t size, const int32_t *leave_out,
                        size_t n_leave_out) {
    entry *e = NULL;
    size_t n = 0;
    mw_status st = MW_OK;
    *v = (mw_vocab){.size = size};
    MW_TRY(st, MW_CALLOC(&v->at, (size_t)size + 1, "token bytes"));
    MW_TRY(st, MW_CALLOC(&v->twin, (size_t)size, "token bytes"));
    MW_TRY(st, read_tokens(v, t, leave_out, n_leave_out));
    MW_TRY(st, MW_CALLOC(&e, (size_t)size, "token bytes"));
    for (int32_t id = 0; id < size; id++)
        if (v->at[id + 1] > v->at[id]) e[n++] = (entry){v->bytes.p + v->at[id], v->at[id + 1] - v->at[id], id};
    qsort(e, n, sizeof *e, by_bytes);
    MW_TRY(st, build_tree(v, e, n));
fail:
    free(e);
    if (st != MW_OK) mw_vocab_free(v);
    return st;
}

void mw_vocab_free(mw_vocab *v) {
    free(v->node);
    free(v->twin);
    free(v->at);
    mw_str_free(&v->bytes);
    *v = (mw_vocab){0};
}
