#include "tests/ref/ref_util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"

#define GUARD 4096

static uint64_t g_seed, g_state;

void ref_seed_from_args(int argc, char **argv) {
    g_seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)mw_now_ns() % 1000000007u;
    g_state = g_seed;
    printf("seed %llu\n", (unsigned long long)g_seed);
}

uint64_t ref_seed(void) {
    return g_seed;
}

/* splitmix64: the finaliser of a counter. */
static uint64_t next64(void) {
    uint64_t z = (g_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t ref_u32(void) {
    return (uint32_t)(next64() >> 32);
}

int64_t ref_int(int64_t lo, int64_t hi) {
    return lo + (int64_t)(next64() % (uint64_t)(hi - lo + 1));
}

double ref_uniform(double lo, double hi) {
    return lo + (hi - lo) * ((double)(next64() >> 11) * 0x1p-53);
}

/* The sum of twelve uniforms: good enough, and has no tails to make a bound trivial. */
double ref_normal(void) {
    double s = -6;
    for (int i = 0; i < 12; i++) s += ref_uniform(0, 1);
    return s;
}

bool ref_chance(double p) {
    return ref_uniform(0, 1) < p;
}

double ref_store(void *base, mw_dtype t, size_t i, double x) {
    if (t == MW_F16)
        ((uint16_t *)base)[i] = mw_f32_to_f16((float)x);
    else if (t == MW_BF16)
        ((uint16_t *)base)[i] = mw_f32_to_bf16((float)x);
    else
        ((float *)base)[i] = (float)x;
    return mw_load_f32(base, t, i);
}

void *ref_guarded(size_t bytes) {
    size_t rounded = (bytes + 63) / 64 * 64;
    unsigned char *p = aligned_alloc(64, rounded + 2 * GUARD);
    if (!p) {
        fprintf(stderr, "test out of memory: %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0xFF, GUARD + bytes);
    memset(p + GUARD + bytes, 0xA5, rounded - bytes + GUARD);
    memset(p, 0xA5, GUARD);
    memcpy(p, &bytes, sizeof bytes);
    return p + GUARD;
}

bool ref_guards_intact(const void *q) {
    const unsigned char *p = (const unsigned char *)q - GUARD;
    size_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    for (size_t i = sizeof bytes; i < GUARD; i++)
        if (p[i] != 0xA5) return false;
    size_t rounded = (bytes + 63) / 64 * 64;
    for (size_t i = GUARD + bytes; i < rounded + 2 * GUARD; i++)
        if (p[i] != 0xA5) return false;
    return true;
}

void ref_guarded_free(void *p) {
    if (p) free((unsigned char *)p - GUARD);
}
