/* Python's two ways to format text: "..." % values, and the plain fields of "...".format(values). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/jinja_call.h"
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

#define WIDTH_MAX 100000

/* A conversion such as %-08.3f. */
typedef struct conversion {
    bool left, plus, space, zero;
    int64_t width, precision; /* precision -1: none given */
    char type;
} conversion;

/* Where the values of a % come from. */
typedef struct source {
    mw_jval args;
    uint32_t used; /* of the tuple, or of the one value */
    bool keyed;    /* a %(name)s was seen */
} source;

static mw_status next_value(mw_jrun *r, source *s, mw_jval *out) {
    bool tuple = s->args.type == MW_J_TUPLE;
    if (s->used >= (tuple ? s->args.n : 1)) return MW_JERROR(r, "not enough values for the format");
    *out = tuple ? s->args.u.v[s->used] : s->args;
    s->used++;
    return MW_OK;
}

static mw_status pad(mw_jrun *r, const conversion *c, const char *sign, const char *text, size_t n, bool number,
                     mw_jbuf *b) {
    int64_t have = (int64_t)(strlen(sign) + mw_juni_length(text, n)), fill = c->width > have ? c->width - have : 0;
    bool zeros = number && c->zero && !c->left;
    for (int64_t i = 0; !c->left && !zeros && i < fill; i++) MW_JTRY(mw_jbuf_adds(r, b, " "));
    MW_JTRY(mw_jbuf_adds(r, b, sign));
    for (int64_t i = 0; zeros && i < fill; i++) MW_JTRY(mw_jbuf_adds(r, b, "0"));
    MW_JTRY(mw_jbuf_add(r, b, text, n));
    for (int64_t i = 0; c->left && i < fill; i++) MW_JTRY(mw_jbuf_adds(r, b, " "));
    return MW_OK;
}

static const char *sign_of(const conversion *c, bool minus) {
    return minus ? "-" : c->plus ? "+" : c->space ? " " : "";
}

static mw_status put_int(mw_jrun *r, const conversion *c, mw_jval v, mw_jbuf *b) {
    char digits[24], text[96];
    bool decimal = c->type == 'd' || c->type == 'i' || c->type == 'u';
    if (v.type == MW_J_FLOAT && decimal) MW_JTRY(mw_jnum_trunc(r, v.u.f, &v));
    if (!mw_jis_int(v)) return MW_JERROR(r, "%%%c of a %s", c->type, mw_jtype_name(v));
    int64_t i = mw_jto_int(v);
    uint64_t size = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *f = c->type == 'o' ? "%llo" : c->type == 'x' ? "%llx" : c->type == 'X' ? "%llX" : "%llu";
    snprintf(digits, sizeof digits, f, (unsigned long long)size);
    int64_t n = (int64_t)strlen(digits), want = c->precision > n ? c->precision : n;
    if (want > 60) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "%%.%lldd is not supported", (long long)c->precision);
    snprintf(text, sizeof text, "%.*s%s", (int)(want - n),
             "000000000000000000000000000000000000000000000000000000000000", digits);
    return pad(r, c, sign_of(c, i < 0), text, strlen(text), true, b);
}

static mw_status put_float(mw_jrun *r, const conversion *c, mw_jval v, mw_jbuf *b) {
    char text[420], f[8];
    if (!mw_jis_num(v)) return MW_JERROR(r, "%%%c of a %s", c->type, mw_jtype_name(v));
    double x = v.type == MW_J_FLOAT ? v.u.f : (double)mw_jto_int(v);
    if (c->precision > 60) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "%%.%lldf is not supported", (long long)c->precision);
    snprintf(f, sizeof f, "%%.*%c", c->type);
    int n = snprintf(text, sizeof text, f, (int)(c->precision < 0 ? 6 : c->precision), __builtin_fabs(x));
    return pad(r, c, sign_of(c, __builtin_signbit(x) != 0), text, (size_t)n, true, b);
}

static mw_status put_text(mw_jrun *r, const conversion *c, mw_jval v, mw_jbuf *b) {
    mw_jbuf own = {0};
    MW_JTRY(c->type == 'r' ? mw_jtext_repr(r, v, &own) : mw_jtext_str(r, v, &own));
    mw_jval text = mw_jbuf_value(&own);
    if (c->precision >= 0)
        text.n = (uint32_t)mw_juni_offset(text, (size_t)c->precision < text.n ? (size_t)c->precision : text.n);
    return pad(r, c, "", text.u.s, text.n, false, b);
}

static mw_status put_char(mw_jrun *r, const conversion *c, mw_jval v, mw_jbuf *b) {
    char bytes[4];
    if (mw_jis_str(v) && mw_juni_length(v.u.s, v.n) == 1) return pad(r, c, "", v.u.s, v.n, false, b);
    if (!mw_jis_int(v)) return MW_JERROR(r, "%%c takes one character or its number");
    int64_t cp = mw_jto_int(v);
    if (cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) return MW_JERROR(r, "%%c of %lld", (long long)cp);
    return pad(r, c, "", bytes, mw_juni_put((uint32_t)cp, bytes), false, b);
}

static mw_status put(mw_jrun *r, const conversion *c, mw_jval v, mw_jbuf *b) {
    if (v.type == MW_J_UNDEF && c->type != 's' && c->type != 'r') return MW_JUNDEF(r, v);
    switch (c->type) {
    case 's':
    case 'r': return put_text(r, c, v, b);
    case 'c': return put_char(r, c, v, b);
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X': return put_int(r, c, v, b);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': return put_float(r, c, v, b);
    default: return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a format with %%%c is not supported", c->type);
    }
}

/* Digits, or * for the next value. */
static mw_status number(mw_jrun *r, mw_jval f, uint32_t *i, source *s, int64_t *out) {
    *out = 0;
    if (*i < f.n && f.u.s[*i] == '*') {
        mw_jval v;
        ++*i;
        MW_JTRY(next_value(r, s, &v));
        MW_JTRY(mw_jarg_int(r, "a width", v, out));
    } else {
        for (; *i < f.n && f.u.s[*i] >= '0' && f.u.s[*i] <= '9' && *out <= WIDTH_MAX; ++*i) {
            *out = *out * 10 + (f.u.s[*i] - '0');
        }
    }
    if (*out < -WIDTH_MAX || *out > WIDTH_MAX) return MW_JFAIL(r, MW_ERR_LIMIT, "a format width beyond %d", WIDTH_MAX);
    return MW_OK;
}

/* (name) of %(name)s: the values are then a dict. */
static mw_status keyed(mw_jrun *r, mw_jval f, uint32_t *i, source *s, mw_jval *v) {
    uint32_t from = *i + 1, depth = 1;
    while (depth && ++*i < f.n) depth += f.u.s[*i] == '(' ? 1u : f.u.s[*i] == ')' ? -1u : 0u;
    if (*i >= f.n) return MW_JERROR(r, "a format with an open parenthesis");
    mw_jval key = mw_jstr_wrap(f.u.s + from, *i - from);
    ++*i;
    if (s->args.type != MW_J_DICT) return MW_JERROR(r, "a format with names needs a dict");
    s->keyed = true;
    MW_JTRY(mw_jdict_get(r, s->args.u.dict, key, v));
    if (v->type == MW_J_MISSING) return MW_JERROR(r, "the format names '%.*s'", (int)key.n, key.u.s);
    return MW_OK;
}

/* One conversion; *i is behind its %. */
static mw_status convert(mw_jrun *r, mw_jval f, uint32_t *i, source *s, mw_jbuf *b) {
    conversion c = {.precision = -1};
    mw_jval v = MW_JMISSING;
    if (*i < f.n && f.u.s[*i] == '(') MW_JTRY(keyed(r, f, i, s, &v));
    for (; *i < f.n && strchr("-+ 0#", f.u.s[*i]) && f.u.s[*i]; ++*i) {
        char flag = f.u.s[*i];
        c.left |= flag == '-';
        c.plus |= flag == '+';
        c.space |= flag == ' ';
        c.zero |= flag == '0';
        if (flag == '#') return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a format with %%# is not supported");
    }
    MW_JTRY(number(r, f, i, s, &c.width));
    if (c.width < 0) {
        c.left = true;
        c.width = -c.width;
    }
    if (*i < f.n && f.u.s[*i] == '.') {
        ++*i;
        MW_JTRY(number(r, f, i, s, &c.precision));
        if (c.precision < 0) c.precision = 0;
    }
    if (*i < f.n && strchr("hlL", f.u.s[*i]) && f.u.s[*i]) ++*i;
    if (*i >= f.n) return MW_JERROR(r, "an incomplete format");
    c.type = f.u.s[(*i)++];
    if (c.type == '%') return mw_jbuf_adds(r, b, "%");
    if (v.type == MW_J_MISSING) MW_JTRY(next_value(r, s, &v));
    return put(r, &c, v, b);
}

/* Whether Python's % takes the right side for a mapping, which need not be used up. */
static bool mapping_like(mw_jval v) {
    return v.type == MW_J_DICT || v.type == MW_J_LIST || v.type == MW_J_RANGE || v.type == MW_J_UNDEF;
}

mw_status mw_jtext_percent(mw_jrun *r, mw_jval f, mw_jval args, mw_jval *out) {
    mw_jbuf b = {0};
    source s = {.args = args};
    for (uint32_t i = 0; i < f.n;) {
        uint32_t from = i;
        while (i < f.n && f.u.s[i] != '%') i++;
        MW_JTRY(mw_jbuf_add(r, &b, f.u.s + from, i - from));
        if (i == f.n) break;
        i++;
        MW_JTRY(mw_jstep(r, 1));
        MW_JTRY(convert(r, f, &i, &s, &b));
    }
    bool left = args.type == MW_J_TUPLE ? s.used < args.n : s.used == 0 && !mapping_like(args);
    if (left) return MW_JERROR(r, "the format does not use all values");
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

/* The value that a field of str.format names; *counter is the next automatic one, -1 once numbers were given. */
static mw_status field(mw_jrun *r, mw_jval name, const mw_jargs *args, int64_t *counter, mw_jval *out) {
    int64_t index = 0;
    bool digits = name.n > 0;
    for (uint32_t i = 0; i < name.n; i++) {
        char c = name.u.s[i];
        if (c == '.' || c == '[' || c == ':' || c == '!' || c == '{') {
            return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "str.format with '{%.*s}' is not supported", (int)name.n, name.u.s);
        }
        digits = digits && c >= '0' && c <= '9';
    }
    if (digits || name.n == 0) {
        if (digits ? *counter > 0 : *counter < 0) return MW_JERROR(r, "str.format with and without numbers");
        if (digits && mw_jnum_read_int(name, &index) != MW_JNUM_OK) index = INT64_MAX;
        if (!digits) index = (*counter)++;
        if (digits) *counter = -1;
        if (index >= args->n_pos) return MW_JERROR(r, "str.format without value %lld", (long long)index);
        *out = args->pos[index];
        return MW_OK;
    }
    for (uint32_t k = 0; k < args->n_kw; k++) {
        mw_jval key = args->kw[k].name;
        if (key.n == name.n && memcmp(key.u.s, name.u.s, key.n) == 0) {
            *out = args->kw[k].val;
            return MW_OK;
        }
    }
    return MW_JERROR(r, "str.format without '%.*s'", (int)name.n, name.u.s);
}

mw_status mw_jtext_format(mw_jrun *r, mw_jval f, const mw_jargs *args, mw_jval *out) {
    mw_jbuf b = {0};
    int64_t counter = 0;
    for (uint32_t i = 0; i < f.n; i++) {
        char c = f.u.s[i];
        bool twice = i + 1 < f.n && f.u.s[i + 1] == c;
        if ((c != '{' && c != '}') || twice) {
            MW_JTRY(mw_jbuf_add(r, &b, &c, 1));
            i += c == '{' || c == '}';
            continue;
        }
        const char *end = c == '{' ? memchr(f.u.s + i, '}', f.n - i) : NULL;
        if (!end) return MW_JERROR(r, "str.format with a single '%c'", c);
        uint32_t from = i + 1;
        mw_jval v;
        i = (uint32_t)(end - f.u.s);
        MW_JTRY(mw_jstep(r, 1));
        MW_JTRY(field(r, mw_jstr_wrap(f.u.s + from, i - from), args, &counter, &v));
        MW_JTRY(mw_jtext_str(r, v, &b));
    }
    *out = mw_jbuf_value(&b);
    return MW_OK;
}
