#include "worker/text/jinja_value.h"

#include <stdio.h>
#include <string.h>

#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_run.h"
#include "worker/text/jinja_unicode.h"

const char *mw_jtype_name(mw_jval v) {
    switch ((mw_jtype)v.type) {
    case MW_J_MISSING:
    case MW_J_UNDEF: return "Undefined";
    case MW_J_NONE: return "None";
    case MW_J_BOOL: return "bool";
    case MW_J_INT: return "int";
    case MW_J_FLOAT: return "float";
    case MW_J_STR: return "str";
    case MW_J_LIST: return "list";
    case MW_J_TUPLE: return "tuple";
    case MW_J_DICT: return "dict";
    case MW_J_RANGE: return "range";
    case MW_J_VIEW: return v.sub == MW_JV_KEYS ? "dict_keys" : v.sub == MW_JV_VALUES ? "dict_values" : "dict_items";
    case MW_J_NAMESPACE: return "namespace";
    case MW_J_MACRO: return "macro";
    case MW_J_LOOP: return "loop";
    case MW_J_ITER: return "iterator";
    case MW_J_METHOD: return "method";
    case MW_J_FUNC: return "function";
    }
    return "?";
}

mw_jval mw_jstr_wrap(const char *s, size_t n) {
    return (mw_jval){.type = MW_J_STR, .sub = mw_juni_ascii(s, n), .n = (uint32_t)n, .u.s = n ? s : ""};
}

mw_status mw_jstr_room(mw_jrun *r, size_t n, char **bytes, mw_jval *out) {
    if (n > MW_JTEXT_MAX) {
        return MW_JFAIL(r, MW_ERR_LIMIT, "a string of %zu bytes, at most %zu are allowed", n, MW_JTEXT_MAX);
    }
    MW_JTRY(mw_jstep_bytes(r, n));
    MW_JTRY(mw_jarena_text(r->mem, n, bytes));
    *out = (mw_jval){.type = MW_J_STR, .n = (uint32_t)n, .u.s = *bytes};
    return MW_OK;
}

mw_status mw_jstr_copy(mw_jrun *r, const char *s, size_t n, mw_jval *out) {
    char *p;
    MW_JTRY(mw_jstr_room(r, n, &p, out));
    if (n) memcpy(p, s, n);
    out->sub = mw_juni_ascii(s, n);
    return MW_OK;
}

mw_status mw_jstr_concat(mw_jrun *r, mw_jval a, mw_jval b, mw_jval *out) {
    if (!a.n || !b.n) {
        *out = a.n ? a : b;
        return MW_OK;
    }
    size_t n = (size_t)a.n + b.n;
    char *p;
    /* A template that builds its text by `ns.text = ns.text + more` is linear this way: the old value keeps its own
     * length, and nobody else can own the bytes behind it. */
    if (n <= MW_JTEXT_MAX && mw_jarena_extend(r->mem, a.u.s, a.n, b.n)) {
        MW_JTRY(mw_jstep_bytes(r, b.n));
        p = (char *)a.u.s;
        *out = (mw_jval){.type = MW_J_STR, .n = (uint32_t)n, .u.s = p};
    } else {
        MW_JTRY(mw_jstr_room(r, n, &p, out));
        memcpy(p, a.u.s, a.n);
    }
    memcpy(p + a.n, b.u.s, b.n);
    out->sub = a.sub && b.sub;
    return MW_OK;
}

mw_status mw_jstr_escape(mw_jrun *r, mw_jval s, mw_jval *out) {
    mw_jbuf b = {0};
    uint32_t from = 0;
    *out = s;
    if (s.markup) return MW_OK;
    MW_JTRY(mw_jstep_bytes(r, s.n));
    for (uint32_t i = 0; i < s.n; i++) {
        char c = s.u.s[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '\'' ? "&#39;"
                             : c == '"'  ? "&#34;"
                                         : NULL;
        if (!entity) continue;
        MW_JTRY(mw_jbuf_add(r, &b, s.u.s + from, i - from));
        MW_JTRY(mw_jbuf_adds(r, &b, entity));
        from = i + 1;
    }
    if (from) {
        MW_JTRY(mw_jbuf_add(r, &b, s.u.s + from, s.n - from));
        *out = mw_jbuf_value(&b);
    }
    out->markup = 1;
    return MW_OK;
}

mw_status mw_jvals(mw_jrun *r, size_t n, mw_jval **out) {
    MW_JTRY(mw_jstep(r, n));
    return MW_JNEW(r->mem, out, n);
}

mw_status mw_jpair(mw_jrun *r, mw_jval a, mw_jval b, mw_jval *out) {
    mw_jval *v;
    MW_JTRY(mw_jvals(r, 2, &v));
    v[0] = a;
    v[1] = b;
    *out = mw_jtuple(v, 2);
    return MW_OK;
}

mw_status mw_jundefined(mw_jrun *r, mw_jval owner, mw_jval name, mw_jval *out) {
    mw_jundef *u;
    MW_JTRY(MW_JNEW(r->mem, &u, 1));
    u->owner = owner.type;
    u->name = name;
    *out = mw_jundefined_hint(u);
    return MW_OK;
}

mw_jval mw_jundefined_hint(const mw_jundef *u) {
    return (mw_jval){.type = MW_J_UNDEF, .u.undef = u};
}

void mw_jundef_report(mw_jrun *r, mw_jval v) {
    const mw_jundef *u = v.u.undef;
    char name[80];
    if (u->hint) {
        (void)MW_JERROR(r, "%.*s", (int)u->hint_len, u->hint);
        return;
    }
    if (mw_jis_str(u->name)) {
        int n = u->name.n < 60 ? (int)u->name.n : 60;
        snprintf(name, sizeof name, "'%.*s'", n, u->name.u.s);
    } else if (mw_jis_int(u->name)) {
        snprintf(name, sizeof name, "%lld", (long long)mw_jto_int(u->name));
    } else {
        snprintf(name, sizeof name, "(a %s)", mw_jtype_name(u->name));
    }
    if (u->owner == MW_J_MISSING) {
        (void)MW_JERROR(r, "%s is undefined", name);
    } else {
        const char *owner = mw_jtype_name((mw_jval){.type = u->owner});
        (void)MW_JERROR(r, "a %s has no %s %s", owner, mw_jis_str(u->name) ? "attribute" : "element", name);
    }
}

mw_status mw_jlen(mw_jrun *r, mw_jval v, int64_t *out) {
    switch ((mw_jtype)v.type) {
    case MW_J_UNDEF: *out = 0; return MW_OK;
    case MW_J_STR:
        MW_JTRY(mw_jstep_bytes(r, v.sub ? 0 : v.n));
        *out = (int64_t)(v.sub ? v.n : mw_juni_length(v.u.s, v.n));
        return MW_OK;
    case MW_J_LIST:
    case MW_J_TUPLE: *out = v.n; return MW_OK;
    case MW_J_DICT:
    case MW_J_VIEW: *out = v.u.dict->n; return MW_OK;
    case MW_J_RANGE: *out = v.u.range->len; return MW_OK;
    case MW_J_LOOP: return mw_jloop_length(r, v.u.loop, out);
    default: *out = -1; return MW_OK;
    }
}

mw_status mw_jtruth(mw_jrun *r, mw_jval v, bool *out) {
    switch ((mw_jtype)v.type) {
    case MW_J_MISSING:
    case MW_J_UNDEF:
    case MW_J_NONE: *out = false; return MW_OK;
    case MW_J_BOOL: *out = v.u.b; return MW_OK;
    case MW_J_INT: *out = v.u.i != 0; return MW_OK;
    case MW_J_FLOAT: *out = v.u.f != 0; return MW_OK;
    case MW_J_STR: *out = v.n != 0; return MW_OK;
    default: {
        int64_t n;
        MW_JTRY(mw_jlen(r, v, &n));
        *out = n != 0; /* what has no length is true */
        return MW_OK;
    }
    }
}
