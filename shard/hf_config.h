/* shard/hf_config.h - config.json (with quantize_config.json and generation_config.json) -> numbers.
 *
 * Families: llama (2, 3, 3.1, 3.2), mistral, qwen2 (2, 2.5), qwen3. Every field that would change the arithmetic in a
 * way we do not have is refused by name (MW_ERR_UNSUPPORTED); a field that is missing or of a wrong type is
 * MW_ERR_FORMAT. What the file says about its quantisation only says how tensors are laid out: which layers are
 * quantised, zero points and the order of rows are taken from the tensors themselves.
 */
#ifndef MW_SHARD_HF_CONFIG_H
#define MW_SHARD_HF_CONFIG_H
#include "shard/hf_json.h"
#include "shard/model_config.h"
MW_BEGIN_DECLS

typedef enum { MW_HF_DENSE, MW_HF_GPTQ, MW_HF_AWQ, MW_HF_CT, MW_HF_MARLIN } mw_hf_format;

/* "dense", "gptq", "awq", "compressed-tensors", "marlin" */
const char *mw_hf_format_name(mw_hf_format f);

typedef struct mw_hf_quant {
    mw_hf_format format;
    int64_t group_size; /* 32, 64, 128, or -1: one group per output channel */
    int zero_offset;    /* GPTQ: what to add to a stored zero: 1 in v1 files, 0 in gptq_v2 */
    bool act_order;     /* declared; g_idx must then be there */
    bool asymmetric;    /* compressed-tensors: declared; zero points must then be there */
} mw_hf_quant;

typedef struct mw_hf_config {
    mw_model_config model; /* act is meaningful only if act_known */
    bool act_known;
    bool qkv_bias, o_bias, mlp_bias; /* the family's linear layers have a bias there */
    mw_hf_quant quant;
    bool own_head; /* not of the files: lm_head is a weight of its own where config.json ties it to the embedding */
} mw_hf_config;

/* The texts of the folder. quantize and generation may be {NULL, 0}. Borrowed. */
typedef struct mw_hf_text {
    const char *p;
    size_t n;
} mw_hf_text;

/* quantize_name: name of the file that `quantize` was read from, for errors. */
MW_MUST_CHECK mw_status mw_hf_config_parse(mw_hf_config *out, mw_hf_text config, mw_hf_text quantize,
                                           const char *quantize_name, mw_hf_text generation);

/* The quantisation half (hf_quant_config.c). config: the root of config.json; quantize: root of quantize_config.json or
 * NULL. */
MW_MUST_CHECK mw_status mw_hf_quant_parse(mw_hf_quant *out, mw_json config, mw_json quantize);

MW_END_DECLS
#endif
