/* $ref with neighbours, allOf, anyOf and oneOf. All parts that must hold together are merged into one schema; of
 * several alternatives one becomes a choice of rules, the rest goes into each of its schemas. oneOf is treated as
 * anyOf: what it forbids beyond that no automaton of reasonable size can tell. */
#include <stdlib.h>
#include <string.h>

#include "worker/text/constraint_schema.h"

#define MAX_PARTS 256     /* of one schema, through references and allOf */
#define MAX_PAIRS 4000000 /* of entries of two lists that are compared */

typedef struct {
    mw_schema *c;
    const mw_schema_item *it;
    json_t *merged;          /* the plain keywords of all parts */
    json_t *part[MAX_PARTS]; /* borrowed; each once */
    int n_parts;
    json_t *choice[MAX_PARTS]; /* lists of alternatives, borrowed */
    int n_choices;
} merger;

static mw_status no_memory(void) {
    return MW_FAIL(MW_ERR_NOMEM, "schema");
}

/* Takes `value` over. */
static mw_status put(json_t *o, const char *key, json_t *value) {
    return json_object_set_new(o, key, value) == 0 ? MW_OK : no_memory();
}

static mw_status add_part(merger *m, json_t *part) {
    for (int i = 0; i < m->n_parts; i++)
        if (m->part[i] == part) return MW_OK;
    if (m->n_parts == MAX_PARTS)
        return MW_FAIL(MW_ERR_LIMIT, "%s: more than %d schemas hold together", m->it->path, MAX_PARTS);
    m->part[m->n_parts++] = part;
    return MW_OK;
}

/* ---- one keyword in two parts ---- */

static json_t *both(const json_t *a, const json_t *b) {
    return json_pack("{s:[O, O]}", "allOf", a, b);
}

static json_t *as_list(json_t *v) {
    return json_is_array(v) ? json_incref(v) : json_pack("[O]", v);
}

static bool list_has(const json_t *list, const json_t *v) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v)) return true;
    return false;
}

static bool names_type(const json_t *list, const char *type) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && strcmp(name, type) == 0) return true;
    }
    return false;
}

/* Entries of a that are in b too; "integer" is in "number". */
static json_t *common(const json_t *a, const json_t *b, bool types) {
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(a) && out; i++) {
        json_t *v = json_array_get(a, i);
        const char *name = json_string_value(v);
        bool hit = list_has(b, v);
        if (types && name && strcmp(name, "integer") == 0) hit |= names_type(b, "number");
        if (hit) json_array_append(out, v);
        if (!hit && types && name && strcmp(name, "number") == 0 && names_type(b, "integer"))
            json_array_append_new(out, json_string("integer"));
    }
    return out;
}

static json_t *merge_types(json_t *a, json_t *b) {
    json_t *x = as_list(a), *y = as_list(b), *out = x && y ? common(x, y, true) : NULL;
    json_decref(x);
    json_decref(y);
    if (out && json_array_size(out) == 0) { /* nothing has both types */
        json_decref(out);
        out = json_false();
    }
    return out;
}

static json_t *merge_properties(json_t *a, json_t *b) {
    json_t *out = json_copy(a);
    for (void *at = json_object_iter(b); at && out; at = json_object_iter_next(b, at)) {
        json_t *mine = json_object_get(out, json_object_iter_key(at)), *theirs = json_object_iter_value(at);
        if (!mine)
            json_object_set(out, json_object_iter_key(at), theirs);
        else if (!json_equal(mine, theirs))
            json_object_set_new(out, json_object_iter_key(at), both(mine, theirs));
    }
    return out;
}

static json_t *merge_required(json_t *a, json_t *b) {
    json_t *out = json_copy(a);
    for (size_t i = 0; i < json_array_size(b) && out; i++)
        if (!list_has(out, json_array_get(b, i))) json_array_append(out, json_array_get(b, i));
    return out;
}

/* NULL: the two cannot be merged (or no memory). */
static json_t *merge_values(const char *key, json_t *a, json_t *b) {
    static const char *const larger[] = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", NULL};
    static const char *const smaller[] = {"maximum",  "exclusiveMaximum", "maxLength",
                                          "maxItems", "maxProperties",    NULL};
    if (strcmp(key, "type") == 0) return merge_types(a, b);
    if (strcmp(key, "properties") == 0 && json_is_object(a) && json_is_object(b)) return merge_properties(a, b);
    if (strcmp(key, "required") == 0 && json_is_array(a) && json_is_array(b)) return merge_required(a, b);
    if (strcmp(key, "enum") == 0 && json_is_array(a) && json_is_array(b)) return common(a, b, false);
    if (strcmp(key, "const") == 0) return json_false();
    if (strcmp(key, "format") == 0) return json_incref(a);
    if (strcmp(key, "items") == 0) return both(a, b);
    if (strcmp(key, "additionalProperties") == 0)
        return json_is_false(a) || json_is_false(b) ? json_false() : both(a, b);
    for (int i = 0; larger[i]; i++) {
        bool up = strcmp(key, larger[i]) == 0, down = strcmp(key, smaller[i]) == 0;
        if ((!up && !down) || !json_is_number(a) || !json_is_number(b)) continue;
        return json_incref((json_number_value(a) > json_number_value(b)) == up ? a : b);
    }
    return NULL;
}

/* ---- parts ---- */

/* additionalProperties of one part speaks of all properties that this part does not name: also of those that only the
 * other part names, which the merged schema could not say. */
static mw_status check_closed(const merger *m, const json_t *closed, const json_t *other) {
    const json_t *rest = json_object_get(closed, "additionalProperties"), *own = json_object_get(closed, "properties");
    json_t *theirs = json_object_get(other, "properties");
    if (!rest || json_is_true(rest)) return MW_OK;
    for (void *at = json_object_iter(theirs); at; at = json_object_iter_next(theirs, at))
        if (!json_object_get(own, json_object_iter_key(at)))
            return MW_FAIL(
                MW_ERR_UNSUPPORTED,
                "%s: 'additionalProperties' of one part and property '%s' of another: not supported together",
                m->it->path, json_object_iter_key(at));
    return MW_OK;
}

static mw_status merge_keyword(merger *m, const char *key, json_t *value, bool *never) {
    json_t *mine = json_object_get(m->merged, key);
    if (!mine) return json_object_set(m->merged, key, value) == 0 ? MW_OK : no_memory();
    if (mine == value || json_equal(mine, value)) return MW_OK;
    if (json_array_size(mine) * json_array_size(value) > MAX_PAIRS)
        return MW_FAIL(MW_ERR_LIMIT, "%s: two long lists of '%s' hold together", m->it->path, key);
    json_t *v = merge_values(key, mine, value);
    if (!v) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: two different '%s' hold together", m->it->path, key);
    if (json_is_false(v) && (strcmp(key, "type") == 0 || strcmp(key, "const") == 0)) {
        *never = true;
        json_decref(v);
        return MW_OK;
    }
    return put(m->merged, key, v);
}

static mw_status add_list(merger *m, json_t *part, const char *key, bool choice) {
    json_t *list = json_object_get(part, key);
    mw_status st = MW_OK;
    if (!list) return MW_OK;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return MW_FAIL(MW_ERR_USAGE, "%s: %s: expected a list of schemas", m->it->path, key);
    if (choice && m->n_choices == MAX_PARTS)
        return MW_FAIL(MW_ERR_LIMIT, "%s: more than %d choices hold together", m->it->path, MAX_PARTS);
    if (choice) {
        m->choice[m->n_choices++] = list;
        return MW_OK;
    }
    for (size_t i = 0; i < json_array_size(list) && st == MW_OK; i++) st = add_part(m, json_array_get(list, i));
    return st;
}

static mw_status merge_part(merger *m, json_t *part, bool *never) {
    mw_status st = mw_schema_on_time(m->c);
    json_t *ref = json_object_get(part, "$ref"), *target;
    if (st != MW_OK) return st;
    if (json_is_false(part)) *never = true;
    if (json_is_boolean(part)) return MW_OK;
    if (!json_is_object(part)) return MW_FAIL(MW_ERR_USAGE, "%s: allOf: expected schemas (objects)", m->it->path);
    if (ref) {
        MW_TRY(st, mw_schema_target(m->c, ref, m->it->path, &target));
        MW_TRY(st, add_part(m, target));
    }
    MW_TRY(st, add_list(m, part, "allOf", false));
    MW_TRY(st, add_list(m, part, "anyOf", true));
    MW_TRY(st, add_list(m, part, "oneOf", true));
    MW_TRY(st, check_closed(m, part, m->merged));
    MW_TRY(st, check_closed(m, m->merged, part));
    for (void *at = json_object_iter(part); at; at = json_object_iter_next(part, at)) {
        const char *key = json_object_iter_key(at);
        if (strcmp(key, "$ref") == 0 || strcmp(key, "allOf") == 0 || strcmp(key, "anyOf") == 0 ||
            strcmp(key, "oneOf") == 0 || mw_schema_is_annotation(key))
            continue;
        MW_TRY(st, merge_keyword(m, key, json_object_iter_value(at), never));
    }
fail:
    return st;
}

/* ---- the result ---- */

/* The same value in other words. */
static mw_status alias(merger *m, json_t *schema, const char *key, int index) {
    int32_t rule = 0, own = m->it->rule;
    mw_status st = mw_schema_rule(m->c, schema, m->it->path, key, index, &rule);
    if (st == MW_OK) mw_nfa_call(m->c->g, m->c->g->rule[own].start, rule, m->c->g->rule[own].end);
    return st;
}

/* The same for a schema made here, which is taken over. */
static mw_status alias_made(merger *m, json_t *made, const char *key, int index) {
    if (!made || json_array_append_new(m->c->made, made) != 0) return no_memory();
    return alias(m, made, key, index);
}

/* The first choice is made here; what else must hold goes along with each alternative. */
static mw_status choose(merger *m) {
    mw_status st = MW_OK;
    bool alone = m->n_choices == 1 && json_object_size(m->merged) == 0;
    for (size_t i = 0; i < json_array_size(m->choice[0]); i++) {
        json_t *alternative = json_array_get(m->choice[0], i);
        if (alone) {
            MW_TRY(st, alias(m, alternative, "anyOf", (int)i));
            continue;
        }
        json_t *all = json_pack("{s:[O, O]}", "allOf", m->merged, alternative), *list = json_object_get(all, "allOf");
        for (int k = 1; k < m->n_choices && list; k++)
            json_array_append_new(list, json_pack("{s:O}", "anyOf", m->choice[k]));
        MW_TRY(st, alias_made(m, all, "anyOf", (int)i));
    }
fail:
    return st;
}

/* A schema that only refers to others: no merging, so that what is referred to often is there once. *only: it was. */
static mw_status refer(merger *m, bool *only) {
    json_t *schema = m->it->schema, *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf"),
           *target;
    size_t n = 0;
    mw_status st = MW_OK;
    for (void *at = json_object_iter(schema); at; at = json_object_iter_next(schema, at))
        n += !mw_schema_is_annotation(json_object_iter_key(at));
    *only = n == 1 && (ref || json_array_size(all) == 1);
    if (!*only) return MW_OK;
    if (!ref) return alias(m, json_array_get(all, 0), "allOf", 0);
    MW_TRY(st, mw_schema_target(m->c, ref, m->it->path, &target));
    MW_TRY(st, alias(m, target, "$ref", -1));
fail:
    return st;
}

mw_status mw_schema_combine(mw_schema *c, const mw_schema_item *it) {
    mw_status st = MW_OK;
    bool never = false, only = false;
    merger *m = NULL;
    MW_TRY(st, MW_CALLOC(&m, 1, "schema"));
    *m = (merger){.c = c, .it = it, .merged = json_object()};
    if (!m->merged) {
        st = no_memory();
        goto fail;
    }
    MW_TRY(st, refer(m, &only));
    if (only) goto fail;
    MW_TRY(st, add_part(m, it->schema));
    for (int i = 0; i < m->n_parts; i++) MW_TRY(st, merge_part(m, m->part[i], &never));
    if (never) goto fail; /* no value: a rule without edges */
    st = m->n_choices > 0 ? choose(m) : alias_made(m, json_incref(m->merged), "", -1);
fail:
    if (m) json_decref(m->merged);
    free(m);
    return st;
}
