#include "shard/pack.h"

#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

unsigned mw_tile_nibble(const uint32_t *tiles, size_t tile_words, int64_t k, int64_t n) {
    int64_t kk = k % MW_TILE_K, nn = n % MW_TILE_N;
    int64_t lane = (kk % 8) / 2 + 4 * (nn % 8), j = nn / 16;
    int v = (int)(kk / 8) | (int)((nn / 8) & 1) << 1 | (int)(kk & 1) << 2;
    uint32_t word = tiles[(size_t)(k / MW_TILE_K) * tile_words + (size_t)(n / MW_TILE_N * 128 + 4 * lane + j)];
    return word >> (4 * v) & 15;
}

/* In a tile, the four bytes of word (t, i3, j) = 16t + 4*i3 + j, with c[r][n] = q[r,n] | q[r+8,n] << 4, are
 *     c[2*i3][16j+t], c[2*i3][16j+t+8], c[2*i3+1][16j+t], c[2*i3+1][16j+t+8]
 * which is the closed form read byte by byte. So packing is: pair rows r and r+8, interleave the halves of each 16
 * columns, interleave the row pairs, and transpose the resulting 8 (t) x 16 (i3, j) matrix of words. */

#if defined(__SSE2__)

/* 64 columns of one row as bytes: low nibbles are even columns. Four vectors of 16 columns. */
static inline void widen(const uint8_t *row, __m128i out[4]) {
    const __m128i low = _mm_set1_epi8(15);
    for (int h = 0; h < 2; h++) {
        __m128i b = _mm_loadu_si128((const __m128i *)(row + 16 * h));
        __m128i even = _mm_and_si128(b, low), odd = _mm_and_si128(_mm_srli_epi16(b, 4), low);
        out[2 * h] = _mm_unpacklo_epi8(even, odd);
        out[2 * h + 1] = _mm_unpackhi_epi8(even, odd);
    }
}

/* 4x4 transpose of words, for the store order t-major and the load order (i3, j)-major. */
static inline void transpose4(__m128i m[4]) {
    __m128i a = _mm_unpacklo_epi32(m[0], m[1]), b = _mm_unpacklo_epi32(m[2], m[3]);
    __m128i c = _mm_unpackhi_epi32(m[0], m[1]), d = _mm_unpackhi_epi32(m[2], m[3]);
    m[0] = _mm_unpacklo_epi64(a, b);
    m[1] = _mm_unpackhi_epi64(a, b);
    m[2] = _mm_unpacklo_epi64(c, d);
    m[3] = _mm_unpackhi_epi64(c, d);
}

static void pack_tile(const uint8_t *rows, size_t row_bytes, uint32_t *tile) {
    for (int i3 = 0; i3 < 4; i3++) {
        __m128i lo[4], hi[4], c[2][4], word[2][4]; /* word[t >= 4][j]: four words t, t+1, t+2, t+3 */
        for (int r = 0; r < 2; r++) {
            widen(rows + (size_t)(2 * i3 + r) * row_bytes, lo);
            widen(rows + (size_t)(2 * i3 + r + 8) * row_bytes, hi);
            for (int j = 0; j < 4; j++) c[r][j] = _mm_or_si128(lo[j], _mm_slli_epi16(hi[j], 4));
        }
        for (int j = 0; j < 4; j++) {
            __m128i a = _mm_unpacklo_epi8(c[0][j], _mm_srli_si128(c[0][j], 8)); /* u16 t: columns t, t+8 */
            __m128i b = _mm_unpacklo_epi8(c[1][j], _mm_srli_si128(c[1][j], 8));
            word[0][j] = _mm_unpacklo_epi16(a, b);
            word[1][j] = _mm_unpackhi_epi16(a, b);
        }
        for (int h = 0; h < 2; h++) {
            transpose4(word[h]);
            for (int t = 0; t < 4; t++) _mm_storeu_si128((__m128i *)(tile + 16 * (4 * h + t) + 4 * i3), word[h][t]);
        }
    }
}

static void unpack_tile(const uint32_t *tile, uint8_t *rows, size_t row_bytes) {
    const __m128i low = _mm_set1_epi8(15), even_byte = _mm_set1_epi16(0x00ff), low_half = _mm_set1_epi32(0xffff);
    for (int i3 = 0; i3 < 4; i3++) {
        __m128i word[2][4];
        for (int h = 0; h < 2; h++) {
            for (int t = 0; t < 4; t++)
                word[h][t] = _mm_loadu_si128((const __m128i *)(tile + 16 * (4 * h + t) + 4 * i3));
            transpose4(word[h]);
        }
        for (int r = 0; r < 2; r++) {
            __m128i c[4];
            for (int j = 0; j < 4; j++) {
                /* The row's u16 of each word (signed packing needs the sign extended), then its even and odd bytes. */
                __m128i x = r ? _mm_srai_epi32(word[0][j], 16) : _mm_and_si128(word[0][j], low_half);
                __m128i y = r ? _mm_srai_epi32(word[1][j], 16) : _mm_and_si128(word[1][j], low_half);
                if (!r) x = _mm_srai_epi32(_mm_slli_epi32(x, 16), 16), y = _mm_srai_epi32(_mm_slli_epi32(y, 16), 16);
                __m128i pair = _mm_packs_epi32(x, y);
                c[j] = _mm_packus_epi16(_mm_and_si128(pair, even_byte), _mm_srli_epi16(pair, 8));
            }
            for (int half = 0; half < 2; half++) { /* rows 2*i3+r and +8 */
                uint8_t *out = rows + (size_t)(2 * i3 + r + 8 * half) * row_bytes;
                for (int h = 0; h < 2; h++) {
                    __m128i a = _mm_and_si128(half ? _mm_srli_epi16(c[2 * h], 4) : c[2 * h], low);
                    __m128i b = _mm_and_si128(half ? _mm_srli_epi16(c[2 * h + 1], 4) : c[2 * h + 1], low);
                    /* Byte pairs (even column, odd column) to one byte even | odd << 4. */
                    a = _mm_and_si128(_mm_or_si128(a, _mm_srli_epi16(a, 4)), even_byte);
                    b = _mm_and_si128(_mm_or_si128(b, _mm_srli_epi16(b, 4)), even_byte);
                    _mm_storeu_si128((__m128i *)(out + 16 * h), _mm_packus_epi16(a, b));
                }
            }
        }
    }
}

#else

static void pack_tile(const uint8_t *rows, size_t row_bytes, uint32_t *tile) {
    uint8_t c[8][64];
    for (int r = 0; r < 8; r++)
        for (int n = 0; n < 64; n++) {
            int shift = 4 * (n & 1);
            unsigned lo = rows[(size_t)r * row_bytes + n / 2] >> shift & 15;
            unsigned hi = rows[(size_t)(r + 8) * row_bytes + n / 2] >> shift & 15;
            c[r][n] = (uint8_t)(lo | hi << 4);
        }
    for (int w = 0; w < 128; w++) {
        int t = w >> 4, i3 = w >> 2 & 3, n = 16 * (w & 3) + t;
        tile[w] = (uint32_t)c[2 * i3][n] | (uint32_t)c[2 * i3][n + 8] << 8 | (uint32_t)c[2 * i3 + 1][n] << 16 |
                  (uint32_t)c[2 * i3 + 1][n + 8] << 24;
    }
}

static void unpack_tile(const uint32_t *tile, uint8_t *rows, size_t row_bytes) {
    for (int r = 0; r < 16; r++) memset(rows + (size_t)r * row_bytes, 0, 32);
    for (int w = 0; w < 128; w++)
        for (int b = 0; b < 4; b++) {
            int t = w >> 4, i3 = w >> 2 & 3, n = 16 * (w & 3) + t + 8 * (b & 1), r = 2 * i3 + (b >> 1);
            unsigned byte = tile[w] >> (8 * b) & 255, shift = 4 * (n & 1);
            rows[(size_t)r * row_bytes + n / 2] |= (uint8_t)((byte & 15) << shift);
            rows[(size_t)(r + 8) * row_bytes + n / 2] |= (uint8_t)((byte >> 4) << shift);
        }
}

#endif

void mw_pack_tiles(const uint8_t *rows, size_t row_bytes, int64_t k, int64_t n, uint32_t *tiles, size_t tile_words) {
    uint8_t edge[MW_TILE_K * 32];
    for (int64_t kt = 0; kt < k / MW_TILE_K; kt++) {
        const uint8_t *band = rows + (size_t)(kt * MW_TILE_K) * row_bytes;
        uint32_t *out = tiles + (size_t)kt * tile_words;
        int64_t nb = 0;
        for (; (nb + 1) * MW_TILE_N <= n; nb++) pack_tile(band + nb * 32, row_bytes, out + nb * 128);
        if (nb * MW_TILE_N == n) continue;
        int64_t left = n - nb * MW_TILE_N; /* a last tile that is only partly there */
        memset(edge, 0, sizeof edge);
        for (int r = 0; r < MW_TILE_K; r++) {
            memcpy(edge + 32 * r, band + (size_t)r * row_bytes + nb * 32, (size_t)(left + 1) / 2);
            if (left & 1) edge[32 * r + left / 2] &= 15;
        }
        pack_tile(edge, 32, out + nb * 128);
    }
}

void mw_unpack_tiles(const uint32_t *tiles, size_t tile_words, int64_t k, int64_t n, uint8_t *rows, size_t row_bytes) {
    uint8_t edge[MW_TILE_K * 32];
    for (int64_t kt = 0; kt < k / MW_TILE_K; kt++) {
        uint8_t *band = rows + (size_t)(kt * MW_TILE_K) * row_bytes;
        const uint32_t *in = tiles + (size_t)kt * tile_words;
        int64_t nb = 0;
        for (; (nb + 1) * MW_TILE_N <= n; nb++) unpack_tile(in + nb * 128, band + nb * 32, row_bytes);
        if (nb * MW_TILE_N == n) continue;
        unpack_tile(in + nb * 128, edge, 32);
        size_t bytes = (size_t)(n - nb * MW_TILE_N + 1) / 2;
        for (int r = 0; r < MW_TILE_K; r++) memcpy(band + (size_t)r * row_bytes + nb * 32, edge + 32 * r, bytes);
    }
}

#define PERMUTE64(type)                                                                                                \
    do {                                                                                                               \
        const type *s = src;                                                                                           \
        type *d = dst; /* NOLINT(bugprone-macro-parentheses): a type cannot have them */                               \
        for (int64_t block = 0; block < rows * (n / 64); block++, s += 64, d += 64)                                    \
            for (int a = 0; a < 8; a++)                                                                                \
                for (int b = 0; b < 8; b++) d[8 * a + b] = s[a + 8 * b];                                               \
    } while (0)

void mw_permute64(const void *src, void *dst, int64_t rows, int64_t n, size_t elem_size) {
    if (elem_size == 1)
        PERMUTE64(uint8_t);
    else if (elem_size == 2)
        PERMUTE64(uint16_t);
    else
        PERMUTE64(uint32_t);
}
