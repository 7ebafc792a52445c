#include "shard/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "shard/h5util.h"
#include "worker/base/io.h"

struct mw_writer {
    mw_outfile out;
    hid_t file, lcpl, dcpl;
    int fd; /* our own descriptor of the temporary: raw data bypasses HDF5 */
    uint64_t bytes;

    /* the dataset between begin and end */
    mw_dataset_spec spec;
    char name[MW_NAME_MAX];
    uint64_t offset;
    int64_t rows_done;
    uint64_t *sums;
    uint8_t *band; /* one checksum block, gathered */
};

void mw_writer_init_process(void) {
    H5dont_atexit();
}

static mw_status new_uuid(char out[37]) {
    uint8_t b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b) return MW_FAIL(MW_ERR_IO, "getrandom: %s", strerror(errno));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* version 4, variant 1 (RFC 9562) */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
             b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return MW_OK;
}

static mw_status write_root(mw_writer *w, mw_layout layout, const mw_provenance *p, const char *uuid) {
    mw_status st = MW_OK;
    hid_t root = H5Gopen2(w->file, "/", H5P_DEFAULT);
    char created[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    MW_TRY(st, mw_h5_set_str(root, "format", MW_FORMAT_NAME));
    MW_TRY(st, mw_h5_set_i64(root, "format_major", MW_FORMAT_MAJOR));
    MW_TRY(st, mw_h5_set_i64(root, "format_minor", MW_FORMAT_MINOR));
    MW_TRY(st, mw_h5_set_str(root, "layout", layout == MW_IN_TILES ? MW_LAYOUT_MARLIN : MW_LAYOUT_ROWS));
    MW_TRY(st, mw_h5_set_str(root, "uuid", uuid));
    MW_TRY(st, mw_h5_set_str(root, "created", created));
    MW_TRY(st, mw_h5_set_str(root, "creator", p->creator));
    MW_TRY(st, mw_h5_set_str(root, "source_format", p->source_format));
    MW_TRY(st, mw_h5_set_str(root, "source_name", p->source_name));
    MW_TRY(st, mw_h5_set_str(root, "chat", p->chat));
    if (p->packed_from) MW_TRY(st, mw_h5_set_str(root, "packed_from", p->packed_from));
    if (p->n_ranks > 0) {
        MW_TRY(st, mw_h5_set_i64(root, "rank", p->rank));
        MW_TRY(st, mw_h5_set_i64(root, "n_ranks", p->n_ranks));
    }
fail:
    H5Gclose(root);
    return st;
}

static mw_status write_config(mw_writer *w, const mw_model_config *c) {
    mw_status st = MW_OK;
    int64_t eos[MW_MAX_EOS];
    for (int i = 0; i < c->n_eos; i++) eos[i] = c->eos_id[i];
    hid_t g = H5Gcreate2(w->file, "/config", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (g < 0) return mw_h5_fail(MW_ERR_IO, "%s: creating /config", w->out.tmp);
    MW_TRY(st, mw_h5_set_str(g, "model_type", c->model_type));
    MW_TRY(st, mw_h5_set_i64(g, "hidden_size", c->hidden));
    MW_TRY(st, mw_h5_set_i64(g, "intermediate_size", c->intermediate));
    MW_TRY(st, mw_h5_set_i64(g, "num_hidden_layers", c->n_layers));
    MW_TRY(st, mw_h5_set_i64(g, "num_attention_heads", c->n_heads));
    MW_TRY(st, mw_h5_set_i64(g, "num_key_value_heads", c->n_kv_heads));
    MW_TRY(st, mw_h5_set_i64(g, "head_dim", c->head_dim));
    MW_TRY(st, mw_h5_set_i64(g, "vocab_size", c->vocab));
    MW_TRY(st, mw_h5_set_i64(g, "max_position_embeddings", c->max_position));
    MW_TRY(st, mw_h5_set_i64(g, "sliding_window", c->window));
    MW_TRY(st, mw_h5_set_f64(g, "rms_norm_eps", c->rms_eps));
    MW_TRY(st, mw_h5_set_f64(g, "rope_theta", c->rope_theta));
    MW_TRY(st, mw_h5_set_str(g, "rope_type", mw_rope_type_name(c->rope_type)));
    if (c->rope_type != MW_ROPE_DEFAULT) MW_TRY(st, mw_h5_set_f64(g, "rope_factor", c->rope_factor));
    if (c->rope_type == MW_ROPE_LLAMA3) {
        MW_TRY(st, mw_h5_set_f64(g, "rope_low_freq_factor", c->rope_low_freq));
        MW_TRY(st, mw_h5_set_f64(g, "rope_high_freq_factor", c->rope_high_freq));
        MW_TRY(st, mw_h5_set_i64(g, "rope_original_max_position", c->rope_original_max));
    }
    MW_TRY(st, mw_h5_set_i64(g, "tie_word_embeddings", c->tie_embeddings));
    MW_TRY(st, mw_h5_set_i64(g, "qk_norm", c->qk_norm));
    MW_TRY(st, mw_h5_set_str(g, "activation_dtype", mw_dtype_name(c->act)));
    MW_TRY(st, mw_h5_set_i64(g, "bos_token_id", c->bos_id));
    MW_TRY(st, mw_h5_set_i64s(g, "eos_token_ids", eos, (size_t)c->n_eos));
fail:
    H5Gclose(g);
    return st;
}

mw_status mw_writer_create(mw_writer **out, const char *path, bool force, const mw_model_config *cfg, mw_layout layout,
                           const mw_provenance *prov) {
    mw_status st = MW_OK;
    char uuid[37];
    mw_writer *w = NULL;
    hid_t fapl = H5I_INVALID_HID;
    mw_h5_init();
    MW_TRY(st, MW_CALLOC(&w, 1, "model file writer"));
    w->file = w->lcpl = w->dcpl = H5I_INVALID_HID;
    w->fd = -1;
    w->out.fd = -1;
    MW_TRY(st, new_uuid(uuid));
    MW_TRY(st, mw_outfile_begin(&w->out, path, force, false));
    fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_alignment(fapl, MW_FILE_ALIGN, MW_FILE_ALIGN);
    w->file = H5Fcreate(w->out.tmp, H5F_ACC_TRUNC, H5P_DEFAULT, fapl);
    if (w->file < 0) {
        st = mw_h5_fail(MW_ERR_EXISTS, "%s: cannot create", w->out.tmp);
        goto fail;
    }
    w->fd = open(w->out.tmp, O_WRONLY | O_CLOEXEC);
    if (w->fd < 0) {
        st = MW_FAIL(MW_ERR_EXISTS, "%s: %s", w->out.tmp, strerror(errno));
        goto fail;
    }
    w->lcpl = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(w->lcpl, 1);
    w->dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(w->dcpl, H5D_CONTIGUOUS);
    H5Pset_alloc_time(w->dcpl, H5D_ALLOC_TIME_EARLY); /* the offset is known before a byte is written */
    H5Pset_fill_time(w->dcpl, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(w->dcpl, 0);
    MW_TRY(st, write_root(w, layout, prov, uuid));
    MW_TRY(st, write_config(w, cfg));
    MW_TRY(st, mw_writer_text(w, "uuid", uuid, 36));
    *out = w;
    w = NULL;
fail:
    if (fapl >= 0) H5Pclose(fapl);
    mw_writer_abort(w);
    return st;
}

/* A contiguous dataset at an absolute path; its open id and the file offset of its first byte. */
static mw_status make_dataset(mw_writer *w, const char *path, hid_t type, int ndim, const hsize_t *dims, hid_t *dset,
                              uint64_t *offset) {
    hid_t space = ndim ? H5Screate_simple(ndim, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t d = H5Dcreate2(w->file, path, type, space, w->lcpl, w->dcpl, H5P_DEFAULT);
    H5Sclose(space);
    if (d < 0) return mw_h5_fail(MW_ERR_IO, "%s: creating dataset %s", w->out.tmp, path);
    haddr_t at = H5Dget_offset(d);
    if (at == HADDR_UNDEF) {
        H5Dclose(d);
        return mw_h5_fail(MW_ERR_IO, "%s: dataset %s has no place in the file", w->out.tmp, path);
    }
    *dset = d;
    *offset = at;
    return MW_OK;
}

mw_status mw_writer_text(mw_writer *w, const char *name, const void *bytes, size_t n) {
    if (n == 0) return MW_OK; /* HDF5 has no empty strings; an absent text reads the same */
    mw_status st = MW_OK;
    char path[MW_NAME_MAX + 8];
    hid_t d = H5I_INVALID_HID, type = H5Tcopy(H5T_C_S1);
    uint64_t offset = 0;
    snprintf(path, sizeof path, "/text/%s", name);
    H5Tset_size(type, n);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    MW_TRY(st, make_dataset(w, path, type, 0, NULL, &d, &offset));
    MW_TRY(st, mw_h5_set_u64(d, "xxh3", XXH3_64bits(bytes, n)));
    MW_TRY(st, mw_pwrite(w->fd, w->out.tmp, bytes, n, offset));
    w->bytes += n;
fail:
    if (d >= 0) H5Dclose(d);
    H5Tclose(type);
    return st;
}

mw_status mw_writer_linear(mw_writer *w, const char *name, bool int4, int64_t k, int64_t n, int64_t group_size) {
    mw_status st = MW_OK;
    char path[MW_NAME_MAX + 16];
    snprintf(path, sizeof path, "/weights/%s", name);
    hid_t g = H5Gcreate2(w->file, path, w->lcpl, H5P_DEFAULT, H5P_DEFAULT);
    if (g < 0) return mw_h5_fail(MW_ERR_IO, "%s: creating group %s", w->out.tmp, path);
    MW_TRY(st, mw_h5_set_str(g, "kind", int4 ? "int4" : "dense"));
    MW_TRY(st, mw_h5_set_i64(g, "K", k));
    MW_TRY(st, mw_h5_set_i64(g, "N", n));
    MW_TRY(st, mw_h5_set_i64(g, "group_size", group_size));
fail:
    H5Gclose(g);
    return st;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static mw_status describe(const mw_dataset_spec *s, hid_t d) {
    mw_status st = MW_OK;
    const int64_t block[2] = {s->block_rows, s->block_cols};
    MW_TRY(st, mw_h5_set_i64s(d, "xxh3_block", block, 2));
    if (s->full_rows != s->rows || s->full_cols != s->cols) {
        const int64_t origin[2] = {s->origin_row, s->origin_col}, full[2] = {s->full_rows, s->full_cols};
        MW_TRY(st, mw_h5_set_i64s(d, "origin", origin, 2));
        MW_TRY(st, mw_h5_set_i64s(d, "full_shape", full, 2));
    }
fail:
    return st;
}

mw_status mw_writer_begin(mw_writer *w, const mw_dataset_spec *s) {
    mw_status st = MW_OK;
    char path[MW_NAME_MAX + 16];
    hid_t d = H5I_INVALID_HID, type = H5I_INVALID_HID;
    if (w->sums) return MW_FAIL(MW_ERR_INTERNAL, "%s: begun while %s is open", s->name, w->name);
    if (s->rows < 1 || s->cols < 1 || s->block_rows < 1 || s->block_cols < 1 || (s->one_d && s->rows != 1))
        return MW_FAIL(MW_ERR_INTERNAL, "%s: bad extents %lld x %lld", s->name, (long long)s->rows, (long long)s->cols);
    w->spec = *s;
    if (!s->full_rows) w->spec.full_rows = s->rows, w->spec.full_cols = s->cols;
    snprintf(w->name, sizeof w->name, "%s", s->name);
    w->rows_done = 0;
    const hsize_t dims[2] = {(hsize_t)s->rows, (hsize_t)s->cols};
    snprintf(path, sizeof path, "/weights/%s", w->name);
    type = mw_h5_type(s->dtype);
    MW_TRY(st, make_dataset(w, path, type, s->one_d ? 1 : 2, s->one_d ? dims + 1 : dims, &d, &w->offset));
    MW_TRY(st, describe(&w->spec, d));
    size_t block = (size_t)(s->block_rows * s->block_cols) * mw_dtype_size(s->dtype);
    MW_TRY(st, MW_CALLOC(&w->sums, (size_t)(ceil_div(s->rows, s->block_rows) * ceil_div(s->cols, s->block_cols)),
                         "checksums"));
    MW_TRY(st, MW_CALLOC(&w->band, block, "checksum block"));
fail:
    if (d >= 0) H5Dclose(d);
    if (type >= 0) H5Tclose(type);
    return st;
}

/* Checksums of one band of at most block_rows rows. */
static void hash_band(mw_writer *w, const uint8_t *rows, int64_t n) {
    const mw_dataset_spec *s = &w->spec;
    size_t elem = mw_dtype_size(s->dtype), row_bytes = (size_t)s->cols * elem;
    uint64_t *sums = w->sums + w->rows_done / s->block_rows * ceil_div(s->cols, s->block_cols);
    for (int64_t c0 = 0; c0 < s->cols; c0 += s->block_cols) {
        int64_t cols = s->cols - c0 < s->block_cols ? s->cols - c0 : s->block_cols;
        size_t seg = (size_t)cols * elem;
        for (int64_t r = 0; r < n; r++)
            memcpy(w->band + (size_t)r * seg, rows + (size_t)r * row_bytes + (size_t)c0 * elem, seg);
        *sums++ = XXH3_64bits(w->band, (size_t)n * seg);
    }
}

mw_status mw_writer_rows(mw_writer *w, const void *rows, int64_t n) {
    const mw_dataset_spec *s = &w->spec;
    size_t row_bytes = (size_t)s->cols * mw_dtype_size(s->dtype);
    if (!w->sums || n < 0 || w->rows_done + n > s->rows || (n % s->block_rows != 0 && w->rows_done + n != s->rows))
        return MW_FAIL(MW_ERR_INTERNAL, "%s: %lld rows after %lld of %lld, in blocks of %lld", w->name, (long long)n,
                       (long long)w->rows_done, (long long)s->rows, (long long)s->block_rows);
    mw_status st =
        mw_pwrite(w->fd, w->out.tmp, rows, (size_t)n * row_bytes, w->offset + (uint64_t)w->rows_done * row_bytes);
    if (st != MW_OK) return st;
    w->bytes += (uint64_t)n * row_bytes;
    for (int64_t r = 0; r < n;) {
        int64_t band = n - r < s->block_rows ? n - r : s->block_rows;
        hash_band(w, (const uint8_t *)rows + (size_t)r * row_bytes, band);
        r += band;
        w->rows_done += band;
    }
    return MW_OK;
}

mw_status mw_writer_end(mw_writer *w) {
    mw_status st = MW_OK;
    const mw_dataset_spec *s = &w->spec;
    char path[MW_NAME_MAX + 16];
    hid_t d = H5I_INVALID_HID, type = mw_h5_type(MW_U64);
    const hsize_t dims[2] = {(hsize_t)ceil_div(s->rows, s->block_rows), (hsize_t)ceil_div(s->cols, s->block_cols)};
    size_t n = (size_t)(dims[0] * dims[1]) * sizeof *w->sums;
    uint64_t offset = 0;
    if (w->rows_done != s->rows) {
        st = MW_FAIL(MW_ERR_INTERNAL, "%s: ended after %lld of %lld rows", w->name, (long long)w->rows_done,
                     (long long)s->rows);
        goto fail;
    }
    snprintf(path, sizeof path, "/checksums/%s", w->name);
    MW_TRY(st, make_dataset(w, path, type, 2, dims, &d, &offset));
    MW_TRY(st, mw_pwrite(w->fd, w->out.tmp, w->sums, n, offset));
    w->bytes += n;
    free(w->sums);
    free(w->band);
    w->sums = NULL;
    w->band = NULL;
fail:
    if (d >= 0) H5Dclose(d);
    H5Tclose(type);
    return st;
}

mw_status mw_writer_dataset(mw_writer *w, const mw_dataset_spec *s, const void *data) {
    mw_status st = MW_OK;
    MW_TRY(st, mw_writer_begin(w, s));
    MW_TRY(st, mw_writer_rows(w, data, s->rows));
    MW_TRY(st, mw_writer_end(w));
fail:
    return st;
}

/* Close HDF5's side and our descriptor; false when HDF5 could not flush. */
static bool close_all(mw_writer *w) {
    bool ok = true;
    if (w->lcpl >= 0) H5Pclose(w->lcpl);
    if (w->dcpl >= 0) H5Pclose(w->dcpl);
    if (w->file >= 0) ok = H5Fclose(w->file) >= 0;
    w->file = w->lcpl = w->dcpl = H5I_INVALID_HID;
    if (w->fd >= 0) close(w->fd);
    w->fd = -1;
    free(w->sums);
    free(w->band);
    w->sums = NULL;
    w->band = NULL;
    return ok;
}

mw_status mw_writer_commit(mw_writer *w) {
    mw_status st = MW_OK;
    if (!close_all(w))
        st = mw_h5_fail(MW_ERR_IO, "%s: closing", w->out.tmp);
    else
        st = mw_outfile_commit(&w->out);
    mw_outfile_abort(&w->out);
    free(w);
    return st;
}

void mw_writer_abort(mw_writer *w) {
    if (!w) return;
    close_all(w);
    mw_outfile_abort(&w->out);
    free(w);
}

uint64_t mw_writer_bytes(const mw_writer *w) {
    return w->bytes;
}
