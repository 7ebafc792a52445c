/* shard/tools/convert_export_config.h - the config.json of an exported folder. */
#ifndef MW_SHARD_CONVERT_EXPORT_CONFIG_H
#define MW_SHARD_CONVERT_EXPORT_CONFIG_H
#include "shard/checkpoint.h"
#include "shard/tools/convert_export.h"
#include "worker/base/mem.h"
MW_BEGIN_DECLS

/* What a GPTQ config says about all layers at once. */
typedef struct mw_gptq_shape {
    int64_t group_size; /* -1 per channel */
    int zero_offset;    /* 0: gptq_v2; 1: v1, which is the only one that holds a zero of 16 */
    bool symmetric, act_order, lm_head;
} mw_gptq_shape;

/* MW_ERR_UNSUPPORTED: nothing is int4, group sizes differ, or zeros of 0 and of 16 both occur. */
MW_MUST_CHECK mw_status mw_export_gptq_shape(const mw_ckpt *c, mw_gptq_shape *out);

/* The stored config.json with its quantisation replaced. `act`: the dtype of exported float weights. */
MW_MUST_CHECK mw_status mw_export_config_text(const mw_ckpt *c, mw_export_kind kind, mw_dtype act,
                                              const mw_gptq_shape *gptq, mw_str *out);

MW_END_DECLS
#endif
