#include "shard/h5util.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/checkpoint.h"
#include "worker/base/env.h"

static void init_once(void) {
    mw_env_default_for_library("HDF5_USE_FILE_LOCKING", "FALSE");
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void mw_h5_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_once);
}

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *data) {
    (void)n;
    const char **text = data;
    *text = e->desc; /* the walk goes upward: the first call is the innermost cause */
    return 1;
}

mw_status mw_h5_fail(mw_status code, const char *fmt, ...) {
    char body[MW_ERROR_TEXT_MAX / 2];
    const char *cause = NULL;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(body, sizeof body, fmt, ap);
    va_end(ap);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, (void *)&cause);
    mw_status st = cause && *cause ? MW_FAIL(code, "%s (HDF5: %s)", body, cause) : MW_FAIL(code, "%s", body);
    H5Eclear2(H5E_DEFAULT);
    return st;
}

/* A small float from the 32-bit one. Fields first: they must lie inside the size at every moment. */
static hid_t small_float(size_t exp_bits, size_t man_bits, size_t bias) {
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(t, 15, man_bits, exp_bits, 0, man_bits);
    H5Tset_size(t, 2);
    H5Tset_ebias(t, bias);
    return t;
}

hid_t mw_h5_type(mw_dtype t) {
    switch (t) {
    case MW_F16: return small_float(5, 10, 15);
    case MW_BF16: return small_float(8, 7, 127);
    case MW_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case MW_I32: return H5Tcopy(H5T_STD_I32LE);
    case MW_U32: return H5Tcopy(H5T_STD_U32LE);
    case MW_U8: return H5Tcopy(H5T_STD_U8LE);
    case MW_U64: return H5Tcopy(H5T_STD_U64LE);
    case MW_DTYPE_COUNT: break;
    }
    return H5I_INVALID_HID;
}

bool mw_h5_dtype(hid_t type, mw_dtype *out) {
    for (int t = 0; t < MW_DTYPE_COUNT; t++) {
        hid_t ours = mw_h5_type((mw_dtype)t);
        bool same = H5Tequal(type, ours) > 0;
        H5Tclose(ours);
        if (same) {
            *out = (mw_dtype)t;
            return true;
        }
    }
    return false;
}

static mw_status set_attr(hid_t obj, const char *name, hid_t type, hid_t mem_type, hid_t space, const void *value) {
    mw_status st = MW_OK;
    hid_t a = H5Acreate2(obj, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (a < 0 || H5Awrite(a, mem_type, value) < 0) st = mw_h5_fail(MW_ERR_IO, "writing attribute '%s'", name);
    if (a >= 0) H5Aclose(a);
    return st;
}

static mw_status set_scalar(hid_t obj, const char *name, hid_t type, hid_t mem_type, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR);
    mw_status st = set_attr(obj, name, type, mem_type, space, value);
    H5Sclose(space);
    return st;
}

mw_status mw_h5_set_str(hid_t obj, const char *name, const char *value) {
    hid_t type = H5Tcopy(H5T_C_S1);
    size_t n = strlen(value);
    H5Tset_size(type, n ? n : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    mw_status st = set_scalar(obj, name, type, type, value);
    H5Tclose(type);
    return st;
}

mw_status mw_h5_set_i64(hid_t obj, const char *name, int64_t value) {
    return set_scalar(obj, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

mw_status mw_h5_set_u64(hid_t obj, const char *name, uint64_t value) {
    return set_scalar(obj, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

mw_status mw_h5_set_f64(hid_t obj, const char *name, double value) {
    return set_scalar(obj, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

mw_status mw_h5_set_i64s(hid_t obj, const char *name, const int64_t *value, size_t n) {
    hsize_t dim = n;
    hid_t space = n ? H5Screate_simple(1, &dim, NULL) : H5Screate(H5S_NULL);
    mw_status st = set_attr(obj, name, H5T_STD_I64LE, H5T_NATIVE_INT64, space, n ? (const void *)value : &dim);
    H5Sclose(space);
    return st;
}

bool mw_h5_has_attr(hid_t obj, const char *name) {
    return H5Aexists(obj, name) > 0;
}

/* Open an attribute of the wanted class; the caller closes. */
static mw_status open_attr(hid_t obj, const char *where, const char *name, H5T_class_t cls, hid_t *attr) {
    if (!mw_h5_has_attr(obj, name)) return MW_FAIL(MW_ERR_FORMAT, "%s: attribute '%s' is missing", where, name);
    hid_t a = H5Aopen(obj, name, H5P_DEFAULT);
    hid_t type = a >= 0 ? H5Aget_type(a) : H5I_INVALID_HID;
    bool ok = type >= 0 && H5Tget_class(type) == cls && !(cls == H5T_STRING && H5Tis_variable_str(type) > 0);
    if (type >= 0) H5Tclose(type);
    if (!ok) {
        if (a >= 0) H5Aclose(a);
        return mw_h5_fail(MW_ERR_FORMAT, "%s: attribute '%s' is not %s", where, name,
                          cls == H5T_STRING  ? "a fixed-length string"
                          : cls == H5T_FLOAT ? "a float"
                                             : "an integer");
    }
    *attr = a;
    return MW_OK;
}

/* One value of an open attribute that must hold exactly one; closes it. */
static mw_status read_scalar(hid_t a, const char *where, const char *name, hid_t mem_type, void *out) {
    mw_status st = MW_OK;
    hid_t space = H5Aget_space(a);
    if (H5Sget_simple_extent_npoints(space) != 1)
        st = MW_FAIL(MW_ERR_FORMAT, "%s: attribute '%s' is not a single value", where, name);
    else if (H5Aread(a, mem_type, out) < 0)
        st = mw_h5_fail(MW_ERR_FORMAT, "%s: attribute '%s' cannot be read", where, name);
    H5Sclose(space);
    H5Aclose(a);
    return st;
}

mw_status mw_h5_get_str(hid_t obj, const char *where, const char *name, char *out, size_t cap) {
    hid_t a = H5I_INVALID_HID;
    mw_status st = open_attr(obj, where, name, H5T_STRING, &a);
    if (st != MW_OK) return st;
    hid_t type = H5Aget_type(a);
    size_t n = H5Tget_size(type);
    char *text = calloc(1, n + 1);
    if (!text) {
        H5Aclose(a);
        st = MW_FAIL(MW_ERR_NOMEM, "%s: attribute '%s' of %zu bytes", where, name, n);
    } else {
        st = read_scalar(a, where, name, type, text);
        if (st == MW_OK) snprintf(out, cap, "%s", text);
    }
    free(text);
    H5Tclose(type);
    return st;
}

mw_status mw_h5_get_i64(hid_t obj, const char *where, const char *name, int64_t *out) {
    hid_t a = H5I_INVALID_HID;
    mw_status st = open_attr(obj, where, name, H5T_INTEGER, &a);
    return st != MW_OK ? st : read_scalar(a, where, name, H5T_NATIVE_INT64, out);
}

mw_status mw_h5_get_u64(hid_t obj, const char *where, const char *name, uint64_t *out) {
    hid_t a = H5I_INVALID_HID;
    mw_status st = open_attr(obj, where, name, H5T_INTEGER, &a);
    return st != MW_OK ? st : read_scalar(a, where, name, H5T_NATIVE_UINT64, out);
}

mw_status mw_h5_get_f64(hid_t obj, const char *where, const char *name, double *out) {
    hid_t a = H5I_INVALID_HID;
    mw_status st = open_attr(obj, where, name, H5T_FLOAT, &a);
    return st != MW_OK ? st : read_scalar(a, where, name, H5T_NATIVE_DOUBLE, out);
}

mw_status mw_h5_get_i64s(hid_t obj, const char *where, const char *name, int64_t *out, size_t cap, size_t *n) {
    hid_t a = H5I_INVALID_HID;
    mw_status st = open_attr(obj, where, name, H5T_INTEGER, &a);
    if (st != MW_OK) return st;
    hid_t space = H5Aget_space(a);
    hssize_t have = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    if (have < 0 || (size_t)have > cap)
        st = MW_FAIL(MW_ERR_FORMAT, "%s: attribute '%s' has %lld values, expected at most %zu", where, name,
                     (long long)have, cap);
    else if (have > 0 && H5Aread(a, H5T_NATIVE_INT64, out) < 0)
        st = mw_h5_fail(MW_ERR_FORMAT, "%s: attribute '%s' cannot be read", where, name);
    else
        *n = (size_t)have;
    H5Aclose(a);
    return st;
}

static char g_library[64];

static void library_once(void) {
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    int n = snprintf(g_library, sizeof g_library, "%d.%d.%d", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
    if (major != H5_VERS_MAJOR || minor != H5_VERS_MINOR || release != H5_VERS_RELEASE)
        snprintf(g_library + n, sizeof g_library - (size_t)n, " (running %u.%u.%u)", major, minor, release);
}

const char *mw_ckpt_library(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, library_once);
    return g_library;
}
