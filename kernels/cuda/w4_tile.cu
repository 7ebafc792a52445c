/* kernels/cuda/w4_tile.cu - load time: int4 rows of model.h5 to Marlin tiles, scales and zeros to their permuted order.
 * Layouts: docs/FORMAT.md. Same result as shard/pack.c. */
#include "kernels/cuda/device.cuh"

#define WARPS 8

/* Columns 8i .. 8i+7 of a block of 64, as a word; bytes and nibbles at or past column n are 0. */
static __device__ __forceinline__ uint32_t word_of_row(const uint8_t *row, int64_t col, int64_t n) {
    uint32_t w = 0;
    for (int i = 0; i < 8 && col + i < n; i++) w |= (row[(col + i) / 2] >> ((col + i) % 2 * 4) & 15u) << (4 * i);
    return w;
}

/* One warp makes the 128 words of 16 rows x 64 columns; lane l those of words 4l .. 4l+3, 16 bytes. Its nibbles are
 * column l/4 of each of the eight groups of eight columns, of four rows. */
static __global__ void tile_kernel(const uint8_t *rows, int64_t row_bytes, int64_t n, uint32_t *tiles,
                                   int64_t tile_words, int64_t n_blocks, bool vectors) {
    mw_pdl_wait();
    int lane = threadIdx.x % 32, shift = lane / 4 * 4;
    int64_t nb = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, kt = blockIdx.y;
    if (nb >= n_blocks) return;
    uint32_t out[4] = {0, 0, 0, 0};
#pragma unroll
    for (int r = 0; r < 4; r++) { /* k = 2*(lane%4) + (r&1) + 8*(r>>1), nibble v = (r>>1) + 2h + 4(r&1) */
        const uint8_t *row = rows + (kt * 16 + lane % 4 * 2 + (r & 1) + (r >> 1) * 8) * row_bytes;
        uint32_t w[8];
        if (vectors && nb * 64 + 64 <= n) {
            const uint4 *p = reinterpret_cast<const uint4 *>(row + nb * 32);
            uint4 lo = p[0], hi = p[1];
            w[0] = lo.x, w[1] = lo.y, w[2] = lo.z, w[3] = lo.w, w[4] = hi.x, w[5] = hi.y, w[6] = hi.z, w[7] = hi.w;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) w[i] = word_of_row(row, nb * 64 + i * 8, n);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) out[i / 2] |= (w[i] >> shift & 15u) << (4 * ((r >> 1) + i % 2 * 2 + (r & 1) * 4));
    }
    *reinterpret_cast<uint4 *>(tiles + kt * tile_words + nb * 128 + lane * 4) =
        make_uint4(out[0], out[1], out[2], out[3]);
}

template <typename T>
static __global__ void permute_kernel(const T *src, int64_t src_ld, T *dst, int64_t dst_ld, int64_t rows, int64_t n,
                                      int64_t n64) {
    mw_pdl_wait();
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * n64) return;
    int64_t r = i / n64, c = i % n64, from = c - c % 64 + c % 64 / 8 + c % 8 * 8;
    dst[r * dst_ld + c] = from < n ? src[r * src_ld + from] : (T)0;
}

mw_status mw_cuda_w4_tile(mw_dev *d, const uint8_t *rows, int64_t row_bytes, int64_t k, int64_t n, uint32_t *tiles,
                          int64_t tile_words) {
    int64_t n_blocks = (n + 63) / 64;
    if (k <= 0 || k % 16 || k / 16 > 65535 || n <= 0 || row_bytes < (n + 1) / 2 || tile_words < n_blocks * 128 ||
        tile_words % 4 || (uintptr_t)tiles % 16)
        return MW_FAIL(MW_ERR_INTERNAL, "tiling k %lld, n %lld, rows of %lld bytes, tile rows of %lld words",
                       (long long)k, (long long)n, (long long)row_bytes, (long long)tile_words);
    bool vectors = (uintptr_t)rows % 16 == 0 && row_bytes % 16 == 0;
    dim3 grid((unsigned)((n_blocks + WARPS - 1) / WARPS), (unsigned)(k / 16));
    return mw_cuda_check(
        mw_launch(d, tile_kernel, grid, dim3(32 * WARPS), 0, rows, row_bytes, n, tiles, tile_words, n_blocks, vectors),
        "int4 tiling");
}

template <typename T>
static cudaError_t permute(mw_dev *d, const void *src, int64_t src_ld, void *dst, int64_t dst_ld, int64_t rows,
                           int64_t n) {
    int64_t n64 = (n + 63) / 64 * 64;
    return mw_launch(d, permute_kernel<T>, dim3((unsigned)((rows * n64 + 255) / 256)), dim3(256), 0, (const T *)src,
                     src_ld, (T *)dst, dst_ld, rows, n, n64);
}

mw_status mw_cuda_w4_permute(mw_dev *d, const void *src, int64_t src_ld, void *dst, int64_t dst_ld, int64_t rows,
                             int64_t n, size_t elem_size) {
    cudaError_t e = cudaErrorInvalidValue;
    if (elem_size == 1) e = permute<uint8_t>(d, src, src_ld, dst, dst_ld, rows, n);
    if (elem_size == 2) e = permute<uint16_t>(d, src, src_ld, dst, dst_ld, rows, n);
    if (elem_size == 4) e = permute<uint32_t>(d, src, src_ld, dst, dst_ld, rows, n);
    return mw_cuda_check(e, "permuting scales");
}
