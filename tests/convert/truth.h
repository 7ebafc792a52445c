/* tests/convert/truth.h - random small models whose every weight is known, written in each checkpoint format by
 * encoders that follow the formats' descriptions element by element, and compared with a model.h5 the same way. */
#ifndef MW_TEST_CONVERT_TRUTH_H
#define MW_TEST_CONVERT_TRUTH_H
#include "shard/checkpoint.h"
#include "tests/convert/support.h"

typedef enum { F_GPTQ, F_AWQ, F_CT, F_MARLIN, F_DENSE } format;

/* How to make a model. */
typedef struct spec {
    const char *label;
    const char *family; /* "llama" ... */
    format format;
    int group;         /* 32, 64, 128, -1 */
    bool v2;           /* GPTQ: gptq_v2 */
    bool zeros;        /* random zero points; else all 8 */
    bool act_order;    /* random g_idx */
    bool weight_order; /* compressed-tensors: actorder "weight" in the config */
    bool no_g_idx;     /* GPTQ without the optional tensor */
    bool zero_bias;    /* biases of zeros where the family has none, as AutoGPTQ writes them */
    bool attention_bias, mlp_bias;
    bool tied, tied_head; /* tied_head: an equal lm_head.weight all the same */
    bool head_int4;       /* lm_head quantised too */
    bool mixed;           /* the first o_proj left unquantised */
    bool shape_i32;       /* compressed-tensors: weight_shape as I32 */
    bool flag_in_file;    /* GPTQ, Marlin: quantize_config.json instead of config.json */
    mw_dtype scale_dtype, dense_dtype, norm_dtype;
    int n_files;
    uint64_t seed;
} spec;

/* One linear layer. Rows in the original order of inputs. */
typedef struct linear {
    char hf[96], ours[96];
    int k, n, groups;
    uint8_t *q;     /* [k][n] */
    uint8_t *zero;  /* [groups][n] */
    float *scale;   /* [groups][n], exact in scale_dtype */
    int32_t *group; /* [k] */
    float *bias;    /* [n] or NULL; exact in dense_dtype */
    float *dense;   /* [n][k]; NULL: quantised */
} linear;

typedef struct truth {
    spec spec;
    int hidden, inner, layers, heads, kv_heads, head_dim, vocab;
    linear lin[64];
    int n_lin;
    tensors st;
} truth;

/* Make the model and its tensors (in t->st, not yet written). */
void truth_make(truth *t, const spec *s);
/* Another intermediate_size: the float tensors that have it are zero from then on. F_DENSE only. */
void truth_set_inner(truth *t, int inner);
/* Tensors, config.json (and quantize_config.json) into a folder. */
void truth_write(truth *t, const char *dir);
void truth_free(truth *t);

/* config.json as text: a static buffer. `extra` is put in as further fields ("" or ", \"a\": 1"). */
const char *truth_config(const truth *t, const char *extra);

/* Does the model file hold exactly this model? Returns NULL, or what is wrong (a static buffer). */
const char *truth_compare(const truth *t, const mw_ckpt *c);

/* w[k][n] of a layer, original order. */
float truth_weight(const truth *t, const linear *l, int k, int n);
/* The order of down_proj's inputs (stable by group) of the layer that `l` belongs to; NULL without act-order. */
const int32_t *truth_down_order(const truth *t, const linear *l);

void store_float(void *base, mw_dtype t, size_t i, float x);
const char *st_name(mw_dtype t); /* "F16", "BF16", "F32" */

#endif
