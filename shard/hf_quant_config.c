/* How the quantised tensors of a folder are laid out: quantization_config of config.json, or quantize_config.json. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "shard/hf_config.h"

const char *mw_hf_format_name(mw_hf_format f) {
    static const char *const name[] = {"dense", "gptq", "awq", "compressed-tensors", "marlin"};
    return name[f];
}

static mw_status refuse(mw_json q, const char *key, const char *value, const char *expected) {
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %s '%.64s', expected %s", q.where, key, value, expected);
}

/* An integer under either of two names (AutoGPTQ's and AutoAWQ's). */
static mw_status either_i64(mw_json q, const char *key, const char *synonym, int64_t *out) {
    mw_status st = MW_OK;
    int64_t a, b;
    bool has_a = mw_json_get(q, key) != NULL, has_b = mw_json_get(q, synonym) != NULL;
    MW_TRY(st, mw_json_i64(q, key, !has_b, &a));
    MW_TRY(st, mw_json_i64(q, synonym, !has_a, &b));
    if (has_a && has_b && a != b)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s = %lld, but %s = %lld", q.where, key, (long long)a, synonym,
                       (long long)b);
    *out = has_a ? a : b;
fail:
    return st;
}

static mw_status check_bits(mw_json q, int64_t bits) {
    if (bits == 4) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %lld bits, expected 4", q.where, (long long)bits);
}

static mw_status check_group(mw_json q, int64_t g) {
    if (g == -1 || g == 32 || g == 64 || g == 128) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: group_size %lld, expected 32, 64, 128 or -1", q.where, (long long)g);
}

/* A field that must be absent, null, false, or an empty object or array. */
static mw_status must_be_empty(mw_json q, const char *key) {
    const json_t *v = mw_json_get(q, key);
    if (!v || json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0) ||
        (json_is_array(v) && json_array_size(v) == 0))
        return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %s is set", q.where, key);
}

/* ---- GPTQ ------------------------------------------------------------------------------------------------------- */

/* `dynamic` maps patterns to per-module settings. "-:" only excludes modules, which the tensors show by themselves. */
static mw_status check_dynamic(mw_json q) {
    const char *pattern;
    json_t *v;
    mw_json d;
    mw_status st = mw_json_obj(q, "dynamic", &d);
    if (st != MW_OK || !d.obj) return st;
    json_object_foreach((json_t *)d.obj, pattern, v) {
        if (strncmp(pattern, "-:", 2) != 0)
            return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: dynamic override '%.64s'", q.where, pattern);
    }
    return MW_OK;
}

static mw_status parse_gptq(mw_json q, mw_hf_quant *out) {
    mw_status st = MW_OK;
    int64_t bits = 0;
    const char *format = NULL, *alias = NULL, *pack = "int32";
    bool marlin = false;
    out->format = MW_HF_GPTQ;
    MW_TRY(st, either_i64(q, "bits", "w_bit", &bits));
    MW_TRY(st, check_bits(q, bits));
    MW_TRY(st, either_i64(q, "group_size", "q_group_size", &out->group_size));
    MW_TRY(st, check_group(q, out->group_size));
    MW_TRY(st, mw_json_bool(q, "desc_act", false, &out->act_order));
    MW_TRY(st, mw_json_str(q, "checkpoint_format", false, &format));
    MW_TRY(st, mw_json_str(q, "format", false, &alias));
    if (format && alias && strcmp(format, alias) != 0)
        return MW_FAIL(MW_ERR_FORMAT, "%s: checkpoint_format '%.32s', but format '%.32s'", q.where, format, alias);
    if (!format) format = alias ? alias : "gptq";
    MW_TRY(st, mw_json_str(q, "pack_dtype", false, &pack));
    if (strcmp(pack, "int32") != 0) return refuse(q, "pack_dtype", pack, "int32");
    MW_TRY(st, check_dynamic(q));
    MW_TRY(st, mw_json_bool(q, "is_marlin_format", false, &marlin));
    if (marlin || strcmp(format, "marlin") == 0) {
        out->format = MW_HF_MARLIN;
        if (out->act_order && out->group_size != -1)
            return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: desc_act in a file of Marlin tiles", q.where);
    } else if (strcmp(format, "gptq") == 0) {
        out->zero_offset = 1;
    } else if (strcmp(format, "gptq_v2") != 0) {
        return refuse(q, "checkpoint_format", format, "gptq, gptq_v2 or marlin");
    }
fail:
    return st;
}

/* ---- AWQ -------------------------------------------------------------------------------------------------------- */

static mw_status parse_awq(mw_json q, mw_hf_quant *out) {
    mw_status st = MW_OK;
    int64_t bits = 0;
    const char *version = "gemm";
    out->format = MW_HF_AWQ;
    MW_TRY(st, either_i64(q, "bits", "w_bit", &bits));
    MW_TRY(st, check_bits(q, bits));
    MW_TRY(st, either_i64(q, "group_size", "q_group_size", &out->group_size));
    MW_TRY(st, check_group(q, out->group_size));
    MW_TRY(st, mw_json_str(q, "version", false, &version));
    if (strcasecmp(version, "gemm") != 0) return refuse(q, "AWQ version", version, "gemm");
fail:
    return st;
}

/* ---- compressed-tensors ----------------------------------------------------------------------------------------- */

static mw_status parse_actorder(mw_json w, mw_hf_quant *out) {
    const json_t *v = mw_json_get(w, "actorder");
    const char *s = json_string_value(v);
    out->act_order = false;
    if (!v || json_is_false(v)) return MW_OK;
    if (json_is_true(v) || (s && (strcmp(s, "group") == 0 || strcmp(s, "dynamic") == 0))) {
        out->act_order = true;
        return MW_OK;
    }
    /* "weight": the order was used while quantising and undone; nothing is left of it in the file */
    if (s && (strcmp(s, "weight") == 0 || strcmp(s, "static") == 0)) return MW_OK;
    return refuse(w, "actorder", s ? s : "?", "null, group or weight");
}

static mw_status parse_ct_weights(mw_json w, mw_hf_quant *out) {
    mw_status st = MW_OK;
    int64_t bits = 0;
    const char *type = "int", *strategy = NULL;
    bool dynamic = false, symmetric = true;
    MW_TRY(st, mw_json_i64(w, "num_bits", true, &bits));
    MW_TRY(st, check_bits(w, bits));
    MW_TRY(st, mw_json_str(w, "type", false, &type));
    if (strcmp(type, "int") != 0) return refuse(w, "type", type, "int");
    MW_TRY(st, mw_json_bool(w, "dynamic", false, &dynamic));
    if (dynamic) return refuse(w, "dynamic", "true", "false");
    MW_TRY(st, mw_json_bool(w, "symmetric", false, &symmetric));
    out->asymmetric = !symmetric;
    MW_TRY(st, mw_json_str(w, "strategy", true, &strategy));
    out->group_size = -1;
    if (strcmp(strategy, "group") == 0) {
        MW_TRY(st, mw_json_i64(w, "group_size", true, &out->group_size));
        MW_TRY(st, check_group(w, out->group_size));
    } else if (strcmp(strategy, "channel") != 0) {
        return refuse(w, "strategy", strategy, "group or channel");
    }
    MW_TRY(st, parse_actorder(w, out));
fail:
    return st;
}

static mw_status check_ct_format(mw_json q, bool required) {
    const char *format = "pack-quantized";
    mw_status st = mw_json_str(q, "format", required, &format);
    if (st != MW_OK) return st;
    return strcmp(format, "pack-quantized") == 0 ? MW_OK : refuse(q, "format", format, "pack-quantized");
}

static mw_status check_sparsity(mw_json q) {
    const char *format = "dense";
    mw_json s;
    mw_status st = mw_json_obj(q, "sparsity_config", &s);
    if (st != MW_OK || !s.obj) return st;
    if ((st = mw_json_str(s, "format", false, &format)) != MW_OK) return st;
    return strcmp(format, "dense") == 0 ? MW_OK : refuse(q, "sparsity_config format", format, "dense");
}

static mw_status parse_ct(mw_json q, mw_hf_quant *out) {
    mw_status st = MW_OK;
    mw_json groups, g, w;
    char where[128];
    out->format = MW_HF_CT;
    MW_TRY(st, check_ct_format(q, true));
    MW_TRY(st, must_be_empty(q, "kv_cache_scheme"));
    MW_TRY(st, must_be_empty(q, "transform_config"));
    MW_TRY(st, check_sparsity(q));
    MW_TRY(st, mw_json_obj(q, "config_groups", &groups));
    if (json_object_size(groups.obj) != 1)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: %zu config_groups, expected 1", q.where, json_object_size(groups.obj));
    const char *name = json_object_iter_key(json_object_iter((json_t *)groups.obj));
    snprintf(where, sizeof where, "%s: config_groups.%.32s", q.where, name);
    groups.where = where;
    MW_TRY(st, mw_json_obj(groups, name, &g));
    MW_TRY(st, check_ct_format(g, false));
    MW_TRY(st, must_be_empty(g, "input_activations"));
    MW_TRY(st, must_be_empty(g, "output_activations"));
    MW_TRY(st, mw_json_obj(g, "weights", &w));
    if (!w.obj) return MW_FAIL(MW_ERR_FORMAT, "%s: field 'weights' is missing", where);
    MW_TRY(st, parse_ct_weights(w, out));
fail:
    return st;
}

/* ---- which of them ---------------------------------------------------------------------------------------------- */

static mw_status parse_one(mw_json q, mw_hf_quant *out) {
    mw_status st = MW_OK;
    const char *method = NULL;
    *out = (mw_hf_quant){.format = MW_HF_DENSE, .group_size = -1};
    MW_TRY(st, mw_json_str(q, "quant_method", false, &method));
    if (!method) MW_TRY(st, mw_json_str(q, "method", false, &method));
    if (!method) /* AutoGPTQ's and AutoAWQ's own first files */
        method = mw_json_get(q, "zero_point") && mw_json_get(q, "version") ? "awq" : "gptq";
    if (strcmp(method, "gptq") == 0) return parse_gptq(q, out);
    if (strcmp(method, "awq") == 0) return parse_awq(q, out);
    if (strcmp(method, "compressed-tensors") == 0) return parse_ct(q, out);
    if (strcmp(method, "marlin") == 0) {
        MW_TRY(st, parse_gptq(q, out));
        out->format = MW_HF_MARLIN;
        return MW_OK;
    }
    return refuse(q, "quant_method", method, "gptq, awq, compressed-tensors or marlin");
fail:
    return st;
}

mw_status mw_hf_quant_parse(mw_hf_quant *out, mw_json config, mw_json quantize) {
    mw_status st = MW_OK;
    mw_json in_config;
    mw_hf_quant a, b;
    *out = (mw_hf_quant){.format = MW_HF_DENSE, .group_size = -1};
    MW_TRY(st, mw_json_obj(config, "quantization_config", &in_config));
    in_config.where = "config.json: quantization_config";
    if (in_config.obj) MW_TRY(st, parse_one(in_config, &a));
    if (quantize.obj) MW_TRY(st, parse_one(quantize, &b));
    if (in_config.obj && quantize.obj &&
        (a.format != b.format || a.group_size != b.group_size || a.zero_offset != b.zero_offset))
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s, group_size %lld; %s: %s, group_size %lld: they disagree",
                       in_config.where, mw_hf_format_name(a.format), (long long)a.group_size, quantize.where,
                       mw_hf_format_name(b.format), (long long)b.group_size);
    if (in_config.obj)
        *out = a;
    else if (quantize.obj)
        *out = b;
fail:
    return st;
}
