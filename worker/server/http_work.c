#include <errno.h>
#include <string.h>

#include "worker/server/http.h"

static mw_exchange *next_exchange(mw_work *w) {
    pthread_mutex_lock(&w->lock);
    while (!w->first && !w->ending) pthread_cond_wait(&w->more, &w->lock);
    mw_exchange *x = w->first;
    if (x) {
        w->first = x->next;
        if (!w->first) w->tail = &w->first;
    }
    pthread_mutex_unlock(&w->lock);
    return x;
}

static void *work_main(void *arg) {
    mw_work *w = arg;
    pthread_setname_np(pthread_self(), "requests");
    for (mw_exchange *x; (x = next_exchange(w)) != NULL;) {
        x->route->run(x);
        mw_exchange_wake(x);
        mw_exchange_unref(x);
    }
    return NULL;
}

mw_status mw_work_start(mw_work *w, int n_threads) {
    *w = (mw_work){.tail = NULL};
    w->tail = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    for (int i = 0; i < n_threads; i++) {
        int err = pthread_create(&w->thread[i], NULL, work_main, w);
        if (err) return MW_FAIL(MW_ERR_NOMEM, "starting a thread: %s", strerror(err));
        w->n_threads = i + 1;
    }
    return MW_OK;
}

/* What waits is still done: nobody else would answer it. */
void mw_work_stop(mw_work *w) {
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n_threads; i++) pthread_join(w->thread[i], NULL);
    w->n_threads = 0;
}

void mw_work_free(mw_work *w) {
    if (!w->tail) return;
    mw_work_stop(w);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->more);
    *w = (mw_work){0};
}

bool mw_work_add(mw_work *w, mw_exchange *x) {
    pthread_mutex_lock(&w->lock);
    bool open = !w->ending;
    if (open) {
        mw_exchange_ref(x);
        x->next = NULL;
        *w->tail = x;
        w->tail = &x->next;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return open;
}
