/* tests/kernels/test_cpu_rows.c - embedding, norm, gathers, SiLU and the NaN counter of the CPU backend.
 * Copies are compared bit by bit; sums and exponentials by bounds stated where they are used. Every operation is run on
 * every instruction set, with 1 to 5 threads (small and large sizes: with and without waking them), between guards.
 */
#include <math.h>
#include <string.h>

#include "tests/kernels/cpu_devices.h"
#include "tests/ref/ref_util.h"

static const mw_kernels *K; /* the CPU table */

static float *random_matrix(int64_t rows, int64_t ld, int64_t cols) {
    float *x = ref_guarded((size_t)(rows * ld) * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) x[i * ld + j] = (float)ref_normal();
    return x;
}

static int64_t some_rows(void) {
    return ref_chance(0.5) ? ref_int(1, 5) : ref_int(6, 200);
}

/* Calls check(d) for every instruction set and several numbers of threads. */
static void on_all(void (*check)(mw_dev *d)) {
    static const int threads[] = {1, 2, 3, 5};
    for (int isa = 0; isa < 3; isa++)
        for (int t = 0; t < 4; t++)
            for (int n = 0; n < 4; n++) {
                mw_dev *d = open_dev(isa, threads[t], false);
                if (!d) continue;
                check(d);
                K->close(d);
            }
}

static void check_embed(mw_dev *d) {
    static const mw_dtype dtypes[] = {MW_F16, MW_BF16, MW_F32};
    mw_dtype t = dtypes[ref_int(0, 2)];
    int64_t m = some_rows(), h = ref_int(1, 700), v0 = ref_int(0, 50), v1 = v0 + ref_int(1, 50);
    void *table = ref_guarded((size_t)((v1 - v0) * h) * mw_dtype_size(t));
    int32_t *token = ref_guarded((size_t)m * sizeof(int32_t));
    float *dst = ref_guarded((size_t)(m * h) * sizeof(float));
    for (int64_t i = 0; i < (v1 - v0) * h; i++) ref_store(table, t, (size_t)i, ref_normal());
    int32_t chosen[8];
    for (int i = 0; i < 8; i++) chosen[i] = (int32_t)ref_int(-1, 110);
    for (int64_t i = 0; i < m; i++) token[i] = (int32_t)(ref_chance(0.3) ? -ref_int(1, 8) : ref_int(0, 110));
    assert_int_equal(K->embed(d, dst, m, h, token, chosen, table, t, v0, v1), MW_OK);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < h; j++) {
            int32_t id = token[i] < 0 ? chosen[-1 - token[i]] : token[i];
            bool mine = id >= v0 && id < v1;
            float want = mine ? mw_load_f32(table, t, (size_t)((id - v0) * h + j)) : 0;
            assert_int_equal(mw_f32_bits(dst[i * h + j]), mw_f32_bits(want));
        }
    assert_true(ref_guards_intact(dst));
    ref_guarded_free(table);
    ref_guarded_free(token);
    ref_guarded_free(dst);
}

static void test_embed(void **state) {
    (void)state;
    on_all(check_embed);
}

static int32_t *random_perm(int64_t n) {
    int32_t *p = ref_guarded((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = ref_int(0, i);
        int32_t t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
    return p;
}

/* x + delta is one rounding. The sum of squares is f32 over runs of 1024 in at least 4 lanes: 260 roundings; half of
 * that remains after the root; three more roundings follow: relative 140 * 2^-24. */
static void check_add_norm(mw_dev *d) {
    int64_t m = some_rows(), h = ref_int(1, 3000);
    float *x = random_matrix(m, h, h), *delta = ref_chance(0.7) ? random_matrix(m, h, h) : NULL;
    float *dst = ref_chance(0.8) ? ref_guarded((size_t)(m * h) * sizeof(float)) : NULL, *w = random_matrix(1, h, h);
    int32_t *perm = ref_chance(0.4) ? random_perm(h) : NULL;
    float eps = ref_chance(0.5) ? 1e-5f : 1e-6f;
    size_t bytes = (size_t)(m * h) * sizeof(float);
    float *sum = malloc(bytes);
    assert_non_null(sum);
    if (ref_chance(0.5)) /* small enough for eps to matter */
        for (int64_t i = 0; i < m * h; i++) {
            x[i] *= 0.01f;
            if (delta) delta[i] *= 0.01f;
        }
    for (int64_t i = 0; i < m * h; i++) sum[i] = delta ? x[i] + delta[i] : x[i];
    assert_int_equal(K->add_norm(d, x, delta, dst, m, h, w, eps, perm), MW_OK);
    assert_memory_equal(x, sum, bytes);
    for (int64_t i = 0; dst && i < m; i++) {
        double squares = 0;
        for (int64_t j = 0; j < h; j++) squares += (double)sum[i * h + j] * sum[i * h + j];
        double inv = 1 / sqrt(squares / (double)h + eps);
        for (int64_t j = 0; j < h; j++) {
            int64_t p = perm ? perm[j] : j;
            double want = sum[i * h + p] * inv * w[p];
            assert_true(fabs(dst[i * h + j] - want) <= fabs(want) * 140 * 0x1p-24);
        }
    }
    assert_true(ref_guards_intact(x) && (!dst || ref_guards_intact(dst)));
    ref_guarded_free(x);
    ref_guarded_free(delta);
    ref_guarded_free(dst);
    ref_guarded_free(w);
    ref_guarded_free(perm);
    free(sum);
}

static void test_add_norm(void **state) {
    (void)state;
    on_all(check_add_norm);
}

/* Squares beyond f32 do not turn the row into zeros; a NaN stays in its row. */
static void check_norm_range(mw_dev *d) {
    enum { H = 40 };
    float x[3 * H], dst[3 * H], w[H];
    for (int i = 0; i < 3 * H; i++) x[i] = (float)ref_normal();
    for (int i = 0; i < H; i++) w[i] = 1, x[i] *= 1e25f;
    x[2 * H + 7] = NAN;
    assert_int_equal(K->add_norm(d, x, NULL, dst, 3, H, w, 1e-5f, NULL), MW_OK);
    double squares = 0;
    for (int i = 0; i < H; i++) squares += (double)x[i] * x[i];
    for (int i = 0; i < H; i++) {
        assert_true(fabs(dst[i] - x[i] / sqrt(squares / H)) < 1e-5 * fabs(dst[i]));
        assert_true(isfinite(dst[H + i]));
        assert_true(isnan(dst[2 * H + i]));
    }
}

static void test_norm_range(void **state) {
    (void)state;
    on_all(check_norm_range);
}

static void check_gathers(mw_dev *d) {
    int64_t m = some_rows(), n = ref_int(1, 900), cols = ref_int(1, 900), ld = cols + ref_int(0, 5),
            ldd = n + ref_int(0, 5);
    float *src = random_matrix(m, ld, cols), *dst = ref_guarded((size_t)(m * ldd) * sizeof(float));
    int32_t *idx = ref_guarded((size_t)n * sizeof(int32_t));
    for (int64_t j = 0; j < n; j++) idx[j] = (int32_t)ref_int(0, cols - 1);
    assert_int_equal(K->gather_cols(d, dst, ldd, src, ld, m, n, idx), MW_OK);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldd; j++)
            assert_int_equal(mw_f32_bits(dst[i * ldd + j]), j < n ? mw_f32_bits(src[i * ld + idx[j]]) : REF_POISON);
    assert_true(ref_guards_intact(dst));

    float *rows = ref_guarded((size_t)(n * ld) * sizeof(float));
    for (int64_t j = 0; j < n; j++) idx[j] = (int32_t)ref_int(0, m - 1);
    assert_int_equal(K->take_rows(d, rows, src, n, ld, idx), MW_OK);
    for (int64_t j = 0; j < n; j++) assert_memory_equal(rows + j * ld, src + idx[j] * ld, (size_t)ld * sizeof(float));
    assert_true(ref_guards_intact(rows));
    ref_guarded_free(src);
    ref_guarded_free(dst);
    ref_guarded_free(rows);
    ref_guarded_free(idx);
}

static void test_gathers(void **state) {
    (void)state;
    on_all(check_gathers);
}

/* 2^t with t = -x log2(e) rounded: relative 2^-24 |t|, and 2^-22 of its own; five more roundings. Where 1 + exp(-x)
 * leaves f32 the answer is 0 to within 1e-35. */
static void check_silu(mw_dev *d) {
    int64_t m = some_rows(), n = ref_int(1, 900), gap = ref_int(0, 9), ld = 2 * n + gap + ref_int(0, 5);
    bool in_place = ref_chance(0.5);
    int64_t ldd = in_place ? ld : n + ref_int(0, 5);
    float *x = ref_guarded((size_t)(m * ld) * sizeof(float));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            x[i * ld + j] = (float)(ref_normal() * (ref_chance(0.1) ? 60 : 3));
            x[i * ld + n + gap + j] = (float)ref_normal();
        }
    size_t bytes = (size_t)(m * ld) * sizeof(float);
    float *before = malloc(bytes), *dst = in_place ? x : ref_guarded((size_t)(m * ldd) * sizeof(float));
    assert_non_null(before);
    memcpy(before, x, bytes);
    assert_int_equal(K->silu_mul(d, dst, ldd, x, ld, m, n, n + gap), MW_OK);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double g = before[i * ld + j], u = before[i * ld + n + gap + j], want = g / (1 + exp(-g)) * u;
            double bound = fabs(want) * ((1.5 * fabs(g) + 12) * 0x1p-24) + 1e-35;
            assert_true(fabs(dst[i * ldd + j] - want) <= bound);
        }
        for (int64_t j = n; j < ldd; j++)
            assert_int_equal(mw_f32_bits(dst[i * ldd + j]), in_place ? mw_f32_bits(before[i * ld + j]) : REF_POISON);
    }
    assert_true(ref_guards_intact(x) && ref_guards_intact(dst));
    if (!in_place) ref_guarded_free(dst);
    ref_guarded_free(x);
    free(before);
}

static void check_silu_special(mw_dev *d) {
    enum { N = 21 };
    float x[2 * N], y[N];
    for (int i = 0; i < 2 * N; i++) x[i] = 1;
    x[0] = NAN, x[1] = INFINITY, x[2] = -INFINITY, x[3] = -300, x[4] = 300, x[5] = 0;
    x[N + 6] = NAN;
    x[N - 1] = NAN; /* in the remainder of a vector */
    assert_int_equal(K->silu_mul(d, y, N, x, 2 * N, 1, N, N), MW_OK);
    assert_true(isnan(y[0]) && !isfinite(y[1]) && !isfinite(y[2]) && isnan(y[6]) && isnan(y[N - 1]));
    assert_true(fabsf(y[3]) < 1e-35f && y[4] == 300 && y[5] == 0);
}

static void test_silu(void **state) {
    (void)state;
    on_all(check_silu);
    on_all(check_silu_special);
    mw_dev *d = open_dev(0, 1, false);
    float x[8] = {0};
    assert_int_equal(K->silu_mul(d, x, 2, x, 4, 2, 2, 2), MW_ERR_INTERNAL);
    K->close(d);
}

static void check_count(mw_dev *d) {
    int64_t m = some_rows(), n = ref_int(1, 900), ld = n + ref_int(0, 9), planted = 0, count = -1;
    float *x = random_matrix(m, ld, n); /* the gap is NaN and must not be counted */
    for (int64_t i = 0; i < m * ld; i++)
        if (i % ld < n && ref_chance(0.01)) x[i] = ref_chance(0.5) ? NAN : ref_chance(0.5) ? INFINITY : -INFINITY;
    x[0] = 3e38f;
    assert_int_equal(K->count_nonfinite(d, x, ld, m, n, true, &count), MW_OK);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) planted += !isfinite(x[i * ld + j]);
    assert_int_equal(count, planted);
    ref_guarded_free(x);
}

static void test_count(void **state) {
    (void)state;
    on_all(check_count);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),   cmocka_unit_test(test_add_norm), cmocka_unit_test(test_norm_range),
        cmocka_unit_test(test_gathers), cmocka_unit_test(test_silu),     cmocka_unit_test(test_count),
    };
    K = mw_kernels_cpu();
    ref_seed_from_args(argc, argv);
    print_untested_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
