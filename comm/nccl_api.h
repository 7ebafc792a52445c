/* comm/nccl_api.h - private to comm/nccl*.c: the NCCL library, opened when a group of GPUs needs it.
 *
 * Opened at run time (dlopen of libnccl.so.2), not linked: one program then runs on laptops without NCCL, on clusters
 * with their own, and says which one it found. Types come from the header that the build had. */
#ifndef MW_COMM_NCCL_API_H
#define MW_COMM_NCCL_API_H
#include <nccl.h>

#include "worker/base/status.h"

typedef struct mw_nccl {
    int version; /* of the library, as ncclGetVersion counts: 22803 */
    ncclResult_t (*GetVersion)(int *version);
    ncclResult_t (*GetUniqueId)(ncclUniqueId *id);
    ncclResult_t (*CommInitRankConfig)(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config);
    ncclResult_t (*CommGetAsyncError)(ncclComm_t comm, ncclResult_t *error);
    ncclResult_t (*CommFinalize)(ncclComm_t comm);
    ncclResult_t (*CommDestroy)(ncclComm_t comm);
    ncclResult_t (*CommAbort)(ncclComm_t comm);
    ncclResult_t (*AllReduce)(const void *src, void *dst, size_t n, ncclDataType_t type, ncclRedOp_t op,
                              ncclComm_t comm, cudaStream_t stream);
    ncclResult_t (*Broadcast)(const void *src, void *dst, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                              cudaStream_t stream);
    ncclResult_t (*GroupStart)(void);
    ncclResult_t (*GroupEnd)(void);
    const char *(*GetErrorString)(ncclResult_t r);
    const char *(*GetLastError)(ncclComm_t comm);
    /* NULL before 2.19 */
    ncclResult_t (*MemAlloc)(void **out, size_t bytes);
    ncclResult_t (*MemFree)(void *p);
} mw_nccl;

/* Opens the library once per process. MW_ERR_UNAVAIL: not there, or not the major version of the header. */
MW_MUST_CHECK mw_status mw_nccl_load(const mw_nccl **out);

#endif
