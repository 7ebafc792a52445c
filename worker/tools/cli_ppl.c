/* --perplexity: how likely the model finds a text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/io.h"
#include "worker/tools/cli.h"

#define MAX_TEXT ((size_t)1 << 30)

typedef struct {
    mw_ids ids;    /* all rows, one after another */
    size_t *start; /* [n_rows + 1] */
    size_t n_rows;
} rows;

static mw_status begin_rows(rows *r, size_t n) {
    return MW_CALLOC(&r->start, n + 1, "perplexity rows");
}

static mw_status rows_from_json(const json_t *list, rows *r) {
    mw_status st = MW_OK;
    MW_TRY(st, begin_rows(r, json_array_size(list)));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (json_array_size(row) < 2)
            return MW_FAIL(MW_ERR_USAGE, "perplexity: row %zu is not a list of two or more token ids", i);
        for (size_t j = 0; j < json_array_size(row); j++) {
            const json_t *v = json_array_get(row, j);
            if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
                return MW_FAIL(MW_ERR_USAGE, "perplexity: row %zu, entry %zu is not a token id", i, j);
            MW_TRY(st, mw_ids_add(&r->ids, (int32_t)json_integer_value(v)));
        }
        r->start[++r->n_rows] = r->ids.n;
    }
fail:
    return st;
}

/* A text is cut into windows of a whole context, each with the tokenizer's beginning (BOS) in front, as far as there
 * are two tokens to a window. */
static mw_status rows_from_text(mw_engine *e, const mw_str *text, rows *r) {
    mw_status st = MW_OK;
    mw_engine_info info;
    int32_t *plain = NULL, *with = NULL;
    size_t n = 0, n_with = 0;
    mw_engine_describe(e, &info);
    MW_TRY(st, mw_engine_tokenize(e, text->p, text->n, false, &plain, &n));
    MW_TRY(st, mw_engine_tokenize(e, "", 0, true, &with, &n_with));
    size_t body = (size_t)info.ctx > n_with + 1 ? (size_t)info.ctx - n_with : 1;
    MW_TRY(st, begin_rows(r, n / body + 1));
    for (size_t at = 0; at < n; at += body) {
        size_t len = n - at < body ? n - at : body;
        if (n_with + len < 2) break;
        MW_TRY(st, mw_ids_append(&r->ids, with, n_with));
        MW_TRY(st, mw_ids_append(&r->ids, plain + at, len));
        r->start[++r->n_rows] = r->ids.n;
    }
    if (r->n_rows == 0) st = MW_FAIL(MW_ERR_USAGE, "perplexity: the text has fewer than two tokens");
fail:
    free(plain);
    free(with);
    return st;
}

static mw_status read_rows(mw_engine *e, const char *path, rows *r) {
    mw_status st = MW_OK;
    mw_str text = {0};
    MW_TRY(st, mw_read_file(path, MAX_TEXT, &text));
    const char *p = text.p;
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
    json_t *json = *p == '[' ? json_loadb(text.p, text.n, 0, NULL) : NULL; /* a text may begin with '[' too */
    bool lists = json_is_array(json) && json_array_size(json) > 0 && json_is_array(json_array_get(json, 0));
    st = lists ? rows_from_json(json, r) : rows_from_text(e, &text, r);
    json_decref(json);
fail:
    mw_str_free(&text);
    return st;
}

typedef struct {
    double nll;
    size_t tokens;
} score;

/* Rows under way are bounded: each keeps its log-probabilities until it is summed. */
static mw_status score_rows(mw_engine *e, const rows *r, score *s) {
    mw_status st = MW_OK;
    size_t next = 0, open = 0;
    mw_request rq = {.sampling = mw_sampling_default()};
    rq.sampling.max_tokens = 0;
    rq.sampling.prompt_logprobs = 0;
    while (next < r->n_rows || open > 0) {
        for (; next < r->n_rows && open < 32 && !cli_stopping(); next++, open++) {
            uint64_t id;
            rq.ids = r->ids.p + r->start[next];
            rq.n_ids = r->start[next + 1] - r->start[next];
            MW_TRY(st, mw_engine_submit(e, &rq, &id));
        }
        if (cli_stopping()) return MW_FAIL(MW_ERR_INTERRUPTED, "interrupted");
        mw_event ev;
        bool got;
        MW_TRY(st, mw_engine_poll(e, 50, &ev, &got));
        if (!got) continue;
        if (ev.type == MW_EVENT_ERROR) st = MW_FAIL(ev.status, "%s", ev.text);
        for (size_t i = 0; ev.type == MW_EVENT_PROMPT && i < ev.n_positions; i++)
            s->nll -= (double)ev.logprobs[i].chosen.logprob;
        if (ev.type == MW_EVENT_PROMPT) s->tokens += ev.n_positions;
        if (ev.type == MW_EVENT_DONE) open--;
        mw_event_free(&ev);
        if (st != MW_OK) goto fail;
    }
fail:
    return st;
}

mw_status cli_run_perplexity(mw_engine *e, const cli_opts *o) {
    mw_status st = MW_OK;
    rows r = {0};
    score s = {0};
    mw_str out = {0};
    MW_TRY(st, read_rows(e, o->perplexity, &r));
    MW_TRY(st, score_rows(e, &r, &s));
    double mean = s.nll / (double)s.tokens;
    MW_TRY(st,
           mw_str_addf(
               &out, "{\"nll\": %.12g, \"total_nll\": %.12g, \"tokens\": %zu, \"rows\": %zu, \"perplexity\": %.12g}\n",
               mean, s.nll, s.tokens, r.n_rows, exp(mean)));
    MW_TRY(st, cli_write(out.p, out.n));
fail:
    free(r.start);
    mw_ids_free(&r.ids);
    mw_str_free(&out);
    return st;
}
