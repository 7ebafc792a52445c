#include "worker/text/jinja.h"

#include <stdlib.h>
#include <string.h>

#include "worker/text/jinja_eval.h"
#include "worker/text/jinja_parse.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

struct mw_jinja {
    mw_jarena mem;
    mw_jnode *root;
    const mw_jval *global; /* names of the variables that the template takes from outside */
    uint32_t n_global;
};

mw_status mw_jinja_open(mw_jinja **out, const char *text, size_t n) {
    mw_jinja *t;
    if (n > MW_JINJA_MAX) {
        return MW_FAIL(MW_ERR_LIMIT, "chat template: %zu bytes, at most %zu are allowed", n, MW_JINJA_MAX);
    }
    if (!mw_juni_valid(text, n)) return MW_FAIL(MW_ERR_FORMAT, "chat template: not UTF-8");
    mw_status st = MW_CALLOC(&t, 1, "chat template");
    if (st != MW_OK) return st;
    t->mem.limit = MW_JMEMORY_MAX;
    mw_jparser p = {.mem = &t->mem};
    MW_TRY(st, mw_jlex(&t->mem, text, n, &p.src));
    MW_TRY(st, mw_jparse(&p, &t->root));
    MW_TRY(st, mw_jcheck(&p, t->root));
    MW_TRY(st, mw_jscope_resolve(&p, t->root, &t->global, &t->n_global));
    *out = t;
    return MW_OK;
fail:
    mw_jinja_close(t);
    return st;
}

void mw_jinja_close(mw_jinja *t) {
    if (!t) return;
    mw_jarena_free(&t->mem);
    free(t);
}

/* What Jinja and transformers give every template. */
static mw_jval builtin(mw_jval name) {
    static const struct {
        const char *name;
        mw_jfunc f;
    } table[] = {{"range", MW_JF_RANGE},
                 {"dict", MW_JF_DICT},
                 {"namespace", MW_JF_NAMESPACE},
                 {"raise_exception", MW_JF_RAISE},
                 {"strftime_now", MW_JF_STRFTIME}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (mw_jstr_is(name, table[i].name)) return (mw_jval){.type = MW_J_FUNC, .sub = (uint8_t)table[i].f};
    }
    return MW_JMISSING;
}

static mw_status variable(mw_jrun *r, mw_jval name, const mw_jinja_var *vars, size_t n_vars, const json_t *extra,
                          mw_jval *out) {
    for (size_t i = 0; i < n_vars; i++) {
        if (!mw_jstr_is(name, vars[i].name)) continue;
        if (vars[i].json) return mw_jtext_from_json(r, vars[i].json, out);
        *out = MW_JNONE;
        if (!vars[i].text) return MW_OK;
        *out = mw_jstr_wrap(vars[i].text, strlen(vars[i].text));
        return mw_juni_valid(out->u.s, out->n) ? MW_OK : MW_JERROR(r, "'%s' is not UTF-8", vars[i].name);
    }
    char *key; /* with the zero that jansson wants */
    MW_JTRY(mw_jarena_text(r->mem, (size_t)name.n + 1, &key));
    memcpy(key, name.u.s, name.n);
    key[name.n] = 0;
    const json_t *item = json_object_get(extra, key);
    if (item) return mw_jtext_from_json(r, item, out);
    *out = builtin(name);
    return MW_OK;
}

static mw_status run(mw_jrun *r, const mw_jinja *t, const mw_jinja_var *vars, size_t n_vars, const json_t *extra) {
    mw_jval *global;
    MW_JTRY(mw_jvals(r, t->n_global, &global));
    for (uint32_t i = 0; i < t->n_global; i++) {
        MW_JTRY(variable(r, t->global[i], vars, n_vars, extra, &global[i]));
    }
    r->global = global;
    MW_JTRY(mw_jenv_new(r, NULL, t->root->slots, &r->env));
    MW_JTRY(mw_jscope_enter(r, &t->root->u.scope[0]));
    MW_JTRY(mw_jexec(r, t->root));
    if (r->out->n > MW_JOUT_MAX) return MW_JFAIL(r, MW_ERR_LIMIT, "more than %zu bytes of output", MW_JOUT_MAX);
    return MW_OK;
}

mw_status mw_jinja_render(const mw_jinja *t, const mw_jinja_var *vars, size_t n_vars, const json_t *extra,
                          int64_t now_us, mw_str *out, bool *raised) {
    mw_jarena mem = {.limit = MW_JMEMORY_MAX};
    mw_jbuf text = {0};
    mw_jrun r = {.mem = &mem, .out = &text, .line = 1, .now_us = now_us};
    mw_status st = run(&r, t, vars, n_vars, extra);
    if (raised) *raised = r.raised;
    if (st == MW_OK) st = mw_str_add(out, text.p, text.n);
    mw_jarena_free(&mem);
    return st;
}
