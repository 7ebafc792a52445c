/* tests/kernels/test_cuda_w4.cu - the CUDA int4 GEMM, element by element against a product in double.
 *
 *   test_cuda_w4 [SEED] [--small] [--sm N] [--smem BYTES]
 *
 * --small: a reduced set, for compute-sanitizer. --sm, --smem: choose configurations as for an older chip; the kernels
 * must then have been built for it (as PTX: -gencode arch=compute_80,code=compute_80). */
#include "tests/kernels/cuda_w4_cases.cuh"
extern "C" {
#include "tests/ref/ref_gemm.h"
}

static int g_checks, g_failed;
static double g_worst[2];
static bool g_small;

static void fail(const w4_case *c, const mw_w4_config *f, const char *what, const w4_verdict *v) {
    char text[320];
    if (++g_failed > 25) return;
    printf("FAILED %s: m %lld k %lld n %lld group %lld act %s scale %s zeros %d bias %d f32 %d ldx %lld+%d ldy %lld\n  "
           "%s\n",
           what, (long long)c->m, (long long)c->k, (long long)c->n, (long long)c->group, mw_dtype_name(c->act),
           mw_dtype_name(c->scale), c->zeros, c->bias, c->y_f32, (long long)c->ldx, c->x_offset, (long long)c->ldy,
           mw_cuda_w4_print(f, text, sizeof text));
    printf("  %llu wrong, e.g. [%lld,%lld] %.7g, exact %.7g, bound %.2g; %llu in the padding; %llu unequal\n", v->wrong,
           v->row, v->col, v->got, v->want, v->bound, v->spilt, v->uneven);
}

static void count(const w4_case *c, const mw_w4_config *f, const w4_verdict *v) {
    g_checks++;
    if (v->wrong || v->spilt || v->uneven) fail(c, f, "result", v);
    int i = c->act == MW_BF16;
    if (!v->wrong && v->worst > g_worst[i]) g_worst[i] = v->worst;
}

/* Twice: the second run must give the same bits, and find the exchange area as it should be. */
static void check(mw_dev *d, w4_case c, mw_w4_variant v, int kb, int split = 0, int per_sm = 1) {
    d->act = c.act;
    w4_layer l = w4_make(&c);
    mw_w4_config f = kb ? mw_cuda_w4_layout(d, c.m, &l.w, v, kb) : mw_cuda_w4_choose(d, c.m, &l.w);
    if (split) f = mw_cuda_w4_wgmma(d, c.m, &l.w, v, split, per_sm);
    if ((kb || split) && f.ring < 2) {
        w4_free(&l);
        return;
    }
    w4_verdict r = w4_run(d, &l, kb || split ? &f : NULL);
    count(&c, &f, &r);
    void *first = malloc(l.y_bytes), *second = malloc(l.y_bytes);
    CU(cudaMemcpy(first, l.y, l.y_bytes, cudaMemcpyDeviceToHost));
    r = w4_run(d, &l, kb || split ? &f : NULL);
    CU(cudaMemcpy(second, l.y, l.y_bytes, cudaMemcpyDeviceToHost));
    if (memcmp(first, second, l.y_bytes)) fail(&c, &f, "repeat", &r);
    free(first);
    free(second);
    w4_free(&l);
}

static w4_case plain(int64_t m, int64_t k, int64_t n, int64_t group, mw_dtype act) {
    w4_case c = {};
    c.m = m, c.k = k, c.n = n, c.group = group, c.ldx = (k + 7) / 8 * 8 + 8 * ref_int(0, 2),
    c.ldy = n + 2 * ref_int(0, 3);
    c.period = m < 67 ? m : 67;
    c.act = act, c.scale = act, c.seed = ref_u32();
    return c;
}

static int64_t random_group(int64_t *k) {
    static const int64_t groups[] = {128, 128, 64, 32, 16, 48, 192, 256, 80, 0};
    int64_t g = groups[ref_int(0, 9)];
    if (g == 0) return *k = 16 * ref_int(1, 90);
    *k = g * ref_int(1, 1500 / g);
    return g;
}

static w4_case random_case(void) {
    static const mw_dtype scales[] = {MW_F16, MW_BF16, MW_F32};
    int64_t k, group = random_group(&k), m = ref_chance(0.6) ? ref_int(1, 40) : ref_int(1, 300);
    w4_case c = plain(m, k, 64 * ref_int(1, 9), group, ref_chance(0.5) ? MW_F16 : MW_BF16);
    c.scale = scales[ref_int(0, 2)];
    c.zeros = ref_chance(0.5), c.bias = ref_chance(0.5), c.y_f32 = ref_chance(0.3);
    c.pad = ref_chance(0.3) ? (int)ref_int(1, 63) : 0;
    if (ref_chance(0.3)) c.ldx = k + ref_int(0, 9), c.x_offset = (int)ref_int(0, 3); /* any alignment */
    if (ref_chance(0.3)) c.ldy = c.n + ref_int(0, 9);
    if (ref_chance(0.2) && m > 5) c.period = 5;
    return c;
}

static void test_random(mw_dev *d) {
    static const int kbs[] = {0, 64, 128, 256, 512};
    int cases = g_small ? 12 : 300;
    for (int i = 0; i < cases; i++) {
        w4_case c = random_case();
        int kb = kbs[ref_int(0, 4)];
        check(d, c, (mw_w4_variant)ref_int(0, MW_W4_VARIANTS - 1), kb);
    }
}

static void test_rows(mw_dev *d) {
    static const int ms[] = {1,  2,  3,  4,  5,  6,  7,   8,   9,   12,  15,  16,  17,  24,  31,   32,   33,  47,
                             48, 63, 64, 65, 96, 97, 127, 128, 129, 191, 255, 257, 511, 777, 1025, 2049, 4097};
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
        if (g_small && i % 6) continue;
        for (int bf16 = 0; bf16 < 2; bf16++) {
            w4_case c = plain(ms[i], g_small ? 512 : 2048, g_small ? 256 : 1536, 128, bf16 ? MW_BF16 : MW_F16);
            c.zeros = ref_chance(0.5);
            check(d, c, MW_W4_M8, 0);
        }
    }
}

/* Every wgmma kernel with every number of blocks that may share a tile, on matrices that fill neither tiles nor stages.
 */
static void test_wgmma(mw_dev *d) {
    static const int64_t groups[] = {128, 64, 32, 16, 48, 192, 0};
    for (int v = MW_W4_G32; v < MW_W4_VARIANTS; v++)
        for (int split = 1; split <= MW_WG_MAX_SPLIT; split++)
            for (int i = 0; i < (g_small ? 1 : 3); i++) {
                int64_t g = groups[ref_int(0, 6)], k = g ? g * ref_int(1, 3000 / g) : 16 * ref_int(1, 180);
                w4_case c = plain(ref_int(17, g_small ? 140 : 600), k, 64 * ref_int(1, 15), g ? g : k,
                                  ref_chance(0.5) ? MW_F16 : MW_BF16);
                if (i == 1) c.scale = ref_chance(0.5) ? MW_F32 : MW_BF16;
                c.zeros = ref_chance(0.5), c.bias = ref_chance(0.5), c.y_f32 = ref_chance(0.2);
                if (ref_chance(0.3)) c.ldy = c.n + ref_int(0, 9);
                check(d, c, (mw_w4_variant)v, 0, split, i % mw_cuda_w4_shape((mw_w4_variant)v).blocks_per_sm + 1);
            }
}

static void test_model_shapes(mw_dev *d) {
    static const struct {
        int64_t k, n, group;
    } shape[] = {
        {4096, 6144, 128},  {4096, 4096, 128},  {4096, 28672, 128}, {14336, 4096, 128}, {4096, 3072, 128},
        {2048, 4096, 128},  {4096, 14336, 128}, {7168, 4096, 128},  {8192, 10240, 128}, {8192, 8192, 128},
        {8192, 57344, 128}, {28672, 8192, 128}, {8192, 2560, 128},  {2048, 8192, 128},  {8192, 14336, 128},
        {7168, 8192, 128},  {1344, 4096, 32},   {1728, 4096, 1728}, {7424, 8192, 128},  {7296, 8192, 128},
        {3584, 4608, 64},   {18944, 3584, 128}, {5120, 7168, 5120}, {2048, 64, 16},     {3584, 448, 32},
    };
    static const int ms[] = {1, 3, 8, 16, 17, 29, 50, 64, 150, 1000};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int j = 0; j < 3; j++) {
            int64_t m = ms[ref_int(0, 9)];
            if (shape[i].k * shape[i].n > 200000000 && m > 64) m = 64;
            w4_case c = plain(m, shape[i].k, shape[i].n, shape[i].group, j % 2 ? MW_BF16 : MW_F16);
            if (c.period > 24) c.period = 24;
            c.bias = ref_chance(0.3), c.zeros = ref_chance(0.3), c.y_f32 = ref_chance(0.2);
            check(d, c, MW_W4_M8, 0);
        }
}

/* The reference on the device is itself held to the closed form of tests/ref/ref_gemm.c. */
static void test_reference(void) {
    for (int i = 0; i < 6; i++) {
        w4_case c = random_case();
        c.y_f32 = true;
        w4_layer l = w4_make(&c);
        size_t rows = (size_t)(c.period < c.m ? c.period : c.m), groups = (size_t)(c.k / c.group * c.n);
        size_t elem = mw_dtype_size(c.scale), x_elems = rows * (size_t)c.ldx;
        mw_linear h = l.w;
        void *tiles = malloc((size_t)(c.k * c.n / 2)), *scales = malloc(groups * elem), *zeros = malloc(groups);
        float *bias = (float *)calloc((size_t)c.n, 4), *x = (float *)malloc((size_t)c.k * 4);
        uint16_t *x16 = (uint16_t *)malloc(x_elems * 2);
        double *ref = (double *)malloc(rows * (size_t)c.n * 8), *col = (double *)malloc((size_t)c.k * 8);
        CU(cudaMemcpy(tiles, h.w4.tiles, (size_t)(c.k * c.n / 2), cudaMemcpyDeviceToHost));
        CU(cudaMemcpy(scales, h.w4.scales, groups * elem, cudaMemcpyDeviceToHost));
        if (c.zeros) CU(cudaMemcpy(zeros, h.w4.zeros, groups, cudaMemcpyDeviceToHost));
        if (c.bias) CU(cudaMemcpy(bias, h.bias, (size_t)c.n * 4, cudaMemcpyDeviceToHost));
        CU(cudaMemcpy(x16, l.x, x_elems * 2, cudaMemcpyDeviceToHost));
        CU(cudaMemcpy(ref, l.ref, rows * (size_t)c.n * 8, cudaMemcpyDeviceToHost));
        h.w4.tiles = (uint32_t *)tiles, h.w4.scales = scales, h.w4.zeros = c.zeros ? (uint8_t *)zeros : NULL;
        for (int t = 0; t < 200; t++) {
            int64_t r = ref_int(0, (int64_t)rows - 1), n = ref_int(0, c.n - 1);
            for (int64_t k = 0; k < c.k; k++) {
                col[k] = ref_weight(&h, k, n);
                x[k] = mw_load_f32(x16, c.act, (size_t)(r * c.ldx + k));
            }
            ref_dot e = ref_linear(col, x, c.k, c.group, bias[n]);
            g_checks++;
            if (!(fabs(e.y - ref[r * c.n + n]) <= 1e-12 * e.abs_sum) && ++g_failed < 20)
                printf("FAILED reference: [%lld,%lld] %.9g, host %.9g\n", (long long)r, (long long)n, ref[r * c.n + n],
                       e.y);
        }
        free(tiles), free(scales), free(zeros), free(bias), free(x), free(x16), free(ref), free(col);
        w4_free(&l);
    }
}

/* Words that blocks exchange through are zero between launches. */
static void test_slots(mw_dev *d) {
    uint32_t *host = (uint32_t *)malloc(MW_CUDA_COUNTERS * 4);
    CU(cudaMemcpy(host, d->counters, MW_CUDA_COUNTERS * 4, cudaMemcpyDeviceToHost));
    size_t bad = 0;
    for (size_t i = 0; i < MW_CUDA_COUNTERS; i++) bad += host[i] != 0;
    g_checks++;
    if (bad) printf("FAILED slots: %zu words are not zero\n", bad), g_failed++;
    free(host);
}

static void test_tile(mw_dev *d) {
    for (int i = 0; i < (g_small ? 4 : 40); i++) {
        int64_t k = 16 * ref_int(1, 20), n = ref_chance(0.5) ? 64 * ref_int(1, 12) : ref_int(1, 700);
        int64_t n64 = (n + 63) / 64 * 64, row_bytes = (n + 1) / 2 + ref_int(0, 9),
                words = 2 * n64 + 128 * ref_int(0, 2);
        if (ref_chance(0.5)) row_bytes = (row_bytes + 15) / 16 * 16;
        size_t bytes = (size_t)(k * row_bytes), tiles = (size_t)(k / 16 * words);
        uint8_t *rows = (uint8_t *)malloc(bytes), *dev_rows;
        uint32_t *out = (uint32_t *)malloc(tiles * 4), *dev_tiles;
        for (size_t b = 0; b < bytes; b++) rows[b] = (uint8_t)ref_u32();
        CU(cudaMalloc((void **)&dev_rows, bytes));
        CU(cudaMalloc((void **)&dev_tiles, tiles * 4));
        CU(cudaMemcpy(dev_rows, rows, bytes, cudaMemcpyHostToDevice));
        CU(cudaMemset(dev_tiles, 0xff, tiles * 4));
        CU(cudaDeviceSynchronize());
        if (mw_cuda_w4_tile(d, dev_rows, row_bytes, k, n, dev_tiles, words) != MW_OK) printf("%s\n", mw_error_text());
        CU(cudaStreamSynchronize(d->stream));
        CU(cudaMemcpy(out, dev_tiles, tiles * 4, cudaMemcpyDeviceToHost));
        size_t bad = 0;
        for (int64_t r = 0; r < k; r++)
            for (int64_t c = 0; c < n64; c++)
                bad += ref_tile_get(out, words / 2, r, c) !=
                       (c < n ? (unsigned)(rows[r * row_bytes + c / 2] >> (c % 2 * 4)) & 15 : 0);
        for (int64_t t = 0; t < k / 16; t++)
            for (int64_t w = 2 * n64; w < words; w++) bad += out[t * words + w] != 0xffffffffu;
        g_checks++;
        if (bad && ++g_failed < 20)
            printf("FAILED tile: k %lld n %lld: %zu nibbles\n", (long long)k, (long long)n, bad);
        free(rows), free(out);
        CU(cudaFree(dev_rows));
        CU(cudaFree(dev_tiles));
    }
}

template <typename T> static void test_permute(mw_dev *d) {
    int64_t rows = ref_int(1, 9), n = ref_int(1, 400), n64 = (n + 63) / 64 * 64, ld = n + ref_int(0, 5),
            ld_out = n64 + 64;
    T *src, *dst;
    CU(cudaMallocManaged((void **)&src, (size_t)(rows * ld) * sizeof(T)));
    CU(cudaMallocManaged((void **)&dst, (size_t)(rows * ld_out) * sizeof(T)));
    for (int64_t i = 0; i < rows * ld; i++) src[i] = (T)(ref_u32() | 1);
    memset(dst, 0xee, (size_t)(rows * ld_out) * sizeof(T));
    if (mw_cuda_w4_permute(d, src, ld, dst, ld_out, rows, n, sizeof(T)) != MW_OK) printf("%s\n", mw_error_text());
    CU(cudaStreamSynchronize(d->stream));
    size_t bad = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < n64; c++) bad += dst[r * ld_out + ref_scale_at(c)] != (c < n ? src[r * ld + c] : (T)0);
    g_checks++;
    if (bad && ++g_failed < 20)
        printf("FAILED permute: n %lld, %zu elements of %zu bytes\n", (long long)n, bad, sizeof(T));
    CU(cudaFree(src));
    CU(cudaFree(dst));
}

int main(int argc, char **argv) {
    int sm = 0, smem = 0, args = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--small"))
            g_small = true;
        else if (!strcmp(argv[i], "--sm") && i + 1 < argc)
            sm = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--smem") && i + 1 < argc)
            smem = atoi(argv[++i]);
        else
            argv[args++] = argv[i];
    }
    ref_seed_from_args(args, argv);
    const mw_kernels *kernels = mw_kernels_cuda();
    mw_dev *d;
    mw_dev_opts o = {};
    o.act = MW_F16;
    if (!kernels || kernels->open(&d, &o) != MW_OK) {
        printf("SKIPPED: test_cuda_w4: no CUDA device: %s\n", mw_error_text());
        const char *no_skip = getenv("MW_TEST_NO_SKIP");
        return no_skip && !strcmp(no_skip, "1") ? 1 : 77;
    }
    if (sm) d->sm = sm;
    if (smem) d->smem_max = (size_t)smem;
    test_reference();
    test_tile(d);
    test_permute<uint8_t>(d);
    test_permute<uint16_t>(d);
    test_permute<uint32_t>(d);
    test_random(d);
    test_rows(d);
    test_wgmma(d);
    if (!g_small) test_model_shapes(d);
    test_slots(d);
    kernels->close(d);
    printf("%d checks, %d failed; largest error / bound: f16 %.3f, bf16 %.3f\n", g_checks, g_failed, g_worst[0],
           g_worst[1]);
    return g_failed != 0;
}
