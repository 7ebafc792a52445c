#include "shard/repack.h"

#include <stdlib.h>
#include <string.h>

#include "shard/pack.h"
#include "shard/writer.h"
#include "worker/base/clock.h"
#include "worker/base/threads.h"

static const int64_t k_band_bytes = 16 << 20;

typedef struct {
    const mw_ckpt *src;
    const mw_repack_opts *o;
    mw_writer *w;
    mw_pool *pool;
    mw_progress bar;
    mw_repack_stats st;
} job;

/* ---- reading, in logical terms ---- */

mw_status mw_read_int4_rows(const mw_ckpt *c, const mw_weight *w, int64_t k0, int64_t k1, int64_t c0, int64_t c1,
                            uint8_t *rows) {
    mw_status st = MW_OK;
    const mw_dataset *d = mw_ckpt_dataset(c, w->qweight);
    size_t row_bytes = (size_t)(c1 - c0) / 2;
    uint32_t *tiles = NULL;
    uint8_t *wide = NULL;
    if (mw_ckpt_layout(c) == MW_IN_ROWS)
        return mw_ckpt_read(c, d, k0, k1 - k0, c0 / 2, (c1 - c0) / 2, rows, row_bytes, true);
    int64_t a0 = c0 / MW_TILE_N * MW_TILE_N, kts = (k1 - k0) / MW_TILE_K; /* from the beginning of c0's tile */
    size_t words = (size_t)(2 * mw_round_up(c1 - a0, MW_TILE_N)), wide_bytes = (size_t)(c1 - a0) / 2;
    MW_TRY(st, MW_CALLOC(&tiles, (size_t)kts * words, "tile band"));
    MW_TRY(st, mw_ckpt_read(c, d, k0 / MW_TILE_K, kts, 2 * a0, (int64_t)words, tiles, words * 4, true));
    if (a0 == c0) {
        mw_unpack_tiles(tiles, words, k1 - k0, c1 - c0, rows, row_bytes);
    } else {
        MW_TRY(st, MW_CALLOC(&wide, (size_t)(k1 - k0) * wide_bytes, "row band"));
        mw_unpack_tiles(tiles, words, k1 - k0, c1 - a0, wide, wide_bytes);
        for (int64_t r = 0; r < k1 - k0; r++)
            memcpy(rows + (size_t)r * row_bytes, wide + (size_t)r * wide_bytes + (size_t)(c0 - a0) / 2, row_bytes);
    }
fail:
    free(tiles);
    free(wide);
    return st;
}

mw_status mw_read_group_rows(const mw_ckpt *c, const mw_weight *w, const mw_dataset *d, int64_t g, int64_t n,
                             void *rows) {
    size_t elem = mw_dtype_size(d->dtype), row = (size_t)w->n * elem;
    if (mw_ckpt_layout(c) == MW_IN_ROWS) return mw_ckpt_read(c, d, g, n, 0, w->n, rows, row, true);
    int64_t padded = mw_round_up(w->n, MW_TILE_N);
    size_t wide = (size_t)padded * elem;
    char *stored = NULL, *natural = NULL;
    mw_status st = MW_OK;
    MW_TRY(st, MW_CALLOC(&stored, (size_t)n * wide, "scale rows"));
    MW_TRY(st, MW_CALLOC(&natural, wide, "scale row"));
    MW_TRY(st, mw_ckpt_read(c, d, g, n, 0, padded, stored, wide, true));
    for (int64_t i = 0; i < n; i++) {
        mw_permute64(stored + (size_t)i * wide, natural, 1, padded, elem);
        memcpy((char *)rows + (size_t)i * row, natural, row);
    }
fail:
    free(stored);
    free(natural);
    return st;
}

/* ---- int4 matrices ---- */

typedef struct {
    mw_pool *pool;
    bool to_tiles;
    const uint8_t *rows;
    uint32_t *tiles;
    size_t row_bytes, words;
    int64_t k, n;
} pack_ctx;

static void pack_thread(void *arg, int thread, int n_threads) {
    pack_ctx *p = arg;
    int64_t k0, k1;
    mw_split(p->k, MW_TILE_K, thread, n_threads, &k0, &k1);
    mw_pack_tiles(p->rows + (size_t)k0 * p->row_bytes, p->row_bytes, k1 - k0, p->n,
                  p->tiles + (size_t)(k0 / MW_TILE_K) * p->words, p->words);
}

/* The columns that the new file stores for n: whole tiles in tile layout. */
static mw_range stored_columns(const job *j, const mw_weight *w, mw_range n) {
    if (j->o->layout == MW_IN_ROWS) return (mw_range){n.lo, n.hi};
    int64_t hi = mw_round_up(n.hi, MW_TILE_N), all = mw_round_up(w->n, MW_TILE_N);
    return (mw_range){n.lo / MW_TILE_N * MW_TILE_N, hi < all ? hi : all};
}

static mw_status write_band(job *j, const mw_weight *w, int64_t k0, int64_t k1, mw_range c, uint8_t *rows,
                            uint32_t *tiles) {
    mw_status st = MW_OK;
    int64_t real = c.hi < w->n ? c.hi : w->n; /* columns behind N exist in tiles only */
    MW_TRY(st, mw_read_int4_rows(j->src, w, k0, k1, c.lo, real, rows));
    uint64_t bytes = (uint64_t)((k1 - k0) * (c.hi - c.lo) / 2);
    if (j->o->layout == MW_IN_TILES) {
        pack_ctx p = {.rows = rows,
                      .tiles = tiles,
                      .row_bytes = (size_t)(real - c.lo + 1) / 2,
                      .words = (size_t)(2 * (c.hi - c.lo)),
                      .k = k1 - k0,
                      .n = real - c.lo};
        double start = mw_now_s();
        mw_pool_run(j->pool, pack_thread, &p);
        j->st.pack_s += mw_now_s() - start;
        MW_TRY(st, mw_writer_rows(j->w, tiles, (k1 - k0) / MW_TILE_K));
    } else {
        MW_TRY(st, mw_writer_rows(j->w, rows, k1 - k0));
    }
    j->st.int4_bytes += bytes;
    mw_progress_add(&j->bar, bytes);
fail:
    return st;
}

/* Extents of a part's dataset and of its stored window, in elements of the dataset. */
static mw_dataset_spec spec_of(const job *j, const mw_weight *w, mw_part part, const mw_dataset *d,
                               char name[MW_NAME_MAX], mw_range r, mw_range c, int64_t full_r, int64_t full_c) {
    mw_dataset_spec s = {.name = name,
                         .dtype = d->dtype,
                         .rows = mw_range_len(r),
                         .cols = mw_range_len(c),
                         .origin_row = r.lo,
                         .origin_col = c.lo,
                         .full_rows = full_r,
                         .full_cols = full_c};
    snprintf(name, MW_NAME_MAX, "%.*s/%s", MW_NAME_MAX - 16, w->name, mw_part_name(part));
    if (part == MW_PART_QWEIGHT) s.dtype = j->o->layout == MW_IN_TILES ? MW_U32 : MW_U8;
    mw_block_shape(part, j->o->layout, w->group_size == w->k ? -1 : w->group_size, s.rows, s.cols, &s.block_rows,
                   &s.block_cols);
    return s;
}

static mw_status write_qweight(job *j, const mw_weight *w, mw_range k, mw_range n) {
    mw_status st = MW_OK;
    char name[MW_NAME_MAX];
    bool tiles = j->o->layout == MW_IN_TILES;
    mw_range c = stored_columns(j, w, n);
    int64_t kt = tiles ? MW_TILE_K : 1, full = tiles ? 2 * mw_round_up(w->n, MW_TILE_N) : w->n / 2;
    mw_range dr = {k.lo / kt, k.hi / kt}, dc = tiles ? (mw_range){2 * c.lo, 2 * c.hi} : (mw_range){c.lo / 2, c.hi / 2};
    mw_dataset_spec s =
        spec_of(j, w, MW_PART_QWEIGHT, mw_ckpt_dataset(j->src, w->qweight), name, dr, dc, w->k / kt, full);
    int64_t band =
        mw_round_up(k_band_bytes / (mw_range_len(c) / 2 + 1) + 1, 128); /* a multiple of every checksum block */
    uint8_t *rows = NULL;
    uint32_t *out = NULL;
    MW_TRY(st, MW_CALLOC(&rows, (size_t)(band * (mw_range_len(c) + 1) / 2), "row band"));
    if (tiles) MW_TRY(st, MW_CALLOC(&out, (size_t)(band / MW_TILE_K * 2 * mw_range_len(c)), "tile band"));
    MW_TRY(st, mw_writer_begin(j->w, &s));
    for (int64_t k0 = k.lo; k0 < k.hi; k0 += band)
        MW_TRY(st, write_band(j, w, k0, k.hi - k0 < band ? k.hi : k0 + band, c, rows, out));
    MW_TRY(st, mw_writer_end(j->w));
fail:
    free(rows);
    free(out);
    return st;
}

/* Scales or zeros: few bytes, so the whole window at once. */
static mw_status write_groups(job *j, const mw_weight *w, mw_part part, int dataset, mw_range k, mw_range n) {
    mw_status st = MW_OK;
    char name[MW_NAME_MAX], *natural = NULL, *row = NULL, *out = NULL;
    const mw_dataset *d = mw_ckpt_dataset(j->src, dataset);
    bool tiles = j->o->layout == MW_IN_TILES;
    size_t elem = mw_dtype_size(d->dtype);
    mw_range c = stored_columns(j, w, n), g = {k.lo / w->group_size, (k.hi - 1) / w->group_size + 1};
    int64_t all = tiles ? mw_round_up(w->n, MW_TILE_N) : w->n, cols = mw_range_len(c);
    mw_dataset_spec s = spec_of(j, w, part, d, name, g, c, w->k / w->group_size, all);
    /* A rank's columns may be wider than the matrix, by padding that stays 0. */
    int64_t wide = mw_round_up(w->n, MW_TILE_N);
    MW_TRY(st, MW_CALLOC(&natural, (size_t)(mw_range_len(g) * w->n) * elem, "scales"));
    MW_TRY(st, MW_CALLOC(&row, (size_t)wide * elem, "scale row"));
    MW_TRY(st, MW_CALLOC(&out, (size_t)(mw_range_len(g) * cols) * elem, "scales"));
    MW_TRY(st, mw_read_group_rows(j->src, w, d, g.lo, mw_range_len(g), natural));
    for (int64_t i = 0; i < mw_range_len(g); i++) {
        char *dst = out + (size_t)(i * cols) * elem, *src = row + (size_t)c.lo * elem;
        memcpy(row, natural + (size_t)(i * w->n) * elem, (size_t)w->n * elem);
        if (tiles)
            mw_permute64(src, dst, 1, cols, elem);
        else
            memcpy(dst, src, (size_t)cols * elem);
    }
    MW_TRY(st, mw_writer_dataset(j->w, &s, out));
fail:
    free(natural);
    free(row);
    free(out);
    return st;
}

/* ---- everything that only needs copying ---- */

static mw_status copy_rows(job *j, const mw_dataset *d, const mw_dataset_spec *s) {
    mw_status st = MW_OK;
    size_t row = (size_t)s->cols * mw_dtype_size(d->dtype);
    int64_t band = mw_round_up(k_band_bytes / (int64_t)row + 1, s->block_rows);
    char *buf = NULL;
    if (band > s->rows) band = s->rows;
    MW_TRY(st, MW_CALLOC(&buf, (size_t)band * row, "copy buffer"));
    MW_TRY(st, mw_writer_begin(j->w, s));
    for (int64_t r = 0; r < s->rows; r += band) {
        int64_t n = s->rows - r < band ? s->rows - r : band;
        MW_TRY(st, mw_ckpt_read(j->src, d, s->origin_row + r, n, s->origin_col, s->cols, buf, row, true));
        MW_TRY(st, mw_writer_rows(j->w, buf, n));
        mw_progress_add(&j->bar, (uint64_t)n * row);
    }
    MW_TRY(st, mw_writer_end(j->w));
fail:
    free(buf);
    return st;
}

static mw_status copy_part(job *j, const mw_weight *w, mw_part part, int dataset, mw_range r, mw_range c) {
    char name[MW_NAME_MAX];
    if (dataset < 0) return MW_OK;
    const mw_dataset *d = mw_ckpt_dataset(j->src, dataset);
    mw_dataset_spec s = spec_of(j, w, part, d, name, r, c, d->full_rows, d->full_cols);
    s.one_d = d->full_rows == 1;
    return copy_rows(j, d, &s);
}

static mw_status write_weight(job *j, const mw_weight *w) {
    mw_status st = MW_OK;
    mw_range k = {0, w->k}, n = {0, w->n}, one = {0, 1};
    if (j->o->plan) mw_plan_slice(j->o->plan, j->o->rank, w, &k, &n);
    if (w->kind == MW_VECTOR) return copy_part(j, w, MW_PART_WEIGHT, w->weight, one, n);
    bool per_channel = w->kind == MW_INT4 && w->group_size == w->k;
    if (strcmp(w->name, "embed_tokens") != 0)
        MW_TRY(st, mw_writer_linear(j->w, w->name, w->kind == MW_INT4, w->k, w->n,
                                    w->kind != MW_INT4 ? 0
                                    : per_channel      ? -1
                                                       : w->group_size));
    if (w->kind == MW_INT4) {
        MW_TRY(st, write_qweight(j, w, k, n));
        MW_TRY(st, write_groups(j, w, MW_PART_SCALES, w->scales, k, n));
        if (w->zeros >= 0) MW_TRY(st, write_groups(j, w, MW_PART_ZEROS, w->zeros, k, n));
        MW_TRY(st, copy_part(j, w, MW_PART_PERM, w->perm, one, (mw_range){0, w->k}));
    } else {
        MW_TRY(st, copy_part(j, w, MW_PART_WEIGHT, w->weight, n, k));
    }
    MW_TRY(st, copy_part(j, w, MW_PART_BIAS, w->bias, one, n));
fail:
    return st;
}

static mw_status copy_texts(job *j) {
    static const char *const names[] = {MW_TEXT_CONFIG,           MW_TEXT_GENERATION_CONFIG, MW_TEXT_TOKENIZER,
                                        MW_TEXT_TOKENIZER_CONFIG, MW_TEXT_CHAT_TEMPLATE,     MW_TEXT_SOURCE_FILES};
    mw_status st = MW_OK;
    mw_str text = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        text.n = 0;
        if (!mw_ckpt_has_text(j->src, names[i])) continue;
        MW_TRY(st, mw_ckpt_text(j->src, names[i], &text));
        MW_TRY(st, mw_writer_text(j->w, names[i], text.p, text.n));
    }
fail:
    mw_str_free(&text);
    return st;
}

static uint64_t expected_bytes(const job *j) {
    uint64_t sum = 0;
    if (j->o->plan) return j->o->plan->rank[j->o->rank].file_bytes;
    for (int i = 0; i < mw_ckpt_n_datasets(j->src); i++) {
        const mw_dataset *d = mw_ckpt_dataset(j->src, i);
        sum += (uint64_t)(d->rows * d->cols) * mw_dtype_size(d->dtype);
    }
    return sum;
}

mw_status mw_repack(const mw_ckpt *src, const mw_repack_opts *opts, mw_repack_stats *stats) {
    mw_status st = MW_OK;
    double start = mw_now_s();
    job j = {.src = src, .o = opts};
    int rank, ranks;
    if (mw_ckpt_is_rank_file(src, &rank, &ranks))
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: holds the shard of rank %d of %d: pack the whole model",
                       mw_ckpt_path(src), rank, ranks);
    mw_provenance prov = {.creator = opts->creator,
                          .source_format = mw_ckpt_attr(src, "source_format"),
                          .source_name = mw_ckpt_attr(src, "source_name"),
                          .chat = mw_ckpt_attr(src, "chat"),
                          .packed_from = mw_ckpt_uuid(src),
                          .rank = opts->rank,
                          .n_ranks = opts->plan ? opts->plan->n_ranks : 0};
    MW_TRY(st, mw_pool_create(&j.pool, opts->threads, 0));
    MW_TRY(st, mw_writer_create(&j.w, opts->out, opts->force, mw_ckpt_config(src), opts->layout, &prov));
    MW_TRY(st, copy_texts(&j));
    mw_progress_begin(&j.bar, "packing", expected_bytes(&j), opts->progress);
    for (int i = 0; i < mw_ckpt_n_weights(src); i++) MW_TRY(st, write_weight(&j, mw_ckpt_weight(src, i)));
    j.st.bytes = mw_writer_bytes(j.w);
    mw_writer *w = j.w;
    j.w = NULL;
    MW_TRY(st, mw_writer_commit(w));
    j.st.total_s = mw_now_s() - start;
    *stats = j.st;
fail:
    mw_progress_end(&j.bar);
    mw_writer_abort(j.w);
    mw_pool_destroy(j.pool);
    return st;
}

/* ---- comparing ---- */

static mw_status differ(const mw_ckpt *a, const mw_ckpt *b, const char *what) {
    return MW_FAIL(MW_ERR_FORMAT, "%s and %s differ: %s", mw_ckpt_path(a), mw_ckpt_path(b), what);
}

static mw_status compare_groups(const mw_ckpt *a, const mw_weight *wa, int ia, const mw_ckpt *b, const mw_weight *wb,
                                int ib) {
    mw_status st = MW_OK;
    const mw_dataset *da = mw_ckpt_dataset(a, ia), *db = mw_ckpt_dataset(b, ib);
    int64_t n = wa->k / wa->group_size;
    size_t bytes = (size_t)(n * wa->n) * mw_dtype_size(da->dtype);
    char *ra = NULL, *rb = NULL;
    MW_TRY(st, MW_CALLOC(&ra, bytes, "compare buffer"));
    MW_TRY(st, MW_CALLOC(&rb, bytes, "compare buffer"));
    MW_TRY(st, mw_read_group_rows(a, wa, da, 0, n, ra));
    MW_TRY(st, mw_read_group_rows(b, wb, db, 0, n, rb));
    if (memcmp(ra, rb, bytes) != 0) st = differ(a, b, da->name);
fail:
    free(ra);
    free(rb);
    return st;
}

static mw_status compare_int4(const mw_ckpt *a, const mw_weight *wa, const mw_ckpt *b, const mw_weight *wb) {
    mw_status st = MW_OK;
    uint8_t *ra = NULL, *rb = NULL;
    size_t row = (size_t)(wa->n + 1) / 2;
    int64_t band = mw_round_up(k_band_bytes / (int64_t)row + 1, 128);
    MW_TRY(st, MW_CALLOC(&ra, (size_t)band * row, "compare buffer"));
    MW_TRY(st, MW_CALLOC(&rb, (size_t)band * row, "compare buffer"));
    for (int64_t k0 = 0; k0 < wa->k; k0 += band) {
        int64_t k1 = wa->k - k0 < band ? wa->k : k0 + band;
        MW_TRY(st, mw_read_int4_rows(a, wa, k0, k1, 0, wa->n, ra));
        MW_TRY(st, mw_read_int4_rows(b, wb, k0, k1, 0, wa->n, rb));
        if (memcmp(ra, rb, (size_t)(k1 - k0) * row) != 0) MW_TRY(st, differ(a, b, wa->name));
    }
    for (int part = 0; part < 2; part++) {
        int ia = part ? wa->zeros : wa->scales, ib = part ? wb->zeros : wb->scales;
        if (ia >= 0) MW_TRY(st, compare_groups(a, wa, ia, b, wb, ib));
    }
fail:
    free(ra);
    free(rb);
    return st;
}

/* Datasets that look the same in every layout. */
static mw_status compare_plain(const mw_ckpt *a, int ia, const mw_ckpt *b, int ib) {
    mw_status st = MW_OK;
    if (ia < 0) return MW_OK;
    const mw_dataset *da = mw_ckpt_dataset(a, ia), *db = mw_ckpt_dataset(b, ib);
    size_t row = (size_t)da->cols * mw_dtype_size(da->dtype);
    int64_t band = mw_round_up(k_band_bytes / (int64_t)row + 1, da->block_rows);
    char *ra = NULL, *rb = NULL;
    if (band > da->rows) band = da->rows;
    MW_TRY(st, MW_CALLOC(&ra, (size_t)band * row, "compare buffer"));
    MW_TRY(st, MW_CALLOC(&rb, (size_t)band * row, "compare buffer"));
    for (int64_t r = 0; r < da->rows; r += band) {
        int64_t n = da->rows - r < band ? da->rows - r : band;
        MW_TRY(st, mw_ckpt_read(a, da, r, n, 0, da->cols, ra, row, true));
        MW_TRY(st, mw_ckpt_read(b, db, r, n, 0, db->cols, rb, row, true));
        if (memcmp(ra, rb, (size_t)n * row) != 0) MW_TRY(st, differ(a, b, da->name));
    }
fail:
    free(ra);
    free(rb);
    return st;
}

static bool same_dtype(const mw_ckpt *a, int ia, const mw_ckpt *b, int ib) {
    if (ia < 0 || ib < 0) return (ia < 0) == (ib < 0);
    return mw_ckpt_dataset(a, ia)->dtype == mw_ckpt_dataset(b, ib)->dtype;
}

mw_status mw_repack_compare(const mw_ckpt *a, const mw_ckpt *b, uint64_t *weights) {
    mw_status st = MW_OK;
    *weights = 0;
    if (!mw_model_config_equal(mw_ckpt_config(a), mw_ckpt_config(b))) return differ(a, b, "config");
    for (int i = 0; i < mw_ckpt_n_weights(a); i++) {
        const mw_weight *wa = mw_ckpt_weight(a, i), *wb = mw_ckpt_find(b, wa->name);
        if (!wb || wa->kind != wb->kind || wa->group_size != wb->group_size ||
            !same_dtype(a, wa->scales, b, wb->scales) || !same_dtype(a, wa->zeros, b, wb->zeros) ||
            !same_dtype(a, wa->perm, b, wb->perm) || !same_dtype(a, wa->bias, b, wb->bias) ||
            !same_dtype(a, wa->weight, b, wb->weight))
            return differ(a, b, wa->name);
        if (wa->kind == MW_INT4) MW_TRY(st, compare_int4(a, wa, b, wb));
        MW_TRY(st, compare_plain(a, wa->perm, b, wb->perm));
        MW_TRY(st, compare_plain(a, wa->bias, b, wb->bias));
        MW_TRY(st, compare_plain(a, wa->weight, b, wb->weight));
        *weights += (uint64_t)(wa->k * wa->n);
    }
fail:
    return st;
}
