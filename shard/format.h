/* shard/format.h - names and numbers of the model.h5 schema, used by the writer, the reader and the tools.
 * The page for people is docs/FORMAT.md; this header and that page must agree. */
#ifndef MW_SHARD_FORMAT_H
#define MW_SHARD_FORMAT_H
#include <stdint.h>

#include "worker/base/dtype.h"

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

#endif
