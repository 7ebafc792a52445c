#include "bench/device.h"

#include <stdlib.h>

#include "worker/base/env.h"
#include "worker/base/log.h"

#define COLD_LEAST ((size_t)64 << 20)
#define COLD_MOST  ((size_t)384 << 20)
#define TIMEOUT_S  120

static void describe(bench_dev *b, json_t *machine) {
    const mw_probe_facts *f = &b->facts;
    if (!machine) return;
    json_object_set_new(machine, "device", json_string(b->info.name));
    json_object_set_new(machine, "cache MB", json_integer((json_int_t)(f->cache_bytes >> 20)));
    if (f->driver[0]) json_object_set_new(machine, "driver", json_string(f->driver));
    if (f->clock_mhz) json_object_set_new(machine, "clock MHz", json_integer(f->clock_mhz));
    if (f->clock_max_mhz) json_object_set_new(machine, "clock max MHz", json_integer(f->clock_max_mhz));
    if (f->memory_mhz) json_object_set_new(machine, "memory clock MHz", json_integer(f->memory_mhz));
    if (f->power_limit_w) json_object_set_new(machine, "power limit W", json_integer(f->power_limit_w));
}

static mw_status open_device(bench_dev *b, mw_dtype act) {
    mw_status st = MW_OK;
    const mw_engine_options *e = &b->o->engine;
    const char *backend = e->backend ? e->backend : mw_env_get(MW_ENV_BACKEND);
    int share = 1;
    bool crowded = false;
    long threads = e->threads;
    MW_TRY(st, mw_comm_cpu_share(b->comm, &share, &crowded));
    if (threads == 0) MW_TRY(st, mw_env_int(MW_ENV_THREADS, 0, 4096, 0, &threads));
    MW_TRY(st, mw_kernels_choose(backend ? backend : "auto", &b->k));
    b->p = mw_probe_of(b->k);
    if (threads == 0) threads = share;
    mw_dev_opts o = {.device = mw_comm_local_rank(b->comm),
                     .threads = (int)threads,
                     .spin = !crowded && threads <= share,
                     .int8_act = e->int8_act,
                     .act = act};
    MW_TRY(st, b->k->open(&b->d, &o));
    MW_TRY(st, b->k->info(b->d, &b->info));
    MW_TRY(st, b->p->facts(b->d, &b->facts));
    size_t much = 4 * (size_t)b->facts.cache_bytes;
    b->cold = much < COLD_LEAST ? COLD_LEAST : much > COLD_MOST ? COLD_MOST : much;
fail:
    return st;
}

mw_status bench_dev_open(bench_dev *b, const bench_opts *o, bench_report *r, mw_dtype act) {
    mw_status st = MW_OK;
    *b = (bench_dev){.o = o};
    MW_TRY(st, mw_comm_open(&b->comm, o->engine.timeout_s > 0 ? o->engine.timeout_s : TIMEOUT_S));
    bench_now.comm = b->comm;
    b->rank = mw_comm_rank(b->comm);
    b->size = mw_comm_size(b->comm);
    MW_TRY(st, mw_comm_agree(b->comm, open_device(b, act)));
    describe(b, r->machine);
fail:
    return st;
}

mw_status bench_dev_close(bench_dev *b, mw_status st) {
    if (b->k && b->d) b->k->close(b->d);
    if (st == MW_OK) {
        bench_now.comm = NULL;
        mw_comm_close(b->comm);
    }
    *b = (bench_dev){0};
    return st;
}

mw_status bench_dev_alloc(bench_dev *b, void **out, size_t bytes, const char *what) {
    return b->k->alloc(b->d, out, bytes, what);
}

void bench_dev_free(bench_dev *b, void *p) {
    if (p && b->k && b->d) b->k->free(b->d, p);
}

/* ---- chains ----------------------------------------------------------------------------------------------------- */

typedef struct {
    bench_dev *b;
    bench_call call;
    void *arg;
    int n;
    mw_graph *graph; /* NULL: call by call */
} chain;

static mw_status enqueue(chain *c) {
    mw_status st = MW_OK;
    if (c->graph) return c->b->k->graph_launch(c->b->d, c->graph);
    for (int i = 0; i < c->n; i++) MW_TRY(st, c->call(c->arg, i));
fail:
    return st;
}

/* Seconds of the whole chain, of several ranks the slowest one's. */
static mw_status replay(chain *c, double *seconds) {
    mw_status st = MW_OK;
    bench_dev *b = c->b;
    uint64_t ns = 0;
    MW_TRY(st, mw_comm_reduce_u64(b->comm, &ns, MW_MAX)); /* all begin together */
    MW_TRY(st, b->p->mark(b->d, 0));
    MW_TRY(st, enqueue(c));
    MW_TRY(st, b->p->mark(b->d, 1));
    if (b->joined) MW_TRY(st, mw_comm_device_wait(b->comm)); /* not for ever, should a peer be gone */
    MW_TRY(st, b->p->elapsed(b->d, seconds));
    ns = (uint64_t)(*seconds * 1e9);
    if (b->size > 1) {
        MW_TRY(st, mw_comm_reduce_u64(b->comm, &ns, MW_MAX));
        *seconds = (double)ns * 1e-9;
    }
fail:
    return st;
}

static mw_status record(chain *c) {
    mw_status st = MW_OK;
    bench_dev *b = c->b;
    if (!b->k->capture_begin) return MW_OK;
    MW_TRY(st, b->k->capture_begin(b->d));
    for (int i = 0; i < c->n && st == MW_OK; i++) st = c->call(c->arg, i);
    if (st == MW_OK) return b->k->capture_end(b->d, &c->graph);
    b->k->capture_abort(b->d);
fail:
    return st;
}

mw_status bench_chain(bench_dev *b, int least, bench_call call, void *arg, bench_samples *out) {
    mw_status st = MW_OK;
    chain c = {.b = b, .call = call, .arg = arg, .n = least < 1 ? 1 : least};
    const double wanted =
        b->info.host_memory ? 0.01 : 0.002; /* seconds of a replay: events tick at half a microsecond */
    double once = 0, t = 0;
    MW_TRY(st, replay(&c, &once)); /* the first call of a shape may look things up */
    MW_TRY(st, replay(&c, &once));
    double calls = once > 0 ? wanted / (once / c.n) : BENCH_CALLS_MOST;
    if (calls > c.n) c.n = calls > BENCH_CALLS_MOST ? BENCH_CALLS_MOST : (int)calls;
    if (c.n < least) c.n = least;
    uint64_t n = (uint64_t)c.n;
    MW_TRY(st, mw_comm_reduce_u64(b->comm, &n, MW_MAX)); /* a collective in the chain is called equally often */
    c.n = (int)n;
    MW_TRY(st, record(&c));
    for (int i = -2; i < b->o->repeat; i++) {
        MW_TRY(st, replay(&c, &t));
        if (i >= 0) MW_TRY(st, bench_samples_add(out, t / c.n));
    }
fail:
    if (c.graph) b->k->graph_free(c.graph);
    return st;
}

typedef struct {
    bench_dev *b;
    const char *from;
    size_t bytes, stride;
    int copies, way;
} reading;

static mw_status read_call(void *arg, int i) {
    reading *r = arg;
    return r->b->p->read(r->b->d, r->from + (size_t)(i % r->copies) * r->stride, r->bytes, r->way);
}

mw_status bench_chain_read(bench_dev *b, const void *from, size_t bytes, size_t stride, int copies, double *seconds) {
    mw_status st = MW_OK;
    reading r = {b, from, bytes, stride, copies, 0};
    bench_samples s = {0};
    *seconds = 0;
    for (r.way = 0; r.way < MW_PROBE_READS; r.way++) {
        s.n = 0;
        MW_TRY(st, bench_chain(b, copies, read_call, &r, &s));
        double t = bench_stats_of(&s).median;
        if (r.way == 0 || t < *seconds) *seconds = t;
    }
fail:
    bench_samples_free(&s);
    return st;
}
