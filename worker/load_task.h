/* worker/load_task.h - private to the loader: one piece of work, and what the host has to do for it.
 *
 *   loader.c     which pieces there are; threads, slots, copies
 *   load_fill.c  a piece from the file to host memory
 */
#ifndef MW_WORKER_LOAD_TASK_H
#define MW_WORKER_LOAD_TASK_H
#include "shard/checkpoint.h"
#include "shard/plan.h"

typedef enum { MW_LOAD_TILES, MW_LOAD_SCALES, MW_LOAD_ZEROS, MW_LOAD_DENSE, MW_LOAD_VECTOR, MW_LOAD_PERM } mw_load_kind;

typedef struct mw_load_task {
    mw_load_kind kind;
    const mw_weight *w;
    const mw_dataset *d; /* NULL: ZEROS of a weight that stores none */
    mw_range k, n;
    int64_t group, limit;
    void *dst;
    size_t ld;      /* of dst: words (TILES), elements (SCALES, ZEROS) or bytes (DENSE) from row to row */
    uint64_t bytes; /* read from the file */
} mw_load_task;

/* What a task writes: rows of `width` bytes, `pitch` apart. */
typedef struct mw_load_area {
    size_t rows, width, pitch;
} mw_load_area;
mw_load_area mw_load_area_of(const mw_load_task *t);

typedef struct mw_load_source {
    const mw_ckpt *c;
    bool verify;
    mw_read_times times; /* of one thread */
} mw_load_source;

/* The task's result, at t->dst and t->ld, which are host memory. */
MW_MUST_CHECK mw_status mw_load_fill(mw_load_source *s, const mw_load_task *t);

/* Is there a form of this task in which the device does the packing? Then `rows` rows of `n` columns as the file has
 * them, adjacent, go to dst (never more bytes than the area of the task): int4 pairs for TILES, elements otherwise. */
bool mw_load_has_raw(const mw_ckpt *c, const mw_load_task *t);
MW_MUST_CHECK mw_status mw_load_fill_raw(mw_load_source *s, const mw_load_task *t, void *dst);

#endif
