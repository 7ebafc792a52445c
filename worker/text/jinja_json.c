/* JSON in (jansson to values) and out (json.dumps as the tojson filter of chat templates calls it). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/text/jinja_number.h"
#include "worker/text/jinja_sort.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

static mw_status str_from_json(mw_jrun *r, const char *s, size_t n, mw_jval *out) {
    if (n > MW_JTEXT_MAX) return MW_JFAIL(r, MW_ERR_LIMIT, "a string of %zu bytes in a message", n);
    MW_JTRY(mw_jstep_bytes(r, n));
    *out = mw_jstr_wrap(s, n);
    if (!out->sub && !mw_juni_valid(s, n)) return MW_JERROR(r, "a string of a message is not UTF-8");
    return MW_OK;
}

static mw_status object_from_json(mw_jrun *r, const json_t *json, mw_jval *out) {
    mw_jdict *d;
    const char *key;
    json_t *item;
    MW_JTRY(mw_jdict_new(r, json_object_size(json), &d));
    json_object_foreach((json_t *)json, key, item) {
        mw_jval k, v;
        MW_JTRY(str_from_json(r, key, strlen(key), &k));
        MW_JTRY(mw_jtext_from_json(r, item, &v));
        MW_JTRY(mw_jdict_set(r, d, k, v));
    }
    *out = mw_jdict_val(d);
    return MW_OK;
}

static mw_status array_from_json(mw_jrun *r, const json_t *json, mw_jval *out) {
    size_t n = json_array_size(json);
    mw_jval *v;
    MW_JTRY(mw_jvals(r, n, &v));
    for (size_t i = 0; i < n; i++) MW_JTRY(mw_jtext_from_json(r, json_array_get(json, i), &v[i]));
    *out = mw_jlist(v, n);
    return MW_OK;
}

static mw_status from_json(mw_jrun *r, const json_t *json, mw_jval *out) {
    switch (json_typeof(json)) {
    case JSON_OBJECT: return object_from_json(r, json, out);
    case JSON_ARRAY: return array_from_json(r, json, out);
    case JSON_STRING: return str_from_json(r, json_string_value(json), json_string_length(json), out);
    case JSON_INTEGER: *out = MW_JINT(json_integer_value(json)); return MW_OK;
    case JSON_REAL: *out = MW_JFLOAT(json_real_value(json)); break;
    case JSON_TRUE:
    case JSON_FALSE: *out = MW_JBOOL(json_is_true(json)); return MW_OK;
    default: *out = MW_JNONE; return MW_OK;
    }
    return isfinite(out->u.f) ? MW_OK : MW_JERROR(r, "a number of a message is not finite");
}

mw_status mw_jtext_from_json(mw_jrun *r, const json_t *json, mw_jval *out) {
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = from_json(r, json, out);
    r->depth--;
    return st;
}

static mw_status dump(mw_jrun *r, const mw_jdump *how, mw_jval v, uint32_t level, mw_jbuf *b);

static mw_status dump_str(mw_jrun *r, bool ascii, mw_jval v, mw_jbuf *b) {
    uint32_t len, from = 0;
    MW_JTRY(mw_jstep_bytes(r, v.n));
    MW_JTRY(mw_jbuf_adds(r, b, "\""));
    for (uint32_t i = 0; i < v.n; i += len) {
        uint32_t cp = mw_juni_at(v.u.s + i, &len);
        const char *shorthand = cp == '"'    ? "\\\""
                                : cp == '\\' ? "\\\\"
                                : cp == '\n' ? "\\n"
                                : cp == '\r' ? "\\r"
                                : cp == '\t' ? "\\t"
                                : cp == '\f' ? "\\f"
                                : cp == '\b' ? "\\b"
                                             : NULL;
        char esc[16];
        if (shorthand) {
            snprintf(esc, sizeof esc, "%s", shorthand);
        } else if (cp >= 0x20 && (cp < 0x7f || !ascii)) {
            continue;
        } else if (cp < 0x10000) {
            snprintf(esc, sizeof esc, "\\u%04x", cp);
        } else {
            snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xd7c0 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
        }
        MW_JTRY(mw_jbuf_add(r, b, v.u.s + from, i - from));
        MW_JTRY(mw_jbuf_adds(r, b, esc));
        from = i + len;
    }
    MW_JTRY(mw_jbuf_add(r, b, v.u.s + from, v.n - from));
    return mw_jbuf_adds(r, b, "\"");
}

/* Before an element: the separator, and with `lines` a new line at this level. */
static mw_status lead(mw_jrun *r, const mw_jdump *how, uint32_t level, bool first, mw_jbuf *b) {
    if (!first) MW_JTRY(mw_jbuf_add(r, b, how->item.u.s, how->item.n));
    if (!how->lines) return MW_OK;
    MW_JTRY(mw_jbuf_adds(r, b, "\n"));
    for (uint32_t i = 0; i < level; i++) {
        MW_JTRY(mw_jstep(r, 1));
        MW_JTRY(mw_jbuf_add(r, b, how->indent.u.s, how->indent.n));
    }
    return MW_OK;
}

static mw_status close_at(mw_jrun *r, const mw_jdump *how, uint32_t level, const char *bracket, mw_jbuf *b) {
    MW_JTRY(lead(r, how, level, true, b));
    return mw_jbuf_adds(r, b, bracket);
}

static mw_status dump_seq(mw_jrun *r, const mw_jdump *how, mw_jval v, uint32_t level, mw_jbuf *b) {
    if (!v.n) return mw_jbuf_adds(r, b, "[]");
    MW_JTRY(mw_jbuf_adds(r, b, "["));
    for (uint32_t i = 0; i < v.n; i++) {
        MW_JTRY(lead(r, how, level + 1, i == 0, b));
        MW_JTRY(dump(r, how, v.u.v[i], level + 1, b));
    }
    return close_at(r, how, level, "]", b);
}

/* Keys that are not strings become strings, as json.dumps does. */
static mw_status dump_key(mw_jrun *r, const mw_jdump *how, mw_jval key, mw_jbuf *b) {
    if (mw_jis_str(key)) return dump_str(r, how->ascii, key, b);
    if (key.type != MW_J_NONE && !mw_jis_num(key)) {
        return MW_JERROR(r, "a %s as key of a dict has no JSON form", mw_jtype_name(key));
    }
    MW_JTRY(mw_jbuf_adds(r, b, "\""));
    MW_JTRY(dump(r, how, key, 0, b));
    return mw_jbuf_adds(r, b, "\"");
}

static mw_status dump_dict(mw_jrun *r, const mw_jdump *how, const mw_jdict *d, uint32_t level, mw_jbuf *b) {
    if (!d->n) return mw_jbuf_adds(r, b, "{}");
    uint32_t *order = NULL;
    if (how->sort) MW_JTRY(mw_jsort_order(r, d->key, d->n, false, &order));
    MW_JTRY(mw_jbuf_adds(r, b, "{"));
    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t at = order ? order[i] : i;
        MW_JTRY(lead(r, how, level + 1, i == 0, b));
        MW_JTRY(dump_key(r, how, d->key[at], b));
        MW_JTRY(mw_jbuf_add(r, b, how->key.u.s, how->key.n));
        MW_JTRY(dump(r, how, d->val[at], level + 1, b));
    }
    return close_at(r, how, level, "}", b);
}

static mw_status dump_inner(mw_jrun *r, const mw_jdump *how, mw_jval v, uint32_t level, mw_jbuf *b) {
    switch ((mw_jtype)v.type) {
    case MW_J_NONE: return mw_jbuf_adds(r, b, "null");
    case MW_J_BOOL: return mw_jbuf_adds(r, b, v.u.b ? "true" : "false");
    case MW_J_INT:
    case MW_J_FLOAT: return mw_jtext_repr(r, v, b);
    case MW_J_STR: return dump_str(r, how->ascii, v, b);
    case MW_J_LIST:
    case MW_J_TUPLE: return dump_seq(r, how, v, level, b);
    case MW_J_DICT: return dump_dict(r, how, v.u.dict, level, b);
    default: return MW_JERROR(r, "a %s has no JSON form", mw_jtype_name(v));
    }
}

static mw_status dump(mw_jrun *r, const mw_jdump *how, mw_jval v, uint32_t level, mw_jbuf *b) {
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = dump_inner(r, how, v, level, b);
    r->depth--;
    return st;
}

mw_status mw_jtext_json(mw_jrun *r, const mw_jdump *how, mw_jval v, mw_jbuf *b) {
    return dump(r, how, v, 0, b);
}
