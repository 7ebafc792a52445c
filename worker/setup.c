/* Opening an engine, in the order in which things can go wrong: group, device, file, plan, memory, texts, weights.
 * After each phase the ranks agree, so that one rank's failure is everyone's and nobody reads a byte too many. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/synthetic.h"
#include "worker/base/clock.h"
#include "worker/base/env.h"
#include "worker/base/io.h"
#include "worker/base/log.h"
#include "worker/engine_internal.h"
#include "worker/phases.h"
#include "worker/report.h"

#define KV_BLOCK_TOKENS 16

/* ---- agreement ---- */

/* In the middle of a phase: a failure then is all ranks' already, and is not wrapped again at the phase's end. */
static mw_status agree_inside(mw_engine *e, mw_status st) {
    st = mw_comm_agree(e->comm, st);
    e->agreed = st != MW_OK;
    return st;
}

static mw_status agree(mw_engine *e, mw_status st) {
    return e->agreed ? st : mw_comm_agree(e->comm, st);
}

/* ---- device ---- */

static mw_status open_device(mw_engine *e) {
    mw_status st = MW_OK;
    const char *backend = e->opt.backend ? e->opt.backend : mw_env_get(MW_ENV_BACKEND);
    int share = 1;
    bool crowded = false;
    long threads = e->opt.threads;
    if (threads == 0) MW_TRY(st, mw_env_int(MW_ENV_THREADS, 0, 4096, 0, &threads));
    MW_TRY(st, mw_kernels_choose(backend ? backend : "auto", &e->kernels));
fail:
    /* Collective: also the ranks that have failed take part, and agree afterwards. */
    if (mw_comm_cpu_share(e->comm, &share, &crowded) != MW_OK) return MW_ERR_PEER;
    if (st != MW_OK) return st;
    if (threads == 0) threads = share;
    mw_dev_opts o = {.device = mw_comm_local_rank(e->comm),
                     .threads = (int)threads,
                     .spin = !crowded && threads <= share,
                     .int8_act = e->opt.int8_act,
                     .act = e->cfg.act};
    e->info.threads = (int)threads;
    return e->kernels->open(&e->dev, &o);
}

/* The ranks' GPUs become a group. All ranks compute on the same kind of device: a mixture would give every step the
 * speed of its slowest rank and two kinds of rounding. */
static mw_status join_devices(mw_engine *e) {
    mw_status st = MW_OK;
    mw_dev_info dev;
    st = e->kernels->info(e->dev, &dev);
    MW_TRY(st, agree_inside(e, st)); /* the others stand in the reduction already */
    uint64_t on_gpu = !dev.host_memory, n = on_gpu;
    MW_TRY(st, mw_comm_reduce_u64(e->comm, &n, MW_SUM));
    if (n != 0 && n != (uint64_t)e->size)
        return MW_FAIL(MW_ERR_UNAVAIL,
                       "%d of %d ranks have a GPU, and this one %s: start no rank without, or use --backend cpu",
                       (int)n, e->size, on_gpu ? "is one of them" : "is not");
    if (on_gpu) st = mw_comm_device_open(e->comm, mw_comm_local_rank(e->comm), dev.uuid, dev.stream);
fail:
    return st;
}

/* ---- file ---- */

/* "x.h5" itself, or this rank's "x.rank2-of-4.h5" of marlin-pack --ranks. */
static mw_status find_file(const mw_engine *e, char *out, size_t cap, bool *per_rank) {
    const char *path = e->opt.model;
    size_t n = strlen(path), stem = n > 3 && strcmp(path + n - 3, ".h5") == 0 ? n - 3 : n;
    *per_rank = false;
    snprintf(out, cap, "%s", path);
    if (mw_exists(path)) return MW_OK;
    snprintf(out, cap, "%.*s.rank%d-of-%d.h5", (int)stem, path, e->rank, e->size);
    *per_rank = mw_exists(out);
    if (*per_rank) return MW_OK;
    return MW_FAIL(MW_ERR_NOINPUT, "%s: no such file (nor %s)", path, out);
}

/* Rank 0 walks the HDF5 metadata once; the others get its directory and open the data only. */
static mw_status open_shared(mw_engine *e, const char *path) {
    mw_status st = MW_OK;
    mw_str blob = {0};
    uint64_t n = 0;
    if (e->rank == 0) {
        st = mw_ckpt_open(&e->ckpt, path);
        if (st == MW_OK) st = mw_ckpt_pack_directory(e->ckpt, &blob);
    }
    MW_TRY(st, agree_inside(e, st));
    n = blob.n;
    MW_TRY(st, mw_comm_bcast(e->comm, &n, sizeof n, 0, false));
    st = mw_str_reserve(&blob, e->rank == 0 ? 0 : (size_t)n);
    MW_TRY(st, agree_inside(e, st));
    MW_TRY(st, mw_comm_bcast(e->comm, blob.p, (size_t)n, 0, false));
    if (e->rank != 0) st = mw_ckpt_attach(&e->ckpt, path, blob.p, (size_t)n);
fail:
    mw_str_free(&blob);
    return st;
}

static mw_status open_file(mw_engine *e) {
    mw_status st = MW_OK;
    char path[4096];
    bool per_rank = false;
    int rank, ranks;
    if (e->opt.model == NULL || strlen(e->opt.model) > sizeof path - 64)
        return MW_FAIL(MW_ERR_USAGE, "no model file given, or its name is too long");
    if (mw_is_synthetic(e->opt.model)) { /* every rank knows it by its name */
        MW_TRY(st, mw_ckpt_open_synthetic(&e->ckpt, e->opt.model));
        e->cfg = *mw_ckpt_config(e->ckpt);
        return MW_OK;
    }
    st = find_file(e, path, sizeof path, &per_rank);
    uint64_t n_per_rank = per_rank;
    MW_TRY(st, agree_inside(e, st));
    MW_TRY(st, mw_comm_reduce_u64(e->comm, &n_per_rank, MW_SUM));
    if (n_per_rank != 0 && n_per_rank != (uint64_t)e->size)
        return MW_FAIL(MW_ERR_FORMAT, "%s: some ranks see the whole file, others only a rank file", e->opt.model);
    if (!per_rank)
        MW_TRY(st, open_shared(e, path));
    else
        MW_TRY(st, mw_ckpt_open(&e->ckpt, path));
    if (mw_ckpt_is_rank_file(e->ckpt, &rank, &ranks) && (rank != e->rank || ranks != e->size))
        return MW_FAIL(MW_ERR_LIMIT, "%s: holds the shard of rank %d of %d, this is rank %d of %d", path, rank, ranks,
                       e->rank, e->size);
    e->cfg = *mw_ckpt_config(e->ckpt);
fail:
    return st;
}

/* ---- memory ---- */

static void choose_limits(mw_engine *e, bool cpu) {
    mw_engine_info *i = &e->info;
    i->ctx = e->opt.ctx > 0 ? e->opt.ctx : e->cfg.max_position < 8192 ? (int)e->cfg.max_position : 8192;
    i->max_seqs = e->opt.max_seqs > 0 ? e->opt.max_seqs : cpu ? 16 : 256;
    i->max_step_tokens = e->opt.max_step_tokens > 0 ? e->opt.max_step_tokens : cpu ? 256 : 2048;
    if (i->max_step_tokens < i->max_seqs) i->max_step_tokens = i->max_seqs; /* every sequence may step */
    i->vocab = (int)e->cfg.vocab;
    i->kv_block_tokens = KV_BLOCK_TOKENS;
}

static mw_model_opts model_opts(const mw_engine *e) {
    const mw_engine_info *i = &e->info;
    /* About 64 MB of logits at a time; on a GPU what a full decode step wants, up to 256 MB. */
    int64_t rows = ((int64_t)(e->on_host ? 64 : 256) << 20) / (e->cfg.vocab * 4);
    int per_seq = (i->ctx + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    return (mw_model_opts){.ctx = i->ctx,
                           .max_step_tokens = i->max_step_tokens,
                           .max_logits = rows < 16    ? 16
                                         : rows > 256 ? 256
                                                      : (int)rows,
                           .kv_blocks = i->kv_blocks,
                           .block_tokens = KV_BLOCK_TOKENS,
                           .max_block_table = i->max_seqs * per_seq,
                           .max_seqs = i->max_seqs};
}

/* How many KV blocks this rank can have. The cache is sized for max_seqs full contexts, but takes no more than a part
 * of what is free: on the CPU backend the memory is the host's, shared with its other ranks and everybody else. */
static mw_status size_kv(mw_engine *e, const mw_dev_info *dev) {
    const mw_rank_share *s = &e->plan->rank[e->rank];
    mw_engine_info *i = &e->info;
    mw_model_opts o = model_opts(e);
    uint64_t sharers = dev->host_memory ? (uint64_t)mw_comm_local_size(e->comm) : 1,
             free_here = dev->mem_free / sharers;
    uint64_t block = s->kv_bytes_per_token * KV_BLOCK_TOKENS,
             per_seq = (uint64_t)mw_round_up(i->ctx, KV_BLOCK_TOKENS) / KV_BLOCK_TOKENS;
    i->weight_bytes = s->weight_bytes;
    i->workspace_bytes = mw_model_workspace_bytes(e->plan, e->rank, &o, dev->act);
    uint64_t fixed = i->weight_bytes + i->workspace_bytes;
    char a[16], b[16], c[16];
    if (fixed > free_here)
        return MW_FAIL(MW_ERR_LIMIT, "weights (%s) and workspace (%s) of this rank need more than its free memory (%s)",
                       mw_human_bytes(i->weight_bytes, a), mw_human_bytes(i->workspace_bytes, b),
                       mw_human_bytes(free_here, c));
    uint64_t left = free_here - fixed, want = per_seq * (uint64_t)i->max_seqs, room = left / 2;
    if (!dev->host_memory) { /* nobody else's memory: all but a reserve for graphs, libraries and other users */
        double part = e->opt.gpu_memory > 0 ? e->opt.gpu_memory : 0.9;
        uint64_t reserve = (uint64_t)((1 - part) * (double)dev->mem_total);
        room = left > reserve + block ? left - reserve - block : 0; /* and the block of graphs' padding rows */
    }
    if (e->opt.kv_bytes) {
        if (e->opt.kv_bytes > free_here - fixed)
            return MW_FAIL(MW_ERR_LIMIT, "KV cache of %s asked for, %s are free beside the weights",
                           mw_human_bytes(e->opt.kv_bytes, a), mw_human_bytes(free_here - fixed, b));
        want = e->opt.kv_bytes / block;
        room = e->opt.kv_bytes;
    }
    uint64_t blocks = want * block <= room ? want : room / block;
    i->kv_blocks = blocks > INT32_MAX / KV_BLOCK_TOKENS ? INT32_MAX / KV_BLOCK_TOKENS : (int)blocks;
    return MW_OK;
}

/* The ranks' smallest cache is everybody's; a context that does not fit is refused when asked for, shortened when not.
 */
static mw_status agree_kv(mw_engine *e) {
    mw_status st = MW_OK;
    mw_engine_info *i = &e->info;
    uint64_t blocks = (uint64_t)i->kv_blocks, check_nan = e->check_nan;
    MW_TRY(st, mw_comm_reduce_u64(e->comm, &blocks, MW_MIN));
    MW_TRY(st, mw_comm_reduce_u64(e->comm, &check_nan, MW_MAX)); /* launchers may give hosts different environments */
    e->check_nan = check_nan != 0;
    i->kv_blocks = i->kv_blocks_free = (int)blocks;
    int64_t tokens = (int64_t)blocks * KV_BLOCK_TOKENS;
    i->kv_bytes = blocks * KV_BLOCK_TOKENS * e->plan->rank[e->rank].kv_bytes_per_token;
    if (tokens >= i->ctx) return MW_OK;
    if (e->opt.ctx > 0 || tokens < KV_BLOCK_TOKENS)
        return MW_FAIL(MW_ERR_LIMIT, "a context of %d tokens does not fit: the KV cache holds %lld", i->ctx,
                       (long long)tokens);
    if (e->rank == 0)
        mw_warn("context shortened from %d to %lld tokens: the KV cache holds no more", i->ctx, (long long)tokens);
    i->ctx = (int)tokens;
fail:
    return st;
}

static mw_status plan_memory(mw_engine *e) {
    mw_status st = MW_OK;
    mw_dev_info dev;
    long check_nan = 0;
    MW_TRY(st, mw_plan_make(&e->plan, e->ckpt, e->size));
    MW_TRY(st, e->kernels->info(e->dev, &dev));
    e->on_host = dev.host_memory;
    snprintf(e->info.backend, sizeof e->info.backend, "%s", e->kernels->name);
    snprintf(e->info.device, sizeof e->info.device, "%s", dev.name);
    snprintf(e->info.model_type, sizeof e->info.model_type, "%s", e->cfg.model_type);
    choose_limits(e, dev.host_memory);
    MW_TRY(st, mw_env_int(MW_ENV_CHECK_NAN, 0, 1, 0, &check_nan));
    e->check_nan = check_nan != 0;
    if ((int64_t)e->info.max_seqs * (e->info.ctx / KV_BLOCK_TOKENS + 1) > INT32_MAX / 4)
        return MW_FAIL(MW_ERR_LIMIT, "%d sequences of %d tokens: too many block numbers for one step", e->info.max_seqs,
                       e->info.ctx);
    if (e->opt.ctx > e->cfg.max_position)
        return MW_FAIL(MW_ERR_LIMIT, "a context of %d tokens was asked for, the model has %lld positions", e->opt.ctx,
                       (long long)e->cfg.max_position);
    st = size_kv(e, &dev);
fail:
    return st;
}

/* ---- texts (rank 0) ---- */

/* "bos_token": "<s>" or {"content": "<s>"} of tokenizer_config.json. */
static const char *token_text(const json_t *config, const char *key) {
    const json_t *v = json_object_get(config, key);
    return json_is_object(v) ? json_string_value(json_object_get(v, "content")) : json_string_value(v);
}

static mw_status open_chat(mw_engine *e) {
    mw_status st = MW_OK;
    mw_str text = {0}, config = {0};
    json_t *json = NULL;
    if (!e->tokenizer || !mw_ckpt_has_text(e->ckpt, MW_TEXT_CHAT_TEMPLATE)) {
        snprintf(e->why_no_chat, sizeof e->why_no_chat, "the model has no %s",
                 e->tokenizer ? "chat template" : "tokenizer");
        return MW_OK;
    }
    MW_TRY(st, mw_ckpt_text(e->ckpt, MW_TEXT_CHAT_TEMPLATE, &text));
    if (mw_ckpt_has_text(e->ckpt, MW_TEXT_TOKENIZER_CONFIG)) {
        MW_TRY(st, mw_ckpt_text(e->ckpt, MW_TEXT_TOKENIZER_CONFIG, &config));
        json = json_loadb(config.p, config.n, 0, NULL);
    }
    mw_status open =
        mw_chat_open(&e->chat, text.p, text.n, token_text(json, "bos_token"), token_text(json, "eos_token"));
    if (open == MW_OK) open = mw_chat_probe(e->chat);
    if (open != MW_OK) { /* chat is off, everything else works */
        snprintf(e->why_no_chat, sizeof e->why_no_chat, "its chat template: %s", mw_error_text());
        mw_chat_close(e->chat);
        e->chat = NULL;
    } else {
        e->chat_template = text;
        text = (mw_str){0};
    }
fail:
    json_decref(json);
    mw_str_free(&text);
    mw_str_free(&config);
    return st;
}

static mw_status open_texts(mw_engine *e) {
    mw_status st = MW_OK;
    mw_str text = {0};
    if (e->rank != 0) return MW_OK;
    if (mw_ckpt_has_text(e->ckpt, MW_TEXT_TOKENIZER)) {
        MW_TRY(st, mw_ckpt_text(e->ckpt, MW_TEXT_TOKENIZER, &text));
        MW_TRY(st, mw_tokenizer_open(&e->tokenizer, text.p, text.n));
        MW_TRY(st,
               mw_grammar_open(&e->grammar, e->tokenizer, (int32_t)e->cfg.vocab, e->cfg.eos_id, (size_t)e->cfg.n_eos));
    }
    MW_TRY(st, open_chat(e));
    MW_TRY(st, mw_sampler_init(&e->sampler, (int)e->cfg.vocab));
    MW_TRY(st, MW_CALLOC(&e->mask, mw_mask_words((int32_t)e->cfg.vocab), "token mask"));
fail:
    mw_str_free(&text);
    return st;
}

/* Tokenizer, grammar and template of a large vocabulary take as long as loading its weights: so they are opened beside
 * that, by a thread of their own. */
typedef struct {
    mw_engine *e;
    pthread_t thread;
    bool started;
    mw_status st;
    char text[MW_ERROR_TEXT_MAX];
} texts;

static void *texts_main(void *arg) {
    texts *t = arg;
    t->st = open_texts(t->e);
    if (t->st != MW_OK) memcpy(t->text, mw_error_text(), sizeof t->text);
    return NULL;
}

static void begin_texts(texts *t, mw_engine *e) {
    *t = (texts){.e = e};
    if (e->rank != 0 || e->opt.dry_run) return;
    t->started = pthread_create(&t->thread, NULL, texts_main, t) == 0;
    if (!t->started) texts_main(t);
}

static mw_status end_texts(texts *t) {
    if (t->started) pthread_join(t->thread, NULL);
    t->started = false;
    if (t->st != MW_OK) mw_error_set_text(t->text);
    return t->st;
}

/* ---- weights ---- */

static mw_status load(mw_engine *e, mw_phases *p) {
    mw_status st = MW_OK;
    mw_model_opts o = model_opts(e);
    o.check_nan = e->check_nan;
    MW_TRY(st, mw_model_load(&e->model, e->kernels, e->dev, e->comm, e->plan, e->info.threads, !e->opt.no_verify,
                             e->opt.progress && e->rank == 0, p));
    MW_TRY(st, mw_model_prepare(e->model, &o));
    mw_phases_end(p, "buffers");
    e->ahead = e->opt.overlap != 0 ? e->opt.overlap > 0 : !e->on_host;
    e->info.weight_bytes = e->model->weight_bytes;
    e->info.kv_bytes = e->model->kv_bytes;
    e->info.workspace_bytes = e->model->workspace_bytes;
    const mw_load_stats *l = &e->model->loaded;
    if (l->seconds > 0) e->info.load_gbps = (double)l->bytes / l->seconds * 1e-9;
    char text[512];
    mw_debug("loaded %s", mw_load_stats_text(l, text, sizeof text));
    if (e->rank == 0)
        st = mw_sched_init(&e->sched, e->info.kv_blocks, KV_BLOCK_TOKENS, e->info.max_seqs, e->info.max_step_tokens,
                           !e->opt.no_prefix_cache);
fail:
    return st;
}

/* Ranks load at different speeds (a cold cache, another disk): that one is not ready yet is no fault, however long it
 * takes. A rank that dies or fails is noticed as always. */
static mw_status all_loaded(mw_engine *e) {
    mw_status st = MW_OK;
    unsigned char done = 1;
    for (int r = 0; r < e->size && st == MW_OK; r++) st = mw_comm_bcast(e->comm, &done, sizeof done, r, true);
    return st;
}

static void tell_phases(const mw_engine *e, const mw_phases *p) {
    char text[512];
    mw_debug("ready after %.3f s: %s", e->info.load_s, mw_phases_text(p, text, (int)sizeof text));
}

mw_status mw_engine_setup(mw_engine *e) {
    mw_status st = MW_OK;
    double timeout = e->opt.timeout_s;
    long seconds = 60;
    mw_phases p;
    texts t = {.st = MW_OK};
    mw_phases_begin(&p);
    if (timeout <= 0) {
        MW_TRY(st, mw_env_int(MW_ENV_TIMEOUT, 1, 86400, 60, &seconds));
        timeout = (double)seconds;
    }
    MW_TRY(st, mw_comm_open(&e->comm, timeout));
    e->rank = mw_comm_rank(e->comm);
    e->size = mw_comm_size(e->comm);
    e->info.n_ranks = e->size;
    mw_log_set_rank(e->rank, e->size, mw_comm_host(e->comm));
    mw_phases_end(&p, "group");
    MW_TRY(st, agree(e, open_file(e)));
    mw_phases_end(&p, "file");
    begin_texts(&t, e);
    MW_TRY(st, agree(e, open_device(e)));
    mw_phases_end(&p, "device");
    MW_TRY(st, agree(e, join_devices(e)));
    mw_phases_end(&p, "joining");
    MW_TRY(st, agree(e, plan_memory(e)));
    MW_TRY(st, agree(e, agree_kv(e)));
    MW_TRY(st, agree(e, mw_report_make(e)));
    mw_phases_end(&p, "plan");
    if (!e->opt.dry_run) {
        st = load(e, &p);
        if (all_loaded(e) != MW_OK) st = st != MW_OK ? st : MW_ERR_PEER;
        MW_TRY(st, agree(e, st));
        MW_TRY(st, agree(e, mw_model_warm_up(e->model)));
        mw_phases_end(&p, "graphs");
        MW_TRY(st, agree(e, end_texts(&t)));
        mw_phases_end(&p, "rest of the texts");
        MW_TRY(st, agree(e, mw_engine_share_stats(e)));
        mw_debug("%d graphs recorded in %.2f s", e->model->n_graphs, e->model->warm_up_s);
    }
    e->info.load_s = mw_now_s() - p.began;
    tell_phases(e, &p);
    return MW_OK;
fail:
    if (t.started) { /* the failure's text is this thread's and stays */
        pthread_join(t.thread, NULL);
        t.started = false;
    }
    return st;
}

void mw_engine_teardown(mw_engine *e) {
    for (int i = 0; i < MW_JOB_BUCKETS; i++)
        while (e->jobs[i]) {
            mw_job *j = e->jobs[i];
            e->jobs[i] = j->next;
            mw_job_free(j);
        }
    while (e->ended) {
        mw_job *j = e->ended;
        e->ended = j->next;
        mw_job_free(j);
    }
    if (e->rank == 0 && e->sched.kv.n > 0) /* after good work all of them: tests/e2e/soak.py looks */
        mw_debug("in the end %d of %d KV blocks are free", e->sched.kv.n_free, e->sched.kv.n);
    mw_sched_free(&e->sched);
    mw_sampler_free(&e->sampler);
    mw_str_free(&e->token_text);
    free(e->mask);
    e->mask = NULL;
    mw_step_free(&e->step);
    /* After a failure first: what the model frees waits for the device, and the device may wait for a peer. In good
     * order last: graphs hold on to the communicator. */
    if (e->comm && mw_comm_has_failed(e->comm)) mw_comm_device_close(e->comm);
    mw_model_free(e->model);
    if (e->comm) mw_comm_device_close(e->comm);
    mw_plan_free(e->plan);
    mw_ckpt_close(e->ckpt);
    if (e->kernels) e->kernels->close(e->dev);
    e->model = NULL;
    e->plan = NULL;
    e->ckpt = NULL;
    e->dev = NULL;
}
