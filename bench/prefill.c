/* marlin-bench prefill: tokens a second of prompts, llama-bench's pp512: from the submission of B prompts of P random
 * tokens to the last one's first token. Beside it the FLOP/s of the model's matrices and the dense GEMM's at as many
 * rows. */
#include <stdlib.h>

#include "bench/session.h"
#include "worker/base/clock.h"

static const bench_column k_columns[] = {
    {"model", "model", -1},     {"ranks", "ranks", -1},
    {"test", "test", -1},       {"batch", "batch", -1},
    {"tps", "t/s", 1},          {"tps_min", "min", 1},
    {"tps_max", "max", 1},      {"ttft_ms", "TTFT ms", 2},
    {"tflops", "TFLOP/s", 2},   {"dense_tflops", "dense TFLOP/s", 2},
    {"x_dense", "of dense", 3},
};

typedef struct {
    const bench_opts *o;
    bench_report *r;
    const bench_model *model;
    bench_ceiling ceiling[BENCH_MAX_LIST]; /* of each length */
    bench_cost cost;
    uint64_t seed;
    int length; /* index in o->prompt */
    int prompt, batch;
} prefill_run;

/* Adds tokens a second until all prompts of a batch have been read, and each one's TTFT. */
static mw_status once(prefill_run *p, mw_engine *e, bench_samples *tps, bench_samples *ttft) {
    mw_status st = MW_OK;
    mw_engine_info info;
    mw_event ev;
    bool got;
    uint64_t *id = NULL;
    mw_engine_describe(e, &info);
    MW_TRY(st, MW_CALLOC(&id, (size_t)p->batch, "requests"));
    double start = mw_now_s();
    MW_TRY(st, bench_submit_random(e, &p->seed, info.vocab, p->batch, p->prompt, 1, id));
    double end = start;
    for (int left = p->batch; left > 0;) {
        MW_TRY(st, mw_engine_poll(e, -1, &ev, &got));
        if (!got) continue;
        if (ev.type == MW_EVENT_ERROR) st = MW_FAIL(ev.status, "%.*s", (int)ev.text_len, ev.text);
        if (ev.type == MW_EVENT_DONE) {
            left--;
            end = ev.made_s > end ? ev.made_s : end;
            st = bench_samples_add(ttft, ev.ttft_s);
        }
        mw_event_free(&ev);
        if (st != MW_OK) goto fail;
    }
    st = bench_samples_add(tps, (double)p->batch * p->prompt / (end - start));
fail:
    free(id);
    return st;
}

static mw_status print(prefill_run *p, bench_samples *tps, bench_samples *ttft) {
    char test[32];
    bench_stats rate = bench_stats_of(tps), first = bench_stats_of(ttft);
    double per_token = p->cost.linear_flops + p->cost.attn_flops * 0.5 * p->prompt + p->cost.head_flops / p->prompt;
    double flops = rate.median * per_token, dense = p->ceiling[p->length].dense * bench_now.size;
    snprintf(test, sizeof test, "pp%d", p->prompt);
    json_t *row = bench_row_begin(p->r, test);
    bench_row_text(row, "backend", p->ceiling[p->length].backend);
    bench_row_text(row, "model", p->model->name);
    bench_row_int(row, "ranks", bench_now.size);
    bench_row_int(row, "batch", p->batch);
    bench_row_metric(row, "tps", true);
    bench_row_int(row, "tokens", p->prompt);
    bench_row_stats(row, "tps", &rate, 1);
    bench_row_stats(row, "ttft_ms", &first, 1e3);
    bench_row_real(row, "tflops", flops * 1e-12);
    bench_row_real(row, "dense_tflops", dense * 1e-12);
    bench_row_real(row, "x_dense", flops / dense);
    return bench_row_end(p->r, row);
}

static mw_status measure(prefill_run *p, mw_engine *e) {
    mw_status st = MW_OK;
    bench_samples tps = {0}, ttft = {0};
    for (int i = -1; i < p->o->repeat; i++) {
        MW_TRY(st, once(p, e, &tps, &ttft));
        if (i < 0) tps.n = ttft.n = 0; /* the first one touches memory for the first time */
    }
    st = print(p, &tps, &ttft);
fail:
    bench_samples_free(&tps);
    bench_samples_free(&ttft);
    return st;
}

static mw_status lead(void *arg, mw_engine *e) {
    mw_status st = MW_OK;
    prefill_run *p = arg;
    const bench_opts *o = p->o;
    for (p->length = 0; p->length < o->prompt.n; p->length++)
        for (int b = 0; b < o->batch.n; b++) {
            p->prompt = (int)o->prompt.v[p->length];
            p->batch = (int)o->batch.v[b];
            MW_TRY(st, measure(p, e));
        }
fail:
    return st;
}

static mw_status run_model(prefill_run *p, const char *path) {
    mw_status st = MW_OK;
    const bench_opts *o = p->o;
    bench_model m = {0};
    mw_engine_options e = o->engine;
    int longest = 0;
    MW_TRY(st, bench_model_open(&m, path));
    p->model = &m;
    MW_TRY(st, bench_model_cost(&m, bench_now.size, &p->cost));
    for (int i = 0; i < o->prompt.n; i++) {
        int n = (int)o->prompt.v[i];
        longest = n > longest ? n : longest;
        MW_TRY(st, bench_model_ceiling(o, p->r, &m, n < 4096 ? n : 4096, &p->ceiling[i]));
    }
    for (int i = 0; i < o->batch.n; i++)
        if (o->engine.max_seqs == 0 && o->batch.v[i] > e.max_seqs) e.max_seqs = (int)o->batch.v[i];
    e.model = path;
    e.no_prefix_cache = true;
    if (e.ctx == 0) e.ctx = longest + 2;
    st = bench_with_engine(&e, lead, p);
fail:
    p->model = NULL;
    bench_model_close(&m);
    return st;
}

mw_status bench_prefill(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    prefill_run p = {.o = o, .r = r, .seed = o->seed};
    bench_report_columns(r, k_columns, (int)(sizeof k_columns / sizeof *k_columns));
    for (int i = 0; i < o->n_models; i++) MW_TRY(st, run_model(&p, o->models[i]));
fail:
    return st;
}
