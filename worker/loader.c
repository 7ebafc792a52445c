#include "worker/loader.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/pack.h"
#include "worker/base/clock.h"
#include "worker/base/threads.h"

typedef enum { TILES, SCALES, ZEROS, DENSE, VECTOR, PERM } piece;

typedef struct {
    piece kind;
    const mw_weight *w;
    const mw_dataset *d; /* NULL: ZEROS of a weight that stores none */
    mw_range k, n;
    int64_t group, limit;
    void *dst;
    size_t ld;
    uint64_t bytes; /* read from the file */
} task;

struct mw_loader {
    const mw_ckpt *c;
    const mw_kernels *k;
    mw_dev *dev;
    bool staged; /* device memory is not host memory */
    mw_pool *pool;
    bool verify;
    task *task;
    int n_tasks, cap;
    mw_progress *bar;
    atomic_uint_fast64_t done;
    atomic_bool stop;
    pthread_mutex_t lock;
    mw_status st; /* the first failure, with its text */
    char text[MW_ERROR_TEXT_MAX];
};

mw_status mw_loader_open(mw_loader **out, const mw_ckpt *c, const mw_kernels *k, mw_dev *dev, int threads,
                         bool verify) {
    mw_status st = MW_OK;
    mw_loader *l = NULL;
    mw_dev_info info;
    MW_TRY(st, k->info(dev, &info));
    MW_TRY(st, MW_CALLOC(&l, 1, "loader"));
    pthread_mutex_init(&l->lock, NULL);
    l->c = c;
    l->k = k;
    l->dev = dev;
    l->staged = !info.host_memory;
    l->verify = verify;
    MW_TRY(st, mw_pool_create(&l->pool, threads, 0));
    *out = l;
    return MW_OK;
fail:
    mw_loader_close(l);
    return st;
}

void mw_loader_close(mw_loader *l) {
    if (!l) return;
    mw_pool_destroy(l->pool);
    pthread_mutex_destroy(&l->lock);
    free(l->task);
    free(l);
}

static mw_status add(mw_loader *l, task t) {
    if (l->n_tasks == l->cap) {
        int cap = l->cap ? 2 * l->cap : 1024;
        task *p = realloc(l->task, (size_t)cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "%d load tasks", cap);
        l->task = p;
        l->cap = cap;
    }
    l->task[l->n_tasks++] = t;
    return MW_OK;
}

/* Pieces of about this many bytes: large enough for the disk, small enough for the threads to share the work. */
static const int64_t k_band_bytes = 8 << 20;

mw_status mw_load_tiles(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, uint32_t *dst, size_t ld) {
    mw_status st = MW_OK;
    const mw_dataset *d = mw_ckpt_dataset(l->c, w->qweight);
    int64_t unit = d->block_rows * (mw_ckpt_layout(l->c) == MW_IN_TILES ? MW_TILE_K : 1);
    int64_t rows = mw_round_up(k_band_bytes / (mw_range_len(n) / 2 + 1) + 1, unit > MW_TILE_K ? unit : MW_TILE_K);
    for (int64_t k0 = k.lo; k0 < k.hi;) {
        int64_t k1 = (k0 / rows + 1) * rows; /* bands end where checksum blocks end */
        if (k1 > k.hi) k1 = k.hi;
        MW_TRY(st, add(l, (task){.kind = TILES,
                                 .w = w,
                                 .d = d,
                                 .k = {k0, k1},
                                 .n = n,
                                 .dst = dst + (size_t)((k0 - k.lo) / MW_TILE_K) * ld,
                                 .ld = ld,
                                 .bytes = (uint64_t)((k1 - k0) * mw_range_len(n) / 2)}));
        k0 = k1;
    }
fail:
    return st;
}

static mw_status add_groups(mw_loader *l, piece kind, const mw_weight *w, int dataset, mw_range k, mw_range n,
                            int64_t group, void *dst, size_t ld) {
    const mw_dataset *d = dataset >= 0 ? mw_ckpt_dataset(l->c, dataset) : NULL;
    uint64_t bytes = d ? (uint64_t)(mw_range_len(k) / w->group_size * mw_range_len(n)) * mw_dtype_size(d->dtype) : 0;
    return add(
        l, (task){.kind = kind, .w = w, .d = d, .k = k, .n = n, .group = group, .dst = dst, .ld = ld, .bytes = bytes});
}

mw_status mw_load_scales(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, int64_t group, void *dst,
                         size_t ld) {
    return add_groups(l, SCALES, w, w->scales, k, n, group, dst, ld);
}

mw_status mw_load_zeros(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, int64_t group, uint8_t *dst,
                        size_t ld) {
    return add_groups(l, ZEROS, w, w->zeros, k, n, group, dst, ld);
}

mw_status mw_load_dense(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, void *dst) {
    mw_status st = MW_OK;
    const mw_dataset *d = mw_ckpt_dataset(l->c, w->weight);
    size_t row = (size_t)mw_range_len(k) * mw_dtype_size(d->dtype);
    int64_t rows = mw_round_up(k_band_bytes / (int64_t)row + 1, d->block_rows);
    for (int64_t n0 = n.lo; n0 < n.hi;) {
        int64_t n1 = (n0 / rows + 1) * rows;
        if (n1 > n.hi) n1 = n.hi;
        MW_TRY(st, add(l, (task){.kind = DENSE,
                                 .w = w,
                                 .d = d,
                                 .k = k,
                                 .n = {n0, n1},
                                 .dst = (char *)dst + (size_t)(n0 - n.lo) * row,
                                 .ld = row,
                                 .bytes = (uint64_t)(n1 - n0) * row}));
        n0 = n1;
    }
fail:
    return st;
}

mw_status mw_load_vector(mw_loader *l, int dataset, mw_range r, float *dst) {
    const mw_dataset *d = mw_ckpt_dataset(l->c, dataset);
    return add(
        l,
        (task){
            .kind = VECTOR, .d = d, .n = r, .dst = dst, .bytes = (uint64_t)mw_range_len(r) * mw_dtype_size(d->dtype)});
}

mw_status mw_load_perm(mw_loader *l, int dataset, mw_range r, int64_t limit, int32_t *dst) {
    const mw_dataset *d = mw_ckpt_dataset(l->c, dataset);
    return add(
        l, (task){.kind = PERM, .d = d, .n = r, .limit = limit, .dst = dst, .bytes = (uint64_t)mw_range_len(r) * 4});
}

/* ---- doing it ---- */

/* Tiles as they lie in the file when the cut is at a tile; otherwise logical rows, shifted and packed here. */
static mw_status run_tiles(const mw_loader *l, const task *t) {
    mw_status st = MW_OK;
    bool tiles = mw_ckpt_layout(l->c) == MW_IN_TILES;
    int64_t kt0 = t->k.lo / MW_TILE_K, kts = mw_range_len(t->k) / MW_TILE_K, len = mw_range_len(t->n);
    int64_t c0 = t->n.lo / MW_TILE_N * MW_TILE_N, c1 = mw_round_up(t->n.hi, MW_TILE_N);
    uint32_t *words = NULL;
    uint8_t *rows = NULL;
    if (tiles && c0 == t->n.lo)
        return mw_ckpt_read(l->c, t->d, kt0, kts, 2 * c0, 2 * (c1 - c0), t->dst, t->ld * 4, l->verify);
    if (tiles) {
        size_t row_bytes = (size_t)(c1 - c0) / 2;
        MW_TRY(st, MW_CALLOC(&words, (size_t)(kts * 2 * (c1 - c0)), "load buffer"));
        MW_TRY(st, MW_CALLOC(&rows, (size_t)mw_range_len(t->k) * row_bytes, "load buffer"));
        MW_TRY(st,
               mw_ckpt_read(l->c, t->d, kt0, kts, 2 * c0, 2 * (c1 - c0), words, (size_t)(8 * (c1 - c0)), l->verify));
        mw_unpack_tiles(words, (size_t)(2 * (c1 - c0)), mw_range_len(t->k), c1 - c0, rows, row_bytes);
        mw_pack_tiles(rows + (t->n.lo - c0) / 2, row_bytes, mw_range_len(t->k), len, t->dst, t->ld);
    } else {
        size_t row_bytes = (size_t)len / 2;
        MW_TRY(st, MW_CALLOC(&rows, (size_t)mw_range_len(t->k) * row_bytes, "load buffer"));
        MW_TRY(st,
               mw_ckpt_read(l->c, t->d, t->k.lo, mw_range_len(t->k), t->n.lo / 2, len / 2, rows, row_bytes, l->verify));
        mw_pack_tiles(rows, row_bytes, mw_range_len(t->k), len, t->dst, t->ld);
    }
fail:
    free(words);
    free(rows);
    return st;
}

static mw_status check_finite(const mw_loader *l, const mw_dataset *d, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(mw_load_f32(p, d->dtype, i)))
            return MW_FAIL(MW_ERR_CORRUPT, "%s: %s: holds a NaN or infinite value", mw_ckpt_path(l->c), d->name);
    return MW_OK;
}

/* Scales or zeros: rows of the groups that the slice touches, to natural order, cut, padded with 0, permuted. */
static mw_status run_groups(const mw_loader *l, const task *t) {
    mw_status st = MW_OK;
    const mw_weight *w = t->w;
    size_t elem = t->d ? mw_dtype_size(t->d->dtype) : 1;
    int64_t len = mw_range_len(t->n), padded = mw_round_up(len, MW_TILE_N), groups = mw_range_len(t->k) / t->group;
    if (!t->d) { /* no stored zeros: 8 */
        for (int64_t g = 0; g < groups; g++) memset((uint8_t *)t->dst + (size_t)g * t->ld, 8, (size_t)padded);
        return MW_OK;
    }
    bool tiles = mw_ckpt_layout(l->c) == MW_IN_TILES;
    int64_t c0 = tiles ? t->n.lo / MW_TILE_N * MW_TILE_N : t->n.lo,
            c1 = tiles ? mw_round_up(t->n.hi, MW_TILE_N) : t->n.hi;
    int64_t g0 = t->k.lo / w->group_size, g1 = (t->k.hi - 1) / w->group_size + 1;
    size_t row = (size_t)(c1 - c0) * elem;
    char *raw = NULL, *natural = NULL;
    MW_TRY(st, MW_CALLOC(&raw, (size_t)(g1 - g0) * row, "load buffer"));
    MW_TRY(st, MW_CALLOC(&natural, (size_t)(row + (size_t)padded * elem), "load buffer"));
    MW_TRY(st, mw_ckpt_read(l->c, t->d, g0, g1 - g0, c0, c1 - c0, raw, row, l->verify));
    if (t->kind == SCALES) MW_TRY(st, check_finite(l, t->d, raw, (size_t)(g1 - g0) * (size_t)(c1 - c0)));
    for (int64_t g = 0; g < groups; g++) {
        const char *src = raw + (size_t)((t->k.lo + g * t->group) / w->group_size - g0) * row;
        if (tiles) {
            mw_permute64(src, natural, 1, c1 - c0, elem);
            memmove(natural, natural + (size_t)(t->n.lo - c0) * elem, (size_t)len * elem);
        } else {
            memcpy(natural, src, (size_t)len * elem);
        }
        memset(natural + (size_t)len * elem, 0, (size_t)(padded - len) * elem);
        mw_permute64(natural, (char *)t->dst + (size_t)g * t->ld * elem, 1, padded, elem);
    }
fail:
    free(raw);
    free(natural);
    return st;
}

static mw_status run_vector(const mw_loader *l, const task *t) {
    mw_status st = MW_OK;
    size_t n = (size_t)mw_range_len(t->n), elem = mw_dtype_size(t->d->dtype);
    char *raw = NULL;
    MW_TRY(st, MW_CALLOC(&raw, n * elem, "load buffer"));
    MW_TRY(st, mw_ckpt_read(l->c, t->d, 0, 1, t->n.lo, (int64_t)n, raw, n * elem, l->verify));
    if (t->kind == PERM) {
        memcpy(t->dst, raw, n * elem);
        for (size_t i = 0; i < n; i++) {
            int32_t v = ((const int32_t *)t->dst)[i];
            if (v < 0 || v >= t->limit) {
                st = MW_FAIL(MW_ERR_CORRUPT, "%s: %s: entry %zu is %d, expected 0 to %lld", mw_ckpt_path(l->c),
                             t->d->name, i, v, (long long)t->limit - 1);
                goto fail;
            }
        }
    } else {
        MW_TRY(st, check_finite(l, t->d, raw, n));
        for (size_t i = 0; i < n; i++) ((float *)t->dst)[i] = mw_load_f32(raw, t->d->dtype, i);
    }
fail:
    free(raw);
    return st;
}

static mw_status fill(const mw_loader *l, const task *t) {
    switch (t->kind) {
    case TILES: return run_tiles(l, t);
    case SCALES:
    case ZEROS: return run_groups(l, t);
    case DENSE:
        return mw_ckpt_read(l->c, t->d, t->n.lo, mw_range_len(t->n), t->k.lo, mw_range_len(t->k), t->dst, t->ld,
                            l->verify);
    case VECTOR:
    case PERM: return run_vector(l, t);
    }
    return MW_OK;
}

/* What a task writes: rows of `width` bytes, `pitch` apart. */
typedef struct {
    size_t rows, width, pitch;
} area;

static area area_of(const task *t) {
    size_t k = (size_t)mw_range_len(t->k), n = (size_t)mw_range_len(t->n),
           padded = (size_t)mw_round_up((int64_t)n, MW_TILE_N);
    size_t elem = t->d ? mw_dtype_size(t->d->dtype) : 1;
    switch (t->kind) {
    case TILES: return (area){k / MW_TILE_K, 8 * padded, 4 * t->ld};
    case SCALES:
    case ZEROS: return (area){k / (size_t)t->group, padded * elem, t->ld * elem};
    case DENSE: return (area){n, t->ld, t->ld};
    case VECTOR:
    case PERM: break;
    }
    return (area){1, 4 * n, 4 * n};
}

/* Page-locked memory of a thread, as large as its largest task so far. */
typedef struct {
    void *p;
    size_t bytes;
} staging;

static mw_status stage(const mw_loader *l, const task *t, staging *s) {
    mw_status st = MW_OK;
    area a = area_of(t);
    task here = *t;
    if (a.rows * a.width == 0) return MW_OK;
    if (a.rows * a.width > s->bytes) {
        if (s->p) l->k->host_free(l->dev, s->p);
        *s = (staging){0};
        MW_TRY(st, l->k->host_alloc(l->dev, &s->p, a.rows * a.width, "load buffer"));
        s->bytes = a.rows * a.width;
    }
    here.dst = s->p;
    here.ld = t->ld * a.width / a.pitch;
    MW_TRY(st, fill(l, &here));
    MW_TRY(st, l->k->upload(l->dev, t->dst, a.pitch, s->p, a.width, a.width, a.rows));
fail:
    return st;
}

static void load_thread(void *arg, int thread, int n_threads) {
    (void)n_threads;
    mw_loader *l = arg;
    staging buffer = {0};
    int64_t i;
    while ((i = mw_pool_next(l->pool)) < l->n_tasks && !atomic_load(&l->stop)) {
        mw_status st = l->staged ? stage(l, &l->task[i], &buffer) : fill(l, &l->task[i]);
        uint64_t done = atomic_fetch_add(&l->done, l->task[i].bytes) + l->task[i].bytes;
        if (thread == 0 && l->bar) mw_progress_add(l->bar, done - l->bar->done);
        if (st == MW_OK) continue;
        pthread_mutex_lock(&l->lock);
        if (l->st == MW_OK) {
            l->st = st;
            memcpy(l->text, mw_error_text(), sizeof l->text);
        }
        pthread_mutex_unlock(&l->lock);
        atomic_store(&l->stop, true);
    }
    if (buffer.p) l->k->host_free(l->dev, buffer.p);
}

mw_status mw_loader_run(mw_loader *l, mw_progress *bar, uint64_t *bytes, double *seconds) {
    double start = mw_now_s();
    l->bar = bar;
    mw_pool_run(l->pool, load_thread, l);
    if (l->st != MW_OK) mw_error_set_text(l->text);
    *bytes = atomic_load(&l->done);
    *seconds = mw_now_s() - start;
    l->n_tasks = 0;
    return l->st;
}
