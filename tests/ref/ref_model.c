#include "tests/ref/ref_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/repack.h"

typedef struct {
    int64_t k, n;
    float *w;     /* [k][n]: rows in the order of the layer's true inputs */
    double *bias; /* [n] or NULL */
} lin;

typedef struct {
    double *attn_norm, *mlp_norm, *q_norm, *k_norm;
    lin q, k, v, o, gate, up, down;
} layer;

struct ref_model {
    mw_model_config cfg;
    layer *layer;
    lin embed, head; /* embed: [vocab][hidden] as k = vocab */
    double *norm;
};

static mw_status read_vector(const mw_ckpt *c, int dataset, double **out) {
    const mw_dataset *d = mw_ckpt_dataset(c, dataset);
    char *raw = malloc((size_t)d->cols * 4);
    *out = malloc((size_t)d->cols * sizeof **out);
    mw_status st = mw_ckpt_read(c, d, 0, 1, 0, d->cols, raw, 0, true);
    for (int64_t i = 0; i < d->cols; i++) (*out)[i] = (double)mw_load_f32(raw, d->dtype, (size_t)i);
    free(raw);
    return st;
}

static mw_status read_norm(const mw_ckpt *c, const char *name, double **out) {
    const mw_weight *w = mw_ckpt_find(c, name);
    *out = NULL;
    return w ? read_vector(c, w->weight, out) : MW_OK;
}

static mw_status read_int4(const mw_ckpt *c, const mw_weight *w, lin *l) {
    mw_status st = MW_OK;
    const mw_dataset *ds = mw_ckpt_dataset(c, w->scales);
    uint8_t *q = malloc((size_t)(w->k * w->n / 2)), *z = malloc((size_t)w->n);
    char *s = malloc((size_t)w->n * 4);
    int32_t *perm = malloc((size_t)w->k * 4);
    for (int64_t i = 0; i < w->k; i++) perm[i] = (int32_t)i;
    if (w->perm >= 0)
        MW_TRY(st, mw_ckpt_read(c, mw_ckpt_dataset(c, w->perm), 0, 1, 0, w->k, perm, (size_t)w->k * 4, true));
    MW_TRY(st, mw_read_int4_rows(c, w, 0, w->k, 0, w->n, q));
    for (int64_t i = 0; i < w->k; i++) {
        int64_t g = i / w->group_size;
        memset(z, 8, (size_t)w->n);
        MW_TRY(st, mw_read_group_rows(c, w, ds, g, 1, s));
        if (w->zeros >= 0) MW_TRY(st, mw_read_group_rows(c, w, mw_ckpt_dataset(c, w->zeros), g, 1, z));
        for (int64_t j = 0; j < w->n; j++) {
            int v = q[(i * w->n + j) / 2] >> (4 * (j & 1)) & 15;
            l->w[perm[i] * w->n + j] = (float)(v - z[j]) * mw_load_f32(s, ds->dtype, (size_t)j);
        }
    }
fail:
    free(q);
    free(z);
    free(s);
    free(perm);
    return st;
}

static mw_status read_linear(const mw_ckpt *c, const char *name, lin *l) {
    mw_status st = MW_OK;
    const mw_weight *w = mw_ckpt_find(c, name);
    l->k = w->k;
    l->n = w->n;
    l->w = malloc((size_t)(w->k * w->n) * sizeof *l->w);
    if (w->bias >= 0) MW_TRY(st, read_vector(c, w->bias, &l->bias));
    if (w->kind == MW_INT4) return read_int4(c, w, l);
    const mw_dataset *d = mw_ckpt_dataset(c, w->weight);
    char *row = malloc((size_t)w->k * 4);
    for (int64_t j = 0; j < w->n && st == MW_OK; j++) {
        st = mw_ckpt_read(c, d, j, 1, 0, w->k, row, (size_t)w->k * 4, true);
        for (int64_t i = 0; i < w->k; i++) l->w[i * w->n + j] = mw_load_f32(row, d->dtype, (size_t)i);
    }
    free(row);
fail:
    return st;
}

static mw_status read_layer(const mw_ckpt *c, int i, layer *l) {
    mw_status st = MW_OK;
    const struct {
        const char *name;
        lin *to;
    } lins[] = {{"self_attn/q_proj", &l->q}, {"self_attn/k_proj", &l->k}, {"self_attn/v_proj", &l->v},
                {"self_attn/o_proj", &l->o}, {"mlp/gate_proj", &l->gate}, {"mlp/up_proj", &l->up},
                {"mlp/down_proj", &l->down}};
    const struct {
        const char *name;
        double **to;
    } norms[] = {{"input_layernorm", &l->attn_norm},
                 {"post_attention_layernorm", &l->mlp_norm},
                 {"self_attn/q_norm", &l->q_norm},
                 {"self_attn/k_norm", &l->k_norm}};
    char name[MW_NAME_MAX];
    for (size_t j = 0; j < sizeof lins / sizeof *lins; j++) {
        snprintf(name, sizeof name, "layers/%03d/%s", i, lins[j].name);
        MW_TRY(st, read_linear(c, name, lins[j].to));
    }
    for (size_t j = 0; j < sizeof norms / sizeof *norms; j++) {
        snprintf(name, sizeof name, "layers/%03d/%s", i, norms[j].name);
        MW_TRY(st, read_norm(c, name, norms[j].to));
    }
fail:
    return st;
}

mw_status ref_model_open(ref_model **out, const mw_ckpt *c) {
    mw_status st = MW_OK;
    ref_model *m = calloc(1, sizeof *m);
    m->cfg = *mw_ckpt_config(c);
    m->layer = calloc((size_t)m->cfg.n_layers, sizeof *m->layer);
    MW_TRY(st, read_linear(c, "embed_tokens", &m->embed));
    MW_TRY(st, read_linear(c, m->cfg.tie_embeddings ? "embed_tokens" : "lm_head", &m->head));
    MW_TRY(st, read_norm(c, "norm", &m->norm));
    for (int i = 0; i < m->cfg.n_layers; i++) MW_TRY(st, read_layer(c, i, &m->layer[i]));
    *out = m;
    return MW_OK;
fail:
    ref_model_free(m);
    return st;
}

static void free_lin(lin *l) {
    free(l->w);
    free(l->bias);
}

void ref_model_free(ref_model *m) {
    if (!m) return;
    for (int i = 0; i < m->cfg.n_layers; i++) {
        layer *l = &m->layer[i];
        lin *lins[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (int j = 0; j < 7; j++) free_lin(lins[j]);
        free(l->attn_norm);
        free(l->mlp_norm);
        free(l->q_norm);
        free(l->k_norm);
    }
    free(m->layer);
    free_lin(&m->embed);
    free_lin(&m->head);
    free(m->norm);
    free(m);
}

/* y[t] = x[t] W + b */
static void apply(const lin *l, const double *x, int t, double *y) {
    for (int r = 0; r < t; r++) {
        double *out = y + (int64_t)r * l->n;
        for (int64_t j = 0; j < l->n; j++) out[j] = l->bias ? l->bias[j] : 0;
        for (int64_t i = 0; i < l->k; i++) {
            double v = x[(int64_t)r * l->k + i];
            const float *w = l->w + i * l->n;
            for (int64_t j = 0; j < l->n; j++) out[j] += v * (double)w[j];
        }
    }
}

static void norm(const double *x, const double *w, double eps, int64_t n, double *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    double r = 1 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * r * w[i];
}

static double angle(const mw_model_config *c, int64_t i, int pos) {
    double f = pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
    if (c->rope_type == MW_ROPE_LINEAR) f /= c->rope_factor;
    if (c->rope_type == MW_ROPE_LLAMA3) {
        double len = 2 * acos(-1.0) / f, orig = (double)c->rope_original_max;
        if (len > orig / c->rope_low_freq) {
            f /= c->rope_factor;
        } else if (len >= orig / c->rope_high_freq) {
            double t = (orig / len - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
            f = (1 - t) * f / c->rope_factor + t * f;
        }
    }
    return pos * f;
}

static void rotate(const mw_model_config *c, double *head, const double *head_norm, int pos) {
    int64_t half = c->head_dim / 2;
    if (head_norm) norm(head, head_norm, c->rms_eps, c->head_dim, head);
    for (int64_t i = 0; i < half; i++) {
        double a = angle(c, i, pos), x = head[i], y = head[i + half];
        head[i] = x * cos(a) - y * sin(a);
        head[i + half] = y * cos(a) + x * sin(a);
    }
}

static void attend(const mw_model_config *c, const double *q, const double *k, const double *v, int t, double *out) {
    int64_t hd = c->head_dim, nq = c->n_heads, nkv = c->n_kv_heads;
    double *p = malloc((size_t)t * sizeof *p);
    for (int r = 0; r < t; r++)
        for (int64_t h = 0; h < nq; h++) {
            int64_t g = h / (nq / nkv);
            int first = c->window > 0 && r + 1 > c->window ? r + 1 - (int)c->window : 0;
            double best = -INFINITY, sum = 0;
            for (int s = first; s <= r; s++) {
                double d = 0;
                for (int64_t i = 0; i < hd; i++) d += q[(r * nq + h) * hd + i] * k[(s * nkv + g) * hd + i];
                p[s] = d / sqrt((double)hd);
                if (p[s] > best) best = p[s];
            }
            for (int s = first; s <= r; s++) sum += p[s] = exp(p[s] - best);
            for (int64_t i = 0; i < hd; i++) {
                double a = 0;
                for (int s = first; s <= r; s++) a += p[s] * v[(s * nkv + g) * hd + i];
                out[(r * nq + h) * hd + i] = a / sum;
            }
        }
    free(p);
}

static void run_layer(const mw_model_config *c, const layer *l, double *x, int t) {
    int64_t h = c->hidden, qn = c->n_heads * c->head_dim, kn = c->n_kv_heads * c->head_dim, mn = c->intermediate;
    size_t T = (size_t)t;
    double *xn = malloc(T * (size_t)h * 8), *q = malloc(T * (size_t)qn * 8), *k = malloc(T * (size_t)kn * 8);
    double *v = malloc(T * (size_t)kn * 8), *a = malloc(T * (size_t)qn * 8), *y = malloc(T * (size_t)h * 8);
    double *g = malloc(T * (size_t)mn * 8), *u = malloc(T * (size_t)mn * 8);
    for (int r = 0; r < t; r++) norm(x + r * h, l->attn_norm, c->rms_eps, h, xn + r * h);
    apply(&l->q, xn, t, q);
    apply(&l->k, xn, t, k);
    apply(&l->v, xn, t, v);
    for (int r = 0; r < t; r++) {
        for (int64_t i = 0; i < c->n_heads; i++) rotate(c, q + r * qn + i * c->head_dim, l->q_norm, r);
        for (int64_t i = 0; i < c->n_kv_heads; i++) rotate(c, k + r * kn + i * c->head_dim, l->k_norm, r);
    }
    attend(c, q, k, v, t, a);
    apply(&l->o, a, t, y);
    for (int64_t i = 0; i < t * h; i++) x[i] += y[i];
    for (int r = 0; r < t; r++) norm(x + r * h, l->mlp_norm, c->rms_eps, h, xn + r * h);
    apply(&l->gate, xn, t, g);
    apply(&l->up, xn, t, u);
    for (int64_t i = 0; i < t * mn; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
    apply(&l->down, g, t, y);
    for (int64_t i = 0; i < t * h; i++) x[i] += y[i];
    free(xn);
    free(q);
    free(k);
    free(v);
    free(a);
    free(y);
    free(g);
    free(u);
}

double ref_model_logits(const ref_model *m, const int32_t *ids, int n, double *logits) {
    int64_t h = m->cfg.hidden;
    double *x = malloc((size_t)n * (size_t)h * 8), largest = 0;
    for (int r = 0; r < n; r++) /* embed.w is [hidden][vocab]: the loader transposes every dense matrix */
        for (int64_t i = 0; i < h; i++) x[r * h + i] = (double)m->embed.w[i * m->embed.n + ids[r]];
    for (int i = 0; i < m->cfg.n_layers; i++) {
        run_layer(&m->cfg, &m->layer[i], x, n);
        for (int64_t j = 0; j < n * h; j++) largest = isnan(x[j]) ? INFINITY : fmax(largest, fabs(x[j]));
    }
    for (int r = 0; r < n; r++) norm(x + r * h, m->norm, m->cfg.rms_eps, h, x + r * h);
    apply(&m->head, x, n, logits);
    free(x);
    return largest;
}
