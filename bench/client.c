#include "bench/client.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "bench/sse.h"
#include "worker/base/clock.h"
#include "worker/base/io.h"

#define MAX_BODY  ((size_t)1 << 20) /* of an answer that is no stream */
#define CONNECT_S 10L

/* A request under way. */
typedef struct transfer {
    bench_request *r;
    CURL *curl;
    char *body;
    bench_sse sse;
    mw_str plain; /* what came that was no stream: an error's text */
    bool chat;
    mw_status st; /* of parsing */
} transfer;

struct bench_client {
    const bench_opts *o;
    CURLM *multi;
    struct curl_slist *headers;
    char *model;
    char *url; /* of completions */
    bool chat;
};

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* A chunk with a choice is a token, unless it only says why the answer ended. */
static bool is_token(const json_t *chunk, bool chat) {
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const json_t *delta = chat ? json_object_get(choice, "delta") : choice;
    const char *text = json_string_value(json_object_get(delta, chat ? "content" : "text"));
    const char *reasoning = chat ? json_string_value(json_object_get(delta, "reasoning_content")) : NULL;
    if (chat && !reasoning && (!text || (!*text && json_object_get(delta, "role")))) return false;
    if (!text && !reasoning) return false;
    return (text && *text) || (reasoning && *reasoning) || !json_is_string(json_object_get(choice, "finish_reason"));
}

static void take_usage(bench_request *r, const json_t *chunk) {
    const json_t *u = json_object_get(chunk, "usage");
    json_int_t in = json_integer_value(json_object_get(u, "prompt_tokens")),
               out = json_integer_value(json_object_get(u, "completion_tokens"));
    if (in > 0) r->prompt_tokens = (size_t)in;
    if (out > 0 && r->output_tokens > 0) r->output_tokens = (size_t)out; /* a chunk may carry several tokens */
}

static void fail_request(bench_request *r, const char *why, size_t n) {
    if (!r->failed)
        snprintf(r->error, sizeof r->error, "%.*s", (int)(n < sizeof r->error ? n : sizeof r->error - 1), why);
    r->failed = true;
}

static mw_status on_data(void *arg, const char *data, size_t n) {
    mw_status st = MW_OK;
    transfer *t = arg;
    double now = mw_now_s();
    json_error_t e;
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        t->r->done = true;
        return MW_OK;
    }
    json_t *chunk = json_loadb(data, n, 0, &e);
    if (!chunk) {
        fail_request(t->r, "an event that is no JSON", 24);
        return MW_OK;
    }
    if (json_object_get(chunk, "error")) fail_request(t->r, data, n);
    if (is_token(chunk, t->chat)) st = bench_request_token(t->r, now);
    take_usage(t->r, chunk);
    json_decref(chunk);
    return st;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    transfer *t = arg;
    size_t bytes = size * n;
    long code = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    if (code == 200)
        t->st = bench_sse_feed(&t->sse, p, bytes, on_data, t);
    else if (t->plain.n + bytes <= MAX_BODY)
        t->st = mw_str_add(&t->plain, p, bytes);
    return t->st == MW_OK ? bytes : 0;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static json_t *prompt_of(const bench_request *r, bool chat) {
    if (chat) return json_pack("[{s:s,s:s}]", "role", "user", "content", r->text ? r->text : "");
    if (r->text) return json_string(r->text);
    json_t *ids = json_array();
    for (size_t i = 0; i < r->n_ids; i++) json_array_append_new(ids, json_integer(r->ids[i]));
    return ids;
}

static mw_status make_body(const bench_client *c, const bench_request *r, char **out) {
    json_t *body = json_pack("{s:s,s:o,s:i,s:f,s:b,s:{s:b}}", "model", c->model, c->chat ? "messages" : "prompt",
                             prompt_of(r, c->chat), "max_tokens", r->max_tokens, "temperature", 0.0, "stream", 1,
                             "stream_options", "include_usage", 1);
    if (body && !c->o->no_ignore_eos) json_object_set_new(body, "ignore_eos", json_true());
    *out = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return *out ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "request");
}

static void transfer_free(transfer *t) {
    if (!t) return;
    curl_easy_cleanup(t->curl);
    bench_sse_free(&t->sse);
    mw_str_free(&t->plain);
    free(t->body);
    free(t);
}

static mw_status send_one(bench_client *c, bench_request *r) {
    mw_status st = MW_OK;
    transfer *t = NULL;
    MW_TRY(st, MW_CALLOC(&t, 1, "transfer"));
    t->r = r;
    t->chat = c->chat;
    MW_TRY(st, make_body(c, r, &t->body));
    t->curl = curl_easy_init();
    if (!t->curl) {
        st = MW_FAIL(MW_ERR_NOMEM, "libcurl gives no handle");
        goto fail;
    }
    curl_easy_setopt(t->curl, CURLOPT_URL, c->url);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, t->body);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_PRIVATE, t);
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->curl, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(t->curl, CURLOPT_TIMEOUT_MS, (long)(c->o->request_timeout_s * 1e3));
    r->sent = mw_now_s();
    if (curl_multi_add_handle(c->multi, t->curl) == CURLM_OK) return MW_OK;
    st = MW_FAIL(MW_ERR_INTERNAL, "libcurl takes no handle");
fail:
    transfer_free(t);
    return st;
}

static void end_one(bench_client *c, CURL *curl, CURLcode code) {
    transfer *t = NULL;
    long status = 0;
    char text[256];
    curl_easy_getinfo(curl, CURLINFO_PRIVATE, (char **)&t);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->st != MW_OK) { /* what came could not be kept: this request's failure, not the run's */
        fail_request(t->r, mw_error_text(), strlen(mw_error_text()));
    } else if (status != 0 && status != 200) {
        snprintf(text, sizeof text, "HTTP %ld: %.200s", status, t->plain.p ? t->plain.p : "");
        fail_request(t->r, text, strlen(text));
    } else if (code != CURLE_OK) {
        fail_request(t->r, curl_easy_strerror(code), strlen(curl_easy_strerror(code)));
    } else if (!t->r->done) {
        fail_request(t->r, "the stream ended without [DONE]", 31);
    }
    curl_multi_remove_handle(c->multi, curl);
    transfer_free(t);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void collect(bench_client *c, int *ended) {
    int left;
    CURLMsg *m;
    while ((m = curl_multi_info_read(c->multi, &left)) != NULL) {
        if (m->msg != CURLMSG_DONE) continue;
        (*ended)++;
        end_one(c, m->easy_handle, m->data.result);
    }
}

/* Milliseconds until something must be done without the network's help. */
static int wait_ms(const bench_requests *r, int sent, int ended, int concurrency, double start) {
    if (sent == r->n || sent - ended >= concurrency) return 1000;
    double left = start + r->v[sent].arrival - mw_now_s();
    return left <= 0 ? 0 : left > 1 ? 1000 : (int)(left * 1e3) + 1;
}

mw_status bench_client_run(bench_client *c, bench_requests *r, int concurrency, double *seconds) {
    mw_status st = MW_OK;
    int sent = 0, ended = 0, running;
    double start = mw_now_s();
    while (ended < r->n) {
        while (sent < r->n && wait_ms(r, sent, ended, concurrency, start) == 0) MW_TRY(st, send_one(c, &r->v[sent++]));
        CURLMcode rc = curl_multi_perform(c->multi, &running);
        int before = ended;
        collect(c, &ended);
        /* What has ended makes room for the next at once: there may be nothing left to wake a poll. */
        if (rc == CURLM_OK && ended == before)
            rc = curl_multi_poll(c->multi, NULL, 0, wait_ms(r, sent, ended, concurrency, start), NULL);
        if (rc != CURLM_OK) {
            st = MW_FAIL(MW_ERR_INTERNAL, "libcurl cannot go on: %s", curl_multi_strerror(rc));
            goto fail;
        }
    }
    *seconds = mw_now_s() - start;
fail:
    return st;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static size_t keep(char *p, size_t size, size_t n, void *arg) {
    mw_str *s = arg;
    if (s->n + size * n > MAX_BODY || mw_str_add(s, p, size * n) != MW_OK) return 0;
    return size * n;
}

/* Is somebody there, and what is the model called? */
static mw_status ask_models(bench_client *c) {
    mw_status st = MW_OK;
    char url[1024], why[CURL_ERROR_SIZE] = "";
    long code = 0;
    mw_str body = {0};
    json_t *all = NULL;
    snprintf(url, sizeof url, "%s/v1/models", c->o->url);
    CURL *curl = curl_easy_init();
    if (!curl) return MW_FAIL(MW_ERR_NOMEM, "libcurl gives no handle");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 2 * CONNECT_S);
    CURLcode rc = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_cleanup(curl);
    if (rc != CURLE_OK) {
        st = MW_FAIL(MW_ERR_UNAVAIL, "%s: %s", url, *why ? why : curl_easy_strerror(rc));
        goto fail;
    }
    if (c->o->served_model) goto fail;
    all = body.n && code == 200 ? json_loadb(body.p, body.n, 0, NULL) : NULL;
    const char *id = json_string_value(json_object_get(json_array_get(json_object_get(all, "data"), 0), "id"));
    if (!id) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: HTTP %ld, and no model's id in it: name the model with --model", url, code);
        goto fail;
    }
    c->model = strdup(id);
fail:
    json_decref(all);
    mw_str_free(&body);
    return st;
}

static mw_status make_headers(bench_client *c) {
    mw_status st = MW_OK;
    mw_str key = {0}, line = {0};
    c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!c->headers) return MW_FAIL(MW_ERR_NOMEM, "headers");
    if (!c->o->api_key_file) return MW_OK;
    MW_TRY(st, mw_read_file(c->o->api_key_file, 4096, &key));
    MW_TRY(st, mw_str_addf(&line, "Authorization: Bearer %.*s", (int)strcspn(key.p ? key.p : "", "\r\n"),
                           key.p ? key.p : ""));
    if (!curl_slist_append(c->headers, line.p)) st = MW_FAIL(MW_ERR_NOMEM, "headers");
fail:
    mw_str_free(&key);
    mw_str_free(&line);
    return st;
}

mw_status bench_client_open(bench_client **out, const bench_opts *o) {
    mw_status st = MW_OK;
    bench_client *c = NULL;
    mw_str url = {0};
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return MW_FAIL(MW_ERR_INTERNAL, "libcurl does not start");
    MW_TRY(st, MW_CALLOC(&c, 1, "client"));
    c->o = o;
    c->chat = strstr(o->endpoint, "chat") != NULL;
    MW_TRY(st, mw_str_addf(&url, "%s%s", o->url, o->endpoint));
    c->url = url.p;
    c->multi = curl_multi_init();
    if (!c->multi) {
        st = MW_FAIL(MW_ERR_NOMEM, "libcurl gives no handle");
        goto fail;
    }
    MW_TRY(st, make_headers(c));
    MW_TRY(st, ask_models(c));
    if (!c->model) c->model = strdup(o->served_model);
    if (!c->model) st = MW_FAIL(MW_ERR_NOMEM, "model name");
fail:
    if (st == MW_OK)
        *out = c;
    else
        bench_client_close(c);
    return st;
}

void bench_client_close(bench_client *c) {
    if (!c) return;
    curl_slist_free_all(c->headers);
    if (c->multi) curl_multi_cleanup(c->multi);
    free(c->model);
    free(c->url);
    free(c);
    curl_global_cleanup();
}

const char *bench_client_model(const bench_client *c) {
    return c->model;
}

bool bench_client_is_chat(const bench_client *c) {
    return c->chat;
}
