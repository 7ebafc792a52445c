/* worker/engine_internal.h - private to worker/engine*.c: what an open engine is.
 *
 *   engine.c   the calls of engine.h; the meeting point between callers' threads and the engine's own
 *   setup.c    opening: group, device, file, plan, memory, weights, texts
 *   serve.c    the engine thread's loop: rank 0 plans, samples and answers; the others follow
 *   job.c      requests on their way in, events on their way out
 */
#ifndef MW_WORKER_ENGINE_INTERNAL_H
#define MW_WORKER_ENGINE_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>

#include "worker/answer.h"
#include "worker/engine.h"
#include "worker/model.h"
#include "worker/sampler.h"
#include "worker/scheduler.h"
#include "worker/text/chat.h"
#include "worker/text/constraint.h"
#include "worker/text/tokenizer.h"

/* One of the n answers of a job. */
typedef struct mw_gen {
    mw_seq seq; /* seq.owner is this */
    struct mw_job *job;
    int index;
    uint64_t seed;
    mw_answer answer;
    mw_constraint_state json; /* of a constrained answer; json.c NULL: any text */
    double started_s;         /* of its first step; 0: it waits */
    bool done;
} mw_gen;

/* A request inside the engine. */
typedef struct mw_job {
    uint64_t id;
    void *user;
    mw_sampling sampling; /* its arrays belong to the job */
    mw_gen *gen;          /* [sampling.n] */
    int n_open;           /* answers not done */
    double submitted_s, first_token_s;
    double deadline_s;               /* as the request had it; 0: none */
    mw_position_logprobs *prompt_lp; /* [n_prompt - 1], filled as prompt rows come; NULL when not asked */
    mw_token_logprob *prompt_top;    /* [n_prompt - 1][k] behind prompt_lp */
    size_t prompt_lp_done;
    struct mw_job *next; /* in the submit queue, a bucket of jobs or the list of ended ones */
} mw_job;

/* An event with the memory its pointers point to. */
typedef struct mw_event_node {
    mw_event ev;
    struct mw_event_node *next;
    mw_position_logprobs lp;
    mw_position_logprobs *prompt_lp;
    mw_token_logprob *prompt_top;
    char text[];
} mw_event_node;

typedef enum { MW_ENGINE_OPENING, MW_ENGINE_READY, MW_ENGINE_ENDED } mw_engine_phase;

#define MW_JOB_BUCKETS 1024

struct mw_engine {
    mw_engine_options opt; /* strings belong to the engine */

    /* between threads, under `lock` */
    pthread_mutex_t lock;
    pthread_cond_t to_engine; /* new jobs, cancels, closing */
    pthread_cond_t to_caller; /* phase changes, new events */
    mw_engine_phase phase;
    mw_status st; /* why it ended */
    char text[MW_ERROR_TEXT_MAX];
    bool report_here; /* of all ranks this one tells the user */
    bool closing;
    mw_job *submitted, **submitted_tail;
    uint64_t *cancel; /* [n_cancel] ids */
    size_t n_cancel, cap_cancel;
    mw_event_node *events, **events_tail;
    uint64_t next_id;
    int n_open; /* answers submitted and not ended */
    mw_engine_info info;
    mw_rank_stats *stats; /* [size] rank 0: as of the last time that they were gathered */

    /* set before READY, constant afterwards */
    int rank, size;
    pthread_t thread;
    bool thread_started;
    mw_model_config cfg;
    mw_tokenizer *tokenizer; /* rank 0; NULL when the file has none */
    mw_grammar *grammar;     /* likewise */
    mw_chat *chat;           /* rank 0; NULL when chat is off */
    mw_str chat_template;    /* its text */
    char why_no_chat[MW_ERROR_TEXT_MAX];
    mw_str report; /* rank 0 */

    /* the engine thread's own */
    mw_comm *comm;
    const mw_kernels *kernels;
    mw_dev *dev;
    bool on_host;   /* device memory is host memory */
    bool check_nan; /* MARLIN_CHECK_NAN of any rank */
    bool agreed;    /* while opening: all ranks have a failure already, with its text */
    mw_ckpt *ckpt;
    mw_plan *plan;
    mw_model *model;
    mw_scheduler sched;
    mw_sampler sampler;
    uint32_t *mask; /* rank 0: tokens a constrained row may take */
    mw_step step;
    mw_job *jobs[MW_JOB_BUCKETS]; /* under way, by id */
    int n_jobs;
    mw_job *ended;                      /* to be freed */
    int n_ended;                        /* answers that have ended since the callers were told */
    mw_str token_text;                  /* scratch: what a token adds to its answer */
    mw_event_node *fresh, **fresh_tail; /* events since then */
    bool ahead;   /* rank 0: steps are begun while the one before them runs, where that is possible; and */
    bool overlap; /* it is, behind the last one begun */
    double began_s[MW_MODEL_IN_FLIGHT], finished_s; /* of steps under way; of the last one that is over */
    uint64_t n_begun, n_finished;
    double timed_s[MW_TIMED_KINDS], shared_step_s; /* parts of the steps so far, and their time when that was told */
    bool told_idle;                                /* the other ranks know that there is nothing to do */
    double gathered_s;                             /* when the ranks' figures were last gathered */
};

/* ---- setup.c ---- */

/* Everything up to READY. Collective; the status is the group's. */
MW_MUST_CHECK mw_status mw_engine_setup(mw_engine *e);
/* Release all that setup made, in any state. */
void mw_engine_teardown(mw_engine *e);

/* ---- report.c ---- */

/* This rank's memory and time to rank 0, for mw_engine_rank_stats. Collective. */
MW_MUST_CHECK mw_status mw_engine_share_stats(mw_engine *e);

/* ---- serve.c ---- */

/* Rank 0: until closing or a failure of the group. Others: until told to stop. */
MW_MUST_CHECK mw_status mw_engine_serve(mw_engine *e);
MW_MUST_CHECK mw_status mw_engine_follow_steps(mw_engine *e);

/* ---- job.c ---- */

/* A job with the prompt's ids in every answer. Checks parameters and limits. */
MW_MUST_CHECK mw_status mw_job_new(mw_job **out, mw_engine *e, const mw_request *r);
void mw_job_free(mw_job *j);
/* The ids of r's messages, appended. */
MW_MUST_CHECK mw_status mw_chat_ids(mw_engine *e, const mw_request *r, bool add_generation_prompt, mw_ids *ids);

/* Where the list of jobs under way points to the one with this id, or to NULL at its end. */
mw_job **mw_job_place(mw_engine *e, uint64_t id);

/* An event for the callers, with the next publication. `text` is copied. */
MW_MUST_CHECK mw_status mw_emit_token(mw_engine *e, mw_gen *g, int32_t token, const mw_str *text,
                                      const mw_position_logprobs *lp);
MW_MUST_CHECK mw_status mw_emit_prompt(mw_engine *e, mw_gen *g);
MW_MUST_CHECK mw_status mw_emit_done(mw_engine *e, mw_gen *g, const char *reason, const mw_str *text);
MW_MUST_CHECK mw_status mw_emit_error(mw_engine *e, const mw_job *j, mw_status st, const char *text);
void mw_event_node_free(mw_event_node *n);

#endif
