/* kernels/cpu/rows.c - the operations that work row by row: embedding, norms, gathers, RoPE and KV store, SiLU. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* ---- embedding -------------------------------------------------------------------------------------------------- */

typedef struct {
    const mw_vec_ops *vec;
    float *dst;
    int64_t m, h, v0, v1;
    const int32_t *token, *chosen;
    const void *table;
    mw_dtype dtype;
} embed_job;

static void embed_run(void *arg, int thread, int n_threads) {
    const embed_job *j = arg;
    int64_t begin, end, row_bytes = j->h * (int64_t)mw_dtype_size(j->dtype);
    mw_split(j->m, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        int64_t t = j->token[i];
        if (t < 0 && j->chosen) t = j->chosen[-1 - t];
        if (t >= j->v0 && t < j->v1)
            j->vec->convert(j->dst + i * j->h, (const char *)j->table + (t - j->v0) * row_bytes, j->dtype, j->h);
        else
            memset(j->dst + i * j->h, 0, (size_t)j->h * sizeof(float));
    }
}

mw_status mw_cpu_embed(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                       const void *table, mw_dtype dtype, int64_t v0, int64_t v1) {
    if (dtype != MW_F16 && dtype != MW_BF16 && dtype != MW_F32)
        return MW_FAIL(MW_ERR_INTERNAL, "embedding table is %s, expected f16, bf16 or f32", mw_dtype_name(dtype));
    embed_job j = {d->isa->vec, dst, m, h, v0, v1, token, chosen, table, dtype};
    mw_dev_run(d, m * h, embed_run, &j);
    return MW_OK;
}

/* ---- residual and norm ------------------------------------------------------------------------------------------ */

typedef struct {
    const mw_vec_ops *vec;
    float *x, *dst;
    const float *delta, *w;
    int64_t m, h;
    float eps;
    const int32_t *perm;
} norm_job;

static void norm_run(void *arg, int thread, int n_threads) {
    const norm_job *j = arg;
    int64_t begin, end;
    mw_split(j->m, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        j->vec->add_norm(j->x + i * j->h, j->delta ? j->delta + i * j->h : NULL, j->dst ? j->dst + i * j->h : NULL,
                         j->h, j->w, j->eps, j->perm);
}

mw_status mw_cpu_add_norm(mw_dev *d, void *x, const void *delta, void *dst, int64_t m, int64_t h, const float *w,
                          float eps, const int32_t *perm) {
    if (!delta && !dst) return MW_OK;
    if (h <= 0) return MW_FAIL(MW_ERR_INTERNAL, "norm over %lld columns", (long long)h);
    norm_job j = {d->isa->vec, x, dst, delta, w, m, h, eps, perm};
    mw_dev_run(d, 2 * m * h, norm_run, &j);
    return MW_OK;
}

/* ---- gathers ---------------------------------------------------------------------------------------------------- */

typedef struct {
    float *dst;
    const float *src;
    int64_t ld_dst, ld_src, m, n;
    const int32_t *idx;
} gather_job;

static void gather_run(void *arg, int thread, int n_threads) {
    const gather_job *j = arg;
    int64_t begin, end;
    mw_split(j->m, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        for (int64_t c = 0; c < j->n; c++) j->dst[i * j->ld_dst + c] = j->src[i * j->ld_src + j->idx[c]];
}

mw_status mw_cpu_gather_cols(mw_dev *d, void *dst, int64_t ld_dst, const void *src, int64_t ld_src, int64_t m,
                             int64_t n, const int32_t *idx) {
    gather_job j = {dst, src, ld_dst, ld_src, m, n, idx};
    mw_dev_run(d, 2 * m * n, gather_run, &j);
    return MW_OK;
}

static void take_run(void *arg, int thread, int n_threads) {
    const gather_job *j = arg;
    int64_t begin, end;
    mw_split(j->m, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        memcpy(j->dst + i * j->n, j->src + j->idx[i] * j->n, (size_t)j->n * sizeof(float));
}

mw_status mw_cpu_take_rows(mw_dev *d, void *dst, const void *src, int64_t n, int64_t h, const int32_t *row) {
    gather_job j = {.dst = dst, .src = src, .m = n, .n = h, .idx = row};
    mw_dev_run(d, n * h, take_run, &j);
    return MW_OK;
}

/* ---- RoPE and KV store ------------------------------------------------------------------------------------------ */

typedef struct {
    const mw_vec_ops *vec;
    const mw_attn *a;
    const mw_batch *b;
    float *qkv;
    int64_t ld;
    void *k_cache, *v_cache;
} rope_job;

static void rope_run(void *arg, int thread, int n_threads) {
    const rope_job *j = arg;
    int64_t begin, end;
    mw_split(j->b->n_tokens, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        j->vec->rope_kv(j->a, j->qkv + i * j->ld, j->a->rope + (int64_t)j->b->pos[i] * j->a->head_dim, j->k_cache,
                        j->v_cache, j->b->slot[i]);
}

mw_status mw_cpu_rope_kv(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                         void *v_cache) {
    mw_status st = mw_attn_check(a);
    if (st != MW_OK) return st;
    rope_job j = {d->isa->vec, a, b, qkv, ld, k_cache, v_cache};
    mw_dev_run(d, 4 * (int64_t)b->n_tokens * (a->n_q + 2 * a->n_kv) * a->head_dim, rope_run, &j);
    return MW_OK;
}

/* ---- SiLU ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const mw_vec_ops *vec;
    float *dst;
    const float *x;
    int64_t ld_dst, ld, m, n, up_off;
} silu_job;

static void silu_run(void *arg, int thread, int n_threads) {
    const silu_job *j = arg;
    int64_t begin, end;
    mw_split(j->m * j->n, 64, thread, n_threads, &begin, &end);
    while (begin < end) {
        int64_t i = begin / j->n, c = begin % j->n, run = j->n - c < end - begin ? j->n - c : end - begin;
        const float *gate = j->x + i * j->ld + c;
        j->vec->silu_mul(j->dst + i * j->ld_dst + c, gate, gate + j->up_off, run);
        begin += run;
    }
}

mw_status mw_cpu_silu_mul(mw_dev *d, void *dst, int64_t ld_dst, const void *x, int64_t ld, int64_t m, int64_t n,
                          int64_t up_off) {
    if (dst == x && ld_dst != ld && m > 1)
        return MW_FAIL(MW_ERR_INTERNAL, "silu in place with row strides %lld and %lld", (long long)ld_dst,
                       (long long)ld);
    silu_job j = {d->isa->vec, dst, x, ld_dst, ld, m, n, up_off};
    mw_dev_run(d, 8 * m * n, silu_run, &j);
    return MW_OK;
}

/* ---- the best token --------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t *token;
    float *best;
    const float *logits;
    int64_t ld, rows, vocab;
} argmax_job;

static void argmax_run(void *arg, int thread, int n_threads) {
    const argmax_job *j = arg;
    int64_t begin, end;
    mw_split(j->rows, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const float *row = j->logits + i * j->ld;
        int64_t at = 0;
        for (int64_t v = 0; v < j->vocab; v++) {
            if (row[v] > row[at]) at = v;
            if (row[v] != row[v]) { /* a NaN wins, and ends the search */
                at = v;
                break;
            }
        }
        j->best[i] = row[at];
        j->token[i] = isfinite(row[at]) ? (int32_t)at : -1;
    }
}

mw_status mw_cpu_argmax(mw_dev *d, int32_t *token, float *best, const float *logits, int64_t ld, int64_t rows,
                        int64_t vocab) {
    argmax_job j = {token, best, logits, ld, rows, vocab};
    mw_dev_run(d, rows > 1 ? rows * vocab : 0, argmax_run, &j);
    return MW_OK;
}

mw_status mw_cpu_best_of(mw_dev *d, int32_t *chosen, const int32_t *parts, int n, int64_t stride, const int32_t *first,
                         int64_t rows) {
    (void)d;
    for (int64_t i = 0; i < rows; i++) {
        float best = -INFINITY;
        bool nan = false;
        chosen[i] = -1;
        for (int p = 0; p < n; p++) {
            if (first[p] < 0) continue;
            const int32_t *token = parts + 2 * stride * p + i;
            float value = ((const float *)token)[stride];
            nan |= value != value;
            if (value <= best) continue; /* equals: the lowest token */
            best = value;
            chosen[i] = first[p] + token[0];
        }
        if (nan || !isfinite(best)) chosen[i] = -1;
    }
    return MW_OK;
}

/* ---- fault finding ---------------------------------------------------------------------------------------------- */

typedef struct {
    const mw_vec_ops *vec;
    const float *x;
    int64_t ld, m, n;
    atomic_llong count;
} count_job;

static void count_run(void *arg, int thread, int n_threads) {
    count_job *j = arg;
    int64_t begin, end, count = 0;
    mw_split(j->m, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) count += j->vec->count_nonfinite(j->x + i * j->ld, j->n);
    atomic_fetch_add(&j->count, count);
}

mw_status mw_cpu_count_nonfinite(mw_dev *d, const void *x, int64_t ld, int64_t m, int64_t n, bool f32, int64_t *count) {
    (void)f32; /* activations are f32 here */
    count_job j = {.vec = d->isa->vec, .x = x, .ld = ld, .m = m, .n = n};
    atomic_init(&j.count, 0);
    mw_dev_run(d, m * n, count_run, &j);
    *count = atomic_load(&j.count);
    return MW_OK;
}
