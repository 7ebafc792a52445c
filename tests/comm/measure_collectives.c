/* Latency of the step collectives beside MPI_Allreduce, a table on rank 0's stdout. Both transports, medians.
 * measure_collectives [repetitions]. Under CTest it runs short: it shows that the paths work, not how fast they are. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/internal.h"
#include "worker/base/mem.h"

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef enum { OURS, MPI_OWN } which;

/* Median microseconds; a gap of `idle_us` of sleep before each, as between the steps of a lightly loaded engine. */
static mw_status measure(mw_comm *c, which w, float *buf, size_t n, int reps, double *us) {
    mw_status st = MW_OK;
    double *t = NULL;
    MW_TRY(st, MW_CALLOC(&t, (size_t)reps, "times"));
    for (int i = -reps / 8 - 1; i < reps; i++) {
        double t0 = mw_now_s();
        if (w == OURS)
            MW_TRY(st, mw_comm_all_reduce_f32(c, buf, n));
        else
            MPI_Allreduce(MPI_IN_PLACE, buf, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        if (i >= 0) t[i] = (mw_now_s() - t0) * 1e6;
    }
    qsort(t, (size_t)reps, sizeof *t, by_value);
    *us = t[reps / 2];
fail:
    free(t);
    return st;
}

int main(int argc, char **argv) {
    int reps = argc > 1 ? atoi(argv[1]) : 50;
    bool messages = argc > 2 && strcmp(argv[2], "messages") == 0;
    mw_comm *c = NULL;
    float *buf = NULL;
    const size_t most = 1 << 20;
    mw_status st = mw_comm_open_on(&c, 20, messages ? MW_TRANSPORT_MESSAGES : MW_TRANSPORT_AUTO);
    if (st != MW_OK) goto fail;
    MW_TRY(st, mw_alloc64((void **)&buf, most * sizeof *buf, "buffer"));
    memset(buf, 0, most * sizeof *buf);
    if (mw_comm_rank(c) == 0)
        printf("%d ranks, %s\n%10s %12s %12s\n", mw_comm_size(c), c->transport ? c->transport->name : "alone", "bytes",
               "ours us", "MPI us");
    for (size_t n = 512; n <= most; n *= 4) {
        double ours = 0, theirs = 0;
        int r = n > 65536 ? reps / 4 + 1 : reps;
        MW_TRY(st, measure(c, OURS, buf, n, r, &ours));
        if (c->uses_mpi) MW_TRY(st, measure(c, MPI_OWN, buf, n, r, &theirs));
        if (mw_comm_rank(c) == 0) printf("%10zu %12.1f %12.1f\n", n * sizeof *buf, ours, theirs);
    }
fail:
    free(buf);
    if (st != MW_OK && mw_comm_should_report(c)) fprintf(stderr, "measure_collectives: %s\n", mw_error_text());
    mw_comm_exit(c, (int)st);
}
