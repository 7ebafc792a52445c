/* worker/text/jinja_ast.h - the parsed template. Immutable once opened; everything lives in the template's arena. */
#ifndef MW_TEXT_JINJA_AST_H
#define MW_TEXT_JINJA_AST_H
#include "worker/text/jinja_value.h"
MW_BEGIN_DECLS

#define MW_JDEPTH_EXPR 190 /* nesting of expressions: about what Python compiles of what Jinja makes of them */
#define MW_JDEPTH_STMT 98  /* nesting of statements, and of for blocks: Python's own limits */
#define MW_JDEPTH_FOR  20

/* Which fields of mw_jnode a kind uses stands behind it; v and w are lists of nv and nw nodes. */
typedef enum mw_jkind {
    /* expressions */
    MW_JN_CONST, /* val */
    MW_JN_NAME,  /* name, its text in val; hops, slot: the variable; op 1: a block or call sets it, so it has a value */
    MW_JN_TUPLE, /* v */
    MW_JN_LIST,  /* v */
    MW_JN_DICT,  /* v: keys, w: values */
    MW_JN_ARITH, /* a op b; op: mw_jarith */
    MW_JN_AND,   /* a, b */
    MW_JN_OR,    /* a, b */
    MW_JN_NOT,   /* a */
    MW_JN_SIGN,  /* op: 1 is minus; a */
    MW_JN_CONCAT,  /* v */
    MW_JN_COMPARE, /* v[0] cmp[0] v[1] cmp[1] ... */
    MW_JN_COND,    /* b if a else c; c may be NULL */
    MW_JN_FILTER,  /* a | u.filter(v, kw = w), its name in val; a NULL: the text of the block */
    MW_JN_TEST,    /* a is u.test(v, kw = w), its name in val */
    MW_JN_CALL,    /* a(v, kw = w) */
    MW_JN_ATTR,    /* a.val; u.attr */
    MW_JN_ITEM,    /* a[b] */
    MW_JN_SLICE,   /* a[v0:v1:v2], absent ones NULL */
    MW_JN_NSREF,   /* target only: name.val; hops, slot of the name */
    /* statements */
    MW_JN_BODY,      /* v */
    MW_JN_TEXT,      /* val */
    MW_JN_PRINT,     /* a */
    MW_JN_IF,        /* v: test, body, test, body, ..., and an else body when nv is odd */
    MW_JN_FOR,       /* a target, b iterable, c filter or NULL; v: body, else or NULL; slot of `loop`, op: it is used */
    MW_JN_SET,       /* a target, b */
    MW_JN_SETBLOCK,  /* a target, b filters or NULL, c body */
    MW_JN_MACRO,     /* a target (its name), v parameters, w defaults of the last nw ones, c body; slots */
    MW_JN_FILTERED,  /* b filters, c body */
    MW_JN_WITH,      /* v targets, w values, c body */
    MW_JN_CALLBLOCK, /* a the call, v parameters, w defaults, c body: all as of a macro; slots */
    MW_JN_GENERATE,  /* c body; slots */
    MW_JN_BREAK,
    MW_JN_CONTINUE,
} mw_jkind;

/* Comparison operators; the first four are mw_jorder. */
typedef enum { MW_JC_LT, MW_JC_LE, MW_JC_GT, MW_JC_GE, MW_JC_EQ, MW_JC_NE, MW_JC_IN, MW_JC_NOTIN } mw_jcmp;

/* What a scope does with one of its variables when it is entered. */
typedef enum {
    MW_JLOAD_PARAM,  /* nothing: set from outside */
    MW_JLOAD_GLOBAL, /* take the template's global variable number `from` */
    MW_JLOAD_OUTER,  /* copy the variable of an outer scope: hops, from */
    MW_JLOAD_UNSET,  /* no value yet */
} mw_jload_kind;

typedef struct mw_jload {
    uint8_t kind;
    uint16_t hops;
    uint32_t slot, from;
} mw_jload;

typedef struct mw_jscope {
    const mw_jload *load;
    uint32_t n;
} mw_jscope;

typedef struct mw_jnode mw_jnode;
struct mw_jnode {
    uint8_t kind, op;
    bool pure;      /* no variable and no call inside: Jinja can compute it at compile time */
    bool fold;      /* holds a slice of something pure, see mw_jeval */
    uint16_t depth; /* of the expression tree below */
    uint16_t hops;  /* how many macros further out the variable lives */
    uint32_t line, at;
    uint32_t name, slot, slots; /* slots: variables of a macro's, call's or generation block's own frame */
    uint32_t special[3];        /* of those: the slots of caller, kwargs and varargs, plus 1; 0: not used */
    uint32_t nv, nw;
    mw_jnode *a, *b, *c, **v, **w;
    mw_jval val;
    const mw_jval *kw; /* names of the nw keyword arguments */
    union {
        const struct mw_jfilter *filter;
        const struct mw_jtest *test;
        const struct mw_jattr *attr;
        const uint8_t *cmp;
        mw_jscope *scope; /* of a statement; MW_JN_FOR has three: body, else, filter */
    } u;
};

MW_END_DECLS
#endif
