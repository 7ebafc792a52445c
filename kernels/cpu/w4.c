/* kernels/cpu/w4.c - the int4 GEMM: quantises activations, then walks the tiles block by block on all threads.
 *
 * Activations are rounded per row and k block (at most 128 rows of k, never across a scale group) to int16, or int8 in
 * the int8_act mode, and laid out as the block kernels read them:
 *     [k block][row block][tile][row of the row block][act_tile bytes]
 * Few rows (one row block) are bound by memory: a thread owns a range of columns and walks it k block by k block, so
 * that memory sees the rows of tiles of one k block as a few long streams. Many rows are bound by arithmetic: tasks of
 * some columns x all rows of a chunk are handed out one by one; a k block's activations come from L2, its tiles from
 * L1. The order of the sums of one element of y is fixed: k blocks ascending, an exact integer sum inside each.
 */
#include <string.h>

#include "kernels/cpu/cpu.h"

#define ACC_BYTES_FEW  (16 << 10)  /* accumulators of a single row block stay in half of L1 */
#define ACC_BYTES_MANY (256 << 10) /* those of many rows in a quarter of L2 */
#define ACT_BYTES_MAX  (16 << 20)  /* prepared activations of a chunk of rows stay in L3 */
#define UNITS_MANY     8
#define UNITS_AHEAD    6 /* prefetch distance along a row of tiles: 3 kB of each stream */

typedef struct {
    const mw_w4 *w4;
    const mw_w4_ops *ops;
    mw_pool *pool;
    int64_t k, n, m; /* m: rows of this chunk */
    const float *x, *bias;
    float *y;
    int64_t ldx, ldy;
    int int8;
    int64_t kb_per_group, n_kb, n_rb; /* k blocks of a scale group and in all, row blocks */
    int64_t task_units, task_rb;      /* units and row blocks of a task */
    bool own_act;                     /* every thread prepares all activations for itself: cheaper than a barrier */
    size_t act_bytes, meta_bytes, acc_bytes;
    char *workspace; /* prepared activations (one set, or one a thread), then accumulators of every thread */
} job;

typedef struct {
    char *act;
    float *scale; /* [n_kb][m] */
    int32_t *sum; /* [n_kb][m] */
} prepared;

typedef struct {
    int64_t k0, group;
    int tiles;
} kblock;

static kblock kblock_at(const job *j, int64_t b) {
    int64_t g = b / j->kb_per_group, off = b % j->kb_per_group * MW_KBLOCK, left = j->w4->group - off;
    return (kblock){g * j->w4->group + off, g, (int)((left < MW_KBLOCK ? left : MW_KBLOCK) / 16)};
}

/* First row of row block rb. */
static int64_t rb_begin(const job *j, int64_t rb) {
    return j->m * rb / j->n_rb;
}

static size_t area_bytes(const job *j) {
    return j->act_bytes + 2 * j->meta_bytes;
}

static prepared prepared_of(const job *j, int thread) {
    char *p = j->workspace + (j->own_act ? (size_t)thread * area_bytes(j) : 0);
    return (prepared){p, (float *)(p + j->act_bytes), (int32_t *)(p + j->act_bytes + j->meta_bytes)};
}

static float *acc_of(const job *j, int thread, int n_threads) {
    return (float *)(j->workspace + (j->own_act ? (size_t)n_threads : 1) * area_bytes(j) +
                     (size_t)thread * j->acc_bytes);
}

/* Where the activations of k block kb and row block rb begin. */
static char *act_at(const job *j, const prepared *p, kblock kb, int64_t rb) {
    return p->act + (size_t)(kb.k0 / 16 * j->m + rb_begin(j, rb) * kb.tiles) * j->ops->act_tile[j->int8];
}

/* Prepare numbers [begin, end) of the list of all (k block, row). */
static void prepare(const job *j, const prepared *p, int64_t begin, int64_t end) {
    size_t tile = j->ops->act_tile[j->int8];
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i % j->m, rb = ((row + 1) * j->n_rb - 1) / j->m; /* the last rb with rb_begin(rb) <= row */
        int64_t first = rb_begin(j, rb), rows = rb_begin(j, rb + 1) - first;
        kblock kb = kblock_at(j, i / j->m);
        j->ops->prepare[j->int8](j->x + row * j->ldx + kb.k0, kb.tiles,
                                 act_at(j, p, kb, rb) + (size_t)(row - first) * tile, (size_t)rows * tile, p->scale + i,
                                 p->sum + i);
    }
}

/* Where the unit's successor in this thread's walk begins: further along this k block's tiles, else in the next k
 * block's; with many rows, the same unit of the next k block. */
static const uint32_t *ahead_of(int64_t u, int64_t u0, int64_t u1, bool few, const uint32_t *w, const uint32_t *next) {
    if (!few) return next + u * 128;
    int64_t v = u + UNITS_AHEAD;
    if (v < u1) return w + v * 128;
    v = u0 + v - u1;
    return next + (v < u1 ? v : u0) * 128;
}

/* Part i of n of the activations that follow a row block's in memory: its successor's, into L2. */
static void prefetch_next(const char *act, size_t bytes, int64_t i, int64_t n) {
    const char *end = act + bytes + bytes * (size_t)(i + 1) / (size_t)n;
    for (act += bytes + bytes * (size_t)i / (size_t)n; act < end; act += 64) __builtin_prefetch(act, 0, 2);
}

/* Columns of units [u0, u1) and rows of row blocks [rb0, rb1), all of k. acc: [rows][u1 - u0][64]. */
static void panel(const job *j, const prepared *p, float *acc, int64_t u0, int64_t u1, int64_t rb0, int64_t rb1) {
    int64_t row0 = rb_begin(j, rb0), rows = rb_begin(j, rb1) - row0, units = u1 - u0, row_words = 2 * j->n;
    int64_t scale_size = (int64_t)mw_dtype_size(j->w4->scale_dtype);
    mw_w4_block blk = {
        .w_stride = (size_t)row_words, .scale_dtype = j->w4->scale_dtype, .acc_ld = (size_t)units * MW_UNIT};
    memset(acc, 0, (size_t)(rows * units) * MW_UNIT * sizeof(float));
    for (int64_t b = 0; b < j->n_kb; b++) {
        kblock kb = kblock_at(j, b);
        const uint32_t *w = j->w4->tiles + kb.k0 / 16 * row_words;
        const uint32_t *next = b + 1 < j->n_kb ? w + kb.tiles * row_words : w;
        blk.tiles = kb.tiles;
        for (int64_t rb = rb0; rb < rb1; rb++) {
            int64_t first = rb_begin(j, rb);
            blk.rows = (int)(rb_begin(j, rb + 1) - first);
            blk.act = act_at(j, p, kb, rb);
            blk.act_scale = p->scale + b * j->m + first;
            blk.act_sum = p->sum + b * j->m + first;
            size_t act_bytes = (size_t)(blk.rows * kb.tiles) * j->ops->act_tile[j->int8];
            for (int64_t u = u0; u < u1; u++) {
                int64_t at = kb.group * j->n + u * MW_UNIT;
                blk.w = w + u * 128;
                blk.ahead = ahead_of(u, u0, u1, rb1 - rb0 == 1, w, next);
                blk.scale = (const char *)j->w4->scales + at * scale_size;
                blk.zero = j->w4->zeros ? j->w4->zeros + at : NULL;
                blk.acc = acc + ((first - row0) * units + u - u0) * MW_UNIT;
                if (rb1 - rb0 > 1) prefetch_next(blk.act, act_bytes, u - u0, units);
                j->ops->block[j->int8](&blk);
            }
        }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t u = u0; u < u1; u++)
            j->ops->finish(acc + (r * units + u - u0) * MW_UNIT, j->bias ? j->bias + u * MW_UNIT : NULL,
                           j->y + (row0 + r) * j->ldy + u * MW_UNIT);
}

static void run(void *arg, int thread, int n_threads) {
    const job *j = arg;
    prepared p = prepared_of(j, thread);
    float *acc = acc_of(j, thread, n_threads);
    int64_t units = j->n / MW_UNIT, begin, end;
    if (j->own_act) {
        prepare(j, &p, 0, j->n_kb * j->m);
    } else {
        mw_split(j->n_kb * j->m, 1, thread, n_threads, &begin, &end);
        prepare(j, &p, begin, end);
        mw_pool_barrier(j->pool);
    }
    if (j->n_rb == 1) {
        mw_split(units, 1, thread, n_threads, &begin, &end);
        for (int64_t u = begin; u < end; u += j->task_units)
            panel(j, &p, acc, u, u + j->task_units < end ? u + j->task_units : end, 0, 1);
        return;
    }
    int64_t across = (units + j->task_units - 1) / j->task_units, down = (j->n_rb + j->task_rb - 1) / j->task_rb;
    for (int64_t t; (t = mw_pool_next(j->pool)) < across * down;) {
        int64_t u = t / down * j->task_units, rb = t % down * j->task_rb;
        panel(j, &p, acc, u, u + j->task_units < units ? u + j->task_units : units, rb,
              rb + j->task_rb < j->n_rb ? rb + j->task_rb : j->n_rb);
    }
}

/* Block counts, task sizes and workspace of a chunk of m rows. */
static void plan(const mw_dev *d, job *j, int64_t m) {
    int64_t threads = d->threads, units = j->n / MW_UNIT, most = j->ops->max_rows;
    j->m = m;
    j->n_rb = (m + most - 1) / most;
    if (j->n_rb == 1) {
        j->task_rb = 1;
        j->task_units = ACC_BYTES_FEW / (int64_t)sizeof(float) / (m * MW_UNIT);
        int64_t share = (units + threads - 1) / threads;
        if (j->task_units > share) j->task_units = share;
        if (j->task_units < 1) j->task_units = 1;
    } else {
        j->task_units = units / (4 * threads);
        if (j->task_units > UNITS_MANY) j->task_units = UNITS_MANY;
        if (j->task_units < 1) j->task_units = 1;
        j->task_rb = ACC_BYTES_MANY / (int64_t)sizeof(float) / (j->task_units * MW_UNIT * most);
        if (j->task_rb > j->n_rb) j->task_rb = j->n_rb;
    }
    j->own_act = m * j->k <= (d->spin ? 16 << 10 : 128 << 10);
    j->act_bytes = (size_t)(j->k / 16 * m) * j->ops->act_tile[j->int8];
    j->meta_bytes = ((size_t)(j->n_kb * m) * 4 + 63) / 64 * 64;
    j->acc_bytes = (size_t)(j->task_units * j->task_rb * (j->n_rb == 1 ? m : most)) * MW_UNIT * sizeof(float);
}

static mw_status check(const mw_linear *w) {
    const mw_w4 *q = &w->w4;
    if (w->k <= 0 || w->n <= 0 || w->k % 16 || w->n % MW_UNIT || w->n > INT64_MAX / 8 / w->k)
        return MW_FAIL(MW_ERR_INTERNAL, "int4 matrix k=%lld n=%lld: expected multiples of 16 and 64", (long long)w->k,
                       (long long)w->n);
    if (q->group <= 0 || q->group % 16 || w->k % q->group)
        return MW_FAIL(MW_ERR_INTERNAL, "int4 matrix: group %lld must be a multiple of 16 that divides k=%lld",
                       (long long)q->group, (long long)w->k);
    if (q->scale_dtype != MW_F16 && q->scale_dtype != MW_BF16 && q->scale_dtype != MW_F32)
        return MW_FAIL(MW_ERR_INTERNAL, "int4 matrix: scales are %s, expected f16, bf16 or f32",
                       mw_dtype_name(q->scale_dtype));
    return MW_OK;
}

mw_status mw_cpu_linear_w4(mw_dev *d, const mw_linear *w, int64_t m, const float *x, int64_t ldx, float *y,
                           int64_t ldy) {
    mw_status st = check(w);
    if (st != MW_OK) return st;
    job j = {.w4 = &w->w4, .ops = d->isa->w4, .pool = d->pool, .k = w->k, .n = w->n, .bias = w->bias};
    j.ldx = ldx;
    j.ldy = ldy;
    j.int8 = d->int8_act;
    j.kb_per_group = (j.w4->group + MW_KBLOCK - 1) / MW_KBLOCK;
    j.n_kb = j.k / j.w4->group * j.kb_per_group;

    int64_t most = ACT_BYTES_MAX / (j.k / 16 * (int64_t)j.ops->act_tile[j.int8]) / j.ops->max_rows * j.ops->max_rows;
    if (most < j.ops->max_rows) most = j.ops->max_rows;
    for (int64_t i = 0; i < m; i += j.m) {
        void *workspace;
        plan(d, &j, m - i < most ? m - i : most);
        st = mw_dev_workspace(
            d, (j.own_act ? (size_t)d->threads : 1) * area_bytes(&j) + (size_t)d->threads * j.acc_bytes, &workspace);
        if (st != MW_OK) return st;
        j.workspace = workspace;
        j.x = x + i * ldx;
        j.y = y + i * ldy;
        mw_pool_run(d->pool, run, &j);
    }
    return MW_OK;
}
