/* worker/step.h - the plan of one step: what rank 0 decides and every rank then does, in lock-step.
 *
 * A plan is a flat block of i32 (so one broadcast carries it), described by a fixed header. Rows of a sequence are
 * consecutive and in position order; sequences in any order. All numbers are host memory.
 */
#ifndef MW_WORKER_STEP_H
#define MW_WORKER_STEP_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"
MW_BEGIN_DECLS

/* RUN: compute the arrays that follow. IDLE: nothing to do until further notice, so waiting long is no fault; after any
 * other plan the next one is due within the group's deadline. STOP: the end. */
typedef enum { MW_STEP_RUN = 1, MW_STEP_IDLE, MW_STEP_STOP } mw_step_kind;

/* HOST: rank 0 gets the logits. BEST: each row its largest logit's token, DRAW: what mw_step.draw says of the row: both
 * chosen on the devices. */
typedef enum { MW_CHOOSE_HOST, MW_CHOOSE_BEST, MW_CHOOSE_DRAW } mw_step_choice;

typedef struct mw_step_head {
    int32_t kind;
    int32_t n_tokens, n_seqs, n_logits; /* rows, sequences, rows whose logits are wanted */
    int32_t max_rows, max_ctx;          /* of one sequence */
    int32_t block_stride;               /* entries of a block table row */
    int32_t choose;                     /* mw_step_choice: what becomes of the wanted rows */
    int32_t report; /* afterwards all ranks tell rank 0 their memory and time (mw_engine_share_stats) */
} mw_step_head;

/* In mw_step.token: the token that logit row i of the step before this one chose, on the devices. */
#define MW_TOKEN_FROM_ROW(i) (-1 - (i))

typedef struct mw_step {
    mw_step_head h;
    int32_t *data; /* one allocation behind all arrays below, `cap` words */
    size_t words, cap;
    int32_t *token, *pos, *slot; /* [n_tokens] */
    int32_t *q_start;            /* [n_seqs + 1] */
    int32_t *ctx_len;            /* [n_seqs] */
    int32_t *block_table;        /* [n_seqs][block_stride] */
    int32_t *logit_row;          /* [n_logits] rows, ascending */
    mw_draw *draw;               /* [n_logits] behind everything else, when choose is DRAW; else NULL */
} mw_step;

/* Lay the arrays out for the extents in *h; contents undefined. Grows the allocation only when it must. */
MW_MUST_CHECK mw_status mw_step_layout(mw_step *s, const mw_step_head *h);
/* Makes room for `draw` in a step that is laid out, and sets choose to DRAW. */
MW_MUST_CHECK mw_status mw_step_add_draws(mw_step *s);
void mw_step_free(mw_step *s);
/* Words of data that kernels need: all but `draw`. */
size_t mw_step_device_words(const mw_step *s);
/* The step as kernels see it, once data[0 .. mw_step_device_words) has been copied to `device`. */
mw_batch mw_step_batch(const mw_step *s, const int32_t *device);

MW_END_DECLS
#endif
