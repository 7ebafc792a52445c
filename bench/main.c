/* marlin-bench: the main program. Every rank runs this; rank 0 alone prints results. */
#include <stdlib.h>

#include "bench/report.h"
#include "comm/comm.h"
#include "worker/base/log.h"

typedef mw_status (*bench_fn)(const bench_opts *o, bench_report *r);

static const bench_fn k_run[BENCH_ALL] = {bench_gemm,   bench_attention, bench_allreduce,  bench_load,
                                          bench_decode, bench_prefill,   bench_throughput, bench_serve};

/* Everything that needs no server; a benchmark that makes no sense here (one rank has nobody to exchange with) is left
 * out by itself. */
static mw_status run_all(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    for (int i = 0; i < BENCH_SERVE; i++) {
        if (i == BENCH_ALLREDUCE && bench_now.size == 1) continue;
        bench_opts one = *o;
        one.kind = (bench_kind)i;
        bench_defaults(&one);
        MW_TRY(st, k_run[i](&one, r));
    }
fail:
    return st;
}

/* Nothing is measured: the rows of older runs, of several numbers of ranks for example, become one picture. */
static mw_status run_plot(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    if (bench_now.size > 1) return MW_FAIL(MW_ERR_USAGE, "plot measures nothing: start it without mpirun");
    for (int i = 0; i < o->n_models; i++) {
        json_t *rows = NULL;
        MW_TRY(st, bench_read_rows(o->models[i], &rows));
        json_array_extend(r->rows, rows);
        json_decref(rows);
    }
    st = bench_plot(r);
fail:
    return st;
}

/* What can go wrong before anything is measured. */
static mw_status prepare(const bench_opts *o, bench_report *r) {
    mw_status st = bench_plot_check(o);
    return st == MW_OK ? bench_report_begin(r, o) : st;
}

/* Who we are. The group ends again, MPI stays. */
static mw_status meet(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    mw_comm_keep_mpi();
    MW_TRY(st, mw_comm_open(&bench_now.comm, o->engine.timeout_s > 0 ? o->engine.timeout_s : 60));
    bench_now.rank = mw_comm_rank(bench_now.comm);
    bench_now.size = mw_comm_size(bench_now.comm);
    mw_log_set_rank(bench_now.rank, bench_now.size, mw_comm_host(bench_now.comm));
    MW_TRY(st, mw_comm_agree(bench_now.comm, prepare(o, r)));
    mw_comm_close(bench_now.comm);
    bench_now.comm = NULL;
fail:
    return st;
}

static mw_status run(bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    MW_TRY(st, meet(o, r));
    if (o->kind == BENCH_PLOT) return run_plot(o, r);
    if (o->kind != BENCH_ALL) bench_defaults(o);
    MW_TRY(st, o->kind == BENCH_ALL ? run_all(o, r) : k_run[o->kind](o, r));
    MW_TRY(st, bench_report_end(r));
    if (bench_now.rank != 0) return MW_OK;
    if (o->plot) MW_TRY(st, bench_plot(r));
    if (o->compare) MW_TRY(st, bench_compare(r));
fail:
    return st;
}

/* Tells the user, once in the whole job. */
static void report(mw_status st) {
    if (bench_now.comm) mw_comm_poison(bench_now.comm, st); /* the others may wait for this rank */
    bool here = bench_now.engine ? mw_engine_reports(bench_now.engine) : mw_comm_should_report(bench_now.comm);
    if (here) mw_log(MW_LOG_ERROR, "%s", mw_error_text());
}

int main(int argc, char **argv) {
    bench_opts o;
    bench_report r = {0};
    bench_parse(argc, argv, &o);
    mw_status st = run(&o, &r);
    if (st != MW_OK) report(st);
    bench_report_free(&r);
    if (bench_now.engine) mw_engine_exit(bench_now.engine, (int)st);
    mw_comm_exit(bench_now.comm, (int)st);
}
