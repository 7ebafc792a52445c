/* tests/kernels/test_cuda_decode_shape.c - shared memory of the decode attention fits every chip: arithmetic, no device
 * needed. */
#include <stdio.h>

#include "kernels/cuda/decode_shape.h"

static int g_checks, g_failed;

static void check(bool good, const char *what, const mw_dev *d, int hdp, int cols, const mw_decode_shape *s) {
    g_checks++;
    if (good || ++g_failed > 20) return;
    printf("FAILED %s: sm_%d, head_dim %d, %d columns: depth %d, overlay %d, %d bytes\n", what, d->sm, hdp, cols,
           s->depth, s->overlay, s->smem);
}

int main(void) {
    static const mw_dev chips[] = {{.sm = 80, .n_sm = 108, .smem_max = 166912},
                                   {.sm = 86, .n_sm = 84, .smem_max = 101376},
                                   {.sm = 89, .n_sm = 128, .smem_max = 101376},
                                   {.sm = 90, .n_sm = 132, .smem_max = 232448}};
    static const int dims[] = {64, 80, 96, 128, 256};
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 5; i++)
            for (int cols = 1; cols <= MW_DECODE_TILE_COLS; cols++)
                for (int cluster = 1; cluster <= (chips[c].sm < 90 ? 1 : MW_DECODE_CLUSTER); cluster *= 2)
                    for (int tiles = 1; tiles < 5000; tiles *= 3)
                        for (int64_t blocks = 1; blocks < 100000; blocks *= 7) {
                            const mw_dev *d = &chips[c];
                            const int hdp = dims[i] == 64 ? 64 : dims[i] <= 128 ? 128 : 256;
                            const mw_decode_shape s = mw_cuda_decode_shape(d, hdp, cols, cluster, tiles, blocks);
                            /* 256: static variables. */
                            check(s.smem + MW_DECODE_RESERVED - 2048 <= (int)d->smem_max, "fits", d, hdp, cols, &s);
                            check(s.depth >= 1 && s.depth <= MW_DECODE_MAX_DEPTH, "depth", d, hdp, cols, &s);
                            check(!s.overlay || cols * (hdp + 4) * 4 <= s.depth * 64 * hdp, "overlay", d, hdp, cols,
                                  &s);
                            check(!s.overlay || d->sm < 90, "overlay on sm_90", d, hdp, cols, &s);
                        }
    printf("%d checks, %d failed\n", g_checks, g_failed);
    return g_failed != 0;
}
