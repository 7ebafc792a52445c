/* kernels/cuda/w4_wgmma.cuh - the int4 GEMM for many rows on sm_90a: wgmma with the weights as its register operand.
 * Layouts: kernels/kernels.h (mw_w4). Division of work: w4.h. Reference: tests/ref/ref_gemm.c.
 *
 * A word of a Marlin tile is a lane's whole A fragment of m64k16 when a warp's 16 rows of the 64 are 16 columns of y:
 * so each of the eight computing warps owns 16 * MJ neighbouring columns and issues MJ products a step of 16 of k,
 * together with the three other warps of its warpgroup. x is the B operand, N of its rows, as the copy engine leaves
 * it in shared memory. The sums are y transposed. Scales multiply the fragments: a weight is rounded once, to the
 * activations' type (docs/NUMERICS.md).
 *
 * A group of BATCH steps is unpacked while the products of the group before run.
 *
 * A stage in shared memory: tiles u32 [kb/16][bn/64][128] | x [kb/64][N][64] swizzled | scales [scale_rows][bn] |
 * zeros the same. One thread of a third warpgroup keeps the ring filled; weights of the first ring before the
 * dependency wait.
 *
 * Where there are too few tiles, the k extent of a tile is divided among the blocks of a cluster. Each leaves its sums
 * in its own shared memory, and each adds up an equal part of the tile, blocks ascending: the order of a sum never
 * depends on who does it.
 */
#ifndef MW_KERNELS_CUDA_W4_WGMMA_CUH
#define MW_KERNELS_CUDA_W4_WGMMA_CUH
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/w4_args.cuh"
#include "kernels/cuda/w4_math.cuh"
#include "kernels/cuda/w4_pipe.cuh"
#include "kernels/cuda/wgmma.cuh"

#define MW_WG_WARPS   8
#define MW_WG_THREADS (32 * MW_WG_WARPS + MW_W4_FEEDER)

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* ---- clusters ---------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ int mw_cluster_rank() {
    int r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
static __device__ __forceinline__ int mw_cluster_id() {
    int r;
    asm("mov.u32 %0, %%clusterid.x;" : "=r"(r));
    return r;
}
/* All threads of the cluster that have not ended. What was written before arriving is seen after waiting. */
static __device__ __forceinline__ void mw_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
static __device__ __forceinline__ void mw_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* 16 bytes at `smem` in the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ float4 mw_cluster_load(uint32_t smem, int rank) {
    float4 v;
    uint32_t at;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(smem), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}

/* ---- order of work ----------------------------------------------------------------------------------------------- */

/* A block's items: whole tiles, every gridDim-th; or, in a cluster, its part of one. */
struct mw_wg_walk {
    int wave;
    __device__ __forceinline__ explicit mw_wg_walk(const mw_w4_args &) : wave(0) {}

    __device__ __forceinline__ bool next(const mw_w4_args &a, mw_w4_item *it) {
        if (a.split > 1) {
            if (wave++ > 0) return false;
            int rank = mw_cluster_rank();
            it->tile = mw_cluster_id();
            it->s0 = a.cut * rank + min(rank, a.cut_more);
            it->s1 = it->s0 + a.cut + (rank < a.cut_more);
        } else {
            it->tile = wave++ * (int)gridDim.x + (int)blockIdx.x;
            it->s0 = 0, it->s1 = a.k_stages;
            if (it->tile >= a.m_tiles * a.n_tiles) return false;
        }
        mw_w4_walk::place(a, it);
        return true;
    }
};

struct mw_wg_stages {
    mw_wg_walk walk;
    mw_w4_item at;
    int s;
    __device__ __forceinline__ explicit mw_wg_stages(const mw_w4_args &a) : walk(a), at{0, 0, 0, 0, 0}, s(-1) {}
    __device__ __forceinline__ bool next(const mw_w4_args &a) {
        if (++s < at.s1) return true;
        if (!walk.next(a, &at)) return false;
        s = at.s0;
        return true;
    }
};

/* ---- filling the ring -------------------------------------------------------------------------------------------- */

/* One thread. */
struct mw_wg_feed {
    uint32_t ring, full, empty, bytes; /* bytes: without x */
    uint64_t once, keep;               /* L2 policies: weights that nobody reads again, everything else */

    __device__ __forceinline__ mw_wg_feed(const mw_w4_args &a, uint32_t ring_, uint32_t bars, int bn)
        : ring(ring_), full(bars), empty(bars + 8 * MW_W4_MAX_RING) {
        bytes = bn * a.kb_tiles * 8 + a.scale_rows * bn * a.scale_size + (a.zeros ? a.scale_rows * bn : 0);
        keep = mw_policy_normal();
        once = a.m_tiles == 1 ? mw_policy_evict_first() : keep;
    }

    /* The last tile's rows that do not exist are left as they are in shared memory: their sums are not stored, and to
     * have the copy engine fill them with zeros takes longer than to bring rows that exist. */
    static __device__ __forceinline__ bool last(const mw_w4_args &a, const mw_wg_stages &w) {
        return w.at.mi == a.m_tiles - 1;
    }

    __device__ __forceinline__ void weights(const mw_w4_args &a, const mw_wg_stages &w, int slot, int bn) const {
        uint32_t stage = ring + slot * a.stage_bytes, bar = full + 8 * slot;
        int block = w.at.ni * (bn / 64), kt = w.s * a.kb_tiles, group = mw_w4_group(a, kt);
        mw_bar_expect(bar, bytes + (last(a, w) ? a.x_rows_last : a.x_rows) * a.kb_tiles * 32);
        mw_bulk3(stage, &a.map_w, 0, block, kt, bar, once);
        mw_bulk3(stage + a.off_s, &a.map_s, 0, block, group, bar, once);
        if (a.zeros) mw_bulk3(stage + a.off_z, &a.map_z, 0, block, group, bar, once);
    }

    __device__ __forceinline__ void x(const mw_w4_args &a, const mw_wg_stages &w, int slot, int n) const {
        mw_bulk3(ring + slot * a.stage_bytes + a.off_x, last(a, w) ? &a.map_x_last : &a.map_x, 0, w.at.mi * n,
                 w.s * (a.kb_tiles / 4), full + 8 * slot, keep);
    }

    __device__ __forceinline__ void run(const mw_w4_args &a, int n, int bn) const {
        mw_wg_stages w(a), v(a);
        bool more = true;
        for (int i = 0; i < a.ring && (more = w.next(a)); i++) weights(a, w, i, bn);
        mw_pdl_wait();
        for (int i = 0; i < a.ring && v.next(a); i++) x(a, v, i, n);
        uint32_t parity = 0;
        for (int slot = 0; more && w.next(a);) {
            mw_bar_wait(empty + 8 * slot, parity);
            weights(a, w, slot, bn);
            x(a, w, slot, n);
            if (++slot == a.ring) slot = 0, parity ^= 1;
        }
    }
};

/* ---- fragments --------------------------------------------------------------------------------------------------- */

/* Where a warp stands: 16 * MJ columns from col of the tile, which is word j0 .. of the 64-column block `block`. */
template <int MJ> struct mw_wg_warp {
    int warp, lane, col, block, j0;
    __device__ __forceinline__ mw_wg_warp() {
        warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32; /* one value a warp, seen so */
        col = warp * (16 * MJ), block = col / 64, j0 = col % 64 / 16;
    }
};

template <int MJ> static __device__ __forceinline__ void mw_wg_words(uint32_t q[MJ], const char *p) {
    if (MJ == 4) {
        uint4 v = *reinterpret_cast<const uint4 *>(p);
        q[0] = v.x, q[1 % MJ] = v.y, q[2 % MJ] = v.z, q[3 % MJ] = v.w;
    } else if (MJ == 2) {
        uint2 v = *reinterpret_cast<const uint2 *>(p);
        q[0] = v.x, q[1 % MJ] = v.y;
    } else {
        q[0] = *reinterpret_cast<const uint32_t *>(p);
    }
}

/* Scales and zeros of a lane's columns n and n + 8 of every j, twice in a register each. */
template <typename T, int MJ, bool ZEROS> struct mw_wg_group {
    uint32_t scale[MJ][2], shift[MJ][2];

    __device__ __forceinline__ void load(const mw_w4_args &a, const char *stage, int at) {
        const char *s = stage + a.off_s + at * a.scale_size;
        constexpr int native = mw_w4_math<T>::dtype;
        if (a.scale_dtype == native) {
            uint32_t two[MJ];
            mw_wg_words<MJ>(two, s);
#pragma unroll
            for (int j = 0; j < MJ; j++)
                scale[j][0] = __byte_perm(two[j], 0, 0x1010), scale[j][1] = __byte_perm(two[j], 0, 0x3232);
        } else {
#pragma unroll
            for (int i = 0; i < 2 * MJ; i++) {
                float f = a.scale_dtype == MW_F32   ? reinterpret_cast<const float *>(s)[i]
                          : a.scale_dtype == MW_F16 ? __half2float(reinterpret_cast<const __half *>(s)[i])
                                                    : __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(s)[i]);
                scale[i / 2][i % 2] = mw_w4_math<T>::pack(f, f);
            }
        }
        if (ZEROS) {
            const uint8_t *z = reinterpret_cast<const uint8_t *>(stage) + a.off_z + at;
#pragma unroll
            for (int i = 0; i < 2 * MJ; i++) shift[i / 2][i % 2] = mw_w4_math<T>::twice(8 - z[i]);
        }
    }
};

template <typename T, int MJ, bool ZEROS>
static __device__ __forceinline__ void mw_wg_unpack(uint32_t f[MJ][4], const uint32_t q[MJ],
                                                    const mw_wg_group<T, MJ, ZEROS> &g) {
    typedef mw_w4_math<T> math;
#pragma unroll
    for (int j = 0; j < MJ; j++) math::unpack(q[j], f[j]);
    if (ZEROS) {
#pragma unroll
        for (int j = 0; j < MJ; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) f[j][i] = math::add(f[j][i], g.shift[j][i % 2]);
    }
#pragma unroll
    for (int j = 0; j < MJ; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) f[j][i] = math::mul(f[j][i], g.scale[j][i % 2]);
}

/* ---- a tile's sums ----------------------------------------------------------------------------------------------- */

struct mw_wg_ring {
    uint32_t full, empty, parity, left; /* left: barrier of a stage whose last products may still run; 0: none */
    int slot;

    __device__ __forceinline__ explicit mw_wg_ring(uint32_t bars)
        : full(bars), empty(bars + 8 * MW_W4_MAX_RING), parity(0), left(0), slot(0) {}
    __device__ __forceinline__ void wait() const { mw_bar_wait(full + 8 * slot, parity); }
    __device__ __forceinline__ void step(const mw_w4_args &a) {
        left = empty + 8 * slot;
        if (++slot == a.ring) slot = 0, parity ^= 1;
    }
    /* Without a branch, which would part the products around it; wgmma has brought the warp together before. */
    __device__ __forceinline__ void leave() {
        asm volatile("{.reg .pred p; setp.ne.u32 p, %1, 0; @p mbarrier.arrive.shared::cta.b64 _, [%0];}" ::"r"(left),
                     "r"(threadIdx.x % 32 == 0 ? left : 0)
                     : "memory");
        left = 0;
    }
};

/* FINE: a stage may hold several groups; else one. (No branch may stand among the products of a stage: the compiler
 * would then run them one after another.) */
template <typename T, int N, int MJ, int BATCH, bool FINE, bool ZEROS>
static __device__ __forceinline__ void mw_wg_sums(const mw_w4_args &a, float acc[MJ][N / 2], const char *stages,
                                                  const mw_wg_warp<MJ> &me, mw_wg_ring &ring, const mw_w4_item &it) {
    constexpr int BLOCKS = 2 * MJ, GROUPS = 4 / BATCH;
    uint32_t frag[2][BATCH][MJ][4];
    mw_wg_group<T, MJ, ZEROS> group;
    int at = me.block * 64 + me.lane / 4 * 8 + 2 * me.j0;
#pragma unroll
    for (int j = 0; j < MJ; j++)
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[j][i] = 0, mw_wgmma_pin(acc[j][i]);

    for (int s = it.s0; s < it.s1; s++) {
        ring.wait();
        const char *stage = stages + ring.slot * a.stage_bytes;
        const char *w = stage + me.block * 512 + me.lane * 16 + me.j0 * 4;
        uint32_t b = __shfl_sync(0xffffffff, mw_wgmma_b_low(mw_smem(stage + a.off_x)), 0);
        uint32_t q[4][MJ];
#pragma unroll
        for (int i = 0; i < 4; i++) mw_wg_words<MJ>(q[i], w + i * (BLOCKS * 512));
        if (!FINE) group.load(a, stage, at);
#pragma unroll
        for (int h = 0; h < GROUPS; h++) {
#pragma unroll
            for (int i = h * BATCH; i < (h + 1) * BATCH; i++) {
                if (FINE) {
                    int g = min(mw_w4_group(a, s * 4 + i), a.groups - 1) - mw_w4_group(a, s * 4);
                    group.load(a, stage, at + g * (64 * BLOCKS));
                }
#pragma unroll
                for (int j = 0; j < MJ; j++) mw_wgmma_pin(q[i][j]); /* not unpacked before the wait above */
                mw_wg_unpack<T, MJ, ZEROS>(frag[h % 2][i % BATCH], q[i], group);
            }
#pragma unroll
            for (int i = 0; i < 4 * MJ * BATCH; i++) mw_wgmma_pin(frag[h % 2][i / (4 * MJ)][i / 4 % MJ][i % 4]);
            mw_wgmma_fence();
#pragma unroll
            for (int i = 0; i < BATCH; i++)
#pragma unroll
                for (int j = 0; j < MJ; j++)
                    mw_wgmma<T, N>::mma(acc[j], frag[h % 2][i][j], mw_wgmma_b(b + 2 * (h * BATCH + i)));
            mw_wgmma_commit();
            mw_wgmma_wait<1>();
            if (h == 0) ring.leave();
        }
        ring.step(a);
    }
    mw_wgmma_wait<0>();
    ring.leave();
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void mw_wg_transpose_out(uint32_t smem, const uint32_t v[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem), "r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

/* Sums of 8 rows of y (from row) and 16 columns (from col): this lane's are columns lane/4 (c[0], c[1]) and + 8 (c[2],
 * c[3]) of rows 2*(lane%4) and + 1. */
template <typename T>
static __device__ __forceinline__ void mw_wg_store(const mw_w4_args &a, const float c[4], int row, int col, int lane) {
    float b0 = 0, b1 = 0;
    if (a.bias) b0 = a.bias[col + lane / 4], b1 = a.bias[col + 8 + lane / 4];
    if (a.y_f32) {
        int r = row + lane % 4 * 2;
        float *y = static_cast<float *>(a.y) + r * a.ldy + col + lane / 4;
        if (r < a.m) y[0] = c[0] + b0, y[8] = c[2] + b1;
        if (r + 1 < a.m) y[a.ldy] = c[1] + b0, y[a.ldy + 8] = c[3] + b1;
        return;
    }
    uint32_t v0 = mw_transpose8(mw_w4_math<T>::pack(c[0] + b0, c[1] + b0)),
             v1 = mw_transpose8(mw_w4_math<T>::pack(c[2] + b1, c[3] + b1));
    int r = row + lane / 4;
    uint16_t *y = static_cast<uint16_t *>(a.y) + r * a.ldy + col + lane % 4 * 2;
    if (r >= a.m) return;
    if (a.y_pairs)
        *reinterpret_cast<uint32_t *>(y) = v0, *reinterpret_cast<uint32_t *>(y + 8) = v1;
    else
        y[0] = (uint16_t)v0, y[1] = (uint16_t)(v0 >> 16), y[8] = (uint16_t)v1, y[9] = (uint16_t)(v1 >> 16);
}

/* The same for 32 rows and 32 columns of a 16-bit y whose rows begin at multiples of 16 bytes, through 2 KB of shared
 * memory of the warp's own: 64 bytes in a row of y at once. c0, c1: 16 columns each. */
template <typename T>
static __device__ __forceinline__ void mw_wg_store32(const mw_w4_args &a, const float *c0, const float *c1,
                                                     const float bias[4], char *own, int row, int col, int lane) {
    typedef mw_w4_math<T> math;
    int r = lane % 8, piece = lane / 8;
    uint32_t to = mw_smem(own) + r * 64 + ((piece ^ (r >> 1 & 3)) << 4);
#pragma unroll
    for (int t = 0; t < 4; t++, c0 += 4, c1 += 4) {
        uint32_t v[4] = {math::pack(c0[0] + bias[0], c0[1] + bias[0]), math::pack(c0[2] + bias[1], c0[3] + bias[1]),
                         math::pack(c1[0] + bias[2], c1[1] + bias[2]), math::pack(c1[2] + bias[3], c1[3] + bias[3])};
        mw_wg_transpose_out(to + t * 512, v);
    }
    __syncwarp();
    r = lane / 4, piece = lane % 4;
    const char *from = own + r * 64 + ((piece ^ (r >> 1 & 3)) << 4);
    uint4 u[4];
#pragma unroll
    for (int t = 0; t < 4; t++) u[t] = *reinterpret_cast<const uint4 *>(from + t * 512);
    uint16_t *y = static_cast<uint16_t *>(a.y) + (row + r) * a.ldy + col + piece * 8;
#pragma unroll
    for (int t = 0; t < 4; t++)
        if (row + r + 8 * t < a.m) *reinterpret_cast<uint4 *>(y + 8 * t * a.ldy) = u[t];
    __syncwarp();
}

template <typename T, int N, int MJ>
static __device__ __forceinline__ void mw_wg_write(const mw_w4_args &a, const float acc[MJ][N / 2], char *own,
                                                   const mw_wg_warp<MJ> &me, const mw_w4_item &it) {
    int row = it.mi * N, col = it.ni * (128 * MJ) + me.col;
    if (MJ >= 2 && a.y_rows16) {
        float bias[4] = {};
        if (col >= a.n) return;
        if (a.bias) {
#pragma unroll
            for (int i = 0; i < 4; i++) bias[i] = a.bias[col + 8 * i + me.lane / 4];
        }
#pragma unroll
        for (int t = 0; t < N / 8; t += 4)
            if (row + 8 * t < a.m)
                mw_wg_store32<T>(a, acc[0] + 4 * t, acc[MJ - 1] + 4 * t, bias, own, row + 8 * t, col, me.lane);
        return;
    }
#pragma unroll
    for (int j = 0; j < MJ; j++)
#pragma unroll
        for (int t = 0; t < N / 8; t++)
            if (row + 8 * t < a.m && col + 16 * j < a.n)
                mw_wg_store<T>(a, acc[j] + 4 * t, row + 8 * t, col + 16 * j, me.lane);
}

/* ---- tiles that the blocks of a cluster share -------------------------------------------------------------------- */

/* Sums in shared memory: [unit][warp][lane] four; unit t * MJ + j is 8 rows and 16 columns of every warp. The ring is
 * empty by then. */
template <typename T, int N, int MJ>
static __device__ __forceinline__ void mw_wg_join(const mw_w4_args &a, const float acc[MJ][N / 2], char *room,
                                                  const mw_wg_warp<MJ> &me, const mw_w4_item &it) {
    constexpr int UNITS = N / 8 * MJ;
    int rank = mw_cluster_rank(), row0 = it.mi * N, col0 = it.ni * (128 * MJ) + me.col;
    float4 *mine = reinterpret_cast<float4 *>(room) + threadIdx.x;
    asm volatile("bar.sync 1, %0;" ::"n"(32 * MW_WG_WARPS) : "memory"); /* the other warps have left the ring too */
#pragma unroll
    for (int t = 0; t < N / 8; t++)
#pragma unroll
        for (int j = 0; j < MJ; j++) {
            const float *c = acc[j] + 4 * t;
            if (row0 + 8 * t < a.m) mine[(t * MJ + j) * 256] = make_float4(c[0], c[1], c[2], c[3]);
        }
    mw_cluster_arrive();
    mw_cluster_wait();
    uint32_t from = mw_smem(mine);
    int end = min(UNITS * (rank + 1) / a.split, (a.m - row0 + 7) / 8 * MJ);
    for (int u0 = UNITS * rank / a.split; u0 < end; u0 += 4) {
        float4 sum[4] = {};
        for (int i0 = 0; i0 < a.split; i0 += 4) {
            float4 v[4][4]; /* all on their way at once: another block's memory is far */
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int u = 0; u < 4; u++) {
                    v[i][u] = make_float4(0, 0, 0, 0);
                    if (i0 + i < a.split && u0 + u < end) v[i][u] = mw_cluster_load(from + (u0 + u) * 4096, i0 + i);
                }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int u = 0; u < 4; u++)
                    sum[u].x += v[i][u].x, sum[u].y += v[i][u].y, sum[u].z += v[i][u].z, sum[u].w += v[i][u].w;
        }
#pragma unroll
        for (int u = 0; u < 4; u++) {
            int row = row0 + (u0 + u) / MJ * 8, col = col0 + (u0 + u) % MJ * 16;
            float c[4] = {sum[u].x, sum[u].y, sum[u].z, sum[u].w};
            if (u0 + u < end && col < a.n) mw_wg_store<T>(a, c, row, col, me.lane);
        }
    }
    __syncwarp();
    mw_cluster_arrive(); /* nobody ends while others read its memory */
    mw_cluster_wait();
}

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

template <typename T, int N, int MJ, int BATCH, bool FINE, bool ZEROS>
static __device__ __forceinline__ void mw_wg_compute(const mw_w4_args &a, char *stages, char *own, uint32_t bars) {
    mw_wg_warp<MJ> me;
    mw_wg_ring ring(bars);
    mw_wg_walk walk(a);
    mw_w4_item it;
    while (walk.next(a, &it)) {
        float acc[MJ][N / 2];
        mw_wg_sums<T, N, MJ, BATCH, FINE, ZEROS>(a, acc, stages, me, ring, it);
        if (a.split > 1)
            mw_wg_join<T, N, MJ>(a, acc, stages, me, it);
        else
            mw_wg_write<T, N, MJ>(a, acc, own, me, it);
    }
}

#endif

template <typename T, int N, int MJ, int BATCH, bool FINE, bool ZEROS, int BLOCKS_PER_SM>
__global__ void __launch_bounds__(MW_WG_THREADS, BLOCKS_PER_SM) mw_wg_gemm(const __grid_constant__ mw_w4_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char raw[];
    char *stages = raw + (1024 - (mw_smem(raw) & 1023)) % 1024, *own = stages + a.ring * a.stage_bytes;
    uint32_t bars = mw_smem(own + MW_WG_WARPS * MW_WG_OWN);
    mw_pdl_trigger();
    if (threadIdx.x == 32 * MW_WG_WARPS) {
        mw_prefetch_map(&a.map_w);
        mw_prefetch_map(&a.map_x);
        mw_prefetch_map(&a.map_x_last);
        mw_prefetch_map(&a.map_s);
        for (int i = 0; i < a.ring; i++) {
            mw_bar_init(bars + 8 * i, 1);
            mw_bar_init(bars + 8 * (MW_W4_MAX_RING + i), MW_WG_WARPS);
        }
        mw_bar_publish();
    }
    __syncthreads();
    if (__shfl_sync(0xffffffff, threadIdx.x / 32, 0) >= MW_WG_WARPS) {
        mw_fewer_registers<BLOCKS_PER_SM == 2 ? 32 : 40>();
        /* in all: what the block was launched with */ /* with the others': all that the block was launched with */
        if (threadIdx.x == 32 * MW_WG_WARPS) mw_wg_feed(a, mw_smem(stages), bars, 128 * MJ).run(a, N, 128 * MJ);
    } else {
        mw_more_registers<BLOCKS_PER_SM == 2 ? 104 : 232>();
        mw_pdl_wait();
        mw_wg_compute<T, N, MJ, BATCH, FINE, ZEROS>(a, stages, own + threadIdx.x / 32 * MW_WG_OWN, bars);
    }
#endif
}

template <typename T, bool FINE, bool ZEROS> static mw_w4_kernel mw_wg_pick(mw_w4_variant v) {
    switch (v) { /* as mw_cuda_w4_shape() says */
    case MW_W4_G32: return mw_wg_gemm<T, 32, 2, 2, FINE, ZEROS, 2>;
    case MW_W4_G64N: return mw_wg_gemm<T, 64, 1, 2, FINE, ZEROS, 2>;
    case MW_W4_G64: return mw_wg_gemm<T, 64, 2, 2, FINE, ZEROS, 1>;
    case MW_W4_G128N: return mw_wg_gemm<T, 128, 1, 2, FINE, ZEROS, 1>;
    default: return mw_wg_gemm<T, 128, 2, 2, FINE, ZEROS, 1>;
    }
}

template <typename T> static mw_w4_kernel mw_wg_pick_kernel(mw_w4_variant v, bool fine, bool zeros) {
    if (fine) return zeros ? mw_wg_pick<T, true, true>(v) : mw_wg_pick<T, true, false>(v);
    return zeros ? mw_wg_pick<T, false, true>(v) : mw_wg_pick<T, false, false>(v);
}

#endif
