/* tests/kernels/test_cpu_dense.c - dense linear layers of the CPU backend against a double reference.
 *
 * The bound: an element is `lanes` partial sums of k / lanes products each (one or two roundings a product), a tree
 * over the lanes and the bias; each rounding is at most 2^-24 of sum |x||w| + |bias|. Bitwise: a row does not depend on
 * m, on the other rows or on the number of threads.
 */
#include <math.h>
#include <string.h>

#include "tests/kernels/cpu_devices.h"
#include "tests/ref/ref_gemm.h"

typedef struct {
    mw_linear w;
    int64_t m, ldx, ldy;
    float *x;
} layer;

static layer make_layer(int64_t m, int64_t k, int64_t n) {
    static const mw_dtype dtypes[] = {MW_F16, MW_BF16, MW_F32};
    mw_dtype t = dtypes[ref_int(0, 2)];
    layer c = {.m = m, .ldx = k + ref_int(0, 9), .ldy = n + ref_int(0, 9)};
    void *w = ref_guarded((size_t)(k * n) * mw_dtype_size(t));
    float *bias = ref_chance(0.5) ? ref_guarded((size_t)n * sizeof(float)) : NULL;
    for (int64_t i = 0; i < k * n; i++) ref_store(w, t, (size_t)i, ref_normal() * (ref_chance(0.01) ? 1e-6 : 0.05));
    for (int64_t j = 0; bias && j < n; j++) bias[j] = (float)ref_normal();
    c.x = ref_guarded((size_t)(m * c.ldx) * sizeof(float));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < k; j++) c.x[i * c.ldx + j] = (float)ref_normal();
    c.w = (mw_linear){.kind = MW_LINEAR_DENSE, .k = k, .n = n, .dense = {w, t}, .bias = bias};
    return c;
}

static void free_layer(layer *c) {
    ref_guarded_free((void *)c->w.dense.w);
    ref_guarded_free((void *)c->w.bias);
    ref_guarded_free(c->x);
}

static void check_row(const layer *c, const float *y, int64_t i, int lanes) {
    for (int64_t j = 0; j < c->w.n; j++) {
        double exact = c->w.bias ? c->w.bias[j] : 0, sum = fabs(exact);
        for (int64_t l = 0; l < c->w.k; l++) {
            double p = ref_weight(&c->w, l, j) * c->x[i * c->ldx + l];
            exact += p;
            sum += fabs(p);
        }
        double bound = (2.0 * (double)c->w.k / lanes + 2 * lanes + 8) * 0x1p-24 * sum;
        if (!(fabs(y[j] - exact) <= bound))
            fail_msg("m=%lld k=%lld n=%lld %s: y[%lld,%lld] = %.9g, exact %.9g, bound %.3g", (long long)c->m,
                     (long long)c->w.k, (long long)c->w.n, mw_dtype_name(c->w.dense.dtype), (long long)i, (long long)j,
                     y[j], exact, bound);
    }
}

static void check_layer(const layer *c) {
    static const int threads[] = {1, 2, 3, 5};
    for (int isa = 0; isa < N_ISAS; isa++) {
        float *first = NULL;
        for (int t = 0; t < 4; t++) {
            mw_dev *d = open_dev(isa, threads[t], false);
            if (!d) continue;
            float *y = ref_guarded((size_t)(c->m * c->ldy) * sizeof(float));
            assert_int_equal(mw_kernels_cpu()->linear(d, &c->w, c->m, c->x, c->ldx, y, c->ldy, true), MW_OK);
            assert_true(ref_guards_intact(y));
            for (int64_t i = 0; i < c->m; i++)
                for (int64_t j = c->w.n; j < c->ldy; j++) assert_int_equal(mw_f32_bits(y[i * c->ldy + j]), REF_POISON);
            if (first)
                assert_memory_equal(y, first, (size_t)(c->m * c->ldy) * sizeof(float));
            else
                for (int64_t i = 0; i < c->m; i++) check_row(c, y + i * c->ldy, i, lanes_of(isa));
            if (first) { /* a row alone */
                int64_t i = ref_int(0, c->m - 1);
                float *one = ref_guarded((size_t)c->w.n * sizeof(float));
                assert_int_equal(mw_kernels_cpu()->linear(d, &c->w, 1, c->x + i * c->ldx, c->ldx, one, c->w.n, true),
                                 MW_OK);
                assert_memory_equal(one, y + i * c->ldy, (size_t)c->w.n * sizeof(float));
                ref_guarded_free(one);
                ref_guarded_free(y);
            } else {
                first = y;
            }
            mw_kernels_cpu()->close(d);
        }
        ref_guarded_free(first);
    }
}

static void test_random_shapes(void **state) {
    (void)state;
    for (int i = 0; i < 30; i++) {
        layer c = make_layer(ref_chance(0.5) ? ref_int(1, 5) : ref_int(1, 40), ref_int(1, 400), ref_int(1, 200));
        check_layer(&c);
        free_layer(&c);
    }
}

static void test_many_rows(void **state) {
    (void)state;
    layer c = make_layer(ref_int(280, 300), 130, 101);
    check_layer(&c);
    free_layer(&c);
}

/* Subnormal and large f16 weights convert exactly. */
static void test_f16_range(void **state) {
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++) {
        mw_dev *d = open_dev(isa, 1, false);
        if (!d) continue;
        enum { K = 32, N = 2048 }; /* every finite f16, one at a time: x = 1 in one place, 0 elsewhere */
        uint16_t *w = ref_guarded(sizeof(uint16_t) * K * N);
        float x[K], y[N];
        uint32_t h = 0;
        for (int i = 0; i < K * N; i++) {
            while ((h & 0x7c00) == 0x7c00) h++;
            w[i] = (uint16_t)h++;
        }
        mw_linear lin = {.kind = MW_LINEAR_DENSE, .k = K, .n = N, .dense = {w, MW_F16}};
        for (int one = 0; one < K; one++) {
            for (int i = 0; i < K; i++) x[i] = i == one;
            assert_int_equal(mw_kernels_cpu()->linear(d, &lin, 1, x, K, y, N, true), MW_OK);
            for (int j = 0; j < N; j++) assert_true(y[j] == mw_f16_to_f32(w[j * K + one]));
        }
        ref_guarded_free(w);
        mw_kernels_cpu()->close(d);
    }
}

static void test_bad_dtype(void **state) {
    (void)state;
    mw_dev *d = open_dev(0, 1, false);
    float x = 0, y = 0;
    mw_linear w = {.kind = MW_LINEAR_DENSE, .k = 1, .n = 1, .dense = {&x, MW_I32}};
    assert_int_equal(mw_kernels_cpu()->linear(d, &w, 1, &x, 1, &y, 1, true), MW_ERR_INTERNAL);
    mw_kernels_cpu()->close(d);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_f16_range),
        cmocka_unit_test(test_bad_dtype),
    };
    ref_seed_from_args(argc, argv);
    print_untested_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
