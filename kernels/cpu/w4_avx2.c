/* kernels/cpu/w4_avx2.c - the int4 block kernel on 256-bit vectors: AVX2 and FMA.
 *
 * As w4_zmm_impl.h describes, in halves: the vector at word 16t + 8*half holds 128-bit lanes i3 = 2*half, 2*half+1.
 * Both halves add to the same sums, since the lanes of a column meet in the end anyway.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/inline.h"

#define MAX_ROWS 4
/* A value that the compiler must have in a register here: it keeps gcc from repeating loads and from reordering integer
 * sums into more temporaries than there are registers. */
#define IN_REGISTER(v) __asm__("" : "+x"(v))

/* Eight scales as f32, or zero points as i32, of one t. Stored position 8t + 2j + h is column 16j + t + 8h;
 * accumulators are ordered lane h, element j. */
ALWAYS_INLINE __m256i acc_order(void) {
    return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
}

ALWAYS_INLINE __m256 load_scales(const void *scale, mw_dtype type, int t) {
    __m256 s;
    if (type == MW_F16)
        s = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)scale + 8 * t)));
    else if (type == MW_BF16)
        s = _mm256_castsi256_ps(_mm256_slli_epi32(
            _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)((const uint16_t *)scale + 8 * t))), 16));
    else
        s = _mm256_loadu_ps((const float *)scale + 8 * t);
    return _mm256_permutevar8x32_ps(s, acc_order());
}

ALWAYS_INLINE __m256i load_zeros(const uint8_t *zero, int t) {
    __m256i z = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(zero + 8 * t)));
    return _mm256_permutevar8x32_epi32(z, acc_order());
}

ALWAYS_INLINE __m256i dot16(__m256i acc, __m256i w, __m256i x) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
    IN_REGISTER(acc);
    return acc;
}

/* Sums of one t over the block's tiles: lane h. */
ALWAYS_INLINE void sums16(const int rows, const mw_w4_block *b, int t, __m256i *out) {
    const __m256i nibble = _mm256_set1_epi32(0x000F000F);
    const uint32_t *w = b->w + 16 * t, *ahead = b->ahead + 16 * t;
    const char *x = b->act;
    __m256i s0[MAX_ROWS], s1[MAX_ROWS];
    UNROLL_FOR (i, rows) s0[i] = s1[i] = _mm256_setzero_si256();
    for (int kt = 0; kt < b->tiles; kt++) {
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        UNROLL_FOR (half, 2) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(w + 8 * half));
            IN_REGISTER(v);
            const __m256i *p = (const __m256i *)(x + 32 * half);
            __m256i n = _mm256_and_si256(v, nibble), nb = _mm256_and_si256(_mm256_srli_epi32(v, 4), nibble);
            UNROLL_FOR (i, rows) s0[i] = dot16(dot16(s0[i], n, p[4 * i]), nb, p[4 * i + 2]);
            n = _mm256_and_si256(_mm256_srli_epi32(v, 8), nibble);
            nb = _mm256_and_si256(_mm256_srli_epi32(v, 12), nibble);
            UNROLL_FOR (i, rows) s1[i] = dot16(dot16(s1[i], n, p[4 * i]), nb, p[4 * i + 2]);
        }
        w += b->w_stride;
        ahead += b->w_stride;
        x += 128 * rows;
    }
    UNROLL_FOR (i, rows)
        out[i] = _mm256_add_epi32(_mm256_permute2x128_si256(s0[i], s1[i], 0x20),
                                  _mm256_permute2x128_si256(s0[i], s1[i], 0x31));
}

/* The bits of `a` where the low nibble of each 16-bit half is, of b elsewhere; cleared above each byte's low nibble. */
ALWAYS_INLINE __m256i merge_nibbles(__m256i a, __m256i b) {
    return _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(0x000F000F)),
                           _mm256_and_si256(b, _mm256_set1_epi32(0x0F000F00)));
}

/* int16 sums of byte products: at most 16 steps of 2 * 15 * 127 would leave int16, so a half folds on its own. */
ALWAYS_INLINE void sums8(const int rows, const mw_w4_block *b, int t, __m256i *out) {
    const __m256i one = _mm256_set1_epi16(1);
    __m256i total[MAX_ROWS];
    UNROLL_FOR (half, 2) {
        const uint32_t *w = b->w + 16 * t + 8 * half, *ahead = b->ahead + 16 * t + 8 * half;
        const char *x = (const char *)b->act + 32 * half;
        __m256i s0[MAX_ROWS], s1[MAX_ROWS];
        UNROLL_FOR (i, rows) s0[i] = s1[i] = _mm256_setzero_si256();
        for (int kt = 0; kt < b->tiles; kt++) {
            if (half == 0) _mm_prefetch((const char *)ahead, _MM_HINT_T1);
            __m256i v = _mm256_loadu_si256((const __m256i *)w);
            IN_REGISTER(v);
            __m256i n0 = merge_nibbles(v, _mm256_slli_epi32(v, 4));
            __m256i n1 = merge_nibbles(_mm256_srli_epi32(v, 8), _mm256_srli_epi32(v, 4));
            UNROLL_FOR (i, rows) {
                __m256i xa = _mm256_load_si256((const __m256i *)(x + 64 * i));
                s0[i] = _mm256_add_epi16(s0[i], _mm256_maddubs_epi16(n0, xa));
                IN_REGISTER(s0[i]);
                s1[i] = _mm256_add_epi16(s1[i], _mm256_maddubs_epi16(n1, xa));
                IN_REGISTER(s1[i]);
            }
            w += b->w_stride;
            ahead += b->w_stride;
            x += 64 * rows;
        }
        UNROLL_FOR (i, rows) {
            __m256i a = _mm256_madd_epi16(s0[i], one), c = _mm256_madd_epi16(s1[i], one);
            __m256i sum =
                _mm256_add_epi32(_mm256_permute2x128_si256(a, c, 0x20), _mm256_permute2x128_si256(a, c, 0x31));
            total[i] = half ? _mm256_add_epi32(total[i], sum) : sum;
        }
    }
    UNROLL_FOR (i, rows) out[i] = total[i];
}

ALWAYS_INLINE void block_rows(const int rows, const int int8, const mw_w4_block *b) {
    for (int t = 0; t < 8; t++) {
        __m256i sums[MAX_ROWS];
        if (int8)
            sums8(rows, b, t, sums);
        else
            sums16(rows, b, t, sums);
        __m256 scale = load_scales(b->scale, b->scale_dtype, t);
        __m256i zero = b->zero ? load_zeros(b->zero, t) : _mm256_set1_epi32(8);
        UNROLL_FOR (i, rows) {
            __m256i s = _mm256_sub_epi32(sums[i], _mm256_mullo_epi32(zero, _mm256_set1_epi32(b->act_sum[i])));
            __m256 d = _mm256_mul_ps(scale, _mm256_set1_ps(b->act_scale[i]));
            float *acc = b->acc + (size_t)i * b->acc_ld + 8 * t;
            _mm256_store_ps(acc, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), d, _mm256_load_ps(acc)));
        }
    }
}

static void block16(const mw_w4_block *b) {
    switch (b->rows) {
    case 1: block_rows(1, 0, b); return;
    case 2: block_rows(2, 0, b); return;
    case 3: block_rows(3, 0, b); return;
    default: block_rows(4, 0, b); return;
    }
}

static void block8(const mw_w4_block *b) {
    switch (b->rows) {
    case 1: block_rows(1, 1, b); return;
    case 2: block_rows(2, 1, b); return;
    case 3: block_rows(3, 1, b); return;
    default: block_rows(4, 1, b); return;
    }
}

/* Largest magnitude of the block as raw bits: an ordering that puts infinity and NaN above all numbers. */
ALWAYS_INLINE int32_t max_bits(const float *x, int tiles) {
    const __m256i mag = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i m = _mm256_setzero_si256();
    for (int i = 0; i < 2 * tiles; i++)
        m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + 8 * i)), mag));
    int32_t lane[8], top = 0;
    _mm256_storeu_si256((__m256i *)lane, m);
    for (int i = 0; i < 8; i++) top = lane[i] > top ? lane[i] : top;
    return top;
}

/* Sixteen quantised values as int16 in natural order; their pairwise sums are added to *total. */
ALWAYS_INLINE __m256i quantise(const float *x, __m256 inv, bool use, __m256i *total) {
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inv));
    __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inv));
    __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    if (!use) q = _mm256_setzero_si256();
    *total = _mm256_add_epi32(*total, _mm256_madd_epi16(q, _mm256_set1_epi16(1)));
    return q;
}

ALWAYS_INLINE int32_t add_lanes(__m256i v) {
    int32_t lane[8], s = 0;
    _mm256_storeu_si256((__m256i *)lane, v);
    for (int i = 0; i < 8; i++) s += lane[i];
    return s;
}

static void prepare16(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum) {
    __m256 inv = _mm256_set1_ps(mw_w4_act_scale(max_bits(x, tiles), 32767.0f, scale));
    __m256i total = _mm256_setzero_si256();
    for (int i = 0; i < tiles; i++) {
        __m256i q = quantise(x + 16 * i, inv, *scale > 0, &total);
        __m256i *dst = (__m256i *)((char *)act + (size_t)i * stride);
        __m256i pair = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        for (int p = 0; p < 4; p++) {
            _mm256_store_si256(dst + p, _mm256_permutevar8x32_epi32(q, pair));
            pair = _mm256_add_epi32(pair, _mm256_set1_epi32(2));
        }
    }
    *sum = add_lanes(total);
}

static void prepare8(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum) {
    const __m128i quad = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    __m256 inv = _mm256_set1_ps(mw_w4_act_scale(max_bits(x, tiles), 127.0f, scale));
    __m256i total = _mm256_setzero_si256();
    for (int i = 0; i < tiles; i++) {
        __m256i q = quantise(x + 16 * i, inv, *scale > 0, &total);
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        __m256i quads = _mm256_broadcastsi128_si256(_mm_shuffle_epi8(bytes, quad));
        __m256i *dst = (__m256i *)((char *)act + (size_t)i * stride);
        _mm256_store_si256(dst, _mm256_permutevar8x32_epi32(quads, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)));
        _mm256_store_si256(dst + 1, _mm256_permutevar8x32_epi32(quads, _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3)));
    }
    *sum = add_lanes(total);
}

static void finish(const float *acc, const float *bias, float *y) {
    for (int j = 0; j < 4; j++)
        for (int h = 0; h < 2; h++)
            for (int t = 0; t < 8; t++) y[16 * j + 8 * h + t] = acc[8 * t + 4 * h + j];
    if (bias)
        for (int i = 0; i < MW_UNIT; i++) y[i] += bias[i];
}

const mw_w4_ops mw_w4_avx2 = {
    .max_rows = MAX_ROWS,
    .act_tile = {128, 64},
    .prepare = {prepare16, prepare8},
    .block = {block16, block8},
    .finish = finish,
};
