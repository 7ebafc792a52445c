/* kernels/cuda/w4_lean.cuh - the int4 GEMM for one to eight rows on sm_90: reading must never stop.
 *
 * As w4_kernel.cuh (layouts, division of work, the way sums are handed over), for scale groups of 128 and multiples. A
 * stage is 64 columns x 512 of k: 16 KB of tiles in one copy. Shared memory: tiles [ring][32 rows of tiles][128] | x |
 * scales [ring][scale_rows][64] | zeros the same | sums of warps | barriers. x: [ring][8 slabs][x_rows][64], pieces
 * exchanged as in w4_kernel.cuh; of a row that is normed here, all of k.
 * Three warps feed, one each for tiles, scales and x: a thread that issues all of a stage's copies takes 0.35 us, as
 * long as the memory does. Where x is one row, a fourth adds up. Of eight computing warps four share a stage, a group
 * of 128 of k each; the two teams take stages in turn. */
#ifndef MW_KERNELS_CUDA_W4_LEAN_CUH
#define MW_KERNELS_CUDA_W4_LEAN_CUH
#include "kernels/cuda/w4_kernel.cuh"

#if __CUDA_ARCH__ >= 900
#define MW_LEAN_STAGE    16384                                /* bytes of tiles */
#define MW_LEAN_MAX_RING (MW_W4_MAX_RING - 2)                 /* the last two barriers are those of the sums */
#define MW_LEAN_ZEROS(a) (((a).scale_rows * 64 + 127) & ~127) /* copies go to multiples of 128 bytes */

/* The eight zeros of a lane, plus offset. */
template <bool ZEROS>
static __device__ __forceinline__ void mw_w4_lean_zeros(const uint8_t *p, float offset, float z[8]) {
    uint2 zs = ZEROS ? *reinterpret_cast<const uint2 *>(p) : make_uint2(0x08080808u, 0x08080808u);
#pragma unroll
    for (int i = 0; i < 8; i++) z[i] = offset + (float)((i < 4 ? zs.x : zs.y) >> (i % 4 * 8) & 255);
}

/* Eight rows of tiles of one scale group: acc += scale * (sum q x - zero * sum x). An instruction a pair less than
 * making q - zero first: offset + q is multiplied, and sum x comes from the tensor cores, as the product with a row of
 * ones. x0, x1: shared addresses of this lane's row for the two slabs. */
template <typename T, bool ZEROS, bool SCALE_ACT, bool ONE>
static __device__ __forceinline__ void mw_w4_lean_group(float acc[4][4], const char *w, uint32_t x0, uint32_t x1,
                                                        int scale_dtype, const char *scale, const uint8_t *zero) {
    typedef mw_w4_math<T> math;
    float sum[4][4] = {}, sum_lo[4] = {}, sum_hi[4] = {};
    const uint32_t one[4] = {math::raw_one, math::raw_one, math::raw_one, math::raw_one};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint4 q[4];
#pragma unroll
        for (int i = 0; i < 4; i++) q[i] = *reinterpret_cast<const uint4 *>(w + (half * 4 + i) * 512);
        uint32_t b[2][4]; /* of two tiles: lo, lo, hi, hi */
        mw_ldmatrix4(b[0], half ? x1 : x0);
        mw_ldmatrix4(b[1], (half ? x1 : x0) ^ 64);
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            const uint4 a = q[2 * pair], c = q[2 * pair + 1];
            const uint32_t first[4] = {a.x, a.y, a.z, a.w}, second[4] = {c.x, c.y, c.z, c.w};
            math::mma(sum_lo, one, b[pair]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t l[4], h[4];
                math::raw(first[j], l, h);
                math::raw(second[j], l + 2, h + 2);
                math::mma(sum[j], l, b[pair]);
                math::mma(sum[j], h, b[pair] + 2);
            }
            math::mma(sum_hi, one, b[pair] + 2);
        }
    }
    float s[8], z[8];
    mw_load_scales(scale, SCALE_ACT ? math::dtype : scale_dtype, s);
    mw_w4_lean_zeros<ZEROS>(zero, math::raw_offset, z);
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i += ONE ? 2 : 1) { /* of one row, lanes 0 mod 4 have all there is, in 0 and 2 */
            float v = fmaf(-z[2 * j + i / 2], sum_lo[i % 2] + sum_hi[i % 2], sum[j][i]);
            acc[j][i] = fmaf(v, s[2 * j + i / 2], acc[j][i]);
        }
}

/* Where a warp that feeds stands. All its lanes go the same way, and one issues. */
struct mw_w4_lean_feed {
    uint32_t full, empty, parity;
    int slot;

    __device__ __forceinline__ explicit mw_w4_lean_feed(uint32_t bars)
        : full(bars), empty(bars + 8 * MW_W4_MAX_RING), parity(1), slot(0) {}
    /* A barrier that nobody has arrived at yet lets those through that wait for the phase before. */
    __device__ __forceinline__ void wait() const { mw_bar_wait(empty + 8 * slot, parity); }
    __device__ __forceinline__ void step(int ring) {
        if (++slot == ring) slot = 0, parity ^= 1;
    }
};

static __device__ __forceinline__ bool mw_elect() {
    uint32_t yes;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(yes));
    return yes != 0;
}

/* Every stage of every item, once its slot is free: issue(barrier, slot, column tile, stage of k, half), by one lane.
 * half 1: the columns of up. */
template <typename F>
static __device__ __forceinline__ void mw_w4_lean_feed_all(const mw_w4_args &a, uint32_t bars, bool leader, F issue) {
    int shift = a.halves - 1;
    mw_w4_lean_feed f(bars);
    mw_w4_walk walk(a);
    mw_w4_item it;
    while (walk.next_column(a, &it))
        for (int u = it.s0 << shift; u < it.s1 << shift; u++, f.step(a.ring)) {
            f.wait();
            if (leader) issue(f.full + 8 * f.slot, f.slot, it.ni, u >> shift, u & shift);
            __syncwarp();
        }
}

static __device__ __forceinline__ void mw_w4_lean_feed_tiles(const mw_w4_args &a, uint32_t at, uint32_t bars,
                                                             bool leader) {
    uint64_t once = mw_policy_evict_first();
    mw_w4_lean_feed_all(a, bars, leader, [&](uint32_t bar, int slot, int ni, int s, int half) {
        mw_bar_expect(bar, MW_LEAN_STAGE);
        mw_bulk2(at + slot * MW_LEAN_STAGE, &a.map_w, ni * 128 + half * a.n, s * 32, bar, once);
    });
}

static __device__ __forceinline__ void mw_w4_lean_feed_scales(const mw_w4_args &a, uint32_t at, uint32_t zeros_at,
                                                              uint32_t bars, bool leader) {
    uint64_t once = mw_policy_evict_first();
    uint32_t s_bytes = a.scale_rows * 64 * a.scale_size, z_bytes = a.zeros ? a.scale_rows * 64 : 0;
    mw_w4_lean_feed_all(a, bars, leader, [&](uint32_t bar, int slot, int ni, int s, int half) {
        int group = 4 * s >> a.group_shift, col = ni * 64 + half * (a.n / 2);
        mw_bar_expect(bar, s_bytes + z_bytes);
        mw_bulk2(at + slot * s_bytes, &a.map_s, col, group, bar, once);
        if (z_bytes) mw_bulk2(zeros_at + slot * MW_LEAN_ZEROS(a), &a.map_z, col, group, bar, once);
    });
}

static __device__ __forceinline__ void mw_w4_lean_feed_x(const mw_w4_args &a, uint32_t at, uint32_t bars, bool leader) {
    uint64_t keep = mw_policy_normal();
    uint32_t bytes = a.x_rows * 1024;
    mw_pdl_wait();
    mw_w4_lean_feed_all(a, bars, leader, [&](uint32_t bar, int slot, int, int s, int) {
        mw_bar_expect(bar, bytes);
        mw_bulk3(at + slot * bytes, &a.map_x, 0, 0, s * 8, bar, keep);
    });
}

/* The sum over the eight computing warps, in each of their threads. Every call has a `part` of its own. */
static __device__ __forceinline__ float mw_w4_lean_total(float v, float *part) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    mw_w4_sync<8>();
    float4 a = reinterpret_cast<float4 *>(part)[0], b = reinterpret_cast<float4 *>(part)[1];
    return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
}

/* The one row of x: RMSNorm(x + delta) * norm, all of k, in shared memory as the copy engine would leave it. What
 * add_norm (rows.cu) computes; every block does it for itself, block 0 stores the sum. */
template <typename T>
static __device__ __forceinline__ void mw_w4_lean_norm(const mw_w4_args &a, char *x_at, float *part) {
    constexpr int NV = MW_W4_LEAN_NORM_K / 8 / 256;
    const int vectors = a.k_tiles * 2, t = threadIdx.x;
    float v[NV][8], w[NV][8];
#pragma unroll
    for (int n = 0; n < NV; n++)
        if (t + n * 256 < vectors)
#pragma unroll
            for (int e = 0; e < 8; e += 4)
                *(float4 *)&w[n][e] = __ldg((const float4 *)(a.norm + (t + n * 256) * 8 + e));
    mw_pdl_wait();
    uint4 x[NV], d[NV];
#pragma unroll
    for (int n = 0; n < NV; n++)
        if (t + n * 256 < vectors) {
            x[n] = reinterpret_cast<const uint4 *>(a.x)[t + n * 256];
            if (a.delta) d[n] = reinterpret_cast<const uint4 *>(a.delta)[t + n * 256];
        }
    float sum = 0;
#pragma unroll
    for (int n = 0; n < NV; n++)
        if (t + n * 256 < vectors) {
            mw_unpack8<T>(x[n], v[n]);
            if (a.delta) {
                float more[8];
                mw_unpack8<T>(d[n], more);
#pragma unroll
                for (int e = 0; e < 8; e++) v[n][e] += more[e];
                x[n] = mw_pack8<T>(v[n]);
                mw_unpack8<T>(x[n], v[n]); /* the norm is of what is stored */
                if (blockIdx.x == 0) reinterpret_cast<uint4 *>(a.sum)[t + n * 256] = x[n];
            }
#pragma unroll
            for (int e = 0; e < 8; e++) sum += v[n][e] * v[n][e];
        }
    float down = 1; /* squares of bf16 values can leave f32: then of values 2^-64 times as large */
    sum = mw_w4_lean_total(sum, part);
    if (!(sum < INFINITY)) {
        down = 0x1p-64f;
        sum = 0;
#pragma unroll
        for (int n = 0; n < NV; n++)
            if (t + n * 256 < vectors)
#pragma unroll
                for (int e = 0; e < 8; e++) sum += (v[n][e] * down) * (v[n][e] * down);
        sum = mw_w4_lean_total(sum, part + 8);
    }
    float inv = rsqrtf(sum / (float)(a.k_tiles * 16) + a.eps * down * down) * down;
#pragma unroll
    for (int n = 0; n < NV; n++)
        if (t + n * 256 < vectors) {
            int slab = (t + n * 256) / 8, piece = t % 8;
#pragma unroll
            for (int e = 0; e < 8; e++) v[n][e] *= inv * w[n][e];
            *reinterpret_cast<uint4 *>(x_at + slab * 128 + ((piece ^ (slab & 7)) << 4)) = mw_pack8<T>(v[n]);
        }
    mw_w4_sync<8>();
}

static __device__ __forceinline__ float mw_silu_mul(float g, float u) {
    return g / (1 + __expf(-g)) * u;
}

/* Of one row: two buffers [8 warps][64] where the computing warps' sums of an item meet. Who adds them up is a warp of
 * its own, so that the others go on with the next item. */
struct mw_w4_lean_sums {
    uint32_t full, empty, parity;
    int at;
    float *red;

    __device__ __forceinline__ mw_w4_lean_sums(const mw_w4_args &a, char *smem, uint32_t bars, uint32_t first)
        : full(bars + 8 * MW_LEAN_MAX_RING), empty(full + 8 * MW_W4_MAX_RING), parity(first), at(0),
          red(reinterpret_cast<float *>(smem + a.off_red)) {}
    __device__ __forceinline__ float *here() const { return red + at * 512; }
    __device__ __forceinline__ void step() {
        at ^= 1;
        if (at == 0) parity ^= 1;
    }
};

/* A warp's sums: element 2h of acc[j] is column 16j + 8h + lane/4, where lane%4 is 0. */
static __device__ __forceinline__ void mw_w4_lean_give(const float acc[4][4], mw_w4_lean_sums &sums, int warp,
                                                       int lane) {
    float *to = sums.here() + warp * 64 + lane / 4;
    mw_bar_wait(sums.empty + 8 * sums.at, sums.parity);
    if (lane % 4 == 0)
#pragma unroll
        for (int j = 0; j < 8; j++) to[8 * j] = acc[j / 2][j % 2 * 2];
    __syncwarp();
    if (lane == 0) mw_bar_arrive(sums.full + 8 * sums.at);
    sums.step();
}

/* Slots are [block][half][64]; this lane's are columns 2 * lane and the next. */
template <int HALVES>
static __device__ __forceinline__ void mw_w4_lean_hand_over(const mw_w4_args &a, const float2 v[2], int lane) {
    uint32_t *to = a.slots + blockIdx.x * 128 + lane * 2;
#pragma unroll
    for (int h = 0; h < HALVES; h++)
        asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to + h * 64), "r"(mw_w4_sent(v[h].x)),
                     "r"(mw_w4_sent(v[h].y))
                     : "memory");
}

/* The sums that other blocks have of a tile whose last stage is here, added up in ascending order; zero where there are
 * none. */
template <int HALVES>
static __device__ __forceinline__ void mw_w4_lean_collect(const mw_w4_args &a, float2 v[2], const mw_w4_item &it,
                                                          int lane) {
    uint32_t *slots = a.slots + lane * 2;
    int first = (it.tile - a.waves * (int)gridDim.x) * a.k_stages, b = blockIdx.x;
    v[0] = v[1] = make_float2(0, 0);
    if (it.s1 < a.k_stages || it.s0 == 0) return;
    while (mw_w4_cut(a, b) > first) b--;
    for (; b < (int)blockIdx.x; b++) {
        uint2 got[HALVES];
        bool missing;
        do {
            missing = false;
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                             : "=r"(got[h].x), "=r"(got[h].y)
                             : "l"(slots + b * 128 + h * 64)
                             : "memory");
                missing |= !got[h].x || !got[h].y;
            }
        } while (missing);
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            v[h].x += __uint_as_float(got[h].x), v[h].y += __uint_as_float(got[h].y);
            *reinterpret_cast<uint2 *>(slots + b * 128 + h * 64) = make_uint2(0, 0);
        }
    }
}

/* The warp that adds up, item by item. HALVES 2: the teams' sums are gate and up. */
template <typename T, int HALVES>
static __device__ __forceinline__ void mw_w4_lean_finish(const mw_w4_args &a, char *smem, uint32_t bars) {
    int lane = threadIdx.x % 32;
    mw_w4_lean_sums sums(a, smem, bars, 0);
    mw_w4_walk walk(a);
    mw_w4_item it;
    mw_pdl_wait(); /* y may have readers still */
    for (; walk.next_column(a, &it); sums.step()) {
        /* Those of others first: mostly they are there before this block's own. */
        float2 v[2], others[2];
        mw_w4_lean_collect<HALVES>(a, others, it, lane);
        mw_bar_wait(sums.full + 8 * sums.at, sums.parity);
        const float2 *from = reinterpret_cast<const float2 *>(sums.here()) + lane;
        v[0] = v[1] = make_float2(0, 0);
#pragma unroll
        for (int w = 0; w < 8; w++) {
            float2 o = from[w * 32];
            v[w / 4].x += o.x, v[w / 4].y += o.y;
        }
        __syncwarp();
        if (lane == 0) mw_bar_arrive(sums.empty + 8 * sums.at);
        if (HALVES == 1) v[0].x += v[1].x, v[0].y += v[1].y;
        if (it.s1 < a.k_stages) {
            mw_w4_lean_hand_over<HALVES>(a, v, lane);
            continue;
        }
#pragma unroll
        for (int h = 0; h < HALVES; h++) v[h].x += others[h].x, v[h].y += others[h].y;
        int col = it.ni * 64 + lane * 2;
        if (a.bias)
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                const float *b = a.bias + col + h * (a.n / 2);
                v[h].x += b[0], v[h].y += b[1];
            }
        if (HALVES == 2) v[0] = make_float2(mw_silu_mul(v[0].x, v[1].x), mw_silu_mul(v[0].y, v[1].y));
        if (a.y_f32) {
            float *y = static_cast<float *>(a.y) + col;
            y[0] = v[0].x, y[1] = v[0].y;
        } else {
            uint32_t two = mw_w4_math<T>::pack(v[0].x, v[0].y);
            uint16_t *y = static_cast<uint16_t *>(a.y) + col;
            if (a.y_pairs)
                *reinterpret_cast<uint32_t *>(y) = two;
            else
                y[0] = (uint16_t)two, y[1] = (uint16_t)(two >> 16);
        }
    }
}

/* ---- more rows: the computing warps add up themselves ---- */

/* Pair p of the tile, in warp p, from the warps of each team; pairs of rows that do not exist are left out. Pairs: as
 * in mw_w4_join_warps. */
static __device__ __forceinline__ void mw_w4_lean_join(const float acc[4][4], float2 team[2], float2 *red, int warp,
                                                       int lane, int row_pairs) {
    bool exists = lane % 4 < row_pairs;
    int at = lane % 4 * 8 + lane / 4, pair = row_pairs * 8;
    mw_w4_sync<8>(); /* the sums of the tile before have been read */
#pragma unroll
    for (int p = 0; p < 8; p++)
        if (exists) red[(warp * 8 + p) * pair + at] = make_float2(acc[p / 2][p % 2 * 2], acc[p / 2][p % 2 * 2 + 1]);
    mw_w4_sync<8>();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        team[i] = make_float2(0, 0);
        if (exists)
#pragma unroll
            for (int w = 4 * i; w < 4 * i + 4; w++) {
                float2 o = red[(w * 8 + warp) * pair + at];
                team[i].x += o.x, team[i].y += o.y;
            }
    }
}

/* Columns n0 .. n0+7 of y: lane l has column l/4, rows 2*(l%4) and the next. */
template <typename T>
static __device__ __forceinline__ void mw_w4_lean_store(const mw_w4_args &a, float2 v, int n0, int lane) {
    if (a.y_f32) {
        float *y = static_cast<float *>(a.y) + n0 + lane / 4;
        int row = lane % 4 * 2;
        if (row < a.m) y[row * a.ldy] = v.x;
        if (row + 1 < a.m) y[(row + 1) * a.ldy] = v.y;
        return;
    }
    uint32_t two = mw_transpose8(mw_w4_math<T>::pack(v.x, v.y));
    int row = lane / 4;
    uint16_t *y = static_cast<uint16_t *>(a.y) + row * a.ldy + n0 + lane % 4 * 2;
    if (row < a.m && a.y_pairs) *reinterpret_cast<uint32_t *>(y) = two;
    if (row < a.m && !a.y_pairs) y[0] = (uint16_t)two, y[1] = (uint16_t)(two >> 16);
}

/* A block's pairs of an item: handed over, or completed by those of other blocks, and stored. */
template <typename T, int HALVES>
static __device__ __forceinline__ void mw_w4_lean_close(const mw_w4_args &a, float2 fin[HALVES], const mw_w4_item &it,
                                                        int warp, int lane) {
    if (it.s1 < a.k_stages) {
        mw_w4_hand_over<HALVES, 8>(a, fin, warp, lane);
        return;
    }
    if (it.s0 > 0) {
        int first = (it.tile - a.waves * (int)gridDim.x) * a.k_stages, b = blockIdx.x;
        while (mw_w4_cut(a, b) > first) b--;
        mw_w4_collect<HALVES, 8>(a, fin, b, warp, lane);
    }
    int n0 = it.ni * 64 + warp * 8;
    if (a.bias)
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            float b = a.bias[n0 + lane / 4 + h * (a.n / 2)];
            fin[h].x += b, fin[h].y += b;
        }
    float2 v = fin[0];
    if (HALVES == 2) v = make_float2(mw_silu_mul(v.x, fin[HALVES - 1].x), mw_silu_mul(v.y, fin[HALVES - 1].y));
    mw_w4_lean_store<T>(a, v, n0, lane);
}

/* Where a block is in its list of items. */
struct mw_w4_lean_items {
    mw_w4_walk walk;
    mw_w4_item at;
    bool more;
    __device__ __forceinline__ explicit mw_w4_lean_items(const mw_w4_args &a) : walk(a), at{0, 0, 0, 0, 0} { next(a); }
    __device__ __forceinline__ void next(const mw_w4_args &a) { more = walk.next_column(a, &at); }
};

template <typename T, bool ZEROS, bool SCALE_ACT, bool ONE>
static __device__ __forceinline__ void mw_w4_lean_compute(const mw_w4_args &a, char *smem, uint32_t bars,
                                                          mw_w4_lean_items &items) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, team = warp / 4, part = warp % 4;
    const int row = lane % 8 < a.x_rows ? lane % 8 : 0;
    /* Matrices 0 .. 3 of an ldmatrix: k 0..7 of two tiles, then k 8..15. */
    const int piece = lane / 16 + (lane / 8 & 1) * 2, r0 = part * 2 * a.x_rows + row, r1 = r0 + a.x_rows;
    const uint32_t x_stage = a.x_rows * 1024, s_stage = a.scale_rows * 64 * a.scale_size;
    const char *w = smem + part * 4096 + lane * 16, *scales = smem + a.off_s + lane / 4 * 8 * a.scale_size;
    const uint8_t *zeros = reinterpret_cast<const uint8_t *>(smem) + a.off_z + lane / 4 * 8;
    const uint32_t x0 = mw_smem(smem + a.off_x) + r0 * 128 + ((piece ^ (r0 & 7)) << 4);
    const uint32_t x1 = mw_smem(smem + a.off_x) + r1 * 128 + ((piece ^ (r1 & 7)) << 4);
    const int shift = a.halves - 1;
    float2 *red = reinterpret_cast<float2 *>(smem + a.off_red);
    mw_w4_lean_sums sums(a, smem, bars, 1); /* 1: a buffer that nobody has emptied yet is empty */
    int slot = team, count = 0;
    uint32_t parity = 0;
    for (; items.more; items.next(a)) {
        const mw_w4_item it = items.at;
        float acc[4][4] = {};
        int first = it.s0 << shift, n = (it.s1 << shift) - first;
        for (int i = (team ^ count) & 1; i < n; i += 2) {
            int s = first + i >> shift;
            mw_bar_wait(bars + 8 * slot, parity);
            if (s * 32 + part * 8 < a.k_tiles) {
                int g = (4 * s + part >> a.group_shift) - (4 * s >> a.group_shift);
                const char *ws = w + slot * MW_LEAN_STAGE, *scale = scales + slot * s_stage + g * 64 * a.scale_size;
                const uint8_t *zero = zeros + slot * MW_LEAN_ZEROS(a) + g * 64;
                uint32_t x = (a.norm ? s : slot) * x_stage;
                mw_w4_lean_group<T, ZEROS, SCALE_ACT, ONE>(acc, ws, x0 + x, x1 + x, a.scale_dtype, scale, zero);
            }
            __syncwarp();
            if (lane == 0) mw_bar_arrive(bars + 8 * (MW_W4_MAX_RING + slot));
            slot += 2;
            if (slot >= a.ring) slot -= a.ring, parity ^= 1;
        }
        count += n;
        if constexpr (ONE) {
            mw_w4_lean_give(acc, sums, warp, lane);
        } else {
            float2 fin[2];
            mw_w4_lean_join(acc, fin, red, warp, lane, (a.m + 1) / 2);
            if (shift) {
                mw_w4_lean_close<T, 2>(a, fin, it, warp, lane);
            } else {
                fin[0].x += fin[1].x, fin[0].y += fin[1].y;
                mw_w4_lean_close<T, 1>(a, fin, it, warp, lane);
            }
        }
    }
}

template <typename T, bool ZEROS, bool SCALE_ACT, bool ONE, int REGISTERS, int FEEDERS>
static __device__ __forceinline__ void mw_w4_lean_block(const mw_w4_args &a) {
    extern __shared__ char raw[];
    char *smem = raw + (1024 - (mw_smem(raw) & 1023)) % 1024;
    uint32_t bars = mw_smem(smem + a.off_bars);
    mw_pdl_trigger();
    if (threadIdx.x == 256) {
        mw_prefetch_map(&a.map_w);
        mw_prefetch_map(&a.map_s);
        if (!a.norm) mw_prefetch_map(&a.map_x);
        for (int i = 0; i < a.ring; i++) {
            mw_bar_init(bars + 8 * i, a.norm ? 2 : 3);
            mw_bar_init(bars + 8 * (MW_W4_MAX_RING + i), 4);
        }
        for (int i = MW_LEAN_MAX_RING; i < MW_W4_MAX_RING; i++) {
            mw_bar_init(bars + 8 * i, 8);
            mw_bar_init(bars + 8 * (MW_W4_MAX_RING + i), 1);
        }
        mw_bar_publish();
    }
    __syncthreads();
    if (threadIdx.x < 256) {
        mw_more_registers<REGISTERS>();
        mw_w4_lean_items items(a); /* divides: before the wait, when time is free */
        if (ONE && a.norm) mw_w4_lean_norm<T>(a, smem + a.off_x, reinterpret_cast<float *>(smem + a.off_red));
        if (!ONE) mw_pdl_wait(); /* y may have readers still */
        mw_w4_lean_compute<T, ZEROS, SCALE_ACT, ONE>(a, smem, bars, items);
    } else {
        mw_fewer_registers<FEEDERS>();
        bool leader = mw_elect();
        int role = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
        if (role == 8) mw_w4_lean_feed_tiles(a, mw_smem(smem), bars, leader);
        if (role == 9) mw_w4_lean_feed_scales(a, mw_smem(smem + a.off_s), mw_smem(smem + a.off_z), bars, leader);
        if (role == 10 && !a.norm) mw_w4_lean_feed_x(a, mw_smem(smem + a.off_x), bars, leader);
        if (ONE && role == 11 && a.halves == 1) mw_w4_lean_finish<T, 1>(a, smem, bars);
        if (ONE && role == 11 && a.halves == 2) mw_w4_lean_finish<T, 2>(a, smem, bars);
    }
}
#endif

/* A launch's blocks must spread over the multiprocessors, one each, while those of the launch before are still there:
 * a multiprocessor with two of them would take twice as long. So a launch is of one of two kinds. Blocks of the first
 * take more than half of the shared memory, those of the second more than half of the registers: two of a kind never
 * fit, one of each does. */
template <typename T, bool ZEROS, bool SCALE_ACT, bool ONE>
__global__ void __launch_bounds__(256 + MW_W4_FEEDER, 2) mw_w4_lean(const __grid_constant__ mw_w4_args a) {
#if __CUDA_ARCH__ >= 900
    mw_w4_lean_block<T, ZEROS, SCALE_ACT, ONE, ONE ? 96 : 104, ONE ? 40 : 24>(a);
#endif
}

template <typename T, bool ZEROS, bool SCALE_ACT, bool ONE>
__global__ void __maxnreg__(88) mw_w4_lean_second(const __grid_constant__ mw_w4_args a) {
#if __CUDA_ARCH__ >= 900
    mw_w4_lean_block<T, ZEROS, SCALE_ACT, ONE, 112, ONE ? 40 : 24>(a);
#endif
}

template <typename T, bool ZEROS, bool SCALE_ACT> static mw_w4_kernel mw_w4_pick_lean_rows(bool one, bool second) {
    if (one) return second ? mw_w4_lean_second<T, ZEROS, SCALE_ACT, true> : mw_w4_lean<T, ZEROS, SCALE_ACT, true>;
    return second ? mw_w4_lean_second<T, ZEROS, SCALE_ACT, false> : mw_w4_lean<T, ZEROS, SCALE_ACT, false>;
}

template <typename T> static mw_w4_kernel mw_w4_pick_lean(bool zeros, bool scale_act, bool one, bool second) {
    if (zeros)
        return scale_act ? mw_w4_pick_lean_rows<T, true, true>(one, second)
                         : mw_w4_pick_lean_rows<T, true, false>(one, second);
    return scale_act ? mw_w4_pick_lean_rows<T, false, true>(one, second)
                     : mw_w4_pick_lean_rows<T, false, false>(one, second);
}

#endif
