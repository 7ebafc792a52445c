/* kernels/cpu/vec_rows_impl.h - the operations that take one row at a time; included by vec_impl.h. */

static void convert(float *dst, const void *src, mw_dtype t, int64_t n) {
    int64_t i = 0, size = (int64_t)mw_dtype_size(t);
    for (; i + VL <= n; i += VL) v_store(dst + i, v_load_as((const char *)src + i * size, t));
    for (; i < n; i++) dst[i] = mw_load_f32(src, t, (size_t)i);
}

/* x += delta, and the sum of the squares of the result: f32 sums over runs of 1024, those added in double. */
static double add_squares(float *x, const float *delta, int64_t h) {
    double total = 0;
    for (int64_t i = 0; i < h;) {
        int64_t end = i + 1024 < h ? i + 1024 : h;
        vf s = v_set1(0);
        for (; i + VL <= end; i += VL) {
            vf v = v_load(x + i);
            if (delta) {
                v = v + v_load(delta + i);
                v_store(x + i, v);
            }
            s = v_fma(v, v, s);
        }
        total += v_sum(s);
        for (; i < end; i++) {
            if (delta) x[i] += delta[i];
            total += (double)x[i] * x[i];
        }
    }
    if (!isfinite(total)) { /* a square left f32's range, or x is not finite: double tells */
        total = 0;
        for (int64_t i = 0; i < h; i++) total += (double)x[i] * x[i];
    }
    return total;
}

static void add_norm(float *x, const float *delta, float *dst, int64_t h, const float *w, float eps,
                     const int32_t *perm) {
    if (!dst) {
        for (int64_t i = 0; i < h; i++) x[i] += delta[i];
        return;
    }
    float inv = (float)(1 / sqrt(add_squares(x, delta, h) / (double)h + eps));
    if (perm)
        for (int64_t j = 0; j < h; j++) dst[j] = x[perm[j]] * inv * w[perm[j]];
    else
        for (int64_t j = 0; j < h; j++) dst[j] = x[j] * inv * w[j];
}

static void silu_mul(float *dst, const float *gate, const float *up, int64_t n) {
    const vf minus_log2e = v_set1(-1.44269504088896341f), one = v_set1(1);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf g = v_load(gate + i);
        v_store(dst + i, g / (one + v_exp2(g * minus_log2e)) * v_load(up + i));
    }
    if (i < n) {
        float g[VL] = {0}, u[VL] = {0};
        memcpy(g, gate + i, (size_t)(n - i) * sizeof(float));
        memcpy(u, up + i, (size_t)(n - i) * sizeof(float));
        v_store(g, v_load(g) / (one + v_exp2(v_load(g) * minus_log2e)) * v_load(u));
        memcpy(dst + i, g, (size_t)(n - i) * sizeof(float));
    }
}

/* One head of hd floats: RMSNorm where w is given, then the rotation of pairs (d, d + hd/2). dst may be src. */
static void norm_rope(float *dst, const float *src, int hd, const float *w, float eps, const float *rope) {
    int half = hd / 2;
    float t[256];
    memcpy(t, src, (size_t)hd * sizeof(float));
    if (w) add_norm(t, NULL, t, hd, w, eps, NULL);
    for (int d = 0; d < half; d++) {
        float c = rope[2 * d], s = rope[2 * d + 1], a = t[d], b = t[d + half];
        dst[d] = a * c - b * s;
        dst[d + half] = b * c + a * s;
    }
}

static void store_kv(const mw_attn *a, void *cache, int64_t slot, int head, const float *src) {
    int64_t at = ((slot / a->block_size * a->n_kv + head) * a->block_size + slot % a->block_size) * a->head_dim;
    if (a->kv_dtype == MW_F32)
        memcpy((float *)cache + at, src, (size_t)a->head_dim * sizeof(float));
    else
        v_narrow((uint16_t *)cache + at, src, a->kv_dtype, a->head_dim);
}

static void rope_kv(const mw_attn *a, float *row, const float *rope, void *k_cache, void *v_cache, int64_t slot) {
    float k[256];
    for (int h = 0; h < a->n_q; h++) {
        float *q = row + a->q_off + (int64_t)h * a->head_dim;
        norm_rope(q, q, a->head_dim, a->q_norm, a->norm_eps, rope);
    }
    for (int h = 0; h < a->n_kv; h++) {
        int64_t at = (int64_t)h * a->head_dim;
        norm_rope(k, row + a->k_off + at, a->head_dim, a->k_norm, a->norm_eps, rope);
        store_kv(a, k_cache, slot, h, k);
        store_kv(a, v_cache, slot, h, row + a->v_off + at);
    }
}

static int64_t count_nonfinite(const float *x, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += (mw_f32_bits(x[i]) & 0x7f800000) == 0x7f800000;
    return count;
}
