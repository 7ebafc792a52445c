/* shard/tools/convert_signal.h - threads that are started between hold and release never run the handlers of SIGINT and
 * its like. Those clean up the output and end the process, so they must run on the thread that creates output files:
 * else that thread could create one more behind the handler's back. */
#ifndef MW_SHARD_CONVERT_SIGNAL_H
#define MW_SHARD_CONVERT_SIGNAL_H
#include <pthread.h>
#include <signal.h>

static inline void mw_signals_hold(sigset_t *before) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, before);
}

static inline void mw_signals_release(const sigset_t *before) {
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

#endif
