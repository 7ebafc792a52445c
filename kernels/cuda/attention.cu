/* kernels/cuda/attention.cu - what attention takes, and which kernels a batch needs. */
#include "kernels/cuda/attention.cuh"

mw_status mw_cuda_attn_check(const mw_attn *a, const void *qkv, int64_t ld) {
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

mw_status mw_cuda_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                            const void *k_cache, const void *v_cache, void *out, int64_t ld_out) {
    mw_status st = mw_cuda_attn_check(a, qkv, ld);
    if (st != MW_OK || b->n_seqs <= 0 || b->max_rows <= 0) return st;
    if (!mw_aligned8(out, 8) || ld_out % 2 || b->n_seqs > 65535 || a->n_kv > 2048)
        return MW_FAIL(MW_ERR_INTERNAL, "attention of %d sequences, %d kv heads, to rows of %lld", b->n_seqs, a->n_kv,
                       (long long)ld_out);
    mw_attn_args p = {};
    p.q = (const uint16_t *)qkv + a->q_off;
    p.ld = ld;
    p.k_cache = k_cache;
    p.v_cache = v_cache;
    p.out = out;
    p.ld_out = ld_out;
    p.q_start = b->q_start;
    p.ctx_len = b->ctx_len;
    p.block_table = b->block_table;
    p.block_stride = b->block_stride;
    p.block_shift = __builtin_ctz((unsigned)a->block_size);
    p.n_kv = a->n_kv;
    p.group = a->n_q / a->n_kv;
    p.group_inverse = p.group > 1 ? (uint32_t)(((1ull << 32) + (uint64_t)p.group - 1) / (uint64_t)p.group) : 0;
    p.head_dim = a->head_dim;
    p.window = a->window;
    p.scale_log2 = a->scale * 1.4426950408889634f;
    p.act = d->act;
    p.kv_dtype = a->kv_dtype;
    MW_TRY(st, mw_cuda_attn_decode(d, &p, b->max_rows, b->max_ctx, b->n_seqs));
    if (b->max_rows > 1 && (int64_t)b->max_rows * p.group > MW_DECODE_COLS)
        MW_TRY(st, mw_cuda_attn_prefill(d, &p, b->max_rows, b->n_seqs));
fail:
    return st;
}
