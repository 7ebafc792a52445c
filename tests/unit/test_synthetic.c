/* Synthetic models: every known one is a model that the plan can cut; weights are the same from any reading. */
#include <math.h>
#include <stdlib.h>

#include "tests/unit/test.h"

#include "shard/plan.h"
#include "shard/synthetic.h"
#include "tests/ref/ref_model.h"

static void every_model(void **state) {
    (void)state;
    for (int i = 0; mw_synthetic_name(i); i++) {
        char path[96];
        mw_ckpt *c = NULL;
        mw_plan *p = NULL;
        snprintf(path, sizeof path, "synthetic:%s,layers=2%s", mw_synthetic_name(i), i % 2 ? ",zeros,act=bf16" : "");
        assert_true(mw_is_synthetic(path));
        assert_ok(mw_ckpt_open_synthetic(&c, path));
        assert_int_equal(mw_ckpt_config(c)->n_layers, 2);
        assert_ok(mw_plan_make(&p, c, 2));
        mw_plan_free(p);
        mw_ckpt_close(c);
    }
}

/* A slab is the same part of the whole, whatever is read with it; scales are small and positive, zeros in range. */
static void slabs(void **state) {
    (void)state;
    mw_ckpt *c = NULL;
    static uint32_t whole[64 * 2048], part[64 * 2048];
    uint16_t scales[64];
    uint8_t zeros[64];
    assert_ok(mw_ckpt_open_synthetic(&c, "synthetic:llama-3.1-8b,layers=1,zeros"));
    const mw_weight *w = mw_ckpt_find(c, "layers/000/self_attn/k_proj");
    assert_non_null(w);
    const mw_dataset *d = mw_ckpt_dataset(c, w->qweight);
    assert_int_equal(d->cols, 2048);
    assert_ok(mw_ckpt_read(c, d, 0, 64, 0, 2048, whole, 2048 * 4, true));
    assert_ok(mw_ckpt_read(c, d, 17, 5, 128, 256, part, 256 * 4, true));
    for (int r = 0; r < 5; r++) assert_memory_equal(part + r * 256, whole + (17 + r) * 2048 + 128, 256 * 4);
    assert_memory_not_equal(whole, whole + 2048, 2048 * 4);
    assert_ok(mw_ckpt_read(c, mw_ckpt_dataset(c, w->scales), 3, 1, 0, 64, scales, sizeof scales, true));
    for (int i = 0; i < 64; i++)
        if (!(mw_f16_to_f32(scales[i]) > 0.0017f && mw_f16_to_f32(scales[i]) < 0.0055f)) fail_msg("scale %d", i);
    assert_ok(mw_ckpt_read(c, mw_ckpt_dataset(c, w->zeros), 3, 1, 0, 64, zeros, sizeof zeros, true));
    for (int i = 0; i < 64; i++) assert_in_range(zeros[i], 6, 10);
    assert_fails(mw_ckpt_read(c, d, 0, 1, 2040, 9, part, 4096, true), MW_ERR_FORMAT, "k_proj");
    mw_ckpt_close(c);
}

/* However many layers: the residual stream, of a deviation of about 1 by construction, stays within 8, of f16's 65504;
 * the logits of different tokens differ. */
static void deep(const char *path) {
    enum { N = 6 };
    static const int32_t ids[N] = {1, 7, 7, 300, 511, 42};
    mw_ckpt *c = NULL;
    ref_model *m = NULL;
    assert_ok(mw_ckpt_open_synthetic(&c, path));
    assert_ok(ref_model_open(&m, c));
    const int vocab = (int)mw_ckpt_config(c)->vocab;
    double *logits = malloc((size_t)(N * vocab) * sizeof *logits), difference = 0;
    assert_non_null(logits);
    double largest = ref_model_logits(m, ids, N, logits);
    print_message("%s: residual stream within %.2f\n", path, largest);
    if (!(largest > 0.1 && largest < 8)) fail_msg("%s: %g in the residual stream", path, largest);
    for (int r = 0; r < N; r++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < vocab; i++) {
            const double x = logits[r * vocab + i];
            sum += x / vocab;
            squares += x * x / vocab;
            difference += fabs(x - logits[i]) / vocab / N;
        }
        const double spread = sqrt(squares - sum * sum); /* 0.017 sqrt(hidden) = 0.28 is expected */
        if (!(spread > 0.1 && spread < 1 && fabs(sum) < 0.2)) fail_msg("%s: row %d: %g +- %g", path, r, sum, spread);
    }
    print_message("rows differ by %.3f\n", difference);
    assert_true(difference > 0.05);
    free(logits);
    ref_model_free(m);
    mw_ckpt_close(c);
}

static void many_layers(void **state) {
    (void)state;
    deep("synthetic:tiny,layers=126");
    deep("synthetic:tiny,layers=80,zeros,act=bf16");
}

/* An int4 head, also where the model ties its own to the embedding. */
static void int4_head(void **state) {
    (void)state;
    static const char *const path[] = {"synthetic:llama-3.2-1b,head=int4", "synthetic:llama-3.1-8b,head=int4,group=64"};
    for (int i = 0; i < 2; i++) {
        mw_ckpt *c = NULL;
        assert_ok(mw_ckpt_open_synthetic(&c, path[i]));
        const mw_weight *head = mw_ckpt_find(c, "lm_head");
        assert_non_null(head);
        assert_int_equal(head->kind, MW_INT4);
        assert_int_equal(head->group_size, i ? 64 : 128);
        assert_false(mw_ckpt_config(c)->tie_embeddings);
        mw_ckpt_close(c);
    }
}

static void refused(void **state) {
    (void)state;
    mw_ckpt *c = NULL;
    assert_false(mw_is_synthetic("model.h5"));
    assert_false(mw_is_synthetic(NULL));
    assert_fails(mw_ckpt_open_synthetic(&c, "synthetic:gpt-9"), MW_ERR_USAGE, "llama-3.1-8b");
    assert_fails(mw_ckpt_open_synthetic(&c, "synthetic:tiny,group=48"), MW_ERR_USAGE, "group=48");
    assert_fails(mw_ckpt_open_synthetic(&c, "synthetic:tiny,layers=0"), MW_ERR_USAGE, "layers=0");
    assert_fails(mw_ckpt_open_synthetic(&c, "synthetic:tiny,layers=2x"), MW_ERR_USAGE, "layers=2x");
    assert_fails(mw_ckpt_open_synthetic(&c, "synthetic:"), MW_ERR_USAGE, "known are");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_model), cmocka_unit_test(slabs),
                                       cmocka_unit_test(many_layers), cmocka_unit_test(int4_head),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
