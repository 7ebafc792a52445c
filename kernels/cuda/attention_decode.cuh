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
#define BLOCKS      2  /* on a multiprocessor: measured, more of them have less room for copies each */
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
    bool swizzle;  /* of tiles in shared memory: head_dim is a multiple of 64 */
    int first_seq;
    float *states;            /* [z][y][x / cluster] states */
    uint32_t *counters;       /* [z][y] */
    CUtensorMap k_map, v_map; /* sm_90 */
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

/* In shared memory a tile is K, then V: 16 positions of head_dim, as the cache has them. What a lane multiplies with
 * are pieces of eight elements, by number in their position: */
static __device__ __forceinline__ int k_piece(int c, int t) { /* of positions g and g + 8 */
    return c / 2 * 8 + 2 * t + c % 2;
}
static __device__ __forceinline__ int v_piece(int c, int g) { /* of positions 2t, 2t + 1, 2t + 8, 2t + 9 */
    return c * 8 + g;
}
static __device__ __forceinline__ int v_token(int i, int t) {
    return 2 * t + (i & 1) + 8 * (i >> 1);
}

static __device__ __forceinline__ uint4 shared_piece(uint32_t at) {
    uint4 u;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(u.x), "=r"(u.y), "=r"(u.z), "=r"(u.w)
                 : "r"(at)
                 : "memory");
    return u;
}

/* The tiles of this warp in order: numbers 0 .. n-1 at positions begin + 16 (warp + WARPS i); there may be none. Tile i
 * is copied to place i % depth of the warp's. Where head_dim is a multiple of 64, a tile's K, or V, is [64 columns]
 * [position][64], and the eight pieces of a row are exchanged by the position's number: so the eight lanes of a phase
 * find theirs in different banks. */
template <int HDP> struct tile_feed {
    const decode_args &p;
    const decode_part &w;
    int kvh, n;
    int sent, to, seen, parity; /* tiles sent for; places of the next to be sent for, to be seen; its phase */
    uint32_t ring, bars;
    int blocks; /* of one of 32 tiles a lane, renewed with the first of them: tiles are asked for in order */

    static constexpr int HALF_BYTES = 16 * HDP * 2, BYTES = 2 * HALF_BYTES; /* K or V; both */

    __device__ __forceinline__ tile_feed(const decode_args &p_, const decode_part &w_, int kvh_, uint32_t rings,
                                         uint32_t bars_)
        : p(p_), w(w_), kvh(kvh_), sent(0), to(0), seen(0), parity(0), blocks(0) {
        const int warp = threadIdx.x / 32;
        n = (w.end - w.begin - 16 * warp + 16 * WARPS - 1) / (16 * WARPS);
        ring = rings + (uint32_t)(warp * p.depth * BYTES);
        bars = bars_ + (uint32_t)(warp * MAX_DEPTH * 8);
        open();
        for (int i = 0; i < p.depth; i++) send();
    }

    __device__ __forceinline__ int position(int i) const {
        return w.begin + 16 * ((int)(threadIdx.x / 32) + WARPS * i);
    }

    /* Row of the next tile to be sent for among all rows of a cache. */
    __device__ __forceinline__ int row() {
        const int shift = p.a.block_shift, pos = position(sent);
        if (sent % 32 == 0) {
            int mine = position(sent + threadIdx.x % 32);
            blocks = mine < w.end ? w.table[mine >> shift] : 0;
        }
        const int block = __shfl_sync(~0u, blocks, sent % 32);
        return ((block * p.a.n_kv + kvh) << shift) + (pos & ((1 << shift) - 1));
    }

    /* The next tile, if there is one, to where the one `depth` before it was. */
    __device__ __forceinline__ void send() {
        if (sent < n) {
            const int at = row();
            copy(ring + (uint32_t)(to * BYTES), bars + (uint32_t)(to * 8), at);
        }
        end_copy();
        sent++;
        to = to + 1 == p.depth ? 0 : to + 1;
    }

    __device__ __forceinline__ uint32_t piece_address(uint32_t at, int token, int piece) const {
        if (p.swizzle) return at + piece / 8 * 2048 + token * 128 + ((piece ^ token) & 7) * 16;
        return at + (token * p.a.head_dim + piece * 8) * 2;
    }

    __device__ __forceinline__ void fetch_k(uint4 k[HDP / 32][2]) const {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint32_t at = ring + (uint32_t)(seen * BYTES);
#pragma unroll
        for (int c = 0; c < HDP / 32; c++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                k[c][i] = k_piece(c, t) * 8 < p.a.head_dim ? shared_piece(piece_address(at, g + 8 * i, k_piece(c, t)))
                                                           : make_uint4(0, 0, 0, 0);
    }

    /* Positions from `left` on count as zeros: their weight may be 0, but 0 * NaN is not. */
    __device__ __forceinline__ void fetch_v(uint4 v[HDP / 64][4], int left) const {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint32_t at = ring + (uint32_t)(seen * BYTES + HALF_BYTES);
#pragma unroll
        for (int c = 0; c < HDP / 64; c++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[c][i] = v_piece(c, g) * 8 < p.a.head_dim
                              ? shared_piece(piece_address(at, v_token(i, t), v_piece(c, g)))
                              : make_uint4(0, 0, 0, 0);
        if (left >= 16) return;
#pragma unroll
        for (int c = 0; c < HDP / 64; c++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (v_token(i, t) >= left) v[c][i] = make_uint4(0, 0, 0, 0);
    }

    /* All lanes have read the tile: to the next one. */
    __device__ __forceinline__ void next() {
        __syncwarp();
        send();
        if (++seen == p.depth) seen = 0, parity ^= 1;
    }

#if __CUDA_ARCH__ >= 900
    __device__ __forceinline__ void open() const {
        if (threadIdx.x % 32 == 0) {
            for (int i = 0; i < p.depth; i++) mw_bar_init(bars + i * 8, 1);
            mw_bar_publish();
        }
        __syncwarp();
    }

    __device__ __forceinline__ void copy(uint32_t at, uint32_t bar, int row) const {
        if (threadIdx.x % 32 != 0) return;
        const uint64_t policy = mw_policy_evict_first(); /* nothing is read twice */
        mw_bar_expect(bar, (uint32_t)(2 * 16 * p.a.head_dim * 2));
        mw_bulk3(at, &p.k_map, 0, row, 0, bar, policy);
        mw_bulk3(at + HALF_BYTES, &p.v_map, 0, row, 0, bar, policy);
    }

    __device__ __forceinline__ void end_copy() const {}

    __device__ __forceinline__ void wait() const {
        mw_bar_wait(bars + seen * 8, (uint32_t)parity);
    }
#else
    __device__ __forceinline__ void open() const {}

    __device__ __forceinline__ void copy(uint32_t at, uint32_t, int row) const {
        const int hd = p.a.head_dim, pieces = hd / 8;
        const uint16_t *k = (const uint16_t *)p.a.k_cache + (int64_t)row * hd;
        const uint16_t *v = (const uint16_t *)p.a.v_cache + (int64_t)row * hd;
        for (int i = threadIdx.x % 32; i < 16 * pieces; i += 32) {
            const uint32_t to_k = piece_address(at, i / pieces, i % pieces);
            mw_cp16(to_k, k + i * 8, true);
            mw_cp16(to_k + HALF_BYTES, v + i * 8, true);
        }
    }

    /* Groups of copies: one a tile, also of those that are not there. */
    __device__ __forceinline__ void end_copy() const {
        mw_cp_commit();
    }

    __device__ __forceinline__ void wait() const {
        mw_cp_wait(p.depth - 1);
        __syncwarp();
    }
#endif
};

#endif
