/* A model.h5 against the model that it was made from: every logical weight, read back through the definition of the
 * rows-v1 layout, and every float tensor bit by bit. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/convert/truth.h"

static char g_what[512];

static const char *wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *wrong(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g_what, sizeof g_what, fmt, ap);
    va_end(ap);
    return g_what;
}

/* A whole dataset; NULL when absent. Free it. */
static void *dataset(const mw_ckpt *c, int index) {
    if (index < 0) return NULL;
    const mw_dataset *d = mw_ckpt_dataset(c, index);
    size_t row = (size_t)d->cols * mw_dtype_size(d->dtype);
    void *p = malloc((size_t)d->rows * row);
    if (mw_ckpt_read(c, d, 0, d->rows, 0, d->cols, p, row, true) != MW_OK) {
        fprintf(stderr, "%s\n", mw_error_text());
        abort();
    }
    return p;
}

float truth_weight(const truth *t, const linear *l, int k, int n) {
    (void)t;
    if (l->dense) return l->dense[n * l->k + k];
    int at = l->group[k] * l->n + n;
    return (float)(l->q[k * l->n + n] - l->zero[at]) * l->scale[at];
}

static const char *last_part(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

const int32_t *truth_down_order(const truth *t, const linear *l) {
    static int32_t order[1024];
    const linear *down = NULL;
    const char *tail = last_part(l->ours);
    if (!t->spec.act_order ||
        (strcmp(tail, "gate_proj") != 0 && strcmp(tail, "up_proj") != 0 && strcmp(tail, "down_proj") != 0))
        return NULL;
    for (int i = 0; i < t->n_lin; i++)
        if (strncmp(t->lin[i].ours, l->ours, strlen("layers/000")) == 0 && strstr(t->lin[i].ours, "down_proj"))
            down = &t->lin[i];
    if (down->groups == 1) return NULL; /* one group: nothing to sort */
    int n = 0;
    for (int g = 0; g < down->groups; g++)
        for (int k = 0; k < down->k; k++)
            if (down->group[k] == g) order[n++] = k;
    return order;
}

/* The matrix of the file as floats [k][n], inputs in the order the file's model has them. */
static float *decode(const mw_ckpt *c, const mw_weight *w) {
    uint8_t *q = dataset(c, w->qweight), *zeros = dataset(c, w->zeros);
    void *scales = dataset(c, w->scales);
    int32_t *perm = dataset(c, w->perm);
    mw_dtype dt = mw_ckpt_dataset(c, w->scales)->dtype;
    float *out = malloc((size_t)(w->k * w->n) * 4);
    for (int64_t p = 0; p < w->k; p++)
        for (int64_t n = 0; n < w->n; n++) {
            int64_t at = p / w->group_size * w->n + n;
            int code = q[p * (w->n / 2) + n / 2] >> (n % 2 * 4) & 15;
            out[(perm ? perm[p] : p) * w->n + n] =
                (float)(code - (zeros ? zeros[at] : 8)) * mw_load_f32(scales, dt, (size_t)at);
        }
    free(q);
    free(zeros);
    free(scales);
    free(perm);
    return out;
}

static const char *compare_bias(const truth *t, const linear *l, const mw_ckpt *c, const mw_weight *w) {
    const int32_t *order = strstr(l->ours, "down_proj") ? NULL : truth_down_order(t, l);
    if ((l->bias != NULL) != (w->bias >= 0))
        return wrong("%s: bias is %s", l->ours, w->bias >= 0 ? "there" : "missing");
    if (!l->bias) return NULL;
    void *b = dataset(c, w->bias);
    mw_dtype dt = mw_ckpt_dataset(c, w->bias)->dtype;
    const char *bad = dt != t->spec.dense_dtype ? wrong("%s: bias is %s", l->ours, mw_dtype_name(dt)) : NULL;
    for (int n = 0; n < l->n && !bad; n++)
        if (mw_load_f32(b, dt, (size_t)n) != l->bias[order ? order[n] : n])
            bad = wrong("%s: bias[%d] = %g", l->ours, n, (double)mw_load_f32(b, dt, (size_t)n));
    free(b);
    return bad;
}

/* Parts that must be there, and must not. */
static const char *compare_parts(const truth *t, const linear *l, const mw_ckpt *c, const mw_weight *w) {
    const spec *s = &t->spec;
    bool down = strstr(l->ours, "down_proj") != NULL;
    bool all_eight = true;
    for (int i = 0; i < l->groups * l->n; i++) all_eight = all_eight && l->zero[i] == 8;
    if (w->k != l->k || w->n != l->n || w->group_size != l->k / l->groups) return wrong("%s: wrong extents", l->ours);
    if (all_eight != (w->zeros < 0)) return wrong("%s: zeros %s", l->ours, all_eight ? "kept" : "lost");
    if ((s->act_order && l->groups > 1 && !down) != (w->perm >= 0))
        return wrong("%s: perm %s", l->ours, w->perm >= 0 ? "kept" : "lost");
    mw_dtype dt = mw_ckpt_dataset(c, w->scales)->dtype, want = s->format == F_MARLIN ? MW_F16 : s->scale_dtype;
    if (dt != want) return wrong("%s: scales are %s", l->ours, mw_dtype_name(dt));
    return NULL;
}

static const char *compare_int4(const truth *t, const linear *l, const mw_ckpt *c) {
    const mw_weight *w = mw_ckpt_find(c, l->ours);
    if (!w || w->kind != MW_INT4) return wrong("%s: not an int4 weight", l->ours);
    const char *bad = compare_parts(t, l, c, w);
    if (!bad) bad = compare_bias(t, l, c, w);
    if (bad) return bad;
    const int32_t *order = truth_down_order(t, l);
    bool down = strstr(l->ours, "down_proj") != NULL;
    float *x = decode(c, w);
    for (int k = 0; k < l->k && !bad; k++)
        for (int n = 0; n < l->n && !bad; n++) {
            /* with act-order the inner channels of the MLP come in down's order: its rows, gate's and up's columns */
            float want = truth_weight(t, l, order && down ? order[k] : k, order && !down ? order[n] : n);
            float have = x[k * l->n + n];
            if (memcmp(&have, &want, 4) != 0 && !(have == 0 && want == 0))
                bad = wrong("%s: w[%d,%d] = %g, expected %g", l->ours, k, n, (double)have, (double)want);
        }
    free(x);
    return bad;
}

/* A float tensor of the folder against its dataset. */
static const char *compare_float(const truth *t, const char *ours, const char *hf, const mw_ckpt *c) {
    const spec *s = &t->spec;
    const mw_weight *w = mw_ckpt_find(c, ours);
    tensor *src = find_tensor((tensors *)&t->st, hf);
    if (!w || w->weight < 0) return wrong("%s: missing", ours);
    const mw_dataset *d = mw_ckpt_dataset(c, w->weight);
    mw_dtype from = strcmp(src->dtype, "F16") == 0 ? MW_F16 : strcmp(src->dtype, "BF16") == 0 ? MW_BF16 : MW_F32;
    /* f32 matrices are narrowed, f32 norms are not */
    mw_dtype to = from == MW_F32 && src->n_dims == 2 ? mw_ckpt_config(c)->act : from;
    if (d->dtype != to) return wrong("%s: is %s, expected %s", ours, mw_dtype_name(d->dtype), mw_dtype_name(to));
    if (s->dense_dtype == MW_F16 && mw_ckpt_config(c)->act != MW_F16) return wrong("activation dtype");
    int64_t n = src->n_dims == 2 ? src->dim[0] * src->dim[1] : src->dim[0];
    if (d->rows * d->cols != n) return wrong("%s: %lld elements", ours, (long long)(d->rows * d->cols));
    void *p = dataset(c, w->weight);
    const char *bad = NULL;
    for (int64_t i = 0; i < n && !bad; i++) {
        float want = mw_load_f32(src->data, from, (size_t)i), have = mw_load_f32(p, to, (size_t)i);
        if (to != from) want = to == MW_F16 ? mw_f16_to_f32(mw_f32_to_f16(want)) : mw_bf16_to_f32(mw_f32_to_bf16(want));
        if (memcmp(&want, &have, 4) != 0)
            bad = wrong("%s[%lld] = %g, expected %g", ours, (long long)i, (double)have, (double)want);
    }
    free(p);
    return bad;
}

static const char *compare_floats(const truth *t, const mw_ckpt *c) {
    const char *bad = NULL;
    for (int i = 0; i < t->st.n && !bad; i++) {
        const char *hf = t->st.t[i].name;
        char ours[160];
        int layer, used = 0;
        size_t n = strlen(hf);
        if (n < 7 || strcmp(hf + n - 7, ".weight") != 0) continue;
        if (t->spec.tied && strcmp(hf, "lm_head.weight") == 0) continue;
        if (sscanf(hf, "model.layers.%d.%n", &layer, &used) == 1 && used)
            snprintf(ours, sizeof ours, "layers/%03d/%.*s", layer, (int)(n - 7 - (size_t)used), hf + used);
        else
            snprintf(ours, sizeof ours, "%.*s", (int)(n - 7 - (hf[0] == 'm' ? 6 : 0)), hf + (hf[0] == 'm' ? 6 : 0));
        for (char *p = ours; *p; p++)
            if (*p == '.') *p = '/';
        bad = compare_float(t, ours, hf, c);
    }
    return bad;
}

const char *truth_compare(const truth *t, const mw_ckpt *c) {
    const mw_model_config *m = mw_ckpt_config(c);
    const char *bad = NULL;
    if (m->hidden != t->hidden || m->intermediate != t->inner || m->n_layers != t->layers || m->n_heads != t->heads ||
        m->n_kv_heads != t->kv_heads || m->head_dim != t->head_dim || m->vocab != t->vocab ||
        m->tie_embeddings != t->spec.tied || m->qk_norm != (strcmp(t->spec.family, "qwen3") == 0) ||
        strcmp(m->model_type, t->spec.family) != 0 || m->bos_id != 1 || m->n_eos != 1 || m->eos_id[0] != 2)
        return wrong("config differs");
    if (t->spec.tied && mw_ckpt_find(c, "lm_head")) return wrong("tied model has an lm_head");
    for (int i = 0; i < t->n_lin && !bad; i++)
        bad = t->lin[i].dense ? compare_bias(t, &t->lin[i], c, mw_ckpt_find(c, t->lin[i].ours))
                              : compare_int4(t, &t->lin[i], c);
    return bad ? bad : compare_floats(t, c);
}
