/* bench/random.h - random numbers by a counter: the same requests on every machine. */
#ifndef MW_BENCH_RANDOM_H
#define MW_BENCH_RANDOM_H
#include "kernels/probe.h"

static inline uint64_t bench_random(uint64_t *state) {
    uint64_t i = (*state)++;
    return mw_probe_hash(i, 0x5eed);
}

/* 0 <= x < 1 */
static inline double bench_uniform(uint64_t *state) {
    return (double)(bench_random(state) >> 11) * 0x1p-53;
}
#endif
