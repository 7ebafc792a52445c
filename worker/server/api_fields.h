/* worker/server/api_fields.h - fields of a request's JSON object. A field that is absent or null leaves *out as it was;
 * one of the wrong type or outside its range is a 400 that names it. */
#ifndef MW_SERVER_API_FIELDS_H
#define MW_SERVER_API_FIELDS_H
#include <jansson.h>

#include "worker/server/api_error.h"

/* The value, NULL where it is absent or null. */
json_t *mw_field(const json_t *o, const char *key);

MW_MUST_CHECK mw_status mw_field_int(const json_t *o, const char *key, int lo, int hi, int *out, mw_api_error *err);
MW_MUST_CHECK mw_status mw_field_real(const json_t *o, const char *key, double lo, double hi, double *out,
                                      mw_api_error *err);
MW_MUST_CHECK mw_status mw_field_bool(const json_t *o, const char *key, bool *out, mw_api_error *err);
/* Borrowed from o. */
MW_MUST_CHECK mw_status mw_field_text(const json_t *o, const char *key, const char **out, mw_api_error *err);
/* A list of token ids below `vocab`, appended to *out. `list` is the value itself. */
MW_MUST_CHECK mw_status mw_field_ids(const json_t *list, const char *key, int vocab, mw_ids *out, mw_api_error *err);

#endif
