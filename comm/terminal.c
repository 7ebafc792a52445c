/* Under mpirun rank 0's standard input is a pipe even when the user sits at a terminal. */
#include "comm/terminal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Name and parent of a process, from "pid (name) state ppid ...". The name may itself hold spaces and brackets. */
static bool process_name(pid_t pid, char name[32], pid_t *parent) {
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *f = fopen(path, "re");
    if (!f) return false;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    char *open = strchr(line, '('), *close = strrchr(line, ')');
    if (!open || !close || close < open || strlen(close) < 5) return false;
    *close = 0;
    snprintf(name, 32, "%s", open + 1);
    *parent = (pid_t)strtol(close + 4, NULL, 10); /* behind ") S " */
    return *parent > 0;
}

/* The kernel keeps 15 characters of a name. */
static bool is_launcher(const char *name) {
    static const char *const k_prefix[] = {"mpirun", "mpiexec", "orterun", "prterun", "prun", "hydra_pmi_proxy"};
    for (size_t i = 0; i < sizeof k_prefix / sizeof k_prefix[0]; i++)
        if (strncmp(name, k_prefix[i], strlen(k_prefix[i])) == 0) return true;
    return false;
}

static bool stdin_of_is_terminal(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/0", (long)pid);
    int fd = open(path, O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return false;
    bool yes = isatty(fd) == 1;
    close(fd);
    return yes;
}

bool mw_stdin_is_user_terminal(void) {
    if (isatty(STDIN_FILENO)) return true;
    struct stat in;
    /* Launchers hand input on through a pipe or socket; a file or /dev/null is somebody's choice. */
    if (fstat(STDIN_FILENO, &in) != 0 || !(S_ISFIFO(in.st_mode) || S_ISSOCK(in.st_mode))) return false;
    pid_t pid = getppid();
    for (int up = 0; up < 3; up++) { /* Hydra: mpiexec - proxy - rank */
        char name[32];
        pid_t parent;
        if (!process_name(pid, name, &parent) || !is_launcher(name)) return false;
        if (stdin_of_is_terminal(pid)) return true;
        pid = parent;
    }
    return false;
}
