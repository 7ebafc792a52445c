#include "worker/server/api_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/server/api_fields.h"

/* ---- life ---- */

static void link_call(mw_call *c) {
    mw_api *a = c->api;
    pthread_mutex_lock(&a->lock);
    c->next = a->calls;
    if (c->next) c->next->prev = c;
    a->calls = c;
    pthread_mutex_unlock(&a->lock);
}

static void free_call(mw_call *c) {
    for (int i = 0; i < c->n_parts; i++) {
        mw_ids_free(&c->part[i].ids);
        mw_str_free(&c->part[i].echo);
        mw_event_free(&c->part[i].prompt);
    }
    for (int i = 0; i < c->n_choices; i++) mw_tools_free(&c->choice[i].tools);
    mw_delta_free(c->first);
    free(c->part);
    free(c->choice);
    free(c->stop);
    mw_ids_free(&c->stop_ids);
    free(c->bias);
    free(c->schema);
    free(c->messages);
    free(c->tools);
    free(c->template_vars);
    json_decref(c->body);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void mw_call_ref(mw_call *c) {
    pthread_mutex_lock(&c->api->lock);
    c->refs++;
    pthread_mutex_unlock(&c->api->lock);
}

void mw_call_unref(mw_call *c) {
    if (!c) return;
    mw_api *a = c->api;
    pthread_mutex_lock(&a->lock);
    bool last = --c->refs == 0;
    if (last) {
        if (c->prev)
            c->prev->next = c->next;
        else
            a->calls = c->next;
        if (c->next) c->next->prev = c->prev;
    }
    pthread_mutex_unlock(&a->lock);
    if (last) free_call(c);
}

void mw_delta_free(mw_delta *d) {
    while (d) {
        mw_delta *next = d->next;
        mw_str_free(&d->text);
        mw_str_free(&d->top);
        free(d);
        d = next;
    }
}

static void name_call(mw_call *c) {
    int n = snprintf(c->id, sizeof c->id, "%s-", c->kind == MW_CALL_CHAT ? "chatcmpl" : "cmpl");
    mw_api_random_hex(c->id + n, 32);
}

/* The same `user` is the same client, on whatever connection. */
static uint64_t hash_text(const char *p) {
    uint64_t h = 1469598103934665603u;
    for (; *p; p++) h = (h ^ (unsigned char)*p) * 1099511628211u;
    return h;
}

static mw_status parse(mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    const json_t *o = c->body;
    const char *model = NULL, *user = NULL, *suffix = NULL;
    MW_TRY(st, mw_field_text(o, "model", &model, err));
    if (model && !mw_api_has_model(c->api, model))
        return mw_api_fail(err, 404, "model_not_found", "model", "The model '%.200s' does not exist.", model);
    MW_TRY(st, mw_field_text(o, "user", &user, err));
    if (user) c->client = hash_text(user);
    MW_TRY(st, mw_field_text(o, "suffix", &suffix, err));
    if (suffix && *suffix)
        return mw_api_fail(err, 400, "not_supported", "suffix", "suffix is not supported by this server");
    MW_TRY(st, mw_field_bool(o, "stream", &c->stream, err));
    MW_TRY(st, mw_field_bool(o, "echo", &c->echo, err));
    if (c->echo && c->kind == MW_CALL_CHAT)
        return mw_api_fail(err, 400, "not_supported", "echo", "echo is for completions");
    const json_t *so = mw_field(o, "stream_options");
    if (so && !json_is_object(so))
        return mw_api_fail(err, 400, "invalid_type", "stream_options", "stream_options: expected an object");
    if (so && !c->stream)
        return mw_api_fail(err, 400, "invalid_value", "stream_options", "stream_options needs stream: true");
    MW_TRY(st, mw_field_bool(so, "include_usage", &c->include_usage, err));
    MW_TRY(st, mw_field_bool(so, "continuous_usage_stats", &c->continuous_usage, err));
    MW_TRY(st, mw_call_params(c->api, c, o, err));
    int best_of = c->sampling.n;
    MW_TRY(st, mw_field_int(o, "best_of", 1, 128, &best_of, err));
    if (best_of != c->sampling.n)
        return mw_api_fail(err, 400, "not_supported", "best_of", "best_of other than n is not supported");
    MW_TRY(st, mw_call_prompts(c->api, c, o, err));
fail:
    return st;
}

mw_status mw_call_new(mw_call **out, mw_api *a, mw_call_kind kind, json_t *body, uint64_t client, mw_api_error *err) {
    mw_status st = MW_OK;
    mw_call *c = NULL;
    MW_TRY(st, MW_CALLOC(&c, 1, "request"));
    c->api = a;
    c->kind = kind;
    c->refs = 1;
    c->tail = &c->first;
    c->body = json_incref(body);
    c->client = client;
    c->created = (int64_t)time(NULL);
    c->arrived_s = mw_now_s();
    pthread_mutex_init(&c->lock, NULL);
    link_call(c);
    name_call(c);
    MW_TRY(st, parse(c, err));
    *out = c;
    return MW_OK;
fail:
    mw_api_error_from(err, st, mw_error_text());
    mw_call_unref(c);
    return st;
}

/* ---- to the engine ---- */

static mw_status submit_part(mw_call *c, mw_part *p) {
    uint64_t id = 0;
    mw_request r = {.ids = p->ids.p,
                    .n_ids = p->ids.n,
                    .sampling = c->sampling,
                    .deadline_s = c->api->opt->request_timeout_s,
                    .client = c->client,
                    .user = p};
    mw_call_ref(c); /* the engine's, until the part's last event */
    pthread_mutex_lock(&c->lock);
    bool over = c->cancelled || c->err.http != 0;
    p->held = !over;
    pthread_mutex_unlock(&c->lock);
    mw_status st = over ? MW_FAIL(MW_ERR_CANCELLED, "cancelled") : mw_engine_submit(c->api->engine, &r, &id);
    pthread_mutex_lock(&c->lock);
    p->id = id;
    bool drop = st != MW_OK && (p->held || over);
    if (st != MW_OK) p->held = false;
    bool late = st == MW_OK && (c->cancelled || c->err.http != 0);
    pthread_mutex_unlock(&c->lock);
    if (late) mw_engine_cancel(c->api->engine, id);
    if (drop) mw_call_unref(c);
    return st == MW_ERR_TIMEOUT ? MW_ERR_PEER : st; /* a silent rank, not this request's deadline */
}

/* The engine looks at a schema only when it gets the request. */
static void name_schema(const mw_call *c, mw_api_error *err) {
    if (err->http != 400 || c->sampling.format != MW_FORMAT_JSON_SCHEMA || strncmp(err->message, "schema", 6) != 0)
        return;
    err->code = "invalid_schema";
    snprintf(err->param, sizeof err->param, "%s", c->tools ? "tools" : "response_format");
}

mw_status mw_call_submit(mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    MW_TRY(st, mw_call_tokenize(c, err));
    for (int i = 0; i < c->n_parts; i++) MW_TRY(st, submit_part(c, &c->part[i]));
    mw_metrics_request(&c->api->metrics, c->sampling.n, c->sampling.max_tokens);
    return MW_OK;
fail:
    mw_api_error_from(err, st, mw_error_text());
    name_schema(c, err);
    mw_call_cancel(c);
    return st;
}

static void cancel_parts(mw_call *c) {
    for (int i = 0; i < c->n_parts; i++) {
        pthread_mutex_lock(&c->lock);
        uint64_t id = c->part[i].held ? c->part[i].id : 0;
        pthread_mutex_unlock(&c->lock);
        if (id) mw_engine_cancel(c->api->engine, id);
    }
}

void mw_call_cancel(mw_call *c) {
    pthread_mutex_lock(&c->lock);
    c->cancelled = true;
    pthread_mutex_unlock(&c->lock);
    cancel_parts(c);
}

/* ---- from the engine ---- */

static void wake(mw_call *c) {
    if (c->wake) c->wake(c->wake_arg);
}

/* Under the lock: how it ended, unless that is known. */
static void set_error(mw_call *c, mw_status st, const char *text) {
    if (c->err.http != 0 || c->open == 0) return;
    mw_api_error_from(&c->err, st, text);
    wake(c);
}

void mw_call_fail(mw_call *c, mw_status st, const char *text, bool drop) {
    int dropped = 0;
    pthread_mutex_lock(&c->lock);
    set_error(c, st, text);
    for (int i = 0; drop && i < c->n_parts; i++) {
        dropped += c->part[i].held;
        c->part[i].held = false;
    }
    pthread_mutex_unlock(&c->lock);
    if (!drop) cancel_parts(c);
    for (; dropped > 0; dropped--) mw_call_unref(c);
}

static mw_status new_delta(mw_call *c, int choice, mw_delta **out) {
    mw_delta *d = NULL;
    mw_status st = MW_CALLOC(&d, 1, "answer");
    if (st != MW_OK) return st;
    d->choice = choice;
    *c->tail = d;
    c->tail = &d->next;
    c->choice[choice].last = d;
    c->n_pending++;
    *out = d;
    return MW_OK;
}

/* The token's log-probability and the k best, always k + 1 entries. */
static mw_status add_top(mw_delta *d, const mw_position_logprobs *lp, int k) {
    mw_status st = mw_str_add(&d->top, &lp->chosen, sizeof lp->chosen);
    for (int i = 0; i < k && st == MW_OK; i++) {
        static const mw_token_logprob none = {.token = -1};
        st = mw_str_add(&d->top, i < lp->n_top ? &lp->top[i] : &none, sizeof none);
    }
    return st;
}

static mw_status add_text(mw_call *c, int choice, const mw_event *ev, mw_delta **out) {
    mw_status st = MW_OK;
    mw_delta *d = c->choice[choice].last;
    if (!d || (c->stream && c->n_pending < MW_CALL_MAX_DELTAS && ev->type == MW_EVENT_TOKEN))
        MW_TRY(st, new_delta(c, choice, &d));
    MW_TRY(st, mw_str_add(&d->text, ev->text, ev->text_len));
    c->bytes_pending += ev->text_len;
    *out = d;
fail:
    return st;
}

static mw_status take_token(mw_call *c, int choice, const mw_event *ev) {
    mw_status st = MW_OK;
    mw_choice *ch = &c->choice[choice];
    mw_delta *d;
    double now = mw_now_s();
    MW_TRY(st, add_text(c, choice, ev, &d));
    d->n_tokens++;
    if (ev->logprobs && c->sampling.logprobs >= 0) {
        size_t before = d->top.n;
        MW_TRY(st, add_top(d, ev->logprobs, c->sampling.logprobs));
        c->bytes_pending += d->top.n - before;
    }
    mw_metrics_token(&c->api->metrics, ch->n_tokens == 0, now - (ch->n_tokens == 0 ? c->arrived_s : ch->last_s));
    ch->last_s = now;
    ch->n_tokens++;
    c->output_tokens++;
fail:
    return st;
}

static mw_status take_done(mw_call *c, mw_part *p, int choice, const mw_event *ev) {
    mw_delta *d;
    mw_status st = add_text(c, choice, ev, &d);
    if (st != MW_OK) return st;
    d->finish = strcmp(ev->finish_reason, "length") == 0 ? "length" : "stop";
    p->cached_tokens = ev->cached_tokens;
    p->open--;
    c->open--;
    mw_metrics_done(&c->api->metrics, ev, mw_now_s() - c->arrived_s);
    return MW_OK;
}

/* Nobody reads what has come. */
static void give_up(mw_call *c) {
    mw_status told = mw_api_fail(&c->err, 408, "slow_reader", NULL,
                                 "the answer is read too slowly: %zu bytes of it wait", c->bytes_pending);
    (void)told;
    wake(c);
}

static void take_event(mw_call *c, mw_part *p, mw_event *ev) {
    mw_status st = MW_OK;
    int choice = (int)(p - c->part) * c->sampling.n + ev->index;
    bool ended = c->err.http != 0 || c->cancelled;
    switch (ev->type) {
    case MW_EVENT_PROMPT:
        mw_event_free(&p->prompt);
        p->prompt = *ev;
        ev->owner = NULL; /* it lives on in the part */
        break;
    case MW_EVENT_TOKEN:
        if (!ended) st = take_token(c, choice, ev);
        break;
    case MW_EVENT_DONE:
        if (!ended && strcmp(ev->finish_reason, "cancelled") == 0) {
            set_error(c, MW_ERR_CANCELLED, "the server is shutting down");
            ended = true;
        }
        if (ended) {
            p->open--;
            mw_metrics_done(&c->api->metrics, ev, mw_now_s() - c->arrived_s);
        } else {
            st = take_done(c, p, choice, ev);
        }
        break;
    case MW_EVENT_ERROR:
        p->open = 0;
        mw_metrics_failed(&c->api->metrics);
        set_error(c, ev->status, ev->text);
        break;
    }
    if (st != MW_OK) set_error(c, st, mw_error_text());
    if (c->stream && c->bytes_pending > MW_CALL_MAX_PENDING && c->err.http == 0) give_up(c);
}

void mw_call_take(mw_event *ev) {
    mw_part *p = ev->user;
    mw_call *c = p->call;
    pthread_mutex_lock(&c->lock);
    bool failed = c->err.http != 0;
    take_event(c, p, ev);
    bool fails_now = !failed && c->err.http != 0;
    if (!fails_now && (c->stream || c->open == 0)) wake(c);
    bool last = p->held && p->open == 0;
    if (last) p->held = false;
    pthread_mutex_unlock(&c->lock);
    mw_event_free(ev);
    if (fails_now) cancel_parts(c);
    if (last) mw_call_unref(c);
}

/* ---- to the reader ---- */

void mw_call_listen(mw_call *c, void (*fn)(void *arg), void *arg) {
    pthread_mutex_lock(&c->lock);
    c->wake = fn;
    c->wake_arg = arg;
    pthread_mutex_unlock(&c->lock);
}

bool mw_call_is_over(mw_call *c, mw_api_error *err) {
    pthread_mutex_lock(&c->lock);
    *err = c->err;
    bool over = c->open == 0 || c->err.http != 0;
    pthread_mutex_unlock(&c->lock);
    return over;
}

mw_delta *mw_call_deltas(mw_call *c, bool *over, mw_api_error *err) {
    pthread_mutex_lock(&c->lock);
    mw_delta *d = c->first;
    for (mw_delta *i = d; i; i = i->next) c->choice[i->choice].last = NULL;
    c->first = NULL;
    c->tail = &c->first;
    c->n_pending = c->bytes_pending = 0;
    *over = c->open == 0 || c->err.http != 0;
    *err = c->err;
    pthread_mutex_unlock(&c->lock);
    return d;
}
