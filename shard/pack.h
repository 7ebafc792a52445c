/* shard/pack.h - logical int4 rows <-> Marlin tiles, by the closed form in kernels/kernels.h (mw_w4).
 *
 * The slicing law: a cut of the packed matrix at k % 16 == 0 and n % 64 == 0 IS the packed cut, because word and nibble
 * of (k,n) depend on k and n only through their tile. (Property test: tests/unit/test_pack.c.)
 */
#ifndef MW_SHARD_PACK_H
#define MW_SHARD_PACK_H
#include <stdint.h>

#include "shard/format.h"
MW_BEGIN_DECLS

/* rows: u8 nibble pairs, `k` rows of row_bytes bytes (>= ceil(n/2)); columns n .. round_up(n,64)-1 become nibble 0.
 * tiles: u32 [k/16] rows of tile_words words (>= 2 * round_up(n,64)). k % 16 == 0. */
void mw_pack_tiles(const uint8_t *rows, size_t row_bytes, int64_t k, int64_t n, uint32_t *tiles, size_t tile_words);

/* The inverse; writes ceil(n/2) bytes of each row. */
void mw_unpack_tiles(const uint32_t *tiles, size_t tile_words, int64_t k, int64_t n, uint8_t *rows, size_t row_bytes);

/* q[k,n] of a tile matrix, straight from the closed form. */
unsigned mw_tile_nibble(const uint32_t *tiles, size_t tile_words, int64_t k, int64_t n);

/* The 8x8 transpose inside every 64 columns: dst position 8a+b = src column a+8b. Its own inverse. n % 64 == 0;
 * elem_size 1, 2 or 4 bytes; dst != src. */
void mw_permute64(const void *src, void *dst, int64_t rows, int64_t n, size_t elem_size);

MW_END_DECLS
#endif
