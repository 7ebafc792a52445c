#include "worker/rope.h"

#include <math.h>

static double frequency(const mw_model_config *c, int64_t i) {
    const double pi = 3.14159265358979323846;
    double f = pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
    if (c->rope_type == MW_ROPE_LINEAR) return f / c->rope_factor;
    if (c->rope_type != MW_ROPE_LLAMA3) return f;
    double length = 2 * pi / f, original = (double)c->rope_original_max;
    if (length < original / c->rope_high_freq) return f;
    if (length > original / c->rope_low_freq) return f / c->rope_factor;
    double t = (original / length - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return (1 - t) * f / c->rope_factor + t * f;
}

void mw_rope_table(const mw_model_config *c, int64_t positions, float *table) {
    int64_t half = c->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double f = frequency(c, i);
        for (int64_t p = 0; p < positions; p++) {
            table[2 * (p * half + i)] = (float)cos((double)p * f);
            table[2 * (p * half + i) + 1] = (float)sin((double)p * f);
        }
    }
}
