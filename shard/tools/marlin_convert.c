/* marlin-convert: Hugging Face folder -> model.h5, and back. The command line; the work is in convert_*.c. */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/checkpoint.h"
#include "shard/st_write.h"
#include "shard/tools/convert_export.h"
#include "shard/tools/convert_model.h"
#include "shard/tools/convert_outdir.h"
#include "shard/writer.h"
#include "worker/base/clock.h"
#include "worker/base/env.h"
#include "worker/base/io.h"
#include "worker/base/log.h"
#include "worker/base/threads.h"

#define NAME "marlin-convert"

typedef enum { DO_CONVERT, DO_VERIFY, DO_DEQUANT, DO_SAFETENSORS } action;

typedef struct {
    action action;
    const char *input, *out;
    mw_convert_opts c;
    bool rtn_flag;  /* a flag that only means something with --quantize rtn */
    bool grid_flag; /* or with --lm-head too */
    uint64_t file_bytes;
    bool quiet;
} args;

enum {
    KEY_FORCE = 256,
    KEY_QUANTIZE,
    KEY_GROUP,
    KEY_ZEROS,
    KEY_CLIP,
    KEY_HEAD,
    KEY_ACT,
    KEY_THREADS,
    KEY_NO_TOKENIZER,
    KEY_VERIFY,
    KEY_DEQUANT,
    KEY_SAFETENSORS,
    KEY_FILE_SIZE,
    KEY_LOG_LEVEL,
};

static const struct argp_option k_options[] = {
    {NULL, 0, NULL, 0, "What to do (default: convert a folder):", 1},
    {"verify", KEY_VERIFY, "FILE", 0, "Check schema, shapes and every checksum of a model file", 1},
    {"dequant", KEY_DEQUANT, "FILE", 0, "Write the model as a Hugging Face folder of 16-bit weights", 1},
    {"to-safetensors", KEY_SAFETENSORS, "FILE", 0, "Write the model as a Hugging Face folder of GPTQ tensors", 1},
    {NULL, 0, NULL, 0, "Output:", 2},
    {"output", 'o', "PATH", 0, "The file (conversion) or folder (--dequant, --to-safetensors) to write", 2},
    {"force", KEY_FORCE, NULL, 0, "Overwrite an existing file", 2},
    {"max-file-size", KEY_FILE_SIZE, "MiB", 0, "Largest safetensors file of an exported folder (default 4096)", 2},
    {NULL, 0, NULL, 0, "Quantising a 16- or 32-bit model:", 3},
    {"quantize", KEY_QUANTIZE, "rtn|none", 0, "rtn: int4, round to nearest. none: keep 16-bit weights", 3},
    {"group-size", KEY_GROUP, "G", 0, "Weights that share a scale: 128 (default), 64, 32, or -1: one output channel",
     3},
    {"zero-points", KEY_ZEROS, NULL, 0, "A zero point per group (default: symmetric)", 3},
    {"clip-search", KEY_CLIP, "N", 0, "Clip ratios tried per group, 1 to 64 (default 8); 1: no clipping", 3},
    {"lm-head", KEY_HEAD, "int4[:G]", 0,
     "Quantise lm_head too, in groups of G (default: the model's), also where the model is quantised already", 3},
    {NULL, 0, NULL, 0, "Other:", 4},
    {"act", KEY_ACT, "f16|bf16", 0, "Activation dtype to record (default: the model's; bf16 for float32 models)", 4},
    {"no-tokenizer", KEY_NO_TOKENIZER, NULL, 0, "Convert without tokenizer and chat template", 4},
    {"threads", KEY_THREADS, "N", 0, "Threads (default: all cores)", 4},
    {"quiet", 'q', NULL, 0, "No progress bar, no summary; warnings and errors only", 4},
    {"log-level", KEY_LOG_LEVEL, "LEVEL", 0, "error, warn, info or debug", 4},
    {0},
};

static const char k_doc[] =
    "Convert a Hugging Face folder (safetensors) to one self-contained model.h5 for marlin-worker."
    "\v"
    "Read: GPTQ (v1, v2; symmetric or not; act-order), AWQ gemm, compressed-tensors pack-quantized W4A16, Marlin "
    "checkpoints; float16, bfloat16 and float32 models with --quantize. Families: llama, mistral, qwen2, qwen3.\n\n"
    "Examples:\n"
    "  marlin-convert Llama-3.1-8B-GPTQ -o model.h5\n"
    "  marlin-convert Qwen2.5-7B -o model.h5 --quantize rtn --group-size 64\n"
    "  marlin-convert --verify model.h5\n"
    "  marlin-convert --dequant model.h5 -o folder\n\n"
    "Exit codes: 0 done; 64 wrong usage; 65 a file is not what it should be; 66 cannot open input; 67 understood but "
    "not supported; 68 beyond a limit; 70 internal error; 71 out of memory; 72 corrupt data; 73 output exists or "
    "cannot "
    "be created; 74 read or write failed, disk full; 78 a number does not fit; 129, 130, 143 interrupted.";

static mw_status whole_number(const char *flag, const char *text, long lo, long hi, long *out) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || end == text || *end || v < lo || v > hi)
        return MW_FAIL(MW_ERR_USAGE, "--%s: '%s' is not a whole number from %ld to %ld", flag, text, lo, hi);
    *out = v;
    return MW_OK;
}

static mw_status choice(const char *flag, const char *text, const char *const *names, int n, int *out) {
    for (int i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return MW_OK;
        }
    return MW_FAIL(MW_ERR_USAGE, "--%s: '%s' is not one of %s, %s", flag, text, names[0], names[1]);
}

static mw_status set_action(args *a, action what, const char *file) {
    if (a->action != DO_CONVERT)
        return MW_FAIL(MW_ERR_USAGE, "only one of --verify, --dequant, --to-safetensors at a time");
    a->action = what;
    a->input = file;
    return MW_OK;
}

static mw_status parse_group(const char *flag, const char *text, int64_t *out) {
    long v = 0;
    mw_status st = whole_number(flag, text, -1, 128, &v);
    if (st != MW_OK) return st;
    if (v != 32 && v != 64 && v != 128 && v != -1)
        return MW_FAIL(MW_ERR_USAGE, "--%s: %ld is not one of 128, 64, 32, -1", flag, v);
    *out = v;
    return MW_OK;
}

static mw_status parse_head(args *a, const char *text) {
    const size_t n = strlen("int4");
    if (strncmp(text, "int4", n) != 0 || (text[n] && text[n] != ':'))
        return MW_FAIL(MW_ERR_USAGE, "--lm-head: '%s' is not int4 or int4:G", text);
    a->c.head_int4 = true;
    return text[n] ? parse_group("lm-head", text + n + 1, &a->c.head_group) : MW_OK;
}

static mw_status parse_key(args *a, int key, const char *text) {
    static const char *const acts[] = {"f16", "bf16"}, *const quantize[] = {"rtn", "none"};
    mw_status st = MW_OK;
    int pick = 0;
    long v = 0;
    switch (key) {
    case 'o': a->out = text; break;
    case 'q': a->quiet = true; break;
    case KEY_FORCE: a->c.force = true; break;
    case KEY_NO_TOKENIZER: a->c.with_tokenizer = false; break;
    case KEY_VERIFY: return set_action(a, DO_VERIFY, text);
    case KEY_DEQUANT: return set_action(a, DO_DEQUANT, text);
    case KEY_SAFETENSORS: return set_action(a, DO_SAFETENSORS, text);
    case KEY_GROUP: a->rtn_flag = true; return parse_group("group-size", text, &a->c.group_size);
    case KEY_HEAD: return parse_head(a, text);
    case KEY_ZEROS: a->c.zero_points = a->grid_flag = true; break;
    case KEY_CLIP:
        MW_TRY(st, whole_number("clip-search", text, 1, 64, &v));
        a->c.clip_search = (int)v;
        a->grid_flag = true;
        break;
    case KEY_QUANTIZE:
        MW_TRY(st, choice("quantize", text, quantize, 2, &pick));
        a->c.quantize = pick == 0 ? MW_QUANTIZE_RTN : MW_QUANTIZE_NONE;
        break;
    case KEY_ACT:
        MW_TRY(st, choice("act", text, acts, 2, &pick));
        a->c.act = pick == 0 ? MW_F16 : MW_BF16;
        a->c.act_given = true;
        break;
    case KEY_THREADS:
        MW_TRY(st, whole_number("threads", text, 1, 256, &v));
        a->c.threads = (int)v;
        break;
    case KEY_FILE_SIZE:
        MW_TRY(st, whole_number("max-file-size", text, 1, 1 << 20, &v));
        a->file_bytes = (uint64_t)v << 20;
        break;
    case KEY_LOG_LEVEL: {
        mw_log_level level;
        MW_TRY(st, mw_log_parse_level(text, &level));
        mw_log_set_level(level);
        break;
    }
    default: return MW_FAIL(MW_ERR_INTERNAL, "unhandled option %d", key);
    }
fail:
    return st;
}

static mw_status check_usage(const args *a) {
    if (!a->input) return MW_FAIL(MW_ERR_USAGE, "no folder given; try '" NAME " --help'");
    if (a->action != DO_VERIFY && !a->out) return MW_FAIL(MW_ERR_USAGE, "-o PATH is missing; try '" NAME " --help'");
    if (a->action != DO_CONVERT &&
        (a->c.quantize != MW_QUANTIZE_UNSET || a->rtn_flag || a->grid_flag || a->c.head_int4 || !a->c.with_tokenizer))
        return MW_FAIL(MW_ERR_USAGE, "--quantize, --lm-head, --no-tokenizer and their like belong to a conversion");
    if (a->rtn_flag && a->c.quantize != MW_QUANTIZE_RTN)
        return MW_FAIL(MW_ERR_USAGE, "--group-size: groups of our own need --quantize rtn");
    if (a->grid_flag && a->c.quantize != MW_QUANTIZE_RTN && !a->c.head_int4)
        return MW_FAIL(MW_ERR_USAGE, "--zero-points and --clip-search need --quantize rtn or --lm-head");
    return MW_OK;
}

/* argp's own exit code for a bad flag is EX_USAGE, the same as ours. */
static error_t parse_opt(int key, char *text, struct argp_state *state) {
    args *a = state->input;
    mw_status st = MW_OK;
    if (key == ARGP_KEY_ARG && !a->input)
        a->input = text;
    else if (key == ARGP_KEY_ARG)
        st = MW_FAIL(MW_ERR_USAGE, "'%s': one folder or file at a time", text);
    else if (key == ARGP_KEY_END)
        st = check_usage(a);
    else if (key == 'o' || key == 'q' || (key >= KEY_FORCE && key <= KEY_LOG_LEVEL))
        st = parse_key(a, key, text);
    else
        return ARGP_ERR_UNKNOWN;
    if (st != MW_OK) argp_failure(state, (int)st, 0, "%s", mw_error_text());
    return 0;
}

/* ---- what a signal leaves behind: nothing ----------------------------------------------------------------------- */

static void on_signal(int sig) {
    mw_outfile_abort_all();
    mw_outdir_abort_all();
    static const char text[] = "\n" NAME ": interrupted, nothing was written\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(128 + sig);
}

static void handle_signals(void) {
    struct sigaction sa = {.sa_handler = on_signal}, old;
    sigfillset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup has it ignored */
        sigaction(SIGHUP, &sa, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit then is a failed write, with its text, like a full disk */
}

/* ---- actions ---------------------------------------------------------------------------------------------------- */

static const char *rate(uint64_t bytes, double seconds, char buf[16]) {
    return mw_human_bytes(seconds > 0 ? (uint64_t)((double)bytes / seconds) : 0, buf);
}

static mw_status do_convert(args *a) {
    mw_convert_report r;
    char in[16], out[16], per_s[16];
    a->c.dir = a->input;
    a->c.out = a->out;
    mw_status st = mw_convert(&a->c, &r);
    if (st == MW_OK && !a->quiet)
        mw_info("%s: %s from %s, %d int4 and %d 16-bit linear layers, %.1f s, %s/s", a->out,
                mw_human_bytes(r.bytes_out, out), mw_human_bytes(r.bytes_in, in), r.n_int4, r.n_dense, r.seconds,
                rate(r.bytes_in, r.seconds, per_s));
    return st;
}

static mw_status do_verify(const args *a) {
    mw_ckpt *c = NULL;
    uint64_t bytes = 0;
    char size[16], per_s[16];
    double started = mw_now_s();
    mw_status st = mw_ckpt_open(&c, a->input);
    if (st == MW_OK) st = mw_ckpt_verify(c, a->c.threads, &bytes);
    if (st == MW_OK && !a->quiet) {
        printf("%s: ok, %d weights in %d datasets, %s verified, %s/s\n", a->input, mw_ckpt_n_weights(c),
               mw_ckpt_n_datasets(c), mw_human_bytes(bytes, size), rate(bytes, mw_now_s() - started, per_s));
        if (fflush(stdout) != 0) st = MW_FAIL(MW_ERR_IO, "stdout: %s", strerror(errno));
    }
    mw_ckpt_close(c);
    return st;
}

static mw_status do_export(const args *a) {
    uint64_t bytes = 0;
    char size[16], per_s[16];
    double started = mw_now_s();
    const mw_export_opts o = {.file = a->input,
                              .dir = a->out,
                              .kind = a->action == DO_DEQUANT ? MW_EXPORT_FLOAT : MW_EXPORT_GPTQ,
                              .threads = a->c.threads,
                              .progress = a->c.progress,
                              .act_given = a->c.act_given,
                              .act = a->c.act,
                              .file_bytes = a->file_bytes};
    mw_status st = mw_export(&o, &bytes);
    if (st == MW_OK && !a->quiet) {
        double seconds = mw_now_s() - started;
        mw_info("%s: %s of tensors, %.1f s, %s/s", a->out, mw_human_bytes(bytes, size), seconds,
                rate(bytes, seconds, per_s));
    }
    return st;
}

static void print_version(FILE *f, struct argp_state *state) {
    (void)state;
    fprintf(f, NAME " " MW_VERSION " (" MW_GIT_ID ")\nmodel.h5 schema %d.%d, HDF5 %s\n", MW_FORMAT_MAJOR,
            MW_FORMAT_MINOR, mw_ckpt_library());
}

int main(int argc, char **argv) {
    static const struct argp parser = {k_options,
                                       parse_opt,
                                       "DIR -o model.h5\n--verify FILE\n--dequant FILE -o DIR\n"
                                       "--to-safetensors FILE -o DIR",
                                       k_doc,
                                       NULL,
                                       NULL,
                                       NULL};
    args a = {.c = {.creator = NAME " " MW_VERSION " (" MW_GIT_ID ")",
                    .with_tokenizer = true,
                    .group_size = 128,
                    .clip_search = 8,
                    .threads = mw_cpu_count()},
              .file_bytes = MW_ST_FILE_BYTES};
    mw_writer_init_process();
    argp_program_version_hook = print_version;
    argp_err_exit_status = MW_ERR_USAGE;
    argp_parse(&parser, argc, argv, 0, NULL, &a);
    a.c.progress = !a.quiet;
    handle_signals();
    mw_status st = a.action == DO_CONVERT ? do_convert(&a) : a.action == DO_VERIFY ? do_verify(&a) : do_export(&a);
    if (st != MW_OK) mw_log(MW_LOG_ERROR, "%s", mw_error_text());
    return (int)st;
}
