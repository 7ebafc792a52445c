/* What parses, but could not be rendered as Jinja would, is refused here: at open, by name and line. So are filters and
 * tests that nobody knows, except where Jinja, too, would only notice when it gets there: right inside an `if`. */
#include <string.h>

#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_parse.h"

typedef struct checker {
    mw_jparser *p;
    bool in_macro;
    bool soft; /* inside an `if` (either kind) and no other block inside that */
} checker;

static mw_status check(checker *c, const mw_jnode *n);

#define CFAIL(c, n, fmt, ...) MW_JNODE_FAIL((c)->p, MW_ERR_UNSUPPORTED, n, fmt " is not supported", ##__VA_ARGS__)

static mw_status check_all(checker *c, mw_jnode *const *v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (v[i]) MW_JTRY(check(c, v[i]));
    }
    return MW_OK;
}

static mw_status check_name(checker *c, const mw_jnode *n) {
    static const char *const never[] = {"self", "super", "cycler", "joiner", "lipsum", NULL};
    mw_jval name = c->p->name[n->name];
    for (int i = 0; never[i]; i++) {
        if (mw_jstr_is(name, never[i])) return CFAIL(c, n, "'%s'", never[i]);
    }
    return MW_OK;
}

/* What is assigned to; `loop` belongs to the for block, some names to macros. */
static mw_status check_target(checker *c, const mw_jnode *n) {
    static const char *const of_macros[] = {"caller", "kwargs", "varargs", NULL};
    if (n->kind == MW_JN_TUPLE) {
        for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(check_target(c, n->v[i]));
        return MW_OK;
    }
    if (n->kind == MW_JN_NAME && mw_jstr_is(c->p->name[n->name], "loop")) return CFAIL(c, n, "assigning to 'loop'");
    for (int i = 0; c->in_macro && of_macros[i]; i++) {
        if (mw_jstr_is(c->p->name[n->name], of_macros[i])) return CFAIL(c, n, "'%s' in a macro", of_macros[i]);
    }
    return check_name(c, n);
}

static const mw_jval *text_argument(const mw_jnode *n, uint32_t i) {
    return i < n->nv && n->v[i]->kind == MW_JN_CONST && mw_jis_str(n->v[i]->val) ? &n->v[i]->val : NULL;
}

/* The filter or test that map, select and their kin are told to use must be known now. */
static mw_status check_by_name(checker *c, const mw_jnode *n, uint32_t at, bool filter) {
    const mw_jval *name = text_argument(n, at);
    if (at >= n->nv) return MW_OK;
    if (!name) return CFAIL(c, n, "%s with a computed name", n->u.filter->name);
    if (filter) {
        const mw_jfilter *f = mw_jfilter_find(*name);
        if (!f) return CFAIL(c, n, "map with filter '%.*s'", (int)name->n, name->u.s);
    } else {
        const mw_jtest *t = mw_jtest_find(*name);
        if (!t || strcmp(t->name, "sameas") == 0) {
            return CFAIL(c, n, "%s with test '%.*s'", n->u.filter->name, (int)name->n, name->u.s);
        }
    }
    return MW_OK;
}

static bool listed(mw_jval name, const char *const *list) {
    while (*list && !mw_jstr_is(name, *list)) list++;
    return *list != NULL;
}

/* A filter or test that is not in our tables: one of Jinja's is refused, one that does not exist is a broken template.
 */
static mw_status check_unknown(checker *c, const mw_jnode *n, const char *what, const char *const *jinja_has) {
    mw_jval name = n->val;
    if (listed(name, jinja_has)) return CFAIL(c, n, "%s '%.*s'", what, (int)name.n, name.u.s);
    if (c->soft) return MW_OK;
    return MW_JNODE_FAIL(c->p, MW_ERR_FORMAT, n, "there is no %s '%.*s'", what, (int)name.n, name.u.s);
}

static mw_status check_filter(checker *c, const mw_jnode *n) {
    static const char *const jinja_has[] = {
        "attr",      "batch",    "center",    "filesizeformat", "forceescape", "groupby",  "pprint",  "random", "slice",
        "striptags", "truncate", "urlencode", "urlize",         "wordcount",   "wordwrap", "xmlattr", NULL};
    if (!n->u.filter) return check_unknown(c, n, "filter", jinja_has);
    const char *name = n->u.filter->name;
    if (strcmp(name, "map") == 0) MW_JTRY(check_by_name(c, n, 0, true));
    if (strcmp(name, "select") == 0 || strcmp(name, "reject") == 0) MW_JTRY(check_by_name(c, n, 0, false));
    if (strcmp(name, "selectattr") == 0 || strcmp(name, "rejectattr") == 0) MW_JTRY(check_by_name(c, n, 1, false));
    if (strcmp(name, "int") == 0) {
        bool base = n->nv > 1;
        for (uint32_t i = 0; i < n->nw; i++) base |= mw_jstr_is(n->kw[i], "base");
        if (base) return CFAIL(c, n, "'int' with a base");
    }
    return MW_OK;
}

static mw_status check_test(checker *c, const mw_jnode *n) {
    static const char *const jinja_has[] = {"filter", "test", NULL};
    if (!n->u.test) return check_unknown(c, n, "test", jinja_has);
    const mw_jnode *arg = n->nv ? n->v[0] : NULL;
    bool simple = arg && arg->kind == MW_JN_CONST && (arg->val.type == MW_J_NONE || arg->val.type == MW_J_BOOL);
    if (strcmp(n->u.test->name, "sameas") == 0 && !simple) return CFAIL(c, n, "'sameas' this");
    return MW_OK;
}

/* Methods that some Python type has and this has not; str.format with more than plain fields. */
static mw_status check_method(checker *c, const mw_jnode *n) {
    const mw_jattr *m = n->a->u.attr;
    if (n->a->kind != MW_JN_ATTR || !m) return MW_OK;
    if (!m->has && !m->unsafe && m->opaque != 1u << MW_J_MACRO) return CFAIL(c, n, "method '%s'", m->name);
    const mw_jnode *self = n->a->a;
    if (m->method != MW_JM_FORMAT || self->kind != MW_JN_CONST || !mw_jis_str(self->val)) return MW_OK;
    bool inside = false;
    for (uint32_t i = 0; i < self->val.n; i++) {
        char b = self->val.u.s[i];
        inside = b == '{' ? !inside : b == '}' ? false : inside;
        if (inside && (b == ':' || b == '!' || b == '.' || b == '[')) return CFAIL(c, n, "str.format with '%c'", b);
    }
    return MW_OK;
}

static mw_status check_expr(checker *c, const mw_jnode *n) {
    switch ((mw_jkind)n->kind) {
    case MW_JN_NAME: return check_name(c, n);
    case MW_JN_FILTER: MW_JTRY(check_filter(c, n)); break;
    case MW_JN_TEST: MW_JTRY(check_test(c, n)); break;
    case MW_JN_CALL: MW_JTRY(check_method(c, n)); break;
    case MW_JN_ATTR:
        if (n->val.n > 1 && memcmp(n->val.u.s, "__", 2) == 0) {
            return CFAIL(c, n, "attribute '%.*s'", (int)n->val.n, n->val.u.s);
        }
        break;
    default: break;
    }
    bool outer = c->soft;
    mw_jnode *const abc[] = {n->a, n->b, n->c};
    c->soft |= n->kind == MW_JN_COND;
    MW_JTRY(check_all(c, abc, 3));
    MW_JTRY(check_all(c, n->v, n->nv));
    MW_JTRY(check_all(c, n->w, n->nw));
    c->soft = outer;
    return MW_OK;
}

/* What belongs to a scope of its own. */
static mw_status check_inner(checker *c, const mw_jnode *n) {
    bool outer = c->soft;
    c->soft = false;
    if (n) MW_JTRY(check(c, n));
    c->soft = outer;
    return MW_OK;
}

/* Parameters and body of a macro, call or generation block. */
static mw_status check_function(checker *c, const mw_jnode *n) {
    bool outer = c->in_macro;
    c->in_macro = true;
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(check_target(c, n->v[i]));
    for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(check_inner(c, n->w[i]));
    MW_JTRY(check_inner(c, n->c));
    c->in_macro = outer;
    return MW_OK;
}

static mw_status check(checker *c, const mw_jnode *n) {
    switch ((mw_jkind)n->kind) {
    case MW_JN_TEXT:
    case MW_JN_BREAK:
    case MW_JN_CONTINUE:
    case MW_JN_CONST: return MW_OK;
    case MW_JN_PRINT: return check(c, n->a);
    case MW_JN_BODY: return check_all(c, n->v, n->nv);
    case MW_JN_IF: {
        bool outer = c->soft;
        c->soft = true;
        MW_JTRY(check_all(c, n->v, n->nv));
        c->soft = outer;
        return MW_OK;
    }
    case MW_JN_FOR:
        MW_JTRY(check_target(c, n->a));
        MW_JTRY(check(c, n->b));
        MW_JTRY(check_inner(c, n->c));
        MW_JTRY(check_inner(c, n->v[0]));
        return check_inner(c, n->v[1]);
    case MW_JN_SET: MW_JTRY(check_target(c, n->a)); return check(c, n->b);
    case MW_JN_SETBLOCK:
    case MW_JN_FILTERED:
        if (n->a) MW_JTRY(check_target(c, n->a));
        MW_JTRY(check_inner(c, n->b));
        return check_inner(c, n->c);
    case MW_JN_WITH:
        for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(check_target(c, n->v[i]));
        MW_JTRY(check_all(c, n->w, n->nw));
        return check_inner(c, n->c);
    case MW_JN_MACRO: MW_JTRY(check_target(c, n->a)); return check_function(c, n);
    case MW_JN_CALLBLOCK: MW_JTRY(check(c, n->a)); return check_function(c, n);
    case MW_JN_GENERATE: return check_function(c, n);
    default: return check_expr(c, n);
    }
}

mw_status mw_jcheck(mw_jparser *p, const mw_jnode *root) {
    checker c = {.p = p};
    return check(&c, root);
}
