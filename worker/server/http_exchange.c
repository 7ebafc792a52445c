#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/server/http.h"

#define MAX_BODIES ((size_t)1 << 30) /* of all requests together */
#define MAX_DISCARDED                                                                                                  \
    ((size_t)64 << 20)     /* of a body that is too large: read to its end, so that the answer arrives                 \
                            */
#define BODY_SECONDS 120   /* a body takes at most this long */
#define BLOCK        16384 /* bytes of a stream handed over at once */

/* ---- life ---- */

static uint64_t hash_address(const struct sockaddr *a) {
    const unsigned char *p = NULL;
    size_t n = 0;
    if (a && a->sa_family == AF_INET) {
        p = (const unsigned char *)a + 4; /* the address, without the port */
        n = 4;
    } else if (a && a->sa_family == AF_INET6) {
        p = (const unsigned char *)a + 8;
        n = 16;
    }
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static mw_exchange *exchange_new(mw_server *s, struct MHD_Connection *conn, const char *url) {
    mw_exchange *x = NULL;
    if (MW_CALLOC(&x, 1, "request") != MW_OK) return NULL;
    x->url = strdup(url);
    if (!x->url) {
        free(x);
        return NULL;
    }
    const union MHD_ConnectionInfo *fd = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *from = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    x->s = s;
    x->conn = conn;
    x->fd = fd ? fd->connect_fd : -1;
    x->client = hash_address(from ? from->client_addr : NULL);
    x->begun_s = mw_now_s();
    x->content_type = "application/json";
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    atomic_fetch_add(&s->n_exchanges, 1);
    return x;
}

void mw_exchange_ref(mw_exchange *x) {
    atomic_fetch_add(&x->refs, 1);
}

void mw_exchange_unref(mw_exchange *x) {
    if (atomic_fetch_sub(&x->refs, 1) != 1) return;
    mw_call_unref(x->call);
    mw_str_free(&x->body);
    mw_str_free(&x->answer);
    mw_json_free(&x->out);
    free(x->url);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* ---- waiting ---- */

static mw_exchange_state state_of(mw_exchange *x) {
    pthread_mutex_lock(&x->lock);
    mw_exchange_state state = x->state;
    pthread_mutex_unlock(&x->lock);
    return state;
}

void mw_exchange_set(mw_exchange *x, mw_exchange_state state) {
    pthread_mutex_lock(&x->lock);
    x->state = state;
    pthread_mutex_unlock(&x->lock);
}

/* In libmicrohttpd's thread: sleep until woken, unless something has come already. false: look again now. */
static bool exchange_wait(mw_exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool at_work = x->state == MW_X_WORK; /* its thread wakes it, whatever else happens */
    bool sleep = !x->woken && (at_work || (!atomic_load(&x->gone) && !atomic_load(&x->s->ending)));
    x->woken = false;
    if (sleep) {
        x->suspended = true;
        MHD_suspend_connection(x->conn); /* under the lock: a wake must not come before it */
    }
    pthread_mutex_unlock(&x->lock);
    return sleep;
}

void mw_exchange_wake(void *exchange) {
    mw_exchange *x = exchange;
    pthread_mutex_lock(&x->lock);
    x->woken = true;
    if (x->suspended) {
        x->suspended = x->woken = false;
        MHD_resume_connection(x->conn);
    }
    pthread_mutex_unlock(&x->lock);
}

static mw_call *call_of(mw_exchange *x) {
    pthread_mutex_lock(&x->lock);
    mw_call *c = x->call;
    if (c) mw_call_ref(c);
    pthread_mutex_unlock(&x->lock);
    return c;
}

void mw_exchange_gone(mw_exchange *x) {
    atomic_store(&x->gone, true);
    mw_call *c = call_of(x);
    if (c) mw_call_cancel(c);
    mw_call_unref(c);
    if (state_of(x) != MW_X_WORK) mw_exchange_wake(x); /* otherwise whoever works on it does */
}

/* ---- answers ---- */

void mw_exchange_answer(mw_exchange *x, int http, mw_json_out *w) {
    mw_str_free(&x->answer);
    x->http = http;
    if (mw_json_take(w, &x->answer) != MW_OK) x->http = 500; /* no memory even for words */
    mw_exchange_set(x, MW_X_ANSWER);
}

void mw_exchange_fail(mw_exchange *x, const mw_api_error *err) {
    mw_json_out w = {0};
    mw_api_error_json(&w, err);
    mw_exchange_answer(x, err->http, &w);
}

static void add_header(struct MHD_Response *r, const char *name, const char *value) {
    if (MHD_add_response_header(r, name, value) != MHD_YES) mw_debug("header %s cannot be added", name);
}

/* The page is all there is to it, and talks to its server alone. */
#define PAGE_POLICY                                                                                                    \
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "   \
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

static void add_common_headers(const mw_exchange *x, struct MHD_Response *r) {
    const char *origin = x->s->opt->cors_origin;
    if (x->call) add_header(r, "X-Request-Id", x->call->id);
    add_header(r, "X-Content-Type-Options", "nosniff");
    if (x->content_type && strncmp(x->content_type, "text/html", 9) == 0)
        add_header(r, "Content-Security-Policy", PAGE_POLICY);
    if (atomic_load(&x->s->draining)) add_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    if (!origin) return;
    add_header(r, "Access-Control-Allow-Origin", origin);
    add_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    add_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type");
    if (strcmp(origin, "*") != 0) add_header(r, "Vary", "Origin");
}

static void add_error_headers(const mw_exchange *x, struct MHD_Response *r) {
    if (x->http == 401) add_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (x->http == 429 || x->http == 503) add_header(r, MHD_HTTP_HEADER_RETRY_AFTER, x->http == 429 ? "1" : "10");
    if (x->http == 405)
        add_header(r, MHD_HTTP_HEADER_ALLOW,
                   x->allow_get && x->allow_post ? "GET, HEAD, POST"
                   : x->allow_get                ? "GET, HEAD"
                                                 : "POST");
}

static enum MHD_Result send_answer(mw_exchange *x) {
    struct MHD_Response *r = MHD_create_response_from_buffer(x->answer.n, x->answer.p, MHD_RESPMEM_MUST_FREE);
    if (!r) return MHD_NO;
    x->answer = (mw_str){0};
    add_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, x->content_type);
    add_common_headers(x, r);
    add_error_headers(x, r);
    mw_metrics_answer(&x->s->api.metrics, x->http);
    mw_debug("%s: %d, %.3f s", x->url, x->http, mw_now_s() - x->begun_s);
    enum MHD_Result rc = MHD_queue_response(x->conn, (unsigned)x->http, r);
    MHD_destroy_response(r);
    return rc;
}

/* ---- streams ---- */

/* libmicrohttpd asks for more of the stream: at most max bytes; 0: we have suspended it. */
static ssize_t read_stream(void *exchange, uint64_t pos, char *buf, size_t max) {
    mw_exchange *x = exchange;
    (void)pos;
    for (;;) {
        if (atomic_load(&x->gone)) return MHD_CONTENT_READER_END_WITH_ERROR;
        size_t n = x->out.s.n - x->out_at;
        if (n > 0) {
            if (n > max) n = max;
            memcpy(buf, x->out.s.p + x->out_at, n);
            x->out_at += n;
            return (ssize_t)n;
        }
        if (x->out_end) return MHD_CONTENT_READER_END_OF_STREAM;
        x->out.s.n = x->out_at = 0;
        if (mw_call_stream(x->call, &x->out, &x->out_end) != MW_OK) return MHD_CONTENT_READER_END_WITH_ERROR;
        if (x->out.s.n == 0 && !x->out_end && exchange_wait(x)) return 0;
        if (x->out.s.n == 0 && !x->out_end && atomic_load(&x->s->ending)) return MHD_CONTENT_READER_END_WITH_ERROR;
    }
}

static enum MHD_Result send_stream(mw_exchange *x) {
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, x, NULL);
    if (!r) return MHD_NO;
    add_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream; charset=utf-8");
    add_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    add_header(r, "X-Accel-Buffering", "no"); /* nginx would hold events back */
    add_common_headers(x, r);
    mw_metrics_answer(&x->s->api.metrics, 200);
    enum MHD_Result rc = MHD_queue_response(x->conn, 200, r);
    MHD_destroy_response(r);
    return rc;
}

/* ---- what libmicrohttpd calls ---- */

static const char *header_of(mw_exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, name);
}

static mw_status check_body_headers(mw_exchange *x, mw_api_error *err) {
    const char *type = header_of(x, MHD_HTTP_HEADER_CONTENT_TYPE), *coding = header_of(x, "Content-Encoding");
    static const char json[] = "application/json";
    /* Web pages of strangers cannot send this type to us without being asked to show a permission first. */
    if (!type || strncasecmp(type, json, sizeof json - 1) != 0 || !strchr(" ;", type[sizeof json - 1]))
        return mw_api_fail(err, 415, "unsupported_media_type", NULL, "Content-Type must be application/json");
    if (coding && strcasecmp(coding, "identity") != 0)
        return mw_api_fail(err, 415, "unsupported_media_type", NULL, "Content-Encoding '%.40s' is not supported",
                           coding);
    return MW_OK;
}

static mw_status too_large(const mw_exchange *x, mw_api_error *err) {
    return mw_api_fail(err, 413, "request_too_large", NULL, "the body is larger than %zu bytes", x->s->opt->max_body);
}

/* Everything that can be said before the body. */
static mw_status check_head(mw_exchange *x, const char *method, mw_api_error *err) {
    mw_status st = MW_OK;
    const mw_route *route = mw_route_find(x, x->url, method, err);
    if (!route) return MW_ERR_USAGE;
    if (!route->open && !mw_keys_allow(&x->s->keys, header_of(x, MHD_HTTP_HEADER_AUTHORIZATION)))
        return mw_api_fail(err, 401, "invalid_api_key", NULL,
                           "This server needs an API key: Authorization: Bearer KEY");
    if (route->post) MW_TRY(st, check_body_headers(x, err));
    if (route->post && atomic_load(&x->s->draining))
        return mw_api_fail(err, 503, "shutting_down", NULL, "the server is shutting down");
    const char *length = header_of(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (length && strtoull(length, NULL, 10) > x->s->opt->max_body) return too_large(x, err);
    if (!route->post && length && strtoull(length, NULL, 10) > 0)
        return mw_api_fail(err, 400, "invalid_request", NULL, "this path takes no body");
    x->route = route;
fail:
    return st;
}

static enum MHD_Result begin(mw_exchange *x, const char *method) {
    mw_api_error err = {0};
    if (x->s->opt->cors_origin && strcmp(method, MHD_HTTP_METHOD_OPTIONS) == 0) {
        x->http = 204;
        x->state = MW_X_ANSWER;
        return MHD_YES;
    }
    if (check_head(x, method, &err) == MW_OK) return MHD_YES;
    mw_exchange_fail(x, &err);
    const char *length = header_of(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    bool huge = length && strtoull(length, NULL, 10) > MAX_DISCARDED;
    /* A client that waits for our consent need not send the body; another must get rid of it before it listens. */
    if (huge || header_of(x, MHD_HTTP_HEADER_EXPECT)) return send_answer(x);
    return MHD_YES;
}

static enum MHD_Result take_body(mw_exchange *x, const char *p, size_t n) {
    mw_api_error err = {0};
    x->n_body += n;
    if (x->n_body > MAX_DISCARDED) return MHD_NO;
    if (x->state == MW_X_ANSWER) return MHD_YES; /* refused already, the rest is passed over */
    size_t all = atomic_fetch_add(&x->s->body_bytes, n) + n;
    mw_status st = MW_OK;
    if (x->n_body > x->s->opt->max_body)
        st = too_large(x, &err);
    else if (mw_now_s() - x->begun_s > BODY_SECONDS)
        st = mw_api_fail(&err, 408, "timeout", NULL, "the body took longer than %d s", BODY_SECONDS);
    else if (all > MAX_BODIES)
        st = mw_api_fail(&err, 503, "overloaded", NULL, "too many large requests at once");
    else
        st = mw_str_add(&x->body, p, n);
    if (st == MW_OK) return MHD_YES;
    atomic_fetch_sub(&x->s->body_bytes, x->body.n + n);
    mw_str_free(&x->body);
    mw_api_error_from(&err, st, mw_error_text());
    mw_exchange_fail(x, &err);
    return MHD_YES;
}

static void body_is_done_with(mw_exchange *x) {
    atomic_fetch_sub(&x->s->body_bytes, x->body.n);
    mw_str_free(&x->body);
}

static enum MHD_Result run_at_once(mw_exchange *x) {
    x->route->run(x);
    return send_answer(x);
}

static void begin_work(mw_exchange *x) {
    mw_api_error err = {0};
    bool watched = mw_watch_add(&x->s->watch, x);
    mw_exchange_set(x, MW_X_WORK);
    if (watched && mw_work_add(&x->s->work, x)) return;
    mw_api_error_from(&err, watched ? MW_ERR_CANCELLED : MW_ERR_NOMEM, "the server is shutting down");
    mw_exchange_fail(x, &err);
}

/* The engine has ended its answer. */
static void finish(mw_exchange *x, const mw_api_error *err) {
    mw_json_out w = {0};
    mw_api_error failed = *err;
    mw_status st = MW_OK;
    if (failed.http == 0) st = mw_call_reply(x->call, &w);
    if (st != MW_OK) mw_api_error_from(&failed, st, mw_error_text());
    if (failed.http == 0) {
        mw_exchange_answer(x, 200, &w);
        return;
    }
    mw_json_free(&w);
    mw_exchange_fail(x, &failed);
}

/* One look at an exchange whose request is here. */
static enum MHD_Result look(mw_exchange *x) {
    for (;;) {
        mw_api_error err;
        mw_exchange_state state = state_of(x);
        if (state != MW_X_WORK && atomic_load(&x->gone)) return MHD_NO;
        if (state == MW_X_ANSWER) return send_answer(x);
        if (state == MW_X_STREAM) return send_stream(x);
        if (state == MW_X_BODY && x->route->at_once) return run_at_once(x);
        if (state == MW_X_BODY) {
            begin_work(x);
        } else if (state == MW_X_WAIT && mw_call_is_over(x->call, &err)) {
            finish(x, &err);
        } else if (exchange_wait(x)) {
            return MHD_YES;
        } else if (state == MW_X_WAIT && atomic_load(&x->s->ending)) {
            return MHD_NO;
        }
    }
}

enum MHD_Result mw_http_request(void *server, struct MHD_Connection *conn, const char *url, const char *method,
                                const char *version, const char *upload, size_t *n_upload, void **exchange) {
    mw_exchange *x = *exchange;
    (void)version;
    if (!x) {
        x = exchange_new(server, conn, url);
        *exchange = x;
        return x ? begin(x, method) : MHD_NO;
    }
    if (*n_upload > 0) {
        size_t n = *n_upload;
        *n_upload = 0;
        return take_body(x, upload, n);
    }
    return look(x);
}

void mw_http_completed(void *server, struct MHD_Connection *conn, void **exchange,
                       enum MHD_RequestTerminationCode why) {
    mw_server *s = server;
    mw_exchange *x = *exchange;
    (void)conn;
    (void)why;
    if (!x) return;
    mw_watch_remove(&s->watch, x);
    body_is_done_with(x);
    if (x->call) {
        mw_api_error err;
        mw_call_listen(x->call, NULL, NULL);
        if (!mw_call_is_over(x->call, &err)) mw_call_cancel(x->call);
    }
    atomic_fetch_sub(&s->n_exchanges, 1);
    mw_exchange_unref(x);
    *exchange = NULL;
}
