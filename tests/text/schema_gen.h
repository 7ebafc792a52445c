/* tests/text/schema_gen.h - random JSON Schemas of the kind that users write, and a plain check of values against them.
 */
#ifndef MW_TESTS_TEXT_SCHEMA_GEN_H
#define MW_TESTS_TEXT_SCHEMA_GEN_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t state;
} gen_rng;

/* Uniform in [0, n). */
uint32_t gen_below(gen_rng *r, uint32_t n);

/* A schema; now and then with "$defs" that refer to themselves. */
json_t *gen_schema(gen_rng *r);

/* Does the value satisfy the schema? `root` is what references point into; patterns and formats are not looked at (the
 * cross-check by Python's jsonschema does). On failure *why names the keyword. */
bool gen_validate(const json_t *schema, const json_t *root, const json_t *value, const char **why);

#endif
