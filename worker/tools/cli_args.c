#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "worker/base/env.h"
#include "worker/base/log.h"
#include "worker/tools/cli.h"

enum {
    OPT_PROMPT_FILE = 256,
    OPT_CHAT,
    OPT_RAW,
    OPT_SYSTEM,
    OPT_JSONL,
    OPT_PERPLEXITY,
    OPT_MAX_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPETITION,
    OPT_PRESENCE,
    OPT_FREQUENCY,
    OPT_BIAS,
    OPT_SEED,
    OPT_STOP,
    OPT_STOP_ID,
    OPT_IGNORE_EOS,
    OPT_N,
    OPT_LOGPROBS,
    OPT_PROMPT_LOGPROBS,
    OPT_JSON,
    OPT_JSON_SCHEMA,
    OPT_CTX,
    OPT_MAX_SEQS,
    OPT_MAX_STEP_TOKENS,
    OPT_KV_MEMORY,
    OPT_BACKEND,
    OPT_THREADS,
    OPT_CPU_ACT,
    OPT_GPU_MEMORY,
    OPT_NO_VERIFY,
    OPT_TIMEOUT,
    OPT_DRY_RUN,
    OPT_LOG_LEVEL,
    OPT_MAX_QUEUE,
    OPT_NO_PREFIX_CACHE,
    OPT_LISTEN,
    OPT_API_KEY,
    OPT_API_KEY_FILE,
    OPT_NAME,
    OPT_CORS,
    OPT_DRAIN,
    OPT_IDLE,
    OPT_REQUEST_TIMEOUT,
    OPT_MAX_CONNECTIONS,
    OPT_MAX_BODY,
    OPT_MAX_HEADER,
    OPT_BATCH_IN,
    OPT_BATCH_OUT,
};

static const struct argp_option k_options[] = {
    {0, 0, 0, 0, "What to do (without any of these: a prompt on a terminal, or one prompt a line from a pipe)", 1},
    {"prompt", 'p', "TEXT", 0, "Complete TEXT, streaming to standard output", 0},
    {"prompt-file", OPT_PROMPT_FILE, "FILE", 0, "The same with the whole of FILE ('-': standard input)", 0},
    {"jsonl", OPT_JSONL, 0, 0, "One request object a line in, one answer object a line out, in input order", 0},
    {"perplexity", OPT_PERPLEXITY, "FILE", 0,
     "Negative log-likelihood of FILE (text, or a JSON list of lists of token ids) as JSON", 0},
    {"listen", OPT_LISTEN, "HOST:PORT", 0,
     "Serve OpenAI's HTTP API, for example on 127.0.0.1:8000 (a port alone is on this machine only)", 0},
    {"batch-in", OPT_BATCH_IN, "FILE", 0, "Answer the requests of FILE, in OpenAI's batch format; with --batch-out", 0},
    {"batch-out", OPT_BATCH_OUT, "FILE", 0, "Their answers, in order; lines that are there already are kept", 0},
    {"dry-run", OPT_DRY_RUN, 0, 0, "Print the shard plan and the memory of every rank; load nothing", 0},
    {"chat", OPT_CHAT, 0, 0, "Prompts are messages: render them with the model's chat template", 0},
    {"raw", OPT_RAW, 0, 0, "Plain completion, also in the interactive prompt", 0},
    {"system", OPT_SYSTEM, "TEXT", 0, "System message of a chat", 0},
    {0, 0, 0, 0, "Sampling (defaults: greedy, 128 tokens)", 2},
    {"max-tokens", OPT_MAX_TOKENS, "N", 0, "New tokens at most; -1: until the context is full", 0},
    {"temperature", OPT_TEMPERATURE, "X", 0, "0: greedy (default)", 0},
    {"top-k", OPT_TOP_K, "N", 0, "Only the N most likely tokens; 0: off (default)", 0},
    {"top-p", OPT_TOP_P, "X", 0, "Only the most likely tokens that make up X of the probability; 1: off (default)", 0},
    {"min-p", OPT_MIN_P, "X", 0, "Only tokens with at least X times the best probability; 0: off (default)", 0},
    {"repetition-penalty", OPT_REPETITION, "X", 0, "Divide the logits of tokens seen so far; 1: off (default)", 0},
    {"presence-penalty", OPT_PRESENCE, "X", 0, "Subtract X from tokens in the answer; 0: off (default)", 0},
    {"frequency-penalty", OPT_FREQUENCY, "X", 0, "Subtract X for each time a token is in the answer; 0: off (default)",
     0},
    {"logit-bias", OPT_BIAS, "ID:X", 0, "Add X to the logit of token ID (may be repeated)", 0},
    {"seed", OPT_SEED, "N", 0, "The same seed gives the same text on any number of ranks", 0},
    {"stop", OPT_STOP, "TEXT", 0, "End the answer before TEXT (may be repeated)", 0},
    {"stop-ids", OPT_STOP_ID, "ID", 0, "End the answer at token ID (may be repeated)", 0},
    {"ignore-eos", OPT_IGNORE_EOS, 0, 0, "Go on after the model's end-of-text tokens", 0},
    {"n", 'n', "N", 0, "N answers; answer i uses seed + i", 0},
    {"logprobs", OPT_LOGPROBS, "K", 0, "With --jsonl: log-probabilities of each new token and of the K best", 0},
    {"prompt-logprobs", OPT_PROMPT_LOGPROBS, "K", 0, "The same for the prompt's tokens", 0},
    {"json", OPT_JSON, 0, 0, "The answer is a JSON object", 0},
    {"json-schema", OPT_JSON_SCHEMA, "FILE", 0, "The answer is JSON as the JSON Schema in FILE has it", 0},
    {0, 0, 0, 0, "The server", 3},
    {"api-key", OPT_API_KEY, "KEY", 0, "Who asks must know KEY (may be repeated; other users of this machine see it)",
     0},
    {"api-key-file", OPT_API_KEY_FILE, "FILE", 0, "The same with every line of FILE", 0},
    {"served-model-name", OPT_NAME, "NAME", 0, "The model's name for clients (may be repeated; default: the file's)",
     0},
    {"cors-origin", OPT_CORS, "ORIGIN", 0, "Let web pages of ORIGIN (or '*') ask; default: none", 0},
    {"drain-timeout", OPT_DRAIN, "SECONDS", 0, "How long running answers may take after SIGTERM (default 30)", 0},
    {"idle-timeout", OPT_IDLE, "SECONDS", 0, "Close connections on which nothing moves (default 120)", 0},
    {"request-timeout", OPT_REQUEST_TIMEOUT, "SECONDS", 0, "Longest time for an answer (default: no limit)", 0},
    {"max-connections", OPT_MAX_CONNECTIONS, "N", 0, "Connections at once (default 1024)", 0},
    {"max-body", OPT_MAX_BODY, "BYTES", 0, "Largest request (default 16M)", 0},
    {"max-header", OPT_MAX_HEADER, "BYTES", 0, "Largest head of a request (default 32K)", 0},
    {"max-queue", OPT_MAX_QUEUE, "N", 0, "Answers waiting and running at once; more are refused (default 4096)", 0},
    {0, 0, 0, 0, "The engine", 4},
    {"backend", OPT_BACKEND, "NAME", 0, "auto (default), cpu or cuda", 0},
    {"threads", 't', "N", 0, "CPU threads of a rank (default: its share of the cores)", 0},
    {"ctx", 'c', "N", 0, "Longest context in tokens (default: the model's, at most 8192)", 0},
    {"max-seqs", OPT_MAX_SEQS, "N", 0, "Sequences computed together (default 16 on CPUs, 256 on GPUs)", 0},
    {"max-step-tokens", OPT_MAX_STEP_TOKENS, "N", 0, "Rows of a step: the size of a prefill chunk (default 256 / 2048)",
     0},
    {"kv-memory", OPT_KV_MEMORY, "BYTES", 0, "KV cache of a rank, for example 500M or 4G", 0},
    {"gpu-memory-utilization", OPT_GPU_MEMORY, "X", 0, "Part of a GPU's memory that may be used (default 0.9)", 0},
    {"cpu-act", OPT_CPU_ACT, "TYPE", 0,
     "Activations of int4 layers on CPUs: int16 (default, exact enough for fp16) or int8 (faster prefill)", 0},
    {"no-prefix-cache", OPT_NO_PREFIX_CACHE, 0, 0, "Compute common beginnings of prompts anew for each", 0},
    {"no-verify", OPT_NO_VERIFY, 0, 0, "Do not check the file's checksums while loading", 0},
    {"timeout", OPT_TIMEOUT, "SECONDS", 0, "How long a silent rank is waited for (default 60)", 0},
    {"log-level", OPT_LOG_LEVEL, "LEVEL", 0, "error, warn, info (default) or debug", 0},
    {"quiet", 'q', 0, 0, "No summary line", 0},
    {0},
};

static const char k_doc[] =
    "Runs an int4 model from one HDF5 file on any number of MPI ranks: mpirun -np 4 marlin-worker model.h5\v"
    "Examples:\n"
    "  marlin-worker model.h5 --prompt 'To be, or not to be'\n"
    "  mpirun -np 4 marlin-worker model.h5 --temperature 0.8 --seed 7 < prompts.txt\n"
    "  mpirun -np 2 marlin-worker model.h5 --jsonl < requests.jsonl > answers.jsonl\n"
    "  mpirun -np 4 marlin-worker model.h5 --listen 127.0.0.1:8000\n"
    "  mpirun -np 4 marlin-worker model.h5 --batch-in requests.jsonl --batch-out answers.jsonl\n"
    "  mpirun -np 8 marlin-worker model.h5 --dry-run\n"
    "\n"
    "Exit codes: 0 done; 64 usage; 65 wrong or damaged file; 66 cannot open; 67 not supported; 68 limit exceeded; 69 "
    "backend or device not available; 70 internal; 71 out of memory; 72 checksum mismatch; 74 read or write error; 75 "
    "another rank failed; 76 another rank was silent too long; 78 NaN or infinity; 80 too much work at once; 130 "
    "interrupted.";

/* ---- numbers ---- */

static long long whole(struct argp_state *s, const char *name, const char *arg, long long lo, long long hi) {
    char *end;
    errno = 0;
    long long v = strtoll(arg, &end, 10);
    if (end == arg || *end || errno != 0 || v < lo || v > hi)
        argp_error(s, "--%s: '%s' is not a whole number from %lld to %lld", name, arg, lo, hi);
    return v;
}

static double real(struct argp_state *s, const char *name, const char *arg) {
    char *end;
    double v = strtod(arg, &end);
    if (end == arg || *end || v != v) argp_error(s, "--%s: '%s' is not a number", name, arg);
    return v;
}

static uint64_t bytes(struct argp_state *s, const char *name, const char *arg) {
    static const char unit[] = "KMGT";
    char *end;
    double v = strtod(arg, &end);
    const char *u = *end ? strchr(unit, *end) : NULL;
    for (int i = 0; u && i <= u - unit; i++) v *= 1000;
    if (end == arg || !(v >= 1 && v < 1e18) || (*end && (!u || end[1])))
        argp_error(s, "--%s: '%s' is not a size such as 800M or 4G", name, arg);
    return (uint64_t)v;
}

/* ---- lists ---- */

static void *grow(struct argp_state *s, void *list, int n, size_t size) {
    void *p = realloc(list, (size_t)(n + 1) * size);
    if (!p) argp_failure(s, MW_ERR_NOMEM, 0, "out of memory");
    return p;
}

static void add_bias(struct argp_state *s, cli_opts *o, const char *arg) {
    char *end;
    long id = strtol(arg, &end, 10);
    if (end == arg || *end != ':' || id < 0 || id > INT32_MAX) argp_error(s, "--logit-bias: '%s' is not ID:X", arg);
    o->bias = grow(s, o->bias, o->sampling.n_bias, sizeof *o->bias);
    o->bias[o->sampling.n_bias++] = (mw_token_bias){(int32_t)id, (float)real(s, "logit-bias", end + 1)};
    o->sampling.bias = o->bias;
}

static void add_stop(struct argp_state *s, cli_opts *o, char *arg) {
    o->stop = grow(s, o->stop, o->sampling.n_stop, sizeof *o->stop);
    o->stop[o->sampling.n_stop++] = arg;
    o->sampling.stop = (const char *const *)o->stop;
}

static void add_stop_id(struct argp_state *s, cli_opts *o, const char *arg) {
    o->stop_ids = grow(s, o->stop_ids, o->sampling.n_stop_ids, sizeof *o->stop_ids);
    o->stop_ids[o->sampling.n_stop_ids++] = (int32_t)whole(s, "stop-ids", arg, 0, INT32_MAX);
    o->sampling.stop_ids = o->stop_ids;
}

/* ---- options ---- */

static bool parse_sampling(int key, char *arg, struct argp_state *s, cli_opts *o) {
    mw_sampling *p = &o->sampling;
    switch (key) {
    case OPT_MAX_TOKENS:
        p->max_tokens = (int)whole(s, "max-tokens", arg, -1, 1 << 26);
        o->max_tokens_set = true;
        return true;
    case OPT_TEMPERATURE:
        p->temperature = real(s, "temperature", arg);
        o->temperature_set = true;
        return true;
    case OPT_TOP_K: p->top_k = (int)whole(s, "top-k", arg, 0, 1 << 26); return true;
    case OPT_TOP_P: p->top_p = real(s, "top-p", arg); return true;
    case OPT_MIN_P: p->min_p = real(s, "min-p", arg); return true;
    case OPT_REPETITION: p->repetition_penalty = real(s, "repetition-penalty", arg); return true;
    case OPT_PRESENCE: p->presence_penalty = real(s, "presence-penalty", arg); return true;
    case OPT_FREQUENCY: p->frequency_penalty = real(s, "frequency-penalty", arg); return true;
    case OPT_BIAS: add_bias(s, o, arg); return true;
    case OPT_SEED:
        p->seed = (uint64_t)whole(s, "seed", arg, 0, INT64_MAX);
        p->has_seed = true;
        return true;
    case OPT_STOP: add_stop(s, o, arg); return true;
    case OPT_STOP_ID: add_stop_id(s, o, arg); return true;
    case OPT_IGNORE_EOS: p->ignore_eos = true; return true;
    case 'n': p->n = (int)whole(s, "n", arg, 1, 128); return true;
    case OPT_LOGPROBS: p->logprobs = (int)whole(s, "logprobs", arg, 0, 1 << 26); return true;
    case OPT_PROMPT_LOGPROBS: p->prompt_logprobs = (int)whole(s, "prompt-logprobs", arg, 0, 1000); return true;
    case OPT_JSON: p->format = MW_FORMAT_JSON_OBJECT; return true;
    case OPT_JSON_SCHEMA: o->json_schema = arg; return true;
    default: return false;
    }
}

static bool parse_engine(int key, char *arg, struct argp_state *s, cli_opts *o) {
    mw_engine_options *e = &o->engine;
    mw_log_level level;
    switch (key) {
    case OPT_BACKEND: e->backend = arg; return true;
    case 't': e->threads = (int)whole(s, "threads", arg, 1, 4096); return true;
    case 'c': e->ctx = (int)whole(s, "ctx", arg, 1, 1 << 26); return true;
    case OPT_MAX_SEQS: e->max_seqs = (int)whole(s, "max-seqs", arg, 1, 65536); return true;
    case OPT_MAX_STEP_TOKENS: e->max_step_tokens = (int)whole(s, "max-step-tokens", arg, 1, 1 << 20); return true;
    case OPT_KV_MEMORY: e->kv_bytes = bytes(s, "kv-memory", arg); return true;
    case OPT_GPU_MEMORY:
        e->gpu_memory = real(s, "gpu-memory-utilization", arg);
        if (!(e->gpu_memory > 0 && e->gpu_memory <= 1))
            argp_error(s, "--gpu-memory-utilization: '%s' is not above 0 and at most 1", arg);
        return true;
    case OPT_CPU_ACT:
        if (strcmp(arg, "int8") != 0 && strcmp(arg, "int16") != 0)
            argp_error(s, "--cpu-act: '%s' is neither int16 nor int8", arg);
        e->int8_act = strcmp(arg, "int8") == 0;
        return true;
    case OPT_NO_PREFIX_CACHE: e->no_prefix_cache = true; return true;
    case OPT_MAX_QUEUE: e->max_queue = (int)whole(s, "max-queue", arg, 1, 1 << 20); return true;
    case OPT_NO_VERIFY: e->no_verify = true; return true;
    case OPT_TIMEOUT:
        e->timeout_s = real(s, "timeout", arg);
        if (!(e->timeout_s > 0 && e->timeout_s <= 86400)) argp_error(s, "--timeout: '%s' is not 0 to 86400", arg);
        return true;
    case OPT_LOG_LEVEL:
        if (mw_log_parse_level(arg, &level) != MW_OK) argp_error(s, "--log-level: %s", mw_error_text());
        mw_log_set_level(level);
        return true;
    default: return false;
    }
}

static double seconds(struct argp_state *s, const char *name, const char *arg, double least) {
    double v = real(s, name, arg);
    if (!(v >= least && v <= 1e6)) argp_error(s, "--%s: '%s' is not %g to 1000000", name, arg, least);
    return v;
}

static bool parse_server(int key, char *arg, struct argp_state *s, cli_opts *o) {
    mw_server_options *v = &o->server;
    switch (key) {
    case OPT_LISTEN: v->listen = arg; return true;
    case OPT_API_KEY:
        o->api_keys = grow(s, o->api_keys, v->n_api_keys, sizeof *o->api_keys);
        o->api_keys[v->n_api_keys++] = arg;
        v->api_keys = o->api_keys;
        return true;
    case OPT_API_KEY_FILE: v->api_key_file = arg; return true;
    case OPT_NAME:
        o->names = grow(s, o->names, o->n_names, sizeof *o->names);
        o->names[o->n_names++] = arg;
        return true;
    case OPT_CORS: v->cors_origin = arg; return true;
    case OPT_DRAIN: v->drain_s = seconds(s, "drain-timeout", arg, 0); return true;
    case OPT_IDLE: v->idle_s = seconds(s, "idle-timeout", arg, 1); return true;
    case OPT_REQUEST_TIMEOUT: o->request_timeout_s = seconds(s, "request-timeout", arg, 0); return true;
    case OPT_MAX_CONNECTIONS: v->max_connections = (int)whole(s, "max-connections", arg, 4, 60000); return true;
    case OPT_MAX_BODY: v->max_body = bytes(s, "max-body", arg); return true;
    case OPT_MAX_HEADER:
        v->max_header = bytes(s, "max-header", arg);
        if (v->max_header < 4096) argp_error(s, "--max-header: '%s' is less than 4096", arg);
        return true;
    case OPT_BATCH_IN: o->batch_in = arg; return true;
    case OPT_BATCH_OUT: o->batch_out = arg; return true;
    default: return false;
    }
}

static error_t parse(int key, char *arg, struct argp_state *s) {
    cli_opts *o = s->input;
    if (parse_sampling(key, arg, s, o) || parse_engine(key, arg, s, o) || parse_server(key, arg, s, o)) return 0;
    switch (key) {
    case 'p': o->prompt = arg; return 0;
    case OPT_PROMPT_FILE: o->prompt_file = arg; return 0;
    case OPT_JSONL: o->jsonl = true; return 0;
    case OPT_PERPLEXITY: o->perplexity = arg; return 0;
    case OPT_DRY_RUN: o->engine.dry_run = true; return 0;
    case OPT_CHAT: o->chat = true; return 0;
    case OPT_RAW: o->raw = true; return 0;
    case OPT_SYSTEM: o->system = arg; return 0;
    case 'q': o->quiet = true; return 0;
    case ARGP_KEY_ARG:
        if (o->engine.model) argp_error(s, "more than one model: '%s' and '%s'", o->engine.model, arg);
        o->engine.model = arg;
        return 0;
    case ARGP_KEY_END:
        if (!o->engine.model) argp_error(s, "no model file given");
        if (!!o->prompt + !!o->prompt_file + o->jsonl + !!o->perplexity + !!o->server.listen + !!o->batch_in +
                o->engine.dry_run >
            1)
            argp_error(s, "--prompt, --prompt-file, --jsonl, --perplexity, --listen, --batch-in and --dry-run exclude "
                          "each other");
        if (!o->batch_in != !o->batch_out) argp_error(s, "--batch-in and --batch-out go together");
        if (o->json_schema && o->sampling.format == MW_FORMAT_JSON_OBJECT)
            argp_error(s, "--json and --json-schema exclude each other");
        if (o->chat && o->raw) argp_error(s, "--chat and --raw exclude each other");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static void print_version(FILE *f, struct argp_state *s) {
    (void)s;
    fprintf(f, "%s\n", mw_engine_version());
}

/* The table of environment variables goes under --help. */
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

void cli_parse(int argc, char **argv, cli_opts *o) {
    static const struct argp argp = {k_options, parse, "MODEL.h5", k_doc, 0, help_filter, 0};
    *o = (cli_opts){.sampling = mw_sampling_default(), .engine.progress = true, .server = mw_server_options_default()};
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
    argp_parse(&argp, argc, argv, 0, 0, o);
    if (null >= 0) {
        dup2(out, STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        close(out);
        close(err);
        close(null);
    }
}

void cli_free(cli_opts *o) {
    free(o->stop);
    free(o->stop_ids);
    free(o->bias);
    mw_str_free(&o->schema);
    free(o->api_keys);
    free(o->names);
}
