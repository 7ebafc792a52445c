/* tests/kernels/draw_cases.h - random rows of logits and ways to draw from them, for both backends' tests: ordinary
 * rows, rows full of ties, rows with -infinity, unsound ones; every mixture of cuts, and none. */
#ifndef MW_TESTS_DRAW_CASES_H
#define MW_TESTS_DRAW_CASES_H
#include <math.h>

#include "kernels/draw.h"
#include "tests/ref/ref_util.h"

static inline void draw_case_logits(float *x, int64_t vocab, int64_t ld) {
    int kind = (int)ref_int(0, 9);
    double spread = ref_uniform(0.01, 12), offset = ref_uniform(-300, 300);
    for (int64_t j = 0; j < ld; j++) {
        double v = spread * ref_normal();
        if (kind == 1) v = (double)ref_int(-3, 3);                            /* ties everywhere */
        if (kind == 2) v = ref_chance(0.5) ? -0.0 : 0.0;                      /* nothing but ties */
        if (kind == 3) v = ref_chance(0.9) ? -INFINITY : v;                   /* most are excluded */
        if (kind == 4) v += offset;                                           /* far from 0 */
        if (kind == 5) v = ref_chance(0.001) ? 20 + ref_uniform(0, 0.01) : v; /* a crowd at the top */
        x[j] = j < vocab ? (float)v : 1e30f;                                  /* behind the row: must not be seen */
    }
    if (kind == 6 && ref_chance(0.3)) x[ref_int(0, vocab - 1)] = NAN;
    if (kind == 7 && ref_chance(0.3)) x[ref_int(0, vocab - 1)] = INFINITY;
    if (kind == 8 && ref_chance(0.3))
        for (int64_t j = 0; j < vocab; j++) x[j] = -INFINITY;
}

static inline mw_draw draw_case_how(int64_t vocab) {
    mw_draw how = {.inv_temperature = ref_chance(0.1) ? 0 : (float)(1 / ref_uniform(0.05, 3)),
                   .log_min_p = ref_chance(0.3) ? (float)log(ref_uniform(1e-6, 1)) : -INFINITY,
                   .top_p = ref_chance(0.5) ? (float)ref_uniform(1e-3, 1) : 1,
                   .top_k = ref_chance(0.5) ? (int32_t)ref_int(1, ref_chance(0.5) ? 50 : vocab + 3) : 0};
    for (int i = 0; i < 2; i++) {
        how.seed[i] = ref_u32();
        how.position[i] = i ? 0 : ref_u32();
    }
    return how;
}
#endif
