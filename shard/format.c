#include "shard/format.h"

const char *mw_part_name(mw_part p) {
    static const char *const name[MW_PARTS] = {"qweight", "scales", "zeros", "perm", "bias", "weight"};
    return name[p];
}

void mw_block_shape(mw_part part, mw_layout layout, int64_t group_size, int64_t rows, int64_t cols, int64_t *block_rows,
                    int64_t *block_cols) {
    int64_t r = 1, c = cols;
    int64_t band = group_size == 32 || group_size == 64 ? group_size : 128;
    if (part == MW_PART_QWEIGHT && layout == MW_IN_ROWS)
        r = band, c = MW_TILE_N / 2;
    else if (part == MW_PART_QWEIGHT)
        r = band / MW_TILE_K, c = 2 * MW_TILE_N;
    else if (part == MW_PART_SCALES || part == MW_PART_ZEROS)
        r = 64, c = MW_TILE_N;
    else if (part == MW_PART_WEIGHT && rows > 1)
        r = 64, c = 512;
    *block_rows = r < rows ? r : rows;
    *block_cols = c < cols ? c : cols;
}
