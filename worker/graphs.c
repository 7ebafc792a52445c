/* Decode steps as graphs. A step in which every sequence has one row, and every row's logits are wanted, is the same
 * sequence of kernels each time; only the arrays of the batch differ. So it is recorded once for a few numbers of rows
 * and context lengths, with the arrays at fixed places, and later launched whole, padded up to the next recorded size:
 * the padding rows belong to no sequence and write their K and V to a block that no sequence has. */
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/model.h"

#define MAX_SIZES    32
#define MAX_CONTEXTS 10

struct mw_graphs {
    int rows[MAX_SIZES], n_rows;
    int ctx[MAX_CONTEXTS], n_ctx;
    mw_graph *graph[MAX_CONTEXTS][MAX_SIZES];
    mw_step step; /* the padded arrays */
};

/* 1, 2, 4, then by 8, from 64 on by 16: a step computes few rows for nothing. */
static void choose_rows(mw_graphs *g, int most) {
    for (int r = 1; r <= most && g->n_rows < MAX_SIZES - 1; r += r < 4 ? r : r < 8 ? 4 : r < 64 ? 8 : 16)
        g->rows[g->n_rows++] = r;
    if (g->rows[g->n_rows - 1] != most && most <= g->rows[g->n_rows - 1] + 16) g->rows[g->n_rows++] = most;
}

/* Attention launches blocks for the longest context there may be; classes a factor of two apart keep those that find
 * nothing to do fewer than the others. */
static void choose_contexts(mw_graphs *g, int most) {
    for (int c = 1024; c < most && g->n_ctx < MAX_CONTEXTS - 1; c *= 2) g->ctx[g->n_ctx++] = c;
    g->ctx[g->n_ctx++] = most;
}

static mw_status lay_out(mw_graphs *g, const mw_model *m, int rows, int ctx) {
    mw_step_head h = {.kind = MW_STEP_RUN,
                      .n_tokens = rows,
                      .n_seqs = rows,
                      .n_logits = rows,
                      .max_rows = 1,
                      .max_ctx = ctx,
                      .block_stride = (ctx + m->o.block_tokens - 1) / m->o.block_tokens};
    return mw_step_layout(&g->step, &h);
}

/* Rows n .. of the laid out step belong to nobody. */
static void pad(mw_step *t, const mw_model *m, int n) {
    for (int i = n; i < t->h.n_tokens; i++) {
        t->token[i] = t->pos[i] = 0;
        t->slot[i] = m->o.kv_blocks * m->o.block_tokens; /* the block behind all others */
        t->ctx_len[i] = 0;
        t->block_table[(size_t)i * (size_t)t->h.block_stride] = m->o.kv_blocks;
    }
    for (int i = n; i <= t->h.n_seqs; i++) t->q_start[i] = n;
    for (int i = 0; i < t->h.n_logits; i++) t->logit_row[i] = i;
}

static mw_status upload(mw_model *m) {
    const mw_step *t = &m->graphs->step;
    if (t->words > m->batch_words)
        return MW_FAIL(MW_ERR_INTERNAL, "step of %zu words: prepared for %zu", t->words, m->batch_words);
    return m->k->to_device(m->dev, m->batch, t->data, t->words * sizeof *t->data);
}

/* The first step of a size runs as it is, so that libraries choose their algorithms and connections; then it is
 * recorded. */
static mw_status record(mw_model *m, int c, int r, bool run_first) {
    mw_status st = MW_OK;
    mw_graphs *g = m->graphs;
    MW_TRY(st, lay_out(g, m, g->rows[r], g->ctx[c]));
    pad(&g->step, m, 0);
    mw_batch b = mw_step_batch(&g->step, m->batch);
    if (run_first) {
        MW_TRY(st, upload(m));
        MW_TRY(st, mw_model_enqueue(m, &b, NULL, g->rows[r]));
        MW_TRY(st, mw_model_wait(m));
    }
    MW_TRY(st, m->k->capture_begin(m->dev));
    st = mw_model_enqueue(m, &b, NULL, g->rows[r]);
    if (st != MW_OK) {
        m->k->capture_abort(m->dev);
        goto fail;
    }
    MW_TRY(st, m->k->capture_end(m->dev, &g->graph[c][r]));
fail:
    return st;
}

mw_status mw_model_warm_up(mw_model *m) {
    mw_status st = MW_OK;
    double start = mw_now_s();
    int most = m->o.max_seqs < m->o.max_logits ? m->o.max_seqs : m->o.max_logits;
    if (!m->k->capture_begin || m->o.check_nan) return MW_OK; /* checks look at every result on the host */
    MW_TRY(st, MW_CALLOC(&m->graphs, 1, "graphs"));
    choose_rows(m->graphs, most);
    choose_contexts(m->graphs, m->o.ctx);
    for (int c = 0; c < m->graphs->n_ctx; c++)
        for (int r = 0; r < m->graphs->n_rows; r++) MW_TRY(st, record(m, c, r, c == 0));
    m->n_graphs = m->graphs->n_ctx * m->graphs->n_rows;
    m->warm_up_s = mw_now_s() - start;
    return MW_OK;
fail:
    mw_comm_poison(m->comm, st); /* the others may be in the middle of a step */
    return st;
}

mw_status mw_graphs_try(mw_model *m, const mw_step *s, bool *launched) {
    mw_status st = MW_OK;
    mw_graphs *g = m->graphs;
    int n = s->h.n_seqs, r = 0, c = 0;
    *launched = false;
    if (!g || s->h.max_rows != 1 || s->h.n_tokens != n || s->h.n_logits != n) return MW_OK;
    while (r < g->n_rows && g->rows[r] < n) r++;
    while (c < g->n_ctx && g->ctx[c] < s->h.max_ctx) c++;
    if (r == g->n_rows || c == g->n_ctx) return MW_OK;
    MW_TRY(st, lay_out(g, m, g->rows[r], g->ctx[c]));
    mw_step *t = &g->step;
    size_t bytes = (size_t)n * sizeof(int32_t);
    memcpy(t->token, s->token, bytes);
    memcpy(t->pos, s->pos, bytes);
    memcpy(t->slot, s->slot, bytes);
    memcpy(t->q_start, s->q_start, bytes);
    memcpy(t->ctx_len, s->ctx_len, bytes);
    for (int i = 0; i < n; i++)
        memcpy(t->block_table + (size_t)i * (size_t)t->h.block_stride,
               s->block_table + (size_t)i * (size_t)s->h.block_stride,
               (size_t)((s->ctx_len[i] + m->o.block_tokens - 1) / m->o.block_tokens) * sizeof(int32_t));
    pad(t, m, n);
    MW_TRY(st, upload(m));
    MW_TRY(st, m->k->graph_launch(m->dev, g->graph[c][r]));
    *launched = true;
fail:
    return st;
}

void mw_graphs_free(mw_model *m) {
    mw_graphs *g = m->graphs;
    if (!g) return;
    for (int c = 0; c < g->n_ctx; c++)
        for (int r = 0; r < g->n_rows; r++) m->k->graph_free(g->graph[c][r]);
    mw_step_free(&g->step);
    free(g);
    m->graphs = NULL;
}
