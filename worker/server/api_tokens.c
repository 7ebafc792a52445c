/* /tokenize and /detokenize, in vLLM's shapes. */
#include <stdlib.h>
#include <string.h>

#include "worker/server/api.h"
#include "worker/server/api_fields.h"

static mw_status check_model(mw_api *a, const json_t *o, mw_api_error *err) {
    const char *model = NULL;
    mw_status st = mw_field_text(o, "model", &model, err);
    if (st == MW_OK && model && !mw_api_has_model(a, model))
        st = mw_api_fail(err, 404, "model_not_found", "model", "The model '%.200s' does not exist.", model);
    return st;
}

static mw_status chat_ids(mw_api *a, const json_t *o, mw_ids *ids, mw_api_error *err) {
    const json_t *tools = mw_field(o, "tools"), *vars = mw_field(o, "chat_template_kwargs");
    bool generation = true;
    const char *why;
    mw_status st = mw_field_bool(o, "add_generation_prompt", &generation, err);
    if (st != MW_OK) return st;
    if (!mw_engine_can_chat(a->engine, &why))
        return mw_api_fail(err, 400, "not_supported", NULL, "chat is not possible: %s", why);
    char *messages = json_dumps(mw_field(o, "messages"), JSON_COMPACT | JSON_ENCODE_ANY);
    char *tools_text = tools ? json_dumps(tools, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    char *vars_text = vars ? json_dumps(vars, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (!messages || (tools && !tools_text) || (vars && !vars_text))
        st = MW_FAIL(MW_ERR_NOMEM, "request");
    else
        st = mw_engine_tokenize_chat(a->engine, messages, tools_text, vars_text, generation, &ids->p, &ids->n);
    free(messages);
    free(tools_text);
    free(vars_text);
    return st;
}

static mw_status prompt_ids(mw_api *a, const json_t *o, mw_ids *ids, mw_api_error *err) {
    const json_t *prompt = mw_field(o, "prompt");
    bool special = true;
    mw_status st = mw_field_bool(o, "add_special_tokens", &special, err);
    if (st != MW_OK) return st;
    if (!json_is_string(prompt))
        return mw_api_fail(err, 400, "invalid_type", "prompt", "expected prompt, a string, or messages");
    return mw_engine_tokenize(a->engine, json_string_value(prompt), json_string_length(prompt), special, &ids->p,
                              &ids->n);
}

static mw_status put_pieces(mw_api *a, const mw_ids *ids, mw_json_out *w) {
    mw_json_key(w, "token_strs");
    mw_json_open(w, '[');
    for (size_t i = 0; i < ids->n; i++) {
        char *p = NULL;
        size_t n = 0;
        mw_status st = mw_engine_token_piece(a->engine, ids->p[i], &p, &n);
        if (st != MW_OK) return st;
        mw_json_text(w, p, n);
        free(p);
    }
    mw_json_close(w, ']');
    return MW_OK;
}

mw_status mw_api_tokenize(mw_api *a, const json_t *o, mw_json_out *w, mw_api_error *err) {
    mw_status st = MW_OK;
    mw_ids ids = {0};
    bool pieces = false;
    MW_TRY(st, check_model(a, o, err));
    MW_TRY(st, mw_field_bool(o, "return_token_strs", &pieces, err));
    MW_TRY(st, json_is_array(mw_field(o, "messages")) ? chat_ids(a, o, &ids, err) : prompt_ids(a, o, &ids, err));
    mw_json_open(w, '{');
    mw_json_key_int(w, "count", (int64_t)ids.n);
    mw_json_key_int(w, "max_model_len", a->info.ctx);
    mw_json_key(w, "tokens");
    mw_json_open(w, '[');
    for (size_t i = 0; i < ids.n; i++) mw_json_int(w, ids.p[i]);
    mw_json_close(w, ']');
    if (pieces)
        MW_TRY(st, put_pieces(a, &ids, w));
    else
        mw_json_key_str(w, "token_strs", NULL);
    mw_json_close(w, '}');
    st = w->st;
fail:
    mw_ids_free(&ids);
    return st;
}

mw_status mw_api_detokenize(mw_api *a, const json_t *o, mw_json_out *w, mw_api_error *err) {
    mw_status st = MW_OK;
    mw_ids ids = {0};
    char *text = NULL;
    size_t n = 0;
    MW_TRY(st, check_model(a, o, err));
    const json_t *list = mw_field(o, "tokens");
    if (!list) return mw_api_fail(err, 400, "missing_field", "tokens", "tokens is missing");
    MW_TRY(st, mw_field_ids(list, "tokens", a->info.vocab, &ids, err));
    MW_TRY(st, mw_engine_detokenize(a->engine, ids.p, ids.n, false, &text, &n));
    mw_json_open(w, '{');
    mw_json_key(w, "prompt");
    mw_json_text(w, text, n);
    mw_json_close(w, '}');
    st = w->st;
fail:
    free(text);
    mw_ids_free(&ids);
    return st;
}
