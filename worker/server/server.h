/* worker/server/server.h - the engine behind OpenAI's HTTP API, and the same requests from a file. docs/SERVING.md is
 * the user's view. Rank 0 only; above this and below it nothing but engine.h is known. */
#ifndef MW_SERVER_SERVER_H
#define MW_SERVER_SERVER_H
#include "worker/engine.h"

/* What requests that leave something open get. */
typedef struct mw_api_options {
    const char *model;        /* the file; its name is the model's name unless names are given */
    const char *const *names; /* [n_names] the model answers to; the first is shown */
    int n_names;
    mw_sampling defaults;         /* of temperature and the like; arrays and n are not looked at */
    bool default_temperature_set; /* otherwise 1, as OpenAI's API has it */
    bool default_max_tokens_set;  /* otherwise 16 for completions, what the context holds for chats */
    double request_timeout_s;     /* an answer takes at most this long; 0: no limit */
} mw_api_options;

typedef struct mw_server_options {
    mw_api_options api;
    const char *listen;          /* "127.0.0.1:8000", "[::1]:8000", "0.0.0.0:8000", "8000" (loopback); port 0: any */
    const char *const *api_keys; /* [n_api_keys]; none: everybody may ask */
    int n_api_keys;
    const char *api_key_file; /* one key a line; NULL: none */
    const char *cors_origin;  /* Access-Control-Allow-Origin; NULL: no such headers */
    double drain_s;           /* how long running answers may take once the server is told to end */
    double idle_s;            /* a connection on which nothing moves is closed after this */
    int max_connections;
    size_t max_body, max_header; /* bytes */
    int (*stopping)(void);       /* 0: go on; 1: drain and end; 2: end now. Called a few times a second */
} mw_server_options;

/* The defaults of all but `listen`, the model and `stopping`. */
mw_server_options mw_server_options_default(void);

/* Serves until told to stop. MW_OK after an orderly end, also when the drain time was not enough (a warning says so);
 * otherwise why it could not start, or how the engine failed. */
MW_MUST_CHECK mw_status mw_server_run(mw_engine *e, const mw_server_options *opt);

typedef struct mw_batch_options {
    mw_api_options api;
    const char *in, *out; /* JSON lines */
    bool progress;        /* a bar, and a summary at the end */
    int (*stopping)(void);
} mw_batch_options;

/* OpenAI's batch format from file to file. Complete lines that `out` has already are kept and not computed again.
 * MW_ERR_INTERRUPTED when told to stop: what was finished stands in the file. */
MW_MUST_CHECK mw_status mw_batch_run(mw_engine *e, const mw_batch_options *opt);

#endif
