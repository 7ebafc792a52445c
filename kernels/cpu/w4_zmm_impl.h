/* kernels/cpu/w4_zmm_impl.h - the int4 block kernel on 512-bit vectors; included once per instruction set.
 *
 * The 64 bytes at word 16t of a unit's tile (t = 0..7) are sixteen words: element j of 128-bit lane i3 is the word of
 * lane 4t+i3 and sub-tile j in the layout of kernels.h, and holds column n = 16j+t ("h = 0") and n+8 ("h = 1"), rows
 * k = 2*i3, 2*i3+1 and those plus 8. So, with 16-bit activations,
 *       w       & 0x000F000F   is the int16 pair (2*i3, 2*i3+1) of column n
 *       (w>>4)  & 0x000F000F   the pair 8 rows below, (w>>8), (w>>12): the same of column n+8
 * and one multiply-add of pairs against a vector whose lane i3 repeats (x[2*i3], x[2*i3+1]) serves four columns. With
 * 8-bit activations the low and high nibbles of a column interleave to bytes k = 2*i3, 2*i3+8, 2*i3+1, 2*i3+9.
 * The four lanes are four partial sums of the same columns; they meet once a block, by lane transposes.
 *
 * The includer defines MW_W4_OPS (the table's name), and for its instructions
 *   DOT16(acc, w, x)  acc += pairs of int16, to int32
 *   DOT8(acc, w, x)   acc += unsigned bytes of w times signed bytes of x; may keep int16 sums for 8 steps,
 *   FOLD8(acc)        which this turns to int32.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/inline.h"

#define MAX_ROWS 8
/* Loaded once, used several times: without this gcc folds the load into every use and the load port is the limit. */
#define IN_REGISTER(v) __asm__("" : "+v"(v))

/* Sixteen of the unit's scales as f32, or zero points as i32, for t = 2r and 2r+1. Stored position 8t + 2j + h is
 * column 16j + t + 8h; accumulators are ordered lane = 2 * (t & 1) + h, element j. */
ALWAYS_INLINE __m512i acc_order(void) {
    return _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
}

ALWAYS_INLINE __m512 load_scales(const void *scale, mw_dtype t, int r) {
    __m512 s;
    if (t == MW_F16)
        s = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)scale + 16 * r)));
    else if (t == MW_BF16)
        s = _mm512_castsi512_ps(_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)((const uint16_t *)scale + 16 * r))), 16));
    else
        s = _mm512_loadu_ps((const float *)scale + 16 * r);
    return _mm512_permutexvar_ps(acc_order(), s);
}

ALWAYS_INLINE __m512i load_zeros(const uint8_t *zero, int r) {
    __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(zero + 16 * r)));
    return _mm512_permutexvar_epi32(acc_order(), z);
}

/* Sums of one t over the block's tiles: lanes (a0+a2, a1+a3, b0+b2, b1+b3) with a: h = 0, b: h = 1. */
ALWAYS_INLINE void sums16(const int rows, const mw_w4_block *b, int t, __m512i *out) {
    const __m512i nibble = _mm512_set1_epi32(0x000F000F);
    const uint32_t *w = b->w + 16 * t, *ahead = b->ahead + 16 * t;
    const char *x = b->act;
    __m512i s0[MAX_ROWS], s1[MAX_ROWS];
    UNROLL_FOR (i, rows) s0[i] = s1[i] = _mm512_setzero_si512();
    for (int kt = 0; kt < b->tiles; kt++) {
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        __m512i v = _mm512_loadu_si512(w);
        IN_REGISTER(v);
        __m512i n0 = _mm512_and_si512(v, nibble), n0b = _mm512_and_si512(_mm512_srli_epi32(v, 4), nibble);
        __m512i n1 = _mm512_and_si512(_mm512_srli_epi32(v, 8), nibble);
        __m512i n1b = _mm512_and_si512(_mm512_srli_epi32(v, 12), nibble);
        UNROLL_FOR (i, rows) {
            __m512i xa = _mm512_load_si512(x + 128 * i), xb = _mm512_load_si512(x + 128 * i + 64);
            IN_REGISTER(xa);
            IN_REGISTER(xb);
            s0[i] = DOT16(s0[i], n0, xa);
            s1[i] = DOT16(s1[i], n1, xa);
            s0[i] = DOT16(s0[i], n0b, xb);
            s1[i] = DOT16(s1[i], n1b, xb);
        }
        w += b->w_stride;
        ahead += b->w_stride;
        x += 128 * rows;
    }
    UNROLL_FOR (i, rows)
        out[i] =
            _mm512_add_epi32(_mm512_mask_blend_epi64(0xF0, s0[i], s1[i]), _mm512_shuffle_i64x2(s0[i], s1[i], 0x4E));
}

ALWAYS_INLINE void sums8(const int rows, const mw_w4_block *b, int t, __m512i *out) {
    const __m512i select = _mm512_set1_epi32(0x000F000F), nibble = _mm512_set1_epi8(0x0F);
    const uint32_t *w = b->w + 16 * t, *ahead = b->ahead + 16 * t;
    const char *x = b->act;
    __m512i s0[MAX_ROWS], s1[MAX_ROWS];
    UNROLL_FOR (i, rows) s0[i] = s1[i] = _mm512_setzero_si512();
    for (int kt = 0; kt < b->tiles; kt++) {
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        __m512i v = _mm512_loadu_si512(w);
        IN_REGISTER(v);
        /* 0xCA: bits of the first where `select` is 1, of the second elsewhere */
        __m512i n0 = _mm512_ternarylogic_epi32(select, v, _mm512_slli_epi32(v, 4), 0xCA);
        __m512i n1 = _mm512_ternarylogic_epi32(select, _mm512_srli_epi32(v, 8), _mm512_srli_epi32(v, 4), 0xCA);
        n0 = _mm512_and_si512(n0, nibble);
        n1 = _mm512_and_si512(n1, nibble);
        UNROLL_FOR (i, rows) {
            __m512i xa = _mm512_load_si512(x + 64 * i);
            IN_REGISTER(xa);
            s0[i] = DOT8(s0[i], n0, xa);
            s1[i] = DOT8(s1[i], n1, xa);
        }
        w += b->w_stride;
        ahead += b->w_stride;
        x += 64 * rows;
    }
    UNROLL_FOR (i, rows) {
        __m512i a = FOLD8(s0[i]), c = FOLD8(s1[i]);
        out[i] = _mm512_add_epi32(_mm512_mask_blend_epi64(0xF0, a, c), _mm512_shuffle_i64x2(a, c, 0x4E));
    }
}

/* One row: as sums16 for t = 2r and 2r+1 at once, so that an x is loaded once for both, with a chain of sums for every
 * nibble so that none waits for the one before it, and without shifts where a sum can be shifted instead. */
ALWAYS_INLINE void sums16_one(const mw_w4_block *b, int r, __m512i *even, __m512i *odd) {
    const __m512i low = _mm512_set1_epi32(0x000F000F), high = _mm512_set1_epi32(0x00F000F0);
    const uint32_t *w = b->w + 32 * r, *ahead = b->ahead + 32 * r;
    const char *x = b->act;
    __m512i s[2][4];
    UNROLL_FOR (t, 2) s[t][0] = s[t][1] = s[t][2] = s[t][3] = _mm512_setzero_si512();
    for (int kt = 0; kt < b->tiles; kt++) {
        __m512i xa = _mm512_load_si512(x), xb = _mm512_load_si512(x + 64);
        IN_REGISTER(xa);
        IN_REGISTER(xb);
        UNROLL_FOR (t, 2) {
            _mm_prefetch((const char *)(ahead + 16 * t), _MM_HINT_T1);
            __m512i v = _mm512_loadu_si512(w + 16 * t);
            IN_REGISTER(v);
            __m512i u = _mm512_srli_epi32(v, 8);
            s[t][0] = DOT16(s[t][0], _mm512_and_si512(v, low), xa);
            s[t][1] = DOT16(s[t][1], _mm512_and_si512(v, high), xb); /* 16 times the nibbles, and the sum */
            s[t][2] = DOT16(s[t][2], _mm512_and_si512(u, low), xa);
            s[t][3] = DOT16(s[t][3], _mm512_and_si512(u, high), xb);
        }
        w += b->w_stride;
        ahead += b->w_stride;
        x += 128;
    }
    UNROLL_FOR (t, 2) {
        __m512i s0 = _mm512_add_epi32(s[t][0], _mm512_srai_epi32(s[t][1], 4));
        __m512i s1 = _mm512_add_epi32(s[t][2], _mm512_srai_epi32(s[t][3], 4));
        *(t ? odd : even) = _mm512_add_epi32(_mm512_mask_blend_epi64(0xF0, s0, s1), _mm512_shuffle_i64x2(s0, s1, 0x4E));
    }
}

ALWAYS_INLINE void block_rows(const int rows, const int int8, const mw_w4_block *blk) {
    const mw_w4_block copy = *blk, *b = &copy; /* so that the stores to acc cannot change it */
    for (int r = 0; r < 4; r++) {
        __m512i even[MAX_ROWS], odd[MAX_ROWS];
        if (!int8 && rows == 1) {
            sums16_one(b, r, even, odd);
        } else if (int8) {
            sums8(rows, b, 2 * r, even);
            sums8(rows, b, 2 * r + 1, odd);
        } else {
            sums16(rows, b, 2 * r, even);
            sums16(rows, b, 2 * r + 1, odd);
        }
        __m512 scale = load_scales(b->scale, b->scale_dtype, r);
        __m512i zero = b->zero ? load_zeros(b->zero, r) : _mm512_setzero_si512();
        UNROLL_FOR (i, rows) {
            __m512i sum = _mm512_add_epi32(_mm512_shuffle_i32x4(even[i], odd[i], 0x88),
                                           _mm512_shuffle_i32x4(even[i], odd[i], 0xDD));
            /* lanes (even h0, even h1, odd h0, odd h1) */
            int32_t all = b->act_sum[i];
            sum = _mm512_sub_epi32(sum, b->zero ? _mm512_mullo_epi32(zero, _mm512_set1_epi32(all))
                                                : _mm512_set1_epi32(8 * all));
            __m512 d = _mm512_mul_ps(scale, _mm512_set1_ps(b->act_scale[i]));
            float *acc = b->acc + (size_t)i * b->acc_ld + 16 * r;
            _mm512_store_ps(acc, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, _mm512_load_ps(acc)));
        }
    }
}

#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        block_rows(n, INT8, b);                                                                                        \
        return;
#define CASES CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)

static void block16(const mw_w4_block *b) {
#define INT8 0
    switch (b->rows) { CASES }
#undef INT8
}

static void block8(const mw_w4_block *b) {
#define INT8 1
    switch (b->rows) { CASES }
#undef INT8
}

/* Largest magnitude of the block as raw bits: an ordering that puts infinity and NaN above all numbers. */
ALWAYS_INLINE int32_t max_bits(const float *x, int tiles) {
    const __m512i mag = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i m = _mm512_setzero_si512();
    for (int i = 0; i < tiles; i++) m = _mm512_max_epi32(m, _mm512_and_si512(_mm512_loadu_si512(x + 16 * i), mag));
    return _mm512_reduce_max_epi32(m);
}

static void prepare16(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum) {
    const __m512i lo = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i hi = _mm512_add_epi32(lo, _mm512_set1_epi32(4));
    __m512 inv = _mm512_set1_ps(mw_w4_act_scale(max_bits(x, tiles), 32767.0f, scale));
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < tiles; i++) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), inv));
        if (!(*scale > 0)) q = _mm512_setzero_si512();
        total = _mm512_add_epi32(total, q);
        __m512i pairs = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(q));
        char *dst = (char *)act + (size_t)i * stride;
        _mm512_store_si512(dst, _mm512_permutexvar_epi32(lo, pairs));
        _mm512_store_si512(dst + 64, _mm512_permutexvar_epi32(hi, pairs));
    }
    *sum = _mm512_reduce_add_epi32(total);
}

static void prepare8(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum) {
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m128i quad = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    __m512 inv = _mm512_set1_ps(mw_w4_act_scale(max_bits(x, tiles), 127.0f, scale));
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < tiles; i++) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), inv));
        if (!(*scale > 0)) q = _mm512_setzero_si512();
        total = _mm512_add_epi32(total, q);
        __m128i quads = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(q), quad);
        _mm512_store_si512((char *)act + (size_t)i * stride,
                           _mm512_permutexvar_epi32(lane, _mm512_castsi128_si512(quads)));
    }
    *sum = _mm512_reduce_add_epi32(total);
}

static void finish(const float *acc, const float *bias, float *y) {
    const __m512i by_j = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15); /* [j][h][t&1] */
    const __m512i by_h = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m512 t[4], u[4];
    for (int r = 0; r < 4; r++) t[r] = _mm512_permutexvar_ps(by_j, _mm512_load_ps(acc + 16 * r));
    /* Lanes of t: j of one pair of t. Transposed: the four pairs of one j. */
    for (int i = 0; i < 2; i++) {
        u[2 * i] = _mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0x88);
        u[2 * i + 1] = _mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0xDD);
    }
    for (int j = 0; j < 4; j++) {
        __m512 v = j & 2 ? _mm512_shuffle_f32x4(u[j & 1], u[2 + (j & 1)], 0xDD)
                         : _mm512_shuffle_f32x4(u[j & 1], u[2 + (j & 1)], 0x88);
        v = _mm512_permutexvar_ps(by_h, v);
        if (bias) v = _mm512_add_ps(v, _mm512_loadu_ps(bias + 16 * j));
        _mm512_storeu_ps(y + 16 * j, v);
    }
}

const mw_w4_ops MW_W4_OPS = {
    .max_rows = MAX_ROWS,
    .act_tile = {128, 64},
    .prepare = {prepare16, prepare8},
    .block = {block16, block8},
    .finish = finish,
};
