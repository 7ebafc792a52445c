/* The engine thread's loop. Rank 0 decides: it admits requests, plans the step, tells the others, computes with them,
 * samples, and answers. The other ranks do what the plan says. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/engine_internal.h"

/* How old the ranks' figures may grow while steps run. */
#define REPORT_EVERY_S 1.0
/* How long an idle rank 0 may not know that another rank has ended. */
#define IDLE_LOOK_NS 500000000

/* Behind a step of more rows nothing is planned before it ends: it takes so long that the pause for planning does not
 * count, and a request that comes meanwhile shall be in the next step. */
#define OVERLAP_ROWS 512

/* What mw_engine_describe tells of the scheduler, and the events that have come up, to the callers. Together, so that
 * whoever has the event that ends an answer sees its blocks back, and room in the queue. */
static void publish(mw_engine *e) {
    const mw_scheduler *s = &e->sched;
    pthread_mutex_lock(&e->lock);
    mw_engine_info *i = &e->info;
    e->n_open -= e->n_ended;
    e->n_ended = 0;
    i->preemptions = s->preemptions;
    i->prefix_query_tokens = s->prefix_query_tokens;
    i->prefix_hit_tokens = s->prefix_hit_tokens;
    i->running = s->running.n;
    i->waiting = mw_sched_n_waiting(s);
    i->kv_blocks_free = s->kv.n_free;
    i->kv_blocks_cached = s->kv.n_cached;
    if (e->fresh) {
        *e->events_tail = e->fresh;
        e->events_tail = e->fresh_tail;
        e->fresh = NULL;
        e->fresh_tail = &e->fresh;
        pthread_cond_broadcast(&e->to_caller);
    }
    pthread_mutex_unlock(&e->lock);
}

/* ---- the end of an answer ---- */

static mw_status leave(mw_engine *e, mw_gen *g) {
    if (g->done) return MW_OK;
    g->done = true;
    e->n_ended++;
    if (--g->job->n_open == 0) { /* freed when nobody is in the middle of it */
        mw_job **at = mw_job_place(e, g->job->id);
        *at = g->job->next;
        g->job->next = e->ended;
        e->ended = g->job;
        e->n_jobs--;
    }
    return mw_sched_remove(&e->sched, &g->seq);
}

static mw_status finish(mw_engine *e, mw_gen *g, const char *reason) {
    mw_status st = MW_OK;
    mw_str rest = {0};
    MW_TRY(st, leave(e, g));
    if (strcmp(reason, "cancelled") != 0) MW_TRY(st, mw_answer_finish(&g->answer, &rest));
    MW_TRY(st, mw_emit_done(e, g, reason, &rest));
fail:
    mw_str_free(&rest);
    return st;
}

/* A request that cannot go on: its answers leave the scheduler, the user is told why. */
static mw_status fail_job(mw_engine *e, mw_job *j, mw_status why) {
    char text[MW_ERROR_TEXT_MAX];
    mw_status st = MW_OK;
    memcpy(text, mw_error_text(), sizeof text);
    for (int i = 0; i < j->sampling.n; i++) MW_TRY(st, leave(e, &j->gen[i]));
    st = mw_emit_error(e, j, why, text);
fail:
    return st;
}

static void drop_finished(mw_engine *e) {
    while (e->ended) {
        mw_job *j = e->ended;
        e->ended = j->next;
        mw_job_free(j);
    }
}

/* ---- requests coming in ---- */

static mw_status admit(mw_engine *e, mw_job *j) {
    mw_status st = MW_OK;
    mw_job **at = mw_job_place(e, j->id);
    j->next = *at;
    *at = j;
    e->n_jobs++;
    for (int i = 0; i < j->sampling.n; i++) MW_TRY(st, mw_sched_add(&e->sched, &j->gen[i].seq));
fail:
    return st;
}

static mw_status cancel(mw_engine *e, uint64_t id) {
    mw_status st = MW_OK;
    mw_job *j = *mw_job_place(e, id);
    for (int i = 0; j && i < j->sampling.n; i++)
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

/* Until a caller has something for the engine, or for a while: a rank that ends while all are idle is to be noticed
 * when it does, not at the next request. Under the lock, which is open meanwhile. */
static mw_status sleep_a_while(mw_engine *e) {
    struct timespec until;
    if (e->size == 1) {
        pthread_cond_wait(&e->to_engine, &e->lock);
        return MW_OK;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += IDLE_LOOK_NS;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    if (pthread_cond_timedwait(&e->to_engine, &e->lock, &until) != ETIMEDOUT) return MW_OK;
    pthread_mutex_unlock(&e->lock);
    mw_status st = mw_comm_look(e->comm);
    pthread_mutex_lock(&e->lock);
    return st;
}

/* Take what the callers have left. Sleeps while there is nothing at all to do, and tells the others so. *closing: time
 * to end. */
static mw_status take_orders(mw_engine *e, bool *closing) {
    mw_status st = MW_OK;
    pthread_mutex_lock(&e->lock);
    bool busy = e->n_jobs > 0 || e->sched.n_open > 0, idle = !busy && !e->closing && !e->submitted && e->n_cancel == 0;
    pthread_mutex_unlock(&e->lock);
    if (idle && !e->told_idle && (st = tell_idle(e)) != MW_OK) return st;
    pthread_mutex_lock(&e->lock);
    while (!busy && !e->closing && !e->submitted && e->n_cancel == 0 && st == MW_OK) st = sleep_a_while(e);
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
        if (st == MW_OK)
            st = admit(e, jobs);
        else
            mw_job_free(jobs);
        jobs = next;
    }
    for (size_t i = 0; i < n_ids && st == MW_OK; i++) st = cancel(e, ids[i]);
    free(ids);
    if (st == MW_OK) st = expire(e);
    publish(e);
    return st;
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

/* One new token: into the sequence, its text to the user; perhaps the last one. */
static mw_status take_token(mw_engine *e, mw_gen *g, int32_t token, const mw_position_logprobs *lp) {
    mw_status st = MW_OK;
    mw_job *j = g->job;
    mw_str *text = &e->token_text;
    const char *reason = NULL; /* the answer ends here */
    text->n = 0;
    if (j->first_token_s == 0) j->first_token_s = mw_now_s();
    MW_TRY(st, mw_sched_token(&g->seq, token));
    if (is_stop_id(e, &j->sampling, token))
        reason = "stop"; /* the id is reported, its text is not */
    else
        MW_TRY(st, mw_answer_push(&g->answer, token, text));
    if (g->json.c) MW_TRY(st, mw_constraint_accept(&g->json, token));
    if (g->answer.stopped || g->json.exhausted) reason = "stop";
    if (!reason && g->seq.tokens.n >= g->seq.max_tokens) reason = "length";
    MW_TRY(st, mw_emit_token(e, g, token, text, lp));
    if (reason) MW_TRY(st, finish(e, g, reason));
fail:
    return st;
}

static mw_status sample_row(mw_engine *e, mw_gen *g, const float *row) {
    mw_status st = MW_OK;
    const mw_sampling *s = &g->job->sampling;
    mw_token_logprob *top = NULL;
    mw_position_logprobs lp = {.n_top = s->logprobs > 0 ? s->logprobs : 0};
    const uint32_t *mask = g->json.c ? e->mask : NULL;
    int32_t token;
    if (mask) MW_TRY(st, mw_constraint_mask(&g->json, !s->ignore_eos, e->mask));
    MW_TRY(st,
           mw_sample(&e->sampler, s, g->seed, row, g->seq.tokens.p, g->seq.tokens.n, g->seq.n_prompt, mask, &token));
    if (s->logprobs >= 0) {
        MW_TRY(st, MW_CALLOC(&top, (size_t)lp.n_top, "log-probabilities"));
        lp.top = top;
        MW_TRY(st, mw_logprobs(row, (int)e->cfg.vocab, token, &lp.chosen, top, lp.n_top));
    }
    MW_TRY(st, take_token(e, g, token, s->logprobs >= 0 ? &lp : NULL));
fail:
    free(top);
    return st;
}

/* One row of logits of a part: position `pos` of its sequence. */
static mw_status take_row(mw_engine *e, const mw_planned *p, size_t pos, const float *row) {
    mw_status st = MW_OK;
    mw_gen *g = p->seq->owner;
    bool scored = p->seq->score_prompt && g->job->prompt_lp;
    if (scored) MW_TRY(st, score_row(e, g, pos, row));
    if (scored && pos + 1 == g->seq.n_prompt) MW_TRY(st, mw_emit_prompt(e, g));
    if (p->samples && pos + 1 == p->first_pos + (size_t)p->n_rows) st = sample_row(e, g, row);
fail:
    return st;
}

/* A failure that concerns one request alone: the others go on. */
static mw_status contain(mw_engine *e, const mw_planned *p, mw_status st) {
    return st == MW_OK || !p->seq ? st : fail_job(e, ((mw_gen *)p->seq->owner)->job, st);
}

static mw_status on_logits(void *arg, const float *rows, size_t ld, int first, int n) {
    mw_engine *e = arg;
    mw_status st = MW_OK;
    const mw_open_step *o = mw_sched_oldest(&e->sched);
    for (int i = 0; i < o->n; i++) {
        const mw_planned *p = &o->part[i];
        for (int l = 0; l < p->n_logits && p->seq; l++) { /* an answer that ends takes itself out of the part */
            int at = p->first_logit + l;
            if (at < first || at >= first + n) continue;
            size_t pos = p->first_pos + (size_t)(p->n_rows - p->n_logits + l);
            MW_TRY(st, contain(e, p, take_row(e, p, pos, rows + (size_t)(at - first) * ld)));
        }
    }
fail:
    return st;
}

/* The same where the devices have chosen: one row a sequence, and its token is all there is to know. */
static mw_status on_tokens(void *arg, const int32_t *token, int first, int n) {
    mw_engine *e = arg;
    mw_status st = MW_OK;
    const mw_open_step *o = mw_sched_oldest(&e->sched);
    for (int i = 0; i < o->n; i++) {
        const mw_planned *p = &o->part[i];
        int at = p->first_logit - first;
        if (!p->seq || !p->samples || at < 0 || at >= n) continue;
        if (token[at] < 0)
            st = MW_FAIL(MW_ERR_NUMERIC, "a logit is NaN or infinite");
        else
            st = take_token(e, p->seq->owner, token[at], NULL);
        MW_TRY(st, contain(e, p, st));
    }
fail:
    return st;
}

/* Where the tokens of a step can be chosen: on the devices, when a row is all that a choice needs. */
static mw_step_choice choice_of(const mw_open_step *o) {
    mw_step_choice c = MW_CHOOSE_BEST;
    for (int i = 0; i < o->n; i++) {
        const mw_planned *p = &o->part[i];
        const mw_sampling *s = &((const mw_gen *)p->seq->owner)->job->sampling;
        if (p->n_logits == 0) continue;
        bool scored = p->seq->score_prompt && p->first_pos < p->seq->n_prompt;
        if (scored || !mw_sampling_on_device(s)) return MW_CHOOSE_HOST;
        if (!mw_sampling_is_argmax(s)) c = MW_CHOOSE_DRAW;
    }
    return c;
}

static mw_status fill_draws(mw_step *step, const mw_open_step *o) {
    mw_status st = mw_step_add_draws(step);
    for (int i = 0; i < o->n && st == MW_OK; i++) {
        const mw_planned *p = &o->part[i];
        const mw_gen *g = p->seq->owner;
        if (p->samples)
            mw_sampling_draw(&g->job->sampling, g->seed, p->first_pos + (size_t)p->n_rows, &step->draw[p->first_logit]);
    }
    return st;
}

/* Requests for nothing but the prompt end with its last row. */
static mw_status end_prompts(mw_engine *e, const mw_open_step *o) {
    mw_status st = MW_OK;
    for (int i = 0; i < o->n; i++) {
        const mw_planned *p = &o->part[i];
        if (p->seq && p->seq->max_tokens == p->seq->n_prompt && p->first_pos + (size_t)p->n_rows >= p->seq->n_prompt)
            MW_TRY(st, finish(e, p->seq->owner, "length"));
    }
fail:
    return st;
}

/* ---- steps ---- */

/* The oldest step begun is over. Where steps overlap, a step lasts from the end of the one before it. */
static void count_step(mw_engine *e, int prompt_rows, int new_tokens) {
    double now = mw_now_s(), began = e->began_s[e->n_finished % MW_MODEL_IN_FLIGHT];
    pthread_mutex_lock(&e->lock);
    mw_engine_info *i = &e->info;
    i->steps++;
    i->step_s += now - (began > e->finished_s ? began : e->finished_s);
    i->wait_s += mw_comm_wait_s(e->comm);
    i->prompt_tokens += (uint64_t)prompt_rows;
    i->output_tokens += (uint64_t)new_tokens;
    pthread_mutex_unlock(&e->lock);
    e->finished_s = now;
    e->n_finished++;
}

/* Enqueued, or on CPUs computed, by all ranks; then their figures, if the step says so. */
static mw_status begin(mw_engine *e) {
    mw_status st = MW_OK;
    e->began_s[e->n_begun++ % MW_MODEL_IN_FLIGHT] = mw_now_s();
    MW_TRY(st, mw_model_begin(e->model, &e->step));
    if (e->step.h.report) st = mw_engine_share_stats(e);
fail:
    return st;
}

/* May another step be begun before this one is finished? Otherwise ranks meet again when it is. */
static bool may_overlap(const mw_engine *e, const mw_step_head *h) {
    return h->n_logits == 0 || (h->choose != MW_CHOOSE_HOST && h->n_logits <= e->model->o.max_logits);
}

/* Plan and tell. *begun: false when there is nothing to do before the step under way has ended. */
static mw_status begin_step(mw_engine *e, bool *begun) {
    mw_status st = MW_OK;
    const mw_open_step *plan = NULL;
    double now = mw_now_s();
    mw_step_head *h = &e->step.h;
    MW_TRY(st, mw_sched_plan(&e->sched, &e->step, &plan));
    *begun = h->n_tokens > 0;
    if (!*begun) return MW_OK;
    for (int i = 0; i < plan->n; i++) {
        mw_gen *g = plan->part[i].seq->owner;
        if (g->started_s == 0) g->started_s = now;
    }
    e->told_idle = false;
    h->choose = choice_of(plan);
    if (h->choose == MW_CHOOSE_DRAW) MW_TRY(st, fill_draws(&e->step, plan));
    h->report = now - e->gathered_s >= REPORT_EVERY_S;
    if (h->report) e->gathered_s = now;
    MW_TRY(st, mw_comm_bcast(e->comm, h, sizeof *h, 0, false));
    MW_TRY(st, mw_comm_bcast(e->comm, e->step.data, e->step.words * sizeof *e->step.data, 0, false));
    e->overlap = e->ahead && h->n_tokens <= OVERLAP_ROWS && may_overlap(e, h);
    st = begin(e);
fail:
    return st;
}

/* The oldest step: its results are waited for, and answered with. */
static mw_status end_step(mw_engine *e) {
    mw_status st = MW_OK;
    const mw_step_sink sink = {e, on_logits, on_tokens};
    const mw_open_step *plan = mw_sched_oldest(&e->sched);
    MW_TRY(st, mw_model_finish(e->model, &sink));
    count_step(e, plan->prompt_rows, plan->sampled);
    MW_TRY(st, end_prompts(e, plan));
    mw_sched_done(&e->sched);
    publish(e);
    drop_finished(e);
fail:
    return st;
}

/* While a step runs on the devices the next one is planned and enqueued; then the first one's tokens are handed out
 * while the next one runs. So a new request waits a step longer, and a sequence that ended has computed a row for
 * nothing. Where a step is over when it has been begun (CPUs), or its tokens are chosen here, there is nothing to gain:
 * one at a time. */
mw_status mw_engine_serve(mw_engine *e) {
    mw_status st = MW_OK;
    bool closing = false;
    for (;;) {
        bool begun = false;
        MW_TRY(st, take_orders(e, &closing));
        if (closing) break;
        if (e->sched.n_open == 0 || e->overlap) MW_TRY(st, begin_step(e, &begun));
        int open = e->sched.n_open;
        if (open == 0 && e->n_jobs > 0) {
            st = MW_FAIL(MW_ERR_INTERNAL, "%d requests are under way, and no step can be planned", e->n_jobs);
            goto fail;
        }
        if (open == MW_OPEN_STEPS || (open > 0 && !(begun && e->overlap))) MW_TRY(st, end_step(e));
        drop_finished(e);
    }
    mw_step_head stop = {.kind = MW_STEP_STOP};
    MW_TRY(st, mw_comm_bcast(e->comm, &stop, sizeof stop, 0, false));
    while (e->sched.n_open > 0) MW_TRY(st, end_step(e));
    return MW_OK;
fail:
    mw_comm_poison(e->comm, st);
    return st;
}

/* Finishes steps until at most `left` are under way. */
static mw_status catch_up(mw_engine *e, uint64_t left) {
    mw_status st = MW_OK;
    while (e->n_begun - e->n_finished > left) {
        MW_TRY(st, mw_model_finish(e->model, NULL));
        count_step(e, 0, 0);
    }
fail:
    return st;
}

mw_status mw_engine_follow_steps(mw_engine *e) {
    mw_status st = MW_OK;
    bool idle = true;
    for (;;) {
        mw_step_head h;
        MW_TRY(st, mw_comm_bcast(e->comm, &h, sizeof h, 0, idle));
        idle = h.kind == MW_STEP_IDLE;
        if (h.kind != MW_STEP_RUN) MW_TRY(st, catch_up(e, 0));
        if (h.kind == MW_STEP_STOP) return MW_OK;
        if (idle && h.report) MW_TRY(st, mw_engine_share_stats(e));
        if (idle) continue;
        MW_TRY(st, mw_step_layout(&e->step, &h));
        MW_TRY(st, mw_comm_bcast(e->comm, e->step.data, e->step.words * sizeof *e->step.data, 0, false));
        MW_TRY(st, catch_up(e, MW_MODEL_IN_FLIGHT - 1));
        MW_TRY(st, begin(e));
        if (!may_overlap(e, &h)) MW_TRY(st, catch_up(e, 0));
    }
fail:
    mw_comm_poison(e->comm, st);
    return st;
}
