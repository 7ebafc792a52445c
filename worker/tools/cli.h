/* worker/tools/cli.h - private to marlin-worker: its options, and one function for each thing it can do. */
#ifndef MW_WORKER_TOOLS_CLI_H
#define MW_WORKER_TOOLS_CLI_H
#include <jansson.h>

#include "worker/base/mem.h"
#include "worker/engine.h"
#include "worker/server/server.h"

typedef struct cli_opts {
    mw_engine_options engine;
    mw_sampling sampling;
    const char *prompt, *prompt_file, *perplexity, *system;
    bool chat; /* prompts are messages of a user */
    bool raw;  /* never chat, also interactively */
    bool jsonl;
    bool quiet; /* no summary line */
    bool max_tokens_set, temperature_set;
    mw_server_options server; /* listen NULL: do not serve */
    const char **api_keys, **names;
    int n_names;
    double request_timeout_s;
    const char *batch_in, *batch_out;
    char **stop; /* [sampling.n_stop] */
    int32_t *stop_ids;
    mw_token_bias *bias;
    const char *json_schema; /* a file; */
    mw_str schema;           /* its text, on rank 0 */
} cli_opts;

/* Fills *o. Ends the process for --help, --version and wrong usage (printing on one rank only). */
void cli_parse(int argc, char **argv, cli_opts *o);
void cli_free(cli_opts *o);

/* ---- what it can do; all on rank 0 ---- */
MW_MUST_CHECK mw_status cli_run_prompt(mw_engine *e, const cli_opts *o, const char *text, size_t n);
MW_MUST_CHECK mw_status cli_run_lines(mw_engine *e, const cli_opts *o);
MW_MUST_CHECK mw_status cli_run_interactive(mw_engine *e, const cli_opts *o);
MW_MUST_CHECK mw_status cli_run_jsonl(mw_engine *e, const cli_opts *o);
MW_MUST_CHECK mw_status cli_run_perplexity(mw_engine *e, const cli_opts *o);
MW_MUST_CHECK mw_status cli_run_server(mw_engine *e, const cli_opts *o);
MW_MUST_CHECK mw_status cli_run_batch(mw_engine *e, const cli_opts *o);

/* ---- shared by them ---- */

/* Standard input split into lines, without blocking the engine: poll and read. */
typedef struct cli_input {
    mw_str buf;
    size_t at; /* start of the unread part */
    bool eof;
} cli_input;
/* Between requests: how often to look whether the engine has failed meanwhile. */
#define CLI_IDLE_MS 500
/* Waits up to timeout_ms (-1: for ever) for input; a signal ends the wait. */
MW_MUST_CHECK mw_status cli_input_fill(cli_input *in, int timeout_ms);
/* The next whole line, without its end ("\n" or "\r\n"); at the end of input also an unfinished one. Borrowed until the
 * next fill. */
bool cli_input_line(cli_input *in, const char **line, size_t *n);
void cli_input_free(cli_input *in);

/* The messages of a conversation as JSON text. */
MW_MUST_CHECK mw_status cli_messages(const json_t *messages, char **text);
/* [{"role": "system", ...}] or [] to begin with. */
MW_MUST_CHECK mw_status cli_conversation(const cli_opts *o, json_t **messages);
MW_MUST_CHECK mw_status cli_say(json_t *messages, const char *role, const char *text, size_t n);

/* The one-line summary on stderr. */
void cli_summary(mw_engine *e, const cli_opts *o, double seconds, size_t prompt_tokens, size_t output_tokens,
                 double ttft_s);

/* Everything to stdout, or MW_ERR_IO (a closed pipe). */
MW_MUST_CHECK mw_status cli_write(const void *p, size_t n);

/* ---- signals ---- */

/* After the engine has opened. Rank 0: Ctrl-C (SIGINT, or SIGUSR1 from launch/mpirun) counts, SIGTERM ends the job in
 * order. Other ranks: leave Ctrl-C to rank 0; on SIGTERM wait up to grace_s for its word. */
void cli_signals_install(bool rank0, double grace_s);
/* Ctrl-C since the last call of cli_interrupts_clear. */
int cli_interrupts(void);
void cli_interrupts_clear(void);
bool cli_terminated(void);
/* Ctrl-C or SIGTERM: a job that is not interactive winds up. */
bool cli_stopping(void);
/* For what winds up slowly: 0 go on, 1 the first of these signals came, 2 another one. */
int cli_stop_level(void);

#endif
