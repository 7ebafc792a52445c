/* tests/kernels/bench_cpu.c - how fast the CPU backend's kernels are on this machine, beside its read bandwidth.
 *
 *   bench_cpu [-t 1,2] [-i avx2,avx512vnni] [-s read,decode,prefill,dense,attention,rows] [-r repeats] [-c 1]
 *
 * Weights are cold: every call takes the next matrix of a ring of 384 MB, far beyond the caches. The best of `repeats`
 * rounds is printed, since other work on the machine only ever slows a round down. Byte counts are the weights' (tiles
 * and scales) or the KV cache's; flops are 2 m n k. Read bandwidth: the best of one and of eight sequential streams a
 * thread, summing 64-bit words. -c 1 measures processor time instead of time: for one thread on a busy machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "worker/base/threads.h"

#define RING_BYTES ((size_t)384 << 20)
#define READ_BYTES ((size_t)48 << 20) /* of one round of reading */

static const mw_kernels *K;
static int g_repeats = 7;
static unsigned char *g_ring;
static uint64_t g_sink;
static clockid_t g_clock = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(g_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(mw_status st) {
    if (st == MW_OK) return;
    fprintf(stderr, "bench_cpu: %s\n", mw_error_text());
    exit(1);
}

static void *get(mw_dev *d, size_t bytes) {
    void *p;
    must(K->alloc(d, &p, bytes, "benchmark"));
    memset(p, 0, bytes);
    return p;
}

static bool selected(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *p = list; p && *p;) {
        size_t len = strcspn(p, ",");
        if (len == n && strncmp(p, name, n) == 0) return true;
        p += len + (p[len] == ',');
    }
    return !list;
}

/* ---- read bandwidth --------------------------------------------------------------------------------------------- */

typedef struct {
    const unsigned char *from;
    int streams;
    uint64_t sum;
} read_job;

static void read_run(void *arg, int thread, int n_threads) {
    read_job *j = arg;
    int64_t begin, end;
    mw_split((int64_t)READ_BYTES, 1 << 16, thread, n_threads, &begin, &end);
    int64_t part = (end - begin) / j->streams / 64 * 64;
    uint64_t s[8] = {0};
    for (int64_t i = 0; i < part; i += 64)
        for (int k = 0; k < j->streams; k++) {
            const uint64_t *p = (const uint64_t *)(j->from + begin + k * part + i);
            __builtin_prefetch((const char *)p + 1024);
            for (int e = 0; e < 8; e++) s[e] += p[e];
        }
    for (int e = 0; e < 8; e++) __atomic_fetch_add(&j->sum, s[e], __ATOMIC_RELAXED);
}

/* One round of both kinds over a part of the ring that is not in the caches; GB/s of the better. */
static double read_round(mw_pool *pool) {
    static size_t at;
    double best = 0;
    for (int streams = 1; streams <= 8; streams += 7) {
        read_job j = {g_ring + at, streams, 0};
        double t = now();
        mw_pool_run(pool, read_run, &j);
        t = now() - t;
        g_sink += j.sum;
        best = (double)READ_BYTES / t > best ? (double)READ_BYTES / t : best;
        at = (at + READ_BYTES) % RING_BYTES;
    }
    return best * 1e-9;
}

static double read_bandwidth(int threads) {
    mw_pool *pool;
    double best = 0;
    must(mw_pool_create(&pool, threads, 100));
    for (int i = 0; i < g_repeats; i++) {
        double r = read_round(pool);
        best = r > best ? r : best;
    }
    mw_pool_destroy(pool);
    return best;
}

/* ---- linear layers ---------------------------------------------------------------------------------------------- */

typedef struct {
    mw_dev *d;
    float *x, *y;
    size_t at;     /* in the ring */
    mw_pool *pool; /* where set, rounds of reading alternate with rounds of the kernel */
    double read;   /* the best of those, GB/s */
} bench;

/* Seconds of one call, cold: the best round; a round is enough calls to last a few milliseconds. */
static double time_linear(bench *b, mw_linear w, int64_t m) {
    double best = 1e30;
    size_t bytes = w.kind == MW_LINEAR_W4 ? (size_t)(w.k * w.n / 2) : (size_t)(w.k * w.n) * 2, scale_bytes = 0;
    if (w.kind == MW_LINEAR_W4) scale_bytes = (size_t)(w.k / w.w4.group * w.n) * 2;
    size_t step = (bytes + scale_bytes + 4095) / 4096 * 4096;
    double flops = 2.0 * (double)m * (double)w.k * (double)w.n;
    int calls = flops > 4e9 ? 1 : (int)(4e9 / flops);
    if (calls > 8) calls = 8;
    for (int r = 0; r <= g_repeats; r++) {
        if (b->pool) {
            double read = read_round(b->pool);
            b->read = read > b->read ? read : b->read;
        }
        double t = now();
        for (int i = 0; i < calls; i++) {
            if (b->at + step > RING_BYTES) b->at = 0;
            if (w.kind == MW_LINEAR_W4) {
                w.w4.tiles = (const uint32_t *)(g_ring + b->at);
                w.w4.scales = g_ring + b->at + bytes;
            } else {
                w.dense.w = g_ring + b->at;
            }
            b->at += step;
            must(K->linear(b->d, &w, m, b->x, w.k, b->y, w.n, true));
        }
        t = (now() - t) / calls;
        if (r > 0 && t < best) best = t; /* the first round warms the workspace up */
    }
    return best;
}

static const int64_t k_shapes[][2] = {{2048, 2048}, {2048, 3072},  {2048, 8192}, {2048, 16384},
                                      {8192, 2048}, {4096, 14336}, {14336, 4096}};
#define N_SHAPES ((int)(sizeof k_shapes / sizeof k_shapes[0]))

static mw_linear w4_shape(int64_t k, int64_t n, int64_t group) {
    return (mw_linear){.kind = MW_LINEAR_W4, .k = k, .n = n, .w4 = {.scale_dtype = MW_BF16, .group = group}};
}

static bench open_bench(const char *isa, int threads, bool int8) {
    bench b = {0};
    setenv("MARLIN_CPU_ISA", isa, 1);
    mw_dev_opts opts = {.threads = threads, .int8_act = int8, .spin = threads <= mw_cpu_count()};
    if (K->open(&b.d, &opts) != MW_OK) return (bench){0};
    b.x = get(b.d, sizeof(float) * 256 * 14336);
    b.y = get(b.d, sizeof(float) * 256 * 32768);
    for (int i = 0; i < 256 * 14336; i++) b.x[i] = (float)(i % 1009 * 7919 % 1009) / 1009 - 0.5f;
    return b;
}

static void close_bench(bench *b) {
    if (!b->d) return;
    K->free(b->d, b->x);
    K->free(b->d, b->y);
    K->close(b->d);
}

static void bench_decode(const char *isa, int threads) {
    mw_pool *pool;
    must(mw_pool_create(&pool, threads, 100));
    printf("\nint4 GEMM, m = 1, cold, %s, %d thread%s; %%: of the read bandwidth measured in turns with it\n", isa,
           threads, threads == 1 ? "" : "s");
    printf("  %-14s %6s  %-31s  %-31s\n", "k x n", "group", "int16:  us   GB/s   read    %",
           "int8:   us   GB/s   read    %");
    for (int s = 0; s < N_SHAPES; s++)
        for (int64_t group = 128; group >= 32; group -= 96) {
            if (group == 32 && s != 2) continue;
            int64_t k = k_shapes[s][0], n = k_shapes[s][1];
            double bytes = (double)(k * n) / 2 + (double)(k * n) / (double)group * 2;
            printf("  %6lld x %-5lld %6lld", (long long)k, (long long)n, (long long)group);
            for (int int8 = 0; int8 < 2; int8++) {
                bench b = open_bench(isa, threads, int8);
                if (!b.d) continue;
                b.pool = pool;
                double t = time_linear(&b, w4_shape(k, n, group), 1);
                printf("  %10.1f %6.1f %6.1f %5.0f", t * 1e6, bytes / t * 1e-9, b.read, bytes / t * 1e-7 / b.read);
                fflush(stdout);
                close_bench(&b);
            }
            printf("\n");
        }
    mw_pool_destroy(pool);
}

static void bench_prefill(const char *isa, int threads) {
    static const int64_t ms[] = {2, 4, 8, 16, 32, 128, 256};
    printf("\nint4 GEMM, GFLOP/s, %s, %d thread%s\n  %-22s", isa, threads, threads == 1 ? "" : "s", "k x n, group");
    for (int i = 0; i < 7; i++) printf(" m=%-5lld", (long long)ms[i]);
    printf("\n");
    for (int s = 0; s < N_SHAPES; s++)
        for (int64_t group = 128; group >= 32; group -= 96)
            for (int int8 = 0; int8 < 2; int8++) {
                if ((group == 32 && s != 2) || s == 1 || s == 3 || s == 6) continue;
                bench b = open_bench(isa, threads, int8);
                if (!b.d) continue;
                int64_t k = k_shapes[s][0], n = k_shapes[s][1];
                printf("  %5lld x %-5lld %3lld %s", (long long)k, (long long)n, (long long)group,
                       int8 ? "int8 " : "int16");
                for (int i = 0; i < 7; i++) {
                    double t = time_linear(&b, w4_shape(k, n, group), ms[i]);
                    printf(" %7.1f", 2e-9 * (double)ms[i] * (double)k * (double)n / t);
                    fflush(stdout);
                }
                printf("\n");
                close_bench(&b);
            }
}

static void bench_dense(const char *isa, int threads) {
    static const int64_t ms[] = {1, 2, 4, 8, 32, 128};
    bench b = open_bench(isa, threads, false);
    if (!b.d) return;
    must(mw_pool_create(&b.pool, threads, 100));
    printf("\nf16 linear 2048 x 32000 (131 MB), %s, %d thread%s\n", isa, threads, threads == 1 ? "" : "s");
    for (int i = 0; i < 6; i++) {
        mw_linear w = {.kind = MW_LINEAR_DENSE, .k = 2048, .n = 32000, .dense = {NULL, MW_F16}};
        double t = time_linear(&b, w, ms[i]), bytes = 2.0 * 2048 * 32000;
        printf("  m=%-4lld %9.2f ms  %6.1f GB/s (%3.0f%% of read, %.1f)  %7.1f GFLOP/s\n", (long long)ms[i], t * 1e3,
               bytes / t * 1e-9, bytes / t * 1e-7 / b.read, b.read, (double)ms[i] * bytes / t * 1e-9);
    }
    mw_pool_destroy(b.pool);
    close_bench(&b);
}

/* ---- attention and rows ----------------------------------------------------------------------------------------- */

/* `seqs` sequences of context ctx, the last `rows` positions of each in the step; KV in the ring, blocks in order. */
static double time_attention(mw_dev *d, int n_q, int n_kv, int hd, int seqs, int rows, int ctx) {
    enum { BLOCK = 16 };
    int blocks = (ctx + BLOCK - 1) / BLOCK, n = seqs * rows;
    int64_t ld = (int64_t)n_q * hd;
    size_t cache = (size_t)seqs * (size_t)blocks * (size_t)(n_kv * BLOCK * hd) * 2;
    if (2 * cache > RING_BYTES) return -1;
    int32_t *table = get(d, sizeof(int32_t) * (size_t)(seqs * blocks)),
            *start = get(d, sizeof(int32_t) * (size_t)(seqs + 1));
    int32_t *len = get(d, sizeof(int32_t) * (size_t)seqs), *pos = get(d, sizeof(int32_t) * (size_t)n);
    float *q = get(d, sizeof(float) * (size_t)(n * ld)), *out = get(d, sizeof(float) * (size_t)(n * ld));
    for (int i = 0; i < seqs * blocks; i++) table[i] = i;
    for (int s = 0; s <= seqs; s++) start[s] = s * rows;
    for (int s = 0; s < seqs; s++) len[s] = ctx;
    for (int i = 0; i < n; i++) pos[i] = ctx - rows + i % rows;
    for (int64_t i = 0; i < n * ld; i++) q[i] = (float)(i % 1009 * 7919 % 1009) / 1009 - 0.5f;
    mw_attn a = {.n_q = n_q, .n_kv = n_kv, .head_dim = hd, .block_size = BLOCK, .scale = 0.1f, .kv_dtype = MW_F16};
    mw_batch b = {n, seqs, rows, ctx, pos, pos, pos, start, len, table, blocks};
    double best = 1e30;
    size_t copies = RING_BYTES / (2 * cache);
    for (int r = 0; r <= g_repeats; r++) {
        int calls = rows > 1 ? 1 : 4;
        double t = now();
        for (int i = 0; i < calls; i++) {
            const unsigned char *kv = g_ring + (size_t)(r * calls + i) % copies * 2 * cache;
            must(mw_cpu_attend(d, &a, &b, q, ld, kv, kv + cache, out, ld));
        }
        t = (now() - t) / calls;
        if (r > 0 && t < best) best = t;
    }
    K->free(d, table);
    K->free(d, start);
    K->free(d, len);
    K->free(d, pos);
    K->free(d, q);
    K->free(d, out);
    return best;
}

static void bench_attention(const char *isa, int threads) {
    static const int heads[][3] = {{32, 8, 64}, {32, 8, 128}, {32, 32, 128}};
    static const int loads[][3] = {{1, 1, 256},  {1, 1, 1024},  {1, 1, 4096},  {1, 1, 16384},
                                   {8, 1, 1024}, {1, 256, 256}, {1, 256, 2048}};
    bench b = open_bench(isa, threads, false);
    if (!b.d) return;
    printf("\nattention, f16 KV, %s, %d thread%s; read bandwidth %.1f GB/s\n", isa, threads, threads == 1 ? "" : "s",
           read_bandwidth(threads));
    printf("  %-14s %5s %5s %6s  %10s %8s %9s\n", "q/kv heads, hd", "seqs", "rows", "ctx", "us", "GB/s KV", "GFLOP/s");
    for (int h = 0; h < 3; h++)
        for (int l = 0; l < 7; l++) {
            int seqs = loads[l][0], rows = loads[l][1], ctx = loads[l][2];
            double t = time_attention(b.d, heads[h][0], heads[h][1], heads[h][2], seqs, rows, ctx);
            if (t < 0) continue;
            double bytes = 4.0 * seqs * ctx * heads[h][1] * heads[h][2];
            double flops = 4.0 * seqs * rows * (ctx - rows / 2.0) * heads[h][0] * heads[h][2];
            printf("  %3d/%-3d %6d %5d %5d %6d  %10.1f %8.1f %9.1f\n", heads[h][0], heads[h][1], heads[h][2], seqs,
                   rows, ctx, t * 1e6, bytes / t * 1e-9, flops / t * 1e-9);
        }
    close_bench(&b);
}

static void bench_rows(const char *isa, int threads) {
    bench b = open_bench(isa, threads, false);
    if (!b.d) return;
    float *w = get(b.d, sizeof(float) * 8192), *rope = get(b.d, sizeof(float) * 64 * 4096);
    int32_t *pos = get(b.d, sizeof(int32_t) * 256);
    void *kc = get(b.d, 8 << 20), *vc = get(b.d, 8 << 20);
    mw_attn a = {.n_q = 32,
                 .n_kv = 8,
                 .head_dim = 64,
                 .block_size = 16,
                 .k_off = 2048,
                 .v_off = 2560,
                 .kv_dtype = MW_F16,
                 .rope = rope};
    printf("\nother operations, us, %s, %d thread%s\n  %8s %10s %10s %10s\n", isa, threads, threads == 1 ? "" : "s",
           "rows", "add_norm", "silu_mul", "rope_kv");
    for (int m = 1; m <= 256; m *= 16) {
        double best[3] = {1e30, 1e30, 1e30};
        mw_batch batch = {.n_tokens = m, .pos = pos, .slot = pos};
        for (int i = 0; i < m; i++) pos[i] = i;
        for (int r = 0; r < 5 * g_repeats; r++) {
            double t0 = now();
            must(K->add_norm(b.d, b.x, b.x, b.y, m, 2048, w, 1e-5f, NULL));
            double t1 = now();
            must(K->silu_mul(b.d, b.y, 8192, b.x, 16384, m, 8192, 8192));
            double t2 = now();
            must(mw_cpu_rope_kv(b.d, &a, &batch, b.y, 3072, kc, vc));
            double t3 = now();
            double t[3] = {t1 - t0, t2 - t1, t3 - t2};
            for (int i = 0; i < 3; i++) best[i] = t[i] < best[i] ? t[i] : best[i];
        }
        printf("  %8d %10.1f %10.1f %10.1f\n", m, best[0] * 1e6, best[1] * 1e6, best[2] * 1e6);
    }
    K->free(b.d, w);
    K->free(b.d, rope);
    K->free(b.d, pos);
    K->free(b.d, kc);
    K->free(b.d, vc);
    close_bench(&b);
}

int main(int argc, char **argv) {
    static const char *const isas[] = {"avx512vnni", "avx512", "avx2", "scalar"};
    const char *threads = NULL, *isa_list = NULL, *parts = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "-t") == 0) threads = argv[i + 1];
        if (strcmp(argv[i], "-i") == 0) isa_list = argv[i + 1];
        if (strcmp(argv[i], "-s") == 0) parts = argv[i + 1];
        if (strcmp(argv[i], "-c") == 0 && atoi(argv[i + 1])) g_clock = CLOCK_PROCESS_CPUTIME_ID;
        if (strcmp(argv[i], "-r") == 0) g_repeats = atoi(argv[i + 1]);
    }
    K = mw_kernels_cpu();
    bench b = open_bench("scalar", 1, false);
    g_ring = get(b.d, RING_BYTES);
    uint32_t h = 1; /* nibbles at random; as f16 small normal numbers: exponents that matter stay clear */
    for (size_t i = 0; i < RING_BYTES / 4; i++) {
        h = h * 1664525 + 1013904223;
        ((uint32_t *)g_ring)[i] = h & 0xB3FFB3FF;
    }
    for (int t = 1; t <= mw_cpu_count(); t++) {
        char name[16];
        snprintf(name, sizeof name, "%d", t);
        if (threads ? !selected(threads, name) : t > 2 && t != mw_cpu_count()) continue;
        if (selected(parts, "read")) printf("read bandwidth, %d threads: %.1f GB/s\n", t, read_bandwidth(t));
        for (int i = 0; i < 4; i++) {
            if (!selected(isa_list, isas[i])) continue;
            if (selected(parts, "decode")) bench_decode(isas[i], t);
            if (selected(parts, "prefill")) bench_prefill(isas[i], t);
            if (selected(parts, "dense")) bench_dense(isas[i], t);
            if (selected(parts, "attention")) bench_attention(isas[i], t);
            if (selected(parts, "rows")) bench_rows(isas[i], t);
        }
    }
    K->free(b.d, g_ring);
    close_bench(&b);
    return g_sink == 1; /* the sums are used */
}
