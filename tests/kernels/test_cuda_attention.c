/* tests/kernels/test_cuda_attention.c - attention of the CUDA backend: its two parts against double references, and
 * both of them in one kernel, as a decode step has it, against the two parts.
 *
 * Attention's bound for one output column, u the relative half step of the cache's type. A score is off by at most
 * d = (hd + 8) 2^-22 sum |q_i k_i| scale (matrix units; plus u' of that sum where q is converted to the cache's type);
 * its weight by a factor 1 + d + 2^-20; sums over n positions by (n + 64) 2^-22; numerator and denominator carry these
 * once each. Weights are rounded to the cache's type for the product with V: u sum w|v|, and for f16, whose smallest
 * step is 2^-24 of the running maximum, 2^-25 max|v| max w a position. Then the rounding of the output.
 *
 * A sequence is computed within that bound alone and among others, with true sizes and with upper bounds and padded
 * sequences; NaN in unused slots, in freed blocks and beyond the context changes nothing. The same launch gives the
 * same bits. */
#include "tests/kernels/cuda_test.h"
#include "tests/ref/ref_attn.h"

#define MAX_SEQS 8

typedef struct {
    mw_attn a;
    mw_batch b; /* host pointers */
    int32_t q_start[MAX_SEQS + 3], ctx_len[MAX_SEQS + 2];
    int32_t *token, *pos, *slot, *block_table;
    int64_t ld, ldo;
    void *qkv;
    void *k, *v; /* caches, NaN where no position lives */
    size_t cache_bytes;
    void *d_qkv, *d_k, *d_v;
    int32_t *d_pos, *d_slot, *d_table;
    float *d_rope, *d_weights; /* or NULL */
} batch_case;

static int pick(const int *from, int n) {
    return from[ref_int(0, n - 1)];
}

static mw_attn random_attn(void) {
    static const int dims[] = {64, 80, 96, 128, 128, 256, 16, 112}, groups[] = {1, 2, 4, 5, 7, 8, 3, 16, 40};
    static const int blocks[] = {16, 16, 32, 64, 128, 256};
    mw_attn a = {.head_dim = pick(dims, 8), .n_kv = (int)ref_int(1, 3), .block_size = pick(blocks, 6)};
    a.n_q = a.n_kv * pick(groups, ref_chance(0.2) ? 9 : 6);
    a.window = ref_chance(0.3) ? (int)ref_int(1, 200) : 0;
    a.scale = (float)(1 / sqrt(a.head_dim));
    a.kv_dtype = ref_chance(0.8) ? D->act : ref_chance(0.5) ? MW_F16 : MW_BF16;
    return a;
}

/* Sequences with contexts up to max_ctx: decode (1 row), a few rows, prefill from 0, a chunk of a longer prompt. */
static void make_batch(batch_case *c, int n_seqs, int max_ctx) {
    mw_batch *b = &c->b;
    for (int s = 0; s < n_seqs; s++) {
        int kind = (int)ref_int(0, 4), ctx = (int)ref_int(1, max_ctx), rows = 1;
        int most = g_small ? 30 : 170;
        if (kind == 1) rows = (int)ref_int(0, ctx < 6 ? ctx : 6);
        if (kind == 2) rows = ctx < most ? ctx : most;
        if (kind == 3) rows = (int)ref_int(1, ctx < most ? ctx : most);
        c->ctx_len[s] = ctx;
        c->q_start[s + 1] = c->q_start[s] + rows;
    }
    b->n_seqs = n_seqs;
}

/* Sizes that follow from q_start and ctx_len. */
static void measure_batch(batch_case *c) {
    mw_batch *b = &c->b;
    b->max_rows = b->max_ctx = 0;
    for (int s = 0; s < b->n_seqs; s++) {
        int rows = c->q_start[s + 1] - c->q_start[s];
        b->max_rows = rows > b->max_rows ? rows : b->max_rows;
        b->max_ctx = c->ctx_len[s] > b->max_ctx ? c->ctx_len[s] : b->max_ctx;
    }
    b->n_tokens = c->q_start[b->n_seqs];
    b->block_stride = (b->max_ctx + c->a.block_size - 1) / c->a.block_size + 2;
}

/* Blocks in random order; freed ones (before every window of this step) and unused entries are -1. */
static int32_t make_blocks(batch_case *c) {
    mw_batch *b = &c->b;
    int64_t entries = (int64_t)b->n_seqs * b->block_stride;
    int32_t n = 0, *order = host_new((size_t)(entries + 3) * sizeof *order);
    c->block_table = host_new((size_t)entries * sizeof(int32_t));
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
    mw_attn *a = &c->a;
    size_t rows = (size_t)b->n_tokens;
    c->token = host_new(rows * sizeof(int32_t));
    c->pos = host_new(rows * sizeof(int32_t));
    c->slot = host_new(rows * sizeof(int32_t));
    for (int s = 0; s < b->n_seqs; s++)
        for (int i = c->q_start[s]; i < c->q_start[s + 1]; i++) {
            int p = c->ctx_len[s] - c->q_start[s + 1] + i;
            int32_t block = c->block_table[(int64_t)s * b->block_stride + p / a->block_size];
            c->pos[i] = p;
            c->slot[i] = block * a->block_size + p % a->block_size;
        }
    b->token = c->token;
    b->pos = c->pos;
    b->slot = c->slot;
    b->q_start = c->q_start;
    b->ctx_len = c->ctx_len;
    a->q_off = 8 * ref_int(0, 3);
    a->k_off = a->q_off + (int64_t)a->n_q * a->head_dim + 8 * ref_int(0, 1);
    a->v_off = a->k_off + (int64_t)a->n_kv * a->head_dim + 8 * ref_int(0, 1);
    c->ld = a->v_off + (int64_t)a->n_kv * a->head_dim + 8 * ref_int(0, 2);
    c->ldo = (int64_t)a->n_q * a->head_dim + (ref_chance(0.7) ? 8 * ref_int(0, 2) : 2 * ref_int(0, 5));
    c->qkv = host_random(D->act, b->n_tokens, c->ld, 1.5);
    for (int64_t i = 0; i < b->n_tokens * c->ld; i++) { /* attention reads q alone */
        int64_t j = i % c->ld - a->q_off;
        if (j < 0 || j >= (int64_t)a->n_q * a->head_dim) ref_store(c->qkv, D->act, (size_t)i, NAN);
    }
}

static void fill_cache(batch_case *c, int32_t n_blocks) {
    const mw_attn *a = &c->a;
    c->cache_bytes = (size_t)n_blocks * (size_t)a->n_kv * (size_t)a->block_size * (size_t)a->head_dim * 2;
    c->k = host_new(c->cache_bytes);
    c->v = host_new(c->cache_bytes);
    memset(c->k, 0xFF, c->cache_bytes);
    memset(c->v, 0xFF, c->cache_bytes);
    for (int s = 0; s < c->b.n_seqs; s++)
        for (int p = 0; p < c->ctx_len[s]; p++) {
            if (c->block_table[(int64_t)s * c->b.block_stride + p / a->block_size] < 0) continue;
            for (int h = 0; h < a->n_kv; h++) {
                size_t at = ref_kv_at(a, &c->b, s, p, h);
                for (int d = 0; d < a->head_dim; d++) {
                    ref_store(c->k, a->kv_dtype, at + (size_t)d, ref_uniform(-1.7, 1.7));
                    ref_store(c->v, a->kv_dtype, at + (size_t)d, ref_uniform(-1.4, 2));
                }
            }
        }
}

/* q_start, ctx_len and a are set. */
static void finish_case(batch_case *c) {
    measure_batch(c);
    int32_t n_blocks = make_blocks(c);
    make_rows(c);
    fill_cache(c, n_blocks);
    size_t rows = (size_t)c->b.n_tokens;
    c->d_qkv = dev_copy(c->qkv, rows * (size_t)c->ld * 2);
    c->d_k = dev_copy(c->k, c->cache_bytes);
    c->d_v = dev_copy(c->v, c->cache_bytes);
    c->d_pos = dev_copy(c->pos, rows * 4);
    c->d_slot = dev_copy(c->slot, rows * 4);
    c->d_table = dev_copy(c->block_table, (size_t)c->b.n_seqs * (size_t)c->b.block_stride * 4);
}

static batch_case *make_case(int n_seqs, int max_ctx) {
    batch_case *c = host_new(sizeof *c);
    do {
        c->a = random_attn();
        make_batch(c, n_seqs, max_ctx);
    } while (c->q_start[n_seqs] == 0);
    finish_case(c);
    return c;
}

static batch_case *make_single(mw_attn a, int ctx, int rows) {
    batch_case *c = host_new(sizeof *c);
    c->a = a;
    c->ctx_len[0] = ctx;
    c->q_start[1] = rows;
    c->b.n_seqs = 1;
    finish_case(c);
    return c;
}

static void free_case(batch_case *c) {
    dev_free(c->d_qkv), dev_free(c->d_k), dev_free(c->d_v), dev_free(c->d_pos), dev_free(c->d_slot);
    dev_free(c->d_table), dev_free(c->d_rope), dev_free(c->d_weights);
    free(c->token), free(c->pos), free(c->slot), free(c->block_table);
    free(c->qkv), free(c->k), free(c->v);
    free(c);
}

/* Sequences first .. first + n - 1 of the case; loose: bounds above the true sizes and two padded sequences. */
static void *run_attention(const batch_case *c, int first, int n, bool loose) {
    int32_t start[MAX_SEQS + 3], ctx[MAX_SEQS + 2], row0 = c->q_start[first], rows = c->q_start[first + n] - row0;
    mw_batch b = c->b;
    int pad = loose ? 2 : 0;
    b.max_rows = b.max_ctx = 0;
    for (int s = 0; s < n + pad; s++) {
        int from = first + (s < n ? s : n), to = first + (s < n ? s + 1 : n);
        start[s] = c->q_start[from] - row0;
        start[s + 1] = c->q_start[to] - row0;
        ctx[s] = s < n ? c->ctx_len[first + s] : 1;
        b.max_rows = start[s + 1] - start[s] > b.max_rows ? start[s + 1] - start[s] : b.max_rows;
        b.max_ctx = ctx[s] > b.max_ctx ? ctx[s] : b.max_ctx;
    }
    int32_t *table = host_new((size_t)(n + pad) * (size_t)b.block_stride * 4);
    memset(table, 0xFF, (size_t)(n + pad) * (size_t)b.block_stride * 4);
    memcpy(table, c->block_table + (int64_t)first * b.block_stride, (size_t)n * (size_t)b.block_stride * 4);
    b.n_seqs = n + pad;
    b.n_tokens = rows;
    if (loose) b.max_ctx = 5 * b.max_ctx + 77, b.max_rows += b.max_rows > 1 ? 100 : 0;
    int32_t *d_start = dev_copy(start, sizeof start), *d_ctx = dev_copy(ctx, sizeof ctx);
    int32_t *d_table = dev_copy(table, (size_t)(n + pad) * (size_t)b.block_stride * 4);
    b.q_start = d_start, b.ctx_len = d_ctx, b.block_table = d_table;
    b.pos = c->d_pos + row0, b.slot = c->d_slot + row0, b.token = NULL;
    size_t bytes = (size_t)(rows * c->ldo) * 2;
    void *d_out = dev_new(bytes), *out = host_new(bytes);
    OK(mw_cuda_attend(D, &c->a, &b, (char *)c->d_qkv + (int64_t)row0 * c->ld * 2, c->ld, c->d_k, c->d_v, d_out,
                      c->ldo));
    dev_get(out, d_out, bytes);
    for (int64_t i = 0; i < rows * c->ldo; i++)
        if (i % c->ldo >= (int64_t)c->a.n_q * c->a.head_dim) CHECK(is_poison(out, D->act, i));
    dev_free(d_start), dev_free(d_ctx), dev_free(d_table), dev_free(d_out);
    free(table);
    return out;
}

static void check_head(const batch_case *c, const void *out, int seq, int row, int h) {
    const mw_attn *a = &c->a;
    int i = c->q_start[seq] + row;
    double exact[256], u = half_step(a->kv_dtype);
    float q[256];
    for (int d = 0; d < a->head_dim; d++)
        q[d] = mw_load_f32(c->qkv, D->act, (size_t)(i * c->ld + a->q_off + (int64_t)h * a->head_dim + d));
    ref_attn_bounds r = ref_attention(a, &c->b, seq, c->pos[i], h, q, c->k, c->v, exact);
    double n = c->pos[i] + 1, e = (a->head_dim + 8) * 0x1p-22 * r.max_abs_score;
    if (a->kv_dtype != D->act) e += u * r.max_abs_score;
    e = 2.1 * (e + 0x1p-20 + (n + 64) * 0x1p-22) * r.sum_v + 1.01 * u * r.sum_v;
    if (a->kv_dtype == MW_F16) e += n * 0x1p-25 * r.max_v * r.max_w;
    for (int d = 0; d < a->head_dim; d++) {
        double got = mw_load_f32(out, D->act, (size_t)(i * c->ldo + (int64_t)h * a->head_dim + d));
        if (near_to(got, exact[d], e, D->act)) continue;
        FAIL("hd=%d n_q=%d n_kv=%d block=%d window=%d kv %s: seq %d of %d (rows %d, ctx %d) row %d head %d column %d: "
             "%.6g, exact %.6g, bound %.3g",
             a->head_dim, a->n_q, a->n_kv, a->block_size, a->window, mw_dtype_name(a->kv_dtype), seq, c->b.n_seqs,
             c->q_start[seq + 1] - c->q_start[seq], c->ctx_len[seq], row, h, d, got, exact[d], e);
        break;
    }
}

/* All rows where they are few, else some, always the first and the last; all heads where the context is short. */
static void check_case(const batch_case *c, const void *out, int first, int n) {
    for (int s = first; s < first + n; s++) {
        int rows = c->q_start[s + 1] - c->q_start[s];
        for (int r = 0; r < rows; r++) {
            if (r != 0 && r != rows - 1 && !ref_chance(8.0 / rows)) continue;
            for (int h = 0; h < c->a.n_q; h++)
                if (c->ctx_len[s] < 1000 || h == c->a.n_q - 1 || ref_chance(2.0 / c->a.n_q))
                    check_head(c, out, s, r, h);
        }
    }
}

static void run_case(const batch_case *c) {
    void *out = run_attention(c, 0, c->b.n_seqs, false), *again = run_attention(c, 0, c->b.n_seqs, false);
    void *loose = run_attention(c, 0, c->b.n_seqs, true);
    CHECK(memcmp(out, again, (size_t)(c->b.n_tokens * c->ldo) * 2) == 0);
    check_case(c, out, 0, c->b.n_seqs);
    check_case(c, loose, 0, c->b.n_seqs);
    for (int s = 0; s < c->b.n_seqs && c->b.n_seqs > 1; s++) {
        size_t bytes = (size_t)((c->q_start[s + 1] - c->q_start[s]) * c->ldo) * 2;
        if (bytes == 0) continue;
        void *alone = run_attention(c, s, 1, false);
        memcpy((char *)out + (size_t)(c->q_start[s] * c->ldo) * 2, alone, bytes);
        check_case(c, out, s, 1);
        free(alone);
    }
    free(out), free(again), free(loose);
}

static void test_random_batches(void) {
    for (int i = 0; i < (g_small ? 8 : 60); i++) {
        batch_case *c = make_case((int)ref_int(1, MAX_SEQS), g_small ? 90 : i % 3 == 0 ? 800 : 350);
        run_case(c);
        free_case(c);
    }
}

/* Every head_dim with every ratio, decode and prefill. */
static void test_shapes(void) {
    static const int dims[] = {64, 80, 96, 128, 256}, groups[] = {1, 2, 4, 5, 7, 8};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 6; j++) {
            if (g_small && (i + j) % 3) continue;
            mw_attn a = random_attn();
            a.head_dim = dims[i];
            a.n_kv = 2;
            a.n_q = 2 * groups[j];
            a.scale = (float)(1 / sqrt(a.head_dim));
            int ctx = (int)ref_int(60, g_small ? 100 : 300);
            for (int prefill = 0; prefill < 2; prefill++) {
                batch_case *c = make_single(a, ctx, prefill ? ctx - (int)ref_int(0, 20) : 1);
                run_case(c);
                free_case(c);
            }
        }
}

/* Contexts at the edges of tiles, parts and blocks, and long ones. */
static void test_contexts(void) {
    static const int edges[] = {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025};
    mw_attn a = random_attn();
    a.head_dim = 128, a.n_kv = 1, a.n_q = 4, a.block_size = 16, a.window = 0, a.kv_dtype = D->act;
    a.scale = (float)(1 / sqrt(128));
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        if (g_small && edges[i] > 129) continue;
        for (int full = 0; full < 2; full++) {
            if (full && edges[i] > 300) continue;
            batch_case *c = make_single(a, edges[i], full ? edges[i] : 1);
            run_case(c);
            free_case(c);
        }
    }
    static const struct {
        int ctx, rows, hd, group, window;
    } longs[] = {{3000, 1, 128, 4, 0},    {8191, 1, 64, 8, 0},     {32768, 1, 128, 4, 0},    {32768, 1, 128, 4, 4096},
                 {32700, 5, 128, 5, 0},   {32768, 90, 128, 4, 0},  {8192, 200, 80, 1, 1000}, {5000, 1, 256, 2, 0},
                 {3000, 1500, 128, 4, 0}, {2500, 900, 64, 8, 700}, {1500, 600, 256, 2, 0}};
    for (size_t i = 0; i < sizeof longs / sizeof *longs && !g_small; i++) {
        a.head_dim = longs[i].hd;
        a.n_q = longs[i].group;
        a.window = longs[i].window;
        a.scale = (float)(1 / sqrt(a.head_dim));
        batch_case *c = make_single(a, longs[i].ctx, longs[i].rows);
        run_case(c);
        free_case(c);
    }
}

/* More than the workspace holds at a time, and enough to fill the device: the results are those of one sequence alone.
 */
static void test_many_sequences(void) {
    enum { N = 600, CTX = 1500 };
    mw_attn a = {.head_dim = 128, .n_kv = 8, .n_q = 64, .block_size = 16, .scale = 0.09f, .kv_dtype = D->act};
    int blocks = (CTX + 15) / 16, width = 64 * 128;
    int32_t *start = host_new((N + 1) * 4), *ctx = host_new(N * 4), *table = host_new((size_t)N * (size_t)blocks * 4);
    size_t cache = (size_t)blocks * 8 * 16 * 128;
    void *kv = host_random(D->act, 1, (int64_t)cache, 1), *q = host_random(D->act, 1, width, 1);
    char *rows = host_new((size_t)N * (size_t)width * 2), *out = host_new((size_t)N * (size_t)width * 2);
    for (int s = 0; s < N; s++) { /* all alike */
        start[s + 1] = s + 1;
        ctx[s] = CTX;
        for (int i = 0; i < blocks; i++) table[s * blocks + i] = i;
        memcpy(rows + (size_t)s * (size_t)width * 2, q, (size_t)width * 2);
    }
    int32_t *d_start = dev_copy(start, (N + 1) * 4), *d_ctx = dev_copy(ctx, N * 4),
            *d_table = dev_copy(table, (size_t)N * (size_t)blocks * 4);
    void *d_kv = dev_copy(kv, cache * 2), *d_q = dev_copy(rows, (size_t)N * (size_t)width * 2),
         *d_out = dev_new((size_t)N * (size_t)width * 2);
    mw_batch b = {.n_tokens = N, .n_seqs = N, .max_rows = 1, .max_ctx = CTX, .q_start = d_start, .ctx_len = d_ctx};
    b.block_table = d_table;
    b.block_stride = blocks;
    OK(mw_cuda_attend(D, &a, &b, d_q, width, d_kv, d_kv, d_out, width));
    dev_get(out, d_out, (size_t)N * (size_t)width * 2);
    CHECK(!is_poison(out, D->act, 0));
    for (int s = 1; s < N; s++) CHECK(memcmp(out, out + (size_t)s * (size_t)width * 2, (size_t)width * 2) == 0);
    b.n_tokens = b.n_seqs = 1; /* cut another way: between blocks instead of inside one */
    OK(mw_cuda_attend(D, &a, &b, d_q, width, d_kv, d_kv, d_out, width));
    dev_get(out + width * 2, d_out, (size_t)width * 2);
    for (int i = 0; i < width; i++) {
        double alone = mw_load_f32(out + width * 2, D->act, (size_t)i), x = mw_load_f32(out, D->act, (size_t)i);
        CHECK(near_to(x, alone, 2 * half_step(D->act), D->act)); /* weights are rounded */
    }
    dev_free(d_start), dev_free(d_ctx), dev_free(d_table), dev_free(d_kv), dev_free(d_q), dev_free(d_out);
    free(start), free(ctx), free(table), free(kv), free(q), free(rows), free(out);
}

/* A NaN in K or V at a seen position is not lost. */
static void test_fault(void) {
    for (int i = 0; i < 4; i++) {
        mw_attn a = random_attn();
        a.window = 0;
        batch_case *c = make_single(a, 200, i < 2 ? 1 : 100);
        size_t at = ref_kv_at(&a, &c->b, 0, (int)ref_int(0, 90), 0);
        for (int d = 0; d < a.head_dim; d++) ref_store(i % 2 ? c->v : c->k, a.kv_dtype, at + (size_t)d, NAN);
        OK(K->to_device(D, i % 2 ? c->d_v : c->d_k, i % 2 ? c->v : c->k, c->cache_bytes));
        void *out = run_attention(c, 0, 1, false);
        for (int r = 0; r < c->b.n_tokens; r++)
            for (int d = 0; d < a.head_dim; d++) CHECK(isnan(mw_load_f32(out, D->act, (size_t)(r * c->ldo + d))));
        free(out);
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

static void load_head(float *x, const void *from, int64_t at, int hd) {
    for (int d = 0; d < hd; d++) x[d] = mw_load_f32(from, D->act, (size_t)(at + d));
}

static void check_rope(const batch_case *c, const float *rope, const float *qw, const float *kw, const void *before,
                       const void *after) {
    const mw_attn *a = &c->a;
    int hd = a->head_dim;
    double x[256];
    float in[256];
    for (int s = 0; s < c->b.n_seqs; s++)
        for (int i = c->q_start[s]; i < c->q_start[s + 1]; i++) {
            const float *angles = rope + (int64_t)c->pos[i] * hd;
            for (int h = 0; h < a->n_q; h++) {
                int64_t at = i * c->ld + a->q_off + (int64_t)h * hd;
                load_head(in, before, at, hd);
                double e = rope_ref(in, hd, qw, a->norm_eps, angles, x) * 0x1p-20;
                for (int d = 0; d < hd; d++)
                    CHECK(near_to(mw_load_f32(after, D->act, (size_t)(at + d)), x[d], e, D->act));
            }
            for (int h = 0; h < a->n_kv; h++) {
                size_t at = ref_kv_at(a, &c->b, s, c->pos[i], h);
                load_head(in, before, i * c->ld + a->k_off + (int64_t)h * hd, hd);
                double e = rope_ref(in, hd, kw, a->norm_eps, angles, x) * 0x1p-20;
                for (int d = 0; d < hd; d++)
                    CHECK(near_to(mw_load_f32(c->k, a->kv_dtype, at + (size_t)d), x[d], e, a->kv_dtype));
                load_head(in, before, i * c->ld + a->v_off + (int64_t)h * hd, hd);
                for (int d = 0; d < hd; d++)
                    CHECK(near_to(mw_load_f32(c->v, a->kv_dtype, at + (size_t)d), in[d], 0, a->kv_dtype));
            }
        }
}

/* Angles and norm weights of a case; the weights are also given to the host. */
static void give_rope(batch_case *c, bool norm, float w[2][256], float **rope) {
    mw_attn *a = &c->a;
    int hd = a->head_dim;
    *rope = host_new((size_t)(c->b.max_ctx * hd) * 4);
    for (int d = 0; d < 256; d++) w[0][d] = (float)ref_uniform(0.5, 2), w[1][d] = (float)ref_uniform(0.5, 2);
    for (int p = 0; p < c->b.max_ctx; p++)
        for (int d = 0; d < hd / 2; d++) {
            double angle = p * pow(10000, -2.0 * d / hd);
            (*rope)[(int64_t)p * hd + 2 * d] = (float)cos(angle);
            (*rope)[(int64_t)p * hd + 2 * d + 1] = (float)sin(angle);
        }
    c->d_weights = dev_copy(w, 2 * 256 * 4);
    c->d_rope = dev_copy(*rope, (size_t)(c->b.max_ctx * hd) * 4);
    a->norm_eps = 1e-5f;
    a->rope = c->d_rope;
    a->q_norm = norm ? c->d_weights : NULL;
    a->k_norm = norm ? c->d_weights + 256 : NULL;
}

static void rope_case(bool norm) {
    batch_case *c = make_case((int)ref_int(1, 4), 120);
    mw_attn *a = &c->a;
    int hd = a->head_dim;
    float w[2][256], *rope;
    size_t row_bytes = (size_t)(c->b.n_tokens * c->ld) * 2;
    void *before = host_random(D->act, c->b.n_tokens, c->ld, 1), *after = host_new(row_bytes);
    give_rope(c, norm, w, &rope);
    memset(c->k, 0xFF, c->cache_bytes);
    memset(c->v, 0xFF, c->cache_bytes);
    OK(K->to_device(D, c->d_k, c->k, c->cache_bytes));
    OK(K->to_device(D, c->d_v, c->v, c->cache_bytes));
    OK(K->to_device(D, c->d_qkv, before, row_bytes));
    mw_batch b = c->b;
    b.pos = c->d_pos;
    b.slot = c->d_slot;
    OK(mw_cuda_rope_kv(D, a, &b, c->d_qkv, c->ld, c->d_k, c->d_v));
    dev_get(after, c->d_qkv, row_bytes);
    dev_get(c->k, c->d_k, c->cache_bytes);
    dev_get(c->v, c->d_v, c->cache_bytes);
    check_rope(c, rope, norm ? w[0] : NULL, norm ? w[1] : NULL, before, after);
    for (int64_t i = 0; i < c->b.n_tokens * c->ld; i++) { /* all but q is as it was */
        int64_t j = i % c->ld - a->q_off;
        if (j < 0 || j >= (int64_t)a->n_q * hd) CHECK(((uint16_t *)before)[i] == ((uint16_t *)after)[i]);
    }
    size_t written = 0; /* exactly the rows' slots */
    for (size_t e = 0; e < c->cache_bytes / 2; e++) written += !is_poison(c->k, a->kv_dtype, (int64_t)e);
    CHECK(written == (size_t)(c->b.n_tokens * a->n_kv * hd));
    free(rope), free(before), free(after);
    free_case(c);
}

/* ---- decode steps: both parts in one kernel -----------------------------------------------------------------------
 */

/* One row a sequence, some of none; the rows' own slots are not written yet. */
static batch_case *make_step(int n_seqs, int max_ctx) {
    batch_case *c = host_new(sizeof *c);
    c->a = random_attn();
    for (int s = 0; s < n_seqs; s++) {
        c->ctx_len[s] = (int)ref_int(1, max_ctx);
        c->q_start[s + 1] = c->q_start[s] + (s == 0 || ref_chance(0.9));
    }
    c->b.n_seqs = n_seqs;
    finish_case(c);
    for (int s = 0; s < n_seqs; s++) {
        if (c->q_start[s + 1] == c->q_start[s]) continue;
        for (int h = 0; h < c->a.n_kv; h++) {
            size_t at = ref_kv_at(&c->a, &c->b, s, c->ctx_len[s] - 1, h);
            for (int d = 0; d < c->a.head_dim; d++) {
                ref_store(c->k, c->a.kv_dtype, at + (size_t)d, NAN);
                ref_store(c->v, c->a.kv_dtype, at + (size_t)d, NAN);
            }
        }
    }
    free(c->qkv);
    c->qkv = host_random(D->act, c->b.n_tokens, c->ld, 1.3);
    return c;
}

/* Rows, caches and output after the step: three arrays side by side, from the kernel for steps or from the two parts.
 */
static char *run_step(const batch_case *c, bool parts, size_t *bytes) {
    const mw_attn *a = &c->a;
    mw_batch b = c->b;
    size_t out_bytes = (size_t)(b.n_tokens * c->ldo) * 2, row_bytes = (size_t)(b.n_tokens * c->ld) * 2;
    void *d_out = dev_new(out_bytes);
    int32_t *d_start = dev_copy(c->q_start, sizeof c->q_start), *d_ctx = dev_copy(c->ctx_len, sizeof c->ctx_len);
    b.pos = c->d_pos, b.slot = c->d_slot, b.block_table = c->d_table, b.q_start = d_start, b.ctx_len = d_ctx;
    OK(K->to_device(D, c->d_qkv, c->qkv, row_bytes));
    OK(K->to_device(D, c->d_k, c->k, c->cache_bytes));
    OK(K->to_device(D, c->d_v, c->v, c->cache_bytes));
    if (parts) {
        OK(mw_cuda_rope_kv(D, a, &b, c->d_qkv, c->ld, c->d_k, c->d_v));
        OK(mw_cuda_attend(D, a, &b, c->d_qkv, c->ld, c->d_k, c->d_v, d_out, c->ldo));
    } else {
        OK(K->attention(D, a, &b, c->d_qkv, c->ld, c->d_k, c->d_v, d_out, c->ldo));
    }
    *bytes = out_bytes + 2 * c->cache_bytes;
    char *result = host_new(*bytes);
    dev_get(result, d_out, out_bytes);
    dev_get(result + out_bytes, c->d_k, c->cache_bytes);
    dev_get(result + out_bytes + c->cache_bytes, c->d_v, c->cache_bytes);
    dev_free(d_out), dev_free(d_start), dev_free(d_ctx);
    return result;
}

static void test_steps(void) {
    for (int i = 0; i < (g_small ? 6 : 60); i++) {
        batch_case *c = make_step((int)ref_int(1, MAX_SEQS), g_small ? 200 : i % 4 == 0 ? 4000 : 600);
        float w[2][256], *rope;
        size_t bytes;
        give_rope(c, i % 3 == 0, w, &rope);
        char *one = run_step(c, false, &bytes), *two = run_step(c, true, &bytes);
        if (memcmp(one, two, bytes) != 0) {
            size_t at = 0, out = (size_t)(c->b.n_tokens * c->ldo);
            while (((uint16_t *)one)[at] == ((uint16_t *)two)[at]) at++;
            FAIL("hd=%d n_q=%d n_kv=%d block=%d window=%d kv %s, %d sequences: %s differs at %zu: %04x, two parts %04x",
                 c->a.head_dim, c->a.n_q, c->a.n_kv, c->a.block_size, c->a.window, mw_dtype_name(c->a.kv_dtype),
                 c->b.n_seqs, at < out ? "output" : "a cache", at < out ? at : at - out, ((uint16_t *)one)[at],
                 ((uint16_t *)two)[at]);
        }
        for (int64_t e = 0; e < c->b.n_tokens * c->ldo; e++)
            if (e % c->ldo < (int64_t)c->a.n_q * c->a.head_dim) CHECK(isfinite(mw_load_f32(one, D->act, (size_t)e)));
        free(one), free(two), free(rope);
        free_case(c);
    }
}

static void test_refusals(void) {
    mw_attn a = {.n_q = 4, .n_kv = 2, .head_dim = 64, .block_size = 16, .kv_dtype = MW_F16};
    mw_batch b = {.n_seqs = 1, .max_rows = 1};
    a.head_dim = 72;
    CHECK(K->attention(D, &a, &b, D->workspace, 512, NULL, NULL, D->workspace, 256) == MW_ERR_INTERNAL);
    a.head_dim = 64, a.block_size = 24;
    CHECK(K->attention(D, &a, &b, D->workspace, 512, NULL, NULL, D->workspace, 256) == MW_ERR_INTERNAL);
    a.block_size = 16, a.kv_dtype = MW_F32;
    CHECK(mw_cuda_rope_kv(D, &a, &b, D->workspace, 512, NULL, NULL) == MW_ERR_INTERNAL);
    a.kv_dtype = MW_F16;
    CHECK(mw_cuda_rope_kv(D, &a, &b, D->workspace, 509, NULL, NULL) == MW_ERR_INTERNAL);
}

static void all(void) {
    for (int i = 0; i < (g_small ? 3 : 12); i++) rope_case(i % 2);
    test_steps();
    test_shapes();
    test_random_batches();
    test_contexts();
    if (!g_small) test_many_sequences();
    test_fault();
    test_refusals();
}

int main(int argc, char **argv) {
    return cuda_test_main(argc, argv, all);
}
