/* Filters on sequences that give their result at once. */
#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_ops.h"
#include "worker/text/jinja_sort.h"
#include "worker/text/jinja_str.h"
#include "worker/text/jinja_text.h"

static mw_status f_length(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    int64_t n;
    MW_JTRY(mw_jlen(r, in, &n));
    if (n < 0) return MW_JERROR(r, "a %s has no length", mw_jtype_name(in));
    *out = MW_JINT(n);
    return MW_OK;
}

static mw_status f_first(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    mw_jiter *it;
    MW_JTRY(mw_jiter_of(r, in, &it));
    MW_JTRY(mw_jiter_next(r, it, out));
    return out->type == MW_J_MISSING ? mw_jundefined_text(r, "no first item, the sequence was empty", out) : MW_OK;
}

static mw_status f_last(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    bool can;
    mw_jval back;
    MW_JTRY(mw_jiter_reversed(r, in, &can, &back));
    if (!can) return MW_JERROR(r, "last of a %s, which cannot be reversed", mw_jtype_name(in));
    if (!back.n) return mw_jundefined_text(r, "no last item, the sequence was empty", out);
    *out = back.u.v[0];
    return MW_OK;
}

static mw_status f_list(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    return mw_jiter_list(r, in, out);
}

/* The elements, each replaced by its value at `attribute` unless that is absent or None. */
static mw_status at_attribute(mw_jrun *r, mw_jval in, mw_jval attribute, mw_jval *out) {
    MW_JTRY(mw_jiter_list(r, in, out));
    if (attribute.type == MW_J_MISSING || attribute.type == MW_J_NONE) return MW_OK;
    mw_jval path, *v;
    MW_JTRY(mw_jattr_path(r, attribute, &path));
    MW_JTRY(mw_jvals(r, out->n, &v));
    for (uint32_t i = 0; i < out->n; i++) MW_JTRY(mw_jattr_walk(r, out->u.v[i], path, MW_JMISSING, &v[i]));
    *out = mw_jlist(v, out->n);
    return MW_OK;
}

static mw_status f_join(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval sep = MW_JLITERAL("");
    if (a[0].type != MW_J_MISSING) MW_JTRY(mw_jtext_value(r, a[0], &sep));
    MW_JTRY(at_attribute(r, in, a[1], &in));
    return mw_jstr_join(r, sep, in, true, out);
}

static mw_status f_sum(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval total = a[1].type == MW_J_MISSING ? MW_JINT(0) : a[1];
    if (mw_jis_str(total)) return MW_JERROR(r, "sum of strings");
    MW_JTRY(at_attribute(r, in, a[0], &in));
    for (uint32_t i = 0; i < in.n; i++) MW_JTRY(mw_jop_arith(r, MW_JADD, total, in.u.v[i], &total));
    *out = total;
    return MW_OK;
}

static mw_status extreme(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jorder better, mw_jval *out) {
    mw_jkeyer k;
    mw_jval best = MW_JMISSING, list;
    MW_JTRY(mw_jiter_list(r, in, &list));
    if (!list.n) return mw_jundefined_text(r, "no aggregated item, the sequence was empty", out);
    MW_JTRY(mw_jkeyer_make(r, a[1], a[0], &k));
    for (uint32_t i = 0; i < list.n; i++) {
        mw_jval key;
        bool wins = i == 0;
        MW_JTRY(mw_jkeyer_key(r, &k, list.u.v[i], &key));
        if (i) MW_JTRY(mw_jcompare(r, key, best, better, &wins));
        if (!wins) continue;
        best = key;
        *out = list.u.v[i];
    }
    return MW_OK;
}

static mw_status f_min(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    return extreme(r, in, a, MW_JLT, out);
}

static mw_status f_max(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    return extreme(r, in, a, MW_JGT, out);
}

/* Python takes an int where it wants to know whether to reverse. */
static mw_status reverse_flag(mw_jrun *r, mw_jval v, bool *out) {
    int64_t i = 0;
    if (v.type != MW_J_MISSING) MW_JTRY(mw_jarg_int(r, "reverse", v, &i));
    *out = i != 0;
    return MW_OK;
}

static mw_status permuted(mw_jrun *r, mw_jval list, const uint32_t *order, mw_jval *out) {
    mw_jval *v;
    MW_JTRY(mw_jvals(r, list.n, &v));
    for (uint32_t i = 0; i < list.n; i++) v[i] = list.u.v[order[i]];
    *out = mw_jlist(v, list.n);
    return MW_OK;
}

/* The sort keys of `item`: one for each of the comma separated attributes, as a list, as Jinja compares them. */
static mw_status sort_key(mw_jrun *r, mw_jval attribute, mw_jval case_sensitive, mw_jval item, mw_jval *out) {
    mw_jval *v, names = mw_jlist(&attribute, 1);
    if (mw_jis_str(attribute)) {
        mw_jval comma[2] = {MW_JLITERAL(","), MW_JMISSING};
        MW_JTRY(mw_jstr_method(r, MW_JM_SPLIT, attribute, comma, &names));
    }
    MW_JTRY(mw_jvals(r, names.n, &v));
    for (uint32_t i = 0; i < names.n; i++) {
        mw_jkeyer k;
        MW_JTRY(mw_jkeyer_make(r, names.u.v[i], case_sensitive, &k));
        MW_JTRY(mw_jkeyer_key(r, &k, item, &v[i]));
    }
    *out = mw_jlist(v, names.n);
    return MW_OK;
}

static mw_status f_sort(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval list, *key;
    uint32_t *order;
    bool reverse;
    MW_JTRY(mw_jiter_list(r, in, &list));
    MW_JTRY(reverse_flag(r, a[0], &reverse));
    MW_JTRY(mw_jvals(r, list.n, &key));
    for (uint32_t i = 0; i < list.n; i++) MW_JTRY(sort_key(r, a[2], a[1], list.u.v[i], &key[i]));
    MW_JTRY(mw_jsort_order(r, key, list.n, reverse, &order));
    return permuted(r, list, order, out);
}

static mw_status f_dictsort(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval *key, list;
    uint32_t *order;
    bool reverse, by_value = mw_jstr_is(a[1], "value");
    mw_jkeyer k;
    if (a[1].type != MW_J_MISSING && !by_value && !mw_jstr_is(a[1], "key")) {
        return MW_JERROR(r, "dictsort sorts by 'key' or 'value'");
    }
    if (in.type == MW_J_UNDEF) return MW_JUNDEF(r, in);
    if (in.type != MW_J_DICT) return MW_JERROR(r, "dictsort of a %s", mw_jtype_name(in));
    const mw_jdict *d = in.u.dict;
    MW_JTRY(reverse_flag(r, a[2], &reverse));
    MW_JTRY(mw_jkeyer_make(r, MW_JNONE, a[0], &k));
    MW_JTRY(mw_jvals(r, d->n, &key));
    for (uint32_t i = 0; i < d->n; i++) MW_JTRY(mw_jkeyer_key(r, &k, by_value ? d->val[i] : d->key[i], &key[i]));
    MW_JTRY(mw_jsort_order(r, key, d->n, reverse, &order));
    MW_JTRY(mw_jiter_list(r, (mw_jval){.type = MW_J_VIEW, .sub = MW_JV_ITEMS, .u.dict = in.u.dict}, &list));
    return permuted(r, list, order, out);
}

/* Text backwards; else an iterator, which Python's reversed() is; else, for iterators, a list. */
static mw_status f_reverse(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    static const mw_jval back_step[3] = {{.type = MW_J_NONE}, {.type = MW_J_NONE}, {.type = MW_J_INT, .u.i = -1}};
    mw_jval back;
    bool can;
    mw_jiter *it;
    if (mw_jis_str(in)) return mw_jattr_slice(r, in, back_step, out);
    MW_JTRY(mw_jiter_reversed(r, in, &can, &back));
    if (can) {
        MW_JTRY(mw_jiter_of(r, back, &it));
        *out = (mw_jval){.type = MW_J_ITER, .u.iter = it};
        return MW_OK;
    }
    MW_JTRY(mw_jiter_list(r, in, &back));
    MW_JTRY(mw_jiter_reversed(r, back, &can, out));
    return MW_OK;
}

const mw_jfilter mw_jfilters_seq[] = {
    {"count", {0}, 0, 0, f_length, NULL, false},
    {"dictsort", {"case_sensitive", "by", "reverse"}, 0, 3, f_dictsort, NULL, false},
    {"first", {0}, 0, 0, f_first, NULL, false},
    {"join", {"d", "attribute"}, 0, 2, f_join, NULL, false},
    {"last", {0}, 0, 0, f_last, NULL, false},
    {"length", {0}, 0, 0, f_length, NULL, false},
    {"list", {0}, 0, 0, f_list, NULL, false},
    {"max", {"case_sensitive", "attribute"}, 0, 2, f_max, NULL, false},
    {"min", {"case_sensitive", "attribute"}, 0, 2, f_min, NULL, false},
    {"reverse", {0}, 0, 0, f_reverse, NULL, false},
    {"sort", {"reverse", "case_sensitive", "attribute"}, 0, 3, f_sort, NULL, false},
    {"sum", {"attribute", "start"}, 0, 2, f_sum, NULL, false},
    {0},
};
