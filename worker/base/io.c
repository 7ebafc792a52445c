#include "worker/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

mw_status mw_pread(int fd, const char *path, void *dst, size_t n, uint64_t offset) {
    size_t done = 0;
    while (done < n) {
        ssize_t r = pread(fd, (char *)dst + done, n - done, (off_t)(offset + done));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0)
            return MW_FAIL(MW_ERR_IO, "%s: read at byte %llu: %s", path, (unsigned long long)offset, strerror(errno));
        if (r == 0)
            return MW_FAIL(MW_ERR_IO, "%s: file ends at byte %llu, expected %zu bytes from %llu", path,
                           (unsigned long long)(offset + done), n, (unsigned long long)offset);
        done += (size_t)r;
    }
    return MW_OK;
}

mw_status mw_pwrite(int fd, const char *path, const void *src, size_t n, uint64_t offset) {
    size_t done = 0;
    while (done < n) {
        ssize_t r = pwrite(fd, (const char *)src + done, n - done, (off_t)(offset + done));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0)
            return MW_FAIL(MW_ERR_IO, "%s: write at byte %llu: %s", path, (unsigned long long)offset, strerror(errno));
        done += (size_t)r;
    }
    return MW_OK;
}

/* What is left in fd, appended. */
static mw_status read_rest(int fd, const char *path, size_t max, mw_str *out) {
    mw_status st = MW_OK;
    struct stat sb;
    if (fstat(fd, &sb) != 0 || S_ISDIR(sb.st_mode)) return MW_FAIL(MW_ERR_NOINPUT, "%s: is not a file", path);
    size_t start = out->n;
    for (;;) { /* not sized by st_size: pipes and /proc files have none */
        size_t want = out->n == start && sb.st_size > 0 ? (size_t)sb.st_size + 1 : 65536;
        if (want > max + 1) want = max + 1;
        MW_TRY(st, mw_str_reserve(out, want));
        ssize_t r = read(fd, out->p + out->n, want);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return MW_FAIL(MW_ERR_IO, "%s: %s", path, strerror(errno));
        if (r == 0) break;
        out->n += (size_t)r;
        if (out->n - start > max) return MW_FAIL(MW_ERR_LIMIT, "%s: larger than %zu bytes", path, max);
    }
    MW_TRY(st, mw_str_add(out, "", 0));
fail:
    return st;
}

mw_status mw_read_file(const char *path, size_t max, mw_str *out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return MW_FAIL(MW_ERR_NOINPUT, "%s: %s", path, strerror(errno));
    mw_status st = read_rest(fd, path, max, out);
    close(fd);
    return st;
}

mw_status mw_open_regular(const char *path, int *fd) {
    struct stat sb;
    int f = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* O_NONBLOCK: a FIFO without a writer opens at once */
    if (f < 0) return MW_FAIL(MW_ERR_NOINPUT, "%s: %s", path, strerror(errno));
    if (fstat(f, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        close(f);
        return MW_FAIL(MW_ERR_NOINPUT, "%s: is not a regular file", path);
    }
    *fd = f;
    return MW_OK;
}

mw_status mw_read_regular(const char *path, size_t max, mw_str *out) {
    int fd = -1;
    mw_status st = mw_open_regular(path, &fd);
    if (st != MW_OK) return st;
    st = read_rest(fd, path, max, out);
    close(fd);
    return st;
}

bool mw_exists(const char *path) {
    struct stat sb;
    return lstat(path, &sb) == 0;
}

bool mw_is_dir(const char *path) {
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

/* Temporaries that a signal handler must remove. A slot holds the string of an mw_outfile; whoever takes it out owns
 * it. The handler may run on one thread while another commits: so it takes the string too, and never reads freed
 * memory. A handler can use these slots because they are lock-free. */
#define MAX_OPEN 64
static _Atomic(char *) g_open[MAX_OPEN];
_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2, "a signal handler reads g_open");

static bool remember(char *tmp) {
    for (int i = 0; i < MAX_OPEN; i++) {
        char *empty = NULL;
        if (atomic_compare_exchange_strong(&g_open[i], &empty, tmp)) return true;
    }
    return false;
}

/* Not found: a handler has taken the string, and the process is about to end. */
static void forget_and_free(char *tmp) {
    for (int i = 0; i < MAX_OPEN; i++) {
        char *mine = tmp;
        if (!atomic_compare_exchange_strong(&g_open[i], &mine, NULL)) continue;
        free(tmp);
        return;
    }
}

void mw_outfile_abort_all(void) {
    for (int i = 0; i < MAX_OPEN; i++) {
        char *tmp = atomic_exchange(&g_open[i], NULL);
        if (tmp) unlink(tmp);
    }
}

mw_status mw_outfile_begin(mw_outfile *o, const char *path, bool force, bool want_fd) {
    mw_status st = MW_OK;
    struct stat sb;
    uint64_t r;
    *o = (mw_outfile){.force = force, .fd = -1};
    if (lstat(path, &sb) == 0) {
        if (!force) return MW_FAIL(MW_ERR_EXISTS, "%s: exists; --force overwrites it", path);
        if (!S_ISREG(sb.st_mode)) return MW_FAIL(MW_ERR_EXISTS, "%s: exists and is not a regular file", path);
    }
    if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r)
        return MW_FAIL(MW_ERR_IO, "%s: getrandom: %s", path, strerror(errno));
    size_t n = strlen(path) + 64;
    MW_TRY(st, MW_CALLOC(&o->path, n, "output path"));
    MW_TRY(st, MW_CALLOC(&o->tmp, n, "output path"));
    snprintf(o->path, n, "%s", path);
    snprintf(o->tmp, n, "%s.tmp.%ld.%016llx", path, (long)getpid(), (unsigned long long)r);
    if (!remember(o->tmp)) { /* before it exists: a signal may come in between */
        st = MW_FAIL(MW_ERR_LIMIT, "%s: more than %d outputs at once", path, MAX_OPEN);
        goto fail;
    }
    /* In a folder that others may write to, nobody's link is followed and nobody's file taken. A library that opens
     * `tmp` again, by its name, finds the file that is made here. */
    int fd = open(o->tmp, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = MW_FAIL(MW_ERR_EXISTS, "%s: cannot create: %s", o->tmp, strerror(errno));
        forget_and_free(o->tmp);
        o->tmp = NULL;
        goto fail;
    }
    if (want_fd)
        o->fd = fd;
    else
        close(fd);
    return MW_OK;
fail:
    free(o->path);
    free(o->tmp);
    *o = (mw_outfile){.fd = -1};
    return st;
}

void mw_fsync_folder(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

void mw_fsync_parent(const char *path) {
    char *dir = strdup(path);
    if (!dir) return;
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir ? 1 : 0] = 0;
    mw_fsync_folder(slash ? dir : ".");
    free(dir);
}

/* Rename where there is nothing yet; 0, or -1 with errno EEXIST or another. */
static int rename_new(const char *from, const char *to) {
    struct stat sb;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    if (link(from, to) == 0) return unlink(from); /* NFS, for one, knows no RENAME_NOREPLACE */
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) return -1;
    /* Neither, as on some FUSE file systems: look, then rename. Losing the output would be worse than the gap. */
    if (lstat(to, &sb) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

mw_status mw_outfile_commit(mw_outfile *o) {
    mw_status st = MW_OK;
    int fd = o->fd >= 0 ? o->fd : open(o->tmp, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    o->fd = fd;
    if (fd < 0 || fsync(fd) != 0) {
        st = MW_FAIL(MW_ERR_IO, "%s: fsync: %s", o->tmp, strerror(errno));
        goto fail;
    }
    if ((o->force ? rename(o->tmp, o->path) : rename_new(o->tmp, o->path)) != 0) {
        if (!o->force && errno == EEXIST)
            st = MW_FAIL(MW_ERR_EXISTS, "%s: exists by now; --force overwrites it", o->path);
        else
            st = MW_FAIL(MW_ERR_IO, "%s: rename to %s: %s", o->tmp, o->path, strerror(errno));
        goto fail;
    }
    forget_and_free(o->tmp);
    mw_fsync_parent(o->path);
    close(o->fd);
    free(o->path);
    *o = (mw_outfile){.fd = -1};
    return MW_OK;
fail:
    mw_outfile_abort(o);
    return st;
}

void mw_outfile_abort(mw_outfile *o) {
    if (!o->tmp) return;
    if (o->fd >= 0) close(o->fd);
    unlink(o->tmp);
    forget_and_free(o->tmp);
    free(o->path);
    *o = (mw_outfile){.fd = -1};
}
