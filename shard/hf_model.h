/* shard/hf_model.h - a Hugging Face folder, surveyed: every weight the model needs, with the tensors that hold it.
 *
 * The survey reads only headers. When it succeeds every tensor has the dtype and shape that the config asks for, none
 * is missing and none is unknown; what can still go wrong later is in the data (NaN, a bad g_idx) or in reading it.
 */
#ifndef MW_SHARD_HF_MODEL_H
#define MW_SHARD_HF_MODEL_H
#include "shard/hf_config.h"
#include "shard/roles.h"
#include "shard/st_folder.h"
MW_BEGIN_DECLS

typedef struct mw_hf_weight {
    char name[MW_NAME_MAX];    /* ours: "layers/000/self_attn/q_proj" */
    char hf[MW_NAME_MAX + 16]; /* theirs: "model.layers.0.self_attn.q_proj" */
    mw_shape shape;
    bool int4;                   /* quantised in the folder; else `main` is a float tensor */
    int64_t k, n;                /* inputs and outputs (VECTOR: 1 and elements) */
    int64_t group;               /* rows of k that share a scale; k for per-channel. int4 only */
    bool wants_bias;             /* the config says that this layer has one */
    const mw_st_tensor *main;    /* qweight, weight_packed, B or weight */
    const mw_st_tensor *scales;  /* int4 only */
    const mw_st_tensor *zeros;   /* NULL: every zero is 8 */
    const mw_st_tensor *g_idx;   /* NULL: groups in order */
    const mw_st_tensor *bias;    /* NULL: none */
    const mw_st_tensor *extents; /* compressed-tensors: weight_shape */
} mw_hf_weight;

typedef struct mw_hf_model {
    mw_st_folder *folder;
    mw_hf_config cfg;
    mw_hf_weight *weight;
    size_t n_weights;
    const mw_st_tensor *tied_head; /* an lm_head.weight beside tie_word_embeddings: must equal embed_tokens */
    uint64_t bytes;                /* of all tensors that will be read */
} mw_hf_model;

/* `cfg` is copied; the folder is opened here. */
MW_MUST_CHECK mw_status mw_hf_model_open(mw_hf_model **out, const char *dir, const mw_hf_config *cfg);
void mw_hf_model_close(mw_hf_model *m); /* NULL allowed */

/* NULL when the model has no weight of that name (ours). */
const mw_hf_weight *mw_hf_find(const mw_hf_model *m, const char *name);

/* "layers/003/mlp/up_proj" -> "model.layers.3.mlp.up_proj", "lm_head" -> "lm_head"; out holds MW_NAME_MAX + 16 bytes.
 */
void mw_hf_name(const char *name, char *out);
/* Does the family's layer have a bias, by config? `name` is ours. */
bool mw_hf_wants_bias(const mw_hf_config *cfg, const char *name);

/* The float dtype of a tensor of the survey (f16, bf16 or f32). */
mw_dtype mw_hf_dtype(const mw_st_tensor *t);

MW_END_DECLS
#endif
