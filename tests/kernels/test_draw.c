/* The choice of tokens (kernels/draw.h): its own exp and log against libm, candidates against a sort, the draw against
 * a search over all candidates; and the CPU backend's table. */
#include "kernels/kernels.h"
#include "tests/kernels/draw_cases.h"
#include "tests/unit/test.h"

static void test_functions(void **state) {
    (void)state;
    for (int i = 0; i < 200000; i++) {
        double d = -ref_uniform(0, 27.7), u = ref_chance(0.5) ? ref_uniform(0, 1) : exp2(-ref_uniform(0, 53));
        double mass = (double)mw_draw_mass((float)d), want = exp2(40) * exp((double)(float)d);
        if (fabs(mass - want) > 1e-6 * want + 1) fail_msg("mass(%g) = %g, expected %g", d, mass, want);
        if (u > 0 && fabs(mw_draw_log(u) - log(u)) > 4e-16 * fabs(log(u)) + 1e-300)
            fail_msg("log(%.17g) = %.17g, expected %.17g", u, mw_draw_log(u), log(u));
        double near = 1 - exp2(-ref_uniform(1, 53)), x = exp2(ref_uniform(-60, 60));
        if (fabs(mw_draw_log(near) - log(near)) > 4e-16 * fabs(log(near))) fail_msg("log(1 - %g)", 1 - near);
        if (fabs(mw_draw_log(x) - log(x)) > 4e-16 * (1 + fabs(log(x)))) fail_msg("log(%g)", x);
    }
    assert_true(mw_draw_mass(0) == 1ull << 40 && mw_draw_mass(-28) == 0 && mw_draw_mass(-INFINITY) == 0);
    assert_true(mw_draw_log(0) == -INFINITY && mw_draw_log(1) == 0);
}

typedef struct {
    float x;
    int id;
} entry;

static int by_order(const void *a, const void *b) {
    const entry *p = a, *q = b;
    return p->x > q->x ? -1 : p->x < q->x ? 1 : p->id - q->id;
}

/* The definition, read literally. */
static int32_t reference(const mw_draw *how, const float *logits, int vocab, entry *e) {
    int n = 0, k;
    float top = -INFINITY;
    bool nan = false;
    for (int i = 0; i < vocab; i++) {
        e[i] = (entry){how->inv_temperature == 0 ? logits[i] : logits[i] * how->inv_temperature, i};
        nan |= isnan(e[i].x);
        if (e[i].x > top) top = e[i].x;
    }
    if (nan || isinf(top)) return -1;
    qsort(e, (size_t)vocab, sizeof *e, by_order);
    if (how->inv_temperature == 0) return e[0].id;
    while (n < vocab && e[n].x >= top + how->log_min_p && e[n].x > -INFINITY) n++;
    if (how->top_k > 0 && how->top_k < n) n = how->top_k;
    if (how->top_p < 1) {
        uint64_t total = 0, sum = 0;
        for (int i = 0; i < n; i++) total += mw_draw_mass(e[i].x - top);
        for (k = 0; k < n && sum < mw_draw_target(how->top_p, total); k++) sum += mw_draw_mass(e[k].x - top);
        n = k;
    }
    int32_t chosen = -1;
    double best = -INFINITY;
    for (int i = 0; i < n; i++) {
        double g = mw_draw_score(e[i].x, mw_draw_uniform(mw_draw_key(how), (uint32_t)e[i].id));
        if (g > best || (g == best && e[i].id < chosen)) best = g, chosen = e[i].id;
    }
    return chosen;
}

static void test_rows(void **state) {
    (void)state;
    mw_dev *d = NULL;
    const mw_kernels *k = mw_kernels_cpu();
    assert_int_equal(k->open(&d, &(mw_dev_opts){.threads = 3}), MW_OK);
    for (int round = 0; round < 300; round++) {
        int64_t rows = ref_int(1, 9), vocab = ref_int(1, 3000), ld = vocab + ref_int(0, 3);
        float *logits = malloc((size_t)(rows * ld) * sizeof *logits);
        entry *e = malloc((size_t)vocab * sizeof *e);
        mw_draw how[9];
        int32_t token[9];
        for (int64_t i = 0; i < rows; i++) {
            draw_case_logits(logits + i * ld, vocab, ld);
            how[i] = draw_case_how(vocab);
        }
        assert_int_equal(k->draw(d, token, how, logits, ld, rows, vocab), MW_OK);
        for (int64_t i = 0; i < rows; i++) {
            int32_t want = reference(&how[i], logits + i * ld, (int)vocab, e);
            if (token[i] != want)
                fail_msg("vocab %d: %d, expected %d (1/T %g, min_p e^%g, top_p %g, top_k %d)", (int)vocab, token[i],
                         want, (double)how[i].inv_temperature, (double)how[i].log_min_p, (double)how[i].top_p,
                         how[i].top_k);
        }
        free(logits);
        free(e);
    }
    k->close(d);
}

static void test_best_of(void **state) {
    (void)state;
    const float v[3][2] = {{1, 5}, {3, 5}, {2, NAN}};
    int32_t parts[3][2][2], chosen[2];
    const int32_t first[] = {0, 10, -1}, all[] = {0, 10, 20};
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < 2; i++) {
            parts[p][0][i] = p + i;
            memcpy(&parts[p][1][i], &v[p][i], sizeof v[p][i]);
        }
    assert_int_equal(mw_kernels_cpu()->best_of(NULL, chosen, &parts[0][0][0], 3, 2, first, 2), MW_OK);
    assert_int_equal(chosen[0], 11); /* the larger */
    assert_int_equal(chosen[1], 1);  /* the first of equals; the part that is none has the NaN */
    assert_int_equal(mw_kernels_cpu()->best_of(NULL, chosen, &parts[0][0][0], 3, 2, all, 2), MW_OK);
    assert_int_equal(chosen[1], -1);
}

int main(int argc, char **argv) {
    ref_seed_from_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_best_of),
    };
    return cmocka_run_group_tests_name("draw", tests, NULL, NULL);
}
