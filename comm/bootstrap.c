/* Joining and leaving the group, and ending the process. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/internal.h"
#include "worker/base/log.h"
#include "worker/base/mem.h"

enum {
    SPIN_NS = 200000,        /* longer than the imbalance of two ranks in a layer, far shorter than a person notices */
    OPEN_MIN_S = 30,         /* MPI_Init on a loaded machine takes seconds, however short the group's deadline is */
    LONE_LEAVE_S = 3,        /* see mw_comm_exit */
    REPORT_NS = 1500000000,  /* what a rank that reports gets before the others end the job */
    REPORTED_NS = 200000000, /* launchers may throw away the last words of a rank that aborts */
    ABORT_S = 4,             /* for MPI_Abort */
    EXIT_S = 8,              /* for exit handlers: device teardown, leak checkers */
};

/* Of the process: MPI starts and ends once, and main() ends the process after the group is gone. */
static struct {
    bool started_here;   /* MPI, by us */
    bool keep;           /* until mw_comm_exit */
    bool broken;         /* a group ended in failure: no MPI_Finalize any more */
    bool asked, reports; /* mw_comm_should_report for a group, and its answer */
} g_mpi;

mw_status mw_mpi_fail(int rc, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(rc, text, &n);
    return MW_FAIL(MW_ERR_INTERNAL, "%s: %s", what, text);
}

mw_status mw_open_agree(mw_comm *c, mw_status mine) {
    int ok = mine == MW_OK, all_ok = 0;
    int rc = MPI_Allreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, c->world);
    if (rc != MPI_SUCCESS) return mw_mpi_fail(rc, "MPI_Allreduce");
    return ok && !all_ok ? MW_FAIL(MW_ERR_UNAVAIL, "another rank could not join the group") : mine;
}

const char *mw_comm_library(void) {
    static char line[96];
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    if (line[0]) return line;
    MPI_Get_library_version(text, &n);
    /* "Open MPI v4.1.4, package: ...", "MPICH Version:\t4.0.2\nMPICH Release date: ..." */
    text[strcspn(text, ",\n")] = 0;
    char *version = strstr(text, " Version:");
    if (version) {
        const char *number = version + strlen(" Version:");
        number += strspn(number, " \t");
        *version = 0;
        snprintf(line, sizeof line, "%s %s", text, number);
    } else {
        snprintf(line, sizeof line, "%s", text);
    }
    return line;
}

/* ---- opening ---- */

static mw_status alloc_ranks(mw_comm *c) {
    mw_status st = MW_OK;
    MW_TRY(st, MW_CALLOC(&c->peer, (size_t)c->size, "ranks"));
    MW_TRY(st, MW_CALLOC(&c->pidfd, (size_t)c->size, "process handles"));
    for (int r = 0; r < c->size; r++) c->pidfd[r] = -1;
fail:
    return st;
}

static mw_peer who_am_i(int node) {
    mw_peer p;
    memset(&p, 0, sizeof p); /* padding goes over the wire too */
    p.node = node;
    if (gethostname(p.host, sizeof p.host - 1) != 0) snprintf(p.host, sizeof p.host, "unknown");
    p.host[strcspn(p.host, ".")] = 0;
    p.pid = (int32_t)getpid();
    struct stat s;
    if (stat("/proc/self/ns/pid", &s) == 0) p.pid_space = s.st_ino;
    return p;
}

/* Who is where. MPI's own collectives: the guard of mw_comm_open_on watches them. */
static mw_status meet_ranks(mw_comm *c) {
    mw_status st = MW_OK;
    MPI_Comm host = MPI_COMM_NULL;
    int rc, node = c->rank;
    if ((rc = MPI_Comm_split_type(c->world, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host)) != MPI_SUCCESS)
        return mw_mpi_fail(rc, "MPI_Comm_split_type");
    MPI_Comm_rank(host, &c->local_rank);
    MPI_Comm_size(host, &c->local_size);
    if ((rc = MPI_Bcast(&node, 1, MPI_INT, 0, host)) != MPI_SUCCESS) st = mw_mpi_fail(rc, "MPI_Bcast");
    MPI_Comm_free(&host);
    if (st != MW_OK) return st;
    MW_TRY(st, mw_open_agree(c, alloc_ranks(c)));
    mw_peer me = who_am_i(node);
    rc = MPI_Allgather(&me, sizeof me, MPI_BYTE, c->peer, sizeof me, MPI_BYTE, c->world);
    if (rc != MPI_SUCCESS) st = mw_mpi_fail(rc, "MPI_Allgather");
fail:
    return st;
}

static mw_status start_mpi(bool already) {
    int provided = MPI_THREAD_SINGLE, rc;
    if (already) {
        MPI_Query_thread(&provided);
        if (provided < MPI_THREAD_SERIALIZED)
            return MW_FAIL(MW_ERR_USAGE, "MPI was initialised by the embedding program without thread support: "
                                         "it must ask for MPI_THREAD_SERIALIZED or more");
        return MW_OK;
    }
    mw_launcher_prepare_mpi();
    int wanted = g_mpi.keep ? MPI_THREAD_SERIALIZED : MPI_THREAD_FUNNELED;
    if ((rc = MPI_Init_thread(NULL, NULL, wanted, &provided)) != MPI_SUCCESS) return mw_mpi_fail(rc, "MPI_Init_thread");
    g_mpi.started_here = true;
    if (provided < wanted)
        return MW_FAIL(MW_ERR_UNAVAIL, "%s offers no %s", mw_comm_library(),
                       g_mpi.keep ? "MPI_THREAD_SERIALIZED" : "MPI_THREAD_FUNNELED");
    return MW_OK;
}

static mw_status join_world(mw_comm *c, const mw_launcher *l, mw_transport_choice choice) {
    mw_status st = MW_OK;
    int rc;
    if ((rc = MPI_Comm_dup(MPI_COMM_WORLD, &c->world)) != MPI_SUCCESS) return mw_mpi_fail(rc, "MPI_Comm_dup");
    c->uses_mpi = true;
    MPI_Comm_set_errhandler(c->world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(c->world, &c->rank);
    MPI_Comm_size(c->world, &c->size);
    if (c->size == 1 && l->size > 1)
        return MW_FAIL(MW_ERR_USAGE,
                       "%s started %d processes, but they do not find each other: this program uses %s; start it with "
                       "the mpirun of that library, or with srun --mpi=pmix",
                       l->name, l->size, mw_comm_library());
    MW_TRY(st, meet_ranks(c));
    mw_log_set_rank(c->rank, c->size, c->peer[c->rank].host);
    mw_watch_open(c);
    if (c->size == 1) return MW_OK;
    if (choice == MW_TRANSPORT_AUTO && mw_local_open(c) == MW_OK) return MW_OK;
    if (choice == MW_TRANSPORT_AUTO && c->local_size == c->size)
        mw_info("ranks share this host but not its memory (%s): messages are used, which is slower", mw_error_text());
    MW_TRY(st, mw_open_agree(c, mw_messages_open(c)));
fail:
    return st;
}

static mw_status open_alone(mw_comm *c) {
    mw_status st = alloc_ranks(c);
    if (st == MW_OK) c->peer[0] = who_am_i(0);
    return st;
}

static mw_status open_with_mpi(mw_comm *c, double timeout_s, const mw_launcher *l, bool already,
                               mw_transport_choice choice) {
    mw_guard *g = mw_guard_begin(timeout_s > OPEN_MIN_S ? timeout_s : OPEN_MIN_S, l->rank, "starting MPI");
    mw_status st = start_mpi(already);
    if (st == MW_OK) st = join_world(c, l, choice);
    mw_guard_end(g);
    return st;
}

mw_status mw_comm_open_on(mw_comm **out, double timeout_s, mw_transport_choice choice) {
    mw_status st = MW_OK;
    mw_comm *c = NULL;
    int already = 0, ended = 0;
    if (!(timeout_s > 0) || timeout_s > 1e6)
        return MW_FAIL(MW_ERR_USAGE, "a group's timeout of %g s: expected more than 0, at most 1000000", timeout_s);
    MPI_Initialized(&already);
    MPI_Finalized(&ended);
    mw_launcher l = mw_launcher_find();
    MW_TRY(st, MW_CALLOC(&c, 1, "group"));
    c->size = c->local_size = 1;
    c->origin = -1;
    c->world = MPI_COMM_NULL;
    c->timeout_ns = (int64_t)(timeout_s * 1e9);
    if ((!already || ended) && (!l.name || l.size == 1)) {
        MW_TRY(st, open_alone(c));
    } else if (ended) {
        st = MW_FAIL(MW_ERR_USAGE, "MPI has already ended in this process: a group can be opened only once");
        goto fail;
    } else {
        MW_TRY(st, open_with_mpi(c, timeout_s, &l, already != 0, choice));
    }
    int cores;
    bool crowded;
    MW_TRY(st, mw_comm_cpu_share(c, &cores, &crowded));
    c->spin_ns = crowded ? 0 : SPIN_NS;
    *out = c;
    return MW_OK;
fail:
    if (c && c->transport) {
        /* The others may have a group already, and wait for us in it or have failed in it. */
        mw_group_raise(c, st);
        (void)mw_comm_should_report(c); /* nobody can ask once c is gone: the answer is kept */
    } else if (c && c->uses_mpi && c->size > 1) {
        mw_group_failed(c, st, c->rank); /* the others may be anywhere: nothing collective any more */
    }
    mw_comm_close(c);
    return st;
}

mw_status mw_comm_open(mw_comm **out, double timeout_s) {
    return mw_comm_open_on(out, timeout_s, MW_TRANSPORT_AUTO);
}

int mw_comm_rank(const mw_comm *c) {
    return c->rank;
}
int mw_comm_size(const mw_comm *c) {
    return c->size;
}
int mw_comm_local_rank(const mw_comm *c) {
    return c->local_rank;
}
int mw_comm_local_size(const mw_comm *c) {
    return c->local_size;
}
const char *mw_comm_host(const mw_comm *c) {
    return c->peer[c->rank].host;
}

/* ---- leaving ---- */

bool mw_comm_should_report(mw_comm *c) {
    if (!c) {
        if (!g_mpi.asked) g_mpi.reports = mw_launcher_find().rank <= 0; /* no group: the launcher's word counts */
        return g_mpi.reports;
    }
    bool group_failed = c->failed != MW_OK && c->transport;
    if (!group_failed)
        g_mpi.reports = c->rank == 0;
    else if (!c->claimed)
        g_mpi.reports = c->transport->claim_report(c);
    c->claimed = group_failed;
    g_mpi.asked = true;
    return g_mpi.reports;
}

/* All ranks are here, so MPI_Finalize has nobody to wait for. */
static void end_mpi(mw_comm *c) {
    mw_guard *g = mw_guard_begin(OPEN_MIN_S, c->rank, "ending MPI");
    MPI_Comm_free(&c->world);
    if (g_mpi.started_here && !g_mpi.keep) MPI_Finalize();
    mw_guard_end(g);
}

void mw_comm_keep_mpi(void) {
    g_mpi.keep = true;
}

void mw_comm_close(mw_comm *c) {
    if (!c) return;
    bool healthy = c->failed == MW_OK && mw_group_meet(c, MW_CALL_LEAVE) == MW_OK;
    mw_comm_device_close(c);
    if (c->transport) c->transport->close(c);
    mw_watch_close(c);
    if (c->uses_mpi && healthy)
        end_mpi(c);
    else if (c->uses_mpi)
        g_mpi.broken = true;
    free(c->pidfd);
    free(c->peer);
    free(c);
}

static volatile sig_atomic_t g_exit_code;

static void on_alarm(int sig) {
    (void)sig;
    _exit((int)g_exit_code);
}

/* From now on the process ends within `seconds`, whatever the libraries do. */
static void end_within(unsigned seconds) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_alarm;
    sigaction(SIGALRM, &a, NULL);
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    alarm(seconds);
}

void mw_comm_exit(mw_comm *c, int code) {
    /* All ranks may leave with a code that they did not agree on here (an interrupt): if the others come too, it is an
     * orderly end. If they do not, this rank is alone in leaving, and they need not wait for the full deadline. */
    const int64_t lone = (int64_t)LONE_LEAVE_S * 1000000000;
    if (c && code != 0 && !c->agreed && c->timeout_ns > lone) c->timeout_ns = lone;
    mw_comm_close(c);
    if (g_mpi.broken && code == 0) code = MW_ERR_PEER;
    g_exit_code = code;
    if (!g_mpi.broken) fflush(NULL); /* may take long where a reader is slow, and must not be cut short */
    end_within(g_mpi.broken ? ABORT_S : EXIT_S);
    int started = 0, ended = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    if (started && !ended && g_mpi.keep && !g_mpi.broken) { /* every group ended in order: so do all ranks */
        MPI_Finalize();
        exit(code);
    }
    if (started && !ended && (g_mpi.broken || g_mpi.started_here)) {
        fflush(NULL);
        mw_sleep_ns(g_mpi.reports ? REPORTED_NS : REPORT_NS); /* the rank that reports ends the job when it has */
        MPI_Abort(MPI_COMM_WORLD, code);
        _exit(code);
    }
    exit(code);
}
