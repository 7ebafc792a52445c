/* The benchmarks' names, the job, and what is measured when nobody says otherwise. */
#include "bench/bench.h"

const char *const bench_kind_names[BENCH_KINDS] = {"gemm",    "attention",  "allreduce", "load", "decode",
                                                   "prefill", "throughput", "serve",     "all",  "plot"};
bench_job bench_now;

static void list_default(bench_list *l, const char *text) {
    if (l->n == 0 && bench_parse_list(text, 1, 1 << 24, l) != MW_OK) l->n = 0;
}

void bench_defaults(bench_opts *o) {
    bool kernels = o->kind == BENCH_GEMM || o->kind == BENCH_ATTENTION || o->kind == BENCH_ALLREDUCE;
    if (o->repeat == 0) o->repeat = kernels ? 9 : 3;
    if (o->tp.n == 0) o->tp = (bench_list){{bench_now.size}, 1};
    if (o->min_bytes == 0) o->min_bytes = 4 << 10;
    if (o->max_bytes == 0) o->max_bytes = 16 << 20;
    if (o->factor == 0) o->factor = 2;
    list_default(&o->prompt, o->kind == BENCH_ATTENTION ? "2048" : "512");
    list_default(&o->depth, o->kind == BENCH_ATTENTION ? "1024,8192" : "512");
    list_default(&o->gen, "128");
    if (o->kind != BENCH_GEMM) list_default(&o->batch, o->kind == BENCH_ATTENTION ? "1,8,64" : "1");
    list_default(&o->concurrency, "1,8,32");
}
