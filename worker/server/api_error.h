/* worker/server/api_error.h - what went wrong with a request, in the words and the shape of OpenAI's API:
 * {"error": {"message": ..., "type": ..., "param": ..., "code": ...}} with an HTTP status. */
#ifndef MW_SERVER_API_ERROR_H
#define MW_SERVER_API_ERROR_H
#include "worker/server/json_out.h"

typedef struct mw_api_error {
    int http;         /* 400 ...; 0: not told yet */
    const char *code; /* static; NULL: null */
    char param[96];   /* "": null */
    char message[MW_ERROR_TEXT_MAX];
} mw_api_error;

/* Fills *err and returns MW_ERR_USAGE. param and code may be NULL. */
MW_MUST_CHECK mw_status mw_api_fail(mw_api_error *err, int http, const char *code, const char *param, const char *fmt,
                                    ...) MW_PRINTF(5, 6);
/* From a status of the engine and its text, unless *err has been filled already. */
void mw_api_error_from(mw_api_error *err, mw_status st, const char *text);
/* The object with its "error" key, as one value. */
void mw_api_error_json(mw_json_out *w, const mw_api_error *err);
/* "Bad Request" and the like go with the status line; this is the error's "type". */
const char *mw_api_error_type(int http);

#endif
