/* kernels/cpu/w4_avx512vnni.c - int4 GEMM with AVX-512 VNNI's dot products. */
#define MW_W4_OPS        mw_w4_avx512vnni
#define DOT16(acc, w, x) _mm512_dpwssd_epi32(acc, w, x)
#define DOT8(acc, w, x)  _mm512_dpbusd_epi32(acc, w, x)
#define FOLD8(acc)       (acc)
#include "kernels/cpu/w4_zmm_impl.h"
