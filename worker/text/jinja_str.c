#include "worker/text/jinja_str.h"

#include <string.h>

#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_ops.h"
#include "worker/text/jinja_text.h"
#include "worker/text/jinja_unicode.h"

/* Part of a string value, sharing its bytes. */
static mw_jval part(mw_jval s, size_t from, size_t to) {
    if (s.sub) return (mw_jval){.type = MW_J_STR, .sub = 1, .n = (uint32_t)(to - from), .u.s = s.u.s + from};
    return mw_jstr_wrap(s.u.s + from, to - from);
}

/* A list of strings under construction. */
typedef struct parts {
    mw_jval *v;
    size_t n, cap;
} parts;

static mw_status add_part(mw_jrun *r, parts *p, mw_jval v) {
    if (p->n == p->cap) {
        mw_jval *more;
        p->cap = p->cap ? 2 * p->cap : 8;
        MW_JTRY(mw_jvals(r, p->cap, &more));
        if (p->n) memcpy(more, p->v, p->n * sizeof *more);
        p->v = more;
    }
    p->v[p->n++] = v;
    return MW_OK;
}

static mw_jval parts_list(const parts *p) {
    return mw_jlist(p->v, p->n);
}

/* The pieces were cut from the end. */
static mw_jval parts_reversed(parts *p) {
    for (size_t i = 0; i < p->n / 2; i++) {
        mw_jval x = p->v[i];
        p->v[i] = p->v[p->n - 1 - i];
        p->v[p->n - 1 - i] = x;
    }
    return parts_list(p);
}

static bool in_set(mw_jval set, const char *c, uint32_t len) {
    return memmem(set.u.s, set.n, c, len) != NULL; /* UTF-8 sequences only match whole */
}

mw_status mw_jstr_strip(mw_jrun *r, mw_jval s, mw_jval chars, bool lead, bool trail, mw_jval *out) {
    const char *p = s.u.s;
    size_t n = s.n;
    MW_JTRY(mw_jstep_bytes(r, n));
    if (chars.type == MW_J_MISSING || chars.type == MW_J_NONE) {
        mw_juni_strip(&p, &n, lead, trail);
    } else {
        uint32_t len;
        if (!mw_jis_str(chars)) return MW_JERROR(r, "strip takes None or a str, not a %s", mw_jtype_name(chars));
        for (; lead && n; p += len, n -= len) {
            MW_JTRY(mw_jstep_bytes(r, chars.n));
            mw_juni_at(p, &len);
            if (!in_set(chars, p, len)) break;
        }
        for (; trail && n; n -= len) {
            MW_JTRY(mw_jstep_bytes(r, chars.n));
            mw_juni_before(p, n, &len);
            if (!in_set(chars, p + n - len, len)) break;
        }
    }
    *out = part(s, (size_t)(p - s.u.s), (size_t)(p - s.u.s) + n);
    return MW_OK;
}

/* old is empty: `with` goes before every code point and behind the last. */
static mw_status replace_empty(mw_jrun *r, mw_jval s, mw_jval with, int64_t count, mw_jval *out) {
    mw_jbuf b = {0};
    uint32_t i = 0, len;
    for (; count != 0; count--) {
        MW_JTRY(mw_jstep(r, 1));
        MW_JTRY(mw_jbuf_add(r, &b, with.u.s, with.n));
        if (i == s.n) break;
        mw_juni_at(s.u.s + i, &len);
        MW_JTRY(mw_jbuf_add(r, &b, s.u.s + i, len));
        i += len;
    }
    MW_JTRY(mw_jbuf_add(r, &b, s.u.s + i, s.n - i));
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

mw_status mw_jstr_replace(mw_jrun *r, mw_jval s, mw_jval old, mw_jval with, int64_t count, mw_jval *out) {
    if (old.n == 0) return replace_empty(r, s, with, count, out);
    mw_jbuf b = {0};
    size_t from = 0;
    bool any = false;
    MW_JTRY(mw_jstep_bytes(r, s.n));
    for (; count != 0; count--) {
        const char *hit = s.n > from ? memmem(s.u.s + from, s.n - from, old.u.s, old.n) : NULL;
        if (!hit) break;
        size_t at = (size_t)(hit - s.u.s);
        MW_JTRY(mw_jstep(r, 1));
        MW_JTRY(mw_jbuf_add(r, &b, s.u.s + from, at - from));
        MW_JTRY(mw_jbuf_add(r, &b, with.u.s, with.n));
        from = at + old.n;
        any = true;
    }
    *out = s;
    if (!any) return MW_OK;
    MW_JTRY(mw_jbuf_add(r, &b, s.u.s + from, s.n - from));
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

static bool line_end(uint32_t cp) {
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

mw_status mw_jstr_splitlines(mw_jrun *r, mw_jval s, bool keep_ends, mw_jval *out) {
    parts p = {0};
    uint32_t from = 0, len;
    MW_JTRY(mw_jstep_bytes(r, s.n));
    for (uint32_t i = 0; i < s.n; i += len) {
        if (!line_end(mw_juni_at(s.u.s + i, &len))) continue;
        if (s.u.s[i] == '\r' && i + 1 < s.n && s.u.s[i + 1] == '\n') len = 2;
        MW_JTRY(add_part(r, &p, part(s, from, keep_ends ? i + len : i)));
        from = i + len;
    }
    if (from < s.n) MW_JTRY(add_part(r, &p, part(s, from, s.n)));
    *out = parts_list(&p);
    return MW_OK;
}

mw_status mw_jstr_join(mw_jrun *r, mw_jval sep, mw_jval iterable, bool any, mw_jval *out) {
    mw_jiter *it;
    mw_jbuf b = {0};
    MW_JTRY(mw_jiter_of(r, iterable, &it));
    for (bool first = true;; first = false) {
        mw_jval x;
        MW_JTRY(mw_jiter_next(r, it, &x));
        if (x.type == MW_J_MISSING) break;
        if (!any && !mw_jis_str(x)) return MW_JERROR(r, "join of a %s, a str is needed", mw_jtype_name(x));
        if (!first) MW_JTRY(mw_jbuf_add(r, &b, sep.u.s, sep.n));
        MW_JTRY(mw_jtext_str(r, x, &b));
    }
    *out = mw_jbuf_value(&b);
    return MW_OK;
}

static mw_status split_space(mw_jrun *r, mw_jval s, int64_t max, mw_jval *out) {
    parts p = {0};
    const char *c = s.u.s;
    size_t n = s.n;
    uint32_t len;
    for (mw_juni_strip(&c, &n, true, false); n; mw_juni_strip(&c, &n, true, false)) {
        size_t word = 0, from = (size_t)(c - s.u.s);
        if (max >= 0 && (int64_t)p.n >= max) {
            word = n;
        } else {
            while (word < n && !mw_juni_space(mw_juni_at(c + word, &len))) word += len;
        }
        MW_JTRY(add_part(r, &p, part(s, from, from + word)));
        c += word;
        n -= word;
    }
    *out = parts_list(&p);
    return MW_OK;
}

static mw_status rsplit_space(mw_jrun *r, mw_jval s, int64_t max, mw_jval *out) {
    parts p = {0};
    const char *c = s.u.s;
    size_t n = s.n;
    uint32_t len;
    for (mw_juni_strip(&c, &n, false, true); n; mw_juni_strip(&c, &n, false, true)) {
        size_t start = n;
        if (max >= 0 && (int64_t)p.n >= max) {
            start = 0;
        } else {
            while (start > 0 && !mw_juni_space(mw_juni_before(c, start, &len))) start -= len;
        }
        MW_JTRY(add_part(r, &p, part(s, start, n)));
        n = start;
    }
    *out = parts_reversed(&p);
    return MW_OK;
}

static mw_status split_at(mw_jrun *r, mw_jval s, mw_jval sep, int64_t max, bool right, mw_jval *out) {
    parts p = {0};
    size_t from = 0, to = s.n;
    while (max < 0 || (int64_t)p.n < max) {
        int64_t at;
        MW_JTRY(mw_jop_find(r, s.u.s, from, to, sep, right, &at));
        if (at < 0) break;
        MW_JTRY(add_part(r, &p, right ? part(s, (size_t)at + sep.n, to) : part(s, from, (size_t)at)));
        if (right) {
            to = (size_t)at;
        } else {
            from = (size_t)at + sep.n;
        }
    }
    MW_JTRY(add_part(r, &p, part(s, from, to)));
    *out = right ? parts_reversed(&p) : parts_list(&p);
    return MW_OK;
}

static mw_status split(mw_jrun *r, bool right, mw_jval s, const mw_jval *a, mw_jval *out) {
    int64_t max = -1;
    if (a[1].type != MW_J_MISSING) MW_JTRY(mw_jarg_int(r, "maxsplit", a[1], &max));
    MW_JTRY(mw_jstep_bytes(r, s.n));
    if (a[0].type == MW_J_MISSING || a[0].type == MW_J_NONE) {
        return right ? rsplit_space(r, s, max, out) : split_space(r, s, max, out);
    }
    MW_JTRY(mw_jarg_str(r, "the separator", a[0]));
    if (a[0].n == 0) return MW_JERROR(r, "split at an empty separator");
    return split_at(r, s, a[0], max, right, out);
}

static mw_status partition(mw_jrun *r, bool right, mw_jval s, mw_jval sep, mw_jval *out) {
    mw_jval *v;
    int64_t at;
    MW_JTRY(mw_jarg_str(r, "the separator", sep));
    if (sep.n == 0) return MW_JERROR(r, "partition at an empty separator");
    MW_JTRY(mw_jstep_bytes(r, s.n));
    MW_JTRY(mw_jop_find(r, s.u.s, 0, s.n, sep, right, &at));
    MW_JTRY(mw_jvals(r, 3, &v));
    v[0] = v[1] = v[2] = MW_JLITERAL("");
    if (at < 0) {
        v[right ? 2 : 0] = s;
    } else {
        v[0] = part(s, 0, (size_t)at);
        v[1] = sep;
        v[2] = part(s, (size_t)at + sep.n, s.n);
    }
    *out = mw_jtuple(v, 3);
    return MW_OK;
}

/* The arguments start and end of find and its kin, as bytes [*from, *to); *from > *to when start lies behind the end.
 */
static mw_status window(mw_jrun *r, mw_jval s, const mw_jval *a, size_t *from, size_t *to) {
    *from = 0;
    *to = s.n;
    if (a[0].type == MW_J_MISSING) return MW_OK;
    int64_t n, bound[2];
    MW_JTRY(mw_jlen(r, s, &n));
    bound[0] = 0;
    bound[1] = n;
    for (int i = 0; i < 2; i++) {
        if (a[i].type == MW_J_MISSING || a[i].type == MW_J_NONE) continue;
        MW_JTRY(mw_jarg_int(r, "a bound", a[i], &bound[i]));
        if (bound[i] < 0) bound[i] += n;
        if (bound[i] < 0) bound[i] = 0;
    }
    if (bound[1] > n) bound[1] = n;
    *from = bound[0] > n ? s.n + 1 : mw_juni_offset(s, (size_t)bound[0]);
    *to = mw_juni_offset(s, (size_t)bound[1]);
    return MW_OK;
}

static mw_status find(mw_jrun *r, mw_jmethod m, mw_jval s, const mw_jval *a, mw_jval *out) {
    size_t from, to;
    int64_t at;
    bool last = m == MW_JM_RFIND || m == MW_JM_RINDEX, must = m == MW_JM_INDEX || m == MW_JM_RINDEX;
    MW_JTRY(mw_jarg_str(r, "what is searched", a[0]));
    MW_JTRY(window(r, s, a + 1, &from, &to));
    MW_JTRY(mw_jop_find(r, s.u.s, from, to, a[0], last, &at));
    if (at < 0 && must) return MW_JERROR(r, "substring not found");
    *out = MW_JINT(at < 0 || s.sub ? at : (int64_t)mw_juni_length(s.u.s, (size_t)at));
    return MW_OK;
}

static mw_status count(mw_jrun *r, mw_jval s, const mw_jval *a, mw_jval *out) {
    size_t from, to;
    int64_t n = 0, at;
    MW_JTRY(mw_jarg_str(r, "what is counted", a[0]));
    MW_JTRY(window(r, s, a + 1, &from, &to));
    if (a[0].n == 0) {
        MW_JTRY(mw_jstep_bytes(r, s.n));
        *out = MW_JINT(from > to ? 0 : (int64_t)mw_juni_length(s.u.s + from, to - from) + 1);
        return MW_OK;
    }
    for (;; n++, from = (size_t)at + a[0].n) {
        MW_JTRY(mw_jop_find(r, s.u.s, from, to, a[0], false, &at));
        if (at < 0) break;
    }
    *out = MW_JINT(n);
    return MW_OK;
}

static mw_status ends(mw_jrun *r, const char *s, size_t from, size_t to, mw_jval what, bool at_end, bool *out) {
    *out = false;
    if (to < from || what.n > to - from) return MW_OK;
    *out = memcmp(s + (at_end ? to - what.n : from), what.u.s, what.n) == 0;
    return mw_jstep_bytes(r, what.n);
}

static mw_status affix(mw_jrun *r, bool at_end, mw_jval s, const mw_jval *a, mw_jval *out) {
    size_t from, to;
    bool hit = false;
    MW_JTRY(window(r, s, a + 1, &from, &to));
    if (a[0].type == MW_J_TUPLE) {
        for (uint32_t i = 0; i < a[0].n && !hit; i++) {
            MW_JTRY(mw_jarg_str(r, "an affix", a[0].u.v[i]));
            MW_JTRY(ends(r, s.u.s, from, to, a[0].u.v[i], at_end, &hit));
        }
    } else {
        MW_JTRY(mw_jarg_str(r, "the affix", a[0]));
        MW_JTRY(ends(r, s.u.s, from, to, a[0], at_end, &hit));
    }
    *out = MW_JBOOL(hit);
    return MW_OK;
}

static bool all(mw_jval s, bool (*is)(uint32_t)) {
    uint32_t len;
    for (uint32_t i = 0; i < s.n; i += len) {
        if (!is(mw_juni_at(s.u.s + i, &len))) return false;
    }
    return s.n > 0;
}

/* islower: no upper or title case letter, and at least one lower case one; isupper the other way. */
static bool one_case(mw_jval s, bool lower) {
    bool any = false;
    uint32_t len;
    for (uint32_t i = 0; i < s.n; i += len) {
        uint32_t cp = mw_juni_at(s.u.s + i, &len);
        bool low = mw_juni_lower(cp), high = mw_juni_upper(cp);
        if (lower ? high : low) return false;
        if (mw_juni_title(cp)) return false;
        any |= lower ? low : high;
    }
    return any;
}

static bool is_class(mw_jmethod m, mw_jval s) {
    switch (m) {
    case MW_JM_ISALNUM: return all(s, mw_juni_alnum);
    case MW_JM_ISALPHA: return all(s, mw_juni_alpha);
    case MW_JM_ISASCII: return s.sub;
    case MW_JM_ISDECIMAL: return all(s, mw_juni_decimal);
    case MW_JM_ISDIGIT: return all(s, mw_juni_digit);
    case MW_JM_ISSPACE: return all(s, mw_juni_space);
    default: return one_case(s, m == MW_JM_ISLOWER);
    }
}

static mw_status remove_affix(mw_jrun *r, bool at_end, mw_jval s, mw_jval affix_text, mw_jval *out) {
    MW_JTRY(mw_jarg_str(r, "the affix", affix_text));
    bool hit;
    MW_JTRY(ends(r, s.u.s, 0, s.n, affix_text, at_end, &hit));
    MW_JTRY(mw_jstep_bytes(r, s.sub ? 0 : s.n)); /* part() looks for what is not ASCII */
    *out = !hit ? s : at_end ? part(s, 0, s.n - affix_text.n) : part(s, affix_text.n, s.n);
    return MW_OK;
}

mw_status mw_jstr_method(mw_jrun *r, mw_jmethod m, mw_jval s, const mw_jval *a, mw_jval *out) {
    int64_t n = -1;
    switch (m) {
    case MW_JM_STRIP: return mw_jstr_strip(r, s, a[0], true, true, out);
    case MW_JM_LSTRIP: return mw_jstr_strip(r, s, a[0], true, false, out);
    case MW_JM_RSTRIP: return mw_jstr_strip(r, s, a[0], false, true, out);
    case MW_JM_SPLIT:
    case MW_JM_RSPLIT: return split(r, m == MW_JM_RSPLIT, s, a, out);
    case MW_JM_SPLITLINES: {
        bool keep;
        MW_JTRY(mw_jtruth(r, a[0], &keep));
        return mw_jstr_splitlines(r, s, keep, out);
    }
    case MW_JM_PARTITION:
    case MW_JM_RPARTITION: return partition(r, m == MW_JM_RPARTITION, s, a[0], out);
    case MW_JM_STARTSWITH:
    case MW_JM_ENDSWITH: return affix(r, m == MW_JM_ENDSWITH, s, a, out);
    case MW_JM_REMOVEPREFIX:
    case MW_JM_REMOVESUFFIX: return remove_affix(r, m == MW_JM_REMOVESUFFIX, s, a[0], out);
    case MW_JM_FIND:
    case MW_JM_RFIND:
    case MW_JM_INDEX:
    case MW_JM_RINDEX: return find(r, m, s, a, out);
    case MW_JM_COUNT: return count(r, s, a, out);
    case MW_JM_REPLACE:
        MW_JTRY(mw_jarg_str(r, "what is replaced", a[0]));
        MW_JTRY(mw_jarg_str(r, "the replacement", a[1]));
        if (a[2].type != MW_J_MISSING) MW_JTRY(mw_jarg_int(r, "the count", a[2], &n));
        return mw_jstr_replace(r, s, a[0], a[1], n, out);
    case MW_JM_JOIN: return mw_jstr_join(r, s, a[0], false, out);
    case MW_JM_UPPER: return mw_juni_case(r, s, MW_JCASE_UPPER, out);
    case MW_JM_LOWER: return mw_juni_case(r, s, MW_JCASE_LOWER, out);
    case MW_JM_TITLE: return mw_juni_case(r, s, MW_JCASE_TITLE, out);
    case MW_JM_CAPITALIZE: return mw_juni_case(r, s, MW_JCASE_CAPITALIZE, out);
    default:
        MW_JTRY(mw_jstep(r, s.n / 8 + 1)); /* a look at a table for each character */
        *out = MW_JBOOL(is_class(m, s));
        return MW_OK;
    }
}
