/* worker/text/jinja_value.h - the values a template computes with, shaped after Python's.
 *
 * A value is 16 bytes and is copied freely. What it points to lives in the arena of the render (or of the template, for
 * literals) and never changes once made, except a namespace, an iterator and a loop object, which have state in Python
 * too. Strings are valid UTF-8; indexes and lengths that a template sees are counted in code points.
 */
#ifndef MW_TEXT_JINJA_VALUE_H
#define MW_TEXT_JINJA_VALUE_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef enum mw_jtype {
    MW_J_MISSING, /* no value: an unset variable slot, an argument that was not given; templates never hold it */
    MW_J_UNDEF,   /* Jinja's Undefined: prints as nothing, false, most other uses are errors */
    MW_J_NONE,
    MW_J_BOOL,
    MW_J_INT,
    MW_J_FLOAT,
    MW_J_STR,
    MW_J_LIST,
    MW_J_TUPLE,
    MW_J_DICT,
    MW_J_RANGE,
    MW_J_VIEW, /* dict.keys(), .values(), .items(): sub is a mw_jview */
    MW_J_NAMESPACE,
    MW_J_MACRO,
    MW_J_LOOP,   /* the special variable of a for block */
    MW_J_ITER,   /* a Python iterator or generator: can be run through once */
    MW_J_METHOD, /* bound method: sub is a mw_jmethod */
    MW_J_FUNC,   /* global function: sub is a mw_jfunc */
} mw_jtype;

typedef enum { MW_JV_KEYS, MW_JV_VALUES, MW_JV_ITEMS } mw_jview;
typedef enum { MW_JF_RANGE, MW_JF_DICT, MW_JF_NAMESPACE, MW_JF_RAISE, MW_JF_STRFTIME } mw_jfunc;

typedef struct mw_jval mw_jval;
typedef struct mw_jdict mw_jdict;
typedef struct mw_jiter mw_jiter;
typedef struct mw_jloop mw_jloop;
typedef struct mw_jmacro mw_jmacro;
typedef struct mw_jundef mw_jundef;
typedef struct mw_jrange mw_jrange;
typedef struct mw_jrun mw_jrun; /* a render in progress: jinja_run.h */

struct mw_jval {
    uint8_t type;
    uint8_t sub;    /* MW_J_STR: 1 when all bytes are ASCII, so that code points are bytes; else see mw_jtype */
    uint8_t markup; /* MW_J_STR: 1 for the text that `safe` and `escape` make, markupsafe's Markup */
    uint32_t n;     /* MW_J_STR: bytes; MW_J_LIST, MW_J_TUPLE: elements */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s;    /* not zero-terminated */
        const mw_jval *v; /* elements of a list or tuple; the receiver of a method */
        mw_jdict *dict;   /* dict, view, namespace */
        mw_jrange *range;
        mw_jiter *iter;
        mw_jloop *loop;
        mw_jmacro *macro;
        const mw_jundef *undef;
    } u;
};

struct mw_jrange {
    int64_t start, stop, step, len;
};

/* Why a value is undefined, for the text of the error that using it gives. */
struct mw_jundef {
    const char *hint;  /* whole message, or NULL: built from the next two */
    uint8_t owner;     /* type the name was looked up in; MW_J_MISSING: a variable */
    mw_jval name;      /* the name or index */
    uint32_t hint_len; /* bytes of hint */
};

/* Insertion-ordered; keys unique by Python's equality (1 == 1.0 == True). */
struct mw_jdict {
    uint32_t n, cap;
    mw_jval *key, *val;
    uint32_t *slot; /* open addressing, entry + 1 or 0; NULL while small */
    uint32_t n_slot;
};

#define MW_JNONE       ((mw_jval){.type = MW_J_NONE})
#define MW_JMISSING    ((mw_jval){.type = MW_J_MISSING})
#define MW_JBOOL(x)    ((mw_jval){.type = MW_J_BOOL, .u.b = (x)})
#define MW_JINT(x)     ((mw_jval){.type = MW_J_INT, .u.i = (x)})
#define MW_JFLOAT(x)   ((mw_jval){.type = MW_J_FLOAT, .u.f = (x)})
#define MW_JLITERAL(x) ((mw_jval){.type = MW_J_STR, .sub = 1, .n = sizeof(x) - 1, .u.s = (x)})

static inline bool mw_jis_str(mw_jval v) {
    return v.type == MW_J_STR;
}
/* bool counts as int, as in Python. */
static inline bool mw_jis_int(mw_jval v) {
    return v.type == MW_J_INT || v.type == MW_J_BOOL;
}
static inline bool mw_jis_num(mw_jval v) {
    return v.type >= MW_J_BOOL && v.type <= MW_J_FLOAT;
}
static inline bool mw_jis_seq(mw_jval v) {
    return v.type == MW_J_LIST || v.type == MW_J_TUPLE;
}
static inline int64_t mw_jto_int(mw_jval v) { /* of an int or bool */
    return v.type == MW_J_BOOL ? v.u.b : v.u.i;
}
static inline bool mw_jstr_is(mw_jval v, const char *text) {
    return v.type == MW_J_STR && __builtin_strlen(text) == v.n && __builtin_memcmp(v.u.s, text, v.n) == 0;
}

/* Python's name of a value's type, for messages. */
const char *mw_jtype_name(mw_jval v);

/* A string value over bytes that live long enough; finds out whether they are ASCII. */
mw_jval mw_jstr_wrap(const char *s, size_t n);
/* Copied into the arena. MW_ERR_LIMIT beyond MW_JTEXT_MAX bytes. */
MW_MUST_CHECK mw_status mw_jstr_copy(mw_jrun *r, const char *s, size_t n, mw_jval *out);
/* Room for n bytes that the caller fills before the value is used; *bytes is the writable view of out->u.s. */
MW_MUST_CHECK mw_status mw_jstr_room(mw_jrun *r, size_t n, char **bytes, mw_jval *out);
MW_MUST_CHECK mw_status mw_jstr_concat(mw_jrun *r, mw_jval a, mw_jval b, mw_jval *out);
/* A string as Markup: with & < > ' " as entities, unless it is Markup already. */
MW_MUST_CHECK mw_status mw_jstr_escape(mw_jrun *r, mw_jval s, mw_jval *out);

/* Array of n zeroed values for a list or tuple under construction. */
MW_MUST_CHECK mw_status mw_jvals(mw_jrun *r, size_t n, mw_jval **out);
static inline mw_jval mw_jlist(const mw_jval *v, size_t n) {
    return (mw_jval){.type = MW_J_LIST, .n = (uint32_t)n, .u.v = v};
}
static inline mw_jval mw_jtuple(const mw_jval *v, size_t n) {
    return (mw_jval){.type = MW_J_TUPLE, .n = (uint32_t)n, .u.v = v};
}
MW_MUST_CHECK mw_status mw_jpair(mw_jrun *r, mw_jval a, mw_jval b, mw_jval *out); /* 2-tuple */

/* Undefined because `owner` has no such name (MW_JMISSING: no such variable), or with a message of its own. */
MW_MUST_CHECK mw_status mw_jundefined(mw_jrun *r, mw_jval owner, mw_jval name, mw_jval *out);
mw_jval mw_jundefined_hint(const mw_jundef *u);
/* Record the error that using an undefined value gives. */
void mw_jundef_report(mw_jrun *r, mw_jval v);
#define MW_JUNDEF(r, v) (mw_jundef_report((r), (v)), MW_ERR_USAGE)

MW_MUST_CHECK mw_status mw_jdict_new(mw_jrun *r, size_t room, mw_jdict **out);
MW_MUST_CHECK mw_status mw_jdict_set(mw_jrun *r, mw_jdict *d, mw_jval key, mw_jval val);
/* out->type is MW_J_MISSING when there is no such key. A list or dict as key is an error, as in Python. */
MW_MUST_CHECK mw_status mw_jdict_get(mw_jrun *r, const mw_jdict *d, mw_jval key, mw_jval *out);
static inline mw_jval mw_jdict_val(mw_jdict *d) {
    return (mw_jval){.type = MW_J_DICT, .u.dict = d};
}

MW_MUST_CHECK mw_status mw_jtruth(mw_jrun *r, mw_jval v, bool *out);
MW_MUST_CHECK mw_status mw_jequal(mw_jrun *r, mw_jval a, mw_jval b, bool *out);
typedef enum { MW_JLT, MW_JLE, MW_JGT, MW_JGE } mw_jorder;
/* Python's ordering; values that have none are an error. */
MW_MUST_CHECK mw_status mw_jcompare(mw_jrun *r, mw_jval a, mw_jval b, mw_jorder op, bool *out);
/* len(): *out is -1 when the type has no length. */
MW_MUST_CHECK mw_status mw_jlen(mw_jrun *r, mw_jval v, int64_t *out);

MW_END_DECLS
#endif
