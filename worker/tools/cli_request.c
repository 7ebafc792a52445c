#include "worker/tools/cli_request.h"

#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

static mw_status get_real(const json_t *o, const char *key, double *out) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return MW_OK;
    if (!json_is_number(v)) return MW_FAIL(MW_ERR_USAGE, "%s: expected a number", key);
    *out = json_number_value(v);
    return MW_OK;
}

static mw_status get_int(const json_t *o, const char *key, int *out) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return MW_OK;
    if (!json_is_integer(v) || json_integer_value(v) < INT32_MIN || json_integer_value(v) > INT32_MAX)
        return MW_FAIL(MW_ERR_USAGE, "%s: expected a whole number", key);
    *out = (int)json_integer_value(v);
    return MW_OK;
}

static mw_status get_bool(const json_t *o, const char *key, bool *out) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return MW_OK;
    if (!json_is_boolean(v)) return MW_FAIL(MW_ERR_USAGE, "%s: expected true or false", key);
    *out = json_is_true(v);
    return MW_OK;
}

static mw_status get_seed(const json_t *o, mw_sampling *s) {
    const json_t *v = json_object_get(o, "seed");
    if (!v || json_is_null(v)) return MW_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return MW_FAIL(MW_ERR_USAGE, "seed: expected a whole number from 0");
    s->seed = (uint64_t)json_integer_value(v);
    s->has_seed = true;
    return MW_OK;
}

/* true: the chosen token only, as OpenAI's chat API has it; a number: that many. */
static mw_status get_logprobs(const json_t *o, const char *key, int *out) {
    const json_t *v = json_object_get(o, key);
    if (json_is_true(v))
        *out = 0;
    else if (json_is_false(v))
        *out = -1;
    else
        return get_int(o, key, out);
    return MW_OK;
}

static mw_status get_id_list(const json_t *list, const char *key, mw_ids *out) {
    mw_status st = MW_OK;
    if (!json_is_array(list)) return MW_FAIL(MW_ERR_USAGE, "%s: expected a list of token ids", key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return MW_FAIL(MW_ERR_USAGE, "%s: entry %zu is not a token id", key, i);
        MW_TRY(st, mw_ids_add(out, (int32_t)json_integer_value(v)));
    }
fail:
    return st;
}

/* "stop": "a" or ["a", "b"]. */
static mw_status get_stop(cli_request *q) {
    mw_status st = MW_OK;
    const json_t *v = json_object_get(q->object, "stop");
    if (!v || json_is_null(v)) return MW_OK;
    size_t n = json_is_string(v) ? 1 : json_array_size(v);
    if (!json_is_string(v) && !json_is_array(v))
        return MW_FAIL(MW_ERR_USAGE, "stop: expected a string or a list of strings");
    MW_TRY(st, MW_CALLOC(&q->stop, n, "stop strings"));
    for (size_t i = 0; i < n; i++) {
        q->stop[i] = json_string_value(json_is_string(v) ? v : json_array_get(v, i));
        if (!q->stop[i]) return MW_FAIL(MW_ERR_USAGE, "stop: entry %zu is not a string", i);
    }
    q->r.sampling.stop = q->stop;
    q->r.sampling.n_stop = (int)n;
fail:
    return st;
}

static mw_status get_stop_ids(cli_request *q) {
    mw_ids ids = {0};
    const json_t *v = json_object_get(q->object, "stop_ids");
    if (!v || json_is_null(v)) return MW_OK;
    mw_status st = get_id_list(v, "stop_ids", &ids);
    q->stop_ids = ids.p;
    q->r.sampling.stop_ids = ids.p;
    q->r.sampling.n_stop_ids = (int)ids.n;
    return st;
}

/* "logit_bias": {"123": -100}. */
static mw_status get_bias(cli_request *q) {
    mw_status st = MW_OK;
    json_t *v = json_object_get(q->object, "logit_bias");
    if (!v || json_is_null(v)) return MW_OK;
    if (!json_is_object(v)) return MW_FAIL(MW_ERR_USAGE, "logit_bias: expected an object of token id to number");
    MW_TRY(st, MW_CALLOC(&q->bias, json_object_size(v), "logit_bias"));
    int n = 0;
    for (void *it = json_object_iter(v); it; it = json_object_iter_next(v, it)) {
        char *end;
        const char *key = json_object_iter_key(it);
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id > INT32_MAX || !json_is_number(json_object_iter_value(it)))
            return MW_FAIL(MW_ERR_USAGE, "logit_bias: '%s' is not a token id with a number", key);
        q->bias[n++] = (mw_token_bias){(int32_t)id, (float)json_number_value(json_object_iter_value(it))};
    }
    q->r.sampling.bias = q->bias;
    q->r.sampling.n_bias = n;
fail:
    return st;
}

/* "response_format" of OpenAI's API. */
static mw_status get_format(cli_request *q) {
    const json_t *v = json_object_get(q->object, "response_format");
    mw_sampling *s = &q->r.sampling;
    if (!v || json_is_null(v)) return MW_OK;
    const char *type = json_string_value(json_object_get(v, "type"));
    s->schema = NULL;
    if (type && strcmp(type, "text") == 0) {
        s->format = MW_FORMAT_TEXT;
    } else if (type && strcmp(type, "json_object") == 0) {
        s->format = MW_FORMAT_JSON_OBJECT;
    } else if (type && strcmp(type, "json_schema") == 0) {
        const json_t *schema = json_object_get(json_object_get(v, "json_schema"), "schema");
        if (!schema) return MW_FAIL(MW_ERR_USAGE, "response_format: json_schema.schema is missing");
        s->format = MW_FORMAT_JSON_SCHEMA;
        s->schema = q->schema = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
        if (!q->schema) return MW_FAIL(MW_ERR_NOMEM, "response_format");
    } else {
        return MW_FAIL(MW_ERR_USAGE, "response_format: expected type text, json_object or json_schema");
    }
    return MW_OK;
}

static mw_status get_sampling(cli_request *q) {
    mw_status st = MW_OK;
    const json_t *o = q->object;
    mw_sampling *s = &q->r.sampling;
    MW_TRY(st, get_int(o, "max_tokens", &s->max_tokens));
    MW_TRY(st, get_real(o, "temperature", &s->temperature));
    MW_TRY(st, get_int(o, "top_k", &s->top_k));
    if (s->top_k == -1) s->top_k = 0; /* the other common spelling of "off" */
    MW_TRY(st, get_real(o, "top_p", &s->top_p));
    MW_TRY(st, get_real(o, "min_p", &s->min_p));
    MW_TRY(st, get_real(o, "repetition_penalty", &s->repetition_penalty));
    MW_TRY(st, get_real(o, "presence_penalty", &s->presence_penalty));
    MW_TRY(st, get_real(o, "frequency_penalty", &s->frequency_penalty));
    MW_TRY(st, get_seed(o, s));
    MW_TRY(st, get_bool(o, "ignore_eos", &s->ignore_eos));
    MW_TRY(st, get_int(o, "n", &s->n));
    MW_TRY(st, get_logprobs(o, "logprobs", &s->logprobs));
    MW_TRY(st, get_logprobs(o, "prompt_logprobs", &s->prompt_logprobs));
    MW_TRY(st, get_stop(q));
    MW_TRY(st, get_stop_ids(q));
    MW_TRY(st, get_bias(q));
    MW_TRY(st, get_format(q));
fail:
    return st;
}

static mw_status get_prompt(const cli_opts *o, cli_request *q) {
    mw_status st = MW_OK;
    json_t *text = json_object_get(q->object, "prompt"), *ids = json_object_get(q->object, "prompt_token_ids"),
           *messages = json_object_get(q->object, "messages"), *made = NULL;
    if ((text != NULL) + (ids != NULL) + (messages != NULL) != 1)
        return MW_FAIL(MW_ERR_USAGE, "a request has exactly one of prompt, prompt_token_ids and messages");
    if (text && !json_is_string(text)) return MW_FAIL(MW_ERR_USAGE, "prompt: expected a string");
    if (messages && !json_is_array(messages)) return MW_FAIL(MW_ERR_USAGE, "messages: expected a list");
    if (text && o->chat) {
        MW_TRY(st, cli_conversation(o, &made));
        MW_TRY(st, cli_say(made, "user", json_string_value(text), json_string_length(text)));
        messages = made;
    } else if (text) {
        q->r.text = json_string_value(text);
        q->r.text_len = json_string_length(text);
    } else if (ids) {
        MW_TRY(st, get_id_list(ids, "prompt_token_ids", &q->ids));
        static const int32_t none;
        q->r.ids = q->ids.p ? q->ids.p : &none;
        q->r.n_ids = q->ids.n;
    }
    if (messages) {
        MW_TRY(st, cli_messages(messages, &q->messages));
        q->r.messages_json = q->messages;
    }
fail:
    json_decref(made);
    return st;
}

static mw_status refuse_unknown(json_t *o) {
    static const char *const known[] = {"id",
                                        "prompt",
                                        "prompt_token_ids",
                                        "messages",
                                        "max_tokens",
                                        "temperature",
                                        "top_k",
                                        "top_p",
                                        "min_p",
                                        "repetition_penalty",
                                        "presence_penalty",
                                        "frequency_penalty",
                                        "seed",
                                        "ignore_eos",
                                        "n",
                                        "logprobs",
                                        "prompt_logprobs",
                                        "stop",
                                        "stop_ids",
                                        "logit_bias",
                                        "response_format"};
    for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it)) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(json_object_iter_key(it), known[i]) != 0) i++;
        if (i == sizeof known / sizeof *known)
            return MW_FAIL(MW_ERR_USAGE, "unknown field '%s'", json_object_iter_key(it));
    }
    return MW_OK;
}

mw_status cli_request_parse(const cli_opts *o, const char *line, size_t n, cli_request *q) {
    mw_status st = MW_OK;
    json_error_t err;
    *q = (cli_request){.r.sampling = o->sampling};
    q->object = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &err);
    if (!q->object) return MW_FAIL(MW_ERR_USAGE, "not JSON: column %d: %s", err.column, err.text);
    if (!json_is_object(q->object)) return MW_FAIL(MW_ERR_USAGE, "not a JSON object");
    MW_TRY(st, refuse_unknown(q->object));
    MW_TRY(st, get_sampling(q));
    MW_TRY(st, get_prompt(o, q));
fail:
    return st;
}

void cli_request_free(cli_request *q) {
    json_decref(q->object);
    mw_ids_free(&q->ids);
    free(q->messages);
    free(q->stop);
    free(q->stop_ids);
    free(q->bias);
    free(q->schema);
    *q = (cli_request){0};
}
