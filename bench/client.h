/* bench/client.h - streamed completions from an OpenAI-compatible server, many at once, through libcurl. */
#ifndef MW_BENCH_CLIENT_H
#define MW_BENCH_CLIENT_H
#include "bench/requests.h"

typedef struct bench_client bench_client;

/* Settles the model's name (the first of /v1/models unless given). MW_ERR_UNAVAIL: no server answers at the URL. */
MW_MUST_CHECK mw_status bench_client_open(bench_client **out, const bench_opts *o);
void bench_client_close(bench_client *c); /* NULL allowed */
bool bench_client_is_chat(const bench_client *c);
const char *bench_client_model(const bench_client *c);

/* Sends the requests when they are due, at most `concurrency` at once, and waits for all answers. A request that fails
 * is marked so. *seconds: from the first sent to the last answered. */
MW_MUST_CHECK mw_status bench_client_run(bench_client *c, bench_requests *r, int concurrency, double *seconds);
#endif
