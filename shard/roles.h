/* shard/roles.h - the one table of weights: which names a model has, what shape each must have, and how it is cut.
 * An unknown name is an error, never "replicate". Adding a model family starts here. */
#ifndef MW_SHARD_ROLES_H
#define MW_SHARD_ROLES_H
#include "shard/checkpoint.h"
#include "shard/plan.h"
MW_BEGIN_DECLS

typedef enum { MW_SHAPE_VECTOR, MW_SHAPE_TABLE, MW_SHAPE_LINEAR } mw_shape;

typedef struct mw_expected {
    mw_role role;
    mw_shape shape; /* VECTOR: n elements. TABLE: [n][k], never int4. LINEAR: k inputs, n outputs, int4 or dense */
    int64_t k, n;
} mw_expected;

/* What the model must have under `name`. false: the model has no such weight. */
bool mw_roles_expect(const mw_model_config *cfg, const char *name, mw_expected *out);

/* All names of the model in their order (embed_tokens, layers, norm, lm_head). *count entries of MW_NAME_MAX bytes. */
MW_MUST_CHECK mw_status mw_roles_names(const mw_model_config *cfg, char (**names)[MW_NAME_MAX], size_t *count);

MW_END_DECLS
#endif
