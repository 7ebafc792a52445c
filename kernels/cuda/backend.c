/* kernels/cuda/backend.c - the CUDA device: opening, memory, copies, and the table of functions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "worker/base/mem.h"

#define MIN_SM 80 /* bf16 matrix units, cp.async */

mw_status mw_cuda_check(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return MW_OK;
    int device = -1;
    cudaGetLastError(); /* not to be found again by a later call */
    if (cudaGetDevice(&device) != cudaSuccess) device = -1;
    mw_status st = e == cudaErrorMemoryAllocation                                             ? MW_ERR_NOMEM
                   : e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver               ? MW_ERR_UNAVAIL
                   : e == cudaErrorInvalidDevice || e == cudaErrorSystemDriverMismatch        ? MW_ERR_UNAVAIL
                   : e == cudaErrorDevicesUnavailable || e == cudaErrorNoKernelImageForDevice ? MW_ERR_UNAVAIL
                                                                                              : MW_ERR_INTERNAL;
    if (device < 0) return MW_FAIL(st, "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
    return MW_FAIL(st, "GPU %d: %s: %s (%s)", device, what, cudaGetErrorString(e), cudaGetErrorName(e));
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static const char *cuda_library(void) {
    static char text[64];
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
    cudaGetLastError();
    int n = snprintf(text, sizeof text, "%d.%d, ", CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100);
    if (driver)
        snprintf(text + n, sizeof text - (size_t)n, "driver for %d.%d", driver / 1000, driver / 10 % 100);
    else
        snprintf(text + n, sizeof text - (size_t)n, "no driver");
    return text;
}

static int cuda_count(void) {
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n > 0) return n;
    cudaGetLastError();
    const char *why = e == cudaErrorInsufficientDriver ? "no driver, or one older than this build's CUDA"
                      : e == cudaSuccess               ? "no device"
                                                       : cudaGetErrorString(e);
    (void)MW_FAIL(MW_ERR_UNAVAIL, "no NVIDIA GPU answers: %s", why);
    return 0;
}

static mw_status choose_device(int ordinal) {
    int n = cuda_count();
    if (n == 0) return MW_ERR_UNAVAIL;
    if (ordinal < 0 || ordinal >= n)
        return MW_FAIL(
            MW_ERR_LIMIT,
            "rank %d of this host needs GPU %d, and the host shows %d (CUDA_VISIBLE_DEVICES?): start at most "
            "one rank a GPU",
            ordinal, ordinal, n);
    return mw_cuda_check(cudaSetDevice(ordinal), "choosing the GPU");
}

static mw_status read_properties(mw_dev *d) {
    struct cudaDeviceProp p;
    mw_status st = mw_cuda_check(cudaGetDeviceProperties(&p, d->ordinal), "device properties");
    if (st != MW_OK) return st;
    snprintf(d->name, sizeof d->name, "%.63s", p.name);
    d->sm = 10 * p.major + p.minor;
    d->n_sm = p.multiProcessorCount;
    d->smem_max = p.sharedMemPerBlockOptin;
    memcpy(d->uuid, &p.uuid, sizeof d->uuid);
    if (d->sm < MIN_SM)
        return MW_FAIL(MW_ERR_UNAVAIL, "GPU %d: %s has compute capability %d.%d, needed is 8.0 or newer", d->ordinal,
                       d->name, p.major, p.minor);
    return mw_cuda_match_code(d);
}

static void cuda_close(mw_dev *d) {
    if (!d) return;
    cudaSetDevice(d->ordinal);
    if (d->stream) cudaStreamSynchronize(d->stream);
    mw_blas_close(d->blas);
    for (int i = 0; i < 2; i++)
        if (d->staged[i]) cudaEventDestroy(d->staged[i]);
    for (int i = 0; i < MW_FETCHES; i++)
        if (d->fetched[i]) cudaEventDestroy(d->fetched[i]);
    for (int i = 0; i < MW_STAMPS; i++)
        if (d->stamped[i]) cudaEventDestroy(d->stamped[i]);
    if (d->staging) cudaFreeHost(d->staging);
    cudaFree(d->workspace);
    cudaFree(d->counters);
    cudaFree(d->nonfinite);
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d);
}

static mw_status allocate(mw_dev *d) {
    mw_status st = MW_OK;
    MW_TRY(st, mw_cuda_check(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "stream"));
    MW_TRY(st, mw_cuda_check(cudaMalloc(&d->workspace, MW_CUDA_WORKSPACE), "workspace"));
    MW_TRY(st, mw_cuda_check(cudaMalloc((void **)&d->counters, MW_CUDA_COUNTERS * sizeof *d->counters), "counters"));
    MW_TRY(st, mw_cuda_check(cudaMalloc((void **)&d->nonfinite, sizeof *d->nonfinite), "counters"));
    MW_TRY(st, mw_cuda_check(cudaHostAlloc((void **)&d->staging, (size_t)2 * MW_CUDA_STAGING, cudaHostAllocDefault),
                             "pinned staging memory"));
    for (int i = 0; i < 2; i++)
        MW_TRY(st, mw_cuda_check(cudaEventCreateWithFlags(&d->staged[i], cudaEventDisableTiming), "event"));
    for (int i = 0; i < MW_FETCHES; i++)
        MW_TRY(st, mw_cuda_check(cudaEventCreateWithFlags(&d->fetched[i], cudaEventDisableTiming), "event"));
    MW_TRY(st, mw_cuda_check(cudaMemsetAsync(d->counters, 0, MW_CUDA_COUNTERS * sizeof *d->counters, d->stream),
                             "counters"));
    MW_TRY(st, mw_cuda_check(cudaStreamSynchronize(d->stream), "counters"));
fail:
    return st;
}

static mw_status cuda_open(mw_dev **out, const mw_dev_opts *opts) {
    mw_status st = MW_OK;
    mw_dev *d = NULL;
    if (opts->act != MW_F16 && opts->act != MW_BF16)
        return MW_FAIL(MW_ERR_INTERNAL, "activations are %s, expected f16 or bf16", mw_dtype_name(opts->act));
    MW_TRY(st, choose_device(opts->device));
    MW_TRY(st, MW_CALLOC(&d, 1, "CUDA device"));
    d->ordinal = opts->device;
    d->act = opts->act;
    MW_TRY(st, read_properties(d));
    MW_TRY(st, mw_blas_open(&d->blas));
    MW_TRY(st, allocate(d));
    *out = d;
    return MW_OK;
fail:
    cuda_close(d);
    return st;
}

static mw_status cuda_info(mw_dev *d, mw_dev_info *out) {
    size_t free_bytes = 0, total = 0;
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "device info");
    if (st == MW_OK) st = mw_cuda_check(cudaMemGetInfo(&free_bytes, &total), "free memory");
    if (st != MW_OK) return st;
    *out = (mw_dev_info){.act = d->act, .mem_total = total, .mem_free = free_bytes, .stream = d->stream};
    snprintf(out->name, sizeof out->name, "%s, sm_%d, %d SMs", d->name, d->sm, d->n_sm);
    snprintf(out->isa, sizeof out->isa, "sm_%d", d->sm);
    memcpy(out->uuid, d->uuid, sizeof out->uuid);
    return MW_OK;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static mw_status cuda_alloc(mw_dev *d, void **out, size_t bytes, const char *what) {
    void *p = NULL;
    size_t free_bytes = 0, total = 0;
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), what);
    if (st != MW_OK) return st;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        cudaMemGetInfo(&free_bytes, &total);
        return MW_FAIL(MW_ERR_NOMEM, "GPU %d: %s: %zu bytes, free are %zu of %zu", d->ordinal, what, bytes, free_bytes,
                       total);
    }
    if (e == cudaSuccess) *out = p;
    return mw_cuda_check(e, what);
}

static void cuda_free(mw_dev *d, void *p) {
    if (!p) return;
    cudaSetDevice(d->ordinal);
    cudaStreamSynchronize(d->stream); /* what was enqueued may still use it */
    cudaFree(p);
}

/* Through two pinned halves in turn, so that the copy of one and the filling of the other overlap, and the caller's
 * memory is free on return. */
static mw_status cuda_to_device(mw_dev *d, void *dst, const void *host_src, size_t bytes) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "copy to the device");
    for (size_t at = 0; at < bytes && st == MW_OK; at += MW_CUDA_STAGING) {
        size_t n = bytes - at < MW_CUDA_STAGING ? bytes - at : MW_CUDA_STAGING;
        char *half = d->staging + (size_t)d->half * MW_CUDA_STAGING;
        MW_TRY(st, mw_cuda_check(cudaEventSynchronize(d->staged[d->half]), "copy to the device"));
        memcpy(half, (const char *)host_src + at, n);
        MW_TRY(st, mw_cuda_check(cudaMemcpyAsync((char *)dst + at, half, n, cudaMemcpyHostToDevice, d->stream),
                                 "copy to the device"));
        MW_TRY(st, mw_cuda_check(cudaEventRecord(d->staged[d->half], d->stream), "copy to the device"));
        d->half ^= 1;
    }
fail:
    return st;
}

static mw_status cuda_to_host(mw_dev *d, void *host_dst, const void *src, size_t bytes) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "copy from the device");
    if (st != MW_OK) return st;
    bool small = bytes <= MW_CUDA_STAGING; /* pageable memory costs the driver a second copy and a wait of its own */
    char *half = d->staging + (size_t)d->half * MW_CUDA_STAGING;
    if (small) MW_TRY(st, mw_cuda_check(cudaEventSynchronize(d->staged[d->half]), "copy from the device"));
    MW_TRY(st, mw_cuda_check(cudaMemcpyAsync(small ? half : host_dst, src, bytes, cudaMemcpyDeviceToHost, d->stream),
                             "copy from the device"));
    MW_TRY(st, mw_cuda_check(cudaStreamSynchronize(d->stream), "copy from the device"));
    if (small && bytes) memcpy(host_dst, half, bytes);
fail:
    return st;
}

static mw_status cuda_zero(mw_dev *d, void *dst, size_t bytes) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "zeroing");
    return st == MW_OK ? mw_cuda_check(cudaMemsetAsync(dst, 0, bytes, d->stream), "zeroing") : st;
}

static mw_status cuda_sync(mw_dev *d) {
    return mw_cuda_check(cudaStreamSynchronize(d->stream), "waiting for the device");
}

static mw_status cuda_fetch(mw_dev *d, void *host_dst, const void *src, size_t bytes, int mark) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "copy from the device");
    if (st != MW_OK) return st;
    MW_TRY(st, mw_cuda_check(cudaMemcpyAsync(host_dst, src, bytes, cudaMemcpyDeviceToHost, d->stream),
                             "copy from the device"));
    MW_TRY(st, mw_cuda_check(cudaEventRecord(d->fetched[mark], d->stream), "copy from the device"));
fail:
    return st;
}

static mw_status cuda_fetched(mw_dev *d, int mark, bool *yes) {
    cudaError_t e = cudaEventQuery(d->fetched[mark]);
    *yes = e == cudaSuccess;
    return e == cudaErrorNotReady ? MW_OK : mw_cuda_check(e, "copy from the device");
}

static mw_status cuda_stamp(mw_dev *d, int i) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "timing");
    if (st == MW_OK && !d->stamped[i]) st = mw_cuda_check(cudaEventCreate(&d->stamped[i]), "timing");
    return st == MW_OK ? mw_cuda_check(cudaEventRecord(d->stamped[i], d->stream), "timing") : st;
}

static mw_status cuda_stamped_s(mw_dev *d, int from, int to, double *seconds) {
    float ms = 0;
    mw_status st = mw_cuda_check(cudaEventElapsedTime(&ms, d->stamped[from], d->stamped[to]), "timing");
    *seconds = (double)ms * 1e-3;
    return st;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static mw_status cuda_linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y, int64_t ldy,
                             bool y_f32) {
    switch (w->kind) {
    case MW_LINEAR_W4: return mw_cuda_linear_w4(d, w, m, x, ldx, y, ldy, y_f32);
    case MW_LINEAR_DENSE: return mw_cuda_linear_dense(d, w, m, x, ldx, y, ldy, y_f32);
    }
    return MW_FAIL(MW_ERR_INTERNAL, "linear of kind %d", (int)w->kind);
}

static const mw_kernels k_cuda = {
    .name = "cuda",
    .library = cuda_library,
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .to_device = cuda_to_device,
    .to_host = cuda_to_host,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .host_alloc = mw_cuda_host_alloc,
    .host_free = mw_cuda_host_free,
    .lane_open = mw_cuda_lane_open,
    .lane_close = mw_cuda_lane_close,
    .lane_wait = mw_cuda_lane_wait,
    .lane_copy = mw_cuda_lane_copy,
    .lane_tile = mw_cuda_lane_tile,
    .lane_permute = mw_cuda_lane_permute,
    .capture_begin = mw_cuda_capture_begin,
    .capture_end = mw_cuda_capture_end,
    .capture_abort = mw_cuda_capture_abort,
    .graph_launch = mw_cuda_graph_launch,
    .graph_free = mw_cuda_graph_free,
    .linear = cuda_linear,
    .fuses = mw_cuda_w4_fuses,
    .linear_fused = mw_cuda_linear_fused,
    .embed = mw_cuda_embed,
    .add_norm = mw_cuda_add_norm,
    .gather_cols = mw_cuda_gather_cols,
    .take_rows = mw_cuda_take_rows,
    .attention = mw_cuda_attention,
    .silu_mul = mw_cuda_silu_mul,
    .argmax = mw_cuda_argmax,
    .best_of = mw_cuda_best_of,
    .draw = mw_cuda_draw,
    .fetch = cuda_fetch,
    .fetched = cuda_fetched,
    .stamp = cuda_stamp,
    .stamped_s = cuda_stamped_s,
    .count_nonfinite = mw_cuda_count_nonfinite,
};

const mw_kernels *mw_kernels_cuda(void) {
    return &k_cuda;
}
