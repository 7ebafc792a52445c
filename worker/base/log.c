#include "worker/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/env.h"

static atomic_int g_level = -1; /* -1: not asked yet, take MARLIN_LOG_LEVEL */
static int g_rank, g_size = 1;
static char g_host[64];

void mw_log_set_level(mw_log_level level) {
    atomic_store(&g_level, (int)level);
}

mw_status mw_log_parse_level(const char *name, mw_log_level *out) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (mw_log_level)i;
            return MW_OK;
        }
    return MW_FAIL(MW_ERR_USAGE, "log level '%s' is not one of error, warn, info, debug", name);
}

mw_log_level mw_log_get_level(void) {
    int level = atomic_load(&g_level);
    if (level >= 0) return (mw_log_level)level;
    mw_log_level from_env = MW_LOG_INFO;
    const char *text = mw_env_get(MW_ENV_LOG_LEVEL);
    atomic_store(&g_level, (int)MW_LOG_INFO); /* before parsing: a failure below logs, and must find a level */
    if (text && mw_log_parse_level(text, &from_env) != MW_OK) mw_warn("MARLIN_LOG_LEVEL: %s", mw_error_text());
    atomic_store(&g_level, (int)from_env);
    return from_env;
}

void mw_log_set_rank(int rank, int size, const char *host) {
    g_rank = rank;
    g_size = size;
    snprintf(g_host, sizeof g_host, "%s", host ? host : "");
}

void mw_log(mw_log_level level, const char *fmt, ...) {
    if (level > mw_log_get_level()) return;
    if (g_rank != 0 && level > MW_LOG_WARN && mw_log_get_level() < MW_LOG_DEBUG) return;
    static const char *const word[] = {"error: ", "warning: ", "", "debug: "};
    char line[2048];
    int n = 0;
    if (g_rank != 0 || (g_size > 1 && level <= MW_LOG_WARN))
        n = snprintf(line, sizeof line, "[rank %d%s%s] ", g_rank, g_host[0] ? " " : "", g_host);
    n += snprintf(line + n, sizeof line - (size_t)n, "%s", word[level]);
    va_list ap;
    va_start(ap, fmt);
    int body = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (body > 0) n += body;
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    line[n++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n); /* a log that cannot be written has nobody to tell */
    (void)ignored;
}
