#include "worker/text/constraint_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/text/constraint_chars.h"
#include "worker/text/constraint_number.h"
#include "worker/text/constraint_regex.h"

/* ---- keywords ---- */

typedef enum { ANNOTATION, STRUCTURE, OF_OBJECT, OF_ARRAY, OF_STRING, OF_NUMBER } keyword_kind;

static const struct {
    const char *name;
    keyword_kind kind;
} k_keywords[] = {
    {"$schema", ANNOTATION},
    {"$id", ANNOTATION},
    {"$comment", ANNOTATION},
    {"$defs", ANNOTATION},
    {"definitions", ANNOTATION},
    {"title", ANNOTATION},
    {"description", ANNOTATION},
    {"default", ANNOTATION},
    {"example", ANNOTATION},
    {"examples", ANNOTATION},
    {"deprecated", ANNOTATION},
    {"readOnly", ANNOTATION},
    {"writeOnly", ANNOTATION},
    {"contentEncoding", ANNOTATION},
    {"contentMediaType", ANNOTATION},
    {"contentSchema", ANNOTATION},
    {"discriminator", ANNOTATION}, /* OpenAPI: which alternative a reader should take */
    {"type", STRUCTURE},
    {"enum", STRUCTURE},
    {"const", STRUCTURE},
    {"$ref", STRUCTURE},
    {"allOf", STRUCTURE},
    {"anyOf", STRUCTURE},
    {"oneOf", STRUCTURE},
    {"properties", OF_OBJECT},
    {"required", OF_OBJECT},
    {"additionalProperties", OF_OBJECT},
    {"minProperties", OF_OBJECT},
    {"maxProperties", OF_OBJECT},
    {"items", OF_ARRAY},
    {"prefixItems", OF_ARRAY},
    {"minItems", OF_ARRAY},
    {"maxItems", OF_ARRAY},
    {"uniqueItems", OF_ARRAY},
    {"minLength", OF_STRING},
    {"maxLength", OF_STRING},
    {"pattern", OF_STRING},
    {"format", OF_STRING},
    {"minimum", OF_NUMBER},
    {"maximum", OF_NUMBER},
    {"exclusiveMinimum", OF_NUMBER},
    {"exclusiveMaximum", OF_NUMBER},
    {"multipleOf", OF_NUMBER},
};
#define N_KEYWORDS (sizeof k_keywords / sizeof *k_keywords)

static size_t find_keyword(const char *key) {
    size_t i = 0;
    while (i < N_KEYWORDS && strcmp(k_keywords[i].name, key) != 0) i++;
    return i;
}

bool mw_schema_is_annotation(const char *key) {
    size_t i = find_keyword(key);
    return i < N_KEYWORDS ? k_keywords[i].kind == ANNOTATION : strncmp(key, "x-", 2) == 0;
}

static mw_status check_keywords(const mw_schema_item *it) {
    for (void *at = json_object_iter(it->schema); at; at = json_object_iter_next(it->schema, at)) {
        const char *key = json_object_iter_key(at);
        if (find_keyword(key) == N_KEYWORDS && !mw_schema_is_annotation(key))
            return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: '%s' is not supported", it->path, key);
    }
    return MW_OK;
}

static bool has_kind(const json_t *schema, keyword_kind kind) {
    for (size_t i = 0; i < N_KEYWORDS; i++)
        if (k_keywords[i].kind == kind && json_object_get(schema, k_keywords[i].name)) return true;
    return false;
}

mw_status mw_schema_count(const json_t *schema, const char *key, const char *path, int64_t def, int64_t *out) {
    const json_t *v = json_object_get(schema, key);
    *out = def;
    if (!v) return MW_OK;
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= 0 && x < 1e15) || x != (double)(int64_t)x)
        return MW_FAIL(MW_ERR_USAGE, "%s: %s: expected a whole number from 0", path, key);
    *out = (int64_t)x;
    return MW_OK;
}

/* ---- time ---- */

/* What this thread has computed: a busy machine does not make a schema too large. */
static double thread_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

mw_status mw_schema_on_time(const mw_schema *c) {
    if (thread_s() < c->late_s) return MW_OK;
    return MW_FAIL(MW_ERR_LIMIT, "takes more than %.0f s to compile", MW_SCHEMA_SECONDS);
}

/* ---- the list of schemas ---- */

static size_t slot_of(const mw_schema *c, const json_t *schema) {
    uint64_t h = (uint64_t)(uintptr_t)schema * UINT64_C(0x9E3779B97F4A7C15);
    size_t mask = 2 * MW_SCHEMA_MAX - 1, i = (size_t)(h >> 40) & mask;
    while (c->slot[i] >= 0 && c->item[c->slot[i]].schema != schema) i = (i + 1) & mask;
    return i;
}

static mw_status make_room(mw_schema *c) {
    if (c->n == MW_SCHEMA_MAX)
        return MW_FAIL(MW_ERR_LIMIT, "more than %d schemas in one, those that come of merging included", MW_SCHEMA_MAX);
    if (c->n < c->cap) return MW_OK;
    size_t cap = c->cap ? 2 * c->cap : 64;
    mw_schema_item *p = realloc(c->item, cap * sizeof *p);
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "schemas");
    c->item = p;
    c->cap = cap;
    return MW_OK;
}

mw_status mw_schema_rule(mw_schema *c, json_t *schema, const char *path, const char *key, int index, int32_t *rule) {
    mw_str text = {0};
    size_t i = slot_of(c, schema);
    mw_status st = MW_OK;
    if (c->slot[i] >= 0) {
        *rule = c->item[c->slot[i]].rule;
        return MW_OK;
    }
    MW_TRY(st, make_room(c));
    MW_TRY(st, mw_str_addf(&text, "%.400s%s%.200s", path, *key ? "/" : "", key));
    if (index >= 0) MW_TRY(st, mw_str_addf(&text, "/%d", index));
    *rule = mw_nfa_rule_new(c->g);
    MW_TRY(st, c->g->st);
    c->slot[i] = (int32_t)c->n;
    c->item[c->n++] = (mw_schema_item){schema, text.p, *rule};
    return MW_OK;
fail:
    mw_str_free(&text);
    return st;
}

/* ---- references ---- */

/* One step of a JSON pointer, its escapes undone, into a buffer; returns where the next one begins, or NULL. */
static const char *pointer_step(const char *p, char *out, size_t room) {
    size_t n = 0;
    for (; *p && *p != '/'; p++) {
        char c = *p;
        if (c == '~' && (p[1] == '0' || p[1] == '1')) c = *++p == '0' ? '~' : '/';
        if (c == '%') {
            unsigned v;
            if (sscanf(p + 1, "%2x", &v) != 1 || v == 0) return NULL;
            c = (char)v;
            p += 2;
        }
        if (n + 1 == room) return NULL;
        out[n++] = c;
    }
    out[n] = 0;
    return p;
}

mw_status mw_schema_target(const mw_schema *c, const json_t *ref, const char *path, json_t **out) {
    const char *p = json_string_value(ref);
    json_t *at = c->root;
    char step[512];
    if (!p) return MW_FAIL(MW_ERR_USAGE, "%s: $ref: expected a string", path);
    if (p[0] != '#' || (p[1] && p[1] != '/'))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: $ref '%.200s': only references into the same schema ('#/...')", path,
                       p);
    const char *text = p++;
    while (p && *p == '/' && at) {
        p = pointer_step(p + 1, step, sizeof step);
        if (!p) break;
        at = json_is_array(at) ? json_array_get(at, strtoul(step, NULL, 10)) : json_object_get(at, step);
    }
    if (!p || !at) return MW_FAIL(MW_ERR_USAGE, "%s: $ref '%.200s' points at nothing", path, text);
    *out = at;
    return MW_OK;
}

/* ---- strings and numbers ---- */

/* Formats that are held to; each pattern gives values that the format's RFC allows, not all of them. Others are
 * annotations, as the standard has it. */
static const struct {
    const char *name, *pattern;
} k_formats[] = {
#define DATE                                                                                                           \
    "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0["  \
    "1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
#define TIME  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P([0-9]{1,4}W|([0-9]{1,4}Y)?([0-9]{1,4}M)?[0-9]{1,4}D(T[0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?)?|T["
                 "0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|T[0-9]{1,4}M([0-9]{1,4}S)?|T[0-9]{1,4}S)$"},
    {"email", "^[a-zA-Z0-9_+-]{1,30}(\\.[a-zA-Z0-9_+-]{1,30}){0,3}@(" LABEL "\\.){1,4}[a-zA-Z]{2,12}$"},
    {"hostname", "^" LABEL "(\\." LABEL "){0,5}$"},
    {"ipv4", "^" OCTET "(\\." OCTET "){3}$"},
    {"ipv6", "^([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
};

static mw_status emit_string(mw_schema *c, const mw_schema_item *it, int32_t from, int32_t to) {
    const json_t *pattern = json_object_get(it->schema, "pattern"), *format = json_object_get(it->schema, "format");
    const char *text = json_string_value(pattern);
    int64_t min, max;
    mw_status st = MW_OK;
    MW_TRY(st, mw_schema_count(it->schema, "minLength", it->path, 0, &min));
    MW_TRY(st, mw_schema_count(it->schema, "maxLength", it->path, -1, &max));
    if (min >= MW_NFA_MAX_NODES || max >= MW_NFA_MAX_NODES)
        return MW_FAIL(MW_ERR_LIMIT, "%s: minLength or maxLength beyond %d", it->path, MW_NFA_MAX_NODES - 1);
    if (pattern && !text) return MW_FAIL(MW_ERR_USAGE, "%s: pattern: expected a string", it->path);
    for (size_t i = 0; !text && format && i < sizeof k_formats / sizeof *k_formats; i++)
        if (json_is_string(format) && strcmp(json_string_value(format), k_formats[i].name) == 0)
            text = k_formats[i].pattern;
    if (!text) {
        mw_chars_string(c->g, from, min, max, to);
        return MW_OK;
    }
    st = mw_regex_string(c->g, from, text, strlen(text), min, max, to);
    if (st != MW_OK) mw_error_prefix("%s", it->path);
fail:
    return st;
}

/* The stricter of a bound and its exclusive sister. side: 1 for lower bounds, -1 for upper ones. */
static mw_status get_bound(const mw_schema_item *it, const char *closed, const char *open, int side,
                           mw_number_bound *out) {
    const json_t *a = json_object_get(it->schema, closed), *b = json_object_get(it->schema, open);
    if ((a && !json_is_number(a)) || (b && !json_is_number(b)))
        return MW_FAIL(MW_ERR_USAGE, "%s: %s: expected a number", it->path, a && !json_is_number(a) ? closed : open);
    bool take_open = b && (!a || side * json_number_value(b) >= side * json_number_value(a));
    *out = (mw_number_bound){take_open ? b : a, take_open};
    return MW_OK;
}

static mw_status check_multiple(const mw_schema_item *it, bool integer) {
    const json_t *v = json_object_get(it->schema, "multipleOf");
    if (!v || (integer && json_is_number(v) && json_number_value(v) == 1)) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: 'multipleOf' is not supported", it->path);
}

static void key_of_bound(const mw_number_bound *b, char out[40]) {
    if (!b->value)
        snprintf(out, 40, "-");
    else if (json_is_integer(b->value))
        snprintf(out, 40, "%d %" JSON_INTEGER_FORMAT, b->open, json_integer_value(b->value));
    else
        snprintf(out, 40, "%d %.17g", b->open, json_number_value(b->value));
}

/* Numbers with the same bounds share a rule. */
static mw_status emit_number(mw_schema *c, const mw_schema_item *it, bool integer, int32_t from, int32_t to) {
    mw_number_bound low, high;
    char key[96], a[40], b[40];
    mw_status st = MW_OK;
    MW_TRY(st, check_multiple(it, integer));
    MW_TRY(st, get_bound(it, "minimum", "exclusiveMinimum", 1, &low));
    MW_TRY(st, get_bound(it, "maximum", "exclusiveMaximum", -1, &high));
    key_of_bound(&low, a);
    key_of_bound(&high, b);
    snprintf(key, sizeof key, "%d %s %s", integer, a, b);
    const json_t *known = json_object_get(c->numbers, key);
    int32_t rule = known ? (int32_t)json_integer_value(known) : mw_nfa_rule_new(c->g);
    MW_TRY(st, c->g->st);
    if (!known) {
        st = mw_number(c->g, c->g->rule[rule].start, integer, low, high, c->g->rule[rule].end);
        if (st != MW_OK) {
            mw_error_prefix("%s", it->path);
            goto fail;
        }
        if (json_object_set_new(c->numbers, key, json_integer(rule)) != 0) return MW_FAIL(MW_ERR_NOMEM, "schema");
    }
    mw_nfa_call(c->g, from, rule, to);
fail:
    return st;
}

/* ---- types ---- */

static const char *const k_types[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
enum { T_OBJECT = 1, T_ARRAY = 2, T_STRING = 4, T_NUMBER = 8, T_INTEGER = 16, T_BOOLEAN = 32, T_NULL = 64 };

static mw_status type_bit(const json_t *name, const char *path, unsigned *types) {
    for (size_t i = 0; i < sizeof k_types / sizeof *k_types; i++)
        if (json_is_string(name) && strcmp(json_string_value(name), k_types[i]) == 0) {
            *types |= 1u << i;
            return MW_OK;
        }
    return MW_FAIL(MW_ERR_USAGE, "%s: type: expected the name of a JSON type, or a list of them", path);
}

/* 0: any. Without "type", the types whose keywords are there. */
static mw_status get_types(const mw_schema_item *it, unsigned *types) {
    const json_t *type = json_object_get(it->schema, "type");
    mw_status st = MW_OK;
    *types = 0;
    if (!type) {
        *types |= has_kind(it->schema, OF_OBJECT) ? T_OBJECT : 0;
        *types |= has_kind(it->schema, OF_ARRAY) ? T_ARRAY : 0;
        *types |= has_kind(it->schema, OF_STRING) ? T_STRING : 0;
        *types |= has_kind(it->schema, OF_NUMBER) ? T_NUMBER : 0;
        return MW_OK;
    }
    if (!json_is_array(type)) return type_bit(type, it->path, types);
    for (size_t i = 0; i < json_array_size(type); i++) MW_TRY(st, type_bit(json_array_get(type, i), it->path, types));
    if (*types == 0) st = MW_FAIL(MW_ERR_USAGE, "%s: type: an empty list", it->path);
    if (*types & T_NUMBER) *types &= ~(unsigned)T_INTEGER;
fail:
    return st;
}

static bool is_of_type(const json_t *v, unsigned types) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return types & T_OBJECT;
    case JSON_ARRAY: return types & T_ARRAY;
    case JSON_STRING: return types & T_STRING;
    case JSON_INTEGER: return types & (T_NUMBER | T_INTEGER);
    case JSON_REAL: return types & T_NUMBER;
    case JSON_NULL: return types & T_NULL;
    default: return types & T_BOOLEAN;
    }
}

/* ---- const and enum ---- */

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Texts side by side, those with a common beginning along one path. Sorted here. */
static void emit_texts(mw_nfa *g, char **text, size_t n, int32_t from, int32_t to) {
    int32_t *path = NULL; /* the nodes along the last text */
    size_t longest = 0;
    qsort(text, n, sizeof *text, by_text);
    for (size_t i = 0; i < n; i++) longest = strlen(text[i]) > longest ? strlen(text[i]) : longest;
    if (g->st == MW_OK) g->st = MW_CALLOC(&path, longest + 1, "schema");
    if (!path) return;
    path[0] = from;
    for (size_t i = 0; i < n && g->st == MW_OK; i++) {
        size_t same = 0, len = strlen(text[i]);
        while (i > 0 && text[i][same] && text[i][same] == text[i - 1][same]) same++;
        if (i > 0 && same == len) continue; /* twice the same */
        for (size_t k = same; k < len; k++) {
            path[k + 1] = mw_nfa_node_new(g);
            mw_nfa_bytes(g, path[k], (unsigned char)text[i][k], (unsigned char)text[i][k], path[k + 1]);
        }
        mw_nfa_empty(g, path[len], to);
    }
    free(path);
}

static mw_status emit_list(mw_schema *c, const json_t *values, int32_t from, int32_t to) {
    char **text = NULL;
    size_t n = 0;
    mw_status st = MW_CALLOC(&text, json_array_size(values), "enum");
    for (size_t i = 0; i < json_array_size(values) && st == MW_OK; i++) {
        const json_t *v = json_array_get(values, i);
        if (json_is_object(v) || json_is_array(v)) {
            mw_schema_constant(c, from, v, to);
        } else {
            text[n] = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
            if (!text[n++]) st = MW_FAIL(MW_ERR_NOMEM, "enum");
        }
    }
    if (st == MW_OK) emit_texts(c->g, text, n, from, to);
    for (size_t i = 0; i < n; i++) free(text[i]);
    free(text);
    return st;
}

static bool is_in(const json_t *list, const json_t *v) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v)) return true;
    return false;
}

static mw_status emit_enum(mw_schema *c, const mw_schema_item *it, unsigned types, int32_t from, int32_t to) {
    json_t *list = json_object_get(it->schema, "enum"), *only = json_object_get(it->schema, "const"), *left;
    mw_status st = MW_OK;
    if (list && !json_is_array(list)) return MW_FAIL(MW_ERR_USAGE, "%s: enum: expected a list", it->path);
    for (size_t i = 0; i < N_KEYWORDS; i++)
        if (k_keywords[i].kind >= OF_OBJECT && strcmp(k_keywords[i].name, "format") != 0 &&
            json_object_get(it->schema, k_keywords[i].name))
            return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: '%s' beside %s is not supported", it->path, k_keywords[i].name,
                           list ? "enum" : "const");
    if (!(left = json_array())) return MW_FAIL(MW_ERR_NOMEM, "enum");
    for (size_t i = 0; i < (only ? 1 : json_array_size(list)); i++) {
        json_t *v = only ? only : json_array_get(list, i);
        if ((types && !is_of_type(v, types)) || (only && list && !is_in(list, v))) continue;
        if (json_array_append(left, v) != 0) st = MW_FAIL(MW_ERR_NOMEM, "enum");
    }
    if (st == MW_OK) st = emit_list(c, left, from, to);
    json_decref(left);
    return st;
}

/* ---- one schema ---- */

static mw_status emit_types(mw_schema *c, const mw_schema_item *it, unsigned types, int32_t from, int32_t to) {
    mw_nfa *g = c->g;
    mw_status st = MW_OK;
    if (types & T_OBJECT) MW_TRY(st, mw_schema_emit_object(c, it, from, to));
    if (types & T_ARRAY) MW_TRY(st, mw_schema_emit_array(c, it, from, to));
    if (types & T_STRING) MW_TRY(st, emit_string(c, it, from, to));
    if (types & T_NUMBER) MW_TRY(st, emit_number(c, it, false, from, to));
    if (types & T_INTEGER) MW_TRY(st, emit_number(c, it, true, from, to));
    if (types & T_BOOLEAN) {
        mw_nfa_text(g, from, "true", 4, to);
        mw_nfa_text(g, from, "false", 5, to);
    }
    if (types & T_NULL) mw_nfa_text(g, from, "null", 4, to);
fail:
    return st;
}

static mw_status emit(mw_schema *c, const mw_schema_item *it) {
    int32_t from = c->g->rule[it->rule].start, to = c->g->rule[it->rule].end;
    unsigned types = 0;
    mw_status st = MW_OK;
    if (json_is_false(it->schema)) return MW_OK; /* no value: a rule without edges */
    if (json_is_true(it->schema)) {
        mw_nfa_call(c->g, from, mw_schema_any(c), to);
        return MW_OK;
    }
    if (!json_is_object(it->schema)) return MW_FAIL(MW_ERR_USAGE, "%s: expected a schema (an object)", it->path);
    MW_TRY(st, check_keywords(it));
    if (json_object_get(it->schema, "$ref") || json_object_get(it->schema, "allOf") ||
        json_object_get(it->schema, "anyOf") || json_object_get(it->schema, "oneOf"))
        return mw_schema_combine(c, it);
    MW_TRY(st, get_types(it, &types));
    if (json_object_get(it->schema, "enum") || json_object_get(it->schema, "const"))
        MW_TRY(st, emit_enum(c, it, types, from, to));
    else if (types)
        MW_TRY(st, emit_types(c, it, types, from, to));
    else
        mw_nfa_call(c->g, from, mw_schema_any(c), to);
fail:
    return st;
}

static mw_status compile(mw_schema *c, int32_t *root) {
    mw_status st = MW_OK;
    if (!json_is_object(c->root) && !json_is_boolean(c->root))
        return MW_FAIL(MW_ERR_USAGE, "expected a schema (an object)");
    MW_TRY(st, mw_schema_rule(c, c->root, "#", "", -1, root));
    while (c->n_done < c->n && c->g->st == MW_OK) {
        MW_TRY(st, mw_schema_on_time(c));
        mw_schema_item it = c->item[c->n_done++]; /* a copy: the list grows meanwhile */
        MW_TRY(st, emit(c, &it));
    }
    st = c->g->st;
fail:
    return st;
}

static mw_status open_schema(mw_schema *c, const char *text, size_t n) {
    json_error_t err;
    mw_status st = MW_CALLOC(&c->slot, 2 * MW_SCHEMA_MAX, "schema");
    if (st != MW_OK) return st;
    memset(c->slot, 0xFF, 2 * MW_SCHEMA_MAX * sizeof *c->slot);
    if (n > MW_SCHEMA_MAX_BYTES) return MW_FAIL(MW_ERR_LIMIT, "%zu bytes, at most %zu", n, MW_SCHEMA_MAX_BYTES);
    c->root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &err);
    if (!c->root) return MW_FAIL(MW_ERR_USAGE, "line %d, column %d: %s", err.line, err.column, err.text);
    c->made = json_array();
    c->numbers = json_object();
    return c->made && c->numbers ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "schema");
}

mw_status mw_schema_compile(mw_nfa *g, const char *text, size_t n) {
    mw_schema c = {.g = g, .ws = -1, .any = -1, .object = -1, .array = -1};
    int32_t root = 0;
    mw_status st = MW_OK;
    c.late_s = thread_s() + MW_SCHEMA_SECONDS;
    if (text) {
        MW_TRY(st, open_schema(&c, text, n));
        MW_TRY(st, compile(&c, &root));
    } else {
        root = mw_schema_object(&c);
    }
    MW_TRY(st, mw_nfa_finish(g, root));
fail:
    if (st != MW_OK) mw_error_prefix("schema");
    for (size_t i = 0; i < c.n; i++) free(c.item[i].path);
    free(c.item);
    free(c.slot);
    json_decref(c.root);
    json_decref(c.made);
    json_decref(c.numbers);
    return st;
}
