/* kernels/choose.c - which backend runs. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/probe.h"

#ifndef MW_HAVE_CUDA
/* A build without the CUDA half: kernels/cuda defines these functions otherwise. */
const mw_kernels *mw_kernels_cuda(void) {
    return NULL;
}
const mw_probe *mw_probe_cuda(void) {
    return NULL;
}
#endif

const mw_probe *mw_probe_of(const mw_kernels *k) {
    return k == mw_kernels_cpu() ? mw_probe_cpu() : mw_probe_cuda();
}

mw_status mw_kernels_choose(const char *backend, const mw_kernels **out) {
    const mw_kernels *cuda = mw_kernels_cuda();
    if (strcmp(backend, "cpu") == 0) {
        *out = mw_kernels_cpu();
        return MW_OK;
    }
    if (strcmp(backend, "cuda") == 0) {
        if (!cuda) return MW_FAIL(MW_ERR_UNAVAIL, "backend cuda: this build has no CUDA half (MW_CUDA=ON makes it)");
        if (cuda->count() == 0) {
            mw_error_prefix("backend cuda");
            return MW_ERR_UNAVAIL;
        }
        *out = cuda;
        return MW_OK;
    }
    if (strcmp(backend, "auto") == 0) {
        *out = cuda && cuda->count() > 0 ? cuda : mw_kernels_cpu();
        return MW_OK;
    }
    return MW_FAIL(MW_ERR_USAGE, "backend '%s' is not cpu, cuda or auto", backend);
}
