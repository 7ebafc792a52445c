/* kernels/cuda/graph.c - a step recorded once and launched as one graph; pinned memory for its inputs and results. */
#include <stdlib.h>

#include "kernels/cuda/cuda.h"
#include "worker/base/mem.h"

struct mw_graph {
    cudaGraphExec_t exec;
};

mw_status mw_cuda_capture_begin(mw_dev *d) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "graph capture");
    if (st != MW_OK) return st;
    /* Thread-local: another thread (a watchdog, a loader) may call CUDA meanwhile. */
    return mw_cuda_check(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "graph capture");
}

void mw_cuda_capture_abort(mw_dev *d) {
    cudaGraph_t graph = NULL;
    cudaStreamEndCapture(d->stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError(); /* the capture's failure has been reported where it happened */
}

mw_status mw_cuda_capture_end(mw_dev *d, mw_graph **out) {
    mw_status st = MW_OK;
    cudaGraph_t graph = NULL;
    mw_graph *g = NULL;
    MW_TRY(st, mw_cuda_check(cudaStreamEndCapture(d->stream, &graph), "end of graph capture"));
    MW_TRY(st, MW_CALLOC(&g, 1, "CUDA graph"));
    MW_TRY(st, mw_cuda_check(cudaGraphInstantiate(&g->exec, graph, 0), "graph instantiation"));
    *out = g;
    g = NULL;
fail:
    if (graph) cudaGraphDestroy(graph);
    mw_cuda_graph_free(g);
    return st;
}

mw_status mw_cuda_graph_launch(mw_dev *d, mw_graph *g) {
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "graph launch");
    return st == MW_OK ? mw_cuda_check(cudaGraphLaunch(g->exec, d->stream), "graph launch") : st;
}

void mw_cuda_graph_free(mw_graph *g) {
    if (!g) return;
    if (g->exec) cudaGraphExecDestroy(g->exec);
    free(g);
}

mw_status mw_cuda_host_alloc(mw_dev *d, void **out, size_t bytes, const char *what) {
    void *p = NULL;
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), what);
    if (st != MW_OK) return st;
    if (cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return MW_FAIL(MW_ERR_NOMEM, "%s: %zu bytes of pinned host memory", what, bytes);
    }
    *out = p;
    return MW_OK;
}

void mw_cuda_host_free(mw_dev *d, void *p) {
    if (!p) return;
    cudaSetDevice(d->ordinal);
    cudaFreeHost(p);
}
