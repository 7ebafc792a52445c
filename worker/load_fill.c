#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/pack.h"
#include "worker/load_task.h"

mw_load_area mw_load_area_of(const mw_load_task *t) {
    size_t k = (size_t)mw_range_len(t->k), n = (size_t)mw_range_len(t->n),
           padded = (size_t)mw_round_up((int64_t)n, MW_TILE_N);
    size_t elem = t->d ? mw_dtype_size(t->d->dtype) : 1;
    switch (t->kind) {
    case MW_LOAD_TILES: return (mw_load_area){k / MW_TILE_K, 8 * padded, 4 * t->ld};
    case MW_LOAD_SCALES:
    case MW_LOAD_ZEROS: return (mw_load_area){k / (size_t)t->group, padded * elem, t->ld * elem};
    case MW_LOAD_DENSE: return (mw_load_area){n, k * elem, t->ld};
    case MW_LOAD_VECTOR:
    case MW_LOAD_PERM: break;
    }
    return (mw_load_area){1, 4 * n, 4 * n};
}

static mw_status read_slab(mw_load_source *s, const mw_dataset *d, int64_t r0, int64_t nr, int64_t c0, int64_t nc,
                           void *dst, size_t ld) {
    return mw_ckpt_read_timed(s->c, d, r0, nr, c0, nc, dst, ld, s->verify, &s->times);
}

static bool in_tiles(const mw_load_source *s) {
    return mw_ckpt_layout(s->c) == MW_IN_TILES;
}

/* ---- int4 values ------------------------------------------------------------------------------------------------ */

/* Tiles as they lie in the file when the cut is at a tile; otherwise logical rows, shifted and packed here. */
static mw_status fill_tiles(mw_load_source *s, const mw_load_task *t) {
    mw_status st = MW_OK;
    int64_t kt0 = t->k.lo / MW_TILE_K, kts = mw_range_len(t->k) / MW_TILE_K, len = mw_range_len(t->n);
    int64_t c0 = t->n.lo / MW_TILE_N * MW_TILE_N, c1 = mw_round_up(t->n.hi, MW_TILE_N);
    uint32_t *words = NULL;
    uint8_t *rows = NULL;
    if (in_tiles(s) && c0 == t->n.lo) return read_slab(s, t->d, kt0, kts, 2 * c0, 2 * (c1 - c0), t->dst, t->ld * 4);
    if (in_tiles(s)) {
        size_t row_bytes = (size_t)(c1 - c0) / 2;
        MW_TRY(st, MW_CALLOC(&words, (size_t)(kts * 2 * (c1 - c0)), "load buffer"));
        MW_TRY(st, MW_CALLOC(&rows, (size_t)mw_range_len(t->k) * row_bytes, "load buffer"));
        MW_TRY(st, read_slab(s, t->d, kt0, kts, 2 * c0, 2 * (c1 - c0), words, (size_t)(8 * (c1 - c0))));
        mw_unpack_tiles(words, (size_t)(2 * (c1 - c0)), mw_range_len(t->k), c1 - c0, rows, row_bytes);
        mw_pack_tiles(rows + (t->n.lo - c0) / 2, row_bytes, mw_range_len(t->k), len, t->dst, t->ld);
    } else {
        size_t row_bytes = (size_t)len / 2;
        MW_TRY(st, MW_CALLOC(&rows, (size_t)mw_range_len(t->k) * row_bytes, "load buffer"));
        MW_TRY(st, mw_load_fill_raw(s, t, rows));
        mw_pack_tiles(rows, row_bytes, mw_range_len(t->k), len, t->dst, t->ld);
    }
fail:
    free(words);
    free(rows);
    return st;
}

/* ---- scales and zeros ------------------------------------------------------------------------------------------- */

/* All bits of the exponent set: NaN or infinite. */
static bool any_nonfinite16(const uint16_t *p, size_t n, uint16_t exponent) {
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (p[i] & exponent) == exponent;
    return bad != 0;
}

static mw_status check_finite(const mw_load_source *s, const mw_dataset *d, const void *p, size_t n) {
    bool bad = false;
    if (d->dtype == MW_F32)
        for (size_t i = 0; i < n; i++) bad |= !isfinite(((const float *)p)[i]);
    else
        bad = any_nonfinite16(p, n, d->dtype == MW_F16 ? 0x7c00 : 0x7f80);
    if (bad) return MW_FAIL(MW_ERR_CORRUPT, "%s: %s: holds a NaN or infinite value", mw_ckpt_path(s->c), d->name);
    return MW_OK;
}

static mw_status check_scales(const mw_load_source *s, const mw_load_task *t, const char *p, size_t rows, size_t cols,
                              size_t pitch) {
    mw_status st = MW_OK;
    for (size_t r = 0; r < rows && st == MW_OK && t->kind == MW_LOAD_SCALES; r++)
        st = check_finite(s, t->d, p + r * pitch, cols);
    return st;
}

/* The shard's groups are the file's, and its columns whole tiles of a packed file: the bytes are right as they lie. */
static bool groups_lie_right(const mw_load_source *s, const mw_load_task *t) {
    return in_tiles(s) && t->group == t->w->group_size && t->n.lo % MW_TILE_N == 0 && t->n.hi % MW_TILE_N == 0;
}

/* Rows of the groups that the slice touches, to natural order, cut, padded with 0, permuted. */
static mw_status fill_groups(mw_load_source *s, const mw_load_task *t) {
    mw_status st = MW_OK;
    const mw_weight *w = t->w;
    size_t elem = t->d ? mw_dtype_size(t->d->dtype) : 1;
    int64_t len = mw_range_len(t->n), padded = mw_round_up(len, MW_TILE_N), groups = mw_range_len(t->k) / t->group;
    if (!t->d) { /* no stored zeros: 8 */
        for (int64_t g = 0; g < groups; g++) memset((uint8_t *)t->dst + (size_t)g * t->ld, 8, (size_t)padded);
        return MW_OK;
    }
    bool tiles = in_tiles(s);
    int64_t c0 = tiles ? t->n.lo / MW_TILE_N * MW_TILE_N : t->n.lo,
            c1 = tiles ? mw_round_up(t->n.hi, MW_TILE_N) : t->n.hi;
    int64_t g0 = t->k.lo / w->group_size, g1 = (t->k.hi - 1) / w->group_size + 1;
    size_t row = (size_t)(c1 - c0) * elem;
    char *raw = NULL, *natural = NULL;
    if (groups_lie_right(s, t)) {
        MW_TRY(st, read_slab(s, t->d, g0, g1 - g0, c0, c1 - c0, t->dst, t->ld * elem));
        return check_scales(s, t, t->dst, (size_t)groups, (size_t)len, t->ld * elem);
    }
    MW_TRY(st, MW_CALLOC(&raw, (size_t)(g1 - g0) * row, "load buffer"));
    MW_TRY(st, MW_CALLOC(&natural, (size_t)(row + (size_t)padded * elem), "load buffer"));
    MW_TRY(st, read_slab(s, t->d, g0, g1 - g0, c0, c1 - c0, raw, row));
    MW_TRY(st, check_scales(s, t, raw, (size_t)(g1 - g0), (size_t)(c1 - c0), row));
    for (int64_t g = 0; g < groups; g++) {
        const char *src = raw + (size_t)((t->k.lo + g * t->group) / w->group_size - g0) * row;
        if (tiles) {
            mw_permute64(src, natural, 1, c1 - c0, elem);
            memmove(natural, natural + (size_t)(t->n.lo - c0) * elem, (size_t)len * elem);
        } else {
            memcpy(natural, src, (size_t)len * elem);
        }
        memset(natural + (size_t)len * elem, 0, (size_t)(padded - len) * elem);
        mw_permute64(natural, (char *)t->dst + (size_t)g * t->ld * elem, 1, padded, elem);
    }
fail:
    free(raw);
    free(natural);
    return st;
}

/* Rows of the local groups in natural order. A file's group that the shard cuts gives its row to each of its parts. */
static mw_status raw_groups(mw_load_source *s, const mw_load_task *t, char *dst) {
    mw_status st = MW_OK;
    int64_t file_group = t->w->group_size, len = mw_range_len(t->n), groups = mw_range_len(t->k) / t->group;
    int64_t g0 = t->k.lo / file_group, g1 = (t->k.hi - 1) / file_group + 1;
    size_t row = (size_t)len * mw_dtype_size(t->d->dtype);
    char *parts = NULL, *rows = dst;
    if (t->group != file_group) {
        MW_TRY(st, MW_CALLOC(&parts, (size_t)(g1 - g0) * row, "load buffer"));
        rows = parts;
    }
    MW_TRY(st, read_slab(s, t->d, g0, g1 - g0, t->n.lo, len, rows, row));
    MW_TRY(st, check_scales(s, t, rows, (size_t)(g1 - g0), (size_t)len, row));
    for (int64_t g = 0; parts && g < groups; g++)
        memcpy(dst + (size_t)g * row, parts + (size_t)((t->k.lo + g * t->group) / file_group - g0) * row, row);
fail:
    free(parts);
    return st;
}

/* ---- vectors ---------------------------------------------------------------------------------------------------- */

static mw_status fill_vector(mw_load_source *s, const mw_load_task *t) {
    mw_status st = MW_OK;
    size_t n = (size_t)mw_range_len(t->n), elem = mw_dtype_size(t->d->dtype);
    char *raw = NULL;
    MW_TRY(st, MW_CALLOC(&raw, n * elem, "load buffer"));
    MW_TRY(st, read_slab(s, t->d, 0, 1, t->n.lo, (int64_t)n, raw, n * elem));
    if (t->kind == MW_LOAD_PERM) {
        memcpy(t->dst, raw, n * elem);
        for (size_t i = 0; i < n; i++) {
            int32_t v = ((const int32_t *)t->dst)[i];
            if (v < 0 || v >= t->limit) {
                st = MW_FAIL(MW_ERR_CORRUPT, "%s: %s: entry %zu is %d, expected 0 to %lld", mw_ckpt_path(s->c),
                             t->d->name, i, v, (long long)t->limit - 1);
                goto fail;
            }
        }
    } else {
        MW_TRY(st, check_finite(s, t->d, raw, n));
        for (size_t i = 0; i < n; i++) ((float *)t->dst)[i] = mw_load_f32(raw, t->d->dtype, i);
    }
fail:
    free(raw);
    return st;
}

/* ---- one task --------------------------------------------------------------------------------------------------- */

mw_status mw_load_fill(mw_load_source *s, const mw_load_task *t) {
    switch (t->kind) {
    case MW_LOAD_TILES: return fill_tiles(s, t);
    case MW_LOAD_SCALES:
    case MW_LOAD_ZEROS: return fill_groups(s, t);
    case MW_LOAD_DENSE:
        return read_slab(s, t->d, t->n.lo, mw_range_len(t->n), t->k.lo, mw_range_len(t->k), t->dst, t->ld);
    case MW_LOAD_VECTOR:
    case MW_LOAD_PERM: return fill_vector(s, t);
    }
    return MW_OK;
}

bool mw_load_has_raw(const mw_ckpt *c, const mw_load_task *t) {
    if (mw_ckpt_layout(c) == MW_IN_TILES || !t->d) return false;
    return t->kind == MW_LOAD_TILES || t->kind == MW_LOAD_SCALES || t->kind == MW_LOAD_ZEROS;
}

mw_status mw_load_fill_raw(mw_load_source *s, const mw_load_task *t, void *dst) {
    int64_t len = mw_range_len(t->n);
    if (t->kind != MW_LOAD_TILES) return raw_groups(s, t, dst);
    return read_slab(s, t->d, t->k.lo, mw_range_len(t->k), t->n.lo / 2, len / 2, dst, (size_t)len / 2);
}
