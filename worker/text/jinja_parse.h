/* worker/text/jinja_parse.h - tokens to AST, and the two passes over it that finish a template. */
#ifndef MW_TEXT_JINJA_PARSE_H
#define MW_TEXT_JINJA_PARSE_H
#include "worker/text/jinja_ast.h"
#include "worker/text/jinja_lex.h"
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* The template under construction. */
typedef struct mw_jparser {
    mw_jarena *mem;
    mw_jsource src;
    uint32_t at;                 /* token */
    uint32_t depth;              /* nesting of the parser's own recursion */
    uint32_t stmts, fors, loops; /* open statements; open for blocks of this function; those that break may leave */
    mw_jval *name;               /* interned names, by number */
    uint32_t n_name, cap_name;
    uint32_t *name_slot, n_name_slot; /* hash table: number + 1, or 0 */
} mw_jparser;

MW_MUST_CHECK mw_status mw_jparse(mw_jparser *p, mw_jnode **root);
/* Refuses what cannot be rendered as Jinja would: jinja_check.c. */
MW_MUST_CHECK mw_status mw_jcheck(mw_jparser *p, const mw_jnode *root);
/* Gives every name its variable: jinja_scope.c. root->u.scope and root->slots are the template's own;
 * global[i] is the name of global variable i. */
MW_MUST_CHECK mw_status mw_jscope_resolve(mw_jparser *p, mw_jnode *root, const mw_jval **global, uint32_t *n_global);

#define MW_JPARSE_FAIL(p, code, line, at, fmt, ...) MW_JLEX_FAIL(&(p)->src, code, line, at, fmt, ##__VA_ARGS__)
#define MW_JNODE_FAIL(p, code, node, fmt, ...)      MW_JPARSE_FAIL(p, code, (node)->line, (node)->at, fmt, ##__VA_ARGS__)
/* At the current token. */
#define MW_JTOKEN_FAIL(p, code, fmt, ...)                                                                              \
    MW_JPARSE_FAIL(p, code, mw_jpeek(p)->line, mw_jpeek(p)->at, fmt, ##__VA_ARGS__)

static inline const mw_jtoken *mw_jpeek(const mw_jparser *p) {
    return &p->src.tok[p->at];
}
static inline bool mw_jpeek_is(const mw_jparser *p, mw_jtok type) {
    return mw_jpeek(p)->type == type;
}
static inline void mw_jadvance(mw_jparser *p) { /* EOF stays */
    p->at += mw_jpeek(p)->type != MW_JT_EOF;
}
bool mw_jpeek_name(const mw_jparser *p, const char *name);
bool mw_jskip(mw_jparser *p, mw_jtok type);
bool mw_jskip_name(mw_jparser *p, const char *name);
MW_MUST_CHECK mw_status mw_jexpect(mw_jparser *p, mw_jtok type);
MW_MUST_CHECK mw_status mw_jexpect_name(mw_jparser *p, const char *name);
/* A readable form of the current token, for messages. */
const char *mw_jdescribe(const mw_jparser *p, char buf[48]);

MW_MUST_CHECK mw_status mw_jnode_new(mw_jparser *p, mw_jkind kind, mw_jnode **out);
/* An array of n absent nodes. */
MW_MUST_CHECK mw_status mw_jnode_room(mw_jparser *p, uint32_t n, mw_jnode ***out);
/* The number of a name token's text. */
MW_MUST_CHECK mw_status mw_jintern(mw_jparser *p, mw_jval text, uint32_t *out);
static inline mw_jval mw_jtoken_text(const mw_jparser *p, const mw_jtoken *t) {
    return mw_jstr_wrap(p->src.text + t->at, t->n);
}

/* A list of nodes that grows in the arena. */
typedef struct mw_jnodes {
    mw_jnode **v;
    uint32_t n, cap;
} mw_jnodes;
MW_MUST_CHECK mw_status mw_jnodes_add(mw_jparser *p, mw_jnodes *list, mw_jnode *n);

/* jinja_expr.c. cond: "a if b" is allowed. */
MW_MUST_CHECK mw_status mw_jparse_expr(mw_jparser *p, bool cond, mw_jnode **out);
/* An expression, or several with commas between them. */
MW_MUST_CHECK mw_status mw_jparse_tuple(mw_jparser *p, bool cond, mw_jnode **out);
/* Filters without a value in front, as in filter and set blocks; *out NULL if there are none. */
MW_MUST_CHECK mw_status mw_jparse_filters(mw_jparser *p, bool inline_first, mw_jnode **out);
/* What is assigned to: a name, a tuple of names; dotted: also namespace.attribute. */
MW_MUST_CHECK mw_status mw_jparse_target(mw_jparser *p, bool dotted, mw_jnode **out);
MW_MUST_CHECK mw_status mw_jparse_name_target(mw_jparser *p, mw_jnode **out);

MW_END_DECLS
#endif
