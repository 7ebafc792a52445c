#include "shard/tools/convert_pipe.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_PIECES 8

struct mw_pipe {
    pthread_mutex_t lock;
    pthread_cond_t change;
    int n;
    mw_piece piece[MAX_PIECES];
    mw_piece *empty[MAX_PIECES], *full[MAX_PIECES]; /* first in, first out */
    int n_empty, n_full;
    bool finished, given_up;
    mw_status st;
    char text[MW_ERROR_TEXT_MAX];
};

mw_status mw_pipe_create(mw_pipe **out, int n_pieces, size_t bytes) {
    mw_status st = MW_OK;
    mw_pipe *p = NULL;
    if (n_pieces > MAX_PIECES) n_pieces = MAX_PIECES;
    MW_TRY(st, MW_CALLOC(&p, 1, "conversion pipe"));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->change, NULL);
    for (p->n = 0; p->n < n_pieces; p->n++) {
        MW_TRY(st, mw_alloc64(&p->piece[p->n].mem, bytes, "conversion buffer"));
        p->empty[p->n_empty++] = &p->piece[p->n];
    }
    *out = p;
    return MW_OK;
fail:
    mw_pipe_destroy(p);
    return st;
}

void mw_pipe_destroy(mw_pipe *p) {
    if (!p) return;
    for (int i = 0; i < p->n; i++) free(p->piece[i].mem);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->change);
    free(p);
}

/* First of a list of at most MAX_PIECES. */
static mw_piece *take_first(mw_piece **list, int *n) {
    mw_piece *first = list[0];
    for (int i = 1; i < *n; i++) list[i - 1] = list[i];
    --*n;
    return first;
}

mw_piece *mw_pipe_empty(mw_pipe *p) {
    mw_piece *piece = NULL;
    pthread_mutex_lock(&p->lock);
    while (!p->given_up && p->n_empty == 0) pthread_cond_wait(&p->change, &p->lock);
    if (!p->given_up) {
        piece = take_first(p->empty, &p->n_empty);
        *piece = (mw_piece){.mem = piece->mem};
    }
    pthread_mutex_unlock(&p->lock);
    return piece;
}

void mw_pipe_push(mw_pipe *p, mw_piece *piece) {
    pthread_mutex_lock(&p->lock);
    p->full[p->n_full++] = piece;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}

void mw_pipe_finish(mw_pipe *p, mw_status st) {
    pthread_mutex_lock(&p->lock);
    p->finished = true;
    p->st = st;
    if (st != MW_OK) snprintf(p->text, sizeof p->text, "%s", mw_error_text());
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}

mw_status mw_pipe_pop(mw_pipe *p, mw_piece **out) {
    pthread_mutex_lock(&p->lock);
    while (p->n_full == 0 && !p->finished) pthread_cond_wait(&p->change, &p->lock);
    mw_status st = p->finished ? p->st : MW_OK;
    *out = st == MW_OK && p->n_full ? take_first(p->full, &p->n_full) : NULL;
    pthread_mutex_unlock(&p->lock);
    if (st != MW_OK) mw_error_set_text(p->text);
    return st;
}

void mw_pipe_recycle(mw_pipe *p, mw_piece *piece) {
    pthread_mutex_lock(&p->lock);
    p->empty[p->n_empty++] = piece;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}

void mw_pipe_give_up(mw_pipe *p) {
    pthread_mutex_lock(&p->lock);
    p->given_up = true;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}
