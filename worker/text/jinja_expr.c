/* The expression grammar, from "a if b else c" down to names and literals. */
#include <string.h>

#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_parse.h"

/* A node over children: computes what is known of the whole from the parts. */
static mw_status joined(mw_jparser *p, mw_jnode *n, mw_jnode **out) {
    uint32_t depth = 0;
    n->pure = n->kind != MW_JN_NAME && n->kind != MW_JN_CALL && n->kind != MW_JN_NSREF;
    if (n->kind == MW_JN_FILTER && (!n->a || !n->u.filter || n->u.filter->context)) n->pure = false;
    mw_jnode *const abc[] = {n->a, n->b, n->c};
    for (uint32_t i = 0; i < 3 + n->nv + n->nw; i++) {
        const mw_jnode *k = i < 3 ? abc[i] : i < 3 + n->nv ? n->v[i - 3] : n->w[i - 3 - n->nv];
        if (!k) continue;
        if (k->depth > depth) depth = k->depth;
        n->pure &= k->pure;
        n->fold |= k->fold;
    }
    if (depth >= MW_JDEPTH_EXPR) {
        return MW_JNODE_FAIL(p, MW_ERR_LIMIT, n, "an expression nested more than %d deep", MW_JDEPTH_EXPR);
    }
    n->depth = (uint16_t)(depth + 1);
    if (n->kind == MW_JN_SLICE && n->pure) n->fold = true;
    *out = n;
    return MW_OK;
}

static mw_status binary(mw_jparser *p, mw_jkind kind, int op, mw_jnode *a, mw_jnode *b, mw_jnode **out) {
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, kind, &n));
    n->line = a->line;
    n->at = a->at;
    n->op = (uint8_t)op;
    n->a = a;
    n->b = b;
    return joined(p, n, out);
}

static void take(mw_jnode *n, const mw_jnodes *list) {
    n->v = list->v;
    n->nv = list->n;
}

static mw_status constant(mw_jparser *p, mw_jval val, mw_jnode **out) {
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, MW_JN_CONST, &n));
    n->val = val;
    mw_jadvance(p);
    return joined(p, n, out);
}

static mw_status strings(mw_jparser *p, mw_jnode **out) {
    mw_jval all, more;
    MW_JTRY(mw_jlex_value(p->mem, &p->src, mw_jpeek(p), &all));
    MW_JTRY(constant(p, all, out));
    while (mw_jpeek_is(p, MW_JT_STRING)) { /* literals side by side are one */
        char *text;
        MW_JTRY(mw_jlex_value(p->mem, &p->src, mw_jpeek(p), &more));
        MW_JTRY(mw_jarena_alloc(p->mem, (size_t)all.n + more.n, (void **)&text));
        memcpy(text, all.u.s, all.n);
        memcpy(text + all.n, more.u.s, more.n);
        all = mw_jstr_wrap(text, (size_t)all.n + more.n);
        mw_jadvance(p);
    }
    (*out)->val = all;
    return MW_OK;
}

static mw_status name(mw_jparser *p, mw_jnode **out) {
    mw_jval text = mw_jtoken_text(p, mw_jpeek(p));
    if (mw_jstr_is(text, "true") || mw_jstr_is(text, "True")) return constant(p, MW_JBOOL(true), out);
    if (mw_jstr_is(text, "false") || mw_jstr_is(text, "False")) return constant(p, MW_JBOOL(false), out);
    if (mw_jstr_is(text, "none") || mw_jstr_is(text, "None")) return constant(p, MW_JNONE, out);
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, MW_JN_NAME, &n));
    MW_JTRY(mw_jintern(p, text, &n->name));
    n->val = text;
    mw_jadvance(p);
    return joined(p, n, out);
}

static mw_status list(mw_jparser *p, mw_jnode **out) {
    mw_jnode *n, *item;
    mw_jnodes items = {0};
    MW_JTRY(mw_jnode_new(p, MW_JN_LIST, &n));
    MW_JTRY(mw_jexpect(p, MW_JT_LBRACKET));
    while (!mw_jpeek_is(p, MW_JT_RBRACKET)) {
        if (items.n) MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
        if (mw_jpeek_is(p, MW_JT_RBRACKET)) break;
        MW_JTRY(mw_jparse_expr(p, true, &item));
        MW_JTRY(mw_jnodes_add(p, &items, item));
    }
    mw_jadvance(p);
    take(n, &items);
    return joined(p, n, out);
}

static mw_status dict(mw_jparser *p, mw_jnode **out) {
    mw_jnode *n, *item;
    mw_jnodes keys = {0}, vals = {0};
    MW_JTRY(mw_jnode_new(p, MW_JN_DICT, &n));
    MW_JTRY(mw_jexpect(p, MW_JT_LBRACE));
    while (!mw_jpeek_is(p, MW_JT_RBRACE)) {
        if (keys.n) MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
        if (mw_jpeek_is(p, MW_JT_RBRACE)) break;
        MW_JTRY(mw_jparse_expr(p, true, &item));
        MW_JTRY(mw_jnodes_add(p, &keys, item));
        MW_JTRY(mw_jexpect(p, MW_JT_COLON));
        MW_JTRY(mw_jparse_expr(p, true, &item));
        MW_JTRY(mw_jnodes_add(p, &vals, item));
    }
    mw_jadvance(p);
    take(n, &keys);
    n->w = vals.v;
    n->nw = vals.n;
    return joined(p, n, out);
}

/* Elements up to a token that ends a tuple. `single` parses one; explicit: an empty tuple is allowed. */
static mw_status tuple(mw_jparser *p, mw_status (*single)(mw_jparser *, mw_jnode **), bool explicit_, mw_jnode **out) {
    mw_jnodes items = {0};
    mw_jnode *n, *item;
    bool is_tuple = false;
    MW_JTRY(mw_jnode_new(p, MW_JN_TUPLE, &n));
    for (;;) {
        if (items.n) MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
        mw_jtok t = (mw_jtok)mw_jpeek(p)->type;
        if (t == MW_JT_VAR_END || t == MW_JT_BLOCK_END || t == MW_JT_RPAREN) break;
        MW_JTRY(single(p, &item));
        MW_JTRY(mw_jnodes_add(p, &items, item));
        if (!mw_jpeek_is(p, MW_JT_COMMA)) break;
        is_tuple = true;
    }
    if (!is_tuple && items.n) {
        *out = items.v[0];
        return MW_OK;
    }
    if (!is_tuple && !explicit_) {
        char buf[48];
        return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "expected an expression, found %s", mw_jdescribe(p, buf));
    }
    take(n, &items);
    return joined(p, n, out);
}

static mw_status any_expr(mw_jparser *p, mw_jnode **out) {
    return mw_jparse_expr(p, true, out);
}

static mw_status no_cond_expr(mw_jparser *p, mw_jnode **out) {
    return mw_jparse_expr(p, false, out);
}

mw_status mw_jparse_tuple(mw_jparser *p, bool cond, mw_jnode **out) {
    return tuple(p, cond ? any_expr : no_cond_expr, false, out);
}

static mw_status primary(mw_jparser *p, mw_jnode **out) {
    char buf[48];
    mw_jval v;
    switch (mw_jpeek(p)->type) {
    case MW_JT_NAME: return name(p, out);
    case MW_JT_STRING: return strings(p, out);
    case MW_JT_INT:
    case MW_JT_FLOAT: MW_JTRY(mw_jlex_value(p->mem, &p->src, mw_jpeek(p), &v)); return constant(p, v, out);
    case MW_JT_LPAREN:
        mw_jadvance(p);
        MW_JTRY(tuple(p, any_expr, true, out));
        return mw_jexpect(p, MW_JT_RPAREN);
    case MW_JT_LBRACKET: return list(p, out);
    case MW_JT_LBRACE: return dict(p, out);
    default: return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "unexpected %s", mw_jdescribe(p, buf));
    }
}

/* (a, b, name=c): positional arguments to v, keyword arguments to w and kw. */
static mw_status arguments(mw_jparser *p, mw_jnode *n) {
    mw_jnodes pos = {0}, kw = {0};
    mw_jval *names = NULL;
    uint32_t cap = 0;
    MW_JTRY(mw_jexpect(p, MW_JT_LPAREN));
    while (!mw_jpeek_is(p, MW_JT_RPAREN)) {
        mw_jnode *item;
        if (pos.n + kw.n) {
            MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
            if (mw_jpeek_is(p, MW_JT_RPAREN)) break;
        }
        if (mw_jpeek_is(p, MW_JT_MUL) || mw_jpeek_is(p, MW_JT_POW)) {
            return MW_JTOKEN_FAIL(p, MW_ERR_UNSUPPORTED, "arguments by * and ** are not supported");
        }
        bool keyword = mw_jpeek_is(p, MW_JT_NAME) && p->src.tok[p->at + 1].type == MW_JT_ASSIGN;
        if (!keyword && kw.n) return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "a positional argument behind a keyword one");
        if (keyword) {
            mw_jval key = mw_jtoken_text(p, mw_jpeek(p));
            for (uint32_t i = 0; i < kw.n; i++) {
                if (names[i].n == key.n && memcmp(names[i].u.s, key.u.s, key.n) == 0) {
                    return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "argument '%.*s' is given twice", (int)key.n, key.u.s);
                }
            }
            if (kw.n == 64) return MW_JTOKEN_FAIL(p, MW_ERR_LIMIT, "a call with more than 64 keyword arguments");
            if (kw.n == cap) {
                mw_jval *more;
                cap = cap ? 2 * cap : 4;
                MW_JTRY(MW_JNEW(p->mem, &more, cap));
                if (kw.n) memcpy(more, names, kw.n * sizeof *more);
                names = more;
            }
            names[kw.n] = key;
            mw_jadvance(p);
            mw_jadvance(p);
        }
        MW_JTRY(mw_jparse_expr(p, true, &item));
        MW_JTRY(mw_jnodes_add(p, keyword ? &kw : &pos, item));
    }
    mw_jadvance(p);
    take(n, &pos);
    n->w = kw.v;
    n->nw = kw.n;
    n->kw = names;
    return MW_OK;
}

static mw_status call(mw_jparser *p, mw_jnode *callee, mw_jnode **out) {
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, MW_JN_CALL, &n));
    n->a = callee;
    MW_JTRY(arguments(p, n));
    return joined(p, n, out);
}

/* One index of a subscript, which may be a slice. */
static mw_status one_index(mw_jparser *p, mw_jnode *slice, mw_jnode **out, bool *is_slice) {
    mw_jnode **part;
    MW_JTRY(mw_jnode_room(p, 3, &part));
    *is_slice = false;
    for (int i = 0; i < 3; i++) {
        mw_jtok t = (mw_jtok)mw_jpeek(p)->type;
        if (t != MW_JT_COLON && t != MW_JT_RBRACKET && t != MW_JT_COMMA) MW_JTRY(mw_jparse_expr(p, true, &part[i]));
        if (i == 2 || !mw_jskip(p, MW_JT_COLON)) break;
        *is_slice = true;
    }
    slice->v = part;
    slice->nv = *is_slice ? 3 : 0;
    *out = part[0];
    char buf[48];
    if (!*is_slice && !part[0]) return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "unexpected %s", mw_jdescribe(p, buf));
    return MW_OK;
}

static mw_status subscript(mw_jparser *p, mw_jnode *obj, mw_jnode **out) {
    mw_jnode *n, *key;
    mw_jnodes keys = {0};
    bool is_slice = false;
    MW_JTRY(mw_jnode_new(p, MW_JN_ITEM, &n));
    n->a = obj;
    mw_jadvance(p); /* [ */
    if (mw_jpeek_is(p, MW_JT_RBRACKET))
        return MW_JTOKEN_FAIL(p, MW_ERR_UNSUPPORTED, "an empty subscript is not supported");
    for (;;) {
        MW_JTRY(one_index(p, n, &key, &is_slice));
        MW_JTRY(mw_jnodes_add(p, &keys, key));
        if (mw_jpeek_is(p, MW_JT_RBRACKET)) break;
        MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
        if (is_slice) return MW_JNODE_FAIL(p, MW_ERR_FORMAT, n, "a slice among several indexes");
    }
    mw_jadvance(p);
    if (is_slice && keys.n > 1) return MW_JNODE_FAIL(p, MW_ERR_FORMAT, n, "a slice among several indexes");
    if (is_slice) {
        n->kind = MW_JN_SLICE;
        return joined(p, n, out);
    }
    if (keys.n > 1) {
        MW_JTRY(mw_jnode_new(p, MW_JN_TUPLE, &key));
        take(key, &keys);
        MW_JTRY(joined(p, key, &key));
    }
    n->b = key;
    return joined(p, n, out);
}

static mw_status dotted(mw_jparser *p, mw_jnode *obj, mw_jnode **out) {
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, MW_JN_ATTR, &n));
    n->a = obj;
    mw_jadvance(p); /* . */
    if (mw_jpeek_is(p, MW_JT_INT)) {
        mw_jval v;
        MW_JTRY(mw_jlex_value(p->mem, &p->src, mw_jpeek(p), &v));
        n->kind = MW_JN_ITEM;
        MW_JTRY(constant(p, v, &n->b));
        return joined(p, n, out);
    }
    n->val = mw_jtoken_text(p, mw_jpeek(p));
    MW_JTRY(mw_jexpect(p, MW_JT_NAME));
    n->u.attr = mw_jattr_find(n->val);
    return joined(p, n, out);
}

static mw_status postfix(mw_jparser *p, mw_jnode **n) {
    for (;;) {
        if (mw_jpeek_is(p, MW_JT_DOT)) {
            MW_JTRY(dotted(p, *n, n));
        } else if (mw_jpeek_is(p, MW_JT_LBRACKET)) {
            MW_JTRY(subscript(p, *n, n));
        } else if (mw_jpeek_is(p, MW_JT_LPAREN)) {
            MW_JTRY(call(p, *n, n));
        } else {
            return MW_OK;
        }
    }
}

/* The name of a filter or test, which may have dots. */
static mw_status dotted_name(mw_jparser *p, mw_jval *out) {
    uint32_t from = mw_jpeek(p)->at, end;
    do {
        end = mw_jpeek(p)->at + mw_jpeek(p)->n;
        MW_JTRY(mw_jexpect(p, MW_JT_NAME));
    } while (mw_jskip(p, MW_JT_DOT));
    *out = mw_jstr_wrap(p->src.text + from, end - from);
    return MW_OK;
}

/* name(arguments), behind the | */
static mw_status filter(mw_jparser *p, mw_jnode *in, mw_jnode **out) {
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, MW_JN_FILTER, &n));
    MW_JTRY(dotted_name(p, &n->val));
    n->a = in;
    n->u.filter = mw_jfilter_find(n->val);
    if (mw_jpeek_is(p, MW_JT_LPAREN)) MW_JTRY(arguments(p, n));
    return joined(p, n, out);
}

mw_status mw_jparse_filters(mw_jparser *p, bool inline_first, mw_jnode **out) {
    *out = NULL;
    while (inline_first || mw_jskip(p, MW_JT_PIPE)) {
        inline_first = false;
        MW_JTRY(filter(p, *out, out));
    }
    return MW_OK;
}

/* is name, is not name(arg), is name arg; behind the `is` */
static mw_status test(mw_jparser *p, mw_jnode *in, mw_jnode **out) {
    mw_jnode *n, *arg;
    mw_jnodes args = {0};
    MW_JTRY(mw_jnode_new(p, MW_JN_TEST, &n));
    bool negated = mw_jskip_name(p, "not");
    MW_JTRY(dotted_name(p, &n->val));
    n->a = in;
    n->u.test = mw_jtest_find(n->val);
    mw_jtok t = (mw_jtok)mw_jpeek(p)->type;
    bool literal = t == MW_JT_STRING || t == MW_JT_INT || t == MW_JT_FLOAT || t == MW_JT_LBRACKET || t == MW_JT_LBRACE;
    bool named = t == MW_JT_NAME && !mw_jpeek_name(p, "else") && !mw_jpeek_name(p, "or") && !mw_jpeek_name(p, "and");
    if (t == MW_JT_LPAREN) {
        MW_JTRY(arguments(p, n));
    } else if (literal || named) {
        if (mw_jpeek_name(p, "is")) return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "tests cannot be chained");
        MW_JTRY(primary(p, &arg));
        MW_JTRY(postfix(p, &arg));
        MW_JTRY(mw_jnodes_add(p, &args, arg));
        take(n, &args);
    }
    MW_JTRY(joined(p, n, out));
    if (!negated) return MW_OK;
    return binary(p, MW_JN_NOT, 0, *out, NULL, out);
}

static mw_status filters_and_tests(mw_jparser *p, mw_jnode **n) {
    for (;;) {
        if (mw_jskip(p, MW_JT_PIPE)) {
            MW_JTRY(filter(p, *n, n));
        } else if (mw_jskip_name(p, "is")) {
            MW_JTRY(test(p, *n, n));
        } else if (mw_jpeek_is(p, MW_JT_LPAREN)) {
            MW_JTRY(call(p, *n, n));
        } else {
            return MW_OK;
        }
    }
}

/* A sign binds closer than a filter, and less close than a postfix. */
static mw_status unary(mw_jparser *p, bool with_filter, mw_jnode **out) {
    bool minus = mw_jpeek_is(p, MW_JT_SUB);
    if (minus || mw_jpeek_is(p, MW_JT_ADD)) {
        mw_jnode *n;
        if (++p->depth > MW_JDEPTH_EXPR) return MW_JTOKEN_FAIL(p, MW_ERR_LIMIT, "too many signs");
        MW_JTRY(mw_jnode_new(p, MW_JN_SIGN, &n));
        mw_jadvance(p);
        n->op = minus;
        MW_JTRY(unary(p, false, &n->a));
        MW_JTRY(joined(p, n, out));
        p->depth--;
    } else {
        MW_JTRY(primary(p, out));
    }
    MW_JTRY(postfix(p, out));
    return with_filter ? filters_and_tests(p, out) : MW_OK;
}

static mw_status power(mw_jparser *p, mw_jnode **out) {
    mw_jnode *right;
    MW_JTRY(unary(p, true, out));
    while (mw_jskip(p, MW_JT_POW)) { /* from the left, unlike Python */
        MW_JTRY(unary(p, true, &right));
        MW_JTRY(binary(p, MW_JN_ARITH, MW_JPOW, *out, right, out));
    }
    return MW_OK;
}

static mw_status product(mw_jparser *p, mw_jnode **out) {
    mw_jnode *right;
    MW_JTRY(power(p, out));
    for (;;) {
        mw_jtok t = (mw_jtok)mw_jpeek(p)->type;
        if (t != MW_JT_MUL && t != MW_JT_DIV && t != MW_JT_FLOORDIV && t != MW_JT_MOD) return MW_OK;
        mw_jadvance(p);
        MW_JTRY(power(p, &right));
        mw_jarith op = t == MW_JT_MUL ? MW_JMUL : t == MW_JT_DIV ? MW_JDIV : t == MW_JT_MOD ? MW_JMOD : MW_JFLOORDIV;
        MW_JTRY(binary(p, MW_JN_ARITH, op, *out, right, out));
    }
}

static mw_status concat(mw_jparser *p, mw_jnode **out) {
    mw_jnodes items = {0};
    mw_jnode *n;
    MW_JTRY(product(p, out));
    if (!mw_jpeek_is(p, MW_JT_TILDE)) return MW_OK;
    MW_JTRY(mw_jnode_new(p, MW_JN_CONCAT, &n));
    MW_JTRY(mw_jnodes_add(p, &items, *out));
    while (mw_jskip(p, MW_JT_TILDE)) {
        mw_jnode *item;
        MW_JTRY(product(p, &item));
        MW_JTRY(mw_jnodes_add(p, &items, item));
    }
    take(n, &items);
    return joined(p, n, out);
}

static mw_status sum(mw_jparser *p, mw_jnode **out) {
    mw_jnode *right;
    MW_JTRY(concat(p, out));
    for (;;) {
        bool add = mw_jpeek_is(p, MW_JT_ADD);
        if (!add && !mw_jpeek_is(p, MW_JT_SUB)) return MW_OK;
        mw_jadvance(p);
        MW_JTRY(concat(p, &right));
        MW_JTRY(binary(p, MW_JN_ARITH, add ? MW_JADD : MW_JSUB, *out, right, out));
    }
}

/* The comparison operator at the current token, which is skipped; false if there is none. */
static bool comparison(mw_jparser *p, uint8_t *op) {
    static const uint8_t by_token[] = {[MW_JT_EQ] = MW_JC_EQ, [MW_JT_NE] = MW_JC_NE, [MW_JT_LT] = MW_JC_LT,
                                       [MW_JT_LE] = MW_JC_LE, [MW_JT_GT] = MW_JC_GT, [MW_JT_GE] = MW_JC_GE};
    mw_jtok t = (mw_jtok)mw_jpeek(p)->type;
    if (t >= MW_JT_EQ && t <= MW_JT_GE) {
        *op = by_token[t];
        mw_jadvance(p);
        return true;
    }
    if (mw_jskip_name(p, "in")) {
        *op = MW_JC_IN;
        return true;
    }
    if (!mw_jpeek_name(p, "not")) return false;
    mw_jadvance(p);
    if (mw_jskip_name(p, "in")) {
        *op = MW_JC_NOTIN;
        return true;
    }
    p->at--;
    return false;
}

static mw_status compare(mw_jparser *p, mw_jnode **out) {
    mw_jnodes items = {0};
    mw_jnode *n, *item;
    uint8_t *ops = NULL, op;
    uint32_t n_op = 0, cap = 0;
    MW_JTRY(sum(p, out));
    MW_JTRY(mw_jnodes_add(p, &items, *out));
    while (comparison(p, &op)) {
        if (n_op == cap) {
            uint8_t *more;
            cap = cap ? 2 * cap : 4;
            MW_JTRY(MW_JNEW(p->mem, &more, cap));
            if (n_op) memcpy(more, ops, n_op);
            ops = more;
        }
        ops[n_op++] = op;
        MW_JTRY(sum(p, &item));
        MW_JTRY(mw_jnodes_add(p, &items, item));
    }
    if (!n_op) return MW_OK;
    MW_JTRY(mw_jnode_new(p, MW_JN_COMPARE, &n));
    n->line = (*out)->line;
    n->u.cmp = ops;
    take(n, &items);
    return joined(p, n, out);
}

static mw_status negation(mw_jparser *p, mw_jnode **out) {
    mw_jnode *n;
    if (!mw_jpeek_name(p, "not")) return compare(p, out);
    if (++p->depth > MW_JDEPTH_EXPR) return MW_JTOKEN_FAIL(p, MW_ERR_LIMIT, "too many 'not'");
    MW_JTRY(mw_jnode_new(p, MW_JN_NOT, &n));
    mw_jadvance(p);
    MW_JTRY(negation(p, &n->a));
    p->depth--;
    return joined(p, n, out);
}

static mw_status conjunction(mw_jparser *p, mw_jnode **out) {
    mw_jnode *right;
    MW_JTRY(negation(p, out));
    while (mw_jskip_name(p, "and")) {
        MW_JTRY(negation(p, &right));
        MW_JTRY(binary(p, MW_JN_AND, 0, *out, right, out));
    }
    return MW_OK;
}

static mw_status disjunction(mw_jparser *p, mw_jnode **out) {
    mw_jnode *right;
    MW_JTRY(conjunction(p, out));
    while (mw_jskip_name(p, "or")) {
        MW_JTRY(conjunction(p, &right));
        MW_JTRY(binary(p, MW_JN_OR, 0, *out, right, out));
    }
    return MW_OK;
}

static mw_status conditional(mw_jparser *p, bool cond, mw_jnode **out) {
    MW_JTRY(disjunction(p, out));
    while (cond && mw_jskip_name(p, "if")) {
        mw_jnode *n;
        MW_JTRY(mw_jnode_new(p, MW_JN_COND, &n));
        n->line = (*out)->line;
        n->b = *out;
        MW_JTRY(disjunction(p, &n->a));
        if (mw_jskip_name(p, "else")) MW_JTRY(mw_jparse_expr(p, true, &n->c));
        MW_JTRY(joined(p, n, out));
    }
    return MW_OK;
}

mw_status mw_jparse_expr(mw_jparser *p, bool cond, mw_jnode **out) {
    if (++p->depth > MW_JDEPTH_EXPR) {
        return MW_JTOKEN_FAIL(p, MW_ERR_LIMIT, "an expression nested more than %d deep", MW_JDEPTH_EXPR);
    }
    MW_JTRY(conditional(p, cond, out));
    p->depth--;
    return MW_OK;
}

static mw_status assignable(mw_jparser *p, const mw_jnode *n) {
    if (n->kind == MW_JN_NAME || n->kind == MW_JN_NSREF) return MW_OK;
    if (n->kind != MW_JN_TUPLE) return MW_JNODE_FAIL(p, MW_ERR_FORMAT, n, "cannot be assigned to");
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(assignable(p, n->v[i]));
    return MW_OK;
}

/* A name with a dotted attribute, which only `set` allows. */
static mw_status dotted_primary(mw_jparser *p, mw_jnode **out) {
    MW_JTRY(primary(p, out));
    if ((*out)->kind != MW_JN_NAME || !mw_jskip(p, MW_JT_DOT)) return MW_OK;
    (*out)->kind = MW_JN_NSREF;
    (*out)->val = mw_jtoken_text(p, mw_jpeek(p));
    return mw_jexpect(p, MW_JT_NAME);
}

mw_status mw_jparse_target(mw_jparser *p, bool with_attributes, mw_jnode **out) {
    MW_JTRY(tuple(p, with_attributes ? dotted_primary : primary, false, out));
    return assignable(p, *out);
}

mw_status mw_jparse_name_target(mw_jparser *p, mw_jnode **out) {
    char buf[48];
    if (!mw_jpeek_is(p, MW_JT_NAME)) {
        return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "expected a name, found %s", mw_jdescribe(p, buf));
    }
    MW_JTRY(name(p, out));
    return assignable(p, *out);
}
