/* The scheduler against a model of what it promises, over random traffic: rows within the budget, positions without
 * gaps, every slot owned by one sequence, waiting sequences in order, all blocks back in the end, and progress always.
 */
#include "tests/ref/random_model.h"
#include "tests/unit/test.h"
#include "worker/scheduler.h"

static uint64_t g_rng;

#define MAX_LIVE 64

typedef struct {
    mw_seq seq;
    int want; /* tokens to generate */
    bool live, scored;
    int logits_seen;
} client;

typedef struct {
    mw_scheduler s;
    mw_step step;
    client c[MAX_LIVE];
    int64_t *slot_token; /* what each slot holds: client * 1e6 + position, or -1 */
    int n_slots, finished, generated;
} world;

static void start(world *w, int max_prompt) {
    for (int i = 0; i < MAX_LIVE; i++) {
        client *c = &w->c[i];
        if (c->live) continue;
        *c = (client){.live = true, .want = random_int(&g_rng, 1, 40), .scored = random_int(&g_rng, 0, 4) == 0};
        c->seq.n_prompt = (size_t)random_int(&g_rng, 1, max_prompt);
        c->seq.score_prompt = c->scored;
        for (size_t t = 0; t < c->seq.n_prompt; t++)
            assert_ok(mw_ids_add(&c->seq.tokens, (int32_t)(i * 1000 + (int)t % 1000)));
        c->seq.owner = c;
        mw_sched_add(&w->s, &c->seq);
        return;
    }
}

static void end(world *w, client *c) {
    assert_ok(mw_sched_remove(&w->s, &c->seq));
    mw_ids_free(&c->seq.tokens);
    c->live = false;
    w->finished++;
}

/* The plan says what it should about every row; "run" it by writing which token each slot now holds. */
static void run_step(world *w) {
    const mw_step *p = &w->step;
    assert_true(p->h.n_tokens <= w->s.max_step_tokens && p->h.n_seqs <= w->s.max_seqs);
    assert_int_equal(p->q_start[0], 0);
    assert_int_equal(p->q_start[p->h.n_seqs], p->h.n_tokens);
    int logits = 0;
    for (int i = 0; i < w->s.n_plan; i++) {
        const mw_planned *pl = &w->s.plan[i];
        client *c = pl->seq->owner;
        int id = (int)(c - w->c);
        assert_int_equal(p->q_start[i], pl->first_row);
        assert_int_equal(p->ctx_len[i], (int)pl->seq->n_cached + pl->n_rows);
        for (int r = 0; r < pl->n_rows; r++) {
            int row = pl->first_row + r, pos = (int)pl->seq->n_cached + r, slot = p->slot[row];
            assert_int_equal(p->pos[row], pos);
            assert_int_equal(p->token[row], pl->seq->tokens.p[pos]);
            assert_true(slot >= 0 && slot < w->n_slots);
            assert_int_equal(slot, p->block_table[i * p->h.block_stride + pos / 16] * 16 + pos % 16);
            w->slot_token[slot] = (int64_t)id * 1000000 + pos;
        }
        for (int pos = 0; pos < p->ctx_len[i];
             pos++) { /* attention will find this sequence's own tokens, all of them */
            int slot = p->block_table[i * p->h.block_stride + pos / 16] * 16 + pos % 16;
            assert_int_equal(w->slot_token[slot], (int64_t)id * 1000000 + pos);
        }
        assert_int_equal(pl->first_logit, logits);
        for (int l = 0; l < pl->n_logits; l++)
            assert_int_equal(p->logit_row[logits + l], pl->first_row + pl->n_rows - pl->n_logits + l);
        if (pl->samples) assert_true(pl->n_logits >= 1);
        c->logits_seen += pl->n_logits;
        logits += pl->n_logits;
    }
    assert_int_equal(logits, p->h.n_logits);
}

static void settle(world *w) {
    mw_planned plan[MAX_LIVE];
    int n = w->s.n_plan;
    memcpy(plan, w->s.plan, (size_t)n * sizeof *plan);
    mw_sched_done(&w->s);
    for (int i = 0; i < n; i++) {
        client *c = plan[i].seq->owner;
        if (!plan[i].samples) continue;
        assert_ok(mw_ids_add(&c->seq.tokens, 7));
        w->generated++;
        int made = (int)(c->seq.tokens.n - c->seq.n_prompt);
        if (made < c->want) continue;
        /* Each prompt row was scored once; each further token needed one row of logits. */
        if (c->scored)
            assert_int_equal(c->logits_seen, (int)c->seq.n_prompt + made - 1);
        else
            assert_int_equal(c->logits_seen, made);
        end(w, c);
    }
}

static void simulate(int blocks, int max_seqs, int max_rows, int max_prompt, uint64_t *preemptions) {
    world w = {.n_slots = blocks * 16};
    assert_ok(mw_sched_init(&w.s, blocks, 16, max_seqs, max_rows));
    w.slot_token = malloc((size_t)w.n_slots * sizeof *w.slot_token);
    for (int i = 0; i < w.n_slots; i++) w.slot_token[i] = -1;
    for (int t = 0; t < 3000; t++) {
        if (t < 1500 && random_int(&g_rng, 0, 3) == 0) start(&w, max_prompt);
        if (random_int(&g_rng, 0, 60) == 0) { /* a user goes away */
            client *c = &w.c[random_int(&g_rng, 0, MAX_LIVE - 1)];
            if (c->live) end(&w, c);
        }
        assert_ok(mw_sched_plan(&w.s, &w.step));
        if (w.step.h.n_tokens == 0) {
            assert_int_equal(w.s.running.n + w.s.waiting.n, 0); /* never stuck with work at hand */
            continue;
        }
        run_step(&w);
        settle(&w);
    }
    assert_true(w.finished > 20);
    *preemptions += w.s.preemptions;
    for (int i = 0; i < MAX_LIVE; i++)
        if (w.c[i].live) end(&w, &w.c[i]);
    assert_int_equal(w.s.kv.n_free, blocks);
    mw_sched_free(&w.s);
    mw_step_free(&w.step);
    free(w.slot_token);
}

static void test_traffic(void **state) {
    (void)state;
    uint64_t preemptions = 0;
    simulate(400, 16, 64, 200, &preemptions); /* room for all */
    assert_int_equal(preemptions, 0);
    for (int i = 0; i < 5; i++) simulate(20, 8, 48, 200, &preemptions); /* hardly room for two */
    assert_true(preemptions > 0);
    simulate(20, 64, 64, 30, &preemptions);
    simulate(16, 1, 1, 100, &preemptions); /* one row at a time */
}

static void test_first_come_first_served(void **state) {
    (void)state;
    mw_scheduler s;
    mw_step step = {0};
    mw_seq q[4] = {0};
    assert_ok(mw_sched_init(&s, 64, 16, 2, 8));
    for (int i = 0; i < 4; i++) {
        q[i].n_prompt = 4;
        for (int t = 0; t < 4; t++) assert_ok(mw_ids_add(&q[i].tokens, t));
        mw_sched_add(&s, &q[i]);
    }
    assert_ok(mw_sched_plan(&s, &step));
    assert_int_equal(s.n_plan, 2);
    assert_ptr_equal(s.plan[0].seq, &q[0]);
    assert_ptr_equal(s.plan[1].seq, &q[1]);
    mw_sched_done(&s);
    assert_ok(mw_sched_remove(&s, &q[1]));
    assert_ok(mw_ids_add(&q[0].tokens, 9));
    assert_ok(mw_sched_plan(&s, &step));
    assert_int_equal(s.n_plan, 2);
    assert_ptr_equal(s.plan[0].seq, &q[0]);
    assert_ptr_equal(s.plan[1].seq, &q[2]);
    mw_sched_done(&s);
    for (int i = 0; i < 4; i++) {
        if (i != 1) assert_ok(mw_sched_remove(&s, &q[i]));
        mw_ids_free(&q[i].tokens);
    }
    mw_sched_free(&s);
    mw_step_free(&step);
}

static void test_double_give(void **state) {
    (void)state;
    mw_kv_blocks k;
    assert_ok(mw_kv_blocks_init(&k, 3, 16));
    int32_t b = mw_kv_take(&k), bad = 99;
    assert_ok(mw_kv_give(&k, &b, 1));
    assert_fails(mw_kv_give(&k, &b, 1), MW_ERR_INTERNAL, "not taken");
    assert_fails(mw_kv_give(&k, &bad, 1), MW_ERR_INTERNAL, "99");
    assert_int_equal(k.n_free, 3);
    mw_kv_blocks_free(&k);
}

int main(int argc, char **argv) {
    g_rng = test_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traffic),
        cmocka_unit_test(test_first_come_first_served),
        cmocka_unit_test(test_double_give),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
