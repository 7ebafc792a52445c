#include "shard/tools/convert_export.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/dequant.h"
#include "shard/st_folder.h"
#include "shard/st_write.h"
#include "shard/tools/convert_export_config.h"
#include "shard/tools/convert_outdir.h"
#include "shard/tools/convert_signal.h"
#include "worker/base/io.h"
#include "worker/base/progress.h"

#define CHANNELS    64 /* output channels of a chunk of float weights: whole bytes of 32 column pairs */
#define CHUNK_BYTES (1u << 20)

typedef struct {
    const mw_export_opts *o;
    mw_ckpt *c;
    mw_hf_config cfg;
    mw_gptq_shape gptq;
    mw_st_plan plan;
    size_t next; /* tensor of the plan that comes next */
    mw_outdir out;
    int *fd; /* [plan.n_files] */
    char **path;
    mw_pool *pool;
    mw_progress bar;
    void *mem; /* one int4 matrix */
    mw_dtype act;
} export;

static bool as_gptq(const export *e, const mw_weight *w) {
    return e->o->kind == MW_EXPORT_GPTQ && w->kind == MW_INT4;
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

static mw_status add(export *e, const char *hf, const char *part, mw_st_dtype t, int64_t rows, int64_t cols) {
    char name[MW_NAME_MAX + 48];
    snprintf(name, sizeof name, "%s.%s", hf, part);
    return mw_st_plan_add(&e->plan, name, t, rows, cols);
}

static mw_dtype dtype_of(const export *e, int dataset) {
    return mw_ckpt_dataset(e->c, dataset)->dtype;
}

/* dtype of a bias: the stored one, or the activation's where a bias of zeros was left out of the file. */
static mw_dtype bias_dtype(const export *e, const mw_weight *w) {
    return w->bias >= 0 ? dtype_of(e, w->bias) : e->act;
}
static bool has_bias(const export *e, const mw_weight *w) {
    return w->bias >= 0 || (w->kind != MW_VECTOR && mw_hf_wants_bias(&e->cfg, w->name));
}

static mw_status plan_weight(export *e, const mw_weight *w) {
    mw_status st = MW_OK;
    char hf[MW_NAME_MAX + 16];
    mw_hf_name(w->name, hf);
    if (as_gptq(e, w)) {
        int64_t groups = w->k / w->group_size;
        if (w->n % 8) /* a model.h5 may hold any even N */
            return MW_FAIL(MW_ERR_UNSUPPORTED,
                           "%s: %s: N = %lld is not a multiple of 8: GPTQ packs eight zeros into a word; --dequant "
                           "writes float weights",
                           mw_ckpt_path(e->c), w->name, (long long)w->n);
        MW_TRY(st, add(e, hf, "qweight", MW_ST_I32, w->k / 8, w->n));
        MW_TRY(st, add(e, hf, "qzeros", MW_ST_I32, groups, w->n / 8));
        MW_TRY(st, add(e, hf, "scales", mw_st_of_dtype(dtype_of(e, w->scales)), groups, w->n));
        MW_TRY(st, add(e, hf, "g_idx", MW_ST_I32, 0, w->k));
    } else if (w->kind == MW_INT4) {
        MW_TRY(st, add(e, hf, "weight", mw_st_of_dtype(e->act), w->n, w->k));
    } else {
        mw_st_dtype t = mw_st_of_dtype(dtype_of(e, w->weight));
        MW_TRY(st, add(e, hf, "weight", t, w->kind == MW_VECTOR ? 0 : w->n, w->kind == MW_VECTOR ? w->n : w->k));
    }
    if (has_bias(e, w)) MW_TRY(st, add(e, hf, "bias", mw_st_of_dtype(bias_dtype(e, w)), 0, w->n));
fail:
    return st;
}

/* ---- the bytes -------------------------------------------------------------------------------------------------- */

/* Where the tensor that is being written goes. */
typedef struct {
    const export *e;
    const mw_st_tensor *t;
    const mw_matrix *m; /* int4 */
    const mw_weight *w;
    const mw_dataset *d; /* float */
    const int32_t *place;
} target;

static mw_status put(const target *t, uint64_t at, const void *bytes, size_t n) {
    return mw_pwrite(t->e->fd[t->t->file], t->e->path[t->t->file], bytes, n, t->t->offset + at);
}

static target next_tensor(export *e) {
    target t = {.e = e, .t = &e->plan.tensor[e->next++]};
    return t;
}

/* A small tensor that is in memory. */
static mw_status put_next(export *e, const void *bytes) {
    target t = next_tensor(e);
    mw_progress_add(&e->bar, t.t->bytes);
    return put(&t, 0, bytes, (size_t)t.t->bytes);
}

static mw_status float_chunk(const void *arg, int64_t n0, int64_t n1, void *scratch) {
    const target *t = arg;
    size_t row = (size_t)t->m->k * mw_dtype_size(t->e->act);
    mw_status st = mw_dequant_channels(t->m, t->w->name, n0, n1, t->e->act, scratch);
    return st == MW_OK ? put(t, (uint64_t)n0 * row, scratch, (size_t)(n1 - n0) * row) : st;
}

static mw_status gptq_chunk(const void *arg, int64_t r0, int64_t r1, void *scratch) {
    const target *t = arg;
    size_t row = (size_t)t->m->n * 4;
    mw_dequant_gptq_rows(t->m, t->place, r0, r1, scratch);
    return put(t, (uint64_t)r0 * row, scratch, (size_t)(r1 - r0) * row);
}

static mw_status copy_chunk(const void *arg, int64_t r0, int64_t r1, void *scratch) {
    const target *t = arg;
    size_t row = (size_t)t->d->cols * mw_dtype_size(t->d->dtype);
    mw_status st = mw_ckpt_read(t->e->c, t->d, r0, r1 - r0, 0, t->d->cols, scratch, row, true);
    return st == MW_OK ? put(t, (uint64_t)r0 * row, scratch, (size_t)(r1 - r0) * row) : st;
}

/* A dataset that both sides keep alike. */
static mw_status copy(export *e, int dataset) {
    target t = next_tensor(e);
    t.d = mw_ckpt_dataset(e->c, dataset);
    size_t row = (size_t)t.d->cols * mw_dtype_size(t.d->dtype);
    int64_t step = (int64_t)(CHUNK_BYTES / row) / t.d->block_rows * t.d->block_rows;
    if (step < t.d->block_rows) step = t.d->block_rows;
    mw_status st = mw_chunks(e->pool, t.d->rows, step, (size_t)step * row, copy_chunk, &t);
    mw_progress_add(&e->bar, t.t->bytes);
    return st;
}

static mw_status put_float(export *e, const mw_weight *w, const mw_matrix *m) {
    target t = next_tensor(e);
    t.m = m;
    t.w = w;
    mw_status st =
        mw_chunks(e->pool, m->n, CHANNELS, (size_t)CHANNELS * (size_t)m->k * mw_dtype_size(e->act), float_chunk, &t);
    mw_progress_add(&e->bar, t.t->bytes);
    return st;
}

static mw_status put_gptq(export *e, const mw_matrix *m) {
    mw_status st = MW_OK;
    target t = next_tensor(e);
    size_t row = (size_t)m->n * 4;
    int64_t step = (int64_t)(CHUNK_BYTES / row) + 1;
    int32_t *place = NULL, *groups = NULL;
    uint32_t *zeros = NULL;
    t.m = m;
    if (m->perm) {
        MW_TRY(st, MW_CALLOC(&place, (size_t)m->k, "row order"));
        for (int64_t p = 0; p < m->k; p++) place[m->perm[p]] = (int32_t)p;
        t.place = place;
    }
    MW_TRY(st, mw_chunks(e->pool, m->k / 8, step, (size_t)step * row, gptq_chunk, &t));
    mw_progress_add(&e->bar, t.t->bytes);
    MW_TRY(st, MW_CALLOC(&zeros, (size_t)(m->k / m->group * (m->n / 8)), "packed zeros"));
    mw_dequant_gptq_zeros(m, e->gptq.zero_offset, zeros);
    MW_TRY(st, put_next(e, zeros));
    MW_TRY(st, put_next(e, m->scales));
    MW_TRY(st, MW_CALLOC(&groups, (size_t)m->k, "g_idx"));
    mw_dequant_gptq_groups(m, groups);
    MW_TRY(st, put_next(e, groups));
fail:
    free(place);
    free(groups);
    free(zeros);
    return st;
}

static mw_status put_bias(export *e, const mw_weight *w) {
    mw_status st = MW_OK;
    void *zeros = NULL;
    if (w->bias >= 0) return copy(e, w->bias);
    MW_TRY(st, mw_calloc(&zeros, (size_t)w->n, 4, "bias of zeros"));
    MW_TRY(st, put_next(e, zeros));
fail:
    free(zeros);
    return st;
}

static mw_status put_weight(export *e, const mw_weight *w) {
    mw_status st = MW_OK;
    mw_matrix m;
    if (w->kind == MW_INT4) {
        MW_TRY(st, mw_dequant_read(&m, e->mem, e->c, w, e->pool));
        MW_TRY(st, as_gptq(e, w) ? put_gptq(e, &m) : put_float(e, w, &m));
    } else {
        MW_TRY(st, copy(e, w->weight));
    }
    if (has_bias(e, w)) MW_TRY(st, put_bias(e, w));
fail:
    return st;
}

/* ---- the folder ------------------------------------------------------------------------------------------------- */

static mw_status open_files(export *e) {
    mw_status st = MW_OK;
    mw_str header = {0};
    char name[64];
    MW_TRY(st, MW_CALLOC(&e->fd, (size_t)e->plan.n_files, "files"));
    MW_TRY(st, MW_CALLOC(&e->path, (size_t)e->plan.n_files, "files"));
    for (int f = 0; f < e->plan.n_files; f++) e->fd[f] = -1;
    for (int f = 0; f < e->plan.n_files; f++) {
        header.n = 0;
        mw_st_plan_file_name(&e->plan, f, name);
        MW_TRY(st, mw_outdir_file(&e->out, name, &e->fd[f], &e->path[f]));
        MW_TRY(st, mw_st_plan_header(&e->plan, f, &header));
        MW_TRY(st, mw_pwrite(e->fd[f], e->path[f], header.p, header.n, 0));
    }
    if (e->plan.n_files > 1) {
        header.n = 0;
        MW_TRY(st, mw_st_plan_index(&e->plan, &header));
        MW_TRY(st, mw_outdir_text(&e->out, "model.safetensors.index.json", header.p, header.n));
    }
fail:
    mw_str_free(&header);
    return st;
}

static mw_status sync_files(const export *e) {
    for (int f = 0; f < e->plan.n_files; f++)
        if (fsync(e->fd[f]) != 0) return MW_FAIL(MW_ERR_IO, "%s: fsync failed", e->path[f]);
    return MW_OK;
}

static mw_status put_texts(export *e) {
    static const char *const names[][2] = {{MW_TEXT_GENERATION_CONFIG, MW_TEXT_GENERATION_CONFIG},
                                           {MW_TEXT_TOKENIZER, MW_TEXT_TOKENIZER},
                                           {MW_TEXT_TOKENIZER_CONFIG, MW_TEXT_TOKENIZER_CONFIG},
                                           {MW_TEXT_CHAT_TEMPLATE, "chat_template.jinja"}};
    mw_status st = MW_OK;
    mw_str text = {0};
    MW_TRY(st, mw_export_config_text(e->c, e->o->kind, e->act, &e->gptq, &text));
    MW_TRY(st, mw_outdir_text(&e->out, MW_TEXT_CONFIG, text.p, text.n));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!mw_ckpt_has_text(e->c, names[i][0])) continue;
        text.n = 0;
        MW_TRY(st, mw_ckpt_text(e->c, names[i][0], &text));
        MW_TRY(st, mw_outdir_text(&e->out, names[i][1], text.p, text.n));
    }
fail:
    mw_str_free(&text);
    return st;
}

static mw_status open_model(export *e) {
    mw_status st = MW_OK;
    mw_str text = {0};
    int rank, n_ranks;
    MW_TRY(st, mw_ckpt_open(&e->c, e->o->file));
    if (mw_ckpt_is_rank_file(e->c, &rank, &n_ranks)) {
        st = MW_FAIL(MW_ERR_UNSUPPORTED, "%s: is the part of rank %d of %d, not a whole model", e->o->file, rank,
                     n_ranks);
        goto fail;
    }
    e->act = e->o->act_given ? e->o->act : mw_ckpt_config(e->c)->act;
    MW_TRY(st, mw_ckpt_text(e->c, MW_TEXT_CONFIG, &text));
    MW_TRY(st, mw_hf_config_parse(&e->cfg, (mw_hf_text){text.p, text.n}, (mw_hf_text){0}, "", (mw_hf_text){0}));
    if (e->o->kind == MW_EXPORT_GPTQ) MW_TRY(st, mw_export_gptq_shape(e->c, &e->gptq));
fail:
    mw_str_free(&text);
    return st;
}

static mw_status plan_all(export *e) {
    mw_status st = MW_OK;
    size_t largest = 0;
    for (int i = 0; i < mw_ckpt_n_weights(e->c); i++) {
        const mw_weight *w = mw_ckpt_weight(e->c, i);
        MW_TRY(st, plan_weight(e, w));
        size_t n = w->kind == MW_INT4 ? mw_matrix_bytes(w->k, w->n, w->group_size) : 0;
        if (n > largest) largest = n;
    }
    MW_TRY(st, mw_st_plan_place(&e->plan, e->o->file_bytes));
    MW_TRY(st, mw_alloc64(&e->mem, largest, "one int4 matrix"));
fail:
    return st;
}

static void destroy(export *e) {
    for (int f = 0; e->fd && f < e->plan.n_files; f++)
        if (e->fd[f] >= 0) close(e->fd[f]);
    for (int f = 0; e->path && f < e->plan.n_files; f++) free(e->path[f]);
    free(e->fd);
    free(e->path);
    free(e->mem);
    mw_st_plan_free(&e->plan);
    mw_pool_destroy(e->pool);
    mw_ckpt_close(e->c);
    mw_outdir_abort(&e->out);
}

mw_status mw_export(const mw_export_opts *o, uint64_t *bytes) {
    mw_status st = MW_OK;
    export e = {.o = o};
    uint64_t total = 0;
    sigset_t before;
    mw_signals_hold(&before);
    st = mw_pool_create(&e.pool, o->threads, 0);
    mw_signals_release(&before);
    if (st != MW_OK) goto fail;
    MW_TRY(st, open_model(&e));
    MW_TRY(st, plan_all(&e));
    for (size_t i = 0; i < e.plan.n; i++) total += e.plan.tensor[i].bytes;
    MW_TRY(st, mw_outdir_begin(&e.out, o->dir));
    MW_TRY(st, open_files(&e));
    mw_progress_begin(&e.bar, "writing", total, o->progress);
    for (int i = 0; st == MW_OK && i < mw_ckpt_n_weights(e.c); i++) st = put_weight(&e, mw_ckpt_weight(e.c, i));
    mw_progress_end(&e.bar);
    if (st != MW_OK) goto fail;
    MW_TRY(st, put_texts(&e));
    MW_TRY(st, sync_files(&e));
    MW_TRY(st, mw_outdir_commit(&e.out));
    *bytes = total;
fail:
    destroy(&e);
    return st;
}
