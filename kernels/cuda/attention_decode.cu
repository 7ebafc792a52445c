/* kernels/cuda/attention_decode.cu - attention of sequences with few rows, cut along the context ("split KV").
 *
 *   grid   x: part of the context, or group of parts   y: kv head * tiles + tile of eight flat rows ("columns")
 *          z: sequence
 *   block  four warps; each takes every fourth tile of 16 positions
 *
 * A tile's K is operand A of the matrix unit (16 positions x head_dim) and the columns' q operand B, so that
 * S^T = K q^T has positions as rows and columns as columns; then O^T = V^T P^T. Both K and V go straight from the
 * cache to registers, 16 bytes a load, because the order of summation over head_dim, and which output column is called
 * which, are free:
 *   K  lane (g, t) loads elements 32c + 8t .. + 7 of positions g and g+8: the matrix unit's columns (2t, 2t+1, 2t+8,
 *      2t+9) of step 2c stand for elements 8t .. 8t+3, those of step 2c+1 for 8t+4 .. 8t+7; q is loaded alike
 *   V  lane (g, t) loads elements 64c + 8g .. + 7 of positions 2t, 2t+1, 2t+8, 2t+9: rows g and g+8 of the j-th of four
 *      products stand for elements 8g + 2j and 8g + 2j + 1
 * head_dim is rounded up to HDP with loads that are skipped.
 *
 * Parts: T positions each, T from the sequence's own span and the number of KV heads alone. Every warp keeps a running
 * maximum, sum and O ("state") of its positions in a part. States meet always in the same order, so that a row's bits
 * do not depend on the batch: the warps' of a part in shared memory; those of GROUP neighbouring parts, in order; those
 * of the groups, in order. Where a group is done depends on how many blocks there are to fill the device: one block
 * does its parts one after another (many sequences), or the blocks of a cluster a part each, and read each other's
 * shared memory (sm_90), or blocks a part each meet through the workspace. Groups meet through the workspace, in the
 * last block to finish.
 *
 * Measured (docs/PERF.md): bulk copies into rings in shared memory instead of loads to registers were slower, with two
 * or three blocks a multiprocessor instead of four; so was loading the next K ahead, which costs the fourth block. */
#include "kernels/cuda/attention.cuh"

#define WARPS      4
#define THREADS    (32 * WARPS)
#define COLS       8
#define MAX_PARTS  64
#define FILL       2   /* parts a multiprocessor that a sequence alone is cut into, at most */
#define MIN_TOKENS 128 /* of a part: measured, shorter ones cost more in meetings than they gain */
#define GROUPED    18  /* tenths of blocks a multiprocessor, from which a block does a group of parts */
#define GROUP      8   /* parts whose states meet first: the blocks of a cluster, or one block */
#define BLOCKS     4   /* on a multiprocessor, head_dim up to 128: what registers allow */

struct decode_args {
    mw_attn_args a;
    int tiles;      /* of columns, a kv head */
    int max_parts;  /* of a sequence: what fills the device when it is alone */
    int min_tokens; /* of a part */
    int cluster;    /* blocks of a cluster: neighbouring parts; 1 before sm_90 */
    int per_block;  /* parts that a block does one after another: 1, or GROUP with cluster 1 */
    int cols;       /* at most, of a tile: sizes a state's place in the workspace */
    int first_seq;
    float *states;      /* [z][y][x / cluster] states */
    uint32_t *counters; /* [z][y] */
};

/* A state in memory, f32: O [cols][head_dim], then maxima [cols], then sums [cols]; 16-byte units. */
static __host__ __device__ __forceinline__ int state_floats(int cols, int hd) {
    return (cols * (hd + 2) + 3) / 4 * 4;
}

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

/* Tokens of a part. */
static __host__ __device__ __forceinline__ int part_tokens(int span, int max_parts, int min_tokens) {
    int unit = 16 * WARPS, t = (span + max_parts - 1) / max_parts;
    t = (t + unit - 1) / unit * unit;
    return t > min_tokens ? t : min_tokens;
}

/* The work of one block, and where its rows stand. */
struct decode_part {
    int row0, cols, first_col; /* rows of the sequence begin at row0 of the batch */
    int pos0, begin, end;      /* pos0: position of the sequence's first row */
    int tokens, count;         /* of a part; parts of this block */
    int parts;                 /* of the sequence */
    const int32_t *table;
};

static __device__ bool find_part(const decode_args &p, int seq, decode_part &w) {
    const mw_attn_args &a = p.a;
    w.row0 = a.q_start[seq];
    int rows = a.q_start[seq + 1] - w.row0, ctx = a.ctx_len[seq];
    if (rows <= 0 || !mw_is_decode(rows, a.group)) return false;
    w.first_col = blockIdx.y % p.tiles * COLS;
    w.cols = min(rows * a.group - w.first_col, COLS);
    if (w.cols <= 0) return false;
    w.pos0 = ctx - rows;
    int first = w.pos0 + mw_row_of(a, w.first_col), last = w.pos0 + mw_row_of(a, w.first_col + w.cols - 1);
    int start = a.window && first + 1 > a.window ? (first + 1 - a.window) & ~15 : 0;
    w.tokens = part_tokens(last + 1 - start, p.max_parts, p.min_tokens);
    w.parts = (last + 1 - start + w.tokens - 1) / w.tokens;
    w.count = min(w.parts - (int)blockIdx.x * p.per_block, p.per_block);
    w.begin = start + blockIdx.x * p.per_block * w.tokens;
    w.end = min(w.begin + w.count * w.tokens, last + 1);
    w.table = a.block_table + (int64_t)seq * a.block_stride;
    return w.count > 0;
}

template <typename KV, int HDP> struct decode_state {
    float o[HDP / 64][4][4];
    float m[2], l[2]; /* of columns 2t, 2t+1; l: this lane's positions only */
};

template <int HDP> struct tile { uint4 k[HDP / 32][2], v[HDP / 64][4]; };

/* Also past the end of the context, inside the last block: such scores are masked. */
template <int HDP, typename R>
static __device__ __forceinline__ void load_k(tile<HDP> &r, R read, int hd, int g, int t) {
#pragma unroll
    for (int c = 0; c < HDP / 32; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int d = c * 32 + t * 8;
            r.k[c][i] = d < hd ? read((g + 8 * i) * hd + d) : make_uint4(0, 0, 0, 0);
        }
}

/* Positions past the end count as zeros: their weight is 0, but 0 * NaN is not. */
template <int HDP, typename R>
static __device__ __forceinline__ void load_v(tile<HDP> &r, R read, int hd, int left, int g, int t) {
#pragma unroll
    for (int c = 0; c < HDP / 64; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int d = c * 64 + g * 8, token = 2 * t + (i & 1) + 8 * (i >> 1);
            bool there = d < hd && token < left;
            r.v[c][i] = there ? read(token * hd + d) : make_uint4(0, 0, 0, 0);
        }
}

template <typename KV, int HDP>
static __device__ __forceinline__ void scores(float s[4], const tile<HDP> &r, const uint4 q[HDP / 32]) {
    float s1[4] = {0, 0, 0, 0};
#pragma unroll
    for (int e = 0; e < 4; e++) s[e] = 0;
#pragma unroll
    for (int c = 0; c < HDP / 32; c++) { /* two chains: a product's latency is longer than its issue */
        mw_mma<KV>(s, r.k[c][0].x, r.k[c][1].x, r.k[c][0].y, r.k[c][1].y, q[c].x, q[c].y);
        mw_mma<KV>(s1, r.k[c][0].z, r.k[c][1].z, r.k[c][0].w, r.k[c][1].w, q[c].z, q[c].w);
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
static __device__ __forceinline__ void add_values(decode_state<KV, HDP> &st, const float s[4], const tile<HDP> &r) {
    uint32_t b0 = transpose(mw_pack<KV>(s[0], s[1])), b1 = transpose(mw_pack<KV>(s[2], s[3]));
#pragma unroll
    for (int c = 0; c < HDP / 64; c++) {
        const uint32_t w[4][4] = {{r.v[c][0].x, r.v[c][0].y, r.v[c][0].z, r.v[c][0].w},
                                  {r.v[c][1].x, r.v[c][1].y, r.v[c][1].z, r.v[c][1].w},
                                  {r.v[c][2].x, r.v[c][2].y, r.v[c][2].z, r.v[c][2].w},
                                  {r.v[c][3].x, r.v[c][3].y, r.v[c][3].z, r.v[c][3].w}};
#pragma unroll
        for (int j = 0; j < 4; j++)
            mw_mma<KV>(st.o[c][j], __byte_perm(w[0][j], w[1][j], 0x5410), __byte_perm(w[0][j], w[1][j], 0x7632),
                       __byte_perm(w[2][j], w[3][j], 0x5410), __byte_perm(w[2][j], w[3][j], 0x7632), b0, b1);
    }
}

/* The q of column g of the block's tile, as operand B. */
template <typename KV, int HDP>
static __device__ __forceinline__ void load_q(uint4 q[HDP / 32], const mw_attn_args &a, const decode_part &w, int kvh,
                                              int g, int t) {
    const uint16_t *from = (const uint16_t *)a.q + mw_q_offset(a, w.row0, kvh, w.first_col + g, a.ld);
#pragma unroll
    for (int c = 0; c < HDP / 32; c++) {
        int d = c * 32 + t * 8;
        bool there = g < w.cols && d < a.head_dim;
        q[c] = there ? mw_q_convert<KV>(*(const uint4 *)(from + d), a.act) : make_uint4(0, 0, 0, 0);
    }
}

/* This warp's tiles of the block's parts: numbers 0 .. n-1 at positions begin + 16 (warp + WARPS i). May be none. */
static __device__ __forceinline__ int tiles_of_warp(const decode_part &w) {
    return (w.end - w.begin - 16 * (int)(threadIdx.x / 32) + 16 * WARPS - 1) / (16 * WARPS);
}

/* Element offset of tile i in either cache. `blocks`: a lane knows the block of one of 32 tiles, renewed with the first
 * of them, so tiles are asked for in order. */
static __device__ __forceinline__ int64_t tile_offset(const mw_attn_args &a, const decode_part &w, int kvh, int i,
                                                      int &blocks) {
    int p = w.begin + 16 * ((int)(threadIdx.x / 32) + WARPS * i);
    if (i % 32 == 0) {
        int mine = p + 16 * WARPS * (threadIdx.x % 32);
        blocks = mine < w.end ? w.table[mine >> a.block_shift] : 0;
    }
    return mw_kv_offset(a, __shfl_sync(~0u, blocks, i % 32), kvh, p);
}

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

/* Calls done(state) after each part. */
template <typename KV, int HDP, typename F>
static __device__ __forceinline__ void walk(const mw_attn_args &a, const decode_part &w, int kvh, F done) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32, hd = a.head_dim;
    const uint16_t *kc = (const uint16_t *)a.k_cache, *vc = (const uint16_t *)a.v_cache;
    const int n = tiles_of_warp(w);
    uint4 q[HDP / 32];
    int limit[2], blocks = 0;
    load_q<KV, HDP>(q, a, w, kvh, g, t);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int col = 2 * t + e;
        limit[e] = col < w.cols ? w.pos0 + mw_row_of(a, w.first_col + col) : -1;
    }
    const int per_part = w.tokens / (16 * WARPS);
    tile<HDP> r;
    int64_t at = 0;
    for (int part = 0; part < w.count; part++) {
        decode_state<KV, HDP> st;
        begin_state<KV, HDP>(st);
        for (int i = part * per_part; i < min(n, (part + 1) * per_part); i++) {
            const int p = w.begin + 16 * (warp + WARPS * i);
            /* Not through L1: nothing is read twice. */
            auto read_k = [&](int e) { return __ldcg((const uint4 *)(kc + at + e)); };
            auto read_v = [&](int e) { return __ldcg((const uint4 *)(vc + at + e)); };
            at = tile_offset(a, w, kvh, i, blocks);
            load_k<HDP>(r, read_k, hd, g, t);
            load_v<HDP>(r, read_v, hd, w.end - p, g, t);
            float s[4];
            scores<KV, HDP>(s, r, q);
            weigh<KV, HDP>(st, s, a, p + g, limit);
            add_values<KV, HDP>(st, s, r);
        }
        st.l[0] = group_sum(st.l[0]);
        st.l[1] = group_sum(st.l[1]);
        done(st);
    }
}

#define LINE(hdp) ((hdp) + 4) /* floats of a column of O in shared memory: padded against bank conflicts */

/* ---- states meet ------------------------------------------------------------------------------------------------- */

/* Four neighbouring elements of O of one column, with the column's maximum and sum. */
struct quad {
    float4 o;
    float m, l;
};

#define BATCH 8 /* states whose loads are in flight at a time */

static __device__ __forceinline__ quad nothing() {
    return quad{make_float4(0, 0, 0, 0), -1e30f, 0};
}

/* sum, then q: the same bits wherever it is done. */
static __device__ __forceinline__ quad fold(const quad &sum, const quad &q) {
    quad r;
    r.m = fmaxf(sum.m, q.m);
    float f = mw_exp2(sum.m - r.m), h = mw_exp2(q.m - r.m);
    r.o.x = __fmaf_rn(q.o.x, h, __fmul_rn(sum.o.x, f));
    r.o.y = __fmaf_rn(q.o.y, h, __fmul_rn(sum.o.y, f));
    r.o.z = __fmaf_rn(q.o.z, h, __fmul_rn(sum.o.z, f));
    r.o.w = __fmaf_rn(q.o.w, h, __fmul_rn(sum.o.w, f));
    r.l = __fmaf_rn(q.l, h, __fmul_rn(sum.l, f));
    return r;
}

/* States 0 .. n-1, first to last; read(i) loads one. */
template <typename F> static __device__ __forceinline__ quad merge(int n, F read) {
    quad sum = nothing();
    for (int i = 0; i < n; i += BATCH) {
        quad q[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (i + k < n) q[k] = read(i + k);
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (i + k < n) sum = fold(sum, q[k]);
    }
    return sum;
}

/* O / sum to its place in `out`. */
static __device__ __forceinline__ void write_out(const decode_args &p, const decode_part &w, int kvh, int col, int d,
                                                 const quad &q) {
    int64_t at = mw_q_offset(p.a, w.row0, kvh, w.first_col + col, p.a.ld_out) + d;
    float inv = 1 / q.l, x[4] = {q.o.x * inv, q.o.y * inv, q.o.z * inv, q.o.w * inv};
    uint32_t *to = (uint32_t *)((uint16_t *)p.a.out + at);
    bool half = p.a.act == MW_F16;
    to[0] = half ? mw_pack<__half>(x[0], x[1]) : mw_pack<__nv_bfloat16>(x[0], x[1]);
    to[1] = half ? mw_pack<__half>(x[2], x[3]) : mw_pack<__nv_bfloat16>(x[2], x[3]);
}

static __device__ __forceinline__ void write_state(float *state, int cols, int hd, int col, int d, const quad &q) {
    *(float4 *)(state + col * hd + d) = q.o;
    if (d == 0) state[cols * hd + col] = q.m, state[cols * (hd + 1) + col] = q.l;
}

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ uint32_t remote_address(const void *p, int rank) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p), to;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(at), "r"(rank));
    return to;
}
static __device__ __forceinline__ float remote_load(uint32_t at) {
    float x;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(at));
    return x;
}
static __device__ __forceinline__ float4 remote_load4(uint32_t at) {
    float4 x;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(at));
    return x;
}
/* All threads of the cluster's blocks that have not ended. */
static __device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}
#endif

/* A task is four elements of a column; a thread has up to TASKS of them. */
template <int HDP> struct task {
    static constexpr int QUADS = HDP / 4, TASKS = COLS * QUADS / THREADS;
    int col, d;
    bool mine;
    __device__ __forceinline__ task(int i, int cols, int hd)
        : col(i / QUADS), d(i % QUADS * 4), mine(col < cols && d < hd) {}
};

/* The block's states in the workspace meet its sequence's others: true in the last block, when all are there. */
static __device__ __forceinline__ bool last_of(uint32_t *counter, int n) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(counter, 1) == (uint32_t)n - 1;
        __threadfence();
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}

template <typename KV, int HDP>
static __global__ void __launch_bounds__(THREADS, HDP == 256 ? 2 : BLOCKS)
    decode_kernel(const __grid_constant__ decode_args p) {
    extern __shared__ float4 smem4[];
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32, hd = p.a.head_dim;
    const int kvh = blockIdx.y / p.tiles;
    float *state = (float *)smem4;
    /* One state of COLS columns; then of every warp the columns' maxima, sums and O. */
    float *ms = state + COLS * (HDP + 2), *ls = ms + WARPS * COLS, *os = ls + WARPS * COLS;
    decode_part w;
    quad sum[task<HDP>::TASKS];
#pragma unroll
    for (int k = 0; k < task<HDP>::TASKS; k++) sum[k] = nothing();
    mw_pdl_wait();
    if (!find_part(p, p.first_seq + blockIdx.z, w)) return;
    walk<KV, HDP>(p.a, w, kvh, [&](const decode_state<KV, HDP> &st) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int at = warp * COLS + 2 * t + e;
            if (g == 0) ms[at] = st.m[e], ls[at] = st.l[e];
            if (2 * t + e >= w.cols) continue;
#pragma unroll
            for (int c = 0; c < HDP / 64; c++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    *(float2 *)&os[at * LINE(HDP) + c * 64 + g * 8 + j * 2] =
                        make_float2(st.o[c][j][e], st.o[c][j][e + 2]);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < task<HDP>::TASKS; k++) {
            task<HDP> i(threadIdx.x + k * THREADS, w.cols, hd);
            if (!i.mine) continue;
            quad part = nothing();
#pragma unroll
            for (int v = 0; v < WARPS; v++) {
                int at = v * COLS + i.col;
                part = fold(part, quad{*(const float4 *)&os[at * LINE(HDP) + i.d], ms[at], ls[at]});
            }
            sum[k] = fold(sum[k], part);
        }
        if (w.count > 1) __syncthreads(); /* os is written again */
    });

    const bool whole = w.parts == w.count;
    const int64_t unit = (int64_t)blockIdx.z * gridDim.y + blockIdx.y, size = state_floats(p.cols, hd);
    float *states = p.states + unit * (gridDim.x / p.cluster) * size;
#pragma unroll
    for (int k = 0; k < task<HDP>::TASKS; k++) {
        task<HDP> i(threadIdx.x + k * THREADS, w.cols, hd);
        if (!i.mine) continue;
        if (whole)
            write_out(p, w, kvh, i.col, i.d, sum[k]);
        else
            write_state(p.cluster > 1 ? state : states + blockIdx.x * size, p.cols, hd, i.col, i.d, sum[k]);
    }
    if (whole) return;
#if __CUDA_ARCH__ >= 900
    if (p.cluster > 1) {
        const int first = blockIdx.x / p.cluster * p.cluster, live = min(w.parts - first, p.cluster);
        const int rank = blockIdx.x - first;
        cluster_barrier();
        for (int k = rank; k < task<HDP>::TASKS * THREADS / 32; k += live) { /* a warp's tasks a block at a time */
            task<HDP> i(k * 32 + lane, w.cols, hd);
            if (warp != k / live % WARPS || !i.mine) continue;
            quad q = merge(live, [&](int b) {
                uint32_t at = remote_address(state, b);
                return quad{remote_load4(at + (i.col * hd + i.d) * 4), remote_load(at + (p.cols * hd + i.col) * 4),
                            remote_load(at + (p.cols * (hd + 1) + i.col) * 4)};
            });
            if (w.parts <= p.cluster)
                write_out(p, w, kvh, i.col, i.d, q);
            else
                write_state(states + blockIdx.x / p.cluster * size, p.cols, hd, i.col, i.d, q);
        }
        cluster_barrier(); /* nobody reads this block's shared memory any more; what all have written is ordered */
        if (w.parts <= p.cluster || rank != 0) return;
    }
#endif
    const int met = p.cluster * p.per_block, n = (w.parts + met - 1) / met; /* parts of a state here; states */
    if (!last_of(p.counters + unit, n)) return;
    for (int k = 0; k < task<HDP>::TASKS; k++) {
        task<HDP> i(threadIdx.x + k * THREADS, w.cols, hd);
        if (!i.mine) continue;
        auto read = [&](int b) {
            const float *s = states + b * size;
            return quad{__ldcg((const float4 *)(s + i.col * hd + i.d)), __ldcg(s + p.cols * hd + i.col),
                        __ldcg(s + p.cols * (hd + 1) + i.col)};
        };
        quad q = nothing();
        if (met > 1) q = merge(n, read);
        for (int b = 0; met == 1 && b < n; b += GROUP) /* the same order as by clusters or by blocks of a group */
            q = fold(q, merge(min(GROUP, n - b), [&](int m) { return read(b + m); }));
        write_out(p, w, kvh, i.col, i.d, q);
    }
}

template <int HDP> static constexpr size_t smem_bytes() {
    return (COLS * (HDP + 2) + 2 * WARPS * COLS + WARPS * COLS * LINE(HDP)) * sizeof(float);
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
    cfg.dynamicSmemBytes = smem_bytes<HDP>();
    cfg.stream = d->stream;
    cfg.attrs = attr;
    cfg.numAttrs = d->sm >= 90 ? 2 : 0;
    cudaError_t e = cudaSetDevice(d->ordinal);
    if (e != cudaSuccess) return e;
    return cudaLaunchKernelEx(&cfg, decode_kernel<KV, HDP>, p);
}

template <int HDP> static cudaError_t launch(mw_dev *d, const decode_args &p, dim3 grid) {
    static_assert(smem_bytes<HDP>() <= 48 << 10, "shared memory without opting in");
    return p.a.kv_dtype == MW_F16 ? launch_one<__half, HDP>(d, p, grid) : launch_one<__nv_bfloat16, HDP>(d, p, grid);
}

mw_status mw_cuda_attn_decode(mw_dev *d, const mw_attn_args *a, int max_rows, int max_ctx, int n_seqs) {
    decode_args p = {};
    p.a = *a;
    int flat = max_rows * a->group < MW_DECODE_COLS ? max_rows * a->group : MW_DECODE_COLS;
    flat = flat > a->group ? flat : a->group;
    p.tiles = (flat + COLS - 1) / COLS;
    p.cols = flat < COLS ? flat : COLS;
    p.min_tokens = MIN_TOKENS;
    p.max_parts = FILL * d->n_sm / a->n_kv / GROUP * GROUP;
    p.max_parts = p.max_parts < GROUP ? GROUP : p.max_parts > MAX_PARTS ? MAX_PARTS : p.max_parts;
    p.states = (float *)d->workspace;
    p.counters = d->counters;
    int x = (max_ctx + p.min_tokens - 1) / p.min_tokens, y = a->n_kv * p.tiles;
    x = x < p.max_parts ? x : p.max_parts;
    p.cluster = p.per_block = 1;
    if ((int64_t)n_seqs * y * 10 >= (int64_t)GROUPED * d->n_sm) { /* contexts may be short: x is a bound */
        p.per_block = GROUP; /* enough blocks without cutting finer: their loads never pause between parts */
        x = (x + GROUP - 1) / GROUP;
    } else if (d->sm >= 90) {
        p.cluster = x < GROUP ? x : GROUP; /* short contexts: no more blocks than parts */
        x = (x + p.cluster - 1) / p.cluster * p.cluster;
    }
    /* As many sequences a launch as the workspace and the counters have room for: the parts, and the bits, are the
     * same whatever that number is. */
    size_t unit = (size_t)(x / p.cluster) * (size_t)state_floats(p.cols, a->head_dim) * sizeof(float);
    int64_t room = (int64_t)(MW_CUDA_WORKSPACE / unit), step;
    room = (room < MW_CUDA_COUNTERS ? room : MW_CUDA_COUNTERS) / y;
    if (room < 1)
        return MW_FAIL(MW_ERR_INTERNAL, "attention with %d kv heads of %d q heads does not fit the workspace", a->n_kv,
                       a->group);
    step = room < 65535 ? room : 65535;
    for (int s = 0; s < n_seqs; s += (int)step) {
        dim3 grid((unsigned)x, (unsigned)y, (unsigned)(n_seqs - s < step ? n_seqs - s : step));
        p.first_seq = s;
        cudaError_t e = a->head_dim <= 64    ? launch<64>(d, p, grid)
                        : a->head_dim <= 128 ? launch<128>(d, p, grid)
                                             : launch<256>(d, p, grid);
        mw_status st = mw_cuda_check(e, "attention (decode)");
        if (st != MW_OK) return st;
    }
    return MW_OK;
}
