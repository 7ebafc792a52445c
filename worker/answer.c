#include "worker/answer.h"

#include <stdlib.h>
#include <string.h>

mw_status mw_answer_init(mw_answer *a, const mw_tokenizer *t, const char *const *stop, int n_stop) {
    mw_status st = MW_OK;
    *a = (mw_answer){.has_text = t != NULL};
    if (t) mw_detok_init(&a->detok, t, true);
    MW_TRY(st, MW_CALLOC(&a->stop, (size_t)n_stop, "stop strings"));
    for (int i = 0; i < n_stop; i++) {
        a->stop[i] = strdup(stop[i]);
        if (!a->stop[i]) {
            st = MW_FAIL(MW_ERR_NOMEM, "stop string");
            goto fail;
        }
        a->n_stop = i + 1;
    }
    return MW_OK;
fail:
    mw_answer_free(a);
    return st;
}

void mw_answer_free(mw_answer *a) {
    for (int i = 0; i < a->n_stop; i++) free(a->stop[i]);
    free(a->stop);
    if (a->has_text) mw_detok_free(&a->detok);
    mw_str_free(&a->held);
    *a = (mw_answer){0};
}

/* Where the earliest stop string begins in held text, or -1. */
static ptrdiff_t find_stop(const mw_answer *a) {
    ptrdiff_t best = -1;
    for (int i = 0; i < a->n_stop; i++) {
        const char *at = a->held.n ? memmem(a->held.p, a->held.n, a->stop[i], strlen(a->stop[i])) : NULL;
        if (at && (best < 0 || at - a->held.p < best)) best = at - a->held.p;
    }
    return best;
}

/* Length of the longest suffix of held text that begins some stop string: it must wait. */
static size_t undecided(const mw_answer *a) {
    size_t longest = 0;
    for (int i = 0; i < a->n_stop; i++) {
        size_t len = strlen(a->stop[i]), n = len - 1 < a->held.n ? len - 1 : a->held.n;
        for (; n > longest; n--)
            if (memcmp(a->held.p + a->held.n - n, a->stop[i], n) == 0) longest = n;
    }
    return longest;
}

static mw_status release(mw_answer *a, size_t n, mw_str *out) {
    mw_status st = mw_str_add(out, a->held.p, n);
    if (st != MW_OK) return st;
    memmove(a->held.p, a->held.p + n, a->held.n - n);
    a->held.n -= n;
    return MW_OK;
}

static mw_status settle(mw_answer *a, mw_str *out, bool last) {
    ptrdiff_t stop = find_stop(a);
    if (stop >= 0) {
        mw_status st = release(a, (size_t)stop, out);
        a->held.n = 0;
        a->stopped = true;
        return st;
    }
    size_t keep = last ? 0 : undecided(a);
    return a->held.n > keep ? release(a, a->held.n - keep, out) : MW_OK;
}

mw_status mw_answer_push(mw_answer *a, int32_t token, mw_str *out) {
    if (!a->has_text || a->stopped) return MW_OK;
    mw_status st = mw_detok_push(&a->detok, token, &a->held);
    return st == MW_OK ? settle(a, out, false) : st;
}

mw_status mw_answer_finish(mw_answer *a, mw_str *out) {
    if (!a->has_text || a->stopped) return MW_OK;
    mw_status st = mw_detok_flush(&a->detok, &a->held);
    return st == MW_OK ? settle(a, out, true) : st;
}
