/* worker/server/api.h - private to worker/server: what answers of OpenAI's API are made from. Knows nothing of HTTP
 * connections: the batch mode uses it as the server does. */
#ifndef MW_SERVER_API_H
#define MW_SERVER_API_H
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "worker/engine.h"
#include "worker/server/api_error.h"
#include "worker/server/api_tools.h"
#include "worker/server/metrics.h"
#include "worker/server/server.h"

#define MW_API_MAX_TOP_LOGPROBS 20
#define MW_API_MAX_CHOICES      1024                /* prompts x n of one request */
#define MW_API_MAX_ANSWER_BYTES ((size_t)256 << 20) /* that one request's answers may need at worst */

struct mw_call;

typedef struct mw_api {
    mw_engine *engine;
    const mw_api_options *opt;
    mw_engine_info info; /* as it was at the start: ctx, vocab */
    char default_name[256];
    int64_t started; /* Unix time */
    mw_tool_format tool_format;
    const char *tool_style; /* MW_TOOLS_STYLE */
    mw_metrics metrics;
    pthread_mutex_t lock;  /* of calls */
    struct mw_call *calls; /* all that have unfinished answers in the engine */
} mw_api;

MW_MUST_CHECK mw_status mw_api_init(mw_api *a, mw_engine *e, const mw_api_options *opt);
void mw_api_free(mw_api *a);

/* The name answers give, and whether `name` is one of ours. */
const char *mw_api_name(const mw_api *a);
bool mw_api_has_model(const mw_api *a, const char *name);

/* Every open call ends with this error. drop: the engine will send no more events (nobody polls it meanwhile). */
void mw_api_fail_calls(mw_api *a, mw_status st, const char *text, bool drop);

/* n hex digits (n even, at most 64) and a zero that nobody can guess. */
void mw_api_random_hex(char *out, size_t n);

/* JSON text to an object; *err says what is wrong with it (400). */
MW_MUST_CHECK mw_status mw_api_parse(const char *text, size_t n, json_t **out, mw_api_error *err);

/* ---- small endpoints: request body in (where there is one), JSON out ---- */
MW_MUST_CHECK mw_status mw_api_models(mw_api *a, mw_json_out *w);
MW_MUST_CHECK mw_status mw_api_model(mw_api *a, const char *name, mw_json_out *w, mw_api_error *err);
MW_MUST_CHECK mw_status mw_api_version(mw_api *a, mw_json_out *w);
MW_MUST_CHECK mw_status mw_api_tokenize(mw_api *a, const json_t *body, mw_json_out *w, mw_api_error *err);
MW_MUST_CHECK mw_status mw_api_detokenize(mw_api *a, const json_t *body, mw_json_out *w, mw_api_error *err);
MW_MUST_CHECK mw_status mw_api_stats(mw_api *a, mw_json_out *w);

#endif
