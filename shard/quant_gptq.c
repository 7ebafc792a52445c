/* GPTQ: qweight I32 [K/8, N], nibble i of word (r, n) is q[8r+i, n]; qzeros I32 [K/group, N/8], nibble i of word (g, c)
 * is the stored zero of column 8c+i, one less than the zero in v1 files (so a zero may be 16); scales [K/group, N]. */
#include <stdlib.h>

#include "shard/quant.h"

#define CHUNK_BYTES (1u << 20)

static mw_status chunk(const void *arg, int64_t r0, int64_t r1, void *scratch) {
    const mw_quant_job *j = arg;
    int64_t n = j->m->n;
    size_t row = (size_t)n * 4;
    mw_status st = mw_st_read(j->folder, j->w->main, (uint64_t)r0 * row, (size_t)(r1 - r0) * row, scratch);
    if (st != MW_OK) return st;
    for (int64_t r = r0; r < r1; r++) {
        uint8_t *dst[8];
        for (int i = 0; i < 8; i++) dst[i] = mw_quant_row(j, 8 * r + i);
        mw_nibble_rows((const uint32_t *)scratch + (r - r0) * n, n, dst);
    }
    return MW_OK;
}

static mw_status read_zeros(mw_quant_job *j) {
    mw_status st = MW_OK;
    mw_matrix *m = j->m;
    int64_t words = m->k / m->group * (m->n / 8);
    uint32_t *packed = NULL;
    bool all_eight = true;
    MW_TRY(st, MW_CALLOC(&packed, (size_t)words, "packed zeros"));
    MW_TRY(st, mw_quant_whole(j->folder, j->w->zeros, packed));
    for (int64_t w = 0; w < words; w++)
        for (int i = 0; i < 8; i++) {
            uint8_t z = (uint8_t)((packed[w] >> (4 * i) & 15) + (unsigned)j->zero_offset);
            m->zeros[8 * w + i] = z;
            all_eight = all_eight && z == 8;
        }
    if (all_eight) m->zeros = NULL;
fail:
    free(packed);
    return st;
}

mw_status mw_quant_gptq(mw_quant_job *j) {
    mw_status st = MW_OK;
    size_t row = (size_t)j->m->n * 4;
    j->units = j->m->k / 8;
    j->step = (int64_t)(CHUNK_BYTES / row) + 1;
    j->scratch = (size_t)j->step * row;
    j->chunk = chunk;
    MW_TRY(st, mw_quant_whole(j->folder, j->w->scales, j->m->scales));
    MW_TRY(st, read_zeros(j));
fail:
    return st;
}
