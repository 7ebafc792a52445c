/* kernels/cuda/probe.h - private to kernels/cuda: the launches behind kernels/probe.h's table (probe.c). */
#ifndef MW_KERNELS_CUDA_PROBE_H
#define MW_KERNELS_CUDA_PROBE_H
#include "kernels/cuda/cuda.h"
#include "kernels/probe.h"
MW_BEGIN_DECLS

mw_status mw_cuda_probe_fill(mw_dev *d, void *dst, mw_dtype t, size_t n, float mean, float spread, uint64_t seed);
mw_status mw_cuda_probe_read(mw_dev *d, const void *src, size_t bytes, int way);
mw_status mw_cuda_probe_copy(mw_dev *d, void *dst, const void *src, size_t bytes);
mw_status mw_cuda_probe_dequant(mw_dev *d, const mw_linear *w, void *dst, mw_dtype t);

/* The largest |error| / bound as a key: its bits as f32 in the upper half (infinity for NaN), row * columns + column,
 * modulo 2^32, in the lower. key: device memory, raised, never lowered. */
mw_status mw_cuda_probe_judge_linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx,
                                     const void *y, int64_t ldy, bool y_f32, int64_t period, unsigned long long *key);
/* score: device f64 [samples * n_q][max_ctx] */
mw_status mw_cuda_probe_judge_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                                        const void *k, const void *v, const void *out, int64_t ld_out, int samples,
                                        double *score, unsigned long long *key);

MW_END_DECLS
#endif
