/* Objects and arrays, with and without a schema for what is in them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/constraint_chars.h"
#include "worker/text/constraint_number.h"
#include "worker/text/constraint_schema.h"
#include "worker/text/tok_utf8.h"

#define MAX_INDENT 24 /* spaces after a newline: a model that goes on with blanks for ever is stopped */

/* ---- what all share ---- */

/* Nothing, a space, or a newline and some spaces. */
int32_t mw_schema_ws(mw_schema *c) {
    mw_nfa *g = c->g;
    if (c->ws >= 0) return c->ws;
    c->ws = mw_nfa_rule_new(g);
    int32_t from = g->rule[c->ws].start, to = g->rule[c->ws].end, at = mw_nfa_node_new(g);
    mw_nfa_empty(g, from, to);
    mw_nfa_bytes(g, from, ' ', ' ', to);
    mw_nfa_bytes(g, from, '\n', '\n', at);
    for (int i = 0; i < MAX_INDENT; i++) {
        int32_t next = mw_nfa_node_new(g);
        mw_nfa_empty(g, at, to);
        mw_nfa_bytes(g, at, ' ', ' ', next);
        at = next;
    }
    mw_nfa_empty(g, at, to);
    return c->ws;
}

/* A byte, then white space. */
static void byte_ws(mw_schema *c, int32_t from, char byte, int32_t to) {
    int32_t at = mw_nfa_node_new(c->g);
    mw_nfa_bytes(c->g, from, byte, byte, at);
    mw_nfa_call(c->g, at, mw_schema_ws(c), to);
}

/* White space, then a byte. */
static void ws_byte(mw_schema *c, int32_t from, char byte, int32_t to) {
    int32_t at = mw_nfa_node_new(c->g);
    mw_nfa_call(c->g, from, mw_schema_ws(c), at);
    mw_nfa_bytes(c->g, at, byte, byte, to);
}

/* A colon and perhaps a space. */
static void colon(mw_schema *c, int32_t from, int32_t to) {
    int32_t at = mw_nfa_node_new(c->g);
    mw_nfa_bytes(c->g, from, ':', ':', at);
    mw_nfa_empty(c->g, at, to);
    mw_nfa_bytes(c->g, at, ' ', ' ', to);
}

int32_t mw_schema_any(mw_schema *c) {
    mw_nfa *g = c->g;
    if (c->any >= 0) return c->any;
    c->any = mw_nfa_rule_new(g);
    int32_t object = mw_schema_object(c), array = mw_schema_array(c), from = g->rule[c->any].start,
            to = g->rule[c->any].end;
    mw_chars_string(g, from, 0, -1, to);
    mw_status st = mw_number(g, from, false, (mw_number_bound){0}, (mw_number_bound){0}, to);
    if (g->st == MW_OK) g->st = st;
    mw_nfa_text(g, from, "true", 4, to);
    mw_nfa_text(g, from, "false", 5, to);
    mw_nfa_text(g, from, "null", 4, to);
    mw_nfa_call(g, from, object, to);
    mw_nfa_call(g, from, array, to);
    return c->any;
}

/* open, close, and between them `item`s with commas. */
static void any_list(mw_schema *c, int32_t rule, char open, char close, int32_t before, int32_t after) {
    mw_nfa *g = c->g;
    int32_t from = g->rule[rule].start, to = g->rule[rule].end, first = mw_nfa_node_new(g);
    byte_ws(c, from, open, first);
    mw_nfa_bytes(g, first, close, close, to);
    mw_nfa_empty(g, first, before);
    byte_ws(c, after, ',', before);
    ws_byte(c, after, close, to);
}

int32_t mw_schema_object(mw_schema *c) {
    mw_nfa *g = c->g;
    if (c->object >= 0) return c->object;
    c->object = mw_nfa_rule_new(g);
    int32_t key = mw_nfa_node_new(g), named = mw_nfa_node_new(g), value = mw_nfa_node_new(g), done = mw_nfa_node_new(g);
    any_list(c, c->object, '{', '}', key, done);
    mw_chars_string(g, key, 0, -1, named);
    colon(c, named, value);
    mw_nfa_call(g, value, mw_schema_any(c), done);
    return c->object;
}

int32_t mw_schema_array(mw_schema *c) {
    mw_nfa *g = c->g;
    if (c->array >= 0) return c->array;
    c->array = mw_nfa_rule_new(g);
    int32_t value = mw_nfa_node_new(g), done = mw_nfa_node_new(g);
    any_list(c, c->array, '[', ']', value, done);
    mw_nfa_call(g, value, mw_schema_any(c), done);
    return c->array;
}

/* ---- constants ---- */

static void quoted(mw_nfa *g, int32_t from, const json_t *value, int32_t to) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text && g->st == MW_OK) g->st = MW_FAIL(MW_ERR_NOMEM, "schema");
    if (text) mw_nfa_text(g, from, text, strlen(text), to);
    free(text);
}

static void quoted_name(mw_nfa *g, int32_t from, const char *name, int32_t to) {
    json_t *value = json_string(name);
    quoted(g, from, value, to);
    json_decref(value);
}

void mw_schema_constant(mw_schema *c, int32_t from, const json_t *value, int32_t to) {
    mw_nfa *g = c->g;
    bool object = json_is_object(value), first = true;
    if (!object && !json_is_array(value)) {
        quoted(g, from, value, to);
        return;
    }
    int32_t at = mw_nfa_node_new(g);
    byte_ws(c, from, object ? '{' : '[', at);
    void *member = json_object_iter((json_t *)value);
    for (size_t i = 0; (object ? member != NULL : i < json_array_size(value)) && g->st == MW_OK; i++, first = false) {
        int32_t item = mw_nfa_node_new(g), done = mw_nfa_node_new(g);
        if (first)
            mw_nfa_empty(g, at, item);
        else
            byte_ws(c, at, ',', item);
        if (object) {
            int32_t named = mw_nfa_node_new(g), inside = mw_nfa_node_new(g);
            quoted_name(g, item, json_object_iter_key(member), named);
            colon(c, named, inside);
            mw_schema_constant(c, inside, json_object_iter_value(member), done);
            member = json_object_iter_next((json_t *)value, member);
        } else {
            mw_schema_constant(c, item, json_array_get(value, i), done);
        }
        at = done;
    }
    if (first)
        mw_nfa_bytes(g, at, object ? '}' : ']', object ? '}' : ']', to);
    else
        ws_byte(c, at, object ? '}' : ']', to);
}

/* ---- objects ---- */

typedef struct {
    const char *name;
    json_t *schema; /* NULL: any value */
    bool required;
} property;

typedef struct {
    mw_schema *c;
    const mw_schema_item *it;
    property *p;
    size_t n, n_required;
    json_t *required; /* object: the names as keys */
    json_t *rest;     /* schema of further properties; NULL: none are made */
} object;

static mw_status check_object(const object *o) {
    const json_t *list = json_object_get(o->it->schema, "required"),
                 *all = json_object_get(o->it->schema, "properties");
    if (all && !json_is_object(all)) return MW_FAIL(MW_ERR_USAGE, "%s: properties: expected an object", o->it->path);
    if (list && !json_is_array(list)) return MW_FAIL(MW_ERR_USAGE, "%s: required: expected a list", o->it->path);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_string(json_array_get(list, i)))
            return MW_FAIL(MW_ERR_USAGE, "%s: required: expected a list of names", o->it->path);
    return MW_OK;
}

/* "required" may name what "properties" does not: any further property. Names are taken once. */
static mw_status list_properties(object *o) {
    json_t *all = json_object_get(o->it->schema, "properties"), *list = json_object_get(o->it->schema, "required");
    json_t *rest = json_object_get(o->it->schema, "additionalProperties");
    mw_status st = MW_CALLOC(&o->p, json_object_size(all) + json_array_size(list), "properties");
    if (st != MW_OK) return st;
    if (!(o->required = json_object())) return MW_FAIL(MW_ERR_NOMEM, "properties");
    for (size_t i = 0; i < json_array_size(list); i++)
        json_object_set_new(o->required, json_string_value(json_array_get(list, i)), json_true());
    for (void *at = json_object_iter(all); at; at = json_object_iter_next(all, at)) {
        const char *name = json_object_iter_key(at);
        o->p[o->n++] = (property){name, json_object_iter_value(at), json_object_get(o->required, name) != NULL};
    }
    for (void *at = json_object_iter(o->required); at; at = json_object_iter_next(o->required, at)) {
        const char *name = json_object_iter_key(at);
        if (!json_object_get(all, name)) o->p[o->n++] = (property){name, rest, true};
    }
    for (size_t i = 0; i < o->n; i++) o->n_required += o->p[i].required;
    bool bare = !all && !list;
    o->rest = rest ? (json_is_false(rest) ? NULL : rest) : bare ? json_true() : NULL;
    return MW_OK;
}

/* Counts that hold anyway, whatever is written. Others would need a counter beside the list of properties. */
static mw_status check_counts(const object *o) {
    int64_t min, max;
    mw_status st = MW_OK;
    MW_TRY(st, mw_schema_count(o->it->schema, "minProperties", o->it->path, 0, &min));
    MW_TRY(st, mw_schema_count(o->it->schema, "maxProperties", o->it->path, -1, &max));
    if (min > (int64_t)o->n_required)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: 'minProperties' above the number of required ones is not supported",
                       o->it->path);
    if (max >= 0 && (o->rest || max < (int64_t)o->n))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: 'maxProperties' is not supported", o->it->path);
fail:
    return st;
}

static mw_status value_rule(const object *o, json_t *schema, const char *key, int32_t *rule) {
    char place[256];
    snprintf(place, sizeof place, "%s%s", schema == o->rest ? "" : "properties/", key);
    if (schema) return mw_schema_rule(o->c, schema, o->it->path, place, -1, rule);
    *rule = mw_schema_any(o->c);
    return o->c->g->st;
}

/* ---- names of further properties: any but the declared ones ---- */

typedef struct {
    mw_schema *c;
    char **name; /* [n] sorted */
    int32_t free_node, to;
} other_names;

/* Names that share their first `at` bytes, [lo, hi): from here either one of their next characters, or the name is a
 * different one. Written without escapes, so that no declared name comes back in disguise. */
static mw_status other_from(const other_names *o, size_t lo, size_t hi, size_t at, int32_t from, int depth) {
    mw_nfa *g = o->c->g;
    mw_chars next = {0};
    mw_status st = MW_OK;
    if (depth > 1000) return MW_FAIL(MW_ERR_LIMIT, "a property's name has more than 1000 characters");
    if (o->name[lo][at] == 0)
        lo++; /* a declared name ends here */
    else
        mw_nfa_bytes(g, from, '"', '"', o->to);
    for (size_t i = lo; i < hi && g->st == MW_OK;) {
        size_t len = (size_t)mw_utf8_len((unsigned char)o->name[i][at]), end = i;
        while (end < hi && strncmp(o->name[end] + at, o->name[i] + at, len) == 0) end++;
        uint32_t c = mw_utf8_get(o->name[i] + at);
        int32_t deeper = mw_nfa_node_new(g);
        MW_TRY(st, mw_chars_add(&next, c, c));
        mw_nfa_text(g, from, o->name[i] + at, len, deeper);
        MW_TRY(st, other_from(o, i, end, at + len, deeper, depth + 1));
        i = end;
    }
    mw_chars_sort(&next);
    MW_TRY(st, mw_chars_negate(&next, MW_CHARS_LAST));
    mw_nfa_call(g, from, mw_chars_rule(g, &next, true), o->free_node);
fail:
    mw_chars_free(&next);
    return st;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* May a name be written without escapes? Only such names need to be avoided. */
static bool is_plain(const char *name) {
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == '"' || *name == '\\') return false;
    return true;
}

static mw_status other_name(const object *o, int32_t from, int32_t to) {
    mw_nfa *g = o->c->g;
    static uint32_t all[] = {0x20, MW_CHARS_LAST};
    other_names names = {.c = o->c, .to = to};
    size_t n = 0;
    mw_status st = MW_OK;
    if (o->n == 0) {
        mw_chars_string(g, from, 0, -1, to);
        return MW_OK;
    }
    MW_TRY(st, MW_CALLOC(&names.name, o->n, "properties"));
    for (size_t i = 0; i < o->n; i++)
        if (is_plain(o->p[i].name)) names.name[n++] = (char *)o->p[i].name;
    qsort(names.name, n, sizeof *names.name, by_text);
    int32_t start = mw_nfa_node_new(g);
    names.free_node = mw_nfa_node_new(g);
    mw_nfa_bytes(g, from, '"', '"', start);
    mw_nfa_call(g, names.free_node, mw_chars_rule(g, &(mw_chars){.r = all, .n = 1}, true), names.free_node);
    mw_nfa_bytes(g, names.free_node, '"', '"', to);
    if (n)
        st = other_from(&names, 0, n, 0, start, 0);
    else
        mw_nfa_empty(g, start, names.free_node);
fail:
    free(names.name);
    return st;
}

/* ---- the automaton of an object ---- */

/* Properties come in the order in which they are declared. Three rails run along them: nothing written yet, a property
 * written, a comma written; each step passes an optional property by or writes it. */
typedef struct {
    int32_t none, some, comma; /* -1: not reachable */
} rails;

static mw_status one_property(const object *o, const property *p, rails *r) {
    mw_nfa *g = o->c->g;
    int32_t key = mw_nfa_node_new(g), named = mw_nfa_node_new(g), value = mw_nfa_node_new(g), rule = 0;
    rails next = {-1, mw_nfa_node_new(g), mw_nfa_node_new(g)};
    mw_status st = value_rule(o, p->schema, p->name, &rule);
    if (st != MW_OK) return st;
    quoted_name(g, key, p->name, named);
    colon(o->c, named, value);
    mw_nfa_call(g, value, rule, next.some);
    if (r->none >= 0) mw_nfa_empty(g, r->none, key);
    if (r->comma >= 0) mw_nfa_empty(g, r->comma, key);
    if (r->some >= 0) byte_ws(o->c, r->some, ',', r->comma);
    if (!p->required) {
        next.none = r->none;
        if (r->comma >= 0) mw_nfa_empty(g, r->comma, next.comma);
    }
    *r = next;
    return g->st;
}

static mw_status further_properties(const object *o, const rails *r) {
    mw_nfa *g = o->c->g;
    int32_t key = mw_nfa_node_new(g), named = mw_nfa_node_new(g), value = mw_nfa_node_new(g), rule = 0;
    mw_status st = value_rule(o, o->rest, "additionalProperties", &rule);
    if (st != MW_OK) return st;
    if (r->none >= 0) mw_nfa_empty(g, r->none, key);
    mw_nfa_empty(g, r->comma, key);
    st = other_name(o, key, named);
    colon(o->c, named, value);
    mw_nfa_call(g, value, rule, r->some);
    return st;
}

static mw_status emit_properties(const object *o, int32_t from, int32_t to) {
    mw_nfa *g = o->c->g;
    int32_t start = mw_nfa_node_new(g), *some = NULL;
    size_t may_close = o->n;
    mw_status st = MW_CALLOC(&some, o->n + 1, "properties");
    if (st != MW_OK) return st;
    while (may_close > 0 && !o->p[may_close - 1].required) may_close--;
    byte_ws(o->c, from, '{', start);
    rails r = {start, -1, -1};
    if (o->n == 0) r = (rails){start, mw_nfa_node_new(g), mw_nfa_node_new(g)};
    some[0] = r.some;
    for (size_t i = 0; i < o->n; i++) {
        MW_TRY(st, one_property(o, &o->p[i], &r));
        some[i + 1] = r.some;
    }
    byte_ws(o->c, r.some, ',', r.comma);
    if (o->rest) MW_TRY(st, further_properties(o, &r));
    if (r.none >= 0) mw_nfa_bytes(g, r.none, '}', '}', to);
    int32_t close = mw_nfa_node_new(g);
    mw_nfa_bytes(g, close, '}', '}', to);
    for (size_t i = may_close; i <= o->n; i++)
        if (some[i] >= 0) mw_nfa_call(g, some[i], mw_schema_ws(o->c), close);
fail:
    free(some);
    return st;
}

mw_status mw_schema_emit_object(mw_schema *c, const mw_schema_item *it, int32_t from, int32_t to) {
    object o = {.c = c, .it = it};
    mw_status st = MW_OK;
    MW_TRY(st, check_object(&o));
    MW_TRY(st, list_properties(&o));
    MW_TRY(st, check_counts(&o));
    MW_TRY(st, emit_properties(&o, from, to));
fail:
    free(o.p);
    json_decref(o.required);
    return st;
}

/* ---- arrays ---- */

typedef struct {
    json_t *prefix, *items; /* items NULL: none behind the prefix */
    int64_t min, max;       /* max -1: no limit */
} array;

static mw_status read_array(const mw_schema_item *it, array *a) {
    const json_t *unique = json_object_get(it->schema, "uniqueItems");
    json_t *items = json_object_get(it->schema, "items");
    mw_status st = MW_OK;
    a->prefix = json_object_get(it->schema, "prefixItems");
    MW_TRY(st, mw_schema_count(it->schema, "minItems", it->path, 0, &a->min));
    MW_TRY(st, mw_schema_count(it->schema, "maxItems", it->path, -1, &a->max));
    if (a->prefix && !json_is_array(a->prefix))
        return MW_FAIL(MW_ERR_USAGE, "%s: prefixItems: expected a list of schemas", it->path);
    if (json_is_array(items))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: 'items' with a list is not supported, 'prefixItems' is", it->path);
    if (unique && !json_is_false(unique))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: 'uniqueItems' is not supported", it->path);
    a->items = items ? (json_is_false(items) ? NULL : items) : a->prefix ? NULL : json_true();
    int64_t n_prefix = (int64_t)json_array_size(a->prefix);
    if (!a->items && (a->max < 0 || a->max > n_prefix)) a->max = n_prefix;
    if (a->min >= MW_NFA_MAX_NODES || a->max >= MW_NFA_MAX_NODES)
        return MW_FAIL(MW_ERR_LIMIT, "%s: minItems or maxItems beyond %d", it->path, MW_NFA_MAX_NODES - 1);
fail:
    return st;
}

/* Nodes by the number of items written: before a value, behind one, behind a comma. */
typedef struct {
    int32_t *before, *behind, *comma;
    size_t n;
} item_chain;

static mw_status fill_chain(mw_schema *c, const mw_schema_item *it, const array *a, item_chain *k, int32_t to) {
    mw_nfa *g = c->g;
    size_t n_prefix = json_array_size(a->prefix);
    mw_status st = MW_OK;
    for (size_t i = 0; i < k->n; i++) {
        k->before[i] = mw_nfa_node_new(g);
        k->behind[i] = mw_nfa_node_new(g);
        k->comma[i] = mw_nfa_node_new(g);
    }
    for (size_t i = 0; i < k->n && g->st == MW_OK; i++) { /* i items are written */
        bool more = a->max < 0 || (int64_t)i < a->max;
        size_t next = i + 1 < k->n ? i + 1 : i;
        int32_t rule = 0;
        if (i > 0 && (int64_t)i >= a->min) ws_byte(c, k->behind[i], ']', to);
        if (!more) continue;
        if (i < n_prefix)
            MW_TRY(st, mw_schema_rule(c, json_array_get(a->prefix, i), it->path, "prefixItems", (int)i, &rule));
        else
            MW_TRY(st, mw_schema_rule(c, a->items, it->path, "items", -1, &rule));
        mw_nfa_call(g, k->before[i], rule, k->behind[next]);
        if (i == 0) continue;
        mw_nfa_bytes(g, k->behind[i], ',', ',', k->comma[i]);
        mw_nfa_call(g, k->comma[i], mw_schema_ws(c), k->before[i]);
    }
    size_t first = n_prefix > 1 ? n_prefix : 1;
    if (first < k->n) {
        int64_t min = a->min - (int64_t)first, max = a->max < 0 ? -1 : a->max - (int64_t)first;
        mw_nfa_mark_chain(g, k->before + first, k->n - first, min, max);
        mw_nfa_mark_chain(g, k->behind + first, k->n - first, min, max);
        mw_nfa_mark_chain(g, k->comma + first, k->n - first, min, max);
    }
fail:
    return st;
}

mw_status mw_schema_emit_array(mw_schema *c, const mw_schema_item *it, int32_t from, int32_t to) {
    mw_nfa *g = c->g;
    array a;
    item_chain k = {0};
    mw_status st = MW_OK;
    MW_TRY(st, read_array(it, &a));
    int64_t counted = a.max >= 0 ? a.max : a.min, n_prefix = (int64_t)json_array_size(a.prefix);
    if (counted < n_prefix && a.max < 0) counted = n_prefix;
    if (counted < 1 && a.max < 0) counted = 1;
    k.n = (size_t)counted + 1;
    MW_TRY(st, MW_CALLOC(&k.before, k.n, "items"));
    MW_TRY(st, MW_CALLOC(&k.behind, k.n, "items"));
    MW_TRY(st, MW_CALLOC(&k.comma, k.n, "items"));
    MW_TRY(st, fill_chain(c, it, &a, &k, to));
    byte_ws(c, from, '[', k.before[0]);
    if (a.min == 0) mw_nfa_bytes(g, k.before[0], ']', ']', to);
fail:
    free(k.before);
    free(k.behind);
    free(k.comma);
    return st;
}
