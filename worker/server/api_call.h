/* worker/server/api_call.h - private: one completion or chat request from its JSON to its answer.
 *
 * A call has parts (its prompts), each an engine request with n answers; part p's answer i is choice p * n + i. Whoever
 * polls the engine hands the events to mw_call_take; the reader (an HTTP connection, the batch) takes the answer whole
 * when it is over, or in pieces as they come. In between lie deltas, one list in the order of arrival. A reader that is
 * slow does not make it long: beyond MW_CALL_MAX_DELTAS new text joins the last delta of its choice, and beyond
 * MW_CALL_MAX_PENDING bytes the call fails.
 */
#ifndef MW_SERVER_API_CALL_H
#define MW_SERVER_API_CALL_H
#include "worker/server/api.h"

#define MW_CALL_MAX_DELTAS  256
#define MW_CALL_MAX_PENDING ((size_t)4 << 20)

typedef enum { MW_CALL_COMPLETION, MW_CALL_CHAT } mw_call_kind;

/* What has come for one choice and was not read yet. */
typedef struct mw_delta {
    struct mw_delta *next;
    int choice;
    mw_str text;
    mw_str top; /* mw_token_logprob [n_tokens][1 + k], token -1: none; empty when not asked */
    size_t n_tokens;
    const char *finish; /* static; NULL: not the last */
} mw_delta;

typedef struct mw_part {
    struct mw_call *call;
    mw_ids ids;  /* the prompt */
    mw_str echo; /* its text, when asked */
    uint64_t id; /* of the engine; 0: not submitted */
    bool held;   /* the engine has a reference to the call */
    int open;    /* answers not done */
    size_t cached_tokens;
    mw_event prompt; /* log-probabilities of the prompt, when asked */
} mw_part;

typedef struct mw_choice {
    mw_delta *last; /* unread, in the list */
    double last_s;  /* when its last token came */
    size_t n_tokens;
    /* the reader's */
    bool begun;
    size_t offset; /* characters of text so far */
    mw_tool_reader tools;
} mw_choice;

typedef struct mw_call {
    mw_api *api;
    mw_call_kind kind;
    char id[64];
    int64_t created;
    double arrived_s;
    uint64_t client;
    json_t *body; /* owns strings that are borrowed below */
    mw_sampling sampling;
    const char **stop;
    mw_ids stop_ids;
    mw_token_bias *bias;
    char *schema, *messages, *tools, *template_vars;
    mw_tool_format tool_format;
    const char *tool_style;
    const char *tool_name; /* named by tool_choice */
    bool stream, include_usage, continuous_usage, echo, tokens_as_ids;
    mw_part *part; /* [n_parts] */
    mw_choice *choice;
    int n_parts, n_choices;

    pthread_mutex_t lock; /* of what follows */
    int open;             /* choices not done */
    mw_api_error err;     /* err.http != 0: failed */
    bool cancelled;
    mw_delta *first, **tail;
    size_t n_pending, bytes_pending, prompt_tokens, output_tokens;
    void (*wake)(void *arg); /* there is something to read; called under `lock` */
    void *wake_arg;

    int refs; /* under api->lock, as the links */
    struct mw_call *prev, *next;
} mw_call;

/* A call from a request body, with one reference. MW_ERR_*: *err says why, as an answer. */
MW_MUST_CHECK mw_status mw_call_new(mw_call **out, mw_api *a, mw_call_kind kind, json_t *body, uint64_t client,
                                    mw_api_error *err);
/* Hands it to the engine. Tokenising long prompts takes its time. On failure nothing of it runs on. */
MW_MUST_CHECK mw_status mw_call_submit(mw_call *c, mw_api_error *err);
void mw_call_ref(mw_call *c);
void mw_call_unref(mw_call *c); /* NULL allowed */

/* An event whose `user` is a part. The event is consumed. */
void mw_call_take(mw_event *ev);
/* Nobody will read it: ends what runs. */
void mw_call_cancel(mw_call *c);
/* Ends with an error. drop: the engine will send no more events for it. */
void mw_call_fail(mw_call *c, mw_status st, const char *text, bool drop);
/* From now on fn is called when there is something to read (stream: anything; otherwise only the end); NULL: nobody. */
void mw_call_listen(mw_call *c, void (*fn)(void *arg), void *arg);

/* true: it is over, and *err is 0 or how it failed. */
bool mw_call_is_over(mw_call *c, mw_api_error *err);
/* Takes the unread deltas, oldest first; NULL: none. *over: nothing will follow them. */
mw_delta *mw_call_deltas(mw_call *c, bool *over, mw_api_error *err);
void mw_delta_free(mw_delta *d); /* and all behind it */

/* ---- api_params.c, api_prompt.c: the request ---- */
MW_MUST_CHECK mw_status mw_call_params(const mw_api *a, mw_call *c, const json_t *o, mw_api_error *err);
MW_MUST_CHECK mw_status mw_call_prompts(mw_api *a, mw_call *c, const json_t *o, mw_api_error *err);
MW_MUST_CHECK mw_status mw_call_tokenize(mw_call *c, mw_api_error *err);

/* ---- api_reply.c, api_stream.c, api_logprobs.c: the answer ---- */

/* All of it as one JSON object. The call is over and has not failed. */
MW_MUST_CHECK mw_status mw_call_reply(mw_call *c, mw_json_out *w);
/* What there is to read, as server-sent events; *end: that was all. Nothing is written where nothing is new. */
MW_MUST_CHECK mw_status mw_call_stream(mw_call *c, mw_json_out *w, bool *end);

void mw_call_usage(mw_call *c, mw_json_out *w);
/* "id": a fresh one. */
void mw_call_tool_id(mw_json_out *w);
/* The reason that the user sees: tools were called, where they were. */
const char *mw_call_finish(const mw_choice *ch, const char *reason);
/* "logprobs": of a delta, in the form of the call's kind. with_prompt: behind those of the prompt (echo). */
void mw_call_logprobs(mw_call *c, mw_choice *ch, const mw_delta *d, bool with_prompt, mw_json_out *w);
static inline mw_part *mw_call_part(const mw_call *c, int choice) {
    return &c->part[choice / c->sampling.n];
}

#endif
