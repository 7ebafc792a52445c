/* For random model shapes and 1..16 ranks: the slices of all ranks tile every tensor exactly once (KV heads may be held
 * by several ranks, whole), cuts fall where kernels can follow, and every rank has something to do. */
#include "shard/plan.h"
#include "tests/ref/random_model.h"
#include "tests/unit/test.h"

static uint64_t g_rng;

static random_model random_shape(void) {
    static const int dims[] = {16, 32, 48, 64, 80, 96, 128};
    static const int groups[] = {32, 64, 128, -1};
    random_model m = random_model_default(random_next(&g_rng));
    m.group = groups[random_int(&g_rng, 0, 3)];
    m.layout = random_int(&g_rng, 0, 1) ? MW_IN_TILES : MW_IN_ROWS;
    m.act_order = random_int(&g_rng, 0, 2) == 0 && m.group > 0;
    m.zeros = random_int(&g_rng, 0, 1);
    m.cfg.n_layers = 1;
    m.cfg.head_dim = dims[random_int(&g_rng, 0, 6)];
    m.cfg.n_kv_heads = random_int(&g_rng, 1, 8);
    m.cfg.n_heads = m.cfg.n_kv_heads * random_int(&g_rng, 1, 4);
    int64_t unit = m.group > 0 ? m.group : 16;
    while (m.cfg.n_heads * m.cfg.head_dim % unit) m.cfg.n_heads += m.cfg.n_kv_heads;
    m.cfg.hidden = 128 * random_int(&g_rng, 1, 3);
    m.cfg.intermediate = unit * random_int(&g_rng, 1, 2048 / (int)unit);
    m.cfg.vocab = random_int(&g_rng, 17, 1500);
    m.cfg.tie_embeddings = random_int(&g_rng, 0, 1);
    m.cfg.bos_id = -1;
    m.cfg.n_eos = 0;
    return m;
}

/* Mark [r.lo, r.hi) of one axis; every element must come up `times` in the end. */
static void mark(uint8_t *count, mw_range r) {
    for (int64_t i = r.lo; i < r.hi; i++) count[i]++;
}

static void check_axis(const mw_plan *p, const mw_weight *w, bool along_k, bool replicas) {
    int64_t len = along_k ? w->k : w->n;
    uint8_t *count = calloc((size_t)len, 1);
    mw_range last = {-1, -1};
    for (int r = 0; r < p->n_ranks; r++) {
        mw_range k, n;
        mw_plan_slice(p, r, w, &k, &n);
        mw_range cut = along_k ? k : n, whole = along_k ? n : k;
        assert_int_equal(whole.lo, 0);
        assert_int_equal(whole.hi, along_k ? w->n : w->k);
        assert_true(cut.lo < cut.hi && cut.lo >= 0 && cut.hi <= len);
        if (!(replicas && cut.lo == last.lo && cut.hi == last.hi)) mark(count, cut);
        last = cut;
    }
    for (int64_t i = 0; i < len; i++) assert_int_equal(count[i], 1);
    free(count);
}

static void check_cut(const mw_plan *p, const mw_weight *w) {
    for (int r = 0; r < p->n_ranks; r++) {
        mw_range k, n;
        mw_plan_slice(p, r, w, &k, &n);
        if (w->kind != MW_INT4) continue;
        int64_t g = mw_plan_local_group(w, k), len = mw_range_len(k);
        assert_int_equal(k.lo % 16, 0);
        assert_int_equal(len % 16, 0);
        assert_int_equal(len % g, 0);
        assert_int_equal(n.lo % 2, 0);
        if (w->group_size == w->k) {
            assert_int_equal(g, len);
        } else {
            assert_true(g >= 32 && w->group_size % g == 0);
            assert_int_equal(k.lo % g, 0);
        }
    }
}

static void check_plan(const mw_ckpt *c, int np) {
    mw_plan *p = NULL;
    assert_ok(mw_plan_make(&p, c, np));
    for (int i = 0; i < mw_ckpt_n_weights(c); i++) {
        const mw_weight *w = mw_ckpt_weight(c, i);
        mw_role role;
        assert_ok(mw_plan_role(w->name, &role));
        bool kv = strstr(w->name, "k_proj") || strstr(w->name, "v_proj");
        if (role == MW_ROLE_REPLICATED) continue;
        check_axis(p, w, role == MW_ROLE_ROW, kv);
        check_cut(p, w);
    }
    const mw_model_config *m = mw_ckpt_config(c);
    for (int r = 0; r < np; r++) { /* a rank's q heads use exactly its KV heads, in equal parts */
        mw_range q = p->rank[r].q_heads, kv = p->rank[r].kv_heads;
        int64_t ratio = m->n_heads / m->n_kv_heads;
        assert_int_equal(q.lo / ratio, kv.lo);
        assert_int_equal((q.hi - 1) / ratio, kv.hi - 1);
        assert_int_equal(mw_range_len(q) % mw_range_len(kv), 0);
    }
    mw_plan_free(p);
}

static void test_random_shapes(void **state) {
    (void)state;
    for (int i = 0; i < 60; i++) {
        random_model m = random_shape();
        mw_ckpt *c = NULL;
        mw_plan *p = NULL;
        const char *path = random_model_path("plan.h5");
        assert_ok(random_model_write(&m, path));
        assert_ok(mw_ckpt_open(&c, path));
        int most = mw_plan_max_ranks(c);
        assert_true(most >= 1);
        for (int np = 1; np <= most && np <= 16; np++) check_plan(c, np);
        assert_fails(mw_plan_make(&p, c, most + 1), MW_ERR_LIMIT, "at most");
        mw_ckpt_close(c);
    }
}

/* Every number of ranks up to the number of units, the awkward ones included. */
static void test_known_shapes(void **state) {
    (void)state;
    const struct {
        int64_t heads, kv, hd, mlp, group;
        int most;
    } cases[] = {
        {8, 4, 64, 1024, 128, 8}, /* KV heads shared by two ranks from 5 ranks on; half groups of o_proj */
        {8, 8, 64, 1024, 64, 8},
        {8, 2, 128, 7 * 128, 128, 7}, /* odd number of MLP groups */
        {12, 4, 32, 768, -1, 12},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        random_model m = random_model_default(random_next(&g_rng));
        mw_ckpt *c = NULL;
        m.group = cases[i].group;
        m.cfg.n_layers = 1;
        m.cfg.n_heads = cases[i].heads;
        m.cfg.n_kv_heads = cases[i].kv;
        m.cfg.head_dim = cases[i].hd;
        m.cfg.intermediate = cases[i].mlp;
        m.cfg.vocab = 1500;
        m.cfg.hidden = 256;
        const char *path = random_model_path("plan.h5");
        assert_ok(random_model_write(&m, path));
        assert_ok(mw_ckpt_open(&c, path));
        assert_int_equal(mw_plan_max_ranks(c), cases[i].most);
        for (int np = 1; np <= cases[i].most; np++) check_plan(c, np);
        mw_ckpt_close(c);
    }
}

static void test_unknown_name(void **state) {
    (void)state;
    mw_role role;
    assert_ok(mw_plan_role("layers/012/mlp/down_proj", &role));
    assert_int_equal(role, MW_ROLE_ROW);
    assert_fails(mw_plan_role("layers/012/mlp/router", &role), MW_ERR_FORMAT, "layers/012/mlp/router");
    assert_fails(mw_plan_role("layers/12/mlp/down_proj", &role), MW_ERR_FORMAT, "unknown weight");
    assert_fails(mw_plan_role("layers/+12/mlp/down_proj", &role), MW_ERR_FORMAT, "unknown weight");
    assert_fails(mw_plan_role("layers/0012/mlp/down_proj", &role), MW_ERR_FORMAT, "unknown weight");
    assert_fails(mw_plan_role("layers/01", &role), MW_ERR_FORMAT, "unknown weight");
}

/* Every member counts; padding and the unused ends of arrays do not. */
static void test_config_equal(void **state) {
    (void)state;
    mw_model_config a, b;
    memset(&a, 0x11, sizeof a);
    memset(&b, 0x22, sizeof b);
    strcpy(a.model_type, "llama");
    strcpy(b.model_type, "llama");
    a.n_eos = b.n_eos = 2;
    a.eos_id[0] = b.eos_id[0] = 7;
    a.eos_id[1] = b.eos_id[1] = 8;
#define EVERY(X)                                                                                                       \
    X(hidden)                                                                                                          \
    X(intermediate)                                                                                                    \
    X(n_layers)                                                                                                        \
    X(n_heads)                                                                                                         \
    X(n_kv_heads)                                                                                                      \
    X(head_dim)                                                                                                        \
    X(vocab)                                                                                                           \
    X(max_position)                                                                                                    \
    X(window)                                                                                                          \
    X(rms_eps)                                                                                                         \
    X(rope_theta)                                                                                                      \
    X(rope_type)                                                                                                       \
    X(rope_factor)                                                                                                     \
    X(rope_low_freq)                                                                                                   \
    X(rope_high_freq)                                                                                                  \
    X(rope_original_max)                                                                                               \
    X(tie_embeddings)                                                                                                  \
    X(qk_norm)                                                                                                         \
    X(act)                                                                                                             \
    X(bos_id)
#define COPY(member) a.member = b.member = 1;
    EVERY(COPY)
    assert_true(mw_model_config_equal(&a, &b));
#define CHANGE(member)                                                                                                 \
    b.member = 0;                                                                                                      \
    assert_false(mw_model_config_equal(&a, &b));                                                                       \
    b.member = 1;
    EVERY(CHANGE)
    b.eos_id[1] = 9;
    assert_false(mw_model_config_equal(&a, &b));
    b.n_eos = a.n_eos = 1;
    assert_true(mw_model_config_equal(&a, &b));
    b.n_eos = 0;
    assert_false(mw_model_config_equal(&a, &b));
    b.n_eos = 1;
    strcpy(b.model_type, "qwen2");
    assert_false(mw_model_config_equal(&a, &b));
}

int main(int argc, char **argv) {
    g_rng = test_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_known_shapes),
        cmocka_unit_test(test_unknown_name),
        cmocka_unit_test(test_config_equal),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
