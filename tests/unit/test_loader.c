/* What a rank has in memory after loading equals its slice of the logical weights: for every layout, quantisation and
 * number of ranks, and from rank files too. Reads the expected values with mw_read_int4_rows, whose own correctness
 * rests on test_pack.c. */
#include "shard/pack.h"
#include "shard/repack.h"
#include "tests/ref/random_model.h"
#include "tests/unit/test.h"
#include "worker/loader.h"

static uint64_t g_rng;
static mw_dev *g_dev;

/* The CPU device; or one that claims a memory of its own, so that the loader goes through lanes as for a GPU. What is
 * enqueued on these lanes happens as late as it may: when the slot is waited for, and in the end. So a slot that is
 * filled too early, and a lane that nobody closes, are seen. */
typedef struct {
    enum { NOTHING, COPY, TILE, PERMUTE } what;
    void *dst;
    size_t a, b, c, elem;
} late;

struct mw_lane {
    int slots;
    size_t bytes;
    char *host;
    late of[MW_LANE_SLOTS];
};

static mw_status lane_open(mw_dev *d, mw_lane **out, int slots, size_t bytes) {
    (void)d;
    assert_in_range(slots, 1, MW_LANE_SLOTS);
    mw_lane *l = calloc(1, sizeof *l);
    *l = (mw_lane){.slots = slots, .bytes = bytes, .host = malloc((size_t)slots * bytes)};
    *out = l;
    return MW_OK;
}

static void happen(const mw_lane *l, int slot) {
    const late *w = &l->of[slot];
    const char *src = l->host + (size_t)slot * l->bytes;
    if (w->what == COPY)
        for (size_t i = 0; i < w->c; i++) memcpy((char *)w->dst + i * w->a, src + i * w->b, w->b);
    if (w->what == TILE)
        mw_pack_tiles((const uint8_t *)src, (w->c + 1) / 2, (int64_t)w->b, (int64_t)w->c, w->dst, w->a);
    if (w->what == PERMUTE) {
        size_t wide = (size_t)mw_round_up((int64_t)w->c, 64);
        char *row = calloc(wide, w->elem);
        for (size_t i = 0; i < w->b; i++) {
            memcpy(row, src + i * w->c * w->elem, w->c * w->elem);
            mw_permute64(row, (char *)w->dst + i * w->a * w->elem, 1, (int64_t)wide, w->elem);
        }
        free(row);
    }
}

static mw_status lane_wait(mw_lane *l, int slot, void **host) {
    assert_in_range(slot, 0, l->slots - 1);
    happen(l, slot);
    l->of[slot].what = NOTHING;
    *host = memset(l->host + (size_t)slot * l->bytes, 0xA5, l->bytes);
    return MW_OK;
}

static mw_status lane_close(mw_lane *l) {
    for (int i = 0; i < l->slots; i++) happen(l, i);
    free(l->host);
    free(l);
    return MW_OK;
}

static mw_status enqueue(mw_lane *l, int slot, late w, size_t bytes) {
    assert_true(slot >= 0 && slot < l->slots && l->of[slot].what == NOTHING && bytes <= l->bytes);
    l->of[slot] = w;
    return MW_OK;
}

static mw_status lane_copy(mw_lane *l, int slot, void *dst, size_t pitch, size_t width, size_t rows) {
    return enqueue(l, slot, (late){COPY, dst, pitch, width, rows, 0}, width * rows);
}

static mw_status lane_tile(mw_lane *l, int slot, uint32_t *tiles, size_t words, int64_t k, int64_t n) {
    return enqueue(l, slot, (late){TILE, tiles, words, (size_t)k, (size_t)n, 0}, (size_t)(k * ((n + 1) / 2)));
}

static mw_status lane_permute(mw_lane *l, int slot, void *dst, size_t ld, int64_t rows, int64_t n, size_t elem) {
    return enqueue(l, slot, (late){PERMUTE, dst, ld, (size_t)rows, (size_t)n, elem}, (size_t)(rows * n) * elem);
}

static mw_status info_staged(mw_dev *d, mw_dev_info *out) {
    mw_status st = mw_kernels_cpu()->info(d, out);
    out->host_memory = false;
    return st;
}

static mw_loader *open_loader(const mw_ckpt *c) {
    static mw_kernels staged;
    mw_loader *l;
    staged = *mw_kernels_cpu();
    staged.info = info_staged;
    staged.lane_open = lane_open;
    staged.lane_close = lane_close;
    staged.lane_wait = lane_wait;
    staged.lane_copy = lane_copy;
    staged.lane_tile = lane_tile;
    staged.lane_permute = lane_permute;
    if (!g_dev) assert_ok(staged.open(&g_dev, &(mw_dev_opts){.threads = 1}));
    assert_ok(mw_loader_open(&l, c, random_int(&g_rng, 0, 1) ? &staged : mw_kernels_cpu(), g_dev, 2, true));
    mw_loader_set_band(l, 1 << random_int(&g_rng, 9, 24));
    return l;
}

static random_model random_case(void) {
    static const int groups[] = {32, 64, 128, -1};
    random_model m = random_model_default(random_next(&g_rng));
    m.group = groups[random_int(&g_rng, 0, 3)];
    m.layout = random_int(&g_rng, 0, 1) ? MW_IN_TILES : MW_IN_ROWS;
    m.zeros = random_int(&g_rng, 0, 1);
    m.act_order = random_int(&g_rng, 0, 1) && m.group > 0;
    m.bias = random_int(&g_rng, 0, 1);
    m.dense_mlp = random_int(&g_rng, 0, 3) == 0;
    m.scale_dtype = (mw_dtype)random_int(&g_rng, MW_F16, MW_F32);
    m.cfg.n_layers = 1;
    m.cfg.head_dim = 16 * random_int(&g_rng, 1, 6); /* cuts inside tiles */
    m.cfg.n_kv_heads = random_int(&g_rng, 1, 4);
    m.cfg.n_heads = m.cfg.n_kv_heads * random_int(&g_rng, 1, 3);
    while (m.cfg.n_heads * m.cfg.head_dim % 128) m.cfg.n_heads += m.cfg.n_kv_heads;
    m.cfg.intermediate = 128 * random_int(&g_rng, 1, 5);
    m.cfg.vocab = random_int(&g_rng, 70, 400);
    return m;
}

/* The expected value of every element of one int4 slice, against what the loader is to put there. */
static void check_int4(const mw_ckpt *c, const mw_weight *w, mw_range k, mw_range n, mw_loader *l) {
    int64_t kk = mw_range_len(k), nn = mw_range_len(n), wide = mw_round_up(nn, 64), g = mw_plan_local_group(w, k);
    size_t ld = (size_t)wide + 64, es = mw_dtype_size(mw_ckpt_dataset(c, w->scales)->dtype); /* not tightly packed */
    uint32_t *tiles = malloc((size_t)(kk / 16) * 2 * ld * 4);
    char *scales = calloc((size_t)(kk / g) * ld, es);
    uint8_t *zeros = calloc((size_t)(kk / g), ld), *rows = malloc((size_t)(w->k * w->n / 2)),
            *zero_row = malloc((size_t)w->n);
    char *scale_row = malloc((size_t)w->n * es);
    mw_load_stats stats;
    assert_ok(mw_load_tiles(l, w, k, n, tiles, 2 * ld));
    assert_ok(mw_load_scales(l, w, k, n, g, scales, ld));
    assert_ok(mw_load_zeros(l, w, k, n, g, zeros, ld));
    assert_ok(mw_loader_run(l, NULL, &stats));
    assert_ok(mw_read_int4_rows(c, w, 0, w->k, 0, w->n, rows));
    for (int64_t i = 0; i < kk; i++) {
        const mw_dataset *ds = mw_ckpt_dataset(c, w->scales);
        int64_t group = (k.lo + i) / w->group_size;
        assert_ok(mw_read_group_rows(c, w, ds, group, 1, scale_row));
        memset(zero_row, 8, (size_t)w->n);
        if (w->zeros >= 0) assert_ok(mw_read_group_rows(c, w, mw_ckpt_dataset(c, w->zeros), group, 1, zero_row));
        for (int64_t j = 0; j < wide; j++) {
            int64_t p = j / 64 * 64 + 8 * (j % 8) + j % 64 / 8; /* column a+8b sits at position 8a+b */
            float got = mw_load_f32(scales, ds->dtype, (size_t)(i / g) * ld + (size_t)p);
            if (j >= nn) {
                assert_true(got == 0);
                continue;
            }
            unsigned q = rows[(size_t)((k.lo + i) * w->n + n.lo + j) / 2] >> (4 * ((n.lo + j) & 1)) & 15;
            assert_int_equal(mw_tile_nibble(tiles, 2 * ld, i, j), q);
            assert_true(got == mw_load_f32(scale_row, ds->dtype, (size_t)(n.lo + j)));
            assert_int_equal(zeros[(size_t)(i / g) * ld + (size_t)p], zero_row[n.lo + j]);
        }
    }
    free(tiles);
    free(scales);
    free(zeros);
    free(rows);
    free(zero_row);
    free(scale_row);
}

static void check_dense(const mw_ckpt *c, const mw_weight *w, mw_range k, mw_range n, mw_loader *l) {
    const mw_dataset *d = mw_ckpt_dataset(c, w->weight);
    size_t es = mw_dtype_size(d->dtype), part = (size_t)(mw_range_len(k) * mw_range_len(n)) * es;
    char *got = malloc(part), *all = malloc((size_t)(w->k * w->n) * es);
    mw_load_stats stats;
    assert_ok(mw_load_dense(l, w, k, n, got));
    assert_ok(mw_loader_run(l, NULL, &stats));
    assert_int_equal(stats.bytes, part);
    assert_ok(mw_ckpt_read(c, d, 0, w->n, 0, w->k, all, (size_t)w->k * es, true));
    for (int64_t j = n.lo; j < n.hi; j++)
        assert_memory_equal(got + (size_t)((j - n.lo) * mw_range_len(k)) * es, all + (size_t)(j * w->k + k.lo) * es,
                            (size_t)mw_range_len(k) * es);
    free(got);
    free(all);
}

static void check_rank(const mw_ckpt *c, const mw_plan *p, int rank) {
    for (int i = 0; i < mw_ckpt_n_weights(c); i++) {
        const mw_weight *w = mw_ckpt_weight(c, i);
        mw_range k, n;
        mw_loader *l = open_loader(c);
        mw_plan_slice(p, rank, w, &k, &n);
        if (w->kind == MW_DENSE16) check_dense(c, w, k, n, l);
        if (w->kind == MW_INT4) check_int4(c, w, k, n, l);
        mw_loader_close(l);
    }
}

static void test_slices(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        random_model m = random_case();
        mw_ckpt *c = NULL;
        const char *path = random_model_path("load.h5");
        assert_ok(random_model_write(&m, path));
        assert_ok(mw_ckpt_open(&c, path));
        int most = mw_plan_max_ranks(c);
        for (int np = 1; np <= most && np <= 5; np++) {
            mw_plan *p = NULL;
            assert_ok(mw_plan_make(&p, c, np));
            for (int r = 0; r < np; r++) check_rank(c, p, r);
            mw_plan_free(p);
        }
        mw_ckpt_close(c);
    }
}

/* One slice loaded from two files must be the same bytes, padding aside (its scales are 0 in both). */
static void same_int4(const mw_ckpt *a, const mw_weight *wa, const mw_ckpt *b, const mw_weight *wb, mw_range k,
                      mw_range n) {
    int64_t kk = mw_range_len(k), nn = mw_range_len(n), wide = mw_round_up(nn, 64), g = mw_plan_local_group(wa, k);
    size_t es = mw_dtype_size(mw_ckpt_dataset(a, wa->scales)->dtype);
    uint32_t *t[2];
    char *s[2];
    uint8_t *z[2];
    for (int i = 0; i < 2; i++) {
        mw_loader *l = open_loader(i ? b : a);
        mw_load_stats stats;
        const mw_weight *w = i ? wb : wa;
        t[i] = malloc((size_t)(kk * wide / 2));
        s[i] = malloc((size_t)(kk / g * wide) * es);
        z[i] = malloc((size_t)(kk / g * wide));
        assert_ok(mw_load_tiles(l, w, k, n, t[i], (size_t)(2 * wide)));
        assert_ok(mw_load_scales(l, w, k, n, g, s[i], (size_t)wide));
        assert_ok(mw_load_zeros(l, w, k, n, g, z[i], (size_t)wide));
        assert_ok(mw_loader_run(l, NULL, &stats));
        mw_loader_close(l);
    }
    for (int64_t r = 0; r < kk; r++)
        for (int64_t j = 0; j < nn; j++)
            assert_int_equal(mw_tile_nibble(t[0], (size_t)(2 * wide), r, j),
                             mw_tile_nibble(t[1], (size_t)(2 * wide), r, j));
    assert_memory_equal(s[0], s[1], (size_t)(kk / g * wide) * es);
    assert_memory_equal(z[0], z[1], (size_t)(kk / g * wide));
    for (int i = 0; i < 2; i++) {
        free(t[i]);
        free(s[i]);
        free(z[i]);
    }
}

/* Packed, unpacked again, and cut into rank files: the same model every time. */
static void test_repack(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        random_model m = random_case();
        mw_ckpt *c = NULL, *packed = NULL, *rows = NULL;
        mw_repack_stats st;
        uint64_t n;
        m.layout = MW_IN_ROWS;
        const char *path = random_model_path("a.h5"), *tiles = random_model_path("b.h5"),
                   *back = random_model_path("c.h5");
        assert_ok(random_model_write(&m, path));
        assert_ok(mw_ckpt_open(&c, path));
        mw_repack_opts o = {.out = tiles, .force = true, .layout = MW_IN_TILES, .threads = 2, .creator = "test"};
        assert_ok(mw_repack(c, &o, &st));
        assert_ok(mw_ckpt_open(&packed, tiles));
        assert_ok(mw_repack_compare(c, packed, &n));
        o.layout = MW_IN_ROWS;
        o.out = back;
        assert_ok(mw_repack(packed, &o, &st));
        assert_ok(mw_ckpt_open(&rows, back));
        assert_ok(mw_repack_compare(c, rows, &n));
        int most = mw_plan_max_ranks(c), np = most > 3 ? 3 : most;
        mw_plan *p = NULL;
        assert_ok(mw_plan_make(&p, packed, np));
        for (int r = 0; r < np; r++) {
            mw_ckpt *part = NULL;
            o = (mw_repack_opts){.out = back,
                                 .force = true,
                                 .layout = random_int(&g_rng, 0, 1) ? MW_IN_TILES : MW_IN_ROWS,
                                 .plan = p,
                                 .rank = r,
                                 .threads = 2,
                                 .creator = "test"};
            assert_ok(mw_repack(packed, &o, &st));
            assert_ok(mw_ckpt_open(&part, back));
            assert_ok(mw_ckpt_verify(part, 2, &n));
            for (int j = 0; j < mw_ckpt_n_weights(c); j++) {
                const mw_weight *w = mw_ckpt_weight(c, j);
                mw_range kr, nr;
                mw_plan_slice(p, r, w, &kr, &nr);
                if (w->kind == MW_INT4) same_int4(c, w, part, mw_ckpt_find(part, w->name), kr, nr);
            }
            mw_ckpt_close(part);
        }
        mw_plan_free(p);
        mw_ckpt_close(c);
        mw_ckpt_close(packed);
        mw_ckpt_close(rows);
    }
}

int main(int argc, char **argv) {
    g_rng = test_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_repack),
    };
    int failed = cmocka_run_group_tests_name("loader", tests, NULL, NULL);
    mw_kernels_cpu()->close(g_dev);
    return failed;
}
