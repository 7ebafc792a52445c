/* shard/tools/convert_export.h - model.h5 -> Hugging Face folder: float weights, or GPTQ tensors. */
#ifndef MW_SHARD_CONVERT_EXPORT_H
#define MW_SHARD_CONVERT_EXPORT_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/dtype.h"
MW_BEGIN_DECLS

typedef enum { MW_EXPORT_FLOAT, MW_EXPORT_GPTQ } mw_export_kind;

typedef struct mw_export_opts {
    const char *file, *dir;
    mw_export_kind kind;
    int threads;
    bool progress;
    bool act_given; /* float weights: this dtype instead of the model's activation dtype */
    mw_dtype act;
    uint64_t file_bytes; /* largest safetensors file */
} mw_export_opts;

/* *bytes written. MW_ERR_UNSUPPORTED: GPTQ cannot hold the model (zeros 0 and 16 together, mixed group sizes). */
MW_MUST_CHECK mw_status mw_export(const mw_export_opts *o, uint64_t *bytes);

MW_END_DECLS
#endif
