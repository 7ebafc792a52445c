/* The exposition format of Prometheus, version 0.0.4. */
#include <stdio.h>
#include <string.h>

#include "worker/server/metrics.h"

typedef struct {
    mw_json_out *w;
    char labels[600]; /* model_name="...",engine="0" */
} page;

static void escape_label(char *to, size_t room, const char *from) {
    size_t n = 0;
    for (; *from && n + 3 < room; from++) {
        if (*from == '\\' || *from == '"') to[n++] = '\\';
        to[n++] = *from == '\n' ? ' ' : *from;
    }
    to[n] = 0;
}

static void head(page *p, const char *name, const char *type, const char *help) {
    char line[400];
    snprintf(line, sizeof line, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
    mw_json_plain(p->w, line);
}

/* extra: further labels with a comma in front, or "". */
static void value(page *p, const char *name, const char *extra, double v) {
    char line[1000];
    snprintf(line, sizeof line, "%s{%s%s} %.17g\n", name, p->labels, extra, v);
    mw_json_plain(p->w, line);
}

static void single(page *p, const char *name, const char *type, const char *help, double v) {
    head(p, name, type, help);
    value(p, name, "", v);
}

static void histogram(page *p, const char *name, const char *help, const mw_hist *h) {
    char part[128], extra[64];
    uint64_t sum = 0;
    head(p, name, "histogram", help);
    snprintf(part, sizeof part, "%s_bucket", name);
    for (int i = 0; i <= h->n; i++) {
        sum += h->count[i];
        if (i < h->n)
            snprintf(extra, sizeof extra, ",le=\"%.9g%s\"", h->bound[i],
                     h->bound[i] == (double)(int64_t)h->bound[i] ? ".0" : "");
        else
            snprintf(extra, sizeof extra, ",le=\"+Inf\"");
        value(p, part, extra, (double)sum);
    }
    snprintf(part, sizeof part, "%s_sum", name);
    value(p, part, "", h->sum);
    snprintf(part, sizeof part, "%s_count", name);
    value(p, part, "", (double)sum);
}

static void engine_state(page *p, const mw_engine_info *i) {
    double use = i->kv_blocks > 0 ? 1 - (double)i->kv_blocks_free / i->kv_blocks : 0;
    single(p, "vllm:num_requests_running", "gauge", "Sequences that the engine computes.", i->running);
    single(p, "vllm:num_requests_waiting", "gauge", "Sequences that wait for room.", i->waiting);
    single(p, "vllm:kv_cache_usage_perc", "gauge", "Part of the KV cache that sequences hold, 0 to 1.", use);
    single(p, "vllm:gpu_cache_usage_perc", "gauge", "The same under its older name.", use);
    single(p, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens that were looked for in the prefix cache.",
           (double)i->prefix_query_tokens);
    single(p, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens that the prefix cache had.",
           (double)i->prefix_hit_tokens);
    single(p, "vllm:num_preemptions_total", "counter", "Sequences that gave their blocks back, to be computed again.",
           (double)i->preemptions);
    single(p, "vllm:prompt_tokens_total", "counter", "Prompt tokens computed.", (double)i->prompt_tokens);
    single(p, "vllm:generation_tokens_total", "counter", "Tokens generated.", (double)i->output_tokens);
    head(p, "vllm:cache_config_info", "gauge", "How the KV cache is laid out.");
    char extra[128];
    snprintf(extra, sizeof extra, ",block_size=\"%d\",num_gpu_blocks=\"%d\"", i->kv_block_tokens, i->kv_blocks);
    value(p, "vllm:cache_config_info", extra, 1);
}

static void requests(page *p, const mw_metrics *m) {
    static const char *const reason[] = {",finished_reason=\"stop\"", ",finished_reason=\"length\"",
                                         ",finished_reason=\"abort\""};
    head(p, "vllm:request_success_total", "counter", "Answers that ended, by why.");
    for (int i = 0; i < 3; i++) value(p, "vllm:request_success_total", reason[i], (double)m->success[i]);
    histogram(p, "vllm:time_to_first_token_seconds", "From the request to its first token.", &m->ttft);
    histogram(p, "vllm:inter_token_latency_seconds", "Between two tokens of an answer.", &m->itl);
    histogram(p, "vllm:time_per_output_token_seconds", "The same under its older name.", &m->itl);
    histogram(p, "vllm:request_time_per_output_token_seconds", "Mean over an answer.", &m->tpot);
    histogram(p, "vllm:e2e_request_latency_seconds", "From the request to the end of its answer.", &m->e2e);
    histogram(p, "vllm:request_queue_time_seconds", "Waiting for the first step.", &m->queue);
    histogram(p, "vllm:request_inference_time_seconds", "From the first step to the end.", &m->inference);
    histogram(p, "vllm:request_prefill_time_seconds", "From the first step to the first token.", &m->prefill);
    histogram(p, "vllm:request_decode_time_seconds", "From the first token to the end.", &m->decode);
    histogram(p, "vllm:request_prompt_tokens", "Tokens of a prompt.", &m->prompt_tokens);
    histogram(p, "vllm:request_generation_tokens", "Tokens of an answer.", &m->generation_tokens);
    histogram(p, "vllm:request_params_max_tokens", "max_tokens of requests.", &m->max_tokens);
    histogram(p, "vllm:request_params_n", "n of requests.", &m->n);
    histogram(p, "vllm:iteration_tokens_total", "Tokens of a step (mean of the steps between two looks).",
              &m->iteration);
}

static void http_answers(page *p, const mw_metrics *m) {
    char extra[32];
    head(p, "marlin:http_responses_total", "counter", "HTTP answers by the hundreds of their status.");
    for (int i = 1; i <= 5; i++) {
        snprintf(extra, sizeof extra, ",status=\"%dxx\"", i);
        value(p, "marlin:http_responses_total", extra, (double)m->http[i]);
    }
    single(p, "marlin:requests_failed_total", "counter", "Requests that the engine ended with an error.",
           (double)m->failed);
}

typedef struct {
    const char *name, *type, *help;
    double (*get)(const mw_rank_stats *s);
} rank_row;

static double get_steps(const mw_rank_stats *s) {
    return (double)s->steps;
}
static double get_step(const mw_rank_stats *s) {
    return s->step_s;
}
static double get_gemm(const mw_rank_stats *s) {
    return s->gemm_s;
}
static double get_collective(const mw_rank_stats *s) {
    return s->collective_s;
}
static double get_weights(const mw_rank_stats *s) {
    return (double)s->weight_bytes;
}
static double get_kv(const mw_rank_stats *s) {
    return (double)s->kv_bytes;
}
static double get_workspace(const mw_rank_stats *s) {
    return (double)s->workspace_bytes;
}

static const rank_row k_ranks[] = {
    {"marlin:rank_steps_total", "counter", "Steps of a rank.", get_steps},
    {"marlin:rank_step_seconds_total", "counter", "Time of a rank in steps.", get_step},
    {"marlin:rank_gemm_seconds_total", "counter", "Of that, in linear layers.", get_gemm},
    {"marlin:rank_collective_seconds_total", "counter", "Of that, in sums and gathers over ranks, waiting included.",
     get_collective},
    {"marlin:rank_weight_bytes", "gauge", "Memory of a rank for weights.", get_weights},
    {"marlin:rank_kv_bytes", "gauge", "Memory of a rank for the KV cache.", get_kv},
    {"marlin:rank_workspace_bytes", "gauge", "Memory of a rank for activations.", get_workspace},
};

static void ranks(page *p, mw_engine *e, int n) {
    for (size_t k = 0; k < sizeof k_ranks / sizeof *k_ranks; k++) {
        head(p, k_ranks[k].name, k_ranks[k].type, k_ranks[k].help);
        for (int r = 0; r < n; r++) {
            mw_rank_stats s;
            char extra[32];
            if (mw_engine_rank_stats(e, r, &s) != MW_OK) continue;
            snprintf(extra, sizeof extra, ",rank=\"%d\"", r);
            value(p, k_ranks[k].name, extra, k_ranks[k].get(&s));
        }
    }
}

void mw_metrics_text(mw_metrics *m, mw_engine *e, const char *model, mw_json_out *w) {
    page p = {.w = w};
    char name[512];
    mw_engine_info i;
    escape_label(name, sizeof name, model);
    snprintf(p.labels, sizeof p.labels, "engine=\"0\",model_name=\"%s\"", name);
    mw_engine_describe(e, &i);
    engine_state(&p, &i);
    pthread_mutex_lock(&m->lock);
    requests(&p, m);
    http_answers(&p, m);
    pthread_mutex_unlock(&m->lock);
    ranks(&p, e, i.n_ranks);
}
