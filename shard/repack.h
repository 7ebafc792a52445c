/* shard/repack.h - from one model.h5 to another: logical rows to Marlin tiles and back, whole or one rank's share. */
#ifndef MW_SHARD_REPACK_H
#define MW_SHARD_REPACK_H
#include "shard/plan.h"
#include "worker/base/progress.h"
MW_BEGIN_DECLS

typedef struct mw_repack_opts {
    const char *out;
    bool force;
    mw_layout layout;    /* of the new file */
    const mw_plan *plan; /* NULL: the whole model */
    int rank;            /* with a plan: whose share */
    int threads;
    const char *creator;
    bool progress;
} mw_repack_opts;

typedef struct mw_repack_stats {
    uint64_t bytes;      /* written */
    uint64_t int4_bytes; /* of them int4 weights */
    double pack_s;       /* spent turning int4 rows into tiles or back, all threads working */
    double total_s;
} mw_repack_stats;

/* Writes opts->out, whole or not at all. Memory: a few bands of 16 MB, whatever the model's size. */
MW_MUST_CHECK mw_status mw_repack(const mw_ckpt *src, const mw_repack_opts *opts, mw_repack_stats *stats);

/* Do both files hold the same model: config, texts, every logical weight? MW_ERR_FORMAT names the first difference.
 * *weights: int4 and other elements compared. */
MW_MUST_CHECK mw_status mw_repack_compare(const mw_ckpt *a, const mw_ckpt *b, uint64_t *weights);

/* Logical int4 rows k0..k1-1 (multiples of 16), columns c0..c1-1 (c0 a multiple of 64, c1 too or N) of a weight in
 * either layout, as nibble pairs: rows of ceil((c1-c0)/2) bytes. */
MW_MUST_CHECK mw_status mw_read_int4_rows(const mw_ckpt *c, const mw_weight *w, int64_t k0, int64_t k1, int64_t c0,
                                          int64_t c1, uint8_t *rows);
/* Rows g..g+n-1, columns 0..N-1 of scales or zeros in natural order, [n][N]; elements in the dataset's dtype. A
 * checksum block spans 64 rows and is read whole: ask for all the rows that are wanted at once. */
MW_MUST_CHECK mw_status mw_read_group_rows(const mw_ckpt *c, const mw_weight *w, const mw_dataset *d, int64_t g,
                                           int64_t n, void *rows);

MW_END_DECLS
#endif
