/* tests/kernels/cuda_test.h - for test programs of the CUDA backend: failures are counted and the first ones printed,
 * so that one run on a lent GPU tells as much as possible; device buffers are poisoned and stand between guards.
 * No test framework: these programs are also built by hand on GPU machines that have none. */
#ifndef MW_TESTS_CUDA_TEST_H
#define MW_TESTS_CUDA_TEST_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "tests/ref/ref_util.h"

#define SHOWN 12
#define GUARD 256

static const mw_kernels *K;
static mw_dev *D;
static int g_failures;
static bool g_small; /* --small: few and short cases, for compute-sanitizer */

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        if (g_failures++ < SHOWN) {                                                                                    \
            printf("%s:%d: ", __FILE__, __LINE__);                                                                     \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) FAIL("%s", #cond);                                                                                \
    } while (0)
#define OK(expr)                                                                                                       \
    do {                                                                                                               \
        mw_status st_ = (expr);                                                                                        \
        if (st_ != MW_OK) FAIL("%s: %s: %s", #expr, mw_status_name(st_), mw_error_text());                             \
    } while (0)

static inline void *host_new(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "test out of memory\n");
        exit(1);
    }
    return p;
}

/* `bytes` of device memory filled with 0xFF: NaN in every type. */
static inline void *dev_new(size_t bytes) {
    unsigned char *fill = host_new(bytes + 2 * GUARD);
    void *p = NULL;
    memset(fill, 0xA5, bytes + 2 * GUARD);
    memcpy(fill, &bytes, sizeof bytes);
    memset(fill + GUARD, 0xFF, bytes);
    OK(K->alloc(D, &p, bytes + 2 * GUARD, "test buffer"));
    if (!p) exit(1);
    OK(K->to_device(D, p, fill, bytes + 2 * GUARD));
    free(fill);
    return (char *)p + GUARD;
}

static inline void *dev_copy(const void *host, size_t bytes) {
    void *p = dev_new(bytes);
    OK(K->to_device(D, p, host, bytes));
    return p;
}

static inline void dev_get(void *host, const void *p, size_t bytes) {
    OK(K->to_host(D, host, p, bytes));
}

static inline void dev_free(void *p) {
    size_t bytes = 0;
    if (!p) return;
    unsigned char head[GUARD], tail[GUARD];
    dev_get(head, (char *)p - GUARD, GUARD);
    memcpy(&bytes, head, sizeof bytes);
    dev_get(tail, (char *)p + bytes, GUARD);
    for (int i = 0; i < GUARD; i++)
        if ((i >= (int)sizeof bytes && head[i] != 0xA5) || tail[i] != 0xA5) {
            FAIL("a guard of a buffer of %zu bytes was written to", bytes);
            break;
        }
    K->free(D, (char *)p - GUARD);
}

/* Half a step of rounding to t, relative, and the absolute half step below its normal range. */
static inline double half_step(mw_dtype t) {
    return t == MW_F16 ? 0x1p-11 : t == MW_BF16 ? 0x1p-8 : 0x1p-24;
}
/* Half of the smallest subnormal. */
static inline double tiny_step(mw_dtype t) {
    return t == MW_F16 ? 0x1p-25 : t == MW_BF16 ? 0x1p-134 : 0;
}
/* Whether `got`, stored as t, is within e of exact before its rounding. */
static inline bool near_to(double got, double exact, double e, mw_dtype t) {
    return fabs(got - exact) <= e + half_step(t) * (fabs(exact) + e) + tiny_step(t);
}

/* A random matrix in t on the host: noise in all of ld columns. */
static inline void *host_random(mw_dtype t, int64_t rows, int64_t ld, double size) {
    void *p = host_new((size_t)(rows * ld) * mw_dtype_size(t));
    for (int64_t i = 0; i < rows * ld; i++) ref_store(p, t, (size_t)i, ref_normal() * size);
    return p;
}

static inline bool is_poison(const void *p, mw_dtype t, int64_t i) {
    const unsigned char *b = (const unsigned char *)p + (size_t)i * mw_dtype_size(t);
    for (size_t k = 0; k < mw_dtype_size(t); k++)
        if (b[k] != 0xFF) return false;
    return true;
}

/* Runs `all` on a device of either activation type. Arguments: [--small] [seed]. */
static inline int cuda_test_main(int argc, char **argv, void (*all)(void)) {
    static const mw_dtype acts[] = {MW_F16, MW_BF16};
    if (argc > 1 && strcmp(argv[1], "--small") == 0) {
        g_small = true;
        argc--;
        argv++;
    }
    ref_seed_from_args(argc, argv);
    K = mw_kernels_cuda();
    for (int i = 0; i < 2; i++) {
        mw_dev_info info;
        mw_status st = K->open(&D, &(mw_dev_opts){.device = 0, .act = acts[i]});
        if (st != MW_OK) {
            printf("%s\n", mw_error_text());
            return 1;
        }
        OK(K->info(D, &info));
        int before = g_failures;
        all();
        printf("%s, %s activations: %d failures\n", info.name, mw_dtype_name(acts[i]), g_failures - before);
        K->close(D);
    }
    return g_failures != 0;
}
#endif
