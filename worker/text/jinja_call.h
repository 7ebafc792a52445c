/* worker/text/jinja_call.h - calling things: macros, global functions, methods; and binding arguments as Python does.
 */
#ifndef MW_TEXT_JINJA_CALL_H
#define MW_TEXT_JINJA_CALL_H
#include "worker/text/jinja_ast.h"
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

typedef struct mw_jkw {
    mw_jval name, val;
} mw_jkw;
typedef struct mw_jargs {
    const mw_jval *pos;
    const mw_jkw *kw;
    uint32_t n_pos, n_kw;
} mw_jargs;

struct mw_jmacro {
    const mw_jnode *def; /* MW_JN_MACRO */
    mw_jenv *env;        /* where it was defined */
};
mw_jval mw_jmacro_name(const mw_jmacro *m);

/* Arguments to parameters: slot[i] is the argument of name[i], MW_J_MISSING when not given. The first n_min must be
 * given. by_name: keyword arguments are allowed. `what` names the callee in errors. */
MW_MUST_CHECK mw_status mw_jbind(mw_jrun *r, const char *what, const char *const *name, uint32_t n_min, uint32_t n_max,
                                 bool by_name, const mw_jargs *args, mw_jval *slot);

MW_MUST_CHECK mw_status mw_jcall(mw_jrun *r, mw_jval f, const mw_jargs *args, mw_jval *out);
MW_MUST_CHECK mw_status mw_jcall_func(mw_jrun *r, mw_jfunc f, const mw_jargs *args, mw_jval *out);
MW_MUST_CHECK mw_status mw_jcall_method(mw_jrun *r, mw_jval method, const mw_jargs *args, mw_jval *out);
MW_MUST_CHECK mw_status mw_jcall_macro(mw_jrun *r, const mw_jmacro *m, const mw_jargs *args, mw_jval *out);

/* An argument that Python takes as an index: int or bool. */
MW_MUST_CHECK mw_status mw_jarg_int(mw_jrun *r, const char *what, mw_jval v, int64_t *out);
MW_MUST_CHECK mw_status mw_jarg_str(mw_jrun *r, const char *what, mw_jval v);

MW_END_DECLS
#endif
