/* marlin-pack: puts a model.h5 into Marlin tiles, cuts it for node-local disks, shows the shard plan and the weights.
 */
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/pack.h"
#include "shard/repack.h"
#include "shard/writer.h"
#include "worker/base/clock.h"
#include "worker/base/io.h"
#include "worker/base/log.h"
#include "worker/base/threads.h"

typedef struct {
    const char *in, *against, *out, *inspect;
    bool force, unpack, plan, verify, quiet, at;
    int ranks, np, threads; /* ranks, np: 0 when not given */
    long long at_k, at_n;
} options;

enum { OPT_RANKS = 256, OPT_PLAN, OPT_VERIFY, OPT_INSPECT, OPT_AT, OPT_UNPACK, OPT_FORCE };

static const struct argp_option k_options[] = {
    {0, 0, 0, 0, "Packing", 1},
    {"output", 'o', "FILE", 0, "Write the packed model here", 0},
    {"ranks", OPT_RANKS, "N", 0,
     "Write one file per rank, FILE.rank0-of-N.h5 and so on, each with that rank's share only", 0},
    {"unpack", OPT_UNPACK, 0, 0, "Write logical rows instead of tiles: the inverse of packing", 0},
    {"force", OPT_FORCE, 0, 0, "Overwrite existing files", 0},
    {"threads", 't', "N", 0, "Threads (default: all cores)", 0},
    {0, 0, 0, 0, "Looking", 2},
    {"plan", OPT_PLAN, 0, 0, "Print the shard plan: every tensor's role, slice and bytes on each of -n ranks", 0},
    {"np", 'n', "N", 0, "Ranks of --plan (default 1; -np N is understood too)", 0},
    {"verify", OPT_VERIFY, 0, 0,
     "Check all checksums; with a second file, or after packing: compare every logical weight (with --ranks: of every "
     "rank file's share, and the checksums of the file)",
     0},
    {"inspect", OPT_INSPECT, "TENSOR", 0, "Print logical weights, such as layers/000/mlp/up_proj", 0},
    {"at", OPT_AT, "K,N", 0, "Where --inspect looks (default 0,0)", 0},
    {"quiet", 'q', 0, 0, "No progress, no figures", 0},
    {0},
};

static const char k_doc[] =
    "Packs a model.h5 into Marlin tiles. One packed file serves every number of ranks.\v"
    "Examples:\n"
    "  marlin-pack model.h5 -o packed.h5 --verify\n"
    "  marlin-pack model.h5 -o /nvme/model.h5 --ranks 4 --verify\n"
    "  marlin-pack model.h5 --plan -np 8\n"
    "  marlin-pack packed.h5 --inspect layers/000/self_attn/q_proj --at 128,64\n"
    "\n"
    "Exit codes: 0 done; 64 usage; 65 wrong file or files that differ; 66 cannot open; 67 not supported; 68 too many "
    "ranks; 72 checksum mismatch; 73 cannot create, or exists; 74 read or write error (disk full).";

static int number(struct argp_state *s, const char *what, const char *arg) {
    char *end;
    long v = strtol(arg, &end, 10);
    if (end == arg || *end || v < 1 || v > 65536)
        argp_error(s, "%s: '%s' is not a whole number from 1 to 65536", what, arg);
    return (int)v;
}

static error_t parse(int key, char *arg, struct argp_state *s) {
    options *o = s->input;
    switch (key) {
    case 'o': o->out = arg; return 0;
    case OPT_RANKS: o->ranks = number(s, "--ranks", arg); return 0;
    case OPT_UNPACK: o->unpack = true; return 0;
    case OPT_FORCE: o->force = true; return 0;
    case 't': o->threads = number(s, "--threads", arg); return 0;
    case OPT_PLAN: o->plan = true; return 0;
    case 'n': /* mpirun's "-np 8" arrives as -n with the value "p" */
        if (strcmp(arg, "p") == 0 && s->next >= s->argc) argp_error(s, "-np: a number is missing");
        o->np = number(s, "--np", strcmp(arg, "p") == 0 ? s->argv[s->next++] : arg);
        return 0;
    case OPT_VERIFY: o->verify = true; return 0;
    case OPT_INSPECT: o->inspect = arg; return 0;
    case OPT_AT:
        if (sscanf(arg, "%lld,%lld", &o->at_k, &o->at_n) != 2) argp_error(s, "--at: '%s' is not K,N", arg);
        o->at = true;
        return 0;
    case 'q': o->quiet = true; return 0;
    case ARGP_KEY_ARG:
        if (!o->in)
            o->in = arg;
        else if (!o->against)
            o->against = arg;
        else
            argp_error(s, "too many files: '%s'", arg);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* A flag that would change nothing is refused: whoever gave it expected something of it. */
static mw_status check_flags(const options *o) {
    int actions = (o->out != NULL) + o->plan + (o->inspect != NULL);
    const char *packing = o->ranks ? "--ranks" : o->unpack ? "--unpack" : o->force ? "--force" : NULL;
    if (!o->in) return MW_FAIL(MW_ERR_USAGE, "no model file given; try 'marlin-pack --help'");
    if (actions > 1) return MW_FAIL(MW_ERR_USAGE, "only one of -o, --plan and --inspect at a time");
    if (actions == 0 && !o->verify)
        return MW_FAIL(MW_ERR_USAGE, "one of -o, --plan, --verify and --inspect is needed; try 'marlin-pack --help'");
    if (o->verify && (o->plan || o->inspect))
        return MW_FAIL(MW_ERR_USAGE, "--verify goes alone or with -o, not with --plan or --inspect");
    if (o->against && (!o->verify || o->out)) return MW_FAIL(MW_ERR_USAGE, "a second file only goes with --verify");
    if (packing && !o->out) return MW_FAIL(MW_ERR_USAGE, "%s needs -o FILE", packing);
    if (o->np && !o->plan)
        return MW_FAIL(MW_ERR_USAGE, "-n (--np) needs --plan; files for N ranks are written with -o FILE --ranks N");
    if (o->at && !o->inspect) return MW_FAIL(MW_ERR_USAGE, "--at needs --inspect TENSOR");
    return MW_OK;
}

/* ---- what a failure leaves behind: nothing ---- */

/* The rank files of this run. Until the last one is there the first `n` of them, which are complete, go away with a
 * failure or a signal: some ranks' files without the others' are of no use. */
static struct {
    char (*name)[PATH_MAX];
    atomic_int n;
} g_rank_files;

static void remove_rank_files(void) {
    int n = atomic_exchange(&g_rank_files.n, 0);
    for (int r = 0; r < n; r++) unlink(g_rank_files.name[r]);
}

static void on_signal(int sig) {
    mw_outfile_abort_all();
    remove_rank_files();
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

/* ---- packing ---- */

/* The machine's memcpy speed on as many bytes as a band, same threads: what packing is measured against. */
typedef struct {
    char *dst, *src;
    size_t n;
} copy_ctx;

static void copy_thread(void *arg, int thread, int n_threads) {
    copy_ctx *c = arg;
    int64_t lo, hi;
    mw_split((int64_t)c->n, 64, thread, n_threads, &lo, &hi);
    memcpy(c->dst + lo, c->src + lo, (size_t)(hi - lo));
}

static double memcpy_gbps(int threads) {
    copy_ctx c = {.n = 64u << 20};
    mw_pool *pool = NULL;
    double best = 0;
    c.dst = malloc(c.n);
    c.src = malloc(c.n);
    if (c.dst && c.src && mw_pool_create(&pool, threads, 0) == MW_OK) {
        memset(c.src, 1, c.n);
        for (int i = 0; i < 4; i++) { /* the first run faults the pages in */
            double start = mw_now_s();
            mw_pool_run(pool, copy_thread, &c);
            double gbps = (double)c.n / (mw_now_s() - start) * 1e-9;
            if (i > 0 && gbps > best) best = gbps;
        }
    }
    mw_pool_destroy(pool);
    free(c.dst);
    free(c.src);
    return best;
}

static mw_status pack_one(const mw_ckpt *c, const options *o, const mw_plan *plan, int rank, const char *out) {
    char creator[64], size[16];
    mw_repack_stats st = {0};
    snprintf(creator, sizeof creator, "marlin-pack %s (%s)", MW_VERSION, MW_GIT_ID);
    mw_repack_opts r = {.out = out,
                        .force = o->force,
                        .layout = o->unpack ? MW_IN_ROWS : MW_IN_TILES,
                        .plan = plan,
                        .rank = rank,
                        .threads = o->threads,
                        .creator = creator,
                        .progress = !o->quiet};
    mw_status status = mw_repack(c, &r, &st);
    if (status == MW_OK && plan) atomic_store(&g_rank_files.n, rank + 1);
    if (status != MW_OK || o->quiet) return status;
    fprintf(stderr, "%s: %s in %.2f s (%.2f GB/s)", out, mw_human_bytes(st.bytes, size), st.total_s,
            (double)st.bytes / st.total_s * 1e-9);
    if (st.pack_s > 0)
        fprintf(stderr, "; packing alone %.2f GB/s, memcpy %.2f GB/s, %d thread%s",
                (double)st.int4_bytes / st.pack_s * 1e-9, memcpy_gbps(o->threads), o->threads,
                o->threads == 1 ? "" : "s");
    fputc('\n', stderr);
    return MW_OK;
}

static mw_status compare(const mw_ckpt *a, const char *path, bool quiet) {
    mw_ckpt *b = NULL;
    uint64_t n = 0;
    mw_status st = mw_ckpt_open(&b, path);
    if (st == MW_OK) st = mw_repack_compare(a, b, &n);
    if (st == MW_OK && !quiet)
        fprintf(stderr, "%s: the same model as %s (%llu weights compared)\n", path, mw_ckpt_path(a),
                (unsigned long long)n);
    mw_ckpt_close(b);
    return st;
}

/* ---- rank files beside the model they were cut from ---- */

typedef struct {
    const mw_ckpt *whole, *cut;
    mw_range k, n; /* the rank's share of the weight at hand */
} window;

static const int64_t k_band_bytes = 16 << 20;

static mw_status differ(const window *x, const char *what) {
    return MW_FAIL(MW_ERR_FORMAT, "%s and %s differ: %s", mw_ckpt_path(x->whole), mw_ckpt_path(x->cut), what);
}

/* Rows r, columns c of datasets that look the same in every layout. */
static mw_status compare_plain(const window *x, int whole, int cut, mw_range r, mw_range c) {
    mw_status st = MW_OK;
    char *a = NULL, *b = NULL;
    if (whole < 0) return MW_OK;
    const mw_dataset *da = mw_ckpt_dataset(x->whole, whole), *db = mw_ckpt_dataset(x->cut, cut);
    size_t row = (size_t)mw_range_len(c) * mw_dtype_size(da->dtype);
    int64_t band = k_band_bytes / (int64_t)row + 1;
    if (band > mw_range_len(r)) band = mw_range_len(r);
    MW_TRY(st, MW_CALLOC(&a, (size_t)band * row, "compare buffer"));
    MW_TRY(st, MW_CALLOC(&b, (size_t)band * row, "compare buffer"));
    for (int64_t i = r.lo; i < r.hi; i += band) {
        int64_t n = r.hi - i < band ? r.hi - i : band;
        MW_TRY(st, mw_ckpt_read(x->whole, da, i, n, c.lo, mw_range_len(c), a, row, true));
        MW_TRY(st, mw_ckpt_read(x->cut, db, i, n, c.lo, mw_range_len(c), b, row, true));
        if (memcmp(a, b, (size_t)n * row) != 0) MW_TRY(st, differ(x, da->name));
    }
fail:
    free(a);
    free(b);
    return st;
}

static mw_status compare_nibbles(const window *x, const mw_weight *wa, const mw_weight *wb) {
    mw_status st = MW_OK;
    uint8_t *a = NULL, *b = NULL;
    size_t row = (size_t)mw_range_len(x->n) / 2;
    int64_t band = mw_round_up(k_band_bytes / ((int64_t)row + 1) + 1, MW_TILE_K);
    if (band > mw_range_len(x->k)) band = mw_range_len(x->k);
    MW_TRY(st, MW_CALLOC(&a, (size_t)band * row, "compare buffer"));
    MW_TRY(st, MW_CALLOC(&b, (size_t)band * row, "compare buffer"));
    for (int64_t k0 = x->k.lo; k0 < x->k.hi; k0 += band) {
        int64_t k1 = x->k.hi - k0 < band ? x->k.hi : k0 + band;
        MW_TRY(st, mw_read_int4_rows(x->whole, wa, k0, k1, x->n.lo, x->n.hi, a));
        MW_TRY(st, mw_read_int4_rows(x->cut, wb, k0, k1, x->n.lo, x->n.hi, b));
        if (memcmp(a, b, (size_t)(k1 - k0) * row) != 0) MW_TRY(st, differ(x, wa->name));
    }
fail:
    free(a);
    free(b);
    return st;
}

/* Scales or zeros. The cut file has no whole row of them: in tile layout it has whole tiles' columns, permuted. */
static mw_status compare_groups(const window *x, const mw_weight *wa, int whole, int cut) {
    mw_status st = MW_OK;
    char *row = NULL, *stored = NULL, *natural = NULL;
    if (whole < 0) return MW_OK;
    const mw_dataset *da = mw_ckpt_dataset(x->whole, whole), *db = mw_ckpt_dataset(x->cut, cut);
    bool tiles = mw_ckpt_layout(x->cut) == MW_IN_TILES;
    int64_t lo = tiles ? x->n.lo / MW_TILE_N * MW_TILE_N : x->n.lo;
    int64_t cols = tiles ? mw_round_up(x->n.hi - lo, MW_TILE_N) : x->n.hi - lo;
    size_t elem = mw_dtype_size(da->dtype);
    int64_t g0 = x->k.lo / wa->group_size, n = (x->k.hi - 1) / wa->group_size + 1 - g0;
    MW_TRY(st, MW_CALLOC(&row, (size_t)(n * wa->n) * elem, "scales"));
    MW_TRY(st, MW_CALLOC(&stored, (size_t)(n * cols) * elem, "scales"));
    MW_TRY(st, MW_CALLOC(&natural, (size_t)cols * elem, "scale row"));
    MW_TRY(st, mw_read_group_rows(x->whole, wa, da, g0, n, row));
    MW_TRY(st, mw_ckpt_read(x->cut, db, g0, n, lo, cols, stored, (size_t)cols * elem, true));
    for (int64_t g = 0; g < n; g++) {
        char *s = stored + (size_t)(g * cols) * elem;
        if (tiles) mw_permute64(s, natural, 1, cols, elem);
        const char *b = (tiles ? natural : s) + (size_t)(x->n.lo - lo) * elem;
        if (memcmp(row + (size_t)(g * wa->n + x->n.lo) * elem, b, (size_t)mw_range_len(x->n) * elem) != 0)
            MW_TRY(st, differ(x, da->name));
    }
fail:
    free(row);
    free(stored);
    free(natural);
    return st;
}

static bool same_dtype(const window *x, int whole, int cut) {
    if (whole < 0 || cut < 0) return (whole < 0) == (cut < 0);
    return mw_ckpt_dataset(x->whole, whole)->dtype == mw_ckpt_dataset(x->cut, cut)->dtype;
}

static mw_status compare_weight(const window *x, const mw_weight *a) {
    mw_status st = MW_OK;
    const mw_weight *b = mw_ckpt_find(x->cut, a->name);
    const mw_range one = {0, 1}, all = {0, a->k};
    if (!b || a->kind != b->kind || a->group_size != b->group_size || !same_dtype(x, a->scales, b->scales) ||
        !same_dtype(x, a->zeros, b->zeros) || !same_dtype(x, a->perm, b->perm) || !same_dtype(x, a->bias, b->bias) ||
        !same_dtype(x, a->weight, b->weight))
        return differ(x, a->name);
    if (a->kind == MW_INT4) MW_TRY(st, compare_nibbles(x, a, b));
    MW_TRY(st, compare_groups(x, a, a->scales, b->scales));
    MW_TRY(st, compare_groups(x, a, a->zeros, b->zeros));
    MW_TRY(st, compare_plain(x, a->perm, b->perm, one, all));
    MW_TRY(st, compare_plain(x, a->bias, b->bias, one, x->n));
    if (a->kind == MW_VECTOR)
        MW_TRY(st, compare_plain(x, a->weight, b->weight, one, x->n));
    else
        MW_TRY(st, compare_plain(x, a->weight, b->weight, x->n, x->k));
fail:
    return st;
}

static mw_status verify_rank_file(const mw_ckpt *c, const options *o, const mw_plan *plan, int rank) {
    mw_status st = MW_OK;
    const char *path = g_rank_files.name[rank];
    mw_ckpt *cut = NULL;
    uint64_t bytes = 0, n = 0;
    int r, ranks;
    MW_TRY(st, mw_ckpt_open(&cut, path));
    window x = {.whole = c, .cut = cut};
    MW_TRY(st, mw_ckpt_verify(cut, o->threads, &bytes));
    if (!mw_ckpt_is_rank_file(cut, &r, &ranks) || r != rank || ranks != o->ranks) MW_TRY(st, differ(&x, "rank"));
    if (!mw_model_config_equal(mw_ckpt_config(c), mw_ckpt_config(cut))) MW_TRY(st, differ(&x, "config"));
    for (int i = 0; i < mw_ckpt_n_weights(c); i++) {
        const mw_weight *w = mw_ckpt_weight(c, i);
        x.k = (mw_range){0, w->k};
        x.n = (mw_range){0, w->n};
        mw_plan_slice(plan, rank, w, &x.k, &x.n);
        MW_TRY(st, compare_weight(&x, w));
        n += (uint64_t)(mw_range_len(x.k) * mw_range_len(x.n));
    }
    if (!o->quiet)
        fprintf(stderr, "%s: all checksums right, the same as its share of %s (%llu weights compared)\n", path,
                mw_ckpt_path(c), (unsigned long long)n);
fail:
    mw_ckpt_close(cut);
    return st;
}

/* ---- -o ---- */

/* The names of all rank files, none of which may stand in the way: known before the first hour of writing. */
static mw_status name_rank_files(const options *o) {
    mw_status st = MW_OK;
    size_t n = strlen(o->out), stem = n > 3 && strcmp(o->out + n - 3, ".h5") == 0 ? n - 3 : n;
    struct stat sb;
    if (n > PATH_MAX - 64) return MW_FAIL(MW_ERR_EXISTS, "%.64s...: cannot create: the name is too long", o->out);
    MW_TRY(st, MW_CALLOC(&g_rank_files.name, (size_t)o->ranks, "names of the rank files"));
    for (int r = 0; r < o->ranks; r++) {
        char *name = g_rank_files.name[r];
        snprintf(name, PATH_MAX, "%.*s.rank%d-of-%d.h5", (int)stem, o->out, r, o->ranks);
        if (lstat(name, &sb) != 0) continue;
        if (!o->force) return MW_FAIL(MW_ERR_EXISTS, "%s: exists; --force overwrites it", name);
        if (!S_ISREG(sb.st_mode)) return MW_FAIL(MW_ERR_EXISTS, "%s: exists and is not a regular file", name);
    }
fail:
    return st;
}

static mw_status pack_ranks(const mw_ckpt *c, const options *o) {
    mw_status st = MW_OK;
    mw_plan *plan = NULL;
    MW_TRY(st, mw_plan_make(&plan, c, o->ranks));
    MW_TRY(st, name_rank_files(o));
    for (int r = 0; r < o->ranks; r++) MW_TRY(st, pack_one(c, o, plan, r, g_rank_files.name[r]));
    atomic_store(&g_rank_files.n, 0); /* all are there: they stay */
    for (int r = 0; r < o->ranks && o->verify; r++) MW_TRY(st, verify_rank_file(c, o, plan, r));
fail:
    remove_rank_files();
    mw_plan_free(plan);
    return st;
}

static mw_status pack(const mw_ckpt *c, const options *o) {
    if (o->ranks) return pack_ranks(c, o);
    mw_status st = pack_one(c, o, NULL, 0, o->out);
    return st == MW_OK && o->verify ? compare(c, o->out, o->quiet) : st;
}

/* ---- looking ---- */

static mw_status show_plan(const mw_ckpt *c, int np) {
    mw_plan *plan = NULL;
    mw_status st = mw_plan_make(&plan, c, np);
    if (st == MW_OK) mw_plan_print(plan, stdout, true);
    mw_plan_free(plan);
    return st;
}

static mw_status verify(const mw_ckpt *c, const options *o) {
    uint64_t bytes = 0;
    char size[16];
    double start = mw_now_s();
    mw_status st = mw_ckpt_verify(c, o->threads, &bytes);
    if (st != MW_OK) return st;
    double s = mw_now_s() - start;
    if (!o->quiet)
        fprintf(stderr, "%s: all checksums right: %s in %.2f s (%.2f GB/s)\n", mw_ckpt_path(c),
                mw_human_bytes(bytes, size), s, (double)bytes / s * 1e-9);
    return o->against ? compare(c, o->against, o->quiet) : MW_OK;
}

#define SHOW_K 16
#define SHOW_N 8

/* A window of q, and of the weights (q - zero) * scale. */
static mw_status inspect_int4(const mw_ckpt *c, const mw_weight *w, int64_t k, int64_t n) {
    mw_status st = MW_OK;
    uint8_t *rows = NULL, *zeros = NULL;
    char *scales = NULL;
    int64_t k0 = k / MW_TILE_K * MW_TILE_K, c0 = n / MW_TILE_N * MW_TILE_N;
    int64_t c1 = c0 + MW_TILE_N < w->n ? c0 + MW_TILE_N : w->n, n1 = n + SHOW_N < c1 ? n + SHOW_N : c1;
    const mw_dataset *ds = mw_ckpt_dataset(c, w->scales);
    size_t row = (size_t)(c1 - c0 + 1) / 2;
    MW_TRY(st, MW_CALLOC(&rows, MW_TILE_K * row, "rows"));
    MW_TRY(st, MW_CALLOC(&scales, (size_t)w->n * 4, "scales"));
    MW_TRY(st, MW_CALLOC(&zeros, (size_t)w->n, "zeros"));
    MW_TRY(st, mw_read_int4_rows(c, w, k0, k0 + MW_TILE_K, c0, c1, rows));
    int64_t g = k0 / w->group_size;
    MW_TRY(st, mw_read_group_rows(c, w, ds, g, 1, scales));
    memset(zeros, 8, (size_t)w->n);
    if (w->zeros >= 0) MW_TRY(st, mw_read_group_rows(c, w, mw_ckpt_dataset(c, w->zeros), g, 1, zeros));
    printf("%s: K %lld, N %lld, group %lld (of rows %lld..: %lld), scales %s%s%s\n", w->name, (long long)w->k,
           (long long)w->n, (long long)w->group_size, (long long)k0, (long long)g, mw_dtype_name(ds->dtype),
           w->zeros >= 0 ? ", zeros" : ", zero 8", w->perm >= 0 ? ", act-order" : "");
    printf("%8s", "n");
    for (int64_t i = n; i < n1; i++) printf(" %14lld", (long long)i);
    printf("\n%8s", "scale");
    for (int64_t i = n; i < n1; i++) printf(" %14.6g", (double)mw_load_f32(scales, ds->dtype, (size_t)i));
    printf("\n%8s", "zero");
    for (int64_t i = n; i < n1; i++) printf(" %14d", zeros[i]);
    printf("\n");
    for (int64_t r = 0; r < SHOW_K; r++) {
        printf("k %6lld", (long long)k0 + r);
        for (int64_t i = n; i < n1; i++) {
            int q = rows[(size_t)r * row + (size_t)(i - c0) / 2] >> (4 * ((i - c0) & 1)) & 15;
            printf("  %2d %10.6f", q, (double)((float)(q - zeros[i]) * mw_load_f32(scales, ds->dtype, (size_t)i)));
        }
        printf("\n");
    }
fail:
    free(rows);
    free(scales);
    free(zeros);
    return st;
}

/* 16-bit: rows are outputs (n), as the file has them. */
static mw_status inspect_dense(const mw_ckpt *c, const mw_weight *w, int64_t k, int64_t n) {
    const mw_dataset *d = mw_ckpt_dataset(c, w->weight);
    char row[SHOW_N * 4];
    int64_t cols = d->cols - k < SHOW_N ? d->cols - k : SHOW_N;
    printf("%s: %s [%lld, %lld]\n", w->name, mw_dtype_name(d->dtype), (long long)d->rows, (long long)d->cols);
    for (int64_t r = n; r < n + SHOW_K && r < d->rows; r++) {
        mw_status st = mw_ckpt_read(c, d, r, 1, k, cols, row, sizeof row, true);
        if (st != MW_OK) return st;
        printf("n %6lld", (long long)r);
        for (int64_t i = 0; i < cols; i++) printf(" %13.6g", (double)mw_load_f32(row, d->dtype, (size_t)i));
        printf("\n");
    }
    return MW_OK;
}

static mw_status inspect(const mw_ckpt *c, const options *o) {
    const mw_weight *w = mw_ckpt_find(c, o->inspect);
    if (!w) {
        fprintf(stderr, "the tensors are:\n");
        for (int i = 0; i < mw_ckpt_n_weights(c); i++) fprintf(stderr, "  %s\n", mw_ckpt_weight(c, i)->name);
        return MW_FAIL(MW_ERR_USAGE, "%s: has no tensor '%s'", o->in, o->inspect);
    }
    int64_t k_end = w->kind == MW_VECTOR ? w->n : w->k, n_end = w->kind == MW_VECTOR ? 1 : w->n;
    if (o->at_k < 0 || o->at_k >= k_end || o->at_n < 0 || o->at_n >= n_end)
        return MW_FAIL(MW_ERR_USAGE, "--at %lld,%lld: %s has k below %lld and n below %lld", o->at_k, o->at_n, w->name,
                       (long long)k_end, (long long)n_end);
    return w->kind == MW_INT4 ? inspect_int4(c, w, o->at_k, o->at_n) : inspect_dense(c, w, o->at_k, o->at_n);
}

static void print_version(FILE *f, struct argp_state *s) {
    (void)s;
    fprintf(f, "marlin-pack %s (%s), layout %s\n", MW_VERSION, MW_GIT_ID, MW_LAYOUT_MARLIN);
}

static mw_status act(const options *o) {
    mw_ckpt *c = NULL;
    mw_status st = mw_ckpt_open(&c, o->in);
    if (st == MW_OK && o->out)
        st = pack(c, o);
    else if (st == MW_OK && o->plan)
        st = show_plan(c, o->np ? o->np : 1);
    else if (st == MW_OK && o->inspect)
        st = inspect(c, o);
    else if (st == MW_OK)
        st = verify(c, o);
    mw_ckpt_close(c);
    errno = 0;
    if (st == MW_OK && (fflush(stdout) != 0 || ferror(stdout)))
        st = MW_FAIL(MW_ERR_IO, "stdout: %s", errno ? strerror(errno) : "a write failed");
    return st;
}

int main(int argc, char **argv) {
    static const struct argp argp = {k_options, parse, "MODEL.h5 [OTHER.h5]", k_doc, 0, 0, 0};
    options o = {.threads = mw_cpu_count()};
    mw_writer_init_process();
    argp_program_version_hook = print_version;
    argp_err_exit_status = MW_ERR_USAGE;
    argp_parse(&argp, argc, argv, 0, 0, &o);
    handle_signals();
    mw_status st = check_flags(&o);
    if (st == MW_OK) st = act(&o);
    free(g_rank_files.name);
    if (st != MW_OK) mw_log(MW_LOG_ERROR, "%s", mw_error_text());
    return (int)st;
}
