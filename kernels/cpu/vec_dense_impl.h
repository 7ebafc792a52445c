/* kernels/cpu/vec_dense_impl.h - y = x W^T for f16, bf16 and f32 weights; included by vec_impl.h.
 *
 * An element of y is a sum over k in VL interleaved partial sums, added by v_sum, then the last k % VL products, then
 * the bias: the same operations whatever block it was computed in, so a row does not depend on m. Blocks are MB rows of
 * x times NB rows of w, accumulators in registers; at MB = 1 that is NB streams of weights from memory.
 */
#if VL == 16
#define NB1 8
#define NB2 8
#define NB4 6
#elif VL == 8
#define NB1 8
#define NB2 4
#define NB4 3
#else
#define NB1 4
#define NB2 4
#define NB4 2
#endif
#define NB_MAX 8

typedef struct {
    const char *w; /* first row of weights */
    int64_t row_bytes, k;
    const float *x, *bias; /* bias: of the first column, or NULL */
    float *y;
    int64_t ldx, ldy;
} dense_arg;

ALWAYS_INLINE void dense_block(const int mb, const int nb, const mw_dtype t, const dense_arg *a) {
    const int64_t size = t == MW_F32 ? 4 : 2;
    vf acc[4][NB_MAX], w[NB_MAX];
    int64_t kk = 0;
    UNROLL_FOR (j, nb)
        UNROLL_FOR (i, mb) acc[i][j] = v_set1(0);
    for (; kk + VL <= a->k; kk += VL) {
        UNROLL_FOR (j, nb) w[j] = v_load_as(a->w + j * a->row_bytes + kk * size, t);
        UNROLL_FOR (i, mb) {
            vf x = v_load(a->x + i * a->ldx + kk);
            UNROLL_FOR (j, nb) acc[i][j] = v_fma(w[j], x, acc[i][j]);
        }
    }
    UNROLL_FOR (i, mb)
        UNROLL_FOR (j, nb) {
            float s = v_sum(acc[i][j]);
            for (int64_t l = kk; l < a->k; l++)
                s += mw_load_f32(a->w + j * a->row_bytes, t, (size_t)l) * a->x[i * a->ldx + l];
            a->y[i * a->ldy + j] = a->bias ? s + a->bias[j] : s;
        }
}

/* `mb` rows of x times all columns [0, n). */
ALWAYS_INLINE void dense_columns(const int mb, const int nb, const mw_dtype t, dense_arg a, int64_t n) {
    int64_t j = 0;
    while (j < n) {
        int step = j + nb <= n ? nb : 1;
        if (step == nb)
            dense_block(mb, nb, t, &a);
        else
            dense_block(mb, 1, t, &a);
        j += step;
        a.w += step * a.row_bytes;
        a.y += step;
        if (a.bias) a.bias += step;
    }
}

ALWAYS_INLINE void dense_typed(const mw_dtype t, dense_arg a, int64_t m, int64_t n) {
    while (m > 0) {
        int mb = m >= 4 ? 4 : m >= 2 ? 2 : 1;
        if (mb == 4)
            dense_columns(4, NB4, t, a, n);
        else if (mb == 2)
            dense_columns(2, NB2, t, a, n);
        else
            dense_columns(1, NB1, t, a, n);
        a.x += mb * a.ldx;
        a.y += mb * a.ldy;
        m -= mb;
    }
}

static void dense(const mw_dense *w, int64_t k, int64_t j0, int64_t j1, int64_t m, const float *x, int64_t ldx,
                  float *y, int64_t ldy, const float *bias) {
    int64_t row_bytes = k * (int64_t)mw_dtype_size(w->dtype);
    dense_arg a = {(const char *)w->w + j0 * row_bytes, row_bytes, k, x, bias ? bias + j0 : NULL, y + j0, ldx, ldy};
    if (w->dtype == MW_F16)
        dense_typed(MW_F16, a, m, j1 - j0);
    else if (w->dtype == MW_BF16)
        dense_typed(MW_BF16, a, m, j1 - j0);
    else
        dense_typed(MW_F32, a, m, j1 - j0);
}
