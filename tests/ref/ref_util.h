/* tests/ref/ref_util.h - random data with a printed seed, and buffers that notice writes outside of them. */
#ifndef MW_TESTS_REF_UTIL_H
#define MW_TESTS_REF_UTIL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/dtype.h"

/* Every run has fresh data; `program SEED` repeats one. Call first in main(). */
void ref_seed_from_args(int argc, char **argv);
uint64_t ref_seed(void);

uint32_t ref_u32(void);
int64_t ref_int(int64_t lo, int64_t hi); /* lo .. hi, both included */
double ref_uniform(double lo, double hi);
double ref_normal(void);
bool ref_chance(double p);

/* x as element i of f16, bf16 or f32 memory, and the value that is there then. */
double ref_store(void *base, mw_dtype t, size_t i, double x);

/* `bytes` of memory aligned to 64 with guard zones of 4 kB on both sides. Filled with 0xFF: NaN in f16, bf16 and f32.
 * Never returns NULL: a test without memory ends. */
void *ref_guarded(size_t bytes);
/* false: somebody wrote to a guard zone. */
bool ref_guards_intact(const void *p);
void ref_guarded_free(void *p);

/* Bits of the poison that ref_guarded fills with. */
#define REF_POISON 0xFFFFFFFFu
#endif
