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

/* Two rounds of a 64-bit finaliser (multiply-xorshift, constants of splitmix64) over the three keys. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t mw_draw_bits(uint64_t seed, uint64_t position, uint64_t token) {
    return mix(mix(mix(seed) ^ position) ^ token);
}

/* Sound logits: no NaN, and something above -infinity. Also the first largest. */
static mw_status find_best(const float *x, int n, int32_t *best) {
    float top = -INFINITY;
    int32_t at = -1;
    bool nan = false;
    for (int i = 0; i < n; i++) {
        nan |= x[i] != x[i];
        if (x[i] > top) top = x[i], at = i;
    }
    if (nan || at < 0 || isinf(top))
        return MW_FAIL(
            MW_ERR_NUMERIC,
            "logits are not finite (an activation overflowed?): run with MARLIN_CHECK_NAN=1 to find the layer");
    *best = at;
    return MW_OK;
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

/* The order of candidates: larger logit first, then smaller id. Total, so every selection below is deterministic. */
static bool before(const float *x, int32_t a, int32_t b) {
    return x[a] > x[b] || (x[a] == x[b] && a < b);
}

/* Reorder index[0..n) so that its first m entries are the shortest prefix (in the order above) whose mass reaches
 * `target`; returns m. Mass of a candidate: 1, or exp(x - top) when by_probability. Quickselect on mass. */
static int shortest_prefix(const float *x, int32_t *index, int n, double target, float top, bool by_probability) {
    int lo = 0, hi = n; /* the boundary lies in [lo, hi]; everything left of lo is kept */
    while (hi - lo > 1) {
        int32_t a = index[lo], b = index[lo + (hi - lo) / 2], c = index[hi - 1], pivot;
        if (before(x, a, b))
            pivot = before(x, b, c) ? b : before(x, a, c) ? c : a;
        else
            pivot = before(x, a, c) ? a : before(x, b, c) ? c : b;
        int mid = lo;
        double mass = 0;
        for (int i = lo; i < hi; i++) { /* [lo, mid): strictly before the pivot */
            if (!before(x, index[i], pivot)) continue;
            int32_t t = index[i];
            index[i] = index[mid];
            index[mid++] = t;
            mass += by_probability ? exp((double)(x[t] - top)) : 1;
        }
        if (mass >= target) {
            hi = mid;
            continue;
        }
        int at = mid; /* the pivot itself comes next */
        while (index[at] != pivot) at++;
        index[at] = index[mid];
        index[mid] = pivot;
        mass += by_probability ? exp((double)(x[pivot] - top)) : 1;
        target -= mass;
        lo = mid + 1;
        if (target <= 0) return lo;
    }
    return hi;
}

/* Candidates after min_p, top_k and top_p: how many of s->index[] are left. */
static int truncate_candidates(mw_sampler *s, const mw_sampling *p, int32_t best) {
    const float *x = s->work;
    float top = x[best], least = p->min_p > 0 ? top + (float)log(p->min_p) : -INFINITY;
    int n = 0;
    for (int i = 0; i < s->vocab; i++)
        if (x[i] >= least && x[i] > -INFINITY) s->index[n++] = i;
    if (p->top_k > 0 && p->top_k < n) n = shortest_prefix(x, s->index, n, p->top_k, top, false);
    if (p->top_p < 1) {
        double total = 0;
        for (int i = 0; i < n; i++) total += exp((double)(x[s->index[i]] - top));
        n = shortest_prefix(x, s->index, n, p->top_p * total, top, true);
    }
    return n;
}

/* argmax of x[t] + G(t), G = -log(-log u). A candidate beats `score` only if -log u < exp(x - score); since
 * -log u >= 1 - u, most are turned away without a logarithm. */
static int32_t draw(const float *x, const int32_t *index, int n, int32_t best, uint64_t seed, uint64_t position) {
    double score = -INFINITY;
    int32_t chosen = best;
    for (int i = -1; i < n; i++) { /* the best candidate first: a high score turns away more */
        int32_t t = i < 0 ? best : index ? index[i] : i;
        if (i >= 0 && t == best) continue;
        double u = ((double)(mw_draw_bits(seed, position, (uint64_t)t) >> 11) + 0.5) * 0x1p-53;
        if (i >= 0 && 1 - u > 1.001 * exp((double)x[t] - score)) continue;
        double g = (double)x[t] - log(-log(u));
        if (g > score || (g == score && t < chosen)) score = g, chosen = t;
    }
    return chosen;
}

/* The logits decide as they are. */
static bool is_plain(const mw_sampling *p) {
    return p->repetition_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0 && p->n_bias == 0;
}

bool mw_sampling_is_argmax(const mw_sampling *p) {
    return is_plain(p) && p->temperature == 0 && p->logprobs < 0 && p->format == MW_FORMAT_TEXT;
}

mw_status mw_sample(mw_sampler *s, const mw_sampling *p, uint64_t seed, const float *logits, const int32_t *history,
                    size_t n_history, size_t n_prompt, const uint32_t *mask, int32_t *token) {
    mw_status st = MW_OK;
    int32_t best = -1;
    bool plain = is_plain(p);
    MW_TRY(st, find_best(logits, s->vocab, &best));
    if (plain && !mask && p->temperature == 0) {
        *token = best;
        return MW_OK;
    }
    memcpy(s->work, logits, (size_t)s->vocab * sizeof *logits);
    for (int i = 0; i < s->vocab && mask; i++)
        if (!(mask[i / 32] >> (i % 32) & 1)) s->work[i] = -INFINITY;
    if (!plain || mask) {
        apply_penalties(s, p, history, n_history, n_prompt);
        MW_TRY(st, find_best(s->work, s->vocab, &best));
    }
    if (p->temperature == 0) {
        *token = best;
        return MW_OK;
    }
    float inv = (float)(1 / p->temperature);
    for (int i = 0; i < s->vocab; i++) s->work[i] *= inv;
    bool cut = p->top_k > 0 || p->top_p < 1 || p->min_p > 0;
    int n = cut ? truncate_candidates(s, p, best) : s->vocab;
    *token = draw(s->work, cut ? s->index : NULL, n, best, seed, n_history);
fail:
    return st;
}

mw_status mw_logprobs(const float *logits, int vocab, int32_t token, mw_token_logprob *chosen, mw_token_logprob *top,
                      int n_top) {
    int32_t best = 0;
    mw_status st = find_best(logits, vocab, &best);
    if (st != MW_OK) return st;
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
