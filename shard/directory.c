/* The walk over a model.h5: HDF5 metadata in, a flat directory of datasets out. The data itself is never read here. */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "shard/ckpt_internal.h"
#include "shard/h5util.h"
#include "shard/roles.h"

typedef struct {
    mw_ckpt *c;
    const char *path;
    hid_t file, checksums;
    int cap_datasets, cap_weights, cap_texts;
} scan;

/* One more element in a growing array. */
static mw_status room(void **list, int n, int *cap, size_t size) {
    if (n < *cap) return MW_OK;
    int next = *cap ? 2 * *cap : 256;
    void *p = realloc(*list, (size_t)next * size);
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "directory of %d entries", next);
    *list = p;
    *cap = next;
    return MW_OK;
}

/* [offset, offset + bytes) must lie inside the file: a truncated file is refused here, not by a short read later. */
static mw_status inside(const scan *s, const char *name, uint64_t offset, uint64_t bytes) {
    uint64_t size = s->c->h.file_size;
    if (offset <= size && bytes <= size - offset) return MW_OK;
    return MW_FAIL(MW_ERR_FORMAT, "%s: %s: bytes %llu to %llu, but the file ends at %llu (truncated?)", s->path, name,
                   (unsigned long long)offset, (unsigned long long)(offset + bytes), (unsigned long long)size);
}

/* No link on the way from `from` (a group called `where`) to `name` leads elsewhere in the file, or out of it. A
 * missing one is left to the one who opens it. */
static mw_status hard_links(const scan *s, hid_t from, const char *where, const char *name) {
    char part[MW_NAME_MAX];
    H5L_info_t info;
    size_t n = 0, all = strlen(name);
    do {
        n += n > 0; /* the slash */
        n += strcspn(name + n, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, name);
        if (H5Lget_info(from, part, &info, H5P_DEFAULT) < 0) break;
        if (info.type != H5L_TYPE_HARD)
            return MW_FAIL(MW_ERR_FORMAT, "%s: %s/%s: is a link to somewhere else", s->path, where, part);
    } while (n < all);
    return MW_OK;
}

/* Contiguous, unfiltered, in this file: its offset. */
static mw_status raw_offset(const scan *s, hid_t d, const char *name, uint64_t *offset) {
    hid_t dcpl = H5Dget_create_plist(d);
    bool plain = dcpl >= 0 && H5Pget_layout(dcpl) == H5D_CONTIGUOUS && H5Pget_external_count(dcpl) == 0 &&
                 H5Pget_nfilters(dcpl) == 0;
    if (dcpl >= 0) H5Pclose(dcpl);
    haddr_t at = plain ? H5Dget_offset(d) : HADDR_UNDEF;
    if (at == HADDR_UNDEF)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: is not a contiguous, unfiltered, written dataset", s->path, name);
    *offset = at;
    return MW_OK;
}

/* dtype and extents (1-D: rows 1) of an open dataset. */
static mw_status extents(const scan *s, hid_t d, const char *name, mw_dtype *dtype, int *ndim, int64_t dim[2]) {
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    hsize_t dims[2] = {0, 0};
    bool known = mw_h5_dtype(type, dtype);
    *ndim = H5Sget_simple_extent_ndims(space);
    if (*ndim == 1 || *ndim == 2) H5Sget_simple_extent_dims(space, dims, NULL);
    H5Tclose(type);
    H5Sclose(space);
    if (!known) return MW_FAIL(MW_ERR_FORMAT, "%s: %s: element type is none of this format", s->path, name);
    if (*ndim != 1 && *ndim != 2)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: %d dimensions, expected 1 or 2", s->path, name, *ndim);
    dim[0] = *ndim == 2 ? (int64_t)dims[0] : 1;
    dim[1] = (int64_t)dims[*ndim - 1];
    if (dim[0] < 1 || dim[1] < 1 || dim[0] > (int64_t)1 << 40 || dim[1] > (int64_t)1 << 40)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: extents %lld x %lld", s->path, name, (long long)dim[0],
                       (long long)dim[1]);
    return MW_OK;
}

static mw_status scan_sums(const scan *s, mw_dataset *d) {
    mw_status st = MW_OK;
    mw_dtype dtype = MW_U8;
    int ndim = 0;
    int64_t dim[2] = {0, 0}, want_r = (d->rows + d->block_rows - 1) / d->block_rows,
            want_c = (d->cols + d->block_cols - 1) / d->block_cols;
    char name[MW_NAME_MAX + 16];
    snprintf(name, sizeof name, "checksums/%s", d->name);
    hid_t h = H5I_INVALID_HID;
    MW_TRY(st, hard_links(s, s->checksums, "checksums", d->name));
    h = H5Dopen2(s->checksums, d->name, H5P_DEFAULT);
    if (h < 0) return mw_h5_fail(MW_ERR_FORMAT, "%s: %s is missing", s->path, name);
    MW_TRY(st, extents(s, h, name, &dtype, &ndim, dim));
    if (dtype != MW_U64 || ndim != 2 || dim[0] != want_r || dim[1] != want_c) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: %s: %s [%lld, %lld], expected u64 [%lld, %lld]", s->path, name,
                     mw_dtype_name(dtype), (long long)dim[0], (long long)dim[1], (long long)want_r, (long long)want_c);
        goto fail;
    }
    MW_TRY(st, raw_offset(s, h, name, &d->sums_offset));
    MW_TRY(st, inside(s, name, d->sums_offset, (uint64_t)(want_r * want_c) * 8));
fail:
    if (h >= 0) H5Dclose(h);
    return st;
}

static mw_status scan_windows(const scan *s, hid_t h, mw_dataset *d) {
    mw_status st = MW_OK;
    int64_t pair[2] = {0, 0};
    size_t n = 0;
    MW_TRY(st, mw_h5_get_i64s(h, d->name, "xxh3_block", pair, 2, &n));
    if (n != 2 || pair[0] < 1 || pair[1] < 1 || pair[0] > d->rows || pair[1] > d->cols)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: bad attribute xxh3_block", s->path, d->name);
    d->block_rows = pair[0];
    d->block_cols = pair[1];
    d->full_rows = d->rows;
    d->full_cols = d->cols;
    if (!mw_h5_has_attr(h, "origin")) return MW_OK;
    MW_TRY(st, mw_h5_get_i64s(h, d->name, "full_shape", pair, 2, &n));
    d->full_rows = pair[0];
    d->full_cols = pair[1];
    MW_TRY(st, mw_h5_get_i64s(h, d->name, "origin", pair, 2, &n));
    d->origin_row = pair[0];
    d->origin_col = pair[1];
    if (d->origin_row < 0 || d->origin_col < 0 || d->full_rows < d->rows || d->full_cols < d->cols ||
        d->origin_row > d->full_rows - d->rows || d->origin_col > d->full_cols - d->cols)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: stored part does not lie in the whole tensor", s->path, d->name);
fail:
    return st;
}

static mw_status scan_dataset(scan *s, hid_t h, const char *name) {
    mw_status st = MW_OK;
    mw_ckpt *c = s->c;
    mw_dataset d = {0};
    int ndim = 0;
    int64_t dim[2] = {0, 0};
    uint64_t bytes = 0;
    snprintf(d.name, sizeof d.name, "%s", name);
    MW_TRY(st, extents(s, h, name, &d.dtype, &ndim, dim));
    d.rows = dim[0];
    d.cols = dim[1];
    if (__builtin_mul_overflow((uint64_t)dim[0], (uint64_t)dim[1] * mw_dtype_size(d.dtype), &bytes))
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: extents overflow", s->path, name);
    MW_TRY(st, raw_offset(s, h, name, &d.offset));
    MW_TRY(st, inside(s, name, d.offset, bytes));
    MW_TRY(st, scan_windows(s, h, &d));
    MW_TRY(st, scan_sums(s, &d));
    MW_TRY(st, room((void **)&c->dataset, c->h.n_datasets, &s->cap_datasets, sizeof d));
    c->dataset[c->h.n_datasets++] = d;
fail:
    return st;
}

/* A group that holds datasets is a weight: name, kind and the indices of its parts. */
static mw_status scan_weight(scan *s, hid_t group, const char *name, int first) {
    mw_status st = MW_OK;
    mw_ckpt *c = s->c;
    mw_weight w = {.qweight = -1, .scales = -1, .zeros = -1, .perm = -1, .bias = -1, .weight = -1};
    int *part[MW_PARTS] = {&w.qweight, &w.scales, &w.zeros, &w.perm, &w.bias, &w.weight};
    snprintf(w.name, sizeof w.name, "%s", name);
    for (int i = first; i < c->h.n_datasets; i++) {
        const char *tail = strrchr(c->dataset[i].name, '/') + 1;
        int p = 0;
        while (p < MW_PARTS && strcmp(tail, mw_part_name((mw_part)p)) != 0) p++;
        if (p == MW_PARTS) return MW_FAIL(MW_ERR_FORMAT, "%s: %s: unknown dataset", s->path, c->dataset[i].name);
        *part[p] = i;
    }
    if (mw_h5_has_attr(group, "kind")) {
        char kind[16];
        MW_TRY(st, mw_h5_get_str(group, name, "kind", kind, sizeof kind));
        MW_TRY(st, mw_h5_get_i64(group, name, "K", &w.k));
        MW_TRY(st, mw_h5_get_i64(group, name, "N", &w.n));
        MW_TRY(st, mw_h5_get_i64(group, name, "group_size", &w.group_size));
        if (strcmp(kind, "int4") != 0 && strcmp(kind, "dense") != 0)
            return MW_FAIL(MW_ERR_FORMAT, "%s: %s: kind '%s', expected int4 or dense", s->path, name, kind);
        w.kind = strcmp(kind, "int4") == 0 ? MW_INT4 : MW_DENSE16;
        if (w.group_size == -1) w.group_size = w.k;
    } else if (w.weight >= 0) {
        const mw_dataset *d = &c->dataset[w.weight];
        w.kind = d->full_rows > 1 ? MW_DENSE16 : MW_VECTOR;
        w.n = d->full_rows > 1 ? d->full_rows : d->full_cols;
        w.k = d->full_rows > 1 ? d->full_cols : 1;
    } else {
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: attribute 'kind' is missing", s->path, name);
    }
    MW_TRY(st, room((void **)&c->weight, c->h.n_weights, &s->cap_weights, sizeof w));
    c->weight[c->h.n_weights++] = w;
fail:
    if (st != MW_OK && !strstr(mw_error_text(), s->path)) mw_error_prefix("%s", s->path);
    return st;
}

static mw_status walk(scan *s, hid_t group, const char *prefix, int depth);

static mw_status walk_member(scan *s, hid_t group, const char *name, int depth) {
    mw_status st = MW_OK;
    const char *tail = strrchr(name, '/');
    hid_t obj = H5Oopen(group, tail ? tail + 1 : name, H5P_DEFAULT);
    H5I_type_t kind = obj >= 0 ? H5Iget_type(obj) : H5I_BADID;
    if (kind == H5I_GROUP)
        st = walk(s, obj, name, depth + 1);
    else if (kind == H5I_DATASET && depth > 0)
        st = scan_dataset(s, obj, name);
    else
        st = mw_h5_fail(MW_ERR_FORMAT, "%s: weights/%s: neither a group nor a dataset of a weight", s->path, name);
    if (obj >= 0) H5Oclose(obj);
    return st;
}

/* A group holds datasets (it is a weight) or groups, never both. */
static mw_status walk(scan *s, hid_t group, const char *prefix, int depth) {
    mw_status st = MW_OK;
    H5G_info_t info;
    mw_ckpt_head *h = &s->c->h;
    int first = h->n_datasets, own = 0;
    if (depth > 8) return MW_FAIL(MW_ERR_FORMAT, "%s: weights/%s: nested too deeply", s->path, prefix);
    if (H5Gget_info(group, &info) < 0) return mw_h5_fail(MW_ERR_FORMAT, "%s: weights/%s", s->path, prefix);
    for (hsize_t i = 0; i < info.nlinks; i++) {
        char link[MW_NAME_MAX] = "", name[MW_NAME_MAX];
        H5L_info_t li;
        ssize_t n = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, link, sizeof link, H5P_DEFAULT);
        int len = snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "/" : "", link);
        if (n < 0 || n >= (ssize_t)sizeof link || len >= (int)sizeof name)
            return MW_FAIL(MW_ERR_FORMAT, "%s: weights/%s: a name in it is longer than %d bytes", s->path, prefix,
                           MW_NAME_MAX - 1);
        if (H5Lget_info_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, &li, H5P_DEFAULT) < 0 ||
            li.type != H5L_TYPE_HARD)
            return mw_h5_fail(MW_ERR_FORMAT, "%s: weights/%s: is a link to somewhere else", s->path, name);
        int weights = h->n_weights, datasets = h->n_datasets;
        MW_TRY(st, walk_member(s, group, name, depth));
        own += h->n_weights == weights && h->n_datasets > datasets;
    }
    if (own > 0 && own == h->n_datasets - first)
        st = scan_weight(s, group, prefix, first);
    else if (own > 0)
        st = MW_FAIL(MW_ERR_FORMAT, "%s: weights/%s: holds both datasets and groups", s->path, prefix);
fail:
    return st;
}

static mw_status scan_texts(scan *s) {
    mw_status st = MW_OK;
    H5G_info_t info;
    hid_t g = H5Gopen2(s->file, "/text", H5P_DEFAULT), d = H5I_INVALID_HID, type = H5I_INVALID_HID;
    if (g < 0 || H5Gget_info(g, &info) < 0) {
        st = mw_h5_fail(MW_ERR_FORMAT, "%s: group /text is missing", s->path);
        goto fail;
    }
    for (hsize_t i = 0; i < info.nlinks; i++) {
        mw_text_entry t = {0};
        char where[MW_NAME_MAX + 8];
        ssize_t n = H5Lget_name_by_idx(g, ".", H5_INDEX_NAME, H5_ITER_INC, i, t.name, sizeof t.name, H5P_DEFAULT);
        MW_TRY(st, hard_links(s, g, "text", t.name));
        if (n < 0 || n >= (ssize_t)sizeof t.name || (d = H5Dopen2(g, t.name, H5P_DEFAULT)) < 0) {
            st = mw_h5_fail(MW_ERR_FORMAT, "%s: /text/%s: cannot be opened", s->path, t.name);
            goto fail;
        }
        snprintf(where, sizeof where, "/text/%s", t.name);
        type = H5Dget_type(d);
        if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0) {
            st = MW_FAIL(MW_ERR_FORMAT, "%s: %s: is not a fixed-length string", s->path, where);
            goto fail;
        }
        t.n = H5Tget_size(type);
        MW_TRY(st, raw_offset(s, d, where, &t.offset));
        MW_TRY(st, inside(s, where, t.offset, t.n));
        MW_TRY(st, mw_h5_get_u64(d, where, "xxh3", &t.xxh3));
        MW_TRY(st, room((void **)&s->c->text, s->c->h.n_texts, &s->cap_texts, sizeof t));
        s->c->text[s->c->h.n_texts++] = t;
        H5Tclose(type);
        H5Dclose(d);
        d = type = H5I_INVALID_HID;
    }
fail:
    if (type >= 0) H5Tclose(type);
    if (d >= 0) H5Dclose(d);
    if (g >= 0) H5Gclose(g);
    return st;
}

static mw_status scan_root(scan *s) {
    mw_status st = MW_OK;
    mw_ckpt_head *h = &s->c->h;
    char text[64];
    int64_t major = 0, rank = 0, n_ranks = 0;
    hid_t root = H5Gopen2(s->file, "/", H5P_DEFAULT);
    if (root < 0) return mw_h5_fail(MW_ERR_FORMAT, "%s: no root group", s->path);
    MW_TRY(st, mw_h5_get_str(root, s->path, "format", text, sizeof text));
    if (strcmp(text, MW_FORMAT_NAME) != 0) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: format '%s', expected '%s'", s->path, text, MW_FORMAT_NAME);
        goto fail;
    }
    MW_TRY(st, mw_h5_get_i64(root, s->path, "format_major", &major));
    if (major != MW_FORMAT_MAJOR) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: schema version %lld, this program reads version %d: %s", s->path,
                     (long long)major, MW_FORMAT_MAJOR,
                     major > MW_FORMAT_MAJOR ? "use a newer marlin-worker" : "convert the model again");
        goto fail;
    }
    MW_TRY(st, mw_h5_get_str(root, s->path, "layout", text, sizeof text));
    if (strcmp(text, MW_LAYOUT_ROWS) == 0) {
        h->layout = MW_IN_ROWS;
    } else if (strcmp(text, MW_LAYOUT_MARLIN) == 0) {
        h->layout = MW_IN_TILES;
    } else {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: layout '%s', expected '%s' or '%s': pack the model again", s->path, text,
                     MW_LAYOUT_ROWS, MW_LAYOUT_MARLIN);
        goto fail;
    }
    MW_TRY(st, mw_h5_get_str(root, s->path, "uuid", h->uuid, sizeof h->uuid));
    MW_TRY(st, mw_h5_get_str(root, s->path, "created", h->created, MW_ATTR_MAX));
    MW_TRY(st, mw_h5_get_str(root, s->path, "creator", h->creator, MW_ATTR_MAX));
    MW_TRY(st, mw_h5_get_str(root, s->path, "source_format", h->source_format, MW_ATTR_MAX));
    MW_TRY(st, mw_h5_get_str(root, s->path, "source_name", h->source_name, MW_ATTR_MAX));
    MW_TRY(st, mw_h5_get_str(root, s->path, "chat", h->chat, MW_ATTR_MAX));
    if (mw_h5_has_attr(root, "n_ranks")) {
        MW_TRY(st, mw_h5_get_i64(root, s->path, "rank", &rank));
        MW_TRY(st, mw_h5_get_i64(root, s->path, "n_ranks", &n_ranks));
        if (n_ranks < 1 || n_ranks > 65536 || rank < 0 || rank >= n_ranks) {
            st = MW_FAIL(MW_ERR_FORMAT, "%s: rank %lld of %lld", s->path, (long long)rank, (long long)n_ranks);
            goto fail;
        }
    }
    h->rank = (int)rank;
    h->n_ranks = (int)n_ranks;
fail:
    H5Gclose(root);
    return st;
}

static mw_status scan_rope(hid_t g, const char *where, mw_model_config *c) {
    mw_status st = MW_OK;
    char text[32];
    MW_TRY(st, mw_h5_get_f64(g, where, "rope_theta", &c->rope_theta));
    MW_TRY(st, mw_h5_get_str(g, where, "rope_type", text, sizeof text));
    int t = MW_ROPE_DEFAULT;
    while (t <= MW_ROPE_LLAMA3 && strcmp(text, mw_rope_type_name((mw_rope_type)t)) != 0) t++;
    if (t > MW_ROPE_LLAMA3) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: rope_type '%s'", where, text);
    c->rope_type = (mw_rope_type)t;
    if (t != MW_ROPE_DEFAULT) MW_TRY(st, mw_h5_get_f64(g, where, "rope_factor", &c->rope_factor));
    if (t == MW_ROPE_LLAMA3) {
        MW_TRY(st, mw_h5_get_f64(g, where, "rope_low_freq_factor", &c->rope_low_freq));
        MW_TRY(st, mw_h5_get_f64(g, where, "rope_high_freq_factor", &c->rope_high_freq));
        MW_TRY(st, mw_h5_get_i64(g, where, "rope_original_max_position", &c->rope_original_max));
    }
fail:
    return st;
}

static mw_status scan_config(scan *s) {
    mw_status st = MW_OK;
    mw_model_config *c = &s->c->h.cfg;
    char where[1024], act[8];
    int64_t tie = 0, qk_norm = 0, bos = 0, eos[MW_MAX_EOS] = {0};
    size_t n_eos = 0;
    snprintf(where, sizeof where, "%s: /config", s->path);
    hid_t g = H5Gopen2(s->file, "/config", H5P_DEFAULT);
    if (g < 0) return mw_h5_fail(MW_ERR_FORMAT, "%s is missing", where);
    MW_TRY(st, mw_h5_get_str(g, where, "model_type", c->model_type, sizeof c->model_type));
    MW_TRY(st, mw_h5_get_i64(g, where, "hidden_size", &c->hidden));
    MW_TRY(st, mw_h5_get_i64(g, where, "intermediate_size", &c->intermediate));
    MW_TRY(st, mw_h5_get_i64(g, where, "num_hidden_layers", &c->n_layers));
    MW_TRY(st, mw_h5_get_i64(g, where, "num_attention_heads", &c->n_heads));
    MW_TRY(st, mw_h5_get_i64(g, where, "num_key_value_heads", &c->n_kv_heads));
    MW_TRY(st, mw_h5_get_i64(g, where, "head_dim", &c->head_dim));
    MW_TRY(st, mw_h5_get_i64(g, where, "vocab_size", &c->vocab));
    MW_TRY(st, mw_h5_get_i64(g, where, "max_position_embeddings", &c->max_position));
    MW_TRY(st, mw_h5_get_i64(g, where, "sliding_window", &c->window));
    MW_TRY(st, mw_h5_get_f64(g, where, "rms_norm_eps", &c->rms_eps));
    MW_TRY(st, scan_rope(g, where, c));
    MW_TRY(st, mw_h5_get_i64(g, where, "tie_word_embeddings", &tie));
    MW_TRY(st, mw_h5_get_i64(g, where, "qk_norm", &qk_norm));
    MW_TRY(st, mw_h5_get_str(g, where, "activation_dtype", act, sizeof act));
    MW_TRY(st, mw_h5_get_i64(g, where, "bos_token_id", &bos));
    MW_TRY(st, mw_h5_get_i64s(g, where, "eos_token_ids", eos, MW_MAX_EOS, &n_eos));
    c->tie_embeddings = tie != 0;
    c->qk_norm = qk_norm != 0;
    c->act = strcmp(act, "f16") == 0 ? MW_F16 : strcmp(act, "bf16") == 0 ? MW_BF16 : MW_F32;
    c->bos_id = bos < -1 || bos > INT32_MAX ? INT32_MAX : (int32_t)bos; /* out of range is refused by the check below */
    c->n_eos = (int)n_eos;
    for (size_t i = 0; i < n_eos; i++) c->eos_id[i] = eos[i] < 0 || eos[i] > INT32_MAX ? -1 : (int32_t)eos[i];
    st = mw_model_config_check(c);
    if (st != MW_OK) mw_error_prefix("%s", s->path);
fail:
    H5Gclose(g);
    return st;
}

mw_status mw_directory_scan(mw_ckpt *c, const char *path) {
    mw_status st = MW_OK;
    struct stat sb;
    static const char *const groups[] = {"config", "text", "checksums", "weights"};
    scan s = {.c = c, .path = path, .file = H5I_INVALID_HID, .checksums = H5I_INVALID_HID};
    hid_t weights = H5I_INVALID_HID;
    mw_h5_init();
    if (stat(path, &sb) != 0) return MW_FAIL(MW_ERR_NOINPUT, "%s: cannot be opened", path);
    if (!S_ISREG(sb.st_mode)) return MW_FAIL(MW_ERR_NOINPUT, "%s: is not a regular file", path); /* a FIFO hangs */
    c->h.file_size = (uint64_t)sb.st_size;
    s.file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (s.file < 0) {
        bool is_h5 = H5Fis_hdf5(path) > 0;
        st = is_h5 ? mw_h5_fail(MW_ERR_FORMAT, "%s: an HDF5 file that cannot be opened (truncated, or being written?)",
                                path)
                   : mw_h5_fail(MW_ERR_FORMAT, "%s: is not an HDF5 file", path);
        goto fail;
    }
    MW_TRY(st, scan_root(&s));
    for (int i = 0; i < 4; i++) MW_TRY(st, hard_links(&s, s.file, "", groups[i]));
    MW_TRY(st, scan_config(&s));
    MW_TRY(st, scan_texts(&s));
    s.checksums = H5Gopen2(s.file, "/checksums", H5P_DEFAULT);
    weights = H5Gopen2(s.file, "/weights", H5P_DEFAULT);
    if (s.checksums < 0 || weights < 0) {
        st = mw_h5_fail(MW_ERR_FORMAT, "%s: group /%s is missing", path, weights < 0 ? "weights" : "checksums");
        goto fail;
    }
    MW_TRY(st, walk(&s, weights, "", 0));
fail:
    if (weights >= 0) H5Gclose(weights);
    if (s.checksums >= 0) H5Gclose(s.checksums);
    if (s.file >= 0) H5Fclose(s.file);
    return st;
}
