/* An answer that is sent whole. */
#include <stdlib.h>
#include <string.h>

#include "worker/server/api_call.h"

void mw_call_usage(mw_call *c, mw_json_out *w) {
    size_t cached = 0;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->n_parts; i++) cached += c->part[i].cached_tokens;
    size_t in = c->prompt_tokens, out = c->output_tokens;
    pthread_mutex_unlock(&c->lock);
    mw_json_key(w, "usage");
    mw_json_open(w, '{');
    mw_json_key_int(w, "prompt_tokens", (int64_t)in);
    mw_json_key_int(w, "completion_tokens", (int64_t)out);
    mw_json_key_int(w, "total_tokens", (int64_t)(in + out));
    mw_json_key(w, "prompt_tokens_details");
    mw_json_open(w, '{');
    mw_json_key_int(w, "cached_tokens", (int64_t)cached);
    mw_json_close(w, '}');
    mw_json_close(w, '}');
}

/* ---- messages ---- */

typedef struct {
    mw_str content;
    mw_json_out calls;
} message;

static mw_status on_text(void *arg, const char *p, size_t n) {
    message *m = arg;
    return mw_str_add(&m->content, p, n);
}

static mw_status on_call(void *arg, int index, const char *name, const char *arguments) {
    message *m = arg;
    (void)index;
    mw_json_open(&m->calls, '{');
    mw_call_tool_id(&m->calls);
    mw_json_key_str(&m->calls, "type", "function");
    mw_json_key(&m->calls, "function");
    mw_json_open(&m->calls, '{');
    mw_json_key_str(&m->calls, "name", name);
    mw_json_key_str(&m->calls, "arguments", arguments);
    mw_json_close(&m->calls, '}');
    mw_json_close(&m->calls, '}');
    return m->calls.st;
}

static void put_message(mw_json_out *w, const message *m) {
    mw_json_key(w, "message");
    mw_json_open(w, '{');
    mw_json_key_str(w, "role", "assistant");
    mw_json_key(w, "content");
    if (m->content.n == 0 && m->calls.s.n > 0)
        mw_json_null(w);
    else
        mw_json_text(w, m->content.p ? m->content.p : "", m->content.n);
    mw_json_key_str(w, "refusal", NULL);
    if (m->calls.s.n > 0) {
        mw_json_key(w, "tool_calls");
        mw_json_open(w, '[');
        mw_json_raw(w, m->calls.s.p, m->calls.s.n);
        mw_json_close(w, ']');
    }
    mw_json_close(w, '}');
}

/* ---- choices ---- */

static mw_status put_choice(mw_call *c, int i, const mw_delta *d, mw_json_out *w) {
    mw_status st = MW_OK;
    mw_choice *ch = &c->choice[i];
    message m = {0};
    const mw_tool_sink sink = {&m, on_text, on_call};
    mw_json_open(w, '{');
    mw_json_key_int(w, "index", i);
    if (c->kind == MW_CALL_CHAT) {
        MW_TRY(st, mw_tools_push(&ch->tools, d->text.p ? d->text.p : "", d->text.n, true, &sink));
        put_message(w, &m);
    } else {
        const mw_str *echo = &mw_call_part(c, i)->echo;
        if (c->echo) MW_TRY(st, mw_str_add(&m.content, echo->p ? echo->p : "", echo->n));
        MW_TRY(st, mw_str_add(&m.content, d->text.p ? d->text.p : "", d->text.n));
        mw_json_key(w, "text");
        mw_json_text(w, m.content.p, m.content.n);
    }
    mw_call_logprobs(c, ch, d, c->echo, w);
    mw_json_key_str(w, "finish_reason", mw_call_finish(ch, d->finish));
    mw_json_key(w, "stop_reason");
    mw_json_null(w);
    mw_json_close(w, '}');
fail:
    mw_str_free(&m.content);
    mw_json_free(&m.calls);
    return st;
}

const char *mw_call_finish(const mw_choice *ch, const char *reason) {
    bool called = ch->tools.n_calls > 0 && ch->tools.format != MW_TOOLS_NAMED;
    return called && reason && strcmp(reason, "stop") == 0 ? "tool_calls" : reason;
}

mw_status mw_call_reply(mw_call *c, mw_json_out *w) {
    mw_status st = MW_OK;
    bool over;
    mw_api_error err;
    mw_delta *list = mw_call_deltas(c, &over, &err);
    mw_json_open(w, '{');
    mw_json_key_str(w, "id", c->id);
    mw_json_key_str(w, "object", c->kind == MW_CALL_CHAT ? "chat.completion" : "text_completion");
    mw_json_key_int(w, "created", c->created);
    mw_json_key_str(w, "model", mw_api_name(c->api));
    mw_json_key(w, "choices");
    mw_json_open(w, '[');
    for (int i = 0; i < c->n_choices; i++) {
        const mw_delta *d = list; /* one each, in the order of their first events */
        while (d && d->choice != i) d = d->next;
        if (d) MW_TRY(st, put_choice(c, i, d, w));
    }
    mw_json_close(w, ']');
    mw_call_usage(c, w);
    mw_json_close(w, '}');
    st = w->st;
fail:
    mw_delta_free(list);
    return st;
}
