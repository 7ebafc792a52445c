/* worker/base/threads.h - a fork-join pool. The caller is thread 0; the other threads sleep between runs.
 *
 * After a run a worker spins for a few microseconds (the next kernel of a step follows at once), then sleeps on a
 * futex: an idle pool costs no CPU time. Where more threads run than cores exist, spinning is off, since it would take
 * the core from the thread that is waited for.
 */
#ifndef MW_BASE_THREADS_H
#define MW_BASE_THREADS_H
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef struct mw_pool mw_pool;

/* n_threads >= 1 counts the caller. spin_us: how long a worker looks for work before it sleeps; 0 on oversubscribed
 * hosts. */
MW_MUST_CHECK mw_status mw_pool_create(mw_pool **out, int n_threads, int spin_us);
void mw_pool_destroy(mw_pool *p); /* NULL allowed */
int mw_pool_size(const mw_pool *p);

typedef void (*mw_pool_fn)(void *arg, int thread, int n_threads);

/* Calls fn once on every thread, the caller included; returns when all are done. Not reentrant, one caller at a time.
 * fn may call mw_pool_barrier. What the caller wrote before is visible to fn; what fn wrote is visible after return. */
void mw_pool_run(mw_pool *p, mw_pool_fn fn, void *arg);

/* Inside fn only: waits until every thread of the pool is here. */
void mw_pool_barrier(mw_pool *p);

/* Inside fn only: the next index of a shared counter that mw_pool_run sets to 0; for work of uneven size. */
int64_t mw_pool_next(mw_pool *p);

/* Cores this process may use: its affinity mask, capped by the cgroup's CPU quota, at least 1. */
int mw_cpu_count(void);

/* [begin, end) of part i of n equal parts of `total`, cut at multiples of `unit`. */
static inline void mw_split(int64_t total, int64_t unit, int i, int n, int64_t *begin, int64_t *end) {
    int64_t units = (total + unit - 1) / unit, b = units * i / n * unit, e = units * (i + 1) / n * unit;
    *begin = b < total ? b : total;
    *end = e < total ? e : total;
}

MW_END_DECLS
#endif
