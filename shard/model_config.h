/* shard/model_config.h - what a decoder-only model is, in numbers. Filled from config.json by marlin-convert, stored as
 * attributes of /config in model.h5, read back by everything else. Formulas: docs/MODEL.md. */
#ifndef MW_SHARD_MODEL_CONFIG_H
#define MW_SHARD_MODEL_CONFIG_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/dtype.h"
MW_BEGIN_DECLS

#define MW_MAX_EOS    16
#define MW_MAX_LAYERS 1000

typedef enum { MW_ROPE_DEFAULT, MW_ROPE_LINEAR, MW_ROPE_LLAMA3 } mw_rope_type;

typedef struct mw_model_config {
    char model_type[32]; /* "llama", "mistral", "qwen2", "qwen3" */
    int64_t hidden, intermediate, n_layers, n_heads, n_kv_heads, head_dim, vocab;
    int64_t max_position; /* positions the model was trained for */
    int64_t window;       /* sliding window in tokens, 0: none */
    double rms_eps, rope_theta;
    mw_rope_type rope_type;
    double rope_factor, rope_low_freq, rope_high_freq; /* linear: factor; llama3: all three */
    int64_t rope_original_max;                         /* llama3 */
    bool tie_embeddings;                               /* lm_head is embed_tokens */
    bool qk_norm;                                      /* RMSNorm over head_dim on q and k (Qwen3) */
    mw_dtype act;                                      /* f16 or bf16: what the model's activations are meant to be */
    int32_t bos_id;                                    /* -1: none */
    int32_t eos_id[MW_MAX_EOS];
    int n_eos;
} mw_model_config;

/* Ranges and divisibility that every later layer relies on. MW_ERR_FORMAT names the field and the value. */
MW_MUST_CHECK mw_status mw_model_config_check(const mw_model_config *c);

/* Member by member: padding and what lies behind the ends of model_type and eos_id do not count. */
bool mw_model_config_equal(const mw_model_config *a, const mw_model_config *b);

const char *mw_rope_type_name(mw_rope_type t); /* "default", "linear", "llama3" */

MW_END_DECLS
#endif
