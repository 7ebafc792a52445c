/* shard/safetensors.h - the header of one safetensors file.
 *
 * A file is: u64 little-endian header length n, n bytes of JSON, data. The JSON maps each tensor name to dtype, shape
 * and data_offsets [begin, end) counted from the first data byte. Nothing in it is trusted: the header is refused
 * unless the tensors tile the data section exactly (no hole, no overlap, nothing behind the last one), every size
 * follows from dtype and shape without overflow, and no name occurs twice.
 */
#ifndef MW_SHARD_SAFETENSORS_H
#define MW_SHARD_SAFETENSORS_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/dtype.h"
MW_BEGIN_DECLS

#define MW_ST_MAX_HEADER 100000000u /* bytes: the limit of the format itself */
#define MW_ST_MAX_DIMS   8
#define MW_ST_MAX_NAME   512 /* bytes of a tensor name, without the final zero */

/* In the order of the table in safetensors.c. */
typedef enum {
    MW_ST_BOOL,
    MW_ST_U8,
    MW_ST_I8,
    MW_ST_F8_E5M2,
    MW_ST_F8_E4M3,
    MW_ST_F8_E8M0,
    MW_ST_F8_E5M2FNUZ,
    MW_ST_F8_E4M3FNUZ,
    MW_ST_I16,
    MW_ST_U16,
    MW_ST_F16,
    MW_ST_BF16,
    MW_ST_I32,
    MW_ST_U32,
    MW_ST_F32,
    MW_ST_F64,
    MW_ST_I64,
    MW_ST_U64,
    MW_ST_C64,
    MW_ST_F4,
    MW_ST_F6_E2M3,
    MW_ST_F6_E3M2,
    MW_ST_DTYPES
} mw_st_dtype;

const char *mw_st_dtype_name(mw_st_dtype t);

typedef struct mw_st_tensor {
    char *name;
    mw_st_dtype dtype;
    int n_dims;
    int64_t dim[MW_ST_MAX_DIMS];
    uint64_t offset; /* of the first byte, from the start of the file */
    uint64_t bytes;
    int file; /* set by whoever keeps several files */
} mw_st_tensor;

/* Tensors in the order of their data. {0} is empty and valid. */
typedef struct mw_st_header {
    mw_st_tensor *tensor;
    size_t n;
    uint64_t header_bytes; /* n of the file: the data begins at 8 + n */
    uint64_t file_bytes;
    uint64_t hash; /* XXH3-64 of the n header bytes */
} mw_st_header;

/* Parse the JSON of a header. `label` names the file in errors. data_bytes: length of the data section, which begins at
 * byte data_start of the file. MW_ERR_FORMAT names tensor, expected and found. */
MW_MUST_CHECK mw_status mw_st_parse(mw_st_header *out, const char *label, const char *json, size_t n,
                                    uint64_t data_start, uint64_t data_bytes);

/* Read and parse the header of an open file. MW_ERR_FORMAT, MW_ERR_LIMIT (header too long), MW_ERR_IO. */
MW_MUST_CHECK mw_status mw_st_read_header(mw_st_header *out, int fd, const char *label);

void mw_st_header_free(mw_st_header *h); /* back to {0} */

/* "F16 [4096, 128]" into a caller's buffer; returns it. */
const char *mw_st_describe(const mw_st_tensor *t, char *buf, size_t cap);

MW_END_DECLS
#endif
