/* kernels/cuda/tensor_map.c - the driver's encoder, found at run time: programs start without a driver. */
#include "kernels/cuda/tensor_map.h"

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

mw_status mw_cuda_tensor_map(CUtensorMap *map, const char *what, CUtensorMapDataType type, int rank, const void *base,
                             const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box, bool swizzle) {
    static const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    void *f = NULL;
    enum cudaDriverEntryPointQueryResult found;
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    if (e != cudaSuccess || found != cudaDriverEntryPointSuccess || !f)
        return MW_FAIL(MW_ERR_UNAVAIL, "the driver has no cuTensorMapEncodeTiled");
    CUresult r =
        ((encode_fn)f)(map, type, (cuuint32_t)rank, (void *)base, dims, strides, box, ones,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        return MW_FAIL(MW_ERR_INTERNAL, "tensor map of %s: CUresult %d (%llu x %llu, box %u x %u)", what, (int)r,
                       (unsigned long long)dims[0], (unsigned long long)dims[1], box[0], box[1]);
    return MW_OK;
}
