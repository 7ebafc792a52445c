/* worker/base/log.h - log lines on stderr. Data belongs on stdout, never here.
 *
 * Rank 0 prints everything up to the level; other ranks print only warnings and errors, prefixed "[rank 3 node07]", so
 * that `mpirun --tag-output` and `srun --label` stay readable. One write(2) a line: lines of several ranks never mix.
 * No colour unless stderr is a terminal.
 */
#ifndef MW_BASE_LOG_H
#define MW_BASE_LOG_H
#include <stdbool.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef enum { MW_LOG_ERROR, MW_LOG_WARN, MW_LOG_INFO, MW_LOG_DEBUG } mw_log_level;

/* Sets the level; the default is MW_LOG_INFO (or MARLIN_LOG_LEVEL, see env.h). */
void mw_log_set_level(mw_log_level level);
mw_log_level mw_log_get_level(void);

/* "error" | "warn" | "info" | "debug". MW_ERR_USAGE names the value and the choices. */
MW_MUST_CHECK mw_status mw_log_parse_level(const char *name, mw_log_level *out);

/* Who we are, once known. `host` is copied. A process that never calls this is rank 0 of 1 and prints no prefix. */
void mw_log_set_rank(int rank, int size, const char *host);

void mw_log(mw_log_level level, const char *fmt, ...) MW_PRINTF(2, 3);

#define mw_warn(...)  mw_log(MW_LOG_WARN, __VA_ARGS__)
#define mw_info(...)  mw_log(MW_LOG_INFO, __VA_ARGS__)
#define mw_debug(...) mw_log(MW_LOG_DEBUG, __VA_ARGS__)

MW_END_DECLS
#endif
