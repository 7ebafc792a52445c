/* Sampling on the GPU chooses the very token that the host's function chooses from the same logits; and the best of
 * several ranks' best tokens. */
#include "tests/kernels/cuda_test.h"
#include "tests/kernels/draw_cases.h"

static void check_draw(int64_t rows, int64_t vocab) {
    int64_t ld = vocab + ref_int(0, 5);
    float *logits = host_new((size_t)(rows * ld) * sizeof *logits), *x = host_new((size_t)vocab * sizeof *x);
    int32_t *index = host_new((size_t)vocab * sizeof *index), *got = host_new((size_t)rows * sizeof *got);
    mw_draw *how = host_new((size_t)rows * sizeof *how);
    for (int64_t i = 0; i < rows; i++) {
        draw_case_logits(logits + i * ld, vocab, ld);
        how[i] = draw_case_how(vocab);
    }
    float *d_logits = dev_copy(logits, (size_t)(rows * ld) * sizeof *logits);
    mw_draw *d_how = dev_copy(how, (size_t)rows * sizeof *how);
    int32_t *d_token = dev_new((size_t)rows * sizeof *got);
    OK(K->draw(D, d_token, d_how, d_logits, ld, rows, vocab));
    dev_get(got, d_token, (size_t)rows * sizeof *got);
    for (int64_t i = 0; i < rows; i++) {
        int32_t want = mw_draw_row(&how[i], logits + i * ld, (int)vocab, x, index);
        if (got[i] != want)
            FAIL("draw rows=%lld vocab=%lld: row %lld gave %d, expected %d (1/T %g, min_p e^%g, top_p %g, top_k %d)",
                 (long long)rows, (long long)vocab, (long long)i, got[i], want, (double)how[i].inv_temperature,
                 (double)how[i].log_min_p, (double)how[i].top_p, how[i].top_k);
    }
    dev_free(d_logits), dev_free(d_how), dev_free(d_token);
    free(logits), free(x), free(index), free(got), free(how);
}

static void check_best_of(void) {
    enum { PARTS = 4, ROWS = 37, STRIDE = 40 };
    static const float values[] = {1, 2, 2, 3, -INFINITY, INFINITY, NAN, -1};
    int32_t parts[PARTS][2][STRIDE], first[PARTS], got[ROWS], want[ROWS];
    for (int p = 0; p < PARTS; p++) {
        first[p] = ref_chance(0.2) ? -1 : 1000 * p;
        for (int i = 0; i < STRIDE; i++) {
            float v = values[ref_int(0, ref_chance(0.2) ? 7 : 4)];
            parts[p][0][i] = (int32_t)ref_int(0, 999);
            memcpy(&parts[p][1][i], &v, sizeof v);
        }
    }
    void *d_parts = dev_copy(parts, sizeof parts), *d_first = dev_copy(first, sizeof first),
         *d_got = dev_new(sizeof got);
    OK(K->best_of(D, d_got, d_parts, PARTS, STRIDE, d_first, ROWS));
    dev_get(got, d_got, sizeof got);
    OK(mw_kernels_cpu()->best_of(NULL, want, &parts[0][0][0], PARTS, STRIDE, first, ROWS));
    for (int i = 0; i < ROWS; i++)
        if (got[i] != want[i]) FAIL("best of ranks: row %d gave %d, expected %d", i, got[i], want[i]);
    dev_free(d_parts), dev_free(d_first), dev_free(d_got);
}

/* Tokens fetched behind a draw are there when the mark says so. */
static void check_fetch(void) {
    enum { N = 1000 };
    void *pinned = NULL;
    int32_t data[N];
    bool there = false;
    for (int i = 0; i < N; i++) data[i] = (int32_t)ref_u32();
    void *d = dev_copy(data, sizeof data);
    OK(K->host_alloc(D, &pinned, sizeof data, "fetched"));
    for (int mark = 0; mark < MW_FETCHES; mark++) {
        memset(pinned, 0xEE, sizeof data);
        OK(K->fetch(D, pinned, d, sizeof data, mark));
        do OK(K->fetched(D, mark, &there));
        while (!there && g_failures == 0);
        CHECK(memcmp(pinned, data, sizeof data) == 0);
    }
    K->host_free(D, pinned);
    dev_free(d);
}

static void time_draws(void) {
    enum { VOCAB = 128256, TURNS = 20 };
    static const struct {
        const char *name;
        float top_p, log_min_p;
        int32_t top_k;
    } kinds[] = {{"no cut", 1, -INFINITY, 0},
                 {"top_p 0.9", 0.9f, -INFINITY, 0},
                 {"top_k 50", 1, -INFINITY, 50},
                 {"top_k 50, top_p 0.9", 0.9f, -INFINITY, 50},
                 {"min_p 0.05", 1, -3, 0}};
    for (int64_t rows = 1; rows <= 64; rows *= 64) {
        float *logits = host_random(MW_F32, rows, VOCAB, 3);
        float *d_logits = dev_copy(logits, (size_t)(rows * VOCAB) * sizeof *logits);
        int32_t *d_token = dev_new((size_t)rows * sizeof *d_token);
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            mw_draw how[64];
            cudaEvent_t e[2];
            float ms = 0;
            for (int i = 0; i < rows; i++)
                how[i] = (mw_draw){.inv_temperature = 1.25f,
                                   .top_p = kinds[k].top_p,
                                   .log_min_p = kinds[k].log_min_p,
                                   .top_k = kinds[k].top_k,
                                   .seed = {(uint32_t)i, 0}};
            mw_draw *d_how = dev_copy(how, (size_t)rows * sizeof *how);
            for (int i = 0; i < 2; i++) cudaEventCreate(&e[i]);
            OK(K->draw(D, d_token, d_how, d_logits, VOCAB, rows, VOCAB));
            cudaEventRecord(e[0], D->stream);
            for (int i = 0; i < TURNS; i++) OK(K->draw(D, d_token, d_how, d_logits, VOCAB, rows, VOCAB));
            cudaEventRecord(e[1], D->stream);
            OK(K->sync(D));
            cudaEventElapsedTime(&ms, e[0], e[1]);
            printf("draw from %d, %lld row%s, %s: %.1f us\n", VOCAB, (long long)rows, rows > 1 ? "s" : "",
                   kinds[k].name, (double)ms * 1e3 / TURNS);
            for (int i = 0; i < 2; i++) cudaEventDestroy(e[i]);
            dev_free(d_how);
        }
        dev_free(d_logits), dev_free(d_token);
        free(logits);
    }
}

static void all(void) {
    for (int i = 0; i < (g_small ? 3 : 60); i++)
        check_draw(ref_int(1, g_small ? 4 : 40), ref_int(1, g_small ? 700 : 9000));
    for (int i = 0; i < (g_small ? 0 : 4); i++) check_draw(ref_int(1, 8), 128256);
    for (int i = 0; i < 10; i++) check_best_of();
    check_fetch();
    if (!g_small && D->act == MW_F16) time_draws();
}

int main(int argc, char **argv) {
    return cuda_test_main(argc, argv, all);
}
