/* worker/base/progress.h - a progress bar on stderr when it is a terminal; otherwise nothing until the end. */
#ifndef MW_BASE_PROGRESS_H
#define MW_BASE_PROGRESS_H
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef struct mw_progress {
    char what[48];
    uint64_t total, done; /* bytes */
    double started, drawn;
    int on;
} mw_progress;

/* `enabled` 0 keeps silent (other ranks, --quiet). A second bar may begin after the first has ended. */
void mw_progress_begin(mw_progress *p, const char *what, uint64_t total_bytes, int enabled);
void mw_progress_add(mw_progress *p, uint64_t bytes); /* one thread */
void mw_progress_end(mw_progress *p);                 /* wipes the line */

MW_END_DECLS
#endif
