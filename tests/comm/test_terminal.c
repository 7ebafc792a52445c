/* A person at a terminal in front of launch/mpirun: rank 0 knows of the terminal, gets the lines typed there, and
 * Ctrl-C reaches it without ending the job. The driver plays the person on a pseudo-terminal. */
#include "comm/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/internal.h"
#include "tests/comm/check.h"

int g_check_rank, g_check_failures;

/* ---- the ranks ---- */

static volatile sig_atomic_t g_interrupts;

static void on_interrupt(int sig) {
    (void)sig;
    g_interrupts++;
}

/* Lines are echoed until the end of input, or the second Ctrl-C; everyone then leaves with the same code. */
static int32_t converse(void) {
    char line[256];
    int told = 0;
    dprintf(STDERR_FILENO, "terminal %s\n", mw_stdin_is_user_terminal() ? "yes" : "no");
    for (;;) {
        struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
        int ready = poll(&p, 1, 50);
        for (; told < g_interrupts; told++) dprintf(STDERR_FILENO, "interrupt %d\n", told + 1);
        if (told >= 2) return MW_ERR_INTERRUPTED;
        if (ready <= 0) continue;
        ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);
        if (n <= 0) return 0;
        line[n] = 0;
        line[strcspn(line, "\n")] = 0;
        dprintf(STDERR_FILENO, "got %s.\n", line);
    }
}

static int be_a_rank(void) {
    mw_comm *c = NULL;
    int32_t code = 0;
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_interrupt;
    sigaction(SIGUSR1, &a, NULL);
    if (mw_comm_open(&c, 20) != MW_OK) return 1;
    if (c->rank == 0) code = converse();
    if (mw_comm_bcast(c, &code, sizeof code, 0, true) != MW_OK) code = 1;
    mw_comm_exit(c, code);
}

/* ---- the driver ---- */

typedef struct {
    int fd;
    pid_t pid;
    size_t n;
    char out[16384];
} session;

static void start(session *s, const char *self, bool terminal) {
    static const char *const argv[] = {MW_SOURCE_DIR "/launch/mpirun", "-np", "2", NULL, "as", NULL};
    const char *args[6];
    memcpy(args, argv, sizeof args);
    args[3] = self;
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    memset(s, 0, sizeof *s);
    if (!terminal && (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0)) exit(99);
    s->pid = terminal ? forkpty(&s->fd, NULL, NULL, NULL) : fork();
    if (s->pid == 0) {
        if (!terminal) {
            dup2(to[0], STDIN_FILENO);
            dup2(from[1], STDOUT_FILENO);
            dup2(from[1], STDERR_FILENO);
        }
        execv(args[0], (char *const *)(uintptr_t)args);
        _exit(99);
    }
    if (terminal) return;
    close(to[0]);
    close(from[1]);
    s->fd = from[0];
    if (write(to[1], "piped\n", 6) != 6) exit(99);
    close(to[1]);
}

static bool expect(session *s, const char *text) {
    for (double until = mw_now_s() + 8; mw_now_s() < until && !strstr(s->out, text);) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        if (poll(&p, 1, 100) <= 0) continue;
        ssize_t n = check_read(s->fd, s->out, sizeof s->out, s->n);
        if (n <= 0) break;
        s->n += (size_t)n;
        s->out[s->n] = 0;
    }
    bool found = strstr(s->out, text) != NULL;
    CHECK(found, "'%s' does not come; so far:\n%s", text, s->out);
    return found;
}

static void type(session *s, const char *keys) {
    CHECK(write(s->fd, keys, strlen(keys)) == (ssize_t)strlen(keys), "cannot type");
}

static int end(session *s) {
    int status = -1;
    for (int i = 0; i < 80; i++) {
        char rest[512];
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        if (poll(&p, 1, 100) > 0 && read(s->fd, rest, sizeof rest) <= 0)
            usleep(100000); /* keeps the job's output flowing */
        if (waitpid(s->pid, &status, WNOHANG) == s->pid) break;
    }
    if (status == -1) kill(s->pid, SIGTERM);
    close(s->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void drive(const char *self) {
    static session s;
    start(&s, self, true);
    if (expect(&s, "terminal yes")) {
        type(&s, "first\n");
        expect(&s, "got first.");
        type(&s, "\x03");
        expect(&s, "interrupt 1");
        type(&s, "second\n");
        expect(&s, "got second.");
        type(&s, "\x03");
        expect(&s, "interrupt 2");
    }
    CHECK(!strstr(s.out, "orwarding"), "mpirun talks about signals:\n%s", s.out);
    int code = end(&s);
    CHECK(code == MW_ERR_INTERRUPTED, "exit code %d after two Ctrl-C", code);

    start(&s, self, true);
    if (expect(&s, "terminal yes")) type(&s, "\x04");
    code = end(&s);
    CHECK(code == 0, "exit code %d after Ctrl-D", code);

    start(&s, self, false);
    expect(&s, "terminal no");
    expect(&s, "got piped.");
    code = end(&s);
    CHECK(code == 0, "exit code %d with piped input", code);
}

int main(int argc, char **argv) {
    if (argc > 1) return be_a_rank();
    drive(argv[0]);
    return g_check_failures ? 1 : 0;
}
