/* Two threads: one reads and converts (its loops shared out over a pool), one hashes and writes. Two buffers, each as
 * large as the largest int4 matrix, travel between them: that, and one chunk a pool thread, is all the memory. */
#include "shard/tools/convert_model.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/dense.h"
#include "shard/rtn.h"
#include "shard/tools/convert_pipe.h"
#include "shard/tools/convert_signal.h"
#include "shard/tools/convert_text.h"
#include "worker/base/clock.h"
#include "worker/base/progress.h"

#define N_BUFFERS   2
#define DENSE_BYTES (16u << 20) /* of a float weight in one piece */
#define SLAB_BYTES  (2u << 20)  /* written at once, so that the checksum finds it in cache */

typedef struct {
    const mw_convert_opts *o;
    const mw_hf_model *model;
    mw_rtn_opts rtn, head_rtn;
    mw_pipe *pipe;
    mw_pool *pool;
} producer;

static bool is_head(const mw_hf_weight *w) {
    return strcmp(w->name, "lm_head") == 0;
}

/* lm_head stays unless asked for: it is the layer whose rounding shows most. */
static bool becomes_int4(const mw_convert_opts *o, const mw_hf_weight *w) {
    if (w->int4) return true;
    if (is_head(w)) return o->head_int4;
    return o->quantize == MW_QUANTIZE_RTN && w->shape == MW_SHAPE_LINEAR;
}

static const mw_rtn_opts *rtn_of(const producer *p, const mw_hf_weight *w) {
    return is_head(w) ? &p->head_rtn : &p->rtn;
}

/* ---- the reading side ------------------------------------------------------------------------------------------- */

static uint64_t source_bytes(const mw_hf_weight *w) {
    const mw_st_tensor *const t[5] = {w->main, w->scales, w->zeros, w->g_idx, w->bias};
    uint64_t n = 0;
    for (int i = 0; i < 5; i++) n += t[i] ? t[i]->bytes : 0;
    return n;
}

/* 1: pushed; 0: the writing side has given up; else the error is in *st. */
static bool produce_int4(producer *p, const mw_hf_weight *w, mw_status *st) {
    mw_piece *piece = mw_pipe_empty(p->pipe);
    if (!piece) return false;
    piece->w = w;
    piece->int4 = piece->last = true;
    piece->source_bytes = source_bytes(w);
    *st = w->int4 ? mw_quant_read(&piece->m, piece->mem, p->model, w, p->pool)
                  : mw_rtn_read(&piece->m, piece->mem, p->model, w, rtn_of(p, w), p->pool);
    if (*st != MW_OK) return false;
    mw_pipe_push(p->pipe, piece);
    return true;
}

static int64_t rows_of(const mw_hf_weight *w) {
    return w->shape == MW_SHAPE_VECTOR ? 1 : w->n;
}
static int64_t cols_of(const mw_hf_weight *w) {
    return w->shape == MW_SHAPE_VECTOR ? w->n : w->k;
}

/* Rows of a float weight in one piece: whole checksum blocks. */
static int64_t rows_in_piece(const mw_hf_weight *w, mw_dtype t) {
    int64_t rows = rows_of(w), cols = cols_of(w), br, bc;
    mw_block_shape(MW_PART_WEIGHT, MW_IN_ROWS, 0, rows, cols, &br, &bc);
    int64_t n = (int64_t)DENSE_BYTES / (cols * (int64_t)mw_dtype_size(t)) / br * br;
    return n < br ? br : n < rows ? n : rows;
}

static bool produce_float(producer *p, const mw_hf_weight *w, mw_status *st) {
    mw_dtype t = mw_dense_dtype(w, p->model->cfg.model.act);
    int64_t rows = rows_of(w), step = rows_in_piece(w, t);
    size_t row_bytes = (size_t)cols_of(w) * mw_dtype_size(t);
    for (int64_t r = 0; r < rows; r += step) {
        mw_piece *piece = mw_pipe_empty(p->pipe);
        if (!piece) return false;
        piece->w = w;
        piece->dtype = t;
        piece->row0 = r;
        piece->rows = rows - r < step ? rows - r : step;
        piece->last = r + piece->rows == rows;
        piece->source_bytes = (uint64_t)piece->rows * (w->main->bytes / (uint64_t)rows);
        *st = mw_dense_rows(p->model, w, r, piece->rows, t, piece->mem, p->pool);
        if (*st == MW_OK && piece->last && w->bias) {
            bool have;
            void *bias = (uint8_t *)piece->mem + (((size_t)piece->rows * row_bytes + 63) & ~(size_t)63);
            *st = mw_quant_bias(p->model->folder, w, bias, &have);
            if (have) piece->bias = bias;
        }
        if (*st != MW_OK) return false;
        mw_pipe_push(p->pipe, piece);
    }
    return true;
}

static void prefetch(const mw_st_folder *f, const mw_hf_weight *w) {
    if (w->scales) mw_st_prefetch(f, w->scales);
    if (w->zeros) mw_st_prefetch(f, w->zeros);
    mw_st_prefetch(f, w->main);
}

static void *produce(void *arg) {
    producer *p = arg;
    const mw_hf_model *m = p->model;
    mw_status st = mw_dense_check_tied_head(m);
    for (size_t i = 0; st == MW_OK && i < m->n_weights; i++) {
        const mw_hf_weight *w = &m->weight[i];
        if (i + 1 < m->n_weights) prefetch(m->folder, w + 1);
        bool more = becomes_int4(p->o, w) ? produce_int4(p, w, &st) : produce_float(p, w, &st);
        if (!more && st == MW_OK) break; /* the other side has failed, and reports it */
    }
    if (st != MW_OK) mw_error_prefix("%s", p->o->dir);
    mw_pipe_finish(p->pipe, st);
    return NULL;
}

/* Bytes of the largest piece. */
static mw_status buffer_bytes(const producer *p, size_t *out) {
    mw_status st = MW_OK;
    *out = 0;
    for (size_t i = 0; i < p->model->n_weights; i++) {
        const mw_hf_weight *w = &p->model->weight[i];
        size_t n;
        if (becomes_int4(p->o, w)) {
            int64_t group = w->group;
            if (!w->int4) MW_TRY(st, mw_rtn_group(rtn_of(p, w), w, &group));
            n = mw_matrix_bytes(w->k, w->n, group);
        } else {
            mw_dtype t = mw_dense_dtype(w, p->model->cfg.model.act);
            n = (size_t)rows_in_piece(w, t) * (size_t)cols_of(w) * mw_dtype_size(t) + 64 + (size_t)w->n * 4;
        }
        if (n > *out) *out = n;
    }
fail:
    return st;
}

/* ---- the writing side ------------------------------------------------------------------------------------------- */

typedef struct {
    mw_writer *w;
    mw_progress bar;
    int64_t group_size, head_group; /* as declared: -1 per channel */
    mw_convert_report *report;
} consumer;

static mw_status begin(const consumer *c, const char *weight, mw_part part, mw_dtype t, int64_t group, int64_t rows,
                       int64_t cols) {
    char name[MW_NAME_MAX + 16];
    snprintf(name, sizeof name, "%s/%s", weight, mw_part_name(part));
    mw_dataset_spec s = {.name = name, .dtype = t, .rows = rows, .cols = cols};
    s.one_d = rows == 1 && (part == MW_PART_PERM || part == MW_PART_BIAS || part == MW_PART_WEIGHT);
    mw_block_shape(part, MW_IN_ROWS, group, rows, cols, &s.block_rows, &s.block_cols);
    return mw_writer_begin(c->w, &s);
}

/* Rows in slabs; the bar advances by `bytes` in the end. */
static mw_status rows(consumer *c, mw_part part, int64_t group, const void *data, int64_t n, size_t row_bytes,
                      int64_t cols, uint64_t bytes) {
    mw_status st = MW_OK;
    int64_t br, bc, step;
    uint64_t shown = 0;
    mw_block_shape(part, MW_IN_ROWS, group, n, cols, &br, &bc);
    step = (int64_t)(SLAB_BYTES / row_bytes) / br * br;
    if (step < br) step = br;
    for (int64_t r = 0; r < n; r += step) {
        int64_t some = n - r < step ? n - r : step;
        MW_TRY(st, mw_writer_rows(c->w, (const uint8_t *)data + (size_t)r * row_bytes, some));
        uint64_t now = bytes * (uint64_t)(r + some) / (uint64_t)n;
        mw_progress_add(&c->bar, now - shown);
        shown = now;
    }
fail:
    return st;
}

static mw_status part(consumer *c, const mw_hf_weight *w, mw_part p, mw_dtype t, int64_t group, int64_t n_rows,
                      int64_t cols, const void *data, uint64_t bytes) {
    mw_status st = MW_OK;
    MW_TRY(st, begin(c, w->name, p, t, group, n_rows, cols));
    MW_TRY(st, rows(c, p, group, data, n_rows, (size_t)cols * mw_dtype_size(t), cols, bytes));
    MW_TRY(st, mw_writer_end(c->w));
fail:
    return st;
}

static mw_status consume_int4(consumer *c, const mw_piece *p) {
    mw_status st = MW_OK;
    const mw_matrix *m = &p->m;
    int64_t groups = m->k / m->group, g = is_head(p->w) && !p->w->int4 ? c->head_group : c->group_size;
    MW_TRY(st, mw_writer_linear(c->w, p->w->name, true, m->k, m->n, g));
    MW_TRY(st, part(c, p->w, MW_PART_QWEIGHT, MW_U8, g, m->k, m->n / 2, m->q, p->source_bytes));
    MW_TRY(st, part(c, p->w, MW_PART_SCALES, m->scale_dtype, g, groups, m->n, m->scales, 0));
    if (m->zeros) MW_TRY(st, part(c, p->w, MW_PART_ZEROS, MW_U8, g, groups, m->n, m->zeros, 0));
    if (m->perm) MW_TRY(st, part(c, p->w, MW_PART_PERM, MW_I32, g, 1, m->k, m->perm, 0));
    if (m->bias) MW_TRY(st, part(c, p->w, MW_PART_BIAS, m->bias_dtype, g, 1, m->n, m->bias, 0));
    c->report->n_int4++;
fail:
    return st;
}

static mw_status consume_float(consumer *c, const mw_piece *p) {
    mw_status st = MW_OK;
    const mw_hf_weight *w = p->w;
    int64_t cols = cols_of(w);
    if (p->row0 == 0) {
        if (w->shape == MW_SHAPE_LINEAR) {
            MW_TRY(st, mw_writer_linear(c->w, w->name, false, w->k, w->n, 0));
            c->report->n_dense++;
        }
        MW_TRY(st, begin(c, w->name, MW_PART_WEIGHT, p->dtype, 0, rows_of(w), cols));
    }
    MW_TRY(st,
           rows(c, MW_PART_WEIGHT, 0, p->mem, p->rows, (size_t)cols * mw_dtype_size(p->dtype), cols, p->source_bytes));
    if (p->last) MW_TRY(st, mw_writer_end(c->w));
    if (p->bias) MW_TRY(st, part(c, w, MW_PART_BIAS, mw_hf_dtype(w->bias), 0, 1, w->n, p->bias, 0));
fail:
    return st;
}

static mw_status consume(consumer *c, mw_pipe *pipe) {
    mw_status st = MW_OK;
    for (mw_piece *p;;) {
        MW_TRY(st, mw_pipe_pop(pipe, &p));
        if (!p) break;
        MW_TRY(st, p->int4 ? consume_int4(c, p) : consume_float(c, p));
        mw_pipe_recycle(pipe, p);
    }
fail:
    return st;
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

static mw_status check_quantize(const mw_convert_opts *o, const mw_hf_quant *q) {
    if (q->format == MW_HF_DENSE && o->quantize == MW_QUANTIZE_UNSET)
        return MW_FAIL(MW_ERR_USAGE,
                       "%s: the model is not quantised; --quantize rtn makes it int4, --quantize none keeps 16 bits",
                       o->dir);
    if (q->format != MW_HF_DENSE && o->quantize != MW_QUANTIZE_UNSET)
        return MW_FAIL(MW_ERR_USAGE, "%s: the model is already quantised (%s); --quantize does not apply", o->dir,
                       mw_hf_format_name(q->format));
    return MW_OK;
}

static mw_status check_head(const mw_convert_opts *o, const mw_hf_model *m) {
    const mw_hf_weight *head = mw_hf_find(m, "lm_head");
    if (!o->head_int4) return MW_OK;
    if (head->int4)
        return MW_FAIL(MW_ERR_USAGE, "%s: lm_head is already quantised (%s); --lm-head does not apply", o->dir,
                       mw_hf_format_name(m->cfg.quant.format));
    if (head->k % MW_TILE_K || head->n % 8)
        return MW_FAIL(MW_ERR_UNSUPPORTED,
                       "%s: lm_head of %lld inputs and %lld outputs cannot be int4: expected multiples of %d and 8",
                       o->dir, (long long)head->k, (long long)head->n, MW_TILE_K);
    return MW_OK;
}

/* --act, else the config's dtype, else the embedding's. */
static void choose_act(const mw_convert_opts *o, mw_hf_model *m) {
    if (o->act_given)
        m->cfg.model.act = o->act;
    else if (!m->cfg.act_known)
        m->cfg.model.act = mw_hf_dtype(mw_hf_find(m, "embed_tokens")->main) == MW_F16 ? MW_F16 : MW_BF16;
}

/* Last component of the folder's real path: "." and a trailing slash should not become the model's name. */
static char *folder_name(const char *dir) {
    char *real = realpath(dir, NULL);
    const char *slash = real ? strrchr(real, '/') : NULL;
    char *name = strdup(slash && slash[1] ? slash + 1 : dir);
    free(real);
    return name;
}

static mw_status create(const mw_convert_opts *o, const mw_hf_model *m, const mw_texts *t, mw_writer **w) {
    mw_status st = MW_OK;
    const mw_hf_quant *q = &m->cfg.quant;
    char format[64];
    char *name = folder_name(o->dir);
    if (!name) return MW_FAIL(MW_ERR_NOMEM, "folder name");
    snprintf(format, sizeof format, "%s", mw_hf_format_name(q->format));
    if (q->format == MW_HF_GPTQ && !q->zero_offset) snprintf(format, sizeof format, "gptq_v2");
    if (o->quantize == MW_QUANTIZE_RTN) snprintf(format, sizeof format, "dense, quantised by rtn");
    size_t n = strlen(format);
    if (o->head_int4) snprintf(format + n, sizeof format - n, ", lm_head quantised by rtn");
    const mw_provenance prov = {.creator = o->creator, .source_format = format, .source_name = name, .chat = t->chat};
    MW_TRY(st, mw_writer_create(w, o->out, o->force, &m->cfg.model, MW_IN_ROWS, &prov));
    MW_TRY(st, mw_texts_write(t, m->folder, *w));
fail:
    free(name);
    return st;
}

/* Both threads, from the first piece to the last. */
static mw_status run(producer *p, consumer *c) {
    mw_status st = MW_OK;
    pthread_t thread;
    sigset_t before;
    size_t bytes;
    MW_TRY(st, buffer_bytes(p, &bytes));
    MW_TRY(st, mw_pipe_create(&p->pipe, N_BUFFERS, bytes));
    mw_signals_hold(&before);
    int err = pthread_create(&thread, NULL, produce, p);
    mw_signals_release(&before);
    if (err) {
        st = MW_FAIL(MW_ERR_NOMEM, "starting the reading thread: %s", strerror(err));
        goto fail;
    }
    mw_progress_begin(&c->bar, "converting", p->model->bytes, p->o->progress);
    st = consume(c, p->pipe);
    mw_progress_end(&c->bar);
    if (st != MW_OK) mw_pipe_give_up(p->pipe);
    pthread_join(thread, NULL);
fail:
    mw_pipe_destroy(p->pipe);
    p->pipe = NULL;
    return st;
}

mw_status mw_convert(const mw_convert_opts *o, mw_convert_report *report) {
    mw_status st = MW_OK;
    double started = mw_now_s();
    mw_texts texts = {0};
    mw_hf_config cfg;
    mw_hf_model *model = NULL;
    sigset_t before;
    producer p = {.o = o};
    consumer c = {.report = report};
    *report = (mw_convert_report){0};
    MW_TRY(st, mw_texts_read(&texts, o->dir, o->with_tokenizer));
    MW_TRY(st, mw_texts_config(&texts, o->dir, &cfg));
    MW_TRY(st, check_quantize(o, &cfg.quant));
    if (o->head_int4 && cfg.model.tie_embeddings) cfg.own_head = true, cfg.model.tie_embeddings = false;
    MW_TRY(st, mw_hf_model_open(&model, o->dir, &cfg));
    MW_TRY(st, check_head(o, model));
    choose_act(o, model);
    MW_TRY(st, mw_texts_check(&texts, o->dir, cfg.model.vocab));
    p.model = model;
    p.rtn = (mw_rtn_opts){o->group_size, o->zero_points, o->clip_search, model->cfg.model.act};
    p.head_rtn = p.rtn;
    c.group_size = o->quantize == MW_QUANTIZE_RTN ? o->group_size : cfg.quant.group_size;
    c.head_group = o->head_group ? o->head_group : c.group_size > 0 ? c.group_size : 128;
    p.head_rtn.group_size = c.head_group;
    mw_signals_hold(&before);
    st = mw_pool_create(&p.pool, o->threads, 0);
    if (st == MW_OK) st = create(o, model, &texts, &c.w); /* no signal between a file's creation and its being known */
    mw_signals_release(&before);
    if (st != MW_OK) goto fail;
    MW_TRY(st, run(&p, &c));
    report->bytes_in = model->bytes;
    report->bytes_out = mw_writer_bytes(c.w);
    mw_writer *w = c.w;
    c.w = NULL;
    MW_TRY(st, mw_writer_commit(w));
    report->seconds = mw_now_s() - started;
fail:
    mw_writer_abort(c.w);
    mw_pool_destroy(p.pool);
    mw_hf_model_close(model);
    mw_texts_free(&texts);
    return st;
}
