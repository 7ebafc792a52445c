/* All checksums of a file, in parallel: what marlin-convert --verify and marlin-pack --verify do. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/ckpt_internal.h"
#include "worker/base/threads.h"

typedef struct {
    const mw_ckpt *c;
    mw_pool *pool;
    atomic_uint_fast64_t bytes;
    atomic_bool stop;
    pthread_mutex_t lock;
    mw_status st; /* the first failure */
    char text[MW_ERROR_TEXT_MAX];
} job;

static mw_status verify_dataset(job *j, const mw_dataset *d) {
    mw_status st = MW_OK;
    char *buf = NULL;
    size_t row = (size_t)d->cols * mw_dtype_size(d->dtype);
    int64_t step = d->block_rows;
    while ((size_t)step * row < (4u << 20) && step < d->rows) step += d->block_rows;
    if (step > d->rows) step = d->rows;
    MW_TRY(st, MW_CALLOC(&buf, (size_t)step * row, "verify buffer"));
    for (int64_t r = 0; r < d->rows && !atomic_load(&j->stop); r += step) {
        int64_t n = d->rows - r < step ? d->rows - r : step;
        MW_TRY(st, mw_ckpt_read(j->c, d, d->origin_row + r, n, d->origin_col, d->cols, buf, row, true));
        atomic_fetch_add(&j->bytes, (uint64_t)n * row);
    }
fail:
    free(buf);
    return st;
}

static void verify_thread(void *arg, int thread, int n_threads) {
    (void)thread, (void)n_threads;
    job *j = arg;
    int64_t i;
    while ((i = mw_pool_next(j->pool)) < j->c->h.n_datasets && !atomic_load(&j->stop)) {
        mw_status st = verify_dataset(j, &j->c->dataset[i]);
        if (st == MW_OK) continue;
        pthread_mutex_lock(&j->lock);
        if (j->st == MW_OK) {
            j->st = st;
            memcpy(j->text, mw_error_text(), sizeof j->text);
        }
        pthread_mutex_unlock(&j->lock);
        atomic_store(&j->stop, true);
    }
}

mw_status mw_ckpt_verify(const mw_ckpt *c, int threads, uint64_t *bytes) {
    mw_status st = MW_OK;
    job j = {.c = c, .lock = PTHREAD_MUTEX_INITIALIZER};
    mw_str text = {0};
    MW_TRY(st, mw_pool_create(&j.pool, threads, 0));
    mw_pool_run(j.pool, verify_thread, &j);
    st = j.st;
    if (st != MW_OK) mw_error_set_text(j.text);
    for (int i = 0; i < c->h.n_texts && st == MW_OK; i++) {
        text.n = 0;
        st = mw_ckpt_text(c, c->text[i].name, &text);
        atomic_fetch_add(&j.bytes, text.n);
    }
    *bytes = atomic_load(&j.bytes);
fail:
    mw_str_free(&text);
    mw_pool_destroy(j.pool);
    return st;
}
