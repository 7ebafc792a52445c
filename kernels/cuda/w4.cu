/* kernels/cuda/w4.cu - the int4 GEMM's host side: checks, tensor maps, the copy of awkward activations, the launch. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/w4_args.cuh"

#define ROW_BAND   8 /* tiles of rows whose weights are read while they are in L2 */
#define MAX_K      (65536 * 16)
#define COPY_ALIGN 64 /* columns of x that a stage's slab holds */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, found once; NULL where there is none. */
static encode_fn find_encode(void) {
    void *f = NULL;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found) != cudaSuccess)
        return NULL;
    return found == cudaDriverEntryPointSuccess ? (encode_fn)f : NULL;
}

static mw_status encode(CUtensorMap *map, const char *what, CUtensorMapDataType type, int rank, const void *base,
                        const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box, bool swizzle) {
    static encode_fn f; /* two threads may both look: they find the same */
    static const cuuint32_t ones[3] = {1, 1, 1};
    if (!f) f = find_encode();
    if (!f) return MW_FAIL(MW_ERR_UNAVAIL, "the driver has no cuTensorMapEncodeTiled");
    CUresult r = f(map, type, (cuuint32_t)rank, (void *)base, dims, strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   swizzle ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        return MW_FAIL(MW_ERR_INTERNAL, "tensor map of %s: CUresult %d (%llu x %llu, box %u x %u)", what, (int)r,
                       (unsigned long long)dims[0], (unsigned long long)dims[1], box[0], box[1]);
    return MW_OK;
}

static mw_status encode2(CUtensorMap *map, const char *what, CUtensorMapDataType type, size_t elem, const void *base,
                         int64_t cols, int64_t rows, int box_cols, int box_rows) {
    cuuint64_t dims[2] = {(cuuint64_t)cols, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)cols * elem};
    cuuint32_t box[2] = {(cuuint32_t)box_cols, (cuuint32_t)box_rows};
    return encode(map, what, type, 2, base, dims, strides, box, false);
}

static mw_status encode_blocks(CUtensorMap *map, const char *what, CUtensorMapDataType type, size_t elem,
                               const void *base, int per_block, int64_t blocks, int64_t rows, int box_blocks,
                               int box_rows) {
    cuuint64_t dims[3] = {(cuuint64_t)per_block, (cuuint64_t)blocks, (cuuint64_t)rows};
    cuuint64_t strides[2] = {per_block * elem, (cuuint64_t)blocks * per_block * elem};
    cuuint32_t box[3] = {(cuuint32_t)per_block, (cuuint32_t)box_blocks, (cuuint32_t)box_rows};
    return encode(map, what, type, 3, base, dims, strides, box, false);
}

/* Tiles, scales and zeros as [rows][n/64][a block of 64 columns]: a box may be wider than 256 elements. */
static mw_status encode_wide(mw_w4_args *a, const mw_w4_config *c, int64_t n) {
    int64_t blocks = n / 64;
    int box = c->bn / 64;
    mw_status st = encode_blocks(&a->map_w, "tiles", CU_TENSOR_MAP_DATA_TYPE_UINT32, 4, a->tiles, 128, blocks,
                                 a->k_tiles, box, c->kb / 16);
    if (st == MW_OK)
        st = encode_blocks(&a->map_s, "scales",
                           a->scale_size == 4 ? CU_TENSOR_MAP_DATA_TYPE_UINT32 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
                           (size_t)a->scale_size, a->scales, 64, blocks, a->groups, box, c->scale_rows);
    if (st == MW_OK && a->zeros)
        st = encode_blocks(&a->map_z, "zeros", CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, a->zeros, 64, blocks, a->groups, box,
                           c->scale_rows);
    return st;
}

static mw_status encode_all(mw_w4_args *a, const mw_w4_config *c, mw_dtype act, int64_t n) {
    /* x as [k/64][rows][64]: one copy brings whole slabs, swizzled as ldmatrix likes them. */
    cuuint64_t dims[3] = {64, (cuuint64_t)a->m, (cuuint64_t)(a->k_tiles + 3) / 4};
    cuuint64_t strides[2] = {(cuuint64_t)a->ldx * 2, 128};
    cuuint32_t box[3] = {64, (cuuint32_t)c->x_rows, (cuuint32_t)(c->kb / 64)};
    CUtensorMapDataType x_type = act == MW_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    mw_status st = encode(&a->map_x, "x", x_type, 3, a->x, dims, strides, box, true);
    if (mw_w4_is_wgmma(c->variant)) {
        box[1] = (cuuint32_t)a->x_rows_last;
        if (st == MW_OK) st = encode(&a->map_x_last, "x", x_type, 3, a->x, dims, strides, box, true);
        return st == MW_OK ? encode_wide(a, c, n) : st;
    }
    if (st == MW_OK)
        st = encode2(&a->map_w, "tiles", CU_TENSOR_MAP_DATA_TYPE_UINT32, 4, a->tiles, 2 * n, a->k_tiles, 2 * c->bn,
                     c->kb / 16);
    if (st == MW_OK)
        st = encode2(&a->map_s, "scales",
                     a->scale_size == 4 ? CU_TENSOR_MAP_DATA_TYPE_UINT32 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
                     (size_t)a->scale_size, a->scales, n, a->groups, c->bn, c->scale_rows);
    if (st == MW_OK && a->zeros)
        st =
            encode2(&a->map_z, "zeros", CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, a->zeros, n, a->groups, c->bn, c->scale_rows);
    return st;
}

static bool aligned16(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

static mw_status check(const mw_dev *d, const mw_linear *w, int64_t m, int64_t ldx, int64_t ldy) {
    const mw_w4 *q = &w->w4;
    bool shape = w->k > 0 && w->k % 16 == 0 && w->k <= MAX_K && w->n > 0 && w->n % 64 == 0 && w->n <= INT32_MAX / 8;
    bool group = q->group > 0 && q->group % 16 == 0 && w->k % q->group == 0;
    bool scale = q->scale_dtype == MW_F16 || q->scale_dtype == MW_BF16 || q->scale_dtype == MW_F32;
    if (!shape || !group || !scale || m <= 0 || m > INT32_MAX / 2 || ldx < w->k || ldy < w->n)
        return MW_FAIL(MW_ERR_INTERNAL,
                       "int4 GEMM of m %lld, k %lld, n %lld, group %lld, %s scales, ldx %lld, ldy %lld", (long long)m,
                       (long long)w->k, (long long)w->n, (long long)q->group, mw_dtype_name(q->scale_dtype),
                       (long long)ldx, (long long)ldy);
    if (!aligned16(q->tiles) || !aligned16(q->scales) || !aligned16(q->zeros))
        return MW_FAIL(MW_ERR_INTERNAL, "int4 tiles %p, scales %p, zeros %p: not aligned to 16 bytes",
                       (const void *)q->tiles, q->scales, (const void *)q->zeros);
    if (d->act != MW_F16 && d->act != MW_BF16)
        return MW_FAIL(MW_ERR_INTERNAL, "int4 GEMM with %s activations", mw_dtype_name(d->act));
    return MW_OK;
}

/* dst[m][k_pad] = x[m][0..k), zeros beyond: rows that start anywhere become rows the copy engine can read. */
static __global__ void copy_rows(uint16_t *dst, int64_t k_pad, const uint16_t *x, int64_t ldx, int64_t k) {
    mw_pdl_trigger();
    mw_pdl_wait();
    for (int64_t i = threadIdx.x; i < k_pad; i += blockDim.x)
        dst[blockIdx.x * k_pad + i] = i < k ? x[blockIdx.x * ldx + i] : (uint16_t)0;
}

static mw_w4_kernel kernel_of(mw_dtype act, const mw_w4_config *c, bool zeros) {
    if (!mw_w4_is_wgmma(c->variant))
        return act == MW_F16 ? mw_w4_kernel_f16(c->variant) : mw_w4_kernel_bf16(c->variant);
    return act == MW_F16 ? mw_w4_wgmma_f16(c->variant, c->fine, zeros) : mw_w4_wgmma_bf16(c->variant, c->fine, zeros);
}

/* Launches of w4_lean.cuh take turns: blocks of the one kind, then of the other. A row that is normed in front needs
 * the more shared memory of the first kind. */
static mw_status launch_lean(mw_dev *d, const mw_w4_config *c, const mw_w4_args *a) {
    bool same = a->scale_dtype == (int)d->act, zeros = a->zeros != NULL;
    d->w4_second = !a->norm && !d->w4_second;
    mw_w4_kernel f = d->act == MW_F16 ? mw_w4_lean_f16(zeros, same, a->m == 1, d->w4_second)
                                      : mw_w4_lean_bf16(zeros, same, a->m == 1, d->w4_second);
    int smem = d->w4_second ? c->smem : c->smem_first;
    mw_status st = mw_cuda_check(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, smem),
                                 "shared memory of the int4 GEMM");
    if (st != MW_OK) return st;
    return mw_cuda_check(mw_launch(d, f, dim3((unsigned)c->blocks), dim3((unsigned)c->threads), (size_t)smem, *a),
                         "int4 GEMM");
}

/* As mw_launch, in clusters of c->split blocks. */
static cudaError_t launch_clusters(mw_dev *d, mw_w4_kernel f, const mw_w4_config *c, const mw_w4_args *a) {
    cudaError_t e = cudaSetDevice(d->ordinal);
    if (e != cudaSuccess) return e;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)c->split, attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)c->blocks);
    cfg.blockDim = dim3((unsigned)c->threads);
    cfg.dynamicSmemBytes = (size_t)c->smem;
    cfg.stream = d->stream;
    cfg.attrs = attr;
    cfg.numAttrs = c->split > 1 ? 2 : 1;
    return cudaLaunchKernelEx(&cfg, f, *a);
}

static mw_status launch(mw_dev *d, const mw_w4_config *c, const mw_linear *w, int64_t m, const mw_fuse *fuse,
                        const void *x, int64_t ldx, void *y, int64_t ldy, bool y_f32) {
    const mw_w4 *q = &w->w4;
    mw_w4_args a = {};
    a.tiles = q->tiles, a.scales = (const char *)q->scales, a.zeros = q->zeros, a.x = (const char *)x;
    a.bias = w->bias, a.y = y, a.slots = d->counters;
    a.ldx = ldx, a.ldy = ldy;
    a.m = (int)m, a.n = (int)w->n, a.k_tiles = (int)(w->k / 16);
    a.group_tiles = (int)(q->group / 16), a.groups = (int)(w->k / q->group);
    a.group_magic = ((1ull << 32) + (uint64_t)a.group_tiles - 1) / (uint64_t)a.group_tiles;
    a.scale_dtype = q->scale_dtype, a.scale_size = (int)mw_dtype_size(q->scale_dtype);
    a.m_tiles = c->m_tiles, a.n_tiles = c->n_tiles, a.k_stages = c->k_stages, a.waves = c->waves, a.row_band = ROW_BAND;
    int64_t cut = ((int64_t)c->m_tiles * c->n_tiles - (int64_t)c->waves * c->blocks) * c->k_stages;
    a.cut = (int)(cut / c->blocks), a.cut_more = (int)(cut % c->blocks);
    if (mw_w4_is_wgmma(c->variant))
        a.x_rows_last = c->x_rows_last, a.split = c->split, a.cut = c->k_stages / c->split,
        a.cut_more = c->k_stages % c->split;
    a.kb_tiles = c->kb / 16, a.ring = c->ring, a.x_rows = c->x_rows, a.scale_rows = c->scale_rows;
    a.off_x = c->off_x, a.off_s = c->off_s, a.off_z = c->off_z, a.stage_bytes = c->stage_bytes;
    a.group_shift = c->group_shift, a.halves = c->halves;
    a.off_red = c->off_red, a.off_bars = c->smem - MW_W4_ALIGN - MW_W4_BAR_BYTES;
    if (fuse && fuse->norm)
        a.norm = fuse->norm, a.eps = fuse->eps, a.delta = (const char *)fuse->delta, a.sum = (char *)fuse->sum;
    a.y_f32 = y_f32, a.y_pairs = (uintptr_t)y % 4 == 0 && ldy % 2 == 0;
    a.y_rows16 = !y_f32 && aligned16(y) && ldy % 8 == 0;
    if (c->bulk) {
        mw_status st = encode_all(&a, c, d->act, w->n);
        if (st != MW_OK) return st;
    }
    if (c->variant == MW_W4_LEAN) return launch_lean(d, c, &a);
    mw_w4_kernel f = kernel_of(d->act, c, q->zeros != NULL);
    mw_status st = mw_cuda_check(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, c->smem),
                                 "shared memory of the int4 GEMM");
    if (st != MW_OK) return st;
    if (mw_w4_is_wgmma(c->variant)) return mw_cuda_check(launch_clusters(d, f, c, &a), "int4 GEMM");
    return mw_cuda_check(mw_launch(d, f, dim3((unsigned)c->blocks), dim3((unsigned)c->threads), (size_t)c->smem, a),
                         "int4 GEMM");
}

mw_status mw_cuda_linear_w4_with(mw_dev *d, const mw_w4_config *c, const mw_linear *w, int64_t m, const mw_fuse *f,
                                 const void *x, int64_t ldx, void *y, int64_t ldy, bool y_f32) {
    mw_status st = check(d, w, m, ldx, f && f->silu_mul ? ldy * 2 : ldy);
    if (st != MW_OK) return st;
    if (c->ring < 2 ||
        (!mw_w4_is_wgmma(c->variant) && (int64_t)c->blocks * c->bm * c->bn * 2 > (int64_t)MW_CUDA_COUNTERS))
        return MW_FAIL(MW_ERR_INTERNAL, "int4 GEMM of m %lld, k %lld, n %lld does not fit %d bytes of shared memory",
                       (long long)m, (long long)w->k, (long long)w->n, (int)d->smem_max);
    if (aligned16(x) && ldx % 8 == 0 && w->k % COPY_ALIGN == 0) return launch(d, c, w, m, f, x, ldx, y, ldy, y_f32);
    if (f) return MW_FAIL(MW_ERR_INTERNAL, "int4 GEMM with more in it: x %p, ldx %lld", x, (long long)ldx);

    int64_t k_pad = (w->k + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN, room = MW_CUDA_WORKSPACE / (k_pad * 2);
    if (m > room) room -= room % c->bm;
    for (int64_t r = 0; r < m && st == MW_OK; r += room) {
        int64_t rows = m - r < room ? m - r : room;
        mw_w4_config part = m <= room ? *c : mw_cuda_w4_layout(d, rows, w, c->variant, c->kb);
        st = mw_cuda_check(mw_launch(d, copy_rows, dim3((unsigned)rows), dim3(256), 0, (uint16_t *)d->workspace, k_pad,
                                     (const uint16_t *)x + r * ldx, ldx, w->k),
                           "copy of activations");
        if (st == MW_OK)
            st =
                launch(d, &part, w, rows, NULL, d->workspace, k_pad, (char *)y + r * ldy * (y_f32 ? 4 : 2), ldy, y_f32);
    }
    return st;
}

mw_status mw_cuda_linear_w4(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y, int64_t ldy,
                            bool y_f32) {
    if (m == 0) return MW_OK;
    mw_status st = check(d, w, m, ldx, ldy);
    if (st != MW_OK) return st;
    mw_w4_config c = mw_cuda_w4_choose(d, m, w);
    return mw_cuda_linear_w4_with(d, &c, w, m, NULL, x, ldx, y, ldy, y_f32);
}

bool mw_cuda_w4_fuses(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f) {
    return w->kind == MW_LINEAR_W4 && mw_cuda_w4_lean(d, m, w, f).ring >= 2;
}

mw_status mw_cuda_linear_fused(mw_dev *d, const mw_linear *w, int64_t m, const mw_fuse *f, const void *x, int64_t ldx,
                               void *y, int64_t ldy) {
    mw_w4_config c = mw_cuda_w4_lean(d, m, w, f);
    if (f->norm && ldx != w->k) return MW_FAIL(MW_ERR_INTERNAL, "rows to be normed are %lld apart", (long long)ldx);
    if (!aligned16(f->norm) || !aligned16(f->delta) || !aligned16(f->sum))
        return MW_FAIL(MW_ERR_INTERNAL, "norm %p, delta %p, sum %p: not aligned to 16 bytes", (const void *)f->norm,
                       f->delta, f->sum);
    return mw_cuda_linear_w4_with(d, &c, w, m, f, x, ldx, y, ldy, false);
}
