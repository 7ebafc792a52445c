/* kernels/kernels.h - the one door to a compute device. Implemented twice: kernels/cpu and kernels/cuda.
 *
 * A backend is a table of functions (mw_kernels); a device is an opaque mw_dev that owns a queue ("stream"), a
 * workspace and its faults. Every step function ENQUEUES work on the device's queue in call order and returns MW_OK
 * when that was accepted; results are there after sync() or a to_host(). The CPU backend has finished when it returns.
 * Pointers named x, y, dst, src are device memory unless a comment says host. Nothing here knows MPI, files or models.
 *
 * Activations: [rows, columns] row-major in the device's activation dtype (mw_dev_info.act: f32 on the CPU backend,
 * f16 or bf16 on CUDA), leading dimension `ld` in ELEMENTS. Rows of different sequences are mixed freely (ragged
 * batches, prefill and decode together). On the CPU backend a row's result does not depend on the other rows of the
 * batch; on CUDA it may in its last bits (docs/NUMERICS.md).
 *
 * Errors: MW_ERR_INTERNAL for a shape the contract forbids, MW_ERR_NOMEM for a workspace that cannot grow,
 * MW_ERR_UNAVAIL for a device that is not there.
 */
#ifndef MW_KERNELS_KERNELS_H
#define MW_KERNELS_KERNELS_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/draw.h"
#include "worker/base/dtype.h"
MW_BEGIN_DECLS

typedef struct mw_dev mw_dev;
typedef struct mw_graph mw_graph;
typedef struct mw_lane mw_lane;
typedef void *mw_stream; /* cudaStream_t on CUDA, NULL on CPU */

/* ---- weights ---------------------------------------------------------------------------------------------------- */

/* This rank's int4 matrix in Marlin tiles: y[m,n] = sum_k x[m,k] * (q[k,n] - zero[k/group,n]) * scale[k/group,n].
 *   tiles   u32 [k/16][2n]. Row kt holds k = 16kt..16kt+15. Word 128*nb + 4*lane + j (lane 0..31, j 0..3) of a row
 *           holds eight nibbles; nibble v (bits 4v..4v+3) is q of
 *               k = 16*kt + 2*(lane%4) + 8*(v&1) + (v>>2)        n = 64*nb + 16*j + lane/4 + 8*((v>>1)&1)
 *   scales  [k/group][n] in scale_dtype; zeros u8 [k/group][n], 0..16, or NULL: every zero is 8.
 *           Both permuted inside every 64 columns: position 8a+b holds column a+8b.
 * Source of the layout: the Marlin kernel (facts: docs/FORMAT.md section "Marlin tiles"). */
typedef struct mw_w4 {
    const uint32_t *tiles;
    const void *scales;
    const uint8_t *zeros;
    mw_dtype scale_dtype; /* f16, bf16 or f32 */
    int64_t group;        /* rows of k that share a scale: divides k, a multiple of 16; == k for per-channel */
} mw_w4;

/* This rank's 16- or 32-bit matrix, Hugging Face orientation: y[m,n] = sum_k x[m,k] * w[n,k]. */
typedef struct mw_dense {
    const void *w;  /* [n][k] row-major */
    mw_dtype dtype; /* f16, bf16 or f32 */
} mw_dense;

typedef enum { MW_LINEAR_W4, MW_LINEAR_DENSE } mw_linear_kind;

typedef struct mw_linear {
    mw_linear_kind kind;
    int64_t k, n; /* this rank's extents in elements. W4: k % 16 == 0, n % 64 == 0. Padding columns have scale 0. */
    union {
        mw_w4 w4;
        mw_dense dense;
    };
    const float *bias; /* f32 [n], natural order, or NULL */
} mw_linear;

/* What the kernel of a linear layer may do beside multiplying. */
typedef struct mw_fuse {
    /* In front, when norm (f32 [k]) is not NULL: sum = x + delta, and RMSNorm(sum) * norm is multiplied, as add_norm
     * does. delta NULL: nothing is added, and sum not written. x, delta and sum do not overlap, rows are k apart. */
    const float *norm;
    float eps;
    const void *delta;
    void *sum;
    /* Behind: y[m, j] = silu(column j) * column n/2 + j, n/2 columns, as silu_mul does of unrounded columns. */
    bool silu_mul;
} mw_fuse;

/* ---- the batch of a step ---------------------------------------------------------------------------------------- */

/* All arrays are device memory, i32. Sequence s owns rows q_start[s] .. q_start[s+1]-1, in position order, and its
 * context (cached tokens and this step's) is ctx_len[s] long: row i of s has position ctx_len[s] - rows(s) + i. */
typedef struct mw_batch {
    int n_tokens; /* rows */
    int n_seqs;
    int max_rows;               /* largest rows(s) */
    int max_ctx;                /* largest ctx_len[s] */
    const int32_t *token;       /* [n_tokens] */
    const int32_t *pos;         /* [n_tokens] */
    const int32_t *slot;        /* [n_tokens] where the row's K and V go: block * block_size + offset */
    const int32_t *q_start;     /* [n_seqs + 1] */
    const int32_t *ctx_len;     /* [n_seqs] */
    const int32_t *block_table; /* [n_seqs][block_stride] block numbers, enough for ctx_len[s] */
    int block_stride;
} mw_batch;

/* ---- attention -------------------------------------------------------------------------------------------------- */

/* The heads of this rank. q head h uses kv head h / (n_q / n_kv). Row layout of the fused projection `qkv`: q heads
 * from column q_off, k heads from k_off, v heads from v_off, each head head_dim columns wide. K and V cache of one
 * layer: [n_blocks][n_kv][block_size][head_dim] in kv_dtype. */
typedef struct mw_attn {
    int n_q, n_kv, head_dim, block_size;
    int window; /* 0: all; W: position p sees p-W+1 .. p */
    float scale;
    int64_t q_off, k_off, v_off;
    mw_dtype kv_dtype;
    const float *rope;            /* [positions][head_dim/2][2] cos, sin; pairs (d, d + head_dim/2) */
    const float *q_norm, *k_norm; /* f32 [head_dim] RMSNorm over a head before RoPE, or NULL */
    float norm_eps;
} mw_attn;

/* ---- devices ---------------------------------------------------------------------------------------------------- */

#define MW_LANE_SLOTS 4
#define MW_FETCHES    2
#define MW_STAMPS     2048

typedef struct mw_dev_opts {
    int device;    /* CUDA: ordinal. CPU: ignored */
    int threads;   /* CPU: >= 1 */
    bool spin;     /* CPU: threads may spin between kernels (fewer runnable threads than cores on this host) */
    bool int8_act; /* CPU: activations of W4 GEMMs as int8 instead of int16 (docs/NUMERICS.md) */
    mw_dtype act;  /* CUDA: f16 or bf16 */
} mw_dev_opts;

typedef struct mw_dev_info {
    char name[96];      /* "AMD EPYC, 2 threads, avx512vnni" */
    char isa[16];       /* CPU: instruction set in use; CUDA: "sm_90" */
    mw_dtype act;       /* dtype of activations in device memory */
    uint64_t mem_total; /* bytes */
    uint64_t mem_free;
    mw_stream stream;
    bool host_memory;       /* device memory is ordinary host memory: weights may be read straight into it */
    unsigned char uuid[16]; /* CUDA: which GPU this is, on any host */
} mw_dev_info;

typedef struct mw_kernels {
    const char *name; /* "cpu", "cuda" */

    /* What it computes with, one line: "13.0, driver 13.0". Touches no device. */
    const char *(*library)(void);
    /* Devices that this machine shows, 0 with the reason in mw_error_text(). Touches none of them. */
    int (*count)(void);
    mw_status (*open)(mw_dev **out, const mw_dev_opts *opts);
    void (*close)(mw_dev *d); /* NULL allowed */
    mw_status (*info)(mw_dev *d, mw_dev_info *out);

    /* Device memory, at least 64-byte aligned, not zeroed; `what` is named when it cannot be had. */
    mw_status (*alloc)(mw_dev *d, void **out, size_t bytes, const char *what);
    void (*free)(mw_dev *d, void *p);
    mw_status (*to_device)(mw_dev *d, void *dst, const void *host_src, size_t bytes); /* src may be reused on return */
    mw_status (*to_host)(mw_dev *d, void *host_dst, const void *src, size_t bytes);   /* waits */
    mw_status (*zero)(mw_dev *d, void *dst, size_t bytes);
    mw_status (*sync)(mw_dev *d);
    /* A copy to host_alloc memory that nobody waits for: enqueued, under one of MW_FETCHES marks. It has happened, with
     * all that was enqueued before it, once fetched() says so, which does not wait. */
    mw_status (*fetch)(mw_dev *d, void *host_dst, const void *src, size_t bytes, int mark);
    mw_status (*fetched)(mw_dev *d, int mark, bool *yes);
    /* A point in time of the queue, one of MW_STAMPS: reached when all that was enqueued before it is done. stamped_s:
     * seconds between two that have been reached. Not while a graph is captured. NULL where a call has finished when it
     * returns (CPU): there the host's clock tells. */
    mw_status (*stamp)(mw_dev *d, int i);
    mw_status (*stamped_s)(mw_dev *d, int from, int to, double *seconds);

    /* Host memory that copies to and from the device fastest (page-locked for CUDA). */
    mw_status (*host_alloc)(mw_dev *d, void **out, size_t bytes, const char *what);
    void (*host_free)(mw_dev *d, void *p);
    /* Loading, where device memory is not host memory; all NULL elsewhere. A lane belongs to one thread: a queue of its
     * own, and `slots` (at most MW_LANE_SLOTS) pieces of page-locked memory of `bytes` each. The thread fills a slot
     * and enqueues one of copy, tile and permute, which read it from its beginning; lane_wait returns when the slot may
     * be filled again. Lanes do not wait for the device's queue nor for each other. lane_close waits for everything,
     * frees the lane, and must have returned before a kernel reads what was written. */
    mw_status (*lane_open)(mw_dev *d, mw_lane **out, int slots, size_t bytes);
    mw_status (*lane_close)(mw_lane *l); /* NULL allowed */
    mw_status (*lane_wait)(mw_lane *l, int slot, void **host);
    /* Adjacent rows of `width` bytes to dst, `pitch` bytes from row to row. */
    mw_status (*lane_copy)(mw_lane *l, int slot, void *dst, size_t pitch, size_t width, size_t rows);
    /* Logical int4 rows [k][ceil(n/2) bytes], k % 16 == 0, to Marlin tiles in rows of tile_words words; columns from n
     * to the next multiple of 64 become nibble 0. What mw_pack_tiles (shard/pack.h) does. */
    mw_status (*lane_tile)(mw_lane *l, int slot, uint32_t *tiles, size_t tile_words, int64_t k, int64_t n);
    /* Scales or zeros [rows][n], elements of 1, 2 or 4 bytes, to their permuted order in rows of `ld` elements; columns
     * from n to the next multiple of 64 become 0. */
    mw_status (*lane_permute)(mw_lane *l, int slot, void *dst, size_t ld, int64_t rows, int64_t n, size_t elem);

    /* Everything enqueued between capture_begin and capture_end becomes a graph, and nothing of it runs; a launch
     * enqueues all of it at once. Not in between: alloc, copies to and from the host, sync, count_nonfinite. After a
     * failure in between: capture_abort. All five are NULL where launches cost nothing (CPU). */
    mw_status (*capture_begin)(mw_dev *d);
    mw_status (*capture_end)(mw_dev *d, mw_graph **out);
    void (*capture_abort)(mw_dev *d);
    mw_status (*graph_launch)(mw_dev *d, mw_graph *g);
    void (*graph_free)(mw_graph *g); /* NULL allowed; not while it runs */

    /* y[m, 0..n) = x[m, 0..k) * w (+ bias). x and y must not overlap. y is act, or f32 when y_f32. */
    mw_status (*linear)(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y, int64_t ldy,
                        bool y_f32);

    /* The same with f's additions, where fuses() says that one kernel does it all; y is act. Both NULL where none does
     * (CPU). */
    bool (*fuses)(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f);
    mw_status (*linear_fused)(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f, const void *x, int64_t ldx,
                              void *y, int64_t ldy);

    /* dst[i,:] = table[t - v0,:] for v0 <= t < v1, else zeros (another rank has it; all-reduce follows). t is token[i],
     * or chosen[-1 - token[i]] where token[i] is negative and chosen not NULL. table: [v1 - v0][h] in `dtype`. */
    mw_status (*embed)(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                       const void *table, mw_dtype dtype, int64_t v0, int64_t v1);

    /* x += delta (skipped when delta is NULL), then dst[i,j] = x[i,p] / sqrt(mean_j x[i,j]^2 + eps) * w[p] with
     * p = perm ? perm[j] : j. x: residual stream [m,h] in act; w: f32 [h]; perm: i32 [h] (act-order gather fused into
     * the store) or NULL. dst NULL: only the addition. Sums in f32 or better. */
    mw_status (*add_norm)(mw_dev *d, void *x, const void *delta, void *dst, int64_t m, int64_t h, const float *w,
                          float eps, const int32_t *perm);

    /* dst[i,j] = src[i, idx[j]] for j < n. */
    mw_status (*gather_cols)(mw_dev *d, void *dst, int64_t ld_dst, const void *src, int64_t ld_src, int64_t m,
                             int64_t n, const int32_t *idx);

    /* dst[i,:] = src[row[i],:], h columns; row: device i32 [n]. */
    mw_status (*take_rows)(mw_dev *d, void *dst, const void *src, int64_t n, int64_t h, const int32_t *row);

    /* q and k of every row: optional RMSNorm over head_dim, RoPE at pos; k and v go to their slots of the cache. Then
     * out[i, h*head_dim ..] = causal attention of q head h of row i over its sequence's cached K and V. The q columns
     * of qkv hold anything afterwards. */
    mw_status (*attention)(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                           void *v_cache, void *out, int64_t ld_out);

    /* dst[i,j] = silu(x[i,j]) * x[i,up_off + j] for j < n. dst may be x itself. */
    mw_status (*silu_mul)(mw_dev *d, void *dst, int64_t ld_dst, const void *x, int64_t ld, int64_t m, int64_t n,
                          int64_t up_off);

    /* token[i] = column of the largest of logits[i, 0 .. vocab), the lowest of equals, and best[i] its value; token[i]
     * is -1 where that is not finite, and best[i] NaN when the row holds a NaN. logits: f32, rows ld apart. */
    mw_status (*argmax)(mw_dev *d, int32_t *token, float *best, const float *logits, int64_t ld, int64_t rows,
                        int64_t vocab);

    /* The same of n parts side by side: parts [n][2][stride] are tokens and, as f32, their values, as argmax left them
     * for `rows` rows. chosen[i] = first[p] + the token of the part p with the largest value, the first of equals; -1
     * where that is not finite or a value is NaN. first[p] < 0: there is no part p. first: device memory. */
    mw_status (*best_of)(mw_dev *d, int32_t *chosen, const int32_t *parts, int n, int64_t stride, const int32_t *first,
                         int64_t rows);

    /* token[i] = what how[i] draws from logits[i, 0 .. vocab) (kernels/draw.h), -1 when the row is not sound. how:
     * device memory. */
    mw_status (*draw)(mw_dev *d, int32_t *token, const mw_draw *how, const float *logits, int64_t ld, int64_t rows,
                      int64_t vocab);

    /* Number of NaN or infinite elements of [m, n]; waits. For MARLIN_CHECK_NAN and tests. f32: elements are f32. */
    mw_status (*count_nonfinite)(mw_dev *d, const void *x, int64_t ld, int64_t m, int64_t n, bool f32, int64_t *count);
} mw_kernels;

/* NULL when the backend is not in this build. */
const mw_kernels *mw_kernels_cpu(void);
const mw_kernels *mw_kernels_cuda(void);

/* "cpu", "cuda", "auto" -> table. auto: cuda where the build has it and the machine shows a device, else cpu.
 * MW_ERR_UNAVAIL says what is missing. */
MW_MUST_CHECK mw_status mw_kernels_choose(const char *backend, const mw_kernels **out);

MW_END_DECLS
#endif
