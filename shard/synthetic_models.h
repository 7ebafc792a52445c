/* shard/synthetic_models.h - private to shard/: the known shapes. */
#ifndef MW_SHARD_SYNTHETIC_MODELS_H
#define MW_SHARD_SYNTHETIC_MODELS_H
#include "shard/synthetic.h"

/* The configuration of the model called name[0..n), false when there is none. */
bool mw_synthetic_config(const char *name, size_t n, mw_model_config *out);

#endif
