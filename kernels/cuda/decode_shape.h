/* kernels/cuda/decode_shape.h - shared memory of a block of the decode attention: arithmetic, no device needed. */
#ifndef MW_KERNELS_CUDA_DECODE_SHAPE_H
#define MW_KERNELS_CUDA_DECODE_SHAPE_H
#include "kernels/cuda/cuda.h"
MW_BEGIN_DECLS

#define MW_DECODE_WARPS      4
#define MW_DECODE_TILE_COLS  8
#define MW_DECODE_CLUSTER    8 /* blocks of a cluster, at most */
#define MW_DECODE_BLOCKS     2 /* on a multiprocessor: more of them have less room for copies each */
#define MW_DECODE_MAX_DEPTH  6
#define MW_DECODE_RESERVED   2304 /* bytes that a block takes besides: the system's, static variables, alignment */
#define MW_DECODE_MAIL_BYTES 24   /* of a quad */

typedef struct {
    int depth;    /* tiles of a warp in shared memory or on their way there, at least 1 */
    bool overlay; /* there is no room for the warps' states besides: each lies where the warp's tiles were */
    int smem;     /* dynamic shared memory, bytes */
} mw_decode_shape;

/* Bytes in front of the mail and the tiles. hdp: 64, 128 or 256; cols: columns of a state. */
int mw_cuda_decode_fixed(int hdp, int cols, bool overlay);
/* tiles: that a warp has to do; blocks: of the launch. Uses d->n_sm and smem_max. */
mw_decode_shape mw_cuda_decode_shape(const mw_dev *d, int hdp, int cols, int cluster, int tiles, int64_t blocks);

MW_END_DECLS
#endif
