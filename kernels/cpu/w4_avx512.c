/* kernels/cpu/w4_avx512.c - int4 GEMM with AVX-512 BW, for CPUs without VNNI. */
#define MW_W4_OPS        mw_w4_avx512
#define DOT16(acc, w, x) _mm512_add_epi32(acc, _mm512_madd_epi16(w, x))
/* |pair| <= 2 * 15 * 127, so that 8 of them stay inside int16. */
#define DOT8(acc, w, x) _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, x))
#define FOLD8(acc)      _mm512_madd_epi16(acc, _mm512_set1_epi16(1))
#include "kernels/cpu/w4_zmm_impl.h"
