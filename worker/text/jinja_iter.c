#include "worker/text/jinja_iter.h"

#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_unicode.h"

static mw_status next_seq(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    (void)r;
    if (it->at < it->over.n) *out = it->over.u.v[it->at++];
    return MW_OK;
}

static mw_status next_str(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    (void)r;
    if (it->at >= it->over.n) return MW_OK;
    const char *s = it->over.u.s + it->at;
    uint32_t len;
    mw_juni_at(s, &len);
    it->at += len;
    *out = (mw_jval){.type = MW_J_STR, .sub = len == 1, .n = len, .u.s = s};
    return MW_OK;
}

static mw_status next_dict(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    const mw_jdict *d = it->over.u.dict;
    if (it->at >= d->n) return MW_OK;
    uint32_t i = (uint32_t)it->at++;
    mw_jview view = it->over.type == MW_J_VIEW ? (mw_jview)it->over.sub : MW_JV_KEYS;
    if (view == MW_JV_ITEMS) return mw_jpair(r, d->key[i], d->val[i], out);
    *out = view == MW_JV_KEYS ? d->key[i] : d->val[i];
    return MW_OK;
}

static mw_status next_range(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    (void)r;
    const mw_jrange *g = it->over.u.range;
    if (it->at < g->len) *out = MW_JINT(g->start + it->at++ * g->step);
    return MW_OK;
}

static mw_status next_nothing(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    (void)r;
    (void)it;
    (void)out;
    return MW_OK;
}

bool mw_jiterable(mw_jval v) {
    switch ((mw_jtype)v.type) {
    case MW_J_UNDEF:
    case MW_J_STR:
    case MW_J_LIST:
    case MW_J_TUPLE:
    case MW_J_DICT:
    case MW_J_RANGE:
    case MW_J_VIEW:
    case MW_J_LOOP:
    case MW_J_ITER: return true;
    default: return false;
    }
}

mw_status mw_jiter_make(mw_jrun *r, mw_status (*next)(mw_jrun *, mw_jiter *, mw_jval *), mw_jval over, void *state,
                        mw_jval *out) {
    mw_jiter *it;
    MW_JTRY(MW_JNEW(r->mem, &it, 1));
    it->next = next;
    it->over = over;
    it->state = state;
    *out = (mw_jval){.type = MW_J_ITER, .u.iter = it};
    return MW_OK;
}

mw_status mw_jiter_of(mw_jrun *r, mw_jval v, mw_jiter **out) {
    mw_status (*next)(mw_jrun *, mw_jiter *, mw_jval *) = NULL;
    switch ((mw_jtype)v.type) {
    case MW_J_ITER: *out = v.u.iter; return MW_OK;
    case MW_J_UNDEF: next = next_nothing; break;
    case MW_J_STR: next = next_str; break;
    case MW_J_LIST:
    case MW_J_TUPLE: next = next_seq; break;
    case MW_J_DICT:
    case MW_J_VIEW: next = next_dict; break;
    case MW_J_RANGE: next = next_range; break;
    case MW_J_LOOP: return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "iterating over 'loop' is not supported");
    default: return MW_JERROR(r, "a %s is not iterable", mw_jtype_name(v));
    }
    mw_jval it;
    MW_JTRY(mw_jiter_make(r, next, v, NULL, &it));
    *out = it.u.iter;
    return MW_OK;
}

mw_status mw_jiter_source(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    if (!it->src) MW_JTRY(mw_jiter_of(r, it->over, &it->src));
    return mw_jiter_next(r, it->src, out);
}

mw_status mw_jiter_next(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    *out = MW_JMISSING;
    if (it->done) return MW_OK;
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = it->next(r, it, out);
    r->depth--;
    it->done = out->type == MW_J_MISSING;
    return st;
}

mw_status mw_jiter_list(mw_jrun *r, mw_jval v, mw_jval *out) {
    if (mw_jis_seq(v)) {
        *out = mw_jlist(v.u.v, v.n);
        return MW_OK;
    }
    mw_jiter *it;
    mw_jval *list = NULL, x;
    size_t n = 0, cap = 0;
    MW_JTRY(mw_jiter_of(r, v, &it));
    for (;;) {
        MW_JTRY(mw_jiter_next(r, it, &x));
        if (x.type == MW_J_MISSING) break;
        if (n == cap) {
            mw_jval *more;
            cap = cap ? 2 * cap : 8;
            MW_JTRY(mw_jvals(r, cap, &more));
            for (size_t i = 0; i < n; i++) more[i] = list[i];
            list = more;
        }
        list[n++] = x;
    }
    *out = mw_jlist(list, n);
    return MW_OK;
}

mw_status mw_jiter_reversed(mw_jrun *r, mw_jval v, bool *can, mw_jval *out) {
    *can = mw_jiterable(v) && v.type != MW_J_ITER && v.type != MW_J_LOOP;
    if (!*can) return MW_OK;
    mw_jval list, *back;
    MW_JTRY(mw_jiter_list(r, v, &list));
    MW_JTRY(mw_jvals(r, list.n, &back));
    for (uint32_t i = 0; i < list.n; i++) {
        back[i] = list.u.v[list.n - 1 - i];
        if (mw_jis_str(v)) back[i].markup = v.markup; /* reversed() asks for s[i], which is Markup again */
    }
    *out = mw_jlist(back, list.n);
    return MW_OK;
}

mw_status mw_jloop_next(mw_jrun *r, mw_jloop *l, mw_jval *out) {
    *out = l->after;
    l->after = MW_JMISSING;
    if (out->type == MW_J_MISSING) MW_JTRY(mw_jiter_next(r, l->it, out));
    if (out->type == MW_J_MISSING) return MW_OK;
    l->index0++;
    l->before = l->current;
    l->current = *out;
    return MW_OK;
}

static mw_status peek(mw_jrun *r, mw_jloop *l) {
    return l->after.type == MW_J_MISSING ? mw_jiter_next(r, l->it, &l->after) : MW_OK;
}

mw_status mw_jloop_length(mw_jrun *r, mw_jloop *l, int64_t *out) {
    if (l->length < 0) {
        MW_JTRY(mw_jlen(r, l->over, &l->length));
        if (l->length < 0) { /* an iterator: run it out now, and loop over the list of what was left */
            mw_jval rest;
            MW_JTRY(mw_jiter_list(r, (mw_jval){.type = MW_J_ITER, .u.iter = l->it}, &rest));
            MW_JTRY(mw_jiter_of(r, rest, &l->it));
            l->length = rest.n + l->index0 + 1 + (l->after.type != MW_J_MISSING);
        }
    }
    *out = l->length;
    return MW_OK;
}

static mw_status no_item(mw_jrun *r, const char *hint, mw_jval *out) {
    mw_jundef *u;
    MW_JTRY(MW_JNEW(r->mem, &u, 1));
    u->hint = hint;
    u->hint_len = (uint32_t)__builtin_strlen(hint);
    *out = mw_jundefined_hint(u);
    return MW_OK;
}

mw_status mw_jloop_attr(mw_jrun *r, mw_jloop *l, mw_jval name, mw_jval *out) {
    int64_t n = 0;
    if (mw_jstr_is(name, "index0")) {
        *out = MW_JINT(l->index0);
    } else if (mw_jstr_is(name, "index")) {
        *out = MW_JINT(l->index0 + 1);
    } else if (mw_jstr_is(name, "first")) {
        *out = MW_JBOOL(l->index0 == 0);
    } else if (mw_jstr_is(name, "last")) {
        MW_JTRY(peek(r, l));
        *out = MW_JBOOL(l->after.type == MW_J_MISSING);
    } else if (mw_jstr_is(name, "length")) {
        MW_JTRY(mw_jloop_length(r, l, &n));
        *out = MW_JINT(n);
    } else if (mw_jstr_is(name, "revindex")) {
        MW_JTRY(mw_jloop_length(r, l, &n));
        *out = MW_JINT(n - l->index0);
    } else if (mw_jstr_is(name, "revindex0")) {
        MW_JTRY(mw_jloop_length(r, l, &n));
        *out = MW_JINT(n - l->index0 - 1);
    } else if (mw_jstr_is(name, "depth")) {
        *out = MW_JINT(1);
    } else if (mw_jstr_is(name, "depth0")) {
        *out = MW_JINT(0);
    } else if (mw_jstr_is(name, "previtem")) {
        *out = l->before;
        if (l->index0 == 0) return no_item(r, "there is no previous item", out);
    } else if (mw_jstr_is(name, "nextitem")) {
        MW_JTRY(peek(r, l));
        *out = l->after;
        if (out->type == MW_J_MISSING) return no_item(r, "there is no next item", out);
    } else {
        *out = MW_JMISSING;
    }
    return MW_OK;
}
