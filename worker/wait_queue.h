/* worker/wait_queue.h - sequences that wait for their first admission: clients take turns, and the sequences of one
 * client come in order. A client that has nothing waiting loses its place; one that comes is the last to have a turn.
 */
#ifndef MW_WORKER_WAIT_QUEUE_H
#define MW_WORKER_WAIT_QUEUE_H
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

struct mw_seq;

typedef struct mw_seq_list {
    struct mw_seq *head, *tail;
    int n;
} mw_seq_list;

/* `before` NULL: at the end. */
void mw_seq_insert(mw_seq_list *l, struct mw_seq *q, struct mw_seq *before);
void mw_seq_unlink(mw_seq_list *l, struct mw_seq *q);

#define MW_TURN_BUCKETS 256

/* A client with waiting sequences. */
typedef struct mw_turn {
    uint64_t client;
    mw_seq_list seqs;
    struct mw_turn *prev, *next; /* in the order of turns */
    struct mw_turn *same_bucket;
} mw_turn;

typedef struct mw_wait_queue {
    mw_turn *first, *last; /* whose turn it is next */
    mw_turn *bucket[MW_TURN_BUCKETS];
    int n; /* sequences */
} mw_wait_queue;

MW_MUST_CHECK mw_status mw_wait_add(mw_wait_queue *w, struct mw_seq *q);
/* The sequence whose turn it is, or NULL. */
struct mw_seq *mw_wait_first(const mw_wait_queue *w);
/* It has had its turn: q is the first one. */
void mw_wait_take(mw_wait_queue *w, struct mw_seq *q);
/* It waits no longer, wherever it stands; nobody's turn is over. */
void mw_wait_remove(mw_wait_queue *w, struct mw_seq *q);
void mw_wait_free(mw_wait_queue *w); /* the sequences are their owner's */

MW_END_DECLS
#endif
