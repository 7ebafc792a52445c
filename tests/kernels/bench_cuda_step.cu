/* tests/kernels/bench_cuda_step.cu - a whole decode step of a synthetic model on one GPU: the real worker/forward.c
 * over the CUDA table, captured as one graph and replayed; and what each kind of kernel costs in it.
 *
 *   bench_cuda_step [--model 8b|70b|tiny] [--layers N] [--rows 1,8,16] [--ctx 512] [--bf16] [--parts]
 *
 * Weights are random, filled on the device; no file, no MPI, no HDF5, so that a binary built on one machine runs on
 * another. The step is that of worker/graphs.c: every sequence one row, all with the same context. --parts: for every
 * kind of operation, the step's time without it and the time of it alone (the other kinds are left out of the table;
 * results are then meaningless, times are not). Not part of ctest. */
#include <algorithm>
#include <string>
#include <vector>

#include "tests/kernels/cuda_w4_cases.cuh"
/* C's headers in C++ */
#define _Noreturn [[noreturn]]
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
extern "C" {
#include "worker/model.h"
}
#pragma GCC diagnostic pop
#undef _Noreturn

#define REPLAYS 15

/* ---- a group of one, without MPI: what forward.c asks of comm/ ----------------------------------------------------
 */

extern "C" {
int mw_comm_size(const mw_comm *) {
    return 1;
}
static mw_status no_group(void) {
    return MW_FAIL(MW_ERR_INTERNAL, "a group of one has no collectives");
}
mw_status mw_comm_device_wait(mw_comm *) {
    return no_group();
}
mw_status mw_comm_device_all_reduce(mw_comm *, void *, size_t, mw_dtype) {
    return no_group();
}
mw_status mw_comm_all_reduce_f32(mw_comm *, float *, size_t) {
    return no_group();
}
mw_status mw_comm_device_gather_cols(mw_comm *, const void *, size_t, const size_t *, void *, void *, mw_dtype) {
    return no_group();
}
mw_status mw_comm_gather_cols_f32(mw_comm *, int, const float *, size_t, const size_t *, float *) {
    return no_group();
}
mw_status mw_comm_device_all_gather(mw_comm *, const void *, size_t, void *) {
    return no_group();
}
}

/* ---- operations that can be left out ------------------------------------------------------------------------------
 */

enum { QKV, O, GATE_UP, DOWN, HEAD, NORM, ATTENTION, SILU, REST, KINDS };
static const char *const k_kind[KINDS] = {
    "qkv", "o", "gate_up", "down", "lm_head", "norm", "RoPE, KV, attention", "silu", "embed, argmax"};

static mw_kernels g_real, g_table;
static mw_dev *g_dev;
static bool g_on[KINDS];
static const mw_layer *g_layer;
static const mw_linear *g_head;

#define PASS(kind, call) return g_on[kind] ? (call) : MW_OK

static int kind_of(const mw_linear *w) {
    if (w == g_head) return HEAD;
    if (w->n == g_layer->qkv.width && w->k == g_layer->qkv.part[0].k) return QKV;
    if (w->n == g_layer->gate_up.width) return GATE_UP;
    return w->k == g_layer->o.k ? O : DOWN;
}
static mw_status linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y, int64_t ldy,
                        bool f32) {
    PASS(kind_of(w), g_real.linear(d, w, m, x, ldx, y, ldy, f32));
}
static mw_status linear_fused(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f, const void *x, int64_t ldx,
                              void *y, int64_t ldy) {
    PASS(kind_of(w), g_real.linear_fused(d, w, m, f, x, ldx, y, ldy));
}
static mw_status embed(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                       const void *table, mw_dtype type, int64_t v0, int64_t v1) {
    PASS(REST, g_real.embed(d, dst, m, h, token, chosen, table, type, v0, v1));
}
static mw_status add_norm(mw_dev *d, void *x, const void *delta, void *dst, int64_t m, int64_t h, const float *w,
                          float eps, const int32_t *perm) {
    PASS(NORM, g_real.add_norm(d, x, delta, dst, m, h, w, eps, perm));
}
static mw_status take_rows(mw_dev *d, void *dst, const void *src, int64_t n, int64_t h, const int32_t *row) {
    PASS(REST, g_real.take_rows(d, dst, src, n, h, row));
}
static mw_status attention(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k, void *v,
                           void *out, int64_t ld_out) {
    PASS(ATTENTION, g_real.attention(d, a, b, qkv, ld, k, v, out, ld_out));
}
static mw_status silu_mul(mw_dev *d, void *dst, int64_t ld_dst, const void *x, int64_t ld, int64_t m, int64_t n,
                          int64_t up) {
    PASS(SILU, g_real.silu_mul(d, dst, ld_dst, x, ld, m, n, up));
}
static mw_status argmax(mw_dev *d, int32_t *token, float *best, const float *logits, int64_t ld, int64_t rows,
                        int64_t vocab) {
    PASS(REST, g_real.argmax(d, token, best, logits, ld, rows, vocab));
}

/* ---- the model ----------------------------------------------------------------------------------------------------
 */

struct shape {
    const char *name;
    int hidden, mlp, layers, heads, kv, vocab;
};
static const shape k_shapes[] = {{"8b", 4096, 14336, 32, 32, 8, 128256},
                                 {"70b", 8192, 28672, 80, 64, 8, 128256},
                                 {"tiny", 1024, 3072, 4, 8, 8, 32064}};

static mw_dtype g_act = MW_F16;

template <typename T> static T *dev(size_t n) {
    void *p;
    if (g_real.alloc(g_dev, &p, n * sizeof(T), "benchmark") != MW_OK) {
        printf("%s\n", mw_error_text());
        exit(1);
    }
    return (T *)p;
}

static __global__ void fill(void *p, size_t n, int dtype, float lo, float hi, uint64_t seed) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        w4_put(p, dtype, i, lo + (hi - lo) * w4_uniform(w4_hash(seed, i)));
}

static uint64_t g_seed = 1;
static void *random_values(size_t n, mw_dtype t, float lo, float hi) {
    void *p = dev<char>(n * mw_dtype_size(t));
    fill<<<1024, 256>>>(p, n, t, lo, hi, g_seed++);
    return p;
}

static mw_linear random_w4(int64_t k, int64_t n) {
    mw_linear w = {};
    w.kind = MW_LINEAR_W4, w.k = k, w.n = n;
    uint32_t *t = dev<uint32_t>((size_t)(k * n / 8));
    w4_fill_words<<<1024, 256>>>(t, (size_t)(k * n / 8), g_seed++);
    w.w4.tiles = t, w.w4.group = 128, w.w4.scale_dtype = g_act;
    w.w4.scales = random_values((size_t)(k / 128 * n), g_act, 0.001f, 0.004f);
    return w;
}

static void project(mw_proj *p, int64_t k, int64_t n, int64_t second) {
    p->n = 1, p->part[0] = random_w4(k, n), p->width = n, p->off[1] = second;
}

struct step_bench {
    mw_model m = {};
    mw_model_config cfg = {};
    mw_plan plan = {};
    mw_rank_share share = {};
    mw_batch b = {};
    std::vector<mw_layer> layers;
    double weight_bytes = 0;

    void make(const shape &s, int n_layers, int rows, int ctx) {
        int64_t h = s.hidden, q = (int64_t)s.heads * 128, kv = (int64_t)s.kv * 128;
        int blocks_each = (ctx + 15) / 16, kv_blocks = rows * blocks_each + 1;
        cfg.hidden = h, cfg.intermediate = s.mlp, cfg.n_layers = n_layers, cfg.n_heads = s.heads;
        cfg.n_kv_heads = s.kv, cfg.head_dim = 128, cfg.vocab = s.vocab, cfg.rms_eps = 1e-5;
        share.vocab = {0, s.vocab};
        plan.n_ranks = 1, plan.rank = &share;
        m.k = &g_table, m.dev = g_dev, m.cfg = &cfg, m.plan = &plan, m.act = g_act;
        m.o.max_logits = rows;
        m.rope = (float *)random_values((size_t)ctx * 128, MW_F32, -1, 1);
        layers.resize((size_t)n_layers);
        for (mw_layer &l : layers) {
            l = {};
            l.attn_norm = (float *)random_values((size_t)h, MW_F32, 0.5f, 1.5f);
            l.mlp_norm = (float *)random_values((size_t)h, MW_F32, 0.5f, 1.5f);
            project(&l.qkv, h, q + 2 * kv, q);
            project(&l.gate_up, h, 2 * s.mlp, s.mlp);
            l.o = random_w4(q, h), l.down = random_w4(s.mlp, h);
            l.attn = {s.heads, s.kv, 128, 16, 0, 0.08838834764f, 0, q, q + kv, g_act, m.rope, nullptr, nullptr, 1e-5f};
            l.k_cache = random_values((size_t)kv_blocks * 16 * (size_t)kv, g_act, -1, 1);
            l.v_cache = random_values((size_t)kv_blocks * 16 * (size_t)kv, g_act, -1, 1);
        }
        m.layer = layers.data();
        m.embed = random_values((size_t)s.vocab * (size_t)h, g_act, -1, 1), m.embed_dtype = g_act;
        m.norm = (float *)random_values((size_t)h, MW_F32, 0.5f, 1.5f);
        m.lm_head.kind = MW_LINEAR_DENSE, m.lm_head.k = h, m.lm_head.n = s.vocab;
        m.lm_head.dense.w = random_values((size_t)s.vocab * (size_t)h, g_act, -0.02f, 0.02f);
        m.lm_head.dense.dtype = g_act;
        g_layer = m.layer, g_head = &m.lm_head;
        weight_bytes = (double)n_layers * 0.515625 * ((double)h * (q + 2 * kv) + (double)q * h + 3.0 * h * s.mlp) +
                       2.0 * s.vocab * h;
        size_t t = (size_t)rows;
        m.x = dev<uint16_t>(t * h), m.xn = dev<uint16_t>(t * h), m.part = dev<uint16_t>(t * h);
        m.qkv = dev<uint16_t>(t * (q + 2 * kv)), m.attn = dev<uint16_t>(t * q);
        m.gate_up = dev<uint16_t>(t * 2 * s.mlp), m.sel = dev<uint16_t>(3 * t * h);
        m.logits = dev<float>(t * s.vocab), m.best_token = dev<int32_t>(2 * t);
        make_batch(rows, ctx, blocks_each);
    }

    void make_batch(int rows, int ctx, int blocks_each) {
        std::vector<int32_t> a;
        for (int i = 0; i < rows; i++) a.push_back(7919 * i % 32000);               /* token */
        for (int i = 0; i < rows; i++) a.push_back(ctx - 1);                        /* pos */
        for (int i = 0; i < rows; i++) a.push_back(i * blocks_each * 16 + ctx - 1); /* slot */
        for (int i = 0; i <= rows; i++) a.push_back(i);
        for (int i = 0; i < rows; i++) a.push_back(ctx);
        for (int i = 0; i < rows * blocks_each; i++) a.push_back(i);
        int32_t *p = dev<int32_t>(a.size());
        if (g_real.to_device(g_dev, p, a.data(), a.size() * 4) != MW_OK) printf("%s\n", mw_error_text());
        b.n_tokens = b.n_seqs = rows, b.max_rows = 1, b.max_ctx = ctx <= 1024 ? 1024 : ctx,
        b.block_stride = blocks_each;
        b.token = p, b.pos = p + rows, b.slot = p + 2 * rows, b.q_start = p + 3 * rows, b.ctx_len = p + 4 * rows + 1;
        b.block_table = p + 5 * rows + 1;
    }

    /* Median time of a replay, us. */
    double time() {
        mw_graph *g = nullptr;
        if (g_table.capture_begin(g_dev) != MW_OK || mw_model_enqueue(&m, &b, nullptr, b.n_tokens) != MW_OK ||
            g_table.capture_end(g_dev, &g) != MW_OK) {
            printf("%s\n", mw_error_text());
            exit(1);
        }
        cudaEvent_t e[REPLAYS + 1];
        for (cudaEvent_t &i : e) CU(cudaEventCreate(&i));
        std::vector<float> ms;
        for (int r = 0; r < 3; r++)
            if (g_table.graph_launch(g_dev, g) != MW_OK) printf("%s\n", mw_error_text());
        CU(cudaEventRecord(e[0], g_dev->stream));
        for (int r = 0; r < REPLAYS; r++) {
            if (g_table.graph_launch(g_dev, g) != MW_OK) printf("%s\n", mw_error_text());
            CU(cudaEventRecord(e[r + 1], g_dev->stream));
        }
        CU(cudaStreamSynchronize(g_dev->stream));
        for (int r = 0; r < REPLAYS; r++) {
            float t;
            CU(cudaEventElapsedTime(&t, e[r], e[r + 1]));
            ms.push_back(t);
        }
        for (cudaEvent_t &i : e) CU(cudaEventDestroy(i));
        g_table.graph_free(g);
        std::sort(ms.begin(), ms.end());
        return ms[REPLAYS / 2] * 1000.0;
    }

    /* Of all logits: a changed kernel that computes something else is seen at a glance. */
    double checksum() {
        std::vector<float> l((size_t)b.n_tokens * cfg.vocab);
        double sum = 0;
        if (g_real.to_host(g_dev, l.data(), m.logits, l.size() * 4) != MW_OK) printf("%s\n", mw_error_text());
        for (float v : l) sum += fabs(v);
        return sum / (double)l.size();
    }
};

static void set_all(bool on) {
    for (bool &k : g_on) k = on;
}

static void report(step_bench &s, const char *name, int rows, int ctx, bool parts) {
    set_all(true);
    double whole = s.time(), read = s.weight_bytes / 4.70e6;
    printf(
        "%s rows %d ctx %d: %.1f us a step, %.1f tok/s; reading the weights at 4.70 TB/s %.1f us (%.2f); logits %.6g\n",
        name, rows, ctx, whole, rows * 1e6 / whole, read, whole / read, s.checksum());
    if (!parts) return;
    printf("  %-26s %10s %10s   (us a step)\n", "kind", "saved if", "alone");
    for (int k = 0; k < KINDS; k++) {
        set_all(true);
        g_on[k] = false;
        double without = s.time();
        set_all(false);
        g_on[k] = true;
        double alone = s.time();
        printf("  %-26s %10.1f %10.1f\n", k_kind[k], whole - without, alone);
    }
    set_all(false);
    for (int k = QKV; k <= DOWN; k++) g_on[k] = true;
    printf("  %-26s %10s %10.1f\n", "the four int4 GEMMs", "", s.time());
    fflush(stdout);
}

int main(int argc, char **argv) {
    const shape *s = &k_shapes[0];
    std::vector<int> rows = {1, 8, 16};
    int n_layers = 0, ctx = 512;
    bool parts = false;
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        if (a == "--parts") parts = true;
        if (a == "--bf16") g_act = MW_BF16;
        if (a == "--ctx" && i + 1 < argc) ctx = std::max(1, atoi(argv[++i]));
        if (a == "--layers" && i + 1 < argc) n_layers = std::max(1, atoi(argv[++i]));
        if (a == "--model" && i + 1 < argc) {
            i++;
            for (const shape &e : k_shapes)
                if (!strcmp(e.name, argv[i])) s = &e;
        }
        if (a == "--rows" && i + 1 < argc) {
            rows.clear();
            for (char *p = argv[++i]; *p; p += *p == ',') rows.push_back(std::max(1, (int)strtol(p, &p, 10)));
        }
    }
    mw_dev_opts o = {};
    o.act = g_act;
    if (!mw_kernels_cuda() || mw_kernels_cuda()->open(&g_dev, &o) != MW_OK) {
        printf("%s\n", mw_error_text());
        return 1;
    }
    g_real = g_table = *mw_kernels_cuda();
    g_table.linear = linear, g_table.linear_fused = linear_fused, g_table.embed = embed, g_table.add_norm = add_norm,
    g_table.take_rows = take_rows;
    g_table.attention = attention, g_table.silu_mul = silu_mul, g_table.argmax = argmax;
    step_bench bench;
    bench.make(*s, n_layers ? n_layers : s->layers, *std::max_element(rows.begin(), rows.end()), ctx);
    set_all(true);
    for (int r : rows) {
        bench.make_batch(r, ctx, (ctx + 15) / 16);
        bench.m.o.max_logits = r;
        /* Once as it is: libraries choose their algorithms. */
        if (mw_model_enqueue(&bench.m, &bench.b, nullptr, r) != MW_OK || g_real.sync(g_dev) != MW_OK) {
            printf("%s\n", mw_error_text());
            return 1;
        }
        report(bench, s->name, r, ctx, parts);
    }
    g_real.close(g_dev);
    return 0;
}
