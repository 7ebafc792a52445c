/* worker/text/jinja_run.h - the state of one render, its limits, and its error idiom. */
#ifndef MW_TEXT_JINJA_RUN_H
#define MW_TEXT_JINJA_RUN_H
#include "worker/text/jinja_arena.h"
#include "worker/text/jinja_value.h"
MW_BEGIN_DECLS

#define MW_JOUT_MAX    ((size_t)4 << 20)   /* bytes of rendered text */
#define MW_JTEXT_MAX   ((size_t)16 << 20)  /* bytes of any string inside a render */
#define MW_JMEMORY_MAX ((size_t)256 << 20) /* bytes of a render's or a template's arena */
#define MW_JSTEPS_MAX  10000000u
#define MW_JDEPTH_MAX  800    /* nested evaluations: bounds the C stack */
#define MW_JRANGE_MAX  100000 /* elements of range(), the sandbox's own bound */

/* Variables of one call of a macro, or of the template itself; `up` is where it was defined. */
typedef struct mw_jenv {
    struct mw_jenv *up;
    mw_jval slot[];
} mw_jenv;

/* Text under construction, in the arena. */
typedef struct mw_jbuf {
    char *p;
    size_t n, cap;
} mw_jbuf;

typedef enum { MW_JFLOW_NEXT, MW_JFLOW_BREAK, MW_JFLOW_CONTINUE } mw_jflow;

struct mw_jrun {
    mw_jarena *mem;
    mw_jenv *env;
    const mw_jval *global; /* values of the template's global names */
    mw_jbuf *out;          /* where output statements write */
    mw_jval block;         /* text of the block that a filter or set block is about to filter */
    uint32_t steps, depth;
    uint32_t line; /* of the template, for messages */
    mw_jflow flow;
    bool folding; /* evaluating what Jinja would evaluate at compile time: see mw_jeval */
    bool raised;  /* the failure is the template's own raise_exception */
    int64_t now_us;
};

/* The code stands at the end again, so that a checker that sees one file only knows that this is not MW_OK. */
#define MW_JFAIL(r, code, fmt, ...)                                                                                    \
    ((void)MW_FAIL((code), "chat template, line %u: " fmt, (r)->line, ##__VA_ARGS__), (code))
/* A value of the wrong type or out of range: what Python would raise. */
#define MW_JERROR(r, ...) MW_JFAIL((r), MW_ERR_USAGE, __VA_ARGS__)

/* Everything is in arenas, so nothing is released on the way out of a failing function. */
#define MW_JTRY(expr)                                                                                                  \
    do {                                                                                                               \
        mw_status mw_jtry_st = (expr);                                                                                 \
        if (mw_jtry_st != MW_OK) return mw_jtry_st;                                                                    \
    } while (0)

/* Charge n steps of work. */
static inline mw_status mw_jstep(mw_jrun *r, size_t n) {
    if (n <= MW_JSTEPS_MAX - r->steps) {
        r->steps += (uint32_t)n;
        return MW_OK;
    }
    return MW_JFAIL(r, MW_ERR_LIMIT, "more than %u evaluation steps", MW_JSTEPS_MAX);
}
/* Work on n bytes of text. */
static inline mw_status mw_jstep_bytes(mw_jrun *r, size_t n) {
    return mw_jstep(r, n / 64 + 1);
}
/* One level of nesting more; the caller takes it back with r->depth--, also on failure. */
static inline mw_status mw_jdeeper(mw_jrun *r) {
    if (r->depth++ < MW_JDEPTH_MAX) return MW_OK;
    return MW_JFAIL(r, MW_ERR_LIMIT, "more than %d nested evaluations", MW_JDEPTH_MAX);
}

MW_MUST_CHECK mw_status mw_jbuf_add(mw_jrun *r, mw_jbuf *b, const char *s, size_t n);
MW_MUST_CHECK mw_status mw_jbuf_adds(mw_jrun *r, mw_jbuf *b, const char *s);
/* The buffer's text as a value; the buffer must not be written to afterwards. */
static inline mw_jval mw_jbuf_value(const mw_jbuf *b) {
    return mw_jstr_wrap(b->p, b->n);
}

MW_END_DECLS
#endif
