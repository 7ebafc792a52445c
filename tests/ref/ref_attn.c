#include "tests/ref/ref_attn.h"

#include <math.h>
#include <stdlib.h>

size_t ref_kv_at(const mw_attn *a, const mw_batch *b, int seq, int64_t p, int h) {
    int64_t block = b->block_table[(int64_t)seq * b->block_stride + p / a->block_size];
    return (size_t)(((block * a->n_kv + h) * a->block_size + p % a->block_size) * a->head_dim);
}

ref_attn_bounds ref_attention(const mw_attn *a, const mw_batch *b, int seq, int64_t pos, int head, const float *q,
                              const void *k_cache, const void *v_cache, double *out) {
    int64_t from = a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
    int kv = head / (a->n_q / a->n_kv), hd = a->head_dim;
    ref_attn_bounds r = {0};
    double *w = malloc((size_t)(pos + 1 - from) * sizeof *w), top = -INFINITY, sum = 0;
    for (int64_t p = from; p <= pos; p++) {
        size_t at = ref_kv_at(a, b, seq, p, kv);
        double s = 0, abs_sum = 0;
        for (int d = 0; d < hd; d++) {
            double x = (double)q[d] * mw_load_f32(k_cache, a->kv_dtype, at + (size_t)d);
            s += x;
            abs_sum += fabs(x);
        }
        w[p - from] = s * a->scale;
        top = fmax(top, w[p - from]);
        r.max_abs_score = fmax(r.max_abs_score, abs_sum * fabs(a->scale));
    }
    for (int64_t p = from; p <= pos; p++) sum += w[p - from] = exp(w[p - from] - top);
    r.max_w = 1 / sum;
    for (int d = 0; d < hd; d++) {
        double abs_sum = 0;
        out[d] = 0;
        for (int64_t p = from; p <= pos; p++) {
            double v = mw_load_f32(v_cache, a->kv_dtype, ref_kv_at(a, b, seq, p, kv) + (size_t)d);
            out[d] += w[p - from] / sum * v;
            abs_sum += w[p - from] / sum * fabs(v);
            r.max_v = fmax(r.max_v, fabs(v));
        }
        r.sum_v = fmax(r.sum_v, abs_sum);
    }
    free(w);
    return r;
}
