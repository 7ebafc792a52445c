/* What the device allows: reading, copying, and the vendor's (CUDA: cuBLASLt) or our own (CPU) dense GEMM. */
#include "bench/device.h"

/* Bytes of reading and copying: far more than the caches hold, and no more than a part of what is free. */
static size_t piece(const bench_dev *b) {
    size_t most = b->info.host_memory ? (size_t)b->info.mem_free / 8 : (size_t)2 << 30;
    size_t want = b->info.host_memory ? b->cold : 8 * b->cold;
    return (want < most ? want : most) / 4096 * 4096;
}

typedef struct {
    bench_dev *b;
    void *a, *c;
    size_t bytes;
    mw_linear w;
    int64_t m;
    void *x, *y;
} work;

static mw_status copy_call(void *arg, int i) {
    work *w = arg;
    (void)i;
    return w->b->p->copy(w->b->d, w->c, w->a, w->bytes);
}

static mw_status dense_call(void *arg, int i) {
    work *w = arg;
    (void)i;
    return w->b->k->linear(w->b->d, &w->w, w->m, w->x, w->w.k, w->y, w->w.n, false);
}

/* Once a run: gigabytes are touched. */
static mw_status measure_memory(bench_dev *b, bench_ceiling *out) {
    static double read, copy;
    mw_status st = MW_OK;
    bench_samples s = {0};
    work w = {.b = b, .bytes = piece(b)};
    double t;
    out->read = read;
    out->copy = copy;
    if (read > 0) return MW_OK;
    MW_TRY(st, bench_dev_alloc(b, &w.a, w.bytes, "ceiling"));
    MW_TRY(st, bench_dev_alloc(b, &w.c, w.bytes, "ceiling"));
    MW_TRY(st, b->p->fill(b->d, w.a, MW_U32, w.bytes / 4, 0, 0, 1));
    MW_TRY(st, b->p->fill(b->d, w.c, MW_U32, w.bytes / 4, 0, 0, 2));
    MW_TRY(st, bench_chain_read(b, w.a, w.bytes, 0, 1, &t));
    out->read = read = (double)w.bytes / t;
    MW_TRY(st, bench_chain(b, 1, copy_call, &w, &s));
    out->copy = copy = 2 * (double)w.bytes / bench_stats_of(&s).median;
fail:
    bench_samples_free(&s);
    bench_dev_free(b, w.a);
    bench_dev_free(b, w.c);
    return st;
}

mw_status bench_ceiling_dense(bench_dev *b, int64_t m, int64_t k, int64_t n, bench_ceiling *out) {
    mw_status st = MW_OK;
    bench_samples s = {0};
    work w = {.b = b, .m = m, .w = {.kind = MW_LINEAR_DENSE, .k = k, .n = n}};
    mw_dtype act = b->info.act, t = act == MW_F32 ? MW_F16 : act;
    MW_TRY(st, bench_dev_alloc(b, &w.a, (size_t)(k * n) * mw_dtype_size(t), "dense reference"));
    MW_TRY(st, bench_dev_alloc(b, &w.x, (size_t)(m * k) * mw_dtype_size(act), "dense reference"));
    MW_TRY(st, bench_dev_alloc(b, &w.y, (size_t)(m * n) * mw_dtype_size(act), "dense reference"));
    MW_TRY(st, b->p->fill(b->d, w.a, t, (size_t)(k * n), 0, 0.03f, 3));
    MW_TRY(st, b->p->fill(b->d, w.x, act, (size_t)(m * k), 0, 1, 4));
    w.w.dense = (mw_dense){.w = w.a, .dtype = t};
    MW_TRY(st, bench_chain(b, 1, dense_call, &w, &s));
    out->dense = 2 * (double)m * (double)k * (double)n / bench_stats_of(&s).median;
fail:
    bench_samples_free(&s);
    bench_dev_free(b, w.a);
    bench_dev_free(b, w.x);
    bench_dev_free(b, w.y);
    return st;
}

mw_status bench_ceiling_measure(bench_dev *b, int64_t dense_m, int64_t k, int64_t n, bench_ceiling *out) {
    *out = (bench_ceiling){.backend = b->k->name};
    mw_status st = measure_memory(b, out);
    return st == MW_OK && dense_m > 0 ? bench_ceiling_dense(b, dense_m, k, n, out) : st;
}
