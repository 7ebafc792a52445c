#include "shard/chunks.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/mem.h"

typedef struct {
    mw_pool *pool;
    int64_t units, step;
    size_t scratch;
    mw_chunk_fn fn;
    const void *arg;
    atomic_int failed;
    pthread_mutex_t lock;
    mw_status st;
    char text[MW_ERROR_TEXT_MAX];
} run;

static void run_thread(void *arg, int thread, int n_threads) {
    (void)thread;
    (void)n_threads;
    run *r = arg;
    void *scratch = NULL;
    mw_status st = mw_alloc64(&scratch, r->scratch, "conversion buffer");
    while (st == MW_OK && !atomic_load(&r->failed)) {
        int64_t u0 = mw_pool_next(r->pool) * r->step;
        if (u0 >= r->units) break;
        st = r->fn(r->arg, u0, r->units - u0 < r->step ? r->units : u0 + r->step, scratch);
    }
    free(scratch);
    if (st == MW_OK) return;
    pthread_mutex_lock(&r->lock);
    if (!atomic_exchange(&r->failed, 1)) {
        r->st = st;
        snprintf(r->text, sizeof r->text, "%s", mw_error_text());
    }
    pthread_mutex_unlock(&r->lock);
}

mw_status mw_chunks(mw_pool *pool, int64_t units, int64_t step, size_t scratch, mw_chunk_fn fn, const void *arg) {
    run r = {.pool = pool,
             .units = units,
             .step = step,
             .scratch = scratch,
             .fn = fn,
             .arg = arg,
             .lock = PTHREAD_MUTEX_INITIALIZER};
    mw_pool_run(pool, run_thread, &r);
    if (r.st != MW_OK) mw_error_set_text(r.text);
    return r.st;
}
