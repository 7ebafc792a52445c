#include "shard/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/ckpt_internal.h"
#include "shard/roles.h"
#include "shard/synthetic_models.h"

#define PREFIX "synthetic:"

/* Bytes of a table: a prime number of cache lines, so that rows of weights do not repeat in step with it. */
#define TABLE_BYTES ((size_t)16381 * 64)

typedef enum { WORDS, ZEROS, SCALES, O_SCALES, DOWN_SCALES, DENSE, NORM, BIAS, N_TABLES } table;

struct mw_synthetic {
    char *table[N_TABLES]; /* TABLE_BYTES each, in the dtype of the datasets that read it */
};

typedef struct {
    mw_model_config cfg;
    int64_t group; /* -1: a scale a column */
    bool zeros, head_int4;
    mw_dtype dtype; /* of scales, embeddings, norms and biases */
} spec;

bool mw_is_synthetic(const char *path) {
    return path && strncmp(path, PREFIX, strlen(PREFIX)) == 0;
}

/* ---- the name --------------------------------------------------------------------------------------------------- */

static mw_status unknown_model(const char *path) {
    mw_status st = MW_OK;
    mw_str list = {0};
    for (int i = 0; mw_synthetic_name(i); i++)
        MW_TRY(st, mw_str_addf(&list, "%s%s", i ? ", " : "", mw_synthetic_name(i)));
    st = MW_FAIL(MW_ERR_USAGE, "%s: no such model; known are %s", path, list.p);
fail:
    mw_str_free(&list);
    return st;
}

static mw_status parse_option(const char *path, const char *o, size_t n, spec *s) {
    char text[32], end;
    long v;
    snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1), o);
    if (strcmp(text, "zeros") == 0) {
        s->zeros = true;
    } else if (strcmp(text, "head=int4") == 0) {
        s->head_int4 = true;
        s->cfg.tie_embeddings = false;
    } else if (strcmp(text, "act=f16") == 0 || strcmp(text, "act=bf16") == 0) {
        s->cfg.act = s->dtype = text[4] == 'f' ? MW_F16 : MW_BF16;
    } else if (sscanf(text, "group=%ld%c", &v, &end) == 1 && (v == -1 || v == 32 || v == 64 || v == 128)) {
        s->group = v;
    } else if (sscanf(text, "layers=%ld%c", &v, &end) == 1 && v >= 1 && v <= MW_MAX_LAYERS) {
        s->cfg.n_layers = v;
    } else {
        return MW_FAIL(MW_ERR_USAGE,
                       "%s: option '%s': expected layers=N, group=32, 64, 128 or -1, zeros, head=int4, act=f16 or "
                       "act=bf16",
                       path, text);
    }
    return MW_OK;
}

static mw_status parse(const char *path, spec *s) {
    const char *name = path + strlen(PREFIX);
    size_t n = strcspn(name, ",");
    *s = (spec){.group = 128, .dtype = MW_F16};
    if (!mw_synthetic_config(name, n, &s->cfg)) return unknown_model(path);
    for (const char *o = name + n; *o == ',';) {
        n = strcspn(++o, ",");
        mw_status st = parse_option(path, o, n, s);
        if (st != MW_OK) return st;
        o += n;
    }
    return MW_OK;
}

/* ---- the tables ------------------------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *s) {
    *s += 0x9e3779b97f4a7c15u;
    uint64_t x = *s;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill_floats(char *p, mw_dtype t, float mean, float spread, uint64_t seed) {
    for (size_t i = 0; i < TABLE_BYTES / mw_dtype_size(t); i++) {
        float v = mean + spread * ((float)(next(&seed) >> 40) * 0x1p-23f - 1);
        ((uint16_t *)p)[i] = t == MW_F16 ? mw_f32_to_f16(v) : mw_f32_to_bf16(v);
    }
}

/* Weights of -7 .. 7 at random, so that their mean is 0: words without a nibble 0, which would be -8. A mean of -1/2,
 * as all sixteen would have, adds the same number to every output, K times the inputs' mean, and grows with every
 * layer. */
static uint64_t centred(uint64_t x) {
    uint64_t none = ~(x | x >> 1 | x >> 2 | x >> 3) & 0x1111111111111111u;
    return x | none << 3;
}

/* The mean scale by which outputs are `gain` times as large as inputs, of K rows. A weight's variance is 17.5 scale^2,
 * times 13/12 for scales within half of their mean. No f16 scale is subnormal. */
static float scale_for(int64_t k, double gain) {
    return (float)fmax(gain / sqrt(17.5 * 13 / 12 * (double)k), 0x1p-13);
}

static mw_status make_tables(mw_synthetic **out, const spec *s) {
    mw_status st = MW_OK;
    mw_synthetic *y = NULL;
    uint64_t seed = 1;
    MW_TRY(st, MW_CALLOC(&y, 1, "synthetic weights"));
    for (int i = 0; i < N_TABLES; i++) MW_TRY(st, mw_alloc64((void **)&y->table[i], TABLE_BYTES, "synthetic weights"));
    for (size_t i = 0; i < TABLE_BYTES / 8; i++) ((uint64_t *)y->table[WORDS])[i] = centred(next(&seed));
    for (size_t i = 0; i < TABLE_BYTES; i++) y->table[ZEROS][i] = (char)(6 + next(&seed) % 5);
    /* What a layer adds to the residual stream, twice, is 1/sqrt(2 n_layers): in the end it is about 1, or sqrt(2
     * n_layers) if every layer were to add the same. */
    const mw_model_config *cfg = &s->cfg;
    const double add = 1 / sqrt(2.0 * (double)cfg->n_layers);
    const float in = scale_for(cfg->hidden, 1), o = scale_for((int64_t)cfg->n_heads * cfg->head_dim, add),
                down = scale_for(cfg->intermediate, add);
    fill_floats(y->table[SCALES], s->dtype, in, in / 2, 2);
    fill_floats(y->table[O_SCALES], s->dtype, o, o / 2, 6);
    fill_floats(y->table[DOWN_SCALES], s->dtype, down, down / 2, 7);
    fill_floats(y->table[DENSE], s->dtype, 0, 0.03f, 3);
    fill_floats(y->table[NORM], s->dtype, 1, 0.1f, 4);
    fill_floats(y->table[BIAS], s->dtype, 0, 0.1f, 5);
    *out = y;
    return MW_OK;
fail:
    mw_synthetic_free(y);
    return st;
}

void mw_synthetic_free(mw_synthetic *s) {
    if (!s) return;
    for (int i = 0; i < N_TABLES; i++) free(s->table[i]);
    free(s);
}

static table table_of(const mw_dataset *d) {
    const char *part = strrchr(d->name, '/') + 1;
    if (strcmp(part, mw_part_name(MW_PART_QWEIGHT)) == 0) return WORDS;
    if (strcmp(part, mw_part_name(MW_PART_ZEROS)) == 0) return ZEROS;
    if (strcmp(part, mw_part_name(MW_PART_SCALES)) == 0)
        return strstr(d->name, "o_proj") ? O_SCALES : strstr(d->name, "down_proj") ? DOWN_SCALES : SCALES;
    if (strcmp(part, mw_part_name(MW_PART_BIAS)) == 0) return BIAS;
    return d->full_rows > 1 ? DENSE : NORM;
}

void mw_synthetic_read(const mw_synthetic *s, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0, int64_t nc,
                       void *dst, size_t dst_ld) {
    const char *from = s->table[table_of(d)];
    size_t elem = mw_dtype_size(d->dtype), seg = (size_t)nc * elem;
    for (int64_t r = 0; r < nr; r++) {
        char *to = (char *)dst + (size_t)r * dst_ld;
        size_t at = (size_t)((d->offset + (uint64_t)((r0 + r) * d->cols + c0) * elem) % TABLE_BYTES);
        for (size_t left = seg; left > 0;) {
            size_t n = TABLE_BYTES - at < left ? TABLE_BYTES - at : left;
            memcpy(to, from + at, n);
            to += n;
            left -= n;
            at = 0;
        }
    }
}

/* ---- the directory ---------------------------------------------------------------------------------------------- */

static int add(mw_ckpt *c, const char *weight, mw_part part, mw_dtype t, int64_t rows, int64_t cols) {
    mw_dataset *d = &c->dataset[c->h.n_datasets];
    snprintf(d->name, sizeof d->name, "%.80s/%s", weight, mw_part_name(part));
    d->dtype = t;
    d->rows = d->full_rows = d->block_rows = rows;
    d->cols = d->full_cols = d->block_cols = cols;
    if (part == MW_PART_QWEIGHT || part == MW_PART_WEIGHT) d->block_rows = rows < 64 ? rows : 64;
    d->offset = (c->h.file_size + 63) / 64 * 64;
    c->h.file_size = d->offset + (uint64_t)(rows * cols) * mw_dtype_size(t);
    return c->h.n_datasets++;
}

static bool wants_bias(const mw_model_config *cfg, const char *name) {
    return strcmp(cfg->model_type, "qwen2") == 0 &&
           (strstr(name, "q_proj") || strstr(name, "k_proj") || strstr(name, "v_proj"));
}

static mw_status add_weight(mw_ckpt *c, const spec *s, const char *name) {
    mw_expected e;
    mw_weight *w = &c->weight[c->h.n_weights++];
    *w = (mw_weight){.qweight = -1, .scales = -1, .zeros = -1, .perm = -1, .bias = -1, .weight = -1};
    snprintf(w->name, sizeof w->name, "%s", name);
    if (!mw_roles_expect(&s->cfg, name, &e)) return MW_FAIL(MW_ERR_INTERNAL, "%s: no such weight", name);
    w->k = e.k;
    w->n = e.n;
    if (e.shape != MW_SHAPE_LINEAR || (strcmp(name, "lm_head") == 0 && !s->head_int4)) {
        w->kind = e.shape == MW_SHAPE_VECTOR ? MW_VECTOR : MW_DENSE16;
        w->weight = add(c, name, MW_PART_WEIGHT, s->dtype, e.shape == MW_SHAPE_VECTOR ? 1 : e.n,
                        e.shape == MW_SHAPE_VECTOR ? e.n : e.k);
        return MW_OK;
    }
    int64_t wide = mw_round_up(e.n, MW_TILE_N);
    w->kind = MW_INT4;
    w->group_size = s->group == -1 ? e.k : s->group;
    w->qweight = add(c, name, MW_PART_QWEIGHT, MW_U32, e.k / MW_TILE_K, 2 * wide);
    w->scales = add(c, name, MW_PART_SCALES, s->dtype, e.k / w->group_size, wide);
    if (s->zeros) w->zeros = add(c, name, MW_PART_ZEROS, MW_U8, e.k / w->group_size, wide);
    if (wants_bias(&s->cfg, name)) w->bias = add(c, name, MW_PART_BIAS, s->dtype, 1, e.n);
    return MW_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const mw_weight *)a)->name, ((const mw_weight *)b)->name);
}

static mw_status make_directory(mw_ckpt *c, const spec *s) {
    mw_status st = MW_OK;
    char(*names)[MW_NAME_MAX] = NULL;
    size_t n = 0;
    MW_TRY(st, mw_roles_names(&s->cfg, &names, &n));
    MW_TRY(st, MW_CALLOC(&c->weight, n, "weight directory"));
    MW_TRY(st, MW_CALLOC(&c->dataset, n * MW_PARTS, "dataset directory"));
    for (size_t i = 0; i < n; i++) MW_TRY(st, add_weight(c, s, names[i]));
    qsort(c->weight, (size_t)c->h.n_weights, sizeof *c->weight, by_name);
    MW_TRY(st, mw_directory_check(c, c->path));
fail:
    free(names);
    return st;
}

mw_status mw_ckpt_open_synthetic(mw_ckpt **out, const char *path) {
    mw_status st = MW_OK;
    spec s;
    mw_ckpt *c = NULL;
    MW_TRY(st, parse(path, &s));
    MW_TRY(st, mw_model_config_check(&s.cfg));
    MW_TRY(st, MW_CALLOC(&c, 1, "checkpoint"));
    c->fd = -1;
    c->h.cfg = s.cfg;
    c->h.layout = MW_IN_TILES;
    snprintf(c->h.uuid, sizeof c->h.uuid, "synthetic");
    snprintf(c->h.source_format, sizeof c->h.source_format, "synthetic");
    snprintf(c->h.source_name, sizeof c->h.source_name, "%s", path + strlen(PREFIX));
    c->path = strdup(path);
    if (!c->path) {
        st = MW_FAIL(MW_ERR_NOMEM, "path");
        goto fail;
    }
    MW_TRY(st, make_directory(c, &s));
    MW_TRY(st, make_tables(&c->synthetic, &s));
    *out = c;
    return MW_OK;
fail:
    mw_ckpt_close(c);
    return st;
}
