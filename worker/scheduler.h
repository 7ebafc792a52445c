/* worker/scheduler.h - which rows the next step computes: continuous batching with chunked prefill over a paged KV
 * cache whose blocks are shared between texts that begin alike.
 *
 * Pure bookkeeping on rank 0: no device, no clock, no thread, and the same calls give the same plans. Each step takes,
 * within max_step_tokens rows:
 *   1. one row of every running sequence that is generating;
 *   2. chunks of running prompts: half of the rows that are left for the one that has run longest, the other half to
 *      the shortest. So a long prompt delays short ones by a factor of two, and short ones delay it no more.
 * Before that, waiting sequences are admitted while there is a seat (max_seqs), the KV cache has room for all of their
 * tokens so far, and there are rows for them in this step (or fewer than four prompts under way). Sequences that were
 * put off come first; then clients take turns, and the sequences of one client come in order.
 *
 * When a generating sequence needs a block and none is free, the sequence admitted last gives its blocks back and is
 * put off: computed again later, as far as its blocks have been taken by others meanwhile (its tokens are kept).
 *
 * A step may be planned while the one before it still runs: the rows that follow a token which that step is choosing
 * refer to it (MW_TOKEN_FROM_ROW). At most two steps are open, and they end in their order. What a sequence still has
 * in an open step when it is removed or put off does no harm: steps run one after another, so whoever gets its blocks
 * writes them later.
 */
#ifndef MW_WORKER_SCHEDULER_H
#define MW_WORKER_SCHEDULER_H
#include <stdbool.h>

#include "worker/base/mem.h"
#include "worker/kv_blocks.h"
#include "worker/step.h"
#include "worker/wait_queue.h"
MW_BEGIN_DECLS

typedef struct mw_seq {
    /* the owner's; not changed between mw_sched_add and mw_sched_remove */
    void *owner;
    size_t n_prompt;
    size_t max_tokens; /* prompt and answer end here: no row is computed to get more */
    uint64_t client;   /* whose turn it takes while it waits */
    double deadline_s; /* on the clock of mw_sched_expired; 0: none */
    bool score_prompt; /* logits of all prompt rows are wanted: blocks of others are not used for them */

    mw_ids tokens; /* prompt and what was generated; the owner fills in the prompt, mw_sched_token adds */

    /* the scheduler's */
    size_t n_cached; /* leading tokens whose K and V are in the cache when all open steps have run */
    int n_ahead;     /* tokens behind tokens.n that open steps are choosing: 0 to MW_OPEN_STEPS */
    int ahead_row;   /* the logit row of the newest open step that chooses the last of them */
    int n_put_off;   /* how often it was */
    size_t n_scored; /* prompt rows whose logits were asked for (not again after it was put off) */
    size_t n_reused; /* prompt tokens that were in the cache when it came */
    int32_t *block;  /* [n_blocks] KV blocks, in order */
    int n_blocks, cap_blocks;
    int n_named;        /* leading blocks that have names, */
    uint64_t last_name; /* and that of the last of them */
    uint64_t admission; /* when it was first admitted: a running number; 0: not yet */
    bool running;
    struct mw_seq *prev, *next; /* in the list it is in */
    struct mw_turn *turn;       /* while it waits for its first admission */
} mw_seq;

/* One sequence's part of a step. */
typedef struct mw_planned {
    mw_seq *seq; /* NULL: it was removed meanwhile */
    size_t first_pos;
    int first_row, n_rows;
    int first_logit, n_logits; /* into mw_step.logit_row; the rows are the last n_logits ones */
    bool samples;              /* the last of them chooses a new token */
} mw_planned;

typedef struct mw_open_step {
    mw_planned *part; /* [n] */
    int n;
    int prompt_rows, sampled; /* rows of prompts; sequences that get a token */
} mw_open_step;

#define MW_OPEN_STEPS 2

/* A prompt under way, while a step is planned. */
typedef struct mw_prompt {
    mw_seq *seq;
    size_t rows; /* that it wants */
} mw_prompt;

typedef struct mw_scheduler {
    mw_kv_blocks kv;
    mw_wait_queue waiting; /* never admitted yet */
    mw_seq_list put_off;   /* first admitted first */
    mw_seq_list running;   /* in order of admission */
    int max_seqs, max_step_tokens;
    bool share; /* look for blocks that other sequences have filled */
    mw_open_step open[MW_OPEN_STEPS];
    int oldest, n_open; /* open[oldest], and those after it, around */
    mw_prompt *prompts; /* [max_seqs] scratch */
    uint64_t admissions, preemptions, prefix_query_tokens, prefix_hit_tokens;
    double next_deadline_s; /* no sequence has an earlier one; 0: none has any */
} mw_scheduler;

MW_MUST_CHECK mw_status mw_sched_init(mw_scheduler *s, int kv_blocks, int block_tokens, int max_seqs,
                                      int max_step_tokens, bool share);
/* Sequences still in a list are the owner's to free. */
void mw_sched_free(mw_scheduler *s);

/* A new sequence at the end of its client's queue. max_tokens fit into the whole cache. */
MW_MUST_CHECK mw_status mw_sched_add(mw_scheduler *s, mw_seq *q);
/* Takes a sequence out of whatever list and open step it is in and gives its blocks back, at any time after
 * mw_sched_add. What open steps still compute for it is nobody's. */
MW_MUST_CHECK mw_status mw_sched_remove(mw_scheduler *s, mw_seq *q);
/* A sequence whose deadline is past at `now_s`, or NULL. Its owner removes it and asks again. */
mw_seq *mw_sched_expired(mw_scheduler *s, double now_s);
int mw_sched_n_waiting(const mw_scheduler *s);

/* Open the next step: fill *step and return its parts in *plan, which stay until the next but one is planned.
 * step->h.n_tokens == 0: nothing can be done now, and no step was opened. With a step open already, the tokens that it
 * chooses must be there for the next step to read. */
MW_MUST_CHECK mw_status mw_sched_plan(mw_scheduler *s, mw_step *step, const mw_open_step **plan);
/* The step that was opened first. */
const mw_open_step *mw_sched_oldest(const mw_scheduler *s);
/* The token that the oldest open step chose for q. */
MW_MUST_CHECK mw_status mw_sched_token(mw_seq *q, int32_t token);
/* The oldest open step is over: its rows were computed and its tokens handed in. */
void mw_sched_done(mw_scheduler *s);

MW_END_DECLS
#endif
