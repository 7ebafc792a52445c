/* kernels/cuda/cuda.h - private to kernels/cuda: the CUDA device and the functions behind its table (backend.c).
 *
 * Everything is enqueued on d->stream and may be captured into a CUDA graph: no function here allocates, synchronises
 * or reads device memory on the host, unless its comment says so. Scratch is taken from the workspace, which has a
 * fixed size and is used by one kernel at a time (stream order). Pointers are device memory. */
#ifndef MW_KERNELS_CUDA_CUDA_H
#define MW_KERNELS_CUDA_CUDA_H
#include <cuda_runtime.h>

#include "kernels/kernels.h"
MW_BEGIN_DECLS

#define MW_CUDA_WORKSPACE (64u << 20) /* bytes: stream-K and split-KV partial results, cuBLASLt */
#define MW_CUDA_STAGING   (4u << 20)
#define MW_CUDA_COUNTERS  (4u << 20) /* u32, zero between kernels: whoever raises one lowers it again */

/* Entry points of cuBLASLt, found with dlopen: programs start, and run the CPU backend, on machines without it. */
typedef struct mw_blas mw_blas;

struct mw_dev {
    int ordinal;
    char name[64];
    unsigned char uuid[16];
    int sm;          /* 80, 86, 89, 90 ... */
    int n_sm;        /* multiprocessors */
    size_t smem_max; /* opt-in shared memory of a block, bytes */
    mw_dtype act;    /* f16 or bf16 */
    cudaStream_t stream;
    void *workspace;       /* MW_CUDA_WORKSPACE */
    uint32_t *counters;    /* MW_CUDA_COUNTERS */
    mw_blas *blas;         /* blas.c: handle and chosen algorithms */
    char *staging;         /* pinned, two halves of MW_CUDA_STAGING bytes, for copies from and to pageable memory */
    cudaEvent_t staged[2]; /* the copy from that half is done */
    cudaEvent_t fetched[MW_FETCHES];
    cudaEvent_t stamped[MW_STAMPS]; /* made when they are first wanted */
    int half;
    bool w4_second;      /* which kind of blocks the last launch of w4_lean.cuh had */
    uint64_t *nonfinite; /* count_nonfinite's result */
};

/* MW_OK, or MW_FAIL(MW_ERR_INTERNAL / MW_ERR_NOMEM / MW_ERR_UNAVAIL) naming `what` and CUDA's text. */
mw_status mw_cuda_check(cudaError_t e, const char *what);

/* MW_ERR_UNAVAIL where the build has no code for the device. Lowers d->sm to what its code was compiled for. */
mw_status mw_cuda_match_code(mw_dev *d);

/* The contracts are those of the functions of the same name in kernels.h. */
mw_status mw_cuda_linear_w4(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y, int64_t ldy,
                            bool y_f32);
bool mw_cuda_w4_fuses(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f);
mw_status mw_cuda_linear_fused(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f, const void *x, int64_t ldx,
                               void *y, int64_t ldy);
/* Load time: int4 rows as model.h5 stores them (rows-v1) to Marlin tiles, on the device. rows: u8 nibble pairs, k rows
 * of row_bytes bytes (>= ceil(n/2)), device memory; tiles: u32 [k/16] rows of tile_words words (>= 2 * round_up(n,64),
 * even multiples of 4: 16-byte aligned rows). k % 16 == 0; columns n .. round_up(n,64)-1 become nibble 0. What
 * shard/pack.h's mw_pack_tiles does on the host. A GEMM reads weights before it waits for earlier kernels: synchronise
 * between these two functions and the first GEMM on what they wrote. */
mw_status mw_cuda_w4_tile(mw_dev *d, const uint8_t *rows, int64_t row_bytes, int64_t k, int64_t n, uint32_t *tiles,
                          int64_t tile_words);
/* Load time: scales or zeros [rows][n] (row stride src_ld elements of elem_size 1, 2 or 4 bytes) to permuted ones
 * [rows][round_up(n,64)] (row stride dst_ld); padding columns become 0. dst and src must not overlap. */
mw_status mw_cuda_w4_permute(mw_dev *d, const void *src, int64_t src_ld, void *dst, int64_t dst_ld, int64_t rows,
                             int64_t n, size_t elem_size);
mw_status mw_cuda_linear_dense(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y,
                               int64_t ldy, bool y_f32);
mw_status mw_cuda_embed(mw_dev *d, void *dst, int64_t m, int64_t h, const int32_t *token, const int32_t *chosen,
                        const void *table, mw_dtype dtype, int64_t v0, int64_t v1);
mw_status mw_cuda_add_norm(mw_dev *d, void *x, const void *delta, void *dst, int64_t m, int64_t h, const float *w,
                           float eps, const int32_t *perm);
mw_status mw_cuda_gather_cols(mw_dev *d, void *dst, int64_t ld_dst, const void *src, int64_t ld_src, int64_t m,
                              int64_t n, const int32_t *idx);
mw_status mw_cuda_take_rows(mw_dev *d, void *dst, const void *src, int64_t n, int64_t h, const int32_t *row);
mw_status mw_cuda_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                            void *v_cache, void *out, int64_t ld_out);
/* The two parts of it that prefill has, one after the other: q (written back), k and v of the step's rows; attention
 * over what is cached. A decode step (max_rows 1) does both in one kernel, with the same results. */
mw_status mw_cuda_rope_kv(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                          void *v_cache);
mw_status mw_cuda_attend(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                         const void *k_cache, const void *v_cache, void *out, int64_t ld_out);
mw_status mw_cuda_silu_mul(mw_dev *d, void *dst, int64_t ld_dst, const void *x, int64_t ld, int64_t m, int64_t n,
                           int64_t up_off);
mw_status mw_cuda_count_nonfinite(mw_dev *d, const void *x, int64_t ld, int64_t m, int64_t n, bool f32, int64_t *count);

/* One attention kernel's view of a batch (attention.cuh). decode: every sequence whose rows * group is at most
 * MW_DECODE_COLS, and every single row; prefill: the others. Both leave the other's sequences alone. With r, decode
 * does the work of mw_cuda_rope_rows as well; every sequence has one row at most. */
typedef struct mw_attn_args mw_attn_args;
typedef struct mw_rope_args mw_rope_args;
mw_status mw_cuda_rope_rows(mw_dev *d, const mw_attn_args *p, const mw_rope_args *r, int rows);
mw_status mw_cuda_attn_decode(mw_dev *d, const mw_attn_args *p, const mw_rope_args *r, int max_rows, int max_ctx,
                              int n_seqs);
mw_status mw_cuda_attn_prefill(mw_dev *d, const mw_attn_args *p, int max_rows, int n_seqs);
/* Prefill for sm_90a; *taken says whether this chip, build and shape have it. */
mw_status mw_cuda_attn_hopper(mw_dev *d, const mw_attn_args *p, int max_rows, int n_seqs, bool *taken);

/* token[i] = index of the largest of logits[i, 0 .. vocab), the lowest one of equals; -1 when it is not finite or the
 * row holds a NaN. The value goes to best[i] unless best is NULL (NaN for a NaN). logits: f32 device memory, row stride
 * ld. */
mw_status mw_cuda_argmax(mw_dev *d, int32_t *token, float *best, const float *logits, int64_t ld, int64_t rows,
                         int64_t vocab);

mw_status mw_cuda_best_of(mw_dev *d, int32_t *chosen, const int32_t *parts, int n, int64_t stride, const int32_t *first,
                          int64_t rows);
mw_status mw_cuda_draw(mw_dev *d, int32_t *token, const mw_draw *how, const float *logits, int64_t ld, int64_t rows,
                       int64_t vocab);

/* ---- dense matrices (dense.c, dense_edges.cu, blas.c) ----------------------------------------------------------- */

/* Whether cuBLASLt is asked: rows of x, w and y (elements of `in`, `in`, `out`) all begin at multiples of 16 bytes. */
bool mw_blas_takes(mw_dtype in, mw_dtype out, int64_t k, const void *x, int64_t ldx, const void *w, const void *y,
                   int64_t ldy);
/* Any shape, one warp an element: for what cuBLASLt is not asked. x: act. */
mw_status mw_cuda_dense_plain(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y,
                              int64_t ldy, bool y_f32);

/* One row of x, of the weights' type; k at most 16384, a multiple of 8. */
bool mw_cuda_dense_row_takes(const mw_dev *d, const mw_linear *w, const void *x);
mw_status mw_cuda_dense_row(mw_dev *d, const mw_linear *w, const void *x, void *y, bool y_f32);

/* MW_ERR_UNAVAIL where libcublasLt of this build's major version is not found. */
mw_status mw_blas_open(mw_blas **out);
void mw_blas_close(mw_blas *b);
/* y[m,n] = x[m,k] * w[n,k]^T, f32 sums. x and w have dtype `in`, y `out` (f32, or the same 16-bit type). The algorithm
 * of a shape is looked up once; a repeated shape may be captured. */
mw_status mw_blas_gemm(mw_dev *d, mw_dtype in, mw_dtype out, int64_t m, int64_t n, int64_t k, const void *x,
                       int64_t ldx, const void *w, void *y, int64_t ldy, void *scratch, size_t scratch_bytes);

/* Activations for weights of another type: see dense.c. dst: [m][k], or [2m][k] with a second part per row. */
mw_status mw_cuda_dense_split(mw_dev *d, mw_dtype weights, void *dst, float *row_scale, const void *x, int64_t ldx,
                              int64_t m, int64_t k);
/* y = (t[i] + t[m + i]) * row_scale[i] + bias; rows m + i of t where `two`, row_scale and bias where not NULL.
 * y and t may be the same f32 memory. */
mw_status mw_cuda_dense_finish(mw_dev *d, void *y, int64_t ldy, bool y_f32, const float *t, int64_t ldt, bool two,
                               const float *row_scale, const float *bias, int64_t m, int64_t n);

/* ---- lanes (lane.c) --------------------------------------------------------------------------------------------- */

mw_status mw_cuda_lane_open(mw_dev *d, mw_lane **out, int slots, size_t bytes);
mw_status mw_cuda_lane_close(mw_lane *l);
mw_status mw_cuda_lane_wait(mw_lane *l, int slot, void **host);
mw_status mw_cuda_lane_copy(mw_lane *l, int slot, void *dst, size_t pitch, size_t width, size_t rows);
mw_status mw_cuda_lane_tile(mw_lane *l, int slot, uint32_t *tiles, size_t tile_words, int64_t k, int64_t n);
mw_status mw_cuda_lane_permute(mw_lane *l, int slot, void *dst, size_t ld, int64_t rows, int64_t n, size_t elem);

/* ---- graphs and pinned memory (graph.c) ------------------------------------------------------------------------- */

/* Everything enqueued on the device's stream between begin and end becomes one graph; nothing runs meanwhile. Calls
 * that wait or copy through staging (to_device, to_host, sync, alloc, count_nonfinite) must not stand between them.
 * A failure in between: mw_cuda_capture_abort. */
mw_status mw_cuda_capture_begin(mw_dev *d);
mw_status mw_cuda_capture_end(mw_dev *d, mw_graph **out);
void mw_cuda_capture_abort(mw_dev *d);
mw_status mw_cuda_graph_launch(mw_dev *d, mw_graph *g);
void mw_cuda_graph_free(mw_graph *g); /* NULL allowed; the graph must not be running */

mw_status mw_cuda_host_alloc(mw_dev *d, void **out, size_t bytes, const char *what); /* pinned */
void mw_cuda_host_free(mw_dev *d, void *p);

MW_END_DECLS
#endif
