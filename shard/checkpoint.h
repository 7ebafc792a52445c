/* shard/checkpoint.h - reads a model.h5.
 *
 * HDF5 is used once, to walk the file: the result is a directory of datasets (name, dtype, shape, offset). All data is
 * then read with pread at those offsets, from any number of threads. The directory can be packed into a blob and sent
 * to other ranks, which open the file without touching its metadata (mw_ckpt_attach).
 *
 * Opening checks, before anything is allocated for weights: schema version, layout, that every tensor the config asks
 * for is there with the right dtype and shape, that nothing unknown is there, and that every byte lies inside the file.
 * Every refusal names file, tensor, expected and found.
 */
#ifndef MW_SHARD_CHECKPOINT_H
#define MW_SHARD_CHECKPOINT_H
#include <stdbool.h>

#include "shard/format.h"
#include "shard/model_config.h"
#include "worker/base/mem.h"
MW_BEGIN_DECLS

typedef struct mw_dataset {
    char name[MW_NAME_MAX]; /* below /weights: "layers/000/self_attn/q_proj/qweight" */
    mw_dtype dtype;
    int64_t rows, cols;             /* elements stored; a 1-D dataset has rows == 1 */
    int64_t origin_row, origin_col; /* where the stored part begins (rank files), else 0 */
    int64_t full_rows, full_cols;   /* extents of the whole tensor */
    uint64_t offset;                /* of element (0,0), bytes from the start of the file */
    int64_t block_rows, block_cols; /* checksum block, elements */
    uint64_t sums_offset;           /* u64 [ceil(rows/block_rows)][ceil(cols/block_cols)] */
} mw_dataset;

/* One linear layer (or embedding, or norm: kind VECTOR) as the file has it. Dataset indices are -1 where absent. */
typedef enum { MW_INT4, MW_DENSE16, MW_VECTOR } mw_weight_kind;
typedef struct mw_weight {
    char name[MW_NAME_MAX]; /* "layers/000/self_attn/q_proj" */
    mw_weight_kind kind;
    int64_t k, n;       /* inputs and outputs of the layer; VECTOR: n elements, k = 1 */
    int64_t group_size; /* int4: rows of k that share a scale (k itself for per-channel) */
    int qweight, scales, zeros, perm, bias, weight;
} mw_weight;

typedef struct mw_ckpt mw_ckpt;

/* The HDF5 library: "1.10.8", and the running one's version where that differs. Static. */
const char *mw_ckpt_library(void);

/* Walk and check `path`. */
MW_MUST_CHECK mw_status mw_ckpt_open(mw_ckpt **out, const char *path);
void mw_ckpt_close(mw_ckpt *c); /* NULL allowed */

/* The directory as bytes (appended to *blob), and a checkpoint from such bytes: opens `path` for reading only, and
 * verifies that it is the same file (size and uuid). */
MW_MUST_CHECK mw_status mw_ckpt_pack_directory(const mw_ckpt *c, mw_str *blob);
MW_MUST_CHECK mw_status mw_ckpt_attach(mw_ckpt **out, const char *path, const void *blob, size_t n);

const char *mw_ckpt_path(const mw_ckpt *c);
const char *mw_ckpt_uuid(const mw_ckpt *c);
const mw_model_config *mw_ckpt_config(const mw_ckpt *c);
mw_layout mw_ckpt_layout(const mw_ckpt *c);
/* Root attributes for people: "creator", "source_format", "source_name", "chat", "created"; "" when absent. */
const char *mw_ckpt_attr(const mw_ckpt *c, const char *name);
/* A file of marlin-pack --ranks: *rank of *n_ranks and true. */
bool mw_ckpt_is_rank_file(const mw_ckpt *c, int *rank, int *n_ranks);

int mw_ckpt_n_weights(const mw_ckpt *c);
const mw_weight *mw_ckpt_weight(const mw_ckpt *c, int i);
const mw_weight *mw_ckpt_find(const mw_ckpt *c, const char *name); /* NULL when absent */
const mw_dataset *mw_ckpt_dataset(const mw_ckpt *c, int index);
int mw_ckpt_n_datasets(const mw_ckpt *c);

/* The text /text/<name> appended to *out, checksum verified. MW_ERR_NOINPUT when the file has none of that name. */
MW_MUST_CHECK mw_status mw_ckpt_text(const mw_ckpt *c, const char *name, mw_str *out);
bool mw_ckpt_has_text(const mw_ckpt *c, const char *name);

/* Rows r0..r0+nr-1, columns c0..c0+nc-1 of the WHOLE tensor (elements) into dst, rows dst_ld bytes apart. Thread-safe.
 * verify: every checksum block that the slab touches is checked (those at its edge are read whole for that).
 * MW_ERR_FORMAT: outside the stored part; MW_ERR_CORRUPT: names the tensor and the block; MW_ERR_IO. */
MW_MUST_CHECK mw_status mw_ckpt_read(const mw_ckpt *c, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0,
                                     int64_t nc, void *dst, size_t dst_ld, bool verify);
/* The same, and what it took is added to *times (NULL allowed). */
typedef struct mw_read_times {
    int64_t read_ns, verify_ns;
} mw_read_times;
MW_MUST_CHECK mw_status mw_ckpt_read_timed(const mw_ckpt *c, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0,
                                           int64_t nc, void *dst, size_t dst_ld, bool verify, mw_read_times *times);

/* Check all checksums of the file with `threads` threads; *bytes read. The first bad block is reported by name. */
MW_MUST_CHECK mw_status mw_ckpt_verify(const mw_ckpt *c, int threads, uint64_t *bytes);

MW_END_DECLS
#endif
