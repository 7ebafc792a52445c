/* Python's == and its ordering. */
#include <math.h>
#include <string.h>

#include "worker/text/jinja_run.h"

/* -1, 0, 1 for an int against a float, exactly (a conversion to double would round beyond 2^53). */
static int order_int_float(int64_t i, double f) {
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    double whole = trunc(f);
    int64_t w = (int64_t)whole;
    if (i != w) return i < w ? -1 : 1;
    return f > whole ? -1 : f < whole ? 1 : 0;
}

/* Of two numbers; no NaN gets into a render. */
static int order_num(mw_jval a, mw_jval b) {
    if (a.type == MW_J_FLOAT && b.type == MW_J_FLOAT) return (a.u.f > b.u.f) - (a.u.f < b.u.f);
    if (b.type == MW_J_FLOAT) return order_int_float(mw_jto_int(a), b.u.f);
    if (a.type == MW_J_FLOAT) return -order_int_float(mw_jto_int(b), a.u.f);
    int64_t x = mw_jto_int(a), y = mw_jto_int(b);
    return (x > y) - (x < y);
}

/* UTF-8 bytes sort as their code points do. */
static int order_str(mw_jval a, mw_jval b) {
    int c = memcmp(a.u.s, b.u.s, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static mw_status equal_seq(mw_jrun *r, mw_jval a, mw_jval b, bool *out) {
    *out = a.n == b.n;
    for (uint32_t i = 0; i < a.n && *out; i++) MW_JTRY(mw_jequal(r, a.u.v[i], b.u.v[i], out));
    return MW_OK;
}

static mw_status equal_dict(mw_jrun *r, const mw_jdict *a, const mw_jdict *b, bool *out) {
    *out = a->n == b->n;
    for (uint32_t i = 0; i < a->n && *out; i++) {
        mw_jval other;
        MW_JTRY(mw_jdict_get(r, b, a->key[i], &other));
        *out = other.type != MW_J_MISSING;
        if (*out) MW_JTRY(mw_jequal(r, a->val[i], other, out));
    }
    return MW_OK;
}

static bool equal_range(const mw_jrange *a, const mw_jrange *b) {
    if (a->len != b->len) return false;
    if (a->len == 0) return true;
    return a->start == b->start && (a->len == 1 || a->step == b->step);
}

static mw_status equal_inner(mw_jrun *r, mw_jval a, mw_jval b, bool *out) {
    *out = false;
    if (mw_jis_num(a) && mw_jis_num(b)) {
        *out = order_num(a, b) == 0;
        return MW_OK;
    }
    if (a.type != b.type) return MW_OK;
    switch ((mw_jtype)a.type) {
    case MW_J_MISSING:
    case MW_J_UNDEF:
    case MW_J_NONE: *out = true; return MW_OK;
    case MW_J_STR:
        if (a.n != b.n) return MW_OK;
        *out = memcmp(a.u.s, b.u.s, a.n) == 0;
        return mw_jstep_bytes(r, a.n);
    case MW_J_LIST:
    case MW_J_TUPLE: return equal_seq(r, a, b, out);
    case MW_J_DICT: return equal_dict(r, a.u.dict, b.u.dict, out);
    case MW_J_RANGE: *out = equal_range(a.u.range, b.u.range); return MW_OK;
    case MW_J_NAMESPACE: *out = a.u.dict == b.u.dict; return MW_OK;
    case MW_J_MACRO: *out = a.u.macro == b.u.macro; return MW_OK;
    case MW_J_LOOP: *out = a.u.loop == b.u.loop; return MW_OK;
    case MW_J_ITER: *out = a.u.iter == b.u.iter; return MW_OK;
    case MW_J_FUNC: *out = a.sub == b.sub; return MW_OK;
    default: return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "comparing a %s is not supported", mw_jtype_name(a));
    }
}

mw_status mw_jequal(mw_jrun *r, mw_jval a, mw_jval b, bool *out) {
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = equal_inner(r, a, b, out);
    r->depth--;
    return st;
}

static bool holds(int c, mw_jorder op) {
    switch (op) {
    case MW_JLT: return c < 0;
    case MW_JLE: return c <= 0;
    case MW_JGT: return c > 0;
    default: return c >= 0;
    }
}

/* The first unequal pair decides; without one the lengths do. */
static mw_status compare_seq(mw_jrun *r, mw_jval a, mw_jval b, mw_jorder op, bool *out) {
    uint32_t n = a.n < b.n ? a.n : b.n;
    for (uint32_t i = 0; i < n; i++) {
        bool same;
        MW_JTRY(mw_jequal(r, a.u.v[i], b.u.v[i], &same));
        if (!same) return mw_jcompare(r, a.u.v[i], b.u.v[i], op, out);
    }
    *out = holds((a.n > b.n) - (a.n < b.n), op);
    return MW_OK;
}

static mw_status compare_inner(mw_jrun *r, mw_jval a, mw_jval b, mw_jorder op, bool *out) {
    static const char *const sign[] = {"<", "<=", ">", ">="};
    if (mw_jis_num(a) && mw_jis_num(b)) {
        *out = holds(order_num(a, b), op);
        return MW_OK;
    }
    if (a.type == b.type && mw_jis_str(a)) {
        *out = holds(order_str(a, b), op);
        return mw_jstep_bytes(r, a.n < b.n ? a.n : b.n);
    }
    if (a.type == b.type && mw_jis_seq(a)) return compare_seq(r, a, b, op, out);
    if (a.type == MW_J_UNDEF) return MW_JUNDEF(r, a);
    if (b.type == MW_J_UNDEF) return MW_JUNDEF(r, b);
    if (a.type == MW_J_VIEW && b.type == MW_J_VIEW) {
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "ordering %s is not supported", mw_jtype_name(a));
    }
    return MW_JERROR(r, "'%s' between a %s and a %s", sign[op], mw_jtype_name(a), mw_jtype_name(b));
}

mw_status mw_jcompare(mw_jrun *r, mw_jval a, mw_jval b, mw_jorder op, bool *out) {
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = compare_inner(r, a, b, op, out);
    r->depth--;
    return st;
}
