/* shard/h5util.h - private to shard/: HDF5 attributes and types with our error idiom. */
#ifndef MW_SHARD_H5UTIL_H
#define MW_SHARD_H5UTIL_H
#include <hdf5.h>
#include <stdbool.h>

#include "worker/base/dtype.h"
#include "worker/base/mem.h"
MW_BEGIN_DECLS

/* Once per process: HDF5 prints nothing by itself, and does not lock files that it only reads (cluster file systems
 * often cannot lock; HDF5_USE_FILE_LOCKING set by the user wins). */
void mw_h5_init(void);

/* MW_FAIL with HDF5's own innermost message appended. */
mw_status mw_h5_fail(mw_status code, const char *fmt, ...) MW_PRINTF(2, 3);

/* File type of a dtype (little-endian). f16 and bf16 are built, since HDF5 1.10 has no constants for them. Close it. */
hid_t mw_h5_type(mw_dtype t);
/* Inverse; false when the type is none of ours. */
bool mw_h5_dtype(hid_t type, mw_dtype *out);

MW_MUST_CHECK mw_status mw_h5_set_str(hid_t obj, const char *name, const char *value);
MW_MUST_CHECK mw_status mw_h5_set_i64(hid_t obj, const char *name, int64_t value);
MW_MUST_CHECK mw_status mw_h5_set_u64(hid_t obj, const char *name, uint64_t value);
MW_MUST_CHECK mw_status mw_h5_set_f64(hid_t obj, const char *name, double value);
MW_MUST_CHECK mw_status mw_h5_set_i64s(hid_t obj, const char *name, const int64_t *value, size_t n);

bool mw_h5_has_attr(hid_t obj, const char *name);
/* MW_ERR_FORMAT names `where` and the attribute when it is missing or of another type. */
MW_MUST_CHECK mw_status mw_h5_get_str(hid_t obj, const char *where, const char *name, char *out, size_t cap);
MW_MUST_CHECK mw_status mw_h5_get_i64(hid_t obj, const char *where, const char *name, int64_t *out);
MW_MUST_CHECK mw_status mw_h5_get_u64(hid_t obj, const char *where, const char *name, uint64_t *out);
MW_MUST_CHECK mw_status mw_h5_get_f64(hid_t obj, const char *where, const char *name, double *out);
/* At most cap values; *n found. */
MW_MUST_CHECK mw_status mw_h5_get_i64s(hid_t obj, const char *where, const char *name, int64_t *out, size_t cap,
                                       size_t *n);

MW_END_DECLS
#endif
