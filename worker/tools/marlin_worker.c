/* marlin-worker: the main program. Every rank runs this; rank 0 talks to the user. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/terminal.h"
#include "worker/base/io.h"
#include "worker/base/log.h"
#include "worker/tools/cli.h"

#define MAX_PROMPT_FILE ((size_t)256 << 20)
#define MAX_SCHEMA_FILE ((size_t)1 << 20)

static mw_status run_prompt_file(mw_engine *e, const cli_opts *o) {
    mw_str text = {0};
    const char *path = strcmp(o->prompt_file, "-") == 0 ? "/dev/stdin" : o->prompt_file;
    mw_status st = mw_read_file(path, MAX_PROMPT_FILE, &text);
    if (st == MW_OK) st = cli_run_prompt(e, o, text.p, text.n);
    mw_str_free(&text);
    return st;
}

/* --json-schema: rank 0 alone needs the file. */
static mw_status read_schema(cli_opts *o) {
    if (!o->json_schema) return MW_OK;
    mw_status st = mw_read_file(o->json_schema, MAX_SCHEMA_FILE, &o->schema);
    if (st != MW_OK) return st;
    if (strlen(o->schema.p) != o->schema.n) return MW_FAIL(MW_ERR_FORMAT, "%s: not text", o->json_schema);
    o->sampling.format = MW_FORMAT_JSON_SCHEMA;
    o->sampling.schema = o->schema.p;
    return MW_OK;
}

static mw_status dry_run(mw_engine *e) {
    char *text = NULL;
    mw_status st = mw_engine_report(e, &text);
    if (st == MW_OK) st = cli_write(text, strlen(text));
    free(text);
    return st;
}

static mw_status run_rank0(mw_engine *e, cli_opts *o) {
    if (o->engine.dry_run) return dry_run(e);
    mw_status st = read_schema(o);
    if (st != MW_OK) return st;
    if (o->server.listen) return cli_run_server(e, o);
    if (o->batch_in) return cli_run_batch(e, o);
    if (o->perplexity) return cli_run_perplexity(e, o);
    if (o->jsonl) return cli_run_jsonl(e, o);
    if (o->prompt) return cli_run_prompt(e, o, o->prompt, strlen(o->prompt));
    if (o->prompt_file) return run_prompt_file(e, o);
    if (mw_stdin_is_user_terminal()) return cli_run_interactive(e, o);
    return cli_run_lines(e, o);
}

int main(int argc, char **argv) {
    cli_opts o;
    mw_engine *e = NULL;
    cli_parse(argc, argv, &o);
    if (o.engine.max_queue == 0) o.engine.max_queue = INT_MAX; /* the modes below bound what is under way themselves */
    mw_status st = mw_engine_open(&e, &o.engine);
    if (st == MW_OK) {
        cli_signals_install(mw_engine_rank(e) == 0, o.server.listen ? o.server.drain_s + 5 : 5);
        st = mw_engine_rank(e) == 0 ? run_rank0(e, &o) : mw_engine_follow(e);
    }
    if (st != MW_OK && mw_engine_reports(e)) mw_log(MW_LOG_ERROR, "%s", mw_error_text());
    cli_free(&o);
    if (st == MW_OK) {
        st = mw_engine_close(e);
        e = NULL;
        if (st != MW_OK && mw_engine_reports(NULL)) mw_log(MW_LOG_ERROR, "%s", mw_error_text());
    }
    mw_engine_exit(e, (int)st);
}
