#include "worker/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/mem.h"

mw_sampling mw_sampling_default(void) {
    return (mw_sampling){
        .max_tokens = 128, .top_p = 1, .repetition_penalty = 1, .n = 1, .logprobs = -1, .prompt_logprobs = -1};
}

static mw_status between(const char *field, double v, double lo, double hi) {
    if (v >= lo && v <= hi) return MW_OK; /* false for NaN too */
    return MW_FAIL(MW_ERR_USAGE, "%s = %g, expected %g to %g", field, v, lo, hi);
}

mw_status mw_sampling_check(const mw_sampling *p, int vocab) {
    mw_status st = MW_OK;
    MW_TRY(st, between("max_tokens", p->max_tokens, -1, 1 << 26));
    MW_TRY(st, between("temperature", p->temperature, 0, 100));
    MW_TRY(st, between("top_k", p->top_k, 0, 1 << 26));
    MW_TRY(st, between("top_p", p->top_p, 1e-6, 1));
    MW_TRY(st, between("min_p", p->min_p, 0, 1));
    MW_TRY(st, between("repetition_penalty", p->repetition_penalty, 0.01, 100));
    MW_TRY(st, between("presence_penalty", p->presence_penalty, -2, 2));
    MW_TRY(st, between("frequency_penalty", p->frequency_penalty, -2, 2));
    MW_TRY(st, between("n", p->n, 1, 128));
    MW_TRY(st, between("logprobs", p->logprobs, -1, vocab));
    MW_TRY(st, between("prompt_logprobs", p->prompt_logprobs, -1, vocab < 1000 ? vocab : 1000));
    MW_TRY(st, between("format", p->format, MW_FORMAT_TEXT, MW_FORMAT_JSON_SCHEMA));
    if (p->format == MW_FORMAT_JSON_SCHEMA && !p->schema) return MW_FAIL(MW_ERR_USAGE, "a schema is missing");
    MW_TRY(st, between("number of stop strings", p->n_stop, 0, 64));
    MW_TRY(st, between("number of stop ids", p->n_stop_ids, 0, 1024));
    MW_TRY(st, between("number of logit_bias entries", p->n_bias, 0, 4096));
    for (int i = 0; i < p->n_stop; i++) {
        size_t n = p->stop[i] ? strlen(p->stop[i]) : 0;
        MW_TRY(st, between("length of a stop string", (double)n, 1, 1024));
    }
    for (int i = 0; i < p->n_stop_ids; i++) MW_TRY(st, between("stop id", p->stop_ids[i], 0, vocab - 1));
    for (int i = 0; i < p->n_bias; i++) {
        MW_TRY(st, between("logit_bias token", p->bias[i].token, 0, vocab - 1));
        MW_TRY(st, between("logit_bias", (double)p->bias[i].bias, -1e6, 1e6));
    }
fail:
    return st;
}

mw_status mw_sampler_init(mw_sampler *s, int vocab) {
    mw_status st = MW_OK;
    *s = (mw_sampler){.vocab = vocab};
    MW_TRY(st, MW_CALLOC(&s->work, (size_t)vocab, "sampler logits"));
    MW_TRY(st, MW_CALLOC(&s->index, (size_t)vocab, "sampler candidates"));
    MW_TRY(st, MW_CALLOC(&s->count, (size_t)vocab, "sampler counts"));
    return MW_OK;
fail:
    mw_sampler_free(s);
    return st;
}

void mw_sampler_free(mw_sampler *s) {
    free(s->work);
    free(s->index);
    free(s->count);
    *s = (mw_sampler){0};
}

static mw_status not_finite(void) {
    return MW_FAIL(MW_ERR_NUMERIC,
                   "logits are not finite (an activation overflowed?): run with MARLIN_CHECK_NAN=1 to find the layer");
}

static void apply_penalties(mw_sampler *s, const mw_sampling *p, const int32_t *history, size_t n, size_t n_prompt) {
    float *x = s->work;
    uint16_t *seen = s->count;
    if (p->repetition_penalty != 1) {
        float r = (float)p->repetition_penalty;
        for (size_t i = 0; i < n; i++) {
            int32_t t = history[i];
            if (seen[t]) continue; /* once a token, however often it occurs */
            seen[t] = 1;
            x[t] = x[t] > 0 ? x[t] / r : x[t] * r;
        }
        for (size_t i = 0; i < n; i++) seen[history[i]] = 0;
    }
    if (p->presence_penalty != 0 || p->frequency_penalty != 0) {
        for (size_t i = n_prompt; i < n; i++)
            if (seen[history[i]] < UINT16_MAX) seen[history[i]]++;
        for (size_t i = n_prompt; i < n; i++) {
            int32_t t = history[i];
            if (!seen[t]) continue;
            x[t] -= (float)(p->presence_penalty + p->frequency_penalty * seen[t]);
            seen[t] = 0;
        }
    }
    for (int i = 0; i < p->n_bias; i++) x[p->bias[i].token] += p->bias[i].bias;
}

/* The logits decide as they are. */
static bool is_plain(const mw_sampling *p) {
    return p->repetition_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0 && p->n_bias == 0;
}

bool mw_sampling_is_argmax(const mw_sampling *p) {
    return mw_sampling_on_device(p) && p->temperature == 0;
}

bool mw_sampling_on_device(const mw_sampling *p) {
    return is_plain(p) && p->logprobs < 0 && p->format == MW_FORMAT_TEXT;
}

void mw_sampling_draw(const mw_sampling *p, uint64_t seed, uint64_t position, mw_draw *how) {
    *how = (mw_draw){.inv_temperature = p->temperature > 0 ? (float)(1 / p->temperature) : 0,
                     .log_min_p = p->min_p > 0 ? (float)log(p->min_p) : -INFINITY,
                     .top_p = (float)p->top_p,
                     .top_k = p->top_k,
                     .seed = {(uint32_t)seed, (uint32_t)(seed >> 32)},
                     .position = {(uint32_t)position, (uint32_t)(position >> 32)}};
}

mw_status mw_sample(mw_sampler *s, const mw_sampling *p, uint64_t seed, const float *logits, const int32_t *history,
                    size_t n_history, size_t n_prompt, const uint32_t *mask, int32_t *token) {
    mw_draw how;
    if (!is_plain(p) || mask) {
        if (mw_draw_best(logits, s->vocab) < 0) return not_finite();
        memcpy(s->work, logits, (size_t)s->vocab * sizeof *logits);
        for (int i = 0; i < s->vocab && mask; i++)
            if (!(mask[i / 32] >> (i % 32) & 1)) s->work[i] = -INFINITY;
        apply_penalties(s, p, history, n_history, n_prompt);
        logits = s->work;
    }
    mw_sampling_draw(p, seed, n_history, &how);
    int32_t t = mw_draw_row(&how, logits, s->vocab, s->work, s->index);
    if (t < 0) return not_finite();
    *token = t;
    return MW_OK;
}

mw_status mw_logprobs(const float *logits, int vocab, int32_t token, mw_token_logprob *chosen, mw_token_logprob *top,
                      int n_top) {
    int32_t best = mw_draw_best(logits, vocab);
    if (best < 0) return not_finite();
    double sum = 0;
    for (int i = 0; i < vocab; i++) sum += (double)expf(logits[i] - logits[best]);
    double norm = (double)logits[best] + log(sum);
    *chosen = (mw_token_logprob){token, (float)((double)logits[token] - norm)};
    int n = 0;
    for (int i = 0; i < vocab && n_top > 0; i++) { /* insertion into a short sorted list */
        if (n == n_top && !(logits[i] > logits[top[n - 1].token])) continue;
        int at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logits[i] > logits[top[at - 1].token]; at--) top[at] = top[at - 1];
        top[at] = (mw_token_logprob){i, 0};
    }
    for (int i = 0; i < n; i++) top[i].logprob = (float)((double)logits[top[i].token] - norm);
    return MW_OK;
}
