/* kernels/cuda/w4_args.cuh - what a launch of the int4 GEMM is told, and the order in which a block does its work. */
#ifndef MW_KERNELS_CUDA_W4_ARGS_CUH
#define MW_KERNELS_CUDA_W4_ARGS_CUH
#include <cuda.h>

#include "kernels/cuda/w4.h"

typedef struct mw_w4_args {
    CUtensorMap map_w, map_x, map_s, map_z; /* sm_90; the pointers serve the others */
    CUtensorMap map_x_last;                 /* wgmma: of the last tile of rows */
    const uint32_t *tiles;
    const char *scales;
    const uint8_t *zeros;
    const char *x;
    const float *bias;
    void *y;
    uint32_t
        *slots; /* [blocks][bm * bn] partial sums for the block that finishes the tile; all zero between launches */
    int64_t ldx, ldy;
    uint64_t group_magic; /* floor(kt / group_tiles) = kt * group_magic >> 32 */
    int m, n, k_tiles, group_tiles, groups;
    int scale_dtype, scale_size;
    int m_tiles, n_tiles, k_stages, waves, row_band;
    int split;         /* wgmma: blocks of a cluster, which share a tile; stages of each: cut, so many one more */
    int cut, cut_more; /* stages of cut tiles that every block takes; so many blocks take one more */
    int kb_tiles, ring, x_rows, x_rows_last, scale_rows;
    int off_x, off_s, off_z, stage_bytes;
    /* w4_lean.cuh: 128s of k a group, as a shift; places in shared memory; 2 where gate and up are computed together.
     * In front of it, where norm is not NULL: x + delta (if any) goes to sum and, times norm, is multiplied. */
    int group_shift, off_red, off_bars, halves;
    const float *norm;
    const char *delta;
    char *sum;
    float eps;
    bool y_f32, y_pairs; /* y_pairs: two neighbours of y may be stored as one word */
    bool y_rows16;       /* y's rows are of 16 bits and begin at multiples of 16 bytes */
} mw_w4_args;

static __device__ __forceinline__ int mw_w4_group(const mw_w4_args &a, int kt) {
    return (int)(((uint64_t)kt * a.group_magic) >> 32);
}

/* A piece of work: stages s0 .. s1-1 of a tile, which is tile mi of the rows and ni of the columns. */
typedef struct mw_w4_item {
    int tile, mi, ni, s0, s1;
} mw_w4_item;

/* The first number of the list of cut stages that belongs to block b. */
static __device__ __forceinline__ int mw_w4_cut(const mw_w4_args &a, int b) {
    return a.cut * b + min(b, a.cut_more);
}

/* A block's items: its whole tiles, then its piece of the list from the end. So the start of a tile, which goes to
 * another block, is handed over before the block waits for anything itself, and it waits only for blocks before it.
 * Divisions happen here, once an item: a thread that feeds the copy engine has no time for them. */
struct mw_w4_walk {
    int wave, u0, u1;
    __device__ __forceinline__ explicit mw_w4_walk(const mw_w4_args &a)
        : wave(0), u0(mw_w4_cut(a, blockIdx.x)), u1(mw_w4_cut(a, blockIdx.x + 1)) {}

    __device__ __forceinline__ bool next(const mw_w4_args &a, mw_w4_item *it) {
        if (!advance(a, it)) return false;
        place(a, it);
        return true;
    }

    __device__ __forceinline__ bool advance(const mw_w4_args &a, mw_w4_item *it) {
        if (wave < a.waves) {
            it->tile = wave++ * (int)gridDim.x + (int)blockIdx.x;
            it->s0 = 0, it->s1 = a.k_stages;
        } else {
            if (u1 <= u0) return false;
            int t = (u1 - 1) / a.k_stages, first = t * a.k_stages, from = max(first, u0);
            it->tile = a.waves * (int)gridDim.x + t;
            it->s0 = from - first, it->s1 = u1 - first;
            u1 = from;
        }
        return true;
    }

    /* next() where all rows are in one tile. */
    __device__ __forceinline__ bool next_column(const mw_w4_args &a, mw_w4_item *it) {
        if (!advance(a, it)) return false;
        it->mi = 0, it->ni = it->tile;
        return true;
    }

    /* Bands of row_band tiles of rows, columns inside a band, so that the blocks of a moment share x and weights in L2.
     */
    static __device__ __forceinline__ void place(const mw_w4_args &a, mw_w4_item *it) {
        it->mi = 0, it->ni = it->tile;
        if (a.m_tiles == 1) return;
        int per_band = a.row_band * a.n_tiles, band = it->tile / per_band,
            rows = min(a.row_band, a.m_tiles - band * a.row_band);
        int t = it->tile - band * per_band;
        it->ni = t / rows;
        it->mi = band * a.row_band + t - it->ni * rows;
    }
};

/* The same, stage by stage: stage s of rows mi, columns ni. */
struct mw_w4_stages {
    mw_w4_walk walk;
    mw_w4_item at;
    int s;
    __device__ __forceinline__ explicit mw_w4_stages(const mw_w4_args &a) : walk(a), at{0, 0, 0, 0, 0}, s(-1) {}
    __device__ __forceinline__ bool next(const mw_w4_args &a) {
        if (++s < at.s1) return true;
        if (!walk.next(a, &at)) return false;
        s = at.s0;
        return true;
    }
};

/* The kernel of a variant; threads, blocks and shared memory are in the configuration. */
typedef void (*mw_w4_kernel)(const mw_w4_args);
mw_w4_kernel mw_w4_kernel_f16(mw_w4_variant v);
mw_w4_kernel mw_w4_kernel_bf16(mw_w4_variant v);
mw_w4_kernel mw_w4_lean_f16(bool zeros, bool scale_act, bool one, bool second);
mw_w4_kernel mw_w4_lean_bf16(bool zeros, bool scale_act, bool one, bool second);
mw_w4_kernel mw_w4_wgmma_f16(mw_w4_variant v, bool fine, bool zeros);
mw_w4_kernel mw_w4_wgmma_bf16(mw_w4_variant v, bool fine, bool zeros);

#endif
