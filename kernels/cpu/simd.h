/* kernels/cpu/simd.h - one float vector type per instruction set, for the code that vec_*.c compile once for each.
 *
 *   VL               floats in a vector: 16 (AVX-512), 8 (AVX2 + FMA + F16C), 4 (any CPU: compiler vectors)
 *   v_load_as(p, t)  VL elements of f16, bf16 or f32 memory; v_load_part: only those that `mask` names, zeros elsewhere
 *   vmask            which elements of the last vector of a row exist; heads are multiples of 8, so that only VL = 16
 *                    ever sees a partial vector
 * Where the dtype is a compile-time constant of an always-inline caller, its switch disappears.
 */
#ifndef MW_KERNELS_CPU_SIMD_H
#define MW_KERNELS_CPU_SIMD_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/inline.h"
#include "worker/base/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define VL 16
typedef __m512 vf;
typedef __mmask16 vmask;

ALWAYS_INLINE vf v_set1(float x) {
    return _mm512_set1_ps(x);
}
ALWAYS_INLINE vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
ALWAYS_INLINE void v_store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* The second operand where either is NaN. */
ALWAYS_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
ALWAYS_INLINE vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
ALWAYS_INLINE float v_sum(vf v) {
    return _mm512_reduce_add_ps(v);
}
ALWAYS_INLINE float v_top(vf v) {
    return _mm512_reduce_max_ps(v);
}
ALWAYS_INLINE vmask v_mask(int n) {
    return (vmask)((1u << n) - 1);
}
ALWAYS_INLINE vf v_load_part(const void *p, mw_dtype t, vmask mask) {
    switch (t) {
    case MW_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
    case MW_BF16:
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
    default: return _mm512_maskz_loadu_ps(mask, p);
    }
}
ALWAYS_INLINE vf v_load_as(const void *p, mw_dtype t) {
    switch (t) {
    case MW_F16: return _mm512_cvtph_ps(_mm256_loadu_si256(p));
    case MW_BF16: return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
    default: return _mm512_loadu_ps(p);
    }
}
ALWAYS_INLINE vf v_round(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x * 2^n, n whole, -126 .. 127. */
ALWAYS_INLINE vf v_scale2(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}
ALWAYS_INLINE vf v_zero_below(vf v, vf x, float limit) {
    return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_LT_OQ), _mm512_setzero_ps());
}
/* r[i][j] <-> r[j][i]. */
ALWAYS_INLINE void v_transpose(vf r[16]) {
    vf a[16];
    UNROLL_FOR (i, 8) { /* 2x2 blocks of elements */
        a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL_FOR (i, 4) { /* 4x4 blocks */
        __m512d e0 = _mm512_castps_pd(a[4 * i]), o0 = _mm512_castps_pd(a[4 * i + 1]);
        __m512d e1 = _mm512_castps_pd(a[4 * i + 2]), o1 = _mm512_castps_pd(a[4 * i + 3]);
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(e0, e1));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(e0, e1));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(o0, o1));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(o0, o1));
    }
    UNROLL_FOR (i, 4) { /* 128-bit lanes: r[4*q + i] lane l holds row group q, column 4*l + i */
        vf x0 = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), x1 = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xDD);
        vf y0 = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88), y1 = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xDD);
        a[i] = _mm512_shuffle_f32x4(x0, y0, 0x88);
        a[8 + i] = _mm512_shuffle_f32x4(x0, y0, 0xDD);
        a[4 + i] = _mm512_shuffle_f32x4(x1, y1, 0x88);
        a[12 + i] = _mm512_shuffle_f32x4(x1, y1, 0xDD);
    }
    UNROLL_FOR (i, 16) r[i] = a[i];
}
ALWAYS_INLINE __m256 v_fold(vf v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define VL 8
typedef __m256 vf;
typedef int vmask;

ALWAYS_INLINE vf v_set1(float x) {
    return _mm256_set1_ps(x);
}
ALWAYS_INLINE vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
ALWAYS_INLINE void v_store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
ALWAYS_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
ALWAYS_INLINE vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
ALWAYS_INLINE float v_sum(vf v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ALWAYS_INLINE float v_top(vf v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
ALWAYS_INLINE vmask v_mask(int n) {
    return n;
}
ALWAYS_INLINE vf v_load_as(const void *p, mw_dtype t) {
    switch (t) {
    case MW_F16: return _mm256_cvtph_ps(_mm_loadu_si128(p));
    case MW_BF16: return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
    default: return _mm256_loadu_ps(p);
    }
}
ALWAYS_INLINE vf v_load_part(const void *p, mw_dtype t, vmask mask) {
    (void)mask;
    return v_load_as(p, t);
}
ALWAYS_INLINE vf v_round(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALWAYS_INLINE vf v_scale2(vf x, vf n) {
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return x * _mm256_castsi256_ps(e);
}
ALWAYS_INLINE vf v_zero_below(vf v, vf x, float limit) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), v);
}
ALWAYS_INLINE void v_transpose(vf r[8]) {
    vf a[8];
    UNROLL_FOR (i, 4) {
        a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL_FOR (i, 2) {
        r[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xEE);
        r[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xEE);
    }
    UNROLL_FOR (i, 4) {
        vf lo = r[i], hi = r[4 + i];
        r[i] = _mm256_permute2f128_ps(lo, hi, 0x20);
        r[4 + i] = _mm256_permute2f128_ps(lo, hi, 0x31);
    }
}
ALWAYS_INLINE __m256 v_fold(vf v) {
    return v;
}

#else
#define VL 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef int vmask;

ALWAYS_INLINE vf v_set1(float x) {
    return (vf){x, x, x, x};
}
ALWAYS_INLINE vf v_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
ALWAYS_INLINE void v_store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) {
    return a * b + c;
}
ALWAYS_INLINE vf v_pick(vi mask, vf yes, vf no) {
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}
ALWAYS_INLINE vf v_max(vf a, vf b) {
    return v_pick(a > b, a, b);
}
ALWAYS_INLINE vf v_min(vf a, vf b) {
    return v_pick(a < b, a, b);
}
ALWAYS_INLINE float v_sum(vf v) {
    return (v[0] + v[2]) + (v[1] + v[3]);
}
ALWAYS_INLINE float v_top(vf v) {
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}
ALWAYS_INLINE vmask v_mask(int n) {
    return n;
}
ALWAYS_INLINE vf v_load_as(const void *p, mw_dtype t) {
    const uint16_t *h = p;
    if (t == MW_F32) return v_load(p);
    vi b = {h[0], h[1], h[2], h[3]};
    if (t == MW_BF16) return (vf)(b << 16);
    /* As mw_f16_to_f32: 2^112 moves the exponent's bias and normalises subnormals; infinity and NaN apart. */
    vi mag = b & 0x7fff, sign = (b & 0x8000) << 16;
    vf number = (vf)(mag << 13) * 0x1p112f;
    return (vf)(sign | (vi)v_pick(mag >= 0x7c00, (vf)(0x7f800000 | mag << 13), number));
}
ALWAYS_INLINE vf v_load_part(const void *p, mw_dtype t, vmask mask) {
    (void)mask;
    return v_load_as(p, t);
}
/* |x| < 2^22. */
ALWAYS_INLINE vf v_round(vf x) {
    return (x + 0x1.8p23f) - 0x1.8p23f;
}
ALWAYS_INLINE vf v_scale2(vf x, vf n) {
    vi e = (vi)(n + (0x1.8p23f + 127)) << 23; /* the low bits of n + 1.5 * 2^23 are n */
    return x * (vf)e;
}
ALWAYS_INLINE vf v_zero_below(vf v, vf x, float limit) {
    return v_pick(x < v_set1(limit), v_set1(0), v);
}
ALWAYS_INLINE void v_transpose(vf r[4]) {
    vf a = r[0], b = r[1], c = r[2], d = r[3];
    for (int i = 0; i < 4; i++) r[i] = (vf){a[i], b[i], c[i], d[i]};
}
#endif

/* out[0..3] = the sums of a, b, c, d. */
ALWAYS_INLINE void v_sum4(vf a, vf b, vf c, vf d, float *out) {
#if VL > 4
    __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(v_fold(a), v_fold(b)), _mm256_hadd_ps(v_fold(c), v_fold(d)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1)));
#else
    vf r[4] = {a, b, c, d};
    v_transpose(r);
    v_store(out, (r[0] + r[2]) + (r[1] + r[3]));
#endif
}

/* n (a multiple of 8) floats to f16 or bf16, nearest even; f16 overflow gives infinity. */
ALWAYS_INLINE void v_narrow(uint16_t *dst, const float *src, mw_dtype t, int64_t n) {
#if VL > 4
    if (t == MW_F16) {
        for (int64_t i = 0; i < n; i += 8)
            _mm_storeu_si128((__m128i *)(dst + i),
                             _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        return;
    }
#endif
    if (t == MW_F16)
        for (int64_t i = 0; i < n; i++) dst[i] = mw_f32_to_f16(src[i]);
    else
        for (int64_t i = 0; i < n; i++) dst[i] = mw_f32_to_bf16(src[i]);
}

/* 2^x, relative error below 2^-22; 0 for x < -125, 2^127 for x > 127, NaN for NaN. */
ALWAYS_INLINE vf v_exp2(vf x) {
    vf c = v_min(v_set1(127), v_max(v_set1(-126), x)), n = v_round(c), f = c - n; /* |f| <= 1/2 */
    /* The minimax polynomial of 2^f in relative error (2^-28.9), by Remez' exchange. */
    vf y = v_set1(1.53473201024883e-4f);
    y = v_fma(y, f, v_set1(1.3400154454110552e-3f));
    y = v_fma(y, f, v_set1(9.618484243439644e-3f));
    y = v_fma(y, f, v_set1(5.55032808161884e-2f));
    y = v_fma(y, f, v_set1(2.4022646920150176e-1f));
    y = v_fma(y, f, v_set1(6.931472061690362e-1f));
    y = v_fma(y, f, v_set1(1.0f));
    return v_zero_below(v_scale2(y, n), x, -125);
}
#endif
