/* kernels/cpu/inline.h - what kernels written with constant trip counts need from the compiler: loops over arrays of
 * vectors must be unrolled completely, or the arrays live in memory instead of registers. */
#ifndef MW_KERNELS_CPU_INLINE_H
#define MW_KERNELS_CPU_INLINE_H

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The checks want parentheses around every argument: a declared name cannot have them. */
#ifdef __clang__
/* NOLINTNEXTLINE(bugprone-macro-parentheses) */
#define UNROLL_FOR(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define UNROLL_FOR(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif
#endif
