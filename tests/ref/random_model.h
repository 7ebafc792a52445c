/* tests/ref/random_model.h - a small model.h5 with random weights, for tests that need a real file of some shape. */
#ifndef MW_TESTS_RANDOM_MODEL_H
#define MW_TESTS_RANDOM_MODEL_H
#include "shard/checkpoint.h"

typedef struct random_model {
    mw_model_config cfg;
    int64_t group;  /* 32, 64, 128 or -1 */
    bool zeros;     /* zero points other than 8 */
    bool act_order; /* permutations on q, k, v, o, gate, up */
    bool bias;      /* on q, k, v */
    bool o_bias;    /* on o and down */
    bool dense_mlp; /* gate, up, down in 16 bit */
    bool mixed_qkv; /* k in 16 bit, so that q, k, v cannot be one GEMM */
    float scale;    /* of int4 weights, times 0.5 to 1.5 */
    mw_dtype scale_dtype, dense_dtype;
    mw_layout layout;
    uint64_t seed;
} random_model;

/* Sensible small values: 2 layers, hidden 128, 4/2 heads of 32, MLP 640, vocabulary 320, group 32. */
random_model random_model_default(uint64_t seed);

MW_MUST_CHECK mw_status random_model_write(const random_model *m, const char *path);

/* xorshift-multiply generator of the tests: repeatable, seed printed by the test. */
uint64_t random_next(uint64_t *state);
static inline int random_int(uint64_t *state, int lo, int hi) { /* lo..hi inclusive */
    return lo + (int)(random_next(state) % (uint64_t)(hi - lo + 1));
}
static inline double random_unit(uint64_t *state) {
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

/* A path in a fresh temporary folder of the test process; the folder goes away at exit. */
const char *random_model_path(const char *name);

#endif
