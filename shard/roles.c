#include "shard/roles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Extents that a row of the table can ask for. */
typedef enum { D_ONE, D_HIDDEN, D_MLP, D_Q, D_KV, D_HEAD, D_VOCAB } dim;

/* Weights that only some models have. */
typedef enum { ALWAYS, IF_QK_NORM, IF_UNTIED } when;

typedef struct {
    const char *name; /* a leading "*" stands for "layers/NNN" */
    mw_role role;
    mw_shape shape;
    dim k, n;
    when when;
} row;

static const row k_rows[] = {
    {"embed_tokens", MW_ROLE_VOCAB, MW_SHAPE_TABLE, D_HIDDEN, D_VOCAB, ALWAYS},
    {"*/input_layernorm", MW_ROLE_REPLICATED, MW_SHAPE_VECTOR, D_ONE, D_HIDDEN, ALWAYS},
    {"*/self_attn/q_proj", MW_ROLE_COLUMN, MW_SHAPE_LINEAR, D_HIDDEN, D_Q, ALWAYS},
    {"*/self_attn/k_proj", MW_ROLE_COLUMN, MW_SHAPE_LINEAR, D_HIDDEN, D_KV, ALWAYS},
    {"*/self_attn/v_proj", MW_ROLE_COLUMN, MW_SHAPE_LINEAR, D_HIDDEN, D_KV, ALWAYS},
    {"*/self_attn/q_norm", MW_ROLE_REPLICATED, MW_SHAPE_VECTOR, D_ONE, D_HEAD, IF_QK_NORM},
    {"*/self_attn/k_norm", MW_ROLE_REPLICATED, MW_SHAPE_VECTOR, D_ONE, D_HEAD, IF_QK_NORM},
    {"*/self_attn/o_proj", MW_ROLE_ROW, MW_SHAPE_LINEAR, D_Q, D_HIDDEN, ALWAYS},
    {"*/post_attention_layernorm", MW_ROLE_REPLICATED, MW_SHAPE_VECTOR, D_ONE, D_HIDDEN, ALWAYS},
    {"*/mlp/gate_proj", MW_ROLE_COLUMN, MW_SHAPE_LINEAR, D_HIDDEN, D_MLP, ALWAYS},
    {"*/mlp/up_proj", MW_ROLE_COLUMN, MW_SHAPE_LINEAR, D_HIDDEN, D_MLP, ALWAYS},
    {"*/mlp/down_proj", MW_ROLE_ROW, MW_SHAPE_LINEAR, D_MLP, D_HIDDEN, ALWAYS},
    {"norm", MW_ROLE_REPLICATED, MW_SHAPE_VECTOR, D_ONE, D_HIDDEN, ALWAYS},
    {"lm_head", MW_ROLE_VOCAB, MW_SHAPE_LINEAR, D_HIDDEN, D_VOCAB, IF_UNTIED},
};
#define N_ROWS (sizeof k_rows / sizeof *k_rows)

static int64_t extent(const mw_model_config *c, dim d) {
    switch (d) {
    case D_ONE: return 1;
    case D_HIDDEN: return c->hidden;
    case D_MLP: return c->intermediate;
    case D_Q: return c->n_heads * c->head_dim;
    case D_KV: return c->n_kv_heads * c->head_dim;
    case D_HEAD: return c->head_dim;
    case D_VOCAB: return c->vocab;
    }
    return 0;
}

static bool has(const mw_model_config *c, when w) {
    return w == ALWAYS || (w == IF_QK_NORM && c->qk_norm) || (w == IF_UNTIED && !c->tie_embeddings);
}

/* NNN of a name that begins with "layers/NNN"; -1 for other names. */
static int layer_of(const char *name) {
    size_t at = strlen("layers/");
    int layer = 0;
    if (strncmp(name, "layers/", at) != 0) return -1;
    for (int i = 0; i < 3; i++, at++) {
        if (name[at] < '0' || name[at] > '9') return -1;
        layer = 10 * layer + (name[at] - '0');
    }
    return layer;
}

static const row *find(const char *name, int *layer) {
    *layer = layer_of(name);
    const char *tail = *layer >= 0 ? name + strlen("layers/NNN") : name;
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *pattern = k_rows[i].name;
        bool starred = *pattern == '*';
        if (starred == (*layer >= 0) && strcmp(starred ? pattern + 1 : pattern, tail) == 0) return &k_rows[i];
    }
    return NULL;
}

bool mw_roles_expect(const mw_model_config *cfg, const char *name, mw_expected *out) {
    int layer;
    const row *r = find(name, &layer);
    if (!r || !has(cfg, r->when) || layer >= cfg->n_layers) return false;
    *out = (mw_expected){.role = r->role, .shape = r->shape, .k = extent(cfg, r->k), .n = extent(cfg, r->n)};
    return true;
}

mw_status mw_plan_role(const char *weight, mw_role *role) {
    int layer;
    const row *r = find(weight, &layer);
    if (!r) return MW_FAIL(MW_ERR_FORMAT, "unknown weight '%s': no rule says how to shard it", weight);
    *role = r->role;
    return MW_OK;
}

const char *mw_role_name(mw_role r) {
    static const char *const name[] = {"column", "row", "vocab", "replicated"};
    return name[r];
}

mw_status mw_roles_names(const mw_model_config *cfg, char (**names)[MW_NAME_MAX], size_t *count) {
    mw_status st = MW_OK;
    char(*list)[MW_NAME_MAX] = NULL;
    size_t n = 0;
    MW_TRY(st, mw_calloc((void **)&list, (size_t)cfg->n_layers * N_ROWS + N_ROWS, MW_NAME_MAX, "weight names"));
    bool layers_done = false;
    for (size_t i = 0; i < N_ROWS; i++) {
        if (k_rows[i].name[0] != '*') {
            if (has(cfg, k_rows[i].when)) snprintf(list[n++], MW_NAME_MAX, "%s", k_rows[i].name);
            continue;
        }
        if (layers_done) continue;
        layers_done = true;
        for (int layer = 0; layer < cfg->n_layers; layer++)
            for (size_t j = i; j < N_ROWS; j++)
                if (k_rows[j].name[0] == '*' && has(cfg, k_rows[j].when))
                    snprintf(list[n++], MW_NAME_MAX, "layers/%03d%s", layer, k_rows[j].name + 1);
    }
    *names = list;
    *count = n;
fail:
    return st;
}
