/* OpenAI's batch format from file to file: {"custom_id", "method", "url", "body"} a line in, {"id", "custom_id",
 * "response", "error"} a line out, in the same order. Whole lines are appended, so what stands in the output is always
 * an answer, and a job that was cut off goes on behind it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/io.h"
#include "worker/base/log.h"
#include "worker/base/progress.h"
#include "worker/server/api_call.h"

#define WINDOW   512 /* lines under way at once */
#define MAX_LINE ((ssize_t)256 << 20)

typedef struct {
    mw_call *call; /* NULL: answered without the engine */
    json_t *id;    /* custom_id, or NULL */
    mw_api_error err;
    bool not_a_request; /* the line is none: there is no response to speak of */
    size_t n_in;        /* bytes of the line */
} slot;

typedef struct {
    mw_api api;
    const mw_batch_options *opt;
    FILE *in;
    int out;
    char *line;
    size_t cap;
    ssize_t n_line; /* read and not taken; 0: none */
    bool at_end;
    slot *ring; /* [WINDOW] */
    size_t head, tail;
    size_t n_done, n_kept, n_failed;
    uint64_t prompt_tokens, output_tokens;
    mw_progress progress;
} batch;

/* ---- lines in ---- */

static bool is_blank(const char *p, ssize_t n) {
    for (ssize_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", p[i]) || !p[i]) return false;
    return true;
}

/* The next line that has something on it; at_end when there is none. */
static mw_status read_line(batch *b) {
    while (b->n_line == 0 && !b->at_end) {
        errno = 0;
        ssize_t n = getline(&b->line, &b->cap, b->in);
        if (n < 0 && ferror(b->in)) return MW_FAIL(MW_ERR_IO, "%s: %s", b->opt->in, strerror(errno));
        if (n < 0) b->at_end = true;
        if (n > MAX_LINE) return MW_FAIL(MW_ERR_LIMIT, "%s: a line of %zd bytes", b->opt->in, n);
        if (n > 0 && is_blank(b->line, n))
            mw_progress_add(&b->progress, (uint64_t)n);
        else if (n > 0)
            b->n_line = n;
    }
    return MW_OK;
}

static mw_status parse_line(batch *b, slot *s, mw_api_error *err) {
    mw_status st = MW_OK;
    json_t *o = NULL;
    mw_call_kind kind = MW_CALL_COMPLETION;
    s->not_a_request = true;
    MW_TRY(st, mw_api_parse(b->line, (size_t)b->n_line, &o, err));
    s->id = json_incref(json_object_get(o, "custom_id"));
    const char *method = json_string_value(json_object_get(o, "method"));
    const char *url = json_string_value(json_object_get(o, "url"));
    json_t *body = json_object_get(o, "body");
    if (!json_is_string(s->id))
        st = mw_api_fail(err, 400, "invalid_request", "custom_id", "custom_id: expected a string");
    else if (!method || strcmp(method, "POST") != 0)
        st = mw_api_fail(err, 400, "invalid_request", "method", "method: expected POST");
    else if (url && strcmp(url, "/v1/chat/completions") == 0)
        kind = MW_CALL_CHAT;
    else if (!url || strcmp(url, "/v1/completions") != 0)
        st = mw_api_fail(err, 400, "invalid_request", "url", "url: expected /v1/chat/completions or /v1/completions");
    if (st == MW_OK && !json_is_object(body))
        st = mw_api_fail(err, 400, "invalid_request", "body", "body: expected an object");
    if (st != MW_OK) goto fail;
    s->not_a_request = false;
    if (json_is_true(json_object_get(body, "stream")))
        st = mw_api_fail(err, 400, "invalid_value", "stream", "stream: a batch is answered whole");
    else
        st = mw_call_new(&s->call, &b->api, kind, body, 0, err);
    if (st == MW_OK) st = mw_call_submit(s->call, err);
fail:
    json_decref(o);
    return st;
}

/* *full: the engine takes no more for now, the line stays. */
static mw_status take_line(batch *b, bool *full) {
    slot *s = &b->ring[b->tail % WINDOW];
    mw_api_error err = {0};
    *s = (slot){.n_in = (size_t)b->n_line};
    mw_status st = parse_line(b, s, &err);
    *full = st != MW_OK && err.http == 429 && b->head < b->tail;
    if (st != MW_OK) {
        mw_api_error_from(&err, st, mw_error_text());
        mw_call_unref(s->call);
        s->call = NULL;
        s->err = err;
    }
    if (*full) {
        json_decref(s->id);
        return MW_OK;
    }
    b->n_line = 0;
    b->tail++;
    return MW_OK;
}

static mw_status take_lines(batch *b, bool *full) {
    mw_status st = MW_OK;
    *full = false;
    while (st == MW_OK && !*full && b->tail - b->head < WINDOW) {
        MW_TRY(st, read_line(b));
        if (b->n_line == 0) break;
        MW_TRY(st, take_line(b, full));
    }
fail:
    return st;
}

/* ---- lines out ---- */

static void put_body(mw_json_out *w, const slot *s, mw_status *st) {
    mw_json_key(w, "body");
    if (s->err.http != 0)
        mw_api_error_json(w, &s->err);
    else
        *st = mw_call_reply(s->call, w);
}

static mw_status put_slot(mw_json_out *w, const slot *s) {
    mw_status st = MW_OK;
    char id[48] = "batch_req_";
    mw_api_random_hex(id + strlen(id), 32);
    mw_json_open(w, '{');
    mw_json_key_str(w, "id", id);
    mw_json_key_str(w, "custom_id", json_string_value(s->id));
    mw_json_key(w, "response");
    if (s->not_a_request) {
        mw_json_null(w);
        mw_json_key(w, "error");
        mw_json_open(w, '{');
        mw_json_key_str(w, "code", s->err.code);
        mw_json_key_str(w, "message", s->err.message);
        mw_json_close(w, '}');
    } else {
        mw_json_open(w, '{');
        mw_json_key_int(w, "status_code", s->err.http ? s->err.http : 200);
        mw_json_key_str(w, "request_id", s->call ? s->call->id : NULL);
        put_body(w, s, &st);
        mw_json_close(w, '}');
        mw_json_key_str(w, "error", NULL);
    }
    mw_json_close(w, '}');
    mw_json_plain(w, "\n");
    return st != MW_OK ? st : w->st;
}

static void free_slot(slot *s) {
    mw_call_unref(s->call);
    json_decref(s->id);
    *s = (slot){0};
}

static mw_status append(batch *b, const mw_str *text) {
    for (size_t at = 0; at < text->n;) {
        ssize_t n = write(b->out, text->p + at, text->n - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return MW_FAIL(MW_ERR_IO, "%s: %s", b->opt->out, strerror(errno));
        at += (size_t)n;
    }
    return MW_OK;
}

/* Answers that are complete, up to the first that is not, in one write. */
static mw_status write_finished(batch *b) {
    mw_status st = MW_OK;
    mw_json_out w = {0};
    mw_str text = {0};
    for (; b->head < b->tail; b->head++) {
        slot *s = &b->ring[b->head % WINDOW];
        if (s->call && !mw_call_is_over(s->call, &s->err)) break;
        MW_TRY(st, put_slot(&w, s));
        b->n_done++;
        b->n_failed += s->err.http != 0;
        if (s->call) {
            b->prompt_tokens += s->call->prompt_tokens;
            b->output_tokens += s->call->output_tokens;
        }
        mw_progress_add(&b->progress, s->n_in);
        free_slot(s);
    }
    if (w.s.n > 0) {
        MW_TRY(st, mw_json_take(&w, &text));
        MW_TRY(st, append(b, &text));
    }
fail:
    mw_json_free(&w);
    mw_str_free(&text);
    return st;
}

/* ---- what an earlier run has left ---- */

static bool same_id(const char *in, size_t n_in, const char *out, size_t n_out) {
    json_t *a = json_loadb(in, n_in, 0, NULL), *b = json_loadb(out, n_out, 0, NULL);
    const char *x = json_string_value(json_object_get(a, "custom_id"));
    const char *y = json_string_value(json_object_get(b, "custom_id"));
    bool same = b && json_object_get(b, "response") && ((!x && !y) || (x && y && strcmp(x, y) == 0));
    json_decref(a);
    json_decref(b);
    return same;
}

/* Goes over the complete lines of the output and passes over as many of the input. *keep: where the output goes on. */
static mw_status skip_done(batch *b, FILE *old, off_t *keep) {
    mw_status st = MW_OK;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    *keep = 0;
    while ((n = getline(&line, &cap, old)) > 0 && line[n - 1] == '\n') {
        MW_TRY(st, read_line(b));
        if (b->n_line == 0 || !same_id(b->line, (size_t)b->n_line, line, (size_t)n)) {
            st = MW_FAIL(MW_ERR_EXISTS, "%s: line %zu is no answer to that of %s: another job's output", b->opt->out,
                         b->n_kept + 1, b->opt->in);
            goto fail;
        }
        mw_progress_add(&b->progress, (uint64_t)b->n_line);
        b->n_line = 0;
        b->n_kept++;
        *keep += n;
    }
fail:
    free(line);
    return st;
}

static mw_status open_files(batch *b) {
    struct stat sb;
    off_t keep = 0;
    b->in = fopen(b->opt->in, "re");
    if (!b->in) return MW_FAIL(MW_ERR_NOINPUT, "%s: %s", b->opt->in, strerror(errno));
    uint64_t total = fstat(fileno(b->in), &sb) == 0 && sb.st_size > 0 ? (uint64_t)sb.st_size : 1;
    mw_progress_begin(&b->progress, "batch", total, b->opt->progress);
    b->out = open(b->opt->out, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (b->out < 0) return MW_FAIL(MW_ERR_EXISTS, "%s: %s", b->opt->out, strerror(errno));
    FILE *old = fopen(b->opt->out, "re");
    if (!old) return MW_FAIL(MW_ERR_EXISTS, "%s: %s", b->opt->out, strerror(errno));
    mw_status st = skip_done(b, old, &keep);
    fclose(old);
    if (st == MW_OK && ftruncate(b->out, keep) != 0) /* half a line, from a machine that went down */
        st = MW_FAIL(MW_ERR_IO, "%s: %s", b->opt->out, strerror(errno));
    return st;
}

/* ---- the job ---- */

static mw_status poll_engine(batch *b, int timeout_ms) {
    for (bool got = true; got; timeout_ms = 0) {
        mw_event ev;
        mw_status st = mw_engine_poll(b->api.engine, timeout_ms, &ev, &got);
        if (st != MW_OK) return st;
        if (got) mw_call_take(&ev);
    }
    return MW_OK;
}

static mw_status run(batch *b) {
    mw_status st = MW_OK;
    bool full;
    for (;;) {
        if (b->opt->stopping && b->opt->stopping() > 0) return MW_FAIL(MW_ERR_INTERRUPTED, "interrupted");
        MW_TRY(st, take_lines(b, &full));
        MW_TRY(st, write_finished(b));
        if (b->head == b->tail && b->at_end && b->n_line == 0) return MW_OK;
        if (b->head < b->tail) MW_TRY(st, poll_engine(b, 100));
    }
fail:
    return st;
}

static void close_all(batch *b) {
    for (; b->ring && b->head < b->tail; b->head++) {
        slot *s = &b->ring[b->head % WINDOW];
        if (s->call) mw_call_cancel(s->call);
        free_slot(s);
    }
    mw_api_fail_calls(&b->api, MW_ERR_CANCELLED, "the batch has ended", true);
    mw_api_free(&b->api);
    if (b->in) fclose(b->in);
    if (b->out >= 0) close(b->out);
    free(b->ring);
    free(b->line);
}

mw_status mw_batch_run(mw_engine *e, const mw_batch_options *opt) {
    mw_status st = MW_OK;
    batch b = {.opt = opt, .out = -1};
    double begun = mw_now_s();
    MW_TRY(st, mw_api_init(&b.api, e, &opt->api));
    MW_TRY(st, MW_CALLOC(&b.ring, WINDOW, "window"));
    MW_TRY(st, open_files(&b));
    MW_TRY(st, run(&b));
    if (fsync(b.out) != 0 && errno != EINVAL) st = MW_FAIL(MW_ERR_IO, "%s: %s", opt->out, strerror(errno));
fail:
    mw_progress_end(&b.progress);
    if (opt->progress && b.n_done + b.n_kept > 0) {
        double s = mw_now_s() - begun;
        mw_info("%zu answers (%zu kept from before, %zu of the new ones are errors), %llu prompt + %llu new tokens in "
                "%.2f s: %.1f tokens/s",
                b.n_done + b.n_kept, b.n_kept, b.n_failed, (unsigned long long)b.prompt_tokens,
                (unsigned long long)b.output_tokens, s, s > 0 ? (double)b.output_tokens / s : 0);
    }
    close_all(&b);
    return st;
}
