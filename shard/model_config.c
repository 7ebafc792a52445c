#include "shard/model_config.h"

#include <string.h>

const char *mw_rope_type_name(mw_rope_type t) {
    static const char *const name[] = {"default", "linear", "llama3"};
    return name[t];
}

static mw_status range(const char *field, int64_t v, int64_t lo, int64_t hi) {
    if (v >= lo && v <= hi) return MW_OK;
    return MW_FAIL(MW_ERR_FORMAT, "config: %s = %lld, expected %lld to %lld", field, (long long)v, (long long)lo,
                   (long long)hi);
}

mw_status mw_model_config_check(const mw_model_config *c) {
    mw_status st = MW_OK;
    MW_TRY(st, range("hidden_size", c->hidden, 16, 1 << 20));
    MW_TRY(st, range("intermediate_size", c->intermediate, 16, 1 << 22));
    MW_TRY(st, range("num_hidden_layers", c->n_layers, 1, MW_MAX_LAYERS));
    MW_TRY(st, range("num_attention_heads", c->n_heads, 1, 4096));
    MW_TRY(st, range("num_key_value_heads", c->n_kv_heads, 1, c->n_heads));
    MW_TRY(st, range("head_dim", c->head_dim, 8, 256));
    MW_TRY(st, range("vocab_size", c->vocab, 1, 1 << 24));
    MW_TRY(st, range("max_position_embeddings", c->max_position, 1, 1 << 26));
    MW_TRY(st, range("sliding_window", c->window, 0, 1 << 26));
    if (c->n_heads % c->n_kv_heads)
        return MW_FAIL(MW_ERR_FORMAT, "config: %lld attention heads are not a multiple of %lld key-value heads",
                       (long long)c->n_heads, (long long)c->n_kv_heads);
    if (c->head_dim % 8) /* vector width of every attention kernel */
        return MW_FAIL(MW_ERR_UNSUPPORTED, "config: head_dim = %lld is not a multiple of 8", (long long)c->head_dim);
    if (!(c->rms_eps > 0 && c->rms_eps < 1))
        return MW_FAIL(MW_ERR_FORMAT, "config: rms_norm_eps = %g, expected a number between 0 and 1", c->rms_eps);
    if (!(c->rope_theta > 1 && c->rope_theta < 1e12))
        return MW_FAIL(MW_ERR_FORMAT, "config: rope_theta = %g, expected 1 to 1e12", c->rope_theta);
    if (c->rope_type != MW_ROPE_DEFAULT && !(c->rope_factor >= 1 && c->rope_factor <= 1e6))
        return MW_FAIL(MW_ERR_FORMAT, "config: rope factor = %g, expected 1 to 1e6", c->rope_factor);
    if (c->rope_type == MW_ROPE_LLAMA3 &&
        !(c->rope_low_freq > 0 && c->rope_high_freq > c->rope_low_freq && c->rope_original_max > 0))
        return MW_FAIL(MW_ERR_FORMAT,
                       "config: llama3 rope scaling with low_freq_factor %g, high_freq_factor %g, "
                       "original_max_position_embeddings %lld: expected 0 < low < high and a positive length",
                       c->rope_low_freq, c->rope_high_freq, (long long)c->rope_original_max);
    if (c->act != MW_F16 && c->act != MW_BF16)
        return MW_FAIL(MW_ERR_FORMAT, "config: activation dtype %s, expected f16 or bf16", mw_dtype_name(c->act));
    if (c->bos_id < -1 || c->bos_id >= c->vocab)
        return MW_FAIL(MW_ERR_FORMAT, "config: bos_token_id = %d is outside the vocabulary of %lld", c->bos_id,
                       (long long)c->vocab);
    MW_TRY(st, range("number of eos_token_ids", c->n_eos, 0, MW_MAX_EOS));
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_id[i] < 0 || c->eos_id[i] >= c->vocab)
            return MW_FAIL(MW_ERR_FORMAT, "config: eos_token_id = %d is outside the vocabulary of %lld", c->eos_id[i],
                           (long long)c->vocab);
fail:
    return st;
}

bool mw_model_config_equal(const mw_model_config *a, const mw_model_config *b) {
#define SAME(member) (a->member == b->member)
    if (strcmp(a->model_type, b->model_type) != 0 || !SAME(n_eos)) return false;
    for (int i = 0; i < a->n_eos; i++)
        if (!SAME(eos_id[i])) return false;
    return SAME(hidden) && SAME(intermediate) && SAME(n_layers) && SAME(n_heads) && SAME(n_kv_heads) &&
           SAME(head_dim) && SAME(vocab) && SAME(max_position) && SAME(window) && SAME(rms_eps) && SAME(rope_theta) &&
           SAME(rope_type) && SAME(rope_factor) && SAME(rope_low_freq) && SAME(rope_high_freq) &&
           SAME(rope_original_max) && SAME(tie_embeddings) && SAME(qk_norm) && SAME(act) && SAME(bos_id);
#undef SAME
}
