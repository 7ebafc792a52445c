/* tests/kernels/test_cuda_rows.c - the row operations of the CUDA backend, the greedy choice, graphs and copies.
 * Copies are compared bit by bit; sums and exponentials by bounds stated where they are used. */
#include "tests/kernels/cuda_test.h"

static mw_dtype T; /* the device's activations */

static size_t act_bytes(int64_t n) {
    return (size_t)n * mw_dtype_size(T);
}

static int64_t some_rows(void) {
    return ref_chance(0.5) ? ref_int(1, 5) : ref_int(6, g_small ? 20 : 200);
}

/* Widths with and without the 16-byte path. */
static int64_t some_width(int64_t most) {
    if (g_small) most = most < 600 ? most : 600;
    return ref_chance(0.6) ? 8 * ref_int(1, most / 8) : ref_int(1, most);
}

static int cases(int n) {
    return g_small ? (n + 9) / 10 : n;
}

static void check_embed(void) {
    static const mw_dtype dtypes[] = {MW_F16, MW_BF16, MW_F32};
    mw_dtype t = dtypes[ref_int(0, 2)];
    int64_t m = some_rows(), h = some_width(900), v0 = ref_int(0, 50), v1 = v0 + ref_int(1, 50);
    void *table = host_random(t, v1 - v0, h, 1), *y = host_new(act_bytes(m * h));
    int32_t *token = host_new((size_t)m * sizeof *token);
    int32_t chosen[8];
    for (int i = 0; i < 8; i++) chosen[i] = (int32_t)ref_int(-1, 110);
    for (int64_t i = 0; i < m; i++) token[i] = (int32_t)(ref_chance(0.3) ? -ref_int(1, 8) : ref_int(0, 110));
    void *d_table = dev_copy(table, (size_t)((v1 - v0) * h) * mw_dtype_size(t)), *d_y = dev_new(act_bytes(m * h));
    int32_t *d_token = dev_copy(token, (size_t)m * sizeof *token), *d_chosen = dev_copy(chosen, sizeof chosen);
    OK(K->embed(D, d_y, m, h, d_token, d_chosen, d_table, t, v0, v1));
    dev_get(y, d_y, act_bytes(m * h));
    for (int64_t i = 0; i < m * h; i++) {
        int64_t r = token[i / h] < 0 ? chosen[-1 - token[i / h]] : token[i / h];
        float want = r >= v0 && r < v1 ? mw_load_f32(table, t, (size_t)((r - v0) * h + i % h)) : 0;
        uint16_t bits;
        ref_store(&bits, T, 0, want);
        CHECK(((uint16_t *)y)[i] == bits);
    }
    dev_free(d_table), dev_free(d_y), dev_free(d_token), dev_free(d_chosen);
    free(table), free(y), free(token);
}

static int32_t *random_perm(int64_t n) {
    int32_t *p = host_new((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = ref_int(0, i);
        int32_t t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
    return p;
}

/* x + delta is one rounding, compared bit by bit. A thread adds up at most h / 1024 + 32 squares, then ten levels of a
 * tree: relative (h / 1024 + 48) 2^-24, half of which remains after the root; rsqrtf is within 2^-22; two products. */
static void check_norm_of(int64_t m, int64_t h, double size) {
    void *x = host_random(T, m, h, size), *delta = ref_chance(0.7) ? host_random(T, m, h, size) : NULL;
    float *w = host_random(MW_F32, 1, h, 1);
    int32_t *perm = ref_chance(0.4) ? random_perm(h) : NULL;
    bool with_dst = ref_chance(0.85);
    float eps = ref_chance(0.5) ? 1e-5f : 1e-6f;
    void *d_x = dev_copy(x, act_bytes(m * h)), *d_delta = delta ? dev_copy(delta, act_bytes(m * h)) : NULL;
    void *d_dst = with_dst ? dev_new(act_bytes(m * h)) : NULL, *y = host_new(act_bytes(m * h));
    float *d_w = dev_copy(w, (size_t)h * sizeof *w);
    int32_t *d_perm = perm ? dev_copy(perm, (size_t)h * sizeof *perm) : NULL;
    OK(K->add_norm(D, d_x, d_delta, d_dst, m, h, d_w, eps, d_perm));
    for (int64_t i = 0; delta && i < m * h; i++)
        ref_store(x, T, (size_t)i, (double)(mw_load_f32(x, T, (size_t)i) + mw_load_f32(delta, T, (size_t)i)));
    dev_get(y, d_x, act_bytes(m * h));
    CHECK(memcmp(x, y, act_bytes(m * h)) == 0);
    if (with_dst) dev_get(y, d_dst, act_bytes(m * h));
    for (int64_t i = 0; with_dst && i < m; i++) {
        double squares = 0;
        for (int64_t j = 0; j < h; j++) squares += pow(mw_load_f32(x, T, (size_t)(i * h + j)), 2);
        double inv = 1 / sqrt(squares / (double)h + eps), e = ((double)h / 2048 + 36) * 0x1p-24;
        for (int64_t j = 0; j < h; j++) {
            int64_t p = perm ? perm[j] : j;
            double want = mw_load_f32(x, T, (size_t)(i * h + p)) * inv * w[p];
            double got = mw_load_f32(y, T, (size_t)(i * h + j));
            if (!near_to(got, want, fabs(want) * e, T))
                FAIL("norm m=%lld h=%lld perm=%d: [%lld,%lld] = %.9g, exact %.9g", (long long)m, (long long)h, !!perm,
                     (long long)i, (long long)j, got, want);
        }
    }
    dev_free(d_x), dev_free(d_delta), dev_free(d_dst), dev_free(d_w), dev_free(d_perm);
    free(x), free(delta), free(w), free(perm), free(y);
}

/* Squares beyond f32 (bf16 only) do not turn the row into zeros; a NaN stays in its row. */
static void check_norm_range(int64_t h) {
    double big = T == MW_BF16 ? 1e25 : 3e4;
    float *w = host_new((size_t)h * sizeof *w);
    void *x = host_random(T, 3, h, 1), *y = host_new(act_bytes(3 * h));
    for (int64_t i = 0; i < h; i++) w[i] = 1;
    for (int64_t i = 0; i < 3 * h; i++) ref_store(x, T, (size_t)i, ref_uniform(-1, 1) * big);
    ref_store(x, T, (size_t)(2 * h + h / 2), NAN);
    void *d_x = dev_copy(x, act_bytes(3 * h)), *d_y = dev_new(act_bytes(3 * h)), *d_w = dev_copy(w, (size_t)h * 4);
    OK(K->add_norm(D, d_x, NULL, d_y, 3, h, d_w, 1e-5f, NULL));
    dev_get(y, d_y, act_bytes(3 * h));
    for (int r = 0; r < 2; r++) {
        double squares = 0;
        for (int64_t i = 0; i < h; i++) squares += pow(mw_load_f32(x, T, (size_t)(r * h + i)), 2);
        for (int64_t i = 0; i < h; i++) {
            double want = mw_load_f32(x, T, (size_t)(r * h + i)) / sqrt(squares / (double)h);
            CHECK(near_to(mw_load_f32(y, T, (size_t)(r * h + i)), want, 1e-5 * fabs(want), T));
        }
    }
    for (int64_t i = 0; i < h; i++) CHECK(isnan(mw_load_f32(y, T, (size_t)(2 * h + i))));
    dev_free(d_x), dev_free(d_y), dev_free(d_w);
    free(x), free(y), free(w);
}

static void test_norm(void) {
    for (int i = 0; i < cases(40); i++) check_norm_of(some_rows(), some_width(3000), ref_chance(0.3) ? 0.01 : 1);
    check_norm_of(1, 4096, 1);
    if (!g_small) { /* the widths of several vectors a thread, beyond shared memory, and beyond registers */
        check_norm_of(3, 8192, 1);
        check_norm_of(3, 16384, 1);
        check_norm_of(2, 28672, 1);
        check_norm_of(2, 40000, 1);
        check_norm_of(4096, 1024, 1);
    }
    check_norm_range(40);
    check_norm_range(37);
    check_norm_range(9000);
}

static void check_gathers(void) {
    int64_t m = some_rows(), n = some_width(900), cols = some_width(900), ld = cols + ref_int(0, 5),
            ldd = n + ref_int(0, 5);
    uint16_t *src = host_random(T, m, ld, 1), *dst = host_new(act_bytes(m * ldd));
    int32_t *idx = host_new((size_t)n * sizeof *idx);
    for (int64_t j = 0; j < n; j++) idx[j] = (int32_t)ref_int(0, cols - 1);
    uint16_t *d_src = dev_copy(src, act_bytes(m * ld)), *d_dst = dev_new(act_bytes(m * ldd));
    int32_t *d_idx = dev_copy(idx, (size_t)n * sizeof *idx);
    OK(K->gather_cols(D, d_dst, ldd, d_src, ld, m, n, d_idx));
    dev_get(dst, d_dst, act_bytes(m * ldd));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldd; j++) CHECK(dst[i * ldd + j] == (j < n ? src[i * ld + idx[j]] : 0xFFFF));
    for (int64_t j = 0; j < n; j++) idx[j] = (int32_t)ref_int(0, m - 1);
    OK(K->to_device(D, d_idx, idx, (size_t)n * sizeof *idx));
    uint16_t *rows = host_new(act_bytes(n * ld)), *d_rows = dev_new(act_bytes(n * ld));
    OK(K->take_rows(D, d_rows, d_src, n, ld, d_idx));
    dev_get(rows, d_rows, act_bytes(n * ld));
    for (int64_t j = 0; j < n; j++) CHECK(memcmp(rows + j * ld, src + idx[j] * ld, act_bytes(ld)) == 0);
    dev_free(d_src), dev_free(d_dst), dev_free(d_idx), dev_free(d_rows);
    free(src), free(dst), free(idx), free(rows);
}

/* __expf(-g): 2 units in the last place and the rounding of g log2(e), 2^-23 |g|; three more roundings. Where it leaves
 * f32 the answer is 0, to within |g u| / 2^127. */
static void check_silu(void) {
    int64_t m = some_rows(), n = some_width(900), gap = ref_chance(0.5) ? 0 : ref_int(0, 9);
    int64_t ld = 2 * n + gap + (ref_chance(0.5) ? 0 : ref_int(0, 5));
    bool in_place = ref_chance(0.5);
    int64_t ldd = in_place ? ld : n + (ref_chance(0.5) ? 0 : ref_int(0, 5));
    void *x = host_random(T, m, ld, 3), *y = host_new(act_bytes(m * ldd));
    for (int64_t i = 0; i < m * ld; i++)
        if (ref_chance(0.05)) ref_store(x, T, (size_t)i, ref_normal() * 60);
    void *d_x = dev_copy(x, act_bytes(m * ld)), *d_y = in_place ? d_x : dev_new(act_bytes(m * ldd));
    OK(K->silu_mul(D, d_y, ldd, d_x, ld, m, n, n + gap));
    dev_get(y, d_y, act_bytes(m * ldd));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldd; j++) {
            size_t at = (size_t)(i * ldd + j);
            if (j >= n) {
                CHECK(in_place ? memcmp((char *)x + 2 * at, (char *)y + 2 * at, 2) == 0 : is_poison(y, T, (int64_t)at));
                continue;
            }
            double g = mw_load_f32(x, T, (size_t)(i * ld + j)), u = mw_load_f32(x, T, (size_t)(i * ld + n + gap + j));
            double want = g / (1 + exp(-g)) * u, e = fabs(want) * (2 * fabs(g) + 12) * 0x1p-23;
            e += fabs(g * u) * 0x1p-127;
            if (!near_to(mw_load_f32(y, T, at), want, e, T))
                FAIL("silu(%g) * %g = %g, exact %g", g, u, mw_load_f32(y, T, at), want);
        }
    if (!in_place) dev_free(d_y);
    dev_free(d_x);
    free(x), free(y);
}

static void check_silu_special(int64_t n) {
    float in[7] = {NAN, INFINITY, -INFINITY, -300, 300, 0, 1};
    void *x = host_new(act_bytes(2 * n)), *y = host_new(act_bytes(n));
    for (int64_t i = 0; i < 2 * n; i++) ref_store(x, T, (size_t)i, i < 7 ? in[i] : 1);
    ref_store(x, T, (size_t)(n + 6), NAN);
    void *d_x = dev_copy(x, act_bytes(2 * n)), *d_y = dev_new(act_bytes(n));
    OK(K->silu_mul(D, d_y, n, d_x, 2 * n, 1, n, n));
    dev_get(y, d_y, act_bytes(n));
    float r[7];
    for (int i = 0; i < 7; i++) r[i] = mw_load_f32(y, T, (size_t)i);
    CHECK(isnan(r[0]) && !isfinite(r[1]) && !isfinite(r[2]) && isnan(r[6]));
    CHECK(fabsf(r[3]) < 1e-35f && r[4] == 300 && r[5] == 0);
    CHECK(K->silu_mul(D, d_y, 2, d_y, 4, 2, 2, 2) == MW_ERR_INTERNAL);
    dev_free(d_x), dev_free(d_y);
    free(x), free(y);
}

static void check_count(void) {
    int64_t m = some_rows(), n = some_width(900), ld = n + ref_int(0, 9), planted = 0, count = -1;
    bool f32 = ref_chance(0.5);
    mw_dtype t = f32 ? MW_F32 : T;
    void *x = host_random(t, m, ld, 1);
    for (int64_t i = 0; i < m * ld; i++) {
        bool bad = i % ld >= n || ref_chance(0.01); /* the gap is not counted */
        if (bad) ref_store(x, t, (size_t)i, ref_chance(0.5) ? NAN : ref_chance(0.5) ? INFINITY : -INFINITY);
        planted += bad && i % ld < n;
    }
    void *d_x = dev_copy(x, (size_t)(m * ld) * mw_dtype_size(t));
    OK(K->count_nonfinite(D, d_x, ld, m, n, f32, &count));
    CHECK(count == planted);
    dev_free(d_x);
    free(x);
}

/* Equal values (few distinct ones), negative rows, -0 against 0, infinities, NaN. */
static void check_argmax_of(int64_t rows, int64_t vocab, int64_t ld) {
    float *x = host_new((size_t)(rows * ld) * sizeof *x), *best = host_new((size_t)rows * sizeof *best);
    int32_t *token = host_new((size_t)rows * sizeof *token);
    for (int64_t i = 0; i < rows; i++) {
        int kind = (int)ref_int(0, 5);
        for (int64_t j = 0; j < ld; j++) {
            double v = kind == 0 ? (double)ref_int(-3, 3) : kind == 1 ? -fabs(ref_normal()) - 1 : ref_normal();
            if (kind == 2) v = ref_chance(0.5) ? -0.0 : 0.0;
            if (kind == 3) v = -INFINITY;
            x[i * ld + j] = j < vocab ? (float)v : 1e30f;
        }
        if (kind == 4) x[i * ld + ref_int(0, vocab - 1)] = NAN;
        if (kind == 5) x[i * ld + ref_int(0, vocab - 1)] = INFINITY;
    }
    float *d_x = dev_copy(x, (size_t)(rows * ld) * 4), *d_best = dev_new((size_t)rows * 4);
    int32_t *d_token = dev_new((size_t)rows * 4);
    bool with_best = ref_chance(0.7);
    OK(mw_cuda_argmax(D, d_token, with_best ? d_best : NULL, d_x, ld, rows, vocab));
    dev_get(token, d_token, (size_t)rows * 4);
    dev_get(best, d_best, (size_t)rows * 4);
    for (int64_t i = 0; i < rows; i++) {
        int32_t want = 0;
        for (int64_t j = 0; j < vocab && want >= 0; j++) {
            if (x[i * ld + j] > x[i * ld + want]) want = (int32_t)j;
            if (isnan(x[i * ld + j])) want = -1;
        }
        bool nan = want < 0;
        float value = nan ? NAN : x[i * ld + want];
        if (!isfinite(value)) want = -1;
        if (token[i] != want)
            FAIL("argmax rows=%lld vocab=%lld: row %lld gave %d, expected %d", (long long)rows, (long long)vocab,
                 (long long)i, token[i], want);
        if (with_best) CHECK(nan ? isnan(best[i]) : best[i] == value);
    }
    dev_free(d_x), dev_free(d_best), dev_free(d_token);
    free(x), free(best), free(token);
}

static void test_argmax(void) {
    for (int i = 0; i < cases(30); i++) {
        int64_t vocab = ref_int(1, 5000);
        check_argmax_of(some_rows(), vocab, vocab + ref_int(0, 3));
    }
    check_argmax_of(1, g_small ? 5000 : 128256, g_small ? 5000 : 128256);
    if (!g_small) check_argmax_of(300, 32000, 32000);
}

/* A captured chain, launched twice on other inputs, does what the calls do. Every counter is zero again. */
static void test_graph(void) {
    enum { M = 3, H = 512 };
    mw_graph *g = NULL;
    void *x[2] = {host_random(T, M, H, 1), host_random(T, M, H, 1)}, *want = host_new(act_bytes(M * H)),
         *got = host_new(act_bytes(M * H));
    float *w = host_random(MW_F32, 1, H, 1);
    float *d_w = dev_copy(w, sizeof(float) * H);
    void *d_x = dev_new(act_bytes(M * H)), *d_y = dev_new(act_bytes(M * H)), *d_z = dev_new(act_bytes(M * H));
    OK(mw_cuda_capture_begin(D));
    OK(K->add_norm(D, d_x, NULL, d_y, M, H, d_w, 1e-5f, NULL));
    OK(K->silu_mul(D, d_z, H, d_y, H, M, H / 2, H / 2));
    OK(mw_cuda_capture_end(D, &g));
    for (int i = 0; i < 2 && g; i++) {
        OK(K->to_device(D, d_x, x[i], act_bytes(M * H)));
        OK(mw_cuda_graph_launch(D, g));
        dev_get(got, d_z, act_bytes(M * H));
        OK(K->add_norm(D, d_x, NULL, d_y, M, H, d_w, 1e-5f, NULL));
        OK(K->silu_mul(D, d_z, H, d_y, H, M, H / 2, H / 2));
        dev_get(want, d_z, act_bytes(M * H));
        CHECK(memcmp(want, got, act_bytes(M * H)) == 0);
    }
    mw_cuda_graph_free(g);
    OK(mw_cuda_capture_begin(D));
    mw_cuda_capture_abort(D);
    OK(K->add_norm(D, d_x, NULL, d_y, M, H, d_w, 1e-5f, NULL));
    OK(K->sync(D));
    dev_free(d_w), dev_free(d_x), dev_free(d_y), dev_free(d_z);
    free(x[0]), free(x[1]), free(want), free(got), free(w);
}

/* More than two staging halves, there and back; the source may be reused at once. */
static void test_copies(void) {
    size_t bytes = g_small ? 70000 : (size_t)5 * MW_CUDA_STAGING + 12345;
    unsigned char *a = host_new(bytes), *b = host_new(bytes);
    for (size_t i = 0; i < bytes; i += 3) a[i] = (unsigned char)ref_u32();
    memcpy(b, a, bytes);
    void *p = dev_new(bytes), *pinned = NULL;
    OK(K->to_device(D, p, b, bytes));
    memset(b, 0, bytes);
    dev_get(b, p, bytes);
    CHECK(memcmp(a, b, bytes) == 0);
    OK(K->zero(D, (char *)p + 100, bytes - 200));
    dev_get(b, p, bytes);
    for (size_t i = 0; i < bytes; i++) CHECK(b[i] == (i < 100 || i >= bytes - 100 ? a[i] : 0));
    OK(mw_cuda_host_alloc(D, &pinned, 1000, "pinned"));
    mw_cuda_host_free(D, pinned);
    dev_free(p);
    free(a), free(b);
}

static void test_refusals(void) {
    mw_dev *other = NULL;
    void *p = NULL;
    CHECK(K->open(&other, &(mw_dev_opts){.device = 4096, .act = MW_F16}) == MW_ERR_LIMIT);
    CHECK(strstr(mw_error_text(), "GPU 4096"));
    CHECK(K->open(&other, &(mw_dev_opts){.device = 0, .act = MW_F32}) == MW_ERR_INTERNAL);
    if (!g_small) /* compute-sanitizer reports the failure as one of ours */
        CHECK(K->alloc(D, &p, (size_t)1 << 50, "a petabyte") == MW_ERR_NOMEM && strstr(mw_error_text(), "a petabyte"));
    CHECK(K->embed(D, NULL, 1, 1, NULL, NULL, NULL, MW_I32, 0, 1) == MW_ERR_INTERNAL);
    OK(K->sync(D));
}

static void check_counters(void) {
    uint32_t *c = host_new(MW_CUDA_COUNTERS * sizeof *c);
    dev_get(c, D->counters, MW_CUDA_COUNTERS * sizeof *c);
    for (size_t i = 0; i < MW_CUDA_COUNTERS; i++) CHECK(c[i] == 0);
    free(c);
}

static void all(void) {
    T = D->act;
    for (int i = 0; i < cases(20); i++) check_embed();
    test_norm();
    for (int i = 0; i < cases(20); i++) check_gathers();
    for (int i = 0; i < cases(30); i++) check_silu();
    check_silu_special(24);
    check_silu_special(21);
    for (int i = 0; i < cases(10); i++) check_count();
    test_argmax();
    test_graph();
    test_copies();
    test_refusals();
    check_counters();
}

int main(int argc, char **argv) {
    return cuda_test_main(argc, argv, all);
}
