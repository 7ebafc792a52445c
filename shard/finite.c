/* NaN and infinity have all exponent bits set: one mask decides, and a whole row is decided without a branch. */
#include <math.h>

#include "shard/quant.h"

static bool any_bad16(const uint16_t *p, int64_t n, uint16_t mask) {
    unsigned bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (p[i] & mask) == mask;
    return bad != 0;
}

static bool any_bad32(const uint32_t *p, int64_t n) {
    unsigned bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (p[i] & 0x7f800000u) == 0x7f800000u;
    return bad != 0;
}

mw_status mw_check_finite(const char *tensor, const void *p, mw_dtype t, int64_t row0, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r++) {
        const void *row = (const uint8_t *)p + (size_t)(r * cols) * mw_dtype_size(t);
        bool bad = t == MW_F32 ? any_bad32(row, cols) : any_bad16(row, cols, t == MW_F16 ? 0x7c00 : 0x7f80);
        if (!bad) continue;
        for (int64_t c = 0; c < cols; c++) {
            float x = mw_load_f32(row, t, (size_t)c);
            if (!isfinite(x))
                return MW_FAIL(MW_ERR_CORRUPT, "tensor '%s': %s at [%lld, %lld]", tensor, isnan(x) ? "NaN" : "infinity",
                               (long long)(row0 + r), (long long)c);
        }
    }
    return MW_OK;
}
