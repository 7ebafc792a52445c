/* Sampling parameters of a request body to an mw_sampling. */
#include <stdlib.h>
#include <string.h>

#include "worker/server/api_call.h"
#include "worker/server/api_fields.h"

#define MAX_STOP 64

/* Fields that would change the answer and that this server does not have: silence would be a lie. */
static mw_status refuse(const json_t *o, mw_api_error *err) {
    static const char *const unknown[] = {
        "guided_regex",     "guided_choice",      "guided_grammar",    "prompt_embeds",   "audio",
        "functions",        "function_call",      "length_penalty",    "bad_words",       "structural_tag",
        "prediction",       "web_search_options", "allowed_token_ids", "prompt_logprobs", "truncate_prompt_tokens",
        "logits_processors"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        const json_t *v = mw_field(o, unknown[i]);
        bool off = (json_is_array(v) && json_array_size(v) == 0) ||
                   (json_is_number(v) && json_number_value(v) == 1 && strcmp(unknown[i], "length_penalty") == 0);
        if (v && !off)
            return mw_api_fail(err, 400, "not_supported", unknown[i], "%s is not supported by this server", unknown[i]);
    }
    static const char *const off[] = {"use_beam_search", "include_stop_str_in_output"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (json_is_true(mw_field(o, off[i])))
            return mw_api_fail(err, 400, "not_supported", off[i], "%s is not supported by this server", off[i]);
    if (json_is_false(mw_field(o, "skip_special_tokens")))
        return mw_api_fail(err, 400, "not_supported", "skip_special_tokens",
                           "skip_special_tokens: special tokens are always left out of the text");
    if (json_number_value(mw_field(o, "min_tokens")) > 0)
        return mw_api_fail(err, 400, "not_supported", "min_tokens", "min_tokens is not supported by this server");
    return MW_OK;
}

static mw_status get_seed(const json_t *o, mw_sampling *s, mw_api_error *err) {
    const json_t *v = mw_field(o, "seed");
    if (!v) return MW_OK;
    if (!json_is_integer(v)) return mw_api_fail(err, 400, "invalid_type", "seed", "seed: expected a whole number");
    s->seed = (uint64_t)json_integer_value(v);
    s->has_seed = true;
    return MW_OK;
}

static mw_status get_stop(const json_t *o, mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    const json_t *v = mw_field(o, "stop");
    if (!v) return MW_OK;
    if (!json_is_string(v) && !json_is_array(v))
        return mw_api_fail(err, 400, "invalid_type", "stop", "stop: expected a string or a list of strings");
    size_t n = json_is_string(v) ? 1 : json_array_size(v);
    if (n > MAX_STOP)
        return mw_api_fail(err, 400, "invalid_value", "stop", "stop has %zu strings, at most %d", n, MAX_STOP);
    MW_TRY(st, MW_CALLOC(&c->stop, n, "stop strings"));
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_string(v) ? v : json_array_get(v, i);
        if (!json_is_string(s) || json_string_length(s) == 0 || json_string_length(s) > 1024)
            return mw_api_fail(err, 400, "invalid_value", "stop", "stop: entry %zu is not a string of 1 to 1024 bytes",
                               i);
        c->stop[i] = json_string_value(s);
    }
    c->sampling.stop = c->stop;
    c->sampling.n_stop = (int)n;
fail:
    return st;
}

static mw_status get_stop_ids(const mw_api *a, const json_t *o, mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    const json_t *v = mw_field(o, "stop_token_ids");
    if (v) MW_TRY(st, mw_field_ids(v, "stop_token_ids", a->info.vocab, &c->stop_ids, err));
    if (c->stop_ids.n > 1024)
        return mw_api_fail(err, 400, "invalid_value", "stop_token_ids", "stop_token_ids has more than 1024 entries");
    c->sampling.stop_ids = c->stop_ids.p;
    c->sampling.n_stop_ids = (int)c->stop_ids.n;
fail:
    return st;
}

/* {"123": -100}: the ids are keys. */
static mw_status get_bias(const mw_api *a, const json_t *o, mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    json_t *v = mw_field(o, "logit_bias");
    if (!v) return MW_OK;
    if (!json_is_object(v))
        return mw_api_fail(err, 400, "invalid_type", "logit_bias", "logit_bias: expected an object, {\"id\": number}");
    if (json_object_size(v) > 4096)
        return mw_api_fail(err, 400, "invalid_value", "logit_bias", "logit_bias has more than 4096 entries");
    MW_TRY(st, MW_CALLOC(&c->bias, json_object_size(v), "logit_bias"));
    int n = 0;
    for (void *it = json_object_iter(v); it; it = json_object_iter_next(v, it)) {
        char *end;
        const char *key = json_object_iter_key(it);
        const json_t *x = json_object_iter_value(it);
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id >= a->info.vocab)
            return mw_api_fail(err, 400, "invalid_value", "logit_bias",
                               "logit_bias: '%.40s' is not a token id, 0 to %d", key, a->info.vocab - 1);
        if (!json_is_number(x) || !(json_number_value(x) >= -100 && json_number_value(x) <= 100))
            return mw_api_fail(err, 400, "invalid_value", "logit_bias",
                               "logit_bias: the bias of token %ld is not a number from -100 to 100", id);
        c->bias[n++] = (mw_token_bias){(int32_t)id, (float)json_number_value(x)};
    }
    c->sampling.bias = c->bias;
    c->sampling.n_bias = n;
fail:
    return st;
}

/* Completions: "logprobs": k. Chats: "logprobs": true, "top_logprobs": k. */
static mw_status get_logprobs(const json_t *o, mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    int k = -1;
    bool want = false;
    if (c->kind == MW_CALL_COMPLETION) {
        if (!json_is_false(mw_field(o, "logprobs")))
            MW_TRY(st, mw_field_int(o, "logprobs", 0, MW_API_MAX_TOP_LOGPROBS, &k, err));
    } else {
        MW_TRY(st, mw_field_bool(o, "logprobs", &want, err));
        MW_TRY(st, mw_field_int(o, "top_logprobs", 0, MW_API_MAX_TOP_LOGPROBS, &k, err));
        if (k > 0 && !want)
            return mw_api_fail(err, 400, "invalid_value", "top_logprobs", "top_logprobs needs logprobs: true");
        k = want ? (k < 0 ? 0 : k) : -1;
    }
    c->sampling.logprobs = k;
    c->sampling.prompt_logprobs = c->echo && k >= 0 ? k : -1;
    MW_TRY(st, mw_field_bool(o, "return_tokens_as_token_ids", &c->tokens_as_ids, err));
fail:
    return st;
}

static mw_status get_schema(const json_t *schema, const char *name, mw_call *c, mw_api_error *err) {
    char *text = json_is_string(schema) ? strdup(json_string_value(schema)) : json_dumps(schema, JSON_COMPACT);
    if (!json_is_object(schema) && !json_is_string(schema) && !json_is_boolean(schema)) {
        free(text);
        return mw_api_fail(err, 400, "invalid_type", name, "%s: expected a JSON schema", name);
    }
    if (!text) return MW_FAIL(MW_ERR_NOMEM, "schema");
    free(c->schema);
    c->schema = text;
    c->sampling.format = MW_FORMAT_JSON_SCHEMA;
    c->sampling.schema = text;
    return MW_OK;
}

static mw_status get_format(const json_t *o, mw_call *c, mw_api_error *err) {
    const json_t *f = mw_field(o, "response_format"), *guided = mw_field(o, "guided_json"),
                 *structured = mw_field(o, "structured_outputs");
    if (structured) {
        guided = mw_field(structured, "json");
        if (!guided)
            return mw_api_fail(err, 400, "not_supported", "structured_outputs",
                               "structured_outputs: only \"json\" is supported");
    }
    if (guided) return get_schema(guided, structured ? "structured_outputs.json" : "guided_json", c, err);
    if (!f) return MW_OK;
    const char *type = json_string_value(mw_field(f, "type"));
    if (type && strcmp(type, "text") == 0) {
        c->sampling.format = MW_FORMAT_TEXT;
        return MW_OK;
    }
    if (type && strcmp(type, "json_object") == 0) {
        c->sampling.format = MW_FORMAT_JSON_OBJECT;
        return MW_OK;
    }
    if (!type || strcmp(type, "json_schema") != 0)
        return mw_api_fail(err, 400, "invalid_value", "response_format",
                           "response_format.type: expected text, json_object or json_schema");
    const json_t *schema = mw_field(mw_field(f, "json_schema"), "schema");
    if (!schema)
        return mw_api_fail(err, 400, "invalid_value", "response_format",
                           "response_format.json_schema.schema: expected a JSON schema");
    return get_schema(schema, "response_format", c, err);
}

static mw_status get_max_tokens(const mw_api *a, const json_t *o, mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    int n = c->kind == MW_CALL_COMPLETION ? 16 : -1;
    if (a->opt->default_max_tokens_set) n = a->opt->defaults.max_tokens;
    MW_TRY(st, mw_field_int(o, "max_tokens", 0, 1 << 26, &n, err));
    if (c->kind == MW_CALL_CHAT) MW_TRY(st, mw_field_int(o, "max_completion_tokens", 0, 1 << 26, &n, err));
    c->sampling.max_tokens = n;
fail:
    return st;
}

mw_status mw_call_params(const mw_api *a, mw_call *c, const json_t *o, mw_api_error *err) {
    mw_status st = MW_OK;
    mw_sampling *s = &c->sampling;
    const mw_sampling *d = &a->opt->defaults;
    *s = mw_sampling_default();
    s->temperature = a->opt->default_temperature_set ? d->temperature : 1;
    s->top_k = d->top_k;
    s->top_p = d->top_p;
    s->min_p = d->min_p;
    s->repetition_penalty = d->repetition_penalty;
    s->presence_penalty = d->presence_penalty;
    s->frequency_penalty = d->frequency_penalty;
    s->ignore_eos = d->ignore_eos;
    s->format = d->format;
    s->schema = d->schema;
    MW_TRY(st, refuse(o, err));
    MW_TRY(st, get_max_tokens(a, o, c, err));
    MW_TRY(st, mw_field_real(o, "temperature", 0, 100, &s->temperature, err));
    MW_TRY(st, mw_field_int(o, "top_k", -1, 1 << 26, &s->top_k, err));
    if (s->top_k == -1) s->top_k = 0; /* the other common spelling of "off" */
    MW_TRY(st, mw_field_real(o, "top_p", 1e-6, 1, &s->top_p, err));
    MW_TRY(st, mw_field_real(o, "min_p", 0, 1, &s->min_p, err));
    MW_TRY(st, mw_field_real(o, "repetition_penalty", 0.01, 100, &s->repetition_penalty, err));
    MW_TRY(st, mw_field_real(o, "presence_penalty", -2, 2, &s->presence_penalty, err));
    MW_TRY(st, mw_field_real(o, "frequency_penalty", -2, 2, &s->frequency_penalty, err));
    MW_TRY(st, mw_field_int(o, "n", 1, 128, &s->n, err));
    MW_TRY(st, mw_field_bool(o, "ignore_eos", &s->ignore_eos, err));
    MW_TRY(st, get_seed(o, s, err));
    MW_TRY(st, get_stop(o, c, err));
    MW_TRY(st, get_stop_ids(a, o, c, err));
    MW_TRY(st, get_bias(a, o, c, err));
    MW_TRY(st, get_logprobs(o, c, err));
    MW_TRY(st, get_format(o, c, err));
fail:
    return st;
}
