/* kernels/cpu/draw.c - sampling, by the host function that defines it. */
#include <stdlib.h>

#include "kernels/cpu/cpu.h"
#include "kernels/draw.h"

typedef struct {
    int32_t *token;
    const mw_draw *how;
    const float *logits;
    int64_t ld, rows, vocab;
    char *scratch; /* a row of f32 and one of i32 for each thread */
} draw_job;

static void draw_run(void *arg, int thread, int n_threads) {
    const draw_job *j = arg;
    int64_t begin, end;
    char *mine = j->scratch + (size_t)thread * (size_t)j->vocab * (sizeof(float) + sizeof(int32_t));
    float *x = (float *)mine;
    int32_t *index = (int32_t *)(mine + (size_t)j->vocab * sizeof(float));
    mw_split(j->rows, 1, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        j->token[i] = mw_draw_row(&j->how[i], j->logits + i * j->ld, (int)j->vocab, x, index);
}

mw_status mw_cpu_draw(mw_dev *d, int32_t *token, const mw_draw *how, const float *logits, int64_t ld, int64_t rows,
                      int64_t vocab) {
    mw_status st = MW_OK;
    draw_job j = {token, how, logits, ld, rows, vocab, NULL};
    size_t bytes = (size_t)d->threads * (size_t)vocab * (sizeof(float) + sizeof(int32_t));
    if (vocab <= 0 || vocab > INT32_MAX) return MW_FAIL(MW_ERR_INTERNAL, "a draw from %lld tokens", (long long)vocab);
    MW_TRY(st, mw_dev_workspace(d, bytes, (void **)&j.scratch));
    mw_dev_run(d, rows > 1 ? rows * vocab : 0, draw_run, &j);
fail:
    return st;
}
