/* kernels/cuda/attention_decode.cuh - the work of a block of the decode kernel, and how its K and V get to where they
 * are multiplied. See attention_decode.cu. */
#ifndef MW_KERNELS_CUDA_ATTENTION_DECODE_CUH
#define MW_KERNELS_CUDA_ATTENTION_DECODE_CUH
#include "kernels/cuda/attention_states.cuh"

#define WARPS       4
#define THREADS     (32 * WARPS)
#define COLS        8
#define GROUP       8   /* parts whose states meet first: the blocks of a cluster, or one block */
#define PART_TOKENS 256 /* of a part, from where on there are more than GROUP parts */
#define MAX_PARTS   64
#define FILL        2  /* parts a multiprocessor that a sequence alone is cut into, at most */
#define GROUPED     18 /* tenths of blocks a multiprocessor, from which a block does a group of parts */
#define BLOCKS      3  /* on a multiprocessor: what registers allow */
#define MAX_DEPTH   4
#define RESERVED    1088 /* bytes of shared memory that a block takes besides: the system's, and static variables */

struct decode_args {
    mw_attn_args a;
    mw_rope_args rope;
    int tiles;     /* of columns, a kv head */
    int max_parts; /* of a sequence: what fills the device when it is alone */
    int cluster;   /* blocks of a cluster: neighbouring parts; 1 before sm_90 */
    int per_block; /* parts that a block does one after another: 1, or GROUP with cluster 1 */
    int cols;      /* at most, of a tile: sizes states */
    int depth;     /* tiles of a warp in shared memory or on their way there */
    int first_seq;
    float *states;      /* [z][y][x / cluster] states */
    uint32_t *counters; /* [z][y] */
};

/* Tokens of a part: GROUP parts, until those get long. */
static __host__ __device__ __forceinline__ int part_tokens(int span, int max_parts) {
    int t = (span + GROUP - 1) / GROUP, least = (span + max_parts - 1) / max_parts, unit = 16 * WARPS;
    t = t < PART_TOKENS ? t : PART_TOKENS;
    t = t > least ? t : least;
    return (t + unit - 1) / unit * unit;
}

/* The work of one block, and where its rows stand. */
struct decode_part {
    int row0, cols, first_col; /* rows of the sequence begin at row0 of the batch */
    int pos0, begin, end;      /* pos0: position of the sequence's first row */
    int fresh;                 /* the position whose K and V are not cached yet, or one that never comes */
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
    w.tokens = part_tokens(last + 1 - start, p.max_parts);
    w.parts = (last + 1 - start + w.tokens - 1) / w.tokens;
    w.count = min(w.parts - (int)blockIdx.x * p.per_block, p.per_block);
    w.begin = start + blockIdx.x * p.per_block * w.tokens;
    w.end = min(w.begin + w.count * w.tokens, last + 1);
    w.fresh = p.rope.table ? w.pos0 : INT_MAX;
    w.table = a.block_table + (int64_t)seq * a.block_stride;
    return w.count > 0;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

#define PIECES(hdp) ((hdp) / 8) /* of 16 bytes that a lane has of a tile: K first, then V */

/* Lane (g, t) has pieces 2c + i, i < 2: K's elements 32c + 8t .. of position g + 8i; and HDP/16 + 4c + i, i < 4: V's
 * elements 64c + 8g .. of position 2t + i%2 + 8(i/2). f(number, in K, element offset in the tile, position in the tile,
 * whether inside head_dim) for every piece. */
template <int HDP, typename F> static __device__ __forceinline__ void each_piece(int hd, F f) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < HDP / 32; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int d = c * 32 + t * 8, token = g + 8 * i;
            f(c * 2 + i, true, token * hd + d, token, d < hd);
        }
#pragma unroll
    for (int c = 0; c < HDP / 64; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int d = c * 64 + g * 8, token = 2 * t + (i & 1) + 8 * (i >> 1);
            f(HDP / 16 + c * 4 + i, false, token * hd + d, token, d < hd);
        }
}

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes; zeros where not `there`. */
static __device__ __forceinline__ void copy16(uint32_t to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All but the youngest n groups of this thread's copies have landed. */
static __device__ __forceinline__ void copies_wait(int n) {
    if (n == 0)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else if (n == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else if (n == 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 3;" ::: "memory");
}

/* The tiles of this warp in order: numbers 0 .. n-1 at positions begin + 16 (warp + WARPS i); there may be none. Tile i
 * is copied to place i % depth of the warp's. */
template <int HDP> struct tile_feed {
    const mw_attn_args &a;
    const decode_part &w;
    int kvh, n, depth;
    uint32_t ring; /* this lane's pieces are 512 bytes apart */
    int blocks;    /* of one of 32 tiles a lane, renewed with the first of them: tiles are asked for in order */

    __device__ __forceinline__ tile_feed(const decode_args &p, const decode_part &w_, int kvh_, void *rings)
        : a(p.a), w(w_), kvh(kvh_), depth(p.depth), blocks(0) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        n = (w.end - w.begin - 16 * warp + 16 * WARPS - 1) / (16 * WARPS);
        ring = shared_address(rings) + (uint32_t)(warp * depth * PIECES(HDP) * 32 + lane) * 16;
    }

    __device__ __forceinline__ int position(int i) const {
        return w.begin + 16 * ((int)(threadIdx.x / 32) + WARPS * i);
    }

    __device__ __forceinline__ uint32_t place(int i) const { return ring + (uint32_t)(i % depth * PIECES(HDP) * 512); }

    __device__ __forceinline__ int64_t offset(int i) {
        if (i % 32 == 0) {
            int mine = position(i + threadIdx.x % 32);
            blocks = mine < w.end ? w.table[mine >> a.block_shift] : 0;
        }
        return mw_kv_offset(a, __shfl_sync(~0u, blocks, i % 32), kvh, position(i));
    }

    /* Every call is a group of copies, be it empty. V past the end of the context, or not cached yet, counts as zeros:
     * its weight may be 0, but 0 * NaN is not. Such scores are masked or replaced. */
    __device__ __forceinline__ void send(int i) {
        if (i < n) {
            const int64_t at = offset(i);
            const uint16_t *k = (const uint16_t *)a.k_cache + at, *v = (const uint16_t *)a.v_cache + at;
            const int left = min(w.end, w.fresh) - position(i);
            const uint32_t to = place(i);
            each_piece<HDP>(a.head_dim, [&](int m, bool in_k, int e, int token, bool in_head) {
                bool there = in_head && (in_k || token < left);
                copy16(to + m * 512, there ? (in_k ? k : v) + e : k, there);
            });
        }
        copies_commit();
    }

    __device__ __forceinline__ static void fetch(uint4 &u, uint32_t from) {
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(u.x), "=r"(u.y), "=r"(u.z), "=r"(u.w)
                     : "r"(from)
                     : "memory");
    }

    __device__ __forceinline__ void fetch_k(uint4 k[HDP / 32][2], int i) const {
#pragma unroll
        for (int m = 0; m < HDP / 16; m++) fetch(k[m / 2][m % 2], place(i) + m * 512);
    }

    __device__ __forceinline__ void fetch_v(uint4 v[HDP / 64][4], int i) const {
#pragma unroll
        for (int m = 0; m < HDP / 16; m++) fetch(v[m / 4][m % 4], place(i) + (HDP / 16 + m) * 512);
    }
};

#endif
