#include "worker/timing.h"

/* Stamps: 0 where the step begins, 1 where it ends, then two for each operation. */
mw_status mw_timing_start(mw_timing *t, const mw_kernels *k, mw_dev *d) {
    t->on = true;
    t->pending = false;
    t->n = 0;
    return k->stamp(d, 0);
}

mw_status mw_timing_stop(mw_timing *t, const mw_kernels *k, mw_dev *d) {
    t->on = false;
    t->pending = true;
    return k->stamp(d, 1);
}

mw_status mw_timing_enter(mw_timing *t, const mw_kernels *k, mw_dev *d) {
    return t->on && t->n < MW_TIMED_OPS ? k->stamp(d, 2 + 2 * t->n) : MW_OK;
}

mw_status mw_timing_leave(mw_timing *t, const mw_kernels *k, mw_dev *d, mw_timed_kind kind) {
    if (!t->on || t->n == MW_TIMED_OPS) return MW_OK;
    t->kind[t->n] = (uint8_t)kind;
    t->n++;
    return k->stamp(d, 1 + 2 * t->n);
}

mw_status mw_timing_read(mw_timing *t, const mw_kernels *k, mw_dev *d) {
    mw_status st = MW_OK;
    double all = 0, one = 0, sum[MW_TIMED_KINDS] = {0};
    t->pending = false;
    MW_TRY(st, k->stamped_s(d, 0, 1, &all));
    for (int i = 0; i < t->n; i++) {
        MW_TRY(st, k->stamped_s(d, 2 + 2 * i, 3 + 2 * i, &one));
        sum[t->kind[i]] += one;
    }
    for (int i = 0; i < MW_TIMED_KINDS; i++) t->share[i] = all > 0 ? sum[i] / all : 0;
fail:
    return st;
}
