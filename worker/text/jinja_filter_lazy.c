/* Filters that are generators in Jinja: elements are computed when they are asked for, and only once. */
#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_iter.h"

/* What a lazy filter remembers of its call. */
typedef struct plan {
    bool ready;           /* the rest is filled in at the first element, as Jinja does */
    const mw_jargs *args; /* a copy that lives as long as the render */
    const mw_jfilter *filter;
    const mw_jtest *test;
    mw_jargs rest; /* arguments of filter or test */
    mw_jval path, fallback;
    bool by_attribute, keep; /* select and selectattr keep what passes, reject and rejectattr the rest */
    mw_jkeyer keyer;         /* of unique */
    mw_jdict *seen;
} plan;

static mw_status keep_args(mw_jrun *r, const mw_jargs *args, const mw_jargs **out) {
    mw_jargs *a;
    mw_jval *pos;
    mw_jkw *kw;
    MW_JTRY(MW_JNEW(r->mem, &a, 1));
    MW_JTRY(MW_JNEW(r->mem, &pos, args->n_pos));
    MW_JTRY(MW_JNEW(r->mem, &kw, args->n_kw));
    for (uint32_t i = 0; i < args->n_pos; i++) pos[i] = args->pos[i];
    for (uint32_t i = 0; i < args->n_kw; i++) kw[i] = args->kw[i];
    *a = (mw_jargs){pos, kw, args->n_pos, args->n_kw};
    *out = a;
    return MW_OK;
}

static mw_status lazy(mw_jrun *r, mw_status (*next)(mw_jrun *, mw_jiter *, mw_jval *), mw_jval in, const mw_jargs *args,
                      bool by_attribute, bool keep, mw_jval *out) {
    plan *p;
    MW_JTRY(MW_JNEW(r->mem, &p, 1));
    MW_JTRY(keep_args(r, args, &p->args));
    p->by_attribute = by_attribute;
    p->keep = keep;
    return mw_jiter_make(r, next, in, p, out);
}

static mw_status prepare_map(mw_jrun *r, plan *p) {
    const mw_jargs *a = p->args;
    mw_jval attribute = MW_JMISSING;
    p->fallback = MW_JMISSING;
    for (uint32_t i = 0; i < a->n_kw && !a->n_pos; i++) {
        if (mw_jstr_is(a->kw[i].name, "attribute")) attribute = a->kw[i].val;
    }
    if (attribute.type == MW_J_MISSING) {
        if (!a->n_pos) return MW_JERROR(r, "map needs a filter or attribute=");
        p->filter = mw_jis_str(a->pos[0]) ? mw_jfilter_find(a->pos[0]) : NULL;
        if (!p->filter) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "map with an unknown filter");
        p->rest = (mw_jargs){a->pos + 1, a->kw, a->n_pos - 1, a->n_kw};
        return MW_OK;
    }
    for (uint32_t i = 0; i < a->n_kw; i++) {
        if (mw_jstr_is(a->kw[i].name, "default")) {
            p->fallback = a->kw[i].val;
        } else if (!mw_jstr_is(a->kw[i].name, "attribute")) {
            return MW_JERROR(r, "map takes no argument '%.*s'", (int)a->kw[i].name.n, a->kw[i].name.u.s);
        }
    }
    return mw_jattr_path(r, attribute, &p->path);
}

static mw_status prepare_select(mw_jrun *r, plan *p) {
    const mw_jargs *a = p->args;
    uint32_t off = p->by_attribute;
    if (off) {
        if (!a->n_pos) return MW_JERROR(r, "the name of an attribute is missing");
        MW_JTRY(mw_jattr_path(r, a->pos[0], &p->path));
    }
    if (a->n_pos <= off) return MW_OK; /* no test: by truth */
    p->test = mw_jis_str(a->pos[off]) ? mw_jtest_find(a->pos[off]) : NULL;
    if (!p->test) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "select with an unknown test");
    p->rest = (mw_jargs){a->pos + off + 1, a->kw, a->n_pos - off - 1, a->n_kw};
    return MW_OK;
}

/* Before the first element: nothing is asked of a false input, not even whether it can be iterated. */
static mw_status begin(mw_jrun *r, mw_jiter *it, mw_status (*prepare)(mw_jrun *, plan *), bool *go) {
    plan *p = it->state;
    *go = true;
    if (p->ready) return MW_OK;
    MW_JTRY(mw_jtruth(r, it->over, go));
    if (!*go) return MW_OK;
    MW_JTRY(prepare(r, p));
    p->ready = true;
    return MW_OK;
}

static mw_status next_map(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    plan *p = it->state;
    bool go;
    mw_jval x;
    MW_JTRY(begin(r, it, prepare_map, &go));
    if (!go) return MW_OK;
    MW_JTRY(mw_jiter_source(r, it, &x));
    if (x.type == MW_J_MISSING) return MW_OK;
    if (p->filter) return mw_jfilter_apply(r, p->filter, x, &p->rest, out);
    return mw_jattr_walk(r, x, p->path, p->fallback, out);
}

static mw_status next_select(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    plan *p = it->state;
    bool go, hit;
    MW_JTRY(begin(r, it, prepare_select, &go));
    while (go) {
        mw_jval x, v;
        MW_JTRY(mw_jiter_source(r, it, &x));
        if (x.type == MW_J_MISSING) break;
        v = x;
        if (p->by_attribute) MW_JTRY(mw_jattr_walk(r, x, p->path, MW_JMISSING, &v));
        MW_JTRY(p->test ? mw_jtest_apply(r, p->test, v, &p->rest, &hit) : mw_jtruth(r, v, &hit));
        if (hit != p->keep) continue;
        *out = x;
        break;
    }
    return MW_OK;
}

static mw_status next_unique(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    plan *p = it->state;
    if (!p->seen) MW_JTRY(mw_jdict_new(r, 0, &p->seen));
    for (;;) {
        mw_jval x, key, known;
        MW_JTRY(mw_jiter_source(r, it, &x));
        if (x.type == MW_J_MISSING) return MW_OK;
        MW_JTRY(mw_jkeyer_key(r, &p->keyer, x, &key));
        MW_JTRY(mw_jdict_get(r, p->seen, key, &known));
        if (known.type != MW_J_MISSING) continue;
        MW_JTRY(mw_jdict_set(r, p->seen, key, MW_JNONE));
        *out = x;
        return MW_OK;
    }
}

static mw_status next_items(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    if (it->over.type == MW_J_UNDEF) return MW_OK;
    if (it->over.type != MW_J_DICT) return MW_JERROR(r, "items of a %s, a dict is needed", mw_jtype_name(it->over));
    const mw_jdict *d = it->over.u.dict;
    if (it->at >= d->n) return MW_OK;
    uint32_t i = (uint32_t)it->at++;
    return mw_jpair(r, d->key[i], d->val[i], out);
}

static mw_status f_items(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    return mw_jiter_make(r, next_items, in, NULL, out);
}

static mw_status f_map(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out) {
    return lazy(r, next_map, in, args, false, false, out);
}

static mw_status f_select(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out) {
    return lazy(r, next_select, in, args, false, true, out);
}

static mw_status f_reject(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out) {
    return lazy(r, next_select, in, args, false, false, out);
}

static mw_status f_selectattr(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out) {
    return lazy(r, next_select, in, args, true, true, out);
}

static mw_status f_rejectattr(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out) {
    return lazy(r, next_select, in, args, true, false, out);
}

static mw_status f_unique(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    static const mw_jargs none = {0};
    MW_JTRY(lazy(r, next_unique, in, &none, false, false, out));
    plan *p = out->u.iter->state;
    return mw_jkeyer_make(r, a[1], a[0], &p->keyer);
}

const mw_jfilter mw_jfilters_lazy[] = {
    {"items", {0}, 0, 0, f_items, NULL, false},
    {"map", {0}, 0, 0, NULL, f_map, true},
    {"reject", {0}, 0, 0, NULL, f_reject, true},
    {"rejectattr", {0}, 0, 0, NULL, f_rejectattr, true},
    {"select", {0}, 0, 0, NULL, f_select, true},
    {"selectattr", {0}, 0, 0, NULL, f_selectattr, true},
    {"unique", {"case_sensitive", "attribute"}, 0, 2, f_unique, NULL, false},
    {0},
};
