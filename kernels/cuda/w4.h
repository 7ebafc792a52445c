/* kernels/cuda/w4.h - how the int4 GEMM is laid out on a chip: one struct, chosen by shape alone, printable.
 *
 * y is cut into tiles of bm rows x bn columns. A tile's k extent is cut into stages of kb. With T tiles on G blocks the
 * first `waves` * G tiles are taken whole, tile w*G + b by block b; the stages of the remaining tiles form one list
 * that is cut into G equal pieces, so every block works to the end on every shape. A tile that is cut between blocks is
 * summed by the block that holds its last stage, in block order: the result is bitwise repeatable.
 * The wgmma kernels (more than 16 rows on sm_90a) take tiles whole, every n_sm-th, or, where there are too few, divide
 * each tile's stages among the `split` blocks of a cluster. */
#ifndef MW_KERNELS_CUDA_W4_H
#define MW_KERNELS_CUDA_W4_H
#include "kernels/cuda/cuda.h"
MW_BEGIN_DECLS

/* M..: mma.sync; rows of a tile. LEAN: w4_lean.cuh (sm_90). G..: wgmma (sm_90a only); rows of a tile, N with half as
 * many columns. */
typedef enum {
    MW_W4_M8,
    MW_W4_LEAN,
    MW_W4_M32,
    MW_W4_M64,
    MW_W4_M128,
    MW_W4_G32,
    MW_W4_G64N,
    MW_W4_G64,
    MW_W4_G128N,
    MW_W4_G128,
    MW_W4_VARIANTS
} mw_w4_variant;

static inline bool mw_w4_is_wgmma(mw_w4_variant v) {
    return v >= MW_W4_G32;
}

/* What the compiled kernels are made of: warps over rows, columns (64 each) and k; 8-row steps of a warp. */
typedef struct mw_w4_shape {
    int mt, wm, wn, wk;
    int teams;         /* sm_90: of the warps over k, how many groups take stages in turn */
    int blocks_per_sm; /* that registers and shared memory leave room for: 2 lets the next launch start beside us */
} mw_w4_shape;

typedef struct mw_w4_config {
    mw_w4_variant variant;
    int bm, bn, kb; /* of a tile and a stage, elements */
    int m_tiles, n_tiles, k_stages, waves;
    int blocks, threads;
    int ring;               /* stages in flight */
    int x_rows, scale_rows; /* rows of x and of scales that a stage carries */
    int off_x, off_s, off_z, stage_bytes;
    int group_shift; /* lean: a group is 128 << group_shift of k */
    int halves;      /* lean: 2 where gate and up are multiplied, of which n_tiles counts pairs of tiles */
    int off_red;     /* lean: where the sums of warps meet */
    int smem_first;  /* lean: bytes of shared memory of which no two blocks fit a multiprocessor */
    int smem;        /* bytes, all of it */
    bool bulk;       /* filled by the copy engine (sm_90) or by cp.async */
    bool fine;       /* wgmma: a stage may hold several groups */
    int per_sm;      /* wgmma: blocks that a multiprocessor holds */
    int split;       /* wgmma: blocks that share a tile's k extent, a cluster */
    int x_rows_last; /* wgmma: of the last tile of rows, a multiple of 8 */
} mw_w4_config;

#define MW_W4_FEEDER 128 /* threads more on sm_90: a warpgroup of which one thread fills shared memory */
/* A round of the sum over warps_k: 8 pairs a lane from half of the warps. */
#define MW_W4_RED_BYTES(warps) ((warps) / 2 * 8 * 32 * 8)
#define MW_W4_LEAN_RED         4096 /* bytes of eight warps' sums of two rows of a tile, or twice of one */
#define MW_W4_LEAN_NORM_K      8192 /* longest row that is normed in front */
#define MW_W4_ALIGN            1024 /* the copy engine's 128-byte swizzle repeats after eight rows */
#define MW_W4_BAR_BYTES        256  /* two barriers a stage */
#define MW_W4_MAX_RING         16
#define MW_WG_OWN              2048 /* wgmma kernels: bytes of a warp's own */
#define MW_WG_MAX_SPLIT        8    /* blocks of a cluster */

mw_w4_shape mw_cuda_w4_shape(mw_w4_variant v);

/* The configuration for m rows and an int4 matrix of k x n. Uses d->sm, n_sm and smem_max; needs no device. */
mw_w4_config mw_cuda_w4_choose(const mw_dev *d, int64_t m, const mw_linear *w);
/* A wgmma kernel's, given how many blocks share a tile, 1 .. MW_WG_MAX_SPLIT, and how many a multiprocessor holds, 1
 * or, where mw_cuda_w4_shape() allows it, 2 (tuning, tests). */
mw_w4_config mw_cuda_w4_wgmma(const mw_dev *d, int64_t m, const mw_linear *w, mw_w4_variant v, int split, int per_sm);
/* The same with the variant and the stage given (tuning, tests); kb % 64 == 0. ring == 0: it does not fit, or the
 * stage has too few rows of tiles to share. */
mw_w4_config mw_cuda_w4_layout(const mw_dev *d, int64_t m, const mw_linear *w, mw_w4_variant v, int kb);
/* w4_lean.cuh's, with what f asks for (NULL: nothing); ring < 2 where it does not serve. */
mw_w4_config mw_cuda_w4_lean(const mw_dev *d, int64_t m, const mw_linear *w, const mw_fuse *f);
/* "m32: tile 32x128, stage k 128 ..." into buf; returns buf. */
char *mw_cuda_w4_print(const mw_w4_config *c, char *buf, size_t size);

/* linear, or with f not NULL linear_fused, with a given configuration (its m and f must be those it was chosen for). */
mw_status mw_cuda_linear_w4_with(mw_dev *d, const mw_w4_config *c, const mw_linear *w, int64_t m, const mw_fuse *f,
                                 const void *x, int64_t ldx, void *y, int64_t ldy, bool y_f32);

MW_END_DECLS
#endif
