#include "worker/wait_queue.h"

#include <stdlib.h>

#include "worker/scheduler.h"

void mw_seq_insert(mw_seq_list *l, mw_seq *q, mw_seq *before) {
    q->next = before;
    q->prev = before ? before->prev : l->tail;
    *(q->prev ? &q->prev->next : &l->head) = q;
    *(before ? &before->prev : &l->tail) = q;
    l->n++;
}

void mw_seq_unlink(mw_seq_list *l, mw_seq *q) {
    *(q->prev ? &q->prev->next : &l->head) = q->next;
    *(q->next ? &q->next->prev : &l->tail) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

static mw_turn **bucket_of(mw_wait_queue *w, uint64_t client) {
    return &w->bucket[(client * 0x9E3779B97F4A7C15u) >> 56];
}

static void link_turn(mw_wait_queue *w, mw_turn *t) {
    t->prev = w->last;
    t->next = NULL;
    *(w->last ? &w->last->next : &w->first) = t;
    w->last = t;
}

static void unlink_turn(mw_wait_queue *w, mw_turn *t) {
    *(t->prev ? &t->prev->next : &w->first) = t->next;
    *(t->next ? &t->next->prev : &w->last) = t->prev;
}

static void drop_turn(mw_wait_queue *w, mw_turn *t) {
    mw_turn **at = bucket_of(w, t->client);
    while (*at != t) at = &(*at)->same_bucket;
    *at = t->same_bucket;
    unlink_turn(w, t);
    free(t);
}

mw_status mw_wait_add(mw_wait_queue *w, mw_seq *q) {
    mw_turn **bucket = bucket_of(w, q->client), *t = *bucket;
    while (t && t->client != q->client) t = t->same_bucket;
    if (!t) {
        mw_status st = MW_CALLOC(&t, 1, "client");
        if (st != MW_OK) return st;
        t->client = q->client;
        t->same_bucket = *bucket;
        *bucket = t;
        link_turn(w, t);
    }
    mw_seq_insert(&t->seqs, q, NULL);
    q->turn = t;
    w->n++;
    return MW_OK;
}

mw_seq *mw_wait_first(const mw_wait_queue *w) {
    return w->first ? w->first->seqs.head : NULL;
}

void mw_wait_remove(mw_wait_queue *w, mw_seq *q) {
    mw_turn *t = q->turn;
    mw_seq_unlink(&t->seqs, q);
    q->turn = NULL;
    w->n--;
    if (t->seqs.n == 0) drop_turn(w, t);
}

void mw_wait_take(mw_wait_queue *w, mw_seq *q) {
    mw_turn *t = q->turn;
    if (t->seqs.n > 1) {
        unlink_turn(w, t);
        link_turn(w, t);
    }
    mw_wait_remove(w, q);
}

void mw_wait_free(mw_wait_queue *w) {
    for (mw_turn *t = w->first, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    *w = (mw_wait_queue){0};
}
