#include "tests/text/schema_gen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t gen_below(gen_rng *r, uint32_t n) {
    r->state = r->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((r->state >> 33) % n);
}

static bool coin(gen_rng *r, uint32_t percent) {
    return gen_below(r, 100) < percent;
}

/* ---- making ---- */

static json_t *any_schema(gen_rng *r, int depth);

static const char *name_of(gen_rng *r) {
    static const char *const names[] = {
        "a",         "ab",    "name",   "na\"me",          "x y", "back\\slash", "\xC3\xA9t\xC3\xA9", "type",
        "line\nend", "value", "values", "\xF0\x9F\x8E\x89"};
    return names[gen_below(r, sizeof names / sizeof *names)];
}

static json_t *constant(gen_rng *r) {
    switch (gen_below(r, 8)) {
    case 0: return json_null();
    case 1: return json_boolean(coin(r, 50));
    case 2: return json_integer((json_int_t)gen_below(r, 2000) - 1000);
    case 3: return json_real((double)gen_below(r, 1000) / 8 - 60);
    case 4: return json_pack("[i, s, [], {}]", (int)gen_below(r, 9), "in");
    case 5: return json_pack("{s:i, s:[n, b]}", "k", 1, "l", 1);
    default: return json_string(name_of(r));
    }
}

static json_t *string_schema(gen_rng *r) {
    static const char *const patterns[] = {
        "^[a-z]{2,5}$",     "^\\d{3}-\\d{4}$",         "[a-f]+[0-9]?", "^(red|green|blue)$",
        "^[^\"a-y]{0,6}z$", "^\\w+@\\w+\\.(com|org)$", "^.{3,6}$",     "[xX ]|^y$",
        "^\\S+\\s\\S*$",    "^[A-Z\\d_]*[!-\\/]?$"};
    static const char *const formats[] = {"date", "time",  "date-time", "uuid",     "ipv4",
                                          "ipv6", "email", "hostname",  "duration", "uri"};
    json_t *s = json_pack("{s:s}", "type", "string");
    uint32_t kind = gen_below(r, 6);
    if (kind == 0) json_object_set_new(s, "pattern", json_string(patterns[gen_below(r, 10)]));
    if (kind == 1) json_object_set_new(s, "format", json_string(formats[gen_below(r, 10)]));
    if (kind == 2 || kind == 3) {
        json_int_t min = (json_int_t)gen_below(r, coin(r, 20) ? 40 : 4);
        if (coin(r, 60)) json_object_set_new(s, "minLength", json_integer(min));
        if (coin(r, 70))
            json_object_set_new(s, "maxLength", json_integer(min + (json_int_t)gen_below(r, coin(r, 20) ? 80 : 9)));
    }
    return s;
}

static json_t *number_schema(gen_rng *r) {
    bool integer = coin(r, 50);
    json_t *s = json_pack("{s:s}", "type", integer ? "integer" : "number");
    if (coin(r, 40)) return s;
    static const double scale[] = {1, 1, 10, 0.5, 0.01, 1000, 12345.5, 1e9};
    double k = scale[gen_below(r, 8)], a = ((double)gen_below(r, 200) - 100) * k, b = a + (1 + gen_below(r, 100)) * k;
    if (integer) b += 2;
    if (coin(r, 75)) json_object_set_new(s, coin(r, 70) ? "minimum" : "exclusiveMinimum", json_real(a));
    if (coin(r, 75)) json_object_set_new(s, coin(r, 70) ? "maximum" : "exclusiveMaximum", json_real(b));
    return s;
}

static json_t *object_schema(gen_rng *r, int depth) {
    json_t *s = json_pack("{s:s}", "type", "object"), *properties = json_object(), *required = json_array();
    uint32_t n = gen_below(r, 5);
    for (uint32_t i = 0; i < n; i++) {
        const char *name = name_of(r);
        if (json_object_get(properties, name)) continue;
        json_object_set_new(properties, name, any_schema(r, depth - 1));
        if (coin(r, 55)) json_array_append_new(required, json_string(name));
    }
    if (json_object_size(properties)) json_object_set(s, "properties", properties);
    if (json_array_size(required)) json_object_set(s, "required", required);
    uint32_t more = gen_below(r, 5);
    if (more == 0) json_object_set_new(s, "additionalProperties", json_true());
    if (more == 1) json_object_set_new(s, "additionalProperties", any_schema(r, depth - 1));
    if (more >= 3) json_object_set_new(s, "additionalProperties", json_false());
    json_decref(properties);
    json_decref(required);
    return s;
}

static json_t *array_schema(gen_rng *r, int depth) {
    json_t *s = json_pack("{s:s}", "type", "array");
    uint32_t n_prefix = coin(r, 25) ? 1 + gen_below(r, 2) : 0;
    json_t *prefix = json_array();
    for (uint32_t i = 0; i < n_prefix; i++) json_array_append_new(prefix, any_schema(r, depth - 1));
    if (n_prefix) json_object_set(s, "prefixItems", prefix);
    json_decref(prefix);
    bool items = coin(r, 80);
    if (items) json_object_set_new(s, "items", any_schema(r, depth - 1));
    json_int_t min = (json_int_t)gen_below(r, coin(r, 10) ? 12 : 3);
    if (!items && n_prefix && min > (json_int_t)n_prefix) min = (json_int_t)n_prefix;
    if (coin(r, 50)) json_object_set_new(s, "minItems", json_integer(min));
    if (coin(r, 60)) json_object_set_new(s, "maxItems", json_integer(min + (json_int_t)gen_below(r, 4)));
    return s;
}

static json_t *choice_schema(gen_rng *r, int depth) {
    json_t *list = json_array();
    for (uint32_t i = 0; i <= gen_below(r, 3); i++) json_array_append_new(list, any_schema(r, depth - 1));
    return json_pack("{s:o, s:s}", coin(r, 70) ? "anyOf" : "oneOf", list, "description", "one of several");
}

static json_t *all_schema(gen_rng *r, int depth) {
    json_t *a = json_pack("{s:s, s:{s:o}, s:[s]}", "type", "object", "properties", "first", any_schema(r, depth - 1),
                          "required", "first");
    json_t *b = json_pack("{s:{s:o}}", "properties", "second", any_schema(r, depth - 1));
    if (coin(r, 50)) return json_pack("{s:[o, o]}", "allOf", a, b);
    json_t *alternatives =
        json_pack("[{s:[s]}, {s:{s:{s:s}}}]", "required", "third", "properties", "fourth", "type", "null");
    json_object_update(a, b);
    json_decref(b);
    json_object_set_new(a, "anyOf", alternatives);
    return a;
}

static json_t *any_schema(gen_rng *r, int depth) {
    uint32_t kind = gen_below(r, depth > 0 ? 20 : 9);
    if (kind < 3) return string_schema(r);
    if (kind < 5) return number_schema(r);
    if (kind == 5) return json_pack("{s:s}", "type", coin(r, 50) ? "boolean" : "null");
    if (kind == 6) {
        json_t *list = json_array();
        for (uint32_t i = 0; i <= gen_below(r, 6); i++) json_array_append_new(list, constant(r));
        return json_pack("{s:o}", "enum", list);
    }
    if (kind == 7) return json_pack("{s:o}", "const", constant(r));
    if (kind == 8) return json_pack("{s:[s, s]}", "type", "integer", "null");
    if (kind < 13) return object_schema(r, depth);
    if (kind < 15) return array_schema(r, depth);
    if (kind < 17) return choice_schema(r, depth);
    if (kind == 17) return all_schema(r, depth);
    if (kind == 18) return json_pack("{s:s}", "$ref", "#/$defs/tree");
    return coin(r, 30) ? json_object() : json_pack("{s:s}", "$ref", "#/$defs/leaf");
}

json_t *gen_schema(gen_rng *r) {
    json_t *s = any_schema(r, 3), *defs = json_object();
    json_object_set_new(defs, "leaf", any_schema(r, 0));
    json_object_set_new(defs, "tree",
                        json_pack("{s:s, s:{s:{s:s}, s:{s:s, s:{s:s}, s:i}, s:{s:[{s:s}, {s:s}]}}, s:[s], s:b}", "type",
                                  "object", "properties", "label", "$ref", "#/$defs/leaf", "kids", "type", "array",
                                  "items", "$ref", "#/$defs/tree", "maxItems", 3, "next", "anyOf", "$ref",
                                  "#/$defs/tree", "type", "null", "required", "label", "additionalProperties", 0));
    json_object_set_new(s, "$defs", defs);
    return s;
}

/* ---- checking ---- */

static bool is_type(const json_t *v, const char *type) {
    if (strcmp(type, "integer") == 0) return json_is_integer(v);
    if (strcmp(type, "number") == 0) return json_is_number(v);
    if (strcmp(type, "null") == 0) return json_is_null(v);
    if (strcmp(type, "boolean") == 0) return json_is_boolean(v);
    if (strcmp(type, "string") == 0) return json_is_string(v);
    return strcmp(type, "array") == 0 ? json_is_array(v) : json_is_object(v);
}

static size_t characters(const json_t *v) {
    size_t n = 0;
    for (const char *p = json_string_value(v); *p; p++) n += ((unsigned char)*p & 0xC0) != 0x80;
    return n;
}

static bool number_at(const json_t *s, const char *key, double *x) {
    const json_t *v = json_object_get(s, key);
    if (v) *x = json_number_value(v);
    return v != NULL;
}

static bool check_type(const json_t *s, const json_t *v) {
    const json_t *type = json_object_get(s, "type");
    bool ok = !type || (json_is_string(type) && is_type(v, json_string_value(type)));
    for (size_t i = 0; i < json_array_size(type); i++) ok |= is_type(v, json_string_value(json_array_get(type, i)));
    return ok;
}

static bool check_sizes(const json_t *s, const json_t *v) {
    double x, value = json_number_value(v);
    if (json_is_string(v) && number_at(s, "minLength", &x) && (double)characters(v) < x) return false;
    if (json_is_string(v) && number_at(s, "maxLength", &x) && (double)characters(v) > x) return false;
    if (json_is_array(v) && number_at(s, "minItems", &x) && (double)json_array_size(v) < x) return false;
    if (json_is_array(v) && number_at(s, "maxItems", &x) && (double)json_array_size(v) > x) return false;
    if (!json_is_number(v)) return true;
    if (number_at(s, "minimum", &x) && value < x) return false;
    if (number_at(s, "maximum", &x) && value > x) return false;
    if (number_at(s, "exclusiveMinimum", &x) && value <= x) return false;
    return !number_at(s, "exclusiveMaximum", &x) || value < x;
}

static bool check_constant(const json_t *s, const json_t *v) {
    const json_t *only = json_object_get(s, "const"), *list = json_object_get(s, "enum");
    bool found = !list;
    for (size_t i = 0; i < json_array_size(list); i++) found |= json_equal(json_array_get(list, i), v);
    return found && (!only || json_equal(only, v));
}

static bool check_object(const json_t *s, const json_t *root, const json_t *v, const char **why) {
    const json_t *properties = json_object_get(s, "properties"), *required = json_object_get(s, "required"),
                 *rest = json_object_get(s, "additionalProperties");
    for (size_t i = 0; i < json_array_size(required); i++) {
        *why = "required";
        if (!json_object_get(v, json_string_value(json_array_get(required, i)))) return false;
    }
    for (void *m = json_object_iter((json_t *)v); m; m = json_object_iter_next((json_t *)v, m)) {
        const json_t *own = json_object_get(properties, json_object_iter_key(m));
        if (!own && !rest) continue;
        if (!gen_validate(own ? own : rest, root, json_object_iter_value(m), why)) return false;
    }
    return true;
}

static bool check_array(const json_t *s, const json_t *root, const json_t *v, const char **why) {
    const json_t *prefix = json_object_get(s, "prefixItems"), *items = json_object_get(s, "items");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (one && !gen_validate(one, root, json_array_get(v, i), why)) return false;
    }
    return true;
}

static bool check_combined(const json_t *s, const json_t *root, const json_t *v, const char **why) {
    static const char *const keys[] = {"anyOf", "oneOf"};
    const json_t *all = json_object_get(s, "allOf"), *ref = json_object_get(s, "$ref");
    for (size_t i = 0; i < json_array_size(all); i++)
        if (!gen_validate(json_array_get(all, i), root, v, why)) return false;
    for (int k = 0; k < 2; k++) {
        const json_t *list = json_object_get(s, keys[k]);
        bool any = !list;
        for (size_t i = 0; i < json_array_size(list) && !any; i++)
            any = gen_validate(json_array_get(list, i), root, v, why);
        if (!any) return false;
    }
    if (!ref) return true;
    const char *name = strrchr(json_string_value(ref), '/') + 1;
    return gen_validate(json_object_get(json_object_get(root, "$defs"), name), root, v, why);
}

bool gen_validate(const json_t *s, const json_t *root, const json_t *v, const char **why) {
    if (json_is_boolean(s)) {
        *why = "false";
        return json_is_true(s);
    }
    *why = "type";
    if (!check_type(s, v)) return false;
    *why = "const or enum";
    if (!check_constant(s, v)) return false;
    *why = "a size or bound";
    if (!check_sizes(s, v)) return false;
    if (json_is_object(v) && !check_object(s, root, v, why)) return false;
    if (json_is_array(v) && !check_array(s, root, v, why)) return false;
    return check_combined(s, root, v, why);
}
