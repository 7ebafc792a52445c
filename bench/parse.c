/* The values of options. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

static mw_status bad_list(const char *text, int64_t lo, int64_t hi) {
    return MW_FAIL(MW_ERR_USAGE,
                   "'%s' is not a list of whole numbers from %lld to %lld such as 1,2,8 or 16-64+16 or 512-4096*2",
                   text, (long long)lo, (long long)hi);
}

static bool add(bench_list *l, int64_t v, int64_t lo, int64_t hi) {
    if (v < lo || v > hi || l->n == BENCH_MAX_LIST) return false;
    l->v[l->n++] = v;
    return true;
}

mw_status bench_parse_list(const char *text, int64_t lo, int64_t hi, bench_list *out) {
    bench_list l = {.n = 0};
    for (const char *p = text;; p++) {
        char *end;
        errno = 0;
        int64_t a = strtoll(p, &end, 10), b = a, step = 1;
        bool times = false;
        if (end == p || errno) return bad_list(text, lo, hi);
        if (*end == '-') {
            p = end + 1;
            b = strtoll(p, &end, 10);
            if (end == p || errno) return bad_list(text, lo, hi);
            times = *end == '*';
            if (times || *end == '+') {
                p = end + 1;
                step = strtoll(p, &end, 10);
                if (end == p || errno || step < 1 + times || step > hi) return bad_list(text, lo, hi);
            }
        }
        if (a > b || b > hi) return bad_list(text, lo, hi);
        for (int64_t v = a; v <= b; v = times ? v * step : v + step)
            if (!add(&l, v, lo, hi) || (times && v == 0)) return bad_list(text, lo, hi);
        if (*end && *end != ',') return bad_list(text, lo, hi);
        p = end;
        if (!*p) break;
    }
    *out = l;
    return MW_OK;
}

mw_status bench_parse_bytes(const char *text, uint64_t *out) {
    static const char units[] = "KMG";
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    const char *u = *end ? strchr(units, *end) : NULL;
    for (int i = 0; u && i <= u - units; i++) v *= 1024;
    if (end == text || errno || !(v >= 1 && v <= 0x1p40) || (*end && (!u || end[1])))
        return MW_FAIL(MW_ERR_USAGE, "'%s' is not a size such as 4096, 64K or 16M", text);
    *out = (uint64_t)v;
    return MW_OK;
}

mw_status bench_parse_goal(const char *text, bench_goal *out) {
    static const char *const metrics[] = {"ttft", "tpot", "e2el"};
    size_t n = strcspn(text, ":");
    for (int i = 0; i < 3; i++) {
        char *end;
        if (strlen(metrics[i]) != n || strncmp(metrics[i], text, n) != 0 || text[n] != ':') continue;
        double ms = strtod(text + n + 1, &end);
        if (end == text + n + 1 || *end || !(ms > 0 && ms < 1e9)) break;
        strcpy(out->metric, metrics[i]);
        out->ms = ms;
        return MW_OK;
    }
    return MW_FAIL(MW_ERR_USAGE, "'%s' is not a goal such as ttft:200, tpot:50 or e2el:5000 (milliseconds)", text);
}
