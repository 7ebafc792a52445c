#include "worker/text/tok_json.h"

#include <string.h>

#include "worker/text/tok_utf8.h"

mw_status mw_tok_json_fields(const json_t *o, const char *where, const char *const *known) {
    const char *key;
    json_t *value;
    if (!json_is_object(o)) return MW_FAIL(MW_ERR_FORMAT, "%s is not an object", where);
    json_object_foreach((json_t *)o, key, value) {
        size_t i = 0;
        while (known[i] && strcmp(key, known[i]) != 0) i++;
        if (!known[i]) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s has the unknown field '%.64s'", where, key);
    }
    return MW_OK;
}

static mw_status wrong(const json_t *o, const char *where, const char *key, const char *expected) {
    if (!json_is_object(o)) return MW_FAIL(MW_ERR_FORMAT, "%s is not an object", where);
    return MW_FAIL(MW_ERR_FORMAT, "%s: '%s' is %s, expected %s", where, key,
                   json_object_get(o, key) ? "of another kind" : "missing", expected);
}

mw_status mw_tok_json_string(const json_t *o, const char *where, const char *key, const char **out, size_t *n) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_string(v)) return wrong(o, where, key, "a string");
    *out = json_string_value(v);
    *n = json_string_length(v);
    return MW_OK;
}

mw_status mw_tok_json_type(const json_t *o, const char *where, const char **out) {
    size_t n;
    return mw_tok_json_string(o, where, "type", out, &n);
}

mw_status mw_tok_json_char(const json_t *o, const char *where, const char *key, uint32_t *out) {
    const char *s = "";
    size_t n = 0;
    mw_status st = mw_tok_json_string(o, where, key, &s, &n);
    if (st != MW_OK) return st;
    if (n == 0 || n != (size_t)mw_utf8_len((unsigned char)s[0])) return wrong(o, where, key, "one character");
    *out = mw_utf8_get(s);
    return MW_OK;
}

mw_status mw_tok_json_bool(const json_t *o, const char *where, const char *key, bool *out) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_boolean(v)) return wrong(o, where, key, "true or false");
    *out = json_is_true(v);
    return MW_OK;
}

mw_status mw_tok_json_bool_opt(const json_t *o, const char *where, const char *key, bool *out) {
    return json_object_get(o, key) ? mw_tok_json_bool(o, where, key, out) : MW_OK;
}

mw_status mw_tok_json_array(const json_t *o, const char *where, const char *key, const json_t **out) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_array(v)) return wrong(o, where, key, "an array");
    *out = v;
    return MW_OK;
}

mw_status mw_tok_json_int(const json_t *o, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v)) return wrong(o, where, key, "an integer");
    int64_t x = json_integer_value(v);
    if (x < lo || x > hi)
        return MW_FAIL(MW_ERR_LIMIT, "%s: '%s' is %lld, expected %lld..%lld", where, key, (long long)x, (long long)lo,
                       (long long)hi);
    *out = x;
    return MW_OK;
}

mw_status mw_tok_json_pattern(const json_t *o, const char *where, const char **text, size_t *n, bool *regex) {
    const json_t *v = json_object_get(o, "pattern");
    if (!json_is_object(v) || json_object_size(v) != 1)
        return wrong(o, where, "pattern", "{\"String\"} or {\"Regex\"}");
    *regex = json_object_get(v, "Regex") != NULL;
    return mw_tok_json_string(v, where, *regex ? "Regex" : "String", text, n);
}

static mw_status sequence(const json_t *o, const char *where, const char *list, int depth, mw_tok_json_visit visit,
                          void *arg) {
    const char *const known[] = {"type", list, NULL};
    const char *type = "";
    const json_t *parts = NULL;
    mw_status st = mw_tok_json_type(o, where, &type);
    if (st != MW_OK) return st;
    if (strcmp(type, "Sequence") != 0) return visit(arg, o, type, where);
    if (depth == MW_TOK_MAX_NESTING)
        return MW_FAIL(MW_ERR_LIMIT, "%s: Sequences nested over %d deep", where, MW_TOK_MAX_NESTING);
    if ((st = mw_tok_json_fields(o, where, known)) != MW_OK) return st;
    if ((st = mw_tok_json_array(o, where, list, &parts)) != MW_OK) return st;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        char place[112];
        snprintf(place, sizeof place, "%.80s[%zu]", where, i);
        if ((st = sequence(json_array_get(parts, i), place, list, depth + 1, visit, arg)) != MW_OK) return st;
    }
    return MW_OK;
}

mw_status mw_tok_json_sequence(const json_t *o, const char *where, const char *list, mw_tok_json_visit visit,
                               void *arg) {
    return sequence(o, where, list, 0, visit, arg);
}
