/* shard/hf_json.h - private to shard/: typed fields of a JSON object, with errors that name file, field and value. */
#ifndef MW_SHARD_HF_JSON_H
#define MW_SHARD_HF_JSON_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

/* An object and the name by which errors call it ("config.json", "config.json: rope_scaling"). Both borrowed. */
typedef struct mw_json {
    const json_t *obj;
    const char *where;
} mw_json;

/* Parse `n` bytes that must hold one JSON object without duplicate keys. Free with json_decref. */
MW_MUST_CHECK mw_status mw_json_load(json_t **out, const char *where, const char *text, size_t n);

/* The field, or NULL when it is absent or null. */
const json_t *mw_json_get(mw_json j, const char *key);

/* *out is left alone when the field is absent or null; MW_ERR_FORMAT when that happens and it is required. */
MW_MUST_CHECK mw_status mw_json_i64(mw_json j, const char *key, bool required, int64_t *out);
MW_MUST_CHECK mw_status mw_json_f64(mw_json j, const char *key, bool required, double *out);
MW_MUST_CHECK mw_status mw_json_bool(mw_json j, const char *key, bool required, bool *out);
/* *out points into the object. */
MW_MUST_CHECK mw_status mw_json_str(mw_json j, const char *key, bool required, const char **out);
/* An object field; out->obj is NULL when it is absent or null. out->where is j.where. */
MW_MUST_CHECK mw_status mw_json_obj(mw_json j, const char *key, mw_json *out);

MW_END_DECLS
#endif
