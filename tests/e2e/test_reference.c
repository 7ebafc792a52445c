/* The whole engine on random models of many kinds against the double reference, on any number of ranks: every
 * log-probability of every prompt position, in one request and among others, in chunks, from packed and unpacked files.
 *
 * Bound: the engine rounds activations of int4 layers to 16 bits per group, K and V to the model's 16-bit type (f16:
 * 2^-11, bf16: 2^-8 relative), and adds in f32. Measured as a part of the spread of a row's log-probabilities; random
 * weights make sharp attention, which magnifies the rounding of K (docs/NUMERICS.md).
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "shard/repack.h"
#include "tests/ref/random_model.h"
#include "tests/ref/ref_model.h"
#include "worker/engine.h"

static int g_failures;
static bool g_cuda;

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            printf("FAILED %s:%d: ", __FILE__, __LINE__);                                                              \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
            g_failures++;                                                                                              \
        }                                                                                                              \
    } while (0)

typedef struct {
    const char *name;
    random_model m;
    double bound;
    bool int8;
} kind;

#define N_KINDS 12

/* Models that between them have every feature the formulas have. */
static int list_kinds(kind *k) {
    for (int i = 0; i < N_KINDS; i++) k[i] = (kind){.m = random_model_default(100 + (uint64_t)i), .bound = 0.003};
    k[0].name = "plain llama, group 32";
    k[1].name = "group 128, zeros";
    k[1].m.group = 128, k[1].m.zeros = true, k[1].bound = 0.02;
    k[2].name = "per channel";
    k[2].m.group = -1;
    k[3].name = "act-order";
    k[3].m.act_order = true, k[3].m.group = 64;
    k[4].name = "qwen2: biases, tied, bf16";
    k[4].m.bias = true, k[4].m.cfg.tie_embeddings = true, k[4].m.cfg.act = MW_BF16, k[4].m.scale_dtype = MW_BF16;
    k[4].m.dense_dtype = MW_BF16, k[4].bound = 0.06;
    k[5].name = "qwen3: q and k norms, head_dim apart from hidden";
    k[5].m.cfg.qk_norm = true, k[5].m.cfg.head_dim = 64;
    k[6].name = "mistral: sliding window";
    k[6].m.cfg.window = 7;
    k[7].name = "llama3 rope";
    k[7].m.cfg.rope_type = MW_ROPE_LLAMA3, k[7].m.cfg.rope_factor = 8, k[7].m.cfg.rope_low_freq = 1;
    k[7].m.cfg.rope_high_freq = 4, k[7].m.cfg.rope_original_max = 16, k[7].m.cfg.rope_theta = 500000;
    k[8].name = "16-bit MLP, biases on o and down";
    k[8].m.dense_mlp = true, k[8].m.o_bias = true;
    k[9].name = "q, k, v stored differently";
    k[9].m.mixed_qkv = true, k[9].m.act_order = true;
    k[10].name = "odd widths: head_dim 48, vocabulary 333, linear rope";
    k[10].m.cfg.head_dim = 48, k[10].m.cfg.n_heads = 8, k[10].m.cfg.n_kv_heads = 4, k[10].m.cfg.vocab = 333;
    k[10].m.cfg.rope_type = MW_ROPE_LINEAR, k[10].m.cfg.rope_factor = 2;
    k[11].name = "int8 activations";
    k[11].int8 = true, k[11].bound = 0.1;
    return N_KINDS;
}

typedef struct {
    int n_prompt;
    int32_t ids[64];
    double *ref; /* [n_prompt][vocab] log-probabilities */
    uint64_t id;
    bool seen, done;
} prompt;

static void reference(const char *path, prompt *p, int n, int vocab) {
    mw_ckpt *c = NULL;
    ref_model *m = NULL;
    mw_status st = mw_ckpt_open(&c, path);
    if (st == MW_OK) st = ref_model_open(&m, c);
    CHECK(st == MW_OK, "%s", mw_error_text());
    for (int i = 0; i < n && st == MW_OK; i++) {
        p[i].ref = malloc((size_t)(p[i].n_prompt * vocab) * sizeof(double));
        ref_model_logits(m, p[i].ids, p[i].n_prompt, p[i].ref);
        for (int r = 0; r < p[i].n_prompt; r++) {
            double *row = p[i].ref + r * vocab, best = row[0], sum = 0;
            for (int v = 0; v < vocab; v++) best = row[v] > best ? row[v] : best;
            for (int v = 0; v < vocab; v++) sum += exp(row[v] - best);
            for (int v = 0; v < vocab; v++) row[v] -= best + log(sum);
        }
    }
    ref_model_free(m);
    mw_ckpt_close(c);
}

static double check_prompt(const kind *k, const prompt *p, const mw_event *ev, int vocab) {
    double worst = 0; /* error over the spread of the row's log-probabilities */
    CHECK(ev->n_positions == (size_t)p->n_prompt - 1, "%s: %zu positions", k->name, ev->n_positions);
    for (size_t i = 0; i < ev->n_positions; i++) {
        const mw_position_logprobs *lp = &ev->logprobs[i];
        CHECK(lp->chosen.token == p->ids[i + 1] && lp->n_top == vocab, "%s: position %zu", k->name, i);
        const double *ref = p->ref + (int)i * vocab;
        double lo = 0;
        for (int t = 0; t < vocab; t++) lo = ref[t] < lo ? ref[t] : lo;
        for (int t = 0; t < lp->n_top; t++) {
            double d = fabs((double)lp->top[t].logprob - ref[lp->top[t].token]) / -lo;
            if (!(d <= worst)) worst = d;
        }
    }
    CHECK(worst <= k->bound, "%s: a log-probability is off by %g of the spread, bound %g", k->name, worst, k->bound);
    return worst;
}

/* All prompts at once: mixed lengths, chunks of 24 rows, so prefill and decode meet in the same steps. */
static void run_kind(mw_engine *e, const kind *k, prompt *p, int n) {
    int vocab = (int)k->m.cfg.vocab, open = n;
    double worst = 0;
    for (int i = 0; i < n; i++) {
        mw_request r = {.ids = p[i].ids, .n_ids = (size_t)p[i].n_prompt, .sampling = mw_sampling_default()};
        r.sampling.max_tokens = i % 3 * 4; /* some only score, some go on generating */
        r.sampling.prompt_logprobs = vocab;
        r.sampling.ignore_eos = true;
        mw_status st = mw_engine_submit(e, &r, &p[i].id);
        CHECK(st == MW_OK, "%s", mw_error_text());
        if (st != MW_OK) return;
    }
    while (open > 0) {
        mw_event ev;
        bool got;
        mw_status st = mw_engine_poll(e, -1, &ev, &got);
        if (st != MW_OK) {
            CHECK(false, "%s: %s", k->name, mw_error_text());
            return;
        }
        if (!got) continue;
        prompt *q = p;
        while (q->id != ev.id) q++;
        CHECK(ev.type != MW_EVENT_ERROR, "%s: %s", k->name, ev.text);
        if (ev.type == MW_EVENT_PROMPT) {
            double w = check_prompt(k, q, &ev, vocab);
            worst = w > worst ? w : worst;
            q->seen = true;
        }
        if (ev.type == MW_EVENT_DONE) {
            CHECK(q->seen && !q->done, "%s: events out of order", k->name);
            CHECK((int)ev.output_tokens == (int)(q - p) % 3 * 4, "%s: %zu tokens", k->name, ev.output_tokens);
            q->done = true;
        }
        open -= ev.type == MW_EVENT_DONE || ev.type == MW_EVENT_ERROR;
        mw_event_free(&ev);
    }
    printf("%-55s worst %.2e, bound %g\n", k->name, worst, k->bound);
}

static void one(const kind *k, const char *path, uint64_t seed) {
    enum { N = 7 };
    prompt p[N] = {0};
    mw_engine *e = NULL;
    mw_engine_options o = {.model = path,
                           .backend = g_cuda ? "cuda" : "cpu",
                           .ctx = 128,
                           .max_step_tokens = 24,
                           .int8_act = k->int8,
                           .timeout_s = 30};
    mw_status st = mw_engine_open(&e, &o);
    if (st != MW_OK) {
        if (mw_engine_reports(e)) printf("FAILED %s: %s\n", k->name, mw_error_text());
        mw_engine_exit(e, 1);
    }
    if (mw_engine_rank(e) != 0) {
        st = mw_engine_follow(e);
    } else {
        for (int i = 0; i < N; i++) {
            p[i].n_prompt = i == 0 ? 60 : random_int(&seed, 2, 60);
            for (int t = 0; t < p[i].n_prompt; t++) p[i].ids[t] = random_int(&seed, 0, (int)k->m.cfg.vocab - 1);
        }
        reference(path, p, N, (int)k->m.cfg.vocab);
        run_kind(e, k, p, N);
        for (int i = 0; i < N; i++) free(p[i].ref);
    }
    if (st != MW_OK) mw_engine_exit(e, 1);
    st = mw_engine_close(e);
    CHECK(st == MW_OK, "closing: %s", mw_error_text());
}

/* On GPUs every activation is rounded to 16 bits, not K and V alone. */
static double cuda_bound(const kind *k) {
    return k->m.cfg.act == MW_BF16 || k->m.zeros ? 0.1 : 0.01;
}

/* test_reference FOLDER write: makes the models, on one rank. test_reference FOLDER [cuda]: checks them, on any number.
 * The program starts MPI itself, so that one process can open many engines: what an embedding program does. */
int main(int argc, char **argv) {
    kind k[N_KINDS];
    char path[4096];
    int provided, rank = 0;
    bool write = argc > 2 && strcmp(argv[2], "write") == 0;
    if (argc < 2) return 64;
    g_cuda = argc > 2 && strcmp(argv[2], "cuda") == 0;
    if (!write) MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    for (int i = 0; i < list_kinds(k); i++)
        for (int packed = 0; packed < 2; packed++) {
            snprintf(path, sizeof path, "%s/random-%02d-%s.h5", argv[1], i, packed ? "packed" : "rows");
            k[i].m.layout = packed ? MW_IN_TILES : MW_IN_ROWS;
            if (write && random_model_write(&k[i].m, path) != MW_OK) {
                printf("FAILED %s: %s\n", path, mw_error_text());
                return 1;
            }
            if (g_cuda && k[i].int8) continue;
            if (g_cuda) k[i].bound = cuda_bound(&k[i]);
            if (!write && (packed || i % 3 == 0)) one(&k[i], path, (uint64_t)i * 7 + 1);
        }
    if (!write) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (!write) MPI_Finalize();
    return rank == 0 && g_failures ? 1 : 0;
}
