/* The engine's promises to its callers, on the demo model: answers alone and in company are the same, seeds repeat,
 * stop strings cut, cancelled requests end, several threads may submit, poll and cancel at once, everything comes back.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "worker/engine.h"

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

#define MODEL     MW_SOURCE_DIR "/launch/demo/shakespeare-11m-gptq.h5"
#define MAX_TEXT  4096
#define MAX_QUEUE 200 /* test_threads has up to 160 answers under way */

typedef struct {
    uint64_t id;
    int32_t token[8][256];
    int n_tokens[8];
    char text[8][MAX_TEXT], reason[8][16], error[256];
    int open;
    size_t prompt_tokens;
    double queue_s, ttft_s;
    mw_status status;
    float logprob0, top0[3];
    int32_t top0_id[3];
} answer;

static void take(answer *a, const mw_event *ev) {
    int i = ev->index;
    if (ev->type == MW_EVENT_ERROR) {
        snprintf(a->error, sizeof a->error, "%s", ev->text);
        a->status = ev->status;
        a->open = 0;
        return;
    }
    if (ev->text_len) strncat(a->text[i], ev->text, MAX_TEXT - strlen(a->text[i]) - 1);
    if (ev->type == MW_EVENT_TOKEN) {
        if (ev->logprobs && a->n_tokens[i] == 0) {
            a->logprob0 = ev->logprobs->chosen.logprob;
            for (int k = 0; k < 3 && k < ev->logprobs->n_top; k++) {
                a->top0[k] = ev->logprobs->top[k].logprob;
                a->top0_id[k] = ev->logprobs->top[k].token;
            }
        }
        a->token[i][a->n_tokens[i]++ % 256] = ev->token;
    }
    if (ev->type == MW_EVENT_DONE) {
        snprintf(a->reason[i], sizeof a->reason[i], "%s", ev->finish_reason);
        a->prompt_tokens = ev->prompt_tokens;
        a->queue_s = ev->queue_s;
        a->ttft_s = ev->ttft_s;
        a->open--;
    }
}

/* Submit all, poll until all are over. */
static void run(mw_engine *e, const mw_request *r, answer *a, int n) {
    int open = 0;
    for (int i = 0; i < n; i++) {
        memset(&a[i], 0, sizeof a[i]);
        mw_status st = mw_engine_submit(e, &r[i], &a[i].id);
        CHECK(st == MW_OK, "submit: %s", mw_error_text());
        a[i].open = st == MW_OK ? r[i].sampling.n : 0;
        open += a[i].open > 0;
    }
    while (open > 0) {
        mw_event ev;
        bool got;
        mw_status st = mw_engine_poll(e, 20000, &ev, &got);
        CHECK(st == MW_OK && got, "poll: %s", mw_error_text());
        if (st != MW_OK || !got) return;
        for (int i = 0; i < n; i++) {
            if (a[i].id != ev.id) continue;
            take(&a[i], &ev);
            if (a[i].open == 0) open--;
        }
        mw_event_free(&ev);
    }
}

static mw_request text_request(const char *text, int max_tokens) {
    mw_request r = {.text = text, .text_len = strlen(text), .sampling = mw_sampling_default()};
    r.sampling.max_tokens = max_tokens;
    r.sampling.ignore_eos = true;
    return r;
}

static bool same(const answer *a, int i, const answer *b, int j) {
    return a->n_tokens[i] == b->n_tokens[j] &&
           memcmp(a->token[i], b->token[j], (size_t)a->n_tokens[i] * sizeof(int32_t)) == 0 &&
           strcmp(a->text[i], b->text[j]) == 0;
}

static const char *const k_prompts[] = {
    "HAMLET:\nTo be", "KING RICHARD:\nA horse", "First Citizen:\nBefore we proceed", "JULIET:\n", "The",
    "Enter ROMEO and"};
#define N_PROMPTS 6

/* Greedy and seeded answers do not depend on the company: alone, all together, and with a cache so small that sequences
 * are put off and computed again. (Bit by bit that is so on CPUs; a GPU may choose the other of two near-equal tokens,
 * docs/NUMERICS.md, and there only the course of things is checked.) */
static void test_company(mw_engine *e) {
    mw_engine_info info;
    mw_engine_describe(e, &info);
    bool exact = strcmp(info.backend, "cpu") == 0;
    mw_request r[2 * N_PROMPTS];
    answer *alone = calloc(2 * N_PROMPTS, sizeof *alone), *together = calloc(2 * N_PROMPTS, sizeof *together);
    for (int i = 0; i < 2 * N_PROMPTS; i++) {
        r[i] = text_request(k_prompts[i % N_PROMPTS], 30 + 5 * i);
        if (i >= N_PROMPTS) {
            r[i].sampling.temperature = 0.9;
            r[i].sampling.top_p = 0.95;
            r[i].sampling.seed = (uint64_t)i;
            r[i].sampling.has_seed = true;
        }
        run(e, &r[i], &alone[i], 1);
        CHECK(alone[i].n_tokens[0] == 30 + 5 * i && strcmp(alone[i].reason[0], "length") == 0,
              "answer %d: %d tokens, %s", i, alone[i].n_tokens[0], alone[i].reason[0]);
    }
    run(e, r, together, 2 * N_PROMPTS);
    for (int i = 0; i < 2 * N_PROMPTS; i++)
        CHECK(exact ? same(&alone[i], 0, &together[i], 0) : together[i].n_tokens[0] == alone[i].n_tokens[0],
              "answer %d differs in company: '%s' / '%s'", i, alone[i].text[0], together[i].text[0]);
    free(alone);
    free(together);
}

static void test_seeds(mw_engine *e) {
    answer *a = calloc(3, sizeof *a);
    mw_request r[3];
    for (int i = 0; i < 3; i++) {
        r[i] = text_request("ROMEO:\nBut soft", 24);
        r[i].sampling.temperature = 1.2;
        r[i].sampling.has_seed = true;
        r[i].sampling.seed = 1000 + (uint64_t)i;
    }
    r[0].sampling.n = 3; /* seeds 1000, 1001, 1002 */
    run(e, r, a, 3);
    CHECK(same(&a[0], 1, &a[1], 0), "answer 1 of n is not the answer of seed + 1");
    CHECK(same(&a[0], 2, &a[2], 0), "answer 2 of n is not the answer of seed + 2");
    CHECK(!same(&a[0], 0, &a[0], 1), "different seeds gave the same text");
    r[0].sampling.has_seed = r[1].sampling.has_seed = false;
    r[0].sampling.n = 1;
    run(e, r, a, 2);
    CHECK(!same(&a[0], 0, &a[1], 0), "two requests without a seed gave the same text");
    free(a);
}

static void test_stop(mw_engine *e) {
    answer *a = calloc(2, sizeof *a), *b = calloc(1, sizeof *b);
    mw_request r = text_request("HAMLET:\nTo be, or not to be", 40);
    run(e, &r, a, 1);
    const char *stop[] = {"never said", "gentle"};
    r.sampling.stop = stop;
    r.sampling.n_stop = 2;
    run(e, &r, b, 1);
    const char *at = strstr(a->text[0], "gentle");
    CHECK(at && strlen(b->text[0]) == (size_t)(at - a->text[0]) &&
              strncmp(a->text[0], b->text[0], strlen(b->text[0])) == 0,
          "stop string: '%s'", b->text[0]);
    CHECK(strcmp(b->reason[0], "stop") == 0, "stop string: reason %s", b->reason[0]);
    r.sampling.n_stop = 0;
    r.sampling.stop_ids = &a->token[0][5];
    r.sampling.n_stop_ids = 1;
    run(e, &r, b, 1);
    CHECK(b->n_tokens[0] <= 6 && b->token[0][b->n_tokens[0] - 1] == a->token[0][5], "stop id: %d tokens",
          b->n_tokens[0]);
    CHECK(strcmp(b->reason[0], "stop") == 0, "stop id: reason %s", b->reason[0]);
    free(a);
    free(b);
}

static void test_bias_and_logprobs(mw_engine *e) {
    answer *a = calloc(2, sizeof *a);
    mw_request r = text_request("HAMLET:\n", 8);
    r.sampling.logprobs = 3;
    run(e, &r, &a[0], 1);
    CHECK(a->logprob0 == a->top0[0] && a->top0[0] >= a->top0[1] && a->top0[1] >= a->top0[2], "greedy takes the best");
    CHECK(a->token[0][0] == a->top0_id[0], "greedy takes the best");
    const mw_token_bias ban = {a->top0_id[0], -1000};
    r.sampling.bias = &ban;
    r.sampling.n_bias = 1;
    run(e, &r, &a[1], 1);
    CHECK(a[1].token[0][0] == a[0].top0_id[1], "a banned token gives way to the second best");
    CHECK(a[1].logprob0 == a[0].top0[1], "log-probabilities are those of the model, before the bias");
    free(a);
}

static void test_refusals(mw_engine *e) {
    uint64_t id;
    mw_request r = text_request("x", 1), bad;
    bad = r;
    bad.sampling.temperature = -1;
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_USAGE && strstr(mw_error_text(), "temperature"), "%s",
          mw_error_text());
    bad = r;
    bad.messages_json = "[]";
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_USAGE, "two prompts: %s", mw_error_text());
    const int32_t token = 2048;
    bad = (mw_request){.ids = &token, .n_ids = 1, .sampling = r.sampling};
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_USAGE && strstr(mw_error_text(), "2048"), "%s", mw_error_text());
    int32_t *many = calloc(2000, sizeof *many);
    bad = (mw_request){.ids = many, .n_ids = 2000, .sampling = r.sampling};
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_LIMIT && strstr(mw_error_text(), "2000"), "%s", mw_error_text());
    free(many);
    bad = r;
    bad.tools_json = "[]";
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_USAGE && strstr(mw_error_text(), "tools"), "%s", mw_error_text());
    bad = (mw_request){.messages_json = "[{\"role\":\"user\",\"content\":\"?\"}]", .sampling = r.sampling};
    bad.tools_json = "{}";
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_USAGE && strstr(mw_error_text(), "tools"), "%s", mw_error_text());
    bad = r;
    bad.deadline_s = -1;
    CHECK(mw_engine_submit(e, &bad, &id) == MW_ERR_USAGE && strstr(mw_error_text(), "deadline"), "%s", mw_error_text());
    mw_engine_cancel(e, 123456789); /* nobody's id: ignored */
}

/* More answers than the queue holds are turned away, at once and by name, and all of those that were submitted
 * together; when the others are done there is room. */
static void test_busy(mw_engine *e) {
    enum { N = MAX_QUEUE };
    mw_request r = text_request("HAMLET:\n", 100), many[N + 1];
    answer *a = calloc(N, sizeof *a);
    uint64_t id[N + 1] = {0};
    for (int i = 0; i <= N; i++) many[i] = r;
    mw_status st = mw_engine_submit_all(e, many, N + 1, id);
    CHECK(st == MW_ERR_LIMIT && strstr(mw_error_text(), "queue holds"), "more than there is room for: %s",
          mw_error_text());
    many[1].sampling.temperature = -1;
    st = mw_engine_submit_all(e, many, N, id);
    CHECK(st == MW_ERR_USAGE && strstr(mw_error_text(), "temperature"), "a wrong one among them: %s", mw_error_text());
    many[1] = r;
    /* All N fit: none of the above has stayed. */
    st = mw_engine_submit_all(e, many, N, id);
    CHECK(st == MW_OK, "%d together: %s", N, mw_error_text());
    int n = st == MW_OK ? N : 0;
    for (int i = 1; i < N; i++) CHECK(id[i] > id[i - 1], "ids ascend: %llu", (unsigned long long)id[i]);
    st = mw_engine_submit(e, &r, &id[N]);
    CHECK(st == MW_ERR_BUSY && strstr(mw_error_text(), "limit"), "one too many: %s", mw_error_text());
    for (int i = 0; i < n; i++) mw_engine_cancel(e, id[i]);
    for (int done = 0; done < n;) {
        mw_event ev;
        bool got;
        st = mw_engine_poll(e, 20000, &ev, &got);
        CHECK(st == MW_OK && got, "poll: %s", mw_error_text());
        if (st != MW_OK || !got) break;
        done += ev.type == MW_EVENT_DONE;
        mw_event_free(&ev);
    }
    run(e, &r, a, 1);
    CHECK(a->n_tokens[0] == 100, "there is room again: %d tokens", a->n_tokens[0]);
    free(a);
}

static void test_deadline(mw_engine *e) {
    answer *a = calloc(2, sizeof *a);
    mw_request r[2] = {text_request("HAMLET:\n", 100), text_request("JULIET:\n", 20)};
    r[0].deadline_s = 1e-6;
    r[1].deadline_s = 100;
    run(e, r, a, 2);
    CHECK(a[0].status == MW_ERR_TIMEOUT && strstr(a[0].error, "answer 0 has"), "'%s'", a[0].error);
    CHECK(a[1].n_tokens[0] == 20, "the other answer has %d tokens, '%s'", a[1].n_tokens[0], a[1].error);
    free(a);
}

static void test_rank_stats(mw_engine *e) {
    answer *a = calloc(1, sizeof *a);
    mw_request r = text_request("HAMLET:\n", 30);
    mw_rank_stats s;
    uint64_t steps = 0;
    run(e, &r, a, 1);
    CHECK(a->queue_s >= 0 && a->queue_s < 20, "queue_s %g", a->queue_s);
    for (int rank = 0; rank < mw_engine_size(e); rank++) {
        /* Told when the engine falls idle, which is just after the last event. */
        for (int i = 0; i < 2000; i++) {
            CHECK(mw_engine_rank_stats(e, rank, &s) == MW_OK, "%s", mw_error_text());
            mw_engine_info info;
            mw_engine_describe(e, &info);
            steps = info.steps;
            if (s.steps == steps) break;
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        }
        CHECK(s.steps == steps && s.weight_bytes > 0 && s.kv_bytes > 0 && s.device[0], "rank %d: %llu of %llu steps",
              rank, (unsigned long long)s.steps, (unsigned long long)steps);
        CHECK(s.gemm_s > 0 && s.collective_s >= 0 && s.gemm_s + s.collective_s <= s.step_s * 1.001,
              "rank %d: %g s in linear layers, %g s in collectives, %g s in steps", rank, s.gemm_s, s.collective_s,
              s.step_s);
    }
    CHECK(mw_engine_rank_stats(e, mw_engine_size(e), &s) == MW_ERR_USAGE, "a rank that is not there");
    free(a);
}

/* ---- several threads ---- */

typedef struct {
    mw_engine *e;
    int index, submitted;
    uint64_t id[64];
} caller;

static void *call(void *arg) {
    caller *c = arg;
    for (int i = 0; i < 40; i++) {
        mw_request r = text_request(k_prompts[(c->index + i) % N_PROMPTS], 1 + (i * 7 + c->index) % 20);
        if (mw_engine_submit(c->e, &r, &c->id[c->submitted]) == MW_OK) c->submitted++;
        if (i % 5 == 4) mw_engine_cancel(c->e, c->id[c->submitted - 1]);
        mw_engine_info info;
        mw_engine_describe(c->e, &info);
    }
    return NULL;
}

static void test_threads(mw_engine *e) {
    enum { N = 4 };
    pthread_t t[N];
    caller c[N];
    int done = 0, cancelled = 0;
    for (int i = 0; i < N; i++) {
        c[i] = (caller){.e = e, .index = i};
        pthread_create(&t[i], NULL, call, &c[i]);
    }
    while (done < N * 40) {
        mw_event ev;
        bool got;
        mw_status st = mw_engine_poll(e, 20000, &ev, &got);
        CHECK(st == MW_OK && got, "poll: %s after %d answers", mw_error_text(), done);
        if (st != MW_OK || !got) break;
        CHECK(ev.type != MW_EVENT_ERROR, "%s", ev.text);
        done += ev.type == MW_EVENT_DONE;
        cancelled += ev.type == MW_EVENT_DONE && strcmp(ev.finish_reason, "cancelled") == 0;
        mw_event_free(&ev);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(t[i], NULL);
        CHECK(c[i].submitted == 40, "thread %d submitted %d", i, c[i].submitted);
    }
    printf("threads: %d answers, %d of them cancelled\n", done, cancelled);
    mw_engine_info info;
    mw_engine_describe(e, &info);
    CHECK(info.kv_blocks_free == info.kv_blocks, "%d of %d KV blocks came back", info.kv_blocks_free, info.kv_blocks);
    CHECK(info.running == 0 && info.waiting == 0, "%d running, %d waiting", info.running, info.waiting);
}

static void test_text(mw_engine *e) {
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n, len;
    CHECK(mw_engine_tokenize(e, "To be", 5, true, &ids, &n) == MW_OK && n >= 2 && ids[0] == 2046, "tokenize");
    CHECK(mw_engine_detokenize(e, ids, n, true, &text, &len) == MW_OK && strcmp(text, "To be") == 0, "detokenize: %s",
          text);
    free(ids);
    free(text);
    const char *why = "";
    CHECK(mw_engine_can_chat(e, &why), "cannot chat: %s", why);
    mw_request r = {.messages_json = "[{\"role\":\"user\",\"content\":\"What news?\"}]",
                    .sampling = mw_sampling_default()};
    answer *a = calloc(1, sizeof *a);
    r.sampling.max_tokens = 5;
    run(e, &r, a, 1);
    CHECK(a->prompt_tokens == 11, "chat prompt of %zu tokens", a->prompt_tokens);
    r.messages_json = "[{\"role\":";
    uint64_t id;
    CHECK(mw_engine_submit(e, &r, &id) == MW_ERR_USAGE && strstr(mw_error_text(), "messages"), "%s", mw_error_text());
    free(a);
}

/* ---- idle ---- */

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void sleep_s(double s) {
    nanosleep(&(struct timespec){.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)}, NULL);
}

/* Every rank, while nobody asks for anything: hardly any of a core. */
static void test_idle(int rank) {
    sleep_s(0.3); /* threads that have just worked look out for more for a moment */
    double before = cpu_s();
    sleep_s(2);
    double share = (cpu_s() - before) / 2;
    printf("rank %d: %.2f %% of a core when idle\n", rank, share * 100);
    CHECK(share < 0.02, "rank %d uses %.2f %% of a core when idle", rank, share * 100);
}

/* Seconds to the first token, the best of some: after a pause of the whole engine, or one request after another. */
static double first_token_s(mw_engine *e, double pause_s) {
    answer *a = calloc(1, sizeof *a);
    double best = 1e9;
    mw_request r = text_request("HAMLET:\n", 1);
    for (int i = 0; i < 8; i++) {
        sleep_s(pause_s);
        run(e, &r, a, 1);
        if (a->ttft_s < best) best = a->ttft_s;
    }
    free(a);
    return best;
}

/* The first token after a pause is as fast as in traffic. On a machine that others use, at least sometimes. */
static void test_wake_up(mw_engine *e) {
    double busy = 0, idle = 0;
    for (int i = 0; i < 6 && (i == 0 || idle >= 2 * busy + 0.003); i++) {
        busy = first_token_s(e, 0);
        idle = first_token_s(e, 0.25);
        printf("first token after %.2f ms in traffic, %.2f ms after a pause\n", busy * 1e3, idle * 1e3);
    }
    CHECK(idle < 2 * busy + 0.003, "first token after %.2f ms in traffic, %.2f ms after a pause", busy * 1e3,
          idle * 1e3);
}

/* test_engine [cpu|cuda] [ahead|-] [model]    ahead: a step is planned before the tokens of the last one are known */
int main(int argc, char **argv) {
    mw_engine *e = NULL;
    /* A KV head of this model takes 1 kB a token, a rank has at least one: room for 17 blocks of 16 tokens at most four
     * times over, while test_company wants some 50 blocks. Sequences are preempted. */
    mw_engine_options o = {.model = argc > 3 ? argv[3] : MODEL,
                           .backend = argc > 1 ? argv[1] : "cpu",
                           .overlap = argc > 2 && strcmp(argv[2], "ahead") == 0,
                           .ctx = 128,
                           .max_seqs = 16,
                           .max_step_tokens = 32,
                           .kv_bytes = 17 * 16 * 2048,
                           .max_queue = MAX_QUEUE,
                           .timeout_s = 30};
    mw_status st = mw_engine_open(&e, &o);
    if (st != MW_OK) {
        if (mw_engine_reports(e)) printf("FAILED: %s\n", mw_error_text());
        mw_engine_exit(e, 1);
    }
    test_idle(mw_engine_rank(e));
    if (mw_engine_rank(e) != 0) {
        st = mw_engine_follow(e);
        if (st != MW_OK) mw_engine_exit(e, 1);
        return mw_engine_close(e) != MW_OK || g_failures != 0;
    }
    test_wake_up(e);
    test_text(e);
    test_company(e);
    test_seeds(e);
    test_stop(e);
    test_bias_and_logprobs(e);
    test_refusals(e);
    test_busy(e);
    test_deadline(e);
    test_threads(e);
    test_rank_stats(e);
    st = mw_engine_close(e);
    CHECK(st == MW_OK, "closing: %s", mw_error_text());
    printf("%d failures\n", g_failures);
    return g_failures != 0;
}
