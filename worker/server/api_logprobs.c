/* Log-probabilities in the two forms of OpenAI's API. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/server/api_call.h"

/* ---- a token's text ---- */

typedef struct {
    char *bytes;
    size_t n;
} piece;

static piece token_piece(mw_call *c, int32_t id) {
    piece p = {0};
    char name[32];
    if (!c->tokens_as_ids && mw_engine_token_piece(c->api->engine, id, &p.bytes, &p.n) == MW_OK) return p;
    p.n = (size_t)snprintf(name, sizeof name, "token_id:%d", id); /* asked for, or the model has no tokenizer */
    p.bytes = strdup(name);
    if (!p.bytes) p.n = 0;
    return p;
}

static void put_token(mw_call *c, int32_t id, mw_json_out *w) {
    piece p = token_piece(c, id);
    mw_json_text(w, p.bytes ? p.bytes : "", p.n);
    free(p.bytes);
}

/* ---- one list of positions, from a delta or from the prompt ---- */

typedef struct {
    const mw_token_logprob *chosen, *top; /* chosen NULL: a prompt's first token, of which nothing is known */
    int32_t token;
    int n_top;
} position;

typedef struct {
    mw_call *c;
    const mw_part *part; /* prompt positions first; NULL: none */
    const mw_delta *d;
} positions;

static size_t n_prompt(const positions *p) {
    return p->part ? p->part->ids.n : 0;
}

static size_t n_positions(const positions *p) {
    return n_prompt(p) + (p->d->top.n ? p->d->n_tokens : 0);
}

static position get(const positions *p, size_t i) {
    int k = p->c->sampling.logprobs;
    if (i < n_prompt(p)) {
        const mw_event *ev = &p->part->prompt;
        if (i == 0 || i > ev->n_positions) return (position){.token = p->part->ids.p[i]};
        const mw_position_logprobs *lp = &ev->logprobs[i - 1];
        return (position){&lp->chosen, lp->top, lp->chosen.token, lp->n_top};
    }
    const mw_token_logprob *at = (const mw_token_logprob *)(const void *)p->d->top.p;
    at += (i - n_prompt(p)) * (size_t)(k + 1);
    int n = 0;
    while (n < k && at[1 + n].token >= 0) n++;
    return (position){at, at + 1, at->token, n};
}

/* ---- chats: [{"token", "logprob", "bytes", "top_logprobs": [...]}] ---- */

static void put_entry(mw_call *c, const mw_token_logprob *lp, mw_json_out *w) {
    piece p = token_piece(c, lp->token);
    mw_json_key(w, "token");
    mw_json_text(w, p.bytes ? p.bytes : "", p.n);
    mw_json_key_real(w, "logprob", (double)lp->logprob);
    mw_json_key(w, "bytes");
    mw_json_open(w, '[');
    for (size_t i = 0; p.bytes && i < p.n; i++) mw_json_int(w, (unsigned char)p.bytes[i]);
    mw_json_close(w, ']');
    free(p.bytes);
}

static void chat_logprobs(mw_call *c, const positions *list, mw_json_out *w) {
    mw_json_open(w, '{');
    mw_json_key(w, "content");
    mw_json_open(w, '[');
    for (size_t i = 0; i < n_positions(list); i++) {
        position p = get(list, i);
        mw_json_open(w, '{');
        put_entry(c, p.chosen, w);
        mw_json_key(w, "top_logprobs");
        mw_json_open(w, '[');
        for (int k = 0; k < p.n_top; k++) {
            mw_json_open(w, '{');
            put_entry(c, &p.top[k], w);
            mw_json_close(w, '}');
        }
        mw_json_close(w, ']');
        mw_json_close(w, '}');
    }
    mw_json_close(w, ']');
    mw_json_close(w, '}');
}

/* ---- completions: four lists side by side ---- */

/* Characters that a token adds to the text: bytes that begin one; none of a special token, which is left out. */
static size_t characters(mw_call *c, int32_t id) {
    char *p = NULL, *text = NULL;
    size_t n = 0, n_text = 0, count = 0;
    if (mw_engine_token_piece(c->api->engine, id, &p, &n) == MW_OK &&
        mw_engine_detokenize(c->api->engine, &id, 1, true, &text, &n_text) == MW_OK && n_text > 0)
        for (size_t i = 0; i < n; i++) count += ((unsigned char)p[i] & 0xC0) != 0x80;
    free(p);
    free(text);
    return count;
}

static void put_top(mw_call *c, const position *p, mw_json_out *w) {
    if (!p->chosen) {
        mw_json_null(w);
        return;
    }
    mw_json_open(w, '{');
    bool seen = false;
    for (int k = 0; k < p->n_top; k++) {
        put_token(c, p->top[k].token, w);
        mw_json_plain(w, ":");
        mw_json_real(w, (double)p->top[k].logprob);
        seen |= p->top[k].token == p->token;
    }
    if (!seen) { /* the chosen one is always there */
        put_token(c, p->token, w);
        mw_json_plain(w, ":");
        mw_json_real(w, (double)p->chosen->logprob);
    }
    mw_json_close(w, '}');
}

static void completion_logprobs(mw_call *c, mw_choice *ch, const positions *list, mw_json_out *w) {
    mw_json_open(w, '{');
    mw_json_key(w, "text_offset");
    mw_json_open(w, '[');
    for (size_t i = 0; i < n_positions(list); i++) {
        mw_json_int(w, (int64_t)ch->offset);
        ch->offset += characters(c, get(list, i).token);
    }
    mw_json_close(w, ']');
    mw_json_key(w, "token_logprobs");
    mw_json_open(w, '[');
    for (size_t i = 0; i < n_positions(list); i++) {
        position p = get(list, i);
        if (p.chosen)
            mw_json_real(w, (double)p.chosen->logprob);
        else
            mw_json_null(w);
    }
    mw_json_close(w, ']');
    mw_json_key(w, "tokens");
    mw_json_open(w, '[');
    for (size_t i = 0; i < n_positions(list); i++) put_token(c, get(list, i).token, w);
    mw_json_close(w, ']');
    mw_json_key(w, "top_logprobs");
    mw_json_open(w, '[');
    for (size_t i = 0; i < n_positions(list); i++) {
        position p = get(list, i);
        put_top(c, &p, w);
    }
    mw_json_close(w, ']');
    mw_json_close(w, '}');
}

void mw_call_logprobs(mw_call *c, mw_choice *ch, const mw_delta *d, bool with_prompt, mw_json_out *w) {
    const positions list = {c, with_prompt ? mw_call_part(c, d->choice) : NULL, d};
    mw_json_key(w, "logprobs");
    if (c->sampling.logprobs < 0 || n_positions(&list) == 0)
        mw_json_null(w);
    else if (c->kind == MW_CALL_CHAT)
        chat_logprobs(c, &list, w);
    else
        completion_logprobs(c, ch, &list, w);
}
