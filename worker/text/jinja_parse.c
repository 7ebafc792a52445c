#include "worker/text/jinja_parse.h"

#include <stdio.h>
#include <string.h>

bool mw_jpeek_name(const mw_jparser *p, const char *name) {
    const mw_jtoken *t = mw_jpeek(p);
    return t->type == MW_JT_NAME && t->n == strlen(name) && memcmp(p->src.text + t->at, name, t->n) == 0;
}

bool mw_jskip(mw_jparser *p, mw_jtok type) {
    if (!mw_jpeek_is(p, type)) return false;
    mw_jadvance(p);
    return true;
}

bool mw_jskip_name(mw_jparser *p, const char *name) {
    if (!mw_jpeek_name(p, name)) return false;
    mw_jadvance(p);
    return true;
}

const char *mw_jdescribe(const mw_jparser *p, char buf[48]) {
    const mw_jtoken *t = mw_jpeek(p);
    if (t->type == MW_JT_EOF) return "the end of the template";
    if (t->type == MW_JT_DATA) return "text";
    snprintf(buf, 48, "'%.*s'", t->n < 40 ? (int)t->n : 40, p->src.text + t->at);
    for (char *c = buf; *c; c++) {
        if (*c == '\n') *c = ' ';
    }
    return buf;
}

mw_status mw_jexpect(mw_jparser *p, mw_jtok type) {
    static const char *const text[] = {
        [MW_JT_BLOCK_END] = "'%}'", [MW_JT_VAR_END] = "'}}'", [MW_JT_NAME] = "a name",  [MW_JT_ASSIGN] = "'='",
        [MW_JT_COMMA] = "','",      [MW_JT_COLON] = "':'",    [MW_JT_LPAREN] = "'('",   [MW_JT_RPAREN] = "')'",
        [MW_JT_LBRACKET] = "'['",   [MW_JT_LBRACE] = "'{'",   [MW_JT_RBRACKET] = "']'",
    };
    char buf[48];
    if (mw_jskip(p, type)) return MW_OK;
    return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "expected %s, found %s", text[type], mw_jdescribe(p, buf));
}

mw_status mw_jexpect_name(mw_jparser *p, const char *name) {
    char buf[48];
    if (mw_jskip_name(p, name)) return MW_OK;
    return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "expected '%s', found %s", name, mw_jdescribe(p, buf));
}

mw_status mw_jnode_new(mw_jparser *p, mw_jkind kind, mw_jnode **out) {
    MW_JTRY(MW_JNEW(p->mem, out, 1));
    (*out)->kind = (uint8_t)kind;
    (*out)->line = mw_jpeek(p)->line;
    (*out)->at = mw_jpeek(p)->at;
    return MW_OK;
}

mw_status mw_jnode_room(mw_jparser *p, uint32_t n, mw_jnode ***out) {
    return mw_jarena_zalloc(p->mem, n, sizeof(void *), (void **)out);
}

mw_status mw_jnodes_add(mw_jparser *p, mw_jnodes *list, mw_jnode *n) {
    if (list->n == list->cap) {
        mw_jnode **more;
        list->cap = list->cap ? 2 * list->cap : 4;
        MW_JTRY(mw_jnode_room(p, list->cap, &more));
        for (uint32_t i = 0; i < list->n; i++) more[i] = list->v[i];
        list->v = more;
    }
    list->v[list->n++] = n;
    return MW_OK;
}

static uint32_t hash(mw_jval s) {
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < s.n; i++) h = (h ^ (uint8_t)s.u.s[i]) * 16777619u;
    return h;
}

static void index_name(mw_jparser *p, uint32_t number) {
    uint32_t mask = p->n_name_slot - 1, at = hash(p->name[number]) & mask;
    while (p->name_slot[at]) at = (at + 1) & mask;
    p->name_slot[at] = number + 1;
}

mw_status mw_jintern(mw_jparser *p, mw_jval text, uint32_t *out) {
    if (2 * (p->n_name + 1) > p->n_name_slot) {
        uint32_t cap = p->n_name_slot ? p->n_name_slot : 64;
        mw_jval *name;
        MW_JTRY(MW_JNEW(p->mem, &name, cap));
        if (p->n_name) memcpy(name, p->name, p->n_name * sizeof *name);
        p->name = name;
        p->n_name_slot = 2 * cap;
        MW_JTRY(MW_JNEW(p->mem, &p->name_slot, p->n_name_slot));
        for (uint32_t i = 0; i < p->n_name; i++) index_name(p, i);
    }
    uint32_t mask = p->n_name_slot - 1;
    for (uint32_t at = hash(text) & mask; p->name_slot[at]; at = (at + 1) & mask) {
        mw_jval known = p->name[p->name_slot[at] - 1];
        if (known.n == text.n && memcmp(known.u.s, text.u.s, text.n) == 0) {
            *out = p->name_slot[at] - 1;
            return MW_OK;
        }
    }
    p->name[p->n_name] = text;
    *out = p->n_name++;
    index_name(p, *out);
    return MW_OK;
}

static mw_status body(mw_jparser *p, const char *const *ends, mw_jnode **out);

/* What stands behind the head of a block: an optional colon, %}, the statements up to one of `ends`, which is left as
 * the current token. */
static mw_status block_body(mw_jparser *p, const char *const *ends, mw_jnode **out) {
    (void)mw_jskip(p, MW_JT_COLON);
    MW_JTRY(mw_jexpect(p, MW_JT_BLOCK_END));
    return body(p, ends, out);
}

/* block_body with one possible end, which is skipped. */
static mw_status whole_body(mw_jparser *p, const char *end, mw_jnode **out) {
    const char *const ends[] = {end, NULL};
    MW_JTRY(block_body(p, ends, out));
    mw_jadvance(p);
    return MW_OK;
}

static mw_status parse_if(mw_jparser *p, mw_jnode *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    mw_jnodes parts = {0};
    do {
        mw_jnode *test, *then;
        MW_JTRY(mw_jparse_tuple(p, false, &test));
        MW_JTRY(block_body(p, ends, &then));
        MW_JTRY(mw_jnodes_add(p, &parts, test));
        MW_JTRY(mw_jnodes_add(p, &parts, then));
    } while (mw_jskip_name(p, "elif"));
    if (mw_jskip_name(p, "else")) {
        mw_jnode *other;
        MW_JTRY(whole_body(p, "endif", &other));
        MW_JTRY(mw_jnodes_add(p, &parts, other));
    } else {
        mw_jadvance(p);
    }
    n->kind = MW_JN_IF;
    n->v = parts.v;
    n->nv = parts.n;
    return MW_OK;
}

static mw_status parse_for(mw_jparser *p, mw_jnode *n) {
    static const char *const ends[] = {"else", "endfor", NULL};
    mw_jnodes parts = {0};
    mw_jnode *part;
    n->kind = MW_JN_FOR;
    MW_JTRY(mw_jparse_target(p, false, &n->a));
    MW_JTRY(mw_jexpect_name(p, "in"));
    MW_JTRY(mw_jparse_tuple(p, false, &n->b));
    if (mw_jskip_name(p, "if")) MW_JTRY(mw_jparse_expr(p, true, &n->c));
    if (mw_jpeek_name(p, "recursive")) {
        return MW_JTOKEN_FAIL(p, MW_ERR_UNSUPPORTED, "a recursive 'for' is not supported");
    }
    if (++p->fors > MW_JDEPTH_FOR) {
        return MW_JNODE_FAIL(p, MW_ERR_LIMIT, n, "more than %d 'for' blocks inside each other", MW_JDEPTH_FOR);
    }
    p->loops++;
    MW_JTRY(block_body(p, ends, &part));
    p->loops--;
    p->fors--;
    MW_JTRY(mw_jnodes_add(p, &parts, part));
    part = NULL;
    if (mw_jskip_name(p, "else")) {
        MW_JTRY(whole_body(p, "endfor", &part));
    } else {
        mw_jadvance(p);
    }
    MW_JTRY(mw_jnodes_add(p, &parts, part));
    n->v = parts.v;
    n->nv = parts.n;
    return MW_OK;
}

static mw_status parse_set(mw_jparser *p, mw_jnode *n) {
    MW_JTRY(mw_jparse_target(p, true, &n->a));
    if (mw_jskip(p, MW_JT_ASSIGN)) {
        n->kind = MW_JN_SET;
        return mw_jparse_tuple(p, true, &n->b);
    }
    n->kind = MW_JN_SETBLOCK;
    MW_JTRY(mw_jparse_filters(p, false, &n->b));
    return whole_body(p, "endset", &n->c);
}

static mw_status parameters(mw_jparser *p, mw_jnode *n) {
    mw_jnodes names = {0}, defaults = {0};
    MW_JTRY(mw_jexpect(p, MW_JT_LPAREN));
    while (!mw_jpeek_is(p, MW_JT_RPAREN)) {
        mw_jnode *x;
        if (names.n) MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
        MW_JTRY(mw_jparse_name_target(p, &x));
        for (uint32_t i = 0; i < names.n; i++) {
            if (names.v[i]->name == x->name) return MW_JNODE_FAIL(p, MW_ERR_FORMAT, x, "a parameter named twice");
        }
        if (names.n == 64) return MW_JNODE_FAIL(p, MW_ERR_LIMIT, x, "a macro with more than 64 parameters");
        MW_JTRY(mw_jnodes_add(p, &names, x));
        if (mw_jskip(p, MW_JT_ASSIGN)) {
            MW_JTRY(mw_jparse_expr(p, true, &x));
            MW_JTRY(mw_jnodes_add(p, &defaults, x));
        } else if (defaults.n) {
            return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "a parameter without default behind one with");
        }
    }
    mw_jadvance(p);
    n->v = names.v;
    n->nv = names.n;
    n->w = defaults.v;
    n->nw = defaults.n;
    return MW_OK;
}

/* The body of a function of its own: no loop around it can be left from inside. */
static mw_status function_body(mw_jparser *p, const char *end, mw_jnode **out) {
    uint32_t loops = p->loops, fors = p->fors;
    p->loops = p->fors = 0;
    MW_JTRY(whole_body(p, end, out));
    p->loops = loops;
    p->fors = fors;
    return MW_OK;
}

static mw_status parse_macro(mw_jparser *p, mw_jnode *n) {
    n->kind = MW_JN_MACRO;
    MW_JTRY(mw_jparse_name_target(p, &n->a));
    MW_JTRY(parameters(p, n));
    return function_body(p, "endmacro", &n->c);
}

static mw_status parse_call(mw_jparser *p, mw_jnode *n) {
    n->kind = MW_JN_CALLBLOCK;
    if (mw_jpeek_is(p, MW_JT_LPAREN)) MW_JTRY(parameters(p, n));
    MW_JTRY(mw_jparse_expr(p, true, &n->a));
    if (n->a->kind != MW_JN_CALL) return MW_JNODE_FAIL(p, MW_ERR_FORMAT, n, "'call' of what is not a call");
    for (uint32_t i = 0; i < n->a->nw; i++) {
        if (mw_jstr_is(n->a->kw[i], "caller")) return MW_JNODE_FAIL(p, MW_ERR_FORMAT, n, "'caller' is given twice");
    }
    return function_body(p, "endcall", &n->c);
}

static mw_status parse_with(mw_jparser *p, mw_jnode *n) {
    mw_jnodes targets = {0}, values = {0};
    n->kind = MW_JN_WITH;
    while (!mw_jpeek_is(p, MW_JT_BLOCK_END)) {
        mw_jnode *x;
        if (targets.n) MW_JTRY(mw_jexpect(p, MW_JT_COMMA));
        MW_JTRY(mw_jparse_target(p, false, &x));
        MW_JTRY(mw_jnodes_add(p, &targets, x));
        MW_JTRY(mw_jexpect(p, MW_JT_ASSIGN));
        MW_JTRY(mw_jparse_expr(p, true, &x));
        MW_JTRY(mw_jnodes_add(p, &values, x));
    }
    n->v = targets.v;
    n->nv = targets.n;
    n->w = values.v;
    n->nw = values.n;
    return whole_body(p, "endwith", &n->c);
}

static mw_status leave_loop(mw_jparser *p, mw_jnode *n, bool breaks) {
    n->kind = breaks ? MW_JN_BREAK : MW_JN_CONTINUE;
    if (p->loops) return MW_OK;
    return MW_JNODE_FAIL(p, MW_ERR_FORMAT, n, "'%s' outside of a 'for'", breaks ? "break" : "continue");
}

static mw_status unknown_tag(mw_jparser *p, const char *const *ends) {
    static const char *const known[] = {"autoescape", "block",   "do",    "extends", "from",
                                        "import",     "include", "print", "trans",   NULL};
    const mw_jtoken *t = mw_jpeek(p);
    mw_jval name = mw_jtoken_text(p, t);
    for (int i = 0; known[i]; i++) {
        if (mw_jpeek_name(p, known[i])) return MW_JTOKEN_FAIL(p, MW_ERR_UNSUPPORTED, "'%s' is not supported", known[i]);
    }
    return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "unknown tag '%.*s'%s%s", name.n < 40 ? (int)name.n : 40, name.u.s,
                          ends ? ", looking for " : "", ends ? ends[0] : "");
}

/* One statement; the current token is its name. */
static mw_status statement(mw_jparser *p, const char *const *ends, mw_jnode **out) {
    mw_jnode *n;
    MW_JTRY(mw_jnode_new(p, MW_JN_BODY, &n));
    *out = n;
    if (mw_jskip_name(p, "if")) return parse_if(p, n);
    if (mw_jskip_name(p, "for")) return parse_for(p, n);
    if (mw_jskip_name(p, "set")) return parse_set(p, n);
    if (mw_jskip_name(p, "macro")) return parse_macro(p, n);
    if (mw_jskip_name(p, "call")) return parse_call(p, n);
    if (mw_jskip_name(p, "with")) return parse_with(p, n);
    if (mw_jskip_name(p, "break")) return leave_loop(p, n, true);
    if (mw_jskip_name(p, "continue")) return leave_loop(p, n, false);
    if (mw_jskip_name(p, "filter")) {
        n->kind = MW_JN_FILTERED;
        MW_JTRY(mw_jparse_filters(p, true, &n->b));
        return whole_body(p, "endfilter", &n->c);
    }
    if (mw_jskip_name(p, "generation")) {
        n->kind = MW_JN_GENERATE;
        return function_body(p, "endgeneration", &n->c);
    }
    return unknown_tag(p, ends);
}

/* A {% tag %}; *end: it is one of `ends`, whose name is then the current token. */
static mw_status block(mw_jparser *p, const char *const *ends, mw_jnodes *list, bool *end) {
    char buf[48];
    mw_jnode *n;
    mw_jadvance(p);
    for (int i = 0; ends && ends[i] && !*end; i++) *end = mw_jpeek_name(p, ends[i]);
    if (*end) return MW_OK;
    if (!mw_jpeek_is(p, MW_JT_NAME)) {
        return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "expected a tag, found %s", mw_jdescribe(p, buf));
    }
    if (++p->stmts > MW_JDEPTH_STMT) {
        return MW_JTOKEN_FAIL(p, MW_ERR_LIMIT, "more than %d blocks inside each other", MW_JDEPTH_STMT);
    }
    MW_JTRY(statement(p, ends, &n));
    p->stmts--;
    MW_JTRY(mw_jnodes_add(p, list, n));
    return mw_jexpect(p, MW_JT_BLOCK_END);
}

static mw_status body(mw_jparser *p, const char *const *ends, mw_jnode **out) {
    mw_jnodes list = {0};
    mw_jnode *n, *whole;
    bool end = false;
    MW_JTRY(mw_jnode_new(p, MW_JN_BODY, &whole));
    while (!end && !mw_jpeek_is(p, MW_JT_EOF)) {
        if (mw_jpeek_is(p, MW_JT_DATA)) {
            MW_JTRY(mw_jnode_new(p, MW_JN_TEXT, &n));
            n->val = mw_jtoken_text(p, mw_jpeek(p));
            mw_jadvance(p);
            MW_JTRY(mw_jnodes_add(p, &list, n));
        } else if (mw_jpeek_is(p, MW_JT_VAR_BEGIN)) {
            MW_JTRY(mw_jnode_new(p, MW_JN_PRINT, &n));
            mw_jadvance(p);
            MW_JTRY(mw_jparse_tuple(p, true, &n->a));
            MW_JTRY(mw_jexpect(p, MW_JT_VAR_END));
            MW_JTRY(mw_jnodes_add(p, &list, n));
        } else {
            MW_JTRY(block(p, ends, &list, &end));
        }
    }
    if (ends && !end) {
        return MW_JTOKEN_FAIL(p, MW_ERR_FORMAT, "the template ends inside a block, '%s' is missing", ends[0]);
    }
    whole->v = list.v;
    whole->nv = list.n;
    *out = whole;
    return MW_OK;
}

mw_status mw_jparse(mw_jparser *p, mw_jnode **root) {
    return body(p, NULL, root);
}
