/* What the launcher left in the environment, and what the MPI library should find there.
 *
 * Read before MPI_Init, because that call may itself be the problem. A process that no launcher started, or the only
 * process of a launch, needs no MPI: a group of one starts without it, which saves Open MPI's 0.2-0.3 s (it loads every
 * network library and forks a daemon for a lone process) and avoids three traps of that start:
 *   - inside `srun --pty bash` or `salloc` the SLURM_* variables make Open MPI believe that srun started this very
 *     process; MPI_Init then aborts or waits for a PMI server that is not there;
 *   - the daemon wants ssh or rsh to exist, and prints a page where neither does;
 *   - in containers the shared-memory and InfiniBand parts warn about what they may not do.
 * Every launcher tells its processes who they are through some of the variables below, so their absence is proof
 * enough.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "comm/internal.h"
#include "worker/base/env.h"

/* These belong to launchers, not to us, so they are not in the table of worker/base/env.h. */
static const char *launcher_variable(const char *name) {
    size_t n = strlen(name);
    for (char **e = environ; e && *e; e++)
        if (strncmp(*e, name, n) == 0 && (*e)[n] == '=') return *e + n + 1;
    return NULL;
}

static int launcher_number(const char *name) {
    const char *s = name ? launcher_variable(name) : NULL;
    if (!s || *s < '0' || *s > '9') return -1;
    long v = strtol(s, NULL, 10);
    return v <= 1 << 24 ? (int)v : -1;
}

/* Innermost first: mpirun inside a Slurm allocation leaves both its own variables and Slurm's. */
static const struct {
    const char *name, *rank, *size;
} k_launchers[] = {
    {"mpirun of Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"mpiexec of MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},
    {"a PMI launcher (mpiexec of MPICH or Intel MPI, srun --mpi=pmi2)", "PMI_RANK", "PMI_SIZE"},
    {"PALS", "PALS_RANKID", NULL},
    {"ALPS", "ALPS_APP_PE", NULL},
    {"Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE"},
    {"jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
    {"a PMIx launcher", "PMIX_RANK", NULL},
    {"a PMI launcher", "PMI_FD", NULL},
    {"a PMI launcher", "PMI_PORT", NULL},
};

mw_launcher mw_launcher_find(void) {
    for (size_t i = 0; i < sizeof k_launchers / sizeof k_launchers[0]; i++) {
        if (!launcher_variable(k_launchers[i].rank)) continue;
        return (mw_launcher){k_launchers[i].name, launcher_number(k_launchers[i].rank),
                             launcher_number(k_launchers[i].size)};
    }
    return (mw_launcher){NULL, -1, -1};
}

/* Is reading another process's memory forbidden here, as in containers with the usual seccomp profile? Such a profile
 * refuses the call even for oneself. */
static bool single_copy_refused(void) {
    char from = 1, to = 0;
    struct iovec src = {&from, 1}, dst = {&to, 1};
    return process_vm_readv(getpid(), &dst, 1, &src, 1, 0) < 0 && (errno == EPERM || errno == ENOSYS);
}

void mw_launcher_prepare_mpi(void) {
    /* A launcher of another MPI makes this process a lone one in Open MPI's eyes. We report that (bootstrap.c); without
     * this setting Open MPI would first fork a daemon, which complains about ssh. It changes nothing for a real job. */
    mw_env_default_for_library("OMPI_MCA_ess_singleton_isolated", "1");
    /* Open MPI's shared-memory transport tries single-copy transfers without asking whether they are allowed, prints
     * "Read -1, expected N" for each and fails (open-mpi/ompi#4948). */
    if (single_copy_refused()) mw_env_default_for_library("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
}
