/* worker/base/io.h - files: reading whole ones, exact positioned reads, and outputs that appear whole or not at all. */
#ifndef MW_BASE_IO_H
#define MW_BASE_IO_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

/* Exactly n bytes at `offset`; retries short reads. MW_ERR_IO names `path`, offset, expected and found. */
MW_MUST_CHECK mw_status mw_pread(int fd, const char *path, void *dst, size_t n, uint64_t offset);
/* Exactly n bytes at `offset`. MW_ERR_IO names `path` and the cause ("No space left on device"). */
MW_MUST_CHECK mw_status mw_pwrite(int fd, const char *path, const void *src, size_t n, uint64_t offset);

/* Whole file appended to *out. MW_ERR_NOINPUT if it cannot be opened, MW_ERR_LIMIT if larger than max bytes. */
MW_MUST_CHECK mw_status mw_read_file(const char *path, size_t max, mw_str *out);

/* true if something is there under this name. */
bool mw_exists(const char *path);
bool mw_is_dir(const char *path);

/* An output file under construction: written as "<path>.tmp.<pid>" beside the target, renamed on commit. A process that
 * fails, or is told to stop by a signal that ends in mw_outfile_abort, leaves neither the target nor the temporary. */
typedef struct mw_outfile {
    char *path, *tmp;
    int fd; /* -1 when a library has opened `tmp` itself */
} mw_outfile;

/* force false and the target exists: MW_ERR_EXISTS, nothing created. want_fd: also create and open the temporary. */
MW_MUST_CHECK mw_status mw_outfile_begin(mw_outfile *o, const char *path, bool force, bool want_fd);
/* fsync, rename over the target, fsync the folder. On failure the temporary is removed. */
MW_MUST_CHECK mw_status mw_outfile_commit(mw_outfile *o);
void mw_outfile_abort(mw_outfile *o); /* also legal on {0}, after commit, and twice */

/* Remove all temporaries of this process that are not committed; async-signal-safe, for a SIGINT handler of a tool. */
void mw_outfile_abort_all(void);

MW_END_DECLS
#endif
