#include "shard/hf_json.h"

#include <string.h>

mw_status mw_json_load(json_t **out, const char *where, const char *text, size_t n) {
    json_error_t err;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
    if (!root)
        return MW_FAIL(MW_ERR_FORMAT, "%s: broken JSON at line %d, column %d: %s", where, err.line, err.column,
                       err.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return MW_FAIL(MW_ERR_FORMAT, "%s: expected a JSON object", where);
    }
    *out = root;
    return MW_OK;
}

const json_t *mw_json_get(mw_json j, const char *key) {
    const json_t *v = json_object_get(j.obj, key);
    return json_is_null(v) ? NULL : v;
}

static const char *type_name(const json_t *v) {
    static const char *const name[] = {"an object", "an array", "a string", "an integer",
                                       "a real",    "true",     "false",    "null"};
    return name[json_typeof(v)];
}

/* The field when it is there and of a right type, NULL (and MW_OK) when it is not there. */
static mw_status field(mw_json j, const char *key, bool required, const json_t **out) {
    *out = mw_json_get(j, key);
    if (!*out && required) return MW_FAIL(MW_ERR_FORMAT, "%s: field '%s' is missing", j.where, key);
    return MW_OK;
}

static mw_status wrong_type(mw_json j, const char *key, const char *want, const json_t *v) {
    return MW_FAIL(MW_ERR_FORMAT, "%s: field '%s' is %s, expected %s", j.where, key, type_name(v), want);
}

mw_status mw_json_i64(mw_json j, const char *key, bool required, int64_t *out) {
    const json_t *v;
    mw_status st = field(j, key, required, &v);
    if (st != MW_OK || !v) return st;
    if (!json_is_integer(v)) return wrong_type(j, key, "an integer", v);
    *out = json_integer_value(v);
    return MW_OK;
}

mw_status mw_json_f64(mw_json j, const char *key, bool required, double *out) {
    const json_t *v;
    mw_status st = field(j, key, required, &v);
    if (st != MW_OK || !v) return st;
    if (!json_is_number(v)) return wrong_type(j, key, "a number", v);
    *out = json_number_value(v);
    return MW_OK;
}

mw_status mw_json_bool(mw_json j, const char *key, bool required, bool *out) {
    const json_t *v;
    mw_status st = field(j, key, required, &v);
    if (st != MW_OK || !v) return st;
    if (!json_is_boolean(v)) return wrong_type(j, key, "true or false", v);
    *out = json_is_true(v);
    return MW_OK;
}

mw_status mw_json_str(mw_json j, const char *key, bool required, const char **out) {
    const json_t *v;
    mw_status st = field(j, key, required, &v);
    if (st != MW_OK || !v) return st;
    if (!json_is_string(v)) return wrong_type(j, key, "a string", v);
    *out = json_string_value(v);
    return MW_OK;
}

mw_status mw_json_obj(mw_json j, const char *key, mw_json *out) {
    const json_t *v;
    mw_status st = field(j, key, false, &v);
    if (st != MW_OK) return st;
    if (v && !json_is_object(v)) return wrong_type(j, key, "an object", v);
    *out = (mw_json){v, j.where};
    return MW_OK;
}
