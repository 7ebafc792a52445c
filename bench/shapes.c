#include "bench/shapes.h"

#include <stdio.h>
#include <string.h>

#include "shard/synthetic.h"

mw_status bench_model_open(bench_model *m, const char *path) {
    *m = (bench_model){0};
    mw_status st = mw_is_synthetic(path) ? mw_ckpt_open_synthetic(&m->ckpt, path) : mw_ckpt_open(&m->ckpt, path);
    if (st != MW_OK) return st;
    const char *base = mw_is_synthetic(path) ? strchr(path, ':') : strrchr(path, '/');
    snprintf(m->name, sizeof m->name, "%.95s", base ? base + 1 : path);
    m->cfg = mw_ckpt_config(m->ckpt);
    return MW_OK;
}

void bench_model_close(bench_model *m) {
    mw_ckpt_close(m->ckpt);
    *m = (bench_model){0};
}

/* Adds the slice of layer 0's `name` to a shape whose columns lie side by side. */
static void join(const mw_plan *p, const char *name, bench_shape *s) {
    char full[MW_NAME_MAX];
    mw_range k, n;
    snprintf(full, sizeof full, "layers/000/%s", name);
    const mw_weight *w = mw_ckpt_find(p->ckpt, full);
    if (!w || w->kind != MW_INT4) return;
    mw_plan_slice(p, 0, w, &k, &n);
    s->k = mw_range_len(k);
    s->n += mw_round_up(mw_range_len(n), MW_TILE_N);
    s->group = mw_plan_local_group(w, k);
}

mw_status bench_model_shapes(const bench_model *m, int tp, bench_shape out[4], int *n) {
    static const struct {
        const char *layer, *part[3];
    } layers[4] = {{"qkv", {"self_attn/q_proj", "self_attn/k_proj", "self_attn/v_proj"}},
                   {"o", {"self_attn/o_proj"}},
                   {"gate_up", {"mlp/gate_proj", "mlp/up_proj"}},
                   {"down", {"mlp/down_proj"}}};
    mw_plan *p = NULL;
    mw_status st = mw_plan_make(&p, m->ckpt, tp);
    if (st != MW_OK) return st;
    *n = 0;
    for (int i = 0; i < 4; i++) {
        bench_shape s = {0};
        snprintf(s.layer, sizeof s.layer, "%s", layers[i].layer);
        for (int j = 0; j < 3 && layers[i].part[j]; j++) join(p, layers[i].part[j], &s);
        if (s.n > 0) out[(*n)++] = s;
    }
    mw_plan_free(p);
    if (*n == 0) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: layer 0 has no int4 matrix", m->name);
    return MW_OK;
}

static double slice_bytes(const mw_plan *p, int rank, const mw_weight *w) {
    mw_range k, n;
    mw_plan_slice(p, rank, w, &k, &n);
    double elements = (double)mw_range_len(k) * (double)mw_range_len(n);
    if (w->kind != MW_INT4) return elements * (double)mw_dtype_size(mw_ckpt_dataset(p->ckpt, w->weight)->dtype);
    double groups = elements / (double)w->group_size;
    return elements / 2 + groups * (double)mw_dtype_size(mw_ckpt_dataset(p->ckpt, w->scales)->dtype) +
           (w->zeros >= 0 ? groups : 0);
}

mw_status bench_model_cost(const bench_model *m, int tp, bench_cost *out) {
    mw_plan *p = NULL;
    mw_status st = mw_plan_make(&p, m->ckpt, tp);
    if (st != MW_OK) return st;
    const mw_model_config *c = m->cfg;
    *out = (bench_cost){0};
    for (int r = 0; r < tp; r++) {
        double bytes = 0;
        for (int i = 0; i < mw_ckpt_n_weights(m->ckpt); i++) {
            const mw_weight *w = mw_ckpt_weight(m->ckpt, i);
            if (strcmp(w->name, "embed_tokens") != 0 || c->tie_embeddings) bytes += slice_bytes(p, r, w);
        }
        double kv = (double)mw_plan_kv_bytes(p, r, mw_dtype_size(c->act));
        if (bytes > out->weight_bytes) out->weight_bytes = bytes;
        if (kv > out->kv_bytes) out->kv_bytes = kv;
    }
    for (int i = 0; i < mw_ckpt_n_weights(m->ckpt); i++) {
        const mw_weight *w = mw_ckpt_weight(m->ckpt, i);
        bool in_layer = strncmp(w->name, "layers/", 7) == 0;
        if (w->kind != MW_VECTOR && in_layer) out->linear_flops += 2 * (double)w->k * (double)w->n;
    }
    out->head_flops = 2 * (double)c->hidden * (double)c->vocab;
    out->attn_flops = 4 * (double)(c->n_layers * c->n_heads * c->head_dim);
    mw_plan_free(p);
    return MW_OK;
}
