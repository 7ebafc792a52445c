#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/tools/cli_request.h"

mw_status cli_reply_init(cli_reply *p, const json_t *id, int n) {
    *p = (cli_reply){.n = n, .open = n};
    p->id = id ? json_deep_copy(id) : NULL;
    mw_status st = MW_CALLOC(&p->choice, (size_t)n, "answers");
    for (int i = 0; i < n && st == MW_OK; i++) {
        p->choice[i].token_ids = json_array();
        if (!p->choice[i].token_ids) st = MW_FAIL(MW_ERR_NOMEM, "answers");
    }
    return st;
}

void cli_reply_free(cli_reply *p) {
    for (int i = 0; p->choice && i < p->n; i++) {
        mw_str_free(&p->choice[i].text);
        json_decref(p->choice[i].token_ids);
        json_decref(p->choice[i].logprobs);
    }
    free(p->choice);
    json_decref(p->id);
    json_decref(p->prompt_logprobs);
    mw_str_free(&p->error);
    *p = (cli_reply){0};
}

static json_t *logprob_json(const mw_token_logprob *l) {
    return json_pack("{s:i, s:f}", "token_id", (int)l->token, "logprob", (double)l->logprob);
}

static json_t *position_json(const mw_position_logprobs *lp) {
    json_t *o = logprob_json(&lp->chosen), *top = json_array();
    for (int i = 0; i < lp->n_top; i++) json_array_append_new(top, logprob_json(&lp->top[i]));
    json_object_set_new(o, "top", top);
    return o;
}

mw_status cli_reply_take(cli_reply *p, const mw_event *ev) {
    mw_status st = MW_OK;
    cli_choice *c = ev->index < p->n ? &p->choice[ev->index] : &p->choice[0];
    switch (ev->type) {
    case MW_EVENT_ERROR: return cli_reply_fail(p, ev->status, ev->text);
    case MW_EVENT_PROMPT:
        p->prompt_logprobs = json_array();
        for (size_t i = 0; i < ev->n_positions; i++)
            json_array_append_new(p->prompt_logprobs, position_json(&ev->logprobs[i]));
        break;
    case MW_EVENT_TOKEN:
        MW_TRY(st, mw_str_add(&c->text, ev->text, ev->text_len));
        json_array_append_new(c->token_ids, json_integer(ev->token));
        if (ev->logprobs && !c->logprobs) c->logprobs = json_array();
        if (ev->logprobs) json_array_append_new(c->logprobs, position_json(ev->logprobs));
        break;
    case MW_EVENT_DONE:
        MW_TRY(st, mw_str_add(&c->text, ev->text, ev->text_len));
        c->finish_reason = ev->finish_reason;
        p->prompt_tokens = ev->prompt_tokens;
        p->output_tokens += ev->output_tokens;
        p->ttft_s = ev->ttft_s;
        p->open--;
        break;
    }
fail:
    return st;
}

mw_status cli_reply_fail(cli_reply *p, mw_status status, const char *text) {
    p->st = status;
    p->open = 0;
    p->error.n = 0;
    return mw_str_adds(&p->error, text);
}

static json_t *choice_json(const cli_choice *c) {
    json_t *o = json_object(), *text = json_stringn(c->text.p ? c->text.p : "", c->text.n);
    json_object_set_new(o, "text", text ? text : json_string("")); /* the detokeniser gives UTF-8 only */
    json_object_set(o, "token_ids", c->token_ids);
    json_object_set_new(o, "finish_reason", json_string(c->finish_reason));
    if (c->logprobs) json_object_set(o, "logprobs", c->logprobs);
    return o;
}

/* "usage error" -> "usage_error" */
static json_t *error_json(const cli_reply *p) {
    char code[64];
    snprintf(code, sizeof code, "%s", mw_status_name(p->st));
    for (char *s = code; *s; s++)
        if (*s == ' ' || *s == '/') *s = '_';
    json_t *message = json_stringn(p->error.p ? p->error.p : "", p->error.n);
    return json_pack("{s:s, s:o}", "code", code, "message", message ? message : json_string("(not UTF-8)"));
}

static json_t *reply_json(const cli_reply *p) {
    json_t *o = json_object();
    json_object_set_new(o, "id", p->id ? json_incref(p->id) : json_null());
    if (p->st != MW_OK) {
        json_object_set_new(o, "error", error_json(p));
        return o;
    }
    if (p->n == 1) {
        json_t *only = choice_json(&p->choice[0]);
        json_object_update(o, only);
        json_decref(only);
    } else {
        json_t *list = json_array();
        for (int i = 0; i < p->n; i++) {
            json_t *c = choice_json(&p->choice[i]);
            json_object_set_new(c, "index", json_integer(i));
            json_array_append_new(list, c);
        }
        json_object_set_new(o, "choices", list);
    }
    if (p->prompt_logprobs) json_object_set(o, "prompt_logprobs", p->prompt_logprobs);
    json_object_set_new(o, "usage",
                        json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)p->prompt_tokens, "completion_tokens",
                                  (json_int_t)p->output_tokens, "total_tokens",
                                  (json_int_t)p->prompt_tokens + (json_int_t)p->output_tokens));
    return o;
}

mw_status cli_reply_write(const cli_reply *p, mw_str *out) {
    json_t *o = reply_json(p);
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    mw_status st = text ? mw_str_adds(out, text) : MW_FAIL(MW_ERR_NOMEM, "answer");
    if (st == MW_OK) st = mw_str_adds(out, "\n");
    free(text);
    json_decref(o);
    return st;
}
