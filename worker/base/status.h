/* worker/base/status.h - one status type for every layer, and the text that goes with a failure.
 *
 * 0 is success. Every other value is also the process exit code of the tools, so a script can tell a bad flag from a
 * bad file from a dead peer. Codes follow <sysexits.h> where it has a fitting one; 77 is left free (ctest's "skipped").
 *
 * Whoever first detects a fault calls MW_FAIL with the name, the expected and the found value; callers pass the status
 * on in silence. MW_FAIL records, it does not print: the text stays with the thread until somebody who owns a user
 * (a main, mw_comm_agree, an embedder) takes it with mw_error_text(). So a fault is reported once, wherever it began.
 */
#ifndef MW_BASE_STATUS_H
#define MW_BASE_STATUS_H
#include <stddef.h>

#ifdef __cplusplus
#define MW_BEGIN_DECLS extern "C" {
#define MW_END_DECLS   }
#else
#define MW_BEGIN_DECLS
#define MW_END_DECLS
#endif

#if defined(__GNUC__)
#define MW_API __attribute__((visibility("default"))) /* part of the shared library's face; all else is hidden */
#else
#define MW_API
#endif

#if defined(__GNUC__) || defined(__clang__)
#define MW_MUST_CHECK   __attribute__((warn_unused_result))
#define MW_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define MW_MUST_CHECK
#define MW_PRINTF(f, a)
#endif

MW_BEGIN_DECLS

typedef enum mw_status {
    MW_OK = 0,
    MW_ERR_USAGE = 64,       /* a flag, a request field or an argument is wrong */
    MW_ERR_FORMAT = 65,      /* a file is not what it should be: schema, shape, dtype, JSON */
    MW_ERR_NOINPUT = 66,     /* an input cannot be opened */
    MW_ERR_UNSUPPORTED = 67, /* understood, named and refused: a model type, a quantisation, a template */
    MW_ERR_LIMIT = 68,       /* beyond a stated limit: ranks, context, memory, queue */
    MW_ERR_UNAVAIL = 69,     /* a backend or device that this build or machine does not have */
    MW_ERR_INTERNAL = 70,    /* our own fault */
    MW_ERR_NOMEM = 71,
    MW_ERR_CORRUPT = 72, /* bytes that were right once: checksum mismatch, NaN scale */
    MW_ERR_EXISTS = 73,  /* output exists (no --force) or cannot be created */
    MW_ERR_IO = 74,      /* a read or write failed; disk full */
    MW_ERR_PEER = 75,    /* another rank died, or failed and said so */
    MW_ERR_TIMEOUT = 76, /* another rank was silent past the deadline */
    MW_ERR_NUMERIC = 78, /* NaN or infinity where a number must be */
    MW_ERR_CANCELLED = 79,
    MW_ERR_BUSY = 80,         /* too much work at once: the same request may succeed later */
    MW_ERR_INTERRUPTED = 130, /* the user ended the job (128 + SIGINT) */
} mw_status;

/* A short name such as "format error"; never NULL, also for values that are not in the enum. */
MW_API const char *mw_status_name(mw_status s);

/* Record a failure of this thread and return `code`. `fmt` is one line without a final newline. The previous text of
 * this thread is replaced. file/line are shown only at log level debug. */
mw_status mw_fail(mw_status code, const char *file, int line, const char *fmt, ...) MW_PRINTF(4, 5);
#define MW_FAIL(code, ...) mw_fail((code), __FILE__, __LINE__, __VA_ARGS__)

/* The text of this thread's last failure; "" when there is none. Valid until the next MW_FAIL of the thread. */
MW_API const char *mw_error_text(void);

/* Put text under this thread: used to carry a worker thread's or another rank's failure to the caller's thread. */
void mw_error_set_text(const char *text);

/* Add "prefix: " in front of the recorded text (a caller that knows the file or tensor name). */
void mw_error_prefix(const char *fmt, ...) MW_PRINTF(1, 2);

#define MW_ERROR_TEXT_MAX 1024 /* bytes kept, including the final zero */

/* For functions with one exit label: `fail:` is also reached on success. */
#define MW_TRY(st, expr)                                                                                               \
    do {                                                                                                               \
        if (((st) = (expr)) != MW_OK) goto fail;                                                                       \
    } while (0)

MW_END_DECLS
#endif
