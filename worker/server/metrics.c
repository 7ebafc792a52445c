#include "worker/server/metrics.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"

static const double k_ttft[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
static const double k_token_time[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                                      0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
static const double k_latency[] = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                   30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
static const double k_iteration[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double k_n[] = {1, 2, 5, 10, 20};

#define HIST(h, b) ((h).bound = (b), (h).n = (int)(sizeof(b) / sizeof *(b)))

void mw_metrics_init(mw_metrics *m, int ctx) {
    *m = (mw_metrics){0};
    pthread_mutex_init(&m->lock, NULL);
    HIST(m->ttft, k_ttft);
    HIST(m->itl, k_token_time);
    HIST(m->tpot, k_token_time);
    HIST(m->e2e, k_latency);
    HIST(m->queue, k_latency);
    HIST(m->inference, k_latency);
    HIST(m->prefill, k_latency);
    HIST(m->decode, k_latency);
    HIST(m->iteration, k_iteration);
    HIST(m->n, k_n);
    static const double step[] = {1, 2, 5};
    int n = 0;
    for (double scale = 1; n < MW_HIST_MAX - 3 && scale <= ctx; scale *= 10)
        for (int i = 0; i < 3 && step[i] * scale <= ctx; i++) m->token_bound[n++] = step[i] * scale;
    mw_hist *const tokens[] = {&m->prompt_tokens, &m->generation_tokens, &m->max_tokens};
    for (int i = 0; i < 3; i++) {
        tokens[i]->bound = m->token_bound;
        tokens[i]->n = n;
    }
}

void mw_metrics_free(mw_metrics *m) {
    pthread_mutex_destroy(&m->lock);
}

static void observe_times(mw_hist *h, double v, uint64_t times) {
    int i = 0;
    while (i < h->n && v > h->bound[i]) i++;
    h->count[i] += times;
    h->sum += v * (double)times;
}

static void observe(mw_hist *h, double v) {
    observe_times(h, v, 1);
}

static void remember(mw_recent *r, double v, double now) {
    r->value[r->n % MW_RECENT] = v;
    r->when[r->n % MW_RECENT] = now;
    r->n++;
}

void mw_metrics_request(mw_metrics *m, int n, int max_tokens) {
    pthread_mutex_lock(&m->lock);
    observe(&m->n, n);
    if (max_tokens > 0) observe(&m->max_tokens, max_tokens);
    pthread_mutex_unlock(&m->lock);
}

void mw_metrics_token(mw_metrics *m, bool first, double seconds) {
    double now = mw_now_s();
    pthread_mutex_lock(&m->lock);
    observe(first ? &m->ttft : &m->itl, seconds);
    remember(first ? &m->recent_ttft : &m->recent_itl, seconds, now);
    pthread_mutex_unlock(&m->lock);
}

void mw_metrics_done(mw_metrics *m, const mw_event *ev, double total_s) {
    double decode = ev->ttft_s > 0 ? ev->total_s - ev->ttft_s : 0;
    pthread_mutex_lock(&m->lock);
    m->success[strcmp(ev->finish_reason, "stop") == 0 ? 0 : strcmp(ev->finish_reason, "length") == 0 ? 1 : 2]++;
    observe(&m->e2e, total_s);
    observe(&m->queue, ev->queue_s);
    observe(&m->inference, ev->total_s - ev->queue_s);
    if (ev->ttft_s > 0) observe(&m->prefill, ev->ttft_s > ev->queue_s ? ev->ttft_s - ev->queue_s : 0);
    observe(&m->decode, decode);
    if (ev->output_tokens > 1) observe(&m->tpot, decode / (double)(ev->output_tokens - 1));
    observe(&m->prompt_tokens, (double)ev->prompt_tokens);
    observe(&m->generation_tokens, (double)ev->output_tokens);
    pthread_mutex_unlock(&m->lock);
}

void mw_metrics_failed(mw_metrics *m) {
    pthread_mutex_lock(&m->lock);
    m->failed++;
    pthread_mutex_unlock(&m->lock);
}

void mw_metrics_answer(mw_metrics *m, int http_status) {
    int hundreds = http_status / 100;
    pthread_mutex_lock(&m->lock);
    m->http[hundreds >= 1 && hundreds <= 5 ? hundreds : 0]++;
    pthread_mutex_unlock(&m->lock);
}

/* The engine counts steps and tokens; the steps since the last look had their mean. */
static void count_iterations(mw_metrics *m, const mw_engine_info *i) {
    uint64_t tokens = i->prompt_tokens + i->output_tokens, steps = i->steps - m->seen_steps;
    if (steps > 0) observe_times(&m->iteration, (double)(tokens - m->seen_tokens) / (double)steps, steps);
    m->seen_steps = i->steps;
    m->seen_tokens = tokens;
}

void mw_metrics_tick(mw_metrics *m, mw_engine *e, double now_s) {
    mw_engine_info i;
    mw_engine_describe(e, &i);
    pthread_mutex_lock(&m->lock);
    count_iterations(m, &i);
    if (m->n_samples == 0 || now_s - m->sample_s[(m->n_samples - 1) % 16] >= 1) {
        size_t at = m->n_samples++ % 16;
        m->sample_s[at] = now_s;
        m->sample_prompt[at] = i.prompt_tokens;
        m->sample_output[at] = i.output_tokens;
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- the live view ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Percentiles of what came in the last minute; null where nothing did. */
static void put_recent(const mw_recent *r, const char *name, double now_s, mw_json_out *w) {
    static const struct {
        const char *name;
        double part;
    } which[] = {{"p50", 0.5}, {"p99", 0.99}};
    double v[MW_RECENT];
    size_t n = 0;
    for (size_t i = 0; i < MW_RECENT && i < r->n; i++)
        if (now_s - r->when[i] < 60) v[n++] = r->value[i];
    qsort(v, n, sizeof *v, by_value);
    mw_json_key(w, name);
    mw_json_open(w, '{');
    for (size_t k = 0; k < 2; k++) {
        mw_json_key(w, which[k].name);
        if (n > 0)
            mw_json_real(w, v[(size_t)(which[k].part * (double)(n - 1) + 0.5)]);
        else
            mw_json_null(w);
    }
    mw_json_close(w, '}');
}

/* Tokens a second over the last five seconds or so. */
static void put_rates(const mw_metrics *m, const mw_engine_info *i, double now_s, mw_json_out *w) {
    double in = 0, out = 0;
    if (m->n_samples > 0) {
        uint64_t back = m->n_samples < 5 ? m->n_samples : 5;
        size_t at = (m->n_samples - back) % 16;
        double seconds = now_s - m->sample_s[at];
        if (seconds > 0.05) {
            in = (double)(i->prompt_tokens - m->sample_prompt[at]) / seconds;
            out = (double)(i->output_tokens - m->sample_output[at]) / seconds;
        }
    }
    mw_json_key_real(w, "prompt_tokens_per_s", in);
    mw_json_key_real(w, "output_tokens_per_s", out);
}

static void put_ranks(mw_engine *e, int n, mw_json_out *w) {
    mw_json_key(w, "ranks");
    mw_json_open(w, '[');
    for (int r = 0; r < n; r++) {
        mw_rank_stats s;
        if (mw_engine_rank_stats(e, r, &s) != MW_OK) break;
        double per = s.steps ? 1e3 / (double)s.steps : 0;
        mw_json_open(w, '{');
        mw_json_key_int(w, "rank", r);
        mw_json_key_str(w, "device", s.device);
        mw_json_key_int(w, "weight_bytes", (int64_t)s.weight_bytes);
        mw_json_key_int(w, "kv_bytes", (int64_t)s.kv_bytes);
        mw_json_key_int(w, "workspace_bytes", (int64_t)s.workspace_bytes);
        mw_json_key_int(w, "steps", (int64_t)s.steps);
        mw_json_key_real(w, "step_s", s.step_s);
        mw_json_key_real(w, "gemm_s", s.gemm_s);
        mw_json_key_real(w, "collective_s", s.collective_s);
        mw_json_key_real(w, "step_ms", s.step_s * per);
        mw_json_close(w, '}');
    }
    mw_json_close(w, ']');
}

void mw_metrics_live(mw_metrics *m, mw_engine *e, double now_s, mw_json_out *w) {
    mw_engine_info i;
    mw_engine_describe(e, &i);
    mw_json_key_str(w, "backend", i.backend);
    mw_json_key_str(w, "device", i.device);
    mw_json_key_str(w, "model_type", i.model_type);
    mw_json_key_int(w, "n_ranks", i.n_ranks);
    mw_json_key_int(w, "ctx", i.ctx);
    mw_json_key_int(w, "max_seqs", i.max_seqs);
    mw_json_key_int(w, "running", i.running);
    mw_json_key_int(w, "waiting", i.waiting);
    mw_json_key_int(w, "kv_block_tokens", i.kv_block_tokens);
    mw_json_key_int(w, "kv_blocks", i.kv_blocks);
    mw_json_key_int(w, "kv_blocks_free", i.kv_blocks_free);
    mw_json_key_int(w, "kv_blocks_cached", i.kv_blocks_cached);
    mw_json_key_real(w, "kv_use", i.kv_blocks > 0 ? 1 - (double)i.kv_blocks_free / i.kv_blocks : 0);
    mw_json_key_int(w, "prompt_tokens", (int64_t)i.prompt_tokens);
    mw_json_key_int(w, "output_tokens", (int64_t)i.output_tokens);
    mw_json_key_int(w, "prefix_query_tokens", (int64_t)i.prefix_query_tokens);
    mw_json_key_int(w, "prefix_hit_tokens", (int64_t)i.prefix_hit_tokens);
    mw_json_key_int(w, "preemptions", (int64_t)i.preemptions);
    mw_json_key_int(w, "steps", (int64_t)i.steps);
    mw_json_key_real(w, "step_s", i.step_s);
    pthread_mutex_lock(&m->lock);
    mw_json_key_int(w, "requests_done", (int64_t)(m->success[0] + m->success[1]));
    mw_json_key_int(w, "requests_cancelled", (int64_t)m->success[2]);
    mw_json_key_int(w, "requests_failed", (int64_t)m->failed);
    put_rates(m, &i, now_s, w);
    put_recent(&m->recent_ttft, "ttft_s", now_s, w);
    put_recent(&m->recent_itl, "itl_s", now_s, w);
    pthread_mutex_unlock(&m->lock);
    put_ranks(e, i.n_ranks, w);
}
