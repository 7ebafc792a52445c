/* Loading to a GPU gives the bytes that loading to host memory gives: from packed files, from files whose int4 rows and
 * scales the GPU packs, for every cut; and a file packed by marlin-pack's code and the same file unpacked end as the
 * same bytes on the GPU. What the host does is tested by test_loader.c. */
#include "shard/repack.h"
#include "tests/kernels/cuda_test.h"
#include "tests/ref/random_model.h"
#include "worker/loader.h"

static uint64_t g_rng;
static mw_dev *g_host;

static random_model random_case(void) {
    static const int groups[] = {32, 64, 128, -1};
    random_model m = random_model_default(random_next(&g_rng));
    m.group = groups[random_int(&g_rng, 0, 3)];
    m.layout = MW_IN_ROWS;
    m.zeros = random_int(&g_rng, 0, 1);
    m.dense_mlp = random_int(&g_rng, 0, 3) == 0;
    m.scale_dtype = (mw_dtype)random_int(&g_rng, MW_F16, MW_F32);
    m.cfg.n_layers = 1;
    m.cfg.head_dim = 16 * random_int(&g_rng, 1, 8); /* cuts inside tiles */
    m.cfg.n_kv_heads = random_int(&g_rng, 1, 4);
    m.cfg.n_heads = m.cfg.n_kv_heads * random_int(&g_rng, 1, 3);
    while (m.cfg.n_heads * m.cfg.head_dim % 128) m.cfg.n_heads += m.cfg.n_kv_heads;
    m.cfg.hidden = 128 * random_int(&g_rng, 1, 8);
    m.cfg.intermediate = 128 * random_int(&g_rng, 1, 20);
    m.cfg.vocab = random_int(&g_rng, 70, 400);
    return m;
}

/* Everything of one slice, one after the other in a block of memory of `bytes`. */
typedef struct {
    size_t tiles, scales, zeros, dense, bytes;
} places;

static places places_of(const mw_ckpt *c, const mw_weight *w, mw_range k, mw_range n, int64_t g) {
    places p = {0};
    int64_t kk = mw_range_len(k), nn = mw_range_len(n), wide = mw_round_up(nn, 64);
    if (w->kind == MW_INT4) {
        p.scales = (size_t)(kk * wide / 2);
        p.zeros = p.scales + (size_t)(kk / g * wide) * mw_dtype_size(mw_ckpt_dataset(c, w->scales)->dtype);
        p.dense = p.zeros + (size_t)(kk / g * wide);
        p.bytes = p.dense;
    } else {
        p.bytes = (size_t)(kk * nn) * mw_dtype_size(mw_ckpt_dataset(c, w->weight)->dtype);
    }
    return p;
}

/* The slice in host memory, through device `d` of `k`. Bytes that nothing writes are 0xEE. */
static unsigned char *loaded(const mw_kernels *k, mw_dev *d, const mw_ckpt *c, const mw_weight *w, mw_range kr,
                             mw_range nr, int64_t g, size_t *bytes) {
    mw_loader *l = NULL;
    mw_load_stats stats;
    places p = places_of(c, w, kr, nr, g);
    size_t wide = (size_t)mw_round_up(mw_range_len(nr), 64);
    unsigned char *host = host_new(p.bytes);
    char *at = NULL;
    memset(host, 0xEE, p.bytes);
    OK(k->alloc(d, (void **)&at, p.bytes + 1, "slice"));
    OK(k->to_device(d, at, host, p.bytes));
    OK(k->sync(d));
    OK(mw_loader_open(&l, c, k, d, 1 + random_int(&g_rng, 0, 3), true));
    mw_loader_set_band(l, 1 << random_int(&g_rng, 10, 22));
    if (w->kind == MW_INT4) {
        OK(mw_load_tiles(l, w, kr, nr, (uint32_t *)at, 2 * wide));
        OK(mw_load_scales(l, w, kr, nr, g, at + p.scales, wide));
        OK(mw_load_zeros(l, w, kr, nr, g, (uint8_t *)at + p.zeros, wide));
    } else {
        OK(mw_load_dense(l, w, kr, nr, at));
    }
    OK(mw_loader_run(l, NULL, &stats));
    mw_loader_close(l);
    OK(k->to_host(d, host, at, p.bytes));
    k->free(d, at);
    *bytes = p.bytes;
    return host;
}

static void compare(const char *what, const char *name, const unsigned char *a, const unsigned char *b, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) {
            FAIL("%s: %s: byte %zu of %zu is %02x, expected %02x", what, name, i, bytes, b[i], a[i]);
            return;
        }
}

static void check_slice(const mw_ckpt *rows, const mw_ckpt *tiles, const mw_plan *p, int rank, const mw_weight *w) {
    mw_range k, n;
    size_t bytes;
    const mw_weight *packed = mw_ckpt_find(tiles, w->name);
    mw_plan_slice(p, rank, w, &k, &n);
    int64_t g = w->kind == MW_INT4 ? mw_plan_local_group(w, k) : 1;
    unsigned char *host = loaded(mw_kernels_cpu(), g_host, rows, w, k, n, g, &bytes),
                  *gpu = loaded(K, D, rows, w, k, n, g, &bytes);
    compare("rows, packed on the GPU", w->name, host, gpu, bytes);
    free(host);
    host = loaded(mw_kernels_cpu(), g_host, tiles, packed, k, n, g, &bytes);
    unsigned char *direct = loaded(K, D, tiles, packed, k, n, g, &bytes);
    compare("tiles", w->name, host, direct, bytes);
    if (n.hi % 64 == 0 && n.lo % 64 == 0) compare("rows against marlin-pack", w->name, host, gpu, bytes);
    free(host);
    free(gpu);
    free(direct);
}

static void check_model(void) {
    random_model m = random_case();
    mw_ckpt *rows = NULL, *tiles = NULL;
    mw_repack_stats stats;
    const char *a = random_model_path("rows.h5"), *b = random_model_path("tiles.h5");
    mw_repack_opts o = {.out = b, .force = true, .layout = MW_IN_TILES, .threads = 2, .creator = "test"};
    OK(random_model_write(&m, a));
    OK(mw_ckpt_open(&rows, a));
    OK(mw_repack(rows, &o, &stats));
    OK(mw_ckpt_open(&tiles, b));
    int most = mw_plan_max_ranks(rows);
    for (int np = 1; np <= most && np <= 3; np++) {
        mw_plan *p = NULL;
        OK(mw_plan_make(&p, rows, np));
        for (int r = 0; r < np; r++)
            for (int i = 0; i < mw_ckpt_n_weights(rows); i++)
                if (mw_ckpt_weight(rows, i)->kind != MW_VECTOR) check_slice(rows, tiles, p, r, mw_ckpt_weight(rows, i));
        mw_plan_free(p);
    }
    mw_ckpt_close(rows);
    mw_ckpt_close(tiles);
}

static void all(void) {
    g_rng = ref_u32();
    for (int i = 0; i < (g_small ? 1 : 4) && g_failures < SHOWN; i++) check_model();
}

int main(int argc, char **argv) {
    OK(mw_kernels_cpu()->open(&g_host, &(mw_dev_opts){.threads = 1}));
    int failed = cuda_test_main(argc, argv, all);
    mw_kernels_cpu()->close(g_host);
    return failed;
}
