/* marlin-bench throughput: many requests through the engine of this job, with at most so many in flight. */
#include <stdlib.h>
#include <string.h>

#include "bench/requests.h"
#include "bench/session.h"
#include "worker/base/clock.h"

typedef struct {
    const bench_opts *o;
    bench_report *r;
    const bench_model *model;
    bench_ceiling ceiling;
    bench_cost cost;
} throughput_run;

typedef struct {
    mw_engine *e;
    bench_requests *r;
    uint64_t *id; /* [r->n] of those sent */
    int sent, ended, concurrency;
    double start;
} flight;

static mw_status send_one(flight *f) {
    bench_request *r = &f->r->v[f->sent];
    mw_request q = {.ids = r->ids, .n_ids = r->n_ids, .text = r->text, .sampling = mw_sampling_default()};
    if (r->text) q.text_len = strlen(r->text);
    q.sampling.max_tokens = r->max_tokens;
    q.sampling.ignore_eos = true;
    r->sent = mw_now_s();
    return mw_engine_submit(f->e, &q, &f->id[f->sent++]);
}

/* Requests are sent in order, so that ids ascend. */
static bench_request *find(flight *f, uint64_t id) {
    int lo = 0, hi = f->sent;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (f->id[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < f->sent && f->id[lo] == id ? &f->r->v[lo] : NULL;
}

static mw_status on_event(flight *f, const mw_event *ev) {
    bench_request *r = find(f, ev->id);
    if (!r) return MW_OK;
    if (ev->type == MW_EVENT_TOKEN) return bench_request_token(r, ev->made_s);
    if (ev->type == MW_EVENT_DONE) {
        r->prompt_tokens = ev->prompt_tokens;
        r->done = true;
        f->ended++;
    }
    if (ev->type == MW_EVENT_ERROR) {
        r->failed = true;
        f->ended++;
        snprintf(r->error, sizeof r->error, "%.*s", (int)ev->text_len, ev->text);
    }
    return MW_OK;
}

/* Milliseconds until the next request is due; -1: nothing to send before something ends. */
static int wait_ms(const flight *f) {
    if (f->sent == f->r->n || f->sent - f->ended >= f->concurrency) return -1;
    double left = f->start + f->r->v[f->sent].arrival - mw_now_s();
    return left <= 0 ? 0 : left > 1 ? 1000 : (int)(left * 1e3) + 1;
}

static mw_status fly(flight *f) {
    mw_status st = MW_OK;
    mw_event ev;
    bool got;
    f->start = mw_now_s();
    while (f->ended < f->r->n) {
        while (wait_ms(f) == 0) MW_TRY(st, send_one(f));
        MW_TRY(st, mw_engine_poll(f->e, wait_ms(f), &ev, &got));
        if (!got) continue;
        st = on_event(f, &ev);
        mw_event_free(&ev);
        if (st != MW_OK) return st;
    }
fail:
    return st;
}

/* Seconds that the same tokens would take at the ceilings: prompts at the dense GEMM's speed, and as many decode steps
 * as the requests in flight share, each reading weights and cache once. */
static double ideal(const throughput_run *t, const bench_requests *r, int concurrency) {
    double flops = 0, kv = 0, out = 0;
    for (int i = 0; i < r->n; i++) {
        double p = (double)r->v[i].prompt_tokens, n = (double)r->v[i].output_tokens;
        flops += p * t->cost.linear_flops + 0.5 * p * p * t->cost.attn_flops + t->cost.head_flops;
        kv += n * (p + 0.5 * n) * t->cost.kv_bytes;
        out += n;
    }
    int side_by_side = concurrency < r->n ? concurrency : r->n;
    double bytes = out / side_by_side * t->cost.weight_bytes + kv;
    return flops / (t->ceiling.dense * bench_now.size) + bytes / t->ceiling.read;
}

static mw_status measure(throughput_run *t, mw_engine *e, int concurrency) {
    mw_status st = MW_OK;
    bench_requests r = {0};
    mw_engine_info info;
    flight f = {.e = e, .r = &r, .concurrency = concurrency};
    json_t *row = NULL;
    mw_engine_describe(e, &info);
    bench_describe_engine(t->r, &info);
    MW_TRY(st, bench_requests_make(&r, t->o, bench_requests_count(t->o, concurrency), 0, info.vocab, false));
    MW_TRY(st, MW_CALLOC(&f.id, (size_t)r.n, "requests"));
    MW_TRY(st, fly(&f));
    double seconds = mw_now_s() - f.start;
    row = bench_row_begin(t->r, "throughput");
    bench_row_text(row, "backend", info.backend);
    bench_row_text(row, "model", t->model->name);
    bench_row_int(row, "ranks", bench_now.size);
    bench_row_int(row, "concurrency", concurrency);
    bench_requests_rate(row, t->o);
    bench_row_int(row, "input_len", t->o->prompt.v[0]);
    bench_row_int(row, "output_len", t->o->gen.v[0]);
    bench_row_metric(row, "total_token_throughput", true);
    MW_TRY(st, bench_requests_summary(&r, t->o, seconds, row));
    bench_row_real(row, "x_ideal", ideal(t, &r, concurrency) / seconds);
    json_t *taken = row;
    row = NULL;
    st = bench_row_end(t->r, taken);
fail:
    json_decref(row);
    bench_requests_free(&r);
    free(f.id);
    return st;
}

static mw_status lead(void *arg, mw_engine *e) {
    mw_status st = MW_OK;
    throughput_run *t = arg;
    for (int i = 0; i < t->o->concurrency.n; i++) MW_TRY(st, measure(t, e, (int)t->o->concurrency.v[i]));
fail:
    return st;
}

static mw_status run_model(throughput_run *t, const char *path) {
    mw_status st = MW_OK;
    const bench_opts *o = t->o;
    bench_model m = {0};
    mw_engine_options e = o->engine;
    MW_TRY(st, bench_model_open(&m, path));
    t->model = &m;
    MW_TRY(st, bench_model_cost(&m, bench_now.size, &t->cost));
    MW_TRY(st, bench_model_ceiling(o, t->r, &m, 512, &t->ceiling));
    e.model = path;
    e.no_prefix_cache = true;
    for (int i = 0; i < o->concurrency.n; i++)
        if (o->engine.max_seqs == 0 && o->concurrency.v[i] > e.max_seqs) e.max_seqs = (int)o->concurrency.v[i];
    if (e.ctx == 0 && !o->dataset) {
        double most = (double)(o->prompt.v[0] + o->gen.v[0]) * (1 + o->range_ratio) + 4;
        e.ctx = most < (double)m.cfg->max_position ? (int)most : (int)m.cfg->max_position;
    }
    st = bench_with_engine(&e, lead, t);
fail:
    t->model = NULL;
    bench_model_close(&m);
    return st;
}

mw_status bench_throughput(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    throughput_run t = {.o = o, .r = r};
    bench_report_columns(r, bench_requests_columns, bench_requests_n_columns);
    for (int i = 0; i < o->n_models; i++) MW_TRY(st, run_model(&t, o->models[i]));
fail:
    return st;
}
