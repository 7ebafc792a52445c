/* config.json -> numbers: what each family's fields mean, and every refusal with its code and text. A case is a base
 * config with some fields set (or removed: null as a C string). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/hf_config.h"

static const char k_base[] =
    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":4096,"
    "\"intermediate_size\":14336,\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,"
    "\"vocab_size\":128256,\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-5,\"rope_theta\":500000.0,"
    "\"hidden_act\":\"silu\",\"torch_dtype\":\"bfloat16\",\"bos_token_id\":128000,\"eos_token_id\":128001}";

/* The base with the fields of the JSON object `set` put in; a field "x": "-" is removed. */
static char *with(const char *base, const char *set) {
    json_error_t err;
    json_t *root = json_loads(base, 0, &err), *more = json_loads(set, 0, &err), *v;
    const char *key;
    if (!root || !more) fail_msg("bad JSON in the test: %s: %s", set, err.text);
    json_object_foreach(more, key, v) {
        const char *s = json_string_value(v);
        if (s && strcmp(s, "-") == 0)
            json_object_del(root, key);
        else
            json_object_set(root, key, v);
    }
    char *text = json_dumps(root, 0);
    json_decref(root);
    json_decref(more);
    return text;
}

static mw_status parse(const char *config, const char *quantize, const char *generation, mw_hf_config *out) {
    return mw_hf_config_parse(out, (mw_hf_text){config, strlen(config)},
                              (mw_hf_text){quantize, quantize ? strlen(quantize) : 0}, "quantize_config.json",
                              (mw_hf_text){generation, generation ? strlen(generation) : 0});
}

static mw_hf_config parse_ok(const char *set, const char *quantize, const char *generation) {
    mw_hf_config c;
    char *text = with(k_base, set);
    if (parse(text, quantize, generation, &c) != MW_OK) fail_msg("%s: %s", set, mw_error_text());
    free(text);
    return c;
}

/* ---- what is understood ----------------------------------------------------------------------------------------- */

static void test_llama(void **state) {
    (void)state;
    mw_hf_config c = parse_ok("{}", NULL, NULL);
    assert_string_equal(c.model.model_type, "llama");
    assert_int_equal(c.model.head_dim, 128);
    assert_int_equal(c.model.n_kv_heads, 8);
    assert_int_equal(c.model.act, MW_BF16);
    assert_true(c.act_known && !c.model.tie_embeddings && !c.model.qk_norm && !c.qkv_bias && !c.o_bias && !c.mlp_bias);
    assert_int_equal(c.model.bos_id, 128000);
    assert_int_equal(c.model.n_eos, 1);
    assert_int_equal(c.model.rope_type, MW_ROPE_DEFAULT);
    assert_true(c.model.rope_theta == 500000);
    assert_int_equal(c.quant.format, MW_HF_DENSE);
    /* Llama 1 and 2: no num_key_value_heads, no rope_theta */
    c = parse_ok("{\"num_key_value_heads\":\"-\",\"rope_theta\":\"-\",\"torch_dtype\":\"float16\"}", NULL, NULL);
    assert_int_equal(c.model.n_kv_heads, 32);
    assert_true(c.model.rope_theta == 10000);
    assert_int_equal(c.model.act, MW_F16);
    c = parse_ok("{\"attention_bias\":true,\"mlp_bias\":true,\"dtype\":\"float32\",\"torch_dtype\":\"-\"}", NULL, NULL);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias);
    assert_int_equal(c.model.act, MW_BF16);
    assert_false(parse_ok("{\"torch_dtype\":\"-\"}", NULL, NULL).act_known);
}

static void test_rope(void **state) {
    (void)state;
    static const char llama3[] = "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                                 "\"original_max_position_embeddings\":8192";
    char set[512];
    snprintf(set, sizeof set, "{\"rope_scaling\":{\"rope_type\":\"llama3\",%s}}", llama3);
    mw_hf_config c = parse_ok(set, NULL, NULL);
    assert_int_equal(c.model.rope_type, MW_ROPE_LLAMA3);
    assert_true(c.model.rope_factor == 8 && c.model.rope_low_freq == 1 && c.model.rope_high_freq == 4);
    assert_int_equal(c.model.rope_original_max, 8192);
    assert_true(c.model.rope_theta == 500000);
    /* the new spelling, theta inside; both spellings when they agree */
    snprintf(set, sizeof set,
             "{\"rope_theta\":\"-\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":7e5,%s}}", llama3);
    c = parse_ok(set, NULL, NULL);
    assert_int_equal(c.model.rope_type, MW_ROPE_LLAMA3);
    assert_true(c.model.rope_theta == 700000);
    c = parse_ok("{\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},"
                 "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":500000}}",
                 NULL, NULL);
    assert_int_equal(c.model.rope_type, MW_ROPE_LINEAR);
    assert_true(c.model.rope_factor == 4);
    c = parse_ok("{\"rope_scaling\":null,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":500000}}", NULL,
                 NULL);
    assert_int_equal(c.model.rope_type, MW_ROPE_DEFAULT);
}

static void test_families(void **state) {
    (void)state;
    static const char mistral[] = "{\"model_type\":\"mistral\",\"architectures\":[\"MistralForCausalLM\"]%s}";
    char set[512];
    snprintf(set, sizeof set, mistral, ",\"sliding_window\":4096");
    assert_int_equal(parse_ok(set, NULL, NULL).model.window, 4096);
    snprintf(set, sizeof set, mistral, ",\"sliding_window\":null");
    assert_int_equal(parse_ok(set, NULL, NULL).model.window, 0);
    snprintf(set, sizeof set, mistral, ""); /* absent is not null: Hugging Face's default is a window */
    assert_int_equal(parse_ok(set, NULL, NULL).model.window, 4096);

    static const char qwen2[] = "{\"model_type\":\"qwen2\",\"sliding_window\":32768,\"max_window_layers\":%d,"
                                "\"use_sliding_window\":%s,\"tie_word_embeddings\":true}";
    snprintf(set, sizeof set, qwen2, 28, "false");
    mw_hf_config c = parse_ok(set, NULL, NULL);
    assert_true(c.qkv_bias && !c.o_bias && !c.mlp_bias && c.model.tie_embeddings);
    assert_int_equal(c.model.window, 0);
    snprintf(set, sizeof set, qwen2, 0, "true");
    assert_int_equal(parse_ok(set, NULL, NULL).model.window, 32768);
    snprintf(set, sizeof set, qwen2, 32, "true");
    assert_int_equal(parse_ok(set, NULL, NULL).model.window, 0);

    c = parse_ok("{\"model_type\":\"qwen3\",\"head_dim\":64,\"attention_bias\":false}", NULL, NULL);
    assert_true(c.model.qk_norm && !c.qkv_bias);
    assert_int_equal(c.model.head_dim, 64);
    c = parse_ok("{\"model_type\":\"qwen3\",\"head_dim\":64,\"attention_bias\":true}", NULL, NULL);
    assert_true(c.qkv_bias && c.o_bias);
    c = parse_ok("{\"model_type\":\"qwen2\",\"num_hidden_layers\":2,"
                 "\"layer_types\":[\"full_attention\",\"full_attention\"],\"use_sliding_window\":false}",
                 NULL, NULL);
    assert_int_equal(c.model.window, 0);
}

static void test_special_tokens(void **state) {
    (void)state;
    mw_hf_config c = parse_ok("{}", NULL, "{\"eos_token_id\":[128001,128008,128009],\"bos_token_id\":5}");
    assert_int_equal(c.model.n_eos, 3);
    assert_int_equal(c.model.eos_id[2], 128009);
    assert_int_equal(c.model.bos_id, 5);
    c = parse_ok("{\"bos_token_id\":null,\"eos_token_id\":[1,2]}", NULL, "{\"temperature\":0.6}");
    assert_int_equal(c.model.bos_id, -1);
    assert_int_equal(c.model.n_eos, 2);
}

static void test_quantisation(void **state) {
    (void)state;
    mw_hf_quant q = parse_ok("{}", "{\"bits\":4,\"group_size\":128,\"desc_act\":true,\"sym\":true}", NULL).quant;
    assert_int_equal(q.format, MW_HF_GPTQ);
    assert_int_equal(q.zero_offset, 1);
    assert_int_equal(q.group_size, 128);
    assert_true(q.act_order);
    q = parse_ok(
            "{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":-1,\"format\":\"gptq_v2\","
            "\"dynamic\":{\"-:lm_head\":{}}}}",
            NULL, NULL)
            .quant;
    assert_int_equal(q.zero_offset, 0);
    assert_int_equal(q.group_size, -1);
    q = parse_ok("{}", "{\"zero_point\":true,\"q_group_size\":64,\"w_bit\":4,\"version\":\"GEMM\"}", NULL).quant;
    assert_int_equal(q.format, MW_HF_AWQ);
    assert_int_equal(q.group_size, 64);
    q = parse_ok("{}", "{\"bits\":4,\"group_size\":128,\"is_marlin_format\":true}", NULL).quant;
    assert_int_equal(q.format, MW_HF_MARLIN);
    q = parse_ok(
            "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
            "\"sparsity_config\":{},\"transform_config\":{},\"config_groups\":{\"g\":{\"format\":\"pack-quantized\","
            "\"input_activations\":null,\"weights\":{\"num_bits\":4,\"strategy\":\"group\",\"group_size\":32,"
            "\"actorder\":\"dynamic\"}}}}}",
            NULL, NULL)
            .quant;
    assert_int_equal(q.format, MW_HF_CT);
    assert_int_equal(q.group_size, 32);
    assert_true(q.act_order);
}

/* ---- what is refused -------------------------------------------------------------------------------------------- */

typedef struct {
    const char *set, *quantize, *generation;
    mw_status code;
    const char *text; /* part of the error */
} refusal;

#define Q(s)   "{\"quantization_config\":{" s "}}"
#define CT(s)  Q("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"," s)
#define CTW(s) CT("\"config_groups\":{\"g\":{\"weights\":{" s "}}}")

static const refusal k_refusals[] = {
    /* families and variants */
    {"{\"model_type\":\"mixtral\"}", 0, 0, MW_ERR_UNSUPPORTED, "model_type 'mixtral' is not one of llama"},
    {"{\"model_type\":\"-\"}", 0, 0, MW_ERR_FORMAT, "field 'model_type' is missing"},
    {"{\"model_type\":7}", 0, 0, MW_ERR_FORMAT, "field 'model_type' is an integer, expected a string"},
    {"{\"architectures\":[\"LlamaForSequenceClassification\"]}", 0, 0, MW_ERR_UNSUPPORTED,
     "LlamaForSequenceClassification"},
    {"{\"hidden_act\":\"gelu\"}", 0, 0, MW_ERR_UNSUPPORTED, "hidden_act 'gelu', expected silu"},
    {"{\"num_local_experts\":8}", 0, 0, MW_ERR_UNSUPPORTED, "num_local_experts = 8: mixtures of experts"},
    {"{\"num_experts\":128}", 0, 0, MW_ERR_UNSUPPORTED, "num_experts = 128"},
    {"{\"vision_config\":{}}", 0, 0, MW_ERR_UNSUPPORTED, "vision_config"},
    {"{\"partial_rotary_factor\":0.5}", 0, 0, MW_ERR_UNSUPPORTED, "partial_rotary_factor = 0.5"},
    {"{\"model_type\":\"mistral\",\"attention_bias\":true}", 0, 0, MW_ERR_UNSUPPORTED, "attention_bias = true"},
    {"{\"model_type\":\"qwen3\",\"head_dim\":64,\"mlp_bias\":true}", 0, 0, MW_ERR_UNSUPPORTED, "mlp_bias = true"},
    {"{\"model_type\":\"qwen3\"}", 0, 0, MW_ERR_FORMAT, "field 'head_dim' is missing"},
    {"{\"torch_dtype\":\"float8_e4m3fn\"}", 0, 0, MW_ERR_UNSUPPORTED, "dtype 'float8_e4m3fn'"},
    /* sizes */
    {"{\"hidden_size\":\"-\"}", 0, 0, MW_ERR_FORMAT, "field 'hidden_size' is missing"},
    {"{\"hidden_size\":4096.0}", 0, 0, MW_ERR_FORMAT, "field 'hidden_size' is a real, expected an integer"},
    {"{\"hidden_size\":-4096}", 0, 0, MW_ERR_FORMAT, "hidden_size = -4096"},
    {"{\"num_hidden_layers\":100000}", 0, 0, MW_ERR_FORMAT, "num_hidden_layers = 100000, expected 1 to 1000"},
    {"{\"num_attention_heads\":0}", 0, 0, MW_ERR_FORMAT, "does not divide into 0 heads"},
    {"{\"num_attention_heads\":33}", 0, 0, MW_ERR_FORMAT, "does not divide into 33 heads"},
    {"{\"num_key_value_heads\":5}", 0, 0, MW_ERR_FORMAT, "not a multiple of 5 key-value heads"},
    {"{\"rms_norm_eps\":0}", 0, 0, MW_ERR_FORMAT, "rms_norm_eps"},
    {"{\"tie_word_embeddings\":1}", 0, 0, MW_ERR_FORMAT, "expected true or false"},
    /* rotary embedding */
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", 0, 0, MW_ERR_UNSUPPORTED, "rope type 'yarn'"},
    {"{\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}}", 0, 0, MW_ERR_UNSUPPORTED, "rope type 'dynamic'"},
    {"{\"rope_parameters\":{\"rope_type\":\"longrope\"}}", 0, 0, MW_ERR_UNSUPPORTED,
     "rope_parameters: rope type 'longrope'"},
    {"{\"rope_scaling\":{\"type\":\"mrope\",\"mrope_section\":[16,24,24]}}", 0, 0, MW_ERR_UNSUPPORTED, "mrope"},
    {"{\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}}", 0, 0, MW_ERR_UNSUPPORTED,
     "per layer type"},
    {"{\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"llama3\"}}", 0, 0, MW_ERR_FORMAT, "differ"},
    {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", 0, 0, MW_ERR_FORMAT,
     "field 'low_freq_factor' is missing"},
    {"{\"rope_scaling\":{\"rope_type\":\"linear\"}}", 0, 0, MW_ERR_FORMAT, "field 'factor' is missing"},
    {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"default\"}}", 0, 0,
     MW_ERR_FORMAT, "rope_scaling and rope_parameters disagree"},
    {"{\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1e6}}", 0, 0, MW_ERR_FORMAT,
     "rope_theta = 500000 here and 1e+06"},
    {"{\"rope_scaling\":\"linear\"}", 0, 0, MW_ERR_FORMAT, "field 'rope_scaling' is a string, expected an object"},
    /* sliding window */
    {"{\"sliding_window\":4096}", 0, 0, MW_ERR_UNSUPPORTED, "sliding_window = 4096 in a model of type llama"},
    {"{\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":4096,\"max_window_layers\":16}", 0, 0,
     MW_ERR_UNSUPPORTED, "max_window_layers = 16 of 32 layers mixes"},
    {"{\"model_type\":\"qwen2\",\"num_hidden_layers\":2,\"sliding_window\":8,\"layer_types\":[\"full_attention\","
     "\"sliding_attention\"]}",
     0, 0, MW_ERR_UNSUPPORTED, "layer_types mixes"},
    {"{\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}", 0, 0, MW_ERR_UNSUPPORTED,
     "layer_types[0] = 'linear_attention'"},
    {"{\"layer_types\":[\"full_attention\"]}", 0, 0, MW_ERR_FORMAT, "layer_types has 1 entries for 32 layers"},
    /* special tokens */
    {"{\"eos_token_id\":128256}", 0, 0, MW_ERR_FORMAT, "eos_token_id = 128256 is outside the vocabulary"},
    {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", 0, 0, MW_ERR_LIMIT,
     "17 eos_token_ids, at most 16"},
    {"{}", 0, "{\"eos_token_id\":\"x\"}", MW_ERR_FORMAT, "generation_config.json: eos_token_id is not a token id"},
    {"{\"bos_token_id\":99999999999}", 0, 0, MW_ERR_FORMAT, "bos_token_id is not a token id"},
    /* broken JSON */
    {"{}", "{\"bits\":4,", 0, MW_ERR_FORMAT, "quantize_config.json: broken JSON at line 1"},
    {"{}", "[4]", 0, MW_ERR_FORMAT, "quantize_config.json: expected a JSON object"},
    {"{}", "{\"bits\":4,\"bits\":4}", 0, MW_ERR_FORMAT, "duplicate object key"},
    {"{}", 0, "{", MW_ERR_FORMAT, "generation_config.json: broken JSON"},
    /* quantisation */
    {Q("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true"), 0, 0, MW_ERR_UNSUPPORTED,
     "quant_method 'bitsandbytes'"},
    {Q("\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":128"), 0, 0, MW_ERR_UNSUPPORTED, "8 bits, expected 4"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4"), 0, 0, MW_ERR_FORMAT, "field 'group_size' is missing"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":256"), 0, 0, MW_ERR_UNSUPPORTED,
     "group_size 256, expected 32, 64, 128 or -1"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":0"), 0, 0, MW_ERR_UNSUPPORTED, "group_size 0"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"checkpoint_format\":\"bitblas\""), 0, 0,
     MW_ERR_UNSUPPORTED, "checkpoint_format 'bitblas'"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"checkpoint_format\":\"gptq\",\"format\":\"gptq_v2\""),
     0, 0, MW_ERR_FORMAT, "checkpoint_format 'gptq', but format 'gptq_v2'"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"pack_dtype\":\"int16\""), 0, 0, MW_ERR_UNSUPPORTED,
     "pack_dtype 'int16'"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"dynamic\":{\"+:.*down.*\":{\"bits\":8}}"), 0, 0,
     MW_ERR_UNSUPPORTED, "dynamic override '+:.*down.*'"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"desc_act\":true,\"is_marlin_format\":true"), 0, 0,
     MW_ERR_UNSUPPORTED, "desc_act in a file of Marlin tiles"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"q_group_size\":64"), 0, 0, MW_ERR_FORMAT,
     "group_size = 128, but q_group_size = 64"},
    {Q("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128"), "{\"bits\":4,\"group_size\":64}", 0, MW_ERR_FORMAT,
     "they disagree"},
    {Q("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128,\"version\":\"gemv\""), 0, 0, MW_ERR_UNSUPPORTED,
     "AWQ version 'gemv', expected gemm"},
    {Q("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128,\"version\":\"marlin\""), 0, 0, MW_ERR_UNSUPPORTED,
     "AWQ version 'marlin'"},
    {Q("\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\""), 0, 0, MW_ERR_UNSUPPORTED,
     "format 'float-quantized', expected pack-quantized"},
    {CT("\"kv_cache_scheme\":{\"num_bits\":8}"), 0, 0, MW_ERR_UNSUPPORTED, "kv_cache_scheme is set"},
    {CT("\"transform_config\":{\"x\":1}"), 0, 0, MW_ERR_UNSUPPORTED, "transform_config is set"},
    {CT("\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"}"), 0, 0, MW_ERR_UNSUPPORTED, "sparse-24-bitmask"},
    {CT("\"config_groups\":{}"), 0, 0, MW_ERR_UNSUPPORTED, "0 config_groups, expected 1"},
    {CT("\"config_groups\":{\"a\":{},\"b\":{}}"), 0, 0, MW_ERR_UNSUPPORTED, "2 config_groups, expected 1"},
    {CT("\"config_groups\":{\"a\":{}}"), 0, 0, MW_ERR_FORMAT, "config_groups.a: field 'weights' is missing"},
    {CT("\"config_groups\":{\"a\":{\"format\":\"int-quantized\"}}"), 0, 0, MW_ERR_UNSUPPORTED,
     "format 'int-quantized'"},
    {CT("\"config_groups\":{\"a\":{\"input_activations\":{\"num_bits\":8}}}"), 0, 0, MW_ERR_UNSUPPORTED,
     "input_activations is set"},
    {CT("\"config_groups\":{\"a\":{\"output_activations\":{\"num_bits\":8}}}"), 0, 0, MW_ERR_UNSUPPORTED,
     "output_activations is set"},
    {CTW("\"num_bits\":8"), 0, 0, MW_ERR_UNSUPPORTED, "8 bits, expected 4"},
    {CTW("\"num_bits\":4,\"type\":\"float\""), 0, 0, MW_ERR_UNSUPPORTED, "type 'float', expected int"},
    {CTW("\"num_bits\":4,\"strategy\":\"tensor\""), 0, 0, MW_ERR_UNSUPPORTED, "strategy 'tensor'"},
    {CTW("\"num_bits\":4,\"strategy\":\"group\",\"group_size\":16"), 0, 0, MW_ERR_UNSUPPORTED, "group_size 16"},
    {CTW("\"num_bits\":4,\"strategy\":\"channel\",\"dynamic\":true"), 0, 0, MW_ERR_UNSUPPORTED, "dynamic 'true'"},
    {CTW("\"num_bits\":4,\"strategy\":\"channel\",\"actorder\":\"strange\""), 0, 0, MW_ERR_UNSUPPORTED,
     "actorder 'strange'"},
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof k_refusals / sizeof *k_refusals; i++) {
        const refusal *r = &k_refusals[i];
        mw_hf_config c;
        char *text = with(k_base, r->set);
        mw_status st = parse(text, r->quantize, r->generation, &c);
        if (st != r->code || !strstr(mw_error_text(), r->text))
            fail_msg("%s %s: code %d, '%s'; expected %d, '%s'", r->set, r->quantize ? r->quantize : "", st,
                     st ? mw_error_text() : "", r->code, r->text);
        free(text);
    }
    mw_hf_config c;
    assert_int_equal(parse("{\"model_type\":", NULL, NULL, &c), MW_ERR_FORMAT);
    assert_non_null(strstr(mw_error_text(), "config.json: broken JSON"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),          cmocka_unit_test(test_rope),         cmocka_unit_test(test_families),
        cmocka_unit_test(test_special_tokens), cmocka_unit_test(test_quantisation), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
