#include "worker/text/constraint_number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INT_DIGITS      18
#define FRACTION_DIGITS 15
#define BOUND_DIGITS    15 /* of a bound, on either side of the point: what a double holds exactly enough */

/* ---- without bounds ---- */

/* One to n digits. */
static void digits(mw_nfa *g, int32_t from, int n, int32_t to) {
    for (int i = 1; i <= n; i++) {
        mw_nfa_bytes(g, from, '0', '9', to);
        if (i == n) break;
        int32_t next = mw_nfa_node_new(g);
        mw_nfa_bytes(g, from, '0', '9', next);
        from = next;
    }
}

static void whole_part(mw_nfa *g, int32_t from, int32_t to) {
    int32_t first = mw_nfa_node_new(g);
    mw_nfa_bytes(g, from, '0', '0', to);
    mw_nfa_bytes(g, from, '1', '9', first);
    mw_nfa_empty(g, first, to);
    digits(g, first, INT_DIGITS - 1, to);
}

static void any_number(mw_nfa *g, int32_t from, bool integer, int32_t to) {
    int32_t start = mw_nfa_node_new(g), whole = mw_nfa_node_new(g);
    mw_nfa_bytes(g, from, '-', '-', start);
    mw_nfa_empty(g, from, start);
    whole_part(g, start, integer ? to : whole);
    if (integer) return;
    int32_t point = mw_nfa_node_new(g), fraction = mw_nfa_node_new(g), e = mw_nfa_node_new(g),
            sign = mw_nfa_node_new(g);
    mw_nfa_empty(g, whole, to);
    mw_nfa_bytes(g, whole, '.', '.', point);
    digits(g, point, FRACTION_DIGITS, fraction);
    mw_nfa_empty(g, fraction, to);
    for (int i = 0; i < 2; i++) {
        mw_nfa_bytes(g, i ? whole : fraction, 'e', 'e', e);
        mw_nfa_bytes(g, i ? whole : fraction, 'E', 'E', e);
    }
    mw_nfa_bytes(g, e, '+', '+', sign);
    mw_nfa_bytes(g, e, '-', '-', sign);
    mw_nfa_empty(g, e, sign);
    digits(g, sign, 2, to);
}

/* ---- bounds ---- */

/* A bound without its sign: digits on both sides of the point, none superfluous. */
typedef struct {
    char whole[BOUND_DIGITS + 1], fraction[BOUND_DIGITS + 1];
    int n_whole, n_fraction;
    bool negative, open, given;
} decimal;

static mw_status too_fine(const json_t *value) {
    return MW_FAIL(MW_ERR_UNSUPPORTED, "a bound of %g: more than %d digits before or behind the point",
                   json_number_value(value), BOUND_DIGITS);
}

static mw_status split_bound(mw_number_bound b, decimal *out) {
    char text[64];
    *out = (decimal){.open = b.open, .given = b.value != NULL};
    if (!b.value) return MW_OK;
    double v = json_number_value(b.value), limit = pow(10, BOUND_DIGITS);
    if (!(fabs(v) < limit)) return too_fine(b.value);
    if (json_is_integer(b.value)) {
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(b.value));
    } else {
        int precision = 0;
        do snprintf(text, sizeof text, "%.*f", precision, v);
        while (strtod(text, NULL) != v && precision++ < BOUND_DIGITS);
        if (strtod(text, NULL) != v) return too_fine(b.value);
    }
    const char *p = text + (text[0] == '-'), *point = strchr(p, '.');
    size_t whole = point ? (size_t)(point - p) : strlen(p), fraction = point ? strlen(point + 1) : 0;
    while (fraction && point[fraction] == '0') fraction--;
    if (whole > BOUND_DIGITS || fraction > BOUND_DIGITS) return too_fine(b.value);
    memcpy(out->whole, p, whole);
    if (fraction) memcpy(out->fraction, point + 1, fraction);
    out->n_whole = (int)whole;
    out->n_fraction = (int)fraction;
    out->negative = text[0] == '-' && v != 0;
    return MW_OK;
}

/* One walk along a number without sign, between two bounds without signs. While `tight`, the digits so far are those of
 * the bound. */
typedef struct {
    mw_nfa *g;
    const decimal *low, *high; /* not given: no bound on that side */
    int max_fraction;
    int32_t to;
} walk;

static void fraction_from(const walk *w, int32_t from, int at, bool low_tight, bool high_tight);

/* May the number end here, with `at` digits of the fraction written? Digits of a bound that are not written are zero
 * in the number. */
static bool may_end(const walk *w, int at, bool low_tight, bool high_tight) {
    bool low_rest = low_tight && at < w->low->n_fraction, high_rest = high_tight && at < w->high->n_fraction;
    if (low_tight && (low_rest || w->low->open)) return false;
    return !high_tight || high_rest || !w->high->open;
}

static int bound_digit(const char *text, int n, int at) {
    return at < n ? text[at] - '0' : 0;
}

static void end_of_whole(const walk *w, int32_t node, bool low_tight, bool high_tight) {
    if (may_end(w, 0, low_tight, high_tight)) mw_nfa_empty(w->g, node, w->to);
    if (w->max_fraction == 0) return;
    int32_t point = mw_nfa_node_new(w->g);
    mw_nfa_bytes(w->g, node, '.', '.', point);
    fraction_from(w, point, 0, low_tight, high_tight);
}

/* The digits of the fraction after `at` of them. A tight side forks one chain each, so the walk is as long as it is
 * deep: at most two tight chains and the free one. */
static void fraction_from(const walk *w, int32_t from, int at, bool low_tight, bool high_tight) {
    mw_nfa *g = w->g;
    if (at == w->max_fraction || g->st != MW_OK) return;
    int lo = low_tight ? bound_digit(w->low->fraction, w->low->n_fraction, at) : 0;
    int hi = high_tight ? bound_digit(w->high->fraction, w->high->n_fraction, at) : 9;
    for (int d = lo; d <= hi;) {
        bool low_next = low_tight && d == lo, high_next = high_tight && d == hi;
        int last = d; /* digits strictly inside go the same way */
        if (!low_next && !high_next)
            while (last + 1 <= hi && !(high_tight && last + 1 == hi)) last++;
        int32_t next = mw_nfa_node_new(g);
        mw_nfa_bytes(g, from, '0' + d, '0' + last, next);
        if (may_end(w, at + 1, low_next, high_next)) mw_nfa_empty(g, next, w->to);
        fraction_from(w, next, at + 1, low_next, high_next);
        d = last + 1;
    }
}

/* Digits of a whole part of exactly n digits after `at` of them. */
static void whole_from(const walk *w, int32_t from, int n, int at, bool low_tight, bool high_tight) {
    mw_nfa *g = w->g;
    if (g->st != MW_OK) return;
    if (at == n) {
        end_of_whole(w, from, low_tight, high_tight);
        return;
    }
    int least = at == 0 && n > 1; /* no zeros in front */
    int lo = low_tight ? w->low->whole[at] - '0' : least, hi = high_tight ? w->high->whole[at] - '0' : 9;
    if (lo < least) lo = least;
    for (int d = lo; d <= hi;) {
        bool low_next = low_tight && d == w->low->whole[at] - '0', high_next = high_tight && d == hi;
        int last = d;
        if (!low_next && !high_next)
            while (last + 1 <= hi && !(high_tight && last + 1 == hi)) last++;
        int32_t next = mw_nfa_node_new(g);
        mw_nfa_bytes(g, from, '0' + d, '0' + last, next);
        whole_from(w, next, n, at + 1, low_next, high_next);
        d = last + 1;
    }
}

/* Numbers without sign between the bounds. */
static void magnitude(mw_nfa *g, int32_t from, const decimal *low, const decimal *high, int max_fraction, int32_t to) {
    walk w = {g, low, high, max_fraction, to};
    int first = low->given ? low->n_whole : 1, last = high->given ? high->n_whole : INT_DIGITS;
    for (int n = first; n <= last; n++)
        whole_from(&w, from, n, 0, low->given && n == low->n_whole, high->given && n == high->n_whole);
}

/* -1, 0, 1 as |a| is below, equal to, above |b|. */
static int compare(const decimal *a, const decimal *b) {
    if (a->n_whole != b->n_whole) return a->n_whole < b->n_whole ? -1 : 1;
    int c = strcmp(a->whole, b->whole);
    return c ? c : strcmp(a->fraction, b->fraction);
}

mw_status mw_number(mw_nfa *g, int32_t from, bool integer, mw_number_bound low_bound, mw_number_bound high_bound,
                    int32_t to) {
    static const decimal none = {0}, zero = {.whole = "0", .n_whole = 1, .given = true},
                         above_zero = {.whole = "0", .n_whole = 1, .given = true, .open = true};
    decimal low, high;
    mw_status st = MW_OK;
    if (!low_bound.value && !high_bound.value) {
        any_number(g, from, integer, to);
        return MW_OK;
    }
    MW_TRY(st, split_bound(low_bound, &low));
    MW_TRY(st, split_bound(high_bound, &high));
    int longest = low.n_whole > high.n_whole ? low.n_whole : high.n_whole;
    int max_fraction = integer ? 0 : BOUND_DIGITS - longest;
    if (max_fraction < low.n_fraction) max_fraction = integer ? 0 : low.n_fraction;
    if (max_fraction < high.n_fraction) max_fraction = integer ? 0 : high.n_fraction;
    if (!low.given || low.negative) { /* numbers below zero: the bounds change places */
        bool up_to_zero = !high.given || !high.negative;
        const decimal *least = up_to_zero ? &above_zero : &high, *most = low.given ? &low : &none;
        int32_t minus = mw_nfa_node_new(g);
        mw_nfa_bytes(g, from, '-', '-', minus);
        if (!most->given || compare(least, most) <= 0) magnitude(g, minus, least, most, max_fraction, to);
    }
    if (!high.given || !high.negative) {
        const decimal *least = low.given && !low.negative ? &low : &zero, *most = high.given ? &high : &none;
        if (!most->given || compare(least, most) <= 0) magnitude(g, from, least, most, max_fraction, to);
    }
fail:
    return st;
}
