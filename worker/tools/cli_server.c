/* --listen and --batch-in: the command line's options to those of the server. */
#include "worker/tools/cli.h"

static mw_api_options api_options(const cli_opts *o) {
    return (mw_api_options){.model = o->engine.model,
                            .names = o->names,
                            .n_names = o->n_names,
                            .defaults = o->sampling,
                            .default_temperature_set = o->temperature_set,
                            .default_max_tokens_set = o->max_tokens_set,
                            .request_timeout_s = o->request_timeout_s};
}

mw_status cli_run_server(mw_engine *e, const cli_opts *o) {
    mw_server_options s = o->server;
    s.api = api_options(o);
    s.stopping = cli_stop_level;
    return mw_server_run(e, &s);
}

mw_status cli_run_batch(mw_engine *e, const cli_opts *o) {
    const mw_batch_options b = {.api = api_options(o),
                                .in = o->batch_in,
                                .out = o->batch_out,
                                .progress = !o->quiet,
                                .stopping = cli_stop_level};
    return mw_batch_run(e, &b);
}
