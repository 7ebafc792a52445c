#include "worker/loader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/threads.h"
#include "worker/load_task.h"

/* Slots of a lane: one is filled while the other is copied. */
#define SLOTS 2

struct mw_loader {
    const mw_ckpt *c;
    const mw_kernels *k;
    mw_dev *dev;
    bool staged;       /* device memory is not host memory */
    int64_t band;      /* bytes of a piece, about */
    size_t slot_bytes; /* the largest piece */
    mw_pool *pool;
    bool verify;
    mw_load_task *task;
    int n_tasks, cap;
    mw_progress *bar;
    atomic_uint_fast64_t done;
    atomic_bool stop;
    pthread_mutex_t lock;
    mw_load_stats sums; /* of the threads that have ended */
    mw_status st;       /* the first failure, with its text */
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
    /* Large enough for the disk and the copy, small enough for the threads to share the work; through a slot also small
     * enough that a core's cache holds it between the read, the checksum and the copy. */
    l->band = l->staged ? 2 << 20 : 8 << 20;
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

void mw_loader_set_band(mw_loader *l, int64_t bytes) {
    l->band = bytes;
}

/* ---- what there is to do ---------------------------------------------------------------------------------------- */

static mw_status add(mw_loader *l, mw_load_task t) {
    if (l->n_tasks == l->cap) {
        int cap = l->cap ? 2 * l->cap : 1024;
        mw_load_task *p = realloc(l->task, (size_t)cap * sizeof *p);
        if (!p) return MW_FAIL(MW_ERR_NOMEM, "%d load tasks", cap);
        l->task = p;
        l->cap = cap;
    }
    mw_load_area a = mw_load_area_of(&t);
    if (a.rows * a.width > l->slot_bytes) l->slot_bytes = a.rows * a.width;
    l->task[l->n_tasks++] = t;
    return MW_OK;
}

/* How a slab becomes pieces of about `band` bytes: whole checksum blocks of unit_rows x unit_cols (and so, but at the
 * slab's edges, are all pieces). bits: of an element. */
typedef struct {
    int64_t rows, cols;
} piece;

static int64_t times_unit(int64_t n, int64_t unit) {
    return n < unit ? unit : n / unit * unit;
}

static piece piece_of(const mw_loader *l, int64_t cols, int64_t unit_rows, int64_t unit_cols, int64_t bits) {
    piece p = {unit_rows, times_unit(l->band * 8 / (unit_rows * bits), unit_cols)};
    if (p.cols >= cols) { /* whole rows, then: as many as there is room for */
        p.cols = cols + unit_cols;
        p.rows = times_unit(l->band * 8 / (cols * bits), unit_rows);
    }
    return p;
}

/* The end of the piece that begins at `lo`: pieces end where checksum blocks do. */
static int64_t piece_end(int64_t lo, int64_t hi, int64_t step) {
    int64_t end = (lo / step + 1) * step;
    return end < hi ? end : hi;
}

/* Tiles, scales and zeros of the columns n: pieces begin `at` whole tiles behind n.lo, so that each can be padded and
 * permuted on its own. One task a piece; the caller's dst and bytes come from the two functions' offsets. */
static mw_status add_int4(mw_loader *l, mw_load_task t, mw_range k, mw_range n, piece p) {
    mw_status st = MW_OK;
    char *dst = t.dst;
    size_t elem = t.d ? mw_dtype_size(t.d->dtype) : 1, group = (size_t)t.group;
    for (int64_t c = 0; c < mw_range_len(n); c += p.cols)
        for (int64_t k0 = k.lo; k0 < k.hi; k0 = t.k.hi) {
            size_t row = (size_t)(k0 - k.lo);
            t.k = (mw_range){k0, piece_end(k0, k.hi, p.rows)};
            t.n = (mw_range){n.lo + c, n.lo + c + p.cols < n.hi ? n.lo + c + p.cols : n.hi};
            uint64_t area = (uint64_t)mw_range_len(t.k) * (uint64_t)mw_range_len(t.n);
            if (t.kind == MW_LOAD_TILES) {
                t.dst = dst + (row / MW_TILE_K * t.ld + 2 * (size_t)c) * sizeof(uint32_t);
                t.bytes = area / 2;
            } else {
                t.dst = dst + (row / group * t.ld + (size_t)c) * elem;
                t.bytes = t.d ? area / (uint64_t)t.w->group_size * elem : 0;
            }
            MW_TRY(st, add(l, t));
        }
fail:
    return st;
}

mw_status mw_load_tiles(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, uint32_t *dst, size_t ld) {
    const mw_dataset *d = mw_ckpt_dataset(l->c, w->qweight);
    int64_t unit = d->block_rows * (mw_ckpt_layout(l->c) == MW_IN_TILES ? MW_TILE_K : 1);
    piece p = piece_of(l, mw_range_len(n), unit > MW_TILE_K ? unit : MW_TILE_K, MW_TILE_N, 4);
    return add_int4(l, (mw_load_task){.kind = MW_LOAD_TILES, .w = w, .d = d, .dst = dst, .ld = ld}, k, n, p);
}

static mw_status add_groups(mw_loader *l, mw_load_kind kind, const mw_weight *w, int dataset, mw_range k, mw_range n,
                            int64_t group, void *dst, size_t ld) {
    const mw_dataset *d = dataset >= 0 ? mw_ckpt_dataset(l->c, dataset) : NULL;
    int64_t bits = d ? 8 * (int64_t)mw_dtype_size(d->dtype) : 8, most = d ? d->block_rows : 64;
    /* The local rows of the file's groups in a checksum block: more of them where the shard cuts groups. */
    piece p = piece_of(l, mw_range_len(n), most * (w->group_size / group), MW_TILE_N, bits);
    p.rows = w->group_size == w->k ? w->k : p.rows * group; /* one scale a column: one row, whatever the cut */
    return add_int4(l, (mw_load_task){.kind = kind, .w = w, .d = d, .group = group, .dst = dst, .ld = ld}, k, n, p);
}

mw_status mw_load_scales(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, int64_t group, void *dst,
                         size_t ld) {
    return add_groups(l, MW_LOAD_SCALES, w, w->scales, k, n, group, dst, ld);
}

mw_status mw_load_zeros(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, int64_t group, uint8_t *dst,
                        size_t ld) {
    return add_groups(l, MW_LOAD_ZEROS, w, w->zeros, k, n, group, dst, ld);
}

mw_status mw_load_dense(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, void *dst) {
    mw_status st = MW_OK;
    const mw_dataset *d = mw_ckpt_dataset(l->c, w->weight);
    size_t elem = mw_dtype_size(d->dtype), row = (size_t)mw_range_len(k) * elem;
    piece p = piece_of(l, mw_range_len(k), d->block_rows, d->block_cols, 8 * (int64_t)elem);
    mw_load_task t = {.kind = MW_LOAD_DENSE, .w = w, .d = d, .ld = row};
    for (int64_t k0 = k.lo; k0 < k.hi; k0 = t.k.hi) {
        t.k = (mw_range){k0, p.cols > mw_range_len(k) ? k.hi : piece_end(k0, k.hi, p.cols)};
        for (int64_t n0 = n.lo; n0 < n.hi; n0 = t.n.hi) {
            t.n = (mw_range){n0, piece_end(n0, n.hi, p.rows)};
            t.dst = (char *)dst + (size_t)(n0 - n.lo) * row + (size_t)(k0 - k.lo) * elem;
            t.bytes = (uint64_t)(mw_range_len(t.k) * mw_range_len(t.n)) * elem;
            MW_TRY(st, add(l, t));
        }
    }
fail:
    return st;
}

mw_status mw_load_vector(mw_loader *l, int dataset, mw_range r, float *dst) {
    const mw_dataset *d = mw_ckpt_dataset(l->c, dataset);
    return add(l, (mw_load_task){.kind = MW_LOAD_VECTOR,
                                 .d = d,
                                 .n = r,
                                 .dst = dst,
                                 .bytes = (uint64_t)mw_range_len(r) * mw_dtype_size(d->dtype)});
}

mw_status mw_load_perm(mw_loader *l, int dataset, mw_range r, int64_t limit, int32_t *dst) {
    const mw_dataset *d = mw_ckpt_dataset(l->c, dataset);
    return add(
        l,
        (mw_load_task){
            .kind = MW_LOAD_PERM, .d = d, .n = r, .limit = limit, .dst = dst, .bytes = (uint64_t)mw_range_len(r) * 4});
}

/* ---- doing it --------------------------------------------------------------------------------------------------- */

/* What a thread has. */
typedef struct {
    mw_loader *l;
    mw_load_source source;
    mw_lane *lane;
    int slot;
    int64_t wait_ns, pin_ns;
} loading;

/* The task's `ld` where its rows are adjacent. */
static size_t adjacent(const mw_load_task *t, mw_load_area a) {
    if (t->kind == MW_LOAD_TILES) return a.width / sizeof(uint32_t);
    if (t->kind == MW_LOAD_SCALES || t->kind == MW_LOAD_ZEROS)
        return t->d ? a.width / mw_dtype_size(t->d->dtype) : a.width;
    return a.width;
}

static mw_status through_slot(loading *t, const mw_load_task *task) {
    mw_status st = MW_OK;
    const mw_kernels *k = t->l->k;
    mw_load_area a = mw_load_area_of(task);
    mw_load_task here = *task;
    size_t rows = (size_t)mw_range_len(task->k), cols = (size_t)mw_range_len(task->n);
    if (a.rows * a.width == 0) return MW_OK;
    int64_t began = mw_now_ns();
    MW_TRY(st, k->lane_wait(t->lane, t->slot, &here.dst));
    t->wait_ns += mw_now_ns() - began;
    if (!mw_load_has_raw(t->l->c, task)) {
        here.ld = adjacent(task, a);
        MW_TRY(st, mw_load_fill(&t->source, &here));
        MW_TRY(st, k->lane_copy(t->lane, t->slot, task->dst, a.pitch, a.width, a.rows));
    } else {
        MW_TRY(st, mw_load_fill_raw(&t->source, task, here.dst));
        if (task->kind == MW_LOAD_TILES)
            MW_TRY(st, k->lane_tile(t->lane, t->slot, task->dst, task->ld, (int64_t)rows, (int64_t)cols));
        else
            MW_TRY(st, k->lane_permute(t->lane, t->slot, task->dst, task->ld, (int64_t)a.rows, (int64_t)cols,
                                       mw_dtype_size(task->d->dtype)));
    }
    t->slot = (t->slot + 1) % SLOTS;
fail:
    return st;
}

static mw_status open_lane(loading *t) {
    int64_t began = mw_now_ns();
    mw_status st = t->l->k->lane_open(t->l->dev, &t->lane, SLOTS, (t->l->slot_bytes + 4095) / 4096 * 4096);
    t->pin_ns += mw_now_ns() - began;
    return st;
}

static mw_status close_lane(loading *t) {
    mw_status st = MW_OK;
    void *ignored;
    int64_t began = mw_now_ns(), copied;
    for (int i = 0; i < SLOTS && st == MW_OK; i++) st = t->l->k->lane_wait(t->lane, i, &ignored);
    copied = mw_now_ns();
    mw_status closed = t->l->k->lane_close(t->lane);
    t->wait_ns += copied - began;
    t->pin_ns += mw_now_ns() - copied;
    return st != MW_OK ? st : closed;
}

static mw_status do_tasks(loading *t, int thread) {
    mw_status st = MW_OK;
    mw_loader *l = t->l;
    int64_t i;
    while ((i = mw_pool_next(l->pool)) < l->n_tasks && !atomic_load(&l->stop)) {
        if (l->staged && !t->lane) MW_TRY(st, open_lane(t));
        MW_TRY(st, l->staged ? through_slot(t, &l->task[i]) : mw_load_fill(&t->source, &l->task[i]));
        uint64_t done = atomic_fetch_add(&l->done, l->task[i].bytes) + l->task[i].bytes;
        if (thread == 0 && l->bar) mw_progress_add(l->bar, done - l->bar->done);
    }
fail:
    return st;
}

static void load_thread(void *arg, int thread, int n_threads) {
    mw_loader *l = arg;
    loading t = {.l = l, .source = {.c = l->c, .verify = l->verify}};
    char text[MW_ERROR_TEXT_MAX] = "";
    (void)n_threads;
    mw_status st = do_tasks(&t, thread);
    if (st != MW_OK) {
        atomic_store(&l->stop, true);
        memcpy(text, mw_error_text(), sizeof text);
    }
    mw_status closed = t.lane ? close_lane(&t) : MW_OK;
    if (st == MW_OK && closed != MW_OK) memcpy(text, mw_error_text(), sizeof text);
    if (st == MW_OK) st = closed;
    pthread_mutex_lock(&l->lock);
    if (l->st == MW_OK && st != MW_OK) {
        l->st = st;
        memcpy(l->text, text, sizeof l->text);
    }
    l->sums.read_s += (double)t.source.times.read_ns * 1e-9;
    l->sums.verify_s += (double)t.source.times.verify_ns * 1e-9;
    l->sums.wait_s += (double)t.wait_ns * 1e-9;
    l->sums.pin_s += (double)t.pin_ns * 1e-9;
    pthread_mutex_unlock(&l->lock);
}

mw_status mw_loader_run(mw_loader *l, mw_progress *bar, mw_load_stats *stats) {
    double start = mw_now_s();
    l->bar = bar;
    l->sums = (mw_load_stats){.threads = mw_pool_size(l->pool)};
    atomic_store(&l->done, 0);
    mw_pool_run(l->pool, load_thread, l);
    if (l->st != MW_OK) mw_error_set_text(l->text);
    l->sums.bytes = atomic_load(&l->done);
    l->sums.seconds = mw_now_s() - start;
    *stats = l->sums;
    l->n_tasks = 0;
    return l->st;
}

const char *mw_load_stats_text(const mw_load_stats *s, char *buf, size_t cap) {
    static const char *const names[] = {"reading the file", "checksums", "copies to the device", "page-locking",
                                        "packing and the rest"};
    double all = s->seconds * s->threads, known = s->read_s + s->verify_s + s->wait_s + s->pin_s;
    const double part[] = {s->read_s, s->verify_s, s->wait_s, s->pin_s, all > known ? all - known : 0};
    char human[16];
    int most = 0, n = snprintf(buf, cap, "%s in %.3f s, %.1f GB/s; %d threads:", mw_human_bytes(s->bytes, human),
                               s->seconds, s->seconds > 0 ? (double)s->bytes / s->seconds * 1e-9 : 0, s->threads);
    for (int i = 0; i < 5; i++) {
        if (part[i] > part[most]) most = i;
        if (n > 0 && (size_t)n < cap)
            n += snprintf(buf + n, cap - (size_t)n, " %s %.0f %%%s", names[i], all > 0 ? 100 * part[i] / all : 0,
                          i < 4 ? "," : "");
    }
    if (n > 0 && (size_t)n < cap) snprintf(buf + n, cap - (size_t)n, ": bound by %s", names[most]);
    return buf;
}
