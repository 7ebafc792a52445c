/* tests/kernels/bench_cuda_attention.cu - times of attention and the row operations on one GPU.
 *
 *   bench_cuda_attention [bf16|f16] [decode | number of a case] [in-order]
 *
 * Method: a CUDA graph of a chain of launches, launch i on copy i mod n of the cache with more than 256 MB touched in a
 * round (cold in L2), activations warm; the median of nine replays divided by the chain's length. 32 q heads, 8 KV
 * heads, head_dim 128, blocks of 16 in random order, or one after the other. TB/s count K and V once; TF/s count the
 * causal half. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/cuda/cuda.h"

#define REPLAYS 9
#define HD      128
#define N_Q     32
#define N_KV    8
#define BLOCK   16
#define WIDTH   ((N_Q + 2 * N_KV) * HD)

static const mw_kernels *K;
static mw_dev *D;
static bool g_in_order;

#define OK(expr)                                                                                                       \
    do {                                                                                                               \
        mw_status st_ = (expr);                                                                                        \
        if (st_ != MW_OK) {                                                                                            \
            fprintf(stderr, "%s: %s\n", #expr, mw_error_text());                                                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static __global__ void fill_kernel(uint16_t *p, size_t n, bool bf16) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 20) * 40503u;
        h ^= h >> 15, h *= 2246822519u, h ^= h >> 13; /* sign and 8 bits: values of size 1/2 .. 1 */
        p[i] = (uint16_t)((h & 0x8000) | (bf16 ? 0x3f00 | (h & 0x7f) : 0x3800 | (h & 0x3ff)));
    }
}

static void *device_noise(size_t elements) {
    void *p = nullptr;
    OK(K->alloc(D, &p, elements * 2, "noise"));
    fill_kernel<<<2048, 256, 0, D->stream>>>((uint16_t *)p, elements, D->act == MW_BF16);
    OK(K->sync(D));
    return p;
}

template <typename T> static T *upload(const std::vector<T> &v) {
    void *p = nullptr;
    OK(K->alloc(D, &p, v.size() * sizeof(T), "array"));
    OK(K->to_device(D, p, v.data(), v.size() * sizeof(T)));
    return (T *)p;
}

/* Microseconds of one call of a chain: fn(i) enqueues call i. */
template <typename F> static double time_chain(int n, F fn) {
    mw_graph *g = nullptr;
    cudaEvent_t begin, end;
    std::vector<float> ms(REPLAYS);
    fn(0);
    OK(K->sync(D));
    OK(mw_cuda_capture_begin(D));
    for (int i = 0; i < n; i++) fn(i);
    OK(mw_cuda_capture_end(D, &g));
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    for (int r = -2; r < REPLAYS; r++) {
        cudaEventRecord(begin, D->stream);
        OK(mw_cuda_graph_launch(D, g));
        cudaEventRecord(end, D->stream);
        OK(K->sync(D));
        if (r >= 0) cudaEventElapsedTime(&ms[(size_t)r], begin, end);
    }
    std::sort(ms.begin(), ms.end());
    mw_cuda_graph_free(g);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return ms[REPLAYS / 2] * 1e3 / n;
}

struct bench_case {
    int seqs, rows, ctx, bound; /* bound: max_ctx, as a recorded step has it; 0: ctx */
};

static mw_attn attn_of() {
    mw_attn a = {};
    a.n_q = N_Q, a.n_kv = N_KV, a.head_dim = HD, a.block_size = BLOCK;
    a.scale = 0.08838834764f;
    a.k_off = N_Q * HD, a.v_off = (N_Q + N_KV) * HD;
    a.kv_dtype = D->act;
    return a;
}

static void bench_attention(bench_case c) {
    const int blocks = (c.ctx + BLOCK - 1) / BLOCK, tokens = c.seqs * c.rows;
    const size_t copy = (size_t)c.seqs * blocks * BLOCK * N_KV * HD;
    const int copies = c.rows > 1 ? 1 : (int)((256u << 20) / (copy * 4)) + 1;
    std::vector<int32_t> start, ctx, table, pos, slot;
    for (int s = 0; s <= c.seqs; s++) start.push_back(s * c.rows);
    for (int s = 0; s < c.seqs; s++) ctx.push_back(c.ctx);
    for (int i = 0; i < c.seqs * blocks; i++) table.push_back(i);
    for (int i = (int)table.size() - 1; i > 0 && !g_in_order; i--)
        std::swap(table[(size_t)i], table[(size_t)(rand() % (i + 1))]);
    for (int s = 0; s < c.seqs; s++)
        for (int r = 0; r < c.rows; r++) {
            int p = c.ctx - c.rows + r;
            pos.push_back(p);
            slot.push_back(table[(size_t)(s * blocks + p / BLOCK)] * BLOCK + p % BLOCK);
        }
    std::vector<float> rope((size_t)c.ctx * HD, 0.7f);
    mw_batch b = {};
    b.n_tokens = tokens, b.n_seqs = c.seqs, b.max_rows = c.rows, b.max_ctx = c.bound ? c.bound : c.ctx;
    b.block_stride = blocks;
    int32_t *arrays[5] = {upload(start), upload(ctx), upload(table), upload(pos), upload(slot)};
    b.q_start = arrays[0], b.ctx_len = arrays[1], b.block_table = arrays[2], b.pos = arrays[3], b.slot = arrays[4];
    mw_attn a = attn_of();
    float *d_rope = upload(rope);
    a.rope = d_rope;
    char *k = (char *)device_noise(copy * (size_t)copies), *v = (char *)device_noise(copy * (size_t)copies);
    void *qkv = device_noise((size_t)tokens * WIDTH), *out = device_noise((size_t)tokens * N_Q * HD);
    int n = c.rows > 1 ? 3 : std::max(copies, std::min(64, (int)(2e9 / ((double)copy * 4)) + 2));
    auto attend = [&](int i) {
        size_t at = (size_t)(i % copies) * copy * 2;
        OK(mw_cuda_attend(D, &a, &b, qkv, WIDTH, k + at, v + at, out, N_Q * HD));
    };
    double us = time_chain(n, attend);
    double pair = time_chain(n, [&](int i) {
        size_t at = (size_t)(i % copies) * copy * 2;
        OK(K->attention(D, &a, &b, qkv, WIDTH, k + at, v + at, out, N_Q * HD));
    });
    if (c.rows > 1) {
        double flops = 4.0 * HD * N_Q * c.seqs * ((double)c.rows * c.ctx - 0.5 * (double)c.rows * c.rows);
        printf("prefill %3d x %5d rows, ctx %6d: %9.1f us  %6.1f TF/s   with RoPE and KV store %9.1f us\n", c.seqs,
               c.rows, c.ctx, us, flops / us * 1e-6, pair);
    } else {
        printf("decode  %3d x ctx %6d of %6d: %8.2f us  %5.2f TB/s   with RoPE and KV store %8.2f us\n", c.seqs, c.ctx,
               b.max_ctx, us, (double)copy * 4 / us * 1e-6, pair);
    }
    for (int32_t *p : arrays) K->free(D, p);
    K->free(D, d_rope), K->free(D, k), K->free(D, v), K->free(D, qkv), K->free(D, out);
}

/* What attention adds to a decode step: a chain of a norm, the int4 projection in front of attention, attention, and
 * the projection behind it, less the same without attention; weights and caches cold. */
static void bench_layer(int ctx) {
    const int64_t h = 4096;
    const int blocks = (ctx + BLOCK - 1) / BLOCK, copies = 16;
    const size_t copy = (size_t)blocks * BLOCK * N_KV * HD;
    std::vector<int32_t> table, one = {0, 1};
    for (int i = 0; i < blocks; i++) table.push_back(i);
    for (int i = blocks - 1; i > 0; i--) std::swap(table[(size_t)i], table[(size_t)(rand() % (i + 1))]);
    std::vector<int32_t> pos = {ctx - 1}, len = {ctx},
                         slot = {table[(size_t)((ctx - 1) / BLOCK)] * BLOCK + (ctx - 1) % BLOCK};
    std::vector<float> rope((size_t)ctx * HD, 0.7f);
    mw_batch b = {};
    b.n_tokens = b.n_seqs = b.max_rows = 1, b.max_ctx = ctx, b.block_stride = blocks;
    int32_t *arrays[5] = {upload(one), upload(len), upload(table), upload(pos), upload(slot)};
    b.q_start = arrays[0], b.ctx_len = arrays[1], b.block_table = arrays[2], b.pos = arrays[3], b.slot = arrays[4];
    mw_attn a = attn_of();
    float *d_rope = upload(rope);
    a.rope = d_rope;
    const size_t qkv_words = (size_t)(h / 16 * 2 * WIDTH), o_words = (size_t)(h / 16 * 2 * h);
    const size_t qkv_scales = (size_t)(h / 128 * WIDTH), o_scales = (size_t)(h / 128 * h);
    char *k = (char *)device_noise(copy * copies), *v = (char *)device_noise(copy * copies);
    uint32_t *wq = (uint32_t *)device_noise(qkv_words * 2 * copies),
             *wo = (uint32_t *)device_noise(o_words * 2 * copies);
    uint16_t *sq = (uint16_t *)device_noise(qkv_scales), *so = (uint16_t *)device_noise(o_scales);
    void *x = device_noise((size_t)h), *qkv = device_noise(WIDTH), *y = device_noise((size_t)h),
         *z = device_noise((size_t)h);
    auto project = [&](int64_t n, const uint32_t *w, const uint16_t *scales, const void *in, void *out) {
        mw_linear l = {};
        l.kind = MW_LINEAR_W4, l.k = h, l.n = n;
        l.w4.tiles = w, l.w4.scales = scales, l.w4.scale_dtype = D->act, l.w4.group = 128;
        OK(K->linear(D, &l, 1, in, h, out, n, false));
    };
    void *xn = device_noise((size_t)h);
    float *d_norm = upload(std::vector<float>((size_t)h, 1e-4f));
    double us[3]; /* nothing in between, the smallest kernel there is, attention */
    for (int with = 0; with < 3; with++)
        us[with] = time_chain(64, [&](int i) {
            size_t c = (size_t)(i % copies), at = c * copy * 2;
            project(WIDTH, wq + c * qkv_words, sq, xn, qkv);
            if (with == 1) OK(K->take_rows(D, y, qkv, 1, 8, arrays[0]));
            if (with == 2) OK(K->attention(D, &a, &b, qkv, WIDTH, k + at, v + at, y, N_Q * HD));
            project(h, wo + c * o_words, so, y, z);
            OK(K->add_norm(D, x, z, xn, 1, h, d_norm, 1e-5f, nullptr));
        });
    printf("layer   ctx %6d: norm, qkv and o %.2f us, with attention %.2f: %.2f us added (any kernel there: %.2f)\n",
           ctx, us[0], us[2], us[2] - us[0], us[1] - us[0]);
    for (int32_t *p : arrays) K->free(D, p);
    for (void *p : {(void *)d_rope, (void *)k, (void *)v, (void *)wq, (void *)wo, (void *)sq, (void *)so, x, xn,
                    (void *)d_norm, qkv, y, z})
        K->free(D, p);
}

static void bench_rows() {
    const int64_t h = 4096, inter = 14336, vocab = 128256;
    static const int ms[] = {1, 64, 4096};
    std::vector<float> w((size_t)h, 1.0f);
    std::vector<int32_t> perm;
    for (int64_t i = 0; i < h; i++) perm.push_back((int32_t)((i * 1237 + 5) % h));
    float *d_w = upload(w);
    int32_t *d_perm = upload(perm);
    for (int m : ms) {
        void *x = device_noise((size_t)(m * h)), *delta = device_noise((size_t)(m * h)),
             *y = device_noise((size_t)(m * h)), *gu = device_noise((size_t)(m * 2 * inter));
        double norm = time_chain(200, [&](int) { OK(K->add_norm(D, x, delta, y, m, h, d_w, 1e-5f, nullptr)); });
        double perm_us = time_chain(200, [&](int) { OK(K->add_norm(D, x, delta, y, m, h, d_w, 1e-5f, d_perm)); });
        double silu = time_chain(200, [&](int) { OK(K->silu_mul(D, gu, 2 * inter, gu, 2 * inter, m, inter, inter)); });
        printf("M=%4d h=%lld: add_norm %.2f us, with perm %.2f; silu_mul (%lld) %.2f us\n", m, (long long)h, norm,
               perm_us, (long long)inter, silu);
        K->free(D, x), K->free(D, delta), K->free(D, y), K->free(D, gu);
    }
    std::vector<float> logits((size_t)vocab * 8);
    for (size_t i = 0; i < logits.size(); i++) logits[i] = (float)(rand() % 100000) * 1e-4f;
    float *d_logits = upload(logits);
    int32_t *d_token = upload(std::vector<int32_t>(8));
    double one = time_chain(100, [&](int) { OK(mw_cuda_argmax(D, d_token, nullptr, d_logits, vocab, 1, vocab)); });
    double eight = time_chain(100, [&](int) { OK(mw_cuda_argmax(D, d_token, nullptr, d_logits, vocab, 8, vocab)); });
    printf("argmax of %lld: 1 row %.2f us, 8 rows %.2f us\n", (long long)vocab, one, eight);
    K->free(D, d_w), K->free(D, d_perm), K->free(D, d_logits), K->free(D, d_token);
}

static void bench_head() {
    const int64_t k = 4096, n = 128256;
    static const int ms[] = {1, 16, 64};
    void *w = device_noise((size_t)(k * n));
    for (int m : ms) {
        void *x = device_noise((size_t)(m * k)), *y = nullptr;
        OK(K->alloc(D, &y, (size_t)(m * n) * 4, "logits"));
        double us[2];
        for (int mixed = 0; mixed < 2; mixed++) {
            mw_linear l = {};
            l.kind = MW_LINEAR_DENSE, l.k = k, l.n = n, l.dense.w = w;
            l.dense.dtype = (D->act == MW_F16) == !mixed ? MW_F16 : MW_BF16;
            us[mixed] = time_chain(4, [&](int) { OK(K->linear(D, &l, m, x, k, y, n, true)); });
        }
        printf("lm_head %lld x %lld, M=%2d: %.1f us (%.2f TB/s); weights of the other 16-bit type: %.1f us\n",
               (long long)n, (long long)k, m, us[0], (double)(k * n) * 2 / us[0] * 1e-6, us[1]);
        K->free(D, x), K->free(D, y);
    }
    K->free(D, w);
}

int main(int argc, char **argv) {
    static const bench_case cases[] = {
        {1, 1, 512, 0},      {1, 1, 1024, 0},      {1, 1, 8192, 0},   {1, 1, 32768, 0},   {8, 1, 1024, 0},
        {32, 1, 4096, 0},    {64, 1, 1024, 0},     {128, 1, 1024, 0}, {1, 2048, 2048, 0}, {1, 4096, 4096, 0},
        {1, 8192, 8192, 0},  {1, 512, 32768, 0},   {8, 512, 512, 0},  {1, 1, 1100, 4096}, {1, 1, 1100, 131072},
        {64, 1, 1100, 4096}, {64, 1, 1100, 131072}};
    mw_dev_info info;
    mw_dev_opts opts = {};
    opts.act = argc > 1 && strcmp(argv[1], "bf16") == 0 ? MW_BF16 : MW_F16;
    K = mw_kernels_cuda();
    OK(K->open(&D, &opts));
    OK(K->info(D, &info));
    printf("%s, %s\n", info.name, mw_dtype_name(opts.act));
    g_in_order = argc > 3 && strcmp(argv[3], "in-order") == 0;
    const bool decode_only = argc > 2 && strcmp(argv[2], "decode") == 0;
    const int only = argc > 2 && !decode_only ? atoi(argv[2]) : -1;
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++)
        if (only < 0 ? cases[i].rows == 1 || !decode_only : i == only) bench_attention(cases[i]);
    if (only < 0)
        for (int ctx : {512, 1024, 8192}) bench_layer(ctx);
    if (argc <= 2) {
        bench_rows();
        bench_head();
    }
    K->close(D);
    return 0;
}
