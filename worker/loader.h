/* worker/loader.h - fills this rank's weights from the file: many pieces, several threads, a bounded amount of memory.
 *
 * mw_load_* only note what is to be done; mw_loader_run does it, in parallel, in bands of a few megabytes. Each byte is
 * read once, at its offset, by pread; checksums are verified on the way unless told otherwise. Destinations are device
 * memory: where that is host memory the bytes go straight there, otherwise each thread has one page-locked buffer that
 * it fills and uploads, so that reading and copying of different threads overlap.
 */
#ifndef MW_WORKER_LOADER_H
#define MW_WORKER_LOADER_H
#include "kernels/kernels.h"
#include "shard/plan.h"
#include "worker/base/progress.h"
MW_BEGIN_DECLS

typedef struct mw_loader mw_loader;
MW_MUST_CHECK mw_status mw_loader_open(mw_loader **out, const mw_ckpt *c, const mw_kernels *k, mw_dev *dev, int threads,
                                       bool verify);
void mw_loader_close(mw_loader *l); /* NULL allowed */

/* Marlin tiles of the slice k x n of int4 weight w: u32 [len(k)/16] rows of ld words, 2 * round_up(len(n), 64) written
 * in each. Columns beyond len(n) are padding: their nibbles are arbitrary, their scales 0. */
MW_MUST_CHECK mw_status mw_load_tiles(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, uint32_t *dst,
                                      size_t ld);
/* Scales of the same slice for groups of `group` rows (mw_plan_local_group), permuted; [len(k)/group] rows of ld
 * elements, round_up(len(n), 64) written in each. */
MW_MUST_CHECK mw_status mw_load_scales(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, int64_t group,
                                       void *dst, size_t ld);
/* Zero points likewise, u8; a weight without stored zeros gives 8 everywhere. */
MW_MUST_CHECK mw_status mw_load_zeros(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, int64_t group,
                                      uint8_t *dst, size_t ld);
/* Rows n, columns k of a 16- or 32-bit weight [N][K], in the file's dtype, contiguous. */
MW_MUST_CHECK mw_status mw_load_dense(mw_loader *l, const mw_weight *w, mw_range k, mw_range n, void *dst);
/* Elements r of a 1-D dataset (a norm, a bias) as f32. */
MW_MUST_CHECK mw_status mw_load_vector(mw_loader *l, int dataset, mw_range r, float *dst);
/* Elements r of a permutation, i32. Every value is checked to be in [0, limit). */
MW_MUST_CHECK mw_status mw_load_perm(mw_loader *l, int dataset, mw_range r, int64_t limit, int32_t *dst);

/* Do it all. Afterwards *bytes read from the file and the seconds it took. MW_ERR_CORRUPT also for a scale or norm that
 * is NaN or infinite. */
MW_MUST_CHECK mw_status mw_loader_run(mw_loader *l, mw_progress *bar, uint64_t *bytes, double *seconds);

MW_END_DECLS
#endif
