/* MPI_Init, the first collectives and MPI_Finalize cannot be given a deadline, and return never when a rank has not
 * come. A thread that watches the clock then ends the process: the caller's thread is inside MPI and cannot be called
 * back. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm/internal.h"
#include "worker/base/log.h"

struct mw_guard {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended_cond;
    bool ended;
    double seconds;
    int rank;
    const char *what;
};

/* false: `seconds` went by before the guarded call ended. */
static bool wait_end(mw_guard *g, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&g->lock);
    int rc = 0;
    while (!g->ended && rc == 0) rc = pthread_cond_timedwait(&g->ended_cond, &g->lock, &until);
    bool ended = g->ended;
    pthread_mutex_unlock(&g->lock);
    return ended;
}

static void *guard_main(void *arg) {
    mw_guard *g = arg;
    if (wait_end(g, g->seconds)) return NULL;
    /* All ranks are stuck alike: the first to speak ends the job under most launchers, before the others speak too. */
    if (wait_end(g, 0.2 * (g->rank < 20 ? g->rank : 20))) return NULL;
    mw_log(MW_LOG_ERROR, "%s has not finished within %g s: did every rank start, and with the same MPI library?",
           g->what, g->seconds);
    _exit(MW_ERR_TIMEOUT);
}

mw_guard *mw_guard_begin(double seconds, int rank, const char *what) {
    mw_guard *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->seconds = seconds;
    g->rank = rank > 0 ? rank : 0;
    g->what = what;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->ended_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&g->lock, NULL);
    if (pthread_create(&g->thread, NULL, guard_main, g) == 0) return g;
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->ended_cond);
    free(g);
    return NULL;
}

void mw_guard_end(mw_guard *g) {
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    g->ended = true;
    pthread_cond_signal(&g->ended_cond);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->ended_cond);
    free(g);
}
