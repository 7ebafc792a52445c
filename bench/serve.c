/* marlin-bench serve: requests to a server over HTTP, in vLLM's words. */
#include "bench/client.h"

/* Random token ids that every vocabulary has and that are no special tokens in the common ones. */
enum { ID_LO = 10, ID_HI = 500 };

static mw_status measure(bench_client *c, const bench_opts *o, bench_report *r, int concurrency) {
    mw_status st = MW_OK;
    bench_requests q = {0};
    json_t *row = NULL;
    double seconds = 0;
    bool chat = bench_client_is_chat(c);
    MW_TRY(st, bench_requests_make(&q, o, bench_requests_count(o, concurrency), ID_LO, ID_HI, chat));
    MW_TRY(st, bench_client_run(c, &q, concurrency, &seconds));
    row = bench_row_begin(r, "serve");
    bench_row_text(row, "url", o->url);
    bench_row_text(row, "endpoint", o->endpoint);
    bench_row_text(row, "model", bench_client_model(c));
    bench_row_int(row, "concurrency", concurrency);
    bench_requests_rate(row, o);
    bench_row_int(row, "input_len", o->prompt.v[0]);
    bench_row_int(row, "output_len", o->gen.v[0]);
    bench_row_metric(row, "output_throughput", true);
    MW_TRY(st, bench_requests_summary(&q, o, seconds, row));
    json_t *taken = row;
    row = NULL;
    st = bench_row_end(r, taken);
fail:
    json_decref(row);
    bench_requests_free(&q);
    return st;
}

mw_status bench_serve(const bench_opts *o, bench_report *r) {
    mw_status st = MW_OK;
    bench_client *c = NULL;
    if (bench_now.size > 1) return MW_FAIL(MW_ERR_USAGE, "serve is one client: start it without mpirun");
    bench_report_columns(r, bench_requests_columns, bench_requests_n_columns);
    MW_TRY(st, bench_client_open(&c, o));
    for (int i = 0; i < o->concurrency.n; i++) MW_TRY(st, measure(c, o, r, (int)o->concurrency.v[i]));
fail:
    bench_client_close(c);
    return st;
}
