/* Filters on text and numbers, and the ones on any value. */
#include <math.h>

#include "worker/text/jinja_filter.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_str.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

static mw_status f_abs(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    if (!mw_jis_num(in)) return MW_JERROR(r, "abs of a %s", mw_jtype_name(in));
    if (in.type == MW_J_FLOAT) {
        *out = MW_JFLOAT(fabs(in.u.f));
        return MW_OK;
    }
    return mw_jnum_arith(r, mw_jto_int(in) < 0 ? MW_JSUB : MW_JADD, MW_JINT(0), in, out);
}

static mw_status cased(mw_jrun *r, mw_jval in, mw_jcase how, mw_jval *out) {
    MW_JTRY(mw_jtext_value(r, in, &in));
    MW_JTRY(mw_juni_case(r, in, how, out));
    out->markup = in.markup;
    return MW_OK;
}

static mw_status f_capitalize(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    return cased(r, in, MW_JCASE_CAPITALIZE, out);
}

static mw_status f_lower(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    return cased(r, in, MW_JCASE_LOWER, out);
}

static mw_status f_upper(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    return cased(r, in, MW_JCASE_UPPER, out);
}

static bool word_break(uint32_t cp) {
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || mw_juni_space(cp);
}

/* Jinja's own title case: the first letter of every run between breaks upper, the rest lower, each run by itself. */
static mw_status f_title(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    mw_jbuf b = {0};
    uint32_t len;
    MW_JTRY(mw_jtext_value(r, in, &in));
    for (uint32_t i = 0; i < in.n;) {
        uint32_t from = i, cp = mw_juni_at(in.u.s + i, &len);
        bool breaks = word_break(cp);
        do {
            i += len;
        } while (i < in.n && word_break(mw_juni_at(in.u.s + i, &len)) == breaks);
        if (breaks) {
            MW_JTRY(mw_jbuf_add(r, &b, in.u.s + from, i - from));
            continue;
        }
        mw_juni_at(in.u.s + from, &len);
        mw_jval first, rest;
        MW_JTRY(mw_juni_case(r, mw_jstr_wrap(in.u.s + from, len), MW_JCASE_UPPER, &first));
        MW_JTRY(mw_juni_case(r, mw_jstr_wrap(in.u.s + from + len, i - from - len), MW_JCASE_LOWER, &rest));
        MW_JTRY(mw_jbuf_add(r, &b, first.u.s, first.n));
        MW_JTRY(mw_jbuf_add(r, &b, rest.u.s, rest.n));
    }
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

static mw_status f_trim(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    MW_JTRY(mw_jtext_value(r, in, &in));
    MW_JTRY(mw_jstr_strip(r, in, a[0], true, true, out));
    out->markup = in.markup;
    return MW_OK;
}

static mw_status f_safe(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    MW_JTRY(mw_jtext_value(r, in, out));
    out->markup = 1;
    return MW_OK;
}

static mw_status f_escape(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    MW_JTRY(mw_jtext_value(r, in, &in));
    return mw_jstr_escape(r, in, out);
}

static mw_status f_string(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    (void)a;
    return mw_jtext_value(r, in, out);
}

static mw_status f_replace(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval old, with;
    int64_t count = -1;
    MW_JTRY(mw_jtext_value(r, in, &in));
    MW_JTRY(mw_jtext_value(r, a[0], &old));
    MW_JTRY(mw_jtext_value(r, a[1], &with));
    if (a[2].type != MW_J_MISSING && a[2].type != MW_J_NONE) MW_JTRY(mw_jarg_int(r, "the count", a[2], &count));
    MW_JTRY(mw_jstr_replace(r, in, old, with, count, out));
    out->markup = 0;
    return MW_OK;
}

static mw_status f_default(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    bool boolean, truth = true;
    MW_JTRY(mw_jtruth(r, a[1], &boolean));
    if (boolean) MW_JTRY(mw_jtruth(r, in, &truth));
    bool use = in.type == MW_J_UNDEF || !truth;
    *out = !use ? in : a[0].type == MW_J_MISSING ? MW_JLITERAL("") : a[0];
    return MW_OK;
}

static mw_status f_format(mw_jrun *r, mw_jval in, const mw_jargs *args, mw_jval *out) {
    if (args->n_pos && args->n_kw) return MW_JERROR(r, "format with both kinds of arguments");
    if (in.markup) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "'format' of safe text is not supported");
    MW_JTRY(mw_jtext_value(r, in, &in));
    if (!args->n_kw) return mw_jtext_percent(r, in, mw_jtuple(args->pos, args->n_pos), out);
    mw_jdict *d;
    MW_JTRY(mw_jdict_new(r, args->n_kw, &d));
    for (uint32_t k = 0; k < args->n_kw; k++) MW_JTRY(mw_jdict_set(r, d, args->kw[k].name, args->kw[k].val));
    return mw_jtext_percent(r, in, mw_jdict_val(d), out);
}

static mw_status f_indent(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval by, lines;
    uint8_t markup = in.markup;
    bool first, blank;
    MW_JTRY(mw_jarg_str(r, "what is indented", in));
    if (mw_jis_str(a[0])) {
        by = a[0];
    } else {
        int64_t n = 4;
        char *p;
        if (a[0].type != MW_J_MISSING) MW_JTRY(mw_jarg_int(r, "the width", a[0], &n));
        if (n < 0) n = 0;
        MW_JTRY(mw_jstr_room(r, (size_t)n, &p, &by));
        __builtin_memset(p, ' ', (size_t)n);
    }
    MW_JTRY(mw_jtruth(r, a[1], &first));
    MW_JTRY(mw_jtruth(r, a[2], &blank));
    /* A newline is added before the split, so that text ending in one keeps an empty last line. */
    MW_JTRY(mw_jstr_concat(r, in, MW_JLITERAL("\n"), &in));
    MW_JTRY(mw_jstr_splitlines(r, in, false, &lines));
    mw_jbuf b = {0};
    for (uint32_t i = 0; i < lines.n; i++) {
        mw_jval line = lines.u.v[i];
        if (i) MW_JTRY(mw_jbuf_adds(r, &b, "\n"));
        if (i ? blank || line.n : first) MW_JTRY(mw_jbuf_add(r, &b, by.u.s, by.n));
        MW_JTRY(mw_jbuf_add(r, &b, line.u.s, line.n));
    }
    *out = mw_jbuf_value(&b);
    out->markup = markup;
    return MW_OK;
}

static mw_status digits_error(mw_jrun *r) {
    return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "digits outside ASCII as a number are not supported");
}

static mw_status f_int(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jval fallback = a[0].type == MW_J_MISSING ? MW_JINT(0) : a[0];
    int64_t i;
    double f;
    if (in.type == MW_J_UNDEF) return MW_JUNDEF(r, in);
    if (in.type == MW_J_FLOAT) return mw_jnum_trunc(r, in.u.f, out);
    if (mw_jis_int(in)) {
        *out = MW_JINT(mw_jto_int(in));
        return MW_OK;
    }
    *out = fallback;
    if (!mw_jis_str(in)) return MW_OK;
    MW_JTRY(mw_jstep(r, in.n / 8 + 1));
    switch (mw_jnum_read_int(in, &i)) {
    case MW_JNUM_OK: *out = MW_JINT(i); return MW_OK;
    case MW_JNUM_RANGE: return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a number beyond 64 bits is not supported");
    case MW_JNUM_DIGITS: return digits_error(r);
    case MW_JNUM_BAD: break;
    }
    return mw_jnum_read_float(in, &f) == MW_JNUM_OK ? mw_jnum_trunc(r, f, out) : MW_OK;
}

static mw_status f_float(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    double f;
    if (in.type == MW_J_UNDEF) return MW_JUNDEF(r, in);
    *out = in.type == MW_J_FLOAT ? in : a[0].type == MW_J_MISSING ? MW_JFLOAT(0) : a[0];
    if (mw_jis_int(in)) *out = MW_JFLOAT((double)mw_jto_int(in));
    if (!mw_jis_str(in)) return MW_OK;
    MW_JTRY(mw_jstep(r, in.n / 8 + 1));
    switch (mw_jnum_read_float(in, &f)) {
    case MW_JNUM_OK: *out = MW_JFLOAT(f); return MW_OK;
    case MW_JNUM_RANGE: return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a float that is not finite is not supported");
    case MW_JNUM_DIGITS: return digits_error(r);
    case MW_JNUM_BAD: break;
    }
    return MW_OK;
}

static mw_status f_round(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    int64_t digits = 0;
    mw_jval unit;
    if (!mw_jis_num(in)) return MW_JERROR(r, "round of a %s", mw_jtype_name(in));
    if (a[0].type != MW_J_MISSING) MW_JTRY(mw_jarg_int(r, "the precision", a[0], &digits));
    if (a[1].type == MW_J_MISSING || mw_jstr_is(a[1], "common")) return mw_jnum_round(r, in, digits, out);
    bool up = mw_jstr_is(a[1], "ceil");
    if (!up && !mw_jstr_is(a[1], "floor")) return MW_JERROR(r, "round by a method that is not common, ceil or floor");
    MW_JTRY(mw_jnum_arith(r, MW_JPOW, MW_JINT(10), MW_JINT(digits), &unit));
    MW_JTRY(mw_jnum_arith(r, MW_JMUL, in, unit, &in));
    if (in.type == MW_J_FLOAT) MW_JTRY(mw_jnum_trunc(r, up ? ceil(in.u.f) : floor(in.u.f), &in));
    return mw_jnum_arith(r, MW_JDIV, in, unit, out);
}

static mw_status separators(mw_jrun *r, mw_jval v, mw_jdump *how) {
    mw_jval list;
    MW_JTRY(mw_jiter_list(r, v, &list));
    if (list.n != 2) return MW_JERROR(r, "tojson with %u separators, 2 are needed", list.n);
    MW_JTRY(mw_jarg_str(r, "a separator", list.u.v[0]));
    MW_JTRY(mw_jarg_str(r, "a separator", list.u.v[1]));
    how->item = list.u.v[0];
    how->key = list.u.v[1];
    return MW_OK;
}

static mw_status f_tojson(mw_jrun *r, mw_jval in, const mw_jval *a, mw_jval *out) {
    mw_jdump how = {.item = MW_JLITERAL(", "), .key = MW_JLITERAL(": "), .indent = a[1]};
    mw_jbuf b = {0};
    MW_JTRY(mw_jtruth(r, a[0], &how.ascii));
    how.lines = a[1].type != MW_J_MISSING && a[1].type != MW_J_NONE;
    if (how.lines) {
        how.item = MW_JLITERAL(",");
        if (!mw_jis_str(a[1])) {
            int64_t n;
            char *p;
            MW_JTRY(mw_jarg_int(r, "the indent", a[1], &n));
            if (n < 0) n = 0;
            MW_JTRY(mw_jstr_room(r, (size_t)n, &p, &how.indent));
            __builtin_memset(p, ' ', (size_t)n);
        }
    }
    if (a[2].type != MW_J_MISSING && a[2].type != MW_J_NONE) MW_JTRY(separators(r, a[2], &how));
    MW_JTRY(mw_jtruth(r, a[3], &how.sort));
    MW_JTRY(mw_jtext_json(r, &how, in, &b));
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

const mw_jfilter mw_jfilters_text[] = {
    {"abs", {0}, 0, 0, f_abs, NULL, false},
    {"capitalize", {0}, 0, 0, f_capitalize, NULL, false},
    {"d", {"default_value", "boolean"}, 0, 2, f_default, NULL, false},
    {"default", {"default_value", "boolean"}, 0, 2, f_default, NULL, false},
    {"e", {0}, 0, 0, f_escape, NULL, false},
    {"escape", {0}, 0, 0, f_escape, NULL, false},
    {"float", {"default"}, 0, 1, f_float, NULL, false},
    {"format", {0}, 0, 0, NULL, f_format, false},
    {"indent", {"width", "first", "blank"}, 0, 3, f_indent, NULL, false},
    {"int", {"default"}, 0, 1, f_int, NULL, false},
    {"lower", {0}, 0, 0, f_lower, NULL, false},
    {"replace", {"old", "new", "count"}, 2, 3, f_replace, NULL, false},
    {"round", {"precision", "method"}, 0, 2, f_round, NULL, false},
    {"safe", {0}, 0, 0, f_safe, NULL, false},
    {"string", {0}, 0, 0, f_string, NULL, false},
    {"title", {0}, 0, 0, f_title, NULL, false},
    {"tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, 4, f_tojson, NULL, false},
    {"trim", {"chars"}, 0, 1, f_trim, NULL, false},
    {"upper", {0}, 0, 0, f_upper, NULL, false},
    {0},
};
