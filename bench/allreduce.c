/* marlin-bench allreduce: the sum over ranks that every layer ends with, in nccl-tests' words. CPU: over shared memory
 * or messages, beside MPI's own. GPU: enqueued, replayed as part of a graph. In place; the time is the slowest rank's.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/device.h"

#define LARGE ((size_t)64 << 20) /* what the link can do shows at this size, if at any */

static const bench_column k_columns[] = {
    {"ranks", "ranks", -1},
    {"bytes", "bytes", -1},
    {"elements", "count", -1},
    {"dtype", "type", -1},
    {"us", "us", 2},
    {"us_p10", "p10", 2},
    {"us_p90", "p90", 2},
    {"algbw", "algbw GB/s", 2},
    {"busbw", "busbw GB/s", 2},
    {"x_peak", "of busbw at 64 MiB", 3},
    {"library_us", "MPI us", 2},
    {"x_library", "x MPI", 2},
    {"wrong", "#wrong", -1},
};

typedef struct {
    bench_dev b;
    bench_report *r;
    mw_dtype t;
    bool on_gpu;
    void *buf;
    size_t n; /* elements */
    double peak;
} reduce_run;

static mw_status reduce(void *arg, int i) {
    reduce_run *a = arg;
    (void)i;
    return a->on_gpu ? mw_comm_device_all_reduce(a->b.comm, a->buf, a->n, a->t)
                     : mw_comm_all_reduce_f32(a->b.comm, a->buf, a->n);
}

static mw_status reduce_by_mpi(void *arg, int i) {
    reduce_run *a = arg;
    (void)i;
    return mw_comm_library_all_reduce_f32(a->b.comm, a->buf, a->n);
}

static void store(mw_dtype t, void *p, size_t i, float v) {
    if (t == MW_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = t == MW_F16 ? mw_f32_to_f16(v) : mw_f32_to_bf16(v);
}

/* Small whole numbers have exact sums in every type. */
static mw_status check(reduce_run *a, int64_t *wrong) {
    mw_status st = MW_OK;
    bench_dev *b = &a->b;
    size_t bytes = a->n * mw_dtype_size(a->t);
    void *host = NULL;
    *wrong = 0;
    MW_TRY(st, mw_alloc64(&host, bytes, "sums"));
    for (size_t i = 0; i < a->n; i++) store(a->t, host, i, (float)(i % 5) + (float)(b->rank % 3));
    MW_TRY(st, b->k->to_device(b->d, a->buf, host, bytes));
    MW_TRY(st, reduce(a, 0));
    MW_TRY(st, b->k->to_host(b->d, host, a->buf, bytes));
    for (size_t i = 0; i < a->n; i++) {
        float want = (float)(i % 5) * (float)b->size;
        for (int r = 0; r < b->size; r++) want += (float)(r % 3);
        *wrong += mw_load_f32(host, a->t, i) != want;
    }
    MW_TRY(st, b->k->zero(b->d, a->buf, bytes)); /* sums of sums would leave the type's range */
    if (*wrong > 0)
        st = MW_FAIL(MW_ERR_NUMERIC, "all-reduce of %zu elements: %lld sums are wrong", a->n, (long long)*wrong);
fail:
    free(host);
    return st;
}

static double busbw(const reduce_run *a, double seconds) {
    return (double)(a->n * mw_dtype_size(a->t)) / seconds * 2 * (a->b.size - 1) / a->b.size;
}

static mw_status print(reduce_run *a, const bench_stats *t, const bench_stats *mpi, int64_t wrong) {
    size_t bytes = a->n * mw_dtype_size(a->t);
    json_t *row = bench_row_begin(a->r, "allreduce");
    bench_row_text(row, "backend", a->b.k->name);
    bench_row_int(row, "ranks", a->b.size);
    bench_row_int(row, "bytes", (int64_t)bytes);
    bench_row_int(row, "elements", (int64_t)a->n);
    bench_row_text(row, "dtype", mw_dtype_name(a->t));
    bench_row_metric(row, "us", false);
    bench_row_stats(row, "us", t, 1e6);
    bench_row_real(row, "algbw", (double)bytes / t->median * 1e-9);
    bench_row_real(row, "busbw", busbw(a, t->median) * 1e-9);
    bench_row_real(row, "x_peak", busbw(a, t->median) / a->peak);
    if (mpi->n > 0) {
        bench_row_real(row, "library_us", mpi->median * 1e6);
        bench_row_real(row, "x_library", mpi->median / t->median);
    }
    bench_row_int(row, "wrong", wrong);
    return bench_row_end(a->r, row);
}

static mw_status run_size(reduce_run *a, size_t bytes) {
    mw_status st = MW_OK;
    bench_samples ours = {0}, mpi = {0};
    int64_t wrong = 0;
    a->n = bytes / mw_dtype_size(a->t);
    MW_TRY(st, mw_comm_agree(a->b.comm, check(a, &wrong)));
    MW_TRY(st, bench_chain(&a->b, 20, reduce, a, &ours));
    if (!a->on_gpu) MW_TRY(st, bench_chain(&a->b, 20, reduce_by_mpi, a, &mpi));
    bench_stats t = bench_stats_of(&ours), m = bench_stats_of(&mpi);
    st = print(a, &t, &m, wrong);
fail:
    bench_samples_free(&ours);
    bench_samples_free(&mpi);
    return st;
}

static mw_status measure_peak(reduce_run *a) {
    bench_samples s = {0};
    a->n = LARGE / mw_dtype_size(a->t);
    mw_status st = bench_chain(&a->b, 1, reduce, a, &s);
    if (st == MW_OK) a->peak = busbw(a, bench_stats_of(&s).median);
    bench_samples_free(&s);
    return st;
}

static mw_status open_buffer(reduce_run *a, size_t bytes) {
    mw_status st = MW_OK;
    bench_dev *b = &a->b;
    if (a->on_gpu) {
        MW_TRY(st, mw_comm_device_open(b->comm, mw_comm_local_rank(b->comm), b->info.uuid, b->info.stream));
        b->joined = true;
        MW_TRY(st, mw_comm_device_alloc(b->comm, &a->buf, bytes, "buffer"));
    } else {
        MW_TRY(st, bench_dev_alloc(b, &a->buf, bytes, "buffer"));
    }
    st = b->k->zero(b->d, a->buf, bytes);
fail:
    return st;
}

mw_status bench_allreduce(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    reduce_run a = {.r = r};
    if (bench_now.size < 2)
        return MW_FAIL(MW_ERR_USAGE, "allreduce needs several ranks: mpirun -np 2 marlin-bench allreduce");
    if (o->min_bytes > o->max_bytes) return MW_FAIL(MW_ERR_USAGE, "--minbytes is larger than --maxbytes");
    bench_report_columns(r, k_columns, (int)(sizeof k_columns / sizeof *k_columns));
    MW_TRY(st, bench_dev_open(&a.b, o, r, o->dtype));
    a.on_gpu = !a.b.info.host_memory;
    a.t = a.b.info.act;
    size_t most = o->max_bytes > LARGE ? (size_t)o->max_bytes : LARGE;
    MW_TRY(st, mw_comm_agree(a.b.comm, open_buffer(&a, most)));
    MW_TRY(st, measure_peak(&a));
    for (uint64_t bytes = o->min_bytes / 16 * 16; bytes <= o->max_bytes; bytes *= (uint64_t)o->factor) {
        if (bytes == 0) bytes = 16;
        MW_TRY(st, run_size(&a, (size_t)bytes));
    }
fail:
    if (!a.on_gpu) bench_dev_free(&a.b, a.buf);
    if (a.on_gpu && st == MW_OK) mw_comm_device_close(a.b.comm);
    return bench_dev_close(&a.b, st);
}
