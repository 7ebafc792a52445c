/* kernels/cpu/dense.c - linear layers with 16- or 32-bit weights, split over threads by columns. */
#include <stdatomic.h>

#include "kernels/cpu/cpu.h"

#define FEW_ROWS 4
#define COLUMNS  48 /* of a task when rows are many: their weights stay in L2 while all rows pass */

typedef struct {
    mw_dev *d;
    const mw_linear *w;
    int64_t m, ldx, ldy;
    const float *x;
    float *y;
    atomic_llong next;
} job;

static void run(void *arg, int thread, int n_threads) {
    job *j = arg;
    int64_t n = j->w->n, begin, end;
    if (j->m <= FEW_ROWS) {
        mw_split(n, 8, thread, n_threads, &begin, &end);
        if (begin < end)
            j->d->isa->vec->dense(&j->w->dense, j->w->k, begin, end, j->m, j->x, j->ldx, j->y, j->ldy, j->w->bias);
        return;
    }
    while ((begin = atomic_fetch_add(&j->next, 1) * COLUMNS) < n) {
        end = begin + COLUMNS < n ? begin + COLUMNS : n;
        j->d->isa->vec->dense(&j->w->dense, j->w->k, begin, end, j->m, j->x, j->ldx, j->y, j->ldy, j->w->bias);
    }
}

mw_status mw_cpu_linear_dense(mw_dev *d, const mw_linear *w, int64_t m, const float *x, int64_t ldx, float *y,
                              int64_t ldy) {
    mw_dtype t = w->dense.dtype;
    if (w->k <= 0 || w->n <= 0)
        return MW_FAIL(MW_ERR_INTERNAL, "dense matrix k=%lld n=%lld", (long long)w->k, (long long)w->n);
    if (t != MW_F16 && t != MW_BF16 && t != MW_F32)
        return MW_FAIL(MW_ERR_INTERNAL, "dense matrix is %s, expected f16, bf16 or f32", mw_dtype_name(t));
    job j = {.d = d, .w = w, .m = m, .ldx = ldx, .ldy = ldy, .x = x, .y = y};
    atomic_init(&j.next, 0);
    mw_dev_run(d, m * w->k * w->n, run, &j);
    return MW_OK;
}
