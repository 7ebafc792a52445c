/* kernels/cuda/attention_decode.cu - attention of sequences with few rows, cut along the context ("split KV").
 *
 *   grid   x: part of the context, or group of parts   y: kv head * tiles + tile of eight flat rows ("columns")
 *          z: sequence
 *   block  four warps; each takes every fourth tile of 16 positions
 *
 * A tile's K is operand A of the matrix unit (16 positions x head_dim) and the columns' q operand B, so that
 * S^T = K q^T has positions as rows and columns as columns; then O^T = V^T P^T. K and V come in 16-byte pieces straight
 * into the lanes that multiply with them, because the order of summation over head_dim, and which output column is
 * called which, are free:
 *   K  lane (g, t) loads elements 32c + 8t .. + 7 of positions g and g+8: the matrix unit's columns (2t, 2t+1, 2t+8,
 *      2t+9) of step 2c stand for elements 8t .. 8t+3, those of step 2c+1 for 8t+4 .. 8t+7; q is loaded alike
 *   V  lane (g, t) loads elements 64c + 8g .. + 7 of positions 2t, 2t+1, 2t+8, 2t+9: rows g and g+8 of the j-th of four
 *      products stand for elements 8g + 2j and 8g + 2j + 1
 * head_dim is rounded up to HDP with loads that are skipped. Every warp has `depth` tiles in shared memory or on their
 * way there, each lane's pieces in places of its own: so no lane waits for another, and memory is never idle.
 *
 * In a decode step (rope.table not NULL) the row's own K and V are not cached yet and q is not rotated: every block
 * rotates its q heads, the block of the last part K as well, which it stores. All that was cached by earlier steps is
 * asked for before the dependency wait, while the projection in front still runs.
 *
 * Parts: T positions each, T from the sequence's own span and the number of KV heads alone. Every warp keeps a running
 * maximum, sum and O ("state") of its positions in a part. States meet always in the same order, so that a row's bits
 * do not depend on the batch: the warps' of a part in shared memory; those of GROUP neighbouring parts, in order; those
 * of the groups, in order. Where a group is done depends on how many blocks there are to fill the device: one block
 * does its parts one after another (many sequences), or the blocks of a cluster a part each, which push their states
 * to each other (sm_90), or blocks a part each meet through the workspace. Groups meet through the workspace, in the
 * last block to finish. */
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/tensor_map.h"

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

template <typename KV, int HDP> struct decode_state {
    float o[HDP / 64][4][4];
    float m[2], l[2]; /* of columns 2t, 2t+1; l: this lane's positions only */
};

template <typename KV, int HDP>
static __device__ __forceinline__ void scores(float s[4], const uint4 k[HDP / 32][2], const uint4 q[HDP / 32]) {
    float s1[4] = {0, 0, 0, 0};
#pragma unroll
    for (int e = 0; e < 4; e++) s[e] = 0;
#pragma unroll
    for (int c = 0; c < HDP / 32; c++) { /* two chains: a product's latency is longer than its issue */
        mw_mma<KV>(s, k[c][0].x, k[c][1].x, k[c][0].y, k[c][1].y, q[c].x, q[c].y);
        mw_mma<KV>(s1, k[c][0].z, k[c][1].z, k[c][0].w, k[c][1].w, q[c].z, q[c].w);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) s[e] += s1[e];
}

/* s: scores of positions p + g and p + g + 8; becomes weights, and the state is scaled to the new maximum. */
template <typename KV, int HDP>
static __device__ __forceinline__ void weigh(decode_state<KV, HDP> &st, float s[4], const mw_attn_args &a, int p,
                                             const int limit[2]) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int pos = p + 8 * (e >> 1), top = limit[e & 1];
        bool seen = pos <= top && (!a.window || pos > top - a.window);
        s[e] = seen ? s[e] * a.scale_log2 : -INFINITY;
    }
    float alpha[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
        /* fmaxf would lose a NaN score; its weight is NaN all the same, and so is the sum. */
        float m = fmaxf(st.m[e], group_max(fmaxf(s[e], s[e + 2])));
        alpha[e] = mw_exp2(st.m[e] - m);
        st.m[e] = m;
        s[e] = mw_exp2(s[e] - m);
        s[e + 2] = mw_exp2(s[e + 2] - m);
        st.l[e] = st.l[e] * alpha[e] + s[e] + s[e + 2];
    }
#pragma unroll
    for (int c = 0; c < HDP / 64; c++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) st.o[c][j][e] *= alpha[e & 1];
}

template <typename KV, int HDP>
static __device__ __forceinline__ void add_values(decode_state<KV, HDP> &st, const float s[4],
                                                  const uint4 v[HDP / 64][4]) {
    uint32_t b0 = transpose(mw_pack<KV>(s[0], s[1])), b1 = transpose(mw_pack<KV>(s[2], s[3]));
#pragma unroll
    for (int c = 0; c < HDP / 64; c++) {
        const uint32_t w[4][4] = {{v[c][0].x, v[c][0].y, v[c][0].z, v[c][0].w},
                                  {v[c][1].x, v[c][1].y, v[c][1].z, v[c][1].w},
                                  {v[c][2].x, v[c][2].y, v[c][2].z, v[c][2].w},
                                  {v[c][3].x, v[c][3].y, v[c][3].z, v[c][3].w}};
#pragma unroll
        for (int j = 0; j < 4; j++)
            mw_mma<KV>(st.o[c][j], __byte_perm(w[0][j], w[1][j], 0x5410), __byte_perm(w[0][j], w[1][j], 0x7632),
                       __byte_perm(w[2][j], w[3][j], 0x5410), __byte_perm(w[2][j], w[3][j], 0x7632), b0, b1);
    }
}

/* ---- the block's rows -------------------------------------------------------------------------------------------- */

#define Q_LINE(hdp) ((hdp) + 32) /* elements of a column's q in shared memory: padded against bank conflicts */

/* Shared memory. What a block of the cluster is sent is its own; q is read before states are written. */
struct places {
    float *maxima, *sums, *o; /* of every warp, its columns' */
    uint16_t *q;              /* [COLS][Q_LINE], in the cache's type */
    uint16_t *k, *v;          /* of position `fresh` */
    char *mail;
    uint32_t rings;
};

#define LINE(hdp) ((hdp) + 4) /* floats of a column of O: padded against bank conflicts */

static __host__ __device__ __forceinline__ int fixed_bytes(int hdp, int cols) {
    int o = WARPS * cols * LINE(hdp) * 4, q = COLS * Q_LINE(hdp) * 2;
    return 2 * WARPS * COLS * 4 + 2 * hdp * 2 + (o > q ? o : q);
}

static __host__ __device__ __forceinline__ int mail_bytes(int cols, int hd) { /* a slice more than all quads */
    return (cols * hd / 4 + GROUP) * MW_MAIL_BYTES;
}

template <int HDP> static __device__ __forceinline__ places places_of(const decode_args &p, char *smem) {
    places s;
    s.maxima = (float *)smem;
    s.sums = s.maxima + WARPS * COLS;
    s.k = (uint16_t *)(s.sums + WARPS * COLS);
    s.v = s.k + HDP;
    s.o = (float *)(s.v + HDP);
    s.q = (uint16_t *)s.o;
    s.mail = smem + fixed_bytes(HDP, p.cols);
    s.rings = mw_smem(s.mail + (p.cluster > 1 ? mail_bytes(p.cols, HDP) : 0)) + 1023 & ~1023u;
    return s;
}

/* Eight elements to the cache's type: the matrix units want both operands alike. */
template <typename KV> static __device__ __forceinline__ void put8(uint16_t *to, const float x[8]) {
    *(uint4 *)to = mw_pack8<KV>(x);
}

/* q of the block's columns to shared memory, rotated or as it is; then K and V of position `fresh`, which are stored.
 */
template <typename KV, int HDP>
static __device__ __forceinline__ void stage_rows(const decode_args &p, const decode_part &w, int kvh,
                                                  const mw_angles &angles, const places &s) {
    const mw_attn_args &a = p.a;
    const int l = threadIdx.x % MW_ROPE_LANES, hd = a.head_dim, half = hd / 2;
    const bool rotate = p.rope.table != nullptr, own = w.fresh < w.end;
    for (int h = threadIdx.x / MW_ROPE_LANES; h < w.cols + (own ? 2 : 0); h += THREADS / MW_ROPE_LANES) {
        const int which = h - w.cols; /* 0: K, 1: V */
        const int64_t row = (int64_t)w.row0 * a.ld + (int64_t)kvh * hd;
        const uint16_t *x = which < 0    ? (const uint16_t *)a.q + mw_q_offset(a, w.row0, kvh, w.first_col + h, a.ld)
                            : which == 0 ? p.rope.k + row
                                         : p.rope.v + row;
        mw_head_part part = mw_load_head(x, a.act, hd, l);
        if (rotate && which < 1) {
            mw_norm_head(part, which < 0 ? p.rope.q_norm : p.rope.k_norm, p.rope.eps, hd, l);
            mw_rotate(part, angles);
        }
        if (which < 0) mw_round_head(part, a.act); /* as rows in memory would have been */
        if (8 * l >= half) continue;
        uint16_t *to = which < 0 ? s.q + h * Q_LINE(HDP) : which == 0 ? s.k : s.v;
        put8<KV>(to + 8 * l, part.lo);
        put8<KV>(to + half + 8 * l, part.hi);
        if (which < 0 || w.first_col != 0) continue;
        const int slot = p.rope.slot[w.row0];
        uint16_t *cache = (uint16_t *)(which ? p.rope.v_cache : p.rope.k_cache);
        cache += mw_kv_offset(a, slot >> a.block_shift, kvh, slot);
        put8<KV>(cache + 8 * l, part.lo);
        put8<KV>(cache + half + 8 * l, part.hi);
    }
}

/* The q of column g of the block's tile, as operand B. */
template <int HDP>
static __device__ __forceinline__ void load_q(uint4 q[HDP / 32], const decode_part &w, const places &s, int hd) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < HDP / 32; c++) {
        int d = k_piece(c, t) * 8;
        q[c] = g < w.cols && d < hd ? *(const uint4 *)(s.q + g * Q_LINE(HDP) + d) : make_uint4(0, 0, 0, 0);
    }
}

/* K, or V, of position `token` of the tile comes from the block's own row. */
template <int HDP>
static __device__ __forceinline__ void put_fresh_k(uint4 k[HDP / 32][2], const uint16_t *fresh, int hd, int token) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < HDP / 32; c++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (g + 8 * i == token && k_piece(c, t) * 8 < hd) k[c][i] = *(const uint4 *)(fresh + k_piece(c, t) * 8);
}

template <int HDP>
static __device__ __forceinline__ void put_fresh_v(uint4 v[HDP / 64][4], const uint16_t *fresh, int hd, int token) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < HDP / 64; c++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (v_token(i, t) == token && v_piece(c, g) * 8 < hd) v[c][i] = *(const uint4 *)(fresh + v_piece(c, g) * 8);
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

template <typename KV, int HDP> static __device__ __forceinline__ void begin_state(decode_state<KV, HDP> &st) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        st.m[e] = -1e30f; /* finite: a part may hold nothing that a column sees */
        st.l[e] = 0;
    }
#pragma unroll
    for (int c = 0; c < HDP / 64; c++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) st.o[c][j][e] = 0;
}

/* Calls done(state) after each part. The first `depth` tiles have been sent for. */
template <typename KV, int HDP, typename F>
static __device__ __forceinline__ void walk(tile_feed<HDP> &feed, const places &s, F done) {
    const mw_attn_args &a = feed.p.a;
    const decode_part &w = feed.w;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, per_part = w.tokens / (16 * WARPS);
    uint4 q[HDP / 32];
    int limit[2];
    load_q<HDP>(q, w, s, a.head_dim);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int col = 2 * t + e;
        limit[e] = col < w.cols ? w.pos0 + mw_row_of(a, w.first_col + col) : -1;
    }
    for (int part = 0; part < w.count; part++) {
        decode_state<KV, HDP> st;
        begin_state<KV, HDP>(st);
        for (int i = part * per_part; i < min(feed.n, (part + 1) * per_part); i++) {
            const int p = feed.position(i);
            const int fresh = w.fresh - p; /* below 16: in this tile */
            uint4 k[HDP / 32][2], v[HDP / 64][4];
            float x[4];
            feed.wait();
            feed.fetch_k(k);
            if (fresh < 16) put_fresh_k<HDP>(k, s.k, a.head_dim, fresh);
            scores<KV, HDP>(x, k, q);
            feed.fetch_v(v, min(w.end, w.fresh) - p);
            if (fresh < 16) put_fresh_v<HDP>(v, s.v, a.head_dim, fresh);
            weigh<KV, HDP>(st, x, a, p + g, limit);
            add_values<KV, HDP>(st, x, v);
            feed.next();
        }
        st.l[0] = group_sum(st.l[0]);
        st.l[1] = group_sum(st.l[1]);
        done(st);
    }
}

/* O / sum to its place in `out`. */
static __device__ __forceinline__ void write_out(const decode_args &p, const decode_part &w, int kvh, int col, int d,
                                                 const mw_quad &q) {
    int64_t at = mw_q_offset(p.a, w.row0, kvh, w.first_col + col, p.a.ld_out) + d;
    float inv = 1 / q.l, x[4] = {q.o.x * inv, q.o.y * inv, q.o.z * inv, q.o.w * inv};
    uint32_t *to = (uint32_t *)((uint16_t *)p.a.out + at);
    bool half = p.a.act == MW_F16;
    to[0] = half ? mw_pack<__half>(x[0], x[1]) : mw_pack<__nv_bfloat16>(x[0], x[1]);
    to[1] = half ? mw_pack<__half>(x[2], x[3]) : mw_pack<__nv_bfloat16>(x[2], x[3]);
}

/* Quads of a column, by number; a thread has up to MINE of them. */
template <int HDP> struct quad_of {
    static constexpr int MINE = COLS * HDP / 4 / THREADS;
    int col, d;
    bool there;
    __device__ __forceinline__ quad_of(int k, int cols, int hd) {
        int i = k * THREADS + threadIdx.x;
        col = i / (HDP / 4), d = i % (HDP / 4) * 4;
        there = col < cols && d < hd;
    }
};

/* A warp's state to shared memory. */
template <typename KV, int HDP>
static __device__ __forceinline__ void put_state(const places &s, const decode_state<KV, HDP> &st, int stride,
                                                 int cols) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int col = 2 * t + e;
        if (g == 0) s.maxima[warp * COLS + col] = st.m[e], s.sums[warp * COLS + col] = st.l[e];
        if (col >= cols) continue;
#pragma unroll
        for (int c = 0; c < HDP / 64; c++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                *(float2 *)&s.o[(warp * stride + col) * LINE(HDP) + c * 64 + g * 8 + j * 2] =
                    make_float2(st.o[c][j][e], st.o[c][j][e + 2]);
    }
}

template <int HDP>
static __device__ __forceinline__ mw_quad get_quad(const places &s, int stride, const quad_of<HDP> &i) {
    mw_quad part = mw_no_quad();
#pragma unroll
    for (int v = 0; v < WARPS; v++)
        part = mw_fold(part, mw_quad{*(const float4 *)&s.o[(v * stride + i.col) * LINE(HDP) + i.d],
                                     s.maxima[v * COLS + i.col], s.sums[v * COLS + i.col]});
    return part;
}

template <typename KV, int HDP>
static __global__ void __launch_bounds__(THREADS, HDP == 256 ? 2 : BLOCKS)
    decode_kernel(const __grid_constant__ decode_args p) {
    extern __shared__ float4 smem4[];
    constexpr int MINE = quad_of<HDP>::MINE;
    const int kvh = blockIdx.y / p.tiles, hd = p.a.head_dim;
    const bool rotate = p.rope.table != nullptr;
    __shared__ uint64_t bars[WARPS * MAX_DEPTH]; /* a tile has come */
    const places s = places_of<HDP>(p, (char *)smem4);
    decode_part w;
    if (!rotate) mw_pdl_wait(); /* the kernel in front stored K and V */
    if (!find_part(p, p.first_seq + blockIdx.z, w)) {
        if (rotate) mw_pdl_wait(); /* a launch must not be over before the one in front of it */
        return;
    }
#if __CUDA_ARCH__ >= 900
    __shared__ uint64_t mail_barrier;
    const int rank = blockIdx.x % p.cluster, live = min(w.parts - (int)blockIdx.x + rank, p.cluster);
    const int quads = w.cols * hd / 4, slice = (quads + live - 1) / live;
    const int mine = max(0, min(slice, quads - rank * slice)); /* quads that this block puts together */
    const mw_mailbox box = {mw_smem(&mail_barrier), mw_smem(s.mail), mw_smem(s.mail) + live * slice * 16, slice};
    if (p.cluster > 1) {
        if (threadIdx.x == 0) mw_mail_open(box);
        mw_cluster_arrive();
    }
#endif
    tile_feed<HDP> feed(p, w, kvh, s.rings, mw_smem(bars));
    mw_angles angles = {};
    if (rotate) {
        angles = mw_load_angles(p.rope.table, w.pos0, hd, threadIdx.x % MW_ROPE_LANES);
        mw_pdl_wait();
        mw_pdl_trigger();
    }
    stage_rows<KV, HDP>(p, w, kvh, angles, s);
    __syncthreads();
    mw_quad sum[MINE];
#pragma unroll
    for (int k = 0; k < MINE; k++) sum[k] = mw_no_quad();
    walk<KV, HDP>(feed, s, [&](const decode_state<KV, HDP> &st) {
        __syncthreads(); /* q has been read; the last part's states too */
        put_state<KV, HDP>(s, st, p.cols, w.cols);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < MINE; k++) {
            quad_of<HDP> i(k, w.cols, hd);
            if (i.there) sum[k] = mw_fold(sum[k], get_quad<HDP>(s, p.cols, i));
        }
    });

    const bool whole = w.parts == w.count;
    const int64_t unit = (int64_t)blockIdx.z * gridDim.y + blockIdx.y, size = mw_state_floats(p.cols, hd);
    float *states = p.states + unit * (gridDim.x / p.cluster) * size;
    if (p.cluster > 1 && !whole) {
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x == 0) mw_mail_expect(box, live * mine);
        mw_cluster_wait();
#pragma unroll
        for (int k = 0; k < MINE; k++) {
            quad_of<HDP> i(k, w.cols, hd);
            if (i.there) mw_mail_push(box, rank, i.col * (hd / 4) + i.d / 4, sum[k]);
        }
        mw_mail_wait(box);
        for (int k = threadIdx.x; k < mine; k += THREADS) {
            const int i = rank * box.slice + k, col = i / (hd / 4), d = i % (hd / 4) * 4;
            const mw_quad q = mw_merge(live, [&](int b) { return mw_mail_read(box, b, k); });
            if (w.parts <= p.cluster)
                write_out(p, w, kvh, col, d, q);
            else
                mw_write_state(states + blockIdx.x / p.cluster * size, p.cols, hd, col, d, q);
        }
#endif
    } else {
#pragma unroll
        for (int k = 0; k < MINE; k++) {
            quad_of<HDP> i(k, w.cols, hd);
            if (i.there && whole) write_out(p, w, kvh, i.col, i.d, sum[k]);
            if (i.there && !whole) mw_write_state(states + blockIdx.x * size, p.cols, hd, i.col, i.d, sum[k]);
        }
    }
    const int met = p.cluster * p.per_block; /* parts of a state in the workspace */
    if (whole || (p.cluster > 1 && w.parts <= p.cluster)) return;
    if (!mw_last_of(p.counters + unit, (w.parts + p.per_block - 1) / p.per_block)) return;
    const int n = (w.parts + met - 1) / met;
    for (int k = 0; k < MINE; k++) {
        quad_of<HDP> i(k, w.cols, hd);
        if (!i.there) continue;
        auto read = [&](int b) { return mw_read_state(states + b * size, p.cols, hd, i.col, i.d); };
        mw_quad q = mw_no_quad();
        if (met > 1) q = mw_merge(n, read);
        for (int b = 0; met == 1 && b < n; b += GROUP) /* the same order as by clusters or by blocks of a group */
            q = mw_fold(q, mw_merge(min(GROUP, n - b), [&](int m) { return read(b + m); }));
        write_out(p, w, kvh, i.col, i.d, q);
    }
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <int HDP> static int smem_bytes(const decode_args &p) {
    return fixed_bytes(HDP, p.cols) + (p.cluster > 1 ? mail_bytes(p.cols, HDP) : 0) + 1024 + /* alignment */
           WARPS * p.depth * 64 * HDP;
}

template <typename KV, int HDP> static cudaError_t launch_one(mw_dev *d, const decode_args &p, dim3 grid) {
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)p.cluster;
    attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = grid;
    cfg.blockDim = THREADS;
    cfg.dynamicSmemBytes = (size_t)smem_bytes<HDP>(p);
    cfg.stream = d->stream;
    cfg.attrs = attr;
    cfg.numAttrs = d->sm >= 90 ? 2 : 0;
    /* Every time: it is a table entry in the driver, and the current context may be another device's. */
    cudaError_t e = cudaSetDevice(d->ordinal);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(decode_kernel<KV, HDP>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)cfg.dynamicSmemBytes);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(decode_kernel<KV, HDP>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
    return e == cudaSuccess ? cudaLaunchKernelEx(&cfg, decode_kernel<KV, HDP>, p) : e;
}

template <int HDP> static cudaError_t launch(mw_dev *d, const decode_args &p, dim3 grid) {
    return p.a.kv_dtype == MW_F16 ? launch_one<__half, HDP>(d, p, grid) : launch_one<__nv_bfloat16, HDP>(d, p, grid);
}

/* Parts of a context of max_ctx, at most. */
static int most_parts(const decode_args &p, int max_ctx) {
    int few = (max_ctx + 16 * WARPS - 1) / (16 * WARPS), many = (max_ctx + PART_TOKENS - 1) / PART_TOKENS;
    few = few < GROUP ? few : GROUP;
    many = many < p.max_parts ? many : p.max_parts;
    return few > many ? few : many;
}

/* Tiles under way: what a warp has to do, in the shared memory that there is for the blocks of a multiprocessor. */
static int choose_depth(const mw_dev *d, const decode_args &p, int hdp, int max_ctx, int64_t blocks) {
    const int tiles = (part_tokens(max_ctx, p.max_parts) * p.per_block + 16 * WARPS - 1) / (16 * WARPS);
    const int fixed = fixed_bytes(hdp, p.cols) + (p.cluster > 1 ? mail_bytes(p.cols, hdp) : 0),
              most = hdp == 256 ? 2 : BLOCKS;
    const int64_t share = (blocks + d->n_sm - 1) / d->n_sm;
    const int room = ((int)d->smem_max + RESERVED) / (int)(share < most ? share : most) - RESERVED - fixed;
    int depth = room / (WARPS * 64 * hdp);
    depth = depth < tiles ? depth : tiles;
    return depth < 1 ? 1 : depth > MAX_DEPTH ? MAX_DEPTH : depth;
}

/* A cache as [64 columns][position][64], or [position][head_dim] where head_dim is no multiple of 64. How long it is,
 * nobody knows here: rows come from the block table. */
static mw_status make_maps(decode_args *p) {
    const mw_attn_args *a = &p->a;
    const cuuint64_t hd = (cuuint64_t)a->head_dim, width = p->swizzle ? 64 : hd;
    const cuuint64_t dims[3] = {width, 1u << 31, hd / width}, strides[2] = {hd * 2, 128};
    const cuuint32_t box[3] = {(cuuint32_t)width, 16, (cuuint32_t)(hd / width)};
    const CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT16;
    mw_status st = mw_cuda_tensor_map(&p->k_map, "K cache", type, 3, a->k_cache, dims, strides, box, p->swizzle);
    return st == MW_OK ? mw_cuda_tensor_map(&p->v_map, "V cache", type, 3, a->v_cache, dims, strides, box, p->swizzle)
                       : st;
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
    p.max_parts = FILL * d->n_sm / a->n_kv / GROUP * GROUP;
    p.max_parts = p.max_parts < GROUP ? GROUP : p.max_parts > MAX_PARTS ? MAX_PARTS : p.max_parts;
    p.states = (float *)d->workspace;
    p.counters = d->counters;
    int x = most_parts(p, max_ctx), y = a->n_kv * p.tiles;
    p.cluster = p.per_block = 1;
    if ((int64_t)n_seqs * y * 10 >= (int64_t)GROUPED * d->n_sm) { /* contexts may be short: x is a bound */
        p.per_block = GROUP; /* enough blocks without cutting finer: their loads never pause between parts */
        x = (x + GROUP - 1) / GROUP;
    } else if (d->sm >= 90) {
        p.cluster = x < GROUP ? x : GROUP; /* short contexts: no more blocks than parts */
        x = (x + p.cluster - 1) / p.cluster * p.cluster;
    }
    const int hdp = a->head_dim <= 64 ? 64 : a->head_dim <= 128 ? 128 : 256;
    p.swizzle = a->head_dim % 64 == 0;
    if (d->sm >= 90) {
        mw_status made = make_maps(&p);
        if (made != MW_OK) return made;
    }
    p.depth = choose_depth(d, p, hdp, max_ctx, (int64_t)n_seqs * x * y);
    /* As many sequences a launch as the workspace and the counters have room for: the parts, and the bits, are the
     * same whatever that number is. */
    size_t unit = (size_t)(x / p.cluster) * (size_t)mw_state_floats(p.cols, a->head_dim) * sizeof(float);
    int64_t room = (int64_t)(MW_CUDA_WORKSPACE / unit), step;
    room = (room < MW_CUDA_COUNTERS ? room : MW_CUDA_COUNTERS) / y;
    if (room < 1)
        return MW_FAIL(MW_ERR_INTERNAL, "attention with %d kv heads of %d q heads does not fit the workspace", a->n_kv,
                       a->group);
    step = room < 65535 ? room : 65535;
    for (int s = 0; s < n_seqs; s += (int)step) {
        dim3 grid((unsigned)x, (unsigned)y, (unsigned)(n_seqs - s < step ? n_seqs - s : step));
        p.first_seq = s;
        cudaError_t e = hdp == 64    ? launch<64>(d, p, grid)
                        : hdp == 128 ? launch<128>(d, p, grid)
                                     : launch<256>(d, p, grid);
        mw_status st = mw_cuda_check(e, "attention (decode)");
        if (st != MW_OK) return st;
    }
    return MW_OK;
}
