/* kernels/cuda/w4_kernel.cuh - y[m,n] = sum_k x[m,k] * (q[k,n] - zero) * scale (+ bias): the int4 GEMM's kernel.
 * Layouts: kernels/kernels.h (mw_w4). Division of work: w4.h. Arithmetic: w4_math.cuh. Reference: tests/ref/ref_gemm.c.
 *
 * A stage in shared memory: tiles u32 [kb/16][bn/64][128] | x [kb/64][x_rows][64], the 16-byte pieces of a row of 64
 * exchanged by piece ^ (row & 7) so that ldmatrix meets no bank twice | scales [scale_rows][bn] | zeros the same.
 * On sm_90 one thread of four more warps keeps a ring of such stages filled by the copy engine, weights of the first
 * ring before the dependency wait: they depend on no earlier kernel. On older chips the computing threads issue
 * cp.async.
 *
 * Eight or sixteen warps compute, wm x wn x wk over rows, columns and k. The sums of a group are taken apart and scaled
 * into the tile's sums in fp32. The wk warps' sums are added through shared memory, those of other blocks through
 * `slots`: every word is its own flag (0: not there yet; a true +0 is sent as -0), so handing over needs no fence, no
 * counter and no second pass, and takes one trip through L2. All orders are fixed. */
#ifndef MW_KERNELS_CUDA_W4_KERNEL_CUH
#define MW_KERNELS_CUDA_W4_KERNEL_CUH
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/w4_args.cuh"
#include "kernels/cuda/w4_math.cuh"
#include "kernels/cuda/w4_pipe.cuh"

#if __CUDA_ARCH__ >= 900
#define MW_W4_TEAMS(n)         (n)
#define MW_W4_BOUNDS(warps, b) __launch_bounds__(32 * (warps) + MW_W4_FEEDER, b)
#else
#define MW_W4_BOUNDS(warps, b) __launch_bounds__(32 * (warps), 1)
#define MW_W4_TEAMS(n)         1 /* there a block barrier precedes every stage */
#endif

/* Where a warp stands in the tile: wk of WK warps that share k, of which WK / TEAMS work on the same stage. A team has
 * every TEAMS-th stage, so that the latency of a stage is twice hidden. */
template <int MT, int WM, int WN, int WK, int TEAMS> struct mw_w4_warp {
    int warp, lane, wm, wn, wk;
    __device__ __forceinline__ mw_w4_warp() {
        warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        wk = warp % WK;
        wn = warp / WK % WN;
        wm = warp / WK / WN;
    }
    __device__ __forceinline__ int team() const { return wk / (WK / TEAMS); }
    __device__ __forceinline__ int part() const { return wk % (WK / TEAMS); }
};

/* sums += one word of a row of tiles, columns 16j + .., times B fragments. */
template <typename T, int MT, bool ZEROS>
static __device__ __forceinline__ void mw_w4_word(float sum[MT][4], uint32_t word, const uint32_t b[MT][2],
                                                  const uint32_t *shift) {
    typedef mw_w4_math<T> math;
    uint32_t f[4];
    math::unpack(word, f);
    if (ZEROS) {
        f[0] = math::add(f[0], shift[0]);
        f[1] = math::add(f[1], shift[1]);
        f[2] = math::add(f[2], shift[0]);
        f[3] = math::add(f[3], shift[1]);
    }
#pragma unroll
    for (int t = 0; t < MT; t++) math::mma(sum[t], f, b[t]);
}

template <typename T, int MT, bool ZEROS>
static __device__ __forceinline__ void mw_w4_row(float sum[4][MT][4], const uint4 &q, const uint32_t b[MT][2],
                                                 const uint32_t *shift) {
    mw_w4_word<T, MT, ZEROS>(sum[0], q.x, b, shift);
    mw_w4_word<T, MT, ZEROS>(sum[1], q.y, b, shift + 2);
    mw_w4_word<T, MT, ZEROS>(sum[2], q.z, b, shift + 4);
    mw_w4_word<T, MT, ZEROS>(sum[3], q.w, b, shift + 6);
}

/* B fragments of row r of tiles: 16 of k for MT * 8 rows of x. row_of[i]: this lane's row for the i-th ldmatrix. */
template <int MT>
static __device__ __forceinline__ void mw_w4_load_x(uint32_t b[MT][2], uint32_t x, const int *row_of, int x_rows,
                                                    int lane, unsigned r) {
    int piece = r % 4 * 2 + (lane / 8 & 1), slab = r / 4 * x_rows;
#pragma unroll
    for (int i = 0; i < (MT + 1) / 2; i++) {
        int row = slab + row_of[i];
        uint32_t v[4], at = x + row * 128 + ((piece ^ (row & 7)) << 4);
        if (MT == 1) {
            mw_ldmatrix2(b[0], at);
        } else {
            mw_ldmatrix4(v, at);
            b[2 * i][0] = v[0], b[2 * i][1] = v[1], b[2 * i + 1][0] = v[2], b[2 * i + 1][1] = v[3];
        }
    }
}

/* Four rows of tiles from r, a multiple of 4: one slab of x. In straight line, so that loads run ahead of their use. */
template <typename T, int MT, int WN, bool ZEROS>
static __device__ __forceinline__ void mw_w4_four_rows(float sum[4][MT][4], const char *w, uint32_t x,
                                                       const int *row_of, int x_rows, int lane, int r,
                                                       const uint32_t *shift) {
    uint4 q[4];
#pragma unroll
    for (int i = 0; i < 4; i++) q[i] = *reinterpret_cast<const uint4 *>(w + (r + i) * (WN * 512));
    uint32_t at[(MT + 1) / 2];
#pragma unroll
    for (int i = 0; i < (MT + 1) / 2; i++) {
        int row = r / 4 * x_rows + row_of[i], piece = MT == 1 ? lane / 8 : lane / 8 & 1;
        at[i] = x + row * 128 + ((piece ^ (row & 7)) << 4);
    }
    if (MT == 1) { /* 32 of k a load */
        uint32_t b[2][4];
        mw_ldmatrix4(b[0], at[0]);
        mw_ldmatrix4(b[1], at[0] ^ 64);
#pragma unroll
        for (int i = 0; i < 4; i++)
            mw_w4_row<T, MT, ZEROS>(sum, q[i], reinterpret_cast<const uint32_t(*)[2]>(b[i / 2] + i % 2 * 2), shift);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t b[MT][2];
#pragma unroll
            for (int t = 0; t < MT / 2; t++) {
                uint32_t v[4];
                mw_ldmatrix4(v, at[t] ^ (i << 5));
                b[2 * t][0] = v[0], b[2 * t][1] = v[1], b[2 * t + 1][0] = v[2], b[2 * t + 1][1] = v[3];
            }
            mw_w4_row<T, MT, ZEROS>(sum, q[i], b, shift);
        }
    }
}

/* Rows of tiles [r0, r1) of a stage, all of one scale group: acc += scale * sum. w: this lane's words of row 0. */
template <typename T, int MT, int WN, bool ZEROS>
static __device__ __forceinline__ void mw_w4_group_sum(const mw_w4_args &a, float acc[4][MT][4], const char *w,
                                                       uint32_t x, const int *row_of, const char *scale,
                                                       const uint8_t *zero, int r, int r1, int lane) {
    float sum[4][MT][4];
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int t = 0; t < MT; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[j][t][i] = 0;
    uint32_t shift[8] = {};
    if (ZEROS) {
        uint2 z = *reinterpret_cast<const uint2 *>(zero);
#pragma unroll
        for (int i = 0; i < 8; i++)
            shift[i] = mw_w4_math<T>::twice(8 - (int)((i < 4 ? z.x : z.y) >> (i % 4 * 8) & 255));
    }
    while (r < r1) {
        if (r % 4 == 0 && r + 4 <= r1) {
            mw_w4_four_rows<T, MT, WN, ZEROS>(sum, w, x, row_of, a.x_rows, lane, r, shift);
            r += 4;
        } else {
            uint32_t b[MT][2];
            mw_w4_load_x<MT>(b, x, row_of, a.x_rows, lane, r);
            mw_w4_row<T, MT, ZEROS>(sum, *reinterpret_cast<const uint4 *>(w + r * (WN * 512)), b, shift);
            r++;
        }
    }
    float s[8];
    mw_load_scales(scale, a.scale_dtype, s);
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int t = 0; t < MT; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[j][t][i] = fmaf(sum[j][t][i], s[2 * j + i / 2], acc[j][t][i]);
}

/* This warp's share of one stage. */
template <typename T, int MT, int WM, int WN, int WK, int TEAMS>
static __device__ __forceinline__ void mw_w4_stage(const mw_w4_args &a, float acc[4][MT][4], const char *stage,
                                                   const mw_w4_warp<MT, WM, WN, WK, TEAMS> &me, const int *row_of,
                                                   int s) {
    int kt0 = s * a.kb_tiles, rows = a.kb_tiles / (WK / TEAMS), r = me.part() * rows, end = r + rows;
    if (end > a.k_tiles - kt0) end = a.k_tiles - kt0;
    int first = mw_w4_group(a, kt0);
    const char *w = stage + me.wn * 512 + me.lane * 16;
    uint32_t x = mw_smem(stage + a.off_x);
    int col = me.wn * 64 + me.lane / 4 * 8;
    while (r < end) {
        int g = mw_w4_group(a, kt0 + r), stop = (g + 1) * a.group_tiles - kt0;
        if (stop > end) stop = end;
        int at = (g - first) * (64 * WN) + col;
        const char *scale = stage + a.off_s + at * a.scale_size;
        const uint8_t *zero = reinterpret_cast<const uint8_t *>(stage) + a.off_z + at;
        if (a.zeros)
            mw_w4_group_sum<T, MT, WN, true>(a, acc, w, x, row_of, scale, zero, r, stop, me.lane);
        else
            mw_w4_group_sum<T, MT, WN, false>(a, acc, w, x, row_of, scale, zero, r, stop, me.lane);
        r = stop;
    }
}

template <int WARPS> static __device__ __forceinline__ void mw_w4_sync() {
    asm volatile("bar.sync 1, %0;" ::"n"(32 * WARPS) : "memory");
}

/* Pair p of the 8 * MT pairs of a warp's sums: p = 2 * (j * MT + t) + h stands for column 16j + 8h + lane/4 and rows
 * 8t + 2*(lane%4) + {0,1}. After this the wk warps of a tile hold 8 * MT / WK finished pairs each. */
template <int MT, int WM, int WN, int WK, int TEAMS>
static __device__ __forceinline__ void mw_w4_join_warps(const float acc[4][MT][4], float2 *fin, float2 *red,
                                                        const mw_w4_warp<MT, WM, WN, WK, TEAMS> &me) {
    constexpr int OWN = 8 / WK, HALF = WK / 2 > 0 ? WK / 2 : 1;
    float2 *mine = red + (me.warp - me.wk) * 128 + me.wk % HALF * 256 + me.lane,
           *all = red + (me.warp - me.wk) * 128 + me.lane;
#pragma unroll
    for (int round = 0; round < MT; round++) {
        float2 v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float *c = acc[(round * 4 + i / 2) / MT][(round * 4 + i / 2) % MT] + i % 2 * 2;
            v[i] = make_float2(c[0], c[1]);
        }
        mw_w4_sync<WM * WN * WK>();
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (me.wk >= HALF) mine[i * 32] = v[i];
        mw_w4_sync<WM * WN * WK>();
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (me.wk < HALF) {
                float2 o = mine[i * 32];
                mine[i * 32] = make_float2(v[i].x + o.x, v[i].y + o.y);
            }
        mw_w4_sync<WM * WN * WK>();
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            float2 sum = all[(me.wk * OWN + i) * 32];
#pragma unroll
            for (int w = 1; w < HALF; w++) {
                float2 o = all[w * 256 + (me.wk * OWN + i) * 32];
                sum.x += o.x, sum.y += o.y;
            }
            fin[round * OWN + i] = sum;
        }
    }
}

static __device__ __forceinline__ uint32_t mw_w4_sent(float v) {
    uint32_t u = __float_as_uint(v);
    return u ? u : 0x80000000u;
}

template <int PAIRS, int WARPS>
static __device__ __forceinline__ void mw_w4_hand_over(const mw_w4_args &a, const float2 *fin, int warp, int lane) {
    uint32_t *to = a.slots + ((size_t)blockIdx.x * WARPS + warp) * (PAIRS * 64) + lane * 2;
#pragma unroll
    for (int p = 0; p < PAIRS; p++)
        asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to + p * 64), "r"(mw_w4_sent(fin[p].x)),
                     "r"(mw_w4_sent(fin[p].y))
                     : "memory");
}

/* fin += the partial sums of blocks b0 .. blockIdx.x - 1, ascending; their slots are zero again afterwards. */
template <int PAIRS, int WARPS>
static __device__ __forceinline__ void mw_w4_collect(const mw_w4_args &a, float2 *fin, int b0, int warp, int lane) {
    constexpr int STEP = PAIRS < 4 ? PAIRS : 4, BLOCKS = 4;
    constexpr size_t slot = (size_t)WARPS * PAIRS * 64;
    for (int b = b0; b < (int)blockIdx.x; b += BLOCKS) {
        uint32_t *from = a.slots + b * slot + warp * (PAIRS * 64) + lane * 2;
        int n = blockIdx.x - b;
#pragma unroll
        for (int p0 = 0; p0 < PAIRS; p0 += STEP) {
            uint2 v[BLOCKS][STEP];
            bool missing;
            do {
                missing = false;
#pragma unroll
                for (int i = 0; i < BLOCKS; i++)
#pragma unroll
                    for (int p = 0; p < STEP; p++) {
                        v[i][p] = make_uint2(0x80000000u, 0x80000000u);
                        if (i < n)
                            asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                                         : "=r"(v[i][p].x), "=r"(v[i][p].y)
                                         : "l"(from + i * slot + (p0 + p) * 64)
                                         : "memory");
                    }
#pragma unroll
                for (int i = 0; i < BLOCKS; i++)
#pragma unroll
                    for (int p = 0; p < STEP; p++) missing |= !v[i][p].x || !v[i][p].y;
            } while (missing);
#pragma unroll
            for (int i = 0; i < BLOCKS; i++)
#pragma unroll
                for (int p = 0; p < STEP; p++)
                    if (i < n) {
                        fin[p0 + p].x += __uint_as_float(v[i][p].x);
                        fin[p0 + p].y += __uint_as_float(v[i][p].y);
                        *reinterpret_cast<uint2 *>(from + i * slot + (p0 + p) * 64) = make_uint2(0, 0);
                    }
        }
    }
}

template <typename T, int MT, int WM, int WN, int WK, int TEAMS>
static __device__ __forceinline__ void mw_w4_store(const mw_w4_args &a, const float2 *fin,
                                                   const mw_w4_warp<MT, WM, WN, WK, TEAMS> &me, int row0, int col0) {
    constexpr int OWN = 8 / WK;
    int c = col0 + me.wn * 64;
    if (c >= a.n) return;
#pragma unroll
    for (int f = 0; f < 8 * MT / WK; f++) {
        int p = f / OWN * 8 + me.wk * OWN + f % OWN, jt = p / 2;
        int n0 = c + jt / MT * 16 + p % 2 * 8, m0 = row0 + (me.wm * MT + jt % MT) * 8;
        float2 v = fin[f];
        if (a.bias) {
            float b = a.bias[n0 + me.lane / 4];
            v.x += b, v.y += b;
        }
        if (a.y_f32) {
            float *y = static_cast<float *>(a.y) + n0 + me.lane / 4;
            int row = m0 + me.lane % 4 * 2;
            if (row < a.m) y[row * a.ldy] = v.x;
            if (row + 1 < a.m) y[(row + 1) * a.ldy] = v.y;
        } else {
            uint32_t two = mw_transpose8(mw_w4_math<T>::pack(v.x, v.y));
            int row = m0 + me.lane / 4;
            uint16_t *y = static_cast<uint16_t *>(a.y) + row * a.ldy + n0 + me.lane % 4 * 2;
            if (row < a.m && a.y_pairs) *reinterpret_cast<uint32_t *>(y) = two;
            if (row < a.m && !a.y_pairs) y[0] = (uint16_t)two, y[1] = (uint16_t)(two >> 16);
        }
    }
}

/* The sums of an item are complete in this block's registers: write them, hand them over, or finish the tile. */
template <typename T, int MT, int WM, int WN, int WK, int TEAMS>
static __device__ __forceinline__ void mw_w4_finish(const mw_w4_args &a, const float acc[4][MT][4],
                                                    const mw_w4_item &it, const mw_w4_warp<MT, WM, WN, WK, TEAMS> &me,
                                                    float2 *red, int row0, int col0) {
    constexpr int PAIRS = 8 * MT / WK;
    float2 fin[PAIRS];
    if (WK > 1) {
        mw_w4_join_warps<MT, WM, WN, WK, TEAMS>(acc, fin, red, me);
    } else {
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const float *c = acc[p / 2 / MT][p / 2 % MT] + p % 2 * 2;
            fin[p] = make_float2(c[0], c[1]);
        }
    }
    if (row0 + me.wm * (8 * MT) >= a.m) return; /* a warp whose rows do not exist, in every block alike */
    if (it.s1 < a.k_stages) {
        mw_w4_hand_over<PAIRS, WM * WN * WK>(a, fin, me.warp, me.lane);
        return;
    }
    if (it.s0 > 0) {
        int first = (it.tile - a.waves * (int)gridDim.x) * a.k_stages, b = blockIdx.x;
        while (mw_w4_cut(a, b) > first) b--;
        mw_w4_collect<PAIRS, WM * WN * WK>(a, fin, b, me.warp, me.lane);
    }
    mw_w4_store<T, MT, WM, WN, WK, TEAMS>(a, fin, me, row0, col0);
}

#if __CUDA_ARCH__ >= 900
/* The ring and who fills it: one thread at a time. */
struct mw_w4_feed {
    uint32_t ring, full, empty, bytes; /* shared addresses; bytes that a stage's copies bring */
    uint64_t once, keep;               /* L2 policies: weights that nobody reads again, everything else */

    __device__ __forceinline__ mw_w4_feed(const mw_w4_args &a, uint32_t ring_, uint32_t bars, int bn)
        : ring(ring_), full(bars), empty(bars + 8 * MW_W4_MAX_RING) {
        bytes = bn * a.kb_tiles * 8 + a.x_rows * a.kb_tiles * 32 + a.scale_rows * bn * a.scale_size +
                (a.zeros ? a.scale_rows * bn : 0);
        keep = mw_policy_normal();
        once = a.m_tiles == 1 ? mw_policy_evict_first() : keep;
    }

    __device__ __forceinline__ void weights(const mw_w4_args &a, const mw_w4_stages &w, int slot, int bn) const {
        uint32_t stage = ring + slot * a.stage_bytes, bar = full + 8 * slot;
        mw_bar_expect(bar, bytes);
        mw_bulk2(stage, &a.map_w, w.at.ni * bn * 2, w.s * a.kb_tiles, bar, once);
        int group = mw_w4_group(a, w.s * a.kb_tiles);
        mw_bulk2(stage + a.off_s, &a.map_s, w.at.ni * bn, group, bar, once);
        if (a.zeros) mw_bulk2(stage + a.off_z, &a.map_z, w.at.ni * bn, group, bar, once);
    }

    __device__ __forceinline__ void x(const mw_w4_args &a, const mw_w4_stages &w, int slot, int bm) const {
        mw_bulk3(ring + slot * a.stage_bytes + a.off_x, &a.map_x, 0, w.at.mi * bm, w.s * (a.kb_tiles / 4),
                 full + 8 * slot, keep);
    }

    /* Every stage of every item. Of the first ring weights before the dependency wait, x after it. */
    __device__ __forceinline__ void run(const mw_w4_args &a, int bm, int bn) const {
        mw_w4_stages w(a), v(a);
        bool more = true;
        for (int i = 0; i < a.ring && (more = w.next(a)); i++) weights(a, w, i, bn);
        mw_pdl_wait();
        for (int i = 0; i < a.ring && v.next(a); i++) x(a, v, i, bm);
        uint32_t parity = 0;
        for (int slot = 0; more && w.next(a);) {
            mw_bar_wait(empty + 8 * slot, parity);
            weights(a, w, slot, bn);
            x(a, w, slot, bm);
            if (++slot == a.ring) slot = 0, parity ^= 1;
        }
    }
};
#else
/* All computing threads: one stage. */
template <int BM, int BN, int THREADS>
static __device__ __forceinline__ void mw_w4_fetch(const mw_w4_args &a, uint32_t stage, const mw_w4_stages &w) {
    int ni = w.at.ni, kt0 = w.s * a.kb_tiles;
    constexpr int W = BN / 2;
    for (int i = threadIdx.x; i < a.kb_tiles * W; i += THREADS) {
        int kt = kt0 + i / W, c = i % W;
        bool in = kt < a.k_tiles && ni * BN + c * 2 < a.n;
        mw_cp16(stage + i * 16, in ? a.tiles + (size_t)kt * 2 * a.n + ni * BN * 2 + c * 4 : a.tiles, in);
    }
    for (int i = threadIdx.x; i < a.kb_tiles * 2 * a.x_rows; i += THREADS) {
        int slab_row = i / 8, piece = i % 8, slab = slab_row / a.x_rows, row = w.at.mi * BM + slab_row % a.x_rows;
        int k = kt0 * 16 + slab * 64 + piece * 8;
        bool in = row < a.m && k < a.k_tiles * 16;
        mw_cp16(stage + a.off_x + slab_row * 128 + ((piece ^ (slab_row & 7)) << 4),
                in ? a.x + (row * a.ldx + k) * 2 : a.x, in);
    }
    int g0 = mw_w4_group(a, kt0), per_row = BN * a.scale_size / 16;
    for (int i = threadIdx.x; i < a.scale_rows * per_row; i += THREADS) {
        int g = g0 + i / per_row, c = i % per_row * 16;
        bool in = g < a.groups && ni * BN * a.scale_size + c < a.n * a.scale_size;
        mw_cp16(stage + a.off_s + i * 16, in ? a.scales + ((size_t)g * a.n + ni * BN) * a.scale_size + c : a.scales,
                in);
    }
    for (int i = threadIdx.x; a.zeros && i < a.scale_rows * (BN / 16); i += THREADS) {
        int g = g0 + i / (BN / 16), c = ni * BN + i % (BN / 16) * 16;
        bool in = g < a.groups && c < a.n;
        mw_cp16(stage + a.off_z + i * 16, in ? a.zeros + (size_t)g * a.n + c : a.zeros, in);
    }
}
#endif

#if __CUDA_ARCH__ >= 900
/* The computing warps' side of the ring. */
struct mw_w4_ring {
    uint32_t full, empty, parity;
    int slot;

    __device__ __forceinline__ mw_w4_ring(uint32_t bars)
        : full(bars), empty(bars + 8 * MW_W4_MAX_RING), parity(0), slot(0) {}
    __device__ __forceinline__ void wait() const { mw_bar_wait(full + 8 * slot, parity); }
    __device__ __forceinline__ void leave() const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) mw_bar_arrive(empty + 8 * slot);
    }
    __device__ __forceinline__ void step(const mw_w4_args &a) {
        if (++slot == a.ring) slot = 0, parity ^= 1;
    }
};
#else
/* The computing warps fill the ring themselves, all of them at every stage. */
template <int BM, int BN, int THREADS> struct mw_w4_ring {
    uint32_t ring;
    mw_w4_stages ahead;
    int slot, put;

    __device__ __forceinline__ mw_w4_ring(const mw_w4_args &a, uint32_t ring_)
        : ring(ring_), ahead(a), slot(0), put(0) {
        for (int i = 0; i < a.ring - 1; i++) fill(a);
    }
    __device__ __forceinline__ void fill(const mw_w4_args &a) {
        if (ahead.next(a)) mw_w4_fetch<BM, BN, THREADS>(a, ring + put * a.stage_bytes, ahead);
        mw_cp_commit();
        if (++put == a.ring) put = 0;
    }
    __device__ __forceinline__ void wait(const mw_w4_args &a) {
        mw_cp_wait(a.ring - 2);
        __syncthreads(); /* the stage is there for all, and all have left the one that is filled next */
        fill(a);
    }
    __device__ __forceinline__ void step(const mw_w4_args &a) {
        if (++slot == a.ring) slot = 0;
    }
};
#endif

template <typename T, int MT, int WM, int WN, int WK, int TEAMS_90, int BLOCKS_PER_SM>
static __device__ __forceinline__ void mw_w4_block(const mw_w4_args &a) {
    constexpr int BM = 8 * MT * WM, BN = 64 * WN, TEAMS = MW_W4_TEAMS(TEAMS_90), WARPS = WM * WN * WK;
    extern __shared__ char raw[];
    char *stages = raw + (1024 - (mw_smem(raw) & 1023)) % 1024;
    float2 *red = reinterpret_cast<float2 *>(stages + a.ring * a.stage_bytes);
    mw_pdl_trigger();
#if __CUDA_ARCH__ >= 900
    uint32_t bars = mw_smem(stages + a.ring * a.stage_bytes + (WK > 1 ? MW_W4_RED_BYTES(WARPS) : 0));
    if (threadIdx.x == 32 * WARPS) {
        mw_prefetch_map(&a.map_w);
        mw_prefetch_map(&a.map_x);
        mw_prefetch_map(&a.map_s);
        for (int i = 0; i < a.ring; i++) {
            mw_bar_init(bars + 8 * i, 1);
            mw_bar_init(bars + 8 * (MW_W4_MAX_RING + i), WARPS / TEAMS);
        }
        mw_bar_publish();
    }
    __syncthreads();
    if (threadIdx.x >= 32 * WARPS) {
        mw_fewer_registers<24>();
        if (threadIdx.x == 32 * WARPS) mw_w4_feed(a, mw_smem(stages), bars, BN).run(a, BM, BN);
        return;
    }
    mw_more_registers<BLOCKS_PER_SM == 2 ? 104 : WARPS == 8 ? 240 : 112>();
    mw_pdl_wait();
    mw_w4_ring ring(bars);
#else
    mw_w4_ring<BM, BN, 32 * WARPS> ring(a, mw_smem(stages));
#endif
    mw_w4_warp<MT, WM, WN, WK, TEAMS> me;
    int row_of[(MT + 1) / 2]; /* rows beyond x_rows read row 0: their sums are never stored */
#pragma unroll
    for (int i = 0; i < (MT + 1) / 2; i++) {
        int row = me.wm * (8 * MT) + i * 16 + (MT == 1 ? 0 : me.lane / 16 * 8) + me.lane % 8;
        row_of[i] = row < a.x_rows ? row : 0;
    }
    mw_w4_walk walk(a);
    mw_w4_item it;
    while (walk.next(a, &it)) {
        bool idle = it.mi * BM + me.wm * (8 * MT) >= a.m || it.ni * BN + me.wn * 64 >= a.n;
        float acc[4][MT][4] = {};
        for (int s = it.s0; s < it.s1; s++, ring.step(a)) {
#if __CUDA_ARCH__ >= 900
            if (ring.slot % TEAMS != me.team())
                continue; /* the ring is a multiple of the teams: always the same slots */
            ring.wait();
#else
            ring.wait(a);
#endif
            if (!idle) mw_w4_stage<T, MT, WM, WN, WK, TEAMS>(a, acc, stages + ring.slot * a.stage_bytes, me, row_of, s);
#if __CUDA_ARCH__ >= 900
            ring.leave();
#endif
        }
        mw_w4_finish<T, MT, WM, WN, WK, TEAMS>(a, acc, it, me, red, it.mi * BM, it.ni * BN);
    }
}

template <typename T, int MT, int WM, int WN, int WK, int TEAMS_90, int BLOCKS_PER_SM>
__global__ void MW_W4_BOUNDS(WM *WN *WK, BLOCKS_PER_SM) mw_w4_gemm(const __grid_constant__ mw_w4_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr bool used = MT < 4; /* more rows go to w4_wgmma.cuh */
#else
    constexpr bool used = true;
#endif
    if constexpr (used) mw_w4_block<T, MT, WM, WN, WK, TEAMS_90, BLOCKS_PER_SM>(a);
}

template <typename T> static mw_w4_kernel mw_w4_pick_kernel(mw_w4_variant v) {
    switch (v) { /* as mw_cuda_w4_shape() says */
    case MW_W4_M8: return mw_w4_gemm<T, 1, 1, 1, 8, 2, 2>;
    case MW_W4_M32: return mw_w4_gemm<T, 2, 1, 2, 8, 2, 1>;
    case MW_W4_M64: return mw_w4_gemm<T, 4, 2, 2, 2, 2, 1>;
    default: return mw_w4_gemm<T, 4, 4, 2, 1, 1, 1>;
    }
}

#endif
