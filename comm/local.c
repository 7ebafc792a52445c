/* The transport of a group whose ranks share one host: a slot of shared memory per rank, and futexes.
 *
 * A call is a number of rounds; all ranks count them alike. In round s a rank writes its part into its slot of parity
 * s & 1, publishes by setting its `seq` to s, and reads the parts of others whose seq has reached s. Publishing s also
 * says "I have read all I wanted of round s - 1", so a slot may be written in round s once every seq has reached s - 1:
 * two slots are enough, and no other acknowledgement is needed.
 *
 * seq is the futex that waiters sleep on, so a sleeper wakes at once and an idle rank costs a few wake-ups a second (to
 * look for ended processes). MPI is not used after the opening: its polling could not sleep.
 *
 * The memory is a memfd that the others open through /proc: it has no name to clean up after a crash, and does not
 * depend on the size of /dev/shm, which containers keep at 64 MB.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "comm/internal.h"
#include "worker/base/mem.h"

enum {
    SLOT_BYTES = 1 << 20,
    SLOT_FLOATS = SLOT_BYTES / 4,
    /* Up to here everyone reads everything; beyond, that costs more memory traffic than a second round does. */
    ONE_ROUND_FLOATS = 2048,
    NAP_NS = 100000000, /* the longest sleep between looks for ended processes */
};

/* One rank's words. The owner writes the first line, sleepers the second. */
typedef struct {
    _Alignas(64) _Atomic uint32_t seq;
    uint64_t what[2]; /* by parity: which call the round belongs to */
    _Alignas(64) _Atomic uint32_t sleepers;
} rank_words;

typedef struct {
    _Alignas(64) _Atomic uint32_t claim; /* rank + 1 whose failure came first */
    _Atomic uint32_t failed;             /* its text and status are there */
    _Atomic uint32_t reported;           /* rank + 1 that tells the user */
    char text[MW_ERROR_TEXT_MAX];
} shared_failure;

struct mw_local {
    shared_failure *failure;
    rank_words *words;     /* [size] */
    unsigned char *slots;  /* [size][2][SLOT_BYTES] */
    const float **sources; /* [size] scratch */
    void *map;
    size_t map_bytes;
    uint32_t round;
};

static void futex_wake(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

/* Rounds wrap around after 2^32, hence the difference. */
static inline bool reached(uint32_t seq, uint32_t round) {
    return (int32_t)(seq - round) >= 0;
}

static inline unsigned char *slot(const mw_local *l, int rank, uint32_t round) {
    return l->slots + ((size_t)rank * 2 + (round & 1)) * SLOT_BYTES;
}

static uint64_t what_now(const mw_op *op) {
    return (uint64_t)op->call | (uint64_t)op->n << 8;
}

/* ---- waiting ---- */

static bool local_noticed(mw_comm *c) {
    shared_failure *f = c->local->failure;
    if (!atomic_load_explicit(&f->failed, memory_order_acquire)) return false;
    int origin = (int)atomic_load(&f->claim) - 1;
    if (c->failed == MW_OK) {
        char text[MW_ERROR_TEXT_MAX];
        mw_group_text(c, origin, f->text, text);
        mw_error_set_text(text);
        mw_group_failed(c, MW_ERR_PEER, origin);
    }
    return true;
}

/* The ranks still to come. They are not waiting for others: whoever entered a round has seen all others leave the one
 * before, so whoever has not come to it is busy, stopped or gone. */
static mw_status give_up(mw_comm *c, int rank, uint32_t round, bool all, int64_t waited_ns) {
    int n = 0;
    int *missing = calloc((size_t)c->size, sizeof *missing);
    if (!missing) return mw_group_silent(c, &rank, 1, waited_ns);
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && (all || r == rank) && !reached(atomic_load(&c->local->words[r].seq), round))
            missing[n++] = r;
    mw_status st = mw_group_silent(c, missing, n, waited_ns);
    free(missing);
    return st;
}

static void nap(rank_words *w, uint32_t round, int64_t ns) {
    atomic_fetch_add(&w->sleepers, 1); /* before the last look: see publish */
    uint32_t seq = atomic_load(&w->seq);
    if (!reached(seq, round)) futex_wait(&w->seq, seq, ns);
    atomic_fetch_sub(&w->sleepers, 1);
}

static mw_status wait_slow(mw_comm *c, int rank, uint32_t round, bool idle, bool all) {
    rank_words *w = &c->local->words[rank];
    mw_status st = MW_OK;
    mw_wait t;
    mw_wait_begin(&t, c, idle);
    while (st == MW_OK && !reached(atomic_load_explicit(&w->seq, memory_order_acquire), round)) {
        bool check;
        mw_wait_phase phase = mw_wait_next(&t, &check);
        if (check) {
            if (local_noticed(c)) {
                st = c->failed;
            } else if (mw_watch_ended(c, rank)) {
                if (reached(atomic_load(&w->seq), round)) break; /* it published, then ended */
                st = local_noticed(c) ? c->failed : mw_group_died(c, rank);
            } else if (mw_wait_expired(&t)) {
                st = give_up(c, rank, round, all, t.last - t.began);
            }
            if (st != MW_OK) break;
        }
        if (phase == MW_WAIT_SPIN) {
            mw_cpu_relax();
        } else if (phase == MW_WAIT_YIELD) {
            sched_yield();
        } else {
            int64_t left = t.deadline - t.last;
            nap(w, round, left < NAP_NS ? (left > 0 ? left : 1) : NAP_NS);
        }
    }
    mw_wait_end(&t);
    return st;
}

static mw_status wait_rank(mw_comm *c, int rank, uint32_t round, bool idle, bool all) {
    rank_words *w = &c->local->words[rank];
    if (reached(atomic_load_explicit(&w->seq, memory_order_acquire), round)) return MW_OK;
    return wait_slow(c, rank, round, idle, all);
}

/* Until every rank has published `round`. */
static mw_status wait_all(mw_comm *c, uint32_t round, bool idle) {
    mw_status st = MW_OK;
    for (int r = 0; st == MW_OK && r < c->size; r++)
        if (r != c->rank) st = wait_rank(c, r, round, idle, true);
    return st;
}

/* ---- rounds ---- */

/* The round's number in l->round; afterwards this rank may write its slot. idle: others may take their time to come to
 * the round before. */
static mw_status round_begin(mw_comm *c, bool idle) {
    mw_local *l = c->local;
    l->round++;
    return wait_all(c, l->round - 1, idle);
}

static void publish(mw_comm *c) {
    mw_local *l = c->local;
    rank_words *w = &l->words[c->rank];
    w->what[l->round & 1] = what_now(&c->op);
    /* Sequentially consistent on both sides: either we see the sleeper, or it sees the new seq and does not sleep. */
    atomic_store(&w->seq, l->round);
    if (atomic_load(&w->sleepers)) futex_wake(&w->seq);
}

/* A rank that is in another call would hand us its data as if it were ours. */
static mw_status same_call(mw_comm *c, int rank) {
    uint64_t theirs = c->local->words[rank].what[c->local->round & 1];
    if (theirs == what_now(&c->op)) return MW_OK;
    char there[96], here[96];
    mw_call call = (mw_call)(theirs & 255);
    mw_call_text(call, (size_t)(theirs >> 8), there);
    mw_call_text(c->op.call, c->op.n, here);
    if (call == MW_CALL_LEAVE)
        return mw_group_raise(
            c, MW_FAIL(MW_ERR_PEER, "rank %d (%s) has left the group, in %s", rank, c->peer[rank].host, here));
    return mw_group_raise(
        c, MW_FAIL(MW_ERR_INTERNAL, "ranks out of step: rank %d is in %s, rank %d in %s", rank, there, c->rank, here));
}

/* Publish, then wait for everyone's part of the same round. */
static mw_status exchange(mw_comm *c) {
    publish(c);
    mw_status st = wait_all(c, c->local->round, false);
    for (int r = 0; st == MW_OK && r < c->size; r++) st = same_call(c, r);
    return st;
}

/* ---- the calls ---- */

static mw_status local_all_gather(mw_comm *c, const void *mine, size_t bytes, void *all) {
    mw_status st = MW_OK;
    mw_local *l = c->local;
    for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
        size_t m = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        MW_TRY(st, round_begin(c, false));
        memcpy(slot(l, c->rank, l->round), (const char *)mine + at, m);
        MW_TRY(st, exchange(c));
        for (int r = 0; r < c->size; r++) memcpy((char *)all + (size_t)r * bytes + at, slot(l, r, l->round), m);
    }
fail:
    return st;
}

static mw_status local_bcast(mw_comm *c, void *buf, size_t bytes, int root, bool idle) {
    mw_status st = MW_OK;
    mw_local *l = c->local;
    for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
        size_t m = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        MW_TRY(st, round_begin(c, idle && at == 0));
        if (c->rank == root) memcpy(slot(l, root, l->round), (char *)buf + at, m);
        publish(c);
        if (c->rank == root) continue;
        MW_TRY(st, wait_rank(c, root, l->round, idle && at == 0, false));
        MW_TRY(st, same_call(c, root));
        memcpy((char *)buf + at, slot(l, root, l->round), m);
    }
fail:
    return st;
}

/* Everyone reads everything and adds it up: one round. */
static mw_status reduce_one_round(mw_comm *c, float *buf, size_t n) {
    mw_status st = MW_OK;
    mw_local *l = c->local;
    MW_TRY(st, round_begin(c, false));
    memcpy(slot(l, c->rank, l->round), buf, n * sizeof *buf);
    MW_TRY(st, exchange(c));
    for (int r = 0; r < c->size; r++) l->sources[r] = (const float *)(const void *)slot(l, r, l->round);
    mw_sum_f32(buf, l->sources, c->size, n);
fail:
    return st;
}

/* Each rank adds up its part, then everyone reads the sums: less memory traffic, a round more. A rank's own part of its
 * buffer never leaves it. */
static mw_status reduce_two_rounds(mw_comm *c, float *buf, size_t n) {
    mw_status st = MW_OK;
    mw_local *l = c->local;
    size_t part = (n + (size_t)c->size - 1) / (size_t)c->size;
    part = (part + 15) & ~(size_t)15; /* whole cache lines */
    size_t begin = part * (size_t)c->rank < n ? part * (size_t)c->rank : n;
    size_t end = begin + part < n ? begin + part : n;
    MW_TRY(st, round_begin(c, false));
    float *mine = (float *)(void *)slot(l, c->rank, l->round);
    memcpy(mine, buf, begin * sizeof *buf);
    memcpy(mine + end, buf + end, (n - end) * sizeof *buf);
    MW_TRY(st, exchange(c));
    for (int r = 0; r < c->size; r++)
        l->sources[r] = (r == c->rank ? buf : (const float *)(const void *)slot(l, r, l->round)) + begin;
    MW_TRY(st, round_begin(c, false));
    mine = (float *)(void *)slot(l, c->rank, l->round);
    mw_sum_f32(mine, l->sources, c->size, end - begin);
    MW_TRY(st, exchange(c));
    for (int r = 0; r < c->size; r++) {
        size_t b = part * (size_t)r < n ? part * (size_t)r : n, e = b + part < n ? b + part : n;
        memcpy(buf + b, slot(l, r, l->round), (e - b) * sizeof *buf);
    }
fail:
    return st;
}

static mw_status local_all_reduce(mw_comm *c, float *buf, size_t n) {
    mw_status st = MW_OK;
    for (size_t at = 0; st == MW_OK && at < n; at += SLOT_FLOATS) {
        size_t m = n - at < SLOT_FLOATS ? n - at : SLOT_FLOATS;
        st = m > ONE_ROUND_FLOATS ? reduce_two_rounds(c, buf + at, m) : reduce_one_round(c, buf + at, m);
    }
    return st;
}

static mw_status local_gather_cols(mw_comm *c, int root, const float *src, size_t rows, const size_t *cols,
                                   float *dst) {
    mw_status st = MW_OK;
    mw_local *l = c->local;
    size_t ld = 0, most = 0;
    for (int r = 0; r < c->size; r++) {
        ld += cols[r];
        if (cols[r] > most) most = cols[r];
    }
    bool receives = root < 0 || root == c->rank;
    for (size_t at = 0; at < rows * most; at += SLOT_FLOATS) {
        size_t mine = rows * cols[c->rank], m = mine > at ? mine - at : 0;
        MW_TRY(st, round_begin(c, false));
        if (m) memcpy(slot(l, c->rank, l->round), src + at, (m < SLOT_FLOATS ? m : SLOT_FLOATS) * sizeof *src);
        if (!receives) {
            publish(c);
            continue;
        }
        MW_TRY(st, exchange(c));
        size_t col = 0;
        for (int r = 0; r < c->size; col += cols[r], r++) {
            size_t have = rows * cols[r] > at ? rows * cols[r] - at : 0;
            if (have > SLOT_FLOATS) have = SLOT_FLOATS;
            const float *part = (const float *)(const void *)slot(l, r, l->round);
            mw_place_cols_f32(dst + col, ld, cols[r], at, part, have);
        }
    }
fail:
    return st;
}

/* ---- failure ---- */

static void local_raise(mw_comm *c) {
    shared_failure *f = c->local->failure;
    uint32_t nobody = 0;
    if (atomic_compare_exchange_strong(&f->claim, &nobody, (uint32_t)c->rank + 1)) {
        snprintf(f->text, sizeof f->text, "%s", c->text);
        atomic_store(&f->failed, 1);
        for (int r = 0; r < c->size; r++) futex_wake(&c->local->words[r].seq);
    } else {
        c->origin = (int)nobody - 1; /* another rank was first, and it will report */
    }
}

static bool local_claim_report(mw_comm *c) {
    shared_failure *f = c->local->failure;
    /* The rank where it began knows most and is surely alive: the others hold back, and step in, lowest first, if
     * nothing comes of it. */
    if (c->origin != c->rank) {
        int turn = c->rank < 20 ? c->rank : 20;
        bool gone = false;
        int64_t until = mw_now_ns() + 1000000000 + (int64_t)turn * 100000000;
        while (mw_now_ns() < until && !atomic_load(&f->reported)) {
            if (!gone && c->origin >= 0 && mw_watch_ended(c, c->origin)) {
                gone = true;
                until = mw_now_ns() + (int64_t)turn * 100000000;
            }
            mw_sleep_ns(1000000);
        }
    }
    uint32_t nobody = 0;
    return atomic_compare_exchange_strong(&f->reported, &nobody, (uint32_t)c->rank + 1);
}

/* ---- opening and closing ---- */

static void local_close(mw_comm *c) {
    mw_local *l = c->local;
    if (!l) return;
    if (l->map) munmap(l->map, l->map_bytes);
    free(l->sources);
    free(l);
    c->local = NULL;
}

static const mw_transport k_local = {
    .name = "shared memory",
    .all_gather = local_all_gather,
    .bcast = local_bcast,
    .all_reduce_f32 = local_all_reduce,
    .gather_cols_f32 = local_gather_cols,
    .raise = local_raise,
    .noticed = local_noticed,
    .claim_report = local_claim_report,
    .close = local_close,
};

static mw_status map(mw_local *l, int fd, int size) {
    struct stat s;
    if (fstat(fd, &s) != 0 || s.st_size < (off_t)l->map_bytes)
        return MW_FAIL(MW_ERR_UNAVAIL, "shared memory of %zu bytes is too small", l->map_bytes);
    void *p = mmap(NULL, l->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return MW_FAIL(MW_ERR_UNAVAIL, "mapping %zu bytes of shared memory: %s", l->map_bytes, strerror(errno));
    l->map = p;
    l->failure = p;
    l->words = (rank_words *)(void *)((char *)p + sizeof *l->failure);
    l->slots = (unsigned char *)p + l->map_bytes - (size_t)size * 2 * SLOT_BYTES;
    return MW_OK;
}

/* Rank 0 makes the memory, the others open it through rank 0's entry in /proc. *fd stays open on rank 0 until all have
 * it. */
static mw_status attach(mw_comm *c, int *fd) {
    mw_status st = MW_OK;
    mw_local *l = c->local;
    size_t head = sizeof *l->failure + (size_t)c->size * sizeof *l->words;
    head = (head + 4095) & ~(size_t)4095;
    l->map_bytes = head + (size_t)c->size * 2 * SLOT_BYTES;
    MW_TRY(st, MW_CALLOC(&l->sources, (size_t)c->size, "sources of a sum"));
    if (c->rank == 0) {
        *fd = memfd_create("marlin-group", MFD_CLOEXEC);
        if (*fd >= 0 && ftruncate(*fd, (off_t)l->map_bytes) == 0) return map(l, *fd, c->size);
        st = MW_FAIL(MW_ERR_UNAVAIL, "making %zu bytes of shared memory: %s", l->map_bytes, strerror(errno));
    }
fail:
    return st;
}

static mw_status attach_others(mw_comm *c, int root_fd) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", c->peer[0].pid, root_fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return MW_FAIL(MW_ERR_UNAVAIL, "opening rank 0's shared memory, %s: %s", path, strerror(errno));
    mw_status st = map(c->local, fd, c->size);
    close(fd);
    return st;
}

static bool one_proc(const mw_comm *c) {
    for (int r = 0; r < c->size; r++)
        if (c->peer[r].node != 0 || c->peer[r].pid_space == 0 || c->peer[r].pid_space != c->peer[0].pid_space)
            return false;
    return true;
}

mw_status mw_local_open(mw_comm *c) {
    mw_status st = MW_OK;
    int fd = -1, rc;
    if (!one_proc(c)) return MW_FAIL(MW_ERR_UNAVAIL, "the ranks do not share one host and process space");
    st = MW_CALLOC(&c->local, 1, "shared memory transport");
    if (st == MW_OK) st = attach(c, &fd);
    int offer[2] = {st == MW_OK, fd};
    if ((rc = MPI_Bcast(offer, 2, MPI_INT, 0, c->world)) != MPI_SUCCESS) st = mw_mpi_fail(rc, "MPI_Bcast");
    if (st == MW_OK && c->rank != 0) st = offer[0] ? attach_others(c, offer[1]) : MW_ERR_UNAVAIL;
    st = mw_open_agree(c, st);
    if (fd >= 0) close(fd); /* all have it by now */
    if (st != MW_OK) {
        local_close(c);
        return st;
    }
    c->transport = &k_local;
    return MW_OK;
}
