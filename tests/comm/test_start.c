/* Starting without a launcher, under the wrong one, and with odd arguments. The program runs itself with the
 * environment in question: test_start as CASE is the process under test. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/internal.h"
#include "tests/comm/check.h"

int g_check_rank, g_check_failures;

static const char *g_self;

/* ---- the process under test ---- */

static int as_alone(void) {
    mw_comm *c = NULL;
    int started = 0, cores = 0;
    bool crowded = true;
    double t0 = mw_now_s();
    if (mw_comm_open(&c, 5) != MW_OK) return 1;
    double ms = (mw_now_s() - t0) * 1e3;
    MPI_Initialized(&started);
    CHECK(!started, "MPI was started for a group of one");
    CHECK(mw_comm_size(c) == 1 && mw_comm_rank(c) == 0 && mw_comm_local_size(c) == 1, "not alone");
    CHECK(strlen(mw_comm_host(c)) > 0, "no host name");
    CHECK(mw_comm_cpu_share(c, &cores, &crowded) == MW_OK && cores >= 1 && !crowded, "share %d", cores);
    float x[4] = {1, 2, 3, 4}, y[4] = {0};
    const size_t cols[1] = {2};
    CHECK(mw_comm_all_reduce_f32(c, x, 4) == MW_OK && x[3] == 4, "all-reduce alone");
    CHECK(mw_comm_gather_cols_f32(c, -1, x, 2, cols, y) == MW_OK && y[3] == 4, "gather alone");
    CHECK(mw_comm_bcast(c, x, sizeof x, 0, true) == MW_OK, "broadcast alone");
    mw_error_set_text("something");
    CHECK(mw_comm_agree(c, MW_ERR_IO) == MW_ERR_IO && strcmp(mw_error_text(), "something") == 0, "%s", mw_error_text());
    CHECK(mw_comm_should_report(c), "nobody reports");
    mw_comm_close(c);
    CHECK(mw_comm_open(&c, 5) == MW_OK, "a second group: %s", mw_error_text());
    CHECK(mw_comm_open(&c, 0) == MW_ERR_USAGE, "timeout 0");
    CHECK(mw_comm_open(&c, -1) == MW_ERR_USAGE, "timeout -1");
    CHECK(mw_comm_open(&c, NAN) == MW_ERR_USAGE, "timeout NaN");
    CHECK(mw_comm_open(&c, INFINITY) == MW_ERR_USAGE, "timeout infinity");
    mw_comm_poison(c, MW_FAIL(MW_ERR_IO, "bad disk"));
    CHECK(mw_comm_all_reduce_f32(c, x, 4) == MW_ERR_IO && strcmp(mw_error_text(), "bad disk") == 0, "after poison");
    CHECK(mw_comm_should_report(c), "nobody reports");
    mw_comm_close(c);
    mw_comm_close(NULL);
    printf("alone: opened in %.2f ms\n", ms);
    mw_comm_exit(NULL, g_check_failures ? 1 : 0);
}

/* A launcher of another MPI. */
static int as_lost(void) {
    mw_comm *c = NULL;
    mw_status st = mw_comm_open(&c, 5);
    if (mw_comm_should_report(c)) printf("REPORT %d: %s\n", (int)st, mw_error_text());
    mw_comm_exit(c, (int)st);
}

static int as_embedded(int level, bool enough) {
    mw_comm *c = NULL;
    int provided = 0, ended = 0;
    MPI_Init_thread(NULL, NULL, level, &provided);
    if (enough && provided < MPI_THREAD_SERIALIZED) return 77;
    mw_status st = mw_comm_open(&c, 5);
    CHECK(st == (enough ? MW_OK : MW_ERR_USAGE), "%d %s", (int)st, mw_error_text());
    mw_comm_close(c);
    MPI_Finalized(&ended);
    CHECK(!ended, "MPI was finalised by a group that had not started it");
    if (enough) CHECK(mw_comm_open(&c, 5) == MW_OK, "a second group: %s", mw_error_text());
    if (enough) mw_comm_close(c);
    MPI_Finalize();
    CHECK(mw_comm_open(&c, 5) == MW_OK, "alone after MPI has ended: %s", mw_error_text());
    mw_comm_exit(c, g_check_failures ? 1 : 0);
}

/* MPI_Init that never returns, or that does in time. */
static int as_guarded(bool stuck) {
    mw_guard_end(mw_guard_begin(5, 0, "a quick call"));
    mw_guard *g = mw_guard_begin(0.2, 1, "a call that is stuck");
    if (stuck) sleep(5);
    mw_guard_end(g);
    return 0;
}

static int process_under_test(const char *name) {
    if (strcmp(name, "guarded") == 0) return as_guarded(false);
    if (strcmp(name, "stuck") == 0) return as_guarded(true);
    if (strcmp(name, "alone") == 0) return as_alone();
    if (strcmp(name, "lost") == 0) return as_lost();
    if (strcmp(name, "embedded") == 0) return as_embedded(MPI_THREAD_SERIALIZED, true);
    return as_embedded(MPI_THREAD_FUNNELED, false);
}

/* ---- the driver ---- */

typedef struct {
    int code;
    char out[8192];
} result;

/* `given`: NAME=VALUE pairs, NULL-terminated, at most 20. No PATH: neither ssh nor orted can be found. */
static result run(const char *name, const char *const *given) {
    static const char *const sanitizers[] = {"ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"};
    static char kept[4][512];
    result r = {.code = -1};
    const char *const argv[] = {g_self, "as", name, NULL};
    const char *env[32];
    int fds[2], n_env = 0;
    for (; given[n_env]; n_env++) env[n_env] = given[n_env];
    for (int i = 0; i < 4; i++) {
        const char *v = getenv(sanitizers[i]);
        if (!v) continue;
        snprintf(kept[i], sizeof kept[i], "%s=%s", sanitizers[i], v);
        env[n_env++] = kept[i];
    }
    env[n_env] = NULL;
    if (pipe2(fds, O_CLOEXEC) != 0) return r;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        execve(g_self, (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)env);
        _exit(99);
    }
    close(fds[1]);
    size_t n = 0;
    for (ssize_t got; (got = check_read(fds[0], r.out, sizeof r.out, n)) > 0;) n += (size_t)got;
    close(fds[0]);
    int status;
    waitpid(pid, &status, 0);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    printf("-- %s, %s...: code %d\n%s", name, given[0] ? given[0] : "no environment", r.code, r.out);
    return r;
}

static bool one_line(const char *s) {
    const char *end = strchr(s, '\n');
    return end && end[1] == 0;
}

#define IN_SLURM                                                                                                       \
    "SLURM_NODELIST=node01", "SLURM_JOB_NODELIST=node01", "SLURM_JOBID=7", "SLURM_JOB_ID=7", "SLURM_NNODES=1",         \
        "SLURM_NTASKS=4", "SLURM_TASKS_PER_NODE=4"

static void drive(void) {
    static const char *const bare[] = {NULL}, *const allocation[] = {IN_SLURM, NULL};
    static const char *const step[] = {IN_SLURM,
                                       "SLURM_STEP_ID=0",
                                       "SLURM_STEPID=0",
                                       "SLURM_PROCID=0",
                                       "SLURM_LOCALID=0",
                                       "SLURM_STEP_NUM_TASKS=1",
                                       "SLURM_STEP_NODELIST=node01",
                                       NULL};
    static const char *const one[] = {"PMI_RANK=0", "PMI_SIZE=1", NULL};
    static const char *const *const alone[] = {bare, allocation, step, one};
    for (int i = 0; i < 4; i++) {
        result r = run("alone", alone[i]);
        CHECK(r.code == 0 && one_line(r.out), "not a quiet start");
    }
    CHECK(run("guarded", bare).code == 0, "a guard that has nothing to do");
    result stuck = run("stuck", bare);
    CHECK(stuck.code == MW_ERR_TIMEOUT && strstr(stuck.out, "a call that is stuck has not finished within 0.2 s"),
          "a guard does not bite");
    bool open_mpi = strncmp(mw_comm_library(), "Open MPI", 8) == 0;
    for (int rank = 0; rank < 2; rank++) {
        char var[64];
        snprintf(var, sizeof var, "%s=%d", open_mpi ? "PMI_RANK" : "OMPI_COMM_WORLD_RANK", rank);
        const char *const lost[] = {var, open_mpi ? "PMI_SIZE=3" : "OMPI_COMM_WORLD_SIZE=3", NULL};
        result r = run("lost", lost);
        CHECK(r.code == MW_ERR_USAGE, "code %d", r.code);
        CHECK(rank == 0 ? strstr(r.out, "3 processes") != NULL : strstr(r.out, "REPORT") == NULL, "who reports");
    }
    static const char *const quick[] = {"OMPI_MCA_ess_singleton_isolated=1", "OMPI_MCA_pml=ob1", NULL};
    result r = run("embedded", quick);
    CHECK(r.code == 0 || r.code == 77, "embedded");
    r = run("embedded without threads", quick);
    CHECK(r.code == 0, "embedded without threads");
}

int main(int argc, char **argv) {
    g_self = argv[0];
    if (argc > 2) return process_under_test(argv[2]);
    drive();
    return g_check_failures ? 1 : 0;
}
