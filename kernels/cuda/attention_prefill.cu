/* kernels/cuda/attention_prefill.cu - causal attention of sequences with many rows, on the matrix units.
 *
 *   grid   x: kv head   y: sequence   z: tile of 64 MT flat rows, the last (longest) first
 *   block  four warps of 16 MT flat rows each
 *
 * A block walks over the positions its rows see, BN at a time, with one buffer for K and one for V: the next K is
 * copied while the weights are made and multiplied with V, V while the scores are; a second block on the same
 * multiprocessor fills the gaps. Running maximum and sum in f32; weights are rounded to the cache's type for the
 * product with V and summed before that rounding.
 *
 * Shared memory rows are 16 bytes longer than HDP elements, so that the eight rows of an ldmatrix fall into different
 * banks. head_dim is rounded up to HDP with zeros that are written once. */
#include "kernels/cuda/attention.cuh"

#define THREADS 128
#define BN      64

template <int HDP> struct shape {
    static constexpr int MT = HDP <= 128 ? 2 : 1; /* m16 tiles of a warp: bounded by its registers for O */
    static constexpr int BM = 64 * MT;
    static constexpr int LD = HDP + 8; /* elements */
    static constexpr size_t smem = (size_t)(BM + 2 * BN) * LD * 2;
    static_assert(smem <= 101376, "sm_86 and sm_89 have no more; head_dim 256 takes all of it");
};

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void ldmatrix(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

static __device__ __forceinline__ void ldmatrix_transposed(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

/* 16 bytes; zeros where `bytes` is 0. */
static __device__ __forceinline__ void copy16(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

static __device__ __forceinline__ void copies_done() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* The work of one block. */
struct prefill_tile {
    int row0, pos0, flat0, flats; /* flat rows flat0 .. flat0 + flats - 1 of the sequence */
    int begin, end;               /* positions */
    int kvh;
    const int32_t *table;
};

template <int HDP> static __device__ bool find_tile(const mw_attn_args &a, prefill_tile &w) {
    int seq = blockIdx.y, rows;
    w.row0 = a.q_start[seq];
    rows = a.q_start[seq + 1] - w.row0;
    if (rows <= 0 || mw_is_decode(rows, a.group)) return false;
    w.flat0 = (int)(gridDim.z - 1 - blockIdx.z) * shape<HDP>::BM;
    w.flats = min(rows * a.group - w.flat0, shape<HDP>::BM);
    if (w.flats <= 0) return false;
    w.pos0 = a.ctx_len[seq] - rows;
    int first = w.pos0 + mw_row_of(a, w.flat0);
    w.end = w.pos0 + mw_row_of(a, w.flat0 + w.flats - 1) + 1;
    w.begin = a.window && first + 1 > a.window ? (first + 1 - a.window) & ~15 : 0;
    w.kvh = blockIdx.x;
    w.table = a.block_table + (int64_t)seq * a.block_stride;
    return true;
}

template <typename KV, int HDP>
static __device__ void load_q(uint16_t *qs, const mw_attn_args &a, const prefill_tile &w) {
    constexpr int CHUNKS = HDP / 8;
    for (int i = threadIdx.x; i < shape<HDP>::BM * CHUNKS; i += THREADS) {
        int r = i / CHUNKS, d = i % CHUNKS * 8, flat = w.flat0 + r;
        uint4 u = make_uint4(0, 0, 0, 0);
        if (r < w.flats && d < a.head_dim) {
            const uint16_t *from = (const uint16_t *)a.q + mw_q_offset(a, w.row0, w.kvh, flat, a.ld) + d;
            u = mw_q_convert<KV>(*(const uint4 *)from, a.act);
        }
        *(uint4 *)(qs + r * shape<HDP>::LD + d) = u;
    }
}

/* Block numbers of positions p .. p + BN - 1, one for every 16 (a block holds 16 or more). */
static __device__ __forceinline__ void load_blocks(int blocks[BN / 16], const mw_attn_args &a, const prefill_tile &w,
                                                   int p) {
#pragma unroll
    for (int i = 0; i < BN / 16; i++) blocks[i] = p + 16 * i < w.end ? w.table[(p + 16 * i) >> a.block_shift] : 0;
}

/* Starts copying BN positions from p on; those past the end become zeros. */
template <int HDP>
static __device__ __forceinline__ void load_tile(uint16_t *to, const void *cache, const mw_attn_args &a,
                                                 const prefill_tile &w, const int blocks[BN / 16], int p) {
    constexpr int CHUNKS = HDP / 8, ROWS = THREADS / CHUNKS; /* positions that the block copies at a time */
    static_assert(THREADS % CHUNKS == 0 && 16 % ROWS == 0, "a thread keeps its columns");
    int d = threadIdx.x % CHUNKS * 8, r0 = threadIdx.x / CHUNKS;
    if (d >= a.head_dim) return;
    uint32_t at = shared_address(to + r0 * shape<HDP>::LD + d);
#pragma unroll
    for (int i = 0; i < BN / 16; i++) {
        const uint16_t *from = (const uint16_t *)cache + mw_kv_offset(a, blocks[i], w.kvh, p + 16 * i) + d;
#pragma unroll
        for (int r = 0; r < 16; r += ROWS) {
            bool there = p + 16 * i + r + r0 < w.end;
            copy16(at + (16 * i + r) * shape<HDP>::LD * 2,
                   there ? from + (r + r0) * a.head_dim : (const uint16_t *)cache, there ? 16 : 0);
        }
    }
}

/* Padding columns of K and V: multiplied with zeros, so they must be finite. */
template <int HDP> static __device__ void clear_padding(uint16_t *kv, int hd) {
    if (hd == HDP) return;
    for (int i = threadIdx.x; i < 2 * BN * (HDP / 8); i += THREADS) {
        int r = i / (HDP / 8), d = i % (HDP / 8) * 8;
        if (d >= hd) *(uint4 *)(kv + r * shape<HDP>::LD + d) = make_uint4(0, 0, 0, 0);
    }
}

template <int HDP> struct prefill_state {
    static constexpr int MT = shape<HDP>::MT;
    float o[MT][HDP / 8][4];
    float m[MT][2], l[MT][2]; /* rows g and g + 8 of every m16 tile; l: this lane's columns only */
    int pos[MT][2];           /* -1: no such row */
};

template <typename KV, int HDP>
static __device__ __forceinline__ void scores(float s[shape<HDP>::MT][BN / 8][4], uint32_t q_at, uint32_t k_at) {
    constexpr int MT = shape<HDP>::MT, LD = shape<HDP>::LD;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int n = 0; n < BN / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[i][n][e] = 0;
#pragma unroll
    for (int k = 0; k < HDP / 16; k++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int i = 0; i < MT; i++) ldmatrix(a[i], q_at + (i * 16 * LD + k * 16) * 2);
#pragma unroll
        for (int n = 0; n < BN / 16; n++) {
            uint32_t b[4];
            ldmatrix(b, k_at + (n * 16 * LD + k * 16) * 2);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                mw_mma<KV>(s[i][2 * n], a[i][0], a[i][1], a[i][2], a[i][3], b[0], b[1]);
                mw_mma<KV>(s[i][2 * n + 1], a[i][0], a[i][1], a[i][2], a[i][3], b[2], b[3]);
            }
        }
    }
}

/* Scores of positions p .. become weights; the state is scaled to the new maximum. */
template <int HDP>
static __device__ __forceinline__ void weigh(prefill_state<HDP> &st, float s[shape<HDP>::MT][BN / 8][4],
                                             const mw_attn_args &a, int p, bool masked) {
    constexpr int MT = shape<HDP>::MT;
    const int t = threadIdx.x % 4;
    if (masked) {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int pos = p + n * 8 + 2 * t + (e & 1), top = st.pos[i][e >> 1];
                    if (pos > top || (a.window && pos <= top - a.window)) s[i][n][e] = -INFINITY;
                }
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float m = s[i][0][2 * h];
#pragma unroll
            for (int n = 0; n < BN / 8; n++) m = fmaxf(m, fmaxf(s[i][n][2 * h], s[i][n][2 * h + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            m = fmaxf(st.m[i][h], m * a.scale_log2);
            float alpha = mw_exp2(st.m[i][h] - m), sum = 0;
            st.m[i][h] = m;
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float x = mw_exp2(fmaf(s[i][n][2 * h + e], a.scale_log2, -m));
                    s[i][n][2 * h + e] = x;
                    sum += x;
                }
            st.l[i][h] = st.l[i][h] * alpha + sum;
#pragma unroll
            for (int n = 0; n < HDP / 8; n++) {
                st.o[i][n][2 * h] *= alpha;
                st.o[i][n][2 * h + 1] *= alpha;
            }
        }
}

template <typename KV, int HDP>
static __device__ __forceinline__ void add_values(prefill_state<HDP> &st, const float s[shape<HDP>::MT][BN / 8][4],
                                                  uint32_t v_at) {
    constexpr int MT = shape<HDP>::MT, LD = shape<HDP>::LD;
#pragma unroll
    for (int k = 0; k < BN / 16; k++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int i = 0; i < MT; i++) {
            a[i][0] = mw_pack<KV>(s[i][2 * k][0], s[i][2 * k][1]);
            a[i][1] = mw_pack<KV>(s[i][2 * k][2], s[i][2 * k][3]);
            a[i][2] = mw_pack<KV>(s[i][2 * k + 1][0], s[i][2 * k + 1][1]);
            a[i][3] = mw_pack<KV>(s[i][2 * k + 1][2], s[i][2 * k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < HDP / 16; n++) {
            uint32_t b[4];
            ldmatrix_transposed(b, v_at + (k * 16 * LD + n * 16) * 2);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                mw_mma<KV>(st.o[i][2 * n], a[i][0], a[i][1], a[i][2], a[i][3], b[0], b[1]);
                mw_mma<KV>(st.o[i][2 * n + 1], a[i][0], a[i][1], a[i][2], a[i][3], b[2], b[3]);
            }
        }
    }
}

template <int HDP>
static __device__ __forceinline__ void begin_rows(prefill_state<HDP> &st, const mw_attn_args &a,
                                                  const prefill_tile &w) {
    const int g = threadIdx.x % 32 / 4, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < shape<HDP>::MT; i++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int flat = (warp * shape<HDP>::MT + i) * 16 + h * 8 + g;
            st.pos[i][h] = flat < w.flats ? w.pos0 + mw_row_of(a, w.flat0 + flat) : -1;
            st.m[i][h] = -1e30f; /* finite: a tile may hold nothing that a row sees */
            st.l[i][h] = 0;
        }
#pragma unroll
        for (int n = 0; n < HDP / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) st.o[i][n][e] = 0;
    }
}

template <int HDP>
static __device__ __forceinline__ void write_rows(const prefill_state<HDP> &st, const mw_attn_args &a,
                                                  const prefill_tile &w) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < shape<HDP>::MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float l = st.l[i][h];
            l += __shfl_xor_sync(~0u, l, 1);
            l += __shfl_xor_sync(~0u, l, 2);
            int r = (warp * shape<HDP>::MT + i) * 16 + h * 8 + g, flat = w.flat0 + r;
            if (r >= w.flats) continue;
            float inv = 1 / l;
            uint16_t *to = (uint16_t *)a.out + mw_q_offset(a, w.row0, w.kvh, flat, a.ld_out) + 2 * t;
#pragma unroll
            for (int n = 0; n < HDP / 8; n++) {
                if (n * 8 >= a.head_dim) continue;
                float x = st.o[i][n][2 * h] * inv, y = st.o[i][n][2 * h + 1] * inv;
                *(uint32_t *)(to + n * 8) = a.act == MW_F16 ? mw_pack<__half>(x, y) : mw_pack<__nv_bfloat16>(x, y);
            }
        }
}

template <typename KV, int HDP>
static __global__ void __launch_bounds__(THREADS, 2) prefill_kernel(const __grid_constant__ mw_attn_args a) {
    extern __shared__ uint4 smem[];
    constexpr int LD = shape<HDP>::LD;
    uint16_t *qs = (uint16_t *)smem, *ks = qs + shape<HDP>::BM * LD, *vs = ks + BN * LD;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    prefill_tile w;
    int blocks[BN / 16];
    mw_pdl_wait();
    if (!find_tile<HDP>(a, w)) return;
    clear_padding<HDP>(ks, a.head_dim);
    load_blocks(blocks, a, w, w.begin);
    load_tile<HDP>(ks, a.k_cache, a, w, blocks, w.begin);
    load_q<KV, HDP>(qs, a, w);
    prefill_state<HDP> st;
    begin_rows<HDP>(st, a, w);
    /* ldmatrix: a lane names one row of 16 bytes. Operand A and V: rows lane % 16, second half of the lanes eight
     * columns on. K: rows 0-7 and 8-15 of 16 positions by the upper half, columns by bit 3. */
    const uint32_t q_at = shared_address(qs + (warp * shape<HDP>::MT * 16 + lane % 16) * LD + lane / 16 * 8);
    const uint32_t k_at = shared_address(ks + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8);
    const uint32_t v_at = shared_address(vs + lane % 16 * LD + lane / 16 * 8);
    const int first = w.pos0 + mw_row_of(a, w.flat0); /* position of the block's first row; its last row's is end - 1 */
    for (int p = w.begin; p < w.end; p += BN) {
        float s[shape<HDP>::MT][BN / 8][4];
        copies_done();
        __syncthreads(); /* K is there for all; nobody reads the last V any more */
        load_tile<HDP>(vs, a.v_cache, a, w, blocks, p);
        if (p + BN < w.end) load_blocks(blocks, a, w, p + BN);
        scores<KV, HDP>(s, q_at, k_at);
        copies_done();
        __syncthreads(); /* V is there; nobody reads this K any more */
        if (p + BN < w.end) load_tile<HDP>(ks, a.k_cache, a, w, blocks, p + BN);
        weigh<HDP>(st, s, a, p, p + BN - 1 > first || (a.window && p <= w.end - 1 - a.window));
        add_values<KV, HDP>(st, s, v_at);
    }
    write_rows<HDP>(st, a, w);
}

template <typename KV, int HDP> static cudaError_t launch(mw_dev *d, const mw_attn_args &a, dim3 grid) {
    /* Every time: it is a table entry in the driver, and the current context may be another device's. */
    cudaError_t e = cudaSetDevice(d->ordinal);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(prefill_kernel<KV, HDP>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)shape<HDP>::smem);
    if (e != cudaSuccess) return e;
    return mw_launch(d, prefill_kernel<KV, HDP>, grid, THREADS, shape<HDP>::smem, a);
}

template <int HDP> static cudaError_t launch_tiles(mw_dev *d, const mw_attn_args &a, int max_rows, int n_seqs) {
    int64_t tiles = ((int64_t)max_rows * a.group + shape<HDP>::BM - 1) / shape<HDP>::BM;
    if (tiles > 65535) return cudaErrorInvalidConfiguration;
    dim3 grid((unsigned)a.n_kv, (unsigned)n_seqs, (unsigned)tiles);
    return a.kv_dtype == MW_F16 ? launch<__half, HDP>(d, a, grid) : launch<__nv_bfloat16, HDP>(d, a, grid);
}

mw_status mw_cuda_attn_prefill(mw_dev *d, const mw_attn_args *a, int max_rows, int n_seqs) {
    cudaError_t e = a->head_dim <= 64    ? launch_tiles<64>(d, *a, max_rows, n_seqs)
                    : a->head_dim <= 128 ? launch_tiles<128>(d, *a, max_rows, n_seqs)
                                         : launch_tiles<256>(d, *a, max_rows, n_seqs);
    return mw_cuda_check(e, "attention (prefill)");
}
