/* tests/kernels/test_cpu_attention.c - rope_kv and attention of the CPU backend against double references.
 *
 * Attention's bound for one output column. A score is off by at most d = (hd + 8) 2^-24 sum |q_i k_i| scale; its weight
 * by a factor 1 + d + 2^-21 (the exponential); the sums over n positions, in any order, by (n + 64) 2^-24. Numerator
 * and denominator carry these once each, so |out - exact| <= 2.1 (d + 2^-21 + (n + 64) 2^-24) sum w|v|, plus weights
 * below 2^-125 that count as zero.
 *
 * Bitwise: threads, and other sequences in the batch, change nothing; NaN in unused slots, in freed blocks and in later
 * positions neither.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/cpu_devices.h"
#include "tests/ref/ref_attn.h"
#include "tests/ref/ref_util.h"

#define MAX_SEQS 6
#define N_VEC    3 /* avx512vnni shares avx512's code outside of the int4 GEMM */

typedef struct {
    mw_attn a;
    mw_batch b;
    int32_t q_start[MAX_SEQS + 1], ctx_len[MAX_SEQS];
    int32_t *token, *pos, *slot, *block_table;
    int64_t ld, ldo;
    float *qkv, *rope;
    void *k, *v; /* caches: guarded, NaN where no position lives */
    size_t cache_elems;
} batch_case;

static int pick(const int *from, int n) {
    return from[ref_int(0, n - 1)];
}

static void make_attn(mw_attn *a) {
    static const int dims[] = {64, 64, 80, 96, 128, 256, 8, 72}, groups[] = {1, 2, 3, 4, 5, 7, 8, 16, 70};
    static const int blocks[] = {1, 7, 8, 16, 16, 32, 64};
    static const mw_dtype dtypes[] = {MW_F16, MW_BF16, MW_F32};
    a->head_dim = pick(dims, 8);
    a->n_kv = (int)ref_int(1, 3);
    a->n_q = a->n_kv * pick(groups, ref_chance(0.1) ? 9 : 8);
    a->block_size = pick(blocks, 7);
    a->window = ref_chance(0.3) ? (int)ref_int(1, 200) : 0;
    a->scale = (float)(1 / sqrt(a->head_dim));
    a->kv_dtype = dtypes[ref_int(0, 2)];
    a->q_off = 3;
    a->k_off = a->q_off + (int64_t)a->n_q * a->head_dim;
    a->v_off = a->k_off + (int64_t)a->n_kv * a->head_dim + 5;
}

/* Sequences with contexts up to max_ctx: decode (1 row), a few rows, prefill from 0, a chunk of a longer prompt. */
static void make_batch(batch_case *c, int n_seqs, int max_ctx) {
    mw_batch *b = &c->b;
    c->q_start[0] = 0;
    b->max_rows = b->max_ctx = 0;
    for (int s = 0; s < n_seqs; s++) {
        int kind = (int)ref_int(0, 3), ctx = (int)ref_int(1, max_ctx), rows = 1;
        if (kind == 1) rows = (int)ref_int(0, ctx < 6 ? ctx : 6);
        if (kind == 2) rows = ctx < 90 ? ctx : 90;
        if (kind == 3) rows = (int)ref_int(1, ctx < 90 ? ctx : 90);
        c->ctx_len[s] = ctx;
        c->q_start[s + 1] = c->q_start[s] + rows;
        if (rows > b->max_rows) b->max_rows = rows;
        if (ctx > b->max_ctx) b->max_ctx = ctx;
    }
    b->n_seqs = n_seqs;
    b->n_tokens = c->q_start[n_seqs];
    b->block_stride = (b->max_ctx + c->a.block_size - 1) / c->a.block_size + 2;
}

/* Blocks in random order; freed ones (before every window of this step) and unused entries are -1. */
static int32_t make_blocks(batch_case *c) {
    mw_batch *b = &c->b;
    int64_t entries = (int64_t)b->n_seqs * b->block_stride;
    int32_t n = 0, *order = malloc((size_t)(entries + 3) * sizeof *order);
    c->block_table = malloc((size_t)entries * sizeof(int32_t));
    assert_non_null(order);
    assert_non_null(c->block_table);
    for (int32_t i = 0; i < entries + 3; i++) order[i] = i;
    for (int32_t i = (int32_t)entries + 2; i > 0; i--) {
        int64_t j = ref_int(0, i);
        int32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int s = 0; s < b->n_seqs; s++) {
        int first = c->ctx_len[s] - (c->q_start[s + 1] - c->q_start[s]), needed = 0;
        if (c->a.window && first + 1 > c->a.window) needed = (first + 1 - c->a.window) / c->a.block_size;
        for (int i = 0; i < b->block_stride; i++) {
            bool used = i >= needed && i * c->a.block_size < c->ctx_len[s];
            c->block_table[(int64_t)s * b->block_stride + i] = used ? order[n++] : -1;
        }
    }
    free(order);
    b->block_table = c->block_table;
    return (int32_t)entries + 3;
}

static void make_rows(batch_case *c) {
    mw_batch *b = &c->b;
    size_t rows = (size_t)(b->n_tokens + 1);
    c->token = calloc(rows, sizeof(int32_t));
    c->pos = calloc(rows, sizeof(int32_t));
    c->slot = calloc(rows, sizeof(int32_t));
    assert_true(c->token && c->pos && c->slot);
    for (int s = 0; s < b->n_seqs; s++)
        for (int i = c->q_start[s]; i < c->q_start[s + 1]; i++) {
            int p = c->ctx_len[s] - c->q_start[s + 1] + i;
            int32_t block = c->block_table[(int64_t)s * b->block_stride + p / c->a.block_size];
            c->pos[i] = p;
            c->slot[i] = block * c->a.block_size + p % c->a.block_size;
        }
    b->token = c->token;
    b->pos = c->pos;
    b->slot = c->slot;
    b->q_start = c->q_start;
    b->ctx_len = c->ctx_len;
    c->ld = c->a.v_off + (int64_t)c->a.n_kv * c->a.head_dim + 4;
    c->ldo = (int64_t)c->a.n_q * c->a.head_dim + ref_int(0, 9);
    c->qkv = ref_guarded((size_t)(b->n_tokens * c->ld) * sizeof(float)); /* k and v columns stay NaN */
    for (int i = 0; i < b->n_tokens; i++)
        for (int64_t j = 0; j < (int64_t)c->a.n_q * c->a.head_dim; j++)
            c->qkv[i * c->ld + c->a.q_off + j] = (float)(ref_normal() * 1.5);
}

static void fill_cache(batch_case *c, int32_t n_blocks) {
    const mw_attn *a = &c->a;
    size_t size = mw_dtype_size(a->kv_dtype);
    c->cache_elems = (size_t)n_blocks * (size_t)a->n_kv * (size_t)a->block_size * (size_t)a->head_dim;
    c->k = ref_guarded(c->cache_elems * size);
    c->v = ref_guarded(c->cache_elems * size);
    for (int s = 0; s < c->b.n_seqs; s++)
        for (int p = 0; p < c->ctx_len[s]; p++) {
            if (c->block_table[(int64_t)s * c->b.block_stride + p / a->block_size] < 0) continue;
            for (int h = 0; h < a->n_kv; h++) {
                size_t at = ref_kv_at(a, &c->b, s, p, h);
                for (int d = 0; d < a->head_dim; d++) {
                    ref_store(c->k, a->kv_dtype, at + (size_t)d, ref_normal());
                    ref_store(c->v, a->kv_dtype, at + (size_t)d, ref_normal() + 0.3);
                }
            }
        }
}

static batch_case *make_case(int n_seqs, int max_ctx) {
    batch_case *c = calloc(1, sizeof *c);
    assert_non_null(c);
    make_attn(&c->a);
    make_batch(c, n_seqs, max_ctx);
    int32_t n_blocks = make_blocks(c);
    make_rows(c);
    fill_cache(c, n_blocks);
    return c;
}

static void free_case(batch_case *c) {
    assert_true(ref_guards_intact(c->k) && ref_guards_intact(c->v) && ref_guards_intact(c->qkv));
    ref_guarded_free(c->qkv);
    ref_guarded_free(c->k);
    ref_guarded_free(c->v);
    free(c->token);
    free(c->pos);
    free(c->slot);
    free(c->block_table);
    free(c);
}

static float *run_attention(mw_dev *d, const batch_case *c) {
    float *out = ref_guarded((size_t)(c->b.n_tokens * c->ldo) * sizeof(float));
    assert_int_equal(mw_cpu_attend(d, &c->a, &c->b, c->qkv, c->ld, c->k, c->v, out, c->ldo), MW_OK);
    assert_true(ref_guards_intact(out));
    for (int i = 0; i < c->b.n_tokens; i++)
        for (int64_t j = (int64_t)c->a.n_q * c->a.head_dim; j < c->ldo; j++)
            assert_int_equal(mw_f32_bits(out[i * c->ldo + j]), REF_POISON);
    return out;
}

/* outs: by instruction set, NULL where the CPU lacks it. */
static void check_row(const batch_case *c, float *const outs[N_VEC], int seq, int row) {
    const mw_attn *a = &c->a;
    int i = c->q_start[seq] + row;
    double exact[256];
    for (int h = 0; h < a->n_q; h++) {
        const float *q = c->qkv + i * c->ld + a->q_off + (int64_t)h * a->head_dim;
        ref_attn_bounds r = ref_attention(a, &c->b, seq, c->pos[i], h, q, c->k, c->v, exact);
        double d = (a->head_dim + 8) * 0x1p-24 * r.max_abs_score;
        double bound = 2.1 * (d + 0x1p-21 + (c->pos[i] + 65) * 0x1p-24) * r.sum_v + 1e-30 * r.max_v;
        for (int isa = 0; isa < N_VEC; isa++)
            for (int j = 0; outs[isa] && j < a->head_dim; j++) {
                double got = outs[isa][i * c->ldo + (int64_t)h * a->head_dim + j];
                if (!(fabs(got - exact[j]) <= bound))
                    fail_msg("%s hd=%d n_q=%d n_kv=%d block=%d window=%d %s: seq %d (rows %d, ctx %d) row %d head %d "
                             "column %d: %.9g, exact %.9g, bound %.3g",
                             k_isas[isa], a->head_dim, a->n_q, a->n_kv, a->block_size, a->window,
                             mw_dtype_name(a->kv_dtype), seq, c->q_start[seq + 1] - c->q_start[seq], c->ctx_len[seq],
                             row, h, j, got, exact[j], bound);
            }
    }
}

/* All rows where they are few, else some, always the first and the last. */
static void check_case(const batch_case *c, float *const outs[N_VEC]) {
    for (int s = 0; s < c->b.n_seqs; s++) {
        int rows = c->q_start[s + 1] - c->q_start[s];
        for (int r = 0; r < rows; r++)
            if (r == 0 || r == rows - 1 || ref_chance(6.0 / rows)) check_row(c, outs, s, r);
    }
}

/* Every sequence alone gives the same bits as in the batch. */
static void check_alone(mw_dev *d, batch_case *c, const float *out) {
    for (int s = 0; s < c->b.n_seqs; s++) {
        int rows = c->q_start[s + 1] - c->q_start[s];
        int32_t start[2] = {0, rows};
        batch_case one = *c;
        one.b.n_seqs = 1;
        one.b.n_tokens = one.b.max_rows = rows;
        one.b.max_ctx = c->ctx_len[s];
        one.b.q_start = start;
        one.b.ctx_len = c->ctx_len + s;
        one.b.block_table = c->block_table + (int64_t)s * c->b.block_stride;
        one.b.pos = c->pos + c->q_start[s];
        one.qkv = c->qkv + c->q_start[s] * c->ld;
        float *y = run_attention(d, &one);
        assert_memory_equal(y, out + c->q_start[s] * c->ldo, (size_t)(rows * c->ldo) * sizeof(float));
        ref_guarded_free(y);
    }
}

static void run_case(batch_case *c) {
    static const int threads[] = {1, 2, 3, 5};
    float *outs[N_VEC] = {0};
    for (int isa = 0; isa < N_VEC; isa++)
        for (int t = 0; t < 4; t++) {
            mw_dev *d = open_dev(isa, threads[t], false);
            if (!d) continue;
            float *out = run_attention(d, c);
            if (outs[isa]) {
                assert_memory_equal(out, outs[isa], (size_t)(c->b.n_tokens * c->ldo) * sizeof(float));
                check_alone(d, c, out);
                ref_guarded_free(out);
            } else {
                outs[isa] = out;
            }
            mw_kernels_cpu()->close(d);
        }
    check_case(c, outs);
    for (int isa = 0; isa < N_VEC; isa++) ref_guarded_free(outs[isa]);
}

static void test_random_batches(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        batch_case *c = make_case((int)ref_int(1, MAX_SEQS), 350);
        run_case(c);
        free_case(c);
    }
}

/* A single long sequence: the context is cut between the threads. */
static void test_long_decode(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        batch_case *c;
        do { /* one decode row, a context of several segments */
            c = make_case(1, 3000);
            if (c->b.n_tokens == 1 && c->ctx_len[0] > 1000) break;
            free_case(c);
        } while (true);
        run_case(c);
        free_case(c);
    }
}

/* NaN in K and V at a position: rows before it keep their bits, rows that see it become NaN. */
static void test_later_rows(void **state) {
    (void)state;
    for (int i = 0; i < 6; i++) {
        batch_case *c;
        do {
            c = make_case(1, 300);
            if (c->b.n_tokens > 1) break;
            free_case(c);
        } while (true);
        int bad = (int)ref_int(1, c->b.n_tokens - 1);
        for (int isa = 0; isa < N_VEC; isa++) {
            mw_dev *d = open_dev(isa, 2, false);
            if (!d) continue;
            float *good = run_attention(d, c);
            size_t bytes = c->cache_elems * mw_dtype_size(c->a.kv_dtype);
            void *k = malloc(bytes), *v = malloc(bytes);
            assert_true(k && v);
            memcpy(k, c->k, bytes);
            memcpy(v, c->v, bytes);
            for (int h = 0; h < c->a.n_kv; h++)
                for (int e = 0; e < c->a.head_dim; e++) {
                    size_t at = ref_kv_at(&c->a, &c->b, 0, c->pos[bad], h) + (size_t)e;
                    ref_store(c->k, c->a.kv_dtype, at, NAN);
                    ref_store(c->v, c->a.kv_dtype, at, NAN);
                }
            float *y = run_attention(d, c);
            memcpy(c->k, k, bytes);
            memcpy(c->v, v, bytes);
            free(k);
            free(v);
            assert_memory_equal(y, good, (size_t)(bad * c->ldo) * sizeof(float));
            for (int64_t j = 0; j < (int64_t)c->a.n_q * c->a.head_dim; j++) assert_true(isnan(y[bad * c->ldo + j]));
            ref_guarded_free(good);
            ref_guarded_free(y);
            mw_kernels_cpu()->close(d);
        }
        free_case(c);
    }
}

/* ---- rope_kv ---------------------------------------------------------------------------------------------------- */

/* The rotated (and normed, with w) head in double, and the size its rounding is measured by. */
static double rope_ref(const float *x, int hd, const float *w, double eps, const float *rope, double *out) {
    double sum = 0, norm = 1, size = 0, t[256];
    for (int d = 0; d < hd; d++) sum += (double)x[d] * x[d];
    if (w) norm = 1 / sqrt(sum / hd + eps);
    for (int d = 0; d < hd; d++) t[d] = x[d] * norm * (w ? w[d] : 1);
    for (int d = 0; d < hd / 2; d++) {
        out[d] = t[d] * rope[2 * d] - t[d + hd / 2] * rope[2 * d + 1];
        out[d + hd / 2] = t[d + hd / 2] * rope[2 * d] + t[d] * rope[2 * d + 1];
        size = fmax(size, fabs(t[d]) + fabs(t[d + hd / 2]));
    }
    return size;
}

/* A value as stored in the cache: half a step of the dtype around anything within e of the exact one. */
static void check_stored(const void *cache, mw_dtype t, size_t at, double exact, double e) {
    double half = t == MW_F16 ? 0x1p-11 : t == MW_BF16 ? 0x1p-8 : 0, tiny = t == MW_F16 ? 0x1p-25 : 0;
    assert_true(fabs(mw_load_f32(cache, t, at) - exact) <= e + half * (fabs(exact) + e) + tiny);
}

static void check_rope(const batch_case *c, const float *before, const float *after) {
    const mw_attn *a = &c->a;
    int hd = a->head_dim;
    double x[256];
    for (int s = 0; s < c->b.n_seqs; s++)
        for (int i = c->q_start[s]; i < c->q_start[s + 1]; i++) {
            const float *rope = c->rope + (int64_t)c->pos[i] * hd;
            for (int h = 0; h < a->n_q; h++) {
                int64_t at = i * c->ld + a->q_off + (int64_t)h * hd;
                double e = rope_ref(before + at, hd, a->q_norm, a->norm_eps, rope, x) * 0x1p-20;
                for (int d = 0; d < hd; d++) assert_true(fabs(after[at + d] - x[d]) <= e);
            }
            for (int h = 0; h < a->n_kv; h++) {
                size_t at = ref_kv_at(a, &c->b, s, c->pos[i], h);
                double e =
                    rope_ref(before + i * c->ld + a->k_off + (int64_t)h * hd, hd, a->k_norm, a->norm_eps, rope, x) *
                    0x1p-20;
                for (int d = 0; d < hd; d++) {
                    check_stored(c->k, a->kv_dtype, at + (size_t)d, x[d], e);
                    check_stored(c->v, a->kv_dtype, at + (size_t)d, before[i * c->ld + a->v_off + (int64_t)h * hd + d],
                                 0);
                }
            }
        }
}

static void test_rope_kv(void **state) {
    (void)state;
    for (int n = 0; n < 12; n++) {
        batch_case *c = make_case((int)ref_int(1, 4), 120);
        mw_attn *a = &c->a;
        float w[2][256];
        size_t bytes = c->cache_elems * mw_dtype_size(a->kv_dtype),
               row_bytes = (size_t)c->b.n_tokens * (size_t)c->ld * 4;
        a->norm_eps = 1e-5f;
        for (int d = 0; d < 256; d++) w[0][d] = (float)ref_uniform(0.5, 2), w[1][d] = (float)ref_uniform(0.5, 2);
        if (n % 2) a->q_norm = w[0], a->k_norm = w[1];
        c->rope = ref_guarded((size_t)(c->b.max_ctx * a->head_dim) * sizeof(float));
        a->rope = c->rope;
        for (int p = 0; p < c->b.max_ctx; p++)
            for (int d = 0; d < a->head_dim / 2; d++) {
                double angle = p * pow(10000, -2.0 * d / a->head_dim);
                c->rope[(int64_t)p * a->head_dim + 2 * d] = (float)cos(angle);
                c->rope[(int64_t)p * a->head_dim + 2 * d + 1] = (float)sin(angle);
            }
        for (int i = 0; i < c->b.n_tokens; i++)
            for (int64_t j = 0; j < c->ld; j++) c->qkv[i * c->ld + j] = (float)ref_normal();
        float *before = malloc(row_bytes + 1);
        assert_non_null(before);
        memcpy(before, c->qkv, row_bytes);
        for (int isa = 0; isa < N_VEC; isa++) {
            mw_dev *d = open_dev(isa, (int)ref_int(1, 3), false);
            if (!d) continue;
            memset(c->k, 0xFF, bytes);
            memset(c->v, 0xFF, bytes);
            memcpy(c->qkv, before, row_bytes);
            assert_int_equal(mw_cpu_rope_kv(d, a, &c->b, c->qkv, c->ld, c->k, c->v), MW_OK);
            check_rope(c, before, c->qkv);
            size_t written = 0; /* exactly the rows' slots */
            for (size_t e = 0; e < c->cache_elems; e++) written += !isnan(mw_load_f32(c->k, a->kv_dtype, e));
            assert_int_equal(written, (size_t)(c->b.n_tokens * a->n_kv * a->head_dim));
            mw_kernels_cpu()->close(d);
        }
        free(before);
        ref_guarded_free(c->rope);
        free_case(c);
    }
}

/* A V beyond f16 becomes infinity in the cache and NaN or infinity in the answer: never a wrong number. */
static void test_f16_overflow(void **state) {
    (void)state;
    for (int isa = 0; isa < N_VEC; isa++) {
        mw_dev *d = open_dev(isa, 1, false);
        if (!d) continue;
        float rope[64] = {0}, row[3 * 64], out[64];
        for (int i = 0; i < 32; i++) rope[2 * i] = 1;
        for (int i = 0; i < 192; i++) row[i] = (float)ref_normal();
        row[128 + 5] = 1e6f;
        uint16_t k[64], v[64];
        int32_t zero = 0, one = 1, start[2] = {0, 1};
        mw_attn a = {.n_q = 1,
                     .n_kv = 1,
                     .head_dim = 64,
                     .block_size = 1,
                     .scale = 0.125f,
                     .k_off = 64,
                     .v_off = 128,
                     .kv_dtype = MW_F16,
                     .rope = rope};
        mw_batch b = {1, 1, 1, 1, &zero, &zero, &zero, start, &one, &zero, 1};
        assert_int_equal(mw_kernels_cpu()->attention(d, &a, &b, row, 192, k, v, out, 64), MW_OK);
        assert_true(isinf(mw_f16_to_f32(v[5])));
        assert_false(isfinite(out[5]));
        assert_true(isfinite(out[4]));
        mw_kernels_cpu()->close(d);
    }
}

static void test_bad_shapes(void **state) {
    (void)state;
    mw_dev *d = open_dev(0, 1, false);
    mw_attn good = {.n_q = 4, .n_kv = 2, .head_dim = 64, .block_size = 16, .kv_dtype = MW_F16}, a;
    mw_batch b = {0};
#define REFUSED(field, value)                                                                                          \
    a = good;                                                                                                          \
    a.field = value;                                                                                                   \
    assert_int_equal(mw_kernels_cpu()->attention(d, &a, &b, NULL, 0, NULL, NULL, NULL, 0), MW_ERR_INTERNAL)
    REFUSED(head_dim, 60);
    REFUSED(head_dim, 264);
    REFUSED(n_kv, 3);
    REFUSED(block_size, 0);
    REFUSED(window, -1);
    REFUSED(kv_dtype, MW_U8);
    mw_kernels_cpu()->close(d);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_batches), cmocka_unit_test(test_long_decode),  cmocka_unit_test(test_later_rows),
        cmocka_unit_test(test_rope_kv),        cmocka_unit_test(test_f16_overflow), cmocka_unit_test(test_bad_shapes),
    };
    ref_seed_from_args(argc, argv);
    print_untested_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
