/* kernels/cuda/probe.cu - kernels that measure and judge other kernels: plain, each launch an ordinary one. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/probe.h"

static mw_status launched(const char *what) {
    return mw_cuda_check(cudaGetLastError(), what);
}

static __device__ __forceinline__ void put(void *p, int t, size_t i, float v) {
    if (t == MW_F16)
        ((__half *)p)[i] = __float2half_rn(v);
    else if (t == MW_BF16)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
    else if (t == MW_U8)
        ((uint8_t *)p)[i] = (uint8_t)__float2int_rn(v);
    else
        ((float *)p)[i] = v;
}

static __device__ __forceinline__ double get(const void *p, int t, size_t i) {
    if (t == MW_F16) return __half2float(((const __half *)p)[i]);
    if (t == MW_BF16) return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    return ((const float *)p)[i];
}

/* mw_probe_hash of kernels/probe.h, for the device. */
static __device__ __forceinline__ uint64_t hash(uint64_t seed, uint64_t i) {
    uint64_t z = seed * 0x9E3779B97F4A7C15u + i * 0xD1B54A32D192ED03u + 0x8CB92BA72F3D8DD7u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static __global__ void fill_kernel(void *p, int t, size_t n, float mean, float spread, uint64_t seed) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint64_t h = hash(seed, i);
        if (t == MW_U32)
            ((uint32_t *)p)[i] = (uint32_t)(h >> 32);
        else
            put(p, t, i, mean + spread * ((float)(h >> 40) * 0x1p-23f - 1));
    }
}

mw_status mw_cuda_probe_fill(mw_dev *d, void *dst, mw_dtype t, size_t n, float mean, float spread, uint64_t seed) {
    if (t != MW_F16 && t != MW_BF16 && t != MW_F32 && t != MW_U8 && t != MW_U32)
        return MW_FAIL(MW_ERR_INTERNAL, "fill with %s", mw_dtype_name(t));
    fill_kernel<<<8 * d->n_sm, 256, 0, d->stream>>>(dst, (int)t, n, mean, spread, seed);
    return launched("fill");
}

static __global__ void read_kernel(const uint4 *p, size_t n, uint32_t *sink) {
    uint32_t x = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 7 * step < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = __ldcs(p + i + j * step);
#pragma unroll
        for (int j = 0; j < 8; j++) x ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += step) {
        uint4 v = __ldcs(p + i);
        x ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (x == 0x12345677) *sink = x; /* so that the loads are wanted */
}

mw_status mw_cuda_probe_read(mw_dev *d, const void *src, size_t bytes, int way) {
    static const int threads[MW_PROBE_READS] = {512, 1024, 256, 512}, blocks[MW_PROBE_READS] = {1, 1, 4, 2};
    if (way < 0 || way >= MW_PROBE_READS) return MW_FAIL(MW_ERR_INTERNAL, "way %d of reading", way);
    read_kernel<<<blocks[way] * d->n_sm, threads[way], 0, d->stream>>>((const uint4 *)src, bytes / 16,
                                                                       d->counters + MW_CUDA_COUNTERS - 1);
    return launched("read");
}

mw_status mw_cuda_probe_copy(mw_dev *d, void *dst, const void *src, size_t bytes) {
    return mw_cuda_check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, d->stream), "copy");
}

/* ---- what a matrix is -------------------------------------------------------------------------------------------- */

typedef struct {
    const uint32_t *tiles;
    const void *scales;
    const uint8_t *zeros;
    const float *bias;
    int64_t k, n, group;
    int scale_dtype;
} matrix;

static matrix matrix_of(const mw_linear *w) {
    matrix m = {w->w4.tiles, w->w4.scales, w->w4.zeros, w->bias, w->k, w->n, w->w4.group, (int)w->w4.scale_dtype};
    return m;
}

/* The closed form of kernels.h. */
static __device__ __forceinline__ double weight_at(const matrix &w, int64_t k, int64_t n) {
    int64_t nn = n % 64, kk = k % 16, lane = nn % 8 * 4 + kk % 8 / 2, v = (kk & 1) << 2 | (nn >> 3 & 1) << 1 | kk >> 3;
    uint32_t word = w.tiles[k / 16 * 2 * w.n + n / 64 * 128 + 4 * lane + nn / 16];
    size_t g = (size_t)(k / w.group * w.n + n - nn + nn % 8 * 8 + nn / 8);
    int zero = w.zeros ? w.zeros[g] : 8;
    return ((int)(word >> (4 * v) & 15) - zero) * get(w.scales, w.scale_dtype, g);
}

static __global__ void dequant_kernel(void *dst, int t, matrix w) {
    size_t count = (size_t)(w.k * w.n);
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        put(dst, t, i, (float)weight_at(w, (int64_t)(i % w.k), (int64_t)(i / w.k)));
}

mw_status mw_cuda_probe_dequant(mw_dev *d, const mw_linear *w, void *dst, mw_dtype t) {
    dequant_kernel<<<16 * d->n_sm, 256, 0, d->stream>>>(dst, (int)t, matrix_of(w));
    return launched("dequantisation");
}

/* ---- references -------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void raise_key(unsigned long long *key, double error, double bound, uint64_t at) {
    float ratio = error == 0 ? 0.0f : (float)(error / bound);
    if (isnan(ratio)) ratio = INFINITY; /* what was not written, or not finite */
    unsigned long long k = (unsigned long long)__float_as_uint(ratio) << 32 | (uint32_t)at;
    if (k > *(volatile unsigned long long *)key) atomicMax(key, k);
}

#define REF_ROWS 8

typedef struct {
    const void *x, *y;
    int64_t m, ldx, ldy, period;
    int act, out;
    double u_w, u_y;
} linear_case;

/* A thread: one column, eight rows of the period, and every row of y that equals one of them. */
static __global__ void linear_kernel(matrix w, linear_case c, unsigned long long *key) {
    int64_t n = (int64_t)blockIdx.x * 64 + threadIdx.x, r0 = (int64_t)blockIdx.y * REF_ROWS;
    double y[REF_ROWS] = {}, s[REF_ROWS] = {};
    for (int64_t k = 0; k < w.k; k++) {
        double v = weight_at(w, k, n);
        for (int i = 0; i < REF_ROWS; i++) {
            if (r0 + i >= c.period) break;
            double p = v * get(c.x, c.act, (size_t)((r0 + i) * c.ldx + k));
            y[i] += p;
            s[i] += fabs(p);
        }
    }
    double bias = w.bias ? w.bias[n] : 0;
    for (int i = 0; i < REF_ROWS && r0 + i < c.period; i++)
        for (int64_t r = r0 + i; r < c.m; r += c.period) {
            double want = y[i] + bias, error = fabs(get(c.y, c.out, (size_t)(r * c.ldy + n)) - want);
            raise_key(key, error, c.u_w * s[i] + c.u_y * fabs(want) + 0x1p-25, (uint64_t)(r * w.n + n));
        }
}

mw_status mw_cuda_probe_judge_linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx,
                                     const void *y, int64_t ldy, bool y_f32, int64_t period, unsigned long long *key) {
    linear_case c = {x, y, m, ldx, ldy, period < m ? period : m, (int)d->act, y_f32 ? (int)MW_F32 : (int)d->act, 0, 0};
    c.u_w = d->act == MW_BF16 ? 0x1p-9 : 0x1p-12;
    c.u_y = c.out == MW_F32 ? 0x1p-22 : c.out == MW_BF16 ? 0x1p-8 : 0x1p-11;
    dim3 grid((unsigned)(w->n / 64), (unsigned)((c.period + REF_ROWS - 1) / REF_ROWS));
    linear_kernel<<<grid, 64, 0, d->stream>>>(matrix_of(w), c, key);
    return launched("reference of a linear layer");
}

#define ATTN_THREADS 128

static __device__ double block_reduce(double v, bool largest) {
    __shared__ double part[ATTN_THREADS];
    part[threadIdx.x] = v;
    __syncthreads();
    for (int step = ATTN_THREADS / 2; step; step /= 2) {
        if ((int)threadIdx.x < step) {
            double o = part[threadIdx.x + step];
            part[threadIdx.x] = largest ? fmax(part[threadIdx.x], o) : part[threadIdx.x] + o;
        }
        __syncthreads();
    }
    v = part[0];
    __syncthreads();
    return v;
}

typedef struct {
    const void *qkv, *k, *v, *out;
    int64_t ld, ld_out;
    int act, samples;
    double *score;
} attn_case;

static __device__ size_t cache_at(const mw_attn &a, const int32_t *table, int64_t pos, int64_t head) {
    return (size_t)((((int64_t)table[pos / a.block_size] * a.n_kv + head) * a.block_size + pos % a.block_size) *
                    a.head_dim);
}

/* A block: one q head of one row. */
static __global__ void attention_kernel(mw_attn a, mw_batch b, attn_case c, unsigned long long *key) {
    int head = blockIdx.x, kv = head / (a.n_q / a.n_kv), seq = 0;
    int64_t row = c.samples == 1 ? b.n_tokens - 1 : (int64_t)blockIdx.y * (b.n_tokens - 1) / (c.samples - 1);
    while (b.q_start[seq + 1] <= row) seq++;
    const int32_t *table = b.block_table + (int64_t)seq * b.block_stride;
    int64_t pos = b.ctx_len[seq] - (b.q_start[seq + 1] - row), first = 0;
    if (a.window > 0 && pos >= a.window) first = pos - a.window + 1;
    double *score = c.score + ((int64_t)blockIdx.y * a.n_q + head) * b.max_ctx, most = -INFINITY, sum = 0;
    size_t q = (size_t)(row * c.ld + a.q_off + (int64_t)head * a.head_dim);
    for (int64_t p = first + threadIdx.x; p <= pos; p += ATTN_THREADS) {
        size_t at = cache_at(a, table, p, kv);
        double s = 0;
        for (int i = 0; i < a.head_dim; i++) s += get(c.qkv, c.act, q + i) * get(c.k, a.kv_dtype, at + i);
        score[p] = s * a.scale;
        most = fmax(most, score[p]);
    }
    most = block_reduce(most, true);
    for (int64_t p = first + threadIdx.x; p <= pos; p += ATTN_THREADS) sum += score[p] = exp(score[p] - most);
    sum = block_reduce(sum, false);
    double y[2] = {0, 0}, squares = 0; /* head_dim is at most 256 */
    for (int e = 0; e < 2; e++) {
        int i = e * ATTN_THREADS + threadIdx.x;
        if (i >= a.head_dim) break;
        for (int64_t p = first; p <= pos; p++) y[e] += score[p] * get(c.v, a.kv_dtype, cache_at(a, table, p, kv) + i);
        y[e] /= sum;
        squares += y[e] * y[e];
    }
    double rms = sqrt(block_reduce(squares, false) / a.head_dim), u = a.kv_dtype == MW_BF16 ? 0x1p-8 : 0x1p-11;
    for (int e = 0; e < 2; e++) {
        int i = e * ATTN_THREADS + threadIdx.x;
        if (i >= a.head_dim) break;
        int64_t col = (int64_t)head * a.head_dim + i;
        double got = get(c.out, c.act, (size_t)(row * c.ld_out + col));
        raise_key(key, fabs(got - y[e]), u * (8 * rms + fabs(y[e])), (uint64_t)(row * a.n_q * a.head_dim + col));
    }
}

mw_status mw_cuda_probe_judge_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                                        const void *k, const void *v, const void *out, int64_t ld_out, int samples,
                                        double *score, unsigned long long *key) {
    attn_case c = {qkv, k, v, out, ld, ld_out, (int)d->act, samples, score};
    attention_kernel<<<dim3((unsigned)a->n_q, (unsigned)samples), ATTN_THREADS, 0, d->stream>>>(*a, *b, c, key);
    return launched("reference of attention");
}
