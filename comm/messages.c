/* The transport of a group on several hosts: point-to-point MPI messages, polled.
 *
 * Collectives of MPI itself are not used: they wait without end, keep their core busy, cannot say which rank is missing
 * and leave the order of a sum open. A failure travels on a communicator of its own, so that it is seen whatever the
 * data messages do. Messages are received into memory of the transport: after a failure a request may still be open,
 * and must not write into a buffer that its owner has freed.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/internal.h"
#include "worker/base/mem.h"

enum {
    CHUNK_BYTES = 1 << 20, /* of one message: bounds the memory for receiving */
    CHUNK_FLOATS = CHUNK_BYTES / 4,
    /* Up to here everyone sends everything to everyone: one round of messages instead of two. */
    ONE_ROUND_FLOATS = 8192,
    WATCH_NS = 50000000, /* between looks for ended processes */
    TAG_FAILURE = 1,
    TAG_REPORTED = 2,
};

struct mw_messages {
    MPI_Comm data, control;
    int n; /* open requests, [2 * size] at most */
    MPI_Request *request;
    MPI_Status *status;
    int *index, *peer;
    bool *receives;
    const float **sources;
    char *inbox;         /* [size][CHUNK_BYTES] */
    MPI_Request *notice; /* [size] */
    char failure[MW_ERROR_TEXT_MAX];
};

/* ---- requests ---- */

static mw_status posted(mw_comm *c, int rc, int peer, bool receives) {
    mw_messages *m = c->messages;
    if (rc != MPI_SUCCESS) {
        mw_mpi_fail(rc, receives ? "MPI_Irecv" : "MPI_Isend");
        return mw_group_raise(c, MW_ERR_INTERNAL);
    }
    m->peer[m->n] = peer;
    m->receives[m->n++] = receives;
    return MW_OK;
}

/* The call's number is the tag: ranks that are in different calls do not take each other's data. */
static mw_status post_send(mw_comm *c, const void *buf, size_t bytes, int to) {
    mw_messages *m = c->messages;
    return posted(c, MPI_Isend(buf, (int)bytes, MPI_BYTE, to, (int)c->op.call, m->data, &m->request[m->n]), to, false);
}

static char *inbox_of(const mw_comm *c, int rank) {
    return c->messages->inbox + (size_t)rank * CHUNK_BYTES;
}

static mw_status post_receive(mw_comm *c, size_t bytes, int from) {
    mw_messages *m = c->messages;
    MPI_Request *q = &m->request[m->n];
    return posted(c, MPI_Irecv(inbox_of(c, from), (int)bytes, MPI_BYTE, from, (int)c->op.call, m->data, q), from, true);
}

/* ---- waiting ---- */

/* A failure message that has come in, if any: its text in `text`, its sender returned, else -1. */
static int poll_failure(mw_comm *c, char text[MW_ERROR_TEXT_MAX]) {
    mw_messages *m = c->messages;
    int there = 0;
    MPI_Status s;
    if (MPI_Iprobe(MPI_ANY_SOURCE, TAG_FAILURE, m->control, &there, &s) != MPI_SUCCESS || !there) return -1;
    int rc = MPI_Recv(text, MW_ERROR_TEXT_MAX, MPI_BYTE, s.MPI_SOURCE, TAG_FAILURE, m->control, MPI_STATUS_IGNORE);
    if (rc != MPI_SUCCESS) return -1;
    text[MW_ERROR_TEXT_MAX - 1] = 0;
    return s.MPI_SOURCE;
}

static bool messages_noticed(mw_comm *c) {
    char theirs[MW_ERROR_TEXT_MAX], text[MW_ERROR_TEXT_MAX];
    int origin = poll_failure(c, theirs);
    if (origin < 0) return false;
    mw_group_text(c, origin, theirs, text);
    mw_error_set_text(text);
    mw_group_failed(c, MW_ERR_PEER, origin);
    return true;
}

static mw_status request_failed(mw_comm *c, int rc, int done) {
    mw_messages *m = c->messages;
    int peer = -1;
    for (int i = 0; rc == MPI_ERR_IN_STATUS && i < done; i++)
        if (m->status[i].MPI_ERROR != MPI_SUCCESS) {
            rc = m->status[i].MPI_ERROR;
            peer = m->peer[m->index[i]];
        }
    char what[96];
    mw_mpi_fail(rc, mw_call_text(c->op.call, c->op.n, what));
    if (peer >= 0) mw_error_prefix("message from or to rank %d (%s)", peer, c->peer[peer].host);
    return mw_group_raise(c, MW_ERR_INTERNAL);
}

/* The ranks that owe us data; when all data is here, those that do not take ours. */
static mw_status give_up(mw_comm *c, int64_t waited_ns) {
    mw_messages *m = c->messages;
    int n = 0;
    for (int pass = 0; pass < 2 && n == 0; pass++)
        for (int i = 0; i < m->n; i++)
            if (m->request[i] != MPI_REQUEST_NULL && m->receives[i] == (pass == 0)) m->index[n++] = m->peer[i];
    return mw_group_silent(c, m->index, n, waited_ns);
}

static int ended_peer(const mw_comm *c) {
    const mw_messages *m = c->messages;
    for (int i = 0; i < m->n; i++)
        if (m->request[i] != MPI_REQUEST_NULL && mw_watch_ended(c, m->peer[i])) return m->peer[i];
    return -1;
}

/* *ended: a peer found ended at an earlier look; what it had sent may come in after its end, so it gets a second one.
 */
static mw_status look_around(mw_comm *c, mw_wait *t, int *ended) {
    if (messages_noticed(c)) return c->failed;
    if (mw_wait_expired(t)) return give_up(c, t->last - t->began);
    if (t->last < t->next_watch) return MW_OK;
    t->next_watch = t->last + WATCH_NS;
    int now_ended = ended_peer(c);
    if (now_ended >= 0 && now_ended == *ended) return mw_group_died(c, now_ended);
    *ended = now_ended;
    return MW_OK;
}

/* Until all posted requests are done; then there are none. */
static mw_status wait_posted(mw_comm *c, bool idle) {
    mw_messages *m = c->messages;
    mw_status st = MW_OK;
    mw_wait t;
    bool waiting = false;
    int ended = -1;
    for (int left = m->n; left > 0;) {
        int done = 0, rc = MPI_Testsome(m->n, m->request, &done, m->index, m->status);
        if (rc != MPI_SUCCESS) {
            st = request_failed(c, rc, done);
            break;
        }
        if (done == MPI_UNDEFINED) break;
        left -= done;
        if (done > 0) continue;
        if (!waiting) mw_wait_begin(&t, c, idle);
        waiting = true;
        bool check;
        mw_wait_phase phase = mw_wait_next(&t, &check);
        if (phase == MW_WAIT_YIELD) sched_yield();
        if (phase == MW_WAIT_SLEEP) mw_sleep_ns(t.sleep_ns);
        /* After the sleep: the probe in it lets MPI take in what has come, and the next test finds that done. */
        if (check && (st = look_around(c, &t, &ended)) != MW_OK) break;
    }
    if (waiting) mw_wait_end(&t);
    if (st == MW_OK) m->n = 0;
    return st;
}

/* ---- the calls ---- */

/* `bytes` <= CHUNK_BYTES of `mine` to every rank, theirs into the inboxes. */
static mw_status swap_all(mw_comm *c, const void *mine, size_t bytes) {
    mw_status st = MW_OK;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank) MW_TRY(st, post_receive(c, bytes, r));
    for (int r = 0; r < c->size; r++)
        if (r != c->rank) MW_TRY(st, post_send(c, mine, bytes, r));
    MW_TRY(st, wait_posted(c, false));
fail:
    return st;
}

static mw_status messages_all_gather(mw_comm *c, const void *mine, size_t bytes, void *all) {
    mw_status st = MW_OK;
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES) {
        size_t m = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        const char *part = (const char *)mine + at;
        MW_TRY(st, swap_all(c, part, m));
        for (int r = 0; r < c->size; r++)
            memcpy((char *)all + (size_t)r * bytes + at, r == c->rank ? part : inbox_of(c, r), m);
    }
fail:
    return st;
}

static mw_status messages_bcast(mw_comm *c, void *buf, size_t bytes, int root, bool idle) {
    mw_status st = MW_OK;
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES) {
        size_t m = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        char *part = (char *)buf + at;
        if (c->rank != root) MW_TRY(st, post_receive(c, m, root));
        for (int r = 0; c->rank == root && r < c->size; r++)
            if (r != root) MW_TRY(st, post_send(c, part, m, r));
        MW_TRY(st, wait_posted(c, idle && c->rank != root && at == 0));
        if (c->rank != root) memcpy(part, inbox_of(c, root), m);
    }
fail:
    return st;
}

static mw_status reduce_one_round(mw_comm *c, float *buf, size_t n) {
    mw_status st = MW_OK;
    mw_messages *m = c->messages;
    MW_TRY(st, swap_all(c, buf, n * sizeof *buf));
    for (int r = 0; r < c->size; r++) m->sources[r] = r == c->rank ? buf : (const float *)(const void *)inbox_of(c, r);
    mw_sum_f32(buf, m->sources, c->size, n);
fail:
    return st;
}

/* Rank r adds up part r of everyone's buffer, then sends the sums to everyone. */
static mw_status reduce_two_rounds(mw_comm *c, float *buf, size_t n) {
    mw_status st = MW_OK;
    mw_messages *m = c->messages;
    size_t part = (n + (size_t)c->size - 1) / (size_t)c->size;
#define PART_BEGIN(r) (part * (size_t)(r) < n ? part * (size_t)(r) : n)
    size_t mine = PART_BEGIN(c->rank), mine_n = PART_BEGIN(c->rank + 1) - mine;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && mine_n) MW_TRY(st, post_receive(c, mine_n * sizeof *buf, r));
    for (int r = 0; r < c->size; r++) {
        size_t b = PART_BEGIN(r), e = PART_BEGIN(r + 1);
        if (r != c->rank && e > b) MW_TRY(st, post_send(c, buf + b, (e - b) * sizeof *buf, r));
    }
    MW_TRY(st, wait_posted(c, false));
    for (int r = 0; r < c->size; r++)
        m->sources[r] = r == c->rank ? buf + mine : (const float *)(const void *)inbox_of(c, r);
    mw_sum_f32(buf + mine, m->sources, c->size, mine_n);

    for (int r = 0; r < c->size; r++) {
        size_t b = PART_BEGIN(r), e = PART_BEGIN(r + 1);
        if (r != c->rank && e > b) MW_TRY(st, post_receive(c, (e - b) * sizeof *buf, r));
    }
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && mine_n) MW_TRY(st, post_send(c, buf + mine, mine_n * sizeof *buf, r));
    MW_TRY(st, wait_posted(c, false));
    for (int r = 0; r < c->size; r++) {
        size_t b = PART_BEGIN(r), e = PART_BEGIN(r + 1);
        if (r != c->rank && e > b) memcpy(buf + b, inbox_of(c, r), (e - b) * sizeof *buf);
    }
#undef PART_BEGIN
fail:
    return st;
}

static mw_status messages_all_reduce(mw_comm *c, float *buf, size_t n) {
    mw_status st = MW_OK;
    for (size_t at = 0; st == MW_OK && at < n; at += CHUNK_FLOATS) {
        size_t m = n - at < CHUNK_FLOATS ? n - at : CHUNK_FLOATS;
        st = c->size > 2 && m > ONE_ROUND_FLOATS ? reduce_two_rounds(c, buf + at, m) : reduce_one_round(c, buf + at, m);
    }
    return st;
}

static size_t chunk_of(size_t total, size_t at) {
    size_t left = total > at ? total - at : 0;
    return left < CHUNK_FLOATS ? left : CHUNK_FLOATS;
}

static mw_status messages_gather_cols(mw_comm *c, int root, const float *src, size_t rows, const size_t *cols,
                                      float *dst) {
    mw_status st = MW_OK;
    size_t ld = 0, most = 0;
    for (int r = 0; r < c->size; r++) {
        ld += cols[r];
        if (cols[r] > most) most = cols[r];
    }
    bool receives = root < 0 || root == c->rank;
    for (size_t at = 0; at < rows * most; at += CHUNK_FLOATS) {
        size_t mine = chunk_of(rows * cols[c->rank], at);
        for (int r = 0; receives && r < c->size; r++) {
            size_t m = chunk_of(rows * cols[r], at);
            if (r != c->rank && m) MW_TRY(st, post_receive(c, m * sizeof *dst, r));
        }
        for (int r = 0; mine && r < c->size; r++)
            if (r != c->rank && (root < 0 || r == root)) MW_TRY(st, post_send(c, src + at, mine * sizeof *src, r));
        MW_TRY(st, wait_posted(c, false));
        size_t col = 0;
        for (int r = 0; receives && r < c->size; col += cols[r], r++) {
            size_t m = chunk_of(rows * cols[r], at);
            if (!m) continue;
            const float *part = r == c->rank ? src + at : (const float *)(const void *)inbox_of(c, r);
            mw_place_cols_f32(dst + col, ld, cols[r], at, part, m);
        }
    }
fail:
    return st;
}

/* ---- failure ---- */

/* `bytes` of text to all others; waits for a moment only, some may be gone. */
static void notify(mw_comm *c, int tag, const char *text, size_t bytes) {
    mw_messages *m = c->messages;
    for (int r = 0; r < c->size; r++)
        if (r == c->rank || MPI_Isend(text, (int)bytes, MPI_BYTE, r, tag, m->control, &m->notice[r]) != MPI_SUCCESS)
            m->notice[r] = MPI_REQUEST_NULL;
    int done = 0;
    for (int i = 0; i < 200 && !done; i++) {
        if (MPI_Testall(c->size, m->notice, &done, m->status) != MPI_SUCCESS) break;
        if (!done) mw_sleep_ns(1000000);
    }
}

static void messages_raise(mw_comm *c) {
    mw_messages *m = c->messages;
    int before = poll_failure(c, m->failure);
    if (before >= 0) {
        c->origin = before;
        return;
    }
    snprintf(m->failure, sizeof m->failure, "%s", c->text);
    notify(c, TAG_FAILURE, m->failure, strlen(m->failure) + 1);
}

static bool messages_claim_report(mw_comm *c) {
    mw_messages *m = c->messages;
    char text[MW_ERROR_TEXT_MAX];
    /* Two ranks may have failed at once and neither have known of the other: the lower one keeps the word. */
    for (int ms = 0; c->origin == c->rank && ms < 30; ms++) {
        int other = poll_failure(c, text);
        if (other >= 0 && other < c->rank) c->origin = other;
        mw_sleep_ns(1000000);
    }
    if (c->origin != c->rank) {
        int64_t turn_ns = (int64_t)(c->rank < 20 ? c->rank : 20) * 100000000,
                until = mw_now_ns() + 1000000000 + turn_ns;
        for (int there = 0; mw_now_ns() < until; mw_sleep_ns(1000000)) {
            int rc = MPI_Iprobe(MPI_ANY_SOURCE, TAG_REPORTED, m->control, &there, MPI_STATUS_IGNORE);
            if (rc == MPI_SUCCESS && there) return false;
        }
    }
    notify(c, TAG_REPORTED, NULL, 0);
    return true;
}

/* ---- opening and closing ---- */

/* After a failure open requests still refer to this memory, and MPI is not asked for anything any more: it stays until
 * the process ends. */
static mw_messages *volatile g_kept;

static void messages_close(mw_comm *c) {
    mw_messages *m = c->messages;
    if (!m) return;
    if (c->failed != MW_OK) {
        g_kept = m;
        c->messages = NULL;
        return;
    }
    if (m->data != MPI_COMM_NULL) MPI_Comm_free(&m->data);
    if (m->control != MPI_COMM_NULL) MPI_Comm_free(&m->control);
    free(m->request);
    free(m->status);
    free(m->index);
    free(m->peer);
    free(m->receives);
    free(m->sources);
    free(m->inbox);
    free(m->notice);
    free(m);
    c->messages = NULL;
}

static const mw_transport k_messages = {
    .name = "messages",
    .all_gather = messages_all_gather,
    .bcast = messages_bcast,
    .all_reduce_f32 = messages_all_reduce,
    .gather_cols_f32 = messages_gather_cols,
    .raise = messages_raise,
    .noticed = messages_noticed,
    .claim_report = messages_claim_report,
    .close = messages_close,
};

static mw_status duplicate(mw_comm *c, MPI_Comm *out) {
    int rc = MPI_Comm_dup(c->world, out);
    if (rc == MPI_SUCCESS) rc = MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN);
    return rc == MPI_SUCCESS ? MW_OK : mw_mpi_fail(rc, "MPI_Comm_dup");
}

static mw_status make(mw_messages **out, size_t n) {
    mw_status st = MW_OK;
    mw_messages *m = NULL;
    MW_TRY(st, MW_CALLOC(out, 1, "message transport"));
    m = *out;
    m->data = m->control = MPI_COMM_NULL;
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): in Open MPI a request is a pointer, and its size is what is meant */
    MW_TRY(st, MW_CALLOC(&m->request, 2 * n, "requests"));
    MW_TRY(st, MW_CALLOC(&m->status, 2 * n, "request states"));
    MW_TRY(st, MW_CALLOC(&m->index, 2 * n, "request indices"));
    MW_TRY(st, MW_CALLOC(&m->peer, 2 * n, "request peers"));
    MW_TRY(st, MW_CALLOC(&m->receives, 2 * n, "request kinds"));
    MW_TRY(st, MW_CALLOC(&m->sources, n, "sources of a sum"));
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): as above */
    MW_TRY(st, MW_CALLOC(&m->notice, n, "failure requests"));
    MW_TRY(st, mw_alloc64((void **)&m->inbox, n * CHUNK_BYTES, "receive buffers"));
fail:
    return st;
}

mw_status mw_messages_open(mw_comm *c) {
    mw_status st = mw_open_agree(c, make(&c->messages, (size_t)c->size));
    if (st != MW_OK) return st;
    MW_TRY(st, duplicate(c, &c->messages->data));
    MW_TRY(st, duplicate(c, &c->messages->control));
    c->transport = &k_messages;
fail:
    return st;
}
