/* tests/kernels/cpu_devices.h - opening the CPU backend once per instruction set. Included by test programs. */
#ifndef MW_TESTS_CPU_DEVICES_H
#define MW_TESTS_CPU_DEVICES_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#include "kernels/kernels.h"

#define N_ISAS 4
static const char *const k_isas[N_ISAS] = {"scalar", "avx2", "avx512", "avx512vnni"};

/* NULL: this CPU does not have the instruction set (its kernels are then untested here, and main says so). */
static inline mw_dev *open_dev(int isa, int threads, bool int8_act) {
    mw_dev *d = NULL;
    setenv("MARLIN_CPU_ISA", k_isas[isa], 1);
    mw_status st = mw_kernels_cpu()->open(&d, &(mw_dev_opts){.threads = threads, .int8_act = int8_act});
    assert_true(st == MW_OK || st == MW_ERR_UNAVAIL);
    return st == MW_OK ? d : NULL;
}

/* Floats in a vector: partial sums of a dot product. */
static inline int lanes_of(int isa) {
    return isa == 0 ? 4 : isa == 1 ? 8 : 16;
}

static inline void print_untested_isas(void) {
    for (int i = 0; i < N_ISAS; i++) {
        mw_dev *d = open_dev(i, 1, false);
        if (!d) print_message("NOT TESTED: instruction set %s, which this CPU does not have\n", k_isas[i]);
        mw_kernels_cpu()->close(d);
    }
}
#endif
