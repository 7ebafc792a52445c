/* Our own quantiser. What must hold for every group, checked with doubles against the stored numbers alone: each code
 * is the nearest one on the stored grid; the squared error is no worse than that of the unclipped grid, and no worse
 * than any clip ratio tried by hand; the whole matrix in the file is what the groups say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/rtn.h"
#include "tests/convert/truth.h"

static double scale_of(uint16_t bits, mw_dtype t) {
    return t == MW_F16 ? (double)mw_f16_to_f32(bits) : (double)mw_bf16_to_f32(bits);
}

static double round_scale(double s, mw_dtype t) {
    return scale_of(t == MW_F16 ? mw_f32_to_f16((float)s) : mw_f32_to_bf16((float)s), t);
}

/* Squared error of the group on a grid, each weight on its best code. */
static double best_error(const float *x, int n, double scale, int zero) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double least = INFINITY;
        for (int q = 0; q < 16; q++) {
            double e = x[i] - (q - zero) * scale;
            if (e * e < least) least = e * e;
        }
        sum += least;
    }
    return sum;
}

/* Least error over the clip ratios, computed plainly. */
static double reference_error(const float *x, int n, const mw_rtn_opts *o) {
    double lo = 0, hi = 0, least = INFINITY;
    for (int i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    for (int c = 0; c < o->clip_search; c++) {
        double ratio = 1 - c / (2.0 * o->clip_search), s, z = 8;
        if (o->zero_points) {
            s = round_scale((hi - lo) / 15 * ratio, o->scale_dtype);
            z = s > 0 ? rint(-lo * ratio / s) : 0;
            if (z > 15) z = 15;
        } else {
            s = round_scale((-lo > hi ? -lo : -hi) / 8 * ratio, o->scale_dtype);
        }
        double e = best_error(x, n, s, (int)z);
        least = e < least ? e : least;
    }
    return least;
}

static void check_group(const float *x, int n, const mw_rtn_opts *o, const uint8_t *q, double scale, int zero) {
    double error = 0;
    for (int i = 0; i < n; i++) {
        assert_true(q[i] <= 15);
        double e = x[i] - (q[i] - zero) * scale;
        error += e * e;
    }
    double best = best_error(x, n, scale, zero), ref = reference_error(x, n, o);
    double slack = 1e-5 * ref + 1e-30;
    if (error > best + slack) fail_msg("a code is not the nearest: error %g, best on this grid %g", error, best);
    if (error > ref + slack) fail_msg("error %g, a clip ratio gives %g", error, ref);
    if (!o->zero_points) assert_int_equal(zero, 8);
    assert_true(zero >= 0 && zero <= 15);
}

static float gauss(rng *r) {
    float s = 0;
    for (int i = 0; i < 12; i++) s += (float)rng_u32(r) / 4294967296.0f;
    return s - 6;
}

static void test_groups(void **state) {
    (void)state;
    static const int sizes[] = {8, 32, 64, 128, 512};
    rng r = {20240601};
    float x[512];
    uint8_t q[512], zero;
    for (int round = 0; round < 2000; round++) {
        uint16_t bits;
        int n = sizes[rng_below(&r, 5)];
        mw_rtn_opts o = {.zero_points = rng_below(&r, 2),
                         .clip_search = 1 + rng_below(&r, 12),
                         .scale_dtype = rng_below(&r, 2) ? MW_F16 : MW_BF16};
        float size = ldexpf(1, rng_below(&r, 34) - 26); /* down to where f16 scales have few bits */
        float shift = rng_below(&r, 2) ? 0 : rng_below(&r, 2) ? 6 : -6;
        for (int i = 0; i < n; i++) x[i] = (gauss(&r) + shift) * size;
        mw_rtn_group_of(x, n, &o, q, &bits, &zero);
        check_group(x, n, &o, q, scale_of(bits, o.scale_dtype), zero);
    }
}

static void test_special_groups(void **state) {
    (void)state;
    float x[32] = {0};
    uint8_t q[32], zero;
    uint16_t bits;
    for (int zp = 0; zp < 2; zp++) {
        mw_rtn_opts o = {.zero_points = zp, .clip_search = 8, .scale_dtype = MW_F16};
        memset(x, 0, sizeof x);
        mw_rtn_group_of(x, 32, &o, q, &bits, &zero);
        for (int i = 0; i < 32; i++) assert_int_equal(q[i], zero); /* zeros come back as zeros */
        x[3] = 1e-9f;                                              /* below half of f16's smallest step */
        mw_rtn_group_of(x, 32, &o, q, &bits, &zero);
        assert_int_equal(bits, 0);
        assert_int_equal(q[3], zero);
        x[3] = 1;
        mw_rtn_group_of(x, 32, &o, q, &bits, &zero);
        assert_true(fabs((q[3] - zero) * scale_of(bits, MW_F16) - 1) < 1e-3);
        x[3] = -1;
        mw_rtn_group_of(x, 32, &o, q, &bits, &zero);
        assert_true(fabs((q[3] - zero) * scale_of(bits, MW_F16) + 1) < 1e-3);
    }
}

/* ---- whole models ----------------------------------------------------------------------------------------------- */

static const spec k_f16 = {.label = "f16",
                           .family = "llama",
                           .format = F_DENSE,
                           .group = 128,
                           .mlp_bias = true,
                           .scale_dtype = MW_F16,
                           .dense_dtype = MW_F16,
                           .norm_dtype = MW_F16,
                           .n_files = 2,
                           .seed = 3};
static const spec k_f32 = {.label = "f32",
                           .family = "qwen2",
                           .format = F_DENSE,
                           .group = 128,
                           .scale_dtype = MW_F32,
                           .dense_dtype = MW_F32,
                           .norm_dtype = MW_F32,
                           .seed = 4};

static void *dataset(const mw_ckpt *c, int index) {
    const mw_dataset *d = mw_ckpt_dataset(c, index);
    size_t row = (size_t)d->cols * mw_dtype_size(d->dtype);
    void *p = malloc((size_t)d->rows * row);
    assert_int_equal(mw_ckpt_read(c, d, 0, d->rows, 0, d->cols, p, row, true), MW_OK);
    return p;
}

static void check_linear(const linear *l, const mw_ckpt *c, const mw_rtn_opts *o) {
    const mw_weight *w = mw_ckpt_find(c, l->ours);
    assert_non_null(w);
    assert_int_equal(w->kind, MW_INT4);
    int group = o->group_size == -1 ? l->k : (int)o->group_size;
    assert_int_equal(w->group_size, group);
    assert_int_equal(w->perm, -1);
    assert_int_equal(mw_ckpt_dataset(c, w->scales)->dtype, o->scale_dtype);
    assert_int_equal(w->bias >= 0, l->bias != NULL);
    uint8_t *packed = dataset(c, w->qweight), *zeros = w->zeros >= 0 ? dataset(c, w->zeros) : NULL, q[1024];
    uint16_t *scales = dataset(c, w->scales);
    float x[1024];
    for (int n = 0; n < l->n; n++)
        for (int g = 0; g < l->k / group; g++) {
            for (int i = 0; i < group; i++) {
                int k = g * group + i;
                x[i] = l->dense[n * l->k + k];
                q[i] = packed[k * (l->n / 2) + n / 2] >> (n % 2 * 4) & 15;
            }
            int at = g * l->n + n;
            check_group(x, group, o, q, scale_of(scales[at], o->scale_dtype), zeros ? zeros[at] : 8);
        }
    free(packed);
    free(zeros);
    free(scales);
}

static void test_models(void **state) {
    (void)state;
    static const struct {
        const spec *s;
        const char *group, *act;
        bool zero_points;
        int clip;
    } cases[] = {{&k_f16, "128", "f16", false, 8}, {&k_f16, "64", "bf16", true, 1},   {&k_f16, "32", "f16", true, 3},
                 {&k_f16, "-1", "f16", false, 4},  {&k_f32, "128", "bf16", false, 2}, {&k_f32, "32", "f16", false, 8}};
    static truth t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *dir = temp_folder(), *out = path_of(dir, "m.h5"), *text;
        char clip[24];
        mw_rtn_opts o = {.group_size = atoi(cases[i].group),
                         .zero_points = cases[i].zero_points,
                         .clip_search = cases[i].clip,
                         .scale_dtype = cases[i].act[0] == 'f' ? MW_F16 : MW_BF16};
        snprintf(clip, sizeof clip, "--clip-search=%d", cases[i].clip);
        truth_make(&t, cases[i].s);
        truth_write(&t, dir);
        int rc = convert(&text, dir, "-o", out, "--no-tokenizer", "--quantize", "rtn", "--group-size", cases[i].group,
                         "--act", cases[i].act, "--threads", i % 2 ? "1" : "3", clip,
                         cases[i].zero_points ? "--zero-points" : NULL, NULL);
        if (rc) fail_msg("case %zu: %d: %s", i, rc, text);
        mw_ckpt *c = NULL;
        if (mw_ckpt_open(&c, out) != MW_OK) fail_msg("%s", mw_error_text());
        assert_int_equal(mw_ckpt_config(c)->act, o.scale_dtype);
        assert_string_equal(mw_ckpt_attr(c, "source_format"), "dense, quantised by rtn");
        for (int j = 0; j < t.n_lin; j++) check_linear(&t.lin[j], c, &o);
        const mw_weight *head = mw_ckpt_find(c, "lm_head"), *norm = mw_ckpt_find(c, "norm");
        assert_int_equal(head->kind, MW_DENSE16);
        assert_int_equal(mw_ckpt_dataset(c, head->weight)->dtype,
                         cases[i].s->dense_dtype == MW_F32 ? o.scale_dtype : cases[i].s->dense_dtype);
        assert_int_equal(mw_ckpt_dataset(c, norm->weight)->dtype, cases[i].s->norm_dtype);
        mw_ckpt_close(c);
        truth_free(&t);
        remove_tree(dir);
    }
}

/* Row-major floats of a tensor. */
static float *floats_of(truth *t, const char *name, int64_t *rows, int64_t *cols) {
    const tensor *s = find_tensor(&t->st, name);
    if (!s) return NULL;
    *rows = s->dim[0], *cols = s->dim[1];
    mw_dtype type = strcmp(s->dtype, "F32") == 0 ? MW_F32 : strcmp(s->dtype, "F16") == 0 ? MW_F16 : MW_BF16;
    float *x = malloc((size_t)(*rows * *cols) * sizeof *x);
    for (int64_t i = 0; i < *rows * *cols; i++) x[i] = mw_load_f32(s->data, type, (size_t)i);
    return x;
}

/* Weight and, where they are int4, their groups: the same in both files but for lm_head. */
static void check_others(const mw_ckpt *a, const mw_ckpt *b) {
    for (int i = 0; i < mw_ckpt_n_weights(a); i++) {
        const mw_weight *w = mw_ckpt_weight(a, i), *v = mw_ckpt_find(b, w->name);
        if (strcmp(w->name, "lm_head") == 0) continue;
        assert_non_null(v);
        assert_int_equal(w->kind, v->kind);
        assert_int_equal(w->group_size, v->group_size);
        int part[2] = {w->kind == MW_INT4 ? w->qweight : w->weight, v->kind == MW_INT4 ? v->qweight : v->weight};
        const mw_dataset *d = mw_ckpt_dataset(a, part[0]);
        void *x = dataset(a, part[0]), *y = dataset(b, part[1]);
        assert_memory_equal(x, y, (size_t)(d->rows * d->cols) * mw_dtype_size(d->dtype));
        free(x);
        free(y);
    }
}

/* lm_head too, whatever the other layers are, and wherever it comes from. */
static void test_lm_head(void **state) {
    (void)state;
#define ANY .scale_dtype = MW_F16, .dense_dtype = MW_F16, .norm_dtype = MW_F16
    static const struct {
        spec s;
        const char *flag;
        int group;
        bool zero_points;
    } cases[] = {
        {{.family = "llama", .format = F_DENSE, .group = 128, ANY}, "--lm-head=int4", 128, false},
        {{.family = "llama", .format = F_DENSE, .group = 128, .tied = true, ANY}, "--lm-head=int4:32", 32, true},
        {{.family = "llama", .format = F_GPTQ, .group = 64, .act_order = true, .zeros = true, ANY},
         "--lm-head=int4",
         64,
         false},
        {{.family = "qwen2", .format = F_GPTQ, .group = 128, .tied = true, .tied_head = true, ANY},
         "--lm-head=int4",
         128,
         true},
        {{.family = "llama", .format = F_GPTQ, .group = 32, .tied = true, ANY}, "--lm-head=int4:128", 128, false},
        {{.family = "llama", .format = F_AWQ, .group = -1, .zeros = true, ANY}, "--lm-head=int4", 128, false},
        {{.family = "llama", .format = F_CT, .group = 128, ANY}, "--lm-head=int4:-1", -1, false},
    };
#undef ANY
    static truth t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const spec *s = &cases[i].s;
        const char *dir = temp_folder(), *out = path_of(dir, "m.h5"), *plain = path_of(dir, "plain.h5"), *text;
        const char *how = s->format == F_DENSE ? "--quantize=none" : "--act=f16"; /* --act: what it is anyway */
        mw_rtn_opts o = {cases[i].group, cases[i].zero_points, 5, MW_F16};
        truth_make(&t, s);
        truth_write(&t, dir);
        int rc = convert(&text, dir, "-o", out, "--no-tokenizer", how, cases[i].flag, "--clip-search=5",
                         cases[i].zero_points ? "--zero-points" : NULL, NULL);
        if (rc || convert(&text, dir, "-o", plain, "--no-tokenizer", how, NULL))
            fail_msg("case %zu: %d: %s", i, rc, text);
        mw_ckpt *c = NULL, *p = NULL;
        if (mw_ckpt_open(&c, out) != MW_OK || mw_ckpt_open(&p, plain) != MW_OK) fail_msg("%s", mw_error_text());
        assert_false(mw_ckpt_config(c)->tie_embeddings);
        int64_t rows, cols;
        linear head = {.ours = "lm_head", .dense = floats_of(&t, "lm_head.weight", &rows, &cols)};
        if (!head.dense) head.dense = floats_of(&t, "model.embed_tokens.weight", &rows, &cols);
        assert_non_null(head.dense);
        head.n = (int)rows, head.k = (int)cols;
        check_linear(&head, c, &o);
        check_others(p, c);
        free(head.dense);
        mw_ckpt_close(c);
        mw_ckpt_close(p);
        truth_free(&t);
        remove_tree(dir);
    }
}

/* More tried ratios never make it worse; clipping helps on weights with outliers. */
static void test_clip_search_pays(void **state) {
    (void)state;
    rng r = {99};
    float x[128];
    uint8_t q[128], zero;
    uint16_t bits;
    double plain = 0, searched = 0;
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 128; i++) x[i] = gauss(&r) * (rng_below(&r, 64) ? 1 : 3);
        for (int n = 1; n <= 8; n += 7) {
            mw_rtn_opts o = {.clip_search = n, .scale_dtype = MW_F16};
            mw_rtn_group_of(x, 128, &o, q, &bits, &zero);
            for (int i = 0; i < 128; i++) {
                double e = x[i] - (q[i] - 8) * scale_of(bits, MW_F16);
                *(n == 1 ? &plain : &searched) += e * e;
            }
        }
    }
    print_message("squared error with clip search: %.3f of that without\n", searched / plain);
    assert_true(searched < 0.9 * plain);
}

static void test_group_must_divide(void **state) {
    (void)state;
    static truth t;
    const char *dir = temp_folder(), *text;
    spec s = k_f16;
    s.seed = 12;
    truth_make(&t, &s);
    truth_set_inner(&t, 352); /* 11 * 32 */
    truth_write(&t, dir);
    assert_int_equal(convert(&text, dir, "-o", path_of(dir, "m.h5"), "--no-tokenizer", "--quantize=rtn", NULL), 67);
    assert_non_null(strstr(text, "mlp.down_proj': 352 inputs are not a multiple of group size 128; try a smaller one"));
    assert_int_equal(
        convert(&text, dir, "-o", path_of(dir, "m.h5"), "--no-tokenizer", "--quantize=rtn", "--group-size=32", NULL),
        0);
    truth_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups), cmocka_unit_test(test_special_groups), cmocka_unit_test(test_clip_search_pays),
        cmocka_unit_test(test_models), cmocka_unit_test(test_lm_head),        cmocka_unit_test(test_group_must_divide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
