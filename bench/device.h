/* bench/device.h - a device without an engine: chains of calls, their time, and what the device allows at best. */
#ifndef MW_BENCH_DEVICE_H
#define MW_BENCH_DEVICE_H
#include "bench/report.h"
#include "comm/comm.h"
#include "kernels/probe.h"

typedef struct bench_dev {
    const bench_opts *o;
    const mw_kernels *k;
    const mw_probe *p;
    mw_dev *d;
    mw_dev_info info;
    mw_probe_facts facts;
    mw_comm *comm;
    int rank, size;
    bool joined; /* the ranks' GPUs are a group: calls may wait for one another */
    size_t cold; /* bytes that a ring of copies must have so that each is read from memory */
} bench_dev;

/* The group, and this rank's device in it; its name and clocks go to the report's machine. Collective. */
MW_MUST_CHECK mw_status bench_dev_open(bench_dev *b, const bench_opts *o, bench_report *r, mw_dtype act);
/* After a failure st the group stays, for main to report in. Returns st. */
mw_status bench_dev_close(bench_dev *b, mw_status st);

/* Device memory, and its end. */
MW_MUST_CHECK mw_status bench_dev_alloc(bench_dev *b, void **out, size_t bytes, const char *what);
void bench_dev_free(bench_dev *b, void *p);

#define BENCH_CALLS_MOST 400 /* of a chain, unless more are asked for */

/* Call i of a chain: enqueues one call. */
typedef mw_status (*bench_call)(void *arg, int i);

/* Seconds of one call: call 0, 1, 2 ... enqueued as one graph (where the backend has graphs), at least `least` of them
 * and so many that a replay takes a few milliseconds, replayed o->repeat times after two that do not count. Adds one
 * sample a replay, of several ranks the slowest one's. Collective. */
MW_MUST_CHECK mw_status bench_chain(bench_dev *b, int least, bench_call call, void *arg, bench_samples *out);

/* The same for every way of reading `copies` pieces of `bytes`, `stride` apart; the median of the best way, seconds. */
MW_MUST_CHECK mw_status bench_chain_read(bench_dev *b, const void *from, size_t bytes, size_t stride, int copies,
                                         double *seconds);

/* ---- ceiling.c ---- */

typedef struct bench_ceiling {
    const char *backend;
    double read, copy; /* bytes/s; copy: read and written */
    double dense;      /* FLOP/s of the dense GEMM, 16-bit weights, at `dense_m` rows; 0: not asked */
} bench_ceiling;
/* dense_m > 0: also a dense GEMM of dense_m x k x n. Each rank's own, all at the same time; the slowest. Collective. */
MW_MUST_CHECK mw_status bench_ceiling_measure(bench_dev *b, int64_t dense_m, int64_t k, int64_t n, bench_ceiling *out);
/* out->dense alone: m x k x n. */
MW_MUST_CHECK mw_status bench_ceiling_dense(bench_dev *b, int64_t m, int64_t k, int64_t n, bench_ceiling *out);

#endif
