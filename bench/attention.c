/* marlin-bench attention: prefill and decode attention over a paged KV cache with blocks in random order, KV cold. RoPE
 * and the write of the new K and V are part of it, as they are of the kernels' call. */
#include <math.h>
#include <stdlib.h>

#include "bench/device.h"
#include "bench/random.h"
#include "bench/shapes.h"

#define BLOCK   16
#define SAMPLES 8 /* rows that are checked */

static const bench_column k_columns[] = {
    {"model", "model", -1},  {"tp", "TP", -1},         {"test", "test", -1},       {"heads", "heads", -1},
    {"seqs", "seqs", -1},    {"rows", "rows", -1},     {"ctx", "context", -1},     {"us", "us", 2},
    {"us_p10", "p10", 2},    {"us_p90", "p90", 2},     {"gbps", "KV GB/s", 0},     {"read_us", "read us", 2},
    {"x_read", "x read", 2}, {"tflops", "TFLOP/s", 2}, {"x_dense", "of dense", 3}, {"error", "error/bound", 3},
};

typedef struct {
    int n_q, n_kv, head_dim, window;
} head_set;

typedef struct {
    bench_dev b;
    const bench_opts *o;
    bench_report *r;
    const char *model;
    int tp;
    head_set h;
    double dense; /* FLOP/s of a large dense GEMM */
    uint64_t seed;
} attention_run;

/* One batch: its arrays, rows and as many copies of the cache as keep it cold. */
typedef struct {
    attention_run *g;
    int seqs, rows, ctx, copies;
    int64_t width;
    size_t copy; /* bytes of K, and of V, of one copy */
    mw_attn a;
    mw_batch batch;
    int32_t *host;
    size_t words;
    void *arrays, *k, *v, *qkv, *given, *out, *rope; /* given: qkv as it was, which the call may change */
} batch_run;

static mw_status attend(void *arg, int i) {
    batch_run *r = arg;
    size_t at = (size_t)(i % r->copies) * r->copy;
    return r->g->b.k->attention(r->g->b.d, &r->a, &r->batch, r->qkv, r->width, (char *)r->k + at, (char *)r->v + at,
                                r->out, (int64_t)r->a.n_q * r->a.head_dim);
}

/* Block numbers of all sequences, shuffled. */
static void shuffle(int32_t *table, int n, uint64_t *seed) {
    for (int i = 0; i < n; i++) table[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(bench_random(seed) % (uint64_t)(i + 1));
        int32_t t = table[i];
        table[i] = table[j];
        table[j] = t;
    }
}

static mw_status make_arrays(batch_run *r) {
    mw_status st = MW_OK;
    bench_dev *b = &r->g->b;
    int blocks = (r->ctx + BLOCK - 1) / BLOCK, tokens = r->seqs * r->rows;
    r->words = (size_t)(3 * tokens + 2 * r->seqs + 1) + (size_t)(r->seqs * blocks);
    MW_TRY(st, MW_CALLOC(&r->host, r->words, "batch"));
    MW_TRY(st, bench_dev_alloc(b, &r->arrays, r->words * sizeof *r->host, "batch"));
    int32_t *token = r->host, *pos = token + tokens, *slot = pos + tokens, *start = slot + tokens,
            *len = start + r->seqs + 1, *table = len + r->seqs, *device = r->arrays;
    shuffle(table, r->seqs * blocks, &r->g->seed);
    for (int s = 0; s <= r->seqs; s++) start[s] = s * r->rows;
    for (int s = 0; s < r->seqs; s++) len[s] = r->ctx;
    for (int i = 0; i < tokens; i++) {
        pos[i] = r->ctx - r->rows + i % r->rows;
        slot[i] = table[i / r->rows * blocks + pos[i] / BLOCK] * BLOCK + pos[i] % BLOCK;
    }
    MW_TRY(st, b->k->to_device(b->d, r->arrays, r->host, r->words * sizeof *r->host));
    r->batch = (mw_batch){tokens,
                          r->seqs,
                          r->rows,
                          r->ctx,
                          device,
                          device + (pos - token),
                          device + (slot - token),
                          device + (start - token),
                          device + (len - token),
                          device + (table - token),
                          blocks};
fail:
    return st;
}

/* By nothing: then the reference needs no RoPE, and takes as long as any other. */
static mw_status make_rotations(batch_run *r) {
    mw_status st = MW_OK;
    bench_dev *b = &r->g->b;
    size_t n = (size_t)r->ctx * (size_t)r->g->h.head_dim;
    float *table = NULL;
    MW_TRY(st, MW_CALLOC(&table, n, "rotations"));
    for (size_t i = 0; i < n; i += 2) table[i] = 1;
    MW_TRY(st, bench_dev_alloc(b, &r->rope, n * sizeof *table, "rotations"));
    st = b->k->to_device(b->d, r->rope, table, n * sizeof *table);
fail:
    free(table);
    return st;
}

static mw_status make_cache(batch_run *r) {
    mw_status st = MW_OK;
    bench_dev *b = &r->g->b;
    const head_set *h = &r->g->h;
    mw_dtype act = b->info.act, kv = act == MW_F32 ? r->g->o->dtype : act;
    int tokens = r->seqs * r->rows, blocks = (r->ctx + BLOCK - 1) / BLOCK;
    size_t elements = (size_t)(r->seqs * blocks * BLOCK) * (size_t)(h->n_kv * h->head_dim);
    r->copy = elements * mw_dtype_size(kv);
    MW_TRY(st, b->k->info(b->d, &b->info));
    size_t most = (size_t)b->info.mem_free / 4 / (size_t)b->size / (2 * r->copy), want = b->cold / (2 * r->copy) + 2;
    if (most < 1) return MW_FAIL(MW_ERR_LIMIT, "%d sequences of context %d: the cache does not fit", r->seqs, r->ctx);
    if (want > BENCH_CALLS_MOST) want = BENCH_CALLS_MOST;
    r->copies = r->rows > 1 ? 1 : (int)(want < most ? want : most);
    r->width = (int64_t)(h->n_q + 2 * h->n_kv) * h->head_dim;
    MW_TRY(st, bench_dev_alloc(b, &r->k, r->copy * (size_t)r->copies, "K cache"));
    MW_TRY(st, bench_dev_alloc(b, &r->v, r->copy * (size_t)r->copies, "V cache"));
    MW_TRY(st, bench_dev_alloc(b, &r->qkv, (size_t)(tokens * r->width) * mw_dtype_size(act), "queries"));
    MW_TRY(st, bench_dev_alloc(b, &r->out, (size_t)(tokens * h->n_q * h->head_dim) * mw_dtype_size(act), "results"));
    MW_TRY(st, bench_dev_alloc(b, &r->given, (size_t)(tokens * r->width) * mw_dtype_size(act), "queries"));
    MW_TRY(st, b->p->fill(b->d, r->k, kv, elements * (size_t)r->copies, 0, 1, 11));
    MW_TRY(st, b->p->fill(b->d, r->v, kv, elements * (size_t)r->copies, 0, 1, 12));
    MW_TRY(st, b->p->fill(b->d, r->qkv, act, (size_t)(tokens * r->width), 0, 3, 13));
    MW_TRY(st, b->p->copy(b->d, r->given, r->qkv, (size_t)(tokens * r->width) * mw_dtype_size(act)));
    MW_TRY(st, make_rotations(r));
    r->a = (mw_attn){.n_q = h->n_q,
                     .n_kv = h->n_kv,
                     .head_dim = h->head_dim,
                     .block_size = BLOCK,
                     .window = h->window,
                     .k_off = (int64_t)h->n_q * h->head_dim,
                     .v_off = (int64_t)(h->n_q + h->n_kv) * h->head_dim,
                     .kv_dtype = kv,
                     .rope = r->rope};
    r->a.scale = 1 / sqrtf((float)h->head_dim);
fail:
    return st;
}

static void batch_free(batch_run *r) {
    bench_dev *b = &r->g->b;
    void *all[] = {r->arrays, r->k, r->v, r->qkv, r->given, r->out, r->rope};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_dev_free(b, all[i]);
    free(r->host);
}

static mw_status check(batch_run *r, double *error) {
    mw_status st = MW_OK;
    bench_dev *b = &r->g->b;
    mw_verdict v;
    int64_t ld = (int64_t)r->a.n_q * r->a.head_dim;
    MW_TRY(st, b->p->poison(b->d, r->out, (size_t)(r->batch.n_tokens * ld) * mw_dtype_size(b->info.act)));
    MW_TRY(st, attend(r, 0));
    MW_TRY(st, b->p->check_attention(b->d, &r->a, &r->batch, r->given, r->width, r->k, r->v, r->out, ld, SAMPLES, &v));
    *error = v.worst;
    if (!(v.worst <= 1))
        return MW_FAIL(MW_ERR_NUMERIC,
                       "attention of %d x %d rows, context %d: row %lld, column %lld: error %.3g times its bound",
                       r->seqs, r->rows, r->ctx, (long long)v.row, (long long)v.col, v.worst);
fail:
    return st;
}

static mw_status print(batch_run *r, const bench_stats *t, double read_s, double error) {
    attention_run *g = r->g;
    char heads[32], test[32];
    double bytes = 2 * (double)r->seqs * r->ctx * g->h.n_kv * g->h.head_dim * (double)mw_dtype_size(r->a.kv_dtype);
    double pairs = (double)r->rows * r->ctx - 0.5 * (double)r->rows * (r->rows - 1); /* the causal part */
    double flops = 4 * (double)r->seqs * pairs * g->h.n_q * g->h.head_dim;
    snprintf(heads, sizeof heads, "%d/%dx%d", g->h.n_q, g->h.n_kv, g->h.head_dim);
    snprintf(test, sizeof test, "attention %s", r->rows > 1 ? "prefill" : "decode");
    json_t *row = bench_row_begin(g->r, test);
    bench_row_text(row, "backend", g->b.k->name);
    bench_row_text(row, "model", g->model);
    bench_row_int(row, "tp", g->tp);
    bench_row_text(row, "heads", heads);
    bench_row_text(row, "dtype", mw_dtype_name(r->a.kv_dtype));
    bench_row_int(row, "seqs", r->seqs);
    bench_row_int(row, "rows", r->rows);
    bench_row_int(row, "ctx", r->ctx);
    bench_row_metric(row, "us", false);
    bench_row_stats(row, "us", t, 1e6);
    bench_row_real(row, "gbps", bytes / t->median * 1e-9);
    if (r->rows == 1) {
        bench_row_real(row, "read_us", read_s * 1e6);
        bench_row_real(row, "x_read", t->median / read_s);
    }
    bench_row_real(row, "tflops", flops / t->median * 1e-12);
    if (g->dense > 0) bench_row_real(row, "x_dense", flops / t->median / g->dense);
    bench_row_real(row, "error", error);
    return bench_row_end(g->r, row);
}

static mw_status run_batch(attention_run *g, int seqs, int rows, int ctx) {
    mw_status st = MW_OK;
    batch_run r = {.g = g, .seqs = seqs, .rows = rows, .ctx = ctx};
    bench_samples s = {0};
    double error = 0, k_s = 0, v_s = 0;
    if ((int64_t)seqs * ((ctx + BLOCK - 1) / BLOCK) > INT32_MAX / BLOCK)
        return MW_FAIL(MW_ERR_LIMIT, "%d sequences of context %d: too many blocks", seqs, ctx);
    MW_TRY(st, make_cache(&r));
    MW_TRY(st, make_arrays(&r));
    MW_TRY(st, g->b.k->sync(g->b.d));
    MW_TRY(st, mw_comm_agree(g->b.comm, check(&r, &error)));
    MW_TRY(st, bench_chain(&g->b, r.copies, attend, &r, &s));
    if (rows == 1) {
        MW_TRY(st, bench_chain_read(&g->b, r.k, r.copy / 16 * 16, r.copy, r.copies, &k_s));
        MW_TRY(st, bench_chain_read(&g->b, r.v, r.copy / 16 * 16, r.copy, r.copies, &v_s));
    }
    bench_stats t = bench_stats_of(&s);
    st = print(&r, &t, k_s + v_s, error);
fail:
    batch_free(&r);
    bench_samples_free(&s);
    return st;
}

static mw_status run_heads(attention_run *g) {
    mw_status st = MW_OK;
    const bench_opts *o = g->o;
    for (int i = 0; i < o->batch.n; i++)
        for (int j = 0; j < o->depth.n; j++) MW_TRY(st, run_batch(g, (int)o->batch.v[i], 1, (int)o->depth.v[j]));
    for (int i = 0; i < o->prompt.n; i++) {
        int n = (int)o->prompt.v[i];
        if (n > 1) MW_TRY(st, run_batch(g, 1, n, n));
    }
fail:
    return st;
}

/* "32/8x128" */
static mw_status run_given(attention_run *g) {
    head_set *h = &g->h;
    char end;
    if (sscanf(g->o->heads, "%d/%dx%d%c", &h->n_q, &h->n_kv, &h->head_dim, &end) != 3 || h->n_kv < 1 || h->n_q > 4096 ||
        h->n_q % h->n_kv || h->n_q < 1 || h->head_dim < 8 || h->head_dim > 256 || h->head_dim % 8)
        return MW_FAIL(MW_ERR_USAGE, "--heads: '%s' is not QUERY/KVxDIM such as 32/8x128", g->o->heads);
    g->model = "-";
    g->tp = 1;
    return run_heads(g);
}

static mw_status run_model(attention_run *g, const char *path) {
    mw_status st = MW_OK;
    bench_model m = {0};
    mw_plan *p = NULL;
    MW_TRY(st, bench_model_open(&m, path));
    g->model = m.name;
    for (int i = 0; i < g->o->tp.n; i++) {
        g->tp = (int)g->o->tp.v[i];
        MW_TRY(st, mw_plan_make(&p, m.ckpt, g->tp));
        g->h = (head_set){(int)mw_range_len(p->rank[0].q_heads), (int)mw_range_len(p->rank[0].kv_heads),
                          (int)m.cfg->head_dim, (int)m.cfg->window};
        mw_plan_free(p);
        p = NULL;
        MW_TRY(st, run_heads(g));
    }
fail:
    mw_plan_free(p);
    g->model = NULL; /* its name is part of m */
    bench_model_close(&m);
    return st;
}

mw_status bench_attention(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    attention_run g = {.o = o, .r = r, .seed = o->seed};
    bench_ceiling c = {0};
    bench_report_columns(r, k_columns, (int)(sizeof k_columns / sizeof *k_columns));
    MW_TRY(st, bench_dev_open(&g.b, o, r, o->dtype));
    int64_t edge = g.b.info.host_memory ? 512 : 8192;
    if (!o->no_reference) MW_TRY(st, bench_ceiling_dense(&g.b, edge, edge, edge, &c));
    g.dense = c.dense;
    if (o->heads)
        MW_TRY(st, run_given(&g));
    else
        for (int i = 0; i < o->n_models; i++) MW_TRY(st, run_model(&g, o->models[i]));
fail:
    return bench_dev_close(&g.b, st);
}
