/* worker/scheduler.h - which rows the next step computes: continuous batching with chunked prefill over a paged KV
 * cache.
 *
 * Pure bookkeeping on rank 0: no device, no clock, no thread. Each step takes, within max_step_tokens rows:
 *   1. one row of every running sequence that is generating,
 *   2. the next chunk of running prompts,
 *   3. new sequences, first come first served, while the KV cache has room for all of their tokens so far.
 * When a generating sequence needs a block and none is free, the sequence admitted last gives its blocks back and is
 * computed again later (its tokens are kept, so its text does not change).
 */
#ifndef MW_WORKER_SCHEDULER_H
#define MW_WORKER_SCHEDULER_H
#include <stdbool.h>

#include "worker/base/mem.h"
#include "worker/kv_blocks.h"
#include "worker/step.h"
MW_BEGIN_DECLS

typedef struct mw_seq {
    mw_ids tokens; /* prompt and what was generated; the owner appends */
    size_t n_prompt;
    size_t n_cached;   /* leading tokens whose K and V are in the cache */
    bool score_prompt; /* logits of all prompt rows are wanted */
    size_t n_scored;   /* prompt rows whose logits were delivered (not asked for again after a preemption) */
    int32_t *block;    /* [n_blocks] KV blocks, in order */
    int n_blocks, cap_blocks;
    bool running;
    double deadline_s; /* on the clock of mw_sched_expired; 0: none */
    void *owner;
    struct mw_seq *prev, *next; /* in the waiting or the running list */
} mw_seq;

/* One sequence's part of a step. */
typedef struct mw_planned {
    mw_seq *seq;
    int first_row, n_rows;
    int first_logit, n_logits; /* into mw_step.logit_row; the rows are the last n_logits ones */
    bool samples;              /* the last of them chooses a new token */
} mw_planned;

typedef struct mw_seq_list {
    mw_seq *head, *tail;
    int n;
} mw_seq_list;

typedef struct mw_scheduler {
    mw_kv_blocks kv;
    mw_seq_list waiting, running; /* running: in order of admission */
    int max_seqs, max_step_tokens;
    mw_planned *plan; /* [n_plan] of the last mw_sched_plan */
    int n_plan;
    uint64_t preemptions;
    double next_deadline_s; /* no sequence has an earlier one; 0: none has any */
} mw_scheduler;

MW_MUST_CHECK mw_status mw_sched_init(mw_scheduler *s, int kv_blocks, int block_tokens, int max_seqs,
                                      int max_step_tokens);
/* Sequences still in a list are the owner's to free. */
void mw_sched_free(mw_scheduler *s);

/* A new sequence at the end of the queue. The owner guarantees that tokens.n + 1 fit into the whole cache. */
void mw_sched_add(mw_scheduler *s, mw_seq *q);
/* Takes a sequence out of whatever list it is in and gives its blocks back. Not between plan and done. */
MW_MUST_CHECK mw_status mw_sched_remove(mw_scheduler *s, mw_seq *q);

/* A sequence whose deadline is past at `now_s`, or NULL. Its owner removes it and asks again. */
mw_seq *mw_sched_expired(mw_scheduler *s, double now_s);

/* Fill *step and s->plan with the next step; step->h.n_tokens == 0: nothing to do. */
MW_MUST_CHECK mw_status mw_sched_plan(mw_scheduler *s, mw_step *step);
/* The planned step was computed: its rows are in the cache now. */
void mw_sched_done(mw_scheduler *s);

MW_END_DECLS
#endif
