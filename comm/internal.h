/* comm/internal.h - what the files of this folder share; nothing else includes it but tests/comm.
 *
 * A group moves its host data over one of two transports with the same rules:
 *   local.c      all ranks on one host: slots in shared memory, futexes
 *   messages.c   any other group: point-to-point messages, polled
 * bootstrap.c makes the group and picks the transport, control.c and collectives.c are the calls of comm.h on top of
 * it, failure.c turns one rank's fault into the group's. Device collectives (nccl.c) stand beside the transports:
 * they need only control.c to exchange their bootstrap bytes.
 */
#ifndef MW_COMM_INTERNAL_H
#define MW_COMM_INTERNAL_H
#include <mpi.h>

#include "comm/comm.h"
#include "worker/base/clock.h"

#define MW_HOST_MAX 64

/* One per rank, equal on all ranks. */
typedef struct mw_peer {
    char host[MW_HOST_MAX];
    int32_t node; /* lowest rank on the same host */
    int32_t pid;
    uint64_t pid_space; /* which /proc the pid means something in; 0 unknown */
} mw_peer;

/* The calls of comm.h that move data. The number is on the wire: ranks that are in different calls find out. */
typedef enum {
    MW_CALL_NONE,
    MW_CALL_LEAVE,
    MW_CALL_AGREE,
    MW_CALL_BCAST,
    MW_CALL_ALL_GATHER,
    MW_CALL_REDUCE_U64,
    MW_CALL_CPU_SHARE,
    MW_CALL_IDLE,
    MW_CALL_ALL_REDUCE,
    MW_CALL_GATHER_COLS,
    MW_CALL_DEVICE,
    MW_CALL_COUNT
} mw_call;

/* What the group is doing, for the texts of failures and for finding ranks that do different things. */
typedef struct mw_op {
    mw_call call;
    size_t n;
} mw_op;

typedef struct mw_transport {
    const char *name;
    mw_status (*all_gather)(mw_comm *c, const void *mine, size_t bytes, void *all);
    mw_status (*bcast)(mw_comm *c, void *buf, size_t bytes, int root, bool idle);
    mw_status (*all_reduce_f32)(mw_comm *c, float *buf, size_t n);
    mw_status (*gather_cols_f32)(mw_comm *c, int root, const float *src, size_t rows, const size_t *cols, float *dst);
    /* Make c->failed and c->text known to all ranks. Sets c->origin to the rank whose fault came first. */
    void (*raise)(mw_comm *c);
    /* Has another rank raised? Fills c->failed, c->text, c->origin if so. */
    bool (*noticed)(mw_comm *c);
    /* One rank of the failed group gets true. */
    bool (*claim_report)(mw_comm *c);
    void (*close)(mw_comm *c);
} mw_transport;

typedef struct mw_local mw_local;
typedef struct mw_messages mw_messages;
typedef struct mw_device_group mw_device_group;

struct mw_comm {
    int rank, size, local_rank, local_size;
    mw_peer *peer;  /* [size] */
    int *pidfd;     /* [size], -1: not watched */
    bool uses_mpi;  /* false: a group of one without a launcher, MPI was never started */
    MPI_Comm world; /* a duplicate, errors returned */
    int64_t timeout_ns;
    int64_t spin_ns; /* how long a wait may keep its core before it yields; 0 where ranks outnumber cores */
    const mw_transport *transport; /* NULL: a group of one */
    mw_local *local;
    mw_messages *messages;
    mw_device_group *device; /* NULL: no device collectives */
    mw_op op;
    mw_status failed; /* once set, every call returns it */
    int origin;       /* rank whose fault it was, -1 unknown */
    bool claimed;     /* who reports the failure is decided */
    bool agreed;      /* the last mw_comm_agree failed: all ranks know that the end is near */
    char text[MW_ERROR_TEXT_MAX];
    int64_t wait_ns;
    int64_t last_wait_end; /* when the last wait ended: recent traffic makes waits eager */
};

/* ---- bootstrap.c ---- */

typedef enum { MW_TRANSPORT_AUTO, MW_TRANSPORT_MESSAGES } mw_transport_choice;
MW_MUST_CHECK mw_status mw_comm_open_on(mw_comm **out, double timeout_s, mw_transport_choice choice);

/* MW_ERR_INTERNAL with MPI's own words. */
mw_status mw_mpi_fail(int rc, const char *what);

/* While opening: `mine` if it is a failure, MW_ERR_UNAVAIL if another rank came with one. Collective, waits in MPI. */
mw_status mw_open_agree(mw_comm *c, mw_status mine);

/* ---- control.c ---- */

/* Begins a call: c->failed if the group has failed, or has been told so by now. */
mw_status mw_call_enter(mw_comm *c, mw_call call, size_t n);
/* "an all-reduce of 8192 floats" */
const char *mw_call_text(mw_call call, size_t n, char out[96]);
/* Every rank is here. */
mw_status mw_group_meet(mw_comm *c, mw_call call);

/* ---- launcher.c: what the environment says before MPI starts ---- */

typedef struct mw_launcher {
    const char *name; /* "mpirun of Open MPI"; NULL: none found */
    int rank, size;   /* as the launcher counts; -1: it does not say */
} mw_launcher;
mw_launcher mw_launcher_find(void);

/* Defaults for the MPI library that must be in the environment before MPI_Init. */
void mw_launcher_prepare_mpi(void);

/* ---- guard.c: MPI calls that cannot be given a deadline ---- */

typedef struct mw_guard mw_guard;
/* If mw_guard_end does not follow within `seconds`, one line goes to the log and the process ends with MW_ERR_TIMEOUT.
 * NULL when no thread can be had: then nothing guards. `rank` staggers the reports of several ranks. */
mw_guard *mw_guard_begin(double seconds, int rank, const char *what);
void mw_guard_end(mw_guard *g);

/* ---- failure.c ---- */

/* The first failure of the group, seen or caused here: records it (with the thread's error text). Returns c->failed. */
mw_status mw_group_failed(mw_comm *c, mw_status st, int origin);
/* The same, and tells the others. */
mw_status mw_group_raise(mw_comm *c, mw_status st);
/* Raise MW_ERR_TIMEOUT that names up to four ranks of `missing` [n]; MW_ERR_PEER for a rank whose process is gone. */
mw_status mw_group_silent(mw_comm *c, const int *missing, int n, int64_t waited_ns);
mw_status mw_group_died(mw_comm *c, int rank);
/* The text other ranks see: "rank 2 (node07): " in front of what happened there. */
void mw_group_text(const mw_comm *c, int rank, const char *what, char out[MW_ERROR_TEXT_MAX]);

/* Processes of this host's ranks. A rank that has ended while we wait for it need not be waited for. */
void mw_watch_open(mw_comm *c);
void mw_watch_close(mw_comm *c);
bool mw_watch_ended(const mw_comm *c, int rank);

/* ---- wait.c: how every wait of this folder spends its time ---- */

typedef enum { MW_WAIT_SPIN, MW_WAIT_YIELD, MW_WAIT_SLEEP } mw_wait_phase;

typedef struct mw_wait {
    mw_comm *c;
    int64_t began, last, deadline, next_check, sleep_ns;
    int64_t next_watch; /* the transport's: when to look for ended processes */
    mw_wait_phase phase;
    unsigned turns;
    bool eager; /* traffic was recent: stay quick for longer */
} mw_wait;

/* idle: the wait has no deadline. */
void mw_wait_begin(mw_wait *w, mw_comm *c, bool idle);
/* What to do until the next look: spin (nothing), yield, or sleep for w->sleep_ns. *check: it is time to look for
 * poison, ended processes and the deadline (always while sleeping). */
mw_wait_phase mw_wait_next(mw_wait *w, bool *check);
bool mw_wait_expired(const mw_wait *w);
void mw_wait_end(mw_wait *w);

static inline void mw_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- the transports ---- */

mw_status mw_local_open(mw_comm *c); /* collective; the same status on every rank, MW_ERR_UNAVAIL: use messages */
mw_status mw_messages_open(mw_comm *c);

/* ---- sum.c ---- */

/* dst[i] = src[0][i] + src[1][i] + ... in this order, n_src >= 1. dst may be one of the sources. */
void mw_sum_f32(float *dst, const float *const *src, int n_src, size_t n);
/* Elements [first, first + n) of a contiguous [rows, cols] block go to their places in dst [rows, ld]. */
void mw_place_cols_f32(float *dst, size_t ld, size_t cols, size_t first, const float *src, size_t n);

#endif
