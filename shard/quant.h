/* shard/quant.h - one int4 matrix as model.h5 keeps it, and the readers that make it from a folder's tensors.
 *
 * w[k,n] = (q[k,n] - zero[g,n]) * scale[g,n], g = k / group, k counted in STORED rows.
 *
 * act-order. A quantiser with act-order gives each input row a group of its own choosing (g_idx). The rows are stored
 * sorted by group (a stable argsort of g_idx), so that groups are contiguous again; `perm` says which input a stored
 * row multiplies: y[n] = sum_p x[perm[p]] * w[p,n].
 *
 * down_proj never keeps a perm. Its input is silu(gate) * up, element by element; so its order is moved into the output
 * columns of gate_proj and up_proj (with their scales, zeros and biases), and down_proj finds its inputs already
 * sorted. The model computes the same function, with the MLP's inner channels renumbered.
 */
#ifndef MW_SHARD_QUANT_H
#define MW_SHARD_QUANT_H
#include "shard/chunks.h"
#include "shard/hf_model.h"
MW_BEGIN_DECLS

/* All pointers lie in one block of memory (mw_matrix_bytes), which its owner frees or reuses. */
typedef struct mw_matrix {
    int64_t k, n, group;  /* group == k for per-channel */
    uint8_t *q;           /* [k][n/2]: byte (k, c) = q[k,2c] | q[k,2c+1] << 4 */
    void *scales;         /* [k/group][n] */
    mw_dtype scale_dtype; /* f16, bf16 or f32 */
    uint8_t *zeros;       /* [k/group][n], 0..16; NULL: every zero is 8 */
    int32_t *perm;        /* [k]: the input of each stored row; NULL: in order */
    void *bias;           /* [n]; NULL: none */
    mw_dtype bias_dtype;
} mw_matrix;

/* Bytes of memory that a matrix of these extents may need, whatever it turns out to hold. */
size_t mw_matrix_bytes(int64_t k, int64_t n, int64_t group);

/* Place the arrays of `m` (k, n, group set) into `mem`, mw_matrix_bytes long; optional ones get a place too. */
void mw_matrix_place(mw_matrix *m, void *mem);

/* Read the int4 weight `w` into `mem` with the threads of `pool`. The gate and up projections of a model whose
 * down_proj is act-order get its order in their columns. MW_ERR_CORRUPT: NaN or infinite scale (names tensor and
 * position); MW_ERR_FORMAT: bad g_idx; MW_ERR_UNSUPPORTED: groups of different sizes. */
MW_MUST_CHECK mw_status mw_quant_read(mw_matrix *m, void *mem, const mw_hf_model *model, const mw_hf_weight *w,
                                      mw_pool *pool);

/* ---- for the readers (quant_*.c, rtn.c) ------------------------------------------------------------------------- */

/* One matrix on its way from the folder into memory. */
typedef struct mw_quant_job {
    const mw_st_folder *folder;
    const mw_hf_weight *w;
    int zero_offset;
    mw_matrix *m;
    int32_t *place;    /* [k]: stored row of each input row; NULL: the same */
    int64_t units;     /* the main tensor is read in units: rows of K/8, K/16, K or N ... */
    int64_t step;      /* units in a chunk */
    mw_chunk_fn chunk; /* arg: the job. Reads its units of the main tensor and puts their nibbles into m->q */
    size_t scratch;    /* bytes that chunk wants */
} mw_quant_job;

/* Per format: check and read the small tensors (scales, zeros into m; zeros to NULL when all are 8), set units, step,
 * chunk, scratch. */
MW_MUST_CHECK mw_status mw_quant_gptq(mw_quant_job *j);
MW_MUST_CHECK mw_status mw_quant_awq(mw_quant_job *j);
MW_MUST_CHECK mw_status mw_quant_ct(mw_quant_job *j);
MW_MUST_CHECK mw_status mw_quant_marlin(mw_quant_job *j);

/* The bias of `w`, n elements of mw_hf_dtype(w->bias), into dst. *have is false when there is none, or when it is zero
 * everywhere. MW_ERR_FORMAT when it is not, but the config gives the layer no bias. */
MW_MUST_CHECK mw_status mw_quant_bias(const mw_st_folder *f, const mw_hf_weight *w, void *dst, bool *have);

/* The whole tensor into dst. */
MW_MUST_CHECK mw_status mw_quant_whole(const mw_st_folder *f, const mw_st_tensor *t, void *dst);

/* Eight rows of nibbles from words whose nibble i belongs to row i: dst[i] gets n/2 bytes. */
void mw_nibble_rows(const uint32_t *words, int64_t n, uint8_t *const dst[8]);

/* Stored row of input row k. */
static inline uint8_t *mw_quant_row(const mw_quant_job *j, int64_t k) {
    return j->m->q + (size_t)(j->place ? j->place[k] : k) * (size_t)(j->m->n / 2);
}

/* MW_ERR_CORRUPT, naming tensor and position, when one of rows x cols floats is NaN or infinite. */
MW_MUST_CHECK mw_status mw_check_finite(const char *tensor, const void *p, mw_dtype t, int64_t row0, int64_t rows,
                                        int64_t cols);

MW_END_DECLS
#endif
