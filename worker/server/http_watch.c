/* A connection that waits is suspended, so libmicrohttpd does not look at it. Here it is seen when its client goes. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "worker/base/log.h"
#include "worker/server/http.h"

mw_status mw_watch_start(mw_watch *w) {
    *w = (mw_watch){.epoll = epoll_create1(EPOLL_CLOEXEC)};
    pthread_mutex_init(&w->lock, NULL);
    return w->epoll >= 0 ? MW_OK : MW_FAIL(MW_ERR_UNAVAIL, "epoll: %s", strerror(errno));
}

void mw_watch_stop(mw_watch *w) {
    if (w->epoll >= 0) close(w->epoll);
    free(w->of);
    pthread_mutex_destroy(&w->lock);
    *w = (mw_watch){.epoll = -1};
}

static bool make_room(mw_watch *w, size_t fd) {
    if (fd < w->n) return true;
    size_t n = 2 * fd + 64;
    mw_watched *p = realloc(w->of, n * sizeof *p);
    if (!p) return false;
    memset(p + w->n, 0, (n - w->n) * sizeof *p);
    w->of = p;
    w->n = n;
    return true;
}

bool mw_watch_add(mw_watch *w, mw_exchange *x) {
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.fd = x->fd};
    if (x->fd < 0) return false;
    pthread_mutex_lock(&w->lock);
    bool ok = make_room(w, (size_t)x->fd);
    if (ok) {
        w->of[x->fd].x = x;
        if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, x->fd, &ev) != 0) mw_debug("epoll: %s", strerror(errno));
    }
    pthread_mutex_unlock(&w->lock);
    return ok;
}

void mw_watch_wake_all(mw_watch *w) {
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < w->n; i++)
        if (w->of[i].x) mw_exchange_wake(w->of[i].x);
    pthread_mutex_unlock(&w->lock);
}

void mw_watch_remove(mw_watch *w, const mw_exchange *x) {
    pthread_mutex_lock(&w->lock);
    if (x->fd >= 0 && (size_t)x->fd < w->n && w->of[x->fd].x == x) {
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, x->fd, NULL);
        w->of[x->fd].x = NULL;
    }
    pthread_mutex_unlock(&w->lock);
}

void mw_watch_wait(mw_watch *w, int timeout_ms) {
    struct epoll_event ev[64];
    int n = epoll_wait(w->epoll, ev, 64, timeout_ms);
    for (int i = 0; i < n; i++) {
        size_t fd = (size_t)ev[i].data.fd;
        pthread_mutex_lock(&w->lock);
        mw_exchange *x = fd < w->n ? w->of[fd].x : NULL;
        struct pollfd now = {.fd = (int)fd, .events = POLLRDHUP}; /* the event may be of an earlier connection */
        if (x && poll(&now, 1, 0) == 1)
            mw_exchange_ref(x);
        else
            x = NULL;
        pthread_mutex_unlock(&w->lock);
        if (!x) continue;
        mw_exchange_gone(x);
        mw_exchange_unref(x);
    }
}
