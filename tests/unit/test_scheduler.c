/* The scheduler against a model of what it promises, over random traffic with common beginnings, cancels, deadlines and
 * several clients, with steps planned one at a time and one ahead. A pretended device runs the plans: each slot of its
 * cache holds a hash of the text up to there, and the next token is a function of that hash. So a block that is shared,
 * reused or given away wrongly gives other tokens than the sequence gets alone.
 */
#include "tests/ref/random_model.h"
#include "tests/unit/test.h"
#include "worker/scheduler.h"

#define BT       16
#define MAX_LIVE 96
#define ALPHABET 50

static uint64_t g_rng;

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

static int32_t next_token(uint64_t text) {
    return (int32_t)(mix(text, 12345) % ALPHABET);
}

typedef struct {
    mw_seq seq;
    bool live;
    uint64_t text; /* hash of tokens */
    size_t hashed; /* so many of them */
    int logits_seen;
    int number; /* in order of arrival */
    bool admitted;
    int stop_at; /* ends by itself when it has so many tokens: the scheduler cannot know */
} request;

/* What the device keeps for a position: its token, and a hash of the text up to there, as K and V are one. */
typedef struct {
    uint64_t text;
    int32_t token;
    int written; /* in which step */
} cell;

/* What one open step will do, kept from its planning to its running. */
typedef struct {
    mw_step step;
    uint64_t text[4096]; /* of its logit rows: the hash of the text up to there, which chooses the next token */
} planned_step;

typedef struct {
    mw_scheduler s;
    planned_step step[2]; /* the last planned one is at n_planned % 2 */
    int n_planned, n_run;
    request r[MAX_LIVE];
    cell *slot;     /* the cache */
    uint64_t trace; /* hash of all plans */
    int n_started, steps_ahead, n_clients, finished, cancelled, expired;
    size_t made;
    double now;
} world;

/* ---- traffic ---- */

static bool start(world *w, uint64_t *rng, int max_prompt, int max_answer) {
    request *r = w->r;
    while (r < w->r + MAX_LIVE && r->live) r++;
    if (r == w->r + MAX_LIVE) return false;
    int n = random_int(rng, 1, max_prompt), common = random_int(rng, 0, n), text = random_int(rng, 0, 4);
    *r = (request){.live = true, .number = ++w->n_started};
    for (int i = 0; i < n; i++) /* some beginning of one of five texts, then its own */
        assert_ok(mw_ids_add(&r->seq.tokens, i < common ? (text + i) % ALPHABET : random_int(rng, 0, ALPHABET - 1)));
    r->seq.owner = r;
    r->seq.n_prompt = (size_t)n;
    r->seq.max_tokens = (size_t)(n + random_int(rng, 0, max_answer));
    r->stop_at = n + random_int(rng, 1, 2 * max_answer);
    r->seq.score_prompt = random_int(rng, 0, 7) == 0;
    r->seq.client = (uint64_t)random_int(rng, 1, w->n_clients);
    if (random_int(rng, 0, 9) == 0) r->seq.deadline_s = w->now + random_int(rng, 1, 200);
    assert_ok(mw_sched_add(&w->s, &r->seq));
    return true;
}

static void end(world *w, request *r) {
    assert_ok(mw_sched_remove(&w->s, &r->seq));
    mw_ids_free(&r->seq.tokens);
    r->live = false;
}

/* ---- what must hold ---- */

/* Every block has as many users as sequences list it, and the unused ones are in the list of unused blocks. */
static void check_blocks(const world *w) {
    const mw_kv_blocks *k = &w->s.kv;
    int *users = calloc((size_t)k->n, sizeof *users), n_free = 0, n_cached = 0, prev = -1;
    for (int i = 0; i < MAX_LIVE; i++)
        for (int b = 0; w->r[i].live && b < w->r[i].seq.n_blocks; b++) users[w->r[i].seq.block[b]]++;
    for (int b = 0; b < k->n; b++) assert_int_equal(k->block[b].users, users[b]);
    for (int b = k->head; b >= 0; prev = b, b = k->block[b].next) {
        assert_int_equal(k->block[b].prev, prev);
        assert_int_equal(users[b], 0);
        n_free++;
        n_cached += k->block[b].name != 0;
        assert_true(n_free <= k->n);
    }
    assert_int_equal(k->tail, prev);
    assert_int_equal(n_free, k->n_free);
    assert_int_equal(n_cached, k->n_cached);
    for (int b = 0; b < k->n; b++) n_free += users[b] > 0;
    assert_int_equal(n_free, k->n);
    free(users);
}

/* A client's requests are admitted in their order; whoever has run longest is not put off while others run. */
static void check_order(world *w) {
    for (int i = 0; i < MAX_LIVE; i++) {
        request *r = &w->r[i];
        if (!r->live || r->admitted || r->seq.admission == 0) continue;
        r->admitted = true;
        for (int k = 0; k < MAX_LIVE; k++)
            if (w->r[k].live && w->r[k].seq.client == r->seq.client && w->r[k].seq.admission == 0)
                assert_true(w->r[k].number > r->number);
    }
    const mw_seq *first = w->s.running.head, *aside = w->s.put_off.head;
    if (first && aside) assert_true(first->admission < aside->admission);
    for (const mw_seq *q = first; q && q->next; q = q->next) assert_true(q->admission < q->next->admission);
}

static void check_plan(world *w, const mw_open_step *o, const mw_step *p) {
    assert_true(p->h.n_tokens <= w->s.max_step_tokens && p->h.n_seqs <= w->s.max_seqs && p->h.n_seqs == o->n);
    assert_int_equal(p->q_start[0], 0);
    assert_int_equal(p->q_start[p->h.n_seqs], p->h.n_tokens);
    int logits = 0;
    for (int i = 0; i < o->n; i++) {
        const mw_planned *pl = &o->part[i];
        request *r = pl->seq->owner;
        assert_int_equal(p->q_start[i], pl->first_row);
        assert_int_equal(p->ctx_len[i], (int)pl->first_pos + pl->n_rows);
        assert_true((size_t)p->ctx_len[i] < pl->seq->max_tokens || (size_t)p->ctx_len[i] == pl->seq->n_prompt);
        for (int row = 0; row < pl->n_rows; row++) {
            int pos = p->pos[pl->first_row + row], slot = p->slot[pl->first_row + row];
            assert_int_equal(pos, (int)pl->first_pos + row);
            assert_int_equal(slot, p->block_table[i * p->h.block_stride + pos / BT] * BT + pos % BT);
            w->trace = mix(w->trace, (uint64_t)slot << 32 | (uint32_t)p->token[pl->first_row + row]);
        }
        assert_int_equal(pl->first_logit, logits);
        for (int l = 0; l < pl->n_logits; l++)
            assert_int_equal(p->logit_row[logits + l], pl->first_row + pl->n_rows - pl->n_logits + l);
        if (pl->samples) assert_true(pl->n_logits >= 1);
        r->logits_seen += pl->n_logits;
        logits += pl->n_logits;
    }
    assert_int_equal(logits, p->h.n_logits);
    w->trace = mix(w->trace, (uint64_t)p->h.n_tokens);
}

/* ---- the device ---- */

/* Every row goes behind the text that its block table shows, and every row sees an unbroken text before it. */
static void run_step(world *w) {
    planned_step *now = &w->step[w->n_run % 2], *before = &w->step[(w->n_run + 1) % 2];
    mw_step *p = &now->step;
    w->n_run++;
    for (int i = 0, l = 0; i < p->h.n_seqs; i++) {
        const int32_t *table = p->block_table + i * p->h.block_stride;
        int row = p->q_start[i], first = p->ctx_len[i] - (p->q_start[i + 1] - row);
        uint64_t text = 1;
        for (int pos = 0; pos < p->ctx_len[i]; pos++) {
            cell *c = &w->slot[table[pos / BT] * BT + pos % BT];
            if (pos >= first) {
                int32_t token = p->token[row];
                if (token < 0) token = next_token(before->text[-1 - token]);
                assert_true(c->written != w->n_run); /* by two rows of one step */
                *c = (cell){.text = mix(text, (uint64_t)token), .token = token, .written = w->n_run};
            }
            text = mix(text, (uint64_t)c->token);
            assert_true(c->text == text);
            if (pos >= first && l < p->h.n_logits && p->logit_row[l] == row) now->text[l++] = text;
            row += pos >= first;
        }
    }
}

/* ---- the owner ---- */

static uint64_t text_of(request *r) {
    if (r->hashed == 0) r->text = 1;
    while (r->hashed < r->seq.tokens.n) r->text = mix(r->text, (uint64_t)r->seq.tokens.p[r->hashed++]);
    return r->text;
}

static void settle(world *w) {
    const mw_open_step *o = mw_sched_oldest(&w->s);
    planned_step *now = &w->step[(w->n_run + 1) % 2];
    for (int i = 0; i < o->n; i++) {
        const mw_planned *pl = &o->part[i];
        if (!pl->seq) continue;
        request *r = pl->seq->owner;
        size_t n = r->seq.tokens.n;
        bool ends = r->seq.max_tokens == r->seq.n_prompt && pl->first_pos + (size_t)pl->n_rows == n;
        if (pl->samples) {
            uint64_t text = now->text[pl->first_logit + pl->n_logits - 1];
            assert_true(text == text_of(r)); /* of its own text, whatever has become of its blocks */
            assert_ok(mw_sched_token(&r->seq, next_token(text)));
            w->made++;
            ends = ++n == r->seq.max_tokens || n == (size_t)r->stop_at;
        }
        if (!ends) continue;
        if (r->seq.score_prompt && w->steps_ahead == 0) /* each row of the prompt once, then one a token */
            assert_int_equal(r->logits_seen, n - 1 < r->seq.n_prompt ? r->seq.n_prompt : n - 1);
        assert_true(r->seq.n_reused < r->seq.n_prompt);
        end(w, r);
        w->finished++;
    }
    mw_sched_done(&w->s);
}

static bool plan(world *w) {
    const mw_open_step *o;
    planned_step *next = &w->step[w->n_planned % 2];
    assert_ok(mw_sched_plan(&w->s, &next->step, &o));
    if (next->step.h.n_tokens == 0) return false;
    assert_true(next->step.h.n_logits <= 4096);
    check_plan(w, o, &next->step);
    w->n_planned++;
    return true;
}

static void cancel_some(world *w, uint64_t *rng) {
    request *r = &w->r[random_int(rng, 0, MAX_LIVE - 1)];
    if (!r->live || random_int(rng, 0, 99)) return;
    end(w, r);
    w->cancelled++;
}

static void expire(world *w) {
    for (mw_seq *q; (q = mw_sched_expired(&w->s, w->now)) != NULL; w->expired++) {
        assert_true(q->deadline_s > 0 && q->deadline_s <= w->now);
        end(w, q->owner);
    }
    for (int i = 0; i < MAX_LIVE; i++)
        if (w->r[i].live && w->r[i].seq.deadline_s > 0) assert_true(w->r[i].seq.deadline_s > w->now - 0.02);
}

typedef struct {
    int blocks, max_seqs, max_rows, max_prompt, max_answer, clients, steps_ahead, requests;
    bool share;
} setting;

static int live(const world *w) {
    int n = 0;
    for (int i = 0; i < MAX_LIVE; i++) n += w->r[i].live;
    return n;
}

/* Returns the hash of all plans: the same traffic has the same plans. */
static uint64_t simulate(const setting *c, uint64_t seed, mw_scheduler *counts) {
    world *w = calloc(1, sizeof *w);
    uint64_t rng = seed;
    int started = 0, idle = 0;
    w->steps_ahead = c->steps_ahead;
    w->n_clients = c->clients;
    assert_ok(mw_sched_init(&w->s, c->blocks, BT, c->max_seqs, c->max_rows, c->share));
    w->slot = calloc((size_t)c->blocks * BT, sizeof *w->slot);
    while (started < c->requests || live(w) > 0) {
        w->now += 1;
        for (int i = random_int(&rng, 0, 3); i > 0 && started < c->requests; i--)
            started += start(w, &rng, c->max_prompt, c->max_answer);
        cancel_some(w, &rng);
        expire(w);
        bool planned = plan(w);
        cancel_some(w, &rng); /* a step that is open */
        if (w->n_run < w->n_planned && (w->n_planned - w->n_run > w->steps_ahead || !planned)) {
            run_step(w);
            settle(w);
        } else if (!planned) {
            assert_int_equal(live(w), 0); /* never stuck with work at hand */
        }
        idle = planned ? 0 : idle + 1;
        assert_true(idle < 1000);
        assert_true(w->n_planned < 100 * c->requests); /* and it ends */
        check_blocks(w);
        check_order(w);
    }
    while (w->n_run < w->n_planned) {
        run_step(w);
        settle(w);
    }
    check_blocks(w);
    assert_int_equal(w->s.kv.n_free, c->blocks);
    assert_int_equal(mw_sched_n_waiting(&w->s) + w->s.running.n, 0);
    printf(
        "%d blocks, %d seats, %d rows, %d ahead: %d steps, %d done, %d cancelled, %d late, %zu tokens, put off %llu, "
        "%llu of %llu prompt tokens reused\n",
        c->blocks, c->max_seqs, c->max_rows, c->steps_ahead, w->n_run, w->finished, w->cancelled, w->expired, w->made,
        (unsigned long long)w->s.preemptions, (unsigned long long)w->s.prefix_hit_tokens,
        (unsigned long long)w->s.prefix_query_tokens);
    assert_true(w->finished > c->requests / 4);
    counts->preemptions += w->s.preemptions;
    counts->prefix_hit_tokens += w->s.prefix_hit_tokens;
    uint64_t trace = w->trace;
    mw_sched_free(&w->s);
    for (int i = 0; i < 2; i++) mw_step_free(&w->step[i].step);
    free(w->slot);
    free(w);
    return trace;
}

static void test_traffic(void **state) {
    (void)state;
    for (int ahead = 0; ahead <= 1; ahead++) {
        mw_scheduler roomy = {0}, tight = {0}, plain = {0};
        const setting a = {800, 16, 64, 200, 40, 5, ahead, 2000, true};   /* room for all */
        const setting b = {20, 8, 48, 120, 200, 5, ahead, 1500, true};    /* hardly for two */
        const setting c = {30, 64, 64, 20, 120, 50, ahead, 1500, true};   /* many small ones */
        const setting d = {16, 1, 1, 100, 20, 2, ahead, 100, true};       /* one row at a time */
        const setting e = {60, 16, 256, 300, 400, 3, ahead, 1000, false}; /* nothing shared */
        uint64_t trace = simulate(&a, g_rng, &roomy);
        assert_int_equal(roomy.preemptions, 0);
        assert_true(roomy.prefix_hit_tokens > 0);
        assert_true(simulate(&a, g_rng, &roomy) == trace);
        simulate(&b, random_next(&g_rng), &tight);
        simulate(&c, random_next(&g_rng), &tight);
        simulate(&d, random_next(&g_rng), &tight);
        assert_true(tight.preemptions > 0);
        assert_true(tight.prefix_hit_tokens > 0);
        simulate(&e, random_next(&g_rng), &plain);
        assert_int_equal(plain.prefix_hit_tokens, 0);
    }
}

/* ---- single promises ---- */

static mw_seq make(int n_prompt, int max_tokens, uint64_t client, int32_t first) {
    mw_seq q = {.n_prompt = (size_t)n_prompt, .max_tokens = (size_t)max_tokens, .client = client};
    for (int i = 0; i < n_prompt; i++) assert_ok(mw_ids_add(&q.tokens, first + i));
    return q;
}

static void drop(mw_scheduler *s, mw_seq *q) {
    assert_ok(mw_sched_remove(s, q));
    mw_ids_free(&q->tokens);
}

/* One step, planned and over; sequences that sample get token 7. */
static const mw_open_step *step_once(mw_scheduler *s, mw_step *step) {
    const mw_open_step *o;
    assert_ok(mw_sched_plan(s, step, &o));
    for (int i = 0; i < o->n; i++)
        if (o->part[i].samples) assert_ok(mw_sched_token(o->part[i].seq, 7));
    mw_sched_done(s);
    return o;
}

static int rows_of(const mw_open_step *o, const mw_seq *q) {
    for (int i = 0; i < o->n; i++)
        if (o->part[i].seq == q) return o->part[i].n_rows;
    return 0;
}

/* A client with many requests does not keep another one waiting: they take turns, each one's own in order. */
static void test_turns(void **state) {
    (void)state;
    enum { N = 12 };
    mw_scheduler s;
    mw_step step = {0};
    mw_seq q[N];
    const int expected[N] = {0, 10, 1, 11, 2, 3, 4, 5, 6, 7, 8, 9}; /* 10 and 11 are client 2's */
    assert_ok(mw_sched_init(&s, 64, BT, 1, 64, true));
    for (int i = 0; i < N; i++) {
        q[i] = make(4, 5, i < 10 ? 1 : 2, 100 * i);
        assert_ok(mw_sched_add(&s, &q[i]));
    }
    for (int i = 0; i < N; i++) {
        step_once(&s, &step);
        assert_int_equal(s.running.n, 1);
        assert_ptr_equal(s.running.head, &q[expected[i]]);
        drop(&s, &q[expected[i]]);
    }
    assert_ptr_equal(s.waiting.first, NULL);
    mw_sched_free(&s);
    mw_step_free(&step);
}

/* Behind long prompts a short one has its first token after a few steps, and the long ones are delayed by half. */
static void test_long_prompts(void **state) {
    (void)state;
    mw_scheduler s;
    mw_step step = {0};
    mw_seq a = make(6400, 6401, 1, 0), b = make(6400, 6401, 1, 7000), c = make(40, 41, 1, 20000);
    assert_ok(mw_sched_init(&s, 2000, BT, 8, 64, true));
    assert_ok(mw_sched_add(&s, &a));
    assert_ok(mw_sched_add(&s, &b));
    for (int i = 0; i < 10; i++) step_once(&s, &step);
    assert_ok(mw_sched_add(&s, &c));
    int rows = 0, steps = 0, before = (int)a.n_cached;
    while (rows < 40) {
        const mw_open_step *o = step_once(&s, &step);
        assert_true(step.h.n_tokens > 48 && step.h.n_tokens <= 64);
        rows += rows_of(o, &c);
        assert_true(++steps <= 2);
    }
    assert_true((int)a.n_cached - before >= 32 * steps);
    drop(&s, &a);
    drop(&s, &b);
    drop(&s, &c);
    assert_int_equal(s.kv.n_free, 2000);
    mw_sched_free(&s);
    mw_step_free(&step);
}

/* The second request with a text finds its whole blocks, never its last token; other texts find what they share; and
 * what was evicted is not found. */
static void test_reuse(void **state) {
    (void)state;
    mw_scheduler s;
    mw_step step = {0};
    assert_ok(mw_sched_init(&s, 10, BT, 8, 512, true));
    mw_seq a = make(64, 65, 1, 0), b = make(64, 65, 1, 0), c = make(70, 71, 1, 0), d = make(150, 151, 1, 5000);
    c.tokens.p[40] = 999;
    assert_ok(mw_sched_add(&s, &a));
    assert_int_equal(rows_of(step_once(&s, &step), &a), 64);
    drop(&s, &a);
    assert_int_equal(s.kv.n_free, 10);
    assert_int_equal(s.kv.n_cached, 4);
    assert_ok(mw_sched_add(&s, &b));
    assert_int_equal(rows_of(step_once(&s, &step), &b), 16); /* 48 of 63 */
    assert_int_equal(b.n_reused, 48);
    assert_ok(mw_sched_add(&s, &c));
    assert_int_equal(rows_of(step_once(&s, &step), &c), 70 - 32);
    assert_int_equal(b.block[1], c.block[1]);
    assert_int_equal(s.kv.block[b.block[1]].users, 2);
    drop(&s, &b);
    drop(&s, &c);
    assert_int_equal(s.prefix_hit_tokens, 80);
    assert_int_equal(s.prefix_query_tokens, 64 + 64 + 70);
    assert_ok(mw_sched_add(&s, &d)); /* takes the whole cache */
    step_once(&s, &step);
    drop(&s, &d);
    a = make(64, 65, 1, 0);
    assert_ok(mw_sched_add(&s, &a));
    assert_int_equal(rows_of(step_once(&s, &step), &a), 64);
    drop(&s, &a);
    mw_sched_free(&s);
    mw_step_free(&step);
}

/* Answers to one prompt that come together compute it once, also when it takes several steps. */
static void test_siblings(void **state) {
    (void)state;
    enum { N = 6 };
    mw_scheduler s;
    mw_step step = {0};
    mw_seq q[N];
    int rows = 0;
    assert_ok(mw_sched_init(&s, 200, BT, 8, 64, true));
    for (int i = 0; i < N; i++) {
        q[i] = make(333, 335, 1, 0);
        assert_ok(mw_sched_add(&s, &q[i]));
    }
    for (int steps = 0; steps < 9; steps++) {
        const mw_open_step *o = step_once(&s, &step);
        for (int i = 0; i < N; i++) rows += rows_of(o, &q[i]);
    }
    for (int i = 0; i < N; i++) assert_int_equal(q[i].tokens.n, 335);
    assert_true(rows <= 333 + N * (13 + 1)); /* 13 tokens are behind the last whole block; and each has one more row */
    for (int i = 0; i < N; i++) drop(&s, &q[i]);
    assert_int_equal(s.kv.n_free, 200);
    mw_sched_free(&s);
    mw_step_free(&step);
}

/* Two texts with one hash bucket, or one block behind two texts, are two. */
static void test_names(void **state) {
    (void)state;
    mw_kv_blocks k;
    int32_t text[40][BT] = {{0}}, b[40];
    assert_ok(mw_kv_blocks_init(&k, 40, BT)); /* 64 buckets */
    for (int i = 0; i < 40; i++) {
        text[i][15] = i / 2;
        b[i] = mw_kv_take(&k);
        assert_int_equal(mw_kv_name(&k, b[i], (uint64_t)(i % 2), text[i]), b[i]);
    }
    for (int i = 0; i < 40; i++) assert_int_equal(mw_kv_find(&k, (uint64_t)(i % 2), text[i]), b[i]);
    assert_int_equal(mw_kv_find(&k, 2, text[0]), -1);
    assert_int_equal(mw_kv_name(&k, b[7], 0, text[0]), b[0]); /* taken */
    assert_int_equal(mw_kv_take(&k), -1);
    assert_ok(mw_kv_give(&k, b, 40));
    assert_int_equal(k.n_cached, 40);
    for (int i = 39; i >= 0; i--) { /* of one giving the last block goes first */
        assert_int_equal(mw_kv_take(&k), b[i]);
        assert_int_equal(mw_kv_find(&k, (uint64_t)(i % 2), text[i]), -1);
    }
    mw_kv_blocks_free(&k);
}

static void test_double_give(void **state) {
    (void)state;
    mw_kv_blocks k;
    assert_ok(mw_kv_blocks_init(&k, 3, BT));
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
        cmocka_unit_test(test_traffic),     cmocka_unit_test(test_turns),    cmocka_unit_test(test_long_prompts),
        cmocka_unit_test(test_reuse),       cmocka_unit_test(test_siblings), cmocka_unit_test(test_names),
        cmocka_unit_test(test_double_give),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
