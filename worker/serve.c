/* The engine thread's loop. Rank 0 decides: it admits requests, plans the step, tells the others, computes with them,
 * samples, and answers. The other ranks do what the plan says. */
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/engine_internal.h"

/* How old the ranks' figures may grow while steps run. */
#define REPORT_EVERY_S 1.0

/* What mw_engine_describe tells of the scheduler. Before the event that ends an answer, so that whoever has the event
 * sees the blocks back, and room in the queue for the n answers that have ended. */
static void publish(mw_engine *e, int n_ended) {
    pthread_mutex_lock(&e->lock);
    e->n_open -= n_ended;
    e->info.preemptions = e->sched.preemptions;
    e->info.running = e->sched.running.n;
    e->info.waiting = e->sched.waiting.n;
    e->info.kv_blocks_free = e->sched.kv.n_free;
    pthread_mutex_unlock(&e->lock);
}

/* ---- the end of an answer ---- */

static mw_status finish(mw_engine *e, mw_gen *g, const char *reason) {
    mw_status st = MW_OK;
    mw_str rest = {0};
    g->done = true;
    g->job->n_open--;
    if (g->scheduled) MW_TRY(st, mw_sched_remove(&e->sched, &g->seq));
    g->scheduled = false;
    if (strcmp(reason, "cancelled") != 0) MW_TRY(st, mw_answer_finish(&g->answer, &rest));
    publish(e, 1);
    MW_TRY(st, mw_emit_done(e, g, reason, &rest));
fail:
    mw_str_free(&rest);
    return st;
}

/* A request that cannot go on: its answers leave the scheduler, the user is told why. */
static mw_status fail_job(mw_engine *e, mw_job *j, mw_status why) {
    char text[MW_ERROR_TEXT_MAX];
    mw_status st = MW_OK;
    int n_ended = j->n_open;
    memcpy(text, mw_error_text(), sizeof text);
    for (int i = 0; i < j->sampling.n; i++) {
        mw_gen *g = &j->gen[i];
        if (g->scheduled && !g->done) MW_TRY(st, mw_sched_remove(&e->sched, &g->seq));
        g->scheduled = false;
        if (!g->done) g->done = true, j->n_open--;
    }
    publish(e, n_ended);
    st = mw_emit_error(e, j, why, text);
fail:
    return st;
}

static void drop_finished(mw_engine *e) {
    for (mw_job **at = &e->active; *at;) {
        mw_job *j = *at;
        if (j->n_open > 0) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        mw_job_free(j);
    }
}

/* ---- requests coming in ---- */

static void admit(mw_engine *e, mw_job *j) {
    j->next = e->active;
    e->active = j;
    for (int i = 0; i < j->sampling.n; i++) {
        j->gen[i].scheduled = true;
        mw_sched_add(&e->sched, &j->gen[i].seq);
    }
}

static mw_status cancel(mw_engine *e, uint64_t id) {
    mw_status st = MW_OK;
    for (mw_job *j = e->active; j; j = j->next)
        for (int i = 0; j->id == id && i < j->sampling.n; i++)
            if (!j->gen[i].done) MW_TRY(st, finish(e, &j->gen[i], "cancelled"));
fail:
    return st;
}

/* Requests whose time is up. */
static mw_status expire(mw_engine *e) {
    mw_status st = MW_OK;
    mw_seq *q;
    while ((q = mw_sched_expired(&e->sched, mw_now_s())) != NULL) {
        mw_gen *g = q->owner;
        st = MW_FAIL(MW_ERR_TIMEOUT, "the request was not done within its %g s: answer %d has %zu tokens",
                     g->job->deadline_s, g->index, q->tokens.n - q->n_prompt);
        MW_TRY(st, fail_job(e, g->job, st));
    }
fail:
    return st;
}

/* Everybody idle, and figures that stay true until the next step. */
static mw_status tell_idle(mw_engine *e) {
    mw_status st = MW_OK;
    mw_step_head h = {.kind = MW_STEP_IDLE, .report = true};
    MW_TRY(st, mw_comm_bcast(e->comm, &h, sizeof h, 0, false));
    MW_TRY(st, mw_engine_share_stats(e));
    e->told_idle = true;
fail:
    return st;
}

/* Take what the callers have left. Sleeps while there is nothing at all to do, and tells the others so. *closing: time
 * to end. */
static mw_status take_orders(mw_engine *e, bool *closing) {
    mw_status st = MW_OK;
    pthread_mutex_lock(&e->lock);
    bool idle = !e->closing && !e->submitted && e->n_cancel == 0 && !e->active;
    pthread_mutex_unlock(&e->lock);
    if (idle && !e->told_idle && (st = tell_idle(e)) != MW_OK) return st;
    pthread_mutex_lock(&e->lock);
    while (!e->closing && !e->submitted && e->n_cancel == 0 && !e->active) pthread_cond_wait(&e->to_engine, &e->lock);
    mw_job *jobs = e->submitted;
    uint64_t *ids = e->cancel;
    size_t n_ids = e->n_cancel;
    e->submitted = NULL;
    e->submitted_tail = &e->submitted;
    e->cancel = NULL;
    e->n_cancel = e->cap_cancel = 0;
    *closing = e->closing;
    pthread_mutex_unlock(&e->lock);
    while (jobs) {
        mw_job *next = jobs->next;
        admit(e, jobs);
        jobs = next;
    }
    for (size_t i = 0; i < n_ids && st == MW_OK; i++) st = cancel(e, ids[i]);
    free(ids);
    return st == MW_OK ? expire(e) : st;
}

/* ---- logits coming out ---- */

/* Log-probabilities of the prompt token that follows row `pos`. */
static mw_status score_row(mw_engine *e, mw_gen *g, size_t pos, const float *row) {
    mw_job *j = g->job;
    int k = j->sampling.prompt_logprobs;
    if (!j->prompt_lp || pos + 1 >= g->seq.n_prompt) return MW_OK;
    mw_token_logprob *top = j->prompt_top + pos * (size_t)(k ? k : 1);
    mw_position_logprobs *lp = &j->prompt_lp[pos];
    *lp = (mw_position_logprobs){.top = top, .n_top = k};
    return mw_logprobs(row, (int)e->cfg.vocab, g->seq.tokens.p[pos + 1], &lp->chosen, top, k);
}

static bool is_stop_id(const mw_engine *e, const mw_sampling *s, int32_t token) {
    for (int i = 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] == token) return true;
    for (int i = 0; i < e->cfg.n_eos && !s->ignore_eos; i++)
        if (e->cfg.eos_id[i] == token) return true;
    return false;
}

/* One new token: into the sequence, its text to the user. *reason: why the answer ends here, or NULL. */
static mw_status take_token(mw_engine *e, mw_gen *g, int32_t token, const mw_position_logprobs *lp,
                            const char **reason) {
    mw_status st = MW_OK;
    mw_job *j = g->job;
    mw_str text = {0};
    *reason = NULL;
    if (j->first_token_s == 0) j->first_token_s = mw_now_s();
    MW_TRY(st, mw_ids_add(&g->seq.tokens, token));
    size_t made = g->seq.tokens.n - g->seq.n_prompt;
    if (is_stop_id(e, &j->sampling, token))
        *reason = "stop"; /* the id is reported, its text is not */
    else
        MW_TRY(st, mw_answer_push(&g->answer, token, &text));
    if (g->answer.stopped) *reason = "stop";
    if (!*reason && ((j->sampling.max_tokens >= 0 && made >= (size_t)j->sampling.max_tokens) ||
                     g->seq.tokens.n >= (size_t)e->info.ctx))
        *reason = "length";
    MW_TRY(st, mw_emit_token(e, g, token, &text, lp));
fail:
    mw_str_free(&text);
    return st;
}

static mw_status sample_row(mw_engine *e, mw_gen *g, const float *row, const char **reason) {
    mw_status st = MW_OK;
    const mw_sampling *s = &g->job->sampling;
    mw_token_logprob *top = NULL;
    mw_position_logprobs lp = {.n_top = s->logprobs > 0 ? s->logprobs : 0};
    int32_t token;
    MW_TRY(st, mw_sample(&e->sampler, s, g->seed, row, g->seq.tokens.p, g->seq.tokens.n, g->seq.n_prompt, &token));
    if (s->logprobs >= 0) {
        MW_TRY(st, MW_CALLOC(&top, (size_t)lp.n_top, "log-probabilities"));
        lp.top = top;
        MW_TRY(st, mw_logprobs(row, (int)e->cfg.vocab, token, &lp.chosen, top, lp.n_top));
    }
    MW_TRY(st, take_token(e, g, token, s->logprobs >= 0 ? &lp : NULL, reason));
fail:
    free(top);
    return st;
}

/* What one logit row means for its sequence. Scheduling changes wait until the step is over: only marks are made. */
typedef struct {
    const char *reason; /* the answer ended */
    mw_status failed;   /* this request failed; `text` says why */
    char text[MW_ERROR_TEXT_MAX];
} outcome;

typedef struct {
    mw_engine *e;
    outcome *out; /* [n_plan] */
} rows_ctx;

static void note_failure(outcome *o, mw_status st) {
    if (st == MW_OK) return;
    o->failed = st;
    memcpy(o->text, mw_error_text(), sizeof o->text);
}

static mw_status on_logits(void *arg, const float *rows, size_t ld, int first, int n) {
    rows_ctx *c = arg;
    mw_engine *e = c->e;
    for (int i = 0; i < e->sched.n_plan; i++) {
        mw_planned *p = &e->sched.plan[i];
        mw_gen *g = p->seq->owner;
        outcome *o = &c->out[i];
        for (int l = 0; l < p->n_logits && o->failed == MW_OK; l++) {
            int at = p->first_logit + l;
            if (at < first || at >= first + n) continue;
            const float *row = rows + (size_t)(at - first) * ld;
            size_t pos = p->seq->n_cached + (size_t)(p->n_rows - p->n_logits + l);
            mw_status st = p->seq->score_prompt ? score_row(e, g, pos, row) : MW_OK;
            bool samples = p->samples && l == p->n_logits - 1 && g->job->sampling.max_tokens != 0;
            if (st == MW_OK && samples) st = sample_row(e, g, row, &o->reason);
            note_failure(o, st);
        }
    }
    return MW_OK;
}

/* The same for a greedy step: one row a sequence, and its best token is all there is to know. */
static mw_status on_tokens(void *arg, const int32_t *token, int first, int n) {
    rows_ctx *c = arg;
    mw_engine *e = c->e;
    for (int i = 0; i < e->sched.n_plan; i++) {
        mw_planned *p = &e->sched.plan[i];
        mw_gen *g = p->seq->owner;
        int at = p->first_logit;
        if (p->n_logits == 0 || at < first || at >= first + n || g->job->sampling.max_tokens == 0) continue;
        mw_status st = MW_OK;
        if (token[at - first] < 0)
            st = MW_FAIL(MW_ERR_NUMERIC, "a logit is NaN or infinite");
        else
            st = take_token(e, g, token[at - first], NULL, &c->out[i].reason);
        note_failure(&c->out[i], st);
    }
    return MW_OK;
}

/* Does every row that the step's logits are wanted for go to its best token, with nothing else asked of it? */
static bool is_greedy(const mw_scheduler *s) {
    for (int i = 0; i < s->n_plan; i++) {
        const mw_planned *p = &s->plan[i];
        const mw_gen *g = p->seq->owner;
        if (p->n_logits > 0 && (p->seq->score_prompt || !mw_sampling_is_argmax(&g->job->sampling))) return false;
    }
    return true;
}

/* After the step: prompt scores go out, ended answers leave. */
static mw_status settle(mw_engine *e, outcome *out, const mw_planned *plan, int n_plan) {
    mw_status st = MW_OK;
    for (int i = 0; i < n_plan; i++) {
        mw_gen *g = plan[i].seq->owner;
        mw_job *j = g->job;
        if (g->done) continue; /* its request failed through another answer */
        if (out[i].failed != MW_OK) {
            mw_error_set_text(out[i].text);
            MW_TRY(st, fail_job(e, j, out[i].failed));
            continue;
        }
        bool prompt_done = g->seq.n_cached >= g->seq.n_prompt;
        if (j->prompt_lp && g->seq.score_prompt && prompt_done) MW_TRY(st, mw_emit_prompt(e, g));
        if (prompt_done && j->sampling.max_tokens == 0) out[i].reason = "length";
        if (out[i].reason) MW_TRY(st, finish(e, g, out[i].reason));
    }
fail:
    return st;
}

static void count_step(mw_engine *e, double seconds, int prompt_rows, int new_tokens) {
    pthread_mutex_lock(&e->lock);
    mw_engine_info *i = &e->info;
    i->steps++;
    i->step_s += seconds;
    i->wait_s += mw_comm_wait_s(e->comm);
    i->prompt_tokens += (uint64_t)prompt_rows;
    i->output_tokens += (uint64_t)new_tokens;
    pthread_mutex_unlock(&e->lock);
}

/* Plan, tell, compute, answer. */
static mw_status one_step(mw_engine *e) {
    mw_status st = MW_OK;
    outcome *out = NULL;
    mw_planned *plan = NULL;
    double start = mw_now_s();
    MW_TRY(st, mw_sched_plan(&e->sched, &e->step));
    if (e->step.h.n_tokens == 0) return MW_OK;
    int n_plan = e->sched.n_plan, prompt_rows = 0, sampled = 0;
    MW_TRY(st, MW_CALLOC(&out, (size_t)n_plan, "step outcome"));
    MW_TRY(st, MW_CALLOC(&plan, (size_t)n_plan, "step outcome"));
    memcpy(plan, e->sched.plan, (size_t)n_plan * sizeof *plan);
    for (int i = 0; i < n_plan; i++) {
        prompt_rows += plan[i].n_rows > 1 || plan[i].seq->n_cached < plan[i].seq->n_prompt ? plan[i].n_rows : 0;
        sampled += plan[i].samples;
        mw_gen *g = plan[i].seq->owner;
        if (g->started_s == 0) g->started_s = start;
    }
    e->told_idle = false;
    e->step.h.greedy = is_greedy(&e->sched);
    e->step.h.report = start - e->gathered_s >= REPORT_EVERY_S;
    MW_TRY(st, mw_comm_bcast(e->comm, &e->step.h, sizeof e->step.h, 0, false));
    MW_TRY(st, mw_comm_bcast(e->comm, e->step.data, e->step.words * sizeof *e->step.data, 0, false));
    rows_ctx ctx = {e, out};
    const mw_step_sink sink = {&ctx, on_logits, on_tokens};
    MW_TRY(st, mw_model_step(e->model, &e->step, &sink));
    mw_sched_done(&e->sched);
    count_step(e, mw_now_s() - start, prompt_rows, sampled);
    if (e->step.h.report) {
        MW_TRY(st, mw_engine_share_stats(e));
        e->gathered_s = start;
    }
    publish(e, 0);
    MW_TRY(st, settle(e, out, plan, n_plan));
fail:
    free(out);
    free(plan);
    return st;
}

mw_status mw_engine_serve(mw_engine *e) {
    mw_status st = MW_OK;
    bool closing = false;
    for (;;) {
        MW_TRY(st, take_orders(e, &closing));
        if (closing) break;
        MW_TRY(st, one_step(e));
        drop_finished(e);
    }
    mw_step_head stop = {.kind = MW_STEP_STOP};
    MW_TRY(st, mw_comm_bcast(e->comm, &stop, sizeof stop, 0, false));
    return MW_OK;
fail:
    mw_comm_poison(e->comm, st);
    return st;
}

mw_status mw_engine_follow_steps(mw_engine *e) {
    mw_status st = MW_OK;
    bool idle = true;
    for (;;) {
        mw_step_head h;
        MW_TRY(st, mw_comm_bcast(e->comm, &h, sizeof h, 0, idle));
        if (h.kind == MW_STEP_STOP) return MW_OK;
        idle = h.kind == MW_STEP_IDLE;
        if (idle && h.report) MW_TRY(st, mw_engine_share_stats(e));
        if (idle) continue;
        MW_TRY(st, mw_step_layout(&e->step, &h));
        MW_TRY(st, mw_comm_bcast(e->comm, e->step.data, e->step.words * sizeof *e->step.data, 0, false));
        double start = mw_now_s();
        MW_TRY(st, mw_model_step(e->model, &e->step, NULL));
        count_step(e, mw_now_s() - start, 0, 0);
        if (h.report) MW_TRY(st, mw_engine_share_stats(e));
    }
fail:
    mw_comm_poison(e->comm, st);
    return st;
}
