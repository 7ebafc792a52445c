/* kernels/cuda/probe.c - kernels/probe.h on CUDA: the table, events, and what the driver's management library knows. */
#include "kernels/cuda/probe.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static cudaEvent_t g_mark[2]; /* one benchmark a process; made at the first use, and the process's from then on */

static mw_status cuda_mark(mw_dev *d, int which) {
    mw_status st = MW_OK;
    if (!g_mark[which]) MW_TRY(st, mw_cuda_check(cudaEventCreate(&g_mark[which]), "event"));
    MW_TRY(st, mw_cuda_check(cudaEventRecord(g_mark[which], d->stream), "event"));
fail:
    return st;
}

static mw_status cuda_elapsed(mw_dev *d, double *seconds) {
    (void)d;
    mw_status st = MW_OK;
    float ms = 0;
    MW_TRY(st, mw_cuda_check(cudaEventSynchronize(g_mark[1]), "waiting for a benchmark"));
    MW_TRY(st, mw_cuda_check(cudaEventElapsedTime(&ms, g_mark[0], g_mark[1]), "time of a benchmark"));
    *seconds = (double)ms * 1e-3;
fail:
    return st;
}

static mw_status cuda_poison(mw_dev *d, void *dst, size_t bytes) {
    return mw_cuda_check(cudaMemsetAsync(dst, 0xff, bytes, d->stream), "poisoning");
}

/* ---- facts ------------------------------------------------------------------------------------------------------ */

/* The functions of NVML (nvml.h is not part of every toolkit) that tell clocks. Numbers of its API, stable since 2012.
 */
enum { NVML_SM = 1, NVML_MEM = 2 };
typedef void *nvml_device;

static void *find(void *lib, const char *name) {
    return lib ? dlsym(lib, name) : NULL;
}

static void ask_nvml(const char *bus_id, mw_probe_facts *out) {
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(void), (*end)(void), (*by_bus)(const char *, nvml_device *), (*version)(char *, unsigned);
    int (*clock)(nvml_device, int, unsigned *), (*clock_max)(nvml_device, int, unsigned *);
    int (*power)(nvml_device, unsigned *);
    nvml_device dev = NULL;
    unsigned v = 0;
    *(void **)&init = find(lib, "nvmlInit_v2");
    *(void **)&end = find(lib, "nvmlShutdown");
    *(void **)&by_bus = find(lib, "nvmlDeviceGetHandleByPciBusId_v2");
    *(void **)&version = find(lib, "nvmlSystemGetDriverVersion");
    *(void **)&clock = find(lib, "nvmlDeviceGetClockInfo");
    *(void **)&clock_max = find(lib, "nvmlDeviceGetMaxClockInfo");
    *(void **)&power = find(lib, "nvmlDeviceGetPowerManagementLimit");
    if (init && end && by_bus && version && clock && clock_max && power && init() == 0) {
        if (version(out->driver, sizeof out->driver) != 0) out->driver[0] = 0;
        if (by_bus(bus_id, &dev) == 0) {
            if (clock(dev, NVML_SM, &v) == 0) out->clock_mhz = (int)v;
            if (clock(dev, NVML_MEM, &v) == 0) out->memory_mhz = (int)v;
            if (clock_max(dev, NVML_SM, &v) == 0) out->clock_max_mhz = (int)v;
            if (clock_max(dev, NVML_MEM, &v) == 0) out->memory_max_mhz = (int)v;
            if (power(dev, &v) == 0) out->power_limit_w = (int)(v / 1000);
        }
        end();
    }
    if (lib) dlclose(lib);
}

static mw_status cuda_facts(mw_dev *d, mw_probe_facts *out) {
    mw_status st = MW_OK;
    int l2 = 0;
    char bus_id[32] = "";
    *out = (mw_probe_facts){0};
    MW_TRY(st, mw_cuda_check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, d->ordinal), "cache size"));
    MW_TRY(st, mw_cuda_check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, d->ordinal), "bus id"));
    out->cache_bytes = l2 > 0 ? (uint64_t)l2 : 64u << 20;
    ask_nvml(bus_id, out);
fail:
    return st;
}

/* ---- references ------------------------------------------------------------------------------------------------- */

static void read_key(unsigned long long key, int64_t columns, mw_verdict *out) {
    uint32_t at = (uint32_t)key;
    *out = (mw_verdict){(double)mw_bits_f32((uint32_t)(key >> 32)), (int64_t)at / columns, (int64_t)at % columns};
}

/* The key that a judge raises: zero before, read afterwards. */
static mw_status begin_key(mw_dev *d, unsigned long long **key) {
    mw_status st = mw_cuda_check(cudaMalloc((void **)key, sizeof **key), "verdict");
    return st == MW_OK ? mw_cuda_check(cudaMemsetAsync(*key, 0, sizeof **key, d->stream), "verdict") : st;
}

static mw_status end_key(mw_dev *d, unsigned long long *key, int64_t columns, mw_verdict *out) {
    mw_status st = MW_OK;
    unsigned long long here = 0;
    MW_TRY(st, mw_cuda_check(cudaStreamSynchronize(d->stream), "reference"));
    MW_TRY(st, mw_cuda_check(cudaMemcpy(&here, key, sizeof here, cudaMemcpyDeviceToHost), "verdict"));
    read_key(here, columns, out);
fail:
    return st;
}

static mw_status cuda_check_linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, const void *y,
                                   int64_t ldy, bool y_f32, int64_t period, mw_verdict *out) {
    mw_status st = MW_OK;
    unsigned long long *key = NULL;
    MW_TRY(st, begin_key(d, &key));
    MW_TRY(st, mw_cuda_probe_judge_linear(d, w, m, x, ldx, y, ldy, y_f32, period, key));
    MW_TRY(st, end_key(d, key, w->n, out));
fail:
    cudaFree(key);
    return st;
}

static mw_status cuda_check_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                                      const void *k_cache, const void *v_cache, const void *out, int64_t ld_out,
                                      int samples, mw_verdict *verdict) {
    mw_status st = MW_OK;
    unsigned long long *key = NULL;
    double *score = NULL;
    if (samples > b->n_tokens) samples = b->n_tokens;
    size_t bytes = (size_t)samples * (size_t)a->n_q * (size_t)b->max_ctx * sizeof *score;
    MW_TRY(st, begin_key(d, &key));
    MW_TRY(st, mw_cuda_check(cudaMalloc((void **)&score, bytes), "reference of attention"));
    MW_TRY(st, mw_cuda_probe_judge_attention(d, a, b, qkv, ld, k_cache, v_cache, out, ld_out, samples, score, key));
    MW_TRY(st, end_key(d, key, (int64_t)a->n_q * a->head_dim, verdict));
fail:
    cudaFree(score);
    cudaFree(key);
    return st;
}

static const mw_probe k_probe = {
    .facts = cuda_facts,
    .fill = mw_cuda_probe_fill,
    .poison = cuda_poison,
    .read = mw_cuda_probe_read,
    .copy = mw_cuda_probe_copy,
    .dequant = mw_cuda_probe_dequant,
    .check_linear = cuda_check_linear,
    .check_attention = cuda_check_attention,
    .mark = cuda_mark,
    .elapsed = cuda_elapsed,
};

const mw_probe *mw_probe_cuda(void) {
    return &k_probe;
}
