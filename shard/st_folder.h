/* shard/st_folder.h - the safetensors files of a Hugging Face folder as one set of named tensors.
 *
 * Either one file (model.safetensors, or the only *.safetensors there), or the files of model.safetensors.index.json.
 * With an index, files and index must name exactly the same tensors, and no tensor may be in two files.
 */
#ifndef MW_SHARD_ST_FOLDER_H
#define MW_SHARD_ST_FOLDER_H
#include "shard/safetensors.h"
#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_ST_MAX_FILES 800 /* each holds a descriptor, and 1024 is the usual limit */

typedef struct mw_st_folder mw_st_folder;

/* MW_ERR_NOINPUT: not a folder, or no safetensors in it; MW_ERR_FORMAT and others as in safetensors.h. */
MW_MUST_CHECK mw_status mw_st_folder_open(mw_st_folder **out, const char *dir);
void mw_st_folder_close(mw_st_folder *f); /* NULL allowed */

/* NULL when absent. */
const mw_st_tensor *mw_st_find(const mw_st_folder *f, const char *name);
size_t mw_st_n_tensors(const mw_st_folder *f);
/* Sorted by name. */
const mw_st_tensor *mw_st_tensor_at(const mw_st_folder *f, size_t i);

/* n bytes of the tensor's data from byte `from` on. Thread-safe. */
MW_MUST_CHECK mw_status mw_st_read(const mw_st_folder *f, const mw_st_tensor *t, uint64_t from, size_t n, void *dst);
/* Ask the kernel to begin reading the tensor: a hint. */
void mw_st_prefetch(const mw_st_folder *f, const mw_st_tensor *t);

/* Name of the file that holds the tensor. */
const char *mw_st_file_of(const mw_st_folder *f, const mw_st_tensor *t);
/* [{"name", "bytes", "header_xxh3"}] of all files, appended to *out as JSON text. */
MW_MUST_CHECK mw_status mw_st_describe_files(const mw_st_folder *f, mw_str *out);

MW_END_DECLS
#endif
