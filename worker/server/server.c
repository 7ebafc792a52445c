/* Start, drain, end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/threads.h"
#include "worker/server/http.h"

#define TICK_MS 100

mw_server_options mw_server_options_default(void) {
    return (mw_server_options){.drain_s = 30,
                               .idle_s = 120,
                               .max_connections = 1024,
                               .max_body = (size_t)16 << 20,
                               .max_header = (size_t)32 << 10};
}

/* ---- the engine's events ---- */

static void end_dispatch(mw_server *s, mw_status st) {
    s->engine_st = st;
    memcpy(s->engine_text, mw_error_text(), sizeof s->engine_text);
    mw_api_fail_calls(&s->api, MW_ERR_PEER, s->engine_text, true); /* for a client it is all the same: not its fault */
    atomic_store(&s->engine_ended, true);
}

static void *dispatch_main(void *arg) {
    mw_server *s = arg;
    pthread_setname_np(pthread_self(), "events");
    while (!atomic_load(&s->ending)) {
        mw_event ev;
        bool got = false;
        mw_status st = mw_engine_poll(s->api.engine, TICK_MS, &ev, &got);
        if (st != MW_OK) {
            end_dispatch(s, st);
            break;
        }
        if (got) mw_call_take(&ev);
    }
    return NULL;
}

/* ---- start ---- */

/* A descriptor for every connection, and some for ourselves. */
static int room_for_connections(int want) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return want;
    rlim_t need = (rlim_t)want + 128;
    if (r.rlim_cur < need) {
        r.rlim_cur = r.rlim_max < need ? r.rlim_max : need;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0) getrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur >= need) return want;
    int have = r.rlim_cur > 160 ? (int)r.rlim_cur - 128 : 32;
    mw_warn("only %d connections at once: the limit of open files (ulimit -n) is %llu", have,
            (unsigned long long)r.rlim_cur);
    return have;
}

static void on_mhd_log(void *arg, const char *fmt, va_list args) {
    char line[512];
    (void)arg;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\n")] = 0;
    mw_debug("libmicrohttpd: %s", line);
}

static mw_status start_daemon(mw_server *s, int fd) {
    int cores = mw_cpu_count(), threads = cores < 4 ? cores : 4;
    int connections = room_for_connections(s->opt->max_connections);
    if (threads < 2) threads = 2;
    if (connections < threads) connections = threads;
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, mw_http_request, s,
        MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
        mw_http_completed, s, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)threads, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->opt->idle_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, s->opt->max_header, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (!s->daemon) return MW_FAIL(MW_ERR_UNAVAIL, "the HTTP server does not start: %s", strerror(errno));
    return MW_OK;
}

static mw_status start(mw_server *s) {
    mw_status st = MW_OK;
    int fd = -1;
    bool loopback = false;
    char where[320];
    MW_TRY(st, mw_keys_load(&s->keys, s->opt));
    MW_TRY(st, mw_watch_start(&s->watch));
    MW_TRY(st, mw_work_start(&s->work, 2));
    MW_TRY(st, mw_listen(s->opt->listen, &fd, where, sizeof where, &loopback));
    int err = pthread_create(&s->dispatcher, NULL, dispatch_main, s);
    if (err) {
        st = MW_FAIL(MW_ERR_NOMEM, "starting a thread: %s", strerror(err));
        goto fail;
    }
    s->dispatching = true;
    MW_TRY(st, start_daemon(s, fd));
    fd = -1;
    if (!loopback && s->keys.n == 0)
        mw_warn("%s can be reached from other machines, and asks for no key: --api-key or --api-key-file set one",
                where);
    mw_info("serving %s on %s", mw_api_name(&s->api), where);
fail:
    if (fd >= 0) close(fd);
    return st;
}

/* ---- run and end ---- */

static void begin_drain(mw_server *s) {
    mw_info("ending: no new requests; %d running may take %.0f s", atomic_load(&s->n_exchanges), s->opt->drain_s);
    atomic_store(&s->draining, true);
    MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

/* Until told to stop and drained, or the engine ends. */
static void serve(mw_server *s) {
    double drain_until = 0, ticked = 0;
    while (!atomic_load(&s->engine_ended)) {
        mw_watch_wait(&s->watch, TICK_MS);
        double now = mw_now_s();
        int stop = s->opt->stopping ? s->opt->stopping() : 0;
        if (now - ticked >= TICK_MS * 1e-3) {
            mw_metrics_tick(&s->api.metrics, s->api.engine, now);
            ticked = now;
        }
        if (stop > 0 && drain_until == 0) {
            begin_drain(s);
            drain_until = now + s->opt->drain_s;
        }
        if (drain_until == 0) continue;
        if (atomic_load(&s->n_exchanges) == 0) return;
        if (stop > 1 || now >= drain_until) {
            mw_warn("%d requests are cut off", atomic_load(&s->n_exchanges));
            return;
        }
    }
}

/* Errors reach those who still listen; a reader that does not read cannot hold us. */
static void flush(mw_server *s, double seconds) {
    double until = mw_now_s() + seconds;
    while (atomic_load(&s->n_exchanges) > 0 && mw_now_s() < until) mw_watch_wait(&s->watch, 10);
}

static void stop(mw_server *s) {
    atomic_store(&s->draining, true);
    if (s->work.tail) mw_work_stop(&s->work);
    mw_api_fail_calls(&s->api, MW_ERR_CANCELLED, "the server is shutting down", false);
    if (s->daemon) flush(s, atomic_load(&s->engine_ended) ? 0.7 : 3);
    atomic_store(&s->ending, true);
    if (s->daemon) {
        mw_watch_wake_all(&s->watch);
        MHD_stop_daemon(s->daemon);
    }
    if (s->dispatching) pthread_join(s->dispatcher, NULL);
    mw_api_fail_calls(&s->api, MW_ERR_CANCELLED, "the server has ended", true);
    mw_work_free(&s->work);
    mw_watch_stop(&s->watch);
    mw_keys_free(&s->keys);
    mw_api_free(&s->api);
}

mw_status mw_server_run(mw_engine *e, const mw_server_options *opt) {
    mw_server *s = NULL;
    mw_status st = MW_CALLOC(&s, 1, "server");
    if (st != MW_OK) return st;
    s->opt = opt;
    s->watch.epoll = -1;
    pthread_mutex_init(&s->watch.lock, NULL);
    st = mw_api_init(&s->api, e, &opt->api);
    if (st == MW_OK) st = start(s);
    if (st == MW_OK) serve(s);
    char text[MW_ERROR_TEXT_MAX];
    memcpy(text, mw_error_text(), sizeof text);
    stop(s);
    if (st == MW_OK && s->engine_st != MW_OK) {
        st = s->engine_st;
        memcpy(text, s->engine_text, sizeof text);
    }
    free(s);
    if (st != MW_OK) mw_error_set_text(text);
    return st;
}
