#include "shard/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "shard/hf_json.h"
#include "worker/base/io.h"

static const struct {
    const char *name;
    int bits;
} k_dtypes[MW_ST_DTYPES] = {
    [MW_ST_BOOL] = {"BOOL", 8},
    [MW_ST_U8] = {"U8", 8},
    [MW_ST_I8] = {"I8", 8},
    [MW_ST_F8_E5M2] = {"F8_E5M2", 8},
    [MW_ST_F8_E4M3] = {"F8_E4M3", 8},
    [MW_ST_F8_E8M0] = {"F8_E8M0", 8},
    [MW_ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [MW_ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [MW_ST_I16] = {"I16", 16},
    [MW_ST_U16] = {"U16", 16},
    [MW_ST_F16] = {"F16", 16},
    [MW_ST_BF16] = {"BF16", 16},
    [MW_ST_I32] = {"I32", 32},
    [MW_ST_U32] = {"U32", 32},
    [MW_ST_F32] = {"F32", 32},
    [MW_ST_F64] = {"F64", 64},
    [MW_ST_I64] = {"I64", 64},
    [MW_ST_U64] = {"U64", 64},
    [MW_ST_C64] = {"C64", 64},
    [MW_ST_F4] = {"F4", 4},
    [MW_ST_F6_E2M3] = {"F6_E2M3", 6},
    [MW_ST_F6_E3M2] = {"F6_E3M2", 6},
};

const char *mw_st_dtype_name(mw_st_dtype t) {
    return (unsigned)t < MW_ST_DTYPES ? k_dtypes[t].name : "?";
}

const char *mw_st_describe(const mw_st_tensor *t, char *buf, size_t cap) {
    size_t at = (size_t)snprintf(buf, cap, "%s [", mw_st_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dims && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    if (at < cap) snprintf(buf + at, cap - at, "]");
    return buf;
}

void mw_st_header_free(mw_st_header *h) {
    for (size_t i = 0; i < h->n; i++) free(h->tensor[i].name);
    free(h->tensor);
    *h = (mw_st_header){0};
}

static mw_status parse_dtype(mw_st_tensor *t, const char *label, const json_t *v) {
    const char *s = json_string_value(v);
    if (!s) return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': dtype is missing or not a string", label, t->name);
    for (int i = 0; i < MW_ST_DTYPES; i++)
        if (strcmp(s, k_dtypes[i].name) == 0) {
            t->dtype = (mw_st_dtype)i;
            return MW_OK;
        }
    return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': unknown dtype '%.32s'", label, t->name, s);
}

/* Shape, and the bytes that it and the dtype ask for. */
static mw_status parse_shape(mw_st_tensor *t, const char *label, const json_t *v, uint64_t *need) {
    if (!json_is_array(v)) return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': shape is not an array", label, t->name);
    size_t n = json_array_size(v);
    if (n > MW_ST_MAX_DIMS)
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': %zu dimensions, at most %d", label, t->name, n, MW_ST_MAX_DIMS);
    uint64_t bits = (uint64_t)k_dtypes[t->dtype].bits;
    bool empty = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(v, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': shape[%zu] is not a whole number >= 0", label, t->name, i);
        t->dim[i] = json_integer_value(d);
        empty = empty || t->dim[i] == 0;
        if (!empty && __builtin_mul_overflow(bits, (uint64_t)t->dim[i], &bits))
            return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': the shape's size overflows", label, t->name);
    }
    t->n_dims = (int)n;
    if (!empty && bits % 8)
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': %llu bits are not whole bytes", label, t->name,
                       (unsigned long long)bits);
    *need = empty ? 0 : bits / 8;
    return MW_OK;
}

/* Offsets inside the data section; t->offset stays relative to it for now. */
static mw_status parse_offsets(mw_st_tensor *t, const char *label, const json_t *v, uint64_t need,
                               uint64_t data_bytes) {
    const json_t *b = json_array_get(v, 0), *e = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': data_offsets is not a pair of integers", label, t->name);
    long long begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin)
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': data_offsets [%lld, %lld] are negative or reversed", label,
                       t->name, begin, end);
    if ((uint64_t)end > data_bytes)
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s' ends at data byte %lld, but the file has only %llu: truncated?",
                       label, t->name, end, (unsigned long long)data_bytes);
    t->offset = (uint64_t)begin;
    t->bytes = (uint64_t)(end - begin);
    char what[160];
    if (t->bytes != need)
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': %s needs %llu bytes, data_offsets hold %llu", label, t->name,
                       mw_st_describe(t, what, sizeof what), (unsigned long long)need, (unsigned long long)t->bytes);
    return MW_OK;
}

static mw_status check_name(const char *label, const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n > MW_ST_MAX_NAME)
        return MW_FAIL(MW_ERR_FORMAT, "%s: a tensor name of %zu bytes, expected 1 to %d", label, n, MW_ST_MAX_NAME);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return MW_FAIL(MW_ERR_FORMAT, "%s: a tensor name holds control character 0x%02x", label,
                           (unsigned char)name[i]);
    return MW_OK;
}

static mw_status parse_tensor(mw_st_tensor *t, const char *label, const char *name, const json_t *v,
                              uint64_t data_bytes) {
    mw_status st = MW_OK;
    uint64_t need = 0;
    MW_TRY(st, check_name(label, name));
    t->name = strdup(name);
    if (!t->name) return MW_FAIL(MW_ERR_NOMEM, "%s: tensor name", label);
    if (!json_is_object(v)) return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s': entry is not an object", label, name);
    if (json_object_size(v) != 3)
        return MW_FAIL(MW_ERR_FORMAT,
                       "%s: tensor '%s': expected exactly dtype, shape and data_offsets, found %zu fields", label, name,
                       json_object_size(v));
    MW_TRY(st, parse_dtype(t, label, json_object_get(v, "dtype")));
    MW_TRY(st, parse_shape(t, label, json_object_get(v, "shape"), &need));
    MW_TRY(st, parse_offsets(t, label, json_object_get(v, "data_offsets"), need, data_bytes));
fail:
    return st;
}

static mw_status check_metadata(const char *label, json_t *v) {
    const char *key;
    json_t *text;
    if (!json_is_object(v)) return MW_FAIL(MW_ERR_FORMAT, "%s: __metadata__ is not an object", label);
    json_object_foreach(v, key, text) {
        if (!json_is_string(text))
            return MW_FAIL(MW_ERR_FORMAT, "%s: __metadata__['%.64s'] is not a string", label, key);
    }
    return MW_OK;
}

static int by_offset(const void *a, const void *b) {
    const mw_st_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones before the one that has bytes there */
    return strcmp(x->name, y->name);
}

/* No hole, no overlap, nothing left at the end; then offsets become absolute. */
static mw_status check_tiling(mw_st_header *h, const char *label, uint64_t data_start, uint64_t data_bytes) {
    uint64_t at = 0;
    qsort(h->tensor, h->n, sizeof *h->tensor, by_offset);
    for (size_t i = 0; i < h->n; i++) {
        mw_st_tensor *t = &h->tensor[i];
        if (t->offset != at)
            return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s' begins at data byte %llu, expected %llu: %s", label, t->name,
                           (unsigned long long)t->offset, (unsigned long long)at,
                           t->offset > at ? "a hole before it" : "it overlaps another tensor");
        at += t->bytes;
        t->offset += data_start;
    }
    if (at != data_bytes)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %llu bytes of data, but the tensors cover only %llu", label,
                       (unsigned long long)data_bytes, (unsigned long long)at);
    return MW_OK;
}

mw_status mw_st_parse(mw_st_header *out, const char *label, const char *json, size_t n, uint64_t data_start,
                      uint64_t data_bytes) {
    mw_status st = MW_OK;
    mw_st_header h = {.header_bytes = n, .file_bytes = data_start + data_bytes};
    json_t *root = NULL, *v;
    const char *name;
    if (n == 0 || json[0] != '{')
        return MW_FAIL(MW_ERR_FORMAT, "%s: not a safetensors file: the header does not begin with '{'", label);
    MW_TRY(st, mw_json_load(&root, label, json, n));
    MW_TRY(st, MW_CALLOC(&h.tensor, json_object_size(root), "tensor directory"));
    json_object_foreach(root, name, v) {
        if (strcmp(name, "__metadata__") == 0) {
            MW_TRY(st, check_metadata(label, v));
            continue;
        }
        h.n++; /* counted before it is parsed: the free below then sees a half-built one too */
        MW_TRY(st, parse_tensor(&h.tensor[h.n - 1], label, name, v, data_bytes));
    }
    MW_TRY(st, check_tiling(&h, label, data_start, data_bytes));
    h.hash = XXH3_64bits(json, n);
    *out = h;
    h = (mw_st_header){0};
fail:
    json_decref(root);
    mw_st_header_free(&h);
    return st;
}

mw_status mw_st_read_header(mw_st_header *out, int fd, const char *label) {
    mw_status st = MW_OK;
    struct stat sb;
    uint8_t len[8];
    uint64_t n = 0;
    mw_str json = {0};
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) return MW_FAIL(MW_ERR_NOINPUT, "%s: is not a file", label);
    uint64_t size = (uint64_t)sb.st_size;
    if (size < 10)
        return MW_FAIL(MW_ERR_FORMAT, "%s: not a safetensors file: %llu bytes", label, (unsigned long long)size);
    MW_TRY(st, mw_pread(fd, label, len, 8, 0));
    for (int i = 7; i >= 0; i--) n = n << 8 | len[i];
    if (n > size - 8) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: header length %llu, but the file has %llu bytes: truncated?", label,
                     (unsigned long long)n, (unsigned long long)size);
        goto fail;
    }
    if (n > MW_ST_MAX_HEADER) {
        st = MW_FAIL(MW_ERR_LIMIT, "%s: header of %llu bytes, at most %u", label, (unsigned long long)n,
                     MW_ST_MAX_HEADER);
        goto fail;
    }
    MW_TRY(st, mw_str_reserve(&json, (size_t)n));
    MW_TRY(st, mw_pread(fd, label, json.p, (size_t)n, 8));
    MW_TRY(st, mw_st_parse(out, label, json.p, (size_t)n, 8 + n, size - 8 - n));
fail:
    mw_str_free(&json);
    return st;
}
