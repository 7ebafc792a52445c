#include <signal.h>
#include <unistd.h>

#include "worker/tools/cli.h"

static volatile sig_atomic_t g_interrupts, g_terminated;
static unsigned g_grace_s;

static void on_interrupt(int sig) {
    (void)sig;
    g_interrupts++;
}

static void on_terminate(int sig) {
    (void)sig;
    g_terminated++;
}

/* A follower's SIGTERM: rank 0 has got one too and ends the job in order; should its word not come, SIGALRM ends us. */
static void on_follower_terminate(int sig) {
    (void)sig;
    alarm(g_grace_s);
}

static void handle(int sig, void (*fn)(int)) {
    struct sigaction a = {.sa_handler = fn}; /* no SA_RESTART: a wait for input must end */
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);
}

void cli_signals_install(bool rank0, double grace_s) {
    g_grace_s = (unsigned)grace_s + 1;
    handle(SIGXFSZ, SIG_IGN); /* a file at its size limit likewise */
    handle(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write(2), told in words */
    handle(SIGINT, rank0 ? on_interrupt : SIG_IGN);
    handle(SIGUSR1, rank0 ? on_interrupt : SIG_IGN);
    handle(SIGTERM, rank0 ? on_terminate : on_follower_terminate);
}

int cli_interrupts(void) {
    return g_interrupts;
}
void cli_interrupts_clear(void) {
    g_interrupts = 0;
}
bool cli_terminated(void) {
    return g_terminated != 0;
}
bool cli_stopping(void) {
    return g_terminated || g_interrupts;
}
int cli_stop_level(void) {
    int n = (int)g_terminated + (int)g_interrupts;
    return n < 2 ? n : 2;
}
