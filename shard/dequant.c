#include "shard/dequant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/pack.h"

#define BAND_BYTES (1 << 20)

/* ---- reading either layout -------------------------------------------------------------------------------------- */

typedef struct {
    const mw_ckpt *c;
    const mw_dataset *d;
    mw_matrix *m;
    bool tiles;
} band_job;

static size_t row_bytes(const mw_dataset *d) {
    return (size_t)d->cols * mw_dtype_size(d->dtype);
}

/* Dataset rows [r0, r1): rows of nibbles as they are, or rows of tiles, unpacked. */
static mw_status band(const void *arg, int64_t r0, int64_t r1, void *scratch) {
    const band_job *j = arg;
    size_t half = (size_t)j->m->n / 2, row = row_bytes(j->d);
    if (!j->tiles) return mw_ckpt_read(j->c, j->d, r0, r1 - r0, 0, j->d->cols, j->m->q + (size_t)r0 * half, half, true);
    mw_status st = mw_ckpt_read(j->c, j->d, r0, r1 - r0, 0, j->d->cols, scratch, row, true);
    if (st != MW_OK) return st;
    mw_unpack_tiles(scratch, (size_t)j->d->cols, (r1 - r0) * MW_TILE_K, j->m->n,
                    j->m->q + (size_t)r0 * MW_TILE_K * half, half);
    return MW_OK;
}

/* Whole dataset `index`, rows of `cols` elements into dst; in tiles its columns are permuted and padded. */
static mw_status small(const mw_ckpt *c, int index, int64_t cols, void *dst) {
    mw_status st = MW_OK;
    const mw_dataset *d = mw_ckpt_dataset(c, index);
    size_t elem = mw_dtype_size(d->dtype), row = row_bytes(d);
    uint8_t *raw = NULL, *natural = NULL;
    if (mw_ckpt_layout(c) != MW_IN_TILES || d->dtype == MW_I32)
        return mw_ckpt_read(c, d, 0, d->rows, 0, d->cols, dst, row, true);
    MW_TRY(st, mw_alloc64((void **)&raw, (size_t)d->rows * row, "scales"));
    MW_TRY(st, mw_alloc64((void **)&natural, row, "scales"));
    MW_TRY(st, mw_ckpt_read(c, d, 0, d->rows, 0, d->cols, raw, row, true));
    for (int64_t r = 0; r < d->rows; r++) {
        mw_permute64(raw + (size_t)r * row, natural, 1, d->cols, elem);
        memcpy((uint8_t *)dst + (size_t)(r * cols) * elem, natural, (size_t)cols * elem);
    }
fail:
    free(raw);
    free(natural);
    return st;
}

static mw_status check_parts(const mw_ckpt *c, const mw_weight *w, const mw_matrix *m) {
    mw_status st = MW_OK;
    uint8_t *seen = NULL;
    for (int64_t i = 0; m->zeros && i < m->k / m->group * m->n; i++)
        if (m->zeros[i] > 16)
            return MW_FAIL(MW_ERR_CORRUPT, "%s: %s/zeros: %d, expected 0 to 16", mw_ckpt_path(c), w->name, m->zeros[i]);
    if (!m->perm) return MW_OK;
    MW_TRY(st, MW_CALLOC(&seen, (size_t)m->k, "check of perm"));
    for (int64_t p = 0; p < m->k; p++) {
        int32_t k = m->perm[p];
        if (k < 0 || k >= m->k || seen[k]) {
            st = MW_FAIL(MW_ERR_CORRUPT, "%s: %s/perm: is not a permutation (%d at [%lld])", mw_ckpt_path(c), w->name,
                         k, (long long)p);
            goto fail;
        }
        seen[k] = 1;
    }
fail:
    free(seen);
    return st;
}

mw_status mw_dequant_read(mw_matrix *m, void *mem, const mw_ckpt *c, const mw_weight *w, mw_pool *pool) {
    mw_status st = MW_OK;
    const mw_dataset *q = mw_ckpt_dataset(c, w->qweight);
    mw_matrix r = {.k = w->k, .n = w->n, .group = w->group_size};
    mw_matrix_place(&r, mem);
    r.scale_dtype = mw_ckpt_dataset(c, w->scales)->dtype;
    MW_TRY(st, small(c, w->scales, w->n, r.scales));
    if (w->zeros < 0)
        r.zeros = NULL;
    else
        MW_TRY(st, small(c, w->zeros, w->n, r.zeros));
    if (w->perm < 0)
        r.perm = NULL;
    else
        MW_TRY(st, small(c, w->perm, w->k, r.perm));
    r.bias = NULL;
    MW_TRY(st, check_parts(c, w, &r));
    band_job j = {c, q, &r, mw_ckpt_layout(c) == MW_IN_TILES};
    int64_t step = BAND_BYTES / (int64_t)row_bytes(q) / q->block_rows * q->block_rows;
    if (step < q->block_rows) step = q->block_rows; /* whole checksum blocks, each read once */
    MW_TRY(st, mw_chunks(pool, q->rows, step, j.tiles ? (size_t)step * row_bytes(q) : 0, band, &j));
    *m = r;
fail:
    return st;
}

/* ---- float weights ---------------------------------------------------------------------------------------------- */

#define BLOCK 32 /* stored rows turned around at once; never across a group, which is a multiple of 16 */

static uint32_t bits_of(float x, mw_dtype t) {
    return t == MW_F16 ? mw_f32_to_f16(x) : t == MW_BF16 ? mw_f32_to_bf16(x) : mw_f32_bits(x);
}

/* What the 16 codes of column n, group g mean; false when one of them overflows. */
static bool code_values(const mw_matrix *m, int64_t g, int64_t n, mw_dtype out, uint32_t value[16]) {
    float scale = mw_load_f32(m->scales, m->scale_dtype, (size_t)(g * m->n + n));
    int zero = m->zeros ? m->zeros[g * m->n + n] : 8;
    uint32_t inf = out == MW_F16 ? 0x7c00 : out == MW_BF16 ? 0x7f80 : 0x7f800000;
    bool fit = true;
    for (int q = 0; q < 16; q++) {
        value[q] = bits_of((float)(q - zero) * scale, out);
        fit = fit && (value[q] & inf) != inf;
    }
    return fit;
}

/* Stored rows [p0, p1) of one group, for column n: into a row of the result. */
static void put_codes(const mw_matrix *m, int64_t p0, int64_t p1, int64_t n, const uint32_t value[16], mw_dtype out,
                      uint8_t *dst) {
    const uint8_t *q = m->q + p0 * (m->n / 2) + n / 2;
    int shift = n % 2 ? 4 : 0;
    for (int64_t p = p0; p < p1; p++, q += m->n / 2) {
        int64_t k = m->perm ? m->perm[p] : p;
        uint32_t v = value[*q >> shift & 15];
        if (out == MW_F32)
            memcpy(dst + 4 * k, &v, 4);
        else
            ((uint16_t *)(void *)dst)[k] = (uint16_t)v;
    }
}

mw_status mw_dequant_channels(const mw_matrix *m, const char *name, int64_t n0, int64_t n1, mw_dtype out, void *dst) {
    mw_status st = MW_OK;
    size_t row = (size_t)m->k * mw_dtype_size(out);
    uint32_t(*value)[16] = NULL;
    bool fit = true;
    MW_TRY(st, MW_CALLOC(&value, (size_t)(n1 - n0), "code values"));
    for (int64_t g = 0; g < m->k / m->group; g++) {
        for (int64_t n = n0; n < n1; n++) fit = code_values(m, g, n, out, value[n - n0]) && fit;
        for (int64_t p = g * m->group; p < (g + 1) * m->group; p += BLOCK) {
            int64_t end = p + BLOCK < (g + 1) * m->group ? p + BLOCK : (g + 1) * m->group;
            for (int64_t n = n0; n < n1; n++)
                put_codes(m, p, end, n, value[n - n0], out, (uint8_t *)dst + (size_t)(n - n0) * row);
        }
    }
    /* An overflowing code matters only where a weight has it. */
    if (!fit && mw_check_finite(name, dst, out, n0, n1 - n0, m->k) != MW_OK)
        st = MW_FAIL(MW_ERR_NUMERIC, "%s: a weight of outputs %lld to %lld does not fit %s", name, (long long)n0,
                     (long long)n1 - 1, mw_dtype_name(out));
fail:
    free(value);
    return st;
}

/* ---- GPTQ tensors ----------------------------------------------------------------------------------------------- */

void mw_dequant_gptq_rows(const mw_matrix *m, const int32_t *place, int64_t r0, int64_t r1, uint32_t *dst) {
    int64_t half = m->n / 2;
    for (int64_t r = r0; r < r1; r++, dst += m->n) {
        memset(dst, 0, (size_t)m->n * 4);
        for (int i = 0; i < 8; i++) {
            int64_t k = 8 * r + i;
            const uint8_t *q = m->q + (place ? place[k] : k) * half;
            for (int64_t c = 0; c < half; c++) {
                dst[2 * c] |= (uint32_t)(q[c] & 15) << (4 * i);
                dst[2 * c + 1] |= (uint32_t)(q[c] >> 4) << (4 * i);
            }
        }
    }
}

void mw_dequant_gptq_zeros(const mw_matrix *m, int offset, uint32_t *dst) {
    int64_t words = m->k / m->group * (m->n / 8);
    for (int64_t w = 0; w < words; w++) {
        dst[w] = 0;
        for (int i = 0; i < 8; i++) {
            int z = (m->zeros ? m->zeros[8 * w + i] : 8) - offset;
            dst[w] |= (uint32_t)z << (4 * i);
        }
    }
}

void mw_dequant_gptq_groups(const mw_matrix *m, int32_t *dst) {
    for (int64_t p = 0; p < m->k; p++) dst[m->perm ? m->perm[p] : p] = (int32_t)(p / m->group);
}
