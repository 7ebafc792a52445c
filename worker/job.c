#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "worker/base/clock.h"
#include "worker/engine_internal.h"

/* Entries of all positions of a prompt together, 8 bytes each: one request must not take a rank's memory. */
#define MAX_PROMPT_LOGPROBS (4 << 20)

/* ---- requests ---- */

static mw_status copy_array(void **out, const void *src, size_t n, size_t size) {
    *out = NULL;
    if (n == 0) return MW_OK;
    mw_status st = mw_calloc(out, n, size, "request");
    if (st == MW_OK) memcpy(*out, src, n * size);
    return st;
}

/* Stop strings are kept by the answers; the other arrays by the job. */
static mw_status copy_sampling(mw_job *j, const mw_sampling *s) {
    mw_status st = MW_OK;
    void *ids = NULL, *bias = NULL;
    j->sampling = *s;
    j->sampling.stop = NULL;
    j->sampling.stop_ids = NULL;
    j->sampling.bias = NULL;
    j->sampling.schema = NULL; /* compiled before submit returns */
    MW_TRY(st, copy_array(&ids, s->stop_ids, (size_t)s->n_stop_ids, sizeof *s->stop_ids));
    j->sampling.stop_ids = ids;
    MW_TRY(st, copy_array(&bias, s->bias, (size_t)s->n_bias, sizeof *s->bias));
    j->sampling.bias = bias;
    if (!s->has_seed && getrandom(&j->sampling.seed, sizeof j->sampling.seed, 0) != sizeof j->sampling.seed)
        st = MW_FAIL(MW_ERR_IO, "getrandom failed");
fail:
    return st;
}

static mw_status load_json(const char *name, const char *text, json_t **out) {
    json_error_t err;
    *out = text ? json_loads(text, JSON_REJECT_DUPLICATES, &err) : NULL;
    if (text && !*out) return MW_FAIL(MW_ERR_USAGE, "%s: line %d, column %d: %s", name, err.line, err.column, err.text);
    return MW_OK;
}

mw_status mw_chat_ids(mw_engine *e, const mw_request *r, bool add_generation_prompt, mw_ids *ids) {
    mw_status st = MW_OK;
    const char *why;
    json_t *messages = NULL, *tools = NULL, *extra = NULL;
    mw_str chat = {0};
    if (!mw_engine_can_chat(e, &why)) return MW_FAIL(MW_ERR_UNSUPPORTED, "chat is not possible: %s", why);
    MW_TRY(st, load_json("messages", r->messages_json, &messages));
    MW_TRY(st, load_json("tools", r->tools_json, &tools));
    if (tools && !json_is_array(tools)) {
        st = MW_FAIL(MW_ERR_USAGE, "tools: expected an array of objects");
        goto fail;
    }
    MW_TRY(st, load_json("template variables", r->template_json, &extra));
    MW_TRY(st, mw_chat_render(e->chat, messages, tools, add_generation_prompt, extra, &chat));
    /* templates write the special tokens themselves */
    MW_TRY(st, mw_tokenizer_encode(e->tokenizer, chat.p ? chat.p : "", chat.n, MW_TOK_PARSE_SPECIAL, ids));
fail:
    json_decref(messages);
    json_decref(tools);
    json_decref(extra);
    mw_str_free(&chat);
    return st;
}

/* The prompt's ids, from whichever form the request has. */
static mw_status prompt_ids(mw_engine *e, const mw_request *r, mw_ids *ids) {
    mw_status st = MW_OK;
    if ((r->text != NULL) + (r->ids != NULL) + (r->messages_json != NULL) != 1)
        return MW_FAIL(MW_ERR_USAGE, "a request has exactly one of text, token ids and messages");
    if (r->tools_json && !r->messages_json) return MW_FAIL(MW_ERR_USAGE, "tools go with messages only");
    if (!r->ids && !e->tokenizer)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s has no tokenizer: give the prompt as token ids", e->opt.model);
    if (r->ids) {
        for (size_t i = 0; i < r->n_ids; i++)
            if (r->ids[i] < 0 || r->ids[i] >= e->cfg.vocab)
                return MW_FAIL(MW_ERR_USAGE, "prompt token %zu is %d, expected 0 to %lld", i, r->ids[i],
                               (long long)e->cfg.vocab - 1);
        MW_TRY(st, mw_ids_append(ids, r->ids, r->n_ids));
    } else if (r->text) {
        MW_TRY(st, mw_tokenizer_encode(e->tokenizer, r->text, r->text_len, MW_TOK_ADD_SPECIAL, ids));
    } else {
        MW_TRY(st, mw_chat_ids(e, r, true, ids));
    }
    for (size_t i = 0; i < ids->n; i++)
        if (ids->p[i] >= e->cfg.vocab)
            return MW_FAIL(MW_ERR_FORMAT, "the tokenizer gives id %d, but the model's vocabulary ends at %lld",
                           ids->p[i], (long long)e->cfg.vocab - 1);
    if (ids->n == 0) st = MW_FAIL(MW_ERR_USAGE, "the prompt is empty (no tokens)");
fail:
    return st;
}

static mw_status check_room(const mw_engine *e, const mw_sampling *s, size_t n_prompt) {
    size_t ctx = (size_t)e->info.ctx, least = n_prompt + (s->max_tokens != 0);
    if (least <= ctx) return MW_OK;
    return MW_FAIL(MW_ERR_LIMIT, "the prompt has %zu tokens, the context holds %zu%s", n_prompt, ctx,
                   n_prompt == ctx ? " and leaves no room for an answer" : "");
}

/* Every answer of a constrained request begins at the schema's beginning. */
static mw_status constrain(mw_engine *e, const mw_sampling *s, mw_job *j) {
    mw_constraint *c = NULL;
    if (s->format == MW_FORMAT_TEXT || s->max_tokens == 0) return MW_OK;
    if (!e->grammar) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s has no tokenizer: no JSON answers", e->opt.model);
    mw_status st = mw_grammar_compile(e->grammar, s->format == MW_FORMAT_JSON_SCHEMA ? s->schema : NULL, &c);
    for (int i = 0; i < s->n && st == MW_OK; i++) st = mw_constraint_begin(c, &j->gen[i].json);
    mw_constraint_release(c);
    return st;
}

static mw_status prepare_scoring(mw_job *j, size_t n_prompt) {
    mw_status st = MW_OK;
    int k = j->sampling.prompt_logprobs;
    if (k < 0) return MW_OK;
    if (n_prompt * (size_t)(k + 1) > MAX_PROMPT_LOGPROBS)
        return MW_FAIL(MW_ERR_LIMIT, "%d prompt_logprobs at each of %zu positions: more than %d in all", k, n_prompt,
                       MAX_PROMPT_LOGPROBS);
    MW_TRY(st, MW_CALLOC(&j->prompt_lp, n_prompt, "prompt log-probabilities"));
    MW_TRY(st, MW_CALLOC(&j->prompt_top, n_prompt * (size_t)(k ? k : 1), "prompt log-probabilities"));
fail:
    return st;
}

mw_status mw_job_new(mw_job **out, mw_engine *e, const mw_request *r) {
    mw_status st = MW_OK;
    mw_job *j = NULL;
    mw_ids ids = {0};
    const mw_sampling *s = &r->sampling;
    if (!(r->deadline_s >= 0) || isinf(r->deadline_s))
        return MW_FAIL(MW_ERR_USAGE, "deadline of %g s: expected a number from 0", r->deadline_s);
    MW_TRY(st, mw_sampling_check(s, (int)e->cfg.vocab));
    MW_TRY(st, prompt_ids(e, r, &ids));
    MW_TRY(st, check_room(e, s, ids.n));
    size_t ctx = (size_t)e->info.ctx, most = s->max_tokens < 0 ? ctx : ids.n + (size_t)s->max_tokens;
    if (most > ctx) most = ctx;
    MW_TRY(st, MW_CALLOC(&j, 1, "request"));
    MW_TRY(st, copy_sampling(j, s));
    MW_TRY(st, prepare_scoring(j, ids.n));
    MW_TRY(st, MW_CALLOC(&j->gen, (size_t)s->n, "answers"));
    j->submitted_s = mw_now_s();
    j->deadline_s = r->deadline_s;
    for (int i = 0; i < s->n; i++) {
        mw_gen *g = &j->gen[i];
        g->job = j;
        g->index = i;
        g->seed = j->sampling.seed + (uint64_t)i;
        g->seq.owner = g;
        g->seq.n_prompt = ids.n;
        g->seq.max_tokens = most;
        g->seq.client = r->client;
        g->seq.deadline_s = r->deadline_s > 0 ? j->submitted_s + r->deadline_s : 0;
        g->seq.score_prompt = i == 0 && j->prompt_lp;
        MW_TRY(st, mw_ids_append(&g->seq.tokens, ids.p, ids.n));
        MW_TRY(st, mw_answer_init(&g->answer, e->tokenizer, s->stop, s->n_stop));
        j->n_open++;
    }
    MW_TRY(st, constrain(e, s, j));
    j->user = r->user;
    *out = j;
    j = NULL;
fail:
    mw_ids_free(&ids);
    mw_job_free(j);
    return st;
}

mw_job **mw_job_place(mw_engine *e, uint64_t id) {
    mw_job **at = &e->jobs[id % MW_JOB_BUCKETS];
    while (*at && (*at)->id != id) at = &(*at)->next;
    return at;
}

void mw_job_free(mw_job *j) {
    if (!j) return;
    for (int i = 0; j->gen && i < j->sampling.n; i++) {
        mw_ids_free(&j->gen[i].seq.tokens);
        free(j->gen[i].seq.block);
        mw_answer_free(&j->gen[i].answer);
        mw_constraint_free(&j->gen[i].json);
    }
    free(j->gen);
    free((void *)j->sampling.stop_ids);
    free((void *)j->sampling.bias);
    free(j->prompt_lp);
    free(j->prompt_top);
    free(j);
}

/* ---- events ---- */

static mw_status new_node(mw_event_node **out, mw_event_type type, const mw_job *j, int index, const char *text,
                          size_t n) {
    mw_event_node *node = NULL;
    mw_status st = mw_calloc((void **)&node, 1, sizeof *node + n + 1, "event"); /* the text behind it */
    if (st != MW_OK) return st;
    if (n) memcpy(node->text, text, n);
    node->ev = (mw_event){
        .type = type, .id = j->id, .user = j->user, .index = index, .text = node->text, .text_len = n, .owner = node};
    *out = node;
    return MW_OK;
}

static void queue_event(mw_engine *e, mw_event_node *node) {
    node->ev.made_s = mw_now_s();
    *e->fresh_tail = node;
    e->fresh_tail = &node->next;
}

void mw_event_node_free(mw_event_node *node) {
    if (!node) return;
    free((void *)node->lp.top);
    free(node->prompt_lp);
    free(node->prompt_top);
    free(node);
}

mw_status mw_emit_token(mw_engine *e, mw_gen *g, int32_t token, const mw_str *text, const mw_position_logprobs *lp) {
    mw_status st = MW_OK;
    mw_event_node *node = NULL;
    MW_TRY(st, new_node(&node, MW_EVENT_TOKEN, g->job, g->index, text->p, text->n));
    node->ev.token = token;
    if (lp) {
        void *top = NULL;
        MW_TRY(st, copy_array(&top, lp->top, (size_t)lp->n_top, sizeof *lp->top));
        node->lp = (mw_position_logprobs){lp->chosen, top, lp->n_top};
        node->ev.logprobs = &node->lp;
    }
    queue_event(e, node);
    return MW_OK;
fail:
    mw_event_node_free(node);
    return st;
}

mw_status mw_emit_prompt(mw_engine *e, mw_gen *g) {
    mw_event_node *node = NULL;
    mw_status st = new_node(&node, MW_EVENT_PROMPT, g->job, g->index, "", 0);
    if (st != MW_OK) return st;
    node->prompt_lp = g->job->prompt_lp; /* handed over: the job needs them no more */
    node->prompt_top = g->job->prompt_top;
    node->ev.logprobs = node->prompt_lp;
    node->ev.n_positions = g->seq.n_prompt - 1;
    g->job->prompt_lp = NULL;
    g->job->prompt_top = NULL;
    queue_event(e, node);
    return MW_OK;
}

mw_status mw_emit_done(mw_engine *e, mw_gen *g, const char *reason, const mw_str *text) {
    mw_event_node *node = NULL;
    mw_status st = new_node(&node, MW_EVENT_DONE, g->job, g->index, text->p, text->n);
    if (st != MW_OK) return st;
    double now = mw_now_s();
    node->ev.finish_reason = reason;
    node->ev.prompt_tokens = g->seq.n_prompt;
    node->ev.output_tokens = g->seq.tokens.n - g->seq.n_prompt;
    node->ev.ttft_s = g->job->first_token_s > 0 ? g->job->first_token_s - g->job->submitted_s : 0;
    node->ev.cached_tokens = g->seq.n_reused;
    node->ev.total_s = now - g->job->submitted_s;
    node->ev.queue_s = (g->started_s > 0 ? g->started_s : now) - g->job->submitted_s;
    queue_event(e, node);
    return MW_OK;
}

mw_status mw_emit_error(mw_engine *e, const mw_job *j, mw_status status, const char *text) {
    mw_event_node *node = NULL;
    mw_status st = new_node(&node, MW_EVENT_ERROR, j, 0, text, strlen(text));
    if (st != MW_OK) return st;
    node->ev.status = status;
    queue_event(e, node);
    return MW_OK;
}
