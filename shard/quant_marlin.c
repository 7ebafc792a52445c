/* Marlin checkpoints: B I32 [K/16, 2N] is the tile matrix of kernels/kernels.h; s F16 [K/group, N] has its columns
 * permuted, inside every 64 for groups and inside every 32 per channel. Always symmetric. */
#include <stdlib.h>

#include "shard/pack.h"
#include "shard/quant.h"

#define CHUNK_BYTES (1u << 20)

static mw_status chunk(const void *arg, int64_t t0, int64_t t1, void *scratch) {
    const mw_quant_job *j = arg;
    int64_t n = j->m->n;
    size_t row = (size_t)n * 8;
    mw_status st = mw_st_read(j->folder, j->w->main, (uint64_t)t0 * row, (size_t)(t1 - t0) * row, scratch);
    if (st != MW_OK) return st;
    mw_unpack_tiles(scratch, (size_t)n * 2, (t1 - t0) * MW_TILE_K, n, mw_quant_row(j, t0 * MW_TILE_K), (size_t)n / 2);
    return MW_OK;
}

static mw_status read_scales(mw_quant_job *j) {
    mw_status st = MW_OK;
    mw_matrix *m = j->m;
    int64_t groups = m->k / m->group, n = m->n;
    uint16_t *raw = NULL, *out = m->scales;
    MW_TRY(st, MW_CALLOC(&raw, (size_t)(groups * n), "scales"));
    MW_TRY(st, mw_quant_whole(j->folder, j->w->scales, raw));
    if (groups > 1) {
        mw_permute64(raw, out, groups, n, 2);
        goto fail;
    }
    for (int64_t c = 0; c < n; c++) { /* position 8i+t of 32 holds column 2i + 8*(t>>1) + (t&1) */
        int64_t p = c % 32, i = p / 8, t = p % 8;
        out[c - p + 2 * i + 8 * (t >> 1) + (t & 1)] = raw[c];
    }
fail:
    free(raw);
    return st;
}

mw_status mw_quant_marlin(mw_quant_job *j) {
    size_t row = (size_t)j->m->n * 8;
    j->units = j->m->k / MW_TILE_K;
    j->step = (int64_t)(CHUNK_BYTES / row) + 1;
    j->scratch = (size_t)j->step * row;
    j->chunk = chunk;
    j->m->zeros = NULL;
    return read_scales(j);
}
