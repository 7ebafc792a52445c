/* worker/timing.h - what part of a step is linear layers and collectives, on devices that run behind the host. There a
 * step is one graph, whose parts nobody can time; so now and then one is enqueued kernel by kernel with points in time
 * between them (mw_kernels.stamp), and its proportions stand for the steps after it. */
#ifndef MW_WORKER_TIMING_H
#define MW_WORKER_TIMING_H
#include "kernels/kernels.h"
MW_BEGIN_DECLS

typedef enum { MW_TIMED_LINEAR, MW_TIMED_COLLECTIVE, MW_TIMED_KINDS } mw_timed_kind;

#define MW_TIMED_OPS ((MW_STAMPS - 2) / 2) /* those behind them are not timed */

typedef struct mw_timing {
    bool on;      /* the step that is being enqueued is timed */
    bool pending; /* one was enqueued and not read */
    int n;        /* operations timed */
    uint8_t kind[MW_TIMED_OPS];
    double share[MW_TIMED_KINDS]; /* of the last timed step's time; 0 before there is one */
} mw_timing;

MW_MUST_CHECK mw_status mw_timing_start(mw_timing *t, const mw_kernels *k, mw_dev *d);
MW_MUST_CHECK mw_status mw_timing_stop(mw_timing *t, const mw_kernels *k, mw_dev *d);
/* Around an operation; nothing where the step is not timed. */
MW_MUST_CHECK mw_status mw_timing_enter(mw_timing *t, const mw_kernels *k, mw_dev *d);
MW_MUST_CHECK mw_status mw_timing_leave(mw_timing *t, const mw_kernels *k, mw_dev *d, mw_timed_kind kind);
/* After the step has ended on the device. */
MW_MUST_CHECK mw_status mw_timing_read(mw_timing *t, const mw_kernels *k, mw_dev *d);

MW_END_DECLS
#endif
