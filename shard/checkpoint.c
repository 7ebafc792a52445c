#include "shard/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "shard/ckpt_internal.h"
#include "shard/roles.h"
#include "worker/base/clock.h"
#include "worker/base/io.h"

static int by_name(const void *a, const void *b) {
    return strcmp(((const mw_weight *)a)->name, ((const mw_weight *)b)->name);
}

/* The descriptor that all reads use, checked to be the file that was scanned. */
static mw_status open_data(mw_ckpt *c, const char *path) {
    struct stat sb;
    c->path = strdup(path);
    if (!c->path) return MW_FAIL(MW_ERR_NOMEM, "path");
    mw_status st = mw_open_regular(path, &c->fd);
    if (st != MW_OK) return st;
    if (fstat(c->fd, &sb) != 0 || (uint64_t)sb.st_size != c->h.file_size)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %lld bytes here, %llu where the directory was read: not the same file", path,
                       (long long)sb.st_size, (unsigned long long)c->h.file_size);
    mw_str uuid = {0};
    st = mw_ckpt_text(c, "uuid", &uuid);
    const char *here = uuid.p ? uuid.p : "";
    if (st == MW_OK && strcmp(here, c->h.uuid) != 0)
        st = MW_FAIL(MW_ERR_FORMAT, "%s: uuid %s here, %s where the directory was read: not the same file", path, here,
                     c->h.uuid);
    mw_str_free(&uuid);
    return st;
}

mw_status mw_ckpt_open(mw_ckpt **out, const char *path) {
    mw_status st = MW_OK;
    mw_ckpt *c = NULL;
    MW_TRY(st, MW_CALLOC(&c, 1, "checkpoint"));
    c->fd = -1;
    MW_TRY(st, mw_directory_scan(c, path));
    qsort(c->weight, (size_t)c->h.n_weights, sizeof *c->weight, by_name);
    MW_TRY(st, mw_directory_check(c, path));
    MW_TRY(st, open_data(c, path));
    *out = c;
    return MW_OK;
fail:
    mw_ckpt_close(c);
    return st;
}

void mw_ckpt_close(mw_ckpt *c) {
    if (!c) return;
    if (c->fd >= 0) close(c->fd);
    free(c->dataset);
    free(c->weight);
    free(c->text);
    mw_synthetic_free(c->synthetic);
    free(c->path);
    free(c);
}

mw_status mw_ckpt_pack_directory(const mw_ckpt *c, mw_str *blob) {
    mw_status st = MW_OK;
    MW_TRY(st, mw_str_add(blob, &c->h, sizeof c->h));
    MW_TRY(st, mw_str_add(blob, c->dataset, (size_t)c->h.n_datasets * sizeof *c->dataset));
    MW_TRY(st, mw_str_add(blob, c->weight, (size_t)c->h.n_weights * sizeof *c->weight));
    MW_TRY(st, mw_str_add(blob, c->text, (size_t)c->h.n_texts * sizeof *c->text));
fail:
    return st;
}

mw_status mw_ckpt_attach(mw_ckpt **out, const char *path, const void *blob, size_t n) {
    mw_status st = MW_OK;
    const char *p = blob;
    mw_ckpt *c = NULL;
    MW_TRY(st, MW_CALLOC(&c, 1, "checkpoint"));
    c->fd = -1;
    if (n >= sizeof c->h) memcpy(&c->h, p, sizeof c->h);
    size_t d = (size_t)c->h.n_datasets * sizeof *c->dataset, w = (size_t)c->h.n_weights * sizeof *c->weight,
           t = (size_t)c->h.n_texts * sizeof *c->text;
    if (n != sizeof c->h + d + w + t) {
        st = MW_FAIL(MW_ERR_INTERNAL, "%s: directory of %zu bytes: the ranks run different programs", path, n);
        goto fail;
    }
    MW_TRY(st, MW_CALLOC(&c->dataset, (size_t)c->h.n_datasets, "dataset directory"));
    MW_TRY(st, MW_CALLOC(&c->weight, (size_t)c->h.n_weights, "weight directory"));
    MW_TRY(st, MW_CALLOC(&c->text, (size_t)c->h.n_texts, "text directory"));
    p += sizeof c->h;
    memcpy(c->dataset, p, d);
    memcpy(c->weight, p + d, w);
    memcpy(c->text, p + d + w, t);
    MW_TRY(st, open_data(c, path));
    *out = c;
    return MW_OK;
fail:
    mw_ckpt_close(c);
    return st;
}

const char *mw_ckpt_path(const mw_ckpt *c) {
    return c->path;
}
const char *mw_ckpt_uuid(const mw_ckpt *c) {
    return c->h.uuid;
}
const mw_model_config *mw_ckpt_config(const mw_ckpt *c) {
    return &c->h.cfg;
}
mw_layout mw_ckpt_layout(const mw_ckpt *c) {
    return c->h.layout;
}
int mw_ckpt_n_weights(const mw_ckpt *c) {
    return c->h.n_weights;
}
const mw_weight *mw_ckpt_weight(const mw_ckpt *c, int i) {
    return &c->weight[i];
}
int mw_ckpt_n_datasets(const mw_ckpt *c) {
    return c->h.n_datasets;
}
const mw_dataset *mw_ckpt_dataset(const mw_ckpt *c, int index) {
    return &c->dataset[index];
}

const char *mw_ckpt_attr(const mw_ckpt *c, const char *name) {
    if (strcmp(name, "creator") == 0) return c->h.creator;
    if (strcmp(name, "created") == 0) return c->h.created;
    if (strcmp(name, "source_format") == 0) return c->h.source_format;
    if (strcmp(name, "source_name") == 0) return c->h.source_name;
    if (strcmp(name, "chat") == 0) return c->h.chat;
    return "";
}

bool mw_ckpt_is_rank_file(const mw_ckpt *c, int *rank, int *n_ranks) {
    if (c->h.n_ranks == 0) return false;
    *rank = c->h.rank;
    *n_ranks = c->h.n_ranks;
    return true;
}

const mw_weight *mw_ckpt_find(const mw_ckpt *c, const char *name) {
    mw_weight key;
    snprintf(key.name, sizeof key.name, "%s", name);
    return bsearch(&key, c->weight, (size_t)c->h.n_weights, sizeof key, by_name);
}

static const mw_text_entry *find_text(const mw_ckpt *c, const char *name) {
    for (int i = 0; i < c->h.n_texts; i++)
        if (strcmp(c->text[i].name, name) == 0) return &c->text[i];
    return NULL;
}

bool mw_ckpt_has_text(const mw_ckpt *c, const char *name) {
    return find_text(c, name) != NULL;
}

mw_status mw_ckpt_text(const mw_ckpt *c, const char *name, mw_str *out) {
    mw_status st = MW_OK;
    const mw_text_entry *t = find_text(c, name);
    if (!t) return MW_FAIL(MW_ERR_NOINPUT, "%s: has no text '%s'", c->path, name);
    MW_TRY(st, mw_str_reserve(out, t->n));
    MW_TRY(st, mw_pread(c->fd, c->path, out->p + out->n, t->n, t->offset));
    if (XXH3_64bits(out->p + out->n, t->n) != t->xxh3)
        return MW_FAIL(MW_ERR_CORRUPT, "%s: /text/%s: checksum mismatch", c->path, name);
    out->n += t->n;
    out->p[out->n] = 0;
fail:
    return st;
}

/* ---- slabs ---- */

static uint64_t byte_at(const mw_dataset *d, int64_t row, int64_t col) {
    return d->offset + (uint64_t)(row * d->cols + col) * mw_dtype_size(d->dtype);
}

/* A slab in stored coordinates. One read when the rows are adjacent in the file and in memory. */
static mw_status read_rows(const mw_ckpt *c, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0, int64_t nc,
                           char *dst, size_t ld) {
    mw_status st = MW_OK;
    size_t seg = (size_t)nc * mw_dtype_size(d->dtype);
    if (nc == d->cols && ld == seg) return mw_pread(c->fd, c->path, dst, (size_t)nr * seg, byte_at(d, r0, c0));
    for (int64_t r = 0; r < nr; r++)
        MW_TRY(st, mw_pread(c->fd, c->path, dst + (size_t)r * ld, seg, byte_at(d, r0 + r, c0)));
fail:
    return st;
}

typedef struct {
    const mw_ckpt *c;
    const mw_dataset *d;
    int64_t r0, nr, c0, nc; /* the slab, stored coordinates */
    const char *dst;
    size_t ld;
    char *block;    /* room for one checksum block */
    uint64_t *sums; /* of one band of blocks */
} verify_ctx;

/* Block (br, bc): from the slab where it holds the whole block, else from the file. */
static mw_status check_block(verify_ctx *v, int64_t br, int64_t bc, uint64_t expected) {
    const mw_dataset *d = v->d;
    int64_t row = br * d->block_rows, col = bc * d->block_cols;
    int64_t rows = d->rows - row < d->block_rows ? d->rows - row : d->block_rows;
    int64_t cols = d->cols - col < d->block_cols ? d->cols - col : d->block_cols;
    size_t elem = mw_dtype_size(d->dtype), seg = (size_t)cols * elem;
    bool whole = row >= v->r0 && row + rows <= v->r0 + v->nr && col >= v->c0 && col + cols <= v->c0 + v->nc;
    uint64_t found;
    if (whole) {
        const char *src = v->dst + (size_t)(row - v->r0) * v->ld + (size_t)(col - v->c0) * elem;
        if (rows > 1 && v->ld != seg) {
            for (int64_t r = 0; r < rows; r++) memcpy(v->block + (size_t)r * seg, src + (size_t)r * v->ld, seg);
            src = v->block;
        }
        found = XXH3_64bits(src, (size_t)rows * seg);
    } else {
        mw_status st = read_rows(v->c, d, row, rows, col, cols, v->block, seg);
        if (st != MW_OK) return st;
        found = XXH3_64bits(v->block, (size_t)rows * seg);
    }
    if (found == expected) return MW_OK;
    return MW_FAIL(MW_ERR_CORRUPT, "%s: %s: checksum mismatch in rows %lld..%lld, columns %lld..%lld", v->c->path,
                   d->name, (long long)row, (long long)(row + rows - 1), (long long)col, (long long)(col + cols - 1));
}

static mw_status check_slab(verify_ctx *v) {
    mw_status st = MW_OK;
    const mw_dataset *d = v->d;
    int64_t per_band = (d->cols + d->block_cols - 1) / d->block_cols;
    int64_t b0 = v->c0 / d->block_cols, b1 = (v->c0 + v->nc - 1) / d->block_cols;
    for (int64_t br = v->r0 / d->block_rows; br <= (v->r0 + v->nr - 1) / d->block_rows; br++) {
        MW_TRY(st, mw_pread(v->c->fd, v->c->path, v->sums, (size_t)(b1 - b0 + 1) * 8,
                            d->sums_offset + (uint64_t)(br * per_band + b0) * 8));
        for (int64_t bc = b0; bc <= b1; bc++) MW_TRY(st, check_block(v, br, bc, v->sums[bc - b0]));
    }
fail:
    return st;
}

/* Room for what check_slab needs, once for all bands of a read. */
static mw_status prepare_check(verify_ctx *v) {
    mw_status st = MW_OK;
    const mw_dataset *d = v->d;
    size_t blocks = (size_t)((v->c0 + v->nc - 1) / d->block_cols - v->c0 / d->block_cols + 1);
    MW_TRY(st,
           MW_CALLOC(&v->block, (size_t)(d->block_rows * d->block_cols) * mw_dtype_size(d->dtype), "checksum block"));
    MW_TRY(st, MW_CALLOC(&v->sums, blocks, "checksums"));
fail:
    return st;
}

mw_status mw_ckpt_read_timed(const mw_ckpt *c, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0, int64_t nc,
                             void *dst, size_t dst_ld, bool verify, mw_read_times *times) {
    mw_status st = MW_OK;
    r0 -= d->origin_row;
    c0 -= d->origin_col;
    if (nr <= 0 || nc <= 0) return MW_OK;
    if (r0 < 0 || c0 < 0 || nr > d->rows || nc > d->cols || r0 > d->rows - nr || c0 > d->cols - nc)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: rows %lld+%lld, columns %lld+%lld are not stored in this file", c->path,
                       d->name, (long long)(r0 + d->origin_row), (long long)nr, (long long)(c0 + d->origin_col),
                       (long long)nc);
    if (c->synthetic) {
        int64_t t0 = mw_now_ns();
        mw_synthetic_read(c->synthetic, d, r0, nr, c0, nc, dst, dst_ld);
        if (times) times->read_ns += mw_now_ns() - t0;
        return MW_OK;
    }
    verify_ctx v = {.c = c, .d = d, .c0 = c0, .nc = nc, .ld = dst_ld};
    if (verify) MW_TRY(st, prepare_check(&v));
    /* Band by band, so that the checksums are taken from the cache. */
    int64_t step = d->block_rows * (1 + (int64_t)(262144 / ((uint64_t)(d->block_rows * nc) * mw_dtype_size(d->dtype))));
    for (int64_t r = 0; r < nr;) {
        int64_t n = step - (r0 + r) % d->block_rows, t0 = mw_now_ns(), t1;
        if (n > nr - r) n = nr - r;
        char *at = (char *)dst + (size_t)r * dst_ld;
        MW_TRY(st, read_rows(c, d, r0 + r, n, c0, nc, at, dst_ld));
        t1 = mw_now_ns();
        v.r0 = r0 + r;
        v.nr = n;
        v.dst = at;
        if (verify) MW_TRY(st, check_slab(&v));
        if (times) times->read_ns += t1 - t0, times->verify_ns += mw_now_ns() - t1;
        r += n;
    }
fail:
    free(v.block);
    free(v.sums);
    return st;
}

mw_status mw_ckpt_read(const mw_ckpt *c, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0, int64_t nc, void *dst,
                       size_t dst_ld, bool verify) {
    return mw_ckpt_read_timed(c, d, r0, nr, c0, nc, dst, dst_ld, verify, NULL);
}
