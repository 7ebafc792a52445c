/* shard/ckpt_internal.h - private to shard/: what an open model.h5 is. Built by directory.c, read by checkpoint.c. */
#ifndef MW_SHARD_CKPT_INTERNAL_H
#define MW_SHARD_CKPT_INTERNAL_H
#include "shard/checkpoint.h"
#include "shard/synthetic.h"

#define MW_ATTR_MAX 256

typedef struct mw_text_entry {
    char name[MW_NAME_MAX];
    uint64_t offset, n, xxh3;
} mw_text_entry;

/* Plain data: sent to other ranks byte by byte (all ranks run the same binary; the blob carries the sizes). */
typedef struct mw_ckpt_head {
    uint64_t file_size;
    mw_layout layout;
    char uuid[40];
    mw_model_config cfg;
    char creator[MW_ATTR_MAX], created[MW_ATTR_MAX], source_format[MW_ATTR_MAX], source_name[MW_ATTR_MAX],
        chat[MW_ATTR_MAX];
    int rank, n_ranks; /* n_ranks 0: the whole model */
    int n_datasets, n_weights, n_texts;
} mw_ckpt_head;

struct mw_ckpt {
    mw_ckpt_head h;
    mw_dataset *dataset;
    mw_weight *weight; /* sorted by name */
    mw_text_entry *text;
    char *path;
    int fd;
    mw_synthetic *synthetic; /* no file behind it: where its weights come from */
};

/* Fill everything but path and fd from the HDF5 metadata of `path`. */
MW_MUST_CHECK mw_status mw_directory_scan(mw_ckpt *c, const char *path);

/* Every weight of the role table there, of the right kind, dtype and shape; nothing else. */
MW_MUST_CHECK mw_status mw_directory_check(const mw_ckpt *c, const char *path);

#endif
