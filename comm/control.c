/* The calls that steer a group: small data, few bytes, every step or less often. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/internal.h"
#include "worker/base/mem.h"
#include "worker/base/threads.h"

static const struct {
    const char *name, *unit;
} k_calls[MW_CALL_COUNT] = {
    [MW_CALL_NONE] = {"no call", NULL},
    [MW_CALL_LEAVE] = {"the leaving of the group", NULL},
    [MW_CALL_AGREE] = {"an agreement", NULL},
    [MW_CALL_BCAST] = {"a broadcast", "bytes"},
    [MW_CALL_ALL_GATHER] = {"an all-gather", "bytes"},
    [MW_CALL_REDUCE_U64] = {"a reduction", NULL},
    [MW_CALL_CPU_SHARE] = {"sharing out the cores", NULL},
    [MW_CALL_IDLE] = {"a time without requests", NULL},
    [MW_CALL_ALL_REDUCE] = {"an all-reduce", "floats"},
    [MW_CALL_GATHER_COLS] = {"a gather of columns", "floats"},
    [MW_CALL_DEVICE] = {"a step on the devices", NULL},
};

const char *mw_call_text(mw_call call, size_t n, char out[96]) {
    if ((unsigned)call >= MW_CALL_COUNT)
        snprintf(out, 96, "call %d", (int)call);
    else if (k_calls[call].unit)
        snprintf(out, 96, "%s of %zu %s", k_calls[call].name, n, k_calls[call].unit);
    else
        snprintf(out, 96, "%s", k_calls[call].name);
    return out;
}

mw_status mw_call_enter(mw_comm *c, mw_call call, size_t n) {
    if (c->failed != MW_OK || (c->transport && c->transport->noticed(c))) {
        mw_error_set_text(c->text);
        return c->failed;
    }
    c->op = (mw_op){call, n};
    return MW_OK;
}

mw_status mw_comm_look(mw_comm *c) {
    mw_status st = mw_call_enter(c, MW_CALL_IDLE, 0);
    for (int r = 0; r < c->size && st == MW_OK; r++)
        if (mw_watch_ended(c, r)) st = mw_group_died(c, r);
    return st;
}

static mw_status all_gather(mw_comm *c, mw_call call, const void *mine, size_t bytes, void *all) {
    mw_status st = mw_call_enter(c, call, bytes);
    if (st != MW_OK || bytes == 0) return st;
    if (c->transport) return c->transport->all_gather(c, mine, bytes, all);
    memcpy(all, mine, bytes);
    return MW_OK;
}

mw_status mw_comm_all_gather_bytes(mw_comm *c, const void *mine, size_t bytes, void *all) {
    size_t total;
    if (!mw_mul_size(bytes, (size_t)c->size, &total))
        return MW_FAIL(MW_ERR_LIMIT, "all-gather of %zu bytes from %d ranks", bytes, c->size);
    return all_gather(c, MW_CALL_ALL_GATHER, mine, bytes, all);
}

mw_status mw_group_meet(mw_comm *c, mw_call call) {
    mw_status st = MW_OK;
    unsigned char one = 1, *all = NULL;
    MW_TRY(st, MW_CALLOC(&all, (size_t)c->size, "meeting"));
    MW_TRY(st, all_gather(c, call, &one, 1, all));
fail:
    free(all);
    return st;
}

mw_status mw_comm_bcast(mw_comm *c, void *buf, size_t bytes, int root, bool idle) {
    if (root < 0 || root >= c->size) return MW_FAIL(MW_ERR_USAGE, "broadcast from rank %d of %d", root, c->size);
    mw_status st = mw_call_enter(c, MW_CALL_BCAST, bytes);
    return st != MW_OK || bytes == 0 || !c->transport ? st : c->transport->bcast(c, buf, bytes, root, idle);
}

mw_status mw_comm_reduce_u64(mw_comm *c, uint64_t *v, mw_reduce_op op) {
    mw_status st = MW_OK;
    uint64_t *all = NULL;
    MW_TRY(st, MW_CALLOC(&all, (size_t)c->size, "reduction"));
    MW_TRY(st, all_gather(c, MW_CALL_REDUCE_U64, v, sizeof *v, all));
    uint64_t x = all[0];
    for (int r = 1; r < c->size; r++) {
        if (op == MW_MIN && all[r] < x) x = all[r];
        if (op == MW_MAX && all[r] > x) x = all[r];
        if (op == MW_SUM) x += all[r];
    }
    *v = x;
fail:
    free(all);
    return st;
}

/* The text of the first failing rank goes to all; `n_failed` counts it and the others. */
static mw_status spread_text(mw_comm *c, int first, int n_failed) {
    char theirs[MW_ERROR_TEXT_MAX] = "", text[MW_ERROR_TEXT_MAX], tail[64];
    if (c->rank == first) snprintf(theirs, sizeof theirs, "%s", mw_error_text());
    mw_status st = mw_comm_bcast(c, theirs, sizeof theirs, first, false);
    if (st != MW_OK) return st;
    theirs[sizeof theirs - 1] = 0;
    mw_group_text(c, first, theirs, text);
    if (n_failed > 1) {
        snprintf(tail, sizeof tail, " (and %d other rank%s failed)", n_failed - 1, n_failed > 2 ? "s" : "");
        size_t at = strlen(text), most = sizeof text - sizeof tail;
        snprintf(text + (at < most ? at : most), sizeof tail, "%s", tail);
    }
    mw_error_set_text(text);
    return MW_OK;
}

mw_status mw_comm_agree(mw_comm *c, mw_status mine) {
    mw_status st = MW_OK;
    int32_t my_code = (int32_t)mine, *code = NULL;
    char kept[MW_ERROR_TEXT_MAX]; /* what happened here, in case a failure in between replaces it */
    snprintf(kept, sizeof kept, "%s", mw_error_text());
    MW_TRY(st, MW_CALLOC(&code, (size_t)c->size, "agreement"));
    MW_TRY(st, all_gather(c, MW_CALL_AGREE, &my_code, sizeof my_code, code));
    int first = -1, n_failed = 0;
    for (int r = c->size - 1; r >= 0; r--)
        if (code[r] != MW_OK) {
            first = r;
            n_failed++;
        }
    c->agreed = first >= 0;
    if (first >= 0) {
        mw_error_set_text(kept);
        MW_TRY(st, spread_text(c, first, n_failed));
        st = (mw_status)code[first];
    }
fail:
    free(code);
    return st;
}

typedef struct {
    int32_t node, cores;
    cpu_set_t mask;
} cpu_offer;

mw_status mw_comm_cpu_share(mw_comm *c, int *cores, bool *oversubscribed) {
    mw_status st = MW_OK;
    cpu_offer mine, *all = NULL;
    memset(&mine, 0, sizeof mine); /* padding goes over the wire too */
    mine.node = c->peer[c->rank].node;
    mine.cores = mw_cpu_count();
    if (sched_getaffinity(0, sizeof mine.mask, &mine.mask) != 0) CPU_ZERO(&mine.mask); /* > 1024 cores: all alike */
    MW_TRY(st, MW_CALLOC(&all, (size_t)c->size, "core masks"));
    MW_TRY(st, all_gather(c, MW_CALL_CPU_SHARE, &mine, sizeof mine, all));
    int sharers = 1;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && all[r].node == mine.node && CPU_EQUAL(&all[r].mask, &mine.mask)) sharers++;
    *oversubscribed = sharers > mine.cores;
    *cores = *oversubscribed ? 1 : mine.cores / sharers;
fail:
    free(all);
    return st;
}
