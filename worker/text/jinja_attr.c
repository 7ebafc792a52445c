#include "worker/text/jinja_attr.h"

#include <string.h>

#include "worker/text/jinja_call.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_number.h"
#include "worker/text/jinja_unicode.h"

#define S (1u << MW_J_STR)
#define L (1u << MW_J_LIST)
#define T (1u << MW_J_TUPLE)
#define D (1u << MW_J_DICT)
#define R (1u << MW_J_RANGE)
#define V (1u << MW_J_VIEW)
#define I (1u << MW_J_INT | 1u << MW_J_BOOL)
#define F (1u << MW_J_FLOAT)
#define O (1u << MW_J_LOOP)
#define G (1u << MW_J_ITER)
#define M (1u << MW_J_MACRO)

static const mw_jattr table[] = {
    {"append", MW_JM_OPAQUE, 0, 0, L},
    {"arguments", MW_JM_OPAQUE, 0, M, 0},
    {"as_integer_ratio", MW_JM_OPAQUE, 0, I | F, 0},
    {"bit_count", MW_JM_OPAQUE, 0, I, 0},
    {"bit_length", MW_JM_OPAQUE, 0, I, 0},
    {"caller", MW_JM_OPAQUE, 0, M, 0},
    {"capitalize", MW_JM_CAPITALIZE, S, 0, 0},
    {"casefold", MW_JM_OPAQUE, 0, S, 0},
    {"catch_kwargs", MW_JM_OPAQUE, 0, M, 0},
    {"catch_varargs", MW_JM_OPAQUE, 0, M, 0},
    {"center", MW_JM_OPAQUE, 0, S, 0},
    {"changed", MW_JM_CHANGED, O, 0, 0},
    {"clear", MW_JM_OPAQUE, 0, 0, L | D},
    {"close", MW_JM_OPAQUE, 0, G, 0},
    {"conjugate", MW_JM_OPAQUE, 0, I | F, 0},
    {"copy", MW_JM_COPY, L | D, 0, 0},
    {"count", MW_JM_COUNT, S | L | T, R, 0},
    {"cycle", MW_JM_CYCLE, O, 0, 0},
    {"denominator", MW_JM_OPAQUE, 0, I, 0},
    {"encode", MW_JM_OPAQUE, 0, S, 0},
    {"endswith", MW_JM_ENDSWITH, S, 0, 0},
    {"expandtabs", MW_JM_OPAQUE, 0, S, 0},
    {"explicit_caller", MW_JM_OPAQUE, 0, M, 0},
    {"extend", MW_JM_OPAQUE, 0, 0, L},
    {"find", MW_JM_FIND, S, 0, 0},
    {"format", MW_JM_FORMAT, S, 0, 0},
    {"format_map", MW_JM_OPAQUE, 0, S, 0},
    {"from_bytes", MW_JM_OPAQUE, 0, I, 0},
    {"fromhex", MW_JM_OPAQUE, 0, F, 0},
    {"fromkeys", MW_JM_OPAQUE, 0, D, 0},
    {"get", MW_JM_GET, D, 0, 0},
    {"gi_code", MW_JM_OPAQUE, 0, 0, G},
    {"gi_frame", MW_JM_OPAQUE, 0, 0, G},
    {"gi_running", MW_JM_OPAQUE, 0, G, 0},
    {"gi_suspended", MW_JM_OPAQUE, 0, G, 0},
    {"gi_yieldfrom", MW_JM_OPAQUE, 0, G, 0},
    {"hex", MW_JM_OPAQUE, 0, F, 0},
    {"imag", MW_JM_OPAQUE, 0, I | F, 0},
    {"index", MW_JM_INDEX, S | L | T, R, 0},
    {"insert", MW_JM_OPAQUE, 0, 0, L},
    {"is_integer", MW_JM_OPAQUE, 0, F, 0},
    {"isalnum", MW_JM_ISALNUM, S, 0, 0},
    {"isalpha", MW_JM_ISALPHA, S, 0, 0},
    {"isascii", MW_JM_ISASCII, S, 0, 0},
    {"isdecimal", MW_JM_ISDECIMAL, S, 0, 0},
    {"isdigit", MW_JM_ISDIGIT, S, 0, 0},
    {"isdisjoint", MW_JM_OPAQUE, 0, V, 0},
    {"isidentifier", MW_JM_OPAQUE, 0, S, 0},
    {"islower", MW_JM_ISLOWER, S, 0, 0},
    {"isnumeric", MW_JM_OPAQUE, 0, S, 0},
    {"isprintable", MW_JM_OPAQUE, 0, S, 0},
    {"isspace", MW_JM_ISSPACE, S, 0, 0},
    {"istitle", MW_JM_OPAQUE, 0, S, 0},
    {"isupper", MW_JM_ISUPPER, S, 0, 0},
    {"items", MW_JM_ITEMS, D, 0, 0},
    {"join", MW_JM_JOIN, S, 0, 0},
    {"keys", MW_JM_KEYS, D, 0, 0},
    {"ljust", MW_JM_OPAQUE, 0, S, 0},
    {"lower", MW_JM_LOWER, S, 0, 0},
    {"lstrip", MW_JM_LSTRIP, S, 0, 0},
    {"maketrans", MW_JM_OPAQUE, 0, S, 0},
    {"mapping", MW_JM_OPAQUE, 0, V, 0},
    {"name", MW_JM_OPAQUE, 0, M, 0},
    {"numerator", MW_JM_OPAQUE, 0, I, 0},
    {"partition", MW_JM_PARTITION, S, 0, 0},
    {"pop", MW_JM_OPAQUE, 0, 0, L | D},
    {"popitem", MW_JM_OPAQUE, 0, 0, D},
    {"real", MW_JM_OPAQUE, 0, I | F, 0},
    {"remove", MW_JM_OPAQUE, 0, 0, L},
    {"removeprefix", MW_JM_REMOVEPREFIX, S, 0, 0},
    {"removesuffix", MW_JM_REMOVESUFFIX, S, 0, 0},
    {"replace", MW_JM_REPLACE, S, 0, 0},
    {"reverse", MW_JM_OPAQUE, 0, 0, L},
    {"rfind", MW_JM_RFIND, S, 0, 0},
    {"rindex", MW_JM_RINDEX, S, 0, 0},
    {"rjust", MW_JM_OPAQUE, 0, S, 0},
    {"rpartition", MW_JM_RPARTITION, S, 0, 0},
    {"rsplit", MW_JM_RSPLIT, S, 0, 0},
    {"rstrip", MW_JM_RSTRIP, S, 0, 0},
    {"send", MW_JM_OPAQUE, 0, G, 0},
    {"setdefault", MW_JM_OPAQUE, 0, 0, D},
    {"sort", MW_JM_OPAQUE, 0, 0, L},
    {"split", MW_JM_SPLIT, S, 0, 0},
    {"splitlines", MW_JM_SPLITLINES, S, 0, 0},
    {"start", MW_JM_OPAQUE, 0, R, 0},
    {"startswith", MW_JM_STARTSWITH, S, 0, 0},
    {"step", MW_JM_OPAQUE, 0, R, 0},
    {"stop", MW_JM_OPAQUE, 0, R, 0},
    {"strip", MW_JM_STRIP, S, 0, 0},
    {"swapcase", MW_JM_OPAQUE, 0, S, 0},
    {"throw", MW_JM_OPAQUE, 0, G, 0},
    {"title", MW_JM_TITLE, S, 0, 0},
    {"to_bytes", MW_JM_OPAQUE, 0, I, 0},
    {"translate", MW_JM_OPAQUE, 0, S, 0},
    {"update", MW_JM_OPAQUE, 0, 0, D},
    {"upper", MW_JM_UPPER, S, 0, 0},
    {"values", MW_JM_VALUES, D, 0, 0},
    {"zfill", MW_JM_OPAQUE, 0, S, 0},
};

const mw_jattr *mw_jattr_find(mw_jval name) {
    size_t lo = 0, hi = sizeof table / sizeof *table;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2, n = strlen(table[mid].name);
        int c = memcmp(table[mid].name, name.u.s, n < name.n ? n : name.n);
        if (c == 0) c = (n > name.n) - (n < name.n);
        if (c == 0) return &table[mid];
        if (c < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

/* Python's getattr on a built-in: *out stays MISSING when the type has no such attribute. */
static mw_status builtin_attr(mw_jrun *r, mw_jval obj, mw_jval name, const mw_jattr *attr, mw_jval *out) {
    *out = MW_JMISSING;
    if (obj.type == MW_J_NAMESPACE) return mw_jdict_get(r, obj.u.dict, name, out);
    if (obj.type == MW_J_LOOP) {
        MW_JTRY(mw_jloop_attr(r, obj.u.loop, name, out));
        if (out->type != MW_J_MISSING) return MW_OK;
    }
    uint32_t bit = 1u << obj.type;
    if (!attr || !((attr->has | attr->opaque | attr->unsafe) & bit)) return MW_OK;
    if (attr->unsafe & bit) {
        mw_jundef *u;
        MW_JTRY(MW_JNEW(r->mem, &u, 1));
        u->hint = "a template may not change a list or dict";
        u->hint_len = (uint32_t)strlen(u->hint);
        *out = mw_jundefined_hint(u);
        return MW_OK;
    }
    if ((attr->opaque & bit) && obj.type != MW_J_STR) {
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "attribute '%s' of a %s is not supported", attr->name,
                        mw_jtype_name(obj));
    }
    mw_jval *self;
    MW_JTRY(mw_jvals(r, 1, &self));
    *self = obj;
    *out = (mw_jval){.type = MW_J_METHOD, .sub = attr->has & bit ? attr->method : MW_JM_OPAQUE, .u.v = self};
    return MW_OK;
}

mw_status mw_jattr_get(mw_jrun *r, mw_jval obj, mw_jval name, const mw_jattr *attr, mw_jval *out) {
    if (obj.type == MW_J_UNDEF) return MW_JUNDEF(r, obj);
    MW_JTRY(builtin_attr(r, obj, name, attr, out));
    if (out->type == MW_J_MISSING && obj.type == MW_J_DICT) MW_JTRY(mw_jdict_get(r, obj.u.dict, name, out));
    return out->type == MW_J_MISSING ? mw_jundefined(r, obj, name, out) : MW_OK;
}

static mw_status unhashable(mw_jrun *r, mw_jval v, bool *out) {
    *out = v.type == MW_J_LIST || v.type == MW_J_DICT;
    if (v.type != MW_J_TUPLE) return MW_OK;
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, (size_t)v.n + 1);
    for (uint32_t i = 0; i < v.n && st == MW_OK && !*out; i++) st = unhashable(r, v.u.v[i], out);
    r->depth--;
    return st;
}

/* obj[key] proper; *out stays MISSING where Python raises TypeError or LookupError. */
static mw_status subscript(mw_jrun *r, mw_jval obj, mw_jval key, mw_jval *out) {
    *out = MW_JMISSING;
    if (obj.type == MW_J_DICT) {
        bool bad;
        MW_JTRY(unhashable(r, key, &bad));
        return bad ? MW_OK : mw_jdict_get(r, obj.u.dict, key, out);
    }
    bool indexed = mw_jis_str(obj) || mw_jis_seq(obj) || obj.type == MW_J_RANGE;
    if (!indexed || !mw_jis_int(key)) return MW_OK;
    int64_t n, i = mw_jto_int(key);
    MW_JTRY(mw_jlen(r, obj, &n));
    if (i < 0) i += n;
    if (i < 0 || i >= n) return MW_OK;
    if (mw_jis_str(obj)) {
        MW_JTRY(mw_jstep_bytes(r, obj.sub ? 1 : obj.n));
        *out = mw_juni_slice(obj, (size_t)i, (size_t)i + 1);
        out->markup = obj.markup;
    } else if (obj.type == MW_J_RANGE) {
        *out = MW_JINT(obj.u.range->start + i * obj.u.range->step);
    } else {
        *out = obj.u.v[i];
    }
    return MW_OK;
}

mw_status mw_jattr_item(mw_jrun *r, mw_jval obj, mw_jval key, mw_jval *out) {
    if (obj.type == MW_J_UNDEF) return MW_JUNDEF(r, obj);
    MW_JTRY(subscript(r, obj, key, out));
    if (out->type == MW_J_MISSING && mw_jis_str(key)) {
        MW_JTRY(builtin_attr(r, obj, key, mw_jattr_find(key), out));
    }
    return out->type == MW_J_MISSING ? mw_jundefined(r, obj, key, out) : MW_OK;
}

static mw_status slice_bound(mw_jrun *r, mw_jval v, int64_t *out, bool *given) {
    *given = v.type != MW_J_NONE;
    if (!*given) return MW_OK;
    if (!mw_jis_int(v)) return MW_JERROR(r, "a %s as bound of a slice", mw_jtype_name(v));
    *out = mw_jto_int(v);
    return MW_OK;
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high) {
    if (i < 0) i += n;
    return i < low ? low : i > high ? high : i;
}

typedef struct span {
    int64_t first, stop, step, count; /* as slice.indices() gives them, and how many elements that is */
} span;

static mw_status slice_of(mw_jrun *r, const mw_jval part[3], int64_t n, span *out) {
    int64_t a = 0, b = 0, step = 1, count;
    bool has_a, has_b, has_c;
    MW_JTRY(slice_bound(r, part[2], &step, &has_c));
    MW_JTRY(slice_bound(r, part[0], &a, &has_a));
    MW_JTRY(slice_bound(r, part[1], &b, &has_b));
    if (step == 0) return MW_JERROR(r, "the step of a slice is zero");
    if (step == INT64_MIN) step = -INT64_MAX;
    if (step > 0) {
        a = has_a ? clamp(a, n, 0, n) : 0;
        b = has_b ? clamp(b, n, 0, n) : n;
        count = a < b ? (b - a - 1) / step + 1 : 0;
    } else {
        a = has_a ? clamp(a, n, -1, n - 1) : n - 1;
        b = has_b ? clamp(b, n, -1, n - 1) : -1;
        count = b < a ? (a - b - 1) / -step + 1 : 0;
    }
    *out = (span){a, b, step, count};
    return MW_OK;
}

/* start, stop and step of a range go through its own arithmetic. */
static mw_status slice_range(mw_jrun *r, const mw_jrange *g, span s, mw_jval *out) {
    mw_jrange *part;
    MW_JTRY(MW_JNEW(r->mem, &part, 1));
    if (__builtin_mul_overflow(s.step, g->step, &part->step)) {
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a number beyond 64 bits is not supported");
    }
    part->start = g->start + s.first * g->step;
    part->stop = g->start + s.stop * g->step;
    part->len = s.count;
    *out = (mw_jval){.type = MW_J_RANGE, .u.range = part};
    return MW_OK;
}

static mw_status slice_str(mw_jrun *r, mw_jval obj, span s, mw_jval *out) {
    MW_JTRY(mw_jstep_bytes(r, obj.sub ? 0 : obj.n));
    if (s.count == 0) {
        *out = MW_JLITERAL("");
    } else if (s.step == 1) {
        *out = mw_juni_slice(obj, (size_t)s.first, (size_t)(s.first + s.count));
    } else {
        /* A table of offsets makes the strided walk linear on text that is not ASCII. */
        size_t n = obj.sub ? 0 : mw_juni_length(obj.u.s, obj.n), k = 0;
        uint32_t *at = NULL, len;
        mw_jbuf b = {0};
        if (!obj.sub) MW_JTRY(MW_JNEW(r->mem, &at, n));
        for (uint32_t i = 0; at && i < obj.n; i++) {
            if (((uint8_t)obj.u.s[i] & 0xc0) != 0x80) at[k++] = i;
        }
        MW_JTRY(mw_jstep(r, (size_t)s.count));
        for (int64_t i = 0; i < s.count; i++) {
            int64_t p = s.first + i * s.step;
            const char *c = obj.u.s + (at ? at[p] : (uint32_t)p);
            mw_juni_at(c, &len);
            MW_JTRY(mw_jbuf_add(r, &b, c, len));
        }
        *out = mw_jbuf_value(&b);
    }
    out->markup = obj.markup;
    return MW_OK;
}

mw_status mw_jattr_slice(mw_jrun *r, mw_jval obj, const mw_jval part[3], mw_jval *out) {
    int64_t n;
    span s = {0};
    if (obj.type == MW_J_UNDEF) return MW_JUNDEF(r, obj);
    if (!mw_jis_str(obj) && !mw_jis_seq(obj) && obj.type != MW_J_RANGE) {
        return MW_JERROR(r, "a %s cannot be sliced", mw_jtype_name(obj));
    }
    MW_JTRY(mw_jlen(r, obj, &n));
    MW_JTRY(slice_of(r, part, n, &s));
    if (mw_jis_str(obj)) return slice_str(r, obj, s, out);
    if (obj.type == MW_J_RANGE) return slice_range(r, obj.u.range, s, out);
    mw_jval *v;
    MW_JTRY(mw_jvals(r, (size_t)s.count, &v));
    for (int64_t i = 0; i < s.count; i++) v[i] = obj.u.v[s.first + i * s.step];
    *out = obj.type == MW_J_LIST ? mw_jlist(v, (size_t)s.count) : mw_jtuple(v, (size_t)s.count);
    return MW_OK;
}

/* A step that looks like a number is an index. */
static mw_status path_step(mw_jrun *r, mw_jval name, mw_jval *out) {
    uint32_t len;
    *out = name;
    for (uint32_t i = 0; i < name.n; i += len) {
        if (!mw_juni_digit(mw_juni_at(name.u.s + i, &len))) return MW_OK;
    }
    int64_t index;
    if (!name.n) return MW_OK;
    if (!name.sub || mw_jnum_read_int(name, &index) != MW_JNUM_OK) {
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "attribute path '%.*s' is not supported",
                        (int)(name.n < 60 ? name.n : 60), name.u.s);
    }
    *out = MW_JINT(index);
    return MW_OK;
}

mw_status mw_jattr_path(mw_jrun *r, mw_jval attribute, mw_jval *path) {
    mw_jval *v;
    if (!mw_jis_str(attribute)) {
        bool none = attribute.type == MW_J_NONE || attribute.type == MW_J_MISSING;
        MW_JTRY(mw_jvals(r, 1, &v));
        v[0] = attribute;
        *path = mw_jlist(v, !none);
        return MW_OK;
    }
    size_t n = 1, k = 0;
    MW_JTRY(mw_jstep_bytes(r, attribute.n));
    for (uint32_t i = 0; i < attribute.n; i++) n += attribute.u.s[i] == '.';
    MW_JTRY(mw_jvals(r, n, &v));
    for (uint32_t i = 0, from = 0; i <= attribute.n; i++) {
        if (i < attribute.n && attribute.u.s[i] != '.') continue;
        MW_JTRY(path_step(r, mw_jstr_wrap(attribute.u.s + from, i - from), &v[k++]));
        from = i + 1;
    }
    *path = mw_jlist(v, n);
    return MW_OK;
}

mw_status mw_jattr_walk(mw_jrun *r, mw_jval v, mw_jval path, mw_jval fallback, mw_jval *out) {
    bool replace = fallback.type != MW_J_MISSING && fallback.type != MW_J_NONE;
    for (uint32_t i = 0; i < path.n; i++) {
        MW_JTRY(mw_jattr_item(r, v, path.u.v[i], &v));
        if (replace && v.type == MW_J_UNDEF) v = fallback;
    }
    *out = v;
    return MW_OK;
}
