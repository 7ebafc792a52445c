#include "worker/text/jinja_text.h"

#include <stdio.h>
#include <string.h>

#include "worker/text/jinja_call.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_unicode.h"

mw_status mw_jbuf_add(mw_jrun *r, mw_jbuf *b, const char *s, size_t n) {
    if (n > MW_JTEXT_MAX - b->n) {
        return MW_JFAIL(r, MW_ERR_LIMIT, "more than %zu bytes of text", MW_JTEXT_MAX);
    }
    if (n == 0) return MW_OK;
    if (!b->p || b->n + n > b->cap) {
        size_t cap = 2 * b->cap + 64;
        if (cap < b->n + n) cap = b->n + n;
        char *p;
        if (b->p && mw_jarena_extend(r->mem, b->p, b->cap, cap - b->cap)) {
            p = b->p;
        } else {
            MW_JTRY(mw_jarena_text(r->mem, cap, &p));
            if (b->p) memcpy(p, b->p, b->n);
        }
        b->p = p;
        b->cap = cap;
    }
    memcpy(b->p + b->n, s, n);
    b->n += n;
    return MW_OK;
}

mw_status mw_jbuf_adds(mw_jrun *r, mw_jbuf *b, const char *s) {
    return mw_jbuf_add(r, b, s, strlen(s));
}

/* Python prefers single quotes, unless the text holds one and no double quote. */
static mw_status repr_str(mw_jrun *r, mw_jval v, mw_jbuf *b) {
    bool single = v.n && memchr(v.u.s, '\'', v.n), twofold = v.n && memchr(v.u.s, '"', v.n);
    char quote = single && !twofold ? '"' : '\'';
    uint32_t len, from = 0;
    MW_JTRY(mw_jstep_bytes(r, v.n));
    MW_JTRY(mw_jbuf_add(r, b, &quote, 1));
    for (uint32_t i = 0; i < v.n; i += len) {
        uint32_t cp = mw_juni_at(v.u.s + i, &len);
        char esc[16];
        if (cp == (uint8_t)quote || cp == '\\') {
            snprintf(esc, sizeof esc, "\\%c", (int)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            snprintf(esc, sizeof esc, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        } else if (mw_juni_printable(cp)) {
            continue;
        } else {
            snprintf(esc, sizeof esc, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        }
        MW_JTRY(mw_jbuf_add(r, b, v.u.s + from, i - from));
        MW_JTRY(mw_jbuf_adds(r, b, esc));
        from = i + len;
    }
    MW_JTRY(mw_jbuf_add(r, b, v.u.s + from, v.n - from));
    return mw_jbuf_add(r, b, &quote, 1);
}

static mw_status repr_markup(mw_jrun *r, mw_jval v, mw_jbuf *b) {
    MW_JTRY(mw_jbuf_adds(r, b, "Markup("));
    MW_JTRY(repr_str(r, v, b));
    return mw_jbuf_adds(r, b, ")");
}

static mw_status repr_items(mw_jrun *r, const mw_jval *v, uint32_t n, mw_jbuf *b) {
    for (uint32_t i = 0; i < n; i++) {
        if (i) MW_JTRY(mw_jbuf_adds(r, b, ", "));
        MW_JTRY(mw_jtext_repr(r, v[i], b));
    }
    return MW_OK;
}

/* The entries of a dict as "key: value" or "(key, value)". */
static mw_status repr_entries(mw_jrun *r, const mw_jdict *d, const char *open, const char *mid, const char *close,
                              mw_jbuf *b) {
    for (uint32_t i = 0; i < d->n; i++) {
        if (i) MW_JTRY(mw_jbuf_adds(r, b, ", "));
        MW_JTRY(mw_jbuf_adds(r, b, open));
        MW_JTRY(mw_jtext_repr(r, d->key[i], b));
        MW_JTRY(mw_jbuf_adds(r, b, mid));
        MW_JTRY(mw_jtext_repr(r, d->val[i], b));
        MW_JTRY(mw_jbuf_adds(r, b, close));
    }
    return MW_OK;
}

static mw_status repr_dict(mw_jrun *r, const mw_jdict *d, mw_jbuf *b) {
    MW_JTRY(mw_jbuf_adds(r, b, "{"));
    MW_JTRY(repr_entries(r, d, "", ": ", "", b));
    return mw_jbuf_adds(r, b, "}");
}

static mw_status repr_view(mw_jrun *r, mw_jval v, mw_jbuf *b) {
    const mw_jdict *d = v.u.dict;
    MW_JTRY(mw_jbuf_adds(r, b, mw_jtype_name(v)));
    MW_JTRY(mw_jbuf_adds(r, b, "(["));
    if (v.sub == MW_JV_ITEMS) {
        MW_JTRY(repr_entries(r, d, "(", ", ", ")", b));
    } else {
        MW_JTRY(repr_items(r, v.sub == MW_JV_KEYS ? d->key : d->val, d->n, b));
    }
    return mw_jbuf_adds(r, b, "])");
}

static mw_status repr_loop(mw_jrun *r, mw_jloop *loop, mw_jbuf *b) {
    char text[64];
    int64_t n;
    MW_JTRY(mw_jloop_length(r, loop, &n));
    snprintf(text, sizeof text, "<LoopContext %lld/%lld>", (long long)loop->index0 + 1, (long long)n);
    return mw_jbuf_adds(r, b, text);
}

static mw_status repr_inner(mw_jrun *r, mw_jval v, mw_jbuf *b) {
    char text[96];
    switch ((mw_jtype)v.type) {
    case MW_J_MISSING:
    case MW_J_UNDEF: return mw_jbuf_adds(r, b, "Undefined");
    case MW_J_NONE: return mw_jbuf_adds(r, b, "None");
    case MW_J_BOOL: return mw_jbuf_adds(r, b, v.u.b ? "True" : "False");
    case MW_J_INT: return mw_jbuf_add(r, b, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)v.u.i));
    case MW_J_FLOAT: return mw_jbuf_add(r, b, text, (size_t)mw_jnum_repr(v.u.f, text));
    case MW_J_STR: return v.markup ? repr_markup(r, v, b) : repr_str(r, v, b);
    case MW_J_LIST:
    case MW_J_TUPLE:
        MW_JTRY(mw_jbuf_adds(r, b, v.type == MW_J_LIST ? "[" : "("));
        MW_JTRY(repr_items(r, v.u.v, v.n, b));
        return mw_jbuf_adds(r, b, v.type == MW_J_LIST ? "]" : v.n == 1 ? ",)" : ")");
    case MW_J_DICT: return repr_dict(r, v.u.dict, b);
    case MW_J_VIEW: return repr_view(r, v, b);
    case MW_J_RANGE:
        snprintf(text, sizeof text, v.u.range->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
                 (long long)v.u.range->start, (long long)v.u.range->stop, (long long)v.u.range->step);
        return mw_jbuf_adds(r, b, text);
    case MW_J_NAMESPACE:
        MW_JTRY(mw_jbuf_adds(r, b, "<Namespace "));
        MW_JTRY(repr_dict(r, v.u.dict, b));
        return mw_jbuf_adds(r, b, ">");
    case MW_J_MACRO:
        MW_JTRY(mw_jbuf_adds(r, b, "<Macro "));
        MW_JTRY(v.u.macro->def->kind == MW_JN_MACRO ? repr_str(r, mw_jmacro_name(v.u.macro), b)
                                                    : mw_jbuf_adds(r, b, "anonymous"));
        return mw_jbuf_adds(r, b, ">");
    case MW_J_LOOP: return repr_loop(r, v.u.loop, b);
    default: return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "printing a %s is not supported", mw_jtype_name(v));
    }
}

mw_status mw_jtext_repr(mw_jrun *r, mw_jval v, mw_jbuf *b) {
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = repr_inner(r, v, b);
    r->depth--;
    return st;
}

mw_status mw_jtext_str(mw_jrun *r, mw_jval v, mw_jbuf *b) {
    if (v.type == MW_J_UNDEF) return MW_OK;
    if (!mw_jis_str(v)) return mw_jtext_repr(r, v, b);
    MW_JTRY(mw_jstep_bytes(r, v.n));
    return mw_jbuf_add(r, b, v.u.s, v.n);
}

mw_status mw_jtext_value(mw_jrun *r, mw_jval v, mw_jval *out) {
    if (mw_jis_str(v)) {
        *out = v;
        return MW_OK;
    }
    mw_jbuf b = {0};
    MW_JTRY(mw_jtext_str(r, v, &b));
    *out = mw_jbuf_value(&b);
    return MW_OK;
}
