/* Tiles against the closed form, element by element; pack and unpack as inverses; the slicing law. */
#include "shard/pack.h"
#include "tests/ref/random_model.h"
#include "tests/unit/test.h"

static uint64_t g_rng;

static unsigned nibble(const uint8_t *rows, size_t row_bytes, int64_t k, int64_t n) {
    return rows[(size_t)k * row_bytes + (size_t)n / 2] >> (4 * (n & 1)) & 15;
}

typedef struct {
    int64_t k, n;
    size_t row_bytes, words;
    uint8_t *rows;
    uint32_t *tiles;
} matrix;

static matrix random_matrix(void) {
    matrix m = {.k = 16 * random_int(&g_rng, 1, 12), .n = random_int(&g_rng, 1, 330)};
    m.row_bytes = (size_t)(m.n + 1) / 2 + (size_t)random_int(&g_rng, 0, 3);
    m.words = (size_t)(2 * mw_round_up(m.n, 64)) + (size_t)random_int(&g_rng, 0, 5);
    m.rows = malloc(m.row_bytes * (size_t)m.k);
    m.tiles = malloc(m.words * 4 * (size_t)(m.k / 16));
    for (size_t i = 0; i < m.row_bytes * (size_t)m.k; i++) m.rows[i] = (uint8_t)random_next(&g_rng);
    memset(m.tiles, 0xee, m.words * 4 * (size_t)(m.k / 16));
    mw_pack_tiles(m.rows, m.row_bytes, m.k, m.n, m.tiles, m.words);
    return m;
}

static void free_matrix(matrix *m) {
    free(m->rows);
    free(m->tiles);
}

/* Word and nibble of (k, n), written down independently of shard/pack.c: by searching the closed form. */
static void find_place(int64_t k, int64_t n, int64_t *row, int64_t *word, int *shift) {
    for (int lane = 0; lane < 32; lane++)
        for (int j = 0; j < 4; j++)
            for (int v = 0; v < 8; v++) {
                int64_t kk = 2 * (lane & 3) + (v >> 2) + 8 * (v & 1), nn = 16 * j + (lane >> 2) + 8 * ((v >> 1) & 1);
                if (kk != k % 16 || nn != n % 64) continue;
                *row = k / 16;
                *word = n / 64 * 128 + 4 * lane + j;
                *shift = 4 * v;
                return;
            }
    fail_msg("(%lld, %lld) has no place", (long long)k, (long long)n);
}

static void test_closed_form(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        matrix m = random_matrix();
        for (int64_t k = 0; k < m.k; k++)
            for (int64_t n = 0; n < mw_round_up(m.n, 64); n++) {
                int64_t row = 0, word = 0;
                int shift = 0;
                find_place(k, n, &row, &word, &shift);
                unsigned q = m.tiles[(size_t)row * m.words + (size_t)word] >> shift & 15;
                assert_int_equal(q, n < m.n ? nibble(m.rows, m.row_bytes, k, n) : 0);
                assert_int_equal(q, mw_tile_nibble(m.tiles, m.words, k, n));
            }
        free_matrix(&m);
    }
}

static void test_unpack_is_inverse(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        matrix m = random_matrix();
        uint8_t *back = malloc(m.row_bytes * (size_t)m.k);
        mw_unpack_tiles(m.tiles, m.words, m.k, m.n, back, m.row_bytes);
        for (int64_t k = 0; k < m.k; k++)
            for (int64_t n = 0; n < m.n; n++)
                assert_int_equal(nibble(back, m.row_bytes, k, n), nibble(m.rows, m.row_bytes, k, n));
        free(back);
        free_matrix(&m);
    }
}

/* pack(W[k0:k1, n0:n1]) is the slab [k0/16:k1/16, 2*n0:2*n1] of pack(W). */
static void test_slicing_law(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        matrix m = random_matrix();
        int64_t kts = m.k / 16, nbs = mw_round_up(m.n, 64) / 64;
        int64_t k0 = random_int(&g_rng, 0, (int)kts - 1), k1 = random_int(&g_rng, (int)k0 + 1, (int)kts);
        int64_t n0 = random_int(&g_rng, 0, (int)nbs - 1), n1 = random_int(&g_rng, (int)n0 + 1, (int)nbs);
        int64_t cols = (n1 * 64 < m.n ? n1 * 64 : m.n) - n0 * 64;
        size_t words = (size_t)(128 * (n1 - n0));
        uint32_t *part = malloc(words * 4 * (size_t)(k1 - k0));
        mw_pack_tiles(m.rows + (size_t)(16 * k0) * m.row_bytes + (size_t)(32 * n0), m.row_bytes, 16 * (k1 - k0), cols,
                      part, words);
        for (int64_t r = 0; r < k1 - k0; r++)
            assert_memory_equal(part + (size_t)r * words, m.tiles + (size_t)(k0 + r) * m.words + (size_t)(128 * n0),
                                words * 4);
        free(part);
        free_matrix(&m);
    }
}

static void test_permute64(void **state) {
    (void)state;
    for (size_t size = 1; size <= 4; size *= 2) {
        uint8_t src[3 * 128 * 4], dst[3 * 128 * 4], back[3 * 128 * 4];
        for (size_t i = 0; i < sizeof src; i++) src[i] = (uint8_t)random_next(&g_rng);
        mw_permute64(src, dst, 3, 128, size);
        for (size_t block = 0; block < 6; block++)
            for (size_t a = 0; a < 8; a++)
                for (size_t b = 0; b < 8; b++)
                    assert_memory_equal(dst + (block * 64 + 8 * a + b) * size, src + (block * 64 + a + 8 * b) * size,
                                        size);
        mw_permute64(dst, back, 3, 128, size);
        assert_memory_equal(back, src, 3 * 128 * size);
    }
}

int main(int argc, char **argv) {
    g_rng = test_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closed_form),
        cmocka_unit_test(test_unpack_is_inverse),
        cmocka_unit_test(test_slicing_law),
        cmocka_unit_test(test_permute64),
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
