/* worker/text/tok_onig.c - Oniguruma's syntax to PCRE2's.
 *
 * A white list. Where the two engines read the same characters differently, the translation says in PCRE2's words what
 * Oniguruma means; what is not listed here is refused.
 */
#include <string.h>

#include "worker/text/tok_regex.h"
#include "worker/text/tok_utf8.h"

#define MAX_PATTERN 65536
#define MAX_GROUPS  50
#define MAX_REPEAT  1000

/* White_Space and its complement. PCRE2's own \s also takes U+180E, and ranges match faster than the property. */
#define SPACES                                                                                                         \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NON_SPACES                                                                                                     \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"                    \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

typedef struct {
    const char *p, *end, *where;
    mw_str *out;
    bool icase;                   /* inside (?i:...) */
    bool icase_outer[MAX_GROUPS]; /* what `icase` goes back to at each open group's end */
    bool look_group[MAX_GROUPS];
    int depth;
    bool atom;      /* something stands before us that a quantifier may follow */
    char last_fold; /* the last literal letter, lower case, if it stands directly before us inside (?i:...) */
} onig;

static mw_status refuse(const onig *o, const char *what) {
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: regex with %s", o->where, what);
}

static mw_status malformed(const onig *o, const char *what) {
    return MW_FAIL(MW_ERR_FORMAT, "%s: regex does not compile: %s", o->where, what);
}

static mw_status put(onig *o, const char *text) {
    return mw_str_adds(o->out, text);
}

static bool is_alnum(uint32_t c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static mw_status put_char(onig *o, uint32_t c) {
    return is_alnum(c) ? mw_str_addf(o->out, "%c", (char)c) : mw_str_addf(o->out, "\\x{%x}", c);
}

/* The digits of \x{...}, \uHHHH or \xHH; o->p stands behind the x or u. */
static mw_status read_hex(onig *o, char kind, uint32_t *out) {
    bool braces = kind == 'x' && o->p < o->end && *o->p == '{';
    int max = kind == 'u' ? 4 : braces ? 6 : 2, n = 0;
    uint32_t c = 0;
    o->p += braces;
    for (; n < max && o->p < o->end; n++, o->p++) {
        const char *digits = "0123456789abcdef", *d = *o->p ? strchr(digits, *o->p | 0x20) : NULL;
        if (!d || (*o->p < '0')) break;
        c = c * 16 + (uint32_t)(d - digits);
    }
    if (n == 0 || (kind == 'u' && n < 4)) return malformed(o, "\\x or \\u without its digits");
    if (braces && (o->p == o->end || *o->p++ != '}')) return malformed(o, "\\x{ without }");
    if (kind == 'x' && !braces && c >= 0x80) return refuse(o, "a \\x of a single byte above 7F");
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return malformed(o, "\\x or \\u of no character");
    *out = c;
    return MW_OK;
}

/* Names of properties are read without regard to case; strcasecmp would ask the locale. */
static bool same_name(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if ((*a | 0x20) != (*b | 0x20)) return false;
    return *a == *b;
}

/* \p{..}, \P{..}, \p{^..} with o->p behind the p. General categories and a few scripts, as both engines have them. C
 * and Cn are out: they change with every version of Unicode. */
static mw_status property(onig *o, bool negative) {
    static const char *const CATEGORY[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
                                           "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
                                           "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
    static const char *const SCRIPT[] = {"Han", "Hangul", "Hiragana", "Katakana", "Latin", "Greek", "Hebrew", "Thai"};
    char name[16];
    size_t n = 0;
    if (o->p == o->end || *o->p++ != '{') return refuse(o, "\\p without {");
    if (o->p < o->end && *o->p == '^') negative = !negative, o->p++;
    while (o->p < o->end && *o->p != '}' && n + 1 < sizeof name) name[n++] = *o->p++;
    name[n] = 0;
    if (o->p == o->end) return malformed(o, "\\p{ without }");
    if (*o->p++ != '}') return refuse(o, "an unknown property");
    for (size_t i = 0; i < sizeof CATEGORY / sizeof *CATEGORY; i++) {
        if (!same_name(name, CATEGORY[i])) continue;
        if (o->icase && (i == 1 || i == 2 || i == 3)) return refuse(o, "a letter case inside (?i:...)");
        return mw_str_addf(o->out, "\\%c{%s}", negative ? 'P' : 'p', CATEGORY[i]);
    }
    for (size_t i = 0; i < sizeof SCRIPT / sizeof *SCRIPT; i++)
        if (same_name(name, SCRIPT[i])) return mw_str_addf(o->out, "\\%c{sc:%s}", negative ? 'P' : 'p', SCRIPT[i]);
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: regex with property \\p{%s}", o->where, name);
}

/* A backslash escape that stands for one character, or for a set. *c: the character; *set: a set was written. */
static mw_status escape(onig *o, bool in_class, uint32_t *c, bool *set) {
    *set = false;
    if (o->p == o->end) return malformed(o, "a backslash at the end");
    unsigned char e = (unsigned char)*o->p;
    if (e >= 0x80) {
        *c = mw_utf8_get(o->p);
        o->p += mw_utf8_len(e);
        return MW_OK;
    }
    o->p++;
    switch (e) {
    case 'r': *c = '\r'; return MW_OK;
    case 'n': *c = '\n'; return MW_OK;
    case 't': *c = '\t'; return MW_OK;
    case 'f': *c = '\f'; return MW_OK;
    case 'v': *c = 0x0B; return MW_OK;
    case 'e': *c = 0x1B; return MW_OK;
    case 'a': *c = 0x07; return MW_OK;
    case 'x':
    case 'u': return read_hex(o, (char)e, c);
    default: break;
    }
    *set = true;
    switch (e) {
    case 's': return put(o, in_class ? SPACES : "[" SPACES "]");
    case 'S': return put(o, in_class ? NON_SPACES : "[^" SPACES "]");
    case 'd': return put(o, "\\p{Nd}");
    case 'D': return put(o, "\\P{Nd}");
    case 'p': return property(o, false);
    case 'P': return property(o, true);
    default: break;
    }
    *set = false;
    if (is_alnum(e)) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: regex with \\%c", o->where, e);
    *c = e;
    return MW_OK;
}

/* One member of a bracket class: a character in *c, or a set already written. */
static mw_status class_member(onig *o, uint32_t *c, bool *set) {
    unsigned char b = (unsigned char)*o->p;
    *set = false;
    if (b == '\\') {
        o->p++;
        mw_status st = escape(o, true, c, set);
        if (st != MW_OK) return st;
    } else if (b == '[') {
        return refuse(o, "a class inside a class");
    } else if (b == '&' && o->end - o->p >= 2 && o->p[1] == '&') {
        return refuse(o, "a class intersection &&");
    } else {
        *c = mw_utf8_get(o->p);
        o->p += mw_utf8_len(b);
    }
    if (!*set && o->icase && *c >= 0x80) return refuse(o, "a non-ASCII class inside (?i:...)");
    return MW_OK;
}

/* [...] with o->p behind the opening bracket. */
static mw_status bracket(onig *o) {
    mw_status st = put(o, "[");
    if (st != MW_OK) return st;
    if (o->p < o->end && *o->p == '^') {
        o->p++;
        if ((st = put(o, "^")) != MW_OK) return st;
    }
    if (o->p < o->end && *o->p == ']') return refuse(o, "a class that begins with ]");
    while (o->p < o->end && *o->p != ']') {
        uint32_t lo = 0, hi = 0;
        bool set = false;
        if ((st = class_member(o, &lo, &set)) != MW_OK) return st;
        if (set) continue;
        if ((st = put_char(o, lo)) != MW_OK) return st;
        if (o->end - o->p < 2 || o->p[0] != '-' || o->p[1] == ']') continue;
        if (lo == '-') return refuse(o, "a range from -");
        o->p++;
        if ((st = class_member(o, &hi, &set)) != MW_OK) return st;
        if (set) return refuse(o, "a range to a set");
        if (hi < lo) return malformed(o, "an empty range in a class");
        if ((st = put(o, "-")) != MW_OK || (st = put_char(o, hi)) != MW_OK) return st;
    }
    if (o->p == o->end) return malformed(o, "[ without ]");
    o->p++;
    o->atom = true;
    return put(o, "]");
}

/* ( with o->p behind it. Groups that capture become groups that do not: nothing refers back. */
static mw_status group(onig *o) {
    static const struct {
        const char *text;
        bool look;
    } KIND[] = {{"?:", false}, {"?=", true}, {"?!", true}, {"?<=", true}, {"?<!", true}, {"?>", false}, {"?i:", false}};
    if (o->depth == MAX_GROUPS)
        return MW_FAIL(MW_ERR_LIMIT, "%s: regex with groups nested %d deep", o->where, MAX_GROUPS);
    o->icase_outer[o->depth] = o->icase;
    o->look_group[o->depth] = false;
    o->atom = false;
    if (o->p == o->end || *o->p != '?') {
        o->depth++;
        return put(o, "(?:");
    }
    for (size_t i = 0; i < sizeof KIND / sizeof *KIND; i++) {
        size_t n = strlen(KIND[i].text);
        if ((size_t)(o->end - o->p) < n || memcmp(o->p, KIND[i].text, n) != 0) continue;
        o->p += n;
        o->look_group[o->depth++] = KIND[i].look;
        if (KIND[i].text[1] == 'i') o->icase = true;
        return mw_str_addf(o->out, "(%s", KIND[i].text);
    }
    return refuse(o, "a group other than (?: (?= (?! (?<= (?<! (?> (?i:");
}

static mw_status group_end(onig *o) {
    if (o->depth == 0) return malformed(o, ") without (");
    o->depth--;
    o->icase = o->icase_outer[o->depth];
    o->atom = !o->look_group[o->depth]; /* the engines differ on quantified lookarounds */
    return put(o, ")");
}

/* {n}, {n,}, {,m}, {n,m} at o->p (behind the brace): true and the bounds, or false and o->p unmoved. hi -1: no bound.
 */
static bool interval(onig *o, int *lo, int *hi) {
    const char *p = o->p;
    int v[2] = {-1, -1}, k = 0;
    for (; p < o->end && *p != '}'; p++) {
        if (*p == ',' && k == 0)
            k = 1;
        else if (*p >= '0' && *p <= '9')
            v[k] = v[k] < 0 ? *p - '0' : v[k] > MAX_REPEAT ? v[k] : v[k] * 10 + (*p - '0');
        else
            return false;
    }
    if (p == o->end || (v[0] < 0 && v[1] < 0)) return false;
    *lo = v[0] < 0 ? 0 : v[0];
    *hi = k ? v[1] : v[0];
    o->p = p + 1;
    return true;
}

/* * + ? {..} with o->p behind the character, and a lazy ? or possessive + behind it. */
static mw_status quantifier(onig *o, char q) {
    int lo = 0, hi = 0;
    if (q == '{' && !interval(o, &lo, &hi)) {
        o->atom = true;
        return put(o, "\\{");
    }
    if (!o->atom) return refuse(o, "a quantifier that has nothing to repeat");
    o->atom = false;
    mw_status st;
    if (q == '{') {
        if (lo > MAX_REPEAT || hi > MAX_REPEAT)
            return MW_FAIL(MW_ERR_LIMIT, "%s: regex repeats over %d", o->where, MAX_REPEAT);
        if (hi >= 0 && hi < lo) return refuse(o, "an interval {n,m} with n > m");
        st = hi == lo ? mw_str_addf(o->out, "{%d}", lo)
             : hi < 0 ? mw_str_addf(o->out, "{%d,}", lo)
                      : mw_str_addf(o->out, "{%d,%d}", lo, hi);
    } else {
        st = mw_str_add(o->out, &q, 1);
    }
    if (st != MW_OK || o->p == o->end) return st;
    if (*o->p == '?' || *o->p == '+') {
        /* behind an interval Oniguruma reads + as another quantifier, and {n}? as "n or none" */
        if (q == '{' && (*o->p == '+' || hi == lo)) return refuse(o, "a suffix behind an interval");
        st = mw_str_add(o->out, o->p++, 1);
    }
    return st;
}

/* A literal character. Inside (?i:...) Oniguruma also folds pairs of letters into one ("ss" and U+00DF, "fi" and the
 * ligature), which PCRE2 does not. */
static mw_status literal(onig *o, uint32_t c) {
    char low = (char)(c < 0x80 ? c | 0x20 : 0), before = o->last_fold;
    o->last_fold = 0;
    if (o->icase) {
        if (c >= 0x80) return refuse(o, "a non-ASCII character inside (?i:...)");
        if ((before == 's' && (low == 's' || low == 't')) ||
            (before == 'f' && (low == 'f' || low == 'i' || low == 'l')))
            return refuse(o, "a pair of letters inside (?i:...) that folds into one");
        o->last_fold = low;
    }
    o->atom = true;
    return put_char(o, c);
}

static mw_status next_token(onig *o) {
    unsigned char b = (unsigned char)*o->p;
    uint32_t c = 0;
    bool set = false;
    mw_status st;
    if (b >= 0x80) {
        c = mw_utf8_get(o->p);
        o->p += mw_utf8_len(b);
        return literal(o, c);
    }
    o->p++;
    if (!strchr("\\[().|*+?{^$", b) || b == 0) return literal(o, b);
    if (b == '\\') {
        if (o->p < o->end && (*o->p == 'A' || *o->p == 'z' || *o->p == 'Z')) {
            o->atom = false;
            return mw_str_addf(o->out, "\\%c", *o->p++);
        }
        if ((st = escape(o, false, &c, &set)) != MW_OK) return st;
        if (!set) return literal(o, c);
        o->atom = true;
        o->last_fold = 0;
        return MW_OK;
    }
    o->last_fold = 0;
    switch (b) {
    case '[': return bracket(o);
    case '(': return group(o);
    case ')': return group_end(o);
    case '.': o->atom = true; return put(o, "[^\\n]");
    case '|': o->atom = false; return put(o, "|");
    case '^': o->atom = false; return put(o, "(?m:^)"); /* at every line, without being asked */
    case '$': o->atom = false; return put(o, "(?m:$)");
    default: return quantifier(o, (char)b);
    }
}

mw_status mw_tok_regex_translate(const char *pattern, size_t n, const char *where, mw_str *out) {
    onig o = {.p = pattern, .end = pattern + n, .where = where, .out = out};
    if (n > MAX_PATTERN) return MW_FAIL(MW_ERR_LIMIT, "%s: regex of %zu bytes, at most %d", where, n, MAX_PATTERN);
    while (o.p < o.end) {
        mw_status st = next_token(&o);
        if (st != MW_OK) return st;
    }
    if (o.depth) return malformed(&o, "( without )");
    return MW_OK;
}
