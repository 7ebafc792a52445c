/* tests/kernels/cuda_w4_cases.cuh - random int4 layers in device memory and what they must compute, shared by the test
 * and the benchmark of the CUDA int4 GEMM. The reference multiplies in double, on the device. */
#ifndef MW_TESTS_CUDA_W4_CASES_CUH
#define MW_TESTS_CUDA_W4_CASES_CUH
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/w4.h"
extern "C" {
#include "tests/ref/ref_util.h"
}

#define CU(expr)                                                                                                       \
    do {                                                                                                               \
        cudaError_t e_ = (expr);                                                                                       \
        if (e_ != cudaSuccess) {                                                                                       \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr, cudaGetErrorString(e_));                     \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct {
    int64_t m, k, n, group, ldx, ldy, period; /* rows i and i + period of x are equal */
    int x_offset, pad;                        /* elements before the first row of x; columns whose scale is 0 */
    mw_dtype act, scale;
    bool zeros, bias, y_f32;
    uint64_t seed;
} w4_case;

typedef struct {
    w4_case c;
    mw_linear w;
    void *x_memory, *x, *y;
    /* [period][n]: y; sum |x||w| + |bias|; the same of what w4_lean.cuh adds up; what rounded weights (wgmma) may add
     * to the error */
    double *ref, *size, *wide, *loose;
    size_t y_bytes;
} w4_layer;

static __device__ __host__ inline uint64_t w4_hash(uint64_t a, uint64_t b) {
    uint64_t z = a * 0x9E3779B97F4A7C15u + b * 0xD1B54A32D192ED03u + 0x8CB92BA72F3D8DD7u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static __device__ inline float w4_uniform(uint64_t h) {
    return (float)(h >> 40) * 0x1p-24f;
}

static __device__ inline void w4_put(void *p, int dtype, size_t i, float v) {
    if (dtype == MW_F16)
        ((__half *)p)[i] = __float2half(v);
    else if (dtype == MW_BF16)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16(v);
    else
        ((float *)p)[i] = v;
}

static __device__ inline double w4_get(const void *p, int dtype, size_t i) {
    if (dtype == MW_F16) return __half2float(((const __half *)p)[i]);
    if (dtype == MW_BF16) return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    return ((const float *)p)[i];
}

static __global__ void w4_fill_words(uint32_t *p, size_t n, uint64_t seed) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        p[i] = (uint32_t)(w4_hash(seed, i) >> 32);
}

static __global__ void w4_fill_groups(void *scales, uint8_t *zeros, float *bias, w4_case c) {
    size_t count = c.k / c.group * c.n;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        uint64_t h = w4_hash(c.seed + 1, i);
        int64_t at = i % c.n, col = at - at % 64 + at % 64 / 8 + at % 8 * 8;
        float s = 0.001f + 0.02f * w4_uniform(h);
        w4_put(scales, c.scale, i, col >= c.n - c.pad ? 0 : h % 20 == 0 ? -4 * s : s);
        if (zeros) zeros[i] = (uint8_t)(h / 32 % 17);
        if (bias && i < c.n) bias[i] = 2 * w4_uniform(w4_hash(c.seed + 2, i)) - 1;
    }
}

static __global__ void w4_fill_x(void *x, w4_case c) {
    size_t count = (size_t)c.m * c.k;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        int64_t row = i / c.k, j = i % c.k, r = row % c.period;
        uint64_t h = w4_hash(c.seed + 3, r * c.k + j);
        float v = w4_uniform(h) + w4_uniform(h << 20) + w4_uniform(w4_hash(h, 1)) - 1.5f;
        float size = exp2f((float)(w4_hash(c.seed + 4, r) % 7) - 3);
        w4_put(x, c.act, row * c.ldx + j, v * size * (h % 97 == 0 ? 8 : 1));
    }
}

/* Thread: one column, eight rows. The closed form of kernels.h, word by word. */
static __global__ void w4_reference(double *ref, double *size, double *wide, double *loose, const uint32_t *tiles,
                                    const void *scales, const uint8_t *zeros, const float *bias, const void *x,
                                    w4_case c) {
    int64_t n = (int64_t)blockIdx.x * 64 + threadIdx.x, r0 = (int64_t)blockIdx.y * 8, nn = n % 64;
    int64_t at = n - nn + nn % 8 * 8 + nn / 8;
    double y[8] = {}, s[8] = {}, apart[8] = {}, square[8] = {}, part[8] = {}, parts[8] = {};
    for (int64_t k = 0; k < c.k; k++) {
        int64_t kk = k % 16, lane = nn % 8 * 4 + kk % 8 / 2, v = (kk & 1) << 2 | (nn >> 3 & 1) << 1 | kk >> 3;
        int q = tiles[k / 16 * 2 * c.n + n / 64 * 128 + 4 * lane + nn / 16] >> (4 * v) & 15;
        size_t g = k / c.group * c.n + at;
        int zero = zeros ? zeros[g] : 8;
        /* q and zero apart, each with an offset that makes them floats */
        int offset = c.act == MW_BF16 ? 128 : 64;
        double scale = w4_get(scales, c.scale, g), w = (q - zero) * scale, a = (q + zero + 2 * offset) * fabs(scale);
        for (int i = 0; i < 8; i++)
            if (r0 + i < c.period && r0 + i < c.m) {
                double p = w * w4_get(x, c.act, (r0 + i) * c.ldx + k);
                y[i] += p;
                s[i] += fabs(p);
                double magnitude = fabs(w4_get(x, c.act, (r0 + i) * c.ldx + k));
                apart[i] += a * magnitude;
                square[i] += p * p;
                part[i] += p;
                if ((k + 1) % c.group == 0) parts[i] += fabs(part[i]), part[i] = 0;
            }
    }
    double unit = c.act == MW_F16 ? 0x1p-11 : 0x1p-8;
    for (int i = 0; i < 8; i++)
        if (r0 + i < c.period && r0 + i < c.m) {
            double b = bias ? bias[n] : 0;
            ref[(r0 + i) * c.n + n] = y[i] + b;
            size[(r0 + i) * c.n + n] = s[i] + fabs(b);
            wide[(r0 + i) * c.n + n] = apart[i] + fabs(b);
            loose[(r0 + i) * c.n + n] = unit * (5 * sqrt(square[i]) + (c.scale != c.act ? parts[i] : 0));
        }
}

typedef struct {
    unsigned long long wrong, spilt, uneven; /* beyond the bound; padding of y touched; equal rows with unequal bits */
    long long row, col;                      /* one that is wrong */
    double got, want, bound, worst;          /* worst: largest error / bound */
} w4_verdict;

/* How far y may be from the exact value. Products of small integers and activations are exact; a sum of a warp's share
 * of a stage's group is at most 32 tensor-core additions of 16 products, and the shares are added in fp32: with s the
 * sum of magnitudes, (40 + k/64) * 2^-23 * s covers every order that the kernel uses. Then one rounding to y's dtype.
 * w4_lean.cuh multiplies q and the zero apart and subtracts the sums, so there the magnitudes are those of both.
 * The wgmma kernels also round each weight, and each scale that is not of x's dtype, to that dtype, unit u. Of the
 * weights' errors, at most u and on average below u / sqrt(3), every one is met by an x of its own: their sum has a
 * standard deviation below u / sqrt(3) * sqrt(sum (x w)^2), and 5 / (1 / sqrt(3)) = 8.7 of them happen once in 10^17
 * elements. A scale's error is common to its group: u times the group's sum, groups added up. */
static __host__ __device__ inline double w4_bound(const w4_case &c, double y, double s, double loose) {
    double sum = (40 + c.k / 64) * 0x1p-23 * s + loose, top = fabs(y) + sum;
    int out = c.y_f32 ? (int)MW_F32 : (int)c.act;
    return sum + (out == MW_F16 ? top * 0x1p-11 + 0x1p-25 : out == MW_BF16 ? top * 0x1p-8 : top * 0x1p-24);
}

static __global__ void w4_judge(const void *y, const double *ref, const double *size, const double *loose, w4_case c,
                                size_t bytes, int bm, w4_verdict *v) {
    int out = c.y_f32 ? (int)MW_F32 : (int)c.act, elem = c.y_f32 ? 4 : 2;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < bytes / elem;
         i += (size_t)gridDim.x * blockDim.x) {
        int64_t row = i / c.ldy, col = i % c.ldy;
        uint32_t bits = elem == 4 ? ((const uint32_t *)y)[i] : ((const uint16_t *)y)[i];
        if (row >= c.m || col >= c.n) {
            if (bits != (elem == 4 ? 0xffffffffu : 0xffffu)) atomicAdd(&v->spilt, 1ull);
            continue;
        }
        /* the first row of this tile of rows that is equal in x */
        int64_t tile = row - row % bm, same = tile + (row - tile) % c.period;
        size_t at = row % c.period * c.n + col, first = same * c.ldy + col;
        if (bits != (elem == 4 ? ((const uint32_t *)y)[first] : ((const uint16_t *)y)[first]))
            atomicAdd(&v->uneven, 1ull);
        double got = w4_get(y, out, i), bound = w4_bound(c, ref[at], size[at], loose ? loose[at] : 0),
               err = fabs(got - ref[at]);
        if (!(err <= bound)) {
            if (atomicAdd(&v->wrong, 1ull) == 0)
                v->row = row, v->col = col, v->got = got, v->want = ref[at], v->bound = bound;
        } else if (bound > 0) {
            atomicMax((unsigned long long *)&v->worst, (unsigned long long)__double_as_longlong(err / bound));
        }
    }
}

/* Weights alone, for a layer or for one of many cold copies. */
static inline mw_linear w4_make_weights(const w4_case *c) {
    mw_linear w = {};
    size_t words = (size_t)(c->k / 8 * c->n), groups = (size_t)(c->k / c->group * c->n);
    void *tiles, *scales, *zeros = NULL, *bias = NULL;
    CU(cudaMalloc(&tiles, words * 4));
    CU(cudaMalloc(&scales, groups * mw_dtype_size(c->scale)));
    if (c->zeros) CU(cudaMalloc(&zeros, groups));
    if (c->bias) CU(cudaMalloc(&bias, (size_t)c->n * 4));
    w4_fill_words<<<1024, 256>>>((uint32_t *)tiles, words, c->seed);
    w4_fill_groups<<<256, 256>>>(scales, (uint8_t *)zeros, (float *)bias, *c);
    w.kind = MW_LINEAR_W4, w.k = c->k, w.n = c->n, w.bias = (float *)bias;
    w.w4.tiles = (uint32_t *)tiles, w.w4.scales = scales, w.w4.zeros = (uint8_t *)zeros;
    w.w4.scale_dtype = c->scale, w.w4.group = c->group;
    return w;
}

static inline void w4_free_weights(mw_linear *w) {
    CU(cudaFree((void *)w->w4.tiles));
    CU(cudaFree((void *)w->w4.scales));
    CU(cudaFree((void *)w->w4.zeros));
    CU(cudaFree((void *)w->bias));
}

static inline w4_layer w4_make(const w4_case *c) {
    w4_layer l = {};
    l.c = *c;
    l.w = w4_make_weights(c);
    size_t x_bytes = (size_t)((c->m + 3) * c->ldx + c->x_offset) * 2;
    l.y_bytes = (size_t)((c->m + 2) * c->ldy) * (c->y_f32 ? 4 : 2);
    size_t refs = (size_t)((c->period < c->m ? c->period : c->m) * c->n);
    CU(cudaMalloc(&l.x_memory, x_bytes));
    CU(cudaMemset(l.x_memory, 0xff, x_bytes)); /* NaN beyond k and beyond m */
    l.x = (char *)l.x_memory + c->x_offset * 2;
    CU(cudaMalloc(&l.y, l.y_bytes));
    CU(cudaMalloc((void **)&l.ref, refs * 8));
    CU(cudaMalloc((void **)&l.size, refs * 8));
    CU(cudaMalloc((void **)&l.wide, refs * 8));
    CU(cudaMalloc((void **)&l.loose, refs * 8));
    w4_fill_x<<<1024, 256>>>(l.x, *c);
    int64_t rows = c->period < c->m ? c->period : c->m;
    w4_reference<<<dim3((unsigned)(c->n / 64), (unsigned)((rows + 7) / 8)), 64>>>(
        l.ref, l.size, l.wide, l.loose, l.w.w4.tiles, l.w.w4.scales, l.w.w4.zeros, l.w.bias, l.x, *c);
    CU(cudaGetLastError());
    CU(cudaDeviceSynchronize());
    return l;
}

static inline void w4_free(w4_layer *l) {
    w4_free_weights(&l->w);
    CU(cudaFree(l->x_memory));
    CU(cudaFree(l->y));
    CU(cudaFree(l->ref));
    CU(cudaFree(l->size));
    CU(cudaFree(l->wide));
    CU(cudaFree(l->loose));
}

/* Poison y, run, judge. */
static inline w4_verdict w4_run(mw_dev *d, const w4_layer *l, const mw_w4_config *config) {
    const w4_case *c = &l->c;
    static w4_verdict *v;
    if (!v) CU(cudaMallocManaged((void **)&v, sizeof *v));
    CU(cudaMemset(l->y, 0xff, l->y_bytes));
    CU(cudaDeviceSynchronize());
    memset(v, 0, sizeof *v);
    mw_w4_config chosen = mw_cuda_w4_choose(d, c->m, &l->w);
    if (!config) config = &chosen;
    int bm = config->bm;
    bool given = config != &chosen;
    mw_status st = given ? mw_cuda_linear_w4_with(d, config, &l->w, c->m, NULL, l->x, c->ldx, l->y, c->ldy, c->y_f32)
                         : mw_cuda_linear_w4(d, &l->w, c->m, l->x, c->ldx, l->y, c->ldy, c->y_f32);
    if (st != MW_OK) {
        printf("%s: %s\n", mw_status_name(st), mw_error_text());
        v->wrong = 1;
        return *v;
    }
    CU(cudaStreamSynchronize(d->stream));
    bool lean = config->variant == MW_W4_LEAN;
    const double *more = mw_w4_is_wgmma(config->variant) ? l->loose : NULL;
    w4_judge<<<512, 256>>>(l->y, l->ref, lean ? l->wide : l->size, more, *c, l->y_bytes, bm, v);
    CU(cudaDeviceSynchronize());
    return *v;
}

#endif
