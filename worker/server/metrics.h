/* worker/server/metrics.h - what the server counts, and its text for Prometheus. Names, labels and buckets are those of
 * vLLM where it has the figure, so that its dashboards carry over; what it does not have is called marlin:. */
#ifndef MW_SERVER_METRICS_H
#define MW_SERVER_METRICS_H
#include <pthread.h>

#include "worker/engine.h"
#include "worker/server/json_out.h"

#define MW_HIST_MAX 32 /* buckets */

typedef struct mw_hist {
    const double *bound; /* [n] */
    int n;
    uint64_t count[MW_HIST_MAX + 1];
    double sum;
} mw_hist;

#define MW_RECENT 512 /* figures that the live view's percentiles are made from */

typedef struct mw_recent {
    double value[MW_RECENT], when[MW_RECENT];
    uint64_t n; /* ever */
} mw_recent;

typedef struct mw_metrics {
    pthread_mutex_t lock;
    double token_bound[MW_HIST_MAX]; /* 1, 2, 5, 10, ... up to the context */
    mw_hist ttft, itl, e2e, queue, inference, prefill, decode, tpot;
    mw_hist prompt_tokens, generation_tokens, max_tokens, n, iteration;
    uint64_t success[3]; /* stop, length, abort */
    uint64_t failed;
    uint64_t http[6]; /* answers by hundreds of their status */
    mw_recent recent_ttft, recent_itl;
    /* rates of the live view: what the engine had counted, once a second */
    double sample_s[16];
    uint64_t sample_prompt[16], sample_output[16], n_samples;
    uint64_t seen_steps, seen_tokens;
} mw_metrics;

void mw_metrics_init(mw_metrics *m, int ctx);
void mw_metrics_free(mw_metrics *m);

/* ---- what happened ---- */
void mw_metrics_request(mw_metrics *m, int n, int max_tokens);
void mw_metrics_token(mw_metrics *m, bool first, double seconds); /* since the request came, or since the last token */
void mw_metrics_done(mw_metrics *m, const mw_event *ev, double total_s);
void mw_metrics_failed(mw_metrics *m);
void mw_metrics_answer(mw_metrics *m, int http_status);
/* Now and then: rates, and tokens a step. */
void mw_metrics_tick(mw_metrics *m, mw_engine *e, double now_s);

/* ---- what is told ---- */
/* The exposition format, as plain text in w. */
void mw_metrics_text(mw_metrics *m, mw_engine *e, const char *model, mw_json_out *w);
/* Members of the live view's object. */
void mw_metrics_live(mw_metrics *m, mw_engine *e, double now_s, mw_json_out *w);

#endif
