/* shard/chunks.h - private to shard/: a range of work cut into chunks for the threads of a pool. */
#ifndef MW_SHARD_CHUNKS_H
#define MW_SHARD_CHUNKS_H
#include "worker/base/threads.h"
MW_BEGIN_DECLS

/* Work on units [u0, u1). `scratch` is the thread's own, 64-byte aligned. */
typedef mw_status (*mw_chunk_fn)(const void *arg, int64_t u0, int64_t u1, void *scratch);

/* fn over [0, units) in chunks of at most `step`; the first failure stops the rest and comes back with its text. */
MW_MUST_CHECK mw_status mw_chunks(mw_pool *pool, int64_t units, int64_t step, size_t scratch, mw_chunk_fn fn,
                                  const void *arg);

MW_END_DECLS
#endif
