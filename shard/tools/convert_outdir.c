#include "shard/tools/convert_outdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/base/io.h"

/* What a signal handler must remove: paths that stay allocated until the folder is committed or aborted. */
#define MAX_FILES 1024
static _Atomic(char *) g_file[MAX_FILES];
static atomic_int g_n_files;
static _Atomic(char *) g_dir;

void mw_outdir_abort_all(void) {
    char *dir = atomic_load(&g_dir);
    if (!dir) return;
    int n = atomic_load(&g_n_files);
    for (int i = 0; i < n; i++) {
        char *f = atomic_load(&g_file[i]);
        if (f) unlink(f);
    }
    rmdir(dir);
}

static void forget(mw_outdir *o) {
    atomic_store(&g_dir, NULL);
    for (int i = 0; i < atomic_load(&g_n_files); i++) free(atomic_exchange(&g_file[i], NULL));
    atomic_store(&g_n_files, 0);
    free(o->path);
    free(o->tmp);
    *o = (mw_outdir){0};
}

static bool is_empty(const char *path) {
    int n = 0;
    DIR *d = opendir(path);
    if (!d) return false;
    for (const struct dirent *e; (e = readdir(d));) n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n == 0;
}

mw_status mw_outdir_begin(mw_outdir *o, const char *path) {
    mw_status st = MW_OK;
    mw_str tmp = {0};
    *o = (mw_outdir){0};
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--; /* "link/" would be the folder behind the link */
    o->path = strndup(path, n);
    if (!o->path) return MW_FAIL(MW_ERR_NOMEM, "output path");
    /* the rename in the end would refuse them all, but asking first gives the better error, and early */
    struct stat sb;
    bool there = lstat(o->path, &sb) == 0;
    if (there && !S_ISDIR(sb.st_mode)) {
        st = MW_FAIL(MW_ERR_EXISTS, "%s: exists and is not a folder", o->path);
        goto fail;
    }
    if (there && !is_empty(o->path)) {
        st = MW_FAIL(MW_ERR_EXISTS, "%s: exists and is not empty; --force does not empty folders", o->path);
        goto fail;
    }
    MW_TRY(st, mw_str_addf(&tmp, "%s.tmp.%ld", o->path, (long)getpid()));
    o->tmp = tmp.p;
    atomic_store(&g_dir, o->tmp); /* before it is there: a signal may come in between */
    if (mkdir(o->tmp, 0777) != 0) {
        st = MW_FAIL(MW_ERR_EXISTS, "%s: cannot create: %s", o->tmp, strerror(errno));
        atomic_store(&g_dir, NULL);
        goto fail;
    }
    return MW_OK;
fail:
    free(o->path);
    free(tmp.p);
    *o = (mw_outdir){0};
    return st;
}

mw_status mw_outdir_file(mw_outdir *o, const char *name, int *fd, char **file_path) {
    mw_status st = MW_OK;
    mw_str path = {0};
    int slot = atomic_load(&g_n_files);
    if (slot == MAX_FILES) return MW_FAIL(MW_ERR_LIMIT, "%s: more than %d files", o->path, MAX_FILES);
    MW_TRY(st, mw_str_addf(&path, "%s/%s", o->tmp, name));
    char *copy = strdup(path.p);
    if (!copy) {
        st = MW_FAIL(MW_ERR_NOMEM, "output path");
        goto fail;
    }
    atomic_store(&g_file[slot], copy); /* before it is there, as above */
    atomic_store(&g_n_files, slot + 1);
    *fd = open(path.p, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (*fd < 0) {
        st = MW_FAIL(MW_ERR_EXISTS, "%s: cannot create: %s", path.p, strerror(errno));
        goto fail;
    }
    *file_path = path.p;
    return MW_OK;
fail:
    mw_str_free(&path);
    return st;
}

mw_status mw_outdir_text(mw_outdir *o, const char *name, const void *bytes, size_t n) {
    mw_status st = MW_OK;
    int fd = -1;
    char *path = NULL;
    MW_TRY(st, mw_outdir_file(o, name, &fd, &path));
    MW_TRY(st, mw_pwrite(fd, path, bytes, n, 0));
    if (fsync(fd) != 0) st = MW_FAIL(MW_ERR_IO, "%s: fsync: %s", path, strerror(errno));
fail:
    if (fd >= 0) close(fd);
    free(path);
    return st;
}

mw_status mw_outdir_commit(mw_outdir *o) {
    mw_fsync_folder(o->tmp);
    if (rename(o->tmp, o->path) != 0) {
        mw_status st = MW_FAIL(MW_ERR_IO, "%s: rename to %s: %s", o->tmp, o->path, strerror(errno));
        mw_outdir_abort(o);
        return st;
    }
    mw_fsync_parent(o->path);
    forget(o);
    return MW_OK;
}

void mw_outdir_abort(mw_outdir *o) {
    if (!o->tmp) return;
    mw_outdir_abort_all();
    forget(o);
}
