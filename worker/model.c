#include "worker/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/rope.h"

/* Extents of this rank that decide the workspace. Computed from the plan alone, so that a dry run can know them. */
typedef struct {
    int64_t hidden, qkv, attn, attn_all, o_in, gate_up, logits, vocab_sum, vocab_all;
} extents;

static int64_t stored_cols(const mw_weight *w, mw_range n) {
    return w->kind == MW_INT4 ? mw_round_up(mw_range_len(n), MW_TILE_N) : mw_range_len(n);
}

/* Columns of one weight's output on `rank`. */
static int64_t cols_of(const mw_plan *p, int rank, const mw_weight *w) {
    mw_range k, n;
    mw_plan_slice(p, rank, w, &k, &n);
    return stored_cols(w, n);
}

static const mw_weight *head_weight(const mw_plan *p) {
    const mw_weight *h = mw_ckpt_find(p->ckpt, "lm_head");
    return h ? h : mw_ckpt_find(p->ckpt, "embed_tokens");
}

static extents extents_of(const mw_plan *p, int rank) {
    const mw_model_config *c = mw_ckpt_config(p->ckpt);
    extents e = {.hidden = c->hidden};
    e.attn = mw_range_len(p->rank[rank].q_heads) * c->head_dim;
    for (int i = 0; i < mw_ckpt_n_weights(p->ckpt); i++) {
        const mw_weight *w = mw_ckpt_weight(p->ckpt, i);
        if (w->perm >= 0 && strstr(w->name, "o_proj")) {
            e.o_in = mw_range_len(p->rank[rank].o_sorted);
            if (p->n_ranks > 1) e.attn_all = c->n_heads * c->head_dim;
        }
    }
    /* Layers may be stored differently (some 16-bit): the widest decides; padding is at most a tile a part. */
    e.qkv =
        mw_round_up(e.attn, MW_TILE_N) + 2 * mw_round_up(mw_range_len(p->rank[rank].kv_heads) * c->head_dim, MW_TILE_N);
    e.gate_up = 2 * mw_round_up(mw_range_len(p->rank[rank].mlp), MW_TILE_N);
    e.logits = cols_of(p, rank, head_weight(p));
    for (int r = 0; r < p->n_ranks; r++) e.vocab_sum += cols_of(p, r, head_weight(p));
    if (rank == 0 && p->n_ranks > 1) e.vocab_all = e.vocab_sum;
    return e;
}

typedef struct {
    void **out;
    size_t bytes;
    const char *what;
    bool shared; /* all ranks' together: summed up in place by a collective */
} buffer;

#define N_BUFFERS 18

/* The buffers of a step: where the pointer goes and how large each is. `m` may be a blank model when only sizes count.
 */
static void list_buffers(mw_model *m, const extents *e, const mw_model_opts *o, size_t act, buffer b[N_BUFFERS]) {
    size_t t = (size_t)o->max_step_tokens, l = (size_t)o->max_logits, h = (size_t)e->hidden;
    size_t words = 4 * t + 2 * t + 2 + (size_t)o->max_block_table + t;
    size_t ranks = (size_t)m->plan->n_ranks, joined = l * (size_t)e->vocab_sum * sizeof(float);
    const buffer all[N_BUFFERS] = {
        {&m->x, t * h * act, "residual stream", true},
        {&m->xn, t * h * act, "normed input", false},
        {&m->part, t * h * act, "partial sums", true},
        {&m->qkv, t * (size_t)e->qkv * act, "qkv rows", false},
        {&m->attn, t * (size_t)e->attn * act, "attention output", false},
        {&m->attn_all, t * (size_t)e->attn_all * act, "gathered attention output", false},
        {&m->attn_blocks, m->devices_join ? t * (size_t)e->attn_all * act : 0, "gathered attention output", false},
        {&m->o_in, t * (size_t)e->o_in * act, "permuted attention output", false},
        {&m->gate_up, t * (size_t)e->gate_up * act, "gate and up rows", false},
        {&m->sel, 3 * l * h * act, "rows for lm_head", false},
        {&m->logits, l * (size_t)e->logits * sizeof(float), "logits", false},
        {(void **)&m->best_token, 2 * l * sizeof(int32_t), "best tokens", false},
        {(void **)&m->best_parts, ranks > 1 ? 2 * l * ranks * sizeof(int32_t) : 0, "best tokens of all ranks", false},
        {(void **)&m->draw, l * sizeof(mw_draw), "sampling parameters", false},
        {(void **)&m->logits_joined, m->devices_join ? joined : 0, "logits of all ranks", false},
        {(void **)&m->logits_blocks, m->devices_join ? joined : 0, "logits of all ranks", false},
        {(void **)&m->rope, (size_t)(o->ctx * (mw_ckpt_config(m->plan->ckpt)->head_dim / 2)) * 2 * sizeof(float),
         "rotary table", false},
        {(void **)&m->batch, words * sizeof(int32_t), "step arrays", false},
    };
    m->batch_words = words;
    memcpy(b, all, sizeof all);
}

uint64_t mw_model_workspace_bytes(const mw_plan *plan, int rank, const mw_model_opts *o, mw_dtype act) {
    mw_model blank = {.plan = plan, .devices_join = plan->n_ranks > 1 && act != MW_F32};
    buffer b[N_BUFFERS];
    extents e = extents_of(plan, rank);
    uint64_t sum = (uint64_t)o->max_logits * (uint64_t)e.vocab_all * sizeof(float);
    list_buffers(&blank, &e, o, mw_dtype_size(act), b);
    for (int i = 0; i < N_BUFFERS; i++) sum += b[i].bytes;
    return sum;
}

/* What comes back from the device. */
static mw_status prepare_host(mw_model *m) {
    mw_status st = MW_OK;
    for (int i = 0; i < MW_MODEL_IN_FLIGHT; i++)
        MW_TRY(st, m->k->host_alloc(m->dev, (void **)&m->chosen_host[i], (size_t)m->o.max_logits * sizeof(int32_t),
                                    "chosen tokens"));
    if (m->on_host) {
        m->logits_here = m->logits;
    } else {
        void *p;
        size_t bytes = (size_t)m->o.max_logits * (size_t)m->lm_head.n * sizeof(float);
        MW_TRY(st, m->k->host_alloc(m->dev, &p, bytes, "logits"));
        m->logits_here = p;
    }
fail:
    return st;
}

static mw_status prepare_buffers(mw_model *m, const extents *e) {
    mw_status st = MW_OK;
    mw_dev_info info;
    buffer b[N_BUFFERS];
    float *table = NULL;
    MW_TRY(st, m->k->info(m->dev, &info));
    m->act = info.act;
    m->on_host = info.host_memory;
    m->devices_join = !info.host_memory && mw_comm_size(m->comm) > 1;
    list_buffers(m, e, &m->o, mw_dtype_size(info.act), b);
    for (int i = 0; i < N_BUFFERS; i++) {
        if (b[i].shared && m->devices_join) {
            MW_TRY(st, mw_comm_device_alloc(m->comm, b[i].out, b[i].bytes, b[i].what));
            m->workspace_bytes += b[i].bytes;
        } else {
            MW_TRY(st, mw_model_alloc(m, b[i].out, b[i].bytes, b[i].what, &m->workspace_bytes));
        }
    }
    MW_TRY(st, prepare_host(m));
    size_t n = (size_t)(m->o.ctx * (m->cfg->head_dim / 2)) * 2;
    MW_TRY(st, MW_CALLOC(&table, n, "rotary table"));
    mw_rope_table(m->cfg, m->o.ctx, table);
    MW_TRY(st, m->k->to_device(m->dev, m->rope, table, n * sizeof *table));
    if (e->vocab_all > 0) {
        size_t rows = (size_t)m->o.max_logits * (size_t)e->vocab_all;
        MW_TRY(st, MW_CALLOC(&m->logits_all, rows, "gathered logits"));
        m->workspace_bytes += rows * sizeof(float);
    }
fail:
    free(table);
    return st;
}

/* What a rank must know of the others' widths. */
static mw_status prepare_widths(mw_model *m) {
    mw_status st = MW_OK;
    int n = m->plan->n_ranks;
    int32_t *first = NULL;
    void *p = NULL;
    MW_TRY(st, MW_CALLOC(&m->vocab_cols, (size_t)n, "vocabulary widths"));
    MW_TRY(st, MW_CALLOC(&m->q_cols, (size_t)n, "head widths"));
    m->vocab_width = 0;
    for (int r = 0; r < n; r++) {
        m->vocab_cols[r] = (size_t)cols_of(m->plan, r, head_weight(m->plan));
        m->q_cols[r] = (size_t)(mw_range_len(m->plan->rank[r].q_heads) * m->cfg->head_dim);
        m->vocab_width += m->vocab_cols[r];
    }
    m->chosen = m->best_token;
    if (n == 1) return MW_OK;
    MW_TRY(st, mw_model_alloc(m, &p, (size_t)m->o.max_logits * sizeof(int32_t), "chosen tokens", &m->workspace_bytes));
    m->chosen = p;
    MW_TRY(st, MW_CALLOC(&first, (size_t)n, "vocabulary"));
    for (int r = 0; r < n; r++) {
        mw_range v = m->plan->rank[r].vocab;
        first[r] = v.lo < v.hi && v.lo < m->cfg->vocab ? (int32_t)v.lo : -1;
    }
    MW_TRY(st, mw_model_alloc(m, &p, (size_t)n * sizeof(int32_t), "vocabulary", &m->workspace_bytes));
    m->vocab_first = p;
    MW_TRY(st, m->k->to_device(m->dev, p, first, (size_t)n * sizeof(int32_t)));
fail:
    free(first);
    return st;
}

mw_status mw_model_prepare(mw_model *m, const mw_model_opts *o) {
    mw_status st = MW_OK;
    const mw_model_config *c = m->cfg;
    const mw_rank_share *s = &m->plan->rank[m->rank];
    extents e = extents_of(m->plan, m->rank);
    m->o = *o;
    MW_TRY(st, prepare_buffers(m, &e));
    MW_TRY(st, prepare_widths(m));
    int blocks = o->kv_blocks + (m->k->capture_begin != NULL); /* one for the padding rows of graphs */
    size_t one =
        (size_t)(blocks * mw_range_len(s->kv_heads)) * (size_t)(o->block_tokens * c->head_dim) * mw_dtype_size(c->act);
    for (int64_t i = 0; i < c->n_layers; i++) {
        mw_layer *l = &m->layer[i];
        l->attn.n_q = (int)mw_range_len(s->q_heads);
        l->attn.n_kv = (int)mw_range_len(s->kv_heads);
        l->attn.head_dim = (int)c->head_dim;
        l->attn.block_size = o->block_tokens;
        l->attn.window = (int)c->window;
        l->attn.scale = (float)(1 / sqrt((double)c->head_dim));
        l->attn.q_off = l->qkv.off[0];
        l->attn.k_off = l->qkv.off[1];
        l->attn.v_off = l->qkv.off[2];
        l->attn.kv_dtype = c->act;
        l->attn.rope = m->rope;
        l->attn.norm_eps = (float)c->rms_eps;
        MW_TRY(st, mw_model_alloc(m, &l->k_cache, one, "K cache", &m->kv_bytes));
        MW_TRY(st, mw_model_alloc(m, &l->v_cache, one, "V cache", &m->kv_bytes));
    }
fail:
    return st;
}

void mw_model_free(mw_model *m) {
    if (!m) return;
    mw_graphs_free(m);
    if (!m->on_host && m->logits_here) m->k->host_free(m->dev, m->logits_here);
    for (int i = 0; i < MW_MODEL_IN_FLIGHT; i++)
        if (m->chosen_host[i]) m->k->host_free(m->dev, m->chosen_host[i]);
    for (int i = 0; i < m->n_owned; i++) m->k->free(m->dev, m->owned[i]);
    free(m->owned);
    free(m->layer);
    free(m->vocab_cols);
    free(m->q_cols);
    free(m->logits_all);
    free(m);
}
