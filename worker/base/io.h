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

/* Whole file appended to *out. MW_ERR_NOINPUT if it cannot be opened, MW_ERR_LIMIT if larger than max bytes. Waits for
 * the writer of a pipe: for what the user names as text, standard input included. */
MW_MUST_CHECK mw_status mw_read_file(const char *path, size_t max, mw_str *out);

/* For the files of a model, which nobody wants to wait for: MW_ERR_NOINPUT at once unless `path` is a regular file, or
 * a link to one. */
MW_MUST_CHECK mw_status mw_open_regular(const char *path, int *fd); /* read-only; close it */
MW_MUST_CHECK mw_status mw_read_regular(const char *path, size_t max, mw_str *out);

/* true if something is there under this name. */
bool mw_exists(const char *path);
bool mw_is_dir(const char *path);

/* Make the entries of a folder durable, or those of the folder that `path` lies in. Best effort: some network file
 * systems refuse it, and what was written stands either way. */
void mw_fsync_folder(const char *dir);
void mw_fsync_parent(const char *path);

/* An output file under construction: written as "<path>.tmp.<pid>.<random>" beside the target, renamed on commit. A
 * process that fails, or is told to stop by a signal that ends in mw_outfile_abort, leaves neither the target nor the
 * temporary. */
typedef struct mw_outfile {
    char *path, *tmp;
    bool force;
    int fd; /* -1 when a library has opened `tmp` itself */
} mw_outfile;

/* force false and the target exists: MW_ERR_EXISTS, nothing created. The temporary is created, and was not there
 * before; want_fd: it also stays open in `fd`. */
MW_MUST_CHECK mw_status mw_outfile_begin(mw_outfile *o, const char *path, bool force, bool want_fd);
/* fsync, rename to the target, fsync the folder. Without force a target that has come up since mw_outfile_begin is
 * kept: MW_ERR_EXISTS. On failure the temporary is removed. */
MW_MUST_CHECK mw_status mw_outfile_commit(mw_outfile *o);
void mw_outfile_abort(mw_outfile *o); /* also legal on {0}, after commit, and twice */

/* Remove all temporaries of this process that are not committed; async-signal-safe, for a SIGINT handler of a tool. */
void mw_outfile_abort_all(void);

MW_END_DECLS
#endif
