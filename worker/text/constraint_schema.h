/* worker/text/constraint_schema.h - a JSON Schema as rules over bytes. What of the standard is understood, and how:
 * docs/JSON.md. Private to constraint*.c.
 *
 *   constraint_schema.c    the schemas of a document one after the other: keywords, references, types, constants
 *   constraint_merge.c     allOf, and what stands beside $ref, anyOf and oneOf
 *   constraint_values.c    objects, arrays, values of any kind, white space
 */
#ifndef MW_TEXT_CONSTRAINT_SCHEMA_H
#define MW_TEXT_CONSTRAINT_SCHEMA_H
#include <jansson.h>

#include "worker/text/constraint_nfa.h"
MW_BEGIN_DECLS

#define MW_SCHEMA_MAX_BYTES ((size_t)1 << 20)
#define MW_SCHEMA_SECONDS   1.0   /* of a thread, for compiling one document */
#define MW_SCHEMA_MAX       16384 /* schemas in a document, those made by merging included */

/* A schema and the rule that is to accept its values. */
typedef struct mw_schema_item {
    json_t *schema;
    char *path; /* for errors: "#/properties/a" */
    int32_t rule;
} mw_schema_item;

typedef struct mw_schema {
    mw_nfa *g;
    json_t *root;
    mw_schema_item *item; /* all schemas met, in order; the first n_done have their rules filled */
    size_t n, cap, n_done;
    int32_t *slot;                  /* [MW_SCHEMA_MAX * 2] hash map from json_t* to item, -1: free */
    json_t *made;                   /* array: schemas that merging made, kept alive */
    json_t *numbers;                /* object: bounds to rule */
    int32_t ws, any, object, array; /* shared rules, -1: not there yet */
    double late_s;                  /* on the thread's clock: when to give up */
} mw_schema;

/* text NULL: any JSON object. g is initialised and empty; it is finished on MW_OK. MW_ERR_USAGE: no schema, or one that
 * no value satisfies. MW_ERR_UNSUPPORTED names keyword and path. MW_ERR_LIMIT: too large. */
MW_MUST_CHECK mw_status mw_schema_compile(mw_nfa *g, const char *text, size_t n);

/* ---- between the files ---- */

/* The rule of a schema, which is filled sooner or later. */
MW_MUST_CHECK mw_status mw_schema_rule(mw_schema *c, json_t *schema, const char *path, const char *key, int index,
                                       int32_t *rule);
/* MW_ERR_LIMIT when compiling takes too long: small documents can ask for much merging. */
MW_MUST_CHECK mw_status mw_schema_on_time(const mw_schema *c);
/* The schema that "$ref" names. */
MW_MUST_CHECK mw_status mw_schema_target(const mw_schema *c, const json_t *ref, const char *path, json_t **out);
bool mw_schema_is_annotation(const char *key);
/* A number of "minItems" and its like; `def` where it is absent. */
MW_MUST_CHECK mw_status mw_schema_count(const json_t *schema, const char *key, const char *path, int64_t def,
                                        int64_t *out);

/* Schemas with $ref, allOf, anyOf or oneOf. */
MW_MUST_CHECK mw_status mw_schema_combine(mw_schema *c, const mw_schema_item *it);

int32_t mw_schema_ws(mw_schema *c);     /* what may stand between tokens of an object or array */
int32_t mw_schema_any(mw_schema *c);    /* any value */
int32_t mw_schema_object(mw_schema *c); /* any object */
int32_t mw_schema_array(mw_schema *c);  /* any array */
/* This very value. */
void mw_schema_constant(mw_schema *c, int32_t from, const json_t *value, int32_t to);
MW_MUST_CHECK mw_status mw_schema_emit_object(mw_schema *c, const mw_schema_item *it, int32_t from, int32_t to);
MW_MUST_CHECK mw_status mw_schema_emit_array(mw_schema *c, const mw_schema_item *it, int32_t from, int32_t to);

MW_END_DECLS
#endif
