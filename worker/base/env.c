#include "worker/base/env.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
    const char *name, *meaning;
} env_row;

static const env_row k_table[MW_ENV_COUNT] = {
    [MW_ENV_LOG_LEVEL] = {"MARLIN_LOG_LEVEL", "error, warn, info or debug (default info); --log-level wins"},
    [MW_ENV_BACKEND] = {"MARLIN_BACKEND", "cpu, cuda or auto (default auto); --backend wins"},
    [MW_ENV_THREADS] = {"MARLIN_THREADS", "CPU threads a rank (default: its share of the cores); --threads wins"},
    [MW_ENV_CPU_ISA] = {"MARLIN_CPU_ISA",
                        "scalar, avx2, avx512 or avx512vnni: cap the instruction set of the CPU backend"},
    [MW_ENV_TIMEOUT] = {"MARLIN_TIMEOUT", "seconds a silent rank is waited for (default 60); --timeout wins"},
    [MW_ENV_CHECK_NAN] = {"MARLIN_CHECK_NAN", "1: check activations for NaN and infinity, name the layer (slow)"},
};

const char *mw_env_get(mw_env v) {
    const char *s = getenv(k_table[v].name);
    return s && *s ? s : NULL;
}

mw_status mw_env_int(mw_env v, long lo, long hi, long def, long *out) {
    const char *s = mw_env_get(v);
    if (!s) {
        *out = def;
        return MW_OK;
    }
    char *end;
    errno = 0;
    long x = strtol(s, &end, 10);
    if (errno || *end || x < lo || x > hi)
        return MW_FAIL(MW_ERR_USAGE, "%s='%s' is not a whole number from %ld to %ld", k_table[v].name, s, lo, hi);
    *out = x;
    return MW_OK;
}

void mw_env_print(FILE *f) {
    for (int i = 0; i < MW_ENV_COUNT; i++) fprintf(f, "  %-18s %s\n", k_table[i].name, k_table[i].meaning);
}

void mw_env_default_for_library(const char *name, const char *value) {
    setenv(name, value, 0);
}
