/* kernels/cuda/draw.cu - sampling: the candidates of kernels/draw.h, then the draw among them.
 *
 * Candidates of a row are the tokens whose key is at least a bound. A key is (x, token) as 64 bits whose order is
 * draw.h's: larger x first, then the smaller token. One block a row finds the bound: a histogram of counts and masses
 * over top - x, the bin in which the bound lies, and in that bin the key itself, by counting what stands before each
 * key. Where a bin holds too many keys for that (many equal logits), it is split by the keys' digits until it does not.
 * Sums are of integers, so no order of threads matters. The draw itself is spread over several blocks a row. */
#include "kernels/cuda/device.cuh"
#include "kernels/draw.h"

#define SELECT_THREADS 1024
#define DRAW_THREADS   256
#define BINS           2048
#define DIGIT          11    /* bits: 2^DIGIT == BINS */
#define PER_UNIT       64.0f /* bins per 1 of x */
#define LIST           SELECT_THREADS

typedef unsigned long long u64;

/* What select leaves for draw. */
struct row_cut {
    u64 bound;
    int32_t best; /* -1: not sound */
    int32_t unused;
};

struct drawn {
    double score;
    int32_t token;
    int32_t unused;
};

/* The order of x as an unsigned number; -0 equals 0. Not for NaN. */
static __device__ __forceinline__ uint32_t ordered(float x) {
    uint32_t u = __float_as_uint(x);
    if (u == 0x80000000u) u = 0;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ u64 key_of(float x, uint32_t token) {
    return (u64)ordered(x) << 32 | ~token;
}

static __device__ __forceinline__ float scaled(const mw_draw &how, float logit) {
    return how.inv_temperature == 0 ? logit : MW_MULF(logit, how.inv_temperature);
}

/* ---- select ----------------------------------------------------------------------------------------------------- */

struct select_memory {
    uint32_t count[BINS], mass_lo[BINS], mass_hi[BINS];
    u64 list[LIST], weight[LIST];
    u64 part[SELECT_THREADS / 32];
    u64 total;
    u64 before; /* mass in front of the chosen bin */
    uint32_t listed;
    int32_t bin; /* -1: all together do not reach the target */
};

/* One row, as all threads of the block see it. */
struct view {
    const float *logits;
    int64_t vocab;
    mw_draw how;
    float top;
    u64 least; /* keys below it are not looked at */
};

static __device__ u64 block_max(select_memory &s, u64 k) {
    for (int o = 16; o; o >>= 1) {
        u64 other = __shfl_xor_sync(~0u, k, o);
        k = other > k ? other : k;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.part[threadIdx.x / 32] = k;
    __syncthreads();
    for (int w = 0; w < SELECT_THREADS / 32; w++) k = s.part[w] > k ? s.part[w] : k;
    return k;
}

/* Sum of the values of this thread and those in front of it. */
static __device__ u64 block_scan(select_memory &s, u64 v) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int o = 1; o < 32; o *= 2) {
        u64 other = __shfl_up_sync(~0u, v, o);
        if (lane >= o) v += other;
    }
    __syncthreads();
    if (lane == 31) s.part[warp] = v;
    __syncthreads();
    for (int w = 0; w < warp; w++) v += s.part[w];
    return v;
}

/* Bins of a level: 0 is by distance from the top, nearest first; 1 .. 6 by the digits of the key, largest first. */
static __device__ __forceinline__ int bin_of(const view &v, int level, float x, u64 key) {
    if (level == 0) return (int)fminf(MW_MULF(MW_ADDF(v.top, -x), PER_UNIT), (float)(BINS - 1));
    int shift = 64 - DIGIT * level;
    u64 digit = shift >= 0 ? key >> shift : key << -shift;
    return BINS - 1 - (int)(digit & (BINS - 1));
}

/* Is a key in the bins that levels below `level` have chosen? */
static __device__ __forceinline__ bool inside(const view &v, int level, const int *chosen, float x, u64 key) {
    for (int l = 0; l < level; l++)
        if (bin_of(v, l, x, key) != chosen[l]) return false;
    return true;
}

/* Counts and, where by_mass, masses of a level's bins. */
static __device__ void histogram(select_memory &s, const view &v, int level, const int *chosen, bool by_mass) {
    __syncthreads();
    for (int b = threadIdx.x; b < BINS; b += SELECT_THREADS) s.count[b] = s.mass_lo[b] = s.mass_hi[b] = 0;
    __syncthreads();
#pragma unroll 4
    for (int64_t t = threadIdx.x; t < v.vocab; t += SELECT_THREADS) {
        float x = scaled(v.how, v.logits[t]);
        u64 key = key_of(x, (uint32_t)t);
        if (key < v.least || !inside(v, level, chosen, x, key)) continue;
        int b = bin_of(v, level, x, key);
        atomicAdd(&s.count[b], 1);
        u64 m = by_mass ? mw_draw_mass(MW_ADDF(x, -v.top)) : 0;
        if (m == 0) continue;
        uint32_t lo = (uint32_t)m, hi = (uint32_t)(m >> 32), old = atomicAdd(&s.mass_lo[b], lo);
        hi += old + lo < old;
        if (hi) atomicAdd(&s.mass_hi[b], hi);
    }
    __syncthreads();
}

static __device__ __forceinline__ u64 weight_of_bin(const select_memory &s, int b, bool by_mass) {
    return by_mass ? (u64)s.mass_hi[b] << 32 | s.mass_lo[b] : s.count[b];
}

/* s.total; and s.bin, in which the running sum reaches `target`, with s.before in front of it. target 0: only the
 * total. */
static __device__ void find_bin(select_memory &s, u64 target, bool by_mass) {
    int b = (int)threadIdx.x * 2;
    u64 w0 = weight_of_bin(s, b, by_mass), w1 = weight_of_bin(s, b + 1, by_mass);
    if (threadIdx.x == 0) s.bin = -1;
    u64 sum = block_scan(s, w0 + w1), front = sum - w0 - w1; /* synchronises: s.bin is set */
    if (threadIdx.x == SELECT_THREADS - 1) s.total = sum;
    if (target && front < target && sum >= target) {
        bool second = front + w0 < target;
        s.bin = b + second;
        s.before = second ? front + w0 : front;
    }
    __syncthreads();
}

/* The keys of the chosen bins, listed; their number is known to be at most LIST. */
static __device__ void list_keys(select_memory &s, const view &v, int level, const int *chosen) {
    if (threadIdx.x == 0) s.listed = 0;
    __syncthreads();
#pragma unroll 4
    for (int64_t t = threadIdx.x; t < v.vocab; t += SELECT_THREADS) {
        float x = scaled(v.how, v.logits[t]);
        u64 key = key_of(x, (uint32_t)t);
        if (key >= v.least && inside(v, level, chosen, x, key)) s.list[atomicAdd(&s.listed, 1)] = key;
    }
    __syncthreads();
}

static __device__ __forceinline__ float x_of(u64 key) {
    uint32_t u = (uint32_t)(key >> 32);
    return __uint_as_float(u & 0x80000000u ? u ^ 0x80000000u : ~u);
}

/* The key at which the running sum over all keys >= v.least, from the largest on, reaches the target: `count` keys, or
 * the part top_p of the mass. v.least where it does not. */
static __device__ u64 find_bound(select_memory &s, const view &v, u64 count, bool by_mass) {
    int chosen[8];
    u64 target = count, found = v.least;
    for (int level = 0; level < 7; level++) {
        histogram(s, v, level, chosen, by_mass);
        if (level == 0 && by_mass) {
            find_bin(s, 0, true);
            target = mw_draw_target(v.how.top_p, s.total);
        }
        find_bin(s, target, by_mass);
        if (s.bin < 0) return v.least;
        chosen[level] = s.bin;
        target -= s.before;
        uint32_t n = s.count[s.bin];
        if (n > LIST) continue; /* the last level's bins hold one key each */
        list_keys(s, v, level + 1, chosen);
        u64 mine = threadIdx.x < n ? s.list[threadIdx.x] : 0, weight = 1, sum = 0;
        if (by_mass) weight = mw_draw_mass(MW_ADDF(x_of(mine), -v.top));
        s.weight[threadIdx.x] = weight;
        __syncthreads();
        for (uint32_t i = 0; i < n && threadIdx.x < n; i++)
            if (s.list[i] >= mine) sum += s.weight[i];
        found = block_max(s, threadIdx.x < n && sum >= target && sum - weight < target ? mine : 0);
        break;
    }
    return found;
}

static __global__ void __launch_bounds__(SELECT_THREADS)
    select_kernel(row_cut *cut, const mw_draw *how, const float *logits, int64_t ld, int64_t vocab) {
    __shared__ select_memory s;
    view v = {};
    mw_pdl_wait();
    v.logits = logits + blockIdx.x * ld;
    v.vocab = vocab;
    v.how = how[blockIdx.x];
    u64 best = 0;
#pragma unroll 4
    for (int64_t t = threadIdx.x; t < vocab; t += SELECT_THREADS) {
        float x = scaled(v.how, v.logits[t]);
        u64 key = isnan(x) ? ~0ull : key_of(x, (uint32_t)t);
        best = key > best ? key : best;
    }
    best = block_max(s, best);
    v.top = x_of(best);
    row_cut c = {0, (int32_t) ~(uint32_t)best, 0};
    if (best == ~0ull || !isfinite(v.top)) c.best = -1;
    float least = MW_ADDF(v.top, v.how.log_min_p);
    v.least = isinf(least) ? (u64)(ordered(-INFINITY) + 1) << 32 : (u64)ordered(least) << 32;
    bool draws = c.best >= 0 && v.how.inv_temperature != 0;
    bool cuts = v.how.top_k > 0 || v.how.top_p < 1 || v.how.log_min_p > -INFINITY;
    if (draws && cuts) {
        if (v.how.top_k > 0) v.least = find_bound(s, v, (u64)v.how.top_k, false);
        if (v.how.top_p < 1) v.least = find_bound(s, v, 0, true);
        c.bound = v.least;
    }
    if (threadIdx.x == 0) cut[blockIdx.x] = c;
}

/* ---- draw ------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ drawn better(drawn a, drawn b) {
    return b.score > a.score || (b.score == a.score && (uint32_t)b.token < (uint32_t)a.token) ? b : a;
}

/* The best of all threads' and, in thread 0, the result. */
static __device__ drawn block_best(drawn mine) {
    __shared__ drawn part[DRAW_THREADS / 32];
    for (int o = 16; o; o >>= 1) {
        drawn other;
        other.score = __shfl_xor_sync(~0u, mine.score, o);
        other.token = __shfl_xor_sync(~0u, mine.token, o);
        mine = better(mine, other);
    }
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = mine;
    __syncthreads();
    for (int w = 0; w < DRAW_THREADS / 32; w++) mine = better(mine, part[w]);
    __syncthreads();
    return mine;
}

static __global__ void __launch_bounds__(DRAW_THREADS)
    draw_kernel(int32_t *token, const row_cut *cuts, const mw_draw *hows, const float *logits, int64_t ld,
                int64_t vocab, drawn *parts, uint32_t *counters) {
    __shared__ bool last;
    mw_pdl_wait();
    const mw_draw how = hows[blockIdx.y];
    const row_cut cut = cuts[blockIdx.y];
    const float *row = logits + blockIdx.y * ld;
    if (cut.best < 0 || how.inv_temperature == 0) {
        if (blockIdx.x == 0 && threadIdx.x == 0) token[blockIdx.y] = cut.best;
        return;
    }
    u64 key = mw_draw_key(&how);
    drawn mine;
    mine.token = cut.best;
    mine.score = mw_draw_score(scaled(how, row[cut.best]), mw_draw_uniform(key, (uint32_t)cut.best));
    for (int64_t t = (int64_t)blockIdx.x * DRAW_THREADS + threadIdx.x; t < vocab;
         t += (int64_t)gridDim.x * DRAW_THREADS) {
        float x = scaled(how, row[t]);
        if (key_of(x, (uint32_t)t) < cut.bound) continue;
        double u = mw_draw_uniform(key, (uint32_t)t);
        /* As in draw.c: it cannot win. The margin covers the rounding of these two lines. */
        if ((float)(1 - u) > 1.002f * __expf((float)((double)x - mine.score))) continue;
        drawn other;
        other.score = mw_draw_score(x, u);
        other.token = (int32_t)t;
        mine = better(mine, other);
    }
    mine = block_best(mine);
    parts += (int64_t)blockIdx.y * gridDim.x;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = mine;
        __threadfence();
        last = atomicAdd(counters + blockIdx.y, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (unsigned i = threadIdx.x; i < gridDim.x; i += DRAW_THREADS) {
        drawn other;
        other.score = __ldcg(&parts[i].score);
        other.token = __ldcg(&parts[i].token);
        mine = better(mine, other);
    }
    mine = block_best(mine);
    if (threadIdx.x) return;
    counters[blockIdx.y] = 0;
    token[blockIdx.y] = mine.token;
}

#define MAX_ROWS 16384 /* of a launch: counters and workspace */

mw_status mw_cuda_draw(mw_dev *d, int32_t *token, const mw_draw *how, const float *logits, int64_t ld, int64_t rows,
                       int64_t vocab) {
    mw_status st = MW_OK;
    if (rows <= 0) return MW_OK;
    if (vocab <= 0 || vocab > INT32_MAX) return MW_FAIL(MW_ERR_INTERNAL, "a draw from %lld tokens", (long long)vocab);
    for (int64_t i = 0; i < rows && st == MW_OK; i += MAX_ROWS) {
        int64_t n = rows - i < MAX_ROWS ? rows - i : MAX_ROWS;
        int64_t blocks = 2 * d->n_sm / n, most = (vocab + 4 * DRAW_THREADS - 1) / (4 * DRAW_THREADS);
        blocks = blocks < most ? blocks : most;
        blocks = blocks < 1 ? 1 : blocks > 64 ? 64 : blocks;
        row_cut *cut = (row_cut *)d->workspace;
        drawn *parts = (drawn *)(cut + n);
        st = mw_cuda_check(
            mw_launch(d, select_kernel, dim3((unsigned)n), SELECT_THREADS, 0, cut, how + i, logits + i * ld, ld, vocab),
            "sampling: candidates");
        if (st == MW_OK)
            st = mw_cuda_check(mw_launch(d, draw_kernel, dim3((unsigned)blocks, (unsigned)n), DRAW_THREADS, 0,
                                         token + i, cut, how + i, logits + i * ld, ld, vocab, parts, d->counters),
                               "sampling: draw");
    }
    return st;
}
