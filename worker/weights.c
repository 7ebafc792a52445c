/* From the shard plan to device memory: allocates every weight of this rank and tells the loader what goes where. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model.h"

typedef struct {
    mw_model *m;
    mw_loader *l;
    const mw_ckpt *c;
} build;

mw_status mw_model_alloc(mw_model *m, void **out, size_t bytes, const char *what, uint64_t *total) {
    if (m->n_owned == m->cap_owned) {
        int cap = m->cap_owned ? 2 * m->cap_owned : 256;
        void **p = realloc(m->owned, (size_t)cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "%d allocations", cap);
        m->owned = p;
        m->cap_owned = cap;
    }
    void *p = NULL;
    mw_status st = m->k->alloc(m->dev, &p, bytes ? bytes : 1, what);
    if (st != MW_OK) return st;
    m->owned[m->n_owned++] = p;
    *total += bytes;
    *out = p;
    return MW_OK;
}

static mw_status weight_mem(build *b, void **out, size_t bytes, const char *what) {
    return mw_model_alloc(b->m, out, bytes, what, &b->m->weight_bytes);
}

static const mw_weight *weight_at(const build *b, int layer, const char *name) {
    char full[MW_NAME_MAX];
    if (layer < 0) return mw_ckpt_find(b->c, name);
    snprintf(full, sizeof full, "layers/%03d/%s", layer, name);
    return mw_ckpt_find(b->c, full);
}

static mw_status load_vector(build *b, int dataset, mw_range r, const char *what, const float **out) {
    mw_status st = MW_OK;
    void *p = NULL;
    MW_TRY(st, weight_mem(b, &p, (size_t)mw_range_len(r) * sizeof(float), what));
    MW_TRY(st, mw_load_vector(b->l, dataset, r, p));
    *out = p;
fail:
    return st;
}

static mw_status load_norm(build *b, int layer, const char *name, const float **out) {
    const mw_weight *w = weight_at(b, layer, name);
    if (!w) { /* only q_norm and k_norm may be absent: the directory check saw to the rest */
        *out = NULL;
        return MW_OK;
    }
    return load_vector(b, w->weight, (mw_range){0, w->n}, w->name, out);
}

static mw_status load_perm(build *b, const mw_weight *w, mw_range r, const int32_t **out) {
    mw_status st = MW_OK;
    void *p = NULL;
    *out = NULL;
    if (w->perm < 0) return MW_OK;
    MW_TRY(st, weight_mem(b, &p, (size_t)mw_range_len(r) * sizeof(int32_t), w->name));
    MW_TRY(st, mw_load_perm(b->l, w->perm, r, w->k, p));
    *out = p;
fail:
    return st;
}

/* One or several layers as one int4 matrix, side by side in N; zeros are made up (8) where only some layers have them.
 */
static mw_status load_int4(build *b, const mw_weight *const *w, const mw_range *k, const mw_range *n, int count,
                           mw_linear *out, int64_t *off) {
    mw_status st = MW_OK;
    bool zeros = false;
    void *tiles = NULL, *scales = NULL, *z = NULL;
    int64_t group = mw_plan_local_group(w[0], k[0]), width = 0, kk = mw_range_len(k[0]);
    mw_dtype sdt = mw_ckpt_dataset(b->c, w[0]->scales)->dtype;
    for (int i = 0; i < count; i++) {
        off[i] = width;
        width += mw_round_up(mw_range_len(n[i]), MW_TILE_N);
        zeros |= w[i]->zeros >= 0;
    }
    size_t groups = (size_t)(kk / group);
    MW_TRY(st, weight_mem(b, &tiles, (size_t)(kk * width) / 2, w[0]->name));
    MW_TRY(st, weight_mem(b, &scales, groups * (size_t)width * mw_dtype_size(sdt), w[0]->name));
    if (zeros) MW_TRY(st, weight_mem(b, &z, groups * (size_t)width, w[0]->name));
    for (int i = 0; i < count; i++) {
        char *s = (char *)scales + (size_t)off[i] * mw_dtype_size(sdt);
        MW_TRY(st, mw_load_tiles(b->l, w[i], k[i], n[i], (uint32_t *)tiles + 2 * off[i], (size_t)(2 * width)));
        MW_TRY(st, mw_load_scales(b->l, w[i], k[i], n[i], group, s, (size_t)width));
        if (zeros) MW_TRY(st, mw_load_zeros(b->l, w[i], k[i], n[i], group, (uint8_t *)z + off[i], (size_t)width));
    }
    *out = (mw_linear){.kind = MW_LINEAR_W4, .k = kk, .n = width};
    out->w4 = (mw_w4){.tiles = tiles, .scales = scales, .zeros = z, .scale_dtype = sdt, .group = group};
fail:
    return st;
}

static mw_status load_dense(build *b, const mw_weight *const *w, const mw_range *k, const mw_range *n, int count,
                            mw_linear *out, int64_t *off) {
    mw_status st = MW_OK;
    mw_dtype dt = mw_ckpt_dataset(b->c, w[0]->weight)->dtype;
    int64_t width = 0;
    void *p = NULL;
    for (int i = 0; i < count; i++) off[i] = width, width += mw_range_len(n[i]);
    size_t row = (size_t)mw_range_len(k[0]) * mw_dtype_size(dt);
    MW_TRY(st, weight_mem(b, &p, (size_t)width * row, w[0]->name));
    for (int i = 0; i < count; i++) MW_TRY(st, mw_load_dense(b->l, w[i], k[i], n[i], (char *)p + (size_t)off[i] * row));
    *out = (mw_linear){.kind = MW_LINEAR_DENSE, .k = mw_range_len(k[0]), .n = width};
    out->dense = (mw_dense){.w = p, .dtype = dt};
fail:
    return st;
}

/* The biases of the fused layers as one f32 vector (0 where a layer has none), or NULL when none has. */
static mw_status load_bias(build *b, const mw_weight *const *w, const mw_range *n, int count, const int64_t *off,
                           int64_t width, const float **out) {
    mw_status st = MW_OK;
    bool any = false;
    void *p = NULL;
    *out = NULL;
    for (int i = 0; i < count; i++) any |= w[i]->bias >= 0;
    if (!any) return MW_OK;
    MW_TRY(st, weight_mem(b, &p, (size_t)width * sizeof(float), w[0]->name));
    MW_TRY(st, b->m->k->zero(b->m->dev, p, (size_t)width * sizeof(float)));
    MW_TRY(st, b->m->k->sync(b->m->dev)); /* uploads do not wait for the device's queue */
    for (int i = 0; i < count; i++)
        if (w[i]->bias >= 0) MW_TRY(st, mw_load_vector(b->l, w[i]->bias, n[i], (float *)p + off[i]));
    *out = p;
fail:
    return st;
}

static mw_status load_joined(build *b, const mw_weight *const *w, const mw_range *k, const mw_range *n, int count,
                             mw_linear *out, int64_t *off) {
    mw_status st = MW_OK;
    if (w[0]->kind == MW_INT4)
        MW_TRY(st, load_int4(b, w, k, n, count, out, off));
    else
        MW_TRY(st, load_dense(b, w, k, n, count, out, off));
    MW_TRY(st, load_bias(b, w, n, count, off, out->n, &out->bias));
fail:
    return st;
}

static mw_status same_perm(build *b, const mw_weight *a, const mw_weight *c, bool *same) {
    mw_status st = MW_OK;
    int32_t *pa = NULL, *pc = NULL;
    *same = a->perm < 0 && c->perm < 0;
    if (a->perm < 0 || c->perm < 0) return MW_OK;
    MW_TRY(st, MW_CALLOC(&pa, (size_t)a->k, "permutation"));
    MW_TRY(st, MW_CALLOC(&pc, (size_t)a->k, "permutation"));
    MW_TRY(st, mw_ckpt_read(b->c, mw_ckpt_dataset(b->c, a->perm), 0, 1, 0, a->k, pa, (size_t)a->k * 4, false));
    MW_TRY(st, mw_ckpt_read(b->c, mw_ckpt_dataset(b->c, c->perm), 0, 1, 0, a->k, pc, (size_t)a->k * 4, false));
    *same = memcmp(pa, pc, (size_t)a->k * 4) == 0;
fail:
    free(pa);
    free(pc);
    return st;
}

/* Can two layers with the same input share one matrix? Same storage, group, scale type and input order. */
static mw_status can_join(build *b, const mw_weight *a, const mw_weight *c, bool *yes) {
    *yes = false;
    if (a->kind != c->kind) return MW_OK;
    if (a->kind == MW_DENSE16) {
        *yes = mw_ckpt_dataset(b->c, a->weight)->dtype == mw_ckpt_dataset(b->c, c->weight)->dtype;
        return MW_OK;
    }
    if (a->group_size != c->group_size ||
        mw_ckpt_dataset(b->c, a->scales)->dtype != mw_ckpt_dataset(b->c, c->scales)->dtype)
        return MW_OK;
    return same_perm(b, a, c, yes);
}

static mw_status load_proj(build *b, int layer, const char *const *names, int count, mw_proj *p) {
    mw_status st = MW_OK;
    const mw_weight *w[MW_MAX_PARTS];
    mw_range k[MW_MAX_PARTS], n[MW_MAX_PARTS];
    bool join = true;
    for (int i = 0; i < count; i++) {
        w[i] = weight_at(b, layer, names[i]);
        mw_plan_slice(b->m->plan, b->m->rank, w[i], &k[i], &n[i]);
        bool with_first = true;
        if (i > 0) MW_TRY(st, can_join(b, w[0], w[i], &with_first));
        join &= with_first;
    }
    if (join) {
        p->n = 1;
        MW_TRY(st, load_joined(b, w, k, n, count, &p->part[0], p->off));
        MW_TRY(st, load_perm(b, w[0], k[0], &p->perm[0]));
        p->width = p->part[0].n;
        return MW_OK;
    }
    p->n = count;
    for (int i = 0; i < count; i++) {
        int64_t zero;
        MW_TRY(st, load_joined(b, &w[i], &k[i], &n[i], 1, &p->part[i], &zero));
        MW_TRY(st, load_perm(b, w[i], k[i], &p->perm[i]));
        p->col[i] = p->off[i] = p->width;
        p->width += p->part[i].n;
    }
fail:
    return st;
}

/* A row-parallel layer. Its bias is added once: on rank 0. */
static mw_status load_row(build *b, int layer, const char *name, mw_linear *out, const int32_t **perm) {
    mw_status st = MW_OK;
    const mw_weight *w = weight_at(b, layer, name);
    mw_range k, n;
    int64_t off;
    mw_plan_slice(b->m->plan, b->m->rank, w, &k, &n);
    mw_weight without_bias = *w;
    if (b->m->rank != 0) without_bias.bias = -1;
    const mw_weight *used = b->m->rank != 0 ? &without_bias : w;
    if (w->kind == MW_INT4)
        MW_TRY(st, load_int4(b, &w, &k, &n, 1, out, &off));
    else
        MW_TRY(st, load_dense(b, &w, &k, &n, 1, out, &off));
    MW_TRY(st, load_bias(b, &used, &n, 1, &off, out->n, &out->bias));
    if (perm) MW_TRY(st, load_perm(b, w, k, perm));
fail:
    return st;
}

static mw_status load_layer(build *b, int i) {
    static const char *const qkv[] = {"self_attn/q_proj", "self_attn/k_proj", "self_attn/v_proj"};
    static const char *const gate_up[] = {"mlp/gate_proj", "mlp/up_proj"};
    mw_status st = MW_OK;
    mw_layer *l = &b->m->layer[i];
    MW_TRY(st, load_norm(b, i, "input_layernorm", &l->attn_norm));
    MW_TRY(st, load_norm(b, i, "post_attention_layernorm", &l->mlp_norm));
    MW_TRY(st, load_norm(b, i, "self_attn/q_norm", &l->attn.q_norm));
    MW_TRY(st, load_norm(b, i, "self_attn/k_norm", &l->attn.k_norm));
    MW_TRY(st, load_proj(b, i, qkv, 3, &l->qkv));
    MW_TRY(st, load_row(b, i, "self_attn/o_proj", &l->o, &l->o_perm));
    MW_TRY(st, load_proj(b, i, gate_up, 2, &l->gate_up));
    MW_TRY(st, load_row(b, i, "mlp/down_proj", &l->down, NULL));
fail:
    return st;
}

static mw_status load_vocab(build *b) {
    mw_status st = MW_OK;
    mw_model *m = b->m;
    const mw_weight *e = weight_at(b, -1, "embed_tokens"), *h = weight_at(b, -1, "lm_head");
    mw_range k, n;
    int64_t off;
    void *p = NULL;
    mw_plan_slice(m->plan, m->rank, e, &k, &n);
    m->embed_dtype = mw_ckpt_dataset(b->c, e->weight)->dtype;
    MW_TRY(st, weight_mem(b, &p, (size_t)(mw_range_len(n) * mw_range_len(k)) * mw_dtype_size(m->embed_dtype), e->name));
    MW_TRY(st, mw_load_dense(b->l, e, k, n, p));
    m->embed = p;
    MW_TRY(st, load_norm(b, -1, "norm", &m->norm));
    if (h) {
        MW_TRY(st, load_joined(b, &h, &k, &n, 1, &m->lm_head, &off));
        MW_TRY(st, load_perm(b, h, k, &m->lm_head_perm));
    } else { /* tied: the same rows, no second copy */
        m->lm_head = (mw_linear){.kind = MW_LINEAR_DENSE, .k = mw_range_len(k), .n = mw_range_len(n)};
        m->lm_head.dense = (mw_dense){.w = m->embed, .dtype = m->embed_dtype};
    }
fail:
    return st;
}

mw_status mw_model_load(mw_model **out, const mw_kernels *k, mw_dev *dev, mw_comm *comm, const mw_plan *plan,
                        int threads, bool verify, bool progress, mw_phases *phases) {
    mw_status st = MW_OK;
    mw_model *m = NULL;
    mw_progress bar;
    build b = {.c = plan->ckpt};
    MW_TRY(st, MW_CALLOC(&m, 1, "model"));
    m->k = k;
    m->dev = dev;
    m->comm = comm;
    m->plan = plan;
    m->cfg = mw_ckpt_config(plan->ckpt);
    m->rank = mw_comm_rank(comm);
    b.m = m;
    MW_TRY(st, MW_CALLOC(&m->layer, (size_t)m->cfg->n_layers, "layers"));
    MW_TRY(st, mw_loader_open(&b.l, plan->ckpt, k, dev, threads, verify));
    MW_TRY(st, load_vocab(&b));
    for (int i = 0; i < m->cfg->n_layers; i++) MW_TRY(st, load_layer(&b, i));
    mw_phases_end(phases, "memory");
    mw_progress_begin(&bar, "loading", plan->rank[m->rank].file_bytes, progress);
    st = mw_loader_run(b.l, &bar, &m->loaded);
    mw_progress_end(&bar);
    mw_phases_end(phases, "weights");
    if (st != MW_OK) goto fail;
    *out = m;
    m = NULL;
fail:
    mw_loader_close(b.l);
    mw_model_free(m);
    return st;
}
