/* shard/tools/convert_pipe.h - a few large buffers that travel between the thread that reads and converts weights and
 * the thread that writes the file. They bound the memory of a conversion, and let both sides work at once. */
#ifndef MW_SHARD_CONVERT_PIPE_H
#define MW_SHARD_CONVERT_PIPE_H
#include "shard/quant.h"
MW_BEGIN_DECLS

/* A converted weight, or some rows of a large one. */
typedef struct mw_piece {
    const mw_hf_weight *w;
    bool int4;
    mw_matrix m;           /* int4 */
    mw_dtype dtype;        /* float: rows [row0, row0 + rows) of the weight lie in mem */
    int64_t row0, rows;    /* row0 == 0: the first piece of the weight */
    bool last;             /* the last piece of the weight */
    void *bias;            /* float linear layers, with the last piece; NULL: none */
    uint64_t source_bytes; /* read for this piece */
    void *mem;             /* the buffer */
} mw_piece;

typedef struct mw_pipe mw_pipe;

/* n_pieces buffers of `bytes` each; memory that is never touched is never taken. */
MW_MUST_CHECK mw_status mw_pipe_create(mw_pipe **out, int n_pieces, size_t bytes);
void mw_pipe_destroy(mw_pipe *p); /* NULL allowed; after the reading thread has ended */

/* Reading side: an empty piece, waiting for one; NULL when the writing side has given up. */
mw_piece *mw_pipe_empty(mw_pipe *p);
void mw_pipe_push(mw_pipe *p, mw_piece *piece);
/* No more pieces; st and, when it is a failure, this thread's error text are carried over. */
void mw_pipe_finish(mw_pipe *p, mw_status st);

/* Writing side: the next piece in order; *out is NULL at the end. A failure of the reading side comes back with its
 * text. */
MW_MUST_CHECK mw_status mw_pipe_pop(mw_pipe *p, mw_piece **out);
void mw_pipe_recycle(mw_pipe *p, mw_piece *piece);
void mw_pipe_give_up(mw_pipe *p);

MW_END_DECLS
#endif
