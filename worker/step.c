#include "worker/step.h"

#include <stdlib.h>

/* Pointers into data for the extents in s->h. */
static void place(mw_step *s) {
    size_t t = (size_t)s->h.n_tokens, q = (size_t)s->h.n_seqs;
    s->token = s->data;
    s->pos = s->token + t;
    s->slot = s->pos + t;
    s->q_start = s->slot + t;
    s->ctx_len = s->q_start + q + 1;
    s->block_table = s->ctx_len + q;
    s->logit_row = s->block_table + q * (size_t)s->h.block_stride;
    s->draw = s->h.choose == MW_CHOOSE_DRAW ? (mw_draw *)(s->logit_row + s->h.n_logits) : NULL;
}

static mw_status reserve(mw_step *s, size_t words) {
    if (words > s->cap) {
        size_t cap = words + words / 2;
        int32_t *p = realloc(s->data, cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "step plan of %zu words", cap);
        s->data = p;
        s->cap = cap;
    }
    s->words = words;
    return MW_OK;
}

mw_status mw_step_layout(mw_step *s, const mw_step_head *h) {
    size_t t = (size_t)h->n_tokens, q = (size_t)h->n_seqs, l = (size_t)h->n_logits, b = q * (size_t)h->block_stride;
    mw_status st = reserve(s, 3 * t + (q + 1) + q + b + l + (h->choose == MW_CHOOSE_DRAW ? l * MW_DRAW_WORDS : 0));
    if (st != MW_OK) return st;
    s->h = *h;
    place(s);
    return MW_OK;
}

mw_status mw_step_add_draws(mw_step *s) {
    mw_status st = reserve(s, mw_step_device_words(s) + (size_t)s->h.n_logits * MW_DRAW_WORDS);
    if (st != MW_OK) return st;
    s->h.choose = MW_CHOOSE_DRAW;
    place(s);
    return MW_OK;
}

size_t mw_step_device_words(const mw_step *s) {
    return (size_t)(s->logit_row - s->data) + (size_t)s->h.n_logits;
}

void mw_step_free(mw_step *s) {
    free(s->data);
    *s = (mw_step){0};
}

mw_batch mw_step_batch(const mw_step *s, const int32_t *device) {
    return (mw_batch){.n_tokens = s->h.n_tokens,
                      .n_seqs = s->h.n_seqs,
                      .max_rows = s->h.max_rows,
                      .max_ctx = s->h.max_ctx,
                      .token = device + (s->token - s->data),
                      .pos = device + (s->pos - s->data),
                      .slot = device + (s->slot - s->data),
                      .q_start = device + (s->q_start - s->data),
                      .ctx_len = device + (s->ctx_len - s->data),
                      .block_table = device + (s->block_table - s->data),
                      .block_stride = s->h.block_stride};
}
