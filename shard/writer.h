/* shard/writer.h - writes a model.h5: whole or not at all, with a bounded amount of memory.
 *
 * Order: create, text()s, then per linear layer group(), then begin/rows/end per dataset, then commit. Datasets are
 * contiguous, unfiltered and aligned; HDF5 lays them out, the bytes go to their offsets with pwrite. A checksum per
 * block (XXH3-64 of the block's row segments, top to bottom) goes to /checksums/<same path>.
 */
#ifndef MW_SHARD_WRITER_H
#define MW_SHARD_WRITER_H
#include <stdbool.h>

#include "shard/format.h"
#include "shard/model_config.h"
MW_BEGIN_DECLS

typedef struct mw_writer mw_writer;

/* For the main() of a tool that writes, before anything else: HDF5 must not clean up at exit. After a failed close
 * (disk full) its exit handler would touch the half-closed file again, and crash. */
void mw_writer_init_process(void);

/* What goes into the root attributes beside the schema's own. Strings are borrowed for the call. */
typedef struct mw_provenance {
    const char *creator;       /* "marlin-convert 0.1.0 (1a2b3c4d)" */
    const char *source_format; /* "gptq", "awq", "compressed-tensors", "marlin", "f16 quantised by rtn" ... */
    const char *source_name;   /* last component of the folder */
    const char *chat;          /* "template" when chat works, else "none" or "refused: <reason>" */
    const char *packed_from;   /* uuid of the file this was packed from, or NULL */
    int rank, n_ranks;         /* a rank file of marlin-pack --ranks; n_ranks 0: the whole model */
} mw_provenance;

/* MW_ERR_EXISTS when `path` exists and !force. A random uuid is given to the file. */
MW_MUST_CHECK mw_status mw_writer_create(mw_writer **out, const char *path, bool force, const mw_model_config *cfg,
                                         mw_layout layout, const mw_provenance *prov);

/* A text dataset /text/<name> with an attribute "xxh3". */
MW_MUST_CHECK mw_status mw_writer_text(mw_writer *w, const char *name, const void *bytes, size_t n);

/* The group /weights/<name> of a linear layer, with attributes kind ("int4" or "dense"), K, N, group_size (-1 per
 * channel, 0 for dense). */
MW_MUST_CHECK mw_status mw_writer_linear(mw_writer *w, const char *name, bool int4, int64_t k, int64_t n,
                                         int64_t group_size);

/* A dataset to be written. rows == 1 and one_d: a 1-D dataset of cols elements. In a rank file the stored part starts
 * at (origin_row, origin_col) of a dataset of full_rows x full_cols; 0 and the same extents otherwise.
 * block_rows, block_cols: extent of a checksum block in elements; mw_block_shape gives the usual ones. */
typedef struct mw_dataset_spec {
    const char *name; /* below /weights, for example "layers/000/mlp/up_proj/qweight" */
    mw_dtype dtype;
    bool one_d;
    int64_t rows, cols;
    int64_t block_rows, block_cols;
    int64_t origin_row, origin_col, full_rows, full_cols; /* full_* 0: the same as rows, cols */
} mw_dataset_spec;

MW_MUST_CHECK mw_status mw_writer_begin(mw_writer *w, const mw_dataset_spec *s);
/* The next n rows, contiguous. n must be a multiple of block_rows unless they are the last. */
MW_MUST_CHECK mw_status mw_writer_rows(mw_writer *w, const void *rows, int64_t n);
MW_MUST_CHECK mw_status mw_writer_end(mw_writer *w);
/* begin + rows + end for data that is in memory. */
MW_MUST_CHECK mw_status mw_writer_dataset(mw_writer *w, const mw_dataset_spec *s, const void *data);

/* Flush, close, rename over the target. The writer is gone afterwards, whatever comes back. */
MW_MUST_CHECK mw_status mw_writer_commit(mw_writer *w);
void mw_writer_abort(mw_writer *w); /* NULL allowed; nothing stays behind */

/* Bytes of data written so far. */
uint64_t mw_writer_bytes(const mw_writer *w);

MW_END_DECLS
#endif
