#include "shard/st_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shard/hf_json.h"
#include "worker/base/io.h"

#define SINGLE    "model.safetensors"
#define INDEX     "model.safetensors.index.json"
#define MAX_INDEX (64u << 20)

typedef struct {
    char *name, *path;
    int fd;
    mw_st_header header;
} st_file;

struct mw_st_folder {
    char *dir;
    st_file *file;
    size_t n_files;
    const mw_st_tensor **by_name;
    size_t n_tensors;
};

static mw_status join(char **out, const char *dir, const char *name) {
    mw_str s = {0};
    mw_status st = mw_str_addf(&s, "%s/%s", dir, name);
    if (st == MW_OK) *out = s.p;
    return st;
}

void mw_st_folder_close(mw_st_folder *f) {
    if (!f) return;
    for (size_t i = 0; i < f->n_files; i++) {
        if (f->file[i].fd >= 0) close(f->file[i].fd);
        mw_st_header_free(&f->file[i].header);
        free(f->file[i].name);
        free(f->file[i].path);
    }
    free(f->file);
    free(f->by_name);
    free(f->dir);
    free(f);
}

/* ---- which files ------------------------------------------------------------------------------------------------ */

static mw_status add_file(mw_st_folder *f, const char *name) {
    mw_status st = MW_OK;
    for (size_t i = 0; i < f->n_files; i++)
        if (strcmp(f->file[i].name, name) == 0) return MW_OK;
    if (f->n_files == MW_ST_MAX_FILES)
        return MW_FAIL(MW_ERR_LIMIT, "%s: more than %d safetensors files", f->dir, MW_ST_MAX_FILES);
    st_file *e = &f->file[f->n_files++];
    *e = (st_file){.fd = -1};
    e->name = strdup(name);
    if (!e->name) return MW_FAIL(MW_ERR_NOMEM, "file name");
    MW_TRY(st, join(&e->path, f->dir, name));
fail:
    return st;
}

/* A file of the index must lie in the folder itself. */
static mw_status check_file_name(const char *index, const char *tensor, const char *name) {
    size_t n = strlen(name);
    bool printable = n > 0 && n <= 255;
    for (size_t i = 0; i < n; i++) printable = printable && (unsigned char)name[i] >= 0x20 && name[i] != 0x7f;
    if (!printable)
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%.128s': the file name is empty, too long or has control characters",
                       index, tensor);
    if (name[0] == '.' || strchr(name, '/') || strchr(name, '\\'))
        return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%.128s': file name '%.128s' leads out of the folder", index, tensor,
                       name);
    return MW_OK;
}

static mw_status files_of_index(mw_st_folder *f, const char *path, json_t **root) {
    mw_status st = MW_OK;
    mw_str text = {0};
    mw_json map;
    const char *tensor;
    json_t *v;
    MW_TRY(st, mw_read_regular(path, MAX_INDEX, &text));
    MW_TRY(st, mw_json_load(root, path, text.p, text.n));
    MW_TRY(st, mw_json_obj((mw_json){*root, path}, "weight_map", &map));
    if (!map.obj) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: field 'weight_map' is missing", path);
        goto fail;
    }
    json_object_foreach((json_t *)map.obj, tensor, v) {
        const char *name = json_string_value(v);
        if (!name) {
            st = MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%.128s': the file name is not a string", path, tensor);
            goto fail;
        }
        MW_TRY(st, check_file_name(path, tensor, name));
        MW_TRY(st, add_file(f, name));
    }
fail:
    mw_str_free(&text);
    return st;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0;
}

/* Neither model.safetensors nor an index: the only *.safetensors of the folder, whatever its name. */
static mw_status only_file(mw_st_folder *f) {
    mw_status st = MW_OK;
    bool pickle = false;
    char *only = NULL;
    int found = 0;
    DIR *d = opendir(f->dir);
    if (!d) return MW_FAIL(MW_ERR_NOINPUT, "%s: %s", f->dir, strerror(errno));
    for (const struct dirent *e; (e = readdir(d));) {
        pickle = pickle || ends_with(e->d_name, ".bin") || ends_with(e->d_name, ".pt");
        if (!ends_with(e->d_name, ".safetensors") || found++) continue;
        only = strdup(e->d_name);
        if (!only) {
            st = MW_FAIL(MW_ERR_NOMEM, "file name");
            goto fail;
        }
    }
    if (found == 1)
        st = add_file(f, only);
    else if (found)
        st = MW_FAIL(MW_ERR_NOINPUT, "%s: %d safetensors files, but neither " SINGLE " nor " INDEX, f->dir, found);
    else
        st = MW_FAIL(MW_ERR_NOINPUT, "%s: no safetensors files%s", f->dir,
                     pickle ? "; pickled weights (.bin, .pt) are not read: save the model as safetensors first" : "");
fail:
    free(only);
    closedir(d);
    return st;
}

/* ---- the directory ---------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp((*(const mw_st_tensor *const *)a)->name, (*(const mw_st_tensor *const *)b)->name);
}

static mw_status open_files(mw_st_folder *f) {
    mw_status st = MW_OK;
    for (size_t i = 0; i < f->n_files; i++) {
        st_file *e = &f->file[i];
        MW_TRY(st, mw_open_regular(e->path, &e->fd));
        MW_TRY(st, mw_st_read_header(&e->header, e->fd, e->path));
        for (size_t j = 0; j < e->header.n; j++) e->header.tensor[j].file = (int)i;
        f->n_tensors += e->header.n;
    }
fail:
    return st;
}

static mw_status make_directory(mw_st_folder *f) {
    mw_status st = MW_OK;
    size_t at = 0;
    MW_TRY(st, mw_calloc((void **)&f->by_name, f->n_tensors, sizeof(const mw_st_tensor *), "tensor directory"));
    for (size_t i = 0; i < f->n_files; i++)
        for (size_t j = 0; j < f->file[i].header.n; j++) f->by_name[at++] = &f->file[i].header.tensor[j];
    qsort(f->by_name, f->n_tensors, sizeof(const mw_st_tensor *), by_name);
    for (size_t i = 1; i < f->n_tensors; i++)
        if (strcmp(f->by_name[i - 1]->name, f->by_name[i]->name) == 0)
            return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s' is in two files: %s and %s", f->dir, f->by_name[i]->name,
                           mw_st_file_of(f, f->by_name[i - 1]), mw_st_file_of(f, f->by_name[i]));
fail:
    return st;
}

/* Index and files must agree, both ways. */
static mw_status check_index(const mw_st_folder *f, const char *path, json_t *root) {
    json_t *map = json_object_get(root, "weight_map"), *v;
    const char *name;
    json_object_foreach(map, name, v) {
        const mw_st_tensor *t = mw_st_find(f, name);
        if (!t || strcmp(mw_st_file_of(f, t), json_string_value(v)) != 0)
            return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%.256s' is not in '%s'", path, name, json_string_value(v));
    }
    for (size_t i = 0; i < f->n_tensors; i++)
        if (!json_object_get(map, f->by_name[i]->name))
            return MW_FAIL(MW_ERR_FORMAT, "%s: tensor '%s' of file '%s' is not in the index", path, f->by_name[i]->name,
                           mw_st_file_of(f, f->by_name[i]));
    return MW_OK;
}

mw_status mw_st_folder_open(mw_st_folder **out, const char *dir) {
    mw_status st = MW_OK;
    mw_st_folder *f = NULL;
    char *single = NULL, *index = NULL;
    json_t *root = NULL;
    if (!mw_is_dir(dir)) return MW_FAIL(MW_ERR_NOINPUT, "%s: is not a folder", dir);
    MW_TRY(st, MW_CALLOC(&f, 1, "safetensors folder"));
    MW_TRY(st, MW_CALLOC(&f->file, MW_ST_MAX_FILES, "safetensors files"));
    f->dir = strdup(dir);
    if (!f->dir) {
        st = MW_FAIL(MW_ERR_NOMEM, "folder name");
        goto fail;
    }
    MW_TRY(st, join(&single, dir, SINGLE));
    MW_TRY(st, join(&index, dir, INDEX));
    if (mw_exists(single)) /* before the index, as Hugging Face's own loader does */
        MW_TRY(st, add_file(f, SINGLE));
    else if (mw_exists(index))
        MW_TRY(st, files_of_index(f, index, &root));
    else
        MW_TRY(st, only_file(f));
    MW_TRY(st, open_files(f));
    MW_TRY(st, make_directory(f));
    if (root) MW_TRY(st, check_index(f, index, root));
    *out = f;
    f = NULL;
fail:
    json_decref(root);
    free(single);
    free(index);
    mw_st_folder_close(f);
    return st;
}

const mw_st_tensor *mw_st_find(const mw_st_folder *f, const char *name) {
    size_t lo = 0, hi = f->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, f->by_name[mid]->name);
        if (c == 0) return f->by_name[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

size_t mw_st_n_tensors(const mw_st_folder *f) {
    return f->n_tensors;
}

const mw_st_tensor *mw_st_tensor_at(const mw_st_folder *f, size_t i) {
    return f->by_name[i];
}

const char *mw_st_file_of(const mw_st_folder *f, const mw_st_tensor *t) {
    return f->file[t->file].name;
}

mw_status mw_st_read(const mw_st_folder *f, const mw_st_tensor *t, uint64_t from, size_t n, void *dst) {
    if (from > t->bytes || n > t->bytes - from)
        return MW_FAIL(MW_ERR_INTERNAL, "tensor '%s': bytes %" PRIu64 " + %zu of %" PRIu64, t->name, from, n, t->bytes);
    return mw_pread(f->file[t->file].fd, f->file[t->file].path, dst, n, t->offset + from);
}

void mw_st_prefetch(const mw_st_folder *f, const mw_st_tensor *t) {
    posix_fadvise(f->file[t->file].fd, (off_t)t->offset, (off_t)t->bytes, POSIX_FADV_WILLNEED);
}

mw_status mw_st_describe_files(const mw_st_folder *f, mw_str *out) {
    mw_status st = MW_OK;
    char *text = NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < f->n_files; i++) {
        char hash[17];
        snprintf(hash, sizeof hash, "%016" PRIx64, f->file[i].header.hash);
        json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", f->file[i].name, "bytes",
                                              (json_int_t)f->file[i].header.file_bytes, "header_xxh3", hash));
    }
    text = json_dumps(list, JSON_INDENT(1));
    if (!text) {
        st = MW_FAIL(MW_ERR_NOMEM, "list of source files");
        goto fail;
    }
    MW_TRY(st, mw_str_adds(out, text));
fail:
    free(text);
    json_decref(list);
    return st;
}
