/* kernels/cpu/cpu.h - what the files of the CPU backend share: the device, and the functions an instruction set gives.
 *
 * Two tables are compiled once per instruction set, each in a file with its own -m flags: mw_w4_ops (the int4 GEMM) and
 * mw_vec_ops (everything in f32). The other files check shapes and split work over threads; they are compiled once with
 * the build's own flags, so that no instruction beyond the baseline runs before mw_isa_pick() has looked at the CPU.
 */
#ifndef MW_KERNELS_CPU_CPU_H
#define MW_KERNELS_CPU_CPU_H
#include "kernels/cpu/attention.h"
#include "kernels/kernels.h"
#include "worker/base/mem.h"
#include "worker/base/threads.h"

/* ---- int4 GEMM -------------------------------------------------------------------------------------------------- */

#define MW_UNIT   64  /* columns of a unit: one tile, 512 bytes, wide */
#define MW_KBLOCK 128 /* rows of k that share one activation scale, at most: 8 tiles */

/* One block of work: `rows` rows of x, one unit of columns, one k block of `tiles` tiles. */
typedef struct mw_w4_block {
    const uint32_t *w;      /* the unit's 128 words in the block's first row of tiles */
    const uint32_t *ahead;  /* the same place of a block that is wanted soon: prefetched word for word */
    size_t w_stride;        /* words from one row of tiles to the next */
    int tiles, rows;        /* 1 .. 8, 1 .. max_rows */
    const void *act;        /* [tiles][rows] prepared activations of 16 rows of k, act_tile bytes each */
    const float *act_scale; /* [rows] */
    const int32_t *act_sum; /* [rows] sum of the block's quantised activations */
    const void *scale;      /* [64] in scale_dtype, stored order: position 8a+b is column a+8b */
    const uint8_t *zero;    /* [64] stored order, or NULL: all 8 */
    mw_dtype scale_dtype;
    float *acc; /* [rows] of acc_ld floats, 64 used, in an order of the instruction set's own */
    size_t acc_ld;
} mw_w4_block;

typedef struct mw_w4_ops {
    int max_rows;
    size_t act_tile[2]; /* [int8] bytes of one row's 16 prepared activations; a multiple of 64 */

    /* Quantise x[0 .. 16*tiles): tile i goes to act + i*stride. A non-finite x makes *scale NaN. */
    void (*prepare[2])(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum);

    /* acc[r][c] = fma(sum_k (q - zero) * a, scale_w * act_scale, acc[r][c]). The integer sum is exact and the rest is
     * one rounding each in this order, so every instruction set gives the same bits. */
    void (*block[2])(const mw_w4_block *b);

    /* y[0 .. 63] = acc in natural column order, + bias[0 .. 63] unless NULL. */
    void (*finish)(const float *acc, const float *bias, float *y);
} mw_w4_ops;

extern const mw_w4_ops mw_w4_scalar, mw_w4_avx2, mw_w4_avx512, mw_w4_avx512vnni;

/* The block's activation scale and its inverse from the largest magnitude's bits. Not finite: scale NaN, so that the
 * whole row of y becomes NaN. Too small for a normal f32 scale: 0, and the block counts as zeros (|x| < 4e-34). */
static inline float mw_w4_act_scale(int32_t max_bits, float levels, float *scale) {
    float amax = mw_bits_f32((uint32_t)max_bits);
    *scale = max_bits >= 0x7f800000 ? mw_bits_f32(0x7fc00000) : amax / levels;
    if (*scale < 1.17549435e-38f) *scale = 0;
    return *scale > 0 ? levels / amax : 0;
}

/* ---- f32 operations --------------------------------------------------------------------------------------------- */

typedef struct mw_vec_ops {
    /* y[i*ldy + j] = sum_k x[i*ldx + k] * w[j][k] (+ bias[j]) for i < m, j0 <= j < j1. A row's bits do not depend on m
     * or on the columns asked for. */
    void (*dense)(const mw_dense *w, int64_t k, int64_t j0, int64_t j1, int64_t m, const float *x, int64_t ldx,
                  float *y, int64_t ldy, const float *bias);

    void (*convert)(float *dst, const void *src, mw_dtype dtype, int64_t n); /* to f32 */

    /* One row each; the contracts of kernels.h. */
    void (*add_norm)(float *x, const float *delta, float *dst, int64_t h, const float *w, float eps,
                     const int32_t *perm);
    void (*silu_mul)(float *dst, const float *gate, const float *up, int64_t n);
    void (*rope_kv)(const mw_attn *a, float *row, const float *rope, void *k_cache, void *v_cache, int64_t slot);
    int64_t (*count_nonfinite)(const float *x, int64_t n);

    void (*attn_decode)(const mw_attn_part *p);
    void (*attn_prefill)(const mw_attn_part *p);
    void (*attn_merge)(float *total, const float *part, int heads, int head_dim);
} mw_vec_ops;

extern const mw_vec_ops mw_vec_scalar, mw_vec_avx2, mw_vec_avx512;

/* ---- the device ------------------------------------------------------------------------------------------------- */

typedef struct mw_isa {
    const char *name; /* "scalar", "avx2", "avx512", "avx512vnni" */
    const mw_w4_ops *w4;
    const mw_vec_ops *vec;
} mw_isa;

/* The best instruction set of this CPU, or the one MARLIN_CPU_ISA names. MW_ERR_USAGE: no such name; MW_ERR_UNAVAIL:
 * this CPU or this build does not have it. */
MW_MUST_CHECK mw_status mw_isa_pick(const mw_isa **out);

struct mw_dev {
    mw_pool *pool;
    int threads;
    bool spin, int8_act;
    const mw_isa *isa;
    void *workspace; /* grows, is never given back before close */
    size_t workspace_bytes;
};

/* At least `bytes` of memory aligned to 64, valid until the next call. */
MW_MUST_CHECK mw_status mw_dev_workspace(mw_dev *d, size_t bytes, void **out);

/* Run fn on all threads, or on this one alone where `work` (f32 elements touched, about) is not worth waking them. */
void mw_dev_run(mw_dev *d, int64_t work, mw_pool_fn fn, void *arg);

/* Bytes of memory that exist and that can still be had: the machine's, or the control group's where that is less. */
void mw_cpu_memory(uint64_t *total, uint64_t *available);
/* "AMD EPYC 9654", from the kernel's description of the CPU. */
void mw_cpu_model(char *name, size_t size);

/* What the attention of this shape must satisfy. */
MW_MUST_CHECK mw_status mw_attn_check(const mw_attn *a);

/* The functions of mw_kernels, by file. */
mw_status mw_cpu_linear_w4(mw_dev *d, const mw_linear *w, int64_t m, const float *x, int64_t ldx, float *y,
                           int64_t ldy);
mw_status mw_cpu_linear_dense(mw_dev *d, const mw_linear *w, int64_t m, const float *x, int64_t ldx, float *y,
                              int64_t ldy);
mw_status mw_cpu_embed(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                       const void *table, mw_dtype dtype, int64_t v0, int64_t v1);
mw_status mw_cpu_add_norm(mw_dev *d, void *x, const void *delta, void *dst, int64_t m, int64_t h, const float *w,
                          float eps, const int32_t *perm);
mw_status mw_cpu_gather_cols(mw_dev *d, void *dst, int64_t ld_dst, const void *src, int64_t ld_src, int64_t m,
                             int64_t n, const int32_t *idx);
mw_status mw_cpu_take_rows(mw_dev *d, void *dst, const void *src, int64_t n, int64_t h, const int32_t *row);
mw_status mw_cpu_silu_mul(mw_dev *d, void *dst, int64_t ld_dst, const void *x, int64_t ld, int64_t m, int64_t n,
                          int64_t up_off);
mw_status mw_cpu_argmax(mw_dev *d, int32_t *token, float *best, const float *logits, int64_t ld, int64_t rows,
                        int64_t vocab);
mw_status mw_cpu_best_of(mw_dev *d, int32_t *chosen, const int32_t *parts, int n, int64_t stride, const int32_t *first,
                         int64_t rows);
mw_status mw_cpu_draw(mw_dev *d, int32_t *token, const mw_draw *how, const float *logits, int64_t ld, int64_t rows,
                      int64_t vocab);
mw_status mw_cpu_count_nonfinite(mw_dev *d, const void *x, int64_t ld, int64_t m, int64_t n, bool f32, int64_t *count);
mw_status mw_cpu_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                           void *v_cache, void *out, int64_t ld_out);

/* The two parts of mw_cpu_attention: q (written back), k and v of the step's rows; attention over what is cached. */
mw_status mw_cpu_rope_kv(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                         void *v_cache);
mw_status mw_cpu_attend(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                        const void *k_cache, const void *v_cache, void *out, int64_t ld_out);
#endif
