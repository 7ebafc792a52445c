/* The command line: one table of options, each with the benchmarks that it belongs to. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "comm/comm.h"
#include "worker/base/env.h"
#include "worker/base/log.h"

enum {
    OPT_SYNTHETIC = 256,
    OPT_TP,
    OPT_SHAPES,
    OPT_GROUP,
    OPT_ZEROS,
    OPT_DTYPE,
    OPT_NO_REFERENCE,
    OPT_HEADS,
    OPT_CONCURRENCY,
    OPT_NUM_PROMPTS,
    OPT_INPUT_LEN,
    OPT_OUTPUT_LEN,
    OPT_RANGE_RATIO,
    OPT_DATASET,
    OPT_REQUEST_RATE,
    OPT_BURSTINESS,
    OPT_URL,
    OPT_ENDPOINT,
    OPT_MODEL,
    OPT_API_KEY_FILE,
    OPT_GOODPUT,
    OPT_REQUEST_TIMEOUT,
    OPT_NO_IGNORE_EOS,
    OPT_OUTPUT,
    OPT_OUTPUT_FILE,
    OPT_PLOT,
    OPT_COMPARE,
    OPT_THRESHOLD,
    OPT_SEED,
    OPT_BACKEND,
    OPT_CTX,
    OPT_MAX_SEQS,
    OPT_MAX_STEP_TOKENS,
    OPT_KV_MEMORY,
    OPT_GPU_MEMORY,
    OPT_CPU_ACT,
    OPT_NO_VERIFY,
    OPT_TIMEOUT,
    OPT_LOG_LEVEL,
};

#define M(kind)  (1u << (kind))
#define KERNELS  (M(BENCH_GEMM) | M(BENCH_ATTENTION))
#define ENGINES  (M(BENCH_LOAD) | M(BENCH_DECODE) | M(BENCH_PREFILL) | M(BENCH_THROUGHPUT))
#define REQUESTS (M(BENCH_THROUGHPUT) | M(BENCH_SERVE))
#define ALL      M(BENCH_ALL)
#define EVERY    (~M(BENCH_PLOT))
#define RUNS     (EVERY & ~M(BENCH_SERVE))

typedef struct {
    unsigned mask;
    struct argp_option o;
} option;

static const option k_options[] = {
    {EVERY, {0, 0, 0, 0, "What to measure", 1}},
    {KERNELS | ENGINES | ALL,
     {"synthetic", OPT_SYNTHETIC, "NAME", 0,
      "Random weights in the shapes of a known model, no file needed: llama-3.1-8b (default), -70b, -405b, "
      "qwen2.5-72b, ... "
      "(a wrong name lists them); options follow a comma: group=64, zeros, head=int4, act=bf16, layers=4. May be "
      "repeated",
      0}},
    {KERNELS | ALL, {"tp", OPT_TP, "LIST", 0, "Shapes of one rank of this many (default: the number of ranks)", 0}},
    {M(BENCH_GEMM), {"shapes", OPT_SHAPES, "LIST", 0, "Instead of a model's: KxN,KxN,...", 0}},
    {M(BENCH_GEMM), {"group", OPT_GROUP, "N", 0, "Group size for --shapes: 32, 64, 128 (default) or -1", 0}},
    {M(BENCH_GEMM), {"zeros", OPT_ZEROS, 0, 0, "With stored zero points (AWQ, asymmetric GPTQ)", 0}},
    {KERNELS | M(BENCH_ALLREDUCE),
     {"dtype", OPT_DTYPE, "TYPE", 0, "f16 (default) or bf16: activations and scales (CPU: scales and KV)", 0}},
    {KERNELS, {"no-reference", OPT_NO_REFERENCE, 0, 0, "Do not time the dense GEMM beside", 0}},
    {M(BENCH_ATTENTION),
     {"heads", OPT_HEADS, "Q/KVxDIM", 0, "Instead of a model's: query heads / KV heads x head size", 0}},
    {M(BENCH_GEMM),
     {"batch", 'b', "LIST", 0, "Rows of the activations, M (default 1-1024*2 on GPUs, 1-128*4 on CPUs)", 0}},
    {M(BENCH_ATTENTION) | M(BENCH_DECODE) | M(BENCH_PREFILL),
     {"batch", 'b', "LIST", 0, "Sequences side by side (default 1; attention: 1,8,64)", 0}},
    {M(BENCH_ATTENTION) | M(BENCH_PREFILL),
     {"n-prompt", 'p', "LIST", 0, "Tokens of a prompt, pp512 (default 512; attention: 2048)", 0}},
    {M(BENCH_DECODE), {"n-gen", 'n', "LIST", 0, "Tokens to generate, tg128 (default 128)", 0}},
    {M(BENCH_ATTENTION) | M(BENCH_DECODE),
     {"n-depth", 'd', "LIST", 0, "Tokens in the context before (default 512; attention: 1024,8192)", 0}},
    {M(BENCH_ALLREDUCE), {"minbytes", 'b', "SIZE", 0, "Smallest buffer (default 4K)", 0}},
    {M(BENCH_ALLREDUCE), {"maxbytes", 'e', "SIZE", 0, "Largest buffer (default 16M)", 0}},
    {M(BENCH_ALLREDUCE), {"stepfactor", 'f', "N", 0, "From one size to the next (default 2)", 0}},
    {REQUESTS,
     {"num-prompts", OPT_NUM_PROMPTS, "N", 0, "Requests of a run (default: 4 times the concurrency, at least 16)", 0}},
    {REQUESTS, {"input-len", OPT_INPUT_LEN, "N", 0, "Tokens of a random prompt (default 512)", 0}},
    {REQUESTS, {"random-input-len", 0, 0, OPTION_ALIAS, 0, 0}},
    {REQUESTS, {"output-len", OPT_OUTPUT_LEN, "N", 0, "Tokens of an answer (default 128)", 0}},
    {REQUESTS, {"random-output-len", 0, 0, OPTION_ALIAS, 0, 0}},
    {REQUESTS,
     {"range-ratio", OPT_RANGE_RATIO, "X", 0,
      "Lengths uniform in (1-X) .. (1+X) times those, 0 <= X < 1 (default 0: all equal)", 0}},
    {REQUESTS, {"random-range-ratio", 0, 0, OPTION_ALIAS, 0, 0}},
    {REQUESTS,
     {"dataset", OPT_DATASET, "FILE", 0,
      "Prompts instead of random ones: JSON lines {\"prompt\": TEXT, \"output_len\": N} or {\"prompt_token_ids\": "
      "[...]}",
      0}},
    {REQUESTS, {"max-concurrency", OPT_CONCURRENCY, "LIST", 0, "Requests in flight at most (default 1,8,32)", 0}},
    {REQUESTS,
     {"request-rate", OPT_REQUEST_RATE, "X", 0,
      "Requests a second, Poisson arrivals (default: as many as may be in flight)", 0}},
    {REQUESTS,
     {"burstiness", OPT_BURSTINESS, "X", 0,
      "Shape of the gamma distribution of gaps: 1 Poisson (default), less: burstier", 0}},
    {REQUESTS,
     {"goodput", OPT_GOODPUT, "METRIC:MS", 0,
      "Count requests within ttft:MS, tpot:MS, e2el:MS (may be repeated; all must hold)", 0}},
    {M(BENCH_SERVE), {"base-url", OPT_URL, "URL", 0, "The server (default http://127.0.0.1:8000)", 0}},
    {M(BENCH_SERVE), {"endpoint", OPT_ENDPOINT, "PATH", 0, "/v1/completions (default) or /v1/chat/completions", 0}},
    {M(BENCH_SERVE), {"model", OPT_MODEL, "NAME", 0, "The model's name there (default: the first of /v1/models)", 0}},
    {M(BENCH_SERVE), {"api-key-file", OPT_API_KEY_FILE, "FILE", 0, "Holds the key for 'Authorization: Bearer'", 0}},
    {M(BENCH_SERVE), {"request-timeout", OPT_REQUEST_TIMEOUT, "S", 0, "Seconds a request may take (default 600)", 0}},
    {M(BENCH_SERVE), {"no-ignore-eos", OPT_NO_IGNORE_EOS, 0, 0, "Do not send ignore_eos (servers that refuse it)", 0}},
    {EVERY, {"repeat", 'r', "N", 0, "Samples of a row (default 9; through the engine 3)", 0}},
    {EVERY, {"seed", OPT_SEED, "N", 0, "Of random prompts and arrival times (default 1)", 0}},
    {EVERY, {0, 0, 0, 0, "Results", 2}},
    {EVERY, {"output", OPT_OUTPUT, "FORMAT", 0, "md (default), csv, json or jsonl", 0}},
    {EVERY, {"output-file", OPT_OUTPUT_FILE, "FILE", 0, "Write them there (default: standard output)", 0}},
    {~0u, {"plot", OPT_PLOT, "FILE", 0, "A picture, .svg or .png (needs gnuplot at run time)", 0}},
    {EVERY,
     {"compare", OPT_COMPARE, "FILE", 0, "JSON or JSON lines of an older run: print ratios of the rows that both have",
      0}},
    {EVERY,
     {"threshold", OPT_THRESHOLD, "PERCENT", 0, "With --compare: end with 68 when a row is worse by more (default 5)",
      0}},
    {RUNS, {0, 0, 0, 0, "The engine and its device", 3}},
    {RUNS, {"backend", OPT_BACKEND, "NAME", 0, "auto (default), cpu or cuda", 0}},
    {RUNS, {"threads", 't', "N", 0, "CPU threads of a rank (default: its share of the cores)", 0}},
    {RUNS, {"cpu-act", OPT_CPU_ACT, "TYPE", 0, "Activations of int4 layers on CPUs: int16 (default) or int8", 0}},
    {ENGINES | ALL, {"ctx", 'c', "N", 0, "Longest context (default: what the benchmark needs)", 0}},
    {ENGINES | ALL,
     {"max-seqs", OPT_MAX_SEQS, "N", 0, "Sequences computed together (default: what the benchmark needs)", 0}},
    {ENGINES | ALL, {"max-step-tokens", OPT_MAX_STEP_TOKENS, "N", 0, "Rows of a step (default 256 / 2048)", 0}},
    {ENGINES | ALL, {"kv-memory", OPT_KV_MEMORY, "SIZE", 0, "KV cache of a rank, for example 500M or 4G", 0}},
    {ENGINES | ALL, {"gpu-memory-utilization", OPT_GPU_MEMORY, "X", 0, "Part of a GPU's memory (default 0.9)", 0}},
    {ENGINES | ALL, {"no-verify", OPT_NO_VERIFY, 0, 0, "Do not check the file's checksums while loading", 0}},
    {RUNS, {"timeout", OPT_TIMEOUT, "SECONDS", 0, "How long a silent rank is waited for", 0}},
    {~0u, {"log-level", OPT_LOG_LEVEL, "LEVEL", 0, "error, warn, info (default) or debug", 0}},
};
#define N_OPTIONS (int)(sizeof k_options / sizeof *k_options)

/* ---- values ---- */

static long long whole(struct argp_state *s, const char *name, const char *arg, long long lo, long long hi) {
    char *end;
    errno = 0;
    long long v = strtoll(arg, &end, 10);
    if (end == arg || *end || errno != 0 || v < lo || v > hi)
        argp_error(s, "--%s: '%s' is not a whole number from %lld to %lld", name, arg, lo, hi);
    return v;
}

static double real(struct argp_state *s, const char *name, const char *arg, double lo, double hi) {
    char *end;
    double v = strtod(arg, &end);
    if (end == arg || *end || !(v >= lo && v <= hi))
        argp_error(s, "--%s: '%s' is not a number from %g to %g", name, arg, lo, hi);
    return v;
}

static void list(struct argp_state *s, const char *name, const char *arg, int64_t lo, int64_t hi, bench_list *out) {
    if (bench_parse_list(arg, lo, hi, out) != MW_OK) argp_error(s, "--%s: %s", name, mw_error_text());
}

static uint64_t size(struct argp_state *s, const char *name, const char *arg) {
    uint64_t v = 0;
    if (bench_parse_bytes(arg, &v) != MW_OK) argp_error(s, "--%s: %s", name, mw_error_text());
    return v;
}

static void add_model(struct argp_state *s, bench_opts *o, const char *path) {
    if (o->n_models == (int)(sizeof o->models / sizeof *o->models)) argp_error(s, "more than %d models", o->n_models);
    o->models[o->n_models++] = path;
}

static void add_synthetic(struct argp_state *s, bench_opts *o, const char *name) {
    static char text[sizeof o->models / sizeof *o->models][128];
    char *to = text[o->n_models % (int)(sizeof o->models / sizeof *o->models)];
    snprintf(to, sizeof text[0], "synthetic:%s", name);
    add_model(s, o, to);
}

static bench_format format(struct argp_state *s, const char *arg) {
    static const char *const names[] = {"md", "csv", "json", "jsonl"};
    for (int i = 0; i < 4; i++)
        if (strcmp(arg, names[i]) == 0) return (bench_format)i;
    argp_error(s, "--output: '%s' is not md, csv, json or jsonl", arg);
    return BENCH_MD;
}

/* ---- options ---- */

static bool parse_engine(int key, char *arg, struct argp_state *s, mw_engine_options *e) {
    mw_log_level level;
    switch (key) {
    case OPT_BACKEND: e->backend = arg; return true;
    case 't': e->threads = (int)whole(s, "threads", arg, 1, 4096); return true;
    case 'c': e->ctx = (int)whole(s, "ctx", arg, 1, 1 << 26); return true;
    case OPT_MAX_SEQS: e->max_seqs = (int)whole(s, "max-seqs", arg, 1, 65536); return true;
    case OPT_MAX_STEP_TOKENS: e->max_step_tokens = (int)whole(s, "max-step-tokens", arg, 1, 1 << 20); return true;
    case OPT_KV_MEMORY: e->kv_bytes = size(s, "kv-memory", arg); return true;
    case OPT_GPU_MEMORY: e->gpu_memory = real(s, "gpu-memory-utilization", arg, 0.01, 1); return true;
    case OPT_NO_VERIFY: e->no_verify = true; return true;
    case OPT_TIMEOUT: e->timeout_s = real(s, "timeout", arg, 0.001, 86400); return true;
    case OPT_CPU_ACT:
        if (strcmp(arg, "int8") != 0 && strcmp(arg, "int16") != 0)
            argp_error(s, "--cpu-act: '%s' is neither int16 nor int8", arg);
        e->int8_act = strcmp(arg, "int8") == 0;
        return true;
    case OPT_LOG_LEVEL:
        if (mw_log_parse_level(arg, &level) != MW_OK) argp_error(s, "--log-level: %s", mw_error_text());
        mw_log_set_level(level);
        return true;
    default: return false;
    }
}

static bool parse_kernel(int key, char *arg, struct argp_state *s, bench_opts *o) {
    switch (key) {
    case OPT_TP: list(s, "tp", arg, 1, 4096, &o->tp); return true;
    case OPT_SHAPES: o->shapes = arg; return true;
    case OPT_GROUP:
        o->group = whole(s, "group", arg, -1, 128);
        if (o->group != -1 && o->group != 32 && o->group != 64 && o->group != 128)
            argp_error(s, "--group: '%s' is not 32, 64, 128 or -1", arg);
        return true;
    case OPT_ZEROS: o->zeros = true; return true;
    case OPT_NO_REFERENCE: o->no_reference = true; return true;
    case OPT_HEADS: o->heads = arg; return true;
    case OPT_DTYPE:
        if (strcmp(arg, "f16") != 0 && strcmp(arg, "bf16") != 0)
            argp_error(s, "--dtype: '%s' is neither f16 nor bf16", arg);
        o->dtype = *arg == 'f' ? MW_F16 : MW_BF16;
        return true;
    case 'b':
        if (o->kind == BENCH_ALLREDUCE)
            o->min_bytes = size(s, "minbytes", arg);
        else
            list(s, "batch", arg, 1, 65536, &o->batch);
        return true;
    case 'e': o->max_bytes = size(s, "maxbytes", arg); return true;
    case 'f': o->factor = (int)whole(s, "stepfactor", arg, 2, 1024); return true;
    case 'p': list(s, "n-prompt", arg, 1, 1 << 24, &o->prompt); return true;
    case 'n': list(s, "n-gen", arg, 2, 1 << 24, &o->gen); return true;
    case 'd': list(s, "n-depth", arg, 1, 1 << 24, &o->depth); return true;
    default: return false;
    }
}

static bool parse_requests(int key, char *arg, struct argp_state *s, bench_opts *o) {
    switch (key) {
    case OPT_NUM_PROMPTS: o->num_prompts = (int)whole(s, "num-prompts", arg, 1, 10000000); return true;
    case OPT_INPUT_LEN: o->prompt = (bench_list){{whole(s, "input-len", arg, 1, 1 << 24)}, 1}; return true;
    case OPT_OUTPUT_LEN: o->gen = (bench_list){{whole(s, "output-len", arg, 1, 1 << 24)}, 1}; return true;
    case OPT_RANGE_RATIO: o->range_ratio = real(s, "range-ratio", arg, 0, 0.999999); return true;
    case OPT_DATASET: o->dataset = arg; return true;
    case OPT_CONCURRENCY: list(s, "max-concurrency", arg, 1, 65536, &o->concurrency); return true;
    case OPT_REQUEST_RATE: o->request_rate = real(s, "request-rate", arg, 1e-6, 1e9); return true;
    case OPT_BURSTINESS: o->burstiness = real(s, "burstiness", arg, 0.001, 1e6); return true;
    case OPT_GOODPUT:
        if (o->n_goals == 3) argp_error(s, "--goodput: more than three goals");
        if (bench_parse_goal(arg, &o->goal[o->n_goals++]) != MW_OK) argp_error(s, "--goodput: %s", mw_error_text());
        return true;
    case OPT_URL: o->url = arg; return true;
    case OPT_ENDPOINT:
        if (strcmp(arg, "/v1/completions") != 0 && strcmp(arg, "/v1/chat/completions") != 0)
            argp_error(s, "--endpoint: '%s' is neither /v1/completions nor /v1/chat/completions", arg);
        o->endpoint = arg;
        return true;
    case OPT_MODEL: o->served_model = arg; return true;
    case OPT_API_KEY_FILE: o->api_key_file = arg; return true;
    case OPT_REQUEST_TIMEOUT: o->request_timeout_s = real(s, "request-timeout", arg, 0.001, 1e6); return true;
    case OPT_NO_IGNORE_EOS: o->no_ignore_eos = true; return true;
    default: return false;
    }
}

static bool parse_results(int key, char *arg, struct argp_state *s, bench_opts *o) {
    switch (key) {
    case 'r': o->repeat = (int)whole(s, "repeat", arg, 1, 10000); return true;
    case OPT_SEED: o->seed = (uint64_t)whole(s, "seed", arg, 0, INT64_MAX); return true;
    case OPT_OUTPUT: o->format = format(s, arg); return true;
    case OPT_OUTPUT_FILE: o->output_file = arg; return true;
    case OPT_PLOT: o->plot = arg; return true;
    case OPT_COMPARE: o->compare = arg; return true;
    case OPT_THRESHOLD: o->threshold = real(s, "threshold", arg, 0, 1e6); return true;
    default: return false;
    }
}

static error_t parse(int key, char *arg, struct argp_state *s) {
    bench_opts *o = s->input;
    if (parse_kernel(key, arg, s, o) || parse_requests(key, arg, s, o) || parse_results(key, arg, s, o) ||
        parse_engine(key, arg, s, &o->engine))
        return 0;
    switch (key) {
    case OPT_SYNTHETIC: add_synthetic(s, o, arg); return 0;
    case ARGP_KEY_ARG:
        if (o->kind == BENCH_SERVE || o->kind == BENCH_ALLREDUCE) argp_error(s, "'%s': no model is loaded here", arg);
        add_model(s, o, arg);
        return 0;
    case ARGP_KEY_END:
        if (o->shapes && o->n_models) argp_error(s, "--shapes and a model exclude each other");
        if (o->kind == BENCH_PLOT && (!o->plot || o->n_models == 0)) argp_error(s, "needs --plot and FILEs");
        if (o->n_models == 0) add_synthetic(s, o, "llama-3.1-8b");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the program's face ---- */

static const char k_overview[] =
    "Measures marlin-worker, its kernels and its collectives, or any OpenAI-compatible server.\v"
    "Benchmarks:\n"
    "  gemm        int4 GEMM beside reading the same bytes and the dense GEMM\n"
    "  attention   prefill and decode attention over the paged KV cache\n"
    "  allreduce   the all-reduce between ranks: time, algbw, busbw (under mpirun)\n"
    "  load        from start to the first token\n"
    "  decode      tokens a second while generating: tg128 at a depth, batch sweep\n"
    "  prefill     tokens a second of a prompt: pp512\n"
    "  throughput  many requests offline: requests and tokens a second\n"
    "  serve       many requests over HTTP: TTFT, TPOT, ITL, E2EL, goodput\n"
    "  all         all of them but serve\n"
    "  plot        a picture of the rows in FILEs that --output json or jsonl wrote\n"
    "\n"
    "'marlin-bench BENCHMARK --help' lists the options of one. MODEL is a model.h5, or synthetic:NAME.\n"
    "Examples:\n"
    "  marlin-bench gemm --synthetic llama-3.1-70b --tp 4\n"
    "  mpirun -np 2 marlin-bench decode model.h5 --batch 1,16,64\n"
    "  marlin-bench serve --base-url http://node07:8000 --request-rate 8 --goodput ttft:500\n"
    "  marlin-bench all --output json --output-file new.json --compare old.json\n"
    "\n"
    "Exit codes: 0 done; 64 usage; 66 cannot open; 68 worse than --compare's file by more than --threshold; 69 "
    "backend, "
    "device or program not available; 78 a result was wrong; others as marlin-worker's.";

static void print_version(FILE *f, struct argp_state *s) {
    (void)s;
    fprintf(f, "marlin-bench, of %s\n", mw_engine_version());
}

static char *help_filter(int key, const char *text, void *input) {
    (void)input;
    if (key != ARGP_KEY_HELP_EXTRA) return (char *)text;
    char *out = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&out, &n);
    if (!f) return NULL;
    fprintf(f, "Environment (the command line wins):\n");
    mw_env_print(f);
    fclose(f);
    return out;
}

static error_t parse_nothing(int key, char *arg, struct argp_state *s) {
    if (key == ARGP_KEY_ARG) argp_error(s, "'%s' is no benchmark", arg);
    if (key == ARGP_KEY_NO_ARGS) argp_usage(s);
    return key == ARGP_KEY_END ? 0 : ARGP_ERR_UNKNOWN;
}

static void parse_all(int argc, char **argv, bench_opts *o) {
    static const struct argp overview = {0, parse_nothing, "BENCHMARK [MODEL...]", k_overview, 0, help_filter, 0};
    static char name[64];
    struct argp_option options[N_OPTIONS + 1];
    int kind = 0, n = 0;
    while (argc > 1 && kind < BENCH_KINDS && strcmp(argv[1], bench_kind_names[kind]) != 0) kind++;
    if (argc < 2 || kind == BENCH_KINDS) {
        argp_parse(&overview, argc, argv, ARGP_IN_ORDER, 0, NULL);
        return;
    }
    o->kind = (bench_kind)kind;
    for (int i = 0; i < N_OPTIONS; i++)
        if (k_options[i].mask & M(kind)) options[n++] = k_options[i].o;
    options[n] = (struct argp_option){0};
    bool models = kind != BENCH_SERVE && kind != BENCH_ALLREDUCE;
    const char *args = kind == BENCH_PLOT ? "FILE..." : models ? "[MODEL...]" : "";
    const struct argp argp = {options, parse, args, "", 0, help_filter, 0};
    snprintf(name, sizeof name, "marlin-bench %s", bench_kind_names[kind]);
    argv[1] = name;
    argp_parse(&argp, argc - 1, argv + 1, 0, 0, o);
}

void bench_parse(int argc, char **argv, bench_opts *o) {
    *o = (bench_opts){.seed = 1,
                      .threshold = 5,
                      .group = 128,
                      .dtype = MW_F16,
                      .burstiness = 1,
                      .url = "http://127.0.0.1:8000",
                      .endpoint = "/v1/completions",
                      .request_timeout_s = 600};
    argp_program_version_hook = print_version;
    argp_err_exit_status = MW_ERR_USAGE;
    /* The same words from every rank help nobody: the others parse in silence. */
    int out = -1, err = -1, null = -1;
    if (!mw_comm_should_report(NULL) && (null = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0) {
        out = dup(STDOUT_FILENO);
        err = dup(STDERR_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
    }
    parse_all(argc, argv, o);
    if (null >= 0) {
        dup2(out, STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        close(out);
        close(err);
        close(null);
    }
}
