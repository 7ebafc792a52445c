/* shard/st_write.h - the layout of safetensors files that are about to be written.
 *
 * Tensors are added in the order they will be written; they are spread over files of at most so many bytes. The bytes
 * themselves are the caller's affair: each tensor has a file and an offset, and every byte must be written.
 */
#ifndef MW_SHARD_ST_WRITE_H
#define MW_SHARD_ST_WRITE_H
#include "shard/safetensors.h"
#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_ST_FILE_BYTES (4ull << 30) /* usual size of a file */

/* {0} is empty and valid. */
typedef struct mw_st_plan {
    mw_st_tensor *tensor; /* offset, file: set by mw_st_plan_place */
    size_t n, cap;
    int n_files;
} mw_st_plan;

/* Add `name` with a shape of rows x cols (rows 0: one dimension). MW_ERR_FORMAT: the size overflows. */
MW_MUST_CHECK mw_status mw_st_plan_add(mw_st_plan *p, const char *name, mw_st_dtype dtype, int64_t rows, int64_t cols);
/* Decide files and offsets. MW_ERR_LIMIT: more files than a reader opens. */
MW_MUST_CHECK mw_status mw_st_plan_place(mw_st_plan *p, uint64_t file_bytes);
void mw_st_plan_free(mw_st_plan *p); /* back to {0} */

/* "model.safetensors", or "model-00002-of-00005.safetensors". */
void mw_st_plan_file_name(const mw_st_plan *p, int file, char out[64]);
/* The first bytes of a file, length field included; the data follows at once. */
MW_MUST_CHECK mw_status mw_st_plan_header(const mw_st_plan *p, int file, mw_str *out);
/* Text of model.safetensors.index.json. */
MW_MUST_CHECK mw_status mw_st_plan_index(const mw_st_plan *p, mw_str *out);

mw_st_dtype mw_st_of_dtype(mw_dtype t); /* f16, bf16, f32, i32 */

MW_END_DECLS
#endif
