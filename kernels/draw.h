/* kernels/draw.h - the choice of a token from a row of logits, the same on every backend to the last bit.
 *
 * With x[t] = logit[t] * inv_temperature (f32) and top = max x, candidates are the tokens that pass, one after the
 * other: min_p   x[t] >= top + log_min_p top_k   the top_k first ones in the order: larger x, then smaller t top_p the
 * shortest beginning of that order whose mass is at least ceil(top_p * total mass); a token's mass is the integer part
 * of 2^40 * e^(x[t] - top), so that sums depend on no order The token is the candidate with the largest x[t] - log(-log
 * u[t]) (f64; the smaller t of equals), u[t] being a uniform number from a hash of (seed, position, t): Gumbel-max,
 * which draws from the candidates by probability.
 *
 * exp and log are written out below in single operations that IEEE 754 defines, so that no compiler, libm or device
 * rounds otherwise: no operation may be contracted (-ffp-contract=off; on the device the _rn functions never are).
 */
#ifndef MW_KERNELS_DRAW_H
#define MW_KERNELS_DRAW_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "worker/base/status.h"

#ifdef __CUDACC__
#define MW_BOTH static __host__ __device__ __forceinline__
#else
#define MW_BOTH static inline
#endif
#ifdef __CUDA_ARCH__
#define MW_MULF(a, b) __fmul_rn(a, b)
#define MW_ADDF(a, b) __fadd_rn(a, b)
#define MW_MUL(a, b)  __dmul_rn(a, b)
#define MW_ADD(a, b)  __dadd_rn(a, b)
#define MW_DIV(a, b)  __ddiv_rn(a, b)
#else
#define MW_MULF(a, b) ((a) * (b))
#define MW_ADDF(a, b) ((a) + (b))
#define MW_MUL(a, b)  ((a) * (b))
#define MW_ADD(a, b)  ((a) + (b))
#define MW_DIV(a, b)  ((a) / (b))
#endif

/* One row's parameters: eight words, as a step plan carries them. */
typedef struct mw_draw {
    float inv_temperature;         /* 0: the largest logit, whatever the rest says */
    float log_min_p;               /* -infinity: off */
    float top_p;                   /* 1: off */
    int32_t top_k;                 /* 0: off */
    uint32_t seed[2], position[2]; /* low and high halves */
} mw_draw;
enum { MW_DRAW_WORDS = sizeof(mw_draw) / sizeof(int32_t) };

/* ---- the source of the draw ------------------------------------------------------------------------------------- */

/* A 64-bit finaliser (multiply-xorshift, constants of splitmix64). */
MW_BOTH uint64_t mw_draw_mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* What tokens of one row share. */
MW_BOTH uint64_t mw_draw_key(const mw_draw *how) {
    uint64_t seed = (uint64_t)how->seed[1] << 32 | how->seed[0];
    return mw_draw_mix(mw_draw_mix(seed) ^ ((uint64_t)how->position[1] << 32 | how->position[0]));
}

/* In (0, 1]. */
MW_BOTH double mw_draw_uniform(uint64_t key, uint32_t token) {
    double k = (double)(mw_draw_mix(key ^ token) >> 11);
    return MW_MUL(MW_ADD(k, 0.5), 0x1p-53);
}

/* ---- exp and log ------------------------------------------------------------------------------------------------ */

/* 2^40 * e^d, cut to an integer; d <= 0. Relative error below 1e-6. */
MW_BOTH uint64_t mw_draw_mass(float d) {
    if (!(d > -27.75f)) return 0;
    float n = MW_ADDF(MW_ADDF(MW_MULF(d, 1.44269504f), 12582912.0f), -12582912.0f);        /* to the nearest integer */
    float r = MW_ADDF(MW_ADDF(d, MW_MULF(n, -0.693145752f)), MW_MULF(n, -1.42860677e-6f)); /* |r| <= ln(2) / 2 */
    float p = 1.0f / 720;
    p = MW_ADDF(MW_MULF(p, r), 1.0f / 120);
    p = MW_ADDF(MW_MULF(p, r), 1.0f / 24);
    p = MW_ADDF(MW_MULF(p, r), 1.0f / 6);
    p = MW_ADDF(MW_MULF(p, r), 0.5f);
    p = MW_ADDF(MW_MULF(p, r), 1.0f);
    p = MW_ADDF(MW_MULF(p, r), 1.0f);
    uint32_t bits = (uint32_t)(127 + 40 + (int32_t)n) << 23; /* 2^(40 + n), n from -41 to 0 */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return (uint64_t)MW_MULF(p, scale);
}

/* Natural logarithm of x >= 0, not subnormal. Relative error a few 2^-53. log 0 = -infinity. */
MW_BOTH double mw_draw_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (bits << 1 == 0) {
        bits = (uint64_t)0xfff << 52;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    int64_t e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m); /* [1, 2) */
    if (m > 1.4142135623730951) m = MW_MUL(m, 0.5), e++;
    double f = MW_ADD(m, -1.0), s = MW_DIV(f, MW_ADD(m, 1.0)), z = MW_MUL(s, s); /* |s| <= 0.172 */
    double p = 1.0 / 23;                                                         /* log m = 2 (s + s^3/3 + ...) */
    p = MW_ADD(MW_MUL(p, z), 1.0 / 21);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 19);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 17);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 15);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 13);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 11);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 9);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 7);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 5);
    p = MW_ADD(MW_MUL(p, z), 1.0 / 3);
    p = MW_ADD(MW_MUL(MW_MUL(MW_MUL(2.0, s), z), p), MW_MUL(2.0, s));
    return MW_ADD(MW_MUL((double)e, 0.693147180559945309417), p);
}

/* What the draw maximises, for a candidate with x and u. */
MW_BOTH double mw_draw_score(float x, double u) {
    return MW_ADD((double)x, -mw_draw_log(-mw_draw_log(u)));
}

/* The mass that candidates must reach together: ceil(top_p * total), at least 1. */
MW_BOTH uint64_t mw_draw_target(float top_p, uint64_t total) {
    double want = MW_MUL((double)top_p, (double)total);
    uint64_t target = (uint64_t)want;
    if ((double)target < want) target++;
    return target > 0 ? target : 1;
}

/* ---- on the host (draw.c) --------------------------------------------------------------------------------------- */

#ifndef __CUDACC__
/* The token of one row, or -1 when the row is not sound: a NaN, nothing above -infinity, or +infinity. x: scratch
 * [vocab], may be `logits` itself; index: scratch [vocab]. */
int32_t mw_draw_row(const mw_draw *how, const float *logits, int vocab, float *x, int32_t *index);
/* The first largest of a sound row, else -1. */
int32_t mw_draw_best(const float *x, int vocab);
#endif
#endif
