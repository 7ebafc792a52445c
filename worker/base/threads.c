#include "worker/base/threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/mem.h"

struct mw_pool {
    int n, spin_us;
    pthread_t *thread; /* n - 1 of them */
    int started;
    mw_pool_fn fn;
    void *arg;
    atomic_int_fast64_t next;
    atomic_uint epoch;       /* a run begins when it changes */
    atomic_int pending;      /* workers that have not finished the current run */
    atomic_int barrier_in;   /* arrivals at the current barrier */
    atomic_uint barrier_gen; /* changes when a barrier opens */
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
};

typedef struct {
    mw_pool *p;
    int index;
} worker_arg;

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spin for at most spin_us until *v != old. */
static bool spin_change(mw_pool *p, atomic_uint *v, unsigned old) {
    if (atomic_load_explicit(v, memory_order_acquire) != old) return true;
    if (p->spin_us <= 0) return false;
    int64_t until = mw_now_ns() + (int64_t)p->spin_us * 1000;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(v, memory_order_acquire) != old) return true;
            cpu_relax();
        }
    } while (mw_now_ns() < until);
    return false;
}

static void wait_change(mw_pool *p, atomic_uint *v, unsigned old) {
    if (spin_change(p, v, old)) return;
    pthread_mutex_lock(&p->lock);
    while (atomic_load(v) == old) pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

/* *v changes and everyone who waits for it wakes. The lock closes the gap between a worker's last look and its sleep.
 */
static void announce(mw_pool *p, atomic_uint *v) {
    atomic_fetch_add(v, 1);
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *varg) {
    worker_arg *wa = varg;
    mw_pool *p = wa->p;
    int index = wa->index;
    free(wa);
    unsigned seen = 0;
    for (;;) {
        wait_change(p, &p->epoch, seen);
        seen++;
        if (atomic_load(&p->stop)) return NULL;
        p->fn(p->arg, index, p->n);
        if (atomic_fetch_sub(&p->pending, 1) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

mw_status mw_pool_create(mw_pool **out, int n_threads, int spin_us) {
    mw_status st = MW_OK;
    mw_pool *p = NULL;
    if (n_threads < 1 || n_threads > 4096) return MW_FAIL(MW_ERR_USAGE, "%d threads: expected 1 to 4096", n_threads);
    MW_TRY(st, MW_CALLOC(&p, 1, "thread pool"));
    p->n = n_threads;
    p->spin_us = spin_us;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    MW_TRY(st, MW_CALLOC(&p->thread, (size_t)n_threads, "thread handles"));
    for (int i = 1; i < n_threads; i++) {
        worker_arg *wa = malloc(sizeof *wa);
        int err = wa ? 0 : ENOMEM;
        if (wa) {
            *wa = (worker_arg){p, i};
            err = pthread_create(&p->thread[i - 1], NULL, worker_main, wa);
        }
        if (err) {
            free(wa);
            st = MW_FAIL(MW_ERR_NOMEM, "starting thread %d of %d: %s", i, n_threads, strerror(err));
            goto fail;
        }
        p->started = i;
    }
    *out = p;
    return MW_OK;
fail:
    mw_pool_destroy(p);
    return st;
}

void mw_pool_destroy(mw_pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    announce(p, &p->epoch);
    for (int i = 0; i < p->started; i++) pthread_join(p->thread[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    free(p->thread);
    free(p);
}

int mw_pool_size(const mw_pool *p) {
    return p->n;
}

void mw_pool_run(mw_pool *p, mw_pool_fn fn, void *arg) {
    atomic_store(&p->next, 0);
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->pending, p->n - 1);
    announce(p, &p->epoch);
    fn(arg, 0, p->n);
    int64_t until = p->spin_us > 0 ? mw_now_ns() + (int64_t)p->spin_us * 1000 : 0;
    while (atomic_load_explicit(&p->pending, memory_order_acquire) != 0) {
        if (mw_now_ns() < until) {
            for (int i = 0; i < 64; i++) cpu_relax();
            continue;
        }
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->pending) != 0) pthread_cond_wait(&p->done, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
}

void mw_pool_barrier(mw_pool *p) {
    if (p->n == 1) return;
    unsigned gen = atomic_load(&p->barrier_gen);
    if (atomic_fetch_add(&p->barrier_in, 1) == p->n - 1) {
        atomic_store(&p->barrier_in, 0);
        announce(p, &p->barrier_gen);
    } else {
        wait_change(p, &p->barrier_gen, gen);
    }
}

int64_t mw_pool_next(mw_pool *p) {
    return atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
}

/* cgroup v2 "cpu.max" and v1 "cpu.cfs_*": quota / period, rounded up; 0 when there is no limit. */
static int cgroup_cpus(void) {
    long long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1; /* "max 100000": no limit */
        fclose(f);
    } else if ((f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r"))) {
        if (fscanf(f, "%lld", &quota) != 1) quota = -1;
        fclose(f);
        if ((f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r"))) {
            if (fscanf(f, "%lld", &period) != 1) period = 0;
            fclose(f);
        }
    }
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int mw_cpu_count(void) {
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    int limit = cgroup_cpus();
    if (limit > 0 && limit < n) n = limit;
    return n > 0 ? n : 1;
}
