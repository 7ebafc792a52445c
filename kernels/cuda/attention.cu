/* kernels/cuda/attention.cu - what attention takes, and which kernels a batch needs. */
#include "kernels/cuda/attention.cuh"

static mw_status check_shape(const mw_attn *a, const void *qkv, int64_t ld) {
    if (a->head_dim < 16 || a->head_dim > 256 || a->head_dim % 16)
        return MW_FAIL(MW_ERR_INTERNAL, "head_dim %d: expected a multiple of 16 up to 256", a->head_dim);
    if (a->n_kv < 1 || a->n_q < 1 || a->n_q % a->n_kv)
        return MW_FAIL(MW_ERR_INTERNAL, "%d q heads over %d kv heads", a->n_q, a->n_kv);
    if (a->block_size < 16 || (a->block_size & (a->block_size - 1)) || a->window < 0)
        return MW_FAIL(MW_ERR_INTERNAL, "KV blocks of %d positions, window %d: expected a power of two from 16 on",
                       a->block_size, a->window);
    if (a->kv_dtype != MW_F16 && a->kv_dtype != MW_BF16)
        return MW_FAIL(MW_ERR_INTERNAL, "KV cache is %s, expected f16 or bf16", mw_dtype_name(a->kv_dtype));
    if (!mw_aligned8(qkv, ld) || a->q_off % 8 || a->k_off % 8 || a->v_off % 8)
        return MW_FAIL(MW_ERR_INTERNAL, "heads at columns %lld, %lld, %lld of rows of %lld: expected multiples of 8",
                       (long long)a->q_off, (long long)a->k_off, (long long)a->v_off, (long long)ld);
    return MW_OK;
}

static mw_attn_args args_of(const mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld) {
    mw_attn_args p = {};
    p.q = (const uint16_t *)qkv + a->q_off;
    p.ld = ld;
    p.q_start = b->q_start;
    p.ctx_len = b->ctx_len;
    p.block_table = b->block_table;
    p.block_stride = b->block_stride;
    p.block_shift = __builtin_ctz((unsigned)a->block_size);
    p.rows = b->n_tokens;
    p.n_kv = a->n_kv;
    p.group = a->n_q / a->n_kv;
    p.group_inverse = p.group > 1 ? (uint32_t)(((1ull << 32) + (uint64_t)p.group - 1) / (uint64_t)p.group) : 0;
    p.head_dim = a->head_dim;
    p.window = a->window;
    p.scale_log2 = a->scale * 1.4426950408889634f;
    p.act = d->act;
    p.kv_dtype = a->kv_dtype;
    return p;
}

static mw_rope_args rope_of(const mw_attn *a, const mw_batch *b, const void *qkv, void *k_cache, void *v_cache) {
    mw_rope_args r = {};
    r.table = a->rope;
    r.q_norm = a->q_norm;
    r.k_norm = a->k_norm;
    r.k = (const uint16_t *)qkv + a->k_off;
    r.v = (const uint16_t *)qkv + a->v_off;
    r.pos = b->pos;
    r.slot = b->slot;
    r.k_cache = k_cache;
    r.v_cache = v_cache;
    r.eps = a->norm_eps;
    return r;
}

/* The attention of a batch; with r, q, k and v of its rows are not rotated and stored yet: every sequence has one row.
 */
static mw_status attend(mw_dev *d, const mw_attn *a, const mw_batch *b, const mw_rope_args *r, const void *qkv,
                        int64_t ld, const void *k_cache, const void *v_cache, void *out, int64_t ld_out) {
    mw_status st = check_shape(a, qkv, ld);
    if (st != MW_OK || b->n_seqs <= 0 || b->max_rows <= 0) return st;
    if (!mw_aligned8(out, 8) || ld_out % 2 || b->n_seqs > 65535 || a->n_kv > 2048)
        return MW_FAIL(MW_ERR_INTERNAL, "attention of %d sequences, %d kv heads, to rows of %lld", b->n_seqs, a->n_kv,
                       (long long)ld_out);
    mw_attn_args p = args_of(d, a, b, qkv, ld);
    p.k_cache = k_cache;
    p.v_cache = v_cache;
    p.out = out;
    p.ld_out = ld_out;
    MW_TRY(st, mw_cuda_attn_decode(d, &p, r, b->max_rows, b->max_ctx, b->n_seqs));
    if (b->max_rows > 1 && (int64_t)b->max_rows * p.group > MW_DECODE_COLS) {
        bool taken;
        MW_TRY(st, mw_cuda_attn_hopper(d, &p, b->max_rows, b->n_seqs, &taken));
        if (!taken) MW_TRY(st, mw_cuda_attn_prefill(d, &p, b->max_rows, b->n_seqs));
    }
fail:
    return st;
}

mw_status mw_cuda_rope_kv(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                          void *v_cache) {
    mw_status st = check_shape(a, qkv, ld);
    if (st != MW_OK) return st;
    mw_attn_args p = args_of(d, a, b, qkv, ld);
    mw_rope_args r = rope_of(a, b, qkv, k_cache, v_cache);
    return mw_cuda_rope_rows(d, &p, &r, b->n_tokens);
}

mw_status mw_cuda_attend(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                         const void *k_cache, const void *v_cache, void *out, int64_t ld_out) {
    return attend(d, a, b, NULL, qkv, ld, k_cache, v_cache, out, ld_out);
}

mw_status mw_cuda_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                            void *v_cache, void *out, int64_t ld_out) {
    mw_status st = MW_OK;
    if (b->max_rows == 1) {
        mw_rope_args r = rope_of(a, b, qkv, k_cache, v_cache);
        return attend(d, a, b, &r, qkv, ld, k_cache, v_cache, out, ld_out);
    }
    MW_TRY(st, mw_cuda_rope_kv(d, a, b, qkv, ld, k_cache, v_cache));
    MW_TRY(st, attend(d, a, b, NULL, qkv, ld, k_cache, v_cache, out, ld_out));
fail:
    return st;
}
