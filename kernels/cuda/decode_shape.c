#include "kernels/cuda/decode_shape.h"

int mw_cuda_decode_fixed(int hdp, int cols, bool overlay) {
    return 2 * MW_DECODE_WARPS * MW_DECODE_TILE_COLS * 4 + 2 * hdp * 2 + MW_DECODE_TILE_COLS * (hdp + 8) * 2 +
           (overlay ? 0 : MW_DECODE_WARPS * cols * (hdp + 4) * 4);
}

mw_decode_shape mw_cuda_decode_shape(const mw_dev *d, int hdp, int cols, int cluster, int tiles, int64_t blocks) {
    const int mail = cluster > 1 ? (cols * hdp / 4 + MW_DECODE_CLUSTER) * MW_DECODE_MAIL_BYTES : 0;
    const int tile = MW_DECODE_WARPS * 64 * hdp; /* of K and V, of every warp */
    const int64_t share = (blocks + d->n_sm - 1) / d->n_sm;
    const int per_sm = (int)(share < 1 ? 1 : share < MW_DECODE_BLOCKS ? share : MW_DECODE_BLOCKS);
    const int all = (int)d->smem_max + 1024;
    mw_decode_shape s = {0};
    /* A warp's state is smaller than one tile: cols * (hdp + 4) floats, 64 hdp bytes. */
    s.overlay = all - MW_DECODE_RESERVED - mw_cuda_decode_fixed(hdp, cols, false) - mail < tile;
    const int fixed = mw_cuda_decode_fixed(hdp, cols, s.overlay) + mail;
    s.depth = (all / per_sm - MW_DECODE_RESERVED - fixed) / tile;
    s.depth = s.depth < tiles ? s.depth : tiles;
    s.depth = s.depth < 1 ? 1 : s.depth > MW_DECODE_MAX_DEPTH ? MW_DECODE_MAX_DEPTH : s.depth;
    s.smem = fixed + 1024 + s.depth * tile; /* 1024: alignment */
    return s;
}
