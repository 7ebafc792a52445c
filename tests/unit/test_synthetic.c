/* Synthetic models: every known one is a model that the plan can cut; weights are the same from any reading. */
#include "tests/unit/test.h"

#include "shard/plan.h"
#include "shard/synthetic.h"

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
        if (!(mw_f16_to_f32(scales[i]) > 0.001f && mw_f16_to_f32(scales[i]) < 0.005f)) fail_msg("scale %d", i);
    assert_ok(mw_ckpt_read(c, mw_ckpt_dataset(c, w->zeros), 3, 1, 0, 64, zeros, sizeof zeros, true));
    for (int i = 0; i < 64; i++) assert_in_range(zeros[i], 6, 10);
    assert_fails(mw_ckpt_read(c, d, 0, 1, 2040, 9, part, 4096, true), MW_ERR_FORMAT, "k_proj");
    mw_ckpt_close(c);
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
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
