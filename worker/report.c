#include "worker/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char host[32], device[96];
    int32_t threads;
    uint64_t weights, workspace, kv;
} row;

static mw_status add_plan(mw_engine *e) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) return MW_FAIL(MW_ERR_NOMEM, "report");
    mw_plan_print(e->plan, f, false);
    mw_status st = fclose(f) == 0 ? mw_str_add(&e->report, text, n) : MW_FAIL(MW_ERR_NOMEM, "report");
    free(text);
    return st;
}

static mw_status add_head(mw_engine *e) {
    mw_status st = MW_OK;
    const mw_model_config *c = &e->cfg;
    const mw_engine_info *i = &e->info;
    MW_TRY(st, mw_str_addf(&e->report, "model      %s (%s, from %s)\n", e->opt.model, c->model_type,
                           mw_ckpt_attr(e->ckpt, "source_format")));
    MW_TRY(st, mw_str_addf(&e->report, "layout     %s\n",
                           mw_ckpt_layout(e->ckpt) == MW_IN_TILES ? MW_LAYOUT_MARLIN : MW_LAYOUT_ROWS));
    MW_TRY(st,
           mw_str_addf(&e->report,
                       "shape      %lld layers, hidden %lld, mlp %lld, %lld/%lld heads of %lld, vocab %lld, %s\n",
                       (long long)c->n_layers, (long long)c->hidden, (long long)c->intermediate, (long long)c->n_heads,
                       (long long)c->n_kv_heads, (long long)c->head_dim, (long long)c->vocab, mw_dtype_name(c->act)));
    MW_TRY(st, mw_str_addf(&e->report, "backend    %s, %d rank%s\n", i->backend, e->size, e->size == 1 ? "" : "s"));
    MW_TRY(st, mw_str_addf(&e->report, "limits     context %d, %d sequences, %d rows a step\n", i->ctx, i->max_seqs,
                           i->max_step_tokens));
    MW_TRY(st, mw_str_addf(&e->report, "KV cache   %d blocks of %d tokens: %lld tokens\n\n", i->kv_blocks,
                           i->kv_block_tokens, (long long)i->kv_blocks * i->kv_block_tokens));
fail:
    return st;
}

mw_status mw_engine_share_stats(mw_engine *e) {
    mw_status st = MW_OK;
    mw_rank_stats mine, *all = NULL;
    memset(&mine, 0, sizeof mine); /* padding goes over the wire too */
    memcpy(mine.device, e->info.device, sizeof mine.device);
    mine.weight_bytes = e->info.weight_bytes;
    mine.kv_bytes = e->info.kv_bytes;
    mine.workspace_bytes = e->info.workspace_bytes;
    mine.steps = e->info.steps;
    mine.step_s = e->info.step_s;
    for (int i = 0; i < MW_TIMED_KINDS; i++)
        e->timed_s[i] += e->model->timing.share[i] * (e->info.step_s - e->shared_step_s);
    e->shared_step_s = e->info.step_s;
    mine.gemm_s = e->model->gemm_s + e->timed_s[MW_TIMED_LINEAR];
    mine.collective_s = e->model->collective_s + e->timed_s[MW_TIMED_COLLECTIVE];
    MW_TRY(st, MW_CALLOC(&all, (size_t)e->size, "figures of the ranks"));
    MW_TRY(st, mw_comm_all_gather_bytes(e->comm, &mine, sizeof mine, all));
    if (e->rank != 0) goto fail;
    pthread_mutex_lock(&e->lock);
    mw_rank_stats *old = e->stats;
    e->stats = all;
    all = old;
    pthread_mutex_unlock(&e->lock);
fail:
    free(all);
    return st;
}

mw_status mw_report_make(mw_engine *e) {
    mw_status st = MW_OK;
    row *all = NULL, mine = {.threads = e->info.threads,
                             .weights = e->info.weight_bytes,
                             .workspace = e->info.workspace_bytes,
                             .kv = e->info.kv_bytes};
    snprintf(mine.host, sizeof mine.host, "%s", mw_comm_host(e->comm));
    memcpy(mine.device, e->info.device, sizeof mine.device);
    MW_TRY(st, MW_CALLOC(&all, (size_t)e->size, "report"));
    MW_TRY(st, mw_comm_all_gather_bytes(e->comm, &mine, sizeof mine, all));
    if (e->rank != 0) goto fail;
    MW_TRY(st, add_head(e));
    MW_TRY(st, add_plan(e));
    MW_TRY(st, mw_str_addf(&e->report, "\n%4s  %-16s %9s %9s %9s  %s\n", "rank", "host", "weights", "workspace",
                           "KV cache", "device"));
    for (int r = 0; r < e->size; r++) {
        char a[16], b[16], c[16];
        MW_TRY(st, mw_str_addf(&e->report, "%4d  %-16.16s %9s %9s %9s  %s\n", r, all[r].host,
                               mw_human_bytes(all[r].weights, a), mw_human_bytes(all[r].workspace, b),
                               mw_human_bytes(all[r].kv, c), all[r].device));
    }
fail:
    free(all);
    return st;
}
