/* bench/stats.h - numbers about samples. */
#ifndef MW_BENCH_STATS_H
#define MW_BENCH_STATS_H
#include <stdbool.h>
#include <stddef.h>

#include "worker/base/status.h"

/* Samples that grow. {0} is empty and valid. */
typedef struct bench_samples {
    double *v;
    size_t n, cap;
} bench_samples;
MW_MUST_CHECK mw_status bench_samples_add(bench_samples *s, double v);
void bench_samples_free(bench_samples *s);

typedef struct bench_stats {
    size_t n;
    double mean, std, min, max, median, p10, p90, p95, p99;
} bench_stats;
/* Sorts s. All 0 when it is empty. std: of the population, as numpy.std. */
bench_stats bench_stats_of(bench_samples *s);
/* Percentile p (0..100) of sorted values, linear between neighbours, as numpy.percentile. 0 when there are none. */
double bench_percentile(const double *sorted, size_t n, double p);

/* What a client saw of one request; seconds. */
typedef struct bench_latency {
    double ttft, e2el;
    size_t output_tokens;
} bench_latency;
/* Time per output token after the first, (E2EL - TTFT) / (output tokens - 1); 0 for answers of one token or none, which
 * have no such time and are left out of the statistics. */
double bench_tpot(const bench_latency *l);
#endif
