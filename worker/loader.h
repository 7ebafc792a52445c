/* worker/loader.h - fills this rank's weights from the file: many pieces, several threads, a bounded amount of memory.
 *
 * mw_load_* only note what is to be done; mw_loader_run does it, in parallel, in bands of a few megabytes. Each byte is
 * read once, at its offset, by pread; checksums are verified on the way unless told otherwise. Destinations are device
 * memory: where that is host memory the bytes go straight there. Otherwise each thread has a lane (kernels.h): it fills
 * one page-locked slot while the device copies another, and int4 rows and scales that are not packed yet are packed by
 * the device.
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

/* Pieces of about this many bytes instead of the default (megabytes); never less than a checksum block. Before the
 * first mw_load_*. For tests, whose models are small. */
void mw_loader_set_band(mw_loader *l, int64_t bytes);

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

typedef struct mw_load_stats {
    uint64_t bytes; /* read from the file */
    double seconds;
    int threads;
    /* Sums over the threads: reading the file; verifying checksums; waiting until the device has copied a slot; making
     * and releasing page-locked memory. What is left is packing and moving in host memory. */
    double read_s, verify_s, wait_s, pin_s;
} mw_load_stats;

/* Do it all. MW_ERR_CORRUPT also for a scale or norm that is NaN or infinite. */
MW_MUST_CHECK mw_status mw_loader_run(mw_loader *l, mw_progress *bar, mw_load_stats *stats);

/* "5.7 GB in 0.23 s, 24.8 GB/s; 16 threads: reading 60 %, ... : bound by reading the file" into buf of `cap` bytes. */
const char *mw_load_stats_text(const mw_load_stats *s, char *buf, size_t cap);

MW_END_DECLS
#endif
