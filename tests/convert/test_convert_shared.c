/* The checkpoints of ../shared: real files of other writers. Every logical weight of the converted file against a
 * direct decoding of the tensors done here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/convert/truth.h"

#define SHARED MW_SOURCE_DIR "/../shared/checkpoints"

static tensors g_st;

static const tensor *get(const char *layer, const char *part) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", layer, part);
    const tensor *t = find_tensor(&g_st, name);
    if (!t) fail_msg("%s is missing", name);
    return t;
}

static int nibble(const tensor *t, int64_t word, int i) {
    return (int)(((const uint32_t *)(const void *)t->data)[word] >> (4 * i) & 15);
}

static float half(const tensor *t, int64_t i) {
    return mw_f16_to_f32(((const uint16_t *)(const void *)t->data)[i]);
}

/* w[k][n] of a layer; group_of[k] is filled in. */
static float *decode(const char *dir, const char *layer, int64_t *k_out, int64_t *n_out, int32_t *group_of) {
    int64_t k, n, groups;
    float *w;
    if (strncmp(dir, "awq", 3) == 0) {
        static const int at[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* nibble of column 8c+i */
        const tensor *q = get(layer, "qweight"), *z = get(layer, "qzeros"), *s = get(layer, "scales");
        k = q->dim[0], n = s->dim[1], groups = s->dim[0];
        w = malloc((size_t)(k * n) * 4);
        for (int64_t i = 0; i < k * n; i++) {
            int64_t r = i / n, c = i % n, g = r / (k / groups);
            w[i] = (float)(nibble(q, r * n / 8 + c / 8, at[c % 8]) - nibble(z, g * n / 8 + c / 8, at[c % 8])) *
                   half(s, g * n + c);
        }
        for (int64_t i = 0; i < k; i++) group_of[i] = (int32_t)(i / (k / groups));
    } else if (strncmp(dir, "ct", 2) == 0) {
        const tensor *q = get(layer, "weight_packed"), *s = get(layer, "weight_scale");
        n = q->dim[0], k = q->dim[1] * 8, groups = s->dim[1];
        w = malloc((size_t)(k * n) * 4);
        for (int64_t i = 0; i < k * n; i++) {
            int64_t r = i / n, c = i % n;
            w[i] = (float)(nibble(q, c * k / 8 + r / 8, (int)(r % 8)) - 8) * half(s, c * groups + r / (k / groups));
        }
        for (int64_t i = 0; i < k; i++) group_of[i] = (int32_t)(i / (k / groups));
    } else {
        const tensor *q = get(layer, "qweight"), *z = get(layer, "qzeros"), *s = get(layer, "scales"),
                     *g_idx = get(layer, "g_idx");
        k = q->dim[0] * 8, n = q->dim[1];
        w = malloc((size_t)(k * n) * 4);
        memcpy(group_of, g_idx->data, (size_t)k * 4);
        for (int64_t i = 0; i < k * n; i++) {
            int64_t r = i / n, c = i % n, g = group_of[r];
            w[i] = (float)(nibble(q, r / 8 * n + c, (int)(r % 8)) - nibble(z, g * n / 8 + c / 8, (int)(c % 8)) - 1) *
                   half(s, g * n + c);
        }
    }
    *k_out = k;
    *n_out = n;
    return w;
}

static void *dataset(const mw_ckpt *c, int index) {
    if (index < 0) return NULL;
    const mw_dataset *d = mw_ckpt_dataset(c, index);
    size_t row = (size_t)d->cols * mw_dtype_size(d->dtype);
    void *p = malloc((size_t)d->rows * row);
    assert_int_equal(mw_ckpt_read(c, d, 0, d->rows, 0, d->cols, p, row, true), MW_OK);
    return p;
}

static void compare(const mw_ckpt *c, const mw_weight *w, const float *want, const int32_t *row,
                    const int32_t *column) {
    uint8_t *q = dataset(c, w->qweight), *zeros = dataset(c, w->zeros);
    uint16_t *scales = dataset(c, w->scales);
    int32_t *perm = dataset(c, w->perm);
    for (int64_t p = 0; p < w->k; p++)
        for (int64_t n = 0; n < w->n; n++) {
            int64_t at = p / w->group_size * w->n + n, k = perm ? perm[p] : row ? row[p] : p;
            int code = q[p * (w->n / 2) + n / 2] >> (n % 2 * 4) & 15;
            float have = (float)(code - (zeros ? zeros[at] : 8)) * mw_f16_to_f32(scales[at]);
            float expected = want[k * w->n + (column ? column[n] : n)];
            if (have != expected)
                fail_msg("%s [%d, %d]: %g, expected %g", w->name, (int)k, (int)n, (double)have, (double)expected);
        }
    free(q);
    free(zeros);
    free(scales);
    free(perm);
}

/* Inputs of down_proj, stable by group; NULL when they are in order. */
static int32_t *down_order(const char *dir, int layer) {
    static int32_t group[4096], order[4096];
    char name[96];
    int64_t k, n;
    int32_t at = 0;
    snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj", layer);
    free(decode(dir, name, &k, &n, group));
    for (int32_t g = 0; g < k; g++)
        for (int32_t i = 0; i < k; i++)
            if (group[i] == g) order[at++] = i;
    for (int32_t i = 0; i < k; i++)
        if (order[i] != i) return order;
    return NULL;
}

static void check_layer(const char *dir, const mw_ckpt *c, int layer, uint64_t *count) {
    static const char *const names[] = {"self_attn/q_proj", "self_attn/k_proj", "self_attn/v_proj", "self_attn/o_proj",
                                        "mlp/gate_proj",    "mlp/up_proj",      "mlp/down_proj"};
    static int32_t group[4096];
    const int32_t *order = down_order(dir, layer);
    assert_int_equal(order != NULL, strstr(dir, "actorder") != NULL);
    for (int i = 0; i < 7; i++) {
        char ours[96], hf[96];
        int64_t k, n;
        snprintf(ours, sizeof ours, "layers/%03d/%s", layer, names[i]);
        snprintf(hf, sizeof hf, "model.layers.%d.%s", layer, names[i]);
        *strrchr(hf, '/') = '.';
        float *want = decode(dir, hf, &k, &n, group);
        const mw_weight *w = mw_ckpt_find(c, ours);
        assert_non_null(w);
        assert_int_equal(w->k, k);
        assert_int_equal(w->n, n);
        assert_int_equal(w->perm >= 0, order != NULL && i != 6);
        compare(c, w, want, i == 6 ? order : NULL, i == 4 || i == 5 ? order : NULL);
        *count += (uint64_t)(k * n);
        free(want);
    }
}

static void check_float(const mw_ckpt *c, const char *ours, const char *hf) {
    const mw_weight *w = mw_ckpt_find(c, ours);
    const tensor *t = find_tensor(&g_st, hf);
    assert_non_null(w);
    assert_non_null(t);
    void *p = dataset(c, w->weight);
    assert_memory_equal(p, t->data, t->bytes);
    free(p);
}

static void check_folder(const char *dir) {
    const char *out = large_temp_folder(), *output;
    char source[512], model[512];
    uint64_t count = 0;
    bool dense = strcmp(dir, "fp16") == 0;
    snprintf(source, sizeof source, "%s/%s", SHARED, dir);
    snprintf(model, sizeof model, "%s/m.h5", out);
    int rc = convert(&output, source, "-o", model, dense ? "--quantize=none" : NULL, NULL);
    if (rc) fail_msg("%s: %d: %s", dir, rc, output);
    mw_ckpt *c = NULL;
    if (mw_ckpt_open(&c, model) != MW_OK) fail_msg("%s", mw_error_text());
    assert_string_equal(mw_ckpt_attr(c, "chat"), "template");
    read_tensors(&g_st, source);
    for (int layer = 0; layer < mw_ckpt_config(c)->n_layers; layer++) {
        char ours[96], hf[96];
        if (!dense) check_layer(dir, c, layer, &count);
        snprintf(ours, sizeof ours, "layers/%03d/%s", layer, dense ? "mlp/down_proj" : "input_layernorm");
        snprintf(hf, sizeof hf, "model.layers.%d.%s.weight", layer, dense ? "mlp.down_proj" : "input_layernorm");
        check_float(c, ours, hf);
    }
    check_float(c, "embed_tokens", "model.embed_tokens.weight");
    check_float(c, "lm_head", "lm_head.weight");
    check_float(c, "norm", "model.norm.weight");
    print_message("%s: %llu int4 weights equal\n", dir, (unsigned long long)count);
    free_tensors(&g_st);
    mw_ckpt_close(c);
    remove_tree(out);
}

static void test_all(void **state) {
    (void)state;
    static const char *const folders[] = {"fp16",         "gptq-g128-sym", "gptq-channel-sym", "gptq-g128-actorder",
                                          "gptq-g64-sym", "gptq-g32-sym",  "awq-g128",         "ct-w4a16-g128"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) check_folder(folders[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    const char *no_skip = getenv("MW_TEST_NO_SKIP");
    if (access(SHARED, R_OK) != 0) {
        printf("SKIPPED: test_convert_shared: ../shared is absent\n");
        return no_skip && strcmp(no_skip, "1") == 0 ? 1 : 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
