/* tests/ref/ref_model.h - the model as its formulas say (docs/MODEL.md), in double, one sequence, no cache, no shards.
 * Reads logical weights through shard/; shares no arithmetic with the engine. Slow: for small models. */
#ifndef MW_TESTS_REF_MODEL_H
#define MW_TESTS_REF_MODEL_H
#include "shard/checkpoint.h"

typedef struct ref_model ref_model;
MW_MUST_CHECK mw_status ref_model_open(ref_model **out, const mw_ckpt *c);
void ref_model_free(ref_model *m);

/* logits [n][vocab] of the whole sequence. Returns the largest magnitude in the residual stream, behind any layer. */
double ref_model_logits(const ref_model *m, const int32_t *ids, int n, double *logits);

#endif
