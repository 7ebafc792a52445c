/* How groups end. Without "as" the program is a driver: it starts itself under launch/mpirun as the ranks of a scenario
 * and looks at the job from outside: how long it took, its exit code, and how often it reported. test_failure SCENARIO
 * [messages]            driver test_failure as SCENARIO [messages]         a rank
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/internal.h"
#include "tests/comm/check.h"

int g_check_rank, g_check_failures;

/* ---- the ranks ---- */

static volatile sig_atomic_t g_stick;

/* Stands in front of the library's: a launcher that is stuck. */
int MPI_Abort(MPI_Comm comm, int code) {
    while (g_stick) pause();
    return PMPI_Abort(comm, code);
}

static float g_buf[300000];

static mw_status steps(mw_comm *c, int n) {
    mw_status st = MW_OK;
    for (int i = 0; i < n && st == MW_OK; i++) st = mw_comm_all_reduce_f32(c, g_buf, i % 100 ? 300 : 300000);
    return st;
}

/* Until something happens. */
static mw_status work(mw_comm *c) {
    return steps(c, 100000);
}

static mw_status poison_with(mw_comm *c, const char *text) {
    mw_comm_poison(c, MW_FAIL(MW_ERR_NUMERIC, "%s", text));
    CHECK(strcmp(mw_error_text(), text) == 0, "poison changed the text: %s", mw_error_text());
    return MW_ERR_NUMERIC;
}

static mw_status rank_poison(mw_comm *c) {
    char byte = 0;
    if (c->rank == 2) {
        usleep(200000);
        return poison_with(c, "NaN in layer 3");
    }
    if (c->rank == 3) sleep(3); /* computes, and would find out at its next call */
    mw_status st = mw_comm_bcast(c, &byte, 1, 3, true);
    CHECK(st == MW_ERR_PEER && strstr(mw_error_text(), "rank 2 ("), "%d %s", (int)st, mw_error_text());
    char text[MW_ERROR_TEXT_MAX];
    snprintf(text, sizeof text, "%s", mw_error_text());
    uint64_t v = 1;
    CHECK(mw_comm_reduce_u64(c, &v, MW_SUM) == st && strcmp(text, mw_error_text()) == 0, "later calls differ");
    CHECK(mw_comm_agree(c, MW_OK) == st && strcmp(text, mw_error_text()) == 0, "later calls differ");
    return st;
}

/* As a follower between steps sees it: waiting without a deadline. The sender is busy. */
static mw_status rank_poison_idle(mw_comm *c) {
    char byte = 0;
    if (c->rank == 1) {
        usleep(200000);
        return poison_with(c, "out of blocks");
    }
    if (c->rank == 0) usleep(600000);
    mw_status st = mw_comm_bcast(c, &byte, 1, 0, true);
    if (st == MW_OK) st = work(c); /* rank 0 may send before it looks */
    CHECK(st == MW_ERR_PEER && strstr(mw_error_text(), "out of blocks"), "%d %s", (int)st, mw_error_text());
    return st;
}

/* As early as can be: others are still in mw_comm_open, and may come out of it without a group. */
static mw_status rank_poison_early(mw_comm *c) {
    return c->rank == 1 ? poison_with(c, "at once") : work(c);
}

static mw_status rank_poison_many(mw_comm *c) {
    mw_status st = mw_group_meet(c, MW_CALL_AGREE);
    if (st != MW_OK || c->rank == 0) return st != MW_OK ? st : work(c);
    return poison_with(c, "everyone fails");
}

/* It began on a rank that does not live to tell. */
static mw_status rank_mute(mw_comm *c) {
    if (c->rank != 1) return work(c);
    usleep(200000);
    poison_with(c, "no more memory");
    raise(SIGKILL);
    return MW_ERR_INTERNAL;
}

static mw_status rank_stop(mw_comm *c) {
    mw_status st = steps(c, 120);
    if (c->rank == 1) raise(SIGSTOP);
    return st == MW_OK ? work(c) : st;
}

/* Rank 1 waits for 0, which comes late and waits for 2, which has stopped: in shared memory 1 sees that it is 2. */
static mw_status rank_stop_chain(mw_comm *c) {
    const size_t cols[3] = {10, 10, 10};
    char byte = 0;
    float dst[30];
    if (c->rank == 2) raise(SIGSTOP);
    if (c->rank == 0) usleep(500000);
    mw_status st = mw_comm_gather_cols_f32(c, 0, g_buf, 1, cols, dst);
    return st != MW_OK ? st : mw_comm_bcast(c, &byte, 1, 0, false);
}

static mw_status rank_kill(mw_comm *c) {
    mw_status st = steps(c, 120);
    if (c->rank == 1) raise(SIGKILL);
    return st == MW_OK ? work(c) : st;
}

static mw_status rank_kill0(mw_comm *c) {
    char byte = 0;
    if (c->rank == 0) raise(SIGKILL);
    return mw_comm_bcast(c, &byte, 1, 0, true);
}

static mw_status rank_agree(mw_comm *c) {
    mw_status mine = c->rank >= 2 ? MW_FAIL(MW_ERR_NOINPUT, "cannot open 'model.h5'") : MW_OK;
    return mw_comm_agree(c, mine);
}

static mw_status rank_out_of_step(mw_comm *c) {
    uint64_t v = 0;
    return c->rank == 0 ? mw_comm_reduce_u64(c, &v, MW_MAX) : mw_comm_all_reduce_f32(c, g_buf, 300);
}

static mw_status rank_alone(mw_comm *c) {
    if (c->rank == 1) mw_comm_exit(c, 5);
    return work(c);
}

static mw_status rank_interrupt(mw_comm *c) {
    if (c->rank == 1) usleep(300000);
    mw_comm_exit(c, MW_ERR_INTERRUPTED);
}

static mw_status rank_abort_stuck(mw_comm *c) {
    g_stick = 1;
    return c->rank == 1 ? poison_with(c, "bad block") : work(c);
}

/* Ctrl-Z on the whole job for longer than the deadline is nobody's fault. */
static mw_status rank_suspended(mw_comm *c) {
    mw_status st = MW_OK;
    pid_t child = c->rank == 0 ? fork() : -1;
    if (child == 0) {
        usleep(100000);
        for (int r = 0; r < c->size; r++) kill(c->peer[r].pid, SIGSTOP);
        usleep(2500000);
        for (int r = 0; r < c->size; r++) kill(c->peer[r].pid, SIGCONT);
        _exit(0);
    }
    uint64_t go_on = 1;
    for (int64_t until = mw_now_ns() + 3000000000; st == MW_OK && go_on;) {
        go_on = mw_now_ns() < until;
        st = mw_comm_reduce_u64(c, &go_on, MW_MAX); /* all leave in the same round */
        if (c->rank == 0) usleep(2000);
    }
    if (child > 0) waitpid(child, NULL, 0);
    return st != MW_OK ? st : mw_comm_agree(c, MW_OK);
}

/* ---- the table ---- */

typedef struct {
    const char *name;
    int ranks;
    double timeout_s;
    mw_status (*rank)(mw_comm *c);
    bool keep; /* under a launcher that does not end the job when a rank dies */
    int reports_min, reports_max;
    int code;            /* expected exit code of the job; -1: any but 0 */
    const char *text[2]; /* in the report: shared memory, messages */
    double longest_s;
} scenario;

static const scenario k_scenarios[] = {
    {"poison", 4, 60, rank_poison, false, 1, 1, -1, {"NaN in layer 3", "NaN in layer 3"}, 5},
    {"poison_idle", 3, 60, rank_poison_idle, false, 1, 1, -1, {"out of blocks", "out of blocks"}, 5},
    {"poison_early", 5, 60, rank_poison_early, false, 1, 1, -1, {"at once", "at once"}, 6},
    {"poison_many", 5, 60, rank_poison_many, false, 1, 1, -1, {"everyone fails", "everyone fails"}, 6},
    {"poison_keep", 3, 60, rank_poison_idle, true, 1, 1, -1, {"out of blocks", "out of blocks"}, 8},
    {"mute", 4, 60, rank_mute, true, 1, 1, -1, {"no more memory", "no more memory"}, 8},
    {"stop", 3, 1, rank_stop, false, 1, 1, -1, {"nothing from rank 1 (", "nothing from rank 1 ("}, 8},
    {"stop_chain", 3, 1, rank_stop_chain, false, 1, 1, -1, {"nothing from rank 2 (", "nothing from rank"}, 8},
    {"kill", 3, 60, rank_kill, false, 0, 1, -1, {"rank 1", "rank 1"}, 8},
    {"kill_keep", 3, 60, rank_kill, true, 1, 1, -1, {"rank 1 (", "rank 1 ("}, 8},
    {"kill0_keep", 3, 60, rank_kill0, true, 1, 1, -1, {"rank 0 (", "rank 0 ("}, 8},
    {"agree", 4, 60, rank_agree, false, 1, 1, MW_ERR_NOINPUT, {"rank 2 (", "rank 2 ("}, 9},
    {"out_of_step", 2, 1, rank_out_of_step, false, 1, 1, -1, {"out of step", "nothing from"}, 8},
    {"alone", 3, 2, rank_alone, false, 0, 1, -1, {"rank 1 (", "nothing from"}, 9},
    {"interrupt", 3, 60, rank_interrupt, false, 0, 0, MW_ERR_INTERRUPTED, {NULL, NULL}, 9},
    {"abort_stuck", 2, 60, rank_abort_stuck, false, 1, 1, -1, {"bad block", "bad block"}, 10},
    {"suspended", 3, 1, rank_suspended, false, 0, 0, 0, {NULL, NULL}, 12},
};

static const scenario *find(const char *name) {
    for (size_t i = 0; i < sizeof k_scenarios / sizeof k_scenarios[0]; i++)
        if (strcmp(k_scenarios[i].name, name) == 0) return &k_scenarios[i];
    fprintf(stderr, "no scenario '%s'\n", name);
    exit(64);
}

static int be_a_rank(const scenario *s, bool messages) {
    mw_comm *c = NULL;
    signal(SIGUSR1, SIG_IGN); /* mpiexec -disable-auto-cleanup sends it to the others when a rank dies */
    mw_status st = mw_comm_open_on(&c, s->timeout_s, messages ? MW_TRANSPORT_MESSAGES : MW_TRANSPORT_AUTO);
    if (st == MW_OK) {
        g_check_rank = c->rank;
        st = s->rank(c);
    }
    bool mine = st != MW_OK && mw_comm_should_report(c);
    CHECK(st == MW_OK || mw_comm_should_report(c) == mine, "a second answer differs");
    if (mine) dprintf(STDERR_FILENO, "REPORT by %d, %s: %s\n", g_check_rank, mw_status_name(st), mw_error_text());
    if (g_check_failures) dprintf(STDERR_FILENO, "CHECK FAILED\n");
    mw_comm_exit(c, (int)st);
}

/* ---- the driver ---- */

typedef struct {
    int code;
    double seconds;
    size_t n;
    char out[65536];
} job;

static void run_job(const scenario *s, const char *self, bool messages, job *j) {
    char ranks[16];
    snprintf(ranks, sizeof ranks, "%d", s->ranks);
    bool open_mpi = strncmp(mw_comm_library(), "Open MPI", 8) == 0;
    const char *argv[16];
    int n = 0, fds[2];
    argv[n++] = MW_SOURCE_DIR "/launch/mpirun";
    if (s->keep && open_mpi) {
        argv[n++] = "--mca";
        argv[n++] = "orte_abort_on_non_zero_status";
        argv[n++] = "0";
    }
    if (s->keep && !open_mpi) argv[n++] = "-disable-auto-cleanup";
    argv[n++] = "-np";
    argv[n++] = ranks;
    argv[n++] = self;
    argv[n++] = "as";
    argv[n++] = s->name;
    if (messages) argv[n++] = "messages";
    argv[n] = NULL;
    if (pipe2(fds, O_CLOEXEC) != 0) exit(99);
    double began = mw_now_s();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(99);
    }
    close(fds[1]);
    /* Until the job's last process has closed the pipe: a rank that lives on counts as the job living on. */
    bool open = true;
    while (open && mw_now_s() - began < 18) {
        struct pollfd p = {.fd = fds[0], .events = POLLIN};
        if (poll(&p, 1, 100) <= 0) continue;
        ssize_t got = check_read(fds[0], j->out, sizeof j->out, j->n);
        open = got > 0;
        if (got > 0) j->n += (size_t)got;
    }
    if (open) kill(pid, SIGTERM);
    int status = 0;
    waitpid(pid, &status, 0);
    j->seconds = mw_now_s() - began;
    j->code = open ? -2 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    close(fds[0]);
}

static int drive(const scenario *s, const char *self, bool messages) {
    static job j;
    run_job(s, self, messages, &j);
    int reports = 0;
    for (const char *p = j.out; (p = strstr(p, "REPORT")) != NULL; p++) reports++;
    const char *text = s->text[messages];
    /* Hydra may fall over a killed rank itself, whatever it was told, and take the others down before they notice. */
    int least = s->keep && strncmp(mw_comm_library(), "Open MPI", 8) != 0 ? 0 : s->reports_min;
    CHECK(!strstr(j.out, "CHECK FAILED"), "a check on a rank");
    CHECK(j.code != -2, "the job did not end");
    CHECK(j.seconds < s->longest_s, "%.1f s", j.seconds);
    CHECK(s->code < 0 ? j.code != 0 : j.code == s->code, "exit code %d", j.code);
    CHECK(reports >= least && reports <= s->reports_max, "%d reports", reports);
    CHECK(!text || reports == 0 || strstr(j.out, text), "the report lacks '%s'", text);
    CHECK(s->code != MW_ERR_INTERRUPTED || !strstr(j.out, "MPI_ABORT"), "not a quiet end");
    printf("%s: %.1f s, exit code %d, %d report(s)\n", s->name, j.seconds, j.code, reports);
    if (g_check_failures || getenv("VERBOSE")) printf("---- the job's output:\n%s----\n", j.out);
    return g_check_failures ? 1 : 0;
}

int main(int argc, char **argv) {
    bool rank = argc > 1 && strcmp(argv[1], "as") == 0;
    if (argc < 2 + rank) return 64;
    const scenario *s = find(argv[1 + rank]);
    bool messages = argc > 2 + rank && strcmp(argv[2 + rank], "messages") == 0;
    return rank ? be_a_rank(s, messages) : drive(s, argv[0], messages);
}
