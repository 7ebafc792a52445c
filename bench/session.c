#include "bench/session.h"

#include <stdlib.h>

mw_status bench_with_engine(const mw_engine_options *opt, bench_leader fn, void *arg) {
    mw_status st = MW_OK;
    MW_TRY(st, mw_engine_open(&bench_now.engine, opt));
    st = mw_engine_rank(bench_now.engine) == 0 ? fn(arg, bench_now.engine) : mw_engine_follow(bench_now.engine);
    if (st != MW_OK) return st; /* main ends the job */
    mw_engine *e = bench_now.engine;
    bench_now.engine = NULL;
    st = mw_engine_close(e);
fail:
    return st;
}

mw_status bench_model_ceiling(const bench_opts *o, bench_report *r, const bench_model *m, int64_t dense_m,
                              bench_ceiling *out) {
    mw_status st = MW_OK;
    bench_dev b = {0};
    bench_shape s[4];
    int n = 0;
    int64_t k = m->cfg->hidden, cols = m->cfg->intermediate;
    MW_TRY(st, bench_model_shapes(m, bench_now.size, s, &n));
    for (int i = 0; i < n; i++)
        if (s[i].layer[0] == 'g') k = s[i].k, cols = s[i].n;
    MW_TRY(st, bench_dev_open(&b, o, r, m->cfg->act));
    if (b.info.host_memory) { /* a CPU's speed shows on a smaller matrix as well, and sooner */
        dense_m = dense_m < 128 ? dense_m : 128;
        k = k < 2048 ? k : 2048;
        cols = cols < 2048 ? cols : 2048;
    }
    MW_TRY(st, mw_comm_agree(b.comm, bench_ceiling_measure(&b, dense_m, k, cols, out)));
fail:
    return bench_dev_close(&b, st);
}

void bench_describe_engine(bench_report *r, const mw_engine_info *info) {
    if (r->machine && !json_object_get(r->machine, "device"))
        json_object_set_new(r->machine, "device", json_string(info->device));
}

mw_status bench_submit_random(mw_engine *e, uint64_t *seed, int vocab, int batch, int n, int max_tokens, uint64_t *id) {
    mw_status st = MW_OK;
    int32_t *ids = NULL;
    mw_request *r = NULL;
    MW_TRY(st, MW_CALLOC(&ids, (size_t)batch * n, "prompts"));
    MW_TRY(st, MW_CALLOC(&r, (size_t)batch, "requests"));
    for (int64_t i = 0; i < (int64_t)batch * n; i++) ids[i] = (int32_t)(bench_random(seed) % (uint64_t)vocab);
    for (int i = 0; i < batch; i++) {
        r[i] = (mw_request){.ids = ids + (int64_t)i * n, .n_ids = (size_t)n, .sampling = mw_sampling_default()};
        r[i].sampling.max_tokens = max_tokens;
        r[i].sampling.ignore_eos = true;
    }
    st = mw_engine_submit_all(e, r, batch, id);
fail:
    free(ids);
    free(r);
    return st;
}

mw_status bench_cancel_all(mw_engine *e, const uint64_t *id, int n) {
    mw_status st = MW_OK;
    mw_event ev;
    bool got;
    for (int i = 0; i < n; i++) mw_engine_cancel(e, id[i]);
    for (;;) {
        mw_engine_info info;
        MW_TRY(st, mw_engine_poll(e, 20, &ev, &got));
        if (got)
            mw_event_free(&ev);
        else {
            mw_engine_describe(e, &info);
            if (info.running + info.waiting == 0) break;
        }
    }
fail:
    return st;
}
