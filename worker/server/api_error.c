#include "worker/server/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

mw_status mw_api_fail(mw_api_error *err, int http, const char *code, const char *param, const char *fmt, ...) {
    va_list args;
    *err = (mw_api_error){.http = http, .code = code};
    if (param) snprintf(err->param, sizeof err->param, "%s", param);
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return MW_ERR_USAGE;
}

typedef struct {
    mw_status st;
    int http;
    const char *code;
} row;

static const row k_rows[] = {
    {MW_ERR_USAGE, 400, "invalid_request"},     {MW_ERR_FORMAT, 400, "invalid_request"},
    {MW_ERR_UNSUPPORTED, 400, "not_supported"}, {MW_ERR_LIMIT, 400, "context_length_exceeded"},
    {MW_ERR_BUSY, 429, "queue_full"},           {MW_ERR_TIMEOUT, 504, "deadline_exceeded"},
    {MW_ERR_CANCELLED, 503, "shutting_down"},   {MW_ERR_PEER, 500, "engine_failed"},
    {MW_ERR_NOMEM, 503, "out_of_memory"},
};

void mw_api_error_from(mw_api_error *err, mw_status st, const char *text) {
    if (err->http != 0) return;
    *err = (mw_api_error){.http = 500, .code = "internal_error"};
    for (size_t i = 0; i < sizeof k_rows / sizeof *k_rows; i++)
        if (k_rows[i].st == st) {
            err->http = k_rows[i].http;
            err->code = k_rows[i].code;
        }
    snprintf(err->message, sizeof err->message, "%s", text && *text ? text : mw_status_name(st));
}

const char *mw_api_error_type(int http) {
    switch (http) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    case 504: return "timeout_error";
    default: return http < 500 ? "invalid_request_error" : "server_error";
    }
}

void mw_api_error_json(mw_json_out *w, const mw_api_error *err) {
    mw_json_open(w, '{');
    mw_json_key(w, "error");
    mw_json_open(w, '{');
    mw_json_key_str(w, "message", err->message);
    mw_json_key_str(w, "type", mw_api_error_type(err->http));
    mw_json_key_str(w, "param", err->param[0] ? err->param : NULL);
    mw_json_key_str(w, "code", err->code);
    mw_json_close(w, '}');
    mw_json_close(w, '}');
}
