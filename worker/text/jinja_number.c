#include "worker/text/jinja_number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "worker/text/jinja_unicode.h"

/* digits * 10^exp10, read back; written without a decimal point, so the locale does not matter. */
static double read_back(uint64_t digits, int exp10) {
    char text[48];
    snprintf(text, sizeof text, "%llue%d", (unsigned long long)digits, exp10);
    return strtod(text, NULL);
}

/* The shortest decimal that reads back as f > 0: *digits * 10^*exp10, without trailing zeros. */
static void shortest(double f, uint64_t *digits, int *exp10) {
    for (int p = 1; p <= 17; p++) {
        char text[40];
        snprintf(text, sizeof text, "%.*e", p - 1, f);
        uint64_t d = 0;
        const char *c = text;
        for (; *c != 'e'; c++) {
            if (*c >= '0' && *c <= '9') d = d * 10 + (uint64_t)(*c - '0');
        }
        int e = atoi(c + 1) - (p - 1);
        /* Just above a power of two the interval that reads back as f is wider upwards, so a neighbour of the nearest
         * decimal can be the only one of its length inside. */
        for (int k = 0; k < 3; k++) {
            uint64_t try_d = k == 0 ? d : k == 1 ? d + 1 : d - 1;
            if (read_back(try_d, e) != f) continue;
            while (try_d % 10 == 0) {
                try_d /= 10;
                e++;
            }
            *digits = try_d;
            *exp10 = e;
            return;
        }
    }
    *digits = 0; /* not reached for a finite number: 17 digits always read back */
    *exp10 = 0;
}

int mw_jnum_repr(double f, char out[32]) {
    const char *sign = signbit(f) ? "-" : "";
    if (f == 0) return snprintf(out, 32, "%s0.0", sign);
    uint64_t digits;
    int exp10;
    char d[24];
    shortest(fabs(f), &digits, &exp10);
    int n = snprintf(d, sizeof d, "%llu", (unsigned long long)digits);
    int point = n + exp10; /* digits before the decimal point */
    if (point > 16 || point < -3) {
        return snprintf(out, 32, "%s%c%s%se%+03d", sign, d[0], n > 1 ? "." : "", d + 1, point - 1);
    }
    if (point <= 0) return snprintf(out, 32, "%s0.%.*s%s", sign, -point, "0000", d);
    if (point >= n) return snprintf(out, 32, "%s%s%.*s.0", sign, d, point - n, "0000000000000000");
    return snprintf(out, 32, "%s%.*s.%s", sign, point, d, d + point);
}

double mw_jnum_strtod(const char *s, size_t n) {
    /* Digits with the point taken out and its place put into the exponent: strtod then needs no decimal point. */
    char text[448];
    size_t k = 0, i = 0;
    int exp10 = 0;
    bool point = false;
    for (; i < n && s[i] != 'e' && s[i] != 'E' && k < 420; i++) {
        if (s[i] == '.') {
            point = true;
        } else {
            text[k++] = s[i];
            exp10 -= point;
        }
    }
    long e = 0;
    if (i < n) {
        char rest[16];
        snprintf(rest, sizeof rest, "%.*s", (int)(n - i - 1 < 15 ? n - i - 1 : 15), s + i + 1);
        e = strtol(rest, NULL, 10);
        e = e > 100000 ? 100000 : e < -100000 ? -100000 : e;
    }
    snprintf(text + k, sizeof text - k, "e%ld", e + exp10);
    return strtod(text, NULL);
}

/* Digits with single underscores between them, appended to text without the underscores; the count of digits. */
static size_t take_digits(const char **s, const char *end, char *text, size_t *k, size_t cap) {
    size_t n = 0;
    while (*s < end &&
           ((**s >= '0' && **s <= '9') || (**s == '_' && n && *s + 1 < end && (*s)[1] >= '0' && (*s)[1] <= '9'))) {
        if (**s != '_') {
            if (*k < cap) text[(*k)++] = **s;
            n++;
        }
        ++*s;
    }
    return n;
}

static bool other_digits(const char *s, size_t n) {
    uint32_t len, cp;
    for (size_t i = 0; i < n; i += len) {
        cp = mw_juni_at(s + i, &len);
        if (cp >= 0x80 && mw_juni_decimal(cp)) return true;
    }
    return false;
}

mw_jnum_read mw_jnum_read_int(mw_jval text, int64_t *out) {
    const char *s = text.u.s;
    size_t n = text.n, k = 0;
    mw_juni_strip(&s, &n, true, true);
    if (other_digits(s, n)) return MW_JNUM_DIGITS;
    const char *end = s + n;
    bool minus = n && *s == '-';
    if (n && (*s == '-' || *s == '+')) s++;
    while (end - s > 1 && *s == '0' && s[1] != '_') s++;
    char d[24];
    size_t digits = take_digits(&s, end, d, &k, sizeof d - 1);
    if (!digits || s != end) return MW_JNUM_BAD;
    uint64_t v = 0;
    for (size_t i = 0; i < k; i++) {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(d[i] - '0'), &v)) {
            return MW_JNUM_RANGE;
        }
    }
    if (digits > k || v > (uint64_t)INT64_MAX) return MW_JNUM_RANGE;
    *out = minus ? -(int64_t)v : (int64_t)v;
    return MW_JNUM_OK;
}

static bool word(const char *s, const char *end, const char *w) {
    return (size_t)(end - s) == strlen(w) && strncasecmp(s, w, strlen(w)) == 0;
}

mw_jnum_read mw_jnum_read_float(mw_jval text, double *out) {
    const char *s = text.u.s;
    size_t n = text.n, k = 0;
    mw_juni_strip(&s, &n, true, true);
    if (other_digits(s, n)) return MW_JNUM_DIGITS;
    const char *end = s + n;
    char t[400];
    bool minus = n && *s == '-';
    if (n && (*s == '-' || *s == '+')) s++;
    if (word(s, end, "inf") || word(s, end, "infinity") || word(s, end, "nan")) return MW_JNUM_RANGE;
    size_t digits = take_digits(&s, end, t, &k, 370);
    if (s < end && *s == '.') {
        t[k++] = *s++;
        digits += take_digits(&s, end, t, &k, 371);
    }
    if (!digits) return MW_JNUM_BAD;
    if (s < end && (*s == 'e' || *s == 'E')) {
        t[k++] = *s++;
        if (s < end && (*s == '-' || *s == '+')) t[k++] = *s++;
        if (!take_digits(&s, end, t, &k, 390)) return MW_JNUM_BAD;
    }
    if (s != end) return MW_JNUM_BAD;
    if (digits > 360) return MW_JNUM_RANGE;
    *out = mw_jnum_strtod(t, k);
    if (minus) *out = -*out;
    return isfinite(*out) ? MW_JNUM_OK : MW_JNUM_RANGE;
}

static mw_status too_big(mw_jrun *r) {
    return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a number beyond 64 bits is not supported");
}

static mw_status checked(mw_jrun *r, double f, mw_jval *out) {
    if (!isfinite(f)) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a float that is not finite is not supported");
    *out = MW_JFLOAT(f);
    return MW_OK;
}

mw_status mw_jnum_trunc(mw_jrun *r, double f, mw_jval *out) {
    if (!(f >= -0x1p63 && f < 0x1p63)) return too_big(r);
    *out = MW_JINT((int64_t)f);
    return MW_OK;
}

static double floor_mod(double a, double b) {
    double m = fmod(a, b);
    if (m != 0) return (m < 0) != (b < 0) ? m + b : m;
    return copysign(0.0, b);
}

/* Python's float floor division: exact on the quotient that fmod leaves. */
static double floor_div(double a, double b) {
    double m = fmod(a, b), q = (a - m) / b;
    if (m != 0 && (m < 0) != (b < 0)) q -= 1;
    if (q == 0) return copysign(0.0, a / b);
    double whole = floor(q);
    return q - whole > 0.5 ? whole + 1 : whole;
}

static mw_status int_pow(mw_jrun *r, int64_t a, int64_t b, mw_jval *out) {
    int64_t v = 1;
    while (b > 0) {
        if ((b & 1) && __builtin_mul_overflow(v, a, &v)) return too_big(r);
        b >>= 1;
        if (b && __builtin_mul_overflow(a, a, &a)) return too_big(r);
    }
    *out = MW_JINT(v);
    return MW_OK;
}

static mw_status float_arith(mw_jrun *r, mw_jarith op, double a, double b, mw_jval *out) {
    switch (op) {
    case MW_JADD: return checked(r, a + b, out);
    case MW_JSUB: return checked(r, a - b, out);
    case MW_JMUL: return checked(r, a * b, out);
    case MW_JPOW:
        if (a == 0 && b < 0) return MW_JERROR(r, "zero to a negative power");
        if (a < 0 && b != floor(b)) {
            return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a negative number to a fraction is not supported");
        }
        return checked(r, pow(a, b), out);
    default: break;
    }
    if (b == 0) return MW_JERROR(r, "division by zero");
    return checked(r, op == MW_JDIV ? a / b : op == MW_JMOD ? floor_mod(a, b) : floor_div(a, b), out);
}

static mw_status int_arith(mw_jrun *r, mw_jarith op, int64_t a, int64_t b, mw_jval *out) {
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case MW_JADD: over = __builtin_add_overflow(a, b, &v); break;
    case MW_JSUB: over = __builtin_sub_overflow(a, b, &v); break;
    case MW_JMUL: over = __builtin_mul_overflow(a, b, &v); break;
    case MW_JPOW:
        if (b >= 0) return int_pow(r, a, b, out);
        return float_arith(r, op, (double)a, (double)b, out);
    default:
        if (b == 0) return MW_JERROR(r, "division by zero");
        if (op == MW_JDIV) {
            /* Beyond 2^53 the quotient of the rounded operands is not the rounded quotient. */
            const int64_t exact = (int64_t)1 << 53;
            if (a > exact || a < -exact || b > exact || b < -exact) return too_big(r);
            return float_arith(r, op, (double)a, (double)b, out);
        }
        if (b == -1) {
            over = op == MW_JFLOORDIV && a == INT64_MIN;
            v = op == MW_JMOD || over ? 0 : -a;
            break;
        }
        v = a % b;
        bool down = v != 0 && (v < 0) != (b < 0);
        v = op == MW_JMOD ? v + (down ? b : 0) : a / b - down;
    }
    if (over) return too_big(r);
    *out = MW_JINT(v);
    return MW_OK;
}

mw_status mw_jnum_arith(mw_jrun *r, mw_jarith op, mw_jval a, mw_jval b, mw_jval *out) {
    if (a.type != MW_J_FLOAT && b.type != MW_J_FLOAT) return int_arith(r, op, mw_jto_int(a), mw_jto_int(b), out);
    double x = a.type == MW_J_FLOAT ? a.u.f : (double)mw_jto_int(a);
    double y = b.type == MW_J_FLOAT ? b.u.f : (double)mw_jto_int(b);
    return float_arith(r, op, x, y, out);
}

/* Half to even, to a multiple of 10^-digits. */
static mw_status round_int(mw_jrun *r, int64_t v, int64_t digits, mw_jval *out) {
    int64_t unit = 1, whole = v;
    if (digits < -18) { /* 10^19 is beyond 64 bits: only zero is left, or an error */
        bool up = digits == -19 && (v > 5000000000000000000 || v < -5000000000000000000);
        if (up) return too_big(r);
        whole = 0;
    } else if (digits < 0) {
        for (; digits < 0; digits++) unit *= 10;
        int64_t rest = v % unit, size = rest < 0 ? -rest : rest;
        whole = v - rest;
        bool up = size > unit / 2 || (size == unit / 2 && (whole / unit) % 2 != 0);
        if (up && __builtin_add_overflow(whole, rest < 0 ? -unit : unit, &whole)) return too_big(r);
    }
    *out = MW_JINT(whole);
    return MW_OK;
}

mw_status mw_jnum_round(mw_jrun *r, mw_jval v, int64_t digits, mw_jval *out) {
    if (v.type != MW_J_FLOAT) return round_int(r, mw_jto_int(v), digits, out);
    if (digits < 0) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "rounding a float to tens is not supported");
    if (digits > 330) {
        *out = v;
        return MW_OK;
    }
    char text[720]; /* at most 309 digits, a point and 330 decimals */
    int n = snprintf(text, sizeof text, "%.*f", (int)digits, fabs(v.u.f));
    for (int i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') text[i] = '.'; /* the locale's decimal point */
    }
    if (n > 400) { /* more digits than a double has: nothing to round */
        *out = v;
        return MW_OK;
    }
    return checked(r, copysign(mw_jnum_strtod(text, (size_t)n), v.u.f), out);
}
