/* Every call of comm.h on a healthy group, on both transports: test_collectives [messages]. Results are compared with
 * what one rank can compute alone, bit by bit. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/internal.h"
#include "tests/comm/check.h"
#include "worker/base/mem.h"
#include "worker/base/threads.h"

int g_check_rank, g_check_failures;

static int g_rank, g_size;

/* Values whose sum depends on the order: a few large ones among small ones. */
static float value(uint64_t seed, int rank, size_t i) {
    uint64_t s = seed * 1000003 + (uint64_t)rank * 7919 + i;
    uint64_t z = check_random(&s);
    float x = (float)(int32_t)z * 0x1p-31f;
    return (z >> 60) == 0 ? x * 4096 : x;
}

static void *buffer(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) _exit(99);
    return p;
}

static void one_all_reduce(mw_comm *c, uint64_t seed, size_t n) {
    float *buf = buffer((n + 2) * sizeof *buf);
    buf[0] = buf[n + 1] = 12345;
    for (size_t i = 0; i < n; i++) buf[1 + i] = value(seed, g_rank, i);
    mw_status st = mw_comm_all_reduce_f32(c, buf + 1, n);
    CHECK(st == MW_OK, "%zu floats: %s", n, mw_error_text());
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        float sum = value(seed, 0, i);
        for (int r = 1; r < g_size; r++) sum += value(seed, r, i);
        wrong += mw_f32_bits(sum) != mw_f32_bits(buf[1 + i]);
    }
    CHECK(wrong == 0, "all-reduce of %zu floats: %zu of them wrong", n, wrong);
    CHECK(buf[0] == 12345 && buf[n + 1] == 12345, "all-reduce of %zu floats wrote beside its buffer", n);
    free(buf);
}

static void test_all_reduce(mw_comm *c) {
    static const size_t sizes[] = {0, 1, 2, 3, 5, 64, 1023, 2048, 2049, 8192, 8193, 65537, 262144, 262145, 700001};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) one_all_reduce(c, i, sizes[i]);
}

static void one_gather(mw_comm *c, uint64_t seed, int root, size_t rows, const size_t *cols) {
    size_t mine = rows * cols[g_rank], ld = 0;
    for (int r = 0; r < g_size; r++) ld += cols[r];
    bool receives = root < 0 || root == g_rank;
    float *src = mine ? buffer(mine * sizeof *src) : NULL;
    float *dst = receives ? buffer((rows * ld + 1) * sizeof *dst) : NULL;
    if (receives) dst[rows * ld] = 12345;
    for (size_t i = 0; i < mine; i++) src[i] = value(seed, g_rank, i);
    mw_status st = mw_comm_gather_cols_f32(c, root, src, rows, cols, dst);
    CHECK(st == MW_OK, "%s", mw_error_text());
    size_t wrong = 0, col = 0;
    for (int r = 0; receives && r < g_size; col += cols[r], r++)
        for (size_t y = 0; y < rows; y++)
            for (size_t x = 0; x < cols[r]; x++)
                wrong += mw_f32_bits(dst[y * ld + col + x]) != mw_f32_bits(value(seed, r, y * cols[r] + x));
    CHECK(wrong == 0, "gather to %d of %zu rows x %zu: %zu wrong", root, rows, ld, wrong);
    CHECK(!receives || dst[rows * ld] == 12345, "gather wrote behind its buffer");
    free(src);
    free(dst);
}

static void test_gather_cols(mw_comm *c) {
    size_t cols[64];
    uint64_t seed = 5;
    static const size_t widths[] = {0, 1, 7, 64, 1000, 20011};
    for (int trial = 0; trial < 30; trial++) {
        for (int r = 0; r < g_size; r++) cols[r] = widths[check_random(&seed) % 6];
        size_t rows = (size_t)(check_random(&seed) % 5);
        if (trial % 10 == 9) rows += 20; /* several slots */
        one_gather(c, (uint64_t)trial, trial % (g_size + 1) - 1, rows, cols);
    }
    memset(cols, 0, sizeof cols);
    one_gather(c, 1, 0, 3, cols);
    cols[g_size - 1] = 600001; /* one row is wider than a slot, and one rank has it all */
    one_gather(c, 2, -1, 1, cols);
}

static void test_bcast(mw_comm *c) {
    static const size_t sizes[] = {0, 1, 17, 4096, 70000, 3000001};
    for (size_t k = 0; k < 6; k++)
        for (int root = 0; root < g_size; root++) {
            unsigned char *buf = buffer(sizes[k] + 1);
            memset(buf, g_rank, sizes[k] + 1);
            if (g_rank == root)
                for (size_t i = 0; i < sizes[k]; i++) buf[i] = (unsigned char)(i * 31 + (size_t)root + k);
            mw_status st = mw_comm_bcast(c, buf, sizes[k], root, k % 2 == 0);
            CHECK(st == MW_OK, "%s", mw_error_text());
            size_t wrong = buf[sizes[k]] != g_rank;
            for (size_t i = 0; i < sizes[k]; i++) wrong += buf[i] != (unsigned char)(i * 31 + (size_t)root + k);
            CHECK(wrong == 0, "broadcast of %zu bytes from %d: %zu wrong", sizes[k], root, wrong);
            free(buf);
        }
    char byte = 0;
    CHECK(mw_comm_bcast(c, &byte, 1, g_size, false) == MW_ERR_USAGE, "a root that does not exist");
    CHECK(mw_comm_bcast(c, &byte, 1, -1, false) == MW_ERR_USAGE, "a root that does not exist");
}

static void test_small(mw_comm *c) {
    uint64_t v = 10 + (uint64_t)g_rank * 3;
    CHECK(mw_comm_reduce_u64(c, &v, MW_MIN) == MW_OK && v == 10, "min is %llu", (unsigned long long)v);
    v = 10 + (uint64_t)g_rank * 3;
    CHECK(mw_comm_reduce_u64(c, &v, MW_MAX) == MW_OK && v == 10 + (uint64_t)(g_size - 1) * 3, "max is %llu",
          (unsigned long long)v);
    v = UINT64_C(1) << 40 | (uint64_t)g_rank;
    uint64_t sum = (UINT64_C(1) << 40) * (uint64_t)g_size + (uint64_t)(g_size * (g_size - 1) / 2);
    CHECK(mw_comm_reduce_u64(c, &v, MW_SUM) == MW_OK && v == sum, "sum is %llu", (unsigned long long)v);

    static const size_t sizes[] = {0, 1, 24, 100003, 1500000};
    for (size_t k = 0; k < 5; k++) {
        size_t n = sizes[k], wrong = 0;
        unsigned char *mine = buffer(n), *all = buffer(n * (size_t)g_size);
        for (size_t i = 0; i < n; i++) mine[i] = (unsigned char)(i + (size_t)g_rank * 89);
        CHECK(mw_comm_all_gather_bytes(c, mine, n, all) == MW_OK, "%s", mw_error_text());
        for (int r = 0; r < g_size; r++)
            for (size_t i = 0; i < n; i++) wrong += all[(size_t)r * n + i] != (unsigned char)(i + (size_t)r * 89);
        CHECK(wrong == 0, "all-gather of %zu bytes: %zu wrong", n, wrong);
        free(mine);
        free(all);
    }
}

static void test_agree(mw_comm *c) {
    char expected[MW_ERROR_TEXT_MAX], host[64];
    snprintf(host, sizeof host, "%s", mw_comm_host(c));
    mw_error_set_text("left over");
    CHECK(mw_comm_agree(c, MW_OK) == MW_OK, "%s", mw_error_text());
    for (int first = 0; first < g_size; first++) {
        for (int count = 1; first + count <= g_size; count++) {
            mw_status mine = MW_OK;
            if (g_rank >= first && g_rank < first + count)
                mine = MW_FAIL(g_rank == first ? MW_ERR_NOINPUT : MW_ERR_IO, "cannot open 'x%d'", g_rank);
            mw_status st = mw_comm_agree(c, mine);
            CHECK(st == MW_ERR_NOINPUT, "status %d", (int)st);
            int n = g_size == 1
                        ? snprintf(expected, sizeof expected, "cannot open 'x%d'", first)
                        : snprintf(expected, sizeof expected, "rank %d (%s): cannot open 'x%d'", first, host, first);
            if (count == 2) snprintf(expected + n, sizeof expected - (size_t)n, " (and 1 other rank failed)");
            if (count > 2)
                snprintf(expected + n, sizeof expected - (size_t)n, " (and %d other ranks failed)", count - 1);
            CHECK(strcmp(mw_error_text(), expected) == 0, "'%s' instead of '%s'", mw_error_text(), expected);
            CHECK(mw_comm_should_report(c) == (g_rank == 0), "who reports");
        }
    }
    char long_text[MW_ERROR_TEXT_MAX];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    mw_error_set_text(long_text);
    CHECK(mw_comm_agree(c, MW_ERR_IO) == MW_ERR_IO, "all fail");
    const char *tail = strstr(mw_error_text(), "failed)");
    CHECK(g_size == 1 || (tail && tail[7] == 0), "a long text loses its end: '%s'", mw_error_text());
    CHECK(mw_comm_agree(c, MW_OK) == MW_OK, "after failures: %s", mw_error_text());
}

static void test_about(mw_comm *c) {
    CHECK(mw_comm_local_size(c) == g_size && mw_comm_local_rank(c) == g_rank, "local rank %d of %d",
          mw_comm_local_rank(c), mw_comm_local_size(c));
    CHECK(strlen(mw_comm_library()) > 5 && !strpbrk(mw_comm_library(), ",\n\t"), "library '%s'", mw_comm_library());
    int cores = 0;
    bool crowded = false;
    CHECK(mw_comm_cpu_share(c, &cores, &crowded) == MW_OK, "%s", mw_error_text());
    int n = mw_cpu_count(); /* the tests run unbound: all ranks have the same mask */
    CHECK(cores == (n / g_size > 0 ? n / g_size : 1) && crowded == (g_size > n), "%d cores, %d ranks: share %d%s", n,
          g_size, cores, crowded ? ", crowded" : "");
}

/* All calls in random order with random pauses, so that ranks run ahead of each other in every way they may. */
static void test_mixture(mw_comm *c) {
    uint64_t shared = 99, own = 1000 + (uint64_t)g_rank;
    size_t cols[64];
    for (int step = 0; step < 300; step++) {
        uint64_t what = check_random(&shared), seed = check_random(&shared);
        if (check_random(&own) % 8 == 0) usleep((useconds_t)(check_random(&own) % 2000));
        int root = (int)(seed % (uint64_t)g_size);
        switch (what % 5) {
        case 0: one_all_reduce(c, seed, (size_t)(seed % 20000)); break;
        case 1:
            for (int r = 0; r < g_size; r++) cols[r] = (size_t)(check_random(&shared) % 200);
            one_gather(c, seed, root - (int)(seed >> 20 & 1), (size_t)(seed >> 30 & 7), cols);
            break;
        case 2: {
            uint64_t v[40];
            for (int i = 0; i < 40; i++) v[i] = g_rank == root ? seed + (uint64_t)i : 0;
            CHECK(mw_comm_bcast(c, v, sizeof v, root, true) == MW_OK, "%s", mw_error_text());
            CHECK(v[0] == seed && v[39] == seed + 39, "step %d: broadcast", step);
            break;
        }
        case 3: {
            uint64_t v = seed + (uint64_t)((g_rank + step) % g_size);
            CHECK(mw_comm_reduce_u64(c, &v, MW_MAX) == MW_OK && v == seed + (uint64_t)g_size - 1, "step %d", step);
            break;
        }
        default: CHECK(mw_comm_agree(c, MW_OK) == MW_OK, "%s", mw_error_text());
        }
    }
    CHECK(mw_comm_wait_s(c) >= 0 && mw_comm_wait_s(c) == 0, "waiting time is not reset");
}

int main(int argc, char **argv) {
    mw_comm *c = NULL;
    bool messages = argc > 1 && strcmp(argv[1], "messages") == 0;
    mw_status st = mw_comm_open_on(&c, 15, messages ? MW_TRANSPORT_MESSAGES : MW_TRANSPORT_AUTO);
    if (st != MW_OK) {
        fprintf(stderr, "open: %s\n", mw_error_text());
        return 1;
    }
    g_rank = g_check_rank = mw_comm_rank(c);
    g_size = mw_comm_size(c);
    const char *name = c->transport ? c->transport->name : "none";
    CHECK(strcmp(name, g_size == 1 ? "none" : messages ? "messages" : "shared memory") == 0, "transport %s", name);
    test_about(c);
    test_small(c);
    test_bcast(c);
    test_all_reduce(c);
    test_gather_cols(c);
    test_agree(c);
    test_mixture(c);
    mw_comm_exit(c, g_check_failures ? 1 : 0);
}
