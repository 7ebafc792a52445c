/* AWQ "gemm": qweight I32 [K, N/8], qzeros I32 [K/group, N/8], scales [K/group, N]. In both, nibble i of word c is
 * column 8c + {0,2,4,6,1,3,5,7}[i]: even columns in the lower half word, odd ones in the upper. */
#include <stdlib.h>

#include "shard/quant.h"

#define CHUNK_BYTES (1u << 20)

/* The nibbles of a half word, one to a byte. */
static inline uint32_t spread(uint32_t half) {
    half = (half | half << 8) & 0x00ff00ff;
    return (half | half << 4) & 0x0f0f0f0f;
}

static mw_status chunk(const void *arg, int64_t k0, int64_t k1, void *scratch) {
    const mw_quant_job *j = arg;
    int64_t words = j->m->n / 8;
    size_t row = (size_t)words * 4;
    mw_status st = mw_st_read(j->folder, j->w->main, (uint64_t)k0 * row, (size_t)(k1 - k0) * row, scratch);
    if (st != MW_OK) return st;
    const uint32_t *src = scratch;
    for (int64_t k = k0; k < k1; k++) {
        uint8_t *dst = mw_quant_row(j, k);
        for (int64_t c = 0; c < words; c++) {
            uint32_t x = *src++, pairs = spread(x & 0xffff) | spread(x >> 16) << 4;
            memcpy(dst + 4 * c, &pairs, 4);
        }
    }
    return MW_OK;
}

static mw_status read_zeros(mw_quant_job *j) {
    static const uint8_t column[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    mw_status st = MW_OK;
    mw_matrix *m = j->m;
    int64_t words = m->k / m->group * (m->n / 8);
    uint32_t *packed = NULL;
    bool all_eight = true;
    MW_TRY(st, MW_CALLOC(&packed, (size_t)words, "packed zeros"));
    MW_TRY(st, mw_quant_whole(j->folder, j->w->zeros, packed));
    for (int64_t w = 0; w < words; w++) {
        for (int i = 0; i < 8; i++) m->zeros[8 * w + column[i]] = packed[w] >> (4 * i) & 15;
        all_eight = all_eight && packed[w] == 0x88888888u;
    }
    if (all_eight) m->zeros = NULL;
fail:
    free(packed);
    return st;
}

mw_status mw_quant_awq(mw_quant_job *j) {
    mw_status st = MW_OK;
    size_t row = (size_t)j->m->n / 2;
    j->units = j->m->k;
    j->step = (int64_t)(CHUNK_BYTES / row) + 1;
    j->scratch = (size_t)j->step * row;
    j->chunk = chunk;
    MW_TRY(st, mw_quant_whole(j->folder, j->w->scales, j->m->scales));
    MW_TRY(st, read_zeros(j));
fail:
    return st;
}
