/* kernels/cuda/attention_decode.cu - attention of sequences with few rows, cut along the context ("split KV").
 *
 *   grid   x: part of the context   y: kv head * tiles + tile of eight flat rows ("columns")   z: sequence
 *   block  four warps; each takes every fourth tile of 16 positions
 *
 * A tile's K is operand A of the matrix unit (16 positions x head_dim) and the columns' q operand B, so that
 * S^T = K q^T has positions as rows and columns as columns; then O^T = V^T P^T. Every warp has `depth` tiles in shared
 * memory or on their way there and waits for no other warp. head_dim is rounded up to HDP with steps that are skipped.
 *
 * In a decode step (rope.table not NULL) the row's own K and V are not cached yet and q is not rotated: every block
 * rotates its q heads, the block of the last part K as well, which it stores. All that was cached by earlier steps is
 * asked for before the dependency wait, while the projection in front still runs.
 *
 * Every warp keeps a running maximum, sum and O ("state") of its positions. The states of a block meet in shared
 * memory; those of the blocks of a cluster, neighbouring parts, are pushed to each other (sm_90); those of clusters
 * meet through the workspace, in the last block to finish. Always in the same order: a launch has the same bits every
 * time.
 *
 * One warp a scheduler hides nothing: at batch 1 the time is that of the instructions one after another, so the walk
 * has as few as can be. Measured (docs/PERF.md): copies by threads (cp.async) of 16 bytes reach 2.4 TB/s, those of the
 * copy engine 3.7. */
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/tensor_map.h"

template <int HDP> struct decode_state {
    float o[HDP / 16][4]; /* rows 16j + g and 16j + g + 8 of O^T, columns 2t, 2t+1 */
    float m[2], l[2];     /* of columns 2t, 2t+1; l: this lane's positions only */
};

static __device__ __forceinline__ float group_max(float x) { /* over g: lanes with the same t */
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 4));
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 8));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 16));
}

static __device__ __forceinline__ float group_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 4);
    x += __shfl_xor_sync(~0u, x, 8);
    return x + __shfl_xor_sync(~0u, x, 16);
}

static __device__ __forceinline__ uint32_t transpose(uint32_t x) { /* of an 8x8 matrix of 16-bit elements */
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

static __device__ __forceinline__ void ldmatrix(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_transposed(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* ---- the block's rows -------------------------------------------------------------------------------------------- */

#define Q_LINE(hdp) ((hdp) + 8) /* elements of a column's q in shared memory: padded against bank conflicts */
#define LINE(hdp)   ((hdp) + 4) /* floats of a column of O: likewise */

/* Shared memory. */
struct places {
    float *maxima, *sums, *o; /* of every warp, its columns' */
    int o_warp;               /* floats between warps in `o` */
    uint16_t *q;              /* [COLS][Q_LINE], in the cache's type */
    uint16_t *k, *v;          /* of position `fresh` */
    char *mail;
    uint32_t rings;
};

static __device__ __forceinline__ int mail_bytes(int cols, int hd) { /* a slice more than all quads */
    return (cols * hd / 4 + CLUSTER) * MW_MAIL_BYTES;
}

template <int HDP> static __device__ __forceinline__ places places_of(const decode_args &p, char *smem) {
    places s;
    s.maxima = (float *)smem;
    s.sums = s.maxima + WARPS * COLS;
    s.k = (uint16_t *)(s.sums + WARPS * COLS);
    s.v = s.k + HDP;
    s.q = s.v + HDP;
    s.o = (float *)(s.q + COLS * Q_LINE(HDP));
#if __CUDA_ARCH__ >= 900
    const bool overlay = false;
#else
    const bool overlay = p.overlay;
#endif
    s.o_warp = p.cols * LINE(HDP);
    s.mail = (char *)(s.o + (overlay ? 0 : WARPS * s.o_warp));
    s.rings = (mw_smem(s.mail + (p.cluster > 1 ? mail_bytes(p.cols, HDP) : 0)) + 1023) & ~1023u;
    if (overlay) {
        s.o = (float *)(smem + (s.rings - mw_smem(smem)));
        s.o_warp = p.depth * 16 * HDP; /* a warp's own tiles, which it has done with */
    }
    return s;
}

/* q of the block's columns to shared memory, rotated or as it is; then K and V of position `fresh`, which are stored.
 */
template <typename KV, int HDP>
static __device__ __forceinline__ void stage_rows(const decode_args &p, const decode_part &w, int hd,
                                                  const mw_angles &angles, const places &s) {
    const mw_attn_args &a = p.a;
    const int l = threadIdx.x % MW_ROPE_LANES, half = hd / 2;
    const bool rotate = p.rope.table != nullptr, own = w.fresh < w.end;
    for (int h = threadIdx.x / MW_ROPE_LANES; h < w.cols + (own ? 2 : 0); h += THREADS / MW_ROPE_LANES) {
        const int which = h - w.cols; /* 0: K, 1: V */
        const int64_t row = (int64_t)w.row0 * a.ld + w.kvh * hd;
        const uint16_t *x = which < 0    ? (const uint16_t *)a.q + mw_q_offset(a, w.row0, w.kvh, w.first_col + h, a.ld)
                            : which == 0 ? p.rope.k + row
                                         : p.rope.v + row;
        mw_head_part part = mw_load_head(x, a.act, hd, l);
        if (rotate && which < 1) {
            mw_norm_head(part, which < 0 ? p.rope.q_norm : p.rope.k_norm, p.rope.eps, hd, l);
            mw_rotate(part, angles);
        }
        if (which < 0) mw_round_head(part, a.act); /* as rows in memory would have been */
        if (8 * l >= half) continue;
        const uint4 lo = mw_pack8<KV>(part.lo), hi = mw_pack8<KV>(part.hi);
        uint16_t *to = (which < 0 ? s.q + h * Q_LINE(HDP) : which == 0 ? s.k : s.v) + 8 * l;
        *(uint4 *)to = lo, *(uint4 *)(to + half) = hi;
        if (which < 0 || w.first_col != 0) continue;
        const int slot = p.rope.slot[w.row0];
        uint16_t *cache = (uint16_t *)(which ? p.rope.v_cache : p.rope.k_cache) + 8 * l;
        cache += mw_kv_offset(a, slot >> a.block_shift, w.kvh, slot);
        *(uint4 *)cache = lo, *(uint4 *)(cache + half) = hi;
    }
}

/* Operand B of step j: q[j]. */
template <int HDP> static __device__ __forceinline__ void load_q(uint32_t q[HDP / 16][2], const places &s, int steps) {
    const int lane = threadIdx.x % 32;
    const uint32_t at = mw_smem(s.q + lane % 8 * Q_LINE(HDP) + lane / 8 * 8);
#pragma unroll
    for (int j = 0; j < HDP / 16; j += 2) {
        if (j >= steps) break;
        uint32_t r[4];
        ldmatrix(r, at + (uint32_t)(j * 32));
        q[j][0] = r[0], q[j][1] = r[1], q[j + 1][0] = r[2], q[j + 1][1] = r[3];
    }
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

/* x: scores of positions g and g + 8, columns 2t and 2t + 1. */
template <typename KV, int HDP, bool S>
static __device__ __forceinline__ void scores(float x[4], const tile_feed<HDP, S> &feed, const uint32_t q[HDP / 16][2],
                                              int steps) {
    const int lane = threadIdx.x % 32, token = lane % 16;
    float y[4] = {0, 0, 0, 0};
#pragma unroll
    for (int e = 0; e < 4; e++) x[e] = 0;
#pragma unroll
    for (int j = 0; j < HDP / 16; j++) {
        if (j >= steps) break;
        uint32_t a[4];
        ldmatrix(a, feed.k() + feed.at(token, 2 * j + lane / 16));
        mw_mma<KV>(j % 2 ? y : x, a[0], a[1], a[2], a[3], q[j][0], q[j][1]); /* two chains: latency */
    }
#pragma unroll
    for (int e = 0; e < 4; e++) x[e] += y[e];
}

/* x becomes weights; alpha: what O is to be multiplied with. top: the columns' positions, p: this lane's first. */
template <int HDP>
static __device__ __forceinline__ void weigh(decode_state<HDP> &st, float x[4], float alpha[2], const mw_attn_args &a,
                                             int p, const int top[2], bool masked) {
    if (masked) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int pos = p + 8 * (e >> 1);
            if (pos > top[e & 1] || (a.window && pos <= top[e & 1] - a.window)) x[e] = -INFINITY;
        }
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
        /* fmaxf would lose a NaN score; its weight is NaN all the same, and so is the sum. */
        const float m = fmaxf(st.m[e], group_max(fmaxf(x[e], x[e + 2])) * a.scale_log2);
        alpha[e] = mw_exp2(st.m[e] - m);
        st.m[e] = m;
        x[e] = mw_exp2(fmaf(x[e], a.scale_log2, -m));
        x[e + 2] = mw_exp2(fmaf(x[e + 2], a.scale_log2, -m));
        st.l[e] = fmaf(st.l[e], alpha[e], x[e] + x[e + 2]);
    }
}

template <typename KV, int HDP, bool S>
static __device__ __forceinline__ void add_values(decode_state<HDP> &st, const float x[4],
                                                  const tile_feed<HDP, S> &feed, int steps) {
    const int lane = threadIdx.x % 32, token = lane % 8 + lane / 16 * 8;
    const uint32_t b0 = transpose(mw_pack<KV>(x[0], x[1])), b1 = transpose(mw_pack<KV>(x[2], x[3]));
#pragma unroll
    for (int j = 0; j < HDP / 16; j++) {
        if (j >= steps) break;
        uint32_t a[4];
        ldmatrix_transposed(a, feed.v() + feed.at(token, 2 * j + lane / 8 % 2));
        mw_mma<KV>(st.o[j], a[0], a[1], a[2], a[3], b0, b1);
    }
}

/* Position `fresh` comes from the block's own row. V past the end of the context counts as zeros: its weight is 0, but
 * 0 * NaN is not. */
template <int HDP, bool S>
static __device__ __forceinline__ void mend(const tile_feed<HDP, S> &feed, const places &s, int p) {
    const decode_part &w = feed.w;
    if (w.fresh - p < 16) {
        feed.put_row(feed.k(), w.fresh - p, s.k);
        feed.put_row(feed.v(), w.fresh - p, s.v);
    }
    for (int token = w.end - p; token < 16; token++) feed.put_row(feed.v(), token, nullptr);
    __syncwarp();
}

template <typename KV, int HDP, bool S>
static __device__ __forceinline__ void walk(decode_state<HDP> &st, tile_feed<HDP, S> &feed, const places &s) {
    const mw_attn_args &a = feed.p.a;
    const decode_part &w = feed.w;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, steps = S ? HDP / 16 : a.head_dim / 16;
    uint32_t q[HDP / 16][2];
    int top[2];
    load_q<HDP>(q, s, steps);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int col = 2 * t + e;
        top[e] = col < w.cols ? w.pos0 + mw_row_of(a, w.first_col + col) : -1;
        st.m[e] = -1e30f; /* finite: a part may hold nothing that a column sees */
        st.l[e] = 0;
    }
#pragma unroll
    for (int j = 0; j < HDP / 16; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) st.o[j][e] = 0;
    const int all = w.pos0 - 15, none = a.window ? w.last - a.window : -1; /* tiles between them: no masks */
    for (int i = 0; i < feed.n; i++) {
        const int p = feed.position(i);
        float x[4], alpha[2];
        feed.wait();
        if (p + 16 > w.end || w.fresh - p < 16) mend(feed, s, p);
        scores<KV, HDP>(x, feed, q, steps);
        weigh<HDP>(st, x, alpha, a, p + g, top, p > all || p <= none);
        if (i > 0 && __any_sync(~0u, alpha[0] != 1 || alpha[1] != 1)) {
#pragma unroll
            for (int j = 0; j < HDP / 16; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) st.o[j][e] *= alpha[e & 1];
        }
        add_values<KV, HDP>(st, x, feed, steps);
        feed.next();
    }
    st.l[0] = group_sum(st.l[0]);
    st.l[1] = group_sum(st.l[1]);
}

/* ---- states meet ------------------------------------------------------------------------------------------------- */

/* O / sum to its place in `out`. */
static __device__ __forceinline__ void write_out(const decode_args &p, const decode_part &w, int col, int d,
                                                 const mw_quad &q) {
    int64_t at = mw_q_offset(p.a, w.row0, w.kvh, w.first_col + col, p.a.ld_out) + d;
    float inv = __fdividef(1, q.l), x[4] = {q.o.x * inv, q.o.y * inv, q.o.z * inv, q.o.w * inv};
    uint32_t *to = (uint32_t *)((uint16_t *)p.a.out + at);
    bool half = p.a.act == MW_F16;
    to[0] = half ? mw_pack<__half>(x[0], x[1]) : mw_pack<__nv_bfloat16>(x[0], x[1]);
    to[1] = half ? mw_pack<__half>(x[2], x[3]) : mw_pack<__nv_bfloat16>(x[2], x[3]);
}

/* A warp's state to shared memory. */
template <int HDP>
static __device__ __forceinline__ void put_state(const places &s, const decode_state<HDP> &st, int cols) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int col = 2 * t + e;
        if (g == 0) s.maxima[warp * COLS + col] = st.m[e], s.sums[warp * COLS + col] = st.l[e];
        if (col >= cols) continue;
        float *to = &s.o[warp * s.o_warp + col * LINE(HDP) + g];
#pragma unroll
        for (int j = 0; j < HDP / 16; j++) to[16 * j] = st.o[j][e], to[16 * j + 8] = st.o[j][e + 2];
    }
}

template <int HDP> static __device__ __forceinline__ mw_quad block_quad(const places &s, int col, int d) {
    return mw_merge<WARPS>(WARPS, [&](int v) {
        return mw_quad{*(const float4 *)&s.o[v * s.o_warp + col * LINE(HDP) + d], s.maxima[v * COLS + col],
                       s.sums[v * COLS + col]};
    });
}

/* States of n clusters, n at most 64: in groups, each in order. */
static __device__ __forceinline__ mw_quad merge_states(const float *states, int64_t size, int n, int cols, int hd,
                                                       int col, int d) {
    mw_quad sum = mw_no_quad();
    for (int i = 0; i < n; i += CLUSTER) {
        const mw_quad q = mw_merge<CLUSTER>(
            min(n - i, CLUSTER), [&](int b) { return mw_read_state(states + (i + b) * size, cols, hd, col, d); });
        sum = mw_merge<2>(2, [&](int b) { return b ? q : sum; });
    }
    return sum;
}

template <typename KV, int HDP, bool S>
static __global__ void __launch_bounds__(THREADS, BLOCKS) decode_kernel(const __grid_constant__ decode_args p) {
    extern __shared__ float4 smem4[];
    __shared__ uint64_t bars[WARPS * MAX_DEPTH]; /* a tile has come */
    const int hd = S ? HDP : p.a.head_dim;
    const bool rotate = p.rope.table != nullptr;
    const places s = places_of<HDP>(p, (char *)smem4);
    decode_part w;
    if (!rotate) mw_pdl_wait(); /* the kernel in front stored K and V */
    if (!find_part(p, p.first_seq + blockIdx.z, w)) {
        if (rotate) mw_pdl_wait(); /* a launch must not be over before the one in front of it */
        return;
    }
    const int quads = w.cols * hd / 4;
#if __CUDA_ARCH__ >= 900
    __shared__ uint64_t mail_barrier;
    const int rank = (int)blockIdx.x & (p.cluster - 1), live = min(w.parts - (int)blockIdx.x + rank, p.cluster);
    const int slice = (quads + live - 1) / live;
    const int mine = max(0, min(slice, quads - rank * slice)); /* quads that this block puts together */
    const mw_mailbox box = {mw_smem(&mail_barrier), mw_smem(s.mail), mw_smem(s.mail) + live * slice * 16, slice,
                            1 / (float)slice};
    if (p.cluster > 1) {
        if (threadIdx.x == 0) mw_mail_open(box);
        mw_cluster_arrive();
    }
#endif
    tile_feed<HDP, S> feed(p, w, s.rings, mw_smem(bars));
    for (int i = w.cols * Q_LINE(HDP) / 8 + (int)threadIdx.x; i < COLS * Q_LINE(HDP) / 8; i += THREADS)
        *(uint4 *)(s.q + 8 * i) = make_uint4(0, 0, 0, 0); /* columns that are not there */
    mw_angles angles = {};
    if (rotate) {
        angles = mw_load_angles(p.rope.table, w.pos0, hd, threadIdx.x % MW_ROPE_LANES);
        mw_pdl_wait();
    }
    stage_rows<KV, HDP>(p, w, hd, angles, s);
    __syncthreads();
    if (rotate) mw_pdl_trigger(); /* once q, k and v are here: the next kernel's weights would delay them */
    decode_state<HDP> st;
    walk<KV, HDP, S>(st, feed, s);
    put_state<HDP>(s, st, w.cols);
    __syncthreads();

    const int64_t unit = (int64_t)blockIdx.z * gridDim.y + blockIdx.y, size = mw_state_floats(p.cols, hd);
    float *states = p.states + unit * (gridDim.x / p.cluster) * size;
    if (p.cluster > 1 && w.parts > 1) {
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x == 0) mw_mail_expect(box, live * mine);
        mw_cluster_wait();
        for (int i = threadIdx.x; i < quads; i += THREADS)
            mw_mail_push(box, rank, i, block_quad<HDP>(s, i / (hd / 4), i % (hd / 4) * 4));
        mw_mail_wait(box);
        for (int k = threadIdx.x; k < mine; k += THREADS) {
            const int i = rank * slice + k, col = i / (hd / 4), d = i % (hd / 4) * 4;
            const mw_quad q = mw_merge<CLUSTER>(live, [&](int b) { return mw_mail_read(box, b, k); });
            if (w.parts <= p.cluster)
                write_out(p, w, col, d, q);
            else
                mw_write_state(states + blockIdx.x / p.cluster * size, p.cols, hd, col, d, q);
        }
#endif
        if (w.parts <= p.cluster) return;
    } else {
        for (int i = threadIdx.x; i < quads; i += THREADS) {
            const int col = i / (hd / 4), d = i % (hd / 4) * 4;
            const mw_quad q = block_quad<HDP>(s, col, d);
            if (w.parts == 1)
                write_out(p, w, col, d, q);
            else
                mw_write_state(states + blockIdx.x * size, p.cols, hd, col, d, q);
        }
        if (w.parts == 1) return;
    }
    if (!mw_last_of(p.counters + unit, w.parts)) return;
    const int n = (w.parts + p.cluster - 1) / p.cluster;
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        const int col = i / (hd / 4), d = i % (hd / 4) * 4;
        write_out(p, w, col, d, merge_states(states, size, n, p.cols, hd, col, d));
    }
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <typename KV, int HDP, bool S> static cudaError_t launch_one(mw_dev *d, const decode_args &p, dim3 grid) {
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)p.cluster;
    attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = grid;
    cfg.blockDim = THREADS;
    cfg.dynamicSmemBytes = (size_t)p.smem;
    cfg.stream = d->stream;
    cfg.attrs = attr;
    cfg.numAttrs = d->sm >= 90 ? 2 : 0;
    /* Every time: it is a table entry in the driver, and the current context may be another device's. */
    cudaError_t e = cudaSetDevice(d->ordinal);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(decode_kernel<KV, HDP, S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)cfg.dynamicSmemBytes);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(decode_kernel<KV, HDP, S>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
    return e == cudaSuccess ? cudaLaunchKernelEx(&cfg, decode_kernel<KV, HDP, S>, p) : e;
}

template <int HDP, bool S> static cudaError_t launch(mw_dev *d, const decode_args &p, dim3 grid) {
    return p.a.kv_dtype == MW_F16 ? launch_one<__half, HDP, S>(d, p, grid)
                                  : launch_one<__nv_bfloat16, HDP, S>(d, p, grid);
}

static cudaError_t launch_dims(mw_dev *d, const decode_args &p, dim3 grid) {
    const int hd = p.a.head_dim;
    return hd == 64    ? launch<64, true>(d, p, grid)
           : hd == 128 ? launch<128, true>(d, p, grid)
           : hd == 256 ? launch<256, true>(d, p, grid)
           : hd < 128  ? launch<128, false>(d, p, grid)
                       : launch<256, false>(d, p, grid);
}

/* A cache as [64 columns][position][64], or [position][head_dim] where tiles are not swizzled. How long it is, nobody
 * knows here: rows come from the block table. */
static mw_status make_maps(decode_args *p) {
    const mw_attn_args *a = &p->a;
    const cuuint64_t hd = (cuuint64_t)a->head_dim;
    const bool swizzled = hd == 64 || hd == 128 || hd == 256;
    const cuuint64_t width = swizzled ? 64 : hd, dims[3] = {width, 1u << 31, hd / width}, strides[2] = {hd * 2, 128};
    const cuuint32_t box[3] = {(cuuint32_t)width, 16, (cuuint32_t)(hd / width)};
    const CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT16;
    mw_status st = mw_cuda_tensor_map(&p->k_map, "K cache", type, 3, a->k_cache, dims, strides, box, swizzled);
    return st == MW_OK ? mw_cuda_tensor_map(&p->v_map, "V cache", type, 3, a->v_cache, dims, strides, box, swizzled)
                       : st;
}

/* log2 of the parts of a context, of 64 tokens at least. Parts of one cluster meet cheaply: three quarters of the
 * multiprocessors at work are enough to keep the memory busy, or a cluster for a context that is not long; beyond that,
 * enough blocks for two on a multiprocessor. */
static int choose_parts(const mw_dev *d, int max_ctx, int64_t units) {
    int shift = 0;
    while (max_ctx >> (shift + 1) >= 16 * WARPS && shift < 6) {
        const bool one = 1 << shift < CLUSTER;
        if (units << shift >= (int64_t)d->n_sm * (one ? 3 : 6) / 4) break;
        if (!one && max_ctx <= CLUSTER_TOKENS) break;
        shift++;
    }
    return shift;
}

mw_status mw_cuda_attn_decode(mw_dev *d, const mw_attn_args *a, const mw_rope_args *r, int max_rows, int max_ctx,
                              int n_seqs) {
    decode_args p = {};
    p.a = *a;
    if (r) p.rope = *r;
    int flat = max_rows * a->group < MW_DECODE_COLS ? max_rows * a->group : MW_DECODE_COLS;
    flat = flat > a->group ? flat : a->group;
    p.tiles = (flat + COLS - 1) / COLS;
    p.cols = flat < COLS ? flat : COLS;
    p.states = (float *)d->workspace;
    p.counters = d->counters;
    const int y = a->n_kv * p.tiles;
    p.part_shift = choose_parts(d, max_ctx, (int64_t)n_seqs * y);
    const int x = 1 << p.part_shift;
    p.cluster = d->sm < 90 ? 1 : x < CLUSTER ? x : CLUSTER;
    if (d->sm >= 90) {
        mw_status made = make_maps(&p);
        if (made != MW_OK) return made;
    }
    const int hd = a->head_dim;
    const mw_decode_shape shape = mw_cuda_decode_shape(
        d,
        hd == 64    ? 64
        : hd <= 128 ? 128
                    : 256,
        p.cols, p.cluster, part_tokens(max_ctx, p.part_shift) / (16 * WARPS), (int64_t)n_seqs * x * y);
    p.depth = shape.depth, p.overlay = shape.overlay, p.smem = shape.smem;
    /* As many sequences a launch as the workspace and the counters have room for. */
    size_t unit = (size_t)(x / p.cluster) * (size_t)mw_state_floats(p.cols, hd) * sizeof(float);
    int64_t room = (int64_t)(MW_CUDA_WORKSPACE / unit), step;
    room = (room < MW_CUDA_COUNTERS ? room : MW_CUDA_COUNTERS) / y;
    if (room < 1)
        return MW_FAIL(MW_ERR_INTERNAL, "attention with %d kv heads of %d q heads does not fit the workspace", a->n_kv,
                       a->group);
    step = room < 65535 ? room : 65535;
    for (int s = 0; s < n_seqs; s += (int)step) {
        dim3 grid((unsigned)x, (unsigned)y, (unsigned)(n_seqs - s < step ? n_seqs - s : step));
        p.first_seq = s;
        mw_status st = mw_cuda_check(launch_dims(d, p, grid), "attention (decode)");
        if (st != MW_OK) return st;
    }
    return MW_OK;
}
