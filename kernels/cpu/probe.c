/* kernels/cpu/probe.c - ceilings and references on the CPU (kernels/probe.h). */
#include "kernels/probe.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "worker/base/clock.h"

#define STREAMS_MOST 8

static int64_t g_mark[2];        /* one benchmark a process */
static volatile uint64_t g_sink; /* so that sums are wanted */

static mw_status cpu_facts(mw_dev *d, mw_probe_facts *out) {
    (void)d;
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    int khz = 0;
    double mhz;
    char line[256];
    *out = (mw_probe_facts){.cache_bytes = cache > 0 ? (uint64_t)cache : 32u << 20};
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (out->clock_mhz == 0 && sscanf(line, "cpu MHz : %lf", &mhz) == 1) out->clock_mhz = (int)mhz;
    if (f) fclose(f);
    f = fopen("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "r");
    if (f && fscanf(f, "%d", &khz) == 1) out->clock_max_mhz = khz / 1000;
    if (f) fclose(f);
    return MW_OK;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

typedef struct {
    char *dst;
    const char *src;
    size_t bytes;
    int streams; /* of reading, a thread */
    mw_dtype t;
    float mean, spread;
    uint64_t seed, sum;
} job;

static void fill_run(void *arg, int thread, int n_threads) {
    job *j = arg;
    int64_t begin, end;
    mw_split((int64_t)(j->bytes / mw_dtype_size(j->t)), 4096, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        uint64_t h = mw_probe_hash(j->seed, (uint64_t)i);
        float v = j->mean + j->spread * ((float)(h >> 40) * 0x1p-23f - 1);
        switch (j->t) {
        case MW_F16: ((uint16_t *)j->dst)[i] = mw_f32_to_f16(v); break;
        case MW_BF16: ((uint16_t *)j->dst)[i] = mw_f32_to_bf16(v); break;
        case MW_F32: ((float *)j->dst)[i] = v; break;
        case MW_U8: ((uint8_t *)j->dst)[i] = (uint8_t)lrintf(v); break;
        default: ((uint32_t *)j->dst)[i] = (uint32_t)(h >> 32); break;
        }
    }
}

static mw_status cpu_fill(mw_dev *d, void *dst, mw_dtype t, size_t n, float mean, float spread, uint64_t seed) {
    if (mw_dtype_size(t) == 8) return MW_FAIL(MW_ERR_INTERNAL, "fill with %s", mw_dtype_name(t));
    job j = {.dst = dst, .bytes = n * mw_dtype_size(t), .t = t, .mean = mean, .spread = spread, .seed = seed};
    mw_pool_run(d->pool, fill_run, &j);
    return MW_OK;
}

static mw_status cpu_poison(mw_dev *d, void *dst, size_t bytes) {
    (void)d;
    memset(dst, 0xff, bytes);
    return MW_OK;
}

static void read_run(void *arg, int thread, int n_threads) {
    job *j = arg;
    int64_t begin, end;
    uint64_t s[8] = {0};
    mw_split((int64_t)j->bytes, 4096, thread, n_threads, &begin, &end);
    int64_t part = (end - begin) / j->streams / 64 * 64;
    for (int64_t i = 0; i < part; i += 64)
        for (int k = 0; k < j->streams; k++) {
            const uint64_t *p = (const uint64_t *)(j->src + begin + k * part + i);
            __builtin_prefetch((const char *)p + 1024);
            for (int e = 0; e < 8; e++) s[e] += p[e];
        }
    for (int e = 0; e < 8; e++) __atomic_fetch_add(&j->sum, s[e], __ATOMIC_RELAXED);
}

/* 1, 2, 4 and 8 sequential streams a thread. */
static mw_status cpu_read(mw_dev *d, const void *src, size_t bytes, int way) {
    job j = {.src = src, .bytes = bytes, .streams = 1 << way};
    if (j.streams > STREAMS_MOST) return MW_FAIL(MW_ERR_INTERNAL, "way %d of reading", way);
    mw_pool_run(d->pool, read_run, &j);
    g_sink = j.sum;
    return MW_OK;
}

static void copy_run(void *arg, int thread, int n_threads) {
    job *j = arg;
    int64_t begin, end;
    mw_split((int64_t)j->bytes, 4096, thread, n_threads, &begin, &end);
    if (end > begin) memcpy(j->dst + begin, j->src + begin, (size_t)(end - begin));
}

static mw_status cpu_copy(mw_dev *d, void *dst, const void *src, size_t bytes) {
    job j = {.dst = dst, .src = src, .bytes = bytes};
    mw_pool_run(d->pool, copy_run, &j);
    return MW_OK;
}

/* ---- what a matrix is ------------------------------------------------------------------------------------------- */

static double weight_at(const mw_linear *w, int64_t k, int64_t n) {
    int64_t nn = n % 64, kk = k % 16, lane = nn % 8 * 4 + kk % 8 / 2, v = (kk & 1) << 2 | (nn >> 3 & 1) << 1 | kk >> 3;
    uint32_t word = w->w4.tiles[k / 16 * 2 * w->n + n / 64 * 128 + 4 * lane + nn / 16];
    size_t g = (size_t)(k / w->w4.group * w->n + n - nn + nn % 8 * 8 + nn / 8);
    int zero = w->w4.zeros ? w->w4.zeros[g] : 8;
    return ((int)(word >> (4 * v) & 15) - zero) * (double)mw_load_f32(w->w4.scales, w->w4.scale_dtype, g);
}

typedef struct {
    const mw_linear *w;
    void *dst;
    mw_dtype t;
} dequant_job;

static void dequant_run(void *arg, int thread, int n_threads) {
    dequant_job *j = arg;
    int64_t begin, end;
    mw_split(j->w->n, 1, thread, n_threads, &begin, &end);
    for (int64_t n = begin; n < end; n++)
        for (int64_t k = 0; k < j->w->k; k++) {
            float v = (float)weight_at(j->w, k, n);
            size_t i = (size_t)(n * j->w->k + k);
            if (j->t == MW_F32)
                ((float *)j->dst)[i] = v;
            else
                ((uint16_t *)j->dst)[i] = j->t == MW_F16 ? mw_f32_to_f16(v) : mw_f32_to_bf16(v);
        }
}

static mw_status cpu_dequant(mw_dev *d, const mw_linear *w, void *dst, mw_dtype t) {
    dequant_job j = {w, dst, t};
    mw_pool_run(d->pool, dequant_run, &j);
    return MW_OK;
}

/* ---- references ------------------------------------------------------------------------------------------------- */

typedef struct {
    pthread_mutex_t lock;
    mw_verdict v;
} worst;

static void judge(worst *w, double error, double bound, int64_t row, int64_t col) {
    double ratio = error == 0 ? 0 : error / bound;
    if (isnan(ratio)) ratio = INFINITY; /* what was not written, or not finite */
    pthread_mutex_lock(&w->lock);
    if (ratio > w->v.worst) w->v = (mw_verdict){ratio, row, col};
    pthread_mutex_unlock(&w->lock);
}

#define REF_ROWS 4

typedef struct {
    const mw_linear *w;
    int64_t m, ldx, ldy, period;
    const float *x, *y;
    double u_w, u_x;
    const double *x_max; /* [period] */
    worst *worst;
} linear_job;

/* Column n of rows r0 .. r0+3 (of the period), and every row of y that equals one of them. */
static void check_column(const linear_job *j, int64_t n, int64_t r0) {
    double y[REF_ROWS] = {0}, s[REF_ROWS] = {0}, ws = 0, far = -1;
    int64_t rows = j->period - r0 < REF_ROWS ? j->period - r0 : REF_ROWS, far_row = 0;
    for (int64_t k = 0; k < j->w->k; k++) {
        double w = weight_at(j->w, k, n);
        ws += fabs(w);
        for (int64_t i = 0; i < rows; i++) {
            double p = w * (double)j->x[(r0 + i) * j->ldx + k];
            y[i] += p;
            s[i] += fabs(p);
        }
    }
    double bias = j->w->bias ? (double)j->w->bias[n] : 0;
    for (int64_t i = 0; i < rows; i++) {
        double want = y[i] + bias, bound = j->u_w * s[i] + j->u_x * j->x_max[r0 + i] * ws + 0x1p-22 * fabs(want);
        for (int64_t r = r0 + i; r < j->m; r += j->period) {
            double error = fabs((double)j->y[r * j->ldy + n] - want), ratio = error == 0 ? 0 : error / bound;
            if (ratio > far || isnan(ratio)) far = isnan(ratio) ? INFINITY : ratio, far_row = r;
        }
    }
    judge(j->worst, far, 1, far_row, n);
}

static void linear_run(void *arg, int thread, int n_threads) {
    linear_job *j = arg;
    int64_t begin, end;
    mw_split(j->w->n, 1, thread, n_threads, &begin, &end);
    for (int64_t n = begin; n < end; n++)
        for (int64_t r0 = 0; r0 < j->period; r0 += REF_ROWS) check_column(j, n, r0);
}

static mw_status cpu_check_linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, const void *y,
                                  int64_t ldy, bool y_f32, int64_t period, mw_verdict *out) {
    (void)y_f32; /* activations are f32 here */
    mw_status st = MW_OK;
    worst far = {.lock = PTHREAD_MUTEX_INITIALIZER};
    double *x_max = NULL;
    if (period > m) period = m;
    linear_job j = {w, m, ldx, ldy, period, x, y, 0x1p-20, d->int8_act ? 0x1p-8 : 0x1p-16, NULL, &far};
    MW_TRY(st, MW_CALLOC(&x_max, (size_t)period, "reference"));
    for (int64_t i = 0; i < period; i++)
        for (int64_t k = 0; k < w->k; k++) x_max[i] = fmax(x_max[i], fabs((double)j.x[i * ldx + k]));
    j.x_max = x_max;
    mw_pool_run(d->pool, linear_run, &j);
    *out = far.v;
fail:
    free(x_max);
    return st;
}

typedef struct {
    const mw_attn *a;
    const mw_batch *b;
    const float *qkv, *out;
    int64_t ld, ld_out;
    const void *k, *v;
    int samples;
    double *score; /* [threads][max_ctx] */
    worst *worst;
} attn_job;

static size_t cache_at(const mw_attn *a, const int32_t *table, int64_t pos, int64_t head) {
    int64_t block = table[pos / a->block_size];
    return (size_t)(((block * a->n_kv + head) * a->block_size + pos % a->block_size) * a->head_dim);
}

static void check_head(const attn_job *j, int64_t row, int head, double *score) {
    const mw_attn *a = j->a;
    int seq = 0, kv = head / (a->n_q / a->n_kv);
    while (j->b->q_start[seq + 1] <= row) seq++;
    const int32_t *table = j->b->block_table + (int64_t)seq * j->b->block_stride;
    int64_t pos = j->b->ctx_len[seq] - (j->b->q_start[seq + 1] - row), first = 0;
    if (a->window > 0 && pos >= a->window) first = pos - a->window + 1;
    const float *q = j->qkv + row * j->ld + a->q_off + (int64_t)head * a->head_dim;
    double most = -INFINITY, sum = 0, rms = 0, y[256];
    for (int64_t p = first; p <= pos; p++) {
        size_t at = cache_at(a, table, p, kv);
        score[p] = 0;
        for (int i = 0; i < a->head_dim; i++)
            score[p] += (double)q[i] * (double)mw_load_f32(j->k, a->kv_dtype, at + (size_t)i);
        score[p] *= (double)a->scale;
        most = fmax(most, score[p]);
    }
    memset(y, 0, sizeof y);
    for (int64_t p = first; p <= pos; p++) {
        size_t at = cache_at(a, table, p, kv);
        double e = exp(score[p] - most);
        sum += e;
        for (int i = 0; i < a->head_dim; i++) y[i] += e * (double)mw_load_f32(j->v, a->kv_dtype, at + (size_t)i);
    }
    for (int i = 0; i < a->head_dim; i++) y[i] /= sum, rms += y[i] * y[i] / a->head_dim;
    double u = a->kv_dtype == MW_BF16 ? 0x1p-8 : 0x1p-11;
    for (int i = 0; i < a->head_dim; i++) {
        int64_t col = (int64_t)head * a->head_dim + i;
        judge(j->worst, fabs((double)j->out[row * j->ld_out + col] - y[i]), u * (8 * sqrt(rms) + fabs(y[i])), row, col);
    }
}

static void attn_run(void *arg, int thread, int n_threads) {
    attn_job *j = arg;
    for (int s = thread; s < j->samples * j->a->n_q; s += n_threads) {
        int64_t i = s / j->a->n_q,
                row = j->samples == 1 ? j->b->n_tokens - 1 : i * (j->b->n_tokens - 1) / (j->samples - 1);
        check_head(j, row, s % j->a->n_q, j->score + (size_t)thread * (size_t)j->b->max_ctx);
    }
}

static mw_status cpu_check_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                                     const void *k_cache, const void *v_cache, const void *out, int64_t ld_out,
                                     int samples, mw_verdict *verdict) {
    mw_status st = MW_OK;
    worst far = {.lock = PTHREAD_MUTEX_INITIALIZER};
    if (samples > b->n_tokens) samples = b->n_tokens;
    attn_job j = {a, b, qkv, out, ld, ld_out, k_cache, v_cache, samples, NULL, &far};
    MW_TRY(st, MW_CALLOC(&j.score, (size_t)d->threads * (size_t)b->max_ctx, "reference"));
    mw_pool_run(d->pool, attn_run, &j);
    *verdict = far.v;
fail:
    free(j.score);
    return st;
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

static mw_status cpu_mark(mw_dev *d, int which) {
    (void)d;
    g_mark[which] = mw_now_ns();
    return MW_OK;
}

static mw_status cpu_elapsed(mw_dev *d, double *seconds) {
    (void)d;
    *seconds = (double)(g_mark[1] - g_mark[0]) * 1e-9;
    return MW_OK;
}

static const mw_probe k_probe = {
    .facts = cpu_facts,
    .fill = cpu_fill,
    .poison = cpu_poison,
    .read = cpu_read,
    .copy = cpu_copy,
    .dequant = cpu_dequant,
    .check_linear = cpu_check_linear,
    .check_attention = cpu_check_attention,
    .mark = cpu_mark,
    .elapsed = cpu_elapsed,
};

const mw_probe *mw_probe_cpu(void) {
    return &k_probe;
}
