#include "worker/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "worker/base/log.h"

static _Thread_local char t_text[MW_ERROR_TEXT_MAX];

const char *mw_status_name(mw_status s) {
    switch (s) {
    case MW_OK: return "ok";
    case MW_ERR_USAGE: return "usage error";
    case MW_ERR_FORMAT: return "format error";
    case MW_ERR_NOINPUT: return "cannot open input";
    case MW_ERR_UNSUPPORTED: return "unsupported";
    case MW_ERR_LIMIT: return "limit exceeded";
    case MW_ERR_UNAVAIL: return "unavailable";
    case MW_ERR_INTERNAL: return "internal error";
    case MW_ERR_NOMEM: return "out of memory";
    case MW_ERR_CORRUPT: return "corrupt data";
    case MW_ERR_EXISTS: return "cannot create output";
    case MW_ERR_IO: return "input/output error";
    case MW_ERR_PEER: return "peer failure";
    case MW_ERR_TIMEOUT: return "timeout";
    case MW_ERR_NUMERIC: return "numeric fault";
    case MW_ERR_CANCELLED: return "cancelled";
    case MW_ERR_BUSY: return "busy";
    case MW_ERR_INTERRUPTED: return "interrupted";
    }
    return "unknown status";
}

mw_status mw_fail(mw_status code, const char *file, int line, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t_text, sizeof t_text, fmt, ap);
    va_end(ap);
    mw_log(MW_LOG_DEBUG, "%s:%d: %s: %s", file, line, mw_status_name(code), t_text);
    return code;
}

const char *mw_error_text(void) {
    return t_text;
}

void mw_error_set_text(const char *text) {
    if (text != t_text) snprintf(t_text, sizeof t_text, "%s", text);
}

void mw_error_prefix(const char *fmt, ...) {
    char head[MW_ERROR_TEXT_MAX], both[2 * MW_ERROR_TEXT_MAX + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    snprintf(both, sizeof both, "%s: %s", head, t_text);
    both[sizeof t_text - 1] = 0;
    memcpy(t_text, both, sizeof t_text);
}
