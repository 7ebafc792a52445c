/* bench/bench.h - private to marlin-bench: its options, and one function for each thing it can measure.
 *
 *   main.c             the program: which benchmark, who reports a failure, the exit code
 *   args.c parse.c defaults.c          options
 *   stats.c            medians, percentiles, latencies of requests
 *   report.c table.c   rows as JSON objects; Markdown, CSV, JSON, JSON lines
 *   compare.c plot.c   against an older run; pictures through gnuplot
 *   machine.c          what it ran on
 *   device.c ceiling.c a device without an engine; chains of calls and their time; what the device allows
 *   gemm.c attention.c allreduce.c     kernels and collectives
 *   session.c load.c decode.c prefill.c throughput.c     through the engine
 *   requests.c         many requests and their figures
 *   client.c sse.c serve.c             an HTTP server, ours or another
 *
 * Every rank of a job runs the same benchmark; rank 0 alone has rows and prints. docs/BENCH.md has method and formulas.
 */
#ifndef MW_BENCH_BENCH_H
#define MW_BENCH_BENCH_H
#include <jansson.h>

#include "worker/base/dtype.h"
#include "worker/base/mem.h"
#include "worker/engine.h"

#define BENCH_MAX_LIST 64

/* Numbers of an option such as "1,2,8-64*2". */
typedef struct bench_list {
    int64_t v[BENCH_MAX_LIST];
    int n;
} bench_list;

typedef enum { BENCH_MD, BENCH_CSV, BENCH_JSON, BENCH_JSONL } bench_format;

typedef enum {
    BENCH_GEMM,
    BENCH_ATTENTION,
    BENCH_ALLREDUCE,
    BENCH_LOAD,
    BENCH_DECODE,
    BENCH_PREFILL,
    BENCH_THROUGHPUT,
    BENCH_SERVE,
    BENCH_ALL,
    BENCH_PLOT,
    BENCH_KINDS
} bench_kind;
extern const char *const bench_kind_names[BENCH_KINDS];

typedef struct bench_goal {
    char metric[8]; /* "ttft", "tpot", "e2el" */
    double ms;
} bench_goal;

typedef struct bench_opts {
    bench_kind kind;
    const char *models[16]; /* files and synthetic:... names */
    int n_models;
    mw_engine_options engine; /* its model is set by the benchmark */
    int repeat;               /* samples of a row */
    uint64_t seed;
    bool quiet;

    bench_format format;
    const char *output_file, *plot, *compare;
    double threshold; /* percent; negative: only print */

    /* gemm, attention */
    bench_list batch; /* rows of x; sequences */
    bench_list tp;
    const char *shapes; /* "4096x14336,..." */
    int64_t group;
    bool zeros, no_reference;
    mw_dtype dtype;    /* of activations, scales and the dense reference on GPUs */
    const char *heads; /* "32/8x128" */

    /* allreduce */
    uint64_t min_bytes, max_bytes;
    int factor;

    /* lengths: decode, prefill, attention, throughput, serve */
    bench_list prompt, gen, depth;

    /* requests: throughput, serve */
    bench_list concurrency;
    int num_prompts;
    double range_ratio, request_rate, burstiness;
    const char *dataset;
    const char *url, *endpoint, *served_model, *api_key_file;
    bench_goal goal[3];
    int n_goals;
    double request_timeout_s;
    bool no_ignore_eos;
} bench_opts;

/* Fills *o. Ends the process for --help, --version and wrong usage (printing on one rank only). */
void bench_parse(int argc, char **argv, bench_opts *o);

/* Lists and lengths that o->kind wants and the user did not give. */
void bench_defaults(bench_opts *o);

/* "1,2,8", "512-4096*2" (times 2 up to), "16-64+16". MW_ERR_USAGE names what it found. */
MW_MUST_CHECK mw_status bench_parse_list(const char *text, int64_t lo, int64_t hi, bench_list *out);
/* "4K", "16M", "1G": powers of 1024. */
MW_MUST_CHECK mw_status bench_parse_bytes(const char *text, uint64_t *out);
/* "ttft:200". */
MW_MUST_CHECK mw_status bench_parse_goal(const char *text, bench_goal *out);

/* ---- who is in charge of the job, for the one report of a failure ---- */

struct mw_comm;
typedef struct bench_job {
    struct mw_comm *comm; /* a group without an engine */
    mw_engine *engine;
    int rank, size;
} bench_job;
extern bench_job bench_now;

/* ---- the benchmarks; all ranks call them ---- */

struct bench_report;
MW_MUST_CHECK mw_status bench_gemm(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_attention(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_allreduce(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_load(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_decode(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_prefill(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_throughput(const bench_opts *o, struct bench_report *r);
MW_MUST_CHECK mw_status bench_serve(const bench_opts *o, struct bench_report *r);

#endif
