#include "bench/sse.h"

#include <string.h>

static mw_status end_line(bench_sse *s, bench_sse_fn fn, void *arg) {
    const char *p = s->line.p;
    size_t n = s->line.n;
    s->line.n = 0;
    if (n > 0 && p[n - 1] == '\r') n--;
    if (n < 5 || memcmp(p, "data:", 5) != 0) return MW_OK; /* a comment, an event's name, an empty line */
    p += 5;
    n -= 5;
    if (n > 0 && *p == ' ') p++, n--;
    return fn(arg, p, n);
}

mw_status bench_sse_feed(bench_sse *s, const char *p, size_t n, bench_sse_fn fn, void *arg) {
    mw_status st = MW_OK;
    while (n > 0) {
        const char *end = memchr(p, '\n', n);
        size_t part = end ? (size_t)(end - p) : n;
        if (s->line.n + part > BENCH_SSE_LINE_MAX)
            return MW_FAIL(MW_ERR_LIMIT, "a line of the stream is longer than %zu bytes", BENCH_SSE_LINE_MAX);
        MW_TRY(st, mw_str_add(&s->line, p, part));
        if (!end) break;
        MW_TRY(st, end_line(s, fn, arg));
        p += part + 1;
        n -= part + 1;
    }
fail:
    return st;
}

void bench_sse_free(bench_sse *s) {
    mw_str_free(&s->line);
}
