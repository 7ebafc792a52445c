#include "bench/stats.h"

#include <math.h>
#include <stdlib.h>

mw_status bench_samples_add(bench_samples *s, double v) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 256;
        double *p = realloc(s->v, cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "%zu samples", cap);
        s->v = p;
        s->cap = cap;
    }
    s->v[s->n++] = v;
    return MW_OK;
}

void bench_samples_free(bench_samples *s) {
    free(s->v);
    *s = (bench_samples){0};
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_percentile(const double *sorted, size_t n, double p) {
    if (n == 0) return 0;
    double at = p / 100 * (double)(n - 1);
    size_t i = at >= (double)(n - 1) ? n - 1 : (size_t)at;
    double part = at - (double)i;
    return i + 1 < n && part > 0 ? sorted[i] + part * (sorted[i + 1] - sorted[i]) : sorted[i];
}

bench_stats bench_stats_of(bench_samples *s) {
    bench_stats r = {.n = s->n};
    if (s->n == 0) return r;
    qsort(s->v, s->n, sizeof *s->v, ascending);
    for (size_t i = 0; i < s->n; i++) r.mean += s->v[i] / (double)s->n;
    for (size_t i = 0; i < s->n; i++) r.std += (s->v[i] - r.mean) * (s->v[i] - r.mean) / (double)s->n;
    r.std = sqrt(r.std);
    r.min = s->v[0];
    r.max = s->v[s->n - 1];
    r.median = bench_percentile(s->v, s->n, 50);
    r.p10 = bench_percentile(s->v, s->n, 10);
    r.p90 = bench_percentile(s->v, s->n, 90);
    r.p95 = bench_percentile(s->v, s->n, 95);
    r.p99 = bench_percentile(s->v, s->n, 99);
    return r;
}

double bench_tpot(const bench_latency *l) {
    return l->output_tokens > 1 ? (l->e2el - l->ttft) / (double)(l->output_tokens - 1) : 0;
}
