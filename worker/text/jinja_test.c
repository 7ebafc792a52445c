/* Tests: value is name, value is name(argument). */
#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_ops.h"
#include "worker/text/jinja_str.h"
#include "worker/text/jinja_text.h"

static mw_status remainder_is(mw_jrun *r, mw_jval v, mw_jval by, int64_t rest, bool *out) {
    mw_jval m;
    MW_JTRY(mw_jop_arith(r, MW_JMOD, v, by, &m));
    return mw_jequal(r, m, MW_JINT(rest), out);
}

static mw_status t_odd(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    (void)a;
    return remainder_is(r, v, MW_JINT(2), 1, out);
}

static mw_status t_even(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    (void)a;
    return remainder_is(r, v, MW_JINT(2), 0, out);
}

static mw_status t_divisibleby(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return remainder_is(r, v, a, 0, out);
}

/* Tests that look at the type alone. */
#define TYPE_TEST(name, expr)                                                                                          \
    static mw_status name(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {                                               \
        (void)r;                                                                                                       \
        (void)a;                                                                                                       \
        *out = (expr);                                                                                                 \
        return MW_OK;                                                                                                  \
    }
TYPE_TEST(t_defined, v.type != MW_J_UNDEF)
TYPE_TEST(t_undefined, v.type == MW_J_UNDEF)
TYPE_TEST(t_none, v.type == MW_J_NONE)
TYPE_TEST(t_boolean, v.type == MW_J_BOOL)
TYPE_TEST(t_true, v.type == MW_J_BOOL && v.u.b)
TYPE_TEST(t_false, v.type == MW_J_BOOL && !v.u.b)
TYPE_TEST(t_integer, v.type == MW_J_INT)
TYPE_TEST(t_float, v.type == MW_J_FLOAT)
TYPE_TEST(t_number, mw_jis_num(v))
TYPE_TEST(t_string, mw_jis_str(v))
TYPE_TEST(t_mapping, v.type == MW_J_DICT)
TYPE_TEST(t_iterable, mw_jiterable(v))
TYPE_TEST(t_sequence,
          mw_jis_str(v) || mw_jis_seq(v) || v.type == MW_J_DICT || v.type == MW_J_RANGE || v.type == MW_J_UNDEF)
TYPE_TEST(t_callable, v.type == MW_J_MACRO || v.type == MW_J_FUNC || v.type == MW_J_METHOD || v.type == MW_J_LOOP ||
                          v.type == MW_J_UNDEF)
TYPE_TEST(t_escaped, v.markup)
/* Identity is only asked of None, True and False, which the parser sees to. */
TYPE_TEST(t_sameas, v.type == a.type && (a.type == MW_J_NONE || v.u.b == a.u.b))

static mw_status one_case(mw_jrun *r, mw_jval v, mw_jmethod m, bool *out) {
    static const mw_jval none[3];
    mw_jval is;
    MW_JTRY(mw_jtext_value(r, v, &v));
    MW_JTRY(mw_jstr_method(r, m, v, none, &is));
    *out = is.u.b;
    return MW_OK;
}

static mw_status t_lower(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    (void)a;
    return one_case(r, v, MW_JM_ISLOWER, out);
}

static mw_status t_upper(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    (void)a;
    return one_case(r, v, MW_JM_ISUPPER, out);
}

static mw_status t_in(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return mw_jop_contains(r, a, v, out);
}

static mw_status t_eq(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return mw_jequal(r, v, a, out);
}

static mw_status t_ne(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    MW_JTRY(mw_jequal(r, v, a, out));
    *out = !*out;
    return MW_OK;
}

static mw_status t_lt(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return mw_jcompare(r, v, a, MW_JLT, out);
}

static mw_status t_le(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return mw_jcompare(r, v, a, MW_JLE, out);
}

static mw_status t_gt(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return mw_jcompare(r, v, a, MW_JGT, out);
}

static mw_status t_ge(mw_jrun *r, mw_jval v, mw_jval a, bool *out) {
    return mw_jcompare(r, v, a, MW_JGE, out);
}

static const mw_jtest table[] = {
    {"!=", "", t_ne},
    {"<", "", t_lt},
    {"<=", "", t_le},
    {"==", "", t_eq},
    {">", "", t_gt},
    {">=", "", t_ge},
    {"boolean", NULL, t_boolean},
    {"callable", NULL, t_callable},
    {"defined", NULL, t_defined},
    {"divisibleby", "num", t_divisibleby},
    {"eq", "", t_eq},
    {"equalto", "", t_eq},
    {"escaped", NULL, t_escaped},
    {"even", NULL, t_even},
    {"false", NULL, t_false},
    {"float", NULL, t_float},
    {"ge", "", t_ge},
    {"greaterthan", "", t_gt},
    {"gt", "", t_gt},
    {"in", "seq", t_in},
    {"integer", NULL, t_integer},
    {"iterable", NULL, t_iterable},
    {"le", "", t_le},
    {"lessthan", "", t_lt},
    {"lower", NULL, t_lower},
    {"lt", "", t_lt},
    {"mapping", NULL, t_mapping},
    {"ne", "", t_ne},
    {"none", NULL, t_none},
    {"number", NULL, t_number},
    {"odd", NULL, t_odd},
    {"sameas", "other", t_sameas},
    {"sequence", NULL, t_sequence},
    {"string", NULL, t_string},
    {"true", NULL, t_true},
    {"undefined", NULL, t_undefined},
    {"upper", NULL, t_upper},
};

const mw_jtest *mw_jtest_find(mw_jval name) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (mw_jstr_is(name, table[i].name)) return &table[i];
    }
    return NULL;
}

mw_status mw_jtest_apply(mw_jrun *r, const mw_jtest *t, mw_jval v, const mw_jargs *args, bool *out) {
    mw_jval a = MW_JMISSING;
    uint32_t n = t->param != NULL;
    MW_JTRY(mw_jbind(r, t->name, &t->param, n, n, t->param && *t->param, args, &a));
    return t->fn(r, v, a, out);
}
