#include "worker/server/api.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/server/api_call.h"
#include "worker/server/api_fields.h"

/* ---- the context ---- */

/* model.h5 without its folder and ending. */
static void name_of_file(const char *path, char *out, size_t room) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t n = strlen(base);
    if (n > 3 && strcmp(base + n - 3, ".h5") == 0) n -= 3;
    snprintf(out, room, "%.*s", (int)(n < room ? n : room - 1), base);
}

mw_status mw_api_init(mw_api *a, mw_engine *e, const mw_api_options *opt) {
    *a = (mw_api){.engine = e, .opt = opt, .started = (int64_t)time(NULL)};
    pthread_mutex_init(&a->lock, NULL);
    mw_engine_describe(e, &a->info);
    mw_metrics_init(&a->metrics, a->info.ctx);
    name_of_file(opt->model, a->default_name, sizeof a->default_name);
    a->tool_format = mw_tools_of_template(mw_engine_chat_template(e), &a->tool_style);
    return MW_OK;
}

void mw_api_free(mw_api *a) {
    mw_metrics_free(&a->metrics);
    pthread_mutex_destroy(&a->lock);
}

const char *mw_api_name(const mw_api *a) {
    return a->opt->n_names > 0 ? a->opt->names[0] : a->default_name;
}

bool mw_api_has_model(const mw_api *a, const char *name) {
    for (int i = 0; i < a->opt->n_names; i++)
        if (strcmp(name, a->opt->names[i]) == 0) return true;
    return a->opt->n_names == 0 && (strcmp(name, a->default_name) == 0 || strcmp(name, a->opt->model) == 0);
}

void mw_api_fail_calls(mw_api *a, mw_status st, const char *text, bool drop) {
    pthread_mutex_lock(&a->lock);
    mw_call *c = a->calls;
    if (c) c->refs++;
    pthread_mutex_unlock(&a->lock);
    while (c) {
        mw_call_fail(c, st, text, drop);
        pthread_mutex_lock(&a->lock);
        mw_call *next = c->next;
        if (next) next->refs++;
        pthread_mutex_unlock(&a->lock);
        mw_call_unref(c);
        c = next;
    }
}

void mw_api_random_hex(char *out, size_t n) {
    unsigned char random[32] = {0};
    if (getrandom(random, n / 2, 0) < 0) mw_debug("getrandom failed"); /* cannot, for so few bytes */
    for (size_t i = 0; i < n / 2; i++) snprintf(out + 2 * i, 3, "%02x", random[i]);
}

mw_status mw_api_parse(const char *text, size_t n, json_t **out, mw_api_error *err) {
    json_error_t e;
    json_t *v = n == 0 ? NULL : json_loadb(text, n, 0, &e);
    if (n == 0) return mw_api_fail(err, 400, "invalid_json", NULL, "the request has no body, expected a JSON object");
    if (!v)
        return mw_api_fail(err, 400, "invalid_json", NULL, "the body is not JSON: line %d, column %d: %s", e.line,
                           e.column, e.text);
    if (!json_is_object(v)) {
        json_decref(v);
        return mw_api_fail(err, 400, "invalid_json", NULL, "the body is JSON, but no object");
    }
    *out = v;
    return MW_OK;
}

/* ---- models ---- */

static void put_model(mw_api *a, const char *name, mw_json_out *w) {
    mw_json_open(w, '{');
    mw_json_key_str(w, "id", name);
    mw_json_key_str(w, "object", "model");
    mw_json_key_int(w, "created", a->started);
    mw_json_key_str(w, "owned_by", "marlin-worker");
    mw_json_key_str(w, "root", mw_api_name(a));
    mw_json_key_str(w, "parent", NULL);
    mw_json_key_int(w, "max_model_len", a->info.ctx);
    mw_json_close(w, '}');
}

mw_status mw_api_models(mw_api *a, mw_json_out *w) {
    mw_json_open(w, '{');
    mw_json_key_str(w, "object", "list");
    mw_json_key(w, "data");
    mw_json_open(w, '[');
    if (a->opt->n_names == 0) put_model(a, a->default_name, w);
    for (int i = 0; i < a->opt->n_names; i++) put_model(a, a->opt->names[i], w);
    mw_json_close(w, ']');
    mw_json_close(w, '}');
    return w->st;
}

mw_status mw_api_model(mw_api *a, const char *name, mw_json_out *w, mw_api_error *err) {
    if (!mw_api_has_model(a, name))
        return mw_api_fail(err, 404, "model_not_found", "model", "The model '%.200s' does not exist.", name);
    put_model(a, name, w);
    return w->st;
}

/* "marlin-worker 0.1.0 (id)\n..." */
static void put_version(mw_json_out *w) {
    const char *text = mw_engine_version(), *version = strchr(text, ' ');
    mw_json_key(w, "version");
    mw_json_text(w, version ? version + 1 : "", version ? strcspn(version + 1, " \n") : 0);
    mw_json_key(w, "build");
    mw_json_text(w, text, strcspn(text, "\n"));
}

mw_status mw_api_version(mw_api *a, mw_json_out *w) {
    (void)a;
    mw_json_open(w, '{');
    put_version(w);
    mw_json_close(w, '}');
    return w->st;
}

mw_status mw_api_stats(mw_api *a, mw_json_out *w) {
    const char *why = NULL;
    bool chat = mw_engine_can_chat(a->engine, &why);
    mw_json_open(w, '{');
    mw_json_key_str(w, "model", mw_api_name(a));
    put_version(w);
    mw_json_key_bool(w, "chat", chat);
    mw_json_key_str(w, "chat_why", chat ? NULL : why);
    mw_json_key_int(w, "uptime_s", (int64_t)time(NULL) - a->started);
    mw_metrics_live(&a->metrics, a->engine, mw_now_s(), w);
    mw_json_close(w, '}');
    return w->st;
}
