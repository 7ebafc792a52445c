/* worker/base/dtype.h - element types and their scalar conversions.
 * f16 is IEEE binary16, bf16 the upper half of binary32; both little-endian in memory and in files. */
#ifndef MW_BASE_DTYPE_H
#define MW_BASE_DTYPE_H
#include <stdint.h>
#include <string.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef enum { MW_F16, MW_BF16, MW_F32, MW_I32, MW_U32, MW_U8, MW_U64, MW_DTYPE_COUNT } mw_dtype;

static inline size_t mw_dtype_size(mw_dtype t) {
    static const uint8_t size[MW_DTYPE_COUNT] = {2, 2, 4, 4, 4, 1, 8};
    return size[t];
}
static inline const char *mw_dtype_name(mw_dtype t) {
    static const char *const name[MW_DTYPE_COUNT] = {"f16", "bf16", "f32", "i32", "u32", "u8", "u64"};
    return (unsigned)t < MW_DTYPE_COUNT ? name[t] : "?";
}

static inline float mw_bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t mw_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float mw_bf16_to_f32(uint16_t h) {
    return mw_bits_f32((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t mw_f32_to_bf16(float f) {
    uint32_t u = mw_f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static inline float mw_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7fff;
    if (mag >= 0x7c00) return mw_bits_f32(sign | 0x7f800000 | (mag & 0x3ff) << 13); /* infinity, NaN */
    /* 2^112 shifts the exponent bias from 15 to 127 and normalises subnormals on the way. */
    return mw_bits_f32(sign | mw_f32_bits(mw_bits_f32(mag << 13) * 0x1p112f));
}

/* Round to nearest even; overflow gives infinity, NaN stays NaN. */
static inline uint16_t mw_f32_to_f16(float f) {
    uint32_t u = mw_f32_bits(f), sign = (u >> 16) & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (mag >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (mag < 0x38800000) {                                  /* result is subnormal: let the adder round */
        uint32_t r = mw_f32_bits(mw_bits_f32(mag) + 0.5f);   /* ulp of 0.5 is 2^-24, the f16 subnormal step */
        return (uint16_t)(sign | (r - 0x3f000000));
    }
    uint32_t r = mag + 0xfff + ((mag >> 13) & 1);
    return (uint16_t)(sign | ((r - 0x38000000) >> 13));
}

/* One element of f16, bf16 or f32 memory as float. Other dtypes give 0; callers check the dtype where it enters. */
static inline float mw_load_f32(const void *base, mw_dtype t, size_t i) {
    switch (t) {
    case MW_F16: return mw_f16_to_f32(((const uint16_t *)base)[i]);
    case MW_BF16: return mw_bf16_to_f32(((const uint16_t *)base)[i]);
    case MW_F32: return ((const float *)base)[i];
    default: return 0;
    }
}

MW_END_DECLS
#endif
