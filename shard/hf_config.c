#include "shard/hf_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *type;
    bool qkv_bias;    /* always has biases on q, k, v */
    bool asks_bias;   /* attention_bias in the config decides */
    bool asks_mlp;    /* mlp_bias in the config decides */
    bool o_has_bias;  /* attention_bias covers o_proj too */
    bool qk_norm;     /* RMSNorm over each head of q and k */
    bool head_dim;    /* head_dim must be given */
    bool use_sliding; /* sliding_window counts only with use_sliding_window */
    int64_t window;   /* what an absent (not null) sliding_window means */
} family;

static const family k_families[] = {
    {.type = "llama", .asks_bias = true, .asks_mlp = true, .o_has_bias = true},
    {.type = "mistral", .window = 4096},
    {.type = "qwen2", .qkv_bias = true, .use_sliding = true},
    {.type = "qwen3", .asks_bias = true, .o_has_bias = true, .qk_norm = true, .head_dim = true, .use_sliding = true},
};

static mw_status find_family(mw_json c, const family **out) {
    const char *type = NULL;
    mw_status st = mw_json_str(c, "model_type", true, &type);
    if (st != MW_OK) return st;
    for (size_t i = 0; i < sizeof k_families / sizeof *k_families; i++)
        if (strcmp(type, k_families[i].type) == 0) {
            *out = &k_families[i];
            return MW_OK;
        }
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: model_type '%.64s' is not one of llama, mistral, qwen2, qwen3", c.where,
                   type);
}

/* A field that must be absent, null, or have a value that changes nothing. */
static mw_status refuse_unless(bool neutral, mw_json c, const char *key) {
    const json_t *v = mw_json_get(c, key);
    if (!v || neutral) return MW_OK;
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    mw_status st = MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %s = %.80s", c.where, key, text ? text : "?");
    free(text);
    return st;
}

/* Mixtures of experts and variants of the block that share a model_type with the plain one. */
static mw_status refuse_variants(mw_json c) {
    static const char *const experts[] = {"num_experts", "num_local_experts", "n_routed_experts",
                                          "num_experts_per_tok"};
    static const char *const neutral_one[] = {"partial_rotary_factor", "residual_multiplier", "embedding_multiplier",
                                              "logits_scaling", "attention_multiplier"};
    static const char *const flags[] = {"use_mrope", "alibi", "use_qk_norm", "is_encoder_decoder"};
    mw_status st = MW_OK;
    for (size_t i = 0; i < sizeof experts / sizeof *experts; i++) {
        int64_t n = 0;
        MW_TRY(st, mw_json_i64(c, experts[i], false, &n));
        if (n > 1) {
            st = MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %s = %lld: mixtures of experts", c.where, experts[i], (long long)n);
            goto fail;
        }
    }
    for (size_t i = 0; i < sizeof neutral_one / sizeof *neutral_one; i++)
        MW_TRY(st, refuse_unless(json_number_value(mw_json_get(c, neutral_one[i])) == 1, c, neutral_one[i]));
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        MW_TRY(st, refuse_unless(json_is_false(mw_json_get(c, flags[i])), c, flags[i]));
    MW_TRY(st, refuse_unless(false, c, "vision_config"));
fail:
    return st;
}

static mw_status check_architecture(mw_json c) {
    const json_t *list = mw_json_get(c, "architectures");
    if (!list || json_array_size(list) == 0) return MW_OK;
    const char *name = json_string_value(json_array_get(list, 0));
    size_t n = name ? strlen(name) : 0, m = strlen("ForCausalLM");
    if (n >= m && strcmp(name + n - m, "ForCausalLM") == 0) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: architecture '%.64s' is not a causal language model", c.where,
                   name ? name : "?");
}

static mw_status parse_sizes(mw_json c, const family *f, mw_model_config *m) {
    mw_status st = MW_OK;
    const char *act = "silu";
    snprintf(m->model_type, sizeof m->model_type, "%s", f->type);
    MW_TRY(st, mw_json_i64(c, "hidden_size", true, &m->hidden));
    MW_TRY(st, mw_json_i64(c, "intermediate_size", true, &m->intermediate));
    MW_TRY(st, mw_json_i64(c, "num_hidden_layers", true, &m->n_layers));
    MW_TRY(st, mw_json_i64(c, "num_attention_heads", true, &m->n_heads));
    MW_TRY(st, mw_json_i64(c, "vocab_size", true, &m->vocab));
    MW_TRY(st, mw_json_i64(c, "max_position_embeddings", true, &m->max_position));
    MW_TRY(st, mw_json_f64(c, "rms_norm_eps", true, &m->rms_eps));
    m->n_kv_heads = m->n_heads; /* Llama 1 and 2 leave it out where every head has its own */
    MW_TRY(st, mw_json_i64(c, "num_key_value_heads", false, &m->n_kv_heads));
    MW_TRY(st, mw_json_i64(c, "head_dim", f->head_dim, &m->head_dim));
    if (!mw_json_get(c, "head_dim")) {
        if (m->n_heads < 1 || m->hidden % m->n_heads)
            return MW_FAIL(MW_ERR_FORMAT,
                           "%s: hidden_size %lld does not divide into %lld heads, and head_dim is missing", c.where,
                           (long long)m->hidden, (long long)m->n_heads);
        m->head_dim = m->hidden / m->n_heads;
    }
    MW_TRY(st, mw_json_str(c, "hidden_act", false, &act));
    if (strcmp(act, "silu") != 0)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: hidden_act '%.64s', expected silu", c.where, act);
    MW_TRY(st, mw_json_bool(c, "tie_word_embeddings", false, &m->tie_embeddings));
    m->qk_norm = f->qk_norm;
fail:
    return st;
}

static mw_status parse_biases(mw_json c, const family *f, mw_hf_config *out) {
    mw_status st = MW_OK;
    bool attn = false, mlp = false;
    MW_TRY(st, mw_json_bool(c, "attention_bias", false, &attn));
    MW_TRY(st, mw_json_bool(c, "mlp_bias", false, &mlp));
    if ((attn && !f->asks_bias && !f->qkv_bias) || (mlp && !f->asks_mlp))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %s = true in a model of type %s", c.where,
                       mlp ? "mlp_bias" : "attention_bias", f->type);
    out->qkv_bias = f->qkv_bias || attn;
    out->o_bias = attn && f->o_has_bias;
    out->mlp_bias = mlp;
fail:
    return st;
}

/* ---- sliding window --------------------------------------------------------------------------------------------- */

/* layer_types, where it is given: *sliding is 1 (all layers), 0 (none); untouched when the field is absent. */
static mw_status parse_layer_types(mw_json c, int64_t n_layers, int *sliding) {
    const json_t *list = mw_json_get(c, "layer_types");
    if (!list) return MW_OK;
    int64_t n = (int64_t)json_array_size(list), windows = 0;
    if (!json_is_array(list) || n != n_layers)
        return MW_FAIL(MW_ERR_FORMAT, "%s: layer_types has %lld entries for %lld layers", c.where, (long long)n,
                       (long long)n_layers);
    for (int64_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, (size_t)i));
        if (s && strcmp(s, "sliding_attention") == 0)
            windows++;
        else if (!s || strcmp(s, "full_attention") != 0)
            return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: layer_types[%lld] = '%.64s'", c.where, (long long)i, s ? s : "?");
    }
    if (windows && windows != n)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: layer_types mixes full and sliding-window attention", c.where);
    *sliding = windows == n;
    return MW_OK;
}

static mw_status parse_window(mw_json c, const family *f, mw_model_config *m) {
    mw_status st = MW_OK;
    int64_t window = json_object_get(c.obj, "sliding_window") ? 0 : f->window, from_layer = 0;
    bool use = true;
    int sliding = -1;
    MW_TRY(st, mw_json_i64(c, "sliding_window", false, &window));
    if (f->use_sliding) {
        use = false;
        MW_TRY(st, mw_json_bool(c, "use_sliding_window", false, &use));
        MW_TRY(st, mw_json_i64(c, "max_window_layers", use && window, &from_layer));
    }
    MW_TRY(st, parse_layer_types(c, m->n_layers, &sliding));
    if (sliding < 0) {
        if (use && window && from_layer > 0 && from_layer < m->n_layers)
            return MW_FAIL(MW_ERR_UNSUPPORTED,
                           "%s: max_window_layers = %lld of %lld layers mixes full and sliding-window attention",
                           c.where, (long long)from_layer, (long long)m->n_layers);
        sliding = use && window && from_layer < m->n_layers;
    }
    if (sliding && strcmp(f->type, "llama") == 0)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: sliding_window = %lld in a model of type llama", c.where,
                       (long long)window);
    if (sliding && window < 1)
        return MW_FAIL(MW_ERR_FORMAT, "%s: sliding_window = %lld, expected a positive number", c.where,
                       (long long)window);
    m->window = sliding ? window : 0;
fail:
    return st;
}

/* ---- rotary embedding ------------------------------------------------------------------------------------------- */

typedef struct {
    bool given;
    const char *type;
    double factor, low, high, theta;
    int64_t original_max;
} rope;

/* rope_scaling (old spelling: "type") or rope_parameters (new: "rope_type", and theta inside). */
static mw_status parse_rope_object(mw_json c, const char *key, rope *r) {
    mw_status st = MW_OK;
    mw_json o;
    const char *old = NULL;
    char where[96];
    *r = (rope){0};
    MW_TRY(st, mw_json_obj(c, key, &o));
    if (!o.obj || json_object_size(o.obj) == 0) return MW_OK;
    snprintf(where, sizeof where, "%s: %s", c.where, key);
    o.where = where;
    r->given = true;
    r->type = "default";
    MW_TRY(st, mw_json_str(o, "type", false, &old));
    if (old) r->type = old;
    MW_TRY(st, mw_json_str(o, "rope_type", false, &r->type));
    if (old && strcmp(old, r->type) != 0)
        return MW_FAIL(MW_ERR_FORMAT, "%s: type '%.32s' and rope_type '%.32s' differ", where, old, r->type);
    if (mw_json_get(o, "full_attention") || mw_json_get(o, "sliding_attention"))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: different parameters per layer type", where);
    MW_TRY(st,
           refuse_unless(json_number_value(mw_json_get(o, "partial_rotary_factor")) == 1, o, "partial_rotary_factor"));
    MW_TRY(st, refuse_unless(false, o, "mrope_section"));
    bool linear = strcmp(r->type, "linear") == 0, llama3 = strcmp(r->type, "llama3") == 0;
    if (!linear && !llama3 && strcmp(r->type, "default") != 0)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: rope type '%.32s' is not one of default, linear, llama3", where,
                       r->type);
    MW_TRY(st, mw_json_f64(o, "rope_theta", false, &r->theta));
    MW_TRY(st, mw_json_f64(o, "factor", linear || llama3, &r->factor));
    MW_TRY(st, mw_json_f64(o, "low_freq_factor", llama3, &r->low));
    MW_TRY(st, mw_json_f64(o, "high_freq_factor", llama3, &r->high));
    MW_TRY(st, mw_json_i64(o, "original_max_position_embeddings", llama3, &r->original_max));
fail:
    return st;
}

static bool same_rope(const rope *a, const rope *b) {
    return strcmp(a->type, b->type) == 0 && a->factor == b->factor && a->low == b->low && a->high == b->high &&
           a->original_max == b->original_max;
}

static mw_status parse_rope(mw_json c, mw_model_config *m) {
    mw_status st = MW_OK;
    rope old, r;
    double theta = 0;
    MW_TRY(st, parse_rope_object(c, "rope_scaling", &old));
    MW_TRY(st, parse_rope_object(c, "rope_parameters", &r));
    if (old.given && r.given && !same_rope(&old, &r))
        return MW_FAIL(MW_ERR_FORMAT, "%s: rope_scaling and rope_parameters disagree", c.where);
    if (!r.given) r = old;
    if (!r.given) r.type = "default";
    if (r.theta == 0) r.theta = old.theta;
    MW_TRY(st, mw_json_f64(c, "rope_theta", false, &theta));
    if (theta != 0 && r.theta != 0 && theta != r.theta)
        return MW_FAIL(MW_ERR_FORMAT, "%s: rope_theta = %g here and %g in rope_parameters", c.where, theta, r.theta);
    m->rope_theta = r.theta != 0 ? r.theta : theta != 0 ? theta : 10000; /* every family's default */
    m->rope_type = strcmp(r.type, "llama3") == 0   ? MW_ROPE_LLAMA3
                   : strcmp(r.type, "linear") == 0 ? MW_ROPE_LINEAR
                                                   : MW_ROPE_DEFAULT;
    if (m->rope_type != MW_ROPE_DEFAULT) m->rope_factor = r.factor;
    if (m->rope_type == MW_ROPE_LLAMA3) {
        m->rope_low_freq = r.low;
        m->rope_high_freq = r.high;
        m->rope_original_max = r.original_max;
    }
fail:
    return st;
}

/* ---- dtype and special tokens ----------------------------------------------------------------------------------- */

static mw_status parse_dtype(mw_json c, mw_hf_config *out) {
    mw_status st = MW_OK;
    const char *s = NULL;
    MW_TRY(st, mw_json_str(c, "torch_dtype", false, &s));
    MW_TRY(st, mw_json_str(c, "dtype", false, &s));
    out->model.act = MW_F16;
    out->act_known = s != NULL;
    if (!s) return MW_OK;
    if (strncmp(s, "torch.", 6) == 0) s += 6;
    if (strcmp(s, "float16") == 0) return MW_OK;
    out->model.act = MW_BF16; /* for float32 models too: bf16 has their range */
    if (strcmp(s, "bfloat16") == 0 || strcmp(s, "float32") == 0) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: dtype '%.32s' is not one of float16, bfloat16, float32", c.where, s);
fail:
    return st;
}

static mw_status one_id(mw_json c, const char *key, const json_t *v, int32_t *out) {
    if (!json_is_integer(v) || json_integer_value(v) < INT32_MIN || json_integer_value(v) > INT32_MAX)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s is not a token id", c.where, key);
    *out = (int32_t)json_integer_value(v);
    return MW_OK;
}

static mw_status parse_eos(mw_json c, mw_model_config *m) {
    mw_status st = MW_OK;
    const json_t *v = mw_json_get(c, "eos_token_id");
    if (!v) return MW_OK;
    m->n_eos = 0;
    if (!json_is_array(v)) {
        MW_TRY(st, one_id(c, "eos_token_id", v, &m->eos_id[0]));
        m->n_eos = 1;
        return MW_OK;
    }
    if (json_array_size(v) > MW_MAX_EOS)
        return MW_FAIL(MW_ERR_LIMIT, "%s: %zu eos_token_ids, at most %d", c.where, json_array_size(v), MW_MAX_EOS);
    for (size_t i = 0; i < json_array_size(v); i++)
        MW_TRY(st, one_id(c, "eos_token_id", json_array_get(v, i), &m->eos_id[m->n_eos++]));
fail:
    return st;
}

static mw_status parse_bos(mw_json c, mw_model_config *m) {
    const json_t *v = mw_json_get(c, "bos_token_id");
    return v ? one_id(c, "bos_token_id", v, &m->bos_id) : MW_OK;
}

mw_status mw_hf_config_parse(mw_hf_config *out, mw_hf_text config, mw_hf_text quantize, const char *quantize_name,
                             mw_hf_text generation) {
    mw_status st = MW_OK;
    mw_hf_config r = {.model = {.bos_id = -1}};
    mw_json c = {NULL, "config.json"}, q = {NULL, quantize_name}, g = {NULL, "generation_config.json"};
    json_t *config_root = NULL, *quantize_root = NULL, *generation_root = NULL;
    const family *f = NULL;
    MW_TRY(st, mw_json_load(&config_root, c.where, config.p, config.n));
    if (quantize.p) MW_TRY(st, mw_json_load(&quantize_root, q.where, quantize.p, quantize.n));
    if (generation.p) MW_TRY(st, mw_json_load(&generation_root, g.where, generation.p, generation.n));
    c.obj = config_root;
    q.obj = quantize_root;
    g.obj = generation_root;
    MW_TRY(st, find_family(c, &f));
    MW_TRY(st, check_architecture(c));
    MW_TRY(st, refuse_variants(c));
    MW_TRY(st, parse_sizes(c, f, &r.model));
    MW_TRY(st, parse_biases(c, f, &r));
    MW_TRY(st, parse_window(c, f, &r.model));
    MW_TRY(st, parse_rope(c, &r.model));
    MW_TRY(st, parse_dtype(c, &r));
    MW_TRY(st, parse_bos(c, &r.model));
    MW_TRY(st, parse_eos(c, &r.model));
    if (g.obj) { /* what generation is to stop at goes before what the model was built with */
        MW_TRY(st, parse_bos(g, &r.model));
        MW_TRY(st, parse_eos(g, &r.model));
    }
    MW_TRY(st, mw_model_config_check(&r.model));
    MW_TRY(st, mw_hf_quant_parse(&r.quant, c, q));
    *out = r;
fail:
    json_decref(config_root);
    json_decref(quantize_root);
    json_decref(generation_root);
    return st;
}
