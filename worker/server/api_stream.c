/* An answer that is sent as it comes: server-sent events. */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "worker/server/api_call.h"

void mw_call_tool_id(mw_json_out *w) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char random[9];
    char id[sizeof random + 1] = ""; /* Mistral's templates take ids of nine letters and digits only */
    if (getrandom(random, sizeof random, 0) != sizeof random) memset(random, 0, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) id[i] = letters[random[i] % (sizeof letters - 1)];
    mw_json_key_str(w, "id", id);
}

/* ---- one event ---- */

static void begin_event(mw_call *c, mw_json_out *w) {
    mw_json_plain(w, "data: ");
    mw_json_open(w, '{');
    mw_json_key_str(w, "id", c->id);
    mw_json_key_str(w, "object", c->kind == MW_CALL_CHAT ? "chat.completion.chunk" : "text_completion");
    mw_json_key_int(w, "created", c->created);
    mw_json_key_str(w, "model", mw_api_name(c->api));
    mw_json_key(w, "choices");
    mw_json_open(w, '[');
}

static void end_event(mw_call *c, mw_json_out *w, bool usage) {
    mw_json_close(w, ']');
    if (usage) mw_call_usage(c, w);
    mw_json_close(w, '}');
    mw_json_plain(w, "\n\n");
}

static void begin_choice(mw_json_out *w, int i) {
    mw_json_open(w, '{');
    mw_json_key_int(w, "index", i);
}

static void end_choice(mw_json_out *w, const char *finish) {
    mw_json_key_str(w, "finish_reason", finish);
    mw_json_close(w, '}');
}

/* ---- chats ---- */

typedef struct {
    mw_call *c;
    const mw_delta *d;
    mw_json_out *w;
    bool logprobs_sent;
} chat_sink;

static void put_role(mw_call *c, int choice, mw_json_out *w) {
    begin_event(c, w);
    begin_choice(w, choice);
    mw_json_key(w, "delta");
    mw_json_open(w, '{');
    mw_json_key_str(w, "role", "assistant");
    mw_json_key_str(w, "content", "");
    mw_json_close(w, '}');
    mw_json_key_str(w, "logprobs", NULL);
    end_choice(w, NULL);
    end_event(c, w, c->continuous_usage);
}

static void begin_delta(chat_sink *s) {
    begin_event(s->c, s->w);
    begin_choice(s->w, s->d->choice);
    mw_json_key(s->w, "delta");
    mw_json_open(s->w, '{');
}

/* The log-probabilities of a delta go out once, with its first event. */
static void end_delta(chat_sink *s, const char *finish) {
    mw_json_close(s->w, '}');
    if (s->logprobs_sent)
        mw_json_key_str(s->w, "logprobs", NULL);
    else
        mw_call_logprobs(s->c, &s->c->choice[s->d->choice], s->d, false, s->w);
    s->logprobs_sent = true;
    end_choice(s->w, finish);
    end_event(s->c, s->w, s->c->continuous_usage);
}

static mw_status on_text(void *arg, const char *p, size_t n) {
    chat_sink *s = arg;
    begin_delta(s);
    mw_json_key(s->w, "content");
    mw_json_text(s->w, p, n);
    end_delta(s, NULL);
    return s->w->st;
}

static mw_status on_call(void *arg, int index, const char *name, const char *arguments) {
    chat_sink *s = arg;
    begin_delta(s);
    mw_json_key(s->w, "tool_calls");
    mw_json_open(s->w, '[');
    mw_json_open(s->w, '{');
    mw_json_key_int(s->w, "index", index);
    mw_call_tool_id(s->w);
    mw_json_key_str(s->w, "type", "function");
    mw_json_key(s->w, "function");
    mw_json_open(s->w, '{');
    mw_json_key_str(s->w, "name", name);
    mw_json_key_str(s->w, "arguments", arguments);
    mw_json_close(s->w, '}');
    mw_json_close(s->w, '}');
    mw_json_close(s->w, ']');
    end_delta(s, NULL);
    return s->w->st;
}

static mw_status put_chat(mw_call *c, const mw_delta *d, mw_json_out *w) {
    mw_choice *ch = &c->choice[d->choice];
    chat_sink s = {.c = c, .d = d, .w = w};
    const mw_tool_sink sink = {&s, on_text, on_call};
    if (!ch->begun) put_role(c, d->choice, w);
    ch->begun = true;
    mw_status st = mw_tools_push(&ch->tools, d->text.p ? d->text.p : "", d->text.n, d->finish != NULL, &sink);
    if (st != MW_OK) return st;
    if (d->finish || (!s.logprobs_sent && d->top.n > 0)) {
        begin_delta(&s);
        end_delta(&s, mw_call_finish(ch, d->finish));
    }
    return w->st;
}

/* ---- completions ---- */

static mw_status put_completion(mw_call *c, const mw_delta *d, mw_json_out *w) {
    mw_status st = MW_OK;
    mw_choice *ch = &c->choice[d->choice];
    mw_str text = {0};
    bool echo = c->echo && !ch->begun;
    const mw_str *prompt = &mw_call_part(c, d->choice)->echo;
    if (d->text.n == 0 && d->top.n == 0 && !d->finish && !echo) return MW_OK;
    if (echo) MW_TRY(st, mw_str_add(&text, prompt->p ? prompt->p : "", prompt->n));
    MW_TRY(st, mw_str_add(&text, d->text.p ? d->text.p : "", d->text.n));
    ch->begun = true;
    begin_event(c, w);
    begin_choice(w, d->choice);
    mw_json_key(w, "text");
    mw_json_text(w, text.p, text.n);
    mw_call_logprobs(c, ch, d, echo, w);
    end_choice(w, d->finish);
    end_event(c, w, c->continuous_usage);
    st = w->st;
fail:
    mw_str_free(&text);
    return st;
}

/* ---- the stream ---- */

static void put_end(mw_call *c, mw_json_out *w) {
    if (c->include_usage) {
        begin_event(c, w);
        end_event(c, w, true);
    }
    mw_json_plain(w, "data: [DONE]\n\n");
}

mw_status mw_call_stream(mw_call *c, mw_json_out *w, bool *end) {
    mw_status st = MW_OK;
    mw_api_error err;
    mw_delta *list = mw_call_deltas(c, end, &err);
    for (const mw_delta *d = list; d && st == MW_OK; d = d->next)
        st = c->kind == MW_CALL_CHAT ? put_chat(c, d, w) : put_completion(c, d, w);
    if (st == MW_OK && *end && err.http != 0) {
        mw_json_plain(w, "data: ");
        mw_api_error_json(w, &err);
        mw_json_plain(w, "\n\n");
    } else if (st == MW_OK && *end) {
        put_end(c, w);
    }
    mw_delta_free(list);
    return st != MW_OK ? st : w->st;
}
