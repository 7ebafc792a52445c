/* shard/tools/convert_model.h - Hugging Face folder -> model.h5. */
#ifndef MW_SHARD_CONVERT_MODEL_H
#define MW_SHARD_CONVERT_MODEL_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/dtype.h"
MW_BEGIN_DECLS

typedef enum { MW_QUANTIZE_UNSET, MW_QUANTIZE_NONE, MW_QUANTIZE_RTN } mw_quantize;

typedef struct mw_convert_opts {
    const char *dir, *out;
    const char *creator; /* "marlin-convert 0.1.0 (1a2b3c4d)" */
    bool force, with_tokenizer, progress;
    int threads;
    mw_quantize quantize;
    int64_t group_size; /* rtn */
    bool zero_points;   /* rtn, head_int4 */
    int clip_search;    /* rtn, head_int4 */
    bool head_int4;     /* lm_head too, whatever the other layers are */
    int64_t head_group; /* 128, 64, 32 or -1; 0: as the other layers', 128 where that is none or -1 */
    bool act_given;
    mw_dtype act;
} mw_convert_opts;

typedef struct mw_convert_report {
    int n_int4, n_dense; /* linear layers */
    uint64_t bytes_in, bytes_out;
    double seconds;
} mw_convert_report;

MW_MUST_CHECK mw_status mw_convert(const mw_convert_opts *o, mw_convert_report *report);

MW_END_DECLS
#endif
