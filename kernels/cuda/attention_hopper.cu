/* kernels/cuda/attention_hopper.cu - causal attention of sequences with many rows, on sm_90a: head_dim 64, 128, 256.
 *
 *   block  one a multiprocessor: a warpgroup that brings tiles, two that compute. Each of these has 64 flat rows of a
 *          tile of 128 and its O, scores and weights in registers.
 *   work   items of (tile of flat rows, kv head), the longest tiles of a sequence first; a block takes the next one
 * from a counter while it still computes, so that the copies for it are under way when it begins.
 *
 * Per BN positions a warpgroup computes the scores of the next ones and weights times V of the last ones in one go, and
 * the softmax of those scores while the other warpgroup's products run: the two take turns (named barriers).
 *
 * K and V come page by page: 16 positions of a KV head are one contiguous piece of memory, and one copy. In shared
 * memory a page is blocks of eight positions by 64 columns, as the matrix unit reads them swizzled: eight positions are
 * `STRIDE` bytes apart, 64 columns 1024. For K that is an operand with rows along head_dim, for V one with rows along
 * n. V past the end of the context is made zeros, since 0 * NaN is not.
 *
 * A tile holds whole rows of q: 128 / group of them, rounded down, all q heads of a group. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_wgmma.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/w4_pipe.cuh"

#define WG       128 /* threads of a warpgroup */
#define THREADS  (3 * WG)
#define BM       128
#define STAGES   2
#define PAGE     16         /* positions of a copy: no block of the cache is smaller */
#define TURN(wg) (1 + (wg)) /* named barriers */
#define N_BARS   (2 + 4 * STAGES + 1)

struct hopper_args {
    mw_attn_args a;
    int tile_rows; /* rows of q a tile */
    int n_seqs;
    uint32_t *counter; /* items begun, less one a block */
    CUtensorMap q, k, v;
};

template <int HD> struct shape {
    static constexpr int BN = HD <= 128 ? 128 : 64; /* bounded by registers for scores and O */
    static constexpr int HALVES = HD / 64;
    static constexpr int STRIDE = 1024 * HALVES;
    static constexpr int PAGE_BYTES = PAGE * HD * 2, TILE_BYTES = BN * HD * 2, Q_BYTES = BM * HD * 2;
    static constexpr int SMEM = Q_BYTES + 2 * STAGES * TILE_BYTES + 1024; /* alignment */
};

/* What a block is to do; flats 0: no more. */
struct hopper_item {
    int row0, pos0, flats; /* first row in the batch, its position, rows times group */
    int begin, end, kvh;
    const int32_t *table;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL /* the kernel is empty elsewhere, and not launched */

/* Barriers, by number from the first one's address. */
struct hopper_bars {
    uint32_t at;
    __device__ __forceinline__ uint32_t q_full() const { return at; }
    __device__ __forceinline__ uint32_t q_empty() const { return at + 8; }
    __device__ __forceinline__ uint32_t full(int v, int stage) const { return at + 16 + 8 * (v * STAGES + stage); }
    __device__ __forceinline__ uint32_t empty(int v, int stage) const { return full(v, stage) + 16 * STAGES; }
    __device__ __forceinline__ uint32_t landed() const { return at + 16 + 32 * STAGES; }
};

static __device__ __forceinline__ void turn_wait(int wg) {
    asm volatile("bar.sync %0, %1;" ::"r"(TURN(wg)), "n"(2 * WG) : "memory");
}

static __device__ __forceinline__ void turn_pass(int wg) {
    asm volatile("bar.arrive %0, %1;" ::"r"(TURN(wg)), "n"(2 * WG) : "memory");
}

static __device__ __forceinline__ void copy4(uint32_t to, const CUtensorMap *map, int x, int y, int z, int w,
                                             uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(bar)
                 : "memory");
}

/* ---- the items of a batch -----------------------------------------------------------------------------------------
 */

/* Items in order: sequences, in them tiles from the last to the first, in them kv heads. A warp knows 32 sequences at a
 * time, one a lane, and looks further as its items' numbers grow. */
struct item_list {
    const hopper_args &p;
    int first, begun, total; /* sequence of lane 0; items before it; items of these 32 */
    int row0, rows, ctx, before, items;

    __device__ __forceinline__ explicit item_list(const hopper_args &p_) : p(p_), first(0), begun(0) { look(); }

    __device__ __forceinline__ void look() {
        const int lane = threadIdx.x % 32, seq = first + lane;
        row0 = rows = ctx = 0;
        if (seq < p.n_seqs) {
            row0 = p.a.q_start[seq];
            rows = p.a.q_start[seq + 1] - row0;
            ctx = p.a.ctx_len[seq];
        }
        bool mine = rows > 0 && !mw_is_decode(rows, p.a.group);
        items = mine ? (rows + p.tile_rows - 1) / p.tile_rows * p.a.n_kv : 0;
        before = items;
        for (int o = 1; o < 32; o <<= 1) {
            int x = __shfl_up_sync(~0u, before, o);
            if (lane >= o) before += x;
        }
        total = __shfl_sync(~0u, before, 31);
        before -= items;
    }

    /* Item `number`, on all lanes; false: there are but `begun`. */
    __device__ __forceinline__ bool find(int number, hopper_item &w) {
        while (number >= begun + total) {
            begun += total;
            first += 32;
            total = 0;
            if (first >= p.n_seqs) return false;
            look();
        }
        const int i = number - begun;
        const int lane = __ffs(__ballot_sync(~0u, i >= before && i < before + items)) - 1;
        const int n_rows = __shfl_sync(~0u, rows, lane), at = i - __shfl_sync(~0u, before, lane);
        const int tiles = (n_rows + p.tile_rows - 1) / p.tile_rows, tile = tiles - 1 - at / p.a.n_kv;
        const int first_row = tile * p.tile_rows, n = min(n_rows - first_row, p.tile_rows);
        w.kvh = at % p.a.n_kv;
        w.row0 = __shfl_sync(~0u, row0, lane) + first_row;
        w.pos0 = __shfl_sync(~0u, ctx, lane) - n_rows + first_row;
        w.flats = n * p.a.group;
        w.end = w.pos0 + n;
        w.begin = p.a.window && w.pos0 + 1 > p.a.window ? (w.pos0 + 1 - p.a.window) & ~(PAGE - 1) : 0;
        w.table = p.a.block_table + (int64_t)(first + lane) * p.a.block_stride;
        return true;
    }
};

/* ---- bringing ------------------------------------------------------------------------------------------------------
 */

template <int HD> struct bringer {
    const hopper_args &p;
    hopper_bars bars;
    uint32_t k, v;   /* STAGES tiles each */
    int n, landings; /* tiles of K and V so far; tiles of V that were waited for here */

    /* Pages at positions from `from` on, inside the item, to `to`; bytes are counted by bar. */
    __device__ __forceinline__ void pages(const CUtensorMap *map, uint32_t to, const hopper_item &w, int from, int row,
                                          uint32_t bar) const {
        const int lane = threadIdx.x % 32, left = (w.end - from + PAGE - 1) / PAGE;
        const int n_pages = min(left, shape<HD>::BN / PAGE);
        if (lane == 0) mw_bar_expect(bar, (uint32_t)(n_pages * shape<HD>::PAGE_BYTES));
        __syncwarp();
        if (lane < n_pages) copy4(to + lane * shape<HD>::PAGE_BYTES, map, 0, 0, 0, row / 8, bar);
    }

    /* Row in the cache of the page that this lane copies. */
    __device__ __forceinline__ int row_of(const hopper_item &w, int from) const {
        const int pos = from + (int)(threadIdx.x % 32) * PAGE, shift = p.a.block_shift;
        if (threadIdx.x % 32 >= shape<HD>::BN / PAGE || pos >= w.end) return 0;
        return (((w.table[pos >> shift] * p.a.n_kv + w.kvh) << shift) + (pos & ((1 << shift) - 1)));
    }

    __device__ __forceinline__ void tiles(const hopper_item &w) {
        int row = row_of(w, w.begin);
        for (int from = w.begin; from < w.end; from += shape<HD>::BN, n++) {
            const int stage = n % STAGES, here = row;
            const uint32_t parity = (n / STAGES & 1) ^ 1, at = stage * shape<HD>::TILE_BYTES;
            row = row_of(w, from + shape<HD>::BN);
            mw_bar_wait(bars.empty(0, stage), parity);
            pages(&p.k, k + at, w, from, here, bars.full(0, stage));
            mw_bar_wait(bars.empty(1, stage), parity);
            if (from + shape<HD>::BN <= w.end) {
                pages(&p.v, v + at, w, from, here, bars.full(1, stage));
            } else {
                pages(&p.v, v + at, w, from, here, bars.landed());
                mw_bar_wait(bars.landed(), landings++ & 1);
                clear(v + at, w.end - from);
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                __syncwarp();
                if (threadIdx.x % 32 == 0) mw_bar_arrive(bars.full(1, stage));
            }
        }
    }

    /* Positions from `left` on of a tile of V: whatever the swizzle, a position's 128 bytes stay its own. */
    __device__ __forceinline__ static void clear(uint32_t at, int left) {
        constexpr int PIECES = HD / 8;
        for (int i = left * PIECES + (int)(threadIdx.x % 32); i < shape<HD>::BN * PIECES; i += 32) {
            const int pos = i / PIECES, piece = i % PIECES;
            const uint32_t to = at + pos / 8 * shape<HD>::STRIDE + piece / 8 * 1024 + pos % 8 * 128 + piece % 8 * 16;
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
        }
    }
};

/* One warp: items, and all that the two warpgroups need for them. */
template <int HD>
static __device__ __forceinline__ void bring(const hopper_args &p, hopper_bars bars, uint32_t smem, hopper_item *item) {
    const int lane = threadIdx.x % 32, blocks = (int)gridDim.x;
    bringer<HD> b = {p, bars, smem + shape<HD>::Q_BYTES, smem + shape<HD>::Q_BYTES + STAGES * shape<HD>::TILE_BYTES,
                     0, 0};
    item_list list(p);
    hopper_item w = {};
    int number = (int)blockIdx.x, taken = -1;
    for (uint32_t n = 0;; n++) {
        const bool there = list.find(number, w);
        if (there && lane == 0) taken = (int)atomicAdd(p.counter, 1); /* answered while this item is brought */
        if (!there) w.flats = 0;
        mw_bar_wait(bars.q_empty(), (n & 1) ^ 1);
        if (lane == 0) {
            *item = w;
            if (there) {
                mw_bar_expect(bars.q_full(), (uint32_t)(p.tile_rows * p.a.group * HD * 2));
                for (int h = 0; h < shape<HD>::HALVES; h++)
                    copy4(smem + h * BM * 128, &p.q, 0, h, w.kvh * p.a.group, w.row0, bars.q_full());
            } else {
                mw_bar_arrive(bars.q_full());
            }
        }
        if (!there) break;
        b.tiles(w);
        taken = __shfl_sync(~0u, taken, 0);
        number = blocks + taken;
    }
    /* There were as many questions as items; the last to ask leaves the counter as it was. */
    if (lane == 0 && taken >= 0 && taken == list.begun - 1) *p.counter = 0;
}

/* ---- computing -----------------------------------------------------------------------------------------------------
 */

template <typename T, int HD> struct hopper_state {
    static constexpr int BN = shape<HD>::BN;
    float o[HD / 2], s[BN / 2]; /* of rows g and g + 8 of the warp: see attention_wgmma.cuh */
    uint32_t w[BN / 4];         /* weights, as operand a */
    float m[2], l[2];           /* l: this lane's columns only */
    int top[2];                 /* the rows' positions; -1: no such row */
};

template <typename T, int HD>
static __device__ __forceinline__ void begin_rows(hopper_state<T, HD> &st, const mw_attn_args &a, const hopper_item &w,
                                                  int flat0) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int flat = flat0 + 8 * h;
        st.top[h] = flat < w.flats ? w.pos0 + mw_row_of(a, flat) : -1;
        st.m[h] = -1e30f; /* finite: a tile may hold nothing that a row sees */
        st.l[h] = 0;
    }
#pragma unroll
    for (int i = 0; i < HD / 2; i++) st.o[i] = 0;
}

/* s = q k^T, begun. */
template <typename T, int HD>
static __device__ __forceinline__ void begin_scores(hopper_state<T, HD> &st, uint32_t q, uint32_t k) {
#pragma unroll
    for (int i = 0; i < HD / 16; i++) {
        const uint64_t a = mw_operand(q + i / 4 * (BM * 128) + i % 4 * 32, 16, 1024);
        const uint64_t b = mw_operand(k + i / 4 * 1024 + i % 4 * 32, 16, shape<HD>::STRIDE);
        mw_wgmma_ss<T>(st.s, a, b, i > 0);
    }
    mw_wgmma_commit();
}

/* o += w v, begun. */
template <typename T, int HD> static __device__ __forceinline__ void begin_values(hopper_state<T, HD> &st, uint32_t v) {
#pragma unroll
    for (int i = 0; i < shape<HD>::BN / 16; i++)
        mw_wgmma_rs<T>(st.o, &st.w[4 * i], mw_operand(v + i * shape<HD>::PAGE_BYTES, 1024, shape<HD>::STRIDE));
    mw_wgmma_commit();
}

/* Scores of positions p .. become weights (in s); alpha: what the sums so far are to be multiplied with. */
template <typename T, int HD>
static __device__ __forceinline__ void weigh(hopper_state<T, HD> &st, const mw_attn_args &a, int p, bool masked,
                                             float alpha[2]) {
    constexpr int BN = shape<HD>::BN;
    const int t = threadIdx.x % 4;
    if (masked) {
#pragma unroll
        for (int j = 0; j < BN / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int pos = p + j * 8 + 2 * t + (e & 1), top = st.top[e >> 1];
                if (pos > top || (a.window && pos <= top - a.window)) st.s[4 * j + e] = -INFINITY;
            }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = st.s[2 * h], sum = 0;
#pragma unroll
        for (int j = 0; j < BN / 8; j++) m = fmaxf(m, fmaxf(st.s[4 * j + 2 * h], st.s[4 * j + 2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        m = fmaxf(st.m[h], m * a.scale_log2);
        alpha[h] = mw_exp2(st.m[h] - m);
        st.m[h] = m;
#pragma unroll
        for (int j = 0; j < BN / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float x = mw_exp2(fmaf(st.s[4 * j + 2 * h + e], a.scale_log2, -m));
                st.s[4 * j + 2 * h + e] = x;
                sum += x;
            }
        st.l[h] = st.l[h] * alpha[h] + sum;
    }
}

/* All registers of products have been written before what follows. */
template <typename T, int HD> static __device__ __forceinline__ void pin(hopper_state<T, HD> &st) {
    mw_pin(st.s);
    mw_pin(st.o);
    mw_pin(st.w);
}

template <typename T, int HD> static __device__ __forceinline__ void round_weights(hopper_state<T, HD> &st) {
#pragma unroll
    for (int i = 0; i < shape<HD>::BN / 4; i++) st.w[i] = mw_pack<T>(st.s[2 * i], st.s[2 * i + 1]);
}

template <typename T, int HD>
static __device__ __forceinline__ void scale_o(hopper_state<T, HD> &st, const float alpha[2]) {
#pragma unroll
    for (int i = 0; i < HD / 2; i++) st.o[i] *= alpha[i / 2 % 2];
}

/* Four lanes have two columns each of four neighbouring blocks of eight: afterwards lane t has all of block t. */
static __device__ __forceinline__ uint4 gather_block(uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3, int t) {
    uint32_t a = t & 1 ? x0 : x1, b = t & 1 ? x2 : x3;
    a = __shfl_xor_sync(~0u, a, 1), b = __shfl_xor_sync(~0u, b, 1);
    uint32_t lo0 = t & 1 ? a : x0, lo1 = t & 1 ? x1 : a; /* block t & 1, of lanes 2(t/2), 2(t/2) + 1 */
    uint32_t hi0 = t & 1 ? b : x2, hi1 = t & 1 ? x3 : b; /* block 2 + (t & 1) */
    uint32_t c = t & 2 ? lo0 : hi0, d = t & 2 ? lo1 : hi1;
    c = __shfl_xor_sync(~0u, c, 2), d = __shfl_xor_sync(~0u, d, 2);
    return t & 2 ? make_uint4(c, d, hi0, hi1) : make_uint4(lo0, lo1, c, d);
}

template <typename T, int HD>
static __device__ __forceinline__ void write_rows(const hopper_state<T, HD> &st, const mw_attn_args &a,
                                                  const hopper_item &w, int flat0) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float l = st.l[h];
        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        const float inv = 1 / l;
        const int flat = flat0 + 8 * h;
        uint16_t *to = (uint16_t *)a.out + mw_q_offset(a, w.row0, w.kvh, min(flat, w.flats - 1), a.ld_out) + 8 * t;
#pragma unroll
        for (int j = 0; j < HD / 8; j += 4) {
            uint32_t x[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[i] = mw_pack<T>(st.o[4 * (j + i) + 2 * h] * inv, st.o[4 * (j + i) + 2 * h + 1] * inv);
            const uint4 u = gather_block(x[0], x[1], x[2], x[3], t);
            if (flat < w.flats) *(uint4 *)(to + 8 * j) = u;
        }
    }
}

/* One of two warpgroups: every thread. */
template <typename T, int HD>
static __device__ __forceinline__ void compute(const hopper_args &p, hopper_bars bars, uint32_t smem,
                                               const hopper_item *item, int wg) {
    constexpr int BN = shape<HD>::BN;
    const int lane = threadIdx.x % 32, flat0 = wg * 64 + threadIdx.x % WG / 32 * 16 + lane / 4;
    const uint32_t q = smem + wg * 64 * 128, k = smem + shape<HD>::Q_BYTES, v = k + STAGES * shape<HD>::TILE_BYTES;
    const mw_attn_args &a = p.a;
    hopper_state<T, HD> st;
    float alpha[2];
    int n = 0; /* tiles so far */
    if (wg == 1) turn_pass(0);
    for (uint32_t items = 0;; items++) {
        mw_bar_wait(bars.q_full(), items & 1);
        const hopper_item w = *item;
        if (w.flats == 0) break;
        begin_rows(st, a, w, flat0);
        /* Positions before which all rows see everything, and from which on. */
        const int all = w.pos0, none = a.window ? w.end - 1 - a.window : -1;
        for (int from = w.begin; from < w.end; from += BN, n++) {
            const int stage = n % STAGES, last = (n + STAGES - 1) % STAGES;
            const bool first = from == w.begin;
            mw_bar_wait(bars.full(0, stage), n / STAGES & 1);
            turn_wait(wg);
            pin(st);
            mw_wgmma_begin();
            begin_scores<T, HD>(st, q, k + stage * shape<HD>::TILE_BYTES);
            if (!first) {
                mw_bar_wait(bars.full(1, last), (n - 1) / STAGES & 1);
                mw_wgmma_begin();
                begin_values<T, HD>(st, v + last * shape<HD>::TILE_BYTES);
                turn_pass(1 - wg);
                mw_wgmma_wait<1>();
            } else {
                turn_pass(1 - wg);
                mw_wgmma_wait<0>();
            }
            mw_pin(st.s);
            __syncwarp();
            if (lane == 0) mw_bar_arrive(bars.empty(0, stage));
            if (from + BN >= w.end) mw_bar_arrive(bars.q_empty()); /* every thread: each has read the item */
            weigh(st, a, from, from + BN - 1 > all || from <= none, alpha);
            if (!first) {
                mw_wgmma_wait<0>();
                mw_pin(st.o);
                __syncwarp();
                if (lane == 0) mw_bar_arrive(bars.empty(1, last));
                scale_o(st, alpha);
            }
            round_weights(st);
        }
        const int last = (n + STAGES - 1) % STAGES;
        mw_bar_wait(bars.full(1, last), (n - 1) / STAGES & 1);
        pin(st);
        mw_wgmma_begin();
        begin_values<T, HD>(st, v + last * shape<HD>::TILE_BYTES);
        mw_wgmma_wait<0>();
        mw_pin(st.o);
        __syncwarp();
        if (lane == 0) mw_bar_arrive(bars.empty(1, last));
        write_rows(st, a, w, flat0);
    }
}

#endif

template <typename T, int HD>
static __global__ void __launch_bounds__(THREADS, 1) hopper_kernel(const __grid_constant__ hopper_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char raw[];
    __shared__ uint64_t barriers[N_BARS];
    __shared__ hopper_item item;
    const uint32_t smem = (mw_smem(raw) + 1023) & ~1023u;
    const hopper_bars bars = {mw_smem(barriers)};
    if (threadIdx.x == 0) {
        mw_bar_init(bars.q_full(), 1);
        mw_bar_init(bars.q_empty(), 2 * WG);
        for (int i = 0; i < 2 * STAGES; i++) {
            mw_bar_init(bars.full(0, i), 1);
            mw_bar_init(bars.empty(0, i), 8);
        }
        mw_bar_init(bars.landed(), 1);
        mw_bar_publish();
    }
    __syncthreads();
    mw_pdl_wait();
    if (threadIdx.x < WG) {
        mw_fewer_registers<40>();
        if (threadIdx.x < 32) bring<HD>(p, bars, smem, &item);
    } else {
        mw_more_registers<232>();
        compute<T, HD>(p, bars, smem, &item, (int)threadIdx.x / WG - 1);
    }
#endif
}

/* Whether the build has code for sm_90a, and not for sm_90 alone: the kernel without a body has no static memory. */
template <typename T, int HD> static bool has_body() {
    cudaFuncAttributes f;
    return cudaFuncGetAttributes(&f, hopper_kernel<T, HD>) == cudaSuccess && f.sharedSizeBytes > 0;
}

static mw_status make_maps(hopper_args *p) {
    const mw_attn_args *a = &p->a;
    const CUtensorMapDataType type =
        a->act == MW_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const cuuint64_t hd = (cuuint64_t)a->head_dim, halves = hd / 64, n_q = (cuuint64_t)(a->n_kv * a->group);
    /* Rows of q as [row][head][half][64]. */
    const cuuint64_t q_dims[4] = {64, halves, n_q, (cuuint64_t)a->rows},
                     q_strides[3] = {128, hd * 2, (cuuint64_t)a->ld * 2};
    const cuuint32_t q_box[4] = {64, 1, (cuuint32_t)a->group, (cuuint32_t)p->tile_rows};
    /* A cache as [eight positions][half][position][64]. How long it is, nobody knows here: pages come from the table.
     */
    const cuuint64_t dims[4] = {64, 8, halves, 1u << 28}, strides[3] = {hd * 2, 128, hd * 16};
    const cuuint32_t box[4] = {64, 8, (cuuint32_t)halves, PAGE / 8};
    mw_status st = mw_cuda_tensor_map(&p->q, "q", type, 4, a->q, q_dims, q_strides, q_box, true);
    if (st == MW_OK) st = mw_cuda_tensor_map(&p->k, "K cache", type, 4, a->k_cache, dims, strides, box, true);
    if (st == MW_OK) st = mw_cuda_tensor_map(&p->v, "V cache", type, 4, a->v_cache, dims, strides, box, true);
    return st;
}

template <typename T, int HD> static mw_status launch(mw_dev *d, const hopper_args &p, int64_t items) {
    cudaError_t e = cudaSetDevice(d->ordinal);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(hopper_kernel<T, HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape<HD>::SMEM);
    unsigned blocks = (unsigned)(items < d->n_sm ? items : d->n_sm);
    if (e == cudaSuccess) e = mw_launch(d, hopper_kernel<T, HD>, blocks, THREADS, shape<HD>::SMEM, p);
    return mw_cuda_check(e, "attention (prefill, sm_90a)");
}

template <int HD> static mw_status run(mw_dev *d, const hopper_args &p, int64_t items, bool *taken) {
    const bool f16 = p.a.act == MW_F16;
    *taken = f16 ? has_body<__half, HD>() : has_body<__nv_bfloat16, HD>();
    if (!*taken) return MW_OK;
    return f16 ? launch<__half, HD>(d, p, items) : launch<__nv_bfloat16, HD>(d, p, items);
}

mw_status mw_cuda_attn_hopper(mw_dev *d, const mw_attn_args *a, int max_rows, int n_seqs, bool *taken) {
    const int hd = a->head_dim;
    *taken = false;
    if (d->sm < 90 || (hd != 64 && hd != 128 && hd != 256) || a->act != a->kv_dtype || a->group > BM ||
        !mw_aligned8(a->out, a->ld_out) || !mw_aligned8(a->k_cache, 8) || !mw_aligned8(a->v_cache, 8))
        return MW_OK;
    hopper_args p = {};
    p.a = *a;
    p.tile_rows = BM / a->group;
    p.n_seqs = n_seqs;
    p.counter = d->counters;
    mw_status st = make_maps(&p);
    if (st != MW_OK) return st;
    const int64_t items = (int64_t)n_seqs * a->n_kv * ((max_rows + p.tile_rows - 1) / p.tile_rows);
    if (items > INT32_MAX / 2) return MW_OK;
    return hd == 64    ? run<64>(d, p, items, taken)
           : hd == 128 ? run<128>(d, p, items, taken)
                       : run<256>(d, p, items, taken);
}
