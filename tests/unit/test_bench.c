/* Statistics, lists and streams of marlin-bench. The expected percentiles are numpy's. */
#include "tests/unit/test.h"

#include <math.h>

#include "bench/requests.h"
#include "bench/sse.h"

static void near_to(double got, double want) {
    if (fabs(got - want) > 1e-9 * (1 + fabs(want))) fail_msg("%.17g, expected %.17g", got, want);
}

static void percentiles(void **state) {
    (void)state;
    const double v[] = {1, 2, 4, 8, 16};
    near_to(bench_percentile(v, 5, 0), 1);
    near_to(bench_percentile(v, 5, 50), 4);
    near_to(bench_percentile(v, 5, 90), 12.8); /* numpy.percentile([1,2,4,8,16], 90) */
    near_to(bench_percentile(v, 5, 99), 15.68);
    near_to(bench_percentile(v, 5, 100), 16);
    near_to(bench_percentile(v, 1, 37), 1);
    near_to(bench_percentile(v, 0, 50), 0);
}

static void summary(void **state) {
    (void)state;
    bench_samples s = {0};
    const double v[] = {4, 16, 1, 8, 2};
    for (int i = 0; i < 5; i++) assert_ok(bench_samples_add(&s, v[i]));
    bench_stats t = bench_stats_of(&s);
    assert_int_equal(t.n, 5);
    near_to(t.mean, 6.2);
    near_to(t.std, 5.455272678794342); /* numpy.std */
    near_to(t.median, 4);
    near_to(t.min, 1);
    near_to(t.max, 16);
    near_to(t.p10, 1.4);
    bench_samples_free(&s);
    t = bench_stats_of(&s);
    assert_int_equal(t.n, 0);
    near_to(t.median, 0);
}

static void tpot(void **state) {
    (void)state;
    bench_latency l = {.ttft = 0.2, .e2el = 1.2, .output_tokens = 11};
    near_to(bench_tpot(&l), 0.1);
    l.output_tokens = 1;
    near_to(bench_tpot(&l), 0);
    l.output_tokens = 0;
    near_to(bench_tpot(&l), 0);
}

static void lists(void **state) {
    (void)state;
    bench_list l;
    assert_ok(bench_parse_list("1,2,8", 1, 100, &l));
    assert_int_equal(l.n, 3);
    assert_int_equal(l.v[2], 8);
    assert_ok(bench_parse_list("16-64+16,3", 1, 100, &l));
    assert_int_equal(l.n, 5);
    assert_int_equal(l.v[3], 64);
    assert_int_equal(l.v[4], 3);
    assert_ok(bench_parse_list("1-1024*2", 1, 2048, &l));
    assert_int_equal(l.n, 11);
    assert_int_equal(l.v[10], 1024);
    assert_ok(bench_parse_list("3-5", 1, 10, &l));
    assert_int_equal(l.n, 3);
    static const char *const wrong[] = {
        "",     "x",     "1,",    "1,,2",  "0",   "101",     "5-3", "1-",
        "1-9*", "1-9*1", "1-9+0", "1-9+x", "1;2", "1-100+1", "-1",  "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mw_status st = bench_parse_list(wrong[i], 1, 100, &l);
        if (st != MW_ERR_USAGE) fail_msg("'%s' was taken", wrong[i]);
    }
}

static void sizes_and_goals(void **state) {
    (void)state;
    uint64_t v;
    bench_goal g;
    assert_ok(bench_parse_bytes("4096", &v));
    assert_int_equal(v, 4096);
    assert_ok(bench_parse_bytes("16M", &v));
    assert_int_equal(v, 16 << 20);
    assert_fails(bench_parse_bytes("16MB", &v), MW_ERR_USAGE, "16MB");
    assert_fails(bench_parse_bytes("-1", &v), MW_ERR_USAGE, "-1");
    assert_ok(bench_parse_goal("ttft:200", &g));
    assert_string_equal(g.metric, "ttft");
    near_to(g.ms, 200);
    assert_fails(bench_parse_goal("itl:200", &g), MW_ERR_USAGE, "itl");
    assert_fails(bench_parse_goal("ttft:x", &g), MW_ERR_USAGE, "ttft:x");
    assert_fails(bench_parse_goal("ttft", &g), MW_ERR_USAGE, "ttft");
}

/* What came out of a stream, payloads joined by '|'. */
static mw_status collect(void *arg, const char *data, size_t n) {
    mw_str *s = arg;
    mw_status st = mw_str_add(s, data, n);
    return st == MW_OK ? mw_str_adds(s, "|") : st;
}

static void streams(void **state) {
    (void)state;
    static const char text[] = ": hello\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:two\n\ndata: [DONE]\n\n";
    /* cut everywhere: the pieces do not matter */
    for (size_t step = 1; step <= sizeof text; step++) {
        bench_sse s = {0};
        mw_str got = {0};
        for (size_t at = 0; at < sizeof text - 1; at += step) {
            size_t n = sizeof text - 1 - at < step ? sizeof text - 1 - at : step;
            assert_ok(bench_sse_feed(&s, text + at, n, collect, &got));
        }
        assert_string_equal(got.p, "{\"a\":1}|two|[DONE]|");
        bench_sse_free(&s);
        mw_str_free(&got);
    }
}

static void endless_line(void **state) {
    (void)state;
    bench_sse s = {0};
    char block[65536];
    memset(block, 'x', sizeof block);
    mw_status st = MW_OK;
    for (int i = 0; i < 1000 && st == MW_OK; i++) st = bench_sse_feed(&s, block, sizeof block, collect, NULL);
    assert_int_equal(st, MW_ERR_LIMIT);
    bench_sse_free(&s);
}

static double number(const json_t *row, const char *key) {
    return json_number_value(json_object_get(row, key));
}

/* Two requests: one within its goals, one not, and one that failed. */
static void figures(void **state) {
    (void)state;
    bench_opts o = {.n_goals = 2, .goal = {{"ttft", 150}, {"tpot", 60}}};
    bench_request v[3] = {
        {.prompt_tokens = 10, .sent = 1}, {.prompt_tokens = 20, .sent = 2}, {.failed = true, .error = "no"}};
    bench_requests r = {v, 3};
    json_t *row = json_object();
    for (int i = 0; i < 3; i++) assert_ok(bench_request_token(&v[0], 1.1 + 0.05 * i)); /* TTFT 100, TPOT 50 ms */
    for (int i = 0; i < 5; i++) assert_ok(bench_request_token(&v[1], 2.2 + 0.1 * i));  /* TTFT 200, TPOT 100 ms */
    assert_ok(bench_requests_summary(&r, &o, 2, row));
    near_to(number(row, "completed"), 2);
    near_to(number(row, "failed"), 1);
    near_to(number(row, "total_input_tokens"), 30);
    near_to(number(row, "total_output_tokens"), 8);
    near_to(number(row, "request_throughput"), 1);
    near_to(number(row, "output_throughput"), 4);
    near_to(number(row, "total_token_throughput"), 19);
    near_to(number(row, "request_goodput"), 0.5);
    near_to(number(row, "median_ttft_ms"), 150);
    near_to(number(row, "mean_tpot_ms"), 75);
    near_to(number(row, "median_itl_ms"), 100); /* of 50 50 100 100 100 100 */
    near_to(number(row, "median_e2el_ms"), 400);
    json_decref(row);
    v[0].failed = v[1].failed = true;
    row = json_object();
    assert_fails(bench_requests_summary(&r, &o, 2, row), MW_ERR_PEER, "no");
    json_decref(row);
    for (int i = 0; i < 3; i++) bench_samples_free(&v[i].gaps);
}

/* Poisson arrivals: the mean gap, and a spread as large as the mean; a small shape is burstier. */
static void arrivals(void **state) {
    (void)state;
    for (int bursty = 0; bursty < 2; bursty++) {
        bench_opts o = {
            .seed = 3, .prompt = {{4}, 1}, .gen = {{4}, 1}, .request_rate = 10, .burstiness = bursty ? 0.25 : 1};
        bench_requests r;
        bench_samples gaps = {0};
        assert_ok(bench_requests_make(&r, &o, 20000, 5, 9, false));
        for (int i = 1; i < r.n; i++) assert_ok(bench_samples_add(&gaps, r.v[i].arrival - r.v[i - 1].arrival));
        for (size_t i = 0; i < r.v[7].n_ids; i++) assert_in_range(r.v[7].ids[i], 5, 8);
        bench_stats s = bench_stats_of(&gaps);
        if (fabs(s.mean - 0.1) > 0.008) fail_msg("mean gap %g, expected 0.1", s.mean);
        double ratio = s.std / s.mean, want = bursty ? 2 : 1; /* 1 / sqrt(shape) */
        if (fabs(ratio - want) > 0.1 * want) fail_msg("deviation / mean %g, expected %g", ratio, want);
        bench_samples_free(&gaps);
        bench_requests_free(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles),  cmocka_unit_test(summary),         cmocka_unit_test(tpot),
        cmocka_unit_test(lists),        cmocka_unit_test(sizes_and_goals), cmocka_unit_test(streams),
        cmocka_unit_test(endless_line), cmocka_unit_test(figures),         cmocka_unit_test(arrivals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
