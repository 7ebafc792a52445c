#include "worker/text/jinja_call.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

mw_status mw_jbind(mw_jrun *r, const char *what, const char *const *name, uint32_t n_min, uint32_t n_max, bool by_name,
                   const mw_jargs *args, mw_jval *slot) {
    if (args->n_pos > n_max) return MW_JERROR(r, "%s takes at most %u arguments, %u given", what, n_max, args->n_pos);
    for (uint32_t i = 0; i < n_max; i++) slot[i] = i < args->n_pos ? args->pos[i] : MW_JMISSING;
    for (uint32_t k = 0; k < args->n_kw; k++) {
        mw_jval key = args->kw[k].name;
        uint32_t i = 0;
        while (i < n_max && !mw_jstr_is(key, name[i])) i++;
        if (!by_name || i == n_max) return MW_JERROR(r, "%s takes no argument '%.*s'", what, (int)key.n, key.u.s);
        if (slot[i].type != MW_J_MISSING) return MW_JERROR(r, "%s: two values for '%s'", what, name[i]);
        slot[i] = args->kw[k].val;
    }
    for (uint32_t i = 0; i < n_min; i++) {
        if (slot[i].type == MW_J_MISSING) return MW_JERROR(r, "%s needs the argument '%s'", what, name[i]);
    }
    return MW_OK;
}

mw_status mw_jarg_int(mw_jrun *r, const char *what, mw_jval v, int64_t *out) {
    if (!mw_jis_int(v)) return MW_JERROR(r, "%s must be an int, not a %s", what, mw_jtype_name(v));
    *out = mw_jto_int(v);
    return MW_OK;
}

mw_status mw_jarg_str(mw_jrun *r, const char *what, mw_jval v) {
    return mw_jis_str(v) ? MW_OK : MW_JERROR(r, "%s must be a str, not a %s", what, mw_jtype_name(v));
}

static mw_status call_range(mw_jrun *r, const mw_jargs *args, mw_jval *out) {
    static const char *const name[] = {"start", "stop", "step"};
    mw_jval a[3];
    int64_t v[3] = {0, 0, 1};
    MW_JTRY(mw_jbind(r, "range", name, 1, 3, false, args, a));
    for (uint32_t i = 0; i < args->n_pos; i++) MW_JTRY(mw_jarg_int(r, "a bound of range", a[i], &v[i]));
    if (args->n_pos == 1) {
        v[1] = v[0];
        v[0] = 0;
    }
    if (v[2] == 0) return MW_JERROR(r, "the step of range is zero");
    mw_jrange *g;
    MW_JTRY(MW_JNEW(r->mem, &g, 1));
    *g = (mw_jrange){v[0], v[1], v[2], 0};
    /* Unsigned, so that the distance of any two ends fits. */
    uint64_t span = v[2] > 0 ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
    uint64_t unit = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2];
    bool some = v[2] > 0 ? v[0] < v[1] : v[0] > v[1];
    uint64_t len = some ? (span - 1) / unit + 1 : 0;
    if (len > MW_JRANGE_MAX) return MW_JERROR(r, "a range of more than %d elements", MW_JRANGE_MAX);
    g->len = (int64_t)len;
    *out = (mw_jval){.type = MW_J_RANGE, .u.range = g};
    return MW_OK;
}

static mw_status add_pairs(mw_jrun *r, mw_jdict *d, mw_jval from) {
    if (from.type == MW_J_DICT) {
        for (uint32_t i = 0; i < from.u.dict->n; i++) {
            MW_JTRY(mw_jdict_set(r, d, from.u.dict->key[i], from.u.dict->val[i]));
        }
        return MW_OK;
    }
    mw_jiter *it;
    MW_JTRY(mw_jiter_of(r, from, &it));
    for (;;) {
        mw_jval x, pair;
        MW_JTRY(mw_jiter_next(r, it, &x));
        if (x.type == MW_J_MISSING) return MW_OK;
        MW_JTRY(mw_jiter_list(r, x, &pair));
        if (pair.n != 2) return MW_JERROR(r, "dict() of an element of length %u, 2 is needed", pair.n);
        MW_JTRY(mw_jdict_set(r, d, pair.u.v[0], pair.u.v[1]));
    }
}

/* dict(from, name=value, ...); a namespace is made of the same. */
static mw_status call_dict(mw_jrun *r, const char *what, const mw_jargs *args, mw_jdict **out) {
    mw_jdict *d;
    if (args->n_pos > 1) return MW_JERROR(r, "%s takes at most 1 positional argument, %u given", what, args->n_pos);
    if (args->n_pos && args->pos[0].type == MW_J_UNDEF) return MW_JUNDEF(r, args->pos[0]);
    MW_JTRY(mw_jdict_new(r, args->n_kw, &d));
    if (args->n_pos) MW_JTRY(add_pairs(r, d, args->pos[0]));
    for (uint32_t k = 0; k < args->n_kw; k++) MW_JTRY(mw_jdict_set(r, d, args->kw[k].name, args->kw[k].val));
    *out = d;
    return MW_OK;
}

static mw_status call_namespace(mw_jrun *r, const mw_jargs *args, mw_jval *out) {
    mw_jdict *d;
    MW_JTRY(call_dict(r, "namespace", args, &d));
    for (uint32_t i = 0; i < d->n; i++) {
        if (mw_jis_str(d->key[i]) && d->key[i].n && d->key[i].u.s[0] == '_') {
            return MW_JERROR(r, "a namespace cannot have '%.*s'", (int)d->key[i].n, d->key[i].u.s);
        }
    }
    *out = (mw_jval){.type = MW_J_NAMESPACE, .u.dict = d};
    return MW_OK;
}

static mw_status call_raise(mw_jrun *r, const mw_jargs *args, mw_jval *out) {
    static const char *const name[] = {"message"};
    mw_jval text;
    MW_JTRY(mw_jbind(r, "raise_exception", name, 1, 1, true, args, &text));
    MW_JTRY(mw_jtext_value(r, text, out));
    /* An error text has MW_ERROR_TEXT_MAX bytes: cut between code points. */
    uint32_t n = out->n < MW_ERROR_TEXT_MAX - 1 ? out->n : MW_ERROR_TEXT_MAX - 1;
    while (n && n < out->n && ((uint8_t)out->u.s[n] & 0xc0) == 0x80) n--;
    r->raised = true;
    return MW_FAIL(MW_ERR_USAGE, "%.*s", (int)n, out->u.s);
}

static mw_status call_strftime(mw_jrun *r, const mw_jargs *args, mw_jval *out) {
    static const char *const name[] = {"format"};
    mw_jval f;
    MW_JTRY(mw_jbind(r, "strftime_now", name, 1, 1, true, args, &f));
    MW_JTRY(mw_jarg_str(r, "the format of strftime_now", f));
    mw_jbuf b = {0};
    struct tm tm;
    MW_JTRY(mw_jstep(r, f.n));
    time_t seconds = (time_t)(r->now_us / 1000000);
    if (!localtime_r(&seconds, &tm)) return MW_JFAIL(r, MW_ERR_INTERNAL, "no local time");
    /* One directive at a time: %f, %z and %Z are Python's own, and strftime cannot tell "" from "too long". */
    for (uint32_t i = 0; i < f.n; i++) {
        char text[128], directive[4] = {'%', 0, 0, 0};
        if (f.u.s[i] != '%' || i + 1 == f.n) {
            MW_JTRY(mw_jbuf_add(r, &b, f.u.s + i, 1));
            continue;
        }
        char c = f.u.s[++i];
        directive[1] = c;
        if (c == '-' && i + 1 < f.n) directive[2] = f.u.s[++i];
        char last = directive[2] ? directive[2] : c;
        if (!last || !strchr("aAbBcdDeFGgHIjklmMnpPrRsStTuUVwWxXyYCh%fzZ", last)) {
            return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "strftime_now with '%s' is not supported", directive);
        }
        if (last == 'z' || last == 'Z') continue; /* the time that templates get has no zone */
        if (last == 'f') {
            snprintf(text, sizeof text, "%06d", (int)(r->now_us % 1000000));
        } else if (!strftime(text, sizeof text, directive, &tm)) {
            text[0] = 0;
        }
        MW_JTRY(mw_jbuf_adds(r, &b, text));
    }
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

mw_status mw_jcall_func(mw_jrun *r, mw_jfunc f, const mw_jargs *args, mw_jval *out) {
    mw_jdict *d;
    switch (f) {
    case MW_JF_RANGE: return call_range(r, args, out);
    case MW_JF_NAMESPACE: return call_namespace(r, args, out);
    case MW_JF_RAISE: return call_raise(r, args, out);
    case MW_JF_STRFTIME: return call_strftime(r, args, out);
    default:
        MW_JTRY(call_dict(r, "dict", args, &d));
        *out = mw_jdict_val(d);
        return MW_OK;
    }
}

mw_status mw_jcall(mw_jrun *r, mw_jval f, const mw_jargs *args, mw_jval *out) {
    switch ((mw_jtype)f.type) {
    case MW_J_MACRO: return mw_jcall_macro(r, f.u.macro, args, out);
    case MW_J_FUNC: return mw_jcall_func(r, (mw_jfunc)f.sub, args, out);
    case MW_J_METHOD: return mw_jcall_method(r, f, args, out);
    case MW_J_UNDEF: return MW_JUNDEF(r, f);
    default: return MW_JERROR(r, "a %s cannot be called", mw_jtype_name(f));
    }
}
