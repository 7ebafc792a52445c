/* kernels/cpu/w4_scalar.c - the int4 block kernel in portable C, for any CPU; same integers as the others.
 *
 * The block's weights are unpacked once to int16 q[k][c], so that every loop over columns is one a compiler turns into
 * vectors. c = 32h + 4t + j stands for column 16j + t + 8h: the order in which a tile's words come by.
 */
#include <math.h>

#include "kernels/cpu/cpu.h"

#define MAX_ROWS 16

/* Stored position (8a+b for column a+8b) of c. */
static int position(int c) {
    return 8 * (c >> 2 & 7) + 2 * (c & 3) + (c >> 5);
}

static void unpack(const mw_w4_block *b, int16_t q[MW_KBLOCK][MW_UNIT]) {
    for (int kt = 0; kt < b->tiles; kt++) {
        const uint32_t *w = b->w + (size_t)kt * b->w_stride;
        for (int i3 = 0; i3 < 4; i3++)
            for (int v = 0; v < 8; v++) {
                int16_t *dst = q[16 * kt + 2 * i3 + 8 * (v & 1) + (v >> 2)] + 32 * (v >> 1 & 1);
                for (int t = 0; t < 8; t++)
                    for (int j = 0; j < 4; j++) dst[4 * t + j] = (int16_t)(w[16 * t + 4 * i3 + j] >> (4 * v) & 15);
            }
    }
}

static void block(const mw_w4_block *b) {
    int16_t q[MW_KBLOCK][MW_UNIT];
    float scale[MW_UNIT];
    int32_t zero[MW_UNIT];
    unpack(b, q);
    for (int c = 0; c < MW_UNIT; c++) {
        scale[c] = mw_load_f32(b->scale, b->scale_dtype, (size_t)position(c));
        zero[c] = b->zero ? b->zero[position(c)] : 8;
    }
    for (int r = 0; r < b->rows; r++) {
        int32_t sum[MW_UNIT] = {0};
        for (int kt = 0; kt < b->tiles; kt++) {
            const int16_t *x = (const int16_t *)b->act + ((size_t)kt * (size_t)b->rows + (size_t)r) * 32;
            for (int k = 0; k < 16; k++)
                for (int c = 0; c < MW_UNIT; c++) sum[c] += (int32_t)x[k] * q[16 * kt + k][c];
        }
        float *acc = b->acc + (size_t)r * b->acc_ld;
        for (int c = 0; c < MW_UNIT; c++)
            acc[c] = fmaf((float)(sum[c] - zero[c] * b->act_sum[r]), scale[c] * b->act_scale[r], acc[c]);
    }
}

static void prepare(const float *x, int tiles, float levels, void *act, size_t stride, float *scale, int32_t *sum) {
    int32_t top = 0;
    for (int i = 0; i < 16 * tiles; i++) {
        int32_t mag = (int32_t)(mw_f32_bits(x[i]) & 0x7fffffff);
        top = mag > top ? mag : top;
    }
    float inv = mw_w4_act_scale(top, levels, scale);
    int32_t total = 0;
    for (int i = 0; i < tiles; i++) {
        int16_t *dst = (int16_t *)((char *)act + (size_t)i * stride);
        for (int k = 0; k < 16; k++) {
            dst[k] = *scale > 0 ? (int16_t)lrintf(x[16 * i + k] * inv) : 0;
            total += dst[k];
        }
    }
    *sum = total;
}

static void prepare16(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum) {
    prepare(x, tiles, 32767, act, stride, scale, sum);
}

static void prepare8(const float *x, int tiles, void *act, size_t stride, float *scale, int32_t *sum) {
    prepare(x, tiles, 127, act, stride, scale, sum);
}

static void finish(const float *acc, const float *bias, float *y) {
    for (int c = 0; c < MW_UNIT; c++) y[16 * (c & 3) + (c >> 2 & 7) + 8 * (c >> 5)] = acc[c];
    if (bias)
        for (int i = 0; i < MW_UNIT; i++) y[i] += bias[i];
}

const mw_w4_ops mw_w4_scalar = {
    .max_rows = MAX_ROWS,
    .act_tile = {64, 64},
    .prepare = {prepare16, prepare8},
    .block = {block, block},
    .finish = finish,
};
