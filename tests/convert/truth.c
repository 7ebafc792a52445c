#include "tests/convert/truth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *st_name(mw_dtype t) {
    return t == MW_F16 ? "F16" : t == MW_BF16 ? "BF16" : "F32";
}

void store_float(void *base, mw_dtype t, size_t i, float x) {
    if (t == MW_F32)
        ((float *)base)[i] = x;
    else
        ((uint16_t *)base)[i] = t == MW_F16 ? mw_f32_to_f16(x) : mw_f32_to_bf16(x);
}

/* A float that f16 and bf16 both hold: 8 significant bits, |x| between 2^-9 and 1. */
static float random_float(rng *r) {
    float x = (float)(128 + rng_below(r, 128)) / 256 / (float)(1 << rng_below(r, 8));
    return rng_below(r, 2) ? x : -x;
}

/* Scales: mostly positive; now and then negative or zero, which are legal. bf16 and f16 hold them exactly. */
static float random_scale(rng *r) {
    int pick = rng_below(r, 40);
    float x = random_float(r) / 64;
    return pick == 0 ? 0 : pick < 4 ? x : x < 0 ? -x : x;
}

/* ---- making ----------------------------------------------------------------------------------------------------- */

static void fill_float(rng *r, tensors *s, const char *name, mw_dtype t, int rows, int cols) {
    void *p = add_tensor(s, name, st_name(t), rows, cols);
    for (int i = 0; i < (rows ? rows : 1) * cols; i++) store_float(p, t, (size_t)i, random_float(r));
}

static void make_linear(truth *t, rng *r, const char *hf, const char *ours, int k, int n, bool bias) {
    const spec *s = &t->spec;
    linear *l = &t->lin[t->n_lin++];
    int group = s->group == -1 ? k : s->group;
    memset(l, 0, sizeof *l);
    snprintf(l->hf, sizeof l->hf, "%s", hf);
    snprintf(l->ours, sizeof l->ours, "%s", ours);
    l->k = k;
    l->n = n;
    l->groups = k / group;
    if (bias) {
        l->bias = malloc((size_t)n * 4);
        for (int i = 0; i < n; i++) l->bias[i] = random_float(r);
    }
    if (s->format == F_DENSE || (s->mixed && strstr(hf, "layers.0.self_attn.o_proj"))) {
        l->dense = malloc((size_t)(k * n) * 4);
        for (int i = 0; i < k * n; i++) l->dense[i] = random_float(r);
        return;
    }
    l->q = malloc((size_t)(k * n));
    l->zero = malloc((size_t)(l->groups * n));
    l->scale = malloc((size_t)(l->groups * n) * 4);
    l->group = malloc((size_t)k * 4);
    for (int i = 0; i < k * n; i++) l->q[i] = (uint8_t)rng_below(r, 16);
    /* GPTQ v1 stores zero - 1: 1..16; all others store the zero: 0..15 */
    int lo = s->format == F_GPTQ && !s->v2 ? 1 : 0;
    for (int i = 0; i < l->groups * n; i++) l->zero[i] = (uint8_t)(s->zeros ? lo + rng_below(r, 16) : 8);
    for (int i = 0; i < l->groups * n; i++) l->scale[i] = random_scale(r);
    int32_t *order = malloc((size_t)k * 4);
    rng_order(r, order, k);
    for (int i = 0; i < k; i++) l->group[s->act_order ? order[i] : i] = i / group;
    free(order);
}

/* ---- encoding --------------------------------------------------------------------------------------------------- */

static void put_nibble(uint32_t *word, int i, int v) {
    *word |= (uint32_t)v << (4 * i);
}

static void *part(truth *t, const linear *l, const char *name, const char *dtype, int rows, int cols) {
    char full[160];
    snprintf(full, sizeof full, "%s.%s", l->hf, name);
    return add_tensor(&t->st, full, dtype, rows, cols);
}

static void encode_gptq(truth *t, const linear *l) {
    const spec *s = &t->spec;
    uint32_t *q = part(t, l, "qweight", "I32", l->k / 8, l->n), *z = part(t, l, "qzeros", "I32", l->groups, l->n / 8);
    void *scales = part(t, l, "scales", st_name(s->scale_dtype), l->groups, l->n);
    for (int k = 0; k < l->k; k++)
        for (int n = 0; n < l->n; n++) put_nibble(&q[k / 8 * l->n + n], k % 8, l->q[k * l->n + n]);
    for (int g = 0; g < l->groups; g++)
        for (int n = 0; n < l->n; n++) {
            put_nibble(&z[g * (l->n / 8) + n / 8], n % 8, l->zero[g * l->n + n] - (s->v2 ? 0 : 1));
            store_float(scales, s->scale_dtype, (size_t)(g * l->n + n), l->scale[g * l->n + n]);
        }
    if (s->no_g_idx) return;
    memcpy(part(t, l, "g_idx", "I32", 0, l->k), l->group, (size_t)l->k * 4);
}

static void encode_awq(truth *t, const linear *l) {
    static const int column[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    int words = l->n / 8;
    uint32_t *q = part(t, l, "qweight", "I32", l->k, words), *z = part(t, l, "qzeros", "I32", l->groups, words);
    void *scales = part(t, l, "scales", st_name(t->spec.scale_dtype), l->groups, l->n);
    for (int w = 0; w < words; w++)
        for (int i = 0; i < 8; i++) {
            int n = 8 * w + column[i];
            for (int k = 0; k < l->k; k++) put_nibble(&q[k * words + w], i, l->q[k * l->n + n]);
            for (int g = 0; g < l->groups; g++) put_nibble(&z[g * words + w], i, l->zero[g * l->n + n]);
        }
    for (int i = 0; i < l->groups * l->n; i++) store_float(scales, t->spec.scale_dtype, (size_t)i, l->scale[i]);
}

static void encode_ct(truth *t, const linear *l) {
    const spec *s = &t->spec;
    uint32_t *q = part(t, l, "weight_packed", "I32", l->n, l->k / 8);
    void *scales = part(t, l, "weight_scale", st_name(s->scale_dtype), l->n, l->groups);
    uint32_t *z = s->zeros ? part(t, l, "weight_zero_point", "I32", l->n / 8, l->groups) : NULL;
    for (int n = 0; n < l->n; n++) {
        for (int k = 0; k < l->k; k++) put_nibble(&q[n * (l->k / 8) + k / 8], k % 8, l->q[k * l->n + n]);
        for (int g = 0; g < l->groups; g++) {
            store_float(scales, s->scale_dtype, (size_t)(n * l->groups + g), l->scale[g * l->n + n]);
            if (z) put_nibble(&z[n / 8 * l->groups + g], n % 8, l->zero[g * l->n + n]);
        }
    }
    if (s->shape_i32) {
        int32_t *p = part(t, l, "weight_shape", "I32", 0, 2);
        p[0] = l->n, p[1] = l->k;
    } else {
        int64_t *p = part(t, l, "weight_shape", "I64", 0, 2);
        p[0] = l->n, p[1] = l->k;
    }
    if (s->act_order) memcpy(part(t, l, "weight_g_idx", "I32", 0, l->k), l->group, (size_t)l->k * 4);
}

static void encode_marlin(truth *t, const linear *l) {
    int row = 2 * l->n;
    uint32_t *b = part(t, l, "B", "I32", l->k / 16, row);
    void *s = part(t, l, "s", "F16", l->groups, l->n);
    for (int w = 0; w < l->k / 16 * row; w++) {
        int kt = w / row, nb = w % row / 128, lane = w % 128 / 4, j = w % 4;
        for (int e = 0; e < 8; e++) {
            int k = 16 * kt + 2 * (lane & 3) + (e >> 2) + 8 * (e & 1);
            int n = 64 * nb + 16 * j + (lane >> 2) + 8 * ((e >> 1) & 1);
            put_nibble(&b[w], e, l->q[k * l->n + n]);
        }
    }
    for (int g = 0; g < l->groups; g++)
        for (int p = 0; p < l->n; p++) {
            int p64 = p % 64, p32 = p % 32, i = p32 / 8, c = p32 % 8;
            int column =
                l->groups > 1 ? p - p64 + (p64 >> 3) + 8 * (p64 & 7) : p - p32 + 2 * i + 8 * (c >> 1) + (c & 1);
            store_float(s, MW_F16, (size_t)(g * l->n + p), l->scale[g * l->n + column]);
        }
}

static void encode(truth *t, const linear *l) {
    const spec *s = &t->spec;
    switch (l->dense ? F_DENSE : s->format) {
    case F_GPTQ: encode_gptq(t, l); break;
    case F_AWQ: encode_awq(t, l); break;
    case F_CT: encode_ct(t, l); break;
    case F_MARLIN: encode_marlin(t, l); break;
    case F_DENSE: {
        void *w = part(t, l, "weight", st_name(s->dense_dtype), l->n, l->k);
        for (int i = 0; i < l->k * l->n; i++) store_float(w, s->dense_dtype, (size_t)i, l->dense[i]);
    }
    }
    if (!l->bias && !s->zero_bias) return;
    if (strcmp(l->hf, "lm_head") == 0) return;
    void *b = part(t, l, "bias", st_name(s->dense_dtype), 0, l->n);
    for (int i = 0; l->bias && i < l->n; i++) store_float(b, s->dense_dtype, (size_t)i, l->bias[i]);
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

static void make_layer(truth *t, rng *r, int layer) {
    const spec *s = &t->spec;
    bool qwen2 = strcmp(s->family, "qwen2") == 0, attn = qwen2 || s->attention_bias;
    int q = t->heads * t->head_dim, kv = t->kv_heads * t->head_dim;
    const struct {
        const char *name;
        int k, n;
        bool bias;
    } list[] = {{"self_attn.q_proj", t->hidden, q, attn},
                {"self_attn.k_proj", t->hidden, kv, attn},
                {"self_attn.v_proj", t->hidden, kv, attn},
                {"self_attn.o_proj", q, t->hidden, attn && !qwen2},
                {"mlp.gate_proj", t->hidden, t->inner, s->mlp_bias},
                {"mlp.up_proj", t->hidden, t->inner, s->mlp_bias},
                {"mlp.down_proj", t->inner, t->hidden, s->mlp_bias}};
    char hf[96], ours[96];
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        snprintf(hf, sizeof hf, "model.layers.%d.%s", layer, list[i].name);
        snprintf(ours, sizeof ours, "layers/%03d/%s", layer, list[i].name);
        *strrchr(ours, '.') = '/';
        make_linear(t, r, hf, ours, list[i].k, list[i].n, list[i].bias);
        encode(t, &t->lin[t->n_lin - 1]);
    }
    snprintf(hf, sizeof hf, "model.layers.%d.input_layernorm.weight", layer);
    fill_float(r, &t->st, hf, s->norm_dtype, 0, t->hidden);
    snprintf(hf, sizeof hf, "model.layers.%d.post_attention_layernorm.weight", layer);
    fill_float(r, &t->st, hf, s->norm_dtype, 0, t->hidden);
    if (strcmp(s->family, "qwen3") != 0) return;
    snprintf(hf, sizeof hf, "model.layers.%d.self_attn.q_norm.weight", layer);
    fill_float(r, &t->st, hf, s->norm_dtype, 0, t->head_dim);
    snprintf(hf, sizeof hf, "model.layers.%d.self_attn.k_norm.weight", layer);
    fill_float(r, &t->st, hf, s->norm_dtype, 0, t->head_dim);
}

static void make_head(truth *t, rng *r) {
    const spec *s = &t->spec;
    if (s->tied) {
        const tensor *e = find_tensor(&t->st, "model.embed_tokens.weight");
        if (s->tied_head)
            memcpy(add_tensor(&t->st, "lm_head.weight", e->dtype, t->vocab, t->hidden), e->data, e->bytes);
        return;
    }
    if (s->head_int4) {
        make_linear(t, r, "lm_head", "lm_head", t->hidden, t->vocab, false);
        encode(t, &t->lin[t->n_lin - 1]);
        return;
    }
    fill_float(r, &t->st, "lm_head.weight", s->dense_dtype, t->vocab, t->hidden);
}

void truth_make(truth *t, const spec *s) {
    rng r = {s->seed};
    memset(t, 0, sizeof *t);
    t->spec = *s;
    bool qwen3 = strcmp(s->family, "qwen3") == 0;
    /* heads * head_dim != hidden for qwen3; K = 128 has one group of 128, K = 384 three */
    t->hidden = 256;
    /* 352 and 400: no multiple of 128, 64 or 16 * 8, so that every loop over K and N has a rest */
    t->inner = s->format == F_MARLIN ? 384 : s->group == 32 ? 352 : s->group == -1 ? 400 : 384;
    t->layers = 2;
    t->heads = 8;
    t->kv_heads = 2;
    t->head_dim = qwen3 ? 64 : 32;
    t->vocab = s->format == F_MARLIN ? 128 : 72 + 8 * rng_below(&r, 8);
    fill_float(&r, &t->st, "model.embed_tokens.weight", s->dense_dtype, t->vocab, t->hidden);
    for (int layer = 0; layer < t->layers; layer++) make_layer(t, &r, layer);
    fill_float(&r, &t->st, "model.norm.weight", s->norm_dtype, 0, t->hidden);
    make_head(t, &r);
}

void truth_set_inner(truth *t, int inner) {
    for (int i = 0; i < t->st.n; i++) {
        tensor *x = &t->st.t[i];
        for (int d = 0; d < x->n_dims; d++) {
            if (x->dim[d] != t->inner) continue;
            x->dim[d] = inner;
            x->bytes = x->bytes / (size_t)t->inner * (size_t)inner;
            free(x->data);
            x->data = calloc(x->bytes, 1);
        }
    }
    t->inner = inner;
}

void truth_free(truth *t) {
    for (int i = 0; i < t->n_lin; i++) {
        free(t->lin[i].q);
        free(t->lin[i].zero);
        free(t->lin[i].scale);
        free(t->lin[i].group);
        free(t->lin[i].bias);
        free(t->lin[i].dense);
    }
    free_tensors(&t->st);
}

/* ---- config ----------------------------------------------------------------------------------------------------- */

static const char *quantization(const truth *t) {
    static char text[1024];
    const spec *s = &t->spec;
    if (s->format == F_GPTQ)
        snprintf(text, sizeof text,
                 "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":%d,\"desc_act\":%s,\"sym\":%s,"
                 "\"lm_head\":%s,\"checkpoint_format\":\"%s\"}",
                 s->group, s->act_order ? "true" : "false", s->zeros && s->seed % 2 ? "false" : "true",
                 s->head_int4 ? "true" : "false", s->v2 ? "gptq_v2" : "gptq");
    else if (s->format == F_AWQ)
        snprintf(text, sizeof text,
                 "{\"quant_method\":\"awq\",\"w_bit\":4,\"q_group_size\":%d,\"zero_point\":true,\"version\":\"GEMM\"}",
                 s->group);
    else if (s->format == F_MARLIN)
        snprintf(text, sizeof text,
                 "{\"bits\":4,\"group_size\":%d,\"desc_act\":false,\"sym\":true,\"is_marlin_format\":true}", s->group);
    else
        snprintf(text, sizeof text,
                 "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"ignore\":[\"lm_head\"],"
                 "\"kv_cache_scheme\":null,\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],"
                 "\"input_activations\":null,\"output_activations\":null,\"weights\":{\"num_bits\":4,\"type\":\"int\","
                 "\"symmetric\":%s,\"strategy\":\"%s\",\"group_size\":%s,\"actorder\":%s}}}}",
                 s->zeros ? "false" : "true", s->group == -1 ? "channel" : "group",
                 s->group == -1   ? "null"
                 : s->group == 32 ? "32"
                 : s->group == 64 ? "64"
                                  : "128",
                 s->act_order      ? "\"group\""
                 : s->weight_order ? "\"weight\""
                                   : "null");
    return text;
}

const char *truth_config(const truth *t, const char *extra) {
    static char text[4096];
    const spec *s = &t->spec;
    size_t n = (size_t)snprintf(
        text, sizeof text,
        "{\"model_type\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,"
        "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,"
        "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
        "\"tie_word_embeddings\":%s,\"attention_bias\":%s,\"mlp_bias\":%s,\"torch_dtype\":\"%s\","
        "\"bos_token_id\":1,\"eos_token_id\":2,\"sliding_window\":null%s",
        s->family, t->hidden, t->inner, t->layers, t->heads, t->kv_heads, t->head_dim, t->vocab,
        s->tied ? "true" : "false", s->attention_bias ? "true" : "false", s->mlp_bias ? "true" : "false",
        s->dense_dtype == MW_F16    ? "float16"
        : s->dense_dtype == MW_BF16 ? "bfloat16"
                                    : "float32",
        extra);
    if (s->format != F_DENSE && !s->flag_in_file)
        n += (size_t)snprintf(text + n, sizeof text - n, ",\"quantization_config\":%s", quantization(t));
    snprintf(text + n, sizeof text - n, "}");
    return text;
}

void truth_write(truth *t, const char *dir) {
    write_tensors(&t->st, dir, t->spec.n_files ? t->spec.n_files : 1);
    write_text(dir, "config.json", truth_config(t, ""));
    if (t->spec.flag_in_file) write_text(dir, "quantize_config.json", quantization(t));
}
