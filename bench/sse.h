/* bench/sse.h - server-sent events as they arrive in pieces: the payloads of "data:" lines. */
#ifndef MW_BENCH_SSE_H
#define MW_BENCH_SSE_H
#include "worker/base/mem.h"

#define BENCH_SSE_LINE_MAX ((size_t)16 << 20) /* bytes of one line; a longer one is refused */

typedef struct bench_sse {
    mw_str line; /* not ended yet */
} bench_sse;

/* One payload, without its end of line. Another status than MW_OK ends the feeding. */
typedef mw_status (*bench_sse_fn)(void *arg, const char *data, size_t n);

MW_MUST_CHECK mw_status bench_sse_feed(bench_sse *s, const char *p, size_t n, bench_sse_fn fn, void *arg);
void bench_sse_free(bench_sse *s);
#endif
