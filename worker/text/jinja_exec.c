/* Statements, macros, and the loops with their filters. */
#include "worker/text/jinja_call.h"
#include "worker/text/jinja_eval.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_text.h"

mw_status mw_jenv_new(mw_jrun *r, mw_jenv *up, uint32_t slots, mw_jenv **out) {
    MW_JTRY(mw_jarena_zalloc(r->mem, 1, sizeof **out + (size_t)slots * sizeof(mw_jval), (void **)out));
    MW_JTRY(mw_jstep(r, slots / 8));
    (*out)->up = up;
    return MW_OK;
}

mw_status mw_jscope_enter(mw_jrun *r, const mw_jscope *s) {
    MW_JTRY(mw_jstep(r, s->n / 16));
    for (uint32_t i = 0; i < s->n; i++) {
        const mw_jload *l = &s->load[i];
        if (l->kind == MW_JLOAD_PARAM) continue;
        mw_jval v = MW_JMISSING;
        if (l->kind == MW_JLOAD_GLOBAL) v = r->global[l->from];
        if (l->kind == MW_JLOAD_OUTER) v = *mw_jvariable(r, l->hops, l->from);
        r->env->slot[l->slot] = v;
    }
    return MW_OK;
}

static void leave(mw_jrun *r, const mw_jscope *s) {
    for (uint32_t i = 0; i < s->n; i++) r->env->slot[s->load[i].slot] = MW_JMISSING;
}

static mw_status assign(mw_jrun *r, const mw_jnode *target, mw_jval v) {
    if (target->kind == MW_JN_NAME) {
        *mw_jvariable(r, target->hops, target->slot) = v;
        return MW_OK;
    }
    if (target->kind == MW_JN_NSREF) {
        mw_jval ns = *mw_jvariable(r, target->hops, target->slot);
        if (ns.type != MW_J_NAMESPACE) {
            return MW_JERROR(r, "'.%.*s' of what is not a namespace cannot be set", (int)target->val.n,
                             target->val.u.s);
        }
        if (target->val.u.s[0] == '_') {
            return MW_JERROR(r, "a namespace cannot have '%.*s'", (int)target->val.n, target->val.u.s);
        }
        return mw_jdict_set(r, ns.u.dict, target->val, v);
    }
    mw_jval list;
    MW_JTRY(mw_jiter_list(r, v, &list));
    if (list.n != target->nv) {
        return MW_JERROR(r, "%u values for %u variables", list.n, target->nv);
    }
    for (uint32_t i = 0; i < list.n; i++) MW_JTRY(assign(r, target->v[i], list.u.v[i]));
    return MW_OK;
}

/* The variables of a target, put back together: what the filter of a loop hands on. */
static mw_status gather(mw_jrun *r, const mw_jnode *target, mw_jval *out) {
    if (target->kind == MW_JN_NAME) {
        *out = *mw_jvariable(r, target->hops, target->slot);
        return MW_OK;
    }
    mw_jval *v;
    MW_JTRY(mw_jvals(r, target->nv, &v));
    for (uint32_t i = 0; i < target->nv; i++) MW_JTRY(gather(r, target->v[i], &v[i]));
    *out = mw_jtuple(v, target->nv);
    return MW_OK;
}

/* "for x in y if z": tested one element ahead of the body at most, so z sees what the body has done so far. */
typedef struct filtered {
    const mw_jnode *loop;
    mw_jenv *env;
    bool begun;
} filtered;

static mw_status next_passing(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    filtered *f = it->state;
    const mw_jnode *target = f->loop->w[0];
    if (!f->begun) MW_JTRY(mw_jscope_enter(r, &f->loop->u.scope[2]));
    f->begun = true;
    for (;;) {
        mw_jval x;
        bool pass;
        MW_JTRY(mw_jiter_source(r, it, &x));
        if (x.type == MW_J_MISSING) return MW_OK;
        MW_JTRY(assign(r, target, x));
        MW_JTRY(mw_jeval(r, f->loop->c, &x));
        MW_JTRY(mw_jtruth(r, x, &pass));
        if (pass) return gather(r, target, out);
    }
}

static mw_status next_filtered(mw_jrun *r, mw_jiter *it, mw_jval *out) {
    filtered *f = it->state;
    mw_jenv *env = r->env;
    r->env = f->env;
    mw_status st = next_passing(r, it, out);
    r->env = env;
    return st;
}

/* The iterator of a for block over `over`, through its filter if it has one. */
static mw_status loop_iter(mw_jrun *r, const mw_jnode *n, mw_jval *over, mw_jiter **it) {
    if (n->c) {
        filtered *f;
        MW_JTRY(MW_JNEW(r->mem, &f, 1));
        f->loop = n;
        f->env = r->env;
        MW_JTRY(mw_jiter_make(r, next_filtered, *over, f, over));
    }
    return mw_jiter_of(r, *over, it);
}

/* All passes. *else_too: no pass ran to its end, which is when Jinja runs the else body. */
static mw_status passes(mw_jrun *r, const mw_jnode *n, mw_jiter *it, mw_jloop *loop, bool *else_too) {
    *else_too = true;
    for (;;) {
        mw_jval x;
        MW_JTRY(loop ? mw_jloop_next(r, loop, &x) : mw_jiter_next(r, it, &x));
        if (x.type == MW_J_MISSING) break;
        MW_JTRY(assign(r, n->a, x));
        if (loop) r->env->slot[n->slot] = (mw_jval){.type = MW_J_LOOP, .u.loop = loop};
        MW_JTRY(mw_jscope_enter(r, &n->u.scope[0]));
        MW_JTRY(mw_jexec(r, n->v[0]));
        mw_jflow flow = r->flow;
        r->flow = MW_JFLOW_NEXT;
        if (flow == MW_JFLOW_BREAK) break;
        if (flow == MW_JFLOW_NEXT) *else_too = false;
    }
    return MW_OK;
}

static mw_status exec_for(mw_jrun *r, const mw_jnode *n) {
    mw_jval over;
    mw_jiter *it;
    mw_jloop *loop = NULL;
    bool else_too;
    MW_JTRY(mw_jeval(r, n->b, &over));
    MW_JTRY(loop_iter(r, n, &over, &it));
    if (n->op) {
        MW_JTRY(MW_JNEW(r->mem, &loop, 1));
        loop->it = it;
        loop->over = over;
        loop->index0 = loop->length = -1;
        r->env->slot[n->slot] = MW_JMISSING;
    }
    MW_JTRY(passes(r, n, it, loop, &else_too));
    leave(r, &n->u.scope[0]);
    if (!else_too || !n->v[1]) return MW_OK;
    MW_JTRY(mw_jscope_enter(r, &n->u.scope[1]));
    MW_JTRY(mw_jexec(r, n->v[1]));
    leave(r, &n->u.scope[1]);
    return MW_OK;
}

static mw_status exec_if(mw_jrun *r, const mw_jnode *n) {
    for (uint32_t i = 0; i + 1 < n->nv; i += 2) {
        mw_jval v;
        bool truth;
        MW_JTRY(mw_jeval(r, n->v[i], &v));
        MW_JTRY(mw_jtruth(r, v, &truth));
        if (truth) return mw_jexec(r, n->v[i + 1]);
    }
    return n->nv % 2 ? mw_jexec(r, n->v[n->nv - 1]) : MW_OK;
}

/* The text that a body writes. */
static mw_status captured(mw_jrun *r, const mw_jnode *body, mw_jval *out) {
    mw_jbuf own = {0}, *outer = r->out;
    r->out = &own;
    mw_status st = mw_jexec(r, body);
    r->out = outer;
    *out = mw_jbuf_value(&own);
    return st;
}

/* A set or filter block: its text through its filters. */
static mw_status exec_captured(mw_jrun *r, const mw_jnode *n) {
    mw_jval text;
    MW_JTRY(mw_jscope_enter(r, &n->u.scope[0]));
    MW_JTRY(captured(r, n->c, &text));
    if (r->flow != MW_JFLOW_NEXT) return MW_OK; /* the text goes with the pass that was left */
    if (n->b) {
        mw_jval outer = r->block;
        r->block = text;
        mw_status st = mw_jeval(r, n->b, &text);
        r->block = outer;
        if (st != MW_OK) return st;
    }
    if (n->kind == MW_JN_SETBLOCK) {
        MW_JTRY(assign(r, n->a, text));
    } else {
        if (!mw_jis_str(text)) return MW_JERROR(r, "a filter block made a %s", mw_jtype_name(text));
        MW_JTRY(mw_jtext_str(r, text, r->out));
    }
    leave(r, &n->u.scope[0]);
    return MW_OK;
}

static mw_status exec_with(mw_jrun *r, const mw_jnode *n) {
    MW_JTRY(mw_jscope_enter(r, &n->u.scope[0]));
    for (uint32_t i = 0; i < n->nv; i++) {
        mw_jval v;
        MW_JTRY(mw_jeval(r, n->w[i], &v));
        MW_JTRY(assign(r, n->v[i], v));
    }
    MW_JTRY(mw_jexec(r, n->c));
    if (r->flow == MW_JFLOW_NEXT) leave(r, &n->u.scope[0]);
    return MW_OK;
}

static mw_status exec_macro(mw_jrun *r, const mw_jnode *n) {
    mw_jmacro *m;
    MW_JTRY(MW_JNEW(r->mem, &m, 1));
    m->def = n;
    m->env = r->env;
    return assign(r, n->a, (mw_jval){.type = MW_J_MACRO, .u.macro = m});
}

/* The call writes what it returns; the body is a macro that the callee can call. */
static mw_status exec_call(mw_jrun *r, const mw_jnode *n) {
    mw_jmacro *m;
    mw_jval text;
    MW_JTRY(MW_JNEW(r->mem, &m, 1));
    m->def = n;
    m->env = r->env;
    MW_JTRY(mw_jeval_call(r, n->a, (mw_jval){.type = MW_J_MACRO, .u.macro = m}, &text));
    if (!mw_jis_str(text)) return MW_JERROR(r, "a call block made a %s", mw_jtype_name(text));
    return mw_jtext_str(r, text, r->out);
}

static mw_status exec_generation(mw_jrun *r, const mw_jnode *n) {
    static const mw_jargs none = {0};
    const mw_jmacro body = {n, r->env};
    mw_jval text;
    MW_JTRY(mw_jcall_macro(r, &body, &none, &text));
    return mw_jtext_str(r, text, r->out);
}

static mw_status exec_text(mw_jrun *r, const mw_jnode *n) {
    if (r->out->n > MW_JOUT_MAX) return MW_JFAIL(r, MW_ERR_LIMIT, "more than %zu bytes of output", MW_JOUT_MAX);
    return mw_jtext_str(r, n->val, r->out);
}

static mw_status exec_kind(mw_jrun *r, const mw_jnode *n) {
    switch ((mw_jkind)n->kind) {
    case MW_JN_BODY:
        for (uint32_t i = 0; i < n->nv && r->flow == MW_JFLOW_NEXT; i++) MW_JTRY(mw_jexec(r, n->v[i]));
        return MW_OK;
    case MW_JN_TEXT: return exec_text(r, n);
    case MW_JN_PRINT: return mw_jeval_print(r, n->a);
    case MW_JN_IF: return exec_if(r, n);
    case MW_JN_FOR: return exec_for(r, n);
    case MW_JN_SET: {
        mw_jval v;
        MW_JTRY(mw_jeval(r, n->b, &v));
        return assign(r, n->a, v);
    }
    case MW_JN_SETBLOCK:
    case MW_JN_FILTERED: return exec_captured(r, n);
    case MW_JN_MACRO: return exec_macro(r, n);
    case MW_JN_WITH: return exec_with(r, n);
    case MW_JN_CALLBLOCK: return exec_call(r, n);
    case MW_JN_GENERATE: return exec_generation(r, n);
    case MW_JN_BREAK: r->flow = MW_JFLOW_BREAK; return MW_OK;
    case MW_JN_CONTINUE: r->flow = MW_JFLOW_CONTINUE; return MW_OK;
    default: return MW_JFAIL(r, MW_ERR_INTERNAL, "a node of kind %d as statement", n->kind);
    }
}

mw_status mw_jexec(mw_jrun *r, const mw_jnode *n) {
    mw_status st = mw_jdeeper(r);
    r->line = n->line;
    if (st == MW_OK) st = mw_jstep(r, 1);
    if (st == MW_OK) st = exec_kind(r, n);
    r->depth--;
    return st;
}
