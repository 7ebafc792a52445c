/* worker/tools/cli_request.h - one JSON object to one engine request, and what came back to one JSON object. */
#ifndef MW_WORKER_TOOLS_CLI_REQUEST_H
#define MW_WORKER_TOOLS_CLI_REQUEST_H
#include "worker/tools/cli.h"

typedef struct cli_request {
    mw_request r;
    json_t *object; /* owns the strings that r borrows */
    mw_ids ids;
    char *messages;
    const char **stop;
    int32_t *stop_ids;
    mw_token_bias *bias;
    char *schema;
} cli_request;

/* A line of --jsonl. Missing fields take the command line's values. MW_ERR_USAGE names the field. *q is to be freed in
 * any case; its object is there as soon as the line is JSON (for the id of an error answer). */
MW_MUST_CHECK mw_status cli_request_parse(const cli_opts *o, const char *line, size_t n, cli_request *q);
void cli_request_free(cli_request *q);

/* What has come back so far for one request. */
typedef struct cli_choice {
    mw_str text;
    json_t *token_ids, *logprobs; /* logprobs NULL when not asked */
    const char *finish_reason;
} cli_choice;

typedef struct cli_reply {
    json_t *id;         /* of the request, or NULL */
    cli_choice *choice; /* [n] */
    int n, open;
    json_t *prompt_logprobs; /* NULL when not asked */
    size_t prompt_tokens, output_tokens;
    mw_status st; /* error */
    mw_str error;
    double ttft_s;
} cli_reply;

/* id is borrowed, may be NULL. */
MW_MUST_CHECK mw_status cli_reply_init(cli_reply *p, const json_t *id, int n);
void cli_reply_free(cli_reply *p);
/* One event of this request; p->open falls to 0 when it is over. */
MW_MUST_CHECK mw_status cli_reply_take(cli_reply *p, const mw_event *ev);
/* The failure of this line alone. */
MW_MUST_CHECK mw_status cli_reply_fail(cli_reply *p, mw_status st, const char *text);
/* The answer object, one line with its newline, appended to *out. */
MW_MUST_CHECK mw_status cli_reply_write(const cli_reply *p, mw_str *out);

#endif
