/* kernels/cuda/w4_config.c - shape -> configuration of the int4 GEMM. Plain arithmetic, no device. */
#include <math.h>
#include <stdio.h>

#include "kernels/cuda/w4.h"

#define BLOCK_RESERVED 1024 /* shared memory the driver keeps for itself in every block */

#ifdef MW_CUDA_SM90A
static bool has_wgmma(const mw_dev *d) {
    return d->sm == 90;
}
#else
static bool has_wgmma(const mw_dev *d) {
    (void)d;
    return false;
}
#endif

static const char *const k_names[MW_W4_VARIANTS] = {"m8",  "lean", "m32", "m64",   "m128",
                                                    "g32", "g64n", "g64", "g128n", "g128"};

mw_w4_shape mw_cuda_w4_shape(mw_w4_variant v) {
    static const mw_w4_shape shape[MW_W4_VARIANTS] = {
        [MW_W4_M8] = {1, 1, 1, 8, 2, 2},    [MW_W4_LEAN] = {1, 1, 1, 8, 2, 2}, [MW_W4_M32] = {2, 1, 2, 8, 2, 1},
        [MW_W4_M64] = {4, 2, 2, 2, 2, 1},   [MW_W4_M128] = {4, 4, 2, 1, 1, 1}, [MW_W4_G32] = {4, 1, 4, 1, 1, 2},
        [MW_W4_G64N] = {8, 1, 2, 1, 1, 2},  [MW_W4_G64] = {8, 1, 4, 1, 1, 1},  [MW_W4_G128N] = {16, 1, 2, 1, 1, 1},
        [MW_W4_G128] = {16, 1, 4, 1, 1, 1},
    };
    return shape[v];
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static int round_up(int64_t x, int to) {
    return (int)(ceil_div(x, to) * to);
}

/* Scale groups that a stage of kb rows can touch; stages begin at multiples of kb. */
static int scale_rows(int kb, int64_t group, int64_t k) {
    int64_t rows;
    if (group >= kb)
        rows = group % kb == 0 ? 1 : 2;
    else
        rows = kb % group == 0 ? kb / group : (kb - 16) / group + 2;
    return (int)(rows < k / group ? rows : k / group);
}

mw_w4_config mw_cuda_w4_wgmma(const mw_dev *d, int64_t m, const mw_linear *w, mw_w4_variant v, int split, int per_sm) {
    mw_w4_shape s = mw_cuda_w4_shape(v);
    mw_w4_config c = {.variant = v, .bm = 8 * s.mt, .bn = 64 * s.wn, .kb = 64, .bulk = true};
    c.m_tiles = (int)ceil_div(m, c.bm);
    c.n_tiles = (int)ceil_div(w->n, c.bn);
    c.k_stages = (int)ceil_div(w->k, c.kb);
    c.fine = w->w4.group % c.kb != 0;
    c.x_rows = c.bm;
    c.x_rows_last = round_up(m - (int64_t)(c.m_tiles - 1) * c.bm, 8);
    c.scale_rows = scale_rows(c.kb, w->w4.group, w->k);
    c.off_x = c.bn * c.kb / 2;
    c.off_s = c.off_x + c.x_rows * c.kb * 2;
    c.off_z = c.off_s + round_up((int64_t)c.scale_rows * c.bn * (int64_t)mw_dtype_size(w->w4.scale_dtype), 128);
    c.stage_bytes = round_up(c.off_z + (w->w4.zeros ? c.scale_rows * c.bn : 0), MW_W4_ALIGN);

    int fixed = MW_W4_ALIGN + MW_W4_BAR_BYTES + 8 * MW_WG_OWN;
    c.per_sm = per_sm;
    int64_t room = ((int64_t)d->smem_max + BLOCK_RESERVED) / per_sm - BLOCK_RESERVED - fixed;
    int64_t ring = has_wgmma(d) && per_sm <= s.blocks_per_sm ? room / c.stage_bytes : 0;
    c.ring = ring < 2 ? 0 : ring > MW_W4_MAX_RING ? MW_W4_MAX_RING : (int)ring;
    c.smem = fixed + c.ring * c.stage_bytes;
    c.threads = 256 + MW_W4_FEEDER;

    int64_t tiles = (int64_t)c.m_tiles * c.n_tiles, slots = (int64_t)d->n_sm * per_sm,
            all = tiles < slots ? tiles : slots;
    c.split = split < c.k_stages ? split : c.k_stages;
    c.blocks = (int)(c.split > 1 ? tiles * c.split : all);
    c.waves = (int)ceil_div(tiles, all);
    return c;
}

/* Tiles that every block takes whole; the others are cut. */
static void whole_tiles(mw_w4_config *c) {
    int64_t tiles = (int64_t)c->m_tiles * c->n_tiles;
    c->waves = (int)(tiles / c->blocks);
    if (tiles % c->blocks && c->waves) c->waves--; /* the cut tiles: between one and two a block, or none */
}

/* 128s of k that share a scale, as a power of two; -1 where it is none. */
static int lean_shift(const mw_linear *w) {
    if (w->w4.group == w->k) return 31;
    for (int shift = 0; shift < 16; shift++)
        if (w->w4.group == (int64_t)128 << shift) return shift;
    return -1;
}

/* Shared memory of a block of the first kind (w4_lean.cuh), of which no two fit a multiprocessor, and what that leaves
 * for a block of the second kind beside it. */
static int64_t lean_room(const mw_dev *d, bool first) {
    int64_t all = (int64_t)d->smem_max + BLOCK_RESERVED, more_than_half = all / 2 + 1024 - BLOCK_RESERVED;
    return first ? more_than_half : all - more_than_half - 2 * BLOCK_RESERVED;
}

mw_w4_config mw_cuda_w4_lean(const mw_dev *d, int64_t m, const mw_linear *w, const mw_fuse *f) {
    bool norm = f && f->norm;
    int halves = f && f->silu_mul ? 2 : 1;
    mw_w4_config c = {.variant = MW_W4_LEAN, .bm = 8, .bn = 64, .kb = 512, .bulk = true, .m_tiles = 1};
    c.group_shift = lean_shift(w), c.halves = halves;
    if (d->sm < 90 || m > 8 || w->k % 128 != 0 || w->n % (64 * halves) != 0 || c.group_shift < 0) return c;
    if (norm && (m != 1 || w->k > MW_W4_LEAN_NORM_K)) return c;
    c.n_tiles = (int)(w->n / 64 / halves);
    c.k_stages = (int)ceil_div(w->k, c.kb);
    int64_t stages = (int64_t)c.n_tiles * c.k_stages;
    c.blocks = stages < d->n_sm ? (int)stages : d->n_sm;
    whole_tiles(&c);

    c.x_rows = (int)m;
    c.scale_rows = scale_rows(c.kb, w->w4.group, w->k);
    int tiles = c.bn * c.kb / 2, x = c.x_rows * c.kb * 2, z = w->w4.zeros ? round_up(c.scale_rows * c.bn, 128) : 0;
    int s = c.scale_rows * c.bn * (int)mw_dtype_size(w->w4.scale_dtype);
    int fixed = MW_W4_ALIGN + MW_W4_BAR_BYTES + (int)(m + 1) / 2 * MW_W4_LEAN_RED + (norm ? c.k_stages * x : 0);
    c.stage_bytes = tiles + s + z + (norm ? 0 : x);
    c.ring = (int)(lean_room(d, norm) - fixed) / c.stage_bytes;
    if (c.ring > MW_W4_MAX_RING - 2) c.ring = MW_W4_MAX_RING - 2;
    c.ring -= c.ring % 2; /* a team always meets the same slots */
    c.off_x = c.ring * tiles;
    c.off_s = c.off_x + (norm ? c.k_stages : c.ring) * x;
    c.off_z = c.off_s + c.ring * s;
    c.off_red = c.off_z + c.ring * z;
    c.smem = fixed + c.ring * c.stage_bytes;
    c.smem_first = (int)lean_room(d, true);
    c.threads = 256 + MW_W4_FEEDER;
    return c;
}

mw_w4_config mw_cuda_w4_layout(const mw_dev *d, int64_t m, const mw_linear *w, mw_w4_variant v, int kb) {
    if (mw_w4_is_wgmma(v)) return mw_cuda_w4_wgmma(d, m, w, v, kb / 64, 1);
    if (v == MW_W4_LEAN) return mw_cuda_w4_lean(d, m, w, NULL);
    mw_w4_shape s = mw_cuda_w4_shape(v);
    mw_w4_config c = {.variant = v, .bm = 8 * s.mt * s.wm, .bn = 64 * s.wn, .kb = kb, .bulk = d->sm >= 90};
    c.m_tiles = (int)ceil_div(m, c.bm);
    c.n_tiles = (int)ceil_div(w->n, c.bn);
    c.k_stages = (int)ceil_div(w->k, kb);
    c.x_rows = m < c.bm ? (int)m : c.bm;
    c.scale_rows = scale_rows(kb, w->w4.group, w->k);
    c.off_x = c.bn * kb / 2;
    c.off_s = c.off_x + round_up((int64_t)c.x_rows * kb * 2, 128);
    c.off_z = c.off_s + round_up((int64_t)c.scale_rows * c.bn * (int64_t)mw_dtype_size(w->w4.scale_dtype), 128);
    c.stage_bytes = round_up(c.off_z + (w->w4.zeros ? c.scale_rows * c.bn : 0), MW_W4_ALIGN);

    int fixed = MW_W4_ALIGN + MW_W4_BAR_BYTES + (s.wk > 1 ? MW_W4_RED_BYTES(s.wm * s.wn * s.wk) : 0);
    int per_sm = d->sm >= 90 ? s.blocks_per_sm : 1;
    int64_t room = ((int64_t)d->smem_max + BLOCK_RESERVED) / per_sm - BLOCK_RESERVED - fixed;
    int64_t ring = room / c.stage_bytes;
    ring -= ring % s.teams;
    if (s.mt >= 4 && has_wgmma(d)) ring = 0; /* not compiled for it */
    c.ring = ring < 2 || kb / 16 < s.wk ? 0 : ring > MW_W4_MAX_RING ? MW_W4_MAX_RING : (int)ring;
    c.smem = fixed + c.ring * c.stage_bytes;
    c.threads = 32 * s.wm * s.wn * s.wk + (c.bulk ? MW_W4_FEEDER : 0);

    int64_t stages = (int64_t)c.m_tiles * c.n_tiles * c.k_stages;
    c.blocks = stages < d->n_sm ? (int)stages : d->n_sm;
    whole_tiles(&c);
    return c;
}

/* Largest stage of those given of which at least `ring` fit, else the smallest. */
static mw_w4_config first_fit(const mw_dev *d, int64_t m, const mw_linear *w, mw_w4_variant v, const int *kb, int n,
                              int ring) {
    mw_w4_config c = {0};
    for (int i = 0; i < n; i++) {
        c = mw_cuda_w4_layout(d, m, w, v, kb[i]);
        if (c.ring >= ring) break;
    }
    return c;
}

/* Clusters of `split` blocks that 132 multiprocessors of an H200 hold at once (those of a cluster are of one part of
 * the chip, and the parts are not of equal size). */
static double clusters_at_once(const mw_dev *d, int split, int per_sm) {
    static const int n[2][MW_WG_MAX_SPLIT + 1] = {{0, 132, 66, 39, 30, 22, 17, 15, 15},
                                                  {0, 264, 132, 79, 62, 47, 39, 32, 30}};
    return (double)n[per_sm - 1][split] * d->n_sm / 132;
}

/* One of the wgmma kernels, by the time that it should take: for every wave of blocks, its stages of k, what a tile
 * costs beside, and the joining of sums; and a fixed time. us, fitted to 500 measurements on an H200 (mean error 5 %,
 * docs/PERF.md). */
static mw_w4_config choose_wgmma(const mw_dev *d, int64_t m, const mw_linear *w) {
    static const struct {
        mw_w4_variant v;
        int per_sm;
        double stage, tile, join, fixed;
    } kind[] = {{MW_W4_G32, 1, 0.413, 2.4, 2.4, 1.0},  {MW_W4_G32, 2, 0.74, 5.5, 0.5, 1.0},
                {MW_W4_G64N, 1, 0.324, 2.4, 1.8, 1.3}, {MW_W4_G64N, 2, 0.53, 4.5, 0.7, 1.0},
                {MW_W4_G64, 1, 0.484, 2.7, 2.8, 1.0},  {MW_W4_G128N, 1, 0.395, 3.7, 1.4, 1.1},
                {MW_W4_G128, 1, 0.669, 4.6, 3.3, 0.0}};
    mw_w4_config best = {0};
    double least = 1e30;
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        for (int split = 1; split <= MW_WG_MAX_SPLIT; split++) {
            mw_w4_config c = mw_cuda_w4_wgmma(d, m, w, kind[i].v, split, kind[i].per_sm);
            double us = kind[i].stage * (double)ceil_div(c.k_stages, c.split) + kind[i].tile;
            if (c.split > 1) us += kind[i].join;
            us *= ceil((double)c.m_tiles * c.n_tiles / clusters_at_once(d, c.split, c.per_sm));
            us += kind[i].fixed;
            if (c.ring >= 2 && us < least) least = us, best = c;
        }
    return best;
}

/* Thresholds and stages as measured on an H200 (docs/PERF.md): a stage has a fixed cost, so it is as large as leaves a
 * ring of three or four. Nine to 32 rows run in tiles of 16: the second pass over the weights comes from L2. */
mw_w4_config mw_cuda_w4_choose(const mw_dev *d, int64_t m, const mw_linear *w) {
    static const int kb[] = {512, 256, 128, 64};
    if (m > 16 && has_wgmma(d)) return choose_wgmma(d, m, w);
    if (m <= 8) {
        mw_w4_config c = mw_cuda_w4_lean(d, m, w, NULL);
        if (c.ring >= 2) return c;
    }
    if (m <= 8) return first_fit(d, m, w, MW_W4_M8, kb, 3, 4);
    if (m <= 32) return first_fit(d, m, w, MW_W4_M32, kb, 3, 3);
    if (m <= 64) return first_fit(d, m, w, MW_W4_M64, kb + 1, 3, 3);
    return first_fit(d, m, w, MW_W4_M128, kb + 2, 2, 3);
}

char *mw_cuda_w4_print(const mw_w4_config *c, char *buf, size_t size) {
    snprintf(buf, size,
             "%s: tile %dx%d, stage k %d of %d bytes, ring %d, %s, tiles %dx%d, %d stages a tile, %d blocks of %d, "
             "%d whole tiles a block, split %d, %d a multiprocessor, %d bytes shared",
             k_names[c->variant], c->bm, c->bn, c->kb, c->stage_bytes, c->ring, c->bulk ? "bulk copies" : "cp.async",
             c->m_tiles, c->n_tiles, c->k_stages, c->blocks, c->threads, c->waves, c->split, c->per_sm, c->smem);
    return buf;
}
