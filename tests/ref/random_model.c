#include "tests/ref/random_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/pack.h"
#include "shard/roles.h"
#include "shard/writer.h"

uint64_t random_next(uint64_t *s) {
    *s += 0x9e3779b97f4a7c15u;
    uint64_t x = *s;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

random_model random_model_default(uint64_t seed) {
    random_model m = {.group = 32, .scale_dtype = MW_F16, .dense_dtype = MW_F16, .scale = 0.05f, .seed = seed};
    m.cfg = (mw_model_config){.model_type = "llama",
                              .hidden = 128,
                              .intermediate = 640,
                              .n_layers = 2,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .head_dim = 32,
                              .vocab = 320,
                              .max_position = 512,
                              .rms_eps = 1e-5,
                              .rope_theta = 10000,
                              .act = MW_F16,
                              .bos_id = 1,
                              .n_eos = 1,
                              .eos_id = {2}};
    return m;
}

static char g_folder[64];

static void remove_folder(void) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", g_folder);
    if (system(cmd) != 0) fprintf(stderr, "could not remove %s\n", g_folder);
}

const char *random_model_path(const char *name) {
    static char path[4][160];
    static int turn;
    if (!g_folder[0]) {
        snprintf(g_folder, sizeof g_folder, "/tmp/mw_test_XXXXXX");
        if (!mkdtemp(g_folder)) abort();
        atexit(remove_folder);
    }
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", g_folder, name);
    return path[turn];
}

typedef struct {
    const random_model *m;
    mw_writer *w;
    uint64_t rng;
} ctx;

static void store(mw_dtype t, void *p, size_t i, float x) {
    if (t == MW_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = t == MW_F16 ? mw_f32_to_f16(x) : mw_f32_to_bf16(x);
}

static mw_status put(ctx *c, const char *weight, mw_part part, mw_dtype t, int64_t group, int64_t rows, int64_t cols,
                     bool one_d, const void *data) {
    char name[MW_NAME_MAX];
    mw_dataset_spec s = {.name = name, .dtype = t, .one_d = one_d, .rows = rows, .cols = cols};
    snprintf(name, sizeof name, "%.80s/%s", weight, mw_part_name(part));
    mw_block_shape(part, c->m->layout, group, rows, cols, &s.block_rows, &s.block_cols);
    return mw_writer_dataset(c->w, &s, data);
}

/* n floats around 0 (or around 1 for norms). */
static mw_status put_floats(ctx *c, const char *weight, mw_part part, mw_dtype t, int64_t rows, int64_t cols,
                            bool one_d, float mean, float spread) {
    size_t n = (size_t)(rows * cols);
    void *p = malloc(n * 4);
    for (size_t i = 0; i < n; i++) store(t, p, i, mean + spread * (float)(random_unit(&c->rng) - 0.5));
    mw_status st = put(c, weight, part, t, 0, rows, cols, one_d, p);
    free(p);
    return st;
}

static mw_status put_int4(ctx *c, const char *name, const mw_expected *e) {
    mw_status st = MW_OK;
    const random_model *m = c->m;
    int64_t k = e->k, n = e->n, g = m->group == -1 ? k : m->group, groups = k / g, wide = mw_round_up(n, 64);
    bool tiles = m->layout == MW_IN_TILES;
    size_t bytes = (size_t)(k * n / 2);
    uint8_t *q = malloc(bytes), *z = malloc((size_t)(groups * wide)), *zp = malloc((size_t)(groups * wide));
    uint16_t *s = calloc((size_t)(groups * wide), 4), *sp = malloc((size_t)(groups * wide) * 4);
    uint32_t *t = malloc((size_t)(k * wide / 2));
    size_t es = mw_dtype_size(m->scale_dtype);
    int64_t stored = tiles ? wide : n;
    for (size_t i = 0; i < bytes; i++) q[i] = (uint8_t)random_next(&c->rng);
    memset(z, 0, (size_t)(groups * wide));
    for (int64_t i = 0; i < groups; i++)
        for (int64_t j = 0; j < n; j++) {
            store(m->scale_dtype, s, (size_t)(i * stored + j), (0.5f + (float)random_unit(&c->rng)) * m->scale);
            z[i * stored + j] = (uint8_t)random_int(&c->rng, 0, 16);
        }
    mw_pack_tiles(q, (size_t)n / 2, k, n, t, (size_t)(2 * wide));
    if (tiles) {
        mw_permute64(s, sp, groups, wide, es);
        mw_permute64(z, zp, groups, wide, 1);
    }
    MW_TRY(st, mw_writer_linear(c->w, name, true, k, n, m->group));
    if (tiles)
        MW_TRY(st, put(c, name, MW_PART_QWEIGHT, MW_U32, m->group, k / 16, 2 * wide, false, t));
    else
        MW_TRY(st, put(c, name, MW_PART_QWEIGHT, MW_U8, m->group, k, n / 2, false, q));
    MW_TRY(st, put(c, name, MW_PART_SCALES, m->scale_dtype, m->group, groups, stored, false, tiles ? sp : s));
    if (m->zeros) MW_TRY(st, put(c, name, MW_PART_ZEROS, MW_U8, m->group, groups, stored, false, tiles ? zp : z));
fail:
    free(q);
    free(z);
    free(zp);
    free(s);
    free(sp);
    free(t);
    return st;
}

static mw_status put_perm(ctx *c, const char *name, int64_t k) {
    int32_t *p = malloc((size_t)k * 4);
    for (int64_t i = 0; i < k; i++) p[i] = (int32_t)i;
    for (int64_t i = k - 1; i > 0; i--) {
        int64_t j = random_int(&c->rng, 0, (int)i);
        int32_t t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
    mw_status st = put(c, name, MW_PART_PERM, MW_I32, 0, 1, k, true, p);
    free(p);
    return st;
}

static mw_status put_linear(ctx *c, const char *name, const mw_expected *e) {
    mw_status st = MW_OK;
    const random_model *m = c->m;
    bool mlp = strstr(name, "mlp/") != NULL, head = strcmp(name, "lm_head") == 0;
    bool dense = head || (mlp && m->dense_mlp) || (m->mixed_qkv && strstr(name, "k_proj"));
    bool qkv = strstr(name, "q_proj") || strstr(name, "k_proj") || strstr(name, "v_proj");
    bool row = strstr(name, "o_proj") || strstr(name, "down_proj");
    if (!dense) {
        MW_TRY(st, put_int4(c, name, e));
        if (m->act_order && !strstr(name, "down_proj")) MW_TRY(st, put_perm(c, name, e->k));
    } else {
        MW_TRY(st, mw_writer_linear(c->w, name, false, e->k, e->n, 0));
        MW_TRY(st, put_floats(c, name, MW_PART_WEIGHT, m->dense_dtype, e->n, e->k, false, 0, 0.2f));
    }
    if ((qkv && m->bias) || (row && m->o_bias))
        MW_TRY(st, put_floats(c, name, MW_PART_BIAS, m->dense_dtype, 1, e->n, true, 0, 0.5f));
fail:
    return st;
}

mw_status random_model_write(const random_model *m, const char *path) {
    mw_status st = MW_OK;
    ctx c = {.m = m, .rng = m->seed};
    char(*names)[MW_NAME_MAX] = NULL;
    size_t n = 0;
    mw_provenance p = {.creator = "test", .source_format = "random", .source_name = "random", .chat = "none"};
    MW_TRY(st, mw_model_config_check(&m->cfg));
    MW_TRY(st, mw_writer_create(&c.w, path, true, &m->cfg, m->layout, &p));
    MW_TRY(st, mw_roles_names(&m->cfg, &names, &n));
    for (size_t i = 0; i < n; i++) {
        mw_expected e;
        mw_roles_expect(&m->cfg, names[i], &e);
        if (e.shape == MW_SHAPE_LINEAR)
            MW_TRY(st, put_linear(&c, names[i], &e));
        else if (e.shape == MW_SHAPE_TABLE)
            MW_TRY(st, put_floats(&c, names[i], MW_PART_WEIGHT, m->dense_dtype, e.n, e.k, false, 0, 2));
        else
            MW_TRY(st, put_floats(&c, names[i], MW_PART_WEIGHT, m->dense_dtype, 1, e.n, true, 1, 0.5f));
    }
    mw_writer *w = c.w;
    c.w = NULL;
    st = mw_writer_commit(w);
fail:
    free(names);
    mw_writer_abort(c.w);
    return st;
}
