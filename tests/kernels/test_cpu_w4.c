/* tests/kernels/test_cpu_w4.c - the int4 GEMM of the CPU backend against a double reference, element by element.
 *
 * The bound of one element. With the activation block's largest |x| = A and L levels (32767, or 127 under int8_act),
 * step s = A/L, every x is replaced by a*s, |x - a*s| <= s/2 up to the rounding of s and of x/s (relative 2^-22
 * together). So the rounding of the activations moves y by at most
 *     E = sum over blocks of A/(2L) * sum_k |w_k|.
 * The rest is f32 arithmetic on exact integer sums: per block one conversion, one product of two scales, one fused
 * multiply-add; each is at most 2^-24 of a number not above S = sum |x||w| + |bias| (and E, far smaller), and a sum
 * over `blocks` of them. Hence |y - exact| <= 1.001 E + (blocks + 8) 2^-24 (S + E). Blocks whose largest |x| is below
 * 4e-34 count as zero; the data have none but true zeros.
 *
 * What holds bitwise: all instruction sets, all numbers of threads, and a row alone or among others.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/kernels/cpu_devices.h"
#include "tests/ref/ref_gemm.h"

typedef struct {
    mw_linear w;
    int64_t m, ldx, ldy;
    float *x;
    ref_dot *ref; /* [m][n] */
} layer;

static layer make_layer(int64_t m, int64_t k, int64_t n, int64_t group) {
    static const mw_dtype dtypes[] = {MW_F16, MW_BF16, MW_F32};
    layer c = {.m = m, .ldx = k + ref_int(0, 3) * 5, .ldy = n + ref_int(0, 3) * 7};
    c.w = ref_w4_random(k, n, group, dtypes[ref_int(0, 2)], ref_chance(0.5), ref_chance(0.5),
                        ref_chance(0.3) ? ref_int(1, 63) : 0);
    c.x = ref_guarded((size_t)(m * c.ldx) * sizeof(float)); /* columns k.. stay NaN */
    for (int64_t i = 0; i < m; i++) {
        double size = exp(ref_uniform(-8, 8));
        for (int64_t j = 0; j < k; j++) c.x[i * c.ldx + j] = (float)(ref_normal() * size * (ref_chance(0.01) ? 30 : 1));
        if (ref_chance(0.1)) memset(c.x + i * c.ldx, 0, (size_t)group * sizeof(float)); /* a block of zeros */
    }
    c.ref = calloc((size_t)(m * n), sizeof *c.ref);
    double *col = malloc((size_t)k * sizeof *col);
    assert_non_null(c.ref);
    assert_non_null(col);
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < k; i++) col[i] = ref_weight(&c.w, i, j);
        for (int64_t i = 0; i < m; i++)
            c.ref[i * n + j] = ref_linear(col, c.x + i * c.ldx, k, group, c.w.bias ? c.w.bias[j] : 0);
    }
    free(col);
    return c;
}

static void free_layer(layer *c) {
    assert_true(ref_guards_intact(c->w.w4.tiles) && ref_guards_intact(c->w.w4.scales) && ref_guards_intact(c->x));
    ref_w4_free(&c->w);
    ref_guarded_free(c->x);
    free(c->ref);
}

static double g_worst[2]; /* largest error as a fraction of the bound, by int8_act */

static void check_bound(const layer *c, const float *y, bool int8, const char *isa) {
    double levels = int8 ? 127 : 32767;
    int64_t kb = c->w.k / c->w.w4.group * ((c->w.w4.group + 127) / 128);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t j = 0; j < c->w.n; j++) {
            const ref_dot *r = &c->ref[i * c->w.n + j];
            double e = r->act_error / (2 * levels);
            double bound = 1.001 * e + (double)(kb + 8) * 0x1p-24 * (r->abs_sum + e);
            double err = fabs(y[i * c->ldy + j] - r->y);
            if (!(err <= bound))
                fail_msg("%s int8=%d m=%lld k=%lld n=%lld group=%lld: y[%lld,%lld] = %.9g, exact %.9g, bound %.3g", isa,
                         int8, (long long)c->m, (long long)c->w.k, (long long)c->w.n, (long long)c->w.w4.group,
                         (long long)i, (long long)j, y[i * c->ldy + j], r->y, bound);
            if (bound > 0 && err / bound > g_worst[int8]) g_worst[int8] = err / bound;
        }
}

/* Columns n .. ldy-1 of every row still hold the poison. */
static void check_gaps(const layer *c, const float *y) {
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t j = c->w.n; j < c->ldy; j++) assert_int_equal(mw_f32_bits(y[i * c->ldy + j]), REF_POISON);
    assert_true(ref_guards_intact(y));
}

static float *run_layer(mw_dev *d, const layer *c) {
    float *y = ref_guarded((size_t)(c->m * c->ldy) * sizeof(float));
    assert_int_equal(mw_kernels_cpu()->linear(d, &c->w, c->m, c->x, c->ldx, y, c->ldy, true), MW_OK);
    return y;
}

static void check_layer(const layer *c) {
    static const int threads[] = {1, 2, 3, 5};
    for (int int8 = 0; int8 < 2; int8++) {
        float *first = NULL;
        for (int i = 0; i < N_ISAS; i++) {
            mw_dev *d = open_dev(i, threads[ref_int(0, 3)], int8);
            if (!d) continue;
            float *y = run_layer(d, c);
            check_gaps(c, y);
            if (!first) {
                check_bound(c, y, int8, k_isas[i]);
                first = y;
            } else {
                assert_memory_equal(y, first, (size_t)(c->m * c->ldy) * sizeof(float));
                ref_guarded_free(y);
            }
            mw_kernels_cpu()->close(d);
        }
        ref_guarded_free(first);
    }
}

static int64_t random_group(int64_t *k) {
    static const int64_t groups[] = {128, 128, 64, 32, 16, 48, 192, 256, 0};
    int64_t g = groups[ref_int(0, 8)];
    if (g == 0) return *k = 16 * ref_int(1, 40); /* per channel */
    *k = g * ref_int(1, 640 / g > 0 ? 640 / g : 1);
    return g;
}

static void test_random_shapes(void **state) {
    (void)state;
    for (int i = 0; i < 40; i++) {
        int64_t k, group = random_group(&k), m = ref_chance(0.3) ? ref_int(1, 4) : ref_int(1, 70);
        layer c = make_layer(m, k, 64 * ref_int(1, 5), group);
        check_layer(&c);
        free_layer(&c);
    }
    printf("largest error / bound: int16 %.3f, int8 %.3f\n", g_worst[0], g_worst[1]);
}

static void test_many_rows(void **state) {
    (void)state;
    layer c = make_layer(300, 384, 64 * 9, 128);
    check_layer(&c);
    free_layer(&c);
    c = make_layer(ref_int(256, 300), 16 * 13, 64, 16 * 13);
    check_layer(&c);
    free_layer(&c);
}

/* More rows than one chunk of prepared activations holds: k large enough that a chunk is a row block or two. */
static void test_row_chunks(void **state) {
    (void)state;
    layer c = make_layer(27, 16 * 4100 * 2, 64, 16 * 41);
    check_layer(&c);
    free_layer(&c);
}

/* A row's bits do not depend on the other rows, on m, or on the number of threads. */
static void test_row_alone(void **state) {
    (void)state;
    for (int int8 = 0; int8 < 2; int8++)
        for (int isa = 0; isa < N_ISAS; isa++) {
            layer c = make_layer(ref_int(5, 40), 128 * 5, 64 * 7, 128);
            for (int threads = 1; threads <= 5; threads += 2) {
                mw_dev *d = open_dev(isa, threads, int8);
                if (!d) continue;
                float *all = run_layer(d, &c), *one = ref_guarded((size_t)c.w.n * sizeof(float));
                for (int64_t i = 0; i < c.m; i++) {
                    assert_int_equal(mw_kernels_cpu()->linear(d, &c.w, 1, c.x + i * c.ldx, c.ldx, one, c.w.n, false),
                                     MW_OK);
                    assert_memory_equal(one, all + i * c.ldy, (size_t)c.w.n * sizeof(float));
                }
                ref_guarded_free(all);
                ref_guarded_free(one);
                mw_kernels_cpu()->close(d);
            }
            free_layer(&c);
        }
}

/* NaN or infinity in a row of x makes that row of y NaN, all of it, and no other. */
static void test_nonfinite(void **state) {
    (void)state;
    for (int int8 = 0; int8 < 2; int8++)
        for (int isa = 0; isa < N_ISAS; isa++) {
            mw_dev *d = open_dev(isa, 2, int8);
            if (!d) continue;
            layer c = make_layer(ref_int(2, 30), 256, 128, 128);
            int64_t bad = ref_int(0, c.m - 1);
            float *good = run_layer(d, &c);
            c.x[bad * c.ldx + ref_int(0, 255)] = ref_chance(0.5) ? NAN : ref_chance(0.5) ? INFINITY : -INFINITY;
            float *y = run_layer(d, &c);
            for (int64_t i = 0; i < c.m; i++)
                for (int64_t j = 0; j < c.w.n; j++)
                    if (i == bad)
                        assert_true(isnan(y[i * c.ldy + j]));
                    else
                        assert_int_equal(mw_f32_bits(y[i * c.ldy + j]), mw_f32_bits(good[i * c.ldy + j]));
            ref_guarded_free(good);
            ref_guarded_free(y);
            free_layer(&c);
            mw_kernels_cpu()->close(d);
        }
}

/* Largest codes, largest zero points, largest activations: the integer sums must not wrap. And tiny ones. */
static void test_extremes(void **state) {
    (void)state;
    const int64_t k = 128, n = 64;
    static const double sizes[] = {1, 1e30, 1e-30, 1e-37};
    for (int int8 = 0; int8 < 2; int8++)
        for (int isa = 0; isa < N_ISAS; isa++)
            for (int q = 0; q <= 15; q += 15)
                for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                    mw_dev *d = open_dev(isa, 1, int8);
                    if (!d) continue;
                    mw_linear w = ref_w4_random(k, n, k, MW_F32, true, false, 0);
                    for (int64_t i = 0; i < k; i++)
                        for (int64_t c = 0; c < n; c++) ref_tile_put((uint32_t *)w.w4.tiles, n, i, c, (unsigned)q);
                    for (int64_t c = 0; c < n; c++) {
                        ((float *)w.w4.scales)[c] = 1;
                        ((uint8_t *)w.w4.zeros)[c] = q ? 0 : 16;
                    }
                    float x[128], y[64];
                    for (int i = 0; i < 128; i++) x[i] = (float)sizes[s];
                    double exact = (q ? 15.0 : -16.0) * 128 * (double)x[0];
                    assert_int_equal(mw_kernels_cpu()->linear(d, &w, 1, x, k, y, n, true), MW_OK);
                    for (int i = 0; i < 64; i++)
                        if (sizes[s] > 1e-33)
                            assert_true(fabs(y[i] - exact) <= fabs(exact) * 1e-6);
                        else
                            assert_true(y[i] == 0); /* below what a scale can hold: zero, not noise */
                    ref_w4_free(&w);
                    mw_kernels_cpu()->close(d);
                }
}

static void test_bad_shapes(void **state) {
    (void)state;
    mw_dev *d = open_dev(0, 1, false);
    mw_linear good = ref_w4_random(64, 64, 32, MW_F16, false, false, 0), w = good;
    float x[64] = {0}, y[64];
    w.k = 72;
    assert_int_equal(mw_kernels_cpu()->linear(d, &w, 1, x, 64, y, 64, true), MW_ERR_INTERNAL);
    w = good;
    w.n = 32;
    assert_int_equal(mw_kernels_cpu()->linear(d, &w, 1, x, 64, y, 64, true), MW_ERR_INTERNAL);
    w = good;
    w.w4.group = 48;
    assert_int_equal(mw_kernels_cpu()->linear(d, &w, 1, x, 64, y, 64, true), MW_ERR_INTERNAL);
    w = good;
    w.w4.scale_dtype = MW_U8;
    assert_int_equal(mw_kernels_cpu()->linear(d, &w, 1, x, 64, y, 64, true), MW_ERR_INTERNAL);
    assert_int_equal(mw_kernels_cpu()->linear(d, &good, 0, x, 64, y, 64, true), MW_OK);
    ref_w4_free(&good);
    mw_kernels_cpu()->close(d);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_many_rows), cmocka_unit_test(test_row_chunks),
        cmocka_unit_test(test_row_alone),     cmocka_unit_test(test_nonfinite), cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_bad_shapes),
    };
    ref_seed_from_args(argc, argv);
    print_untested_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
