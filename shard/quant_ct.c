/* compressed-tensors "pack-quantized", in the orientation of nn.Linear: weight_packed I32 [N, K/8], nibble i of word
 * (n, r) is q[8r+i, n]; weight_scale [N, K/group]; weight_zero_point I32 [N/8, K/group], nibble i of word (c, g) is the
 * zero of column 8c+i; weight_shape {N, K}. Values and zeros are stored + 8, that is as the q and zero of quant.h. */
#include <stdlib.h>

#include "shard/quant.h"

#define COLUMNS 128 /* outputs of a chunk: 64 bytes of every stored row, so that threads do not share cache lines */
#define WORDS   16  /* words along K of a block: one cache line of each source row */

/* Block of `words` words from each of `cols` source rows (row_words apart) -> 8 * words stored rows from input row k0
 * on, columns n0 .. n0+cols-1. The block is copied first: source rows lie a power of two apart, which no cache likes.
 */
static void block(const mw_quant_job *j, const uint32_t *src, int64_t row_words, int64_t cols, int64_t words,
                  int64_t k0, int64_t n0) {
    uint32_t near[WORDS][COLUMNS];
    uint8_t out[8][COLUMNS / 2];
    uint8_t *const dst[8] = {out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]};
    for (int64_t c = 0; c < cols; c++)
        for (int64_t r = 0; r < words; r++) near[r][c] = src[c * row_words + r];
    for (int64_t r = 0; r < words; r++) {
        mw_nibble_rows(near[r], cols, dst);
        for (int i = 0; i < 8; i++) memcpy(mw_quant_row(j, k0 + 8 * r + i) + n0 / 2, out[i], (size_t)cols / 2);
    }
}

static mw_status chunk(const void *arg, int64_t n0, int64_t n1, void *scratch) {
    const mw_quant_job *j = arg;
    int64_t row_words = j->m->k / 8;
    size_t row = (size_t)row_words * 4;
    mw_status st = mw_st_read(j->folder, j->w->main, (uint64_t)n0 * row, (size_t)(n1 - n0) * row, scratch);
    if (st != MW_OK) return st;
    for (int64_t r = 0; r < row_words; r += WORDS)
        block(j, (const uint32_t *)scratch + r, row_words, n1 - n0, row_words - r < WORDS ? row_words - r : WORDS,
              8 * r, n0);
    return MW_OK;
}

static mw_status check_shape(const mw_quant_job *j) {
    mw_status st = MW_OK;
    const mw_st_tensor *t = j->w->extents;
    int64_t wide[2] = {0, 0};
    int32_t narrow[2];
    if (t->dtype == MW_ST_I64) {
        MW_TRY(st, mw_quant_whole(j->folder, t, wide));
    } else {
        MW_TRY(st, mw_quant_whole(j->folder, t, narrow));
        wide[0] = narrow[0];
        wide[1] = narrow[1];
    }
    if (wide[0] != j->m->n || wide[1] != j->m->k)
        st = MW_FAIL(MW_ERR_FORMAT, "tensor '%s' says [%lld, %lld], expected [%lld, %lld]", t->name, (long long)wide[0],
                     (long long)wide[1], (long long)j->m->n, (long long)j->m->k);
fail:
    return st;
}

/* [N][groups] -> [groups][N] */
static mw_status read_scales(mw_quant_job *j) {
    mw_status st = MW_OK;
    mw_matrix *m = j->m;
    int64_t groups = m->k / m->group, n = m->n;
    void *raw = NULL;
    MW_TRY(st, mw_alloc64(&raw, (size_t)j->w->scales->bytes, "scales"));
    MW_TRY(st, mw_quant_whole(j->folder, j->w->scales, raw));
    for (int64_t g = 0; g < groups; g++)
        for (int64_t c = 0; c < n; c++) {
            if (m->scale_dtype == MW_F32)
                ((uint32_t *)m->scales)[g * n + c] = ((const uint32_t *)raw)[c * groups + g];
            else
                ((uint16_t *)m->scales)[g * n + c] = ((const uint16_t *)raw)[c * groups + g];
        }
fail:
    free(raw);
    return st;
}

static mw_status read_zeros(mw_quant_job *j) {
    mw_status st = MW_OK;
    mw_matrix *m = j->m;
    int64_t groups = m->k / m->group;
    uint32_t *packed = NULL;
    bool all_eight = true;
    if (j->w->zeros) {
        MW_TRY(st, MW_CALLOC(&packed, (size_t)(m->n / 8 * groups), "packed zeros"));
        MW_TRY(st, mw_quant_whole(j->folder, j->w->zeros, packed));
        for (int64_t g = 0; g < groups; g++)
            for (int64_t c = 0; c < m->n; c++) {
                uint8_t z = packed[c / 8 * groups + g] >> (4 * (c % 8)) & 15;
                m->zeros[g * m->n + c] = z;
                all_eight = all_eight && z == 8;
            }
    }
    if (all_eight) m->zeros = NULL;
fail:
    free(packed);
    return st;
}

mw_status mw_quant_ct(mw_quant_job *j) {
    mw_status st = MW_OK;
    j->units = j->m->n;
    j->step = COLUMNS;
    j->scratch = (size_t)COLUMNS * (size_t)(j->m->k / 2);
    j->chunk = chunk;
    MW_TRY(st, check_shape(j));
    MW_TRY(st, read_scales(j));
    MW_TRY(st, read_zeros(j));
fail:
    return st;
}
