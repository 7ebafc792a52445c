/* kernels/cuda/attention_decode.cuh - the work of a block of the decode kernel, and how its K and V get to where they
 * are multiplied. See attention_decode.cu. */
#ifndef MW_KERNELS_CUDA_ATTENTION_DECODE_CUH
#define MW_KERNELS_CUDA_ATTENTION_DECODE_CUH
#include "kernels/cuda/attention_states.cuh"
#include "kernels/cuda/decode_shape.h"

#define WARPS          MW_DECODE_WARPS
#define THREADS        (32 * WARPS)
#define COLS           MW_DECODE_TILE_COLS
#define CLUSTER        MW_DECODE_CLUSTER
#define BLOCKS         MW_DECODE_BLOCKS
#define MAX_DEPTH      MW_DECODE_MAX_DEPTH
#define CLUSTER_TOKENS 4096 /* of a context that one cluster is enough for */
static_assert(MW_DECODE_MAIL_BYTES == MW_MAIL_BYTES, "decode_shape.h");

struct decode_args {
    mw_attn_args a;
    mw_rope_args rope;
    int tiles;      /* of columns, a kv head */
    int part_shift; /* log2 of the number of parts that a context is cut into */
    int cluster;    /* blocks of a cluster: neighbouring parts; a power of two, 1 before sm_90 */
    int cols;       /* at most, of a tile: sizes states */
    int depth;      /* tiles of a warp in shared memory or on their way there */
    bool overlay;   /* the warps' states lie where their tiles were; never on sm_90 */
    int smem;       /* bytes */
    int first_seq;
    float *states;            /* [z][y][x / cluster] states */
    uint32_t *counters;       /* [z][y] */
    CUtensorMap k_map, v_map; /* sm_90 */
};

/* The work of one block, and where its rows stand. */
struct decode_part {
    int row0, cols, first_col; /* rows of the sequence begin at row0 of the batch */
    int pos0, begin, end;      /* pos0: position of the sequence's first row */
    int last;                  /* position that is seen, of the sequence */
    int fresh;                 /* the position whose K and V are not cached yet, or one that never comes */
    int parts;                 /* of the sequence that are not empty */
    int kvh;
    const int32_t *table;
};

/* Tokens of a part. */
static __host__ __device__ __forceinline__ int part_tokens(int span, int part_shift) {
    int t = (span + (1 << part_shift) - 1) >> part_shift;
    return (t + 16 * WARPS - 1) / (16 * WARPS) * (16 * WARPS);
}

static __device__ __forceinline__ bool find_part(const decode_args &p, int seq, decode_part &w) {
    const mw_attn_args &a = p.a;
    w.row0 = a.q_start[seq];
    const int rows = a.q_start[seq + 1] - w.row0, ctx = a.ctx_len[seq];
    int tile = 0;
    w.kvh = (int)blockIdx.y;
    if (p.tiles > 1) tile = (int)blockIdx.y % p.tiles, w.kvh = (int)blockIdx.y / p.tiles;
    if (rows <= 0 || !mw_is_decode(rows, a.group)) return false;
    w.first_col = tile * COLS;
    w.cols = min(rows * a.group - w.first_col, COLS);
    if (w.cols <= 0) return false;
    w.pos0 = ctx - rows;
    w.last = w.pos0 + mw_row_of(a, w.first_col + w.cols - 1);
    const int first = w.pos0 + mw_row_of(a, w.first_col);
    const int start = a.window && first + 1 > a.window ? (first + 1 - a.window) & ~15 : 0, span = w.last + 1 - start;
    const int tokens = part_tokens(span, p.part_shift);
    w.parts = (span + tokens - 1) / tokens;
    w.begin = start + (int)blockIdx.x * tokens;
    w.end = min(w.begin + tokens, w.last + 1);
    w.fresh = p.rope.table ? w.pos0 : INT_MAX;
    w.table = a.block_table + (int64_t)seq * a.block_stride;
    return (int)blockIdx.x < w.parts;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* The tiles of this warp in order: numbers 0 .. n-1 at positions begin + 16 (warp + WARPS i); there may be none. Tile i
 * is copied to place i % depth of the warp's: K, then V, 16 positions each. With SWIZZLED, head_dim being HDP, that is
 * [64 columns][position][64], the eight pieces of 16 bytes of a row exchanged by the position's number, so that the
 * rows of an ldmatrix fall into different banks; otherwise [position][head_dim]. */
template <int HDP, bool SWIZZLED> struct tile_feed {
    const decode_args &p;
    const decode_part &w;
    int n, sent, to, seen,
        parity; /* tiles; sent for; places of the next to be sent for, of the first not done; phase */
    uint32_t ring, bars;
    int blocks; /* of one of 32 tiles a lane, renewed with the first of them: tiles are asked for in order */

    static constexpr int HALF_BYTES = 16 * HDP * 2, BYTES = 2 * HALF_BYTES; /* K or V; both */

    __device__ __forceinline__ tile_feed(const decode_args &p_, const decode_part &w_, uint32_t rings, uint32_t bars_)
        : p(p_), w(w_), sent(0), to(0), seen(0), parity(0), blocks(0) {
        const int warp = threadIdx.x / 32;
        n = (w.end - w.begin - 16 * warp + 16 * WARPS - 1) / (16 * WARPS);
        ring = rings + (uint32_t)(warp * p.depth * BYTES);
        bars = bars_ + (uint32_t)(warp * MAX_DEPTH * 8);
        open();
        for (int i = 0; i < p.depth; i++) send();
    }

    __device__ __forceinline__ int head_dim() const { return SWIZZLED ? HDP : p.a.head_dim; }

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
        return ((block * p.a.n_kv + w.kvh) << shift) + (pos & ((1 << shift) - 1));
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

    /* Of the tile to be multiplied. */
    __device__ __forceinline__ uint32_t k() const { return ring + (uint32_t)(seen * BYTES); }
    __device__ __forceinline__ uint32_t v() const { return k() + HALF_BYTES; }

    /* Of 16-byte piece number `piece` of a position. */
    __device__ __forceinline__ uint32_t at(int token, int piece) const {
        if (SWIZZLED) return (uint32_t)(piece / 8 * 2048 + token * 128 + ((piece ^ token) & 7) * 16);
        return (uint32_t)(token * p.a.head_dim * 2 + piece * 16);
    }

    /* Position `token` of K or V from a row in shared memory, or zeros. */
    __device__ __forceinline__ void put_row(uint32_t tile, int token, const uint16_t *from) const {
        for (int i = threadIdx.x % 32; i < head_dim() / 8; i += 32) {
            const uint4 u = from ? *(const uint4 *)(from + 8 * i) : make_uint4(0, 0, 0, 0);
            asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(tile + at(token, i)), "r"(u.x), "r"(u.y),
                         "r"(u.z), "r"(u.w)
                         : "memory");
        }
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

    __device__ __forceinline__ void copy(uint32_t tile, uint32_t bar, int row) const {
        if (threadIdx.x % 32 != 0) return;
        const uint64_t policy = mw_policy_evict_first(); /* nothing is read twice */
        mw_bar_expect(bar, (uint32_t)(2 * 16 * head_dim() * 2));
        mw_bulk3(tile, &p.k_map, 0, row, 0, bar, policy);
        mw_bulk3(tile + HALF_BYTES, &p.v_map, 0, row, 0, bar, policy);
    }

    __device__ __forceinline__ void end_copy() const {}

    __device__ __forceinline__ void wait() const {
        mw_bar_wait(bars + seen * 8, (uint32_t)parity);
    }
#else
    __device__ __forceinline__ void open() const {}

    __device__ __forceinline__ void copy(uint32_t tile, uint32_t, int row) const {
        const int hd = head_dim(), pieces = hd / 8;
        const uint16_t *from_k = (const uint16_t *)p.a.k_cache + (int64_t)row * hd;
        const uint16_t *from_v = (const uint16_t *)p.a.v_cache + (int64_t)row * hd;
        for (int i = threadIdx.x % 32; i < 16 * pieces; i += 32) {
            const uint32_t to_k = tile + at(i / pieces, i % pieces);
            mw_cp16(to_k, from_k + i * 8, true);
            mw_cp16(to_k + HALF_BYTES, from_v + i * 8, true);
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
