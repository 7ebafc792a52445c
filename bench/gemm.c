/* marlin-bench gemm: the int4 linear layer of every shape at every number of rows, beside merely reading the same bytes
 * and beside the dense GEMM on the weights it stands for. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/device.h"
#include "bench/shapes.h"

#define PERIOD 16 /* rows of x that differ: as many rows of the reference are computed */

static const bench_column k_columns[] = {
    {"model", "model", -1},
    {"tp", "TP", -1},
    {"layer", "layer", -1},
    {"k", "K", -1},
    {"n", "N", -1},
    {"group", "group", -1},
    {"m", "M", -1},
    {"us", "us", 2},
    {"us_p10", "p10", 2},
    {"us_p90", "p90", 2},
    {"gbps", "GB/s", 0},
    {"tflops", "TFLOP/s", 2},
    {"read_us", "read us", 2},
    {"x_read", "x read", 2},
    {"dense_us", "dense us", 2},
    {"x_dense", "x dense", 2},
    {"error", "error/bound", 3},
};

/* Copies of one shape's weights: each call of a chain takes the next, so that it comes from memory. */
typedef struct {
    bench_dev *b;
    bench_shape s;
    int copies, dense_copies;
    char *ring, *dense; /* dense: NULL where not asked */
    size_t tiles, scales, zeros, stride, bytes, dense_stride;
    mw_dtype scale_dtype, dense_dtype;
    void *x, *y;
    int64_t m, most_m;
    double read_s;
    double peak; /* FLOP/s of the dense GEMM with most_m rows; infinite where not asked */
} shape_run;

static mw_linear copy_of(const shape_run *r, int i) {
    char *at = r->ring + (size_t)(i % r->copies) * r->stride;
    mw_linear w = {.kind = MW_LINEAR_W4, .k = r->s.k, .n = r->s.n};
    w.w4 = (mw_w4){.tiles = (const uint32_t *)at,
                   .scales = at + r->tiles,
                   .zeros = r->zeros ? (const uint8_t *)at + r->tiles + r->scales : NULL,
                   .scale_dtype = r->scale_dtype,
                   .group = r->s.group};
    return w;
}

static mw_status w4_call(void *arg, int i) {
    shape_run *r = arg;
    mw_linear w = copy_of(r, i);
    return r->b->k->linear(r->b->d, &w, r->m, r->x, r->s.k, r->y, r->s.n, false);
}

static mw_status dense_call(void *arg, int i) {
    shape_run *r = arg;
    mw_linear w = {.kind = MW_LINEAR_DENSE, .k = r->s.k, .n = r->s.n};
    w.dense = (mw_dense){.w = r->dense + (size_t)(i % r->dense_copies) * r->dense_stride, .dtype = r->dense_dtype};
    return r->b->k->linear(r->b->d, &w, r->m, r->x, r->s.k, r->y, r->s.n, false);
}

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* Enough copies to be read from memory, one more for the one in flight; no more than a third of the free memory, nor
 * than a chain has calls: matrices so small stay in the caches of any model, too. */
static int copies_for(const bench_dev *b, size_t stride) {
    size_t n = b->cold / stride + 2, most = (size_t)b->info.mem_free / 3 / (size_t)b->size / stride;
    if (most > BENCH_CALLS_MOST) most = BENCH_CALLS_MOST;
    return (int)(n < most ? n : most > 0 ? most : 1);
}

static mw_status make_weights(shape_run *r) {
    mw_status st = MW_OK;
    bench_dev *b = r->b;
    const bench_opts *o = b->o;
    size_t groups = (size_t)(r->s.k / r->s.group * r->s.n);
    r->scale_dtype = b->info.act == MW_F32 ? o->dtype : b->info.act;
    r->tiles = (size_t)(r->s.k * r->s.n / 2);
    r->scales = rounded(groups * mw_dtype_size(r->scale_dtype));
    r->zeros = o->zeros ? rounded(groups) : 0;
    r->stride = r->tiles + r->scales + r->zeros;
    r->bytes = r->tiles + groups * mw_dtype_size(r->scale_dtype) + (o->zeros ? groups : 0);
    r->copies = copies_for(b, r->stride);
    MW_TRY(st, bench_dev_alloc(b, (void **)&r->ring, (size_t)r->copies * r->stride, "weights"));
    for (int i = 0; i < r->copies; i++) {
        char *at = r->ring + (size_t)i * r->stride;
        uint64_t seed = o->seed * 1000 + (uint64_t)i;
        MW_TRY(st, b->p->fill(b->d, at, MW_U32, r->tiles / 4, 0, 0, seed));
        MW_TRY(st, b->p->fill(b->d, at + r->tiles, r->scale_dtype, groups, 0.003f, 0.0015f, seed));
        if (r->zeros) MW_TRY(st, b->p->fill(b->d, at + r->tiles + r->scales, MW_U8, groups, 8, 8, seed));
    }
    MW_TRY(st, b->k->sync(b->d)); /* a GEMM may read weights before kernels in front of it have ended */
    MW_TRY(st, bench_chain_read(b, r->ring, r->stride / 16 * 16, r->stride, r->copies, &r->read_s));
fail:
    return st;
}

static mw_status make_dense(shape_run *r) {
    mw_status st = MW_OK;
    bench_dev *b = r->b;
    r->dense_dtype = b->info.act == MW_F32 ? MW_F32 : b->info.act;
    r->dense_stride = (size_t)(r->s.k * r->s.n) * mw_dtype_size(r->dense_dtype);
    MW_TRY(st, b->k->info(b->d, &b->info));
    r->dense_copies = copies_for(b, r->dense_stride);
    MW_TRY(st, bench_dev_alloc(b, (void **)&r->dense, (size_t)r->dense_copies * r->dense_stride, "dense reference"));
    for (int i = 0; i < r->dense_copies; i++) {
        mw_linear w = copy_of(r, i);
        char *at = r->dense + (size_t)i * r->dense_stride;
        if (i < r->copies)
            MW_TRY(st, b->p->dequant(b->d, &w, at, r->dense_dtype));
        else
            MW_TRY(st, b->p->copy(b->d, at, r->dense + (size_t)(i - r->copies) * r->dense_stride, r->dense_stride));
    }
    MW_TRY(st, b->k->sync(b->d));
fail:
    return st;
}

/* x: PERIOD different rows, again and again. */
static mw_status make_activations(shape_run *r) {
    mw_status st = MW_OK;
    bench_dev *b = r->b;
    size_t act = mw_dtype_size(b->info.act), row = (size_t)r->s.k * act;
    MW_TRY(st, bench_dev_alloc(b, &r->x, (size_t)r->most_m * row, "activations"));
    MW_TRY(st, bench_dev_alloc(b, &r->y, (size_t)(r->most_m * r->s.n) * act, "results"));
    int64_t first = r->most_m < PERIOD ? r->most_m : PERIOD;
    MW_TRY(st, b->p->fill(b->d, r->x, b->info.act, (size_t)(first * r->s.k), 0, 1, b->o->seed + 1));
    for (int64_t i = first; i < r->most_m; i += first) {
        int64_t rows = r->most_m - i < first ? r->most_m - i : first;
        MW_TRY(st, b->p->copy(b->d, (char *)r->x + (size_t)i * row, r->x, (size_t)rows * row));
    }
    MW_TRY(st, b->k->sync(b->d));
fail:
    return st;
}

/* MW_ERR_NUMERIC: a result beyond its bound is not worth timing. */
static mw_status check(shape_run *r, double *error) {
    mw_status st = MW_OK;
    bench_dev *b = r->b;
    mw_verdict v;
    mw_linear w = copy_of(r, 0);
    MW_TRY(st, b->p->poison(b->d, r->y, (size_t)(r->m * r->s.n) * mw_dtype_size(b->info.act)));
    MW_TRY(st, w4_call(r, 0));
    MW_TRY(st, b->p->check_linear(b->d, &w, r->m, r->x, r->s.k, r->y, r->s.n, false, PERIOD, &v));
    *error = v.worst;
    if (!(v.worst <= 1))
        return MW_FAIL(
            MW_ERR_NUMERIC, "int4 GEMM K=%lld N=%lld M=%lld: row %lld, column %lld: error %.3g times its bound",
            (long long)r->s.k, (long long)r->s.n, (long long)r->m, (long long)v.row, (long long)v.col, v.worst);
fail:
    return st;
}

static mw_status measure_peak(shape_run *r) {
    bench_samples s = {0};
    r->peak = INFINITY;
    r->m = r->most_m;
    if (!r->dense) return MW_OK;
    mw_status st = bench_chain(r->b, 1, dense_call, r, &s);
    if (st == MW_OK) r->peak = 2 * (double)r->m * (double)r->s.k * (double)r->s.n / bench_stats_of(&s).median;
    bench_samples_free(&s);
    return st;
}

static void shape_free(shape_run *r) {
    bench_dev_free(r->b, r->ring);
    bench_dev_free(r->b, r->dense);
    bench_dev_free(r->b, r->x);
    bench_dev_free(r->b, r->y);
}

/* Sums of logarithms for the geometric means, a list entry (a number of rows) each. */
typedef struct {
    double x_read, x_dense;
    int n;
} mean;

typedef struct {
    bench_dev b;
    const bench_opts *o;
    bench_report *r;
    bench_list ms;
    const char *model;
    int tp;
    mean mean[BENCH_MAX_LIST];
} gemm_run;

static json_t *begin_row(gemm_run *g, const bench_shape *s, int64_t m) {
    json_t *row = bench_row_begin(g->r, "gemm");
    bench_row_text(row, "backend", g->b.k->name);
    bench_row_text(row, "model", g->model);
    bench_row_int(row, "tp", g->tp);
    bench_row_text(row, "layer", s ? s->layer : "mean");
    if (s) {
        bench_row_int(row, "k", s->k);
        bench_row_int(row, "n", s->n);
        bench_row_int(row, "group", s->group);
    }
    bench_row_text(row, "dtype", mw_dtype_name(g->b.info.act));
    if (g->o->zeros) bench_row_text(row, "zeros", "zeros");
    bench_row_int(row, "m", m);
    return row;
}

static mw_status time_rows(gemm_run *g, shape_run *r, int i) {
    mw_status st = MW_OK;
    bench_samples ours = {0}, dense = {0};
    double error = 0, flops = 2 * (double)g->ms.v[i] * (double)r->s.k * (double)r->s.n;
    r->m = g->ms.v[i];
    MW_TRY(st, mw_comm_agree(g->b.comm, check(r, &error)));
    MW_TRY(st, bench_chain(&g->b, r->m <= 64 ? r->copies : 1, w4_call, r, &ours));
    if (r->dense) MW_TRY(st, bench_chain(&g->b, r->m <= 64 ? r->dense_copies : 1, dense_call, r, &dense));
    bench_stats t = bench_stats_of(&ours), d = bench_stats_of(&dense);
    json_t *row = begin_row(g, &r->s, r->m);
    bench_row_metric(row, "us", false);
    bench_row_stats(row, "us", &t, 1e6);
    bench_row_real(row, "gbps", (double)r->bytes / t.median * 1e-9);
    bench_row_real(row, "tflops", flops / t.median * 1e-12);
    bench_row_real(row, "read_us", r->read_s * 1e6);
    bench_row_real(row, "x_read", t.median / r->read_s);
    if (r->dense) {
        bench_row_real(row, "dense_us", d.median * 1e6);
        bench_row_real(row, "dense_tflops", flops / d.median * 1e-12);
        bench_row_real(row, "x_dense", d.median / t.median);
    }
    bench_row_real(row, "intensity", flops / (double)r->bytes);
    bench_row_real(row, "roof_tflops", (flops / r->read_s < r->peak ? flops / r->read_s : r->peak) * 1e-12);
    bench_row_real(row, "error", error);
    mean *m = &g->mean[i];
    m->x_read += log(t.median / r->read_s);
    m->x_dense += r->dense ? log(d.median / t.median) : 0;
    m->n++;
    st = bench_row_end(g->r, row);
fail:
    bench_samples_free(&ours);
    bench_samples_free(&dense);
    return st;
}

static mw_status run_shape(gemm_run *g, const bench_shape *s) {
    mw_status st = MW_OK;
    shape_run r = {.b = &g->b, .s = *s};
    for (int i = 0; i < g->ms.n; i++)
        if (g->ms.v[i] > r.most_m) r.most_m = g->ms.v[i];
    if (s->k % 16 || s->n % 64 || s->k % s->group || s->group % 16)
        return MW_FAIL(MW_ERR_USAGE,
                       "shape %lldx%lld with group %lld: K must be a multiple of 16 and of the group, N of 64",
                       (long long)s->k, (long long)s->n, (long long)s->group);
    MW_TRY(st, g->b.k->info(g->b.d, &g->b.info)); /* what is free now */
    MW_TRY(st, make_weights(&r));
    if (!g->o->no_reference) MW_TRY(st, make_dense(&r));
    MW_TRY(st, make_activations(&r));
    MW_TRY(st, measure_peak(&r));
    for (int i = 0; i < g->ms.n; i++) MW_TRY(st, time_rows(g, &r, i));
fail:
    shape_free(&r);
    return st;
}

/* Over the shapes since the last: what a whole layer sees. */
static mw_status print_means(gemm_run *g) {
    mw_status st = MW_OK;
    for (int i = 0; i < g->ms.n; i++) {
        mean *m = &g->mean[i];
        if (m->n < 2) continue;
        json_t *row = begin_row(g, NULL, g->ms.v[i]);
        bench_row_metric(row, "x_read", false);
        bench_row_int(row, "shapes", m->n);
        bench_row_real(row, "x_read", exp(m->x_read / m->n));
        if (!g->o->no_reference) bench_row_real(row, "x_dense", exp(m->x_dense / m->n));
        MW_TRY(st, bench_row_end(g->r, row));
    }
fail:
    memset(g->mean, 0, sizeof g->mean);
    return st;
}

static mw_status run_shapes(gemm_run *g, const bench_shape *s, int n) {
    mw_status st = MW_OK;
    for (int i = 0; i < n; i++) MW_TRY(st, run_shape(g, &s[i]));
    st = print_means(g);
fail:
    return st;
}

/* "4096x14336,14336x4096" */
static mw_status run_given(gemm_run *g) {
    bench_shape s[BENCH_MAX_LIST];
    int n = 0;
    for (const char *p = g->o->shapes; *p; p += *p == ',') {
        char *end;
        s[n] = (bench_shape){.layer = "-", .group = g->o->group};
        s[n].k = strtoll(p, &end, 10);
        if (*end == 'x') s[n].n = strtoll(end + 1, &end, 10);
        if (s[n].group == -1) s[n].group = s[n].k;
        if (s[n].k < 16 || s[n].n < 64 || s[n].k > 1 << 20 || s[n].n > 1 << 20 || (*end && *end != ',') ||
            n + 1 == BENCH_MAX_LIST)
            return MW_FAIL(MW_ERR_USAGE, "--shapes: '%.40s': expected KxN, at most %d of them", p, BENCH_MAX_LIST - 1);
        n++;
        p = end;
    }
    g->model = "-";
    g->tp = 1;
    return run_shapes(g, s, n);
}

static mw_status run_model(gemm_run *g, const char *path) {
    mw_status st = MW_OK;
    bench_model m = {0};
    bench_shape s[4];
    int n = 0;
    MW_TRY(st, bench_model_open(&m, path));
    g->model = m.name;
    for (int i = 0; i < g->o->tp.n; i++) {
        g->tp = (int)g->o->tp.v[i];
        MW_TRY(st, bench_model_shapes(&m, g->tp, s, &n));
        MW_TRY(st, run_shapes(g, s, n));
    }
fail:
    g->model = NULL; /* its name is part of m */
    bench_model_close(&m);
    return st;
}

mw_status bench_gemm(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    gemm_run g = {.o = o, .r = r, .ms = o->batch};
    bench_report_columns(r, k_columns, (int)(sizeof k_columns / sizeof *k_columns));
    MW_TRY(st, bench_dev_open(&g.b, o, r, o->dtype));
    if (g.ms.n == 0) MW_TRY(st, bench_parse_list(g.b.info.host_memory ? "1-128*4" : "1-1024*2", 1, 65536, &g.ms));
    if (o->shapes)
        MW_TRY(st, run_given(&g));
    else
        for (int i = 0; i < o->n_models; i++) MW_TRY(st, run_model(&g, o->models[i]));
fail:
    return bench_dev_close(&g.b, st);
}
