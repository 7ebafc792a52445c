#include "worker/scheduler.h"

#include <stdlib.h>
#include <string.h>

/* Prompts that may be under way although there are no rows for more: a short one gets its half of the rows at once,
 * however many long ones came before it, while a seat and its blocks are not taken long before they are used. */
#define PROMPTS_AHEAD 4

/* How late a passed deadline may be noticed: looking for one goes through all sequences. */
#define DEADLINE_GRAIN_S 0.01

mw_status mw_sched_init(mw_scheduler *s, int kv_blocks, int block_tokens, int max_seqs, int max_step_tokens,
                        bool share) {
    mw_status st = MW_OK;
    *s = (mw_scheduler){.max_seqs = max_seqs, .max_step_tokens = max_step_tokens, .share = share};
    MW_TRY(st, mw_kv_blocks_init(&s->kv, kv_blocks, block_tokens));
    for (int i = 0; i < MW_OPEN_STEPS; i++) MW_TRY(st, MW_CALLOC(&s->open[i].part, (size_t)max_seqs, "step plan"));
    MW_TRY(st, MW_CALLOC(&s->prompts, (size_t)max_seqs, "step plan"));
    return MW_OK;
fail:
    mw_sched_free(s);
    return st;
}

void mw_sched_free(mw_scheduler *s) {
    mw_kv_blocks_free(&s->kv);
    mw_wait_free(&s->waiting);
    for (int i = 0; i < MW_OPEN_STEPS; i++) free(s->open[i].part);
    free(s->prompts);
    *s = (mw_scheduler){0};
}

/* ---- one sequence ---- */

/* Tokens, those included that open steps are choosing. */
static size_t length(const mw_seq *q) {
    return q->tokens.n + (size_t)q->n_ahead;
}

/* Rows to compute before its next token, or its end, is known. */
static size_t pending(const mw_seq *q) {
    size_t n = length(q);
    return n >= q->max_tokens && n > q->n_prompt ? 0 : n - q->n_cached;
}

/* Gives names to the blocks that are full of known tokens. Where another block has the name already, this one stays
 * without, and what follows is known by the other's. */
static void name_blocks(mw_scheduler *s, mw_seq *q) {
    size_t bt = (size_t)s->kv.block_tokens, known = q->n_cached < q->tokens.n ? q->n_cached : q->tokens.n;
    if (!s->share) return;
    for (; (size_t)(q->n_named + 1) * bt <= known; q->n_named++) {
        int32_t b = mw_kv_name(&s->kv, q->block[q->n_named], q->last_name, q->tokens.p + (size_t)q->n_named * bt);
        q->last_name = s->kv.block[b].name;
    }
}

static mw_status give_blocks(mw_scheduler *s, mw_seq *q) {
    name_blocks(s, q);
    mw_status st = mw_kv_give(&s->kv, q->block, q->n_blocks);
    q->n_blocks = q->n_named = 0;
    q->last_name = MW_KV_BEGINNING;
    q->n_cached = 0;
    return st;
}

static mw_status make_room(mw_seq *q, int n_blocks) {
    if (n_blocks <= q->cap_blocks) return MW_OK;
    int cap = n_blocks + n_blocks / 2 + 4;
    int32_t *p = realloc(q->block, (size_t)cap * sizeof *p);
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "block table of %d entries", cap);
    q->block = p;
    q->cap_blocks = cap;
    return MW_OK;
}

/* Blocks for the first n tokens. *ok: false when there are not enough. */
static mw_status reserve(mw_scheduler *s, mw_seq *q, size_t n, bool *ok) {
    int want = mw_kv_blocks_for(&s->kv, (int64_t)n);
    mw_status st = make_room(q, want);
    *ok = want - q->n_blocks <= s->kv.n_free;
    if (st != MW_OK || !*ok) return st;
    while (q->n_blocks < want) q->block[q->n_blocks++] = mw_kv_take(&s->kv);
    return MW_OK;
}

/* The next rows of a prompt may be in the cache already: then they need not be computed. The last row is computed in
 * any case, for its logits; and so are the rows of a prompt that is scored, the first time. */
static mw_status reuse(mw_scheduler *s, mw_seq *q) {
    mw_status st = MW_OK;
    size_t bt = (size_t)s->kv.block_tokens, most = length(q) - 1;
    if (q->score_prompt && q->n_scored < most) most = q->n_scored;
    while (s->share && q->n_cached == (size_t)q->n_named * bt && q->n_cached + bt <= most) {
        int32_t b = mw_kv_find(&s->kv, q->last_name, q->tokens.p + q->n_cached);
        if (b < 0) break;
        MW_TRY(st, make_room(q, q->n_named + 1));
        mw_kv_share(&s->kv, b);
        if (q->n_named < q->n_blocks)
            MW_TRY(st, mw_kv_give(&s->kv, &q->block[q->n_named], 1));
        else
            q->n_blocks++;
        q->block[q->n_named++] = b;
        q->last_name = s->kv.block[b].name;
        q->n_cached += bt;
        if (q->n_put_off == 0) {
            q->n_reused += bt;
            s->prefix_hit_tokens += bt;
        }
    }
fail:
    return st;
}

/* ---- coming and going ---- */

mw_status mw_sched_add(mw_scheduler *s, mw_seq *q) {
    if (q->deadline_s > 0 && (s->next_deadline_s == 0 || q->deadline_s < s->next_deadline_s))
        s->next_deadline_s = q->deadline_s;
    return mw_wait_add(&s->waiting, q);
}

mw_status mw_sched_remove(mw_scheduler *s, mw_seq *q) {
    if (q->turn)
        mw_wait_remove(&s->waiting, q);
    else
        mw_seq_unlink(q->running ? &s->running : &s->put_off, q);
    for (int i = 0; i < s->n_open; i++) {
        mw_open_step *o = &s->open[(s->oldest + i) % MW_OPEN_STEPS];
        for (int p = 0; p < o->n; p++)
            if (o->part[p].seq == q) o->part[p].seq = NULL;
    }
    q->running = false;
    mw_status st = give_blocks(s, q);
    free(q->block);
    q->block = NULL;
    q->cap_blocks = 0;
    return st;
}

static mw_seq *find_expired(const mw_seq_list *l, double now_s, double *next) {
    for (mw_seq *q = l->head; q; q = q->next) {
        if (q->deadline_s <= 0) continue;
        if (q->deadline_s <= now_s) return q;
        if (*next == 0 || q->deadline_s < *next) *next = q->deadline_s;
    }
    return NULL;
}

mw_seq *mw_sched_expired(mw_scheduler *s, double now_s) {
    double next = 0;
    if (s->next_deadline_s == 0 || now_s < s->next_deadline_s) return NULL;
    mw_seq *q = find_expired(&s->running, now_s, &next);
    if (!q) q = find_expired(&s->put_off, now_s, &next);
    for (mw_turn *t = s->waiting.first; t && !q; t = t->next) q = find_expired(&t->seqs, now_s, &next);
    if (q) return q;
    s->next_deadline_s = next > 0 && next < now_s + DEADLINE_GRAIN_S ? now_s + DEADLINE_GRAIN_S : next;
    return NULL;
}

int mw_sched_n_waiting(const mw_scheduler *s) {
    return s->waiting.n + s->put_off.n;
}

/* In the list, which is in order of admission. */
static void insert_in_order(mw_seq_list *l, mw_seq *q) {
    mw_seq *before = NULL;
    for (mw_seq *p = l->tail; p && p->admission > q->admission; p = p->prev) before = p;
    mw_seq_insert(l, q, before);
}

static mw_status put_off(mw_scheduler *s, mw_seq *q) {
    mw_seq_unlink(&s->running, q);
    q->running = false;
    q->n_put_off++;
    insert_in_order(&s->put_off, q);
    s->preemptions++;
    return give_blocks(s, q);
}

/* ---- planning ---- */

/* Logit rows of a part: the last row when it samples; all prompt rows not yet delivered when they are to be scored. */
static int count_logits(const mw_seq *q, int rows, bool samples) {
    if (q->score_prompt && q->n_scored < q->n_prompt) { /* then nothing is generated yet: rows are prompt rows */
        size_t first = q->n_cached > q->n_scored ? q->n_cached : q->n_scored, last = q->n_cached + (size_t)rows;
        return last > first ? (int)(last - first) : 0;
    }
    return samples;
}

static void add_part(mw_scheduler *s, mw_open_step *o, mw_seq *q, int rows) {
    bool samples = (size_t)rows == pending(q) && length(q) < q->max_tokens;
    o->part[o->n++] = (mw_planned){.seq = q,
                                   .first_pos = q->n_cached,
                                   .n_rows = rows,
                                   .n_logits = count_logits(q, rows, samples),
                                   .samples = samples};
    if (q->n_cached < q->n_prompt) o->prompt_rows += rows;
    o->sampled += samples;
    q->n_cached += (size_t)rows;
    if (q->score_prompt && q->n_cached > q->n_scored)
        q->n_scored = q->n_cached < q->n_prompt ? q->n_cached : q->n_prompt;
    name_blocks(s, q);
}

/* The generating sequences, one row each; makes room by putting off the ones admitted last. */
static mw_status plan_decode(mw_scheduler *s, mw_open_step *o, int *budget) {
    mw_status st = MW_OK;
    for (mw_seq *q = s->running.head; q && *budget > 0;) {
        bool ok = false;
        if (pending(q) != 1) {
            q = q->next;
            continue;
        }
        MW_TRY(st, reserve(s, q, length(q), &ok));
        if (ok) {
            add_part(s, o, q, 1);
            --*budget;
            q = q->next;
            continue;
        }
        mw_seq *victim = s->running.tail; /* never one that is planned already: those come before q */
        MW_TRY(st, put_off(s, victim));
        if (victim == q) break;
    }
fail:
    return st;
}

/* Room for q's tokens so far and the next one - or the whole cache, for a prompt that fills it and has no answer - and
 * for a block more of everybody who is running, so that nobody has to be put off soon. Then q runs. */
static mw_status admit(mw_scheduler *s, mw_seq *q, bool *ok) {
    mw_status st = MW_OK;
    int want = mw_kv_blocks_for(&s->kv, (int64_t)q->tokens.n + 1);
    MW_TRY(st, reuse(s, q));
    *ok = (want < s->kv.n ? want : s->kv.n) - q->n_blocks + s->running.n <= s->kv.n_free;
    if (!*ok) {
        if (q->n_put_off == 0) s->prefix_hit_tokens -= q->n_reused;
        if (q->n_put_off == 0) q->n_reused = 0;
        st = give_blocks(s, q);
        goto fail;
    }
    /* All of its blocks now: another prompt must not take what this admission was decided on. */
    MW_TRY(st, reserve(s, q, q->tokens.n, ok));
    if (!*ok) return MW_FAIL(MW_ERR_INTERNAL, "KV cache lost blocks while a sequence was admitted");
    if (q->turn) {
        mw_wait_take(&s->waiting, q);
        q->admission = ++s->admissions;
        if (s->share) s->prefix_query_tokens += q->tokens.n;
    } else {
        mw_seq_unlink(&s->put_off, q);
    }
    insert_in_order(&s->running, q);
    q->running = true;
fail:
    return st;
}

/* Collects the running prompts, and admits more while there is something to do for them. *n of them in s->prompts. */
static mw_status gather_prompts(mw_scheduler *s, int budget, int *n) {
    mw_status st = MW_OK;
    size_t rows = 0;
    *n = 0;
    for (mw_seq *q = s->running.head; q; q = q->next)
        if (pending(q) > 1) {
            s->prompts[(*n)++] = (mw_prompt){q, pending(q)};
            rows += pending(q);
        }
    while (s->running.n < s->max_seqs && (rows < (size_t)budget || *n < PROMPTS_AHEAD)) {
        mw_seq *q = s->put_off.head ? s->put_off.head : mw_wait_first(&s->waiting);
        bool ok = false;
        if (!q || q->n_ahead > 0) break; /* an open step is choosing its token: it can be admitted after that */
        MW_TRY(st, admit(s, q, &ok));
        if (!ok) break;
        s->prompts[(*n)++] = (mw_prompt){q, pending(q)};
        rows += pending(q);
    }
fail:
    return st;
}

static int shorter(const void *a, const void *b) {
    const mw_prompt *x = a, *y = b;
    if (x->rows != y->rows) return x->rows < y->rows ? -1 : 1;
    return x->seq->admission < y->seq->admission ? -1 : 1;
}

/* Rows for prompts: half for the one that has run longest, the rest to the shortest first. */
static mw_status plan_prompts(mw_scheduler *s, mw_open_step *o, int budget) {
    mw_status st = MW_OK;
    int n = 0;
    MW_TRY(st, gather_prompts(s, budget, &n));
    if (n == 0) return MW_OK;
    mw_seq *oldest = s->prompts[0].seq;
    for (int i = 1; i < n; i++)
        if (s->prompts[i].seq->admission < oldest->admission) oldest = s->prompts[i].seq;
    size_t bt = (size_t)s->kv.block_tokens, half = ((size_t)budget + 1) / 2, left = (size_t)budget;
    size_t kept = pending(oldest) < half ? pending(oldest) : half;
    left -= kept;
    qsort(s->prompts, (size_t)n, sizeof *s->prompts, shorter);
    for (int i = 0; i < n; i++) {
        mw_seq *q = s->prompts[i].seq;
        MW_TRY(st, reuse(s, q)); /* what the ones before have planned is as good as computed */
        if (q == oldest) left += kept;
        size_t rows = pending(q), end = (q->n_cached + left) / bt * bt;
        if (rows > left) rows = end > q->n_cached ? end - q->n_cached : left; /* whole blocks: they can be shared */
        if (rows > 0) add_part(s, o, q, (int)rows);
        left -= rows;
    }
fail:
    return st;
}

static mw_step_head head_of(const mw_open_step *o) {
    mw_step_head h = {.kind = MW_STEP_RUN, .n_seqs = o->n};
    for (int i = 0; i < o->n; i++) {
        const mw_planned *p = &o->part[i];
        int ctx = (int)p->first_pos + p->n_rows;
        h.n_tokens += p->n_rows;
        h.n_logits += p->n_logits;
        if (p->n_rows > h.max_rows) h.max_rows = p->n_rows;
        if (ctx > h.max_ctx) h.max_ctx = ctx;
        if (p->seq->n_blocks > h.block_stride) h.block_stride = p->seq->n_blocks;
    }
    return h;
}

static void fill_rows(const mw_scheduler *s, mw_open_step *o, mw_step *step) {
    int row = 0, logit = 0, bt = s->kv.block_tokens;
    for (int i = 0; i < o->n; i++) {
        mw_planned *p = &o->part[i];
        mw_seq *q = p->seq;
        p->first_row = row;
        p->first_logit = logit;
        step->q_start[i] = row;
        step->ctx_len[i] = (int32_t)p->first_pos + p->n_rows;
        memcpy(step->block_table + (size_t)i * (size_t)step->h.block_stride, q->block,
               (size_t)q->n_blocks * sizeof *q->block);
        for (int r = 0; r < p->n_rows; r++, row++) {
            int pos = (int)p->first_pos + r;
            step->token[row] = (size_t)pos < q->tokens.n ? q->tokens.p[pos] : MW_TOKEN_FROM_ROW(q->ahead_row);
            step->pos[row] = pos;
            step->slot[row] = q->block[pos / bt] * bt + pos % bt;
        }
        for (int l = 0; l < p->n_logits; l++) step->logit_row[logit++] = row - p->n_logits + l;
        if (!p->samples) continue;
        q->n_ahead++;
        q->ahead_row = logit - 1;
    }
    step->q_start[o->n] = row;
}

mw_status mw_sched_plan(mw_scheduler *s, mw_step *step, const mw_open_step **plan) {
    mw_status st = MW_OK;
    int budget = s->max_step_tokens;
    if (s->n_open == MW_OPEN_STEPS) return MW_FAIL(MW_ERR_INTERNAL, "%d steps are open already", s->n_open);
    mw_open_step *o = &s->open[(s->oldest + s->n_open) % MW_OPEN_STEPS];
    o->n = o->prompt_rows = o->sampled = 0;
    MW_TRY(st, plan_decode(s, o, &budget));
    if (budget > 0) MW_TRY(st, plan_prompts(s, o, budget));
    mw_step_head h = head_of(o);
    MW_TRY(st, mw_step_layout(step, &h));
    fill_rows(s, o, step);
    if (o->n > 0) s->n_open++;
    *plan = o;
fail:
    return st;
}

const mw_open_step *mw_sched_oldest(const mw_scheduler *s) {
    return s->n_open ? &s->open[s->oldest] : NULL;
}

mw_status mw_sched_token(mw_seq *q, int32_t token) {
    if (q->n_ahead == 0) return MW_FAIL(MW_ERR_INTERNAL, "a token for a sequence that has no step open");
    q->n_ahead--;
    return mw_ids_add(&q->tokens, token);
}

void mw_sched_done(mw_scheduler *s) {
    if (s->n_open == 0) return;
    s->oldest = (s->oldest + 1) % MW_OPEN_STEPS;
    s->n_open--;
}
