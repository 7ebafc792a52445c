/* kernels/choose.c - which backend runs. */
#include <string.h>

#include "kernels/kernels.h"

#ifndef MW_HAVE_CUDA
/* A build without the CUDA half: kernels/cuda defines this function otherwise. */
const mw_kernels *mw_kernels_cuda(void) {
    return NULL;
}
#endif

/* Whether a device answers: opens and closes one. */
static mw_status try_open(const mw_kernels *k) {
    mw_dev *d = NULL;
    mw_status st = k->open(&d, &(mw_dev_opts){.threads = 1, .act = MW_F16});
    if (st == MW_OK) k->close(d);
    return st;
}

mw_status mw_kernels_choose(const char *backend, const mw_kernels **out) {
    const mw_kernels *cuda = mw_kernels_cuda();
    if (strcmp(backend, "cpu") == 0) {
        *out = mw_kernels_cpu();
        return MW_OK;
    }
    if (strcmp(backend, "cuda") == 0) {
        if (!cuda) return MW_FAIL(MW_ERR_UNAVAIL, "backend cuda: this build has no CUDA half (MW_CUDA=ON makes it)");
        mw_status st = try_open(cuda);
        if (st == MW_OK) *out = cuda;
        return st;
    }
    if (strcmp(backend, "auto") == 0) {
        *out = cuda && try_open(cuda) == MW_OK ? cuda : mw_kernels_cpu();
        return MW_OK;
    }
    return MW_FAIL(MW_ERR_USAGE, "backend '%s' is not cpu, cuda or auto", backend);
}
