#include <pthread.h>
#include <stdio.h>

#include "comm/comm.h"
#include "kernels/kernels.h"
#include "shard/checkpoint.h"
#include "worker/engine.h"

static char g_text[768];

static void make_text(void) {
    const mw_kernels *cuda = mw_kernels_cuda();
    int n = snprintf(g_text, sizeof g_text,
                     "marlin-worker %s (%s)\n"
                     "backends  cpu%s\n"
                     "MPI       %s\n"
                     "HDF5      %s",
                     MW_VERSION, MW_GIT_ID, cuda ? ", cuda" : "", mw_comm_library(), mw_ckpt_library());
    if (cuda)
        snprintf(g_text + n, sizeof g_text - (size_t)n,
                 "\nCUDA      %s\n"
                 "NCCL      %s",
                 cuda->library(), mw_comm_device_library());
}

const char *mw_engine_version(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_text);
    return g_text;
}
