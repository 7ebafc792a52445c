/* worker/text/jinja_eval.h - running the parsed template. */
#ifndef MW_TEXT_JINJA_EVAL_H
#define MW_TEXT_JINJA_EVAL_H
#include "worker/text/jinja_ast.h"
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* The value of an expression.
 *
 * Jinja computes constant parts of a template when it compiles it, and there a slice of something that cannot be sliced
 * is undefined, where at run time it is an error. So an expression that holds a slice of something constant is first
 * tried as Jinja's compiler would (r->folding), and only then as its run time would. */
MW_MUST_CHECK mw_status mw_jeval(mw_jrun *r, const mw_jnode *n, mw_jval *out);
/* A call, with one keyword argument `caller` more unless that is MISSING. */
MW_MUST_CHECK mw_status mw_jeval_call(mw_jrun *r, const mw_jnode *n, mw_jval caller, mw_jval *out);
/* str() of an expression, appended to the output. */
MW_MUST_CHECK mw_status mw_jeval_print(mw_jrun *r, const mw_jnode *n);

/* A statement. When it ends, r->flow tells whether a break or continue is on its way to the loop around. */
MW_MUST_CHECK mw_status mw_jexec(mw_jrun *r, const mw_jnode *n);
/* The variables of a scope, set up as its names need. */
MW_MUST_CHECK mw_status mw_jscope_enter(mw_jrun *r, const mw_jscope *s);
/* New variables inside `up`, unset. */
MW_MUST_CHECK mw_status mw_jenv_new(mw_jrun *r, mw_jenv *up, uint32_t slots, mw_jenv **out);

static inline mw_jval *mw_jvariable(mw_jrun *r, uint16_t hops, uint32_t slot) {
    mw_jenv *e = r->env;
    for (; hops; hops--) e = e->up;
    return &e->slot[slot];
}

MW_END_DECLS
#endif
