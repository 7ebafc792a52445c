/* The sampler: truncation against a sort-based reference, frequencies against probabilities, the seed's promise,
 * penalties and log-probabilities against formulas written out here. */
#include <math.h>

#include "tests/ref/random_model.h"
#include "tests/unit/test.h"
#include "worker/sampler.h"

static uint64_t g_rng;

static void random_logits(float *x, int n, float spread) {
    for (int i = 0; i < n; i++)
        x[i] = spread * (float)(random_unit(&g_rng) + random_unit(&g_rng) + random_unit(&g_rng) - 1.5);
}

typedef struct {
    float x;
    int id;
} entry;

static int by_logit(const void *a, const void *b) {
    const entry *p = a, *q = b;
    return p->x > q->x ? -1 : p->x < q->x ? 1 : p->id - q->id;
}

/* Tokens that may be drawn, by sorting: top_k, then top_p of what is left, and min_p of the best. */
static void allowed(const float *logits, int n, const mw_sampling *p, bool *ok) {
    entry *e = malloc((size_t)n * sizeof *e);
    for (int i = 0; i < n; i++) e[i] = (entry){logits[i] / (float)p->temperature, i};
    qsort(e, (size_t)n, sizeof *e, by_logit);
    int k = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double total = 0, sum = 0;
    for (int i = 0; i < k; i++)
        if (exp((double)(e[i].x - e[0].x)) >= p->min_p) total += exp((double)(e[i].x - e[0].x));
    memset(ok, 0, (size_t)n);
    for (int i = 0; i < k; i++) {
        double w = exp((double)(e[i].x - e[0].x));
        if (w < p->min_p || sum >= p->top_p * total * (1 + 1e-9)) break;
        ok[e[i].id] = true;
        sum += w;
    }
    free(e);
}

static void test_truncation(void **state) {
    (void)state;
    enum { N = 500 };
    float logits[N];
    bool ok[N];
    mw_sampler s;
    assert_ok(mw_sampler_init(&s, N));
    for (int round = 0; round < 200; round++) {
        mw_sampling p = mw_sampling_default();
        random_logits(logits, N, (float)random_int(&g_rng, 1, 12));
        p.temperature = 0.3 + 2 * random_unit(&g_rng);
        if (random_int(&g_rng, 0, 1)) p.top_k = random_int(&g_rng, 1, N);
        if (random_int(&g_rng, 0, 1)) p.top_p = 0.05 + 0.94 * random_unit(&g_rng);
        if (random_int(&g_rng, 0, 1)) p.min_p = 0.3 * random_unit(&g_rng);
        allowed(logits, N, &p, ok);
        for (uint64_t seed = 0; seed < 50; seed++) {
            int32_t t, history = 0;
            assert_ok(mw_sample(&s, &p, seed, logits, &history, 1, 1, NULL, &t));
            if (!ok[t])
                fail_msg("round %d: token %d is outside top_k %d, top_p %g, min_p %g", round, t, p.top_k, p.top_p,
                         p.min_p);
        }
    }
    mw_sampler_free(&s);
}

/* 40,000 draws: every frequency within five standard deviations of its probability. */
static void test_frequencies(void **state) {
    (void)state;
    enum { N = 40, DRAWS = 40000 };
    float logits[N];
    int count[N] = {0};
    double total = 0;
    mw_sampler s;
    mw_sampling p = mw_sampling_default();
    p.temperature = 0.7;
    random_logits(logits, N, 4);
    assert_ok(mw_sampler_init(&s, N));
    for (int i = 0; i < DRAWS; i++) {
        int32_t t, history = 0;
        assert_ok(mw_sample(&s, &p, (uint64_t)i, logits, &history, 1, 1, NULL, &t));
        count[t]++;
    }
    for (int i = 0; i < N; i++) total += exp((double)logits[i] / 0.7);
    for (int i = 0; i < N; i++) {
        double want = exp((double)logits[i] / 0.7) / total, sd = sqrt(want * (1 - want) / DRAWS);
        if (fabs((double)count[i] / DRAWS - want) > 5 * sd + 1e-4)
            fail_msg("token %d: drawn %d times, expected %g", i, count[i], want * DRAWS);
    }
    mw_sampler_free(&s);
}

/* The same seed and position give the same token, however often it is asked; rounding of the logits hardly ever
 * matters. */
static void test_same_seed(void **state) {
    (void)state;
    enum { N = 2000 };
    float a[N], b[N];
    int changed = 0;
    mw_sampler s;
    mw_sampling p = mw_sampling_default();
    p.temperature = 1;
    assert_ok(mw_sampler_init(&s, N));
    for (int i = 0; i < 300; i++) {
        int32_t t1, t2, t3, history[64] = {0};
        random_logits(a, N, 6);
        for (int j = 0; j < N; j++) b[j] = a[j] * (1 + 1e-6f * (float)(random_unit(&g_rng) - 0.5));
        size_t at = (size_t)random_int(&g_rng, 1, 60);
        assert_ok(mw_sample(&s, &p, 42, a, history, at, 1, NULL, &t1));
        assert_ok(mw_sample(&s, &p, 42, a, history, at, 1, NULL, &t2));
        assert_ok(mw_sample(&s, &p, 42, b, history, at, 1, NULL, &t3));
        assert_int_equal(t1, t2);
        changed += t1 != t3;
    }
    assert_true(changed <= 2);
    mw_sampler_free(&s);
}

static void test_penalties(void **state) {
    (void)state;
    float logits[6] = {2.0f, 1.9f, -1.0f, 1.0f, 0.5f, 0.0f};
    const int32_t history[] = {0, 0, 1, 1, 1};
    mw_sampler s;
    int32_t t;
    assert_ok(mw_sampler_init(&s, 6));
    mw_sampling p = mw_sampling_default();
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 2, NULL, &t));
    assert_int_equal(t, 0);
    p.repetition_penalty = 1.5; /* 2.0 -> 1.33, 1.9 -> 1.27; 1.0 stays */
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 2, NULL, &t));
    assert_int_equal(t, 0);
    p.repetition_penalty = 2.5; /* 0.8, 0.76 */
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 2, NULL, &t));
    assert_int_equal(t, 3);
    p = mw_sampling_default();
    p.presence_penalty = 1; /* the output is 1 1 1: only token 1 loses */
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 2, NULL, &t));
    assert_int_equal(t, 0);
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 0, NULL, &t)); /* all of it output: 1.0, 0.9 */
    assert_int_equal(t, 0);
    p.presence_penalty = 0;
    p.frequency_penalty = 0.4; /* 0 twice, 1 three times: 1.2, 0.7 */
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 0, NULL, &t));
    assert_int_equal(t, 0);
    p.frequency_penalty = 0.6; /* 0.8, 0.1 */
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 0, NULL, &t));
    assert_int_equal(t, 3);
    const mw_token_bias bias[] = {{0, -100}, {4, 1}};
    p = mw_sampling_default();
    p.bias = bias;
    p.n_bias = 2;
    assert_ok(mw_sample(&s, &p, 0, logits, history, 5, 0, NULL, &t));
    assert_int_equal(t, 1);
    logits[2] = NAN;
    assert_fails(mw_sample(&s, &p, 0, logits, history, 5, 0, NULL, &t), MW_ERR_NUMERIC, "not finite");
    mw_sampler_free(&s);
}

static void test_logprobs(void **state) {
    (void)state;
    enum { N = 1000, K = 7 };
    float x[N];
    entry e[N];
    mw_token_logprob chosen, top[K];
    double sum = 0;
    random_logits(x, N, 10);
    x[17] = x[400]; /* a tie goes to the smaller id */
    for (int i = 0; i < N; i++) sum += exp((double)x[i]), e[i] = (entry){x[i], i};
    qsort(e, N, sizeof *e, by_logit);
    assert_ok(mw_logprobs(x, N, 123, &chosen, top, K));
    assert_true(fabs((double)chosen.logprob - ((double)x[123] - log(sum))) < 1e-5);
    for (int i = 0; i < K; i++) {
        assert_int_equal(top[i].token, e[i].id);
        assert_true(fabs((double)top[i].logprob - ((double)e[i].x - log(sum))) < 1e-5);
    }
}

static void test_ranges(void **state) {
    (void)state;
    mw_sampling p = mw_sampling_default();
    assert_ok(mw_sampling_check(&p, 100));
    p.temperature = NAN;
    assert_fails(mw_sampling_check(&p, 100), MW_ERR_USAGE, "temperature");
    p = mw_sampling_default();
    p.top_p = 0;
    assert_fails(mw_sampling_check(&p, 100), MW_ERR_USAGE, "top_p");
    p = mw_sampling_default();
    const mw_token_bias bias = {100, 1};
    p.bias = &bias;
    p.n_bias = 1;
    assert_fails(mw_sampling_check(&p, 100), MW_ERR_USAGE, "logit_bias token");
    p = mw_sampling_default();
    const char *empty = "";
    p.stop = &empty;
    p.n_stop = 1;
    assert_fails(mw_sampling_check(&p, 100), MW_ERR_USAGE, "stop string");
}

/* Only what the mask allows is drawn, whatever the logits and the other parameters say. */
static void test_mask(void **state) {
    (void)state;
    enum { N = 100 };
    mw_sampler s;
    float logits[N];
    uint32_t mask[4] = {0};
    int32_t history[] = {3, 4, 5}, t;
    mw_token_bias bias[] = {{7, 50}, {64, 1}};
    assert_ok(mw_sampler_init(&s, N));
    for (int i = 0; i < N; i++) logits[i] = (float)(N - i) / 10;
    mask[1] = 1u << 5; /* 37 */
    mask[2] = 1u;      /* 64 */
    mw_sampling p = mw_sampling_default();
    assert_ok(mw_sample(&s, &p, 1, logits, history, 3, 1, mask, &t));
    assert_int_equal(t, 37);
    p.bias = bias;
    p.n_bias = 2;
    p.repetition_penalty = 1.3;
    p.presence_penalty = 1;
    p.temperature = 5;
    int seen[N] = {0};
    for (uint64_t seed = 0; seed < 300; seed++) {
        assert_ok(mw_sample(&s, &p, seed, logits, history, 3, 1, mask, &t));
        seen[t]++;
    }
    assert_true(seen[37] > 30 && seen[64] > 30 && seen[37] + seen[64] == 300);
    p.top_k = 1;
    for (uint64_t seed = 0; seed < 20; seed++) {
        assert_ok(mw_sample(&s, &p, seed, logits, history, 3, 1, mask, &t));
        assert_int_equal(t, 37); /* 6.3 against 3.6 + 1 */
    }
    memset(mask, 0, sizeof mask);
    assert_fails(mw_sample(&s, &p, 1, logits, history, 3, 1, mask, &t), MW_ERR_NUMERIC, "not finite");
    p = mw_sampling_default();
    assert_true(mw_sampling_is_argmax(&p));
    p.format = MW_FORMAT_JSON_OBJECT;
    assert_false(mw_sampling_is_argmax(&p));
    p.format = MW_FORMAT_JSON_SCHEMA;
    assert_fails(mw_sampling_check(&p, N), MW_ERR_USAGE, "schema");
    mw_sampler_free(&s);
}

int main(int argc, char **argv) {
    g_rng = test_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncation), cmocka_unit_test(test_frequencies), cmocka_unit_test(test_same_seed),
        cmocka_unit_test(test_penalties),  cmocka_unit_test(test_logprobs),    cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_mask),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
