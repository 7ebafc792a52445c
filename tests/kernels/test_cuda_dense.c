/* tests/kernels/test_cuda_dense.c - dense linear layers of the CUDA backend against a double reference.
 *
 * The bound: the matrix units add 16 products at a time to an f32 sum, with up to 2^-22 of the larger operand lost per
 * addition; split sums and the plain kernel stay below that. So 2 (k / 16 + 16) 2^-22 of sum |x||w| + |bias|, and the
 * rounding of y. It must hold for each mixture of types: the conversion of activations loses nothing (2^-39 of a row's
 * largest element for bf16 x and f16 weights). */
#include "tests/kernels/cuda_test.h"

typedef struct {
    int64_t m, k, n, ldx, ldy;
    mw_dtype t;
    bool bias, y_f32;
} layer;

static void describe(const layer *c, char text[160]) {
    snprintf(text, 160, "m=%lld k=%lld n=%lld ldx=%lld ldy=%lld weights %s act %s%s%s", (long long)c->m,
             (long long)c->k, (long long)c->n, (long long)c->ldx, (long long)c->ldy, mw_dtype_name(c->t),
             mw_dtype_name(D->act), c->bias ? " bias" : "", c->y_f32 ? " to f32" : "");
}

static void check_row(const layer *c, const void *w, const float *bias, const void *x, const void *y, int64_t i) {
    mw_dtype out = c->y_f32 ? MW_F32 : D->act;
    double most = 0;
    char text[160];
    for (int64_t l = 0; l < c->k; l++) most = fmax(most, fabs(mw_load_f32(x, D->act, (size_t)(i * c->ldx + l))));
    for (int64_t j = 0; j < c->n; j++) {
        double exact = bias ? bias[j] : 0, sum = fabs(exact), weights = 0;
        for (int64_t l = 0; l < c->k; l++) {
            double a = mw_load_f32(w, c->t, (size_t)(j * c->k + l));
            double p = a * mw_load_f32(x, D->act, (size_t)(i * c->ldx + l));
            exact += p;
            sum += fabs(p);
            weights += fabs(a);
        }
        double e = 2 * ((double)c->k / 16 + 16) * 0x1p-22 * sum + 0x1p-39 * most * weights;
        double got = mw_load_f32(y, out, (size_t)(i * c->ldy + j));
        if (near_to(got, exact, e, out)) continue;
        describe(c, text);
        FAIL("%s: y[%lld,%lld] = %.9g, exact %.9g, bound %.3g", text, (long long)i, (long long)j, got, exact, e);
    }
    for (int64_t j = c->n; j < c->ldy; j++) CHECK(is_poison(y, out, i * c->ldy + j));
}

/* Columns of x from k on are NaN. */
static void check_layer(const layer *c, double spread) {
    mw_dtype out = c->y_f32 ? MW_F32 : D->act;
    size_t x_bytes = (size_t)(c->m * c->ldx) * mw_dtype_size(D->act),
           y_bytes = (size_t)(c->m * c->ldy) * mw_dtype_size(out);
    void *w = host_random(c->t, c->n, c->k, 0.05), *x = host_random(D->act, c->m, c->ldx, 1), *y = host_new(y_bytes);
    float *bias = c->bias ? host_random(MW_F32, 1, c->n, 1) : NULL;
    for (int64_t i = 0; i < c->m * c->ldx; i++)
        if (i % c->ldx >= c->k)
            ref_store(x, D->act, (size_t)i, NAN);
        else if (ref_chance(0.01))
            ref_store(x, D->act, (size_t)i, ref_normal() * spread);
    void *d_w = dev_copy(w, (size_t)(c->n * c->k) * mw_dtype_size(c->t)), *d_x = dev_copy(x, x_bytes);
    void *d_bias = bias ? dev_copy(bias, (size_t)c->n * 4) : NULL, *d_y = dev_new(y_bytes);
    mw_linear lin = {.kind = MW_LINEAR_DENSE, .k = c->k, .n = c->n, .dense = {d_w, c->t}, .bias = d_bias};
    OK(K->linear(D, &lin, c->m, d_x, c->ldx, d_y, c->ldy, c->y_f32));
    dev_get(y, d_y, y_bytes);
    int64_t step = c->m > 24 ? c->m / 12 : 1;
    for (int64_t i = 0; i < c->m; i += step) check_row(c, w, bias, x, y, i);
    check_row(c, w, bias, x, y, c->m - 1);
    dev_free(d_w), dev_free(d_x), dev_free(d_bias), dev_free(d_y);
    free(w), free(x), free(y), free(bias);
}

static void test_random_shapes(void) {
    static const mw_dtype dtypes[] = {MW_F16, MW_BF16, MW_F32};
    for (int i = 0; i < (g_small ? 12 : 90); i++) {
        bool even = ref_chance(0.7); /* rows at multiples of 16 bytes: cuBLASLt's */
        layer c = {.t = dtypes[i % 3], .bias = ref_chance(0.4), .y_f32 = ref_chance(0.4)};
        c.m = ref_chance(0.5) ? ref_int(1, 5) : ref_int(1, g_small ? 10 : 300);
        c.k = even ? 16 * ref_int(1, g_small ? 8 : 40) : ref_int(1, 400);
        c.n = even ? 8 * ref_int(1, g_small ? 8 : 40) : ref_int(1, 200);
        c.ldx = c.k + (even ? 8 * ref_int(0, 2) : ref_int(0, 9));
        c.ldy = c.n + (even ? 8 * ref_int(0, 2) : ref_int(0, 9));
        check_layer(&c, ref_chance(0.5) ? 1 : 1e-6);
    }
}

/* Rows in several portions (f32 sums of many rows do not fit the workspace); bf16 values beyond f16's range. */
static void test_special(void) {
    layer many = {.m = 3000, .k = 64, .n = 3008, .ldx = 64, .ldy = 3008, .t = MW_F32};
    layer wide = {.m = 5, .k = 256, .n = 72, .ldx = 256, .ldy = 72, .t = MW_F16, .y_f32 = true};
    if (!g_small) check_layer(&many, 1);
    many.t = D->act == MW_F16 ? MW_BF16 : MW_F16;
    many.bias = true;
    if (!g_small) check_layer(&many, 1);
    check_layer(&wide, D->act == MW_BF16 ? 1e9 : 1e3);
}

static void test_head(void) {
    layer c = {.m = 2, .k = 1024, .n = 8000, .ldx = 1024, .ldy = 8000, .t = D->act, .y_f32 = true};
    if (!g_small) check_layer(&c, 1);
}

/* One row: dense_row.cu, and shapes just beyond what it takes. */
static void test_row(void) {
    static const int64_t ks[] = {256, 264, 1024, 1800, 4096, 5000, 16384, 248, 300, 16392};
    for (int i = 0; i < (g_small ? 4 : 30); i++) {
        layer c = {.m = 1, .k = ks[i % 10], .t = i % 4 ? D->act : MW_F32, .bias = i % 3 == 0, .y_f32 = i % 2};
        c.n = i % 5 ? ref_int(250, 900) : g_small ? 300 : 9000;
        c.ldx = c.k + 8 * ref_int(0, 2), c.ldy = c.n + ref_int(0, 9);
        check_layer(&c, 1);
    }
}

/* Captured after a first call, launched twice. */
static void test_graph(void) {
    enum { M = 4, DIM = 128 };
    for (int mixed = 0; mixed < 2; mixed++) {
        mw_dtype t = (D->act == MW_F16) == !mixed ? MW_F16 : MW_BF16;
        void *w = host_random(t, DIM, DIM, 0.1), *d_w = dev_copy(w, DIM * DIM * 2), *d_x = dev_new(M * DIM * 2);
        float *d_y = dev_new(M * DIM * 4), y[2][M * DIM];
        mw_linear lin = {.kind = MW_LINEAR_DENSE, .k = DIM, .n = DIM, .dense = {d_w, t}};
        mw_graph *g = NULL;
        void *x = host_random(D->act, M, DIM, 1);
        OK(K->to_device(D, d_x, x, M * DIM * 2));
        OK(K->linear(D, &lin, M, d_x, DIM, d_y, DIM, true));
        dev_get(y[0], d_y, sizeof y[0]);
        OK(mw_cuda_capture_begin(D));
        OK(K->linear(D, &lin, M, d_x, DIM, d_y, DIM, true));
        OK(mw_cuda_capture_end(D, &g));
        for (int i = 0; i < 2 && g; i++) {
            OK(K->zero(D, d_y, sizeof y[0]));
            OK(mw_cuda_graph_launch(D, g));
            dev_get(y[1], d_y, sizeof y[1]);
            CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0);
        }
        mw_cuda_graph_free(g);
        dev_free(d_w), dev_free(d_x), dev_free(d_y);
        free(w), free(x);
    }
}

static void test_bad_dtype(void) {
    mw_linear w = {.kind = MW_LINEAR_DENSE, .k = 1, .n = 1, .dense = {D->workspace, MW_I32}};
    CHECK(K->linear(D, &w, 1, D->workspace, 1, D->workspace, 1, true) == MW_ERR_INTERNAL);
}

static void all(void) {
    test_random_shapes();
    test_special();
    test_head();
    test_row();
    test_graph();
    test_bad_dtype();
}

int main(int argc, char **argv) {
    return cuda_test_main(argc, argv, all);
}
