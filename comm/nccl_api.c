#include "comm/nccl_api.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"

#define LIBRARY "libnccl.so.2"

/* A function pointer out of dlsym's object pointer, which C has no conversion for. */
static bool look_up(void *lib, const char *name, void *slot) {
    void *p = dlsym(lib, name);
    memcpy(slot, &p, sizeof p);
    return p != NULL;
}

static bool look_up_all(void *lib, mw_nccl *n) {
    bool ok = true;
    const struct {
        const char *name;
        void *slot;
        bool optional;
    } f[] = {
        {"ncclGetVersion", &n->GetVersion, false},
        {"ncclGetUniqueId", &n->GetUniqueId, false},
        {"ncclCommInitRankConfig", &n->CommInitRankConfig, false},
        {"ncclCommGetAsyncError", &n->CommGetAsyncError, false},
        {"ncclCommFinalize", &n->CommFinalize, false},
        {"ncclCommDestroy", &n->CommDestroy, false},
        {"ncclCommAbort", &n->CommAbort, false},
        {"ncclAllReduce", &n->AllReduce, false},
        {"ncclBroadcast", &n->Broadcast, false},
        {"ncclGroupStart", &n->GroupStart, false},
        {"ncclGroupEnd", &n->GroupEnd, false},
        {"ncclGetErrorString", &n->GetErrorString, false},
        {"ncclGetLastError", &n->GetLastError, false},
        {"ncclMemAlloc", &n->MemAlloc, true},
        {"ncclMemFree", &n->MemFree, true},
    };
    for (size_t i = 0; i < sizeof f / sizeof f[0]; i++)
        if (!look_up(lib, f[i].name, f[i].slot) && !f[i].optional) ok = false;
    return ok;
}

mw_status mw_nccl_load(const mw_nccl **out) {
    static mw_nccl api;
    if (api.version) {
        *out = &api;
        return MW_OK;
    }
    mw_nccl n = {0};
    void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return MW_FAIL(MW_ERR_UNAVAIL, "several ranks on GPUs need NCCL (package libnccl2): %s", dlerror());
    if (!look_up_all(lib, &n) || n.GetVersion(&n.version) != ncclSuccess) {
        dlclose(lib);
        return MW_FAIL(MW_ERR_UNAVAIL, "%s lacks functions of NCCL %d.%d, which this program was built with", LIBRARY,
                       NCCL_MAJOR, NCCL_MINOR);
    }
    if (n.version / 10000 != NCCL_MAJOR) {
        dlclose(lib);
        return MW_FAIL(MW_ERR_UNAVAIL, "%s is NCCL %d.%d, this program was built with %d.%d", LIBRARY,
                       n.version / 10000, n.version / 100 % 100, NCCL_MAJOR, NCCL_MINOR);
    }
    api = n; /* the library stays open: its threads may outlive a group */
    *out = &api;
    return MW_OK;
}

const char *mw_comm_device_library(void) {
    static char text[96];
    const mw_nccl *n = NULL;
    if (mw_nccl_load(&n) == MW_OK && n)
        snprintf(text, sizeof text, "%d.%d.%d (built with %d.%d.%d)", n->version / 10000, n->version / 100 % 100,
                 n->version % 100, NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
    else
        snprintf(text, sizeof text, "not found (built with %d.%d.%d)", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
    return text;
}
