/* shard/format.h - names and numbers of the model.h5 schema, used by the writer, the reader and the tools.
 * The page for people is docs/FORMAT.md; this header and that page must agree. */
#ifndef MW_SHARD_FORMAT_H
#define MW_SHARD_FORMAT_H
#include <stdint.h>

#include "worker/base/dtype.h"
MW_BEGIN_DECLS

#define MW_FORMAT_NAME  "marlin-h5"
#define MW_FORMAT_MAJOR 1 /* a reader refuses a larger major */
#define MW_FORMAT_MINOR 0 /* a larger minor only adds what may be ignored */

/* How int4 matrices lie in the file: root attribute "layout". */
#define MW_LAYOUT_ROWS   "rows-v1"         /* qweight u8 [K, N/2]: byte (k, c) = q[k,2c] | q[k,2c+1] << 4 */
#define MW_LAYOUT_MARLIN "marlin-16x64-v1" /* qweight u32 [K/16, 2*N64], tiles of kernels/kernels.h */

typedef enum { MW_IN_ROWS, MW_IN_TILES } mw_layout;

#define MW_TILE_K 16 /* rows of a Marlin tile */
#define MW_TILE_N 64 /* columns of a Marlin tile */

static inline int64_t mw_round_up(int64_t x, int64_t unit) {
    return (x + unit - 1) / unit * unit;
}

#define MW_FILE_ALIGN 4096 /* datasets of this size or more start at a multiple of it (O_DIRECT, GPUDirect Storage) */
#define MW_NAME_MAX   96   /* longest dataset path below /weights, with the final zero */

/* Texts under /text. */
#define MW_TEXT_CONFIG            "config.json"
#define MW_TEXT_GENERATION_CONFIG "generation_config.json"
#define MW_TEXT_TOKENIZER         "tokenizer.json"
#define MW_TEXT_TOKENIZER_CONFIG  "tokenizer_config.json"
#define MW_TEXT_CHAT_TEMPLATE     "chat_template"
#define MW_TEXT_SOURCE_FILES      "source_files.json"

/* The parts of a weight that are datasets. */
typedef enum { MW_PART_QWEIGHT, MW_PART_SCALES, MW_PART_ZEROS, MW_PART_PERM, MW_PART_BIAS, MW_PART_WEIGHT } mw_part;
#define MW_PARTS 6
const char *mw_part_name(mw_part p); /* "qweight", ... */

/* Extents of a checksum block, in elements of the dataset: so chosen that the cuts of a shard plan seldom split one.
 * qweight: a quantisation group (128 rows when per-channel) x 64 columns of the matrix; scales and zeros: 64 x 64; a
 * 2-D weight: 64 x 512; everything 1-D: one block. Never larger than the dataset. */
void mw_block_shape(mw_part part, mw_layout layout, int64_t group_size, int64_t rows, int64_t cols, int64_t *block_rows,
                    int64_t *block_cols);

MW_END_DECLS
#endif
