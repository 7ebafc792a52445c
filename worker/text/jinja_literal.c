/* The values of literal tokens: Python's escapes in strings, and its ways to write numbers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/text/jinja_lex.h"
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_unicode.h"

typedef struct literal {
    const mw_jsource *src;
    const mw_jtoken *tok;
    const char *s, *end; /* what is left of the text between the quotes */
    char *out;
} literal;

#define VFAIL(l, code, ...) MW_JLEX_FAIL((l)->src, code, (l)->tok->line, (l)->tok->at, __VA_ARGS__)

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \xhh, \uhhhh, \Uhhhhhhhh; s is behind the letter. */
static mw_status hex_escape(literal *l, int n) {
    uint32_t cp = 0;
    for (int i = 0; i < n; i++) {
        int d = l->s < l->end ? hex(*l->s) : -1;
        if (d < 0) return VFAIL(l, MW_ERR_FORMAT, "a string with a truncated escape");
        cp = cp << 4 | (uint32_t)d;
        l->s++;
    }
    if (cp > 0x10ffff) return VFAIL(l, MW_ERR_FORMAT, "a string with an escape beyond Unicode");
    if (cp >= 0xd800 && cp < 0xe000) {
        return VFAIL(l, MW_ERR_UNSUPPORTED, "a string with a surrogate escape is not supported");
    }
    l->out += mw_juni_put(cp, l->out);
    return MW_OK;
}

static void octal_escape(literal *l) {
    uint32_t cp = 0;
    for (int i = 0; i < 3 && l->s < l->end && *l->s >= '0' && *l->s <= '7'; i++)
        cp = cp * 8 + (uint32_t)(*l->s++ - '0');
    l->out += mw_juni_put(cp, l->out);
}

/* Behind a backslash. What Python does not know stays as it is, backslash included. */
static mw_status escape(literal *l) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = *l->s;
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        *l->out++ = to[known - from];
        l->s++;
    } else if (c >= '0' && c <= '7') {
        octal_escape(l);
    } else if (c == '\n') {
        l->s++;
    } else if (c == 'x' || c == 'u' || c == 'U') {
        l->s++;
        return hex_escape(l, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c == 'N') {
        return VFAIL(l, MW_ERR_UNSUPPORTED, "a string with \\N is not supported");
    } else if ((uint8_t)c >= 0x80) {
        /* Jinja turns such a character into an escape of its own first, whose backslash this one then escapes. */
        uint32_t len, cp = mw_juni_at(l->s, &len);
        l->out += snprintf(l->out, 12, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        l->s += len;
    } else {
        *l->out++ = '\\';
    }
    return MW_OK;
}

static mw_status string_value(mw_jarena *mem, const mw_jsource *src, const mw_jtoken *t, mw_jval *out) {
    char *begin;
    /* An escaped two-byte character grows to five bytes: the worst there is. */
    MW_JTRY(mw_jarena_alloc(mem, 3 * (size_t)t->n + 16, (void **)&begin));
    literal l = {src, t, src->text + t->at + 1, src->text + t->at + t->n - 1, begin};
    while (l.s < l.end) {
        if (*l.s != '\\') {
            *l.out++ = *l.s++;
            continue;
        }
        l.s++;
        MW_JTRY(escape(&l));
    }
    *out = mw_jstr_wrap(begin, (size_t)(l.out - begin));
    return MW_OK;
}

static mw_status int_value(const mw_jsource *src, const mw_jtoken *t, mw_jval *out) {
    const char *s = src->text + t->at;
    char base_char = t->n > 1 && s[0] == '0' ? (char)(s[1] | 32) : '0';
    unsigned base = base_char == 'x' ? 16 : base_char == 'o' ? 8 : base_char == 'b' ? 2 : 10;
    int64_t v = 0;
    for (uint32_t i = base == 10 ? 0 : 2; i < t->n; i++) {
        if (s[i] == '_') continue;
        if (__builtin_mul_overflow(v, (int64_t)base, &v) || __builtin_add_overflow(v, hex(s[i]), &v)) {
            return MW_JLEX_FAIL(src, MW_ERR_UNSUPPORTED, t->line, t->at, "a number beyond 64 bits is not supported");
        }
    }
    *out = MW_JINT(v);
    return MW_OK;
}

static mw_status float_value(const mw_jsource *src, const mw_jtoken *t, mw_jval *out) {
    double f = INFINITY;
    if (t->n <= 300) (void)mw_jnum_read_float(mw_jstr_wrap(src->text + t->at, t->n), &f);
    *out = MW_JFLOAT(f);
    if (isfinite(f)) return MW_OK;
    return MW_JLEX_FAIL(src, MW_ERR_UNSUPPORTED, t->line, t->at, "a float out of range is not supported");
}

mw_status mw_jlex_value(mw_jarena *mem, const mw_jsource *s, const mw_jtoken *t, mw_jval *out) {
    if (t->type == MW_JT_STRING) return string_value(mem, s, t, out);
    return t->type == MW_JT_INT ? int_value(s, t, out) : float_value(s, t, out);
}
