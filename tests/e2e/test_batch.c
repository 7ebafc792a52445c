/* A request's tokens are its own: the same alone and among hundreds of others that share its beginning, cut their
 * prompts elsewhere, are put off for want of blocks, and go away in the middle. Greedy answers are compared token by
 * token with those of the request alone, computed without any block of others. Where two runs cut a prompt differently
 * the last bits of a logit may differ (docs/NUMERICS.md, "Company"), so an answer may leave the reference where its two
 * best tokens are closer than the promised bound, and only there, and only for the second best.
 *
 *   test_batch [cpu|cuda] [seed|-] [ahead|-] [model]    ahead: a step is planned before the last one's tokens are known
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/engine.h"

#define MODEL      MW_SOURCE_DIR "/launch/demo/shakespeare-11m-gptq.h5"
#define MAX_PROMPT 150
#define MAX_ANSWER 64
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define N_TEXTS    30 /* a reduced run: instrumented, the whole one takes three minutes */
#define N_REQUESTS 200
#else
#define N_TEXTS    80 /* different prompts */
#define N_REQUESTS 550
#endif
#define IN_FLIGHT 60

static int g_failures;

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            printf("FAILED %s:%d: ", __FILE__, __LINE__);                                                              \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
            g_failures++;                                                                                              \
        }                                                                                                              \
    } while (0)

static uint64_t g_rng;

static int pick(int lo, int hi) { /* lo..hi inclusive; xorshift64* */
    g_rng ^= g_rng >> 12;
    g_rng ^= g_rng << 25;
    g_rng ^= g_rng >> 27;
    return lo + (int)((g_rng * 0x2545F4914F6CDD1Du >> 33) % (uint64_t)(hi - lo + 1));
}

/* A prompt, and what the model says to it when nobody else is there. */
typedef struct {
    int32_t prompt[MAX_PROMPT];
    int n_prompt;
    int32_t token[MAX_ANSWER], second[MAX_ANSWER]; /* best and second best */
    float gap[MAX_ANSWER];                         /* between their log-probabilities */
    int n;
} text;

typedef struct {
    uint64_t id; /* 0: over */
    const text *t;
    bool greedy;
    int max_tokens, cancel_after; /* tokens; 0: not cancelled */
    int open, n[3], left[3];      /* left: the token at which the answer left the reference, or -1 */
} request;

typedef struct {
    int answers, left, cancelled, errors, tokens;
    size_t cached;
} tally;

static mw_request ask(const text *t, int max_tokens) {
    mw_request r = {.ids = t->prompt, .n_ids = (size_t)t->n_prompt, .sampling = mw_sampling_default()};
    r.sampling.max_tokens = max_tokens;
    r.sampling.ignore_eos = true;
    return r;
}

static bool next_event(mw_engine *e, mw_event *ev) {
    bool got = false;
    mw_status st = mw_engine_poll(e, 60000, ev, &got);
    CHECK(st == MW_OK && got, "poll: %s", st != MW_OK ? mw_error_text() : "nothing came");
    return st == MW_OK && got;
}

/* Alone, and scored, so that no block of others is used. */
static void refer(mw_engine *e, text *t) {
    mw_request r = ask(t, MAX_ANSWER);
    mw_event ev;
    uint64_t id;
    bool over = false;
    r.sampling.prompt_logprobs = 0;
    r.sampling.logprobs = 2;
    mw_status st = mw_engine_submit(e, &r, &id);
    CHECK(st == MW_OK, "submit: %s", mw_error_text());
    t->n = 0;
    while (st == MW_OK && !over && next_event(e, &ev)) {
        over = ev.type == MW_EVENT_DONE || ev.type == MW_EVENT_ERROR;
        CHECK(ev.type != MW_EVENT_DONE || ev.cached_tokens == 0, "%zu tokens of a scored prompt from the cache",
              ev.cached_tokens);
        if (ev.type == MW_EVENT_TOKEN && t->n < MAX_ANSWER) {
            t->token[t->n] = ev.token;
            t->second[t->n] = ev.logprobs->top[1].token;
            t->gap[t->n++] = ev.logprobs->top[0].logprob - ev.logprobs->top[1].logprob;
        }
        mw_event_free(&ev);
    }
    CHECK(t->n == MAX_ANSWER, "the reference has %d tokens", t->n);
}

/* Some of one of four long texts, then words of its own. */
static void invent(text *t, int vocab, int32_t common[4][MAX_PROMPT]) {
    int which = pick(0, 3), n = pick(0, MAX_PROMPT - 20);
    t->n_prompt = n + pick(1, 20);
    for (int i = 0; i < t->n_prompt; i++) t->prompt[i] = i < n ? common[which][i] : pick(10, vocab - 10);
}

static void submit(mw_engine *e, request *q, const text *t) {
    *q = (request){.t = t, .max_tokens = pick(1, MAX_ANSWER), .greedy = pick(0, 4) != 0, .left = {-1, -1, -1}};
    mw_request r = ask(t, q->max_tokens);
    r.sampling.n = pick(0, 7) == 0 ? pick(2, 3) : 1;
    r.client = (uint64_t)pick(0, 4);
    if (pick(0, 5) == 0) q->cancel_after = pick(1, q->max_tokens);
    if (!q->greedy) {
        r.sampling.temperature = 0.8;
        r.sampling.prompt_logprobs = pick(0, 3) == 0 ? 1 : -1;
        r.sampling.repetition_penalty = pick(0, 1) ? 1.1 : 1;
    }
    mw_status st = mw_engine_submit(e, &r, &q->id);
    CHECK(st == MW_OK, "submit: %s", mw_error_text());
    q->open = st == MW_OK ? r.sampling.n : 0;
}

/* A token of a greedy answer: the reference's, or an excusable second best, after which all may differ. */
static void compare(request *q, int i, int32_t token, float bound) {
    const text *t = q->t;
    int n = q->n[i];
    if (!q->greedy || q->left[i] >= 0 || token == t->token[n]) return;
    q->left[i] = n;
    CHECK(token == t->second[n] && t->gap[n] <= bound, "token %d is %d, alone %d (second best %d, %g behind)", n, token,
          t->token[n], t->second[n], (double)t->gap[n]);
}

static void take(mw_engine *e, request *q, const mw_event *ev, float bound, tally *sum) {
    int i = ev->index;
    if (ev->type == MW_EVENT_TOKEN) {
        CHECK(q->n[i] < q->max_tokens, "answer %d has more than %d tokens", i, q->max_tokens);
        if (q->n[i] < q->max_tokens) compare(q, i, ev->token, bound);
        q->n[i]++;
        sum->tokens++;
        if (q->cancel_after && q->n[i] == q->cancel_after) mw_engine_cancel(e, q->id);
    }
    if (ev->type == MW_EVENT_ERROR) {
        CHECK(false, "error: %s", ev->text);
        q->open = 0;
        sum->errors++;
    }
    if (ev->type == MW_EVENT_DONE) {
        bool cancelled = strcmp(ev->finish_reason, "cancelled") == 0;
        CHECK(cancelled || (q->n[i] == q->max_tokens && strcmp(ev->finish_reason, "length") == 0),
              "answer ended with %d of %d tokens: %s", q->n[i], q->max_tokens, ev->finish_reason);
        CHECK(!cancelled || q->cancel_after, "cancelled, but nobody asked");
        CHECK(ev->cached_tokens < ev->prompt_tokens, "%zu of %zu prompt tokens from the cache", ev->cached_tokens,
              ev->prompt_tokens);
        q->open--;
        sum->answers++;
        sum->cancelled += cancelled;
        sum->left += q->left[i] >= 0;
        sum->cached += ev->cached_tokens;
    }
    if (q->open == 0) q->id = 0;
}

static tally run_all(mw_engine *e, const text *texts, float bound) {
    static request q[IN_FLIGHT];
    tally sum = {0};
    int submitted = 0, open = 0;
    mw_event ev;
    while (submitted < N_REQUESTS || open > 0) {
        for (int burst = pick(0, 12), i = 0; burst > 0 && i < IN_FLIGHT && submitted < N_REQUESTS; i++) {
            if (q[i].id) continue;
            submit(e, &q[i], &texts[pick(0, N_TEXTS - 1)]);
            submitted++, open++, burst--;
        }
        if (open == 0) continue;
        if (!next_event(e, &ev)) break;
        int i = 0;
        while (i < IN_FLIGHT && q[i].id != ev.id) i++;
        CHECK(i < IN_FLIGHT, "an event of request %llu, which is over", (unsigned long long)ev.id);
        if (i < IN_FLIGHT) {
            take(e, &q[i], &ev, bound, &sum);
            open -= q[i].id == 0;
        }
        mw_event_free(&ev);
    }
    return sum;
}

static void test(mw_engine *e) {
    mw_engine_info before, after;
    static text texts[N_TEXTS];
    static int32_t common[4][MAX_PROMPT];
    mw_engine_describe(e, &before);
    float bound = strcmp(before.backend, "cpu") == 0 ? 2 * 0.005F : 2 * 0.02F;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < MAX_PROMPT; k++) common[i][k] = pick(10, before.vocab - 10);
    for (int i = 0; i < N_TEXTS; i++) {
        invent(&texts[i], before.vocab, common);
        refer(e, &texts[i]);
    }
    mw_engine_describe(e, &before);
    CHECK(before.preemptions == 0, "%llu preemptions alone", (unsigned long long)before.preemptions);
    tally t = run_all(e, texts, bound);
    mw_engine_describe(e, &after);
    printf("%d requests, %d answers (%d cancelled), %d tokens in %llu steps; put off %llu times, %llu of %llu prompt "
           "tokens from the cache; %d answers left the reference\n",
           N_REQUESTS, t.answers, t.cancelled, t.tokens, (unsigned long long)(after.steps - before.steps),
           (unsigned long long)after.preemptions, (unsigned long long)after.prefix_hit_tokens,
           (unsigned long long)after.prefix_query_tokens, t.left);
    CHECK(after.preemptions > 0, "the cache was meant to be too small");
    CHECK(t.cancelled > N_REQUESTS / 20, "%d cancelled", t.cancelled);
    CHECK(t.cached > 0 && after.prefix_hit_tokens >= t.cached, "%zu tokens from the cache", t.cached);
    CHECK(t.left <= t.answers / 20, "%d of %d answers left the reference", t.left, t.answers);
    CHECK(after.kv_blocks_free == after.kv_blocks, "%d of %d KV blocks came back", after.kv_blocks_free,
          after.kv_blocks);
    CHECK(after.running == 0 && after.waiting == 0, "%d running, %d waiting", after.running, after.waiting);
}

int main(int argc, char **argv) {
    mw_engine *e = NULL;
    uint64_t seed = argc > 2 && strcmp(argv[2], "-") != 0 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    g_rng = seed * 2 + 1;
    /* A KV head of this model takes 1 kB a token; a rank has four of them, or two where there are several ranks: room
     * for 22 or 44 blocks of 16 tokens, for 16 sequences of up to 14 blocks. One thread: on a machine that others use,
     * threads that wait for each other are slow. */
    mw_engine_options o = {.model = argc > 4 ? argv[4] : MODEL,
                           .backend = argc > 1 ? argv[1] : "cpu",
                           .overlap = argc > 3 && strcmp(argv[3], "ahead") == 0,
                           .ctx = 224,
                           .threads = 1,
                           .max_seqs = 16,
                           .max_step_tokens = 48,
                           .kv_bytes = 22 * 16 * 4096,
                           .timeout_s = 60};
    mw_status st = mw_engine_open(&e, &o);
    if (st != MW_OK) {
        if (mw_engine_reports(e)) printf("FAILED: %s\n", mw_error_text());
        mw_engine_exit(e, 1);
    }
    if (mw_engine_rank(e) != 0) {
        st = mw_engine_follow(e);
        if (st != MW_OK) mw_engine_exit(e, 1);
        return mw_engine_close(e) != MW_OK;
    }
    printf("seed %llu\n", (unsigned long long)seed);
    test(e);
    st = mw_engine_close(e);
    CHECK(st == MW_OK, "closing: %s", mw_error_text());
    printf("%d failures\n", g_failures);
    return g_failures != 0;
}
