/* kernels/probe.h - what a benchmark asks of a device beside the kernels: its ceilings, a reference to compare with,
 * the time between two points of its queue, and its clocks. Implemented twice, as kernels.h is; marlin-bench and tests
 * use it, the engine does not.
 *
 * fill, poison, read, copy and mark ENQUEUE, as the functions of kernels.h do, and may be captured (but for the marks).
 */
#ifndef MW_KERNELS_PROBE_H
#define MW_KERNELS_PROBE_H
#include "kernels/kernels.h"
MW_BEGIN_DECLS

typedef struct mw_probe_facts {
    uint64_t cache_bytes; /* the last cache in front of memory: L2 of a GPU, L3 of a CPU */
    char driver[48];      /* "580.95.05"; "" on CPUs */
    int clock_mhz, clock_max_mhz, memory_mhz, memory_max_mhz, power_limit_w; /* 0: unknown */
} mw_probe_facts;

/* Where a result was farthest from its bound. */
typedef struct mw_verdict {
    double worst; /* largest |error| / bound; above 1, or NaN: wrong */
    int64_t row, col;
} mw_verdict;

#define MW_PROBE_READS 4 /* ways of reading; the fastest is the ceiling */

typedef struct mw_probe {
    mw_status (*facts)(mw_dev *d, mw_probe_facts *out);

    /* n elements mean + spread * (uniform in -1..1), a pure function of seed and index; u32: random words whatever mean
     * and spread are; u8: rounded to whole numbers. */
    mw_status (*fill)(mw_dev *d, void *dst, mw_dtype t, size_t n, float mean, float spread, uint64_t seed);
    mw_status (*poison)(mw_dev *d, void *dst, size_t bytes); /* NaN in every float type */

    /* Reads every byte once, 16 bytes aligned, and nothing else. */
    mw_status (*read)(mw_dev *d, const void *src, size_t bytes, int way);
    mw_status (*copy)(mw_dev *d, void *dst, const void *src, size_t bytes);

    /* The 16- or 32-bit matrix [n][k] that an int4 one stands for, each element rounded once to t. */
    mw_status (*dequant)(mw_dev *d, const mw_linear *w, void *dst, mw_dtype t);

    /* y (act, or f32) against x * w in double, w int4. Rows i and i + period of x must be equal; period rows are
     * computed, all rows of y are compared. The bound is (u_w + u_x) * sum |x||w| + u_y * |y| with u_w = 2^-12 (f16) or
     * 2^-9 (bf16): a kernel may round the weights once to the activation type; u_x: the CPU's quantised activations
     * (docs/NUMERICS.md). Waits. */
    mw_status (*check_linear)(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, const void *y,
                              int64_t ldy, bool y_f32, int64_t period, mw_verdict *out);

    /* out of attention() against softmax in double, all q heads of `samples` rows spread over the batch. The bound of
     * an element is u * (8 * rms of its head's output + |out|), u = 2^-11 (f16 K and V) or 2^-8 (bf16). Waits. */
    mw_status (*check_attention)(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                                 const void *k_cache, const void *v_cache, const void *out, int64_t ld_out, int samples,
                                 mw_verdict *verdict);

    /* Time between two points of the queue: mark(0), work, mark(1), elapsed. elapsed waits for mark 1. */
    mw_status (*mark)(mw_dev *d, int which);
    mw_status (*elapsed)(mw_dev *d, double *seconds);
} mw_probe;

/* Of the same backend as k. */
const mw_probe *mw_probe_of(const mw_kernels *k);

const mw_probe *mw_probe_cpu(void);
const mw_probe *mw_probe_cuda(void);

/* Element i of fill's stream, in -1..1; the same on every backend. */
static inline uint64_t mw_probe_hash(uint64_t seed, uint64_t i) {
    uint64_t z = seed * 0x9E3779B97F4A7C15u + i * 0xD1B54A32D192ED03u + 0x8CB92BA72F3D8DD7u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

MW_END_DECLS
#endif
