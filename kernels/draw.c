#include "kernels/draw.h"

#include <math.h>

int32_t mw_draw_best(const float *x, int vocab) {
    float top = -INFINITY;
    int32_t at = -1;
    bool nan = false;
    for (int i = 0; i < vocab; i++) {
        nan |= x[i] != x[i];
        if (x[i] > top) top = x[i], at = i;
    }
    return nan || at < 0 || isinf(top) ? -1 : at;
}

/* The order of candidates: larger x first, then smaller id. Total, so every selection below is deterministic. */
static bool before(const float *x, int32_t a, int32_t b) {
    return x[a] > x[b] || (x[a] == x[b] && a < b);
}

/* Reorder index[0..n) so that its first m entries are the shortest beginning (in the order above) whose mass reaches
 * `target`; returns m. Mass of a candidate: 1, or mw_draw_mass when by_probability. Quickselect on mass. */
static int shortest_prefix(const float *x, int32_t *index, int n, uint64_t target, float top, bool by_probability) {
    int lo = 0, hi = n; /* the boundary lies in [lo, hi]; everything left of lo is kept */
    while (hi - lo > 1) {
        int32_t a = index[lo], b = index[lo + (hi - lo) / 2], c = index[hi - 1], pivot;
        if (before(x, a, b))
            pivot = before(x, b, c) ? b : before(x, a, c) ? c : a;
        else
            pivot = before(x, a, c) ? a : before(x, b, c) ? c : b;
        int mid = lo;
        uint64_t mass = 0;
        for (int i = lo; i < hi; i++) { /* [lo, mid): strictly before the pivot */
            if (!before(x, index[i], pivot)) continue;
            int32_t t = index[i];
            index[i] = index[mid];
            index[mid++] = t;
            mass += by_probability ? mw_draw_mass(x[t] - top) : 1;
        }
        if (mass >= target) {
            hi = mid;
            continue;
        }
        int at = mid; /* the pivot itself comes next */
        while (index[at] != pivot) at++;
        index[at] = index[mid];
        index[mid] = pivot;
        mass += by_probability ? mw_draw_mass(x[pivot] - top) : 1;
        lo = mid + 1;
        if (mass >= target) return lo;
        target -= mass;
    }
    return hi;
}

/* Candidates after min_p, top_k and top_p: how many entries of index are left. */
static int cut(const mw_draw *how, const float *x, int vocab, int32_t best, int32_t *index) {
    float top = x[best], least = top + how->log_min_p;
    int n = 0;
    for (int i = 0; i < vocab; i++)
        if (x[i] >= least && x[i] > -INFINITY) index[n++] = i;
    if (how->top_k > 0 && how->top_k < n) n = shortest_prefix(x, index, n, (uint64_t)how->top_k, top, false);
    if (how->top_p < 1) {
        uint64_t total = 0;
        for (int i = 0; i < n; i++) total += mw_draw_mass(x[index[i]] - top);
        n = shortest_prefix(x, index, n, mw_draw_target(how->top_p, total), top, true);
    }
    return n;
}

/* The candidate with the largest score; all tokens where index is NULL. One beats `score` only if -log u <
 * exp(x - score), and -log u >= 1 - u: so most are turned away, by a safe margin, without a logarithm. */
static int32_t draw(const mw_draw *how, const float *x, const int32_t *index, int n, int32_t best) {
    uint64_t key = mw_draw_key(how);
    double score = -INFINITY;
    int32_t chosen = best;
    for (int i = -1; i < n; i++) { /* the best candidate first: a high score turns away more */
        int32_t t = i < 0 ? best : index ? index[i] : i;
        if (i >= 0 && t == best) continue;
        double u = mw_draw_uniform(key, (uint32_t)t);
        if (i >= 0 && 1 - u > 1.001 * exp((double)x[t] - score)) continue;
        double g = mw_draw_score(x[t], u);
        if (g > score || (g == score && t < chosen)) score = g, chosen = t;
    }
    return chosen;
}

int32_t mw_draw_row(const mw_draw *how, const float *logits, int vocab, float *x, int32_t *index) {
    int32_t best = mw_draw_best(logits, vocab);
    if (best < 0 || how->inv_temperature == 0) return best;
    for (int i = 0; i < vocab; i++) x[i] = logits[i] * how->inv_temperature;
    best = mw_draw_best(x, vocab); /* scaling may round two logits to one value, and the first of them counts */
    if (best < 0) return -1;       /* or leave the range */
    bool cuts = how->top_k > 0 || how->top_p < 1 || how->log_min_p > -INFINITY;
    int n = cuts ? cut(how, x, vocab, best, index) : vocab;
    return draw(how, x, cuts ? index : NULL, n, best);
}
