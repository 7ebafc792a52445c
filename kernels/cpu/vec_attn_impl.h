/* kernels/cpu/vec_attn_impl.h - attention over the paged KV cache; included by vec_impl.h.
 *
 * Two paths share the softmax and the P*V product. Decode (a few query rows): scores by dot products along head_dim, K
 * read once for up to four heads. Prefill (rows x heads >= 16): a tile of K is transposed once, scores are outer
 * products without horizontal sums. No position outside a row's own range is ever multiplied, not even by zero, so NaN
 * in unused slots, in freed blocks or in later rows stays where it is.
 */
#define TILE MW_ATTN_TILE

/* Addresses of the rows of K and V of n <= TILE consecutive positions. */
typedef struct {
    int n;
    const char *k[TILE], *v[TILE];
} tile_rows;

static void find_rows(const mw_attn_part *p, int64_t from, int64_t to, tile_rows *out) {
    const mw_attn *a = p->a;
    int64_t row = a->head_dim * (int64_t)mw_dtype_size(a->kv_dtype), bs = a->block_size;
    out->n = (int)(to - from);
    for (int64_t at = from; at < to;) {
        int64_t off = at % bs, run = bs - off < to - at ? bs - off : to - at;
        int64_t first = (((int64_t)p->blocks[at / bs] * a->n_kv + p->kv_head) * bs + off) * row;
        for (int64_t i = 0; i < run; i++) {
            out->k[at - from + i] = (const char *)p->k_cache + first + i * row;
            out->v[at - from + i] = (const char *)p->v_cache + first + i * row;
        }
        at += run;
    }
}

/* dst[g][] = q head g times scale * log2(e), padded with zeros. */
static void load_queries(const mw_attn_part *p, int64_t i, int group, int64_t hdp, float *dst) {
    float f = p->a->scale * 1.44269504088896341f;
    int hd = p->a->head_dim;
    for (int g = 0; g < group; g++) {
        const float *q = p->q + i * p->ldq + (int64_t)g * hd;
        for (int d = 0; d < hd; d++) dst[g * hdp + d] = q[d] * f;
        for (int64_t d = hd; d < hdp; d++) dst[g * hdp + d] = 0;
    }
}

/* Rows [i, i + 4) of K and V of a tile that is wanted next, into L2: blocks of the cache are too short, and too far
 * apart, for the CPU's own prefetcher. */
ALWAYS_INLINE void prefetch_rows(const tile_rows *next, int i, int64_t row_bytes) {
    for (int j = i; j < i + 4 && j < next->n; j++)
        for (int64_t b = 0; b < row_bytes; b += 64) {
            __builtin_prefetch(next->k[j] + b, 0, 2);
            __builtin_prefetch(next->v[j] + b, 0, 2);
        }
}

/* s[g][i] = q[g] . k[i] for `rows` heads; entries up to the next multiple of 4 repeat the last one. next: or NULL. */
ALWAYS_INLINE void scores_dot(const int rows, const mw_dtype t, const float *q, int64_t hdp, int hd,
                              const tile_rows *kv, const tile_rows *next, float *s) {
    const int64_t step = VL * (t == MW_F32 ? 4 : 2);
    int nv = (hd + VL - 1) / VL;
    vmask last = v_mask(hd - (nv - 1) * VL), all = v_mask(VL);
    for (int i = 0; i < kv->n; i += 4) {
        const char *r[4];
        vf acc[4][4];
        for (int j = 0; j < 4; j++) r[j] = kv->k[i + j < kv->n ? i + j : kv->n - 1];
        if (next) prefetch_rows(next, i, hd * (int64_t)(t == MW_F32 ? 4 : 2));
        UNROLL_FOR (g, rows) acc[g][0] = acc[g][1] = acc[g][2] = acc[g][3] = v_set1(0);
        for (int v = 0; v < nv; v++) {
            vmask m = v == nv - 1 ? last : all;
            vf k0 = v_load_part(r[0] + v * step, t, m), k1 = v_load_part(r[1] + v * step, t, m);
            vf k2 = v_load_part(r[2] + v * step, t, m), k3 = v_load_part(r[3] + v * step, t, m);
            UNROLL_FOR (g, rows) {
                vf x = v_load(q + g * hdp + v * VL);
                acc[g][0] = v_fma(x, k0, acc[g][0]);
                acc[g][1] = v_fma(x, k1, acc[g][1]);
                acc[g][2] = v_fma(x, k2, acc[g][2]);
                acc[g][3] = v_fma(x, k3, acc[g][3]);
            }
        }
        UNROLL_FOR (g, rows) v_sum4(acc[g][0], acc[g][1], acc[g][2], acc[g][3], s + g * TILE + i);
    }
}

/* The tile's scores [lo, hi) enter a row's softmax: s becomes the weights, o and sum are rescaled to the new maximum.
 */
static void softmax_tile(float *s, int lo, int hi, float *max, float *sum, float *o, int64_t hdp) {
    for (int i = 0; i < lo; i++) s[i] = -INFINITY;
    for (int i = hi; i < TILE; i++) s[i] = -INFINITY;
    vf top = v_set1(*max), total = v_set1(0);
    for (int i = 0; i < TILE; i += VL) top = v_max(v_load(s + i), top);
    float m = v_top(top);
    for (int i = 0; i < TILE; i += VL) {
        vf w = v_exp2(v_load(s + i) - m);
        v_store(s + i, w);
        total = total + w;
    }
    if (m != *max) {
        float fix[VL];
        v_store(fix, v_exp2(v_set1(*max - m)));
        *sum *= fix[0];
        for (int64_t d = 0; d < hdp; d += VL) v_store(o + d, v_load(o + d) * fix[0]);
        *max = m;
    }
    *sum += v_sum(total);
}

/* o[r][] += sum over positions [lo, hi) of s[r][i] * v[i][], for one to four vectors of the head from vector v0 on. */
ALWAYS_INLINE void weigh_vectors(const int rows, const int nc, const mw_dtype t, const float *s, const char *const *v,
                                 int lo, int hi, float *o, int64_t hdp, int v0, vmask last) {
    const int64_t step = VL * (t == MW_F32 ? 4 : 2);
    vf acc[4][4];
    UNROLL_FOR (r, rows)
        UNROLL_FOR (c, nc) acc[r][c] = v_load(o + r * hdp + (v0 + c) * VL);
    for (int i = lo; i < hi; i++) {
        vf x[4];
        UNROLL_FOR (c, nc)
            x[c] = c == nc - 1 ? v_load_part(v[i] + (v0 + c) * step, t, last) : v_load_as(v[i] + (v0 + c) * step, t);
        UNROLL_FOR (r, rows) {
            vf w = v_set1(s[r * TILE + i]);
            UNROLL_FOR (c, nc) acc[r][c] = v_fma(w, x[c], acc[r][c]);
        }
    }
    UNROLL_FOR (r, rows)
        UNROLL_FOR (c, nc) v_store(o + r * hdp + (v0 + c) * VL, acc[r][c]);
}

ALWAYS_INLINE void weigh(const int rows, const mw_dtype t, const float *s, const char *const *v, int lo, int hi,
                         float *o, int64_t hdp, int hd) {
    int nv = (hd + VL - 1) / VL;
    vmask last = v_mask(hd - (nv - 1) * VL), all = v_mask(VL);
    int c = 0;
    for (; c + 4 <= nv; c += 4) weigh_vectors(rows, 4, t, s, v, lo, hi, o, hdp, c, c + 4 == nv ? last : all);
    for (; c < nv; c++) weigh_vectors(rows, 1, t, s, v, lo, hi, o, hdp, c, c + 1 == nv ? last : all);
}

/* Both products for `rows` (1..4) rows, with the number of rows and the dtype as constants. */
#define FOR_DTYPE(CALL, rows, t)                                                                                       \
    switch (t) {                                                                                                       \
    case MW_F16: CALL(rows, MW_F16); break;                                                                            \
    case MW_BF16: CALL(rows, MW_BF16); break;                                                                          \
    default: CALL(rows, MW_F32); break;                                                                                \
    }
#define FOR_ROWS(CALL, rows, t)                                                                                        \
    switch (rows) {                                                                                                    \
    case 1: FOR_DTYPE(CALL, 1, t) break;                                                                               \
    case 2: FOR_DTYPE(CALL, 2, t) break;                                                                               \
    case 3: FOR_DTYPE(CALL, 3, t) break;                                                                               \
    default: FOR_DTYPE(CALL, 4, t) break;                                                                              \
    }

static void dot_rows(int rows, mw_dtype t, const float *q, int64_t hdp, int hd, const tile_rows *kv,
                     const tile_rows *next, float *s) {
#define CALL(R, T) scores_dot(R, T, q, hdp, hd, kv, next, s)
    FOR_ROWS(CALL, rows, t)
#undef CALL
}

static void weigh_rows(int rows, mw_dtype t, const float *s, const char *const *v, int lo, int hi, float *o,
                       int64_t hdp, int hd) {
#define CALL(R, T) weigh(R, T, s, v, lo, hi, o, hdp, hd)
    FOR_ROWS(CALL, rows, t)
#undef CALL
}

/* ---- decode ----------------------------------------------------------------------------------------------------- */

static int64_t tile_end(int64_t at, int64_t to) {
    int64_t end = at / TILE * TILE + TILE;
    return end < to ? end : to;
}

/* One query row against positions [from, to): state[g] = (O, max, sum) of the segment. */
static void attn_decode(const mw_attn_part *p) {
    const mw_attn *a = p->a;
    int group = a->n_q / a->n_kv;
    int64_t hdp = mw_attn_padded(a->head_dim), ld = mw_attn_state_floats(a->head_dim);
    float *q = p->scratch, *s = q + group * hdp, *o = s + (int64_t)group * TILE;
    float *max = o + group * hdp, *sum = max + group;
    load_queries(p, 0, group, hdp, q);
    for (int64_t i = 0; i < group * hdp; i++) o[i] = 0;
    for (int g = 0; g < group; g++) max[g] = -INFINITY, sum[g] = 0;
    tile_rows tiles[2];
    int64_t at = p->from, end = tile_end(at, p->to);
    find_rows(p, at, end, &tiles[0]);
    for (int i = 0; at < p->to; i ^= 1, at = end, end = tile_end(at, p->to)) {
        const tile_rows *kv = &tiles[i], *next = NULL;
        if (end < p->limit) {
            find_rows(p, end, tile_end(end, end < p->to ? p->to : p->limit), &tiles[i ^ 1]);
            next = &tiles[i ^ 1];
        }
        for (int g = 0; g < group; g += 4)
            dot_rows(group - g < 4 ? group - g : 4, a->kv_dtype, q + g * hdp, hdp, a->head_dim, kv, g ? NULL : next,
                     s + (int64_t)g * TILE);
        for (int g = 0; g < group; g++)
            softmax_tile(s + (int64_t)g * TILE, 0, kv->n, &max[g], &sum[g], o + g * hdp, hdp);
        for (int g = 0; g < group; g += 4)
            weigh_rows(group - g < 4 ? group - g : 4, a->kv_dtype, s + (int64_t)g * TILE, kv->v, 0, kv->n, o + g * hdp,
                       hdp, a->head_dim);
    }
    for (int g = 0; g < group; g++) {
        memcpy(p->state + g * ld, o + g * hdp, (size_t)hdp * sizeof(float));
        p->state[g * ld + hdp] = max[g];
        p->state[g * ld + hdp + 1] = sum[g];
    }
}

/* total += part: the states of a row's heads over two disjoint sets of positions. */
static void attn_merge(float *total, const float *part, int heads, int head_dim) {
    int64_t hdp = mw_attn_padded(head_dim), ld = mw_attn_state_floats(head_dim);
    for (int g = 0; g < heads; g++, total += ld, part += ld) {
        float m = total[hdp] > part[hdp] ? total[hdp] : part[hdp], f[VL], e[VL];
        v_store(f, v_exp2(v_set1(total[hdp] - m)));
        v_store(e, v_exp2(v_set1(part[hdp] - m)));
        for (int64_t d = 0; d < hdp; d += VL) v_store(total + d, v_load(total + d) * f[0] + v_load(part + d) * e[0]);
        total[hdp] = m;
        total[hdp + 1] = total[hdp + 1] * f[0] + part[hdp + 1] * e[0];
    }
}

/* ---- prefill ---------------------------------------------------------------------------------------------------- */

#if VL == 16
#define QR 6
#define QC 4
#else
#define QR 4
#define QC 2
#endif

/* kt[d][i] = k[i][d] as f32 for a tile of n positions; columns n .. TILE-1 repeat the last one. */
ALWAYS_INLINE void transpose_tile(const mw_dtype t, const char *const *k, int n, int hd, float *kt) {
    const int64_t size = t == MW_F32 ? 4 : 2;
    int nv = (hd + VL - 1) / VL;
    vmask last = v_mask(hd - (nv - 1) * VL), all = v_mask(VL);
    for (int i = 0; i < n; i += VL)
        for (int v = 0; v < nv; v++) {
            vf r[VL];
            UNROLL_FOR (j, VL)
                r[j] = v_load_part(k[i + j < n ? i + j : n - 1] + v * VL * size, t, v == nv - 1 ? last : all);
            v_transpose(r);
            UNROLL_FOR (j, VL) v_store(kt + (int64_t)(v * VL + j) * TILE + i, r[j]);
        }
}

ALWAYS_INLINE void scores_block(const int rows, const float *q, int64_t hdp, int hd, const float *kt, int n, float *s) {
    for (int i = 0; i < n; i += QC * VL) {
        vf acc[QR][QC];
        UNROLL_FOR (r, rows)
            UNROLL_FOR (c, QC) acc[r][c] = v_set1(0);
        for (int d = 0; d < hd; d++) {
            vf k[QC];
            UNROLL_FOR (c, QC) k[c] = v_load(kt + (int64_t)d * TILE + i + c * VL);
            UNROLL_FOR (r, rows) {
                vf x = v_set1(q[r * hdp + d]);
                UNROLL_FOR (c, QC) acc[r][c] = v_fma(x, k[c], acc[r][c]);
            }
        }
        UNROLL_FOR (r, rows)
            UNROLL_FOR (c, QC) v_store(s + r * TILE + i + c * VL, acc[r][c]);
    }
}

/* The rows of a prefill part, q-row by q-row and head by head inside. */
typedef struct {
    int rows, group;
    int64_t hdp;
    float *q, *o, *s, *max, *sum, *kt;
} prefill_state;

/* Row i's positions inside [t0, t0 + TILE): [*lo, *hi), empty if *lo >= *hi. */
static void visible(const mw_attn_part *p, int i, int64_t t0, int *lo, int *hi) {
    int64_t end = p->pos + i + 1, begin = p->a->window && end > p->a->window ? end - p->a->window : 0;
    *lo = begin > t0 ? (int)(begin - t0 < TILE ? begin - t0 : TILE) : 0;
    *hi = end - t0 < TILE ? (int)(end > t0 ? end - t0 : 0) : TILE;
}

static void prefill_tile(const mw_attn_part *p, prefill_state *st, int64_t t0, int64_t from, int64_t to) {
    const mw_attn *a = p->a;
    tile_rows kv;
    int first = (int)(from - t0), n = (int)(to - from), lo, hi, ra = st->rows, rb = 0;
    find_rows(p, from, to, &kv);
    for (int i = 0; i < p->rows; i++) { /* rows that see something here are consecutive */
        visible(p, i, t0, &lo, &hi);
        if (lo >= hi) continue;
        if (i * st->group < ra) ra = i * st->group;
        rb = (i + 1) * st->group;
    }
#define CALL(R, T) transpose_tile(T, kv.k, n, a->head_dim, st->kt)
    FOR_DTYPE(CALL, 0, a->kv_dtype)
#undef CALL
    int r = ra;
    for (; r + QR <= rb; r += QR)
        scores_block(QR, st->q + r * st->hdp, st->hdp, a->head_dim, st->kt, n, st->s + (int64_t)r * TILE);
    for (; r < rb; r++)
        scores_block(1, st->q + r * st->hdp, st->hdp, a->head_dim, st->kt, n, st->s + (int64_t)r * TILE);
    for (r = ra; r < rb; r++) {
        visible(p, r / st->group, t0, &lo, &hi);
        softmax_tile(st->s + (int64_t)r * TILE, lo > first ? lo - first : 0, hi - first, &st->max[r], &st->sum[r],
                     st->o + r * st->hdp, st->hdp);
    }
    for (r = ra; r < rb;) { /* runs of up to four rows that see the same positions */
        int lo1, hi1, e = r + 1;
        visible(p, r / st->group, t0, &lo, &hi);
        for (; e < rb && e < r + 4; e++) {
            visible(p, e / st->group, t0, &lo1, &hi1);
            if (lo1 != lo || hi1 != hi) break;
        }
        weigh_rows(e - r, a->kv_dtype, st->s + (int64_t)r * TILE, kv.v, lo > first ? lo - first : 0, hi - first,
                   st->o + r * st->hdp, st->hdp, a->head_dim);
        r = e;
    }
}

static void attn_prefill(const mw_attn_part *p) {
    const mw_attn *a = p->a;
    int group = a->n_q / a->n_kv, rows = p->rows * group;
    int64_t hdp = mw_attn_padded(a->head_dim);
    prefill_state st = {.rows = rows, .group = group, .hdp = hdp, .q = p->scratch};
    st.o = st.q + rows * hdp;
    st.s = st.o + rows * hdp;
    st.kt = st.s + (int64_t)rows * TILE;
    st.max = st.kt + hdp * TILE;
    st.sum = st.max + rows;
    for (int i = 0; i < p->rows; i++) load_queries(p, i, group, hdp, st.q + (int64_t)i * group * hdp);
    for (int64_t i = 0; i < rows * hdp; i++) st.o[i] = 0;
    for (int r = 0; r < rows; r++) st.max[r] = -INFINITY, st.sum[r] = 0;
    int64_t end = p->pos + p->rows, begin = a->window && p->pos + 1 > a->window ? p->pos + 1 - a->window : 0;
    for (int64_t t0 = begin / TILE * TILE; t0 < end; t0 += TILE)
        prefill_tile(p, &st, t0, t0 > begin ? t0 : begin, t0 + TILE < end ? t0 + TILE : end);
    for (int r = 0; r < rows; r++) {
        float *out = p->out + (int64_t)(r / group) * p->ldo + (int64_t)(r % group) * a->head_dim;
        float inv = 1 / st.sum[r];
        for (int d = 0; d < a->head_dim; d++) out[d] = st.o[r * hdp + d] * inv;
    }
}
