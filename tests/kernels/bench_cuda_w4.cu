/* tests/kernels/bench_cuda_w4.cu - the CUDA int4 GEMM beside cuBLAS fp16 and beside a kernel that only reads the same
 * bytes.
 *
 *   bench_cuda_w4 [--m 1,8,16] [--from 2] [--shapes 4] [--tune] [--bf16] [--no-cublas]
 *
 * Method: a CUDA graph of a chain of launches, launch i on copy i mod n of the weights, with more than 256 MB of
 * weights in the copies, so that they come from memory; x and y stay. Median of replays. Every configuration's result
 * is checked before it is timed, on a poisoned output. `read` is the best of four plain reading kernels over the same
 * bytes in the same kind of chain. --tune times every variant and stage that fits. Not part of ctest. */
#include <cublas_v2.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/kernels/cuda_w4_cases.cuh"

#define COLD    (256u << 20)
#define REPLAYS 7

typedef struct {
    const char *name;
    int64_t k, n;
} shape;

static const shape k_shapes[] = {
    {"8B qkv", 4096, 6144},    {"8B o", 4096, 4096},    {"8B gate_up", 4096, 28672},    {"8B down", 14336, 4096},
    {"8B/2 qkv", 4096, 3072},  {"8B/2 o", 2048, 4096},  {"8B/2 gate_up", 4096, 14336},  {"8B/2 down", 7168, 4096},
    {"70B qkv", 8192, 10240},  {"70B o", 8192, 8192},   {"70B gate_up", 8192, 57344},   {"70B down", 28672, 8192},
    {"70B/4 qkv", 8192, 2560}, {"70B/4 o", 2048, 8192}, {"70B/4 gate_up", 8192, 14336}, {"70B/4 down", 7168, 8192},
};
#define N_SHAPES (int)(sizeof k_shapes / sizeof *k_shapes)

static cublasHandle_t g_blas;
static mw_dev *g_dev;
static bool g_bf16;

template <typename F> static double time_chain(int launches, F enqueue) {
    cudaStream_t s = g_dev->stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CU(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; i++) enqueue(i);
    CU(cudaStreamEndCapture(s, &graph));
    CU(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t a, b;
    CU(cudaEventCreate(&a));
    CU(cudaEventCreate(&b));
    std::vector<float> ms;
    for (int r = 0; r < REPLAYS + 2; r++) {
        float t;
        CU(cudaEventRecord(a, s));
        CU(cudaGraphLaunch(exec, s));
        CU(cudaEventRecord(b, s));
        CU(cudaEventSynchronize(b));
        CU(cudaEventElapsedTime(&t, a, b));
        if (r >= 2) ms.push_back(t);
    }
    CU(cudaEventDestroy(a));
    CU(cudaEventDestroy(b));
    CU(cudaGraphExecDestroy(exec));
    CU(cudaGraphDestroy(graph));
    std::sort(ms.begin(), ms.end());
    return ms[ms.size() / 2] * 1000.0 / launches;
}

static __global__ void read_kernel(const uint4 *p, size_t n, uint32_t *sink) {
    uint32_t x = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 7 * step < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = __ldcs(p + i + j * step);
#pragma unroll
        for (int j = 0; j < 8; j++) x ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += step) {
        uint4 v = __ldcs(p + i);
        x ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (x == 0x12345677) *sink = x;
}

static int chain_length(const shape *s, int64_t m, int copies) {
    double us = 2 + std::max(s->k * s->n / 2 / 3.0e6, 2.0 * m * s->k * s->n / 400e6);
    int n = (int)std::min(300.0, std::max(1.0, 2000 / us));
    return m <= 64 ? std::max(n, copies) : n;
}

struct weights {
    std::vector<mw_linear> copy;
    double read_us;
};

static w4_case make_case(const shape *s, int64_t m) {
    w4_case c = {};
    c.m = m, c.k = c.ldx = s->k, c.n = c.ldy = s->n, c.group = 128, c.period = 16;
    c.act = g_bf16 ? MW_BF16 : MW_F16, c.scale = c.act, c.seed = 77;
    return c;
}

static weights make_weights(const shape *s) {
    weights w;
    w4_case c = make_case(s, 1);
    size_t bytes = (size_t)(s->k * s->n / 2);
    for (size_t i = 0; i * bytes <= COLD || i < 2; i++) {
        c.seed = 77 + i * 10;
        w.copy.push_back(w4_make_weights(&c));
    }
    CU(cudaDeviceSynchronize());
    int n = (int)w.copy.size();
    w.read_us = 1e9;
    static const int threads[] = {512, 1024, 256, 512}, blocks[] = {132, 132, 528, 264};
    for (int v = 0; v < 4; v++) {
        size_t words = bytes / 16;
        w.read_us =
            std::min(w.read_us, time_chain(chain_length(s, 1, n), [&](int i) {
                         read_kernel<<<blocks[v] * g_dev->n_sm / 132, threads[v], 0, g_dev->stream>>>(
                             (const uint4 *)w.copy[i % n].w4.tiles, words, g_dev->counters + MW_CUDA_COUNTERS - 1);
                     }));
    }
    return w;
}

/* Time of a configuration; 0 when its result is wrong. */
static double time_ours(const shape *s, const weights &w, const w4_layer *l, const mw_w4_config *f) {
    w4_verdict v = w4_run(g_dev, l, f);
    if (v.wrong || v.spilt || v.uneven) {
        char text[320];
        printf("WRONG %s m %lld: %llu (%llu, %llu) [%lld,%lld] %g, exact %g; %s\n", s->name, (long long)l->c.m, v.wrong,
               v.spilt, v.uneven, v.row, v.col, v.got, v.want, mw_cuda_w4_print(f, text, sizeof text));
        return 0;
    }
    int n = (int)w.copy.size();
    return time_chain(chain_length(s, l->c.m, n), [&](int i) {
        if (mw_cuda_linear_w4_with(g_dev, f, &w.copy[i % n], l->c.m, NULL, l->x, l->c.ldx, l->y, l->c.ldy, false) !=
            MW_OK)
            printf("%s\n", mw_error_text());
    });
}

struct dense_weights {
    std::vector<void *> copy;
};

static dense_weights make_dense(const shape *s) {
    dense_weights d;
    size_t bytes = (size_t)(s->k * s->n) * 2;
    for (size_t i = 0; i * bytes <= COLD || i < 2; i++) {
        void *p;
        CU(cudaMalloc(&p, bytes));
        w4_case c = make_case(s, s->n); /* any random values of this dtype, laid out as x is */
        c.period = s->n, c.seed = i;
        w4_fill_x<<<1024, 256>>>(p, c);
        d.copy.push_back(p);
    }
    CU(cudaDeviceSynchronize());
    return d;
}

static double time_blas(const shape *s, const dense_weights &d, const w4_layer *l) {
    int n = (int)d.copy.size();
    float one = 1, zero = 0;
    cudaDataType t = g_bf16 ? CUDA_R_16BF : CUDA_R_16F;
    return time_chain(chain_length(s, l->c.m, n), [&](int i) {
        cublasStatus_t st = cublasGemmEx(g_blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)s->n, (int)l->c.m, (int)s->k, &one,
                                         d.copy[i % n], t, (int)s->k, l->x, t, (int)s->k, &zero, l->y, t, (int)s->n,
                                         CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
        if (st != CUBLAS_STATUS_SUCCESS) printf("cuBLAS: %d\n", (int)st);
    });
}

static std::vector<mw_w4_config> configs(int64_t m, const mw_linear *w, bool tune) {
    std::vector<mw_w4_config> all;
    if (!tune) {
        all.push_back(mw_cuda_w4_choose(g_dev, m, w));
        return all;
    }
    for (int v = MW_W4_G32; v < MW_W4_VARIANTS && m > 8; v++)
        for (int i = 2; i < 2 * MW_WG_MAX_SPLIT + 2; i++) {
            mw_w4_config c = mw_cuda_w4_wgmma(g_dev, m, w, (mw_w4_variant)v, i / 2, i % 2 + 1);
            int64_t units = (int64_t)c.m_tiles * c.n_tiles * c.split;
            bool full = units * 10 >= g_dev->n_sm * 6 && (c.split == 1 || units <= 2 * g_dev->n_sm);
            if (c.ring < 3 || c.bm > 2 * m || 4 * c.bm < m && c.bm < 128 || !full) continue;
            all.push_back(c);
        }
    for (int v = 0; v < MW_W4_G32 && m <= 32; v++)
        for (int kb = 128; kb <= 512; kb *= 2) {
            mw_w4_config c = mw_cuda_w4_layout(g_dev, m, w, (mw_w4_variant)v, kb);
            if (c.ring < 3 || (c.bm >= 4 * m && v) || 4 * c.bm <= m || kb / 16 < mw_cuda_w4_shape((mw_w4_variant)v).wk)
                continue;
            all.push_back(c);
        }
    return all;
}

/* us over us, geometric mean of the shapes that have both */
struct mean {
    double log_sum = 0;
    int n = 0;
    void add(double ratio) {
        if (ratio > 0) log_sum += log(ratio), n++;
    }
    double value() const { return n ? exp(log_sum / n) : 0; }
};

/* Load time: rows of a big matrix to tiles, bytes read and written. */
static void time_tiling(void) {
    int64_t k = 8192, n = 57344;
    size_t bytes = (size_t)(k * n / 2);
    uint8_t *rows;
    uint32_t *tiles;
    CU(cudaMalloc((void **)&rows, bytes));
    CU(cudaMalloc((void **)&tiles, bytes));
    w4_fill_words<<<1024, 256>>>((uint32_t *)rows, bytes / 4, 5);
    CU(cudaDeviceSynchronize());
    double us = time_chain(4, [&](int) {
        if (mw_cuda_w4_tile(g_dev, rows, n / 2, k, n, tiles, 2 * n) != MW_OK) printf("%s\n", mw_error_text());
    });
    printf("tiling %lld x %lld: %.1f us, %.0f GB/s read and written\n", (long long)k, (long long)n, us,
           2e-3 * bytes / us);
    CU(cudaFree(rows));
    CU(cudaFree(tiles));
}

int main(int argc, char **argv) {
    std::vector<int64_t> ms = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};
    int n_shapes = N_SHAPES, from = 0;
    bool tune = false, blas = true;
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        if (a == "--tune") tune = true;
        if (a == "--bf16") g_bf16 = true;
        if (a == "--no-cublas") blas = false;
        if (a == "--from" && i + 1 < argc) from = std::max(0, atoi(argv[++i]));
        if (a == "--shapes" && i + 1 < argc) n_shapes = std::min(N_SHAPES, atoi(argv[++i]));
        if (a == "--m" && i + 1 < argc) {
            ms.clear();
            for (char *p = argv[++i]; *p; p += *p == ',') ms.push_back(strtoll(p, &p, 10));
        }
    }
    mw_dev_opts o = {};
    o.act = g_bf16 ? MW_BF16 : MW_F16;
    if (!mw_kernels_cuda() || mw_kernels_cuda()->open(&g_dev, &o) != MW_OK) {
        printf("%s\n", mw_error_text());
        return 1;
    }
    void *blas_memory;
    CU(cudaMalloc(&blas_memory, 64 << 20));
    if (cublasCreate(&g_blas) != CUBLAS_STATUS_SUCCESS ||
        cublasSetStream(g_blas, g_dev->stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(g_blas, blas_memory, 64 << 20) != CUBLAS_STATUS_SUCCESS) {
        printf("cuBLAS does not start\n");
        return 1;
    }
    struct row {
        std::string name;
        mean over_read, over_blas;
    };
    std::vector<std::vector<row>> rows(ms.size());
    printf("shape,k,n,m,config,us,read_us,cublas_us,GB/s,TF/s\n");
    for (int si = from; si < n_shapes; si++) {
        const shape *s = &k_shapes[si];
        weights w = make_weights(s);
        dense_weights d;
        if (blas) d = make_dense(s);
        for (size_t mi = 0; mi < ms.size(); mi++) {
            w4_case c = make_case(s, ms[mi]);
            w4_layer l = w4_make(&c);
            double blas_us = blas ? time_blas(s, d, &l) : 0;
            std::vector<mw_w4_config> all = configs(ms[mi], &l.w, tune);
            for (size_t f = 0; f < all.size(); f++) {
                double us = time_ours(s, w, &l, &all[f]);
                char text[320], name[64];
                mw_cuda_w4_print(&all[f], text, sizeof text);
                bool wg = mw_w4_is_wgmma(all[f].variant);
                snprintf(name, sizeof name, "%.*s/%s%d%s", (int)strcspn(text, ":"), text, wg ? "" : "kb",
                         wg ? all[f].split : all[f].kb, wg && all[f].per_sm == 2 ? "x2" : "");
                printf("%s,%lld,%lld,%lld,%s,%.2f,%.2f,%.2f,%.0f,%.1f\n", s->name, (long long)s->k, (long long)s->n,
                       (long long)ms[mi], name, us, w.read_us, blas_us, s->k * s->n * 0.515625 / us / 1e3,
                       2e-6 * ms[mi] * s->k * s->n / us);
                row *r = NULL;
                std::string key = tune ? name : "chosen";
                for (row &e : rows[mi])
                    if (e.name == key) r = &e;
                if (!r) {
                    rows[mi].push_back({key, {}, {}});
                    r = &rows[mi].back();
                }
                if (us > 0) r->over_read.add(us / w.read_us), r->over_blas.add(blas_us / us);
            }
            w4_free(&l);
        }
        for (mw_linear &q : w.copy) w4_free_weights(&q);
        for (void *p : d.copy) CU(cudaFree(p));
    }
    printf("\ngeometric means over %d shapes, %s\n%6s %-12s %10s %10s %s\n", std::max(0, n_shapes - from),
           g_bf16 ? "bf16" : "fp16", "m", "config", "x read", "x cuBLAS", "shapes");
    for (size_t mi = 0; mi < ms.size(); mi++)
        for (const row &r : rows[mi])
            printf("%6lld %-12s %10.3f %10.3f %d\n", (long long)ms[mi], r.name.c_str(), r.over_read.value(),
                   r.over_blas.value(), r.over_read.n);
    time_tiling();
    mw_kernels_cuda()->close(g_dev);
    return 0;
}
