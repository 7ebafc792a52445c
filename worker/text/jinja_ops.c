#include "worker/text/jinja_ops.h"

#include <string.h>

#include "worker/base/mem.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

static mw_status concat_seq(mw_jrun *r, mw_jval a, mw_jval b, mw_jval *out) {
    size_t n = (size_t)a.n + b.n;
    mw_jval *v;
    MW_JTRY(mw_jvals(r, n, &v));
    if (a.n) memcpy(v, a.u.v, a.n * sizeof *v);
    if (b.n) memcpy(v + a.n, b.u.v, b.n * sizeof *v);
    *out = a.type == MW_J_LIST ? mw_jlist(v, n) : mw_jtuple(v, n);
    return MW_OK;
}

/* seq * times, for text, list and tuple. */
static mw_status repeat(mw_jrun *r, mw_jval seq, int64_t times, mw_jval *out) {
    if (times < 0 || seq.n == 0) times = 0;
    size_t n;
    if (!mw_mul_size(seq.n, (size_t)times, &n) || n > UINT32_MAX / 2) {
        return MW_JFAIL(r, MW_ERR_LIMIT, "%u x %lld elements", seq.n, (long long)times);
    }
    if (mw_jis_str(seq)) {
        char *p;
        MW_JTRY(mw_jstr_room(r, n, &p, out));
        for (int64_t i = 0; i < times; i++) memcpy(p + (size_t)i * seq.n, seq.u.s, seq.n);
        out->sub = seq.sub || n == 0;
        out->markup = seq.markup;
        return MW_OK;
    }
    mw_jval *v;
    MW_JTRY(mw_jvals(r, n, &v));
    for (int64_t i = 0; i < times; i++) memcpy(v + (size_t)i * seq.n, seq.u.v, seq.n * sizeof *v);
    *out = seq.type == MW_J_LIST ? mw_jlist(v, n) : mw_jtuple(v, n);
    return MW_OK;
}

static bool repeatable(mw_jval v) {
    return mw_jis_str(v) || mw_jis_seq(v);
}

/* Markup + text: what is not Markup is escaped on the way. */
static mw_status concat_markup(mw_jrun *r, mw_jval a, mw_jval b, mw_jval *out) {
    MW_JTRY(mw_jstr_escape(r, a, &a));
    MW_JTRY(mw_jstr_escape(r, b, &b));
    MW_JTRY(mw_jstr_concat(r, a, b, out));
    out->markup = 1;
    return MW_OK;
}

mw_status mw_jop_arith(mw_jrun *r, mw_jarith op, mw_jval a, mw_jval b, mw_jval *out) {
    static const char *const sign[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (mw_jis_num(a) && mw_jis_num(b)) return mw_jnum_arith(r, op, a, b, out);
    if (op == MW_JMOD && a.markup) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "'%%' on safe text is not supported");
    if (op == MW_JMOD && mw_jis_str(a)) return mw_jtext_percent(r, a, b, out);
    if (a.type == MW_J_UNDEF) return MW_JUNDEF(r, a);
    if (b.type == MW_J_UNDEF) return MW_JUNDEF(r, b);
    if (op == MW_JADD && a.type == b.type) {
        if (mw_jis_str(a)) return a.markup || b.markup ? concat_markup(r, a, b, out) : mw_jstr_concat(r, a, b, out);
        if (mw_jis_seq(a)) return concat_seq(r, a, b, out);
    }
    if (op == MW_JMUL && repeatable(a) && mw_jis_int(b)) return repeat(r, a, mw_jto_int(b), out);
    if (op == MW_JMUL && repeatable(b) && mw_jis_int(a)) return repeat(r, b, mw_jto_int(a), out);
    if (op == MW_JSUB && a.type == MW_J_VIEW && b.type == MW_J_VIEW) {
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "subtracting %s is not supported", mw_jtype_name(b));
    }
    return MW_JERROR(r, "'%s' between a %s and a %s", sign[op], mw_jtype_name(a), mw_jtype_name(b));
}

mw_status mw_jop_sign(mw_jrun *r, bool minus, mw_jval v, mw_jval *out) {
    if (v.type == MW_J_UNDEF) return MW_JUNDEF(r, v);
    if (!mw_jis_num(v)) return MW_JERROR(r, "'%s' before a %s", minus ? "-" : "+", mw_jtype_name(v));
    if (v.type == MW_J_FLOAT) {
        *out = MW_JFLOAT(minus ? -v.u.f : v.u.f);
        return MW_OK;
    }
    return minus ? mw_jnum_arith(r, MW_JSUB, MW_JINT(0), v, out) : mw_jnum_arith(r, MW_JADD, MW_JINT(0), v, out);
}

/* The last occurrence, charging for the bytes that are compared: text of repeats makes this quadratic. */
static mw_status find_last(mw_jrun *r, const char *s, size_t from, size_t to, mw_jval what, int64_t *at) {
    size_t compared = 0;
    for (size_t i = to - what.n + 1; i-- > from;) {
        uint32_t k = 0;
        while (k < what.n && s[i + k] == what.u.s[k]) k++;
        compared += k + 1;
        if (k == what.n) {
            *at = (int64_t)i;
            break;
        }
        if (compared >= 4096) {
            MW_JTRY(mw_jstep_bytes(r, compared));
            compared = 0;
        }
    }
    return mw_jstep_bytes(r, compared);
}

mw_status mw_jop_find(mw_jrun *r, const char *s, size_t from, size_t to, mw_jval what, bool last, int64_t *at) {
    *at = -1;
    if (to < from || what.n > to - from) return MW_OK;
    if (last) return find_last(r, s, from, to, what, at);
    const char *p = what.n ? memmem(s + from, to - from, what.u.s, what.n) : s + from;
    if (p) *at = p - s;
    return mw_jstep_bytes(r, what.n + (p ? (size_t)(p - s) - from : to - from));
}

static mw_status contains_key(mw_jrun *r, const mw_jdict *d, mw_jval key, bool *out) {
    mw_jval v;
    MW_JTRY(mw_jdict_get(r, d, key, &v));
    *out = v.type != MW_J_MISSING;
    return MW_OK;
}

mw_status mw_jop_contains(mw_jrun *r, mw_jval seq, mw_jval item, bool *out) {
    *out = false;
    if (mw_jis_str(seq)) {
        if (!mw_jis_str(item)) return MW_JERROR(r, "'in' a str asks for a str, not a %s", mw_jtype_name(item));
        int64_t at;
        MW_JTRY(mw_jop_find(r, seq.u.s, 0, seq.n, item, false, &at));
        *out = at >= 0;
        return MW_OK;
    }
    if (seq.type == MW_J_DICT) return contains_key(r, seq.u.dict, item, out);
    if (seq.type == MW_J_VIEW && seq.sub == MW_JV_KEYS) return contains_key(r, seq.u.dict, item, out);
    mw_jiter *it;
    MW_JTRY(mw_jiter_of(r, seq, &it));
    while (!*out) {
        mw_jval x;
        MW_JTRY(mw_jiter_next(r, it, &x));
        if (x.type == MW_J_MISSING) return MW_OK;
        MW_JTRY(mw_jequal(r, x, item, out));
    }
    return MW_OK;
}
