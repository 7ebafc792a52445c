#include "shard/hf_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FULL_NAME_MAX (MW_NAME_MAX + 64)

void mw_hf_name(const char *name, char *out) {
    int layer, used = 0;
    char *p = out;
    size_t cap = MW_NAME_MAX + 16;
    if (sscanf(name, "layers/%d%n", &layer, &used) == 1 && used)
        p += snprintf(out, cap, "model.layers.%d", layer);
    else if (strcmp(name, "lm_head") != 0)
        p += snprintf(out, cap, "model.");
    snprintf(p, cap - (size_t)(p - out), "%s", name + used);
    for (; *p; p++)
        if (*p == '/') *p = '.';
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

bool mw_hf_wants_bias(const mw_hf_config *cfg, const char *name) {
    if (ends_with(name, "/q_proj") || ends_with(name, "/k_proj") || ends_with(name, "/v_proj")) return cfg->qkv_bias;
    if (ends_with(name, "/o_proj")) return cfg->o_bias;
    if (ends_with(name, "/gate_proj") || ends_with(name, "/up_proj") || ends_with(name, "/down_proj"))
        return cfg->mlp_bias;
    return false;
}

mw_dtype mw_hf_dtype(const mw_st_tensor *t) {
    return t->dtype == MW_ST_F16 ? MW_F16 : t->dtype == MW_ST_BF16 ? MW_BF16 : MW_F32;
}

/* ---- the survey of one weight ----------------------------------------------------------------------------------- */

typedef struct {
    mw_hf_model *m;
    mw_hf_weight *w;
    bool *used; /* per tensor of the folder, in the order of mw_st_tensor_at */
} survey;

#define ST(t)    (1u << (t))
#define ST_FLOAT (ST(MW_ST_F16) | ST(MW_ST_BF16) | ST(MW_ST_F32))

static const mw_st_tensor *look(const survey *s, const char *part) {
    char name[FULL_NAME_MAX];
    snprintf(name, sizeof name, "%s.%s", s->w->hf, part);
    return mw_st_find(s->m->folder, name);
}

static void mark(const survey *s, const mw_st_tensor *t) {
    size_t lo = 0, hi = mw_st_n_tensors(s->m->folder);
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(mw_st_tensor_at(s->m->folder, mid)->name, t->name) <= 0)
            lo = mid;
        else
            hi = mid;
    }
    s->used[lo] = true;
    s->m->bytes += t->bytes;
}

static mw_status wrong_dtype(const mw_st_tensor *t, unsigned dtypes) {
    char list[96] = "", found[160];
    size_t n = 0;
    for (int d = 0; d < MW_ST_DTYPES && n < sizeof list; d++)
        if (dtypes & ST(d))
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? " or " : "", mw_st_dtype_name((mw_st_dtype)d));
    return MW_FAIL(MW_ERR_FORMAT, "tensor '%s' is %s, expected %s", t->name, mw_st_describe(t, found, sizeof found),
                   list);
}

/* Tensor <hf>.<part> with one of the dtypes and these extents (rows 0: one dimension of cols elements). */
static mw_status take(survey *s, const char *part, unsigned dtypes, int64_t rows, int64_t cols,
                      const mw_st_tensor **out) {
    const mw_st_tensor *t = look(s, part);
    if (!t) return MW_FAIL(MW_ERR_FORMAT, "tensor '%s.%s' is missing", s->w->hf, part);
    if (!(dtypes & ST(t->dtype))) return wrong_dtype(t, dtypes);
    bool ok = rows ? t->n_dims == 2 && t->dim[0] == rows && t->dim[1] == cols : t->n_dims == 1 && t->dim[0] == cols;
    char found[160], expected[64];
    if (!rows)
        snprintf(expected, sizeof expected, "[%lld]", (long long)cols);
    else
        snprintf(expected, sizeof expected, "[%lld, %lld]", (long long)rows, (long long)cols);
    if (!ok)
        return MW_FAIL(MW_ERR_FORMAT, "tensor '%s' is %s, expected shape %s", t->name,
                       mw_st_describe(t, found, sizeof found), expected);
    mark(s, t);
    *out = t;
    return MW_OK;
}

/* As take, but an absent tensor is no error. */
static mw_status take_optional(survey *s, const char *part, unsigned dtypes, int64_t rows, int64_t cols,
                               const mw_st_tensor **out) {
    return look(s, part) ? take(s, part, dtypes, rows, cols, out) : MW_OK;
}

static mw_status check_extents(const survey *s) {
    const mw_hf_weight *w = s->w;
    if (w->k % MW_TILE_K)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "'%s': %lld inputs are not a multiple of %d", w->hf, (long long)w->k,
                       MW_TILE_K);
    if (w->n % 8)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "'%s': %lld outputs are not a multiple of 8", w->hf, (long long)w->n);
    if (w->int4 && w->k % w->group)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "'%s': %lld inputs are not a multiple of group_size %lld", w->hf,
                       (long long)w->k, (long long)w->group);
    return MW_OK;
}

static mw_status survey_bias(survey *s) {
    if (s->w->wants_bias) return take(s, "bias", ST_FLOAT, 0, s->w->n, &s->w->bias);
    /* AutoGPTQ writes one for every layer; the data must then be zero (quant.c) */
    return take_optional(s, "bias", ST_FLOAT, 0, s->w->n, &s->w->bias);
}

static mw_status survey_gptq(survey *s) {
    mw_status st = MW_OK;
    mw_hf_weight *w = s->w;
    const mw_hf_quant *q = &s->m->cfg.quant;
    int64_t groups = w->k / w->group;
    bool must = q->act_order && groups > 1;
    MW_TRY(st, take(s, "qweight", ST(MW_ST_I32), w->k / 8, w->n, &w->main));
    MW_TRY(st, take(s, "qzeros", ST(MW_ST_I32), groups, w->n / 8, &w->zeros));
    MW_TRY(st, take(s, "scales", ST_FLOAT, groups, w->n, &w->scales));
    MW_TRY(st, (must ? take : take_optional)(s, "g_idx", ST(MW_ST_I32), 0, w->k, &w->g_idx));
fail:
    return st;
}

static mw_status survey_awq(survey *s) {
    mw_status st = MW_OK;
    mw_hf_weight *w = s->w;
    int64_t groups = w->k / w->group;
    MW_TRY(st, take(s, "qweight", ST(MW_ST_I32), w->k, w->n / 8, &w->main));
    MW_TRY(st, take(s, "qzeros", ST(MW_ST_I32), groups, w->n / 8, &w->zeros));
    MW_TRY(st, take(s, "scales", ST_FLOAT, groups, w->n, &w->scales));
fail:
    return st;
}

static mw_status survey_ct(survey *s) {
    mw_status st = MW_OK;
    mw_hf_weight *w = s->w;
    const mw_hf_quant *q = &s->m->cfg.quant;
    int64_t groups = w->k / w->group;
    bool must = q->act_order && groups > 1;
    MW_TRY(st, take(s, "weight_packed", ST(MW_ST_I32), w->n, w->k / 8, &w->main));
    MW_TRY(st, take(s, "weight_scale", ST_FLOAT, w->n, groups, &w->scales));
    MW_TRY(st, take(s, "weight_shape", ST(MW_ST_I64) | ST(MW_ST_I32), 0, 2, &w->extents));
    /* "symmetric" is not believed, but "asymmetric" is: without its zero points the weights would be others. */
    MW_TRY(st,
           (q->asymmetric ? take : take_optional)(s, "weight_zero_point", ST(MW_ST_I32), w->n / 8, groups, &w->zeros));
    MW_TRY(st, (must ? take : take_optional)(s, "weight_g_idx", ST(MW_ST_I32), 0, w->k, &w->g_idx));
fail:
    return st;
}

static mw_status survey_marlin(survey *s) {
    mw_status st = MW_OK;
    mw_hf_weight *w = s->w;
    if (w->n % MW_TILE_N)
        return MW_FAIL(MW_ERR_FORMAT, "'%s': %lld outputs do not fill Marlin tiles of %d", w->hf, (long long)w->n,
                       MW_TILE_N);
    MW_TRY(st, take(s, "B", ST(MW_ST_I32), w->k / MW_TILE_K, 2 * w->n, &w->main));
    MW_TRY(st, take(s, "s", ST(MW_ST_F16), w->k / w->group, w->n, &w->scales));
fail:
    return st;
}

/* lm_head of a model that ties it to the embedding, as a weight of its own: the same tensor, or the one that the folder
 * has beside it. */
static mw_status survey_own_head(survey *s) {
    mw_status st = MW_OK;
    mw_hf_weight *w = s->w;
    MW_TRY(st, take_optional(s, "weight", ST_FLOAT, w->n, w->k, &w->main));
    s->m->tied_head = w->main;
    if (!w->main) {
        const mw_hf_weight *embed = mw_hf_find(s->m, "embed_tokens");
        if (!embed || !embed->main) return MW_FAIL(MW_ERR_INTERNAL, "lm_head is looked for before the embedding");
        w->main = embed->main;
        s->m->bytes += w->main->bytes; /* read twice */
    }
fail:
    return st;
}

/* Is the layer quantised? The tensors say so: mixed files (a dense lm_head, modules left out) are the rule. */
static bool is_int4(const survey *s) {
    static const char *const part[] = {
        [MW_HF_GPTQ] = "qweight", [MW_HF_AWQ] = "qweight", [MW_HF_CT] = "weight_packed", [MW_HF_MARLIN] = "B"};
    mw_hf_format f = s->m->cfg.quant.format;
    if (f == MW_HF_DENSE || s->w->shape != MW_SHAPE_LINEAR) return false;
    bool own_head = s->m->cfg.own_head && strcmp(s->w->name, "lm_head") == 0; /* may be the embedding */
    /* neither: the error should name the quantised tensor */
    return look(s, part[f]) != NULL || (!look(s, "weight") && !own_head);
}

static mw_status survey_weight(survey *s, const char *name) {
    mw_status st = MW_OK;
    mw_hf_weight *w = s->w;
    mw_expected want;
    const mw_hf_quant *q = &s->m->cfg.quant;
    snprintf(w->name, sizeof w->name, "%s", name);
    mw_hf_name(name, w->hf);
    if (!mw_roles_expect(&s->m->cfg.model, name, &want))
        return MW_FAIL(MW_ERR_INTERNAL, "weight '%s' is in the list of names but has no role", name);
    w->shape = want.shape;
    w->k = want.k;
    w->n = want.n;
    w->wants_bias = mw_hf_wants_bias(&s->m->cfg, name);
    w->int4 = is_int4(s);
    if (w->shape == MW_SHAPE_VECTOR) return take(s, "weight", ST_FLOAT, 0, w->n, &w->main);
    if (w->shape == MW_SHAPE_TABLE) return take(s, "weight", ST_FLOAT, w->n, w->k, &w->main);
    w->group = q->group_size == -1 ? w->k : q->group_size;
    bool head = strcmp(name, "lm_head") == 0;
    if (w->int4 || !head) MW_TRY(st, check_extents(s));
    if (head && s->m->cfg.own_head && !w->int4) return survey_own_head(s);
    switch (w->int4 ? q->format : MW_HF_DENSE) {
    case MW_HF_DENSE: MW_TRY(st, take(s, "weight", ST_FLOAT, w->n, w->k, &w->main)); break;
    case MW_HF_GPTQ: MW_TRY(st, survey_gptq(s)); break;
    case MW_HF_AWQ: MW_TRY(st, survey_awq(s)); break;
    case MW_HF_CT: MW_TRY(st, survey_ct(s)); break;
    case MW_HF_MARLIN: MW_TRY(st, survey_marlin(s)); break;
    }
    MW_TRY(st, survey_bias(s));
fail:
    return st;
}

/* ---- the whole folder ------------------------------------------------------------------------------------------- */

/* Buffers that old exporters wrote and nobody needs. */
static bool is_ignorable(const char *name) {
    return ends_with(name, "rotary_emb.inv_freq") || ends_with(name, "rotary_emb.cos_cached") ||
           ends_with(name, "rotary_emb.sin_cached");
}

static mw_status check_leftovers(const survey *s) {
    for (size_t i = 0; i < mw_st_n_tensors(s->m->folder); i++) {
        const mw_st_tensor *t = mw_st_tensor_at(s->m->folder, i);
        char what[160];
        if (!s->used[i] && !is_ignorable(t->name))
            return MW_FAIL(MW_ERR_FORMAT,
                           "tensor '%s' (%s) of file '%s' is unknown: a %s model, %s, has no place for it", t->name,
                           mw_st_describe(t, what, sizeof what), mw_st_file_of(s->m->folder, t),
                           s->m->cfg.model.model_type, mw_hf_format_name(s->m->cfg.quant.format));
    }
    return MW_OK;
}

/* tie_word_embeddings and an lm_head.weight all the same: accepted here, compared with the embedding when it is read.
 */
static mw_status survey_tied_head(survey *s) {
    const mw_model_config *c = &s->m->cfg.model;
    mw_hf_weight head = {.hf = "lm_head"};
    survey h = {s->m, &head, s->used};
    if (!c->tie_embeddings) return MW_OK;
    return take_optional(&h, "weight", ST_FLOAT, c->vocab, c->hidden, &s->m->tied_head);
}

mw_status mw_hf_model_open(mw_hf_model **out, const char *dir, const mw_hf_config *cfg) {
    mw_status st = MW_OK;
    mw_hf_model *m = NULL;
    char(*names)[MW_NAME_MAX] = NULL;
    survey s = {0};
    MW_TRY(st, MW_CALLOC(&m, 1, "model survey"));
    m->cfg = *cfg;
    MW_TRY(st, mw_st_folder_open(&m->folder, dir));
    MW_TRY(st, mw_roles_names(&cfg->model, &names, &m->n_weights));
    MW_TRY(st, MW_CALLOC(&m->weight, m->n_weights, "list of weights"));
    MW_TRY(st, MW_CALLOC(&s.used, mw_st_n_tensors(m->folder), "list of tensors"));
    s.m = m;
    for (size_t i = 0; i < m->n_weights; i++) {
        s.w = &m->weight[i];
        if ((st = survey_weight(&s, names[i])) != MW_OK) {
            mw_error_prefix("%s", dir);
            goto fail;
        }
    }
    MW_TRY(st, survey_tied_head(&s));
    MW_TRY(st, check_leftovers(&s));
    *out = m;
    m = NULL;
fail:
    free(names);
    free(s.used);
    mw_hf_model_close(m);
    return st;
}

void mw_hf_model_close(mw_hf_model *m) {
    if (!m) return;
    mw_st_folder_close(m->folder);
    free(m->weight);
    free(m);
}

const mw_hf_weight *mw_hf_find(const mw_hf_model *m, const char *name) {
    for (size_t i = 0; i < m->n_weights; i++)
        if (strcmp(m->weight[i].name, name) == 0) return &m->weight[i];
    return NULL;
}
