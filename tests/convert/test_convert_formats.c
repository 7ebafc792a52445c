/* Every checkpoint format: random models with known weights go through marlin-convert, and every logical weight of the
 * model.h5 must be the one that was encoded. Then the way back: --to-safetensors and converting again gives the same
 * datasets, --dequant gives the weights rounded once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/convert/truth.h"

#define G_LLAMA(...)                                                                                                   \
    { .family = "llama", .scale_dtype = MW_F16, .dense_dtype = MW_F16, .norm_dtype = MW_F16, __VA_ARGS__ }
#define B_LLAMA(...)                                                                                                   \
    { .family = "llama", .scale_dtype = MW_BF16, .dense_dtype = MW_BF16, .norm_dtype = MW_BF16, __VA_ARGS__ }

static const spec k_specs[] = {
    G_LLAMA(.label = "gptq v1 sym g128", .format = F_GPTQ, .group = 128),
    G_LLAMA(.label = "gptq v1 sym g64, zero biases, 3 files", .format = F_GPTQ, .group = 64, .zero_bias = true,
            .n_files = 3),
    G_LLAMA(.label = "gptq v1 sym g32, no g_idx", .format = F_GPTQ, .group = 32, .no_g_idx = true),
    G_LLAMA(.label = "gptq v1 sym per channel, quantize_config.json", .format = F_GPTQ, .group = -1,
            .flag_in_file = true),
    G_LLAMA(.label = "gptq v1 asym g32 (declared sym)", .format = F_GPTQ, .group = 32, .zeros = true, .seed = 2),
    G_LLAMA(.label = "gptq v1 asym g128 act-order", .format = F_GPTQ, .group = 128, .zeros = true, .act_order = true),
    G_LLAMA(.label = "gptq v1 asym per channel", .format = F_GPTQ, .group = -1, .zeros = true),
    G_LLAMA(.label = "gptq with one layer left out", .format = F_GPTQ, .group = 64, .mixed = true, .act_order = true),
    B_LLAMA(.label = "compressed-tensors with one layer left out", .format = F_CT, .group = 128, .mixed = true),
    G_LLAMA(.label = "gptq v2 sym g128", .format = F_GPTQ, .group = 128, .v2 = true),
    G_LLAMA(.label = "gptq v2 asym g64", .format = F_GPTQ, .group = 64, .v2 = true, .zeros = true),
    G_LLAMA(.label = "gptq v2 asym g32 act-order", .format = F_GPTQ, .group = 32, .v2 = true, .zeros = true,
            .act_order = true),
    G_LLAMA(.label = "gptq v2 sym per channel, declared act-order", .format = F_GPTQ, .group = -1, .v2 = true,
            .act_order = true),
    G_LLAMA(.label = "gptq sym g64 act-order with biases", .format = F_GPTQ, .group = 64, .act_order = true,
            .attention_bias = true, .mlp_bias = true),
    G_LLAMA(.label = "gptq int4 lm_head", .format = F_GPTQ, .group = 128, .head_int4 = true),
    B_LLAMA(.label = "gptq bf16 g128 tied", .format = F_GPTQ, .group = 128, .tied = true),
    {.label = "gptq qwen2, f32 scales, f32 norms, tied with a head",
     .family = "qwen2",
     .format = F_GPTQ,
     .group = 64,
     .zeros = true,
     .tied = true,
     .tied_head = true,
     .scale_dtype = MW_F32,
     .dense_dtype = MW_F16,
     .norm_dtype = MW_F32},
    {.label = "gptq qwen3 act-order, head_dim apart from hidden",
     .family = "qwen3",
     .format = F_GPTQ,
     .group = 128,
     .act_order = true,
     .scale_dtype = MW_BF16,
     .dense_dtype = MW_BF16,
     .norm_dtype = MW_BF16},
    {.label = "gptq mistral",
     .family = "mistral",
     .format = F_GPTQ,
     .group = 128,
     .scale_dtype = MW_F16,
     .dense_dtype = MW_F16,
     .norm_dtype = MW_F16},
    G_LLAMA(.label = "awq g128", .format = F_AWQ, .group = 128, .zeros = true),
    G_LLAMA(.label = "awq g64, 2 files", .format = F_AWQ, .group = 64, .zeros = true, .n_files = 2),
    G_LLAMA(.label = "awq g32, zeros all 8", .format = F_AWQ, .group = 32),
    G_LLAMA(.label = "awq per channel", .format = F_AWQ, .group = -1, .zeros = true),
    {.label = "awq qwen2",
     .family = "qwen2",
     .format = F_AWQ,
     .group = 128,
     .zeros = true,
     .scale_dtype = MW_F16,
     .dense_dtype = MW_F16,
     .norm_dtype = MW_F16},
    B_LLAMA(.label = "compressed-tensors sym g128", .format = F_CT, .group = 128),
    B_LLAMA(.label = "compressed-tensors asym g64, I32 shape", .format = F_CT, .group = 64, .zeros = true,
            .shape_i32 = true),
    B_LLAMA(.label = "compressed-tensors sym channel", .format = F_CT, .group = -1),
    G_LLAMA(.label = "compressed-tensors asym channel f16", .format = F_CT, .group = -1, .zeros = true),
    B_LLAMA(.label = "compressed-tensors sym g32 actorder group", .format = F_CT, .group = 32, .act_order = true),
    B_LLAMA(.label = "compressed-tensors asym g128 actorder group", .format = F_CT, .group = 128, .act_order = true,
            .zeros = true),
    B_LLAMA(.label = "compressed-tensors sym g128 actorder weight", .format = F_CT, .group = 128, .weight_order = true),
    {.label = "compressed-tensors qwen3",
     .family = "qwen3",
     .format = F_CT,
     .group = 64,
     .zeros = true,
     .scale_dtype = MW_F32,
     .dense_dtype = MW_BF16,
     .norm_dtype = MW_BF16},
    G_LLAMA(.label = "marlin g128", .format = F_MARLIN, .group = 128, .flag_in_file = true),
    G_LLAMA(.label = "marlin g64", .format = F_MARLIN, .group = 64),
    G_LLAMA(.label = "marlin per channel", .format = F_MARLIN, .group = -1),
    G_LLAMA(.label = "dense f16", .format = F_DENSE, .group = 128),
    B_LLAMA(.label = "dense bf16, 4 files", .format = F_DENSE, .group = 128, .n_files = 4),
    {.label = "dense f32 qwen2",
     .family = "qwen2",
     .format = F_DENSE,
     .group = 128,
     .scale_dtype = MW_F32,
     .dense_dtype = MW_F32,
     .norm_dtype = MW_F32},
};
#define N_SPECS (int)(sizeof k_specs / sizeof *k_specs)

static mw_ckpt *open_model(const char *path) {
    mw_ckpt *c = NULL;
    if (mw_ckpt_open(&c, path) != MW_OK) fail_msg("%s", mw_error_text());
    return c;
}

static void expect_ok(const char *label, int rc, const char *output) {
    if (rc != 0) fail_msg("%s: exit code %d: %s", label, rc, output);
}

/* Same datasets, same bytes, same attributes of the weights. */
static void same_weights(const char *label, const char *path_a, const char *path_b) {
    mw_ckpt *a = open_model(path_a), *b = open_model(path_b);
    assert_int_equal(mw_ckpt_n_datasets(a), mw_ckpt_n_datasets(b));
    assert_int_equal(mw_ckpt_n_weights(a), mw_ckpt_n_weights(b));
    for (int i = 0; i < mw_ckpt_n_weights(a); i++) {
        const mw_weight *x = mw_ckpt_weight(a, i), *y = mw_ckpt_weight(b, i);
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->group_size, y->group_size);
    }
    for (int i = 0; i < mw_ckpt_n_datasets(a); i++) {
        const mw_dataset *x = mw_ckpt_dataset(a, i), *y = mw_ckpt_dataset(b, i);
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(x->rows, y->rows);
        assert_int_equal(x->cols, y->cols);
        size_t row = (size_t)x->cols * mw_dtype_size(x->dtype), n = row * (size_t)x->rows;
        uint8_t *p = malloc(n), *q = malloc(n);
        assert_int_equal(mw_ckpt_read(a, x, 0, x->rows, 0, x->cols, p, row, true), MW_OK);
        assert_int_equal(mw_ckpt_read(b, y, 0, y->rows, 0, y->cols, q, row, true), MW_OK);
        if (memcmp(p, q, n) != 0) fail_msg("%s: %s differs after a round trip", label, x->name);
        free(p);
        free(q);
    }
    mw_ckpt_close(a);
    mw_ckpt_close(b);
}

/* The folder of --dequant against the truth: each weight rounded once to the activation dtype. */
static void check_dequant(const truth *t, const char *dir, mw_dtype act) {
    static tensors s;
    char name[128];
    read_tensors(&s, dir);
    for (int i = 0; i < t->n_lin; i++) {
        const linear *l = &t->lin[i];
        const int32_t *order = truth_down_order(t, l);
        bool down = strstr(l->ours, "down_proj") != NULL;
        snprintf(name, sizeof name, "%s.weight", l->hf);
        const tensor *w = find_tensor(&s, name);
        if (!w) fail_msg("%s: %s is missing", t->spec.label, name);
        assert_string_equal(w->dtype, st_name(act));
        assert_int_equal(w->dim[0], l->n);
        assert_int_equal(w->dim[1], l->k);
        for (int n = 0; n < l->n; n++)
            for (int k = 0; k < l->k; k++) {
                float x = truth_weight(t, l, order && down ? order[k] : k, order && !down ? order[n] : n);
                uint16_t want = act == MW_F16 ? mw_f32_to_f16(x) : mw_f32_to_bf16(x);
                uint16_t have = ((const uint16_t *)(const void *)w->data)[n * l->k + k];
                if (have != want && (have | want) != 0x8000)
                    fail_msg("%s: %s[%d,%d] = %04x, expected %04x", t->spec.label, name, n, k, have, want);
            }
    }
    free_tensors(&s);
}

/* An export of the packed file (Marlin tiles, permuted scales, padded columns) is that of the file it was packed from.
 */
static void check_packed(const spec *s, const char *model, const char *dir) {
    char packed[512], st[512], again[512];
    const char *text;
    snprintf(packed, sizeof packed, "%s/packed.h5", dir);
    snprintf(st, sizeof st, "%s/packed_st", dir);
    snprintf(again, sizeof again, "%s/packed_again.h5", dir);
    const char *pack[] = {MW_BINARY_DIR "/bin/marlin-pack", model, "-o", packed, NULL};
    int rc = convert_limited(&text, 0, pack);
    expect_ok(s->label, rc, text);
    rc = convert(&text, "--to-safetensors", packed, "-o", st, NULL);
    expect_ok(s->label, rc, text);
    rc = convert(&text, st, "-o", again, "--no-tokenizer", NULL);
    expect_ok(s->label, rc, text);
    same_weights(s->label, model, again);
}

/* One model through all tools. */
static void check_spec(const spec *s, uint64_t seed) {
    static truth t;
    const char *dir = temp_folder(), *out = temp_folder(), *text;
    char first[512], again[512], st[512], dq[512];
    snprintf(first, sizeof first, "%s/model.h5", out);
    snprintf(again, sizeof again, "%s/again.h5", out);
    snprintf(st, sizeof st, "%s/st", out);
    snprintf(dq, sizeof dq, "%s/dq", out);
    bool dense = s->format == F_DENSE;
    int rc;
    spec with_seed = *s;
    with_seed.seed = s->seed + seed * 2;
    truth_make(&t, &with_seed);
    truth_write(&t, dir);
    rc = dense ? convert(&text, dir, "-o", first, "--no-tokenizer", "--quantize", "none", NULL)
               : convert(&text, dir, "-o", first, "--no-tokenizer", NULL);
    expect_ok(s->label, rc, text);
    rc = convert(&text, "--verify", first, NULL);
    expect_ok(s->label, rc, text);
    mw_ckpt *c = open_model(first);
    const char *bad = truth_compare(&t, c);
    if (bad) fail_msg("%s (seed %llu): %s", s->label, (unsigned long long)seed, bad);
    mw_dtype act = mw_ckpt_config(c)->act;
    mw_ckpt_close(c);
    if (!dense) {
        rc = convert(&text, "--to-safetensors", first, "-o", st, NULL);
        expect_ok(s->label, rc, text);
        rc = convert(&text, st, "-o", again, "--no-tokenizer", NULL);
        expect_ok(s->label, rc, text);
        same_weights(s->label, first, again);
        if (seed % 3 == 0) check_packed(s, first, out);
    }
    rc = convert(&text, "--dequant", first, "-o", dq, "--threads", "1", NULL);
    expect_ok(s->label, rc, text);
    if (!dense) {
        check_dequant(&t, dq, act);
    } else {
        rc = convert(&text, dq, "-o", again, "--no-tokenizer", "--quantize", "none", NULL);
        expect_ok(s->label, rc, text);
        same_weights(s->label, first, again);
    }
    truth_free(&t);
    remove_tree(dir);
    remove_tree(out);
}

static void test_formats(void **state) {
    (void)state;
    for (int i = 0; i < N_SPECS; i++) check_spec(&k_specs[i], (uint64_t)(100 + i));
    print_message("%d kinds of checkpoints\n", N_SPECS);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
