/* worker/base/env.h - the one table of environment variables. Nothing else in the project calls getenv.
 * Precedence everywhere: command line, then environment, then default. `marlin-worker --help` prints the table. */
#ifndef MW_BASE_ENV_H
#define MW_BASE_ENV_H
#include <stdbool.h>
#include <stdio.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef enum {
    MW_ENV_LOG_LEVEL, /* MARLIN_LOG_LEVEL */
    MW_ENV_BACKEND,   /* MARLIN_BACKEND   */
    MW_ENV_THREADS,   /* MARLIN_THREADS   */
    MW_ENV_CPU_ISA,   /* MARLIN_CPU_ISA   */
    MW_ENV_TIMEOUT,   /* MARLIN_TIMEOUT   */
    MW_ENV_CHECK_NAN, /* MARLIN_CHECK_NAN */
    MW_ENV_COUNT
} mw_env;

/* The value, or NULL when unset or empty. */
const char *mw_env_get(mw_env v);

/* Whole number in [lo, hi]; `def` when unset. MW_ERR_USAGE names the variable, the value and the range. */
MW_MUST_CHECK mw_status mw_env_int(mw_env v, long lo, long hi, long def, long *out);

/* The table as text: name, meaning, default. */
void mw_env_print(FILE *f);

/* Put a variable into the environment of libraries that read it later (HDF5's file locking), unless the user set it. */
void mw_env_default_for_library(const char *name, const char *value);

MW_END_DECLS
#endif
