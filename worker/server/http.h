/* worker/server/http.h - private: the HTTP side of the server.
 *
 *   http_listen.c    an address to a socket
 *   http_auth.c      API keys
 *   http_exchange.c  one request and its answer: reading the body, waiting, sending; what libmicrohttpd calls
 *   http_routes.c    which path does what
 *   http_work.c      threads for what takes time (parsing, tokenising, submitting)
 *   http_watch.c     clients that go away
 *   server.c         all of it together: start, drain, end
 *
 * Threads: libmicrohttpd's few, each with its own epoll, only move bytes; an exchange that waits is suspended and costs
 * nothing. One dispatcher polls the engine. The main thread watches connections and the clock. An exchange belongs to
 * libmicrohttpd's thread but while it is suspended; `lock` guards what others touch.
 */
#ifndef MW_SERVER_HTTP_H
#define MW_SERVER_HTTP_H
#include <microhttpd.h>
#include <stdatomic.h>

#include "worker/server/api.h"
#include "worker/server/api_call.h"

/* ---- the server ---- */

typedef struct mw_work {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct mw_exchange *first, **tail;
    pthread_t thread[8];
    int n_threads;
    bool ending;
} mw_work;

typedef struct mw_watched {
    struct mw_exchange *x;
} mw_watched;

typedef struct mw_watch {
    pthread_mutex_t lock;
    int epoll;
    mw_watched *of; /* [n] by descriptor */
    size_t n;
} mw_watch;

typedef struct mw_keys {
    mw_str *key; /* [n] */
    int n;
} mw_keys;

typedef struct mw_server {
    mw_api api;
    const mw_server_options *opt;
    mw_keys keys;
    struct MHD_Daemon *daemon;
    mw_work work;
    mw_watch watch;
    pthread_t dispatcher;
    bool dispatching;
    atomic_bool draining, ending; /* no new requests; no waiting any more */
    atomic_bool engine_ended;     /* the dispatcher is done: */
    mw_status engine_st;
    char engine_text[MW_ERROR_TEXT_MAX];
    atomic_int n_exchanges;
    atomic_size_t body_bytes; /* of all bodies in memory */
} mw_server;

/* ---- exchanges ---- */

typedef enum {
    MW_X_BODY,   /* the request is coming in */
    MW_X_WORK,   /* a work thread has it */
    MW_X_WAIT,   /* the engine has it; the answer is sent whole */
    MW_X_ANSWER, /* `answer` is ready */
    MW_X_STREAM, /* the engine has it; the answer is sent as it comes */
} mw_exchange_state;

struct mw_route;

typedef struct mw_exchange {
    mw_server *s;
    struct MHD_Connection *conn;
    const struct mw_route *route; /* NULL: refused by then, the answer is there */
    const char *rest;             /* of the path, behind a route that ends with '/'; valid until the answer */
    char *url;
    uint64_t client; /* hash of its address */
    int fd;
    double begun_s;
    mw_str body;
    size_t n_body; /* bytes that came, kept or not */
    atomic_int refs;
    struct mw_exchange *next; /* in the work queue */

    pthread_mutex_t lock;
    bool suspended, woken; /* woken: since it last looked */
    mw_exchange_state state;
    atomic_bool gone; /* the client has closed */

    mw_call *call; /* NULL: none, or not yet; under `lock` */
    int http;
    mw_str answer;
    const char *content_type;
    bool allow_get, allow_post; /* for 405 */
    mw_json_out out;            /* stream: what is to be sent */
    size_t out_at;
    bool out_end;
} mw_exchange;

enum MHD_Result mw_http_request(void *server, struct MHD_Connection *conn, const char *url, const char *method,
                                const char *version, const char *upload, size_t *n_upload, void **exchange);
void mw_http_completed(void *server, struct MHD_Connection *conn, void **exchange, enum MHD_RequestTerminationCode why);

void mw_exchange_ref(mw_exchange *x);
void mw_exchange_unref(mw_exchange *x);
/* From any thread: there is something new for it. */
void mw_exchange_wake(void *exchange);
/* The client has closed the connection. */
void mw_exchange_gone(mw_exchange *x);
/* What it does next. */
void mw_exchange_set(mw_exchange *x, mw_exchange_state state);
/* Its answer is this JSON; the writer is emptied. */
void mw_exchange_answer(mw_exchange *x, int http, mw_json_out *w);
void mw_exchange_fail(mw_exchange *x, const mw_api_error *err);

/* ---- routes ---- */

typedef struct mw_route {
    const char *path; /* with '/' at the end: everything below too */
    bool post, open;  /* open: no key needed */
    bool at_once;     /* answered by the connection's thread */
    void (*run)(mw_exchange *x);
} mw_route;

/* The route, or NULL with *err (404, 405) and in 405's case x->allow_*. */
const mw_route *mw_route_find(mw_exchange *x, const char *path, const char *method, mw_api_error *err);

/* ---- work ---- */
MW_MUST_CHECK mw_status mw_work_start(mw_work *w, int n_threads);
/* What was added before is done; the threads end. */
void mw_work_stop(mw_work *w);
void mw_work_free(mw_work *w);
/* x->route->run will be called, then mw_exchange_wake. false: the threads have ended. */
bool mw_work_add(mw_work *w, mw_exchange *x);

/* ---- watch ---- */
MW_MUST_CHECK mw_status mw_watch_start(mw_watch *w);
void mw_watch_stop(mw_watch *w);
/* false: no memory. */
MW_MUST_CHECK bool mw_watch_add(mw_watch *w, mw_exchange *x);
void mw_watch_remove(mw_watch *w, const mw_exchange *x);
/* Waits up to timeout_ms for clients that go; tells their exchanges. */
void mw_watch_wait(mw_watch *w, int timeout_ms);
void mw_watch_wake_all(mw_watch *w);

/* ---- listen, auth ---- */

/* *fd listens; `where` is the address as a URL shows it; *loopback: nobody from outside can connect. */
MW_MUST_CHECK mw_status mw_listen(const char *address, int *fd, char *where, size_t room, bool *loopback);

MW_MUST_CHECK mw_status mw_keys_load(mw_keys *k, const mw_server_options *opt);
void mw_keys_free(mw_keys *k);
/* header: the value of Authorization, NULL: none. Takes the same time for every wrong key. */
bool mw_keys_allow(const mw_keys *k, const char *header);

#endif
