/* One step of the model: the order of the kernels and collectives, readable from top to bottom. */
#include "worker/base/clock.h"
#include "worker/model.h"

typedef struct {
    mw_model *m;
    mw_batch b;      /* device pointers */
    int64_t t;       /* rows */
    void *x, *spare; /* the residual stream, and the other one of m->x and m->xn */
    int layer;       /* for messages; -1 outside the layers */
} step_ctx;

mw_status mw_model_wait(mw_model *m) {
    return m->devices_join ? mw_comm_device_wait(m->comm) : m->k->sync(m->dev);
}

/* With MARLIN_CHECK_NAN: name the first place where a value is not finite. */
static mw_status check(step_ctx *c, const char *where, const void *x, int64_t ld, int64_t rows, int64_t n) {
    int64_t bad = 0;
    mw_model *m = c->m;
    if (!m->o.check_nan) return MW_OK;
    mw_status st = mw_model_wait(m); /* counting waits too, but without an eye on the other ranks */
    if (st == MW_OK) st = m->k->count_nonfinite(m->dev, x, ld, rows, n, false, &bad);
    if (st != MW_OK || bad == 0) return st;
    if (c->layer < 0)
        return MW_FAIL(MW_ERR_NUMERIC, "%lld of %lld values are not finite after %s", (long long)bad,
                       (long long)(rows * n), where);
    return MW_FAIL(MW_ERR_NUMERIC, "layer %d: %lld of %lld values are not finite after %s", c->layer, (long long)bad,
                   (long long)(rows * n), where);
}

/* For calls that have finished when they return: how long they took. */
mw_status mw_model_timed(double *total, double start, mw_status st) {
    *total += mw_now_s() - start;
    return st;
}

static mw_status linear(mw_model *m, const mw_linear *w, int64_t rows, const void *x, int64_t ldx, void *y, int64_t ldy,
                        bool y_f32) {
    double start = mw_now_s();
    if (m->on_host) return mw_model_timed(&m->gemm_s, start, m->k->linear(m->dev, w, rows, x, ldx, y, ldy, y_f32));
    mw_status st = mw_timing_enter(&m->timing, m->k, m->dev);
    if (st == MW_OK) st = m->k->linear(m->dev, w, rows, x, ldx, y, ldy, y_f32);
    return st == MW_OK ? mw_timing_leave(&m->timing, m->k, m->dev, MW_TIMED_LINEAR) : st;
}

static bool fuses(mw_model *m, const mw_linear *w, int64_t rows, const mw_fuse *f) {
    return m->k->fuses && m->k->fuses(m->dev, w, rows, f);
}

static mw_status linear_fused(mw_model *m, const mw_linear *w, int64_t rows, const mw_fuse *f, const void *x,
                              int64_t ldx, void *y, int64_t ldy) {
    mw_status st = mw_timing_enter(&m->timing, m->k, m->dev);
    if (st == MW_OK) st = m->k->linear_fused(m->dev, w, rows, f, x, ldx, y, ldy);
    return st == MW_OK ? mw_timing_leave(&m->timing, m->k, m->dev, MW_TIMED_LINEAR) : st;
}

/* Partial results of all ranks added up, on every rank. */
static mw_status reduce(step_ctx *c, void *x) {
    mw_model *m = c->m;
    size_t n = (size_t)(c->t * m->cfg->hidden);
    double start = mw_now_s();
    if (mw_comm_size(m->comm) == 1) return MW_OK;
    if (!m->devices_join) return mw_model_timed(&m->collective_s, start, mw_comm_all_reduce_f32(m->comm, x, n));
    mw_status st = mw_timing_enter(&m->timing, m->k, m->dev);
    if (st == MW_OK) st = mw_comm_device_all_reduce(m->comm, x, n, m->act);
    return st == MW_OK ? mw_timing_leave(&m->timing, m->k, m->dev, MW_TIMED_COLLECTIVE) : st;
}

/* The attention output of all ranks, side by side. */
static mw_status gather_attention(step_ctx *c) {
    mw_model *m = c->m;
    size_t n = (size_t)c->t;
    double start = mw_now_s();
    if (!m->devices_join)
        return mw_model_timed(&m->collective_s, start,
                              mw_comm_gather_cols_f32(m->comm, -1, m->attn, n, m->q_cols, m->attn_all));
    mw_status st = mw_timing_enter(&m->timing, m->k, m->dev);
    if (st == MW_OK)
        st = mw_comm_device_gather_cols(m->comm, m->attn, n, m->q_cols, m->attn_blocks, m->attn_all, m->act);
    return st == MW_OK ? mw_timing_leave(&m->timing, m->k, m->dev, MW_TIMED_COLLECTIVE) : st;
}

/* norm_project where the kernel of the projection norms, too. */
static mw_status norm_project_fused(step_ctx *c, const mw_fuse *f, const mw_proj *p, void *out) {
    int64_t h = c->m->cfg->hidden;
    mw_status st = linear_fused(c->m, &p->part[0], c->t, f, c->x, h, out, p->width);
    if (f->delta) {
        void *old = c->x;
        c->x = c->spare;
        c->spare = old;
    }
    return st;
}

/* x += delta; then the norm, in the order that projection `p` wants its inputs, and the projection itself; where
 * `silu` is not 0, silu(gate) * up of it, so many columns, in rows as wide as before. */
static mw_status norm_project(step_ctx *c, const void *delta, const float *norm, const mw_proj *p, int64_t silu,
                              void *out) {
    mw_status st = MW_OK;
    mw_model *m = c->m;
    int64_t h = m->cfg->hidden;
    float eps = (float)m->cfg->rms_eps;
    mw_fuse all = {.norm = norm, .eps = eps, .delta = delta, .sum = c->spare, .silu_mul = silu > 0},
            behind = {.silu_mul = true};
    bool one = p->n == 1 && p->perm[0] == NULL, halves = one && (!silu || 2 * p->off[1] == p->width);
    if (halves && fuses(m, &p->part[0], c->t, &all)) return norm_project_fused(c, &all, p, out);
    if (halves && silu && fuses(m, &p->part[0], c->t, &behind)) {
        MW_TRY(st, m->k->add_norm(m->dev, c->x, delta, c->spare, c->t, h, norm, eps, NULL));
        return linear_fused(m, &p->part[0], c->t, &behind, c->spare, h, out, p->width);
    }
    for (int i = 0; i < p->n; i++) {
        bool again = i > 0 && p->perm[i] == NULL && p->perm[i - 1] == NULL; /* xn is already in this order */
        if (!again)
            MW_TRY(st, m->k->add_norm(m->dev, c->x, i == 0 ? delta : NULL, c->spare, c->t, h, norm, eps, p->perm[i]));
        char *y = (char *)out + (size_t)p->col[i] * mw_dtype_size(m->act);
        MW_TRY(st, linear(m, &p->part[i], c->t, c->spare, h, y, p->width, false));
    }
    if (silu) MW_TRY(st, m->k->silu_mul(m->dev, out, p->width, out, p->width, c->t, silu, p->off[1]));
fail:
    return st;
}

static mw_status attention(step_ctx *c, const mw_layer *l) {
    mw_status st = MW_OK;
    mw_model *m = c->m;
    const mw_attn *a = &l->attn;
    int64_t width = l->qkv.width, q = (int64_t)a->n_q * a->head_dim, ld = q;
    const void *in = m->attn;
    MW_TRY(st, check(c, "qkv", m->qkv, width, c->t, width));
    MW_TRY(st, m->k->attention(m->dev, a, &c->b, m->qkv, width, l->k_cache, l->v_cache, m->attn, q));
    MW_TRY(st, check(c, "attention", m->attn, q, c->t, q));
    if (l->o_perm) { /* act-order: o_proj's rows are sorted across the heads of all ranks */
        if (mw_comm_size(m->comm) > 1) {
            MW_TRY(st, gather_attention(c));
            in = m->attn_all;
            ld = m->cfg->n_heads * m->cfg->head_dim;
        }
        MW_TRY(st, m->k->gather_cols(m->dev, m->o_in, l->o.k, in, ld, c->t, l->o.k, l->o_perm));
        in = m->o_in;
        ld = l->o.k;
    }
    MW_TRY(st, linear(m, &l->o, c->t, in, ld, m->part, l->o.n, false));
    MW_TRY(st, reduce(c, m->part));
    MW_TRY(st, check(c, "o_proj", m->part, l->o.n, c->t, l->o.n));
fail:
    return st;
}

static mw_status mlp(step_ctx *c, const mw_layer *l) {
    mw_status st = MW_OK;
    mw_model *m = c->m;
    int64_t width = l->gate_up.width;
    MW_TRY(st, check(c, "silu(gate) * up", m->gate_up, width, c->t, l->down.k));
    MW_TRY(st, linear(m, &l->down, c->t, m->gate_up, width, m->part, l->down.n, false));
    MW_TRY(st, reduce(c, m->part));
    MW_TRY(st, check(c, "down_proj", m->part, l->down.n, c->t, l->down.n));
fail:
    return st;
}

/* Embedding and layers; m->residual and, still to be added, m->part hold the result. */
static mw_status layers(step_ctx *c) {
    mw_status st = MW_OK;
    mw_model *m = c->m;
    int64_t h = m->cfg->hidden;
    const mw_range v = m->plan->rank[m->rank].vocab;
    MW_TRY(st, m->k->embed(m->dev, m->x, c->t, h, c->b.token, m->chosen, m->embed, m->embed_dtype, v.lo, v.hi));
    MW_TRY(st, reduce(c, m->x));
    MW_TRY(st, check(c, "embed_tokens", m->x, h, c->t, h));
    const void *delta = NULL; /* the previous block's output, added by the next norm */
    c->x = m->x, c->spare = m->xn;
    for (c->layer = 0; c->layer < m->cfg->n_layers; c->layer++) {
        const mw_layer *l = &m->layer[c->layer];
        MW_TRY(st, norm_project(c, delta, l->attn_norm, &l->qkv, 0, m->qkv));
        MW_TRY(st, attention(c, l));
        MW_TRY(st, norm_project(c, m->part, l->mlp_norm, &l->gate_up, l->down.k, m->gate_up));
        MW_TRY(st, mlp(c, l));
        delta = m->part;
    }
    c->layer = -1;
    m->residual = c->x;
fail:
    return st;
}

/* The ranks' best tokens become the model's, where that can happen on the devices. */
static mw_status join_best(mw_model *m, int n) {
    mw_status st = MW_OK;
    size_t most = (size_t)m->o.max_logits;
    if (!m->devices_join) return MW_OK;
    MW_TRY(st, mw_comm_device_all_gather(m->comm, m->best_token, 2 * most * sizeof(int32_t), m->best_parts));
    st = m->k->best_of(m->dev, m->chosen, m->best_parts, mw_comm_size(m->comm), (int64_t)most, m->vocab_first, n);
fail:
    return st;
}

mw_status mw_model_head(mw_model *m, const int32_t *row, int n) {
    mw_status st = MW_OK;
    const mw_range v = m->plan->rank[m->rank].vocab;
    int64_t h = m->cfg->hidden, valid = (v.hi < m->cfg->vocab ? v.hi : m->cfg->vocab) - v.lo;
    size_t part = (size_t)m->o.max_logits * (size_t)h * mw_dtype_size(m->act);
    char *xs = m->sel, *ps = xs + part, *ns = ps + part;
    float *best = (float *)(m->best_token + m->o.max_logits);
    if (row) {
        MW_TRY(st, m->k->take_rows(m->dev, xs, m->residual, n, h, row));
        MW_TRY(st, m->k->take_rows(m->dev, ps, m->part, n, h, row));
    } else {
        xs = m->residual, ps = m->part; /* nobody needs them any more */
    }
    MW_TRY(st, m->k->add_norm(m->dev, xs, ps, ns, n, h, m->norm, (float)m->cfg->rms_eps, m->lm_head_perm));
    MW_TRY(st, linear(m, &m->lm_head, n, ns, h, m->logits, m->lm_head.n, true));
    if (valid > 0) MW_TRY(st, m->k->argmax(m->dev, m->best_token, best, m->logits, m->lm_head.n, n, valid));
    st = join_best(m, n);
fail:
    return st;
}

mw_status mw_model_enqueue(mw_model *m, const mw_batch *b, const int32_t *logit_row, int n_logits) {
    mw_status st = MW_OK;
    step_ctx c = {.m = m, .b = *b, .layer = -1, .t = b->n_tokens};
    MW_TRY(st, layers(&c));
    if (n_logits > 0) MW_TRY(st, mw_model_head(m, logit_row, n_logits));
fail:
    return st;
}
