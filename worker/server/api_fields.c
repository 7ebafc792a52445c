#include "worker/server/api_fields.h"

json_t *mw_field(const json_t *o, const char *key) {
    json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

mw_status mw_field_int(const json_t *o, const char *key, int lo, int hi, int *out, mw_api_error *err) {
    const json_t *v = mw_field(o, key);
    if (!v) return MW_OK;
    if (!json_is_integer(v)) return mw_api_fail(err, 400, "invalid_type", key, "%s: expected a whole number", key);
    json_int_t x = json_integer_value(v);
    if (x < lo || x > hi)
        return mw_api_fail(err, 400, "invalid_value", key, "%s is %lld, expected %d to %d", key, (long long)x, lo, hi);
    *out = (int)x;
    return MW_OK;
}

mw_status mw_field_real(const json_t *o, const char *key, double lo, double hi, double *out, mw_api_error *err) {
    const json_t *v = mw_field(o, key);
    if (!v) return MW_OK;
    if (!json_is_number(v)) return mw_api_fail(err, 400, "invalid_type", key, "%s: expected a number", key);
    double x = json_number_value(v);
    if (!(x >= lo && x <= hi))
        return mw_api_fail(err, 400, "invalid_value", key, "%s is %g, expected %g to %g", key, x, lo, hi);
    *out = x;
    return MW_OK;
}

mw_status mw_field_bool(const json_t *o, const char *key, bool *out, mw_api_error *err) {
    const json_t *v = mw_field(o, key);
    if (!v) return MW_OK;
    if (!json_is_boolean(v)) return mw_api_fail(err, 400, "invalid_type", key, "%s: expected true or false", key);
    *out = json_is_true(v);
    return MW_OK;
}

mw_status mw_field_text(const json_t *o, const char *key, const char **out, mw_api_error *err) {
    const json_t *v = mw_field(o, key);
    if (!v) return MW_OK;
    if (!json_is_string(v)) return mw_api_fail(err, 400, "invalid_type", key, "%s: expected a string", key);
    *out = json_string_value(v);
    return MW_OK;
}

mw_status mw_field_ids(const json_t *list, const char *key, int vocab, mw_ids *out, mw_api_error *err) {
    mw_status st = MW_OK;
    if (!json_is_array(list)) return mw_api_fail(err, 400, "invalid_type", key, "%s: expected a list", key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= vocab)
            return mw_api_fail(err, 400, "invalid_value", key, "%s: entry %zu is not a token id from 0 to %d", key, i,
                               vocab - 1);
        MW_TRY(st, mw_ids_add(out, (int32_t)id));
    }
fail:
    return st;
}
