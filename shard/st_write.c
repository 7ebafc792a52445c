#include "shard/st_write.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "shard/st_folder.h"

mw_st_dtype mw_st_of_dtype(mw_dtype t) {
    return t == MW_F16 ? MW_ST_F16 : t == MW_BF16 ? MW_ST_BF16 : t == MW_F32 ? MW_ST_F32 : MW_ST_I32;
}

static uint64_t elem_bytes(mw_st_dtype t) {
    return t == MW_ST_F16 || t == MW_ST_BF16 ? 2 : 4;
}

void mw_st_plan_free(mw_st_plan *p) {
    for (size_t i = 0; i < p->n; i++) free(p->tensor[i].name);
    free(p->tensor);
    *p = (mw_st_plan){0};
}

mw_status mw_st_plan_add(mw_st_plan *p, const char *name, mw_st_dtype dtype, int64_t rows, int64_t cols) {
    mw_st_tensor t = {.dtype = dtype, .n_dims = rows ? 2 : 1};
    t.dim[0] = rows ? rows : cols;
    t.dim[1] = rows ? cols : 0;
    if (__builtin_mul_overflow(rows ? (uint64_t)rows : 1, (uint64_t)cols * elem_bytes(dtype), &t.bytes))
        return MW_FAIL(MW_ERR_FORMAT, "tensor '%s': %lld x %lld elements", name, (long long)rows, (long long)cols);
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 256;
        mw_st_tensor *more = realloc(p->tensor, cap * sizeof *more);
        if (!more) return MW_FAIL(MW_ERR_NOMEM, "list of %zu tensors", cap);
        p->tensor = more;
        p->cap = cap;
    }
    t.name = strdup(name);
    if (!t.name) return MW_FAIL(MW_ERR_NOMEM, "tensor name");
    p->tensor[p->n++] = t;
    return MW_OK;
}

void mw_st_plan_file_name(const mw_st_plan *p, int file, char out[64]) {
    if (p->n_files == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05d-of-%05d.safetensors", file + 1, p->n_files);
}

mw_status mw_st_plan_header(const mw_st_plan *p, int file, mw_str *out) {
    mw_status st = MW_OK;
    mw_str json = {0};
    uint64_t at = 0;
    MW_TRY(st, mw_str_adds(&json, "{\"__metadata__\":{\"format\":\"pt\"}"));
    for (size_t i = 0; i < p->n; i++) { /* names and dtypes hold nothing that JSON would escape */
        const mw_st_tensor *t = &p->tensor[i];
        if (t->file != file) continue;
        MW_TRY(st, mw_str_addf(&json, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRId64, t->name,
                               mw_st_dtype_name(t->dtype), t->dim[0]));
        if (t->n_dims == 2) MW_TRY(st, mw_str_addf(&json, ",%" PRId64, t->dim[1]));
        MW_TRY(st, mw_str_addf(&json, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + t->bytes));
        at += t->bytes;
    }
    MW_TRY(st, mw_str_adds(&json, "}"));
    while (json.n % 8) MW_TRY(st, mw_str_adds(&json, " "));
    uint8_t len[8];
    for (int i = 0; i < 8; i++) len[i] = (uint8_t)((uint64_t)json.n >> (8 * i));
    MW_TRY(st, mw_str_add(out, len, 8));
    MW_TRY(st, mw_str_add(out, json.p, json.n));
fail:
    mw_str_free(&json);
    return st;
}

mw_status mw_st_plan_place(mw_st_plan *p, uint64_t file_bytes) {
    mw_status st = MW_OK;
    mw_str header = {0};
    uint64_t in_file = 0;
    p->n_files = 1;
    for (size_t i = 0; i < p->n; i++) {
        if (in_file && in_file + p->tensor[i].bytes > file_bytes) {
            p->n_files++;
            in_file = 0;
        }
        p->tensor[i].file = p->n_files - 1;
        in_file += p->tensor[i].bytes;
    }
    if (p->n_files > MW_ST_MAX_FILES)
        return MW_FAIL(MW_ERR_LIMIT, "%d files of %llu bytes, at most %d", p->n_files, (unsigned long long)file_bytes,
                       MW_ST_MAX_FILES);
    for (int f = 0; f < p->n_files; f++) {
        header.n = 0;
        MW_TRY(st, mw_st_plan_header(p, f, &header));
        uint64_t at = header.n;
        for (size_t i = 0; i < p->n; i++) {
            if (p->tensor[i].file != f) continue;
            p->tensor[i].offset = at;
            at += p->tensor[i].bytes;
        }
    }
fail:
    mw_str_free(&header);
    return st;
}

mw_status mw_st_plan_index(const mw_st_plan *p, mw_str *out) {
    mw_status st = MW_OK;
    uint64_t total = 0;
    char name[64];
    for (size_t i = 0; i < p->n; i++) total += p->tensor[i].bytes;
    MW_TRY(st, mw_str_addf(out, "{\n  \"metadata\": {\"total_size\": %" PRIu64 "},\n  \"weight_map\": {", total));
    for (size_t i = 0; i < p->n; i++) {
        mw_st_plan_file_name(p, p->tensor[i].file, name);
        MW_TRY(st, mw_str_addf(out, "%s\n    \"%s\": \"%s\"", i ? "," : "", p->tensor[i].name, name));
    }
    MW_TRY(st, mw_str_adds(out, "\n  }\n}\n"));
fail:
    return st;
}
