#include <string.h>

#include "worker/server/http.h"

extern const unsigned char mw_page_html[];
extern const size_t mw_page_html_n;

/* ---- what needs the engine: on a work thread ---- */

static mw_status start_call(mw_exchange *x, mw_call_kind kind, mw_api_error *err) {
    mw_status st = MW_OK;
    json_t *body = NULL;
    mw_call *c = NULL;
    MW_TRY(st, mw_api_parse(x->body.p, x->body.n, &body, err));
    MW_TRY(st, mw_call_new(&c, &x->s->api, kind, body, x->client, err));
    mw_call_listen(c, mw_exchange_wake, x);
    pthread_mutex_lock(&x->lock);
    x->call = c; /* from here on the client's going away reaches it */
    pthread_mutex_unlock(&x->lock);
    if (atomic_load(&x->gone)) mw_call_cancel(c);
    MW_TRY(st, mw_call_submit(c, err));
    mw_exchange_set(x, c->stream ? MW_X_STREAM : MW_X_WAIT);
fail:
    json_decref(body);
    return st;
}

static void run_call(mw_exchange *x, mw_call_kind kind) {
    mw_api_error err = {0};
    mw_status st = start_call(x, kind, &err);
    if (st == MW_OK) return;
    mw_api_error_from(&err, st, mw_error_text());
    mw_exchange_fail(x, &err);
}

static void run_completion(mw_exchange *x) {
    run_call(x, MW_CALL_COMPLETION);
}
static void run_chat(mw_exchange *x) {
    run_call(x, MW_CALL_CHAT);
}

typedef mw_status (*small_fn)(mw_api *a, const json_t *body, mw_json_out *w, mw_api_error *err);

static void run_small(mw_exchange *x, small_fn fn) {
    mw_status st = MW_OK;
    json_t *body = NULL;
    mw_json_out w = {0};
    mw_api_error err = {0};
    MW_TRY(st, mw_api_parse(x->body.p, x->body.n, &body, &err));
    MW_TRY(st, fn(&x->s->api, body, &w, &err));
    mw_exchange_answer(x, 200, &w);
fail:
    json_decref(body);
    if (st == MW_OK) return;
    mw_json_free(&w);
    mw_api_error_from(&err, st, mw_error_text());
    mw_exchange_fail(x, &err);
}

static void run_tokenize(mw_exchange *x) {
    run_small(x, mw_api_tokenize);
}
static void run_detokenize(mw_exchange *x) {
    run_small(x, mw_api_detokenize);
}

/* ---- what is answered at once ---- */

static void answer(mw_exchange *x, mw_status st, mw_json_out *w, mw_api_error *err) {
    if (st == MW_OK) {
        mw_exchange_answer(x, 200, w);
        return;
    }
    mw_json_free(w);
    mw_api_error_from(err, st, mw_error_text());
    mw_exchange_fail(x, err);
}

static void run_models(mw_exchange *x) {
    mw_json_out w = {0};
    mw_api_error err = {0};
    answer(x, mw_api_models(&x->s->api, &w), &w, &err);
}

static void run_model(mw_exchange *x) {
    mw_json_out w = {0};
    mw_api_error err = {0};
    mw_status st = mw_api_model(&x->s->api, x->rest, &w, &err);
    answer(x, st, &w, &err);
}

static void run_version(mw_exchange *x) {
    mw_json_out w = {0};
    mw_api_error err = {0};
    answer(x, mw_api_version(&x->s->api, &w), &w, &err);
}

static void run_stats(mw_exchange *x) {
    mw_json_out w = {0};
    mw_api_error err = {0};
    answer(x, mw_api_stats(&x->s->api, &w), &w, &err);
}

static void run_health(mw_exchange *x) {
    mw_json_out w = {0};
    bool failed = atomic_load(&x->s->engine_ended), draining = atomic_load(&x->s->draining);
    mw_json_open(&w, '{');
    mw_json_key_str(&w, "status", failed ? "failed" : draining ? "draining" : "ok");
    mw_json_close(&w, '}');
    mw_exchange_answer(x, failed || draining ? 503 : 200, &w);
}

static void run_metrics(mw_exchange *x) {
    mw_json_out w = {0};
    x->content_type = "text/plain; version=0.0.4; charset=utf-8";
    mw_metrics_text(&x->s->api.metrics, x->s->api.engine, mw_api_name(&x->s->api), &w);
    mw_exchange_answer(x, 200, &w);
}

static void run_page(mw_exchange *x) {
    mw_json_out w = {0};
    x->content_type = "text/html; charset=utf-8";
    w.st = mw_str_add(&w.s, mw_page_html, mw_page_html_n);
    mw_exchange_answer(x, 200, &w);
}

/* ---- the table ---- */

static const mw_route k_routes[] = {
    {"/v1/completions", true, false, false, run_completion},
    {"/v1/chat/completions", true, false, false, run_chat},
    {"/v1/models", false, false, true, run_models},
    {"/v1/models/", false, false, true, run_model},
    {"/tokenize", true, false, false, run_tokenize},
    {"/detokenize", true, false, false, run_detokenize},
    {"/stats", false, false, true, run_stats},
    {"/version", false, true, true, run_version},
    {"/health", false, true, true, run_health},
    {"/ping", false, true, true, run_health},
    {"/metrics", false, true, true, run_metrics},
    {"/", false, true, true, run_page},
};

static bool matches(const mw_route *r, const char *path) {
    size_t n = strlen(r->path);
    if (n > 1 && r->path[n - 1] == '/') return strncmp(path, r->path, n) == 0 && path[n];
    return strcmp(path, r->path) == 0;
}

const mw_route *mw_route_find(mw_exchange *x, const char *path, const char *method, mw_api_error *err) {
    bool get = strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    bool post = strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    mw_status told = MW_OK;
    for (size_t i = 0; i < sizeof k_routes / sizeof *k_routes; i++) {
        const mw_route *r = &k_routes[i];
        if (!matches(r, path)) continue;
        x->allow_post |= r->post;
        x->allow_get |= !r->post;
        if (r->post ? !post : !get) continue;
        x->rest = path + strlen(r->path);
        return r;
    }
    if (x->allow_get || x->allow_post)
        told = mw_api_fail(err, 405, "method_not_allowed", NULL, "%.20s is not allowed for %.200s", method, path);
    else
        told = mw_api_fail(err, 404, "not_found", NULL, "there is no %.200s", path);
    (void)told;
    return NULL;
}
