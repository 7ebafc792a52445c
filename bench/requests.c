#include "bench/requests.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/random.h"
#include "worker/base/io.h"

#define MAX_DATASET ((size_t)1 << 30)

const bench_column bench_requests_columns[] = {
    {"model", "model", -1},
    {"concurrency", "concurrency", -1},
    {"rate", "rate", -1},
    {"completed", "requests", -1},
    {"failed", "failed", -1},
    {"request_throughput", "req/s", 2},
    {"output_throughput", "output t/s", 1},
    {"total_token_throughput", "total t/s", 1},
    {"median_ttft_ms", "TTFT ms", 1},
    {"p99_ttft_ms", "p99", 1},
    {"median_tpot_ms", "TPOT ms", 2},
    {"p99_tpot_ms", "p99", 2},
    {"median_itl_ms", "ITL ms", 2},
    {"p99_itl_ms", "p99", 2},
    {"median_e2el_ms", "E2EL ms", 1},
    {"p99_e2el_ms", "p99", 1},
    {"request_goodput", "goodput req/s", 2},
    {"x_ideal", "of ideal", 3},
};
const int bench_requests_n_columns = (int)(sizeof bench_requests_columns / sizeof *bench_requests_columns);

/* ---- making them ------------------------------------------------------------------------------------------------- */

/* Standard normal, Box and Muller. */
static double normal(uint64_t *s) {
    double u = 1 - bench_uniform(s), v = bench_uniform(s);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* Gamma of shape k, scale 1: Marsaglia and Tsang 2000; below 1 by the power of a uniform number. */
static double gamma_of(uint64_t *s, double k) {
    if (k < 1) return gamma_of(s, k + 1) * pow(1 - bench_uniform(s), 1 / k);
    double d = k - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(s), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(1 - bench_uniform(s)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

static int length(uint64_t *s, int64_t mean, double ratio) {
    double lo = floor((double)mean * (1 - ratio)), hi = ceil((double)mean * (1 + ratio));
    int64_t v = ratio > 0 ? (int64_t)(lo + floor(bench_uniform(s) * (hi - lo + 1))) : mean;
    return v < 1 ? 1 : (int)v;
}

static mw_status random_ids(bench_request *r, uint64_t *s, int n, int32_t lo, int32_t hi) {
    mw_status st = MW_CALLOC(&r->ids, (size_t)n, "prompt");
    if (st != MW_OK) return st;
    r->n_ids = (size_t)n;
    for (int i = 0; i < n; i++) r->ids[i] = lo + (int32_t)(bench_random(s) % (uint64_t)(hi - lo));
    return MW_OK;
}

/* Short words, about a token each. */
static mw_status random_text(bench_request *r, uint64_t *s, int n) {
    static const char *const words[] = {"the", "of",   "and", "to",   "in",   "is",   "you",  "that",
                                        "it",  "he",   "was", "for",  "on",   "are",  "as",   "with",
                                        "his", "they", "at",  "be",   "this", "have", "from", "or",
                                        "one", "had",  "by",  "word", "but",  "not",  "what", "all"};
    mw_status st = MW_OK;
    mw_str t = {0};
    for (int i = 0; i < n; i++)
        MW_TRY(st, mw_str_addf(&t, "%s%s", i ? " " : "", words[bench_random(s) % (sizeof words / sizeof *words)]));
    r->text = t.p;
    return MW_OK;
fail:
    mw_str_free(&t);
    return st;
}

/* One line of a dataset. */
static mw_status from_json(bench_request *r, const json_t *line, int max_tokens) {
    mw_status st = MW_OK;
    const json_t *ids = json_object_get(line, "prompt_token_ids"), *n = json_object_get(line, "output_len"), *id;
    const char *text = json_string_value(json_object_get(line, "prompt"));
    size_t i;
    if (!json_is_array(ids) == !text) return MW_FAIL(MW_ERR_FORMAT, "needs either \"prompt\" or \"prompt_token_ids\"");
    if (n && (!json_is_integer(n) || json_integer_value(n) < 1 || json_integer_value(n) > 1 << 24))
        return MW_FAIL(MW_ERR_FORMAT, "output_len is not a whole number from 1");
    r->max_tokens = n ? (int)json_integer_value(n) : max_tokens;
    if (text) {
        r->text = strdup(text);
        return r->text ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "prompt");
    }
    r->n_ids = json_array_size(ids);
    MW_TRY(st, MW_CALLOC(&r->ids, r->n_ids, "prompt"));
    json_array_foreach((json_t *)ids, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return MW_FAIL(MW_ERR_FORMAT, "prompt_token_ids[%zu] is not a token id", i);
        r->ids[i] = (int32_t)json_integer_value(id);
    }
fail:
    return st;
}

static mw_status read_dataset(const char *path, json_t **out) {
    mw_status st = MW_OK;
    mw_str text = {0};
    json_t *lines = json_array();
    int number = 0;
    MW_TRY(st, mw_read_file(path, MAX_DATASET, &text));
    for (size_t at = 0; at < text.n;) {
        json_error_t e;
        const char *end = memchr(text.p + at, '\n', text.n - at);
        size_t n = end ? (size_t)(end - text.p) - at : text.n - at;
        number++;
        json_t *line = n > 0 ? json_loadb(text.p + at, n, 0, &e) : NULL;
        if (n > 0 && !json_is_object(line)) {
            st = MW_FAIL(MW_ERR_FORMAT, "%s: line %d: %s", path, number, line ? "is no JSON object" : e.text);
            json_decref(line);
            goto fail;
        }
        if (line) json_array_append_new(lines, line);
        at += n + 1;
    }
    if (json_array_size(lines) == 0) st = MW_FAIL(MW_ERR_FORMAT, "%s: holds no prompts", path);
    if (st == MW_OK) *out = json_incref(lines);
fail:
    json_decref(lines);
    mw_str_free(&text);
    return st;
}

mw_status bench_requests_make(bench_requests *out, const bench_opts *o, int n, int32_t lo, int32_t hi, bool text) {
    mw_status st = MW_OK;
    uint64_t s = o->seed << 32;
    json_t *dataset = NULL;
    double at = 0;
    *out = (bench_requests){0};
    if (o->dataset) MW_TRY(st, read_dataset(o->dataset, &dataset));
    MW_TRY(st, MW_CALLOC(&out->v, (size_t)n, "requests"));
    out->n = n;
    for (int i = 0; i < n; i++) {
        bench_request *r = &out->v[i];
        int in = length(&s, o->prompt.v[0], o->range_ratio);
        r->max_tokens = length(&s, o->gen.v[0], o->range_ratio);
        if (dataset) {
            size_t line = (size_t)i % json_array_size(dataset);
            st = from_json(r, json_array_get(dataset, line), r->max_tokens);
            if (st != MW_OK) mw_error_prefix("%s: prompt %zu", o->dataset, line + 1);
        } else {
            st = text ? random_text(r, &s, in) : random_ids(r, &s, in, lo, hi);
        }
        if (st != MW_OK) goto fail;
        r->arrival = at;
        if (o->request_rate > 0) at += gamma_of(&s, o->burstiness) / (o->request_rate * o->burstiness);
    }
fail:
    json_decref(dataset);
    if (st != MW_OK) bench_requests_free(out);
    return st;
}

void bench_requests_free(bench_requests *r) {
    for (int i = 0; i < r->n; i++) {
        free(r->v[i].ids);
        free(r->v[i].text);
        bench_samples_free(&r->v[i].gaps);
    }
    free(r->v);
    *r = (bench_requests){0};
}

int bench_requests_count(const bench_opts *o, int concurrency) {
    if (o->num_prompts > 0) return o->num_prompts;
    return 4 * concurrency < 16 ? 16 : 4 * concurrency;
}

void bench_requests_rate(json_t *row, const bench_opts *o) {
    char text[32] = "inf";
    if (o->request_rate > 0) snprintf(text, sizeof text, "%g", o->request_rate);
    bench_row_text(row, "rate", text);
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

mw_status bench_request_token(bench_request *r, double now) {
    mw_status st = MW_OK;
    if (r->output_tokens++ == 0)
        r->first = now;
    else
        st = bench_samples_add(&r->gaps, now - r->last);
    r->last = now;
    return st;
}

/* "mean_ttft_ms", "median_ttft_ms", ... of samples in seconds. */
static void add_times(json_t *row, const char *name, bench_samples *s) {
    bench_stats t = bench_stats_of(s);
    const struct {
        const char *what;
        double v;
    } rows[] = {{"mean", t.mean}, {"median", t.median}, {"std", t.std}, {"p90", t.p90}, {"p95", t.p95}, {"p99", t.p99}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s_ms", rows[i].what, name);
        bench_row_real(row, key, rows[i].v * 1e3);
    }
}

static bool good(const bench_latency *l, const bench_opts *o) {
    for (int i = 0; i < o->n_goals; i++) {
        const bench_goal *g = &o->goal[i];
        double s = strcmp(g->metric, "ttft") == 0 ? l->ttft : strcmp(g->metric, "tpot") == 0 ? bench_tpot(l) : l->e2el;
        if (s * 1e3 > g->ms) return false;
    }
    return true;
}

typedef struct {
    bench_samples ttft, tpot, itl, e2el;
    size_t in, out;
    int completed, good;
    const char *error;
} totals;

static mw_status add_request(totals *t, const bench_request *r, const bench_opts *o) {
    mw_status st = MW_OK;
    bench_latency l = {r->first - r->sent, r->last - r->sent, r->output_tokens};
    if (r->failed || r->output_tokens == 0) {
        if (!t->error && r->error[0]) t->error = r->error;
        return MW_OK;
    }
    t->completed++;
    t->in += r->prompt_tokens;
    t->out += r->output_tokens;
    t->good += good(&l, o);
    MW_TRY(st, bench_samples_add(&t->ttft, l.ttft));
    MW_TRY(st, bench_samples_add(&t->e2el, l.e2el));
    if (l.output_tokens > 1) MW_TRY(st, bench_samples_add(&t->tpot, bench_tpot(&l)));
    for (size_t i = 0; i < r->gaps.n; i++) MW_TRY(st, bench_samples_add(&t->itl, r->gaps.v[i]));
fail:
    return st;
}

static void add_totals(totals *t, const bench_requests *r, const bench_opts *o, double seconds, json_t *row) {
    bench_row_int(row, "completed", t->completed);
    bench_row_int(row, "failed", r->n - t->completed);
    bench_row_real(row, "duration", seconds);
    bench_row_int(row, "total_input_tokens", (int64_t)t->in);
    bench_row_int(row, "total_output_tokens", (int64_t)t->out);
    bench_row_real(row, "request_throughput", t->completed / seconds);
    bench_row_real(row, "output_throughput", (double)t->out / seconds);
    bench_row_real(row, "total_token_throughput", (double)(t->in + t->out) / seconds);
    if (o->n_goals > 0) bench_row_real(row, "request_goodput", t->good / seconds);
    add_times(row, "ttft", &t->ttft);
    add_times(row, "tpot", &t->tpot);
    add_times(row, "itl", &t->itl);
    add_times(row, "e2el", &t->e2el);
}

mw_status bench_requests_summary(const bench_requests *r, const bench_opts *o, double seconds, json_t *row) {
    mw_status st = MW_OK;
    totals t = {0};
    for (int i = 0; i < r->n; i++) MW_TRY(st, add_request(&t, &r->v[i], o));
    add_totals(&t, r, o, seconds, row);
    if (t.completed == 0)
        st = MW_FAIL(MW_ERR_PEER, "none of %d requests succeeded: %s", r->n, t.error ? t.error : "no tokens came");
fail:
    bench_samples_free(&t.ttft);
    bench_samples_free(&t.tpot);
    bench_samples_free(&t.itl);
    bench_samples_free(&t.e2el);
    return st;
}
