/* kernels/cuda/tensor_map.h - descriptions of arrays for the bulk copy engine (sm_90). */
#ifndef MW_KERNELS_CUDA_TENSOR_MAP_H
#define MW_KERNELS_CUDA_TENSOR_MAP_H
#include <cuda.h>

#include "kernels/cuda/cuda.h"
MW_BEGIN_DECLS

/* dims and box in elements, strides of dimensions 1 .. in bytes; elements outside read as zeros. swizzle: 16-byte
 * pieces of a 128-byte row are exchanged by the row's number, modulo 8. `what` is named when the driver refuses. */
mw_status mw_cuda_tensor_map(CUtensorMap *map, const char *what, CUtensorMapDataType type, int rank, const void *base,
                             const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box, bool swizzle);

MW_END_DECLS
#endif
