#include "worker/text/jinja_eval.h"

#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_call.h"
#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_ops.h"
#include "worker/text/jinja_text.h"

/* Not a failure that anybody sees: the expression is not constant, so folding it ends. */
#define NOT_CONSTANT MW_ERR_CANCELLED

static mw_status eval_each(mw_jrun *r, mw_jnode *const *n, uint32_t count, mw_jval **out) {
    MW_JTRY(mw_jvals(r, count, out));
    for (uint32_t i = 0; i < count; i++) MW_JTRY(mw_jeval(r, n[i], &(*out)[i]));
    return MW_OK;
}

static mw_status eval_args(mw_jrun *r, const mw_jnode *n, mw_jargs *out) {
    mw_jval *pos;
    mw_jkw *kw = NULL;
    MW_JTRY(eval_each(r, n->v, n->nv, &pos));
    if (n->nw) MW_JTRY(MW_JNEW(r->mem, &kw, n->nw));
    for (uint32_t i = 0; i < n->nw; i++) {
        kw[i].name = n->kw[i];
        MW_JTRY(mw_jeval(r, n->w[i], &kw[i].val));
    }
    *out = (mw_jargs){pos, kw, n->nv, n->nw};
    return MW_OK;
}

static mw_status eval_name(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    if (r->folding) return NOT_CONSTANT;
    *out = *mw_jvariable(r, n->hops, n->slot);
    if (out->type != MW_J_MISSING) return MW_OK;
    if (n->op) { /* a macro that outlived the block it was defined in; Jinja shows an inner value of its own here */
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "'%.*s' of a block that has ended is not supported", (int)n->val.n,
                        n->val.u.s);
    }
    return mw_jundefined(r, MW_JMISSING, n->val, out);
}

static mw_status eval_dict(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jdict *d;
    MW_JTRY(mw_jdict_new(r, n->nv, &d));
    for (uint32_t i = 0; i < n->nv; i++) {
        mw_jval key, val;
        MW_JTRY(mw_jeval(r, n->v[i], &key));
        MW_JTRY(mw_jeval(r, n->w[i], &val));
        MW_JTRY(mw_jdict_set(r, d, key, val));
    }
    *out = mw_jdict_val(d);
    return MW_OK;
}

static mw_status eval_logic(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    bool truth;
    MW_JTRY(mw_jeval(r, n->a, out));
    MW_JTRY(mw_jtruth(r, *out, &truth));
    if (n->kind == MW_JN_NOT) {
        *out = MW_JBOOL(!truth);
        return MW_OK;
    }
    return truth == (n->kind == MW_JN_AND) ? mw_jeval(r, n->b, out) : MW_OK;
}

static mw_status eval_concat(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jval few[8], *v = few;
    if (n->nv > 8) MW_JTRY(mw_jvals(r, n->nv, &v));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(mw_jeval(r, n->v[i], &v[i]));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(mw_jtext_value(r, v[i], &v[i]));
    *out = v[0];
    for (uint32_t i = 1; i < n->nv; i++) MW_JTRY(mw_jstr_concat(r, *out, v[i], out));
    out->markup = 0;
    return MW_OK;
}

static mw_status compare(mw_jrun *r, mw_jcmp op, mw_jval a, mw_jval b, bool *out) {
    switch (op) {
    case MW_JC_EQ:
    case MW_JC_NE: MW_JTRY(mw_jequal(r, a, b, out)); break;
    case MW_JC_IN:
    case MW_JC_NOTIN: MW_JTRY(mw_jop_contains(r, b, a, out)); break;
    default: return mw_jcompare(r, a, b, (mw_jorder)op, out);
    }
    if (op == MW_JC_NE || op == MW_JC_NOTIN) *out = !*out;
    return MW_OK;
}

static mw_status eval_compare(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jval left, right;
    bool holds = true;
    MW_JTRY(mw_jeval(r, n->v[0], &left));
    for (uint32_t i = 1; i < n->nv && holds; i++) {
        MW_JTRY(mw_jeval(r, n->v[i], &right));
        MW_JTRY(compare(r, (mw_jcmp)n->u.cmp[i - 1], left, right, &holds));
        left = right;
    }
    *out = MW_JBOOL(holds);
    return MW_OK;
}

static mw_status eval_cond(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    bool truth;
    MW_JTRY(mw_jeval(r, n->a, out));
    MW_JTRY(mw_jtruth(r, *out, &truth));
    if (truth) return mw_jeval(r, n->b, out);
    if (n->c) return mw_jeval(r, n->c, out);
    if (r->folding) return NOT_CONSTANT;
    return mw_jundefined_text(r, "an inline 'if' was false and has no 'else'", out);
}

static mw_status eval_filter(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jargs args;
    mw_jval in = r->block;
    if (!n->u.filter) return MW_JERROR(r, "there is no filter '%.*s'", (int)n->val.n, n->val.u.s);
    if (r->folding && (n->u.filter->context || !n->a)) return NOT_CONSTANT;
    if (n->a) MW_JTRY(mw_jeval(r, n->a, &in));
    MW_JTRY(eval_args(r, n, &args));
    return mw_jfilter_apply(r, n->u.filter, in, &args, out);
}

static mw_status eval_test(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jargs args;
    mw_jval v;
    bool holds;
    if (!n->u.test) return MW_JERROR(r, "there is no test '%.*s'", (int)n->val.n, n->val.u.s);
    MW_JTRY(mw_jeval(r, n->a, &v));
    MW_JTRY(eval_args(r, n, &args));
    MW_JTRY(mw_jtest_apply(r, n->u.test, v, &args, &holds));
    *out = MW_JBOOL(holds);
    return MW_OK;
}

mw_status mw_jeval_call(mw_jrun *r, const mw_jnode *n, mw_jval caller, mw_jval *out) {
    mw_jargs args;
    mw_jval f;
    if (r->folding) return NOT_CONSTANT;
    MW_JTRY(mw_jeval(r, n->a, &f));
    MW_JTRY(eval_args(r, n, &args));
    if (caller.type != MW_J_MISSING) {
        mw_jkw *kw;
        MW_JTRY(MW_JNEW(r->mem, &kw, args.n_kw + 1));
        for (uint32_t i = 0; i < args.n_kw; i++) kw[i] = args.kw[i];
        kw[args.n_kw++] = (mw_jkw){MW_JLITERAL("caller"), caller};
        args.kw = kw;
    }
    return mw_jcall(r, f, &args, out);
}

static mw_status eval_slice(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jval obj, part[3];
    bool indexes = true;
    MW_JTRY(mw_jeval(r, n->a, &obj));
    for (uint32_t i = 0; i < 3; i++) {
        part[i] = MW_JNONE;
        if (n->v[i]) MW_JTRY(mw_jeval(r, n->v[i], &part[i]));
        indexes &= part[i].type == MW_J_NONE || mw_jis_int(part[i]);
    }
    bool sliceable = mw_jis_str(obj) || mw_jis_seq(obj);
    if (r->folding && obj.type != MW_J_UNDEF && !(sliceable && indexes)) {
        return mw_jundefined(r, obj, MW_JNONE, out);
    }
    return mw_jattr_slice(r, obj, part, out);
}

static mw_status eval_kind(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_jval a, b, *v;
    switch ((mw_jkind)n->kind) {
    case MW_JN_CONST: *out = n->val; return MW_OK;
    case MW_JN_NAME: return eval_name(r, n, out);
    case MW_JN_LIST:
    case MW_JN_TUPLE:
        MW_JTRY(eval_each(r, n->v, n->nv, &v));
        *out = n->kind == MW_JN_LIST ? mw_jlist(v, n->nv) : mw_jtuple(v, n->nv);
        return MW_OK;
    case MW_JN_DICT: return eval_dict(r, n, out);
    case MW_JN_ARITH:
        MW_JTRY(mw_jeval(r, n->a, &a));
        MW_JTRY(mw_jeval(r, n->b, &b));
        return mw_jop_arith(r, (mw_jarith)n->op, a, b, out);
    case MW_JN_AND:
    case MW_JN_OR:
    case MW_JN_NOT: return eval_logic(r, n, out);
    case MW_JN_SIGN: MW_JTRY(mw_jeval(r, n->a, &a)); return mw_jop_sign(r, n->op, a, out);
    case MW_JN_CONCAT: return eval_concat(r, n, out);
    case MW_JN_COMPARE: return eval_compare(r, n, out);
    case MW_JN_COND: return eval_cond(r, n, out);
    case MW_JN_FILTER: return eval_filter(r, n, out);
    case MW_JN_TEST: return eval_test(r, n, out);
    case MW_JN_CALL: return mw_jeval_call(r, n, MW_JMISSING, out);
    case MW_JN_ATTR: MW_JTRY(mw_jeval(r, n->a, &a)); return mw_jattr_get(r, a, n->val, n->u.attr, out);
    case MW_JN_ITEM:
        MW_JTRY(mw_jeval(r, n->a, &a));
        MW_JTRY(mw_jeval(r, n->b, &b));
        return mw_jattr_item(r, a, b, out);
    case MW_JN_SLICE: return eval_slice(r, n, out);
    default: return MW_JFAIL(r, MW_ERR_INTERNAL, "a node of kind %d as expression", n->kind);
    }
}

static mw_status eval_one(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    mw_status st = mw_jdeeper(r);
    r->line = n->line;
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = eval_kind(r, n, out);
    r->depth--;
    return st;
}

/* Whether Jinja would write the value into the code it compiles. Parts that are shared are looked at once for each
 * place they stand in, as they would be written. */
static mw_status representable(mw_jrun *r, mw_jval v, bool *out) {
    *out = v.type >= MW_J_NONE && v.type <= MW_J_RANGE;
    MW_JTRY(mw_jstep(r, 1));
    if (v.type == MW_J_DICT) {
        for (uint32_t i = 0; i < v.u.dict->n && *out; i++) {
            MW_JTRY(representable(r, v.u.dict->key[i], out));
            if (*out) MW_JTRY(representable(r, v.u.dict->val[i], out));
        }
    }
    for (uint32_t i = 0; mw_jis_seq(v) && i < v.n && *out; i++) MW_JTRY(representable(r, v.u.v[i], out));
    return MW_OK;
}

static bool fold(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    r->folding = true;
    mw_status st = eval_one(r, n, out);
    r->folding = false;
    return st == MW_OK;
}

mw_status mw_jeval(mw_jrun *r, const mw_jnode *n, mw_jval *out) {
    /* Displays are not folded as a whole, only their parts. */
    bool whole = n->kind != MW_JN_LIST && n->kind != MW_JN_TUPLE && n->kind != MW_JN_DICT;
    if (n->fold && whole && !r->folding && fold(r, n, out)) {
        bool kept;
        MW_JTRY(representable(r, *out, &kept));
        if (kept) return MW_OK;
    }
    return eval_one(r, n, out);
}

mw_status mw_jeval_print(mw_jrun *r, const mw_jnode *n) {
    mw_jval v;
    if (!n->fold || !fold(r, n, &v)) MW_JTRY(mw_jeval(r, n, &v));
    if (r->out->n > MW_JOUT_MAX) return MW_JFAIL(r, MW_ERR_LIMIT, "more than %zu bytes of output", MW_JOUT_MAX);
    return mw_jtext_str(r, v, r->out);
}
