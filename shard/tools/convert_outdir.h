/* shard/tools/convert_outdir.h - an output folder that appears whole or not at all: built as "<path>.tmp.<pid>" and
 * renamed. One at a time in a process. */
#ifndef MW_SHARD_CONVERT_OUTDIR_H
#define MW_SHARD_CONVERT_OUTDIR_H
#include "worker/base/mem.h"
MW_BEGIN_DECLS

typedef struct mw_outdir {
    char *path, *tmp;
} mw_outdir;

/* MW_ERR_EXISTS unless `path` is absent or an empty folder (a link to one is not). */
MW_MUST_CHECK mw_status mw_outdir_begin(mw_outdir *o, const char *path);
/* Create a file in it, open for writing. `file_path` receives its path, for errors; free it. */
MW_MUST_CHECK mw_status mw_outdir_file(mw_outdir *o, const char *name, int *fd, char **file_path);
/* A whole small file, on the disk (fsync). */
MW_MUST_CHECK mw_status mw_outdir_text(mw_outdir *o, const char *name, const void *bytes, size_t n);
/* Rename into place, fsync both folders; the caller has synced its mw_outdir_file files. On failure all is removed. */
MW_MUST_CHECK mw_status mw_outdir_commit(mw_outdir *o);
void mw_outdir_abort(mw_outdir *o); /* also legal on {0} and after commit */

/* Remove what there is; async-signal-safe, for a SIGINT handler. */
void mw_outdir_abort_all(void);

MW_END_DECLS
#endif
