/* kernels/cpu/isa.c - which instruction set runs: the CPU's best, or what MARLIN_CPU_ISA asks for. */
#include <string.h>

#ifdef MW_CPU_X86
#include <cpuid.h>
#endif

#include "kernels/cpu/cpu.h"
#include "worker/base/env.h"

static const mw_isa k_isas[] = {
    /* ascending */
    {"scalar", &mw_w4_scalar, &mw_vec_scalar},
#ifdef MW_CPU_X86
    {"avx2", &mw_w4_avx2, &mw_vec_avx2},
    {"avx512", &mw_w4_avx512, &mw_vec_avx512},
    {"avx512vnni", &mw_w4_avx512vnni, &mw_vec_avx512},
#endif
};
#define N_ISAS ((int)(sizeof k_isas / sizeof k_isas[0]))

/* How many of the table's rows this CPU can run. */
static int usable(void) {
#ifdef MW_CPU_X86
    unsigned a, b, c, d; /* clang 14 does not know "f16c" */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__get_cpuid(1, &a, &b, &c, &d) ||
        !(c & bit_F16C))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return 2;
    return __builtin_cpu_supports("avx512vnni") ? 4 : 3;
#else
    return 1;
#endif
}

mw_status mw_isa_pick(const mw_isa **out) {
    const char *wanted = mw_env_get(MW_ENV_CPU_ISA);
    int best = usable();
    if (!wanted) {
        *out = &k_isas[best - 1];
        return MW_OK;
    }
    static const char *const names[] = {"scalar", "avx2", "avx512", "avx512vnni"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(wanted, names[i]) != 0) continue;
        if (i >= N_ISAS || i >= best)
            return MW_FAIL(MW_ERR_UNAVAIL, "MARLIN_CPU_ISA=%s: this CPU goes up to %s", wanted, names[best - 1]);
        *out = &k_isas[i];
        return MW_OK;
    }
    return MW_FAIL(MW_ERR_USAGE, "MARLIN_CPU_ISA='%s' is not scalar, avx2, avx512 or avx512vnni", wanted);
}
