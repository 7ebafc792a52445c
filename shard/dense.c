#include "shard/dense.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/quant.h"

#define CHUNK_BYTES (1u << 20)

mw_dtype mw_dense_dtype(const mw_hf_weight *w, mw_dtype act) {
    mw_dtype t = mw_hf_dtype(w->main);
    return t == MW_F32 && w->shape != MW_SHAPE_VECTOR ? act : t;
}

typedef struct {
    const mw_hf_model *model;
    const mw_hf_weight *w;
    int64_t row0, cols;
    mw_dtype source, out;
    uint8_t *dst;
} job;

static mw_status narrow(const job *j, int64_t row, const float *src, uint16_t *dst) {
    for (int64_t c = 0; c < j->cols; c++) dst[c] = j->out == MW_F16 ? mw_f32_to_f16(src[c]) : mw_f32_to_bf16(src[c]);
    uint16_t inf = j->out == MW_F16 ? 0x7c00 : 0x7f80;
    for (int64_t c = 0; c < j->cols; c++)
        if ((dst[c] & 0x7fff) == inf)
            return MW_FAIL(MW_ERR_NUMERIC, "tensor '%s': %g at [%lld, %lld] does not fit %s%s", j->w->main->name,
                           (double)src[c], (long long)row, (long long)c, mw_dtype_name(j->out),
                           j->out == MW_F16 ? "; --act bf16 has the range" : "");
    return MW_OK;
}

static mw_status chunk(const void *arg, int64_t r0, int64_t r1, void *scratch) {
    mw_status st = MW_OK;
    const job *j = arg;
    size_t row = (size_t)j->cols * mw_dtype_size(j->source), out_row = (size_t)j->cols * mw_dtype_size(j->out);
    uint8_t *dst = j->dst + (size_t)r0 * out_row, *src = j->source == j->out ? dst : scratch;
    int64_t first = j->row0 + r0;
    MW_TRY(st, mw_st_read(j->model->folder, j->w->main, (uint64_t)first * row, (size_t)(r1 - r0) * row, src));
    MW_TRY(st, mw_check_finite(j->w->main->name, src, j->source, first, r1 - r0, j->cols));
    if (j->source == j->out) return MW_OK;
    for (int64_t r = 0; r < r1 - r0; r++)
        MW_TRY(st,
               narrow(j, first + r, (const float *)(src + (size_t)r * row), (uint16_t *)(dst + (size_t)r * out_row)));
fail:
    return st;
}

mw_status mw_dense_rows(const mw_hf_model *model, const mw_hf_weight *w, int64_t row0, int64_t rows, mw_dtype out,
                        void *dst, mw_pool *pool) {
    bool vector = w->shape == MW_SHAPE_VECTOR;
    job j = {model, w, row0, vector ? w->n : w->k, mw_hf_dtype(w->main), out, dst};
    size_t row = (size_t)j.cols * mw_dtype_size(j.source);
    int64_t step = (int64_t)(CHUNK_BYTES / row) + 1;
    return mw_chunks(pool, rows, step, j.source == out ? 0 : (size_t)step * row, chunk, &j);
}

mw_status mw_dense_check_tied_head(const mw_hf_model *model) {
    mw_status st = MW_OK;
    const mw_st_tensor *head = model->tied_head, *embed = mw_hf_find(model, "embed_tokens")->main;
    uint8_t *a = NULL, *b = NULL;
    if (!head) return MW_OK;
    bool same = head->dtype == embed->dtype;
    MW_TRY(st, MW_CALLOC(&a, CHUNK_BYTES, "tied embeddings"));
    MW_TRY(st, MW_CALLOC(&b, CHUNK_BYTES, "tied embeddings"));
    for (uint64_t at = 0; same && at < head->bytes; at += CHUNK_BYTES) {
        size_t n = head->bytes - at < CHUNK_BYTES ? (size_t)(head->bytes - at) : CHUNK_BYTES;
        MW_TRY(st, mw_st_read(model->folder, head, at, n, a));
        MW_TRY(st, mw_st_read(model->folder, embed, at, n, b));
        same = memcmp(a, b, n) == 0;
    }
    if (!same)
        st = MW_FAIL(MW_ERR_UNSUPPORTED,
                     "config.json says tie_word_embeddings, but tensor 'lm_head.weight' is not the same as '%s'",
                     embed->name);
fail:
    free(a);
    free(b);
    return st;
}
