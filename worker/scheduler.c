#include "worker/scheduler.h"

#include <stdlib.h>
#include <string.h>

mw_status mw_sched_init(mw_scheduler *s, int kv_blocks, int block_tokens, int max_seqs, int max_step_tokens) {
    mw_status st = MW_OK;
    *s = (mw_scheduler){.max_seqs = max_seqs, .max_step_tokens = max_step_tokens};
    MW_TRY(st, mw_kv_blocks_init(&s->kv, kv_blocks, block_tokens));
    MW_TRY(st, MW_CALLOC(&s->plan, (size_t)max_seqs, "step plan"));
    return MW_OK;
fail:
    mw_sched_free(s);
    return st;
}

void mw_sched_free(mw_scheduler *s) {
    mw_kv_blocks_free(&s->kv);
    free(s->plan);
    *s = (mw_scheduler){0};
}

static void unlink_seq(mw_seq_list *l, mw_seq *q) {
    *(q->prev ? &q->prev->next : &l->head) = q->next;
    *(q->next ? &q->next->prev : &l->tail) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

static void push_back(mw_seq_list *l, mw_seq *q) {
    q->prev = l->tail;
    q->next = NULL;
    *(l->tail ? &l->tail->next : &l->head) = q;
    l->tail = q;
    l->n++;
}

static void push_front(mw_seq_list *l, mw_seq *q) {
    q->prev = NULL;
    q->next = l->head;
    *(l->head ? &l->head->prev : &l->tail) = q;
    l->head = q;
    l->n++;
}

static mw_status give_blocks(mw_scheduler *s, mw_seq *q) {
    mw_status st = mw_kv_give(&s->kv, q->block, q->n_blocks);
    q->n_blocks = 0;
    q->n_cached = 0;
    return st;
}

void mw_sched_add(mw_scheduler *s, mw_seq *q) {
    q->running = false;
    push_back(&s->waiting, q);
    if (q->deadline_s > 0 && (s->next_deadline_s == 0 || q->deadline_s < s->next_deadline_s))
        s->next_deadline_s = q->deadline_s;
}

static mw_seq *first_deadline(const mw_seq_list *l, mw_seq *best) {
    for (mw_seq *q = l->head; q; q = q->next)
        if (q->deadline_s > 0 && (!best || q->deadline_s < best->deadline_s)) best = q;
    return best;
}

mw_seq *mw_sched_expired(mw_scheduler *s, double now_s) {
    if (s->next_deadline_s == 0 || now_s < s->next_deadline_s) return NULL;
    mw_seq *q = first_deadline(&s->waiting, first_deadline(&s->running, NULL));
    s->next_deadline_s = q ? q->deadline_s : 0; /* the one that was earlier has gone */
    return q && q->deadline_s <= now_s ? q : NULL;
}

mw_status mw_sched_remove(mw_scheduler *s, mw_seq *q) {
    unlink_seq(q->running ? &s->running : &s->waiting, q);
    q->running = false;
    mw_status st = give_blocks(s, q);
    free(q->block);
    q->block = NULL;
    q->cap_blocks = 0;
    return st;
}

static mw_status preempt(mw_scheduler *s, mw_seq *q) {
    unlink_seq(&s->running, q);
    q->running = false;
    s->preemptions++;
    push_front(&s->waiting, q);
    return give_blocks(s, q);
}

/* Blocks so that the first n_tokens of q have a place. *ok false: the cache is full (what was taken stays taken). */
static mw_status reserve(mw_scheduler *s, mw_seq *q, size_t n_tokens, bool *ok) {
    int want = mw_kv_blocks_for(&s->kv, (int64_t)n_tokens);
    if (want > q->cap_blocks) {
        int cap = want + want / 2 + 4;
        int32_t *p = realloc(q->block, (size_t)cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "block table of %d blocks", cap);
        q->block = p;
        q->cap_blocks = cap;
    }
    *ok = true;
    while (q->n_blocks < want) {
        int32_t b = mw_kv_take(&s->kv);
        if (b < 0) {
            *ok = false;
            break;
        }
        q->block[q->n_blocks++] = b;
    }
    return MW_OK;
}

static size_t pending(const mw_seq *q) {
    return q->tokens.n - q->n_cached;
}

static void add_part(mw_scheduler *s, mw_seq *q, int rows, int *budget) {
    s->plan[s->n_plan++] = (mw_planned){.seq = q, .n_rows = rows, .samples = (size_t)rows == pending(q)};
    *budget -= rows;
}

/* The generating sequences, one row each; makes room by preempting the ones admitted last. */
static mw_status plan_decode(mw_scheduler *s, int *budget) {
    mw_status st = MW_OK;
    for (mw_seq *q = s->running.head; q && *budget > 0;) {
        bool ok = false;
        if (pending(q) != 1) {
            q = q->next;
            continue;
        }
        MW_TRY(st, reserve(s, q, q->tokens.n, &ok));
        if (ok) {
            add_part(s, q, 1, budget);
            q = q->next;
            continue;
        }
        mw_seq *victim = s->running.tail; /* never one that is planned already: those come before q */
        MW_TRY(st, preempt(s, victim));
        if (victim == q) break;
    }
fail:
    return st;
}

/* Running prompts that are not finished; admission has reserved their blocks. */
static void plan_prefill(mw_scheduler *s, int *budget) {
    for (mw_seq *q = s->running.head; q && *budget > 0; q = q->next) {
        if (pending(q) == 1) continue;
        add_part(s, q, pending(q) < (size_t)*budget ? (int)pending(q) : *budget, budget);
    }
}

static mw_status plan_admit(mw_scheduler *s, int *budget) {
    mw_status st = MW_OK;
    while (s->waiting.head && *budget > 0 && s->running.n < s->max_seqs) {
        mw_seq *q = s->waiting.head;
        bool ok = false;
        /* Room for its next token too, unless it fills the whole cache: then it is a prompt without an answer. */
        int want = mw_kv_blocks_for(&s->kv, (int64_t)q->tokens.n + 1);
        if ((want < s->kv.n ? want : s->kv.n) > s->kv.n_free) break;
        unlink_seq(&s->waiting, q);
        push_back(&s->running, q);
        q->running = true;
        int rows = pending(q) < (size_t)*budget ? (int)pending(q) : *budget;
        /* All of its blocks now: another prompt must not take what this admission was decided on. */
        MW_TRY(st, reserve(s, q, q->tokens.n, &ok));
        if (!ok) return MW_FAIL(MW_ERR_INTERNAL, "KV cache lost blocks while a sequence was admitted");
        add_part(s, q, rows, budget);
    }
fail:
    return st;
}

/* Logit rows of a part: the last row when it samples; all prompt rows not yet delivered when they are to be scored. */
static int count_logits(const mw_planned *p) {
    const mw_seq *q = p->seq;
    int n = p->samples ? 1 : 0;
    if (q->score_prompt && q->n_scored < q->n_prompt) { /* then nothing is generated yet: rows are prompt rows */
        size_t first = q->n_cached > q->n_scored ? q->n_cached : q->n_scored, last = q->n_cached + (size_t)p->n_rows;
        if (last > first) n = (int)(last - first);
    }
    return n;
}

static void fill_rows(const mw_scheduler *s, mw_step *step) {
    int row = 0, logit = 0;
    for (int i = 0; i < s->n_plan; i++) {
        mw_planned *p = &s->plan[i];
        const mw_seq *q = p->seq;
        p->first_row = row;
        p->first_logit = logit;
        step->q_start[i] = row;
        step->ctx_len[i] = (int32_t)q->n_cached + p->n_rows;
        memcpy(step->block_table + (size_t)i * (size_t)step->h.block_stride, q->block,
               (size_t)q->n_blocks * sizeof *q->block);
        for (int r = 0; r < p->n_rows; r++, row++) {
            int pos = (int)q->n_cached + r;
            step->token[row] = q->tokens.p[pos];
            step->pos[row] = pos;
            step->slot[row] = q->block[pos / s->kv.block_tokens] * s->kv.block_tokens + pos % s->kv.block_tokens;
        }
        for (int l = 0; l < p->n_logits; l++) step->logit_row[logit++] = row - p->n_logits + l;
    }
    step->q_start[s->n_plan] = row;
}

mw_status mw_sched_plan(mw_scheduler *s, mw_step *step) {
    mw_status st = MW_OK;
    int budget = s->max_step_tokens;
    mw_step_head h = {.kind = MW_STEP_RUN};
    s->n_plan = 0;
    MW_TRY(st, plan_decode(s, &budget));
    plan_prefill(s, &budget);
    MW_TRY(st, plan_admit(s, &budget));
    for (int i = 0; i < s->n_plan; i++) {
        mw_planned *p = &s->plan[i];
        int ctx = (int)p->seq->n_cached + p->n_rows;
        p->n_logits = count_logits(p);
        h.n_tokens += p->n_rows;
        h.n_logits += p->n_logits;
        if (p->n_rows > h.max_rows) h.max_rows = p->n_rows;
        if (ctx > h.max_ctx) h.max_ctx = ctx;
        if (p->seq->n_blocks > h.block_stride) h.block_stride = p->seq->n_blocks;
    }
    h.n_seqs = s->n_plan;
    MW_TRY(st, mw_step_layout(step, &h));
    fill_rows(s, step);
fail:
    return st;
}

void mw_sched_done(mw_scheduler *s) {
    for (int i = 0; i < s->n_plan; i++) {
        mw_seq *q = s->plan[i].seq;
        q->n_cached += (size_t)s->plan[i].n_rows;
        if (q->score_prompt && q->n_cached > q->n_scored)
            q->n_scored = q->n_cached < q->n_prompt ? q->n_cached : q->n_prompt;
    }
    s->n_plan = 0;
}
