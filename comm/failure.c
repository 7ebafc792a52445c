/* One rank's fault becomes the group's, and is reported once. */
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "comm/internal.h"

void mw_group_text(const mw_comm *c, int rank, const char *what, char out[MW_ERROR_TEXT_MAX]) {
    if (c->size > 1)
        snprintf(out, MW_ERROR_TEXT_MAX, "rank %d (%s): %s", rank, c->peer[rank].host, what);
    else
        snprintf(out, MW_ERROR_TEXT_MAX, "%s", what);
}

mw_status mw_group_failed(mw_comm *c, mw_status st, int origin) {
    if (c->failed == MW_OK) {
        c->failed = st;
        c->origin = origin;
        snprintf(c->text, sizeof c->text, "%s", mw_error_text());
    }
    return c->failed;
}

mw_status mw_group_raise(mw_comm *c, mw_status st) {
    if (c->failed != MW_OK) return c->failed;
    mw_group_failed(c, st, c->rank);
    if (c->transport) c->transport->raise(c);
    return c->failed;
}

bool mw_comm_has_failed(const mw_comm *c) {
    return c->failed != MW_OK;
}

void mw_comm_poison(mw_comm *c, mw_status why) {
    mw_group_raise(c, why != MW_OK ? why : MW_ERR_INTERNAL);
}

mw_status mw_group_silent(mw_comm *c, const int *missing, int n, int64_t waited_ns) {
    char who[4 * (MW_HOST_MAX + 32)] = "", what[96];
    int at = 0, named = n < 4 ? n : 4;
    for (int i = 0; i < named; i++)
        at += snprintf(who + at, sizeof who - (size_t)at, "%srank %d (%s)", i == 0 ? "" : ", ", missing[i],
                       c->peer[missing[i]].host);
    if (n > named) snprintf(who + at, sizeof who - (size_t)at, " and %d more", n - named);
    return mw_group_raise(c, MW_FAIL(MW_ERR_TIMEOUT, "nothing from %s for %.1f s: stopped, stuck or cut off, in %s",
                                     who, (double)waited_ns * 1e-9, mw_call_text(c->op.call, c->op.n, what)));
}

mw_status mw_group_died(mw_comm *c, int rank) {
    char what[96];
    return mw_group_raise(c, MW_FAIL(MW_ERR_PEER, "rank %d (%s) has ended, its process %d is gone, in %s", rank,
                                     c->peer[rank].host, c->peer[rank].pid, mw_call_text(c->op.call, c->op.n, what)));
}

/* ---- processes of the other ranks on this host ---- */

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

void mw_watch_open(mw_comm *c) {
    for (int r = 0; r < c->size; r++) {
        const mw_peer *p = &c->peer[r], *me = &c->peer[c->rank];
        if (r == c->rank || p->node != me->node || !p->pid_space || p->pid_space != me->pid_space) continue;
        c->pidfd[r] = (int)syscall(SYS_pidfd_open, p->pid, 0); /* -1 on kernels before 5.3: the deadline must do */
    }
}

void mw_watch_close(mw_comm *c) {
    for (int r = 0; c->pidfd && r < c->size; r++)
        if (c->pidfd[r] >= 0) close(c->pidfd[r]);
}

bool mw_watch_ended(const mw_comm *c, int rank) {
    struct pollfd p = {.fd = c->pidfd[rank], .events = POLLIN};
    return p.fd >= 0 && poll(&p, 1, 0) == 1;
}
