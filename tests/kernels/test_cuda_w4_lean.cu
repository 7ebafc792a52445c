/* tests/kernels/test_cuda_w4_lean.cu - the int4 GEMM of few rows (kernels/cuda/w4_lean.cuh) and what it does in front
 * and behind, element by element against a product in double.
 *
 *   test_cuda_w4_lean [SEED] [--small]
 *
 * --small: a reduced set, for compute-sanitizer. */
#include <vector>

#include "tests/kernels/cuda_w4_cases.cuh"

static int g_checks, g_failed;
static double g_worst[2];
static bool g_small;

static void fail(const w4_case *c, const mw_w4_config *f, const char *what, const w4_verdict *v = NULL) {
    char text[320];
    if (++g_failed > 25) return;
    printf("FAILED %s: m %lld k %lld n %lld group %lld act %s scale %s zeros %d bias %d f32 %d\n  %s\n", what,
           (long long)c->m, (long long)c->k, (long long)c->n, (long long)c->group, mw_dtype_name(c->act),
           mw_dtype_name(c->scale), c->zeros, c->bias, c->y_f32, mw_cuda_w4_print(f, text, sizeof text));
    if (v)
        printf("  %llu wrong, e.g. [%lld,%lld] %.7g, exact %.7g, bound %.2g; %llu in the padding; %llu unequal\n",
               v->wrong, v->row, v->col, v->got, v->want, v->bound, v->spilt, v->uneven);
}

static w4_case random_case(int64_t most_k, int64_t most_n) {
    static const mw_dtype scales[] = {MW_F16, MW_BF16, MW_F32};
    static const int64_t groups[] = {128, 128, 128, 256, 512, 1024, 0};
    w4_case c = {};
    int64_t g = groups[ref_int(0, 6)];
    c.k = g ? g * ref_int(1, most_k / g) : 128 * ref_int(1, most_k / 128);
    c.m = ref_chance(0.5) ? ref_int(1, 2) : ref_int(3, 8), c.n = 128 * ref_int(1, most_n / 128), c.group = g ? g : c.k;
    c.act = ref_chance(0.5) ? MW_F16 : MW_BF16, c.scale = ref_chance(0.5) ? c.act : scales[ref_int(0, 2)];
    c.zeros = ref_chance(0.4), c.bias = ref_chance(0.4);
    c.ldx = c.k, c.ldy = c.n, c.period = c.m, c.seed = ref_u32();
    return c;
}

/* Twice: the second run must give the same bits, and find the exchange area as it should be. */
static void test_plain(mw_dev *d) {
    for (int i = 0; i < (g_small ? 6 : 150); i++) {
        bool big = !g_small && i % 5 == 0;
        w4_case c = random_case(big ? 29000 : 3000, big ? 8192 : 1024);
        c.y_f32 = ref_chance(0.3), c.pad = ref_chance(0.3) ? (int)ref_int(1, 63) : 0;
        c.ldx += 8 * ref_int(0, 2), c.ldy += ref_int(0, 9);
        d->act = c.act;
        w4_layer l = w4_make(&c);
        mw_w4_config f = mw_cuda_w4_lean(d, c.m, &l.w, NULL);
        std::vector<char> first(l.y_bytes), second(l.y_bytes);
        for (int r = 0; r < 2; r++) {
            w4_verdict v = w4_run(d, &l, &f);
            g_checks++;
            if (v.wrong || v.spilt || v.uneven) fail(&c, &f, "product", &v);
            if (!v.wrong && v.worst > g_worst[c.act == MW_BF16]) g_worst[c.act == MW_BF16] = v.worst;
            CU(cudaMemcpy(r ? second.data() : first.data(), l.y, l.y_bytes, cudaMemcpyDeviceToHost));
        }
        if (memcmp(first.data(), second.data(), l.y_bytes)) fail(&c, &f, "repeat");
        w4_free(&l);
    }
}

template <typename T> static std::vector<T> host(const void *p, size_t n) {
    std::vector<T> v(n);
    CU(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* What add_norm and linear and silu_mul make of the same, and how far the fused kernel may be from it. */
struct fused_case {
    w4_case c;
    mw_fuse f;
    w4_layer l;
    void *x, *delta, *sum, *x_after;
    float *norm;

    fused_case(mw_dev *d, bool with_norm, bool with_delta, bool with_silu, int64_t most_k, int64_t most_n) {
        c = random_case(with_norm && most_k > MW_W4_LEAN_NORM_K ? (int64_t)MW_W4_LEAN_NORM_K : most_k, most_n);
        if (with_norm) c.m = c.period = 1;
        d->act = c.act;
        size_t row = (size_t)(c.m * c.k) * 2;
        std::vector<float> w((size_t)c.k);
        for (float &v : w) v = (float)ref_uniform(0.3, 2);
        CU(cudaMalloc(&x, row));
        CU(cudaMalloc(&delta, row));
        CU(cudaMalloc(&sum, row));
        CU(cudaMalloc(&x_after, row));
        CU(cudaMalloc((void **)&norm, w.size() * 4));
        CU(cudaMemcpy(norm, w.data(), w.size() * 4, cudaMemcpyHostToDevice));
        CU(cudaMemset(sum, 0xff, row));
        w4_case other = c;
        other.seed += 7;
        w4_fill_x<<<256, 256>>>(x, c);
        w4_fill_x<<<256, 256>>>(delta, other);
        f = mw_fuse{};
        if (with_norm) f.norm = norm, f.eps = 1e-5f, f.delta = with_delta ? delta : NULL, f.sum = sum;
        f.silu_mul = with_silu;
        l = w4_make(&c);
        if (!with_norm) return;
        /* The layer's x becomes the normed row. */
        CU(cudaMemcpy(x_after, x, row, cudaMemcpyDeviceToDevice));
        CU(cudaDeviceSynchronize());
        if (mw_cuda_add_norm(d, x_after, f.delta, l.x, c.m, c.k, norm, f.eps, NULL) != MW_OK)
            printf("%s\n", mw_error_text());
        CU(cudaStreamSynchronize(d->stream));
        w4_reference<<<dim3((unsigned)(c.n / 64), 1), 64>>>(l.ref, l.size, l.wide, l.loose, l.w.w4.tiles, l.w.w4.scales,
                                                            l.w.w4.zeros, l.w.bias, l.x, c);
        CU(cudaDeviceSynchronize());
    }
    ~fused_case() {
        w4_free(&l);
        for (void *p : {x, delta, sum, x_after, (void *)norm}) CU(cudaFree(p));
    }

    void run(mw_dev *d) {
        int64_t cols = f.silu_mul ? c.n / 2 : c.n, ldy = cols + 2 * ref_int(0, 3);
        size_t bytes = (size_t)((c.m + 1) * ldy) * 2;
        mw_w4_config config = mw_cuda_w4_lean(d, c.m, &l.w, &f);
        void *y;
        CU(cudaMalloc(&y, bytes));
        std::vector<uint16_t> got[2];
        for (std::vector<uint16_t> &g : got) {
            CU(cudaMemset(y, 0xff, bytes));
            CU(cudaDeviceSynchronize());
            g_checks++;
            if (!mw_cuda_w4_fuses(d, &l.w, c.m, &f)) return fail(&c, &config, "fuses");
            if (mw_cuda_linear_fused(d, &l.w, c.m, &f, f.norm ? x : l.x, c.k, y, ldy) != MW_OK)
                printf("%s\n", mw_error_text());
            CU(cudaStreamSynchronize(d->stream));
            g = host<uint16_t>(y, bytes / 2);
        }
        if (got[0] != got[1]) fail(&c, &config, "repeat");
        if (f.delta && host<uint16_t>(sum, (size_t)(c.m * c.k)) != host<uint16_t>(x_after, (size_t)(c.m * c.k)))
            fail(&c, &config, "x + delta");
        judge(got[0], cols, ldy, config);
        CU(cudaFree(y));
    }

    /* Of the normed row's elements a few may be rounded the other way, since the squares are added up in another
     * order: 2^-11 of f16, 2^-8 of bf16; allowed for one in fifty. */
    void judge(const std::vector<uint16_t> &got, int64_t cols, int64_t ldy, const mw_w4_config &config) {
        std::vector<double> ref = host<double>(l.ref, (size_t)(c.m * c.n)), size = host<double>(l.wide, ref.size());
        std::vector<double> narrow = host<double>(l.size, ref.size());
        double flips = f.norm ? (c.act == MW_F16 ? 0x1p-10 : 0x1p-7) / 50 : 0;
        w4_case exact = c; /* sums are not rounded before silu */
        exact.y_f32 = f.silu_mul;
        int64_t wrong = 0;
        for (int64_t i = 0; i < (c.m + 1) * ldy; i++) {
            int64_t row = i / ldy, col = i % ldy;
            if (row == c.m || col >= cols) {
                wrong += got[(size_t)i] != 0xffff;
                continue;
            }
            size_t at = (size_t)(row * c.n + col), up = at + (size_t)cols;
            double y = ref[at], b = w4_bound(exact, y, size[at], flips * narrow[at]);
            if (f.silu_mul) {
                double u = ref[up], bu = w4_bound(exact, u, size[up], flips * narrow[up]), s = silu(y);
                y = s * u;
                b = 1.1 * b * (fabs(u) + bu) + fabs(s) * bu + 0x1p-20 * fabs(y); /* |silu'| < 1.1; __expf */
                b += (fabs(y) + b) * (c.act == MW_F16 ? 0x1p-11 : 0x1p-8) + 0x1p-25;
            }
            double v = mw_load_f32(got.data(), c.act, (size_t)i);
            wrong += !(fabs(v - y) <= b);
            if (fabs(v - y) / b > g_worst[c.act == MW_BF16]) g_worst[c.act == MW_BF16] = fabs(v - y) / b;
        }
        if (wrong) fail(&c, &config, f.silu_mul ? f.norm ? "norm, silu" : "silu" : "norm");
    }
};

static void test_fused(mw_dev *d) {
    for (int i = 0; i < (g_small ? 6 : 120); i++) {
        bool big = !g_small && i % 6 == 0;
        int kind = i % 3; /* norm; norm and silu; silu */
        fused_case c(d, kind<2, ref_chance(0.7), kind> 0, big ? 16384 : 3000, big ? 28672 : 1024);
        c.run(d);
    }
}

/* Words that blocks exchange through are zero between launches. */
static void test_slots(mw_dev *d) {
    std::vector<uint32_t> words = host<uint32_t>(d->counters, MW_CUDA_COUNTERS);
    size_t bad = 0;
    for (uint32_t w : words) bad += w != 0;
    g_checks++;
    if (bad) printf("FAILED slots: %zu words are not zero\n", bad), g_failed++;
}

int main(int argc, char **argv) {
    int args = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--small"))
            g_small = true;
        else
            argv[args++] = argv[i];
    }
    ref_seed_from_args(args, argv);
    const mw_kernels *kernels = mw_kernels_cuda();
    mw_dev *d = NULL;
    mw_dev_opts o = {};
    o.act = MW_F16;
    mw_status st = kernels ? kernels->open(&d, &o) : MW_ERR_UNAVAIL;
    if (st != MW_OK || d->sm < 90) {
        printf("SKIPPED: test_cuda_w4_lean: %s\n", st == MW_OK ? "the GPU is older than sm_90" : mw_error_text());
        const char *no_skip = getenv("MW_TEST_NO_SKIP");
        return no_skip && !strcmp(no_skip, "1") ? 1 : 77;
    }
    test_plain(d);
    test_fused(d);
    test_slots(d);
    kernels->close(d);
    printf("%d checks, %d failed; largest error / bound: f16 %.3f, bf16 %.3f\n", g_checks, g_failed, g_worst[0],
           g_worst[1]);
    return g_failed != 0;
}
