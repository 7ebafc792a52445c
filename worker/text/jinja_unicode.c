#include "worker/text/jinja_unicode.h"

#include <string.h>
#include <utf8proc.h>

bool mw_juni_ascii(const char *s, size_t n) {
    uint64_t bits = 0, x;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&x, s, 8);
        bits |= x;
    }
    for (; n; s++, n--) bits |= (uint8_t)*s;
    return !(bits & 0x8080808080808080u);
}

bool mw_juni_valid(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        if ((uint8_t)s[i] < 0x80) {
            i++;
            continue;
        }
        utf8proc_int32_t cp;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &cp);
        if (len <= 0) return false;
        i += (size_t)len;
    }
    return true;
}

size_t mw_juni_length(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xc0) != 0x80;
    return count;
}

uint32_t mw_juni_at(const char *s, uint32_t *len) {
    const uint8_t *b = (const uint8_t *)s;
    if (b[0] < 0x80) {
        *len = 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *len = 2;
        return (uint32_t)(b[0] & 0x1f) << 6 | (b[1] & 0x3f);
    }
    if (b[0] < 0xf0) {
        *len = 3;
        return (uint32_t)(b[0] & 0x0f) << 12 | (uint32_t)(b[1] & 0x3f) << 6 | (b[2] & 0x3f);
    }
    *len = 4;
    return (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3f) << 12 | (uint32_t)(b[2] & 0x3f) << 6 | (b[3] & 0x3f);
}

uint32_t mw_juni_before(const char *s, size_t n, uint32_t *len) {
    size_t i = n - 1;
    while (i > 0 && ((uint8_t)s[i] & 0xc0) == 0x80) i--;
    return mw_juni_at(s + i, len);
}

uint32_t mw_juni_put(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t mw_juni_offset(mw_jval str, size_t index) {
    if (str.sub) return index;
    size_t i = 0;
    for (; i < str.n; i++) {
        if (((uint8_t)str.u.s[i] & 0xc0) == 0x80) continue;
        if (!index--) break;
    }
    return i;
}

mw_jval mw_juni_slice(mw_jval str, size_t begin, size_t end) {
    size_t b = mw_juni_offset(str, begin);
    mw_jval rest = {.type = MW_J_STR, .sub = str.sub, .n = (uint32_t)(str.n - b), .u.s = str.u.s + b};
    rest.n = (uint32_t)mw_juni_offset(rest, end - begin);
    return str.sub ? rest : mw_jstr_wrap(rest.u.s, rest.n);
}

static bool in_ranges(uint32_t cp, const uint32_t (*range)[2], size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (cp >= range[i][0] && cp <= range[i][1]) return true;
    }
    return false;
}
#define IN(cp, table) in_ranges((cp), (table), sizeof(table) / sizeof *(table))

bool mw_juni_space(uint32_t cp) {
    if (cp < 0x80) return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool mw_juni_printable(uint32_t cp) {
    if (cp < 0x7f) return cp >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

bool mw_juni_alpha(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool mw_juni_decimal(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}

bool mw_juni_digit(uint32_t cp) {
    /* Numeric_Type=Digit outside the category of decimal digits: superscripts, circled digits and the like. */
    static const uint32_t digits[][2] = {
        {0x00b2, 0x00b3}, {0x00b9, 0x00b9},   {0x1369, 0x1371},   {0x19da, 0x19da},   {0x2070, 0x2070},
        {0x2074, 0x2079}, {0x2080, 0x2089},   {0x2460, 0x2468},   {0x2474, 0x247c},   {0x2488, 0x2490},
        {0x24ea, 0x24ea}, {0x24f5, 0x24fd},   {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},
        {0x278a, 0x2792}, {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a},
    };
    return mw_juni_decimal(cp) || IN(cp, digits);
}

bool mw_juni_alnum(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return mw_juni_alpha(cp) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

bool mw_juni_lower(uint32_t cp) {
    static const uint32_t other[][2] = {
        {0x00aa, 0x00aa},   {0x00ba, 0x00ba},   {0x02b0, 0x02b8},   {0x02c0, 0x02c1},   {0x02e0, 0x02e4},
        {0x0345, 0x0345},   {0x037a, 0x037a},   {0x1d2c, 0x1d6a},   {0x1d78, 0x1d78},   {0x1d9b, 0x1dbf},
        {0x2071, 0x2071},   {0x207f, 0x207f},   {0x2090, 0x209c},   {0x2170, 0x217f},   {0x24d0, 0x24e9},
        {0x2c7c, 0x2c7d},   {0xa69c, 0xa69d},   {0xa770, 0xa770},   {0xa7f8, 0xa7f9},   {0xab5c, 0xab5f},
        {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
    };
    if (cp < 0x80) return cp >= 'a' && cp <= 'z';
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LL || IN(cp, other);
}

bool mw_juni_upper(uint32_t cp) {
    static const uint32_t other[][2] = {
        {0x2160, 0x216f}, {0x24b6, 0x24cf}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189},
    };
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z';
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LU || IN(cp, other);
}

bool mw_juni_title(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LT;
}

static bool cased(uint32_t cp) {
    return mw_juni_lower(cp) || mw_juni_upper(cp) || mw_juni_title(cp);
}

static bool case_ignorable(uint32_t cp) {
    static const uint32_t other[][2] = {
        {0x27, 0x27},     {0x2e, 0x2e},     {0x3a, 0x3a},     {0xb7, 0xb7},     {0x387, 0x387},   {0x55f, 0x55f},
        {0x5f4, 0x5f4},   {0x2018, 0x2019}, {0x2024, 0x2024}, {0x2027, 0x2027}, {0xfe13, 0xfe13}, {0xfe52, 0xfe52},
        {0xfe55, 0xfe55}, {0xff07, 0xff07}, {0xff0e, 0xff0e}, {0xff1a, 0xff1a},
    };
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: return IN(cp, other);
    }
}

void mw_juni_strip(const char **s, size_t *n, bool lead, bool trail) {
    uint32_t len;
    while (lead && *n && mw_juni_space(mw_juni_at(*s, &len))) {
        *s += len;
        *n -= len;
    }
    while (trail && *n && mw_juni_space(mw_juni_before(*s, *n, &len))) *n -= len;
}

/* A capital sigma that ends a word: a cased letter before it, none after it, looking through ignorable ones. */
static bool final_sigma(mw_jval str, size_t at, uint32_t sigma_len) {
    uint32_t len, cp = 0;
    size_t i = at;
    bool found = false;
    while (i > 0 && !found) {
        cp = mw_juni_before(str.u.s, i, &len);
        i -= len;
        found = !case_ignorable(cp);
    }
    if (!found || !cased(cp)) return false;
    for (i = at + sigma_len; i < str.n; i += len) {
        cp = mw_juni_at(str.u.s + i, &len);
        if (!case_ignorable(cp)) return !cased(cp);
    }
    return true;
}

static const mw_jcasing *special(uint32_t cp) {
    size_t lo = 0, hi = mw_jcasing_count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (mw_jcasing_table[mid].cp < cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < mw_jcasing_count && mw_jcasing_table[lo].cp == cp ? &mw_jcasing_table[lo] : NULL;
}

/* The mapping of one code point; out holds up to 3, the count is returned. */
static int map_one(mw_jval str, size_t at, uint32_t len, uint32_t cp, mw_jcase how, uint32_t out[3]) {
    if (how == MW_JCASE_LOWER) {
        if (cp == 0x3a3 && final_sigma(str, at, len)) {
            out[0] = 0x3c2;
            return 1;
        }
        if (cp == 0x130) {
            out[0] = 'i';
            out[1] = 0x307;
            return 2;
        }
        out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
        return 1;
    }
    const mw_jcasing *s = cp < 0xdf ? NULL : special(cp);
    if (s) {
        const uint16_t *to = how == MW_JCASE_UPPER ? s->upper : s->title;
        int n = 0;
        while (n < 3 && to[n]) {
            out[n] = to[n];
            n++;
        }
        return n;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    out[0] = (uint32_t)(how == MW_JCASE_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c));
    return 1;
}

static mw_status case_ascii(mw_jrun *r, mw_jval str, mw_jcase how, mw_jval *out) {
    char *p;
    MW_JTRY(mw_jstr_room(r, str.n, &p, out));
    bool up = how != MW_JCASE_LOWER;
    for (uint32_t i = 0; i < str.n; i++) {
        char c = str.u.s[i];
        bool low = c >= 'a' && c <= 'z', high = c >= 'A' && c <= 'Z';
        p[i] = up && low ? (char)(c - 32) : !up && high ? (char)(c + 32) : c;
        if (how == MW_JCASE_TITLE) up = !low && !high;
        if (how == MW_JCASE_CAPITALIZE) up = false;
    }
    out->sub = 1;
    return MW_OK;
}

mw_status mw_juni_case(mw_jrun *r, mw_jval str, mw_jcase how, mw_jval *out) {
    if (str.sub) return case_ascii(r, str, how, out);
    mw_jbuf b = {0};
    bool start = true; /* title case wants the next code point in title case */
    uint32_t len;
    MW_JTRY(mw_jstep_bytes(r, str.n));
    for (size_t i = 0; i < str.n; i += len) {
        uint32_t to[3], cp = mw_juni_at(str.u.s + i, &len);
        mw_jcase one = how;
        if (how == MW_JCASE_TITLE || how == MW_JCASE_CAPITALIZE) one = start ? MW_JCASE_TITLE : MW_JCASE_LOWER;
        int n = map_one(str, i, len, cp, one, to);
        for (int k = 0; k < n; k++) {
            char bytes[4];
            MW_JTRY(mw_jbuf_add(r, &b, bytes, mw_juni_put(to[k], bytes)));
        }
        start = how == MW_JCASE_TITLE && !cased(cp);
    }
    *out = mw_jbuf_value(&b);
    return MW_OK;
}
