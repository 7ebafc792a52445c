/* Collectives on device memory. The communicator is made over the host group, non-blocking, so that every wait here
 * looks at the clock, at the group and at the other processes: a peer that died leaves no rank in a kernel that never
 * ends. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/internal.h"
#include "comm/nccl_api.h"
#include "worker/base/log.h"
#include "worker/base/mem.h"

#include <cuda_runtime.h>

enum {
    LOOK_NS = 200000,   /* between looks at the group while spinning */
    SPIN_NS = 20000000, /* a decode step is over by then; a long prefill need not burn the core */
    NAP_NS = 50000,
    SUSPENDED_NS = 500000000 /* a gap this long means that this process itself was stopped: nobody else's fault */
};

/* A wait for the device. */
typedef struct {
    int64_t began, last, next; /* next: when to look at the group */
    int64_t stopped;           /* time in which this process was stopped */
} device_wait;

typedef struct {
    void *p;
    bool from_nccl;
} region;

struct mw_device_group {
    const mw_nccl *n;
    ncclComm_t nccl;
    cudaStream_t stream;
    region *region;
    int n_regions;
    bool aborted;
};

/* ---- waiting ---- */

static void abort_group(mw_device_group *g) {
    if (!g->aborted && g->nccl) g->n->CommAbort(g->nccl);
    g->aborted = true;
}

static mw_status nccl_fail(mw_comm *c, ncclResult_t r, const char *what) {
    mw_device_group *g = c->device;
    const char *more = g->nccl && !g->aborted ? g->n->GetLastError(g->nccl) : "";
    mw_status st = mw_group_raise(
        c, MW_FAIL(MW_ERR_INTERNAL, "NCCL: %s: %s%s%s", what, g->n->GetErrorString(r), *more ? ": " : "", more));
    abort_group(g);
    return st;
}

static device_wait wait_begin(void) {
    int64_t now = mw_now_ns();
    return (device_wait){.began = now, .last = now, .next = now + LOOK_NS};
}

/* What may have gone wrong elsewhere while this rank waits. MW_OK: wait on. */
static mw_status look(mw_comm *c, const device_wait *w, const char *what) {
    mw_status st = MW_OK;
    ncclResult_t r = ncclSuccess;
    mw_device_group *g = c->device;
    if (c->transport && c->transport->noticed(c)) {
        mw_error_set_text(c->text);
        st = c->failed;
    }
    for (int i = 0; i < c->size && st == MW_OK; i++)
        if (mw_watch_ended(c, i)) st = mw_group_died(c, i);
    if (st == MW_OK && g->nccl && g->n->CommGetAsyncError(g->nccl, &r) == ncclSuccess && r != ncclSuccess &&
        r != ncclInProgress)
        return nccl_fail(c, r, what);
    int64_t waited = w->last - w->began - w->stopped;
    if (st == MW_OK && waited > c->timeout_ns)
        st = mw_group_raise(c, MW_FAIL(MW_ERR_TIMEOUT, "%s did not end within %.1f s: a rank or a GPU is stuck", what,
                                       (double)waited * 1e-9));
    if (st != MW_OK) abort_group(g);
    return st;
}

/* One turn of a wait: a look at the group now and then, and a nap where the wait is a long one. */
static mw_status wait_turn(mw_comm *c, device_wait *w, const char *what) {
    const struct timespec nap = {.tv_nsec = NAP_NS};
    int64_t now = mw_now_ns();
    if (now - w->last > SUSPENDED_NS) w->stopped += now - w->last;
    w->last = now;
    if (now < w->next) return MW_OK;
    mw_status st = look(c, w, what);
    w->next = now + LOOK_NS;
    if (now - w->began > SPIN_NS)
        nanosleep(&nap, NULL);
    else
        mw_cpu_relax();
    return st;
}

/* Calls on a non-blocking communicator may still be under way when they return, also some that return ncclSuccess. */
static mw_status settle(mw_comm *c, ncclResult_t r, const char *what) {
    mw_device_group *g = c->device;
    device_wait w = wait_begin();
    if (r == ncclSuccess) r = ncclInProgress;
    while (r == ncclInProgress) {
        if (g->n->CommGetAsyncError(g->nccl, &r) != ncclSuccess) return nccl_fail(c, ncclInternalError, what);
        if (r != ncclInProgress) break;
        mw_status st = wait_turn(c, &w, what);
        if (st != MW_OK) return st;
    }
    return r == ncclSuccess ? MW_OK : nccl_fail(c, r, what);
}

mw_status mw_comm_device_wait_for(mw_comm *c, mw_status (*done)(void *arg, bool *yes), void *arg) {
    mw_device_group *g = c->device;
    mw_status st = mw_call_enter(c, MW_CALL_DEVICE, 0);
    device_wait w = wait_begin();
    bool yes = false;
    while (st == MW_OK) {
        st = done(arg, &yes);
        if (st != MW_OK) st = mw_group_raise(c, st);
        if (st == MW_OK && yes) return MW_OK;
        if (st == MW_OK) st = wait_turn(c, &w, "a step on the devices");
    }
    abort_group(g); /* else what is on the device would wait for the others for ever */
    return st;
}

static mw_status stream_done(void *arg, bool *yes) {
    cudaError_t e = cudaStreamQuery((cudaStream_t)arg);
    *yes = e == cudaSuccess;
    if (e == cudaSuccess || e == cudaErrorNotReady) return MW_OK;
    return MW_FAIL(MW_ERR_INTERNAL, "GPU: %s", cudaGetErrorString(e));
}

mw_status mw_comm_device_wait(mw_comm *c) {
    return mw_comm_device_wait_for(c, stream_done, c->device->stream);
}

/* ---- opening ---- */

/* NCCL wants a GPU of its own for every rank: found here, where the ranks can be named. */
static mw_status check_distinct(mw_comm *c, int device, const unsigned char uuid[16]) {
    mw_status st = MW_OK;
    unsigned char *all = NULL;
    MW_TRY(st, MW_CALLOC(&all, (size_t)c->size * 16, "GPU names"));
    MW_TRY(st, mw_comm_all_gather_bytes(c, uuid, 16, all));
    for (int a = 0; a < c->size; a++)
        for (int b = 0; b < a && st == MW_OK; b++)
            if (memcmp(all + 16 * a, all + 16 * b, 16) == 0)
                st =
                    MW_FAIL(MW_ERR_LIMIT,
                            "ranks %d and %d (%s) are on the same GPU (this rank's is %d): start at most as many ranks "
                            "on a host as it has GPUs",
                            b, a, c->peer[a].host, device);
fail:
    free(all);
    return st;
}

static mw_status make_communicator(mw_comm *c) {
    mw_status st = MW_OK;
    mw_device_group *g = c->device;
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    memset(&id, 0, sizeof id);
    config.blocking = 0;
    if (c->rank == 0) {
        ncclResult_t r = g->n->GetUniqueId(&id);
        if (r != ncclSuccess) st = MW_FAIL(MW_ERR_INTERNAL, "NCCL: making an id: %s", g->n->GetErrorString(r));
    }
    MW_TRY(st, mw_comm_agree(c, st));
    MW_TRY(st, mw_comm_bcast(c, &id, sizeof id, 0, false));
    st = settle(c, g->n->CommInitRankConfig(&g->nccl, c->size, id, c->rank, &config), "joining the GPUs");
fail:
    return st;
}

mw_status mw_comm_device_open(mw_comm *c, int device, const unsigned char uuid[16], void *stream) {
    mw_status st = MW_OK;
    mw_device_group *g = NULL;
    if (c->size == 1) return MW_OK;
    MW_TRY(st, check_distinct(c, device, uuid));
    st = MW_CALLOC(&g, 1, "device group");
    if (st == MW_OK) st = mw_nccl_load(&g->n);
    MW_TRY(st, mw_comm_agree(c, st));
    g->stream = (cudaStream_t)stream;
    c->device = g;
    return make_communicator(c);
fail:
    free(g);
    return st;
}

void mw_comm_device_close(mw_comm *c) {
    mw_device_group *g = c->device;
    if (!g) return;
    if (c->failed != MW_OK) abort_group(g);
    bool healthy = !g->aborted && g->nccl;
    for (int i = 0; i < g->n_regions && healthy; i++) {
        if (g->region[i].from_nccl)
            g->n->MemFree(g->region[i].p);
        else
            cudaFree(g->region[i].p);
    }
    if (healthy && settle(c, g->n->CommFinalize(g->nccl), "leaving") == MW_OK) g->n->CommDestroy(g->nccl);
    free(g->region);
    free(g);
    c->device = NULL;
}

/* ---- memory ---- */

mw_status mw_comm_device_alloc(mw_comm *c, void **out, size_t bytes, const char *what) {
    mw_device_group *g = c->device;
    region r = {.from_nccl = g->n->MemAlloc && g->n->MemFree};
    region *grown = realloc(g->region, (size_t)(g->n_regions + 1) * sizeof *grown);
    if (!grown) return MW_FAIL(MW_ERR_NOMEM, "%s", what);
    g->region = grown;
    if (r.from_nccl && g->n->MemAlloc(&r.p, bytes) != ncclSuccess) r = (region){0};
    if (!r.p) {
        cudaGetLastError(); /* NCCL's attempt */
        if (cudaMalloc(&r.p, bytes) != cudaSuccess) {
            cudaGetLastError();
            return MW_FAIL(MW_ERR_NOMEM, "%s: %zu bytes of device memory", what, bytes);
        }
    }
    g->region[g->n_regions++] = r;
    *out = r.p;
    return MW_OK;
}

/* ---- collectives ---- */

static ncclDataType_t type_of(mw_dtype t) {
    return t == MW_F16 ? ncclFloat16 : t == MW_BF16 ? ncclBfloat16 : ncclFloat32;
}

mw_status mw_comm_device_all_reduce(mw_comm *c, void *buf, size_t n_elems, mw_dtype dtype) {
    mw_device_group *g = c->device;
    return settle(c, g->n->AllReduce(buf, buf, n_elems, type_of(dtype), ncclSum, g->nccl, g->stream), "an all-reduce");
}

mw_status mw_comm_device_all_gather(mw_comm *c, const void *src, size_t bytes, void *dst) {
    mw_device_group *g = c->device;
    ncclResult_t r = g->n->GroupStart();
    for (int i = 0; i < c->size && (r == ncclSuccess || r == ncclInProgress); i++)
        r = g->n->Broadcast(src, (char *)dst + (size_t)i * bytes, bytes, ncclInt8, i, g->nccl, g->stream);
    ncclResult_t end = g->n->GroupEnd();
    return settle(c, end != ncclSuccess ? end : r, "a gather");
}

mw_status mw_comm_device_gather_cols(mw_comm *c, const void *src, size_t rows, const size_t *cols, void *blocks,
                                     void *dst, mw_dtype dtype) {
    mw_status st = MW_OK;
    mw_device_group *g = c->device;
    size_t elem = mw_dtype_size(dtype), ld = 0, at = 0;
    ncclResult_t r = g->n->GroupStart();
    for (int i = 0; i < c->size; i++) {
        if (r == ncclSuccess || r == ncclInProgress)
            r = g->n->Broadcast(src, (char *)blocks + at * rows * elem, rows * cols[i], type_of(dtype), i, g->nccl,
                                g->stream);
        at += cols[i];
    }
    ld = at;
    ncclResult_t end = g->n->GroupEnd();
    MW_TRY(st, settle(c, end != ncclSuccess ? end : r, "a gather of columns"));
    at = 0;
    for (int i = 0; i < c->size; i++) {
        cudaError_t e = cudaMemcpy2DAsync((char *)dst + at * elem, ld * elem, (char *)blocks + at * rows * elem,
                                          cols[i] * elem, cols[i] * elem, rows, cudaMemcpyDeviceToDevice, g->stream);
        if (e != cudaSuccess)
            return mw_group_raise(c, MW_FAIL(MW_ERR_INTERNAL, "GPU: gather of columns: %s", cudaGetErrorString(e)));
        at += cols[i];
    }
fail:
    return st;
}
