/* marlin-bench load: from mw_engine_open to ready, and to the first token of a short prompt; beside it, plain reading
 * of the same file by as many threads (from wherever it is: page cache or disk). */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/session.h"
#include "shard/synthetic.h"
#include "worker/base/clock.h"
#include "worker/base/io.h"
#include "worker/base/threads.h"

#define PIECE  ((uint64_t)4 << 20)
#define PROMPT 16

static const bench_column k_columns[] = {
    {"model", "model", -1},     {"ranks", "ranks", -1},
    {"load_s", "load s", 3},    {"load_s_min", "min", 3},
    {"load_s_max", "max", 3},   {"first_s", "to first token s", 3},
    {"gbps", "read GB/s", 2},   {"plain_gbps", "plain reading GB/s", 2},
    {"x_plain", "of plain", 3},
};

typedef struct {
    const char *path;
    int fd;
    uint64_t bytes;
    mw_pool *pool;
    mw_status st[256]; /* a thread's */
} reader;

static void read_run(void *arg, int thread, int n_threads) {
    (void)n_threads;
    reader *r = arg;
    void *buffer = NULL;
    mw_status st = mw_alloc64(&buffer, PIECE, "buffer");
    for (uint64_t i; st == MW_OK && (i = (uint64_t)mw_pool_next(r->pool) * PIECE) < r->bytes;)
        st = mw_pread(r->fd, r->path, buffer, r->bytes - i < PIECE ? r->bytes - i : PIECE, i);
    free(buffer);
    r->st[thread] = st;
}

/* Bytes a second of reading the whole file, the second time. */
static mw_status read_plainly(const char *path, int threads, double *rate) {
    mw_status st = MW_OK;
    struct stat sb;
    reader r = {.path = path, .fd = -1};
    double start = 0;
    if (threads > (int)(sizeof r.st / sizeof *r.st)) threads = (int)(sizeof r.st / sizeof *r.st);
    MW_TRY(st, mw_open_regular(path, &r.fd));
    if (fstat(r.fd, &sb) != 0) sb.st_size = 0;
    r.bytes = (uint64_t)sb.st_size;
    MW_TRY(st, mw_pool_create(&r.pool, threads, 0));
    for (int i = 0; i < 2; i++) {
        start = mw_now_s();
        mw_pool_run(r.pool, read_run, &r);
        for (int t = 0; t < threads; t++)
            if (r.st[t] != MW_OK) return MW_FAIL(r.st[t], "%s: cannot be read", path);
    }
    *rate = (double)r.bytes / (mw_now_s() - start);
fail:
    mw_pool_destroy(r.pool);
    if (r.fd >= 0) close(r.fd);
    return st;
}

typedef struct {
    bench_samples load, first, rate;
    double opened; /* when mw_engine_open was called */
    uint64_t seed;
    bench_report *r;
    mw_engine_info info;
} load_run;

static mw_status lead(void *arg, mw_engine *e) {
    mw_status st = MW_OK;
    load_run *l = arg;
    mw_event ev;
    bool got, done = false;
    uint64_t id;
    double ready = mw_now_s() - l->opened;
    mw_engine_describe(e, &l->info);
    bench_describe_engine(l->r, &l->info);
    MW_TRY(st, bench_submit_random(e, &l->seed, l->info.vocab, 1, PROMPT, 1, &id));
    while (!done) {
        MW_TRY(st, mw_engine_poll(e, -1, &ev, &got));
        if (!got) continue;
        if (ev.type == MW_EVENT_ERROR) st = MW_FAIL(ev.status, "%.*s", (int)ev.text_len, ev.text);
        if (ev.type == MW_EVENT_TOKEN) st = bench_samples_add(&l->first, ev.made_s - l->opened);
        done = ev.type == MW_EVENT_DONE;
        mw_event_free(&ev);
        if (st != MW_OK) return st;
    }
    MW_TRY(st, bench_samples_add(&l->load, ready));
    MW_TRY(st, bench_samples_add(&l->rate, l->info.load_gbps));
fail:
    return st;
}

static mw_status print(load_run *l, bench_report *r, const bench_model *m, double plain) {
    bench_stats load = bench_stats_of(&l->load), first = bench_stats_of(&l->first), rate = bench_stats_of(&l->rate);
    json_t *row = bench_row_begin(r, "load");
    bench_row_text(row, "backend", l->info.backend);
    bench_row_text(row, "model", m->name);
    bench_row_int(row, "ranks", bench_now.size);
    bench_row_metric(row, "first_s", false);
    bench_row_stats(row, "load_s", &load, 1);
    bench_row_stats(row, "first_s", &first, 1);
    bench_row_real(row, "gbps", rate.median * bench_now.size);
    if (plain > 0) {
        bench_row_real(row, "plain_gbps", plain * 1e-9);
        bench_row_real(row, "x_plain", rate.median * bench_now.size / (plain * 1e-9));
    }
    bench_row_real(row, "weight_gbytes", (double)l->info.weight_bytes * 1e-9);
    return bench_row_end(r, row);
}

static mw_status run_model(const bench_opts *o, bench_report *r, const char *path) {
    mw_status st = MW_OK;
    bench_model m = {0};
    load_run l = {.seed = o->seed, .r = r};
    mw_engine_options e = o->engine;
    double plain = 0;
    MW_TRY(st, bench_model_open(&m, path));
    e.model = path;
    if (e.ctx == 0) e.ctx = 512;
    if (e.max_seqs == 0) e.max_seqs = 1;
    for (int i = 0; i < o->repeat; i++) {
        l.opened = mw_now_s();
        MW_TRY(st, bench_with_engine(&e, lead, &l));
    }
    if (bench_now.rank != 0) goto fail;
    if (!mw_is_synthetic(path)) MW_TRY(st, read_plainly(path, l.info.threads * bench_now.size, &plain));
    st = print(&l, r, &m, plain);
fail:
    bench_model_close(&m);
    bench_samples_free(&l.load);
    bench_samples_free(&l.first);
    bench_samples_free(&l.rate);
    return st;
}

mw_status bench_load(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    bench_report_columns(r, k_columns, (int)(sizeof k_columns / sizeof *k_columns));
    for (int i = 0; i < o->n_models; i++) MW_TRY(st, run_model(o, r, o->models[i]));
fail:
    return st;
}
