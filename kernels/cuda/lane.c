/* kernels/cuda/lane.c - how weights come to the device: each loader thread has a stream and a few page-locked slots, so
 * that it fills one while another is copied. Raw int4 rows land in device memory of the lane and are tiled from there
 * into their place, on the lane's stream. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cuda/cuda.h"
#include "worker/base/mem.h"

struct mw_lane {
    mw_dev *d;
    mw_dev here; /* the device as seen by kernels that are launched on the lane's stream */
    int slots;
    size_t bytes; /* of a slot */
    char *host;   /* page-locked: the slots, side by side */
    bool locked;
    char *raw; /* device memory of the same size, made when first needed */
    cudaStream_t stream;
    cudaEvent_t done[MW_LANE_SLOTS]; /* what was enqueued last for the slot */
};

static void free_lane(mw_lane *l) {
    for (int i = 0; i < l->slots; i++)
        if (l->done[i]) cudaEventDestroy(l->done[i]);
    if (l->stream) cudaStreamDestroy(l->stream);
    cudaFree(l->raw);
    if (l->locked) cudaHostUnregister(l->host);
    free(l->host);
    free(l);
}

/* Page-locked memory costs by the page. Huge pages where the system gives them, touched here, by this thread, and only
 * then registered: a tenth of what cudaHostAlloc takes, which also makes the lanes' threads wait for each other. */
static mw_status lock_slots(mw_lane *l) {
    const size_t huge = 2u << 20, bytes = ((size_t)l->slots * l->bytes + huge - 1) / huge * huge;
    l->host = aligned_alloc(huge, bytes);
    if (!l->host) return MW_FAIL(MW_ERR_NOMEM, "load buffers: %zu bytes", bytes);
    madvise(l->host, bytes, MADV_HUGEPAGE); /* a hint */
    memset(l->host, 0, bytes);
    mw_status st = mw_cuda_check(cudaHostRegister(l->host, bytes, cudaHostRegisterDefault), "page-locked load buffers");
    l->locked = st == MW_OK;
    return st;
}

mw_status mw_cuda_lane_open(mw_dev *d, mw_lane **out, int slots, size_t bytes) {
    mw_status st = MW_OK;
    mw_lane *l = NULL;
    if (slots < 1 || slots > MW_LANE_SLOTS) return MW_FAIL(MW_ERR_INTERNAL, "a lane of %d slots", slots);
    MW_TRY(st, mw_cuda_check(cudaSetDevice(d->ordinal), "load lane"));
    MW_TRY(st, MW_CALLOC(&l, 1, "load lane"));
    l->d = d;
    l->slots = slots;
    l->bytes = bytes;
    MW_TRY(st, lock_slots(l));
    MW_TRY(st, mw_cuda_check(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "load stream"));
    for (int i = 0; i < slots; i++)
        MW_TRY(st, mw_cuda_check(cudaEventCreateWithFlags(&l->done[i], cudaEventDisableTiming), "load event"));
    l->here = *d;
    l->here.stream = l->stream;
    *out = l;
    return MW_OK;
fail:
    if (l) free_lane(l);
    return st;
}

mw_status mw_cuda_lane_close(mw_lane *l) {
    if (!l) return MW_OK;
    mw_status st = mw_cuda_check(cudaStreamSynchronize(l->stream), "copies of weights");
    free_lane(l);
    return st;
}

mw_status mw_cuda_lane_wait(mw_lane *l, int slot, void **host) {
    mw_status st = mw_cuda_check(cudaEventSynchronize(l->done[slot]), "copies of weights");
    if (st == MW_OK) *host = l->host + (size_t)slot * l->bytes;
    return st;
}

static mw_status check_room(const mw_lane *l, int slot, size_t bytes) {
    if (slot >= 0 && slot < l->slots && bytes <= l->bytes) return MW_OK;
    return MW_FAIL(MW_ERR_INTERNAL, "%zu bytes in slot %d of %d slots of %zu", bytes, slot, l->slots, l->bytes);
}

mw_status mw_cuda_lane_copy(mw_lane *l, int slot, void *dst, size_t pitch, size_t width, size_t rows) {
    mw_status st = MW_OK;
    const char *src = l->host + (size_t)slot * l->bytes;
    if (width == 0 || rows == 0) return MW_OK;
    MW_TRY(st, check_room(l, slot, width * rows));
    if (pitch == width)
        MW_TRY(st, mw_cuda_check(cudaMemcpyAsync(dst, src, width * rows, cudaMemcpyHostToDevice, l->stream),
                                 "copy of weights"));
    else
        MW_TRY(st,
               mw_cuda_check(cudaMemcpy2DAsync(dst, pitch, src, width, width, rows, cudaMemcpyHostToDevice, l->stream),
                             "copy of weights"));
    MW_TRY(st, mw_cuda_check(cudaEventRecord(l->done[slot], l->stream), "copy of weights"));
fail:
    return st;
}

/* The slot's first bytes, as they are, in device memory. */
static mw_status copy_raw(mw_lane *l, int slot, size_t bytes, void **out) {
    mw_status st = MW_OK;
    MW_TRY(st, check_room(l, slot, bytes));
    if (!l->raw) MW_TRY(st, mw_cuda_check(cudaMalloc((void **)&l->raw, (size_t)l->slots * l->bytes), "raw weights"));
    size_t at = (size_t)slot * l->bytes;
    MW_TRY(st, mw_cuda_check(cudaMemcpyAsync(l->raw + at, l->host + at, bytes, cudaMemcpyHostToDevice, l->stream),
                             "copy of weights"));
    *out = l->raw + at;
fail:
    return st;
}

mw_status mw_cuda_lane_tile(mw_lane *l, int slot, uint32_t *tiles, size_t tile_words, int64_t k, int64_t n) {
    mw_status st = MW_OK;
    void *rows = NULL;
    int64_t row_bytes = (n + 1) / 2;
    if (k <= 0 || n <= 0) return MW_OK;
    MW_TRY(st, copy_raw(l, slot, (size_t)(k * row_bytes), &rows));
    MW_TRY(st, mw_cuda_w4_tile(&l->here, rows, row_bytes, k, n, tiles, (int64_t)tile_words));
    MW_TRY(st, mw_cuda_check(cudaEventRecord(l->done[slot], l->stream), "tiling of weights"));
fail:
    return st;
}

mw_status mw_cuda_lane_permute(mw_lane *l, int slot, void *dst, size_t ld, int64_t rows, int64_t n, size_t elem) {
    mw_status st = MW_OK;
    void *raw = NULL;
    if (rows <= 0 || n <= 0) return MW_OK;
    MW_TRY(st, copy_raw(l, slot, (size_t)(rows * n) * elem, &raw));
    MW_TRY(st, mw_cuda_w4_permute(&l->here, raw, n, dst, (int64_t)ld, rows, n, elem));
    MW_TRY(st, mw_cuda_check(cudaEventRecord(l->done[slot], l->stream), "permuting of scales"));
fail:
    return st;
}
