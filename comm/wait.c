/* How a wait spends its time. A step's collectives come every few hundred microseconds and must not pay for a wake-up,
 * an idle follower may wait for hours and must not cost a core: so a wait that follows recent traffic spins, then
 * yields, then sleeps for growing times. Where ranks outnumber cores spinning takes the core from the rank that is
 * waited for, and is left out. */
#include <limits.h>

#include "comm/internal.h"

enum {
    SPINS_PER_LOOK = 64, /* turns between two looks at the clock */
    RECENT_NS = 50000000,
    EAGER_YIELD_NS = 300000,
    LAZY_YIELD_NS = 20000,
    FIRST_SLEEP_NS = 20000,
    RECENT_SLEEP_NS = 100000,
    SLEEP_NS = 1000000,
    LONG_IDLE_NS = 1000000000,
    LONG_IDLE_SLEEP_NS = 3000000, /* a wake-up costs 5 us of CPU time, on some virtual machines 20 to 40 */
    CHECK_NS = 100000,            /* between looks for poison while spinning */
    SUSPENDED_NS = 500000000      /* a gap this long means that this process itself was stopped */
};

void mw_wait_begin(mw_wait *w, mw_comm *c, bool idle) {
    int64_t now = mw_now_ns();
    *w = (mw_wait){.c = c, .began = now, .last = now, .next_check = now + CHECK_NS, .sleep_ns = FIRST_SLEEP_NS};
    w->next_watch = now + CHECK_NS;
    w->eager = now - c->last_wait_end < RECENT_NS;
    w->deadline = idle ? INT64_MAX : now + c->timeout_ns;
}

mw_wait_phase mw_wait_next(mw_wait *w, bool *check) {
    *check = false;
    if (w->phase == MW_WAIT_SPIN && ++w->turns % SPINS_PER_LOOK != 0) return MW_WAIT_SPIN;
    int64_t now = mw_now_ns(), spin = w->eager ? w->c->spin_ns : w->c->spin_ns / 8;
    /* The time in which this process was stopped (Ctrl-Z, a debugger) says nothing about the others. */
    if (now - w->last > SUSPENDED_NS && w->deadline != INT64_MAX) w->deadline += now - w->last;
    w->last = now;
    int64_t waited = now - w->began;
    if (w->phase == MW_WAIT_SPIN && waited >= spin) w->phase = MW_WAIT_YIELD;
    if (w->phase == MW_WAIT_YIELD && waited >= spin + (w->eager ? EAGER_YIELD_NS : LAZY_YIELD_NS))
        w->phase = MW_WAIT_SLEEP;
    if (w->phase == MW_WAIT_SLEEP) {
        int64_t most = w->eager && waited < RECENT_NS ? RECENT_SLEEP_NS : SLEEP_NS;
        if (waited > LONG_IDLE_NS) most = LONG_IDLE_SLEEP_NS;
        *check = true;
        w->sleep_ns = w->sleep_ns + w->sleep_ns / 4 < most ? w->sleep_ns + w->sleep_ns / 4 : most;
    } else if (now >= w->next_check) {
        *check = true;
        w->next_check = now + CHECK_NS;
    }
    return w->phase;
}

bool mw_wait_expired(const mw_wait *w) {
    return w->last >= w->deadline;
}

void mw_wait_end(mw_wait *w) {
    int64_t now = mw_now_ns();
    w->c->last_wait_end = now;
    if (w->c->op.call >= MW_CALL_ALL_REDUCE) w->c->wait_ns += now - w->began;
}
