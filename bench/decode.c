/* marlin-bench decode: tokens a second while B sequences generate, llama-bench's tg128, beside the time that reading
 * the weights and the KV cache once a step would take.
 *
 * Prompts of a batch are read in chunks, so its sequences start one after the other. Steps are timed on the sequence
 * that started last, from its first token on: then every step brings a token for each of the B. */
#include <stdlib.h>
#include <string.h>

#include "bench/session.h"

static const bench_column k_columns[] = {
    {"model", "model", -1},     {"ranks", "ranks", -1},   {"test", "test", -1},     {"batch", "batch", -1},
    {"depth", "depth", -1},     {"tps", "t/s", 2},        {"tps_min", "min", 2},    {"tps_max", "max", 2},
    {"itl_ms", "ITL ms", 3},    {"itl_ms_p10", "p10", 3}, {"itl_ms_p90", "p90", 3}, {"limit_tps", "read limit t/s", 1},
    {"x_limit", "of limit", 3},
};

typedef struct {
    const bench_opts *o;
    bench_report *r;
    const bench_model *model;
    bench_ceiling ceiling;
    bench_cost cost;
    uint64_t seed;
} decode_run;

/* Tokens that the first sequence may generate until the last has read its prompt: a batch is submitted together, so
 * that this is a matter of steps and not of time. */
static int head_start(int batch, int depth, int step_tokens) {
    return 8 + 2 * (int)((int64_t)batch * depth / step_tokens + 1);
}

typedef struct {
    int batch, depth, n;
    uint64_t *id;      /* [batch] */
    int *tokens;       /* [batch] so far */
    int started, last; /* sequences with a token; the one that got its first token last */
    double from, to;   /* of the n steps that count */
    double *itl;       /* [n] seconds */
} window;

static void on_token(window *w, uint64_t id, double now) {
    int i = 0;
    while (i < w->batch && w->id[i] != id) i++;
    if (i == w->batch) return; /* of a run before, cancelled */
    if (w->tokens[i]++ == 0) {
        w->started++;
        w->last = i;
        w->from = w->to = now;
    } else if (i == w->last && w->started == w->batch) {
        w->itl[w->tokens[i] - 2] = now - w->to;
        w->to = now;
    }
}

static mw_status watch(window *w, mw_engine *e) {
    mw_status st = MW_OK;
    mw_event ev;
    bool got;
    while (w->started < w->batch || w->tokens[w->last] <= w->n) {
        MW_TRY(st, mw_engine_poll(e, -1, &ev, &got));
        if (!got) continue;
        if (ev.type == MW_EVENT_TOKEN) on_token(w, ev.id, ev.made_s);
        if (ev.type == MW_EVENT_ERROR) st = MW_FAIL(ev.status, "%.*s", (int)ev.text_len, ev.text);
        if (ev.type == MW_EVENT_DONE)
            st = MW_FAIL(MW_ERR_LIMIT, "batch %d at depth %d: a sequence ended before the last one had its %d tokens",
                         w->batch, w->depth, w->n);
        mw_event_free(&ev);
        if (st != MW_OK) return st;
    }
fail:
    return st;
}

/* One repetition: adds tokens a second, and the times between tokens. */
static mw_status once(decode_run *d, mw_engine *e, window *w, bench_samples *tps, bench_samples *itl) {
    mw_status st = MW_OK;
    mw_engine_info info;
    mw_engine_describe(e, &info);
    int most = w->n + 1 + head_start(w->batch, w->depth, info.max_step_tokens);
    w->started = 0;
    memset(w->tokens, 0, (size_t)w->batch * sizeof *w->tokens);
    MW_TRY(st, bench_submit_random(e, &d->seed, info.vocab, w->batch, w->depth, most, w->id));
    MW_TRY(st, watch(w, e));
    MW_TRY(st, bench_cancel_all(e, w->id, w->batch));
    MW_TRY(st, bench_samples_add(tps, (double)w->batch * w->n / (w->to - w->from)));
    for (int i = 0; i < w->n; i++) MW_TRY(st, bench_samples_add(itl, w->itl[i]));
fail:
    return st;
}

static mw_status print(decode_run *d, const window *w, bench_samples *tps, bench_samples *itl) {
    char test[32];
    bench_stats rate = bench_stats_of(tps), gap = bench_stats_of(itl);
    double bytes = d->cost.weight_bytes + d->cost.kv_bytes * w->batch * (w->depth + 0.5 * w->n);
    double limit = w->batch * d->ceiling.read / bytes;
    snprintf(test, sizeof test, "tg%d", w->n);
    json_t *row = bench_row_begin(d->r, test);
    bench_row_text(row, "backend", d->ceiling.backend);
    bench_row_text(row, "model", d->model->name);
    bench_row_int(row, "ranks", bench_now.size);
    bench_row_int(row, "batch", w->batch);
    bench_row_int(row, "depth", w->depth);
    bench_row_metric(row, "tps", true);
    bench_row_stats(row, "tps", &rate, 1);
    bench_row_stats(row, "itl_ms", &gap, 1e3);
    bench_row_real(row, "itl_ms_p99", gap.p99 * 1e3);
    bench_row_real(row, "limit_tps", limit);
    bench_row_real(row, "x_limit", rate.median / limit);
    bench_row_real(row, "step_gbytes", bytes * 1e-9);
    bench_row_real(row, "read_gbps", d->ceiling.read * 1e-9);
    return bench_row_end(d->r, row);
}

static mw_status measure(decode_run *d, mw_engine *e, int batch, int depth, int n) {
    mw_status st = MW_OK;
    bench_samples tps = {0}, itl = {0};
    window w = {.batch = batch, .depth = depth, .n = n};
    MW_TRY(st, MW_CALLOC(&w.id, (size_t)batch, "requests"));
    MW_TRY(st, MW_CALLOC(&w.tokens, (size_t)batch, "requests"));
    MW_TRY(st, MW_CALLOC(&w.itl, (size_t)n, "times"));
    for (int i = -1; i < d->o->repeat; i++) {
        MW_TRY(st, once(d, e, &w, &tps, &itl));
        if (i < 0) tps.n = itl.n = 0; /* the first one touches memory for the first time */
    }
    st = print(d, &w, &tps, &itl);
fail:
    free(w.id);
    free(w.tokens);
    free(w.itl);
    bench_samples_free(&tps);
    bench_samples_free(&itl);
    return st;
}

static mw_status lead(void *arg, mw_engine *e) {
    mw_status st = MW_OK;
    decode_run *d = arg;
    const bench_opts *o = d->o;
    for (int b = 0; b < o->batch.n; b++)
        for (int c = 0; c < o->depth.n; c++)
            for (int n = 0; n < o->gen.n; n++)
                MW_TRY(st, measure(d, e, (int)o->batch.v[b], (int)o->depth.v[c], (int)o->gen.v[n]));
fail:
    return st;
}

static int64_t largest(const bench_list *l) {
    int64_t v = 0;
    for (int i = 0; i < l->n; i++) v = l->v[i] > v ? l->v[i] : v;
    return v;
}

static mw_status run_model(decode_run *d, const char *path) {
    mw_status st = MW_OK;
    const bench_opts *o = d->o;
    bench_model m = {0};
    mw_engine_options e = o->engine;
    int batch = (int)largest(&o->batch), depth = (int)largest(&o->depth);
    MW_TRY(st, bench_model_open(&m, path));
    d->model = &m;
    MW_TRY(st, bench_model_cost(&m, bench_now.size, &d->cost));
    MW_TRY(st, bench_model_ceiling(o, d->r, &m, 0, &d->ceiling));
    e.model = path;
    e.no_prefix_cache = true;
    if (e.max_seqs == 0) e.max_seqs = batch;
    if (e.ctx == 0) {
        int step = e.max_step_tokens > 0 ? e.max_step_tokens : 256;
        int64_t want = depth + largest(&o->gen) + 2 + head_start(batch, depth, step);
        e.ctx = (int)(want < m.cfg->max_position ? want : m.cfg->max_position);
    }
    st = bench_with_engine(&e, lead, d);
fail:
    d->model = NULL;
    bench_model_close(&m);
    return st;
}

mw_status bench_decode(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    decode_run d = {.o = o, .r = r, .seed = o->seed};
    bench_report_columns(r, k_columns, (int)(sizeof k_columns / sizeof *k_columns));
    for (int i = 0; i < o->n_models; i++) MW_TRY(st, run_model(&d, o->models[i]));
fail:
    return st;
}
