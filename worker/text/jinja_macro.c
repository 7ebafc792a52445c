/* Calling macros, and the bodies of call and generation blocks, which are macros without a name. */
#include <string.h>

#include "worker/text/jinja_call.h"
#include "worker/text/jinja_eval.h"
#include "worker/text/jinja_filter.h"

enum { CALLER, KWARGS, VARARGS }; /* indexes of mw_jnode.special */

mw_jval mw_jmacro_name(const mw_jmacro *m) {
    return m->def->kind == MW_JN_MACRO ? m->def->a->val : MW_JLITERAL("anonymous");
}

/* The variable of caller, kwargs or varargs, NULL when the body has none. */
static mw_jval *special(mw_jrun *r, const mw_jnode *def, int which) {
    return def->special[which] ? &r->env->slot[def->special[which] - 1] : NULL;
}

static mw_status bind_positional(mw_jrun *r, const mw_jmacro *m, const mw_jargs *args) {
    const mw_jnode *def = m->def;
    uint32_t n = args->n_pos < def->nv ? args->n_pos : def->nv;
    mw_jval *more = special(r, def, VARARGS), name = mw_jmacro_name(m);
    for (uint32_t i = 0; i < n; i++) r->env->slot[def->v[i]->slot] = args->pos[i];
    if (more) {
        *more = mw_jtuple(args->pos + n, args->n_pos - n);
    } else if (n < args->n_pos) {
        return MW_JERROR(r, "macro '%.*s' takes at most %u arguments, %u given", (int)name.n, name.u.s, def->nv,
                         args->n_pos);
    }
    return MW_OK;
}

static mw_status bind_keywords(mw_jrun *r, const mw_jmacro *m, const mw_jargs *args) {
    const mw_jnode *def = m->def;
    mw_jval *caller = special(r, def, CALLER), *rest = special(r, def, KWARGS), name = mw_jmacro_name(m);
    mw_jdict *d = NULL;
    if (rest) {
        MW_JTRY(mw_jdict_new(r, args->n_kw, &d));
        *rest = mw_jdict_val(d);
    }
    for (uint32_t k = 0; k < args->n_kw; k++) {
        mw_jval key = args->kw[k].name;
        uint32_t i = args->n_pos;
        while (i < def->nv && (def->v[i]->val.n != key.n || memcmp(def->v[i]->val.u.s, key.u.s, key.n) != 0)) i++;
        if (i < def->nv) {
            r->env->slot[def->v[i]->slot] = args->kw[k].val;
        } else if (caller && mw_jstr_is(key, "caller")) {
            *caller = args->kw[k].val;
        } else if (rest) {
            MW_JTRY(mw_jdict_set(r, d, key, args->kw[k].val));
        } else {
            return MW_JERROR(r, "macro '%.*s' takes no argument '%.*s' here", (int)name.n, name.u.s, (int)key.n,
                             key.u.s);
        }
    }
    bool none = caller && (caller->type == MW_J_MISSING || caller->type == MW_J_NONE);
    return none ? mw_jundefined_text(r, "no caller defined", caller) : MW_OK;
}

/* What is not given takes its default, evaluated inside the macro. */
static mw_status fill_defaults(mw_jrun *r, const mw_jnode *def) {
    for (uint32_t i = 0; i < def->nv; i++) {
        mw_jval *slot = &r->env->slot[def->v[i]->slot];
        if (slot->type != MW_J_MISSING) continue;
        uint32_t first = def->nv - def->nw;
        MW_JTRY(i < first ? mw_jundefined(r, MW_JMISSING, def->v[i]->val, slot) : mw_jeval(r, def->w[i - first], slot));
    }
    return MW_OK;
}

static mw_status run(mw_jrun *r, const mw_jmacro *m, const mw_jargs *args, mw_jval *out) {
    mw_jbuf text = {0}, *outer = r->out;
    MW_JTRY(bind_positional(r, m, args));
    MW_JTRY(bind_keywords(r, m, args));
    MW_JTRY(mw_jscope_enter(r, &m->def->u.scope[0]));
    MW_JTRY(fill_defaults(r, m->def));
    r->out = &text;
    mw_status st = mw_jexec(r, m->def->c);
    r->out = outer;
    *out = mw_jbuf_value(&text);
    return st;
}

mw_status mw_jcall_macro(mw_jrun *r, const mw_jmacro *m, const mw_jargs *args, mw_jval *out) {
    mw_jenv *outer = r->env, *own;
    MW_JTRY(mw_jenv_new(r, m->env, m->def->slots, &own));
    r->env = own;
    mw_status st = run(r, m, args, out);
    r->env = outer;
    return st;
}
