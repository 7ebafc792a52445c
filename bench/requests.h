/* bench/requests.h - many requests: prompts, when they come, what was seen of each, and the figures over all. Shared by
 * throughput (through the engine) and serve (over HTTP). The words and definitions are those of vLLM's benchmark. */
#ifndef MW_BENCH_REQUESTS_H
#define MW_BENCH_REQUESTS_H
#include "bench/report.h"

typedef struct bench_request {
    int32_t *ids; /* [n_ids], or NULL */
    size_t n_ids;
    char *text;     /* or NULL */
    int max_tokens; /* of the answer */
    double arrival; /* seconds after the start; not sent before */

    /* filled while it runs; seconds of mw_now_s */
    double sent, first, last; /* last: when the last token came */
    bench_samples gaps;       /* between tokens */
    size_t prompt_tokens, output_tokens;
    bool done, failed;
    char error[160];
} bench_request;

typedef struct bench_requests {
    bench_request *v;
    int n;
} bench_requests;

/* n requests by the options: random token ids in lo .. hi-1, or the dataset's prompts, again and again where it has
 * fewer; text: random words instead of ids, for servers that take no ids. */
MW_MUST_CHECK mw_status bench_requests_make(bench_requests *out, const bench_opts *o, int n, int32_t lo, int32_t hi,
                                            bool text);
void bench_requests_free(bench_requests *r);

/* --num-prompts, or enough for this concurrency. */
int bench_requests_count(const bench_opts *o, int concurrency);

/* Member "rate" of a row: requests a second, or "inf". */
void bench_requests_rate(json_t *row, const bench_opts *o);

/* A token, or the piece of a stream that stands for one, has come. */
MW_MUST_CHECK mw_status bench_request_token(bench_request *r, double now);

/* The figures, added to a row whose name members are there already. MW_ERR_PEER when no request succeeded. */
MW_MUST_CHECK mw_status bench_requests_summary(const bench_requests *r, const bench_opts *o, double seconds,
                                               json_t *row);

extern const bench_column bench_requests_columns[];
extern const int bench_requests_n_columns;
#endif
