/* Prompts and messages of a request body: checked, brought to one form, tokenised. */
#include <stdlib.h>
#include <string.h>

#include "worker/server/api_call.h"
#include "worker/server/api_fields.h"

#define MAX_MESSAGES 4096
#define MAX_TOOLS    512

/* ---- parts ---- */

static mw_status make_parts(mw_call *c, size_t n_parts, mw_api_error *err) {
    mw_status st = MW_OK;
    size_t n = (size_t)c->sampling.n, max = (size_t)c->api->info.ctx;
    if (n_parts == 0) return mw_api_fail(err, 400, "invalid_value", "prompt", "prompt is an empty list");
    if (n_parts > MW_API_MAX_CHOICES / n)
        return mw_api_fail(err, 400, "invalid_value", "n", "%zu prompts x n = %zu answers, at most %d in one request",
                           n_parts, n, MW_API_MAX_CHOICES);
    if (c->sampling.max_tokens >= 0 && (size_t)c->sampling.max_tokens < max) max = (size_t)c->sampling.max_tokens;
    size_t token = 16 + (c->sampling.logprobs < 0 ? 0 : (size_t)(c->sampling.logprobs + 1) * sizeof(mw_token_logprob));
    if (n_parts * n * max > MW_API_MAX_ANSWER_BYTES / token)
        return mw_api_fail(err, 400, "invalid_value", "max_tokens",
                           "%zu answers of %zu tokens with these logprobs are too much for one request: set max_tokens",
                           n_parts * n, max);
    MW_TRY(st, MW_CALLOC(&c->part, n_parts, "request"));
    c->n_parts = (int)n_parts;
    MW_TRY(st, MW_CALLOC(&c->choice, n_parts * n, "request"));
    c->n_choices = c->open = (int)(n_parts * n);
    for (int i = 0; i < c->n_parts; i++) {
        c->part[i].call = c;
        c->part[i].open = c->sampling.n;
    }
    for (int i = 0; i < c->n_choices; i++) {
        c->choice[i].tools.format = c->tool_format;
        c->choice[i].tools.style = c->tool_style;
        c->choice[i].tools.name = c->tool_name;
    }
fail:
    return st;
}

/* ---- completions ---- */

static bool is_id_list(const json_t *v) {
    return json_is_array(v) && json_array_size(v) > 0 && json_is_integer(json_array_get(v, 0));
}

static mw_status completion_prompts(mw_call *c, const json_t *o, mw_api_error *err) {
    mw_status st = MW_OK;
    const json_t *v = mw_field(o, "prompt");
    if (!v) return mw_api_fail(err, 400, "missing_field", "prompt", "prompt is missing");
    bool one = json_is_string(v) || is_id_list(v);
    if (!one && !json_is_array(v))
        return mw_api_fail(err, 400, "invalid_type", "prompt",
                           "prompt: expected a string, a list of strings, a list of token ids or a list of such lists");
    MW_TRY(st, make_parts(c, one ? 1 : json_array_size(v), err));
    for (int i = 0; i < c->n_parts; i++) {
        const json_t *p = one ? v : json_array_get(v, (size_t)i);
        if (json_is_array(p))
            MW_TRY(st, mw_field_ids(p, "prompt", c->api->info.vocab, &c->part[i].ids, err));
        else if (!json_is_string(p))
            return mw_api_fail(err, 400, "invalid_type", "prompt", "prompt: entry %d is neither text nor token ids", i);
        else if (c->echo)
            MW_TRY(st, mw_str_add(&c->part[i].echo, json_string_value(p), json_string_length(p)));
    }
fail:
    return st;
}

/* ---- chats ---- */

/* [{"type": "text", "text": ...}, ...] to one string: templates want text. */
static mw_status flatten(json_t *message, size_t i, mw_api_error *err) {
    mw_status st = MW_OK;
    mw_str text = {0};
    const json_t *parts = json_object_get(message, "content");
    if (!json_is_array(parts)) return MW_OK;
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k), *t = json_object_get(part, "text");
        if (!json_is_string(t)) {
            const char *type = json_string_value(json_object_get(part, "type"));
            st = mw_api_fail(err, 400, "not_supported", "messages",
                             "messages[%zu].content[%zu] is '%.40s': this model reads text only", i, k,
                             type ? type : "?");
            goto fail;
        }
        if (k > 0) MW_TRY(st, mw_str_adds(&text, "\n"));
        MW_TRY(st, mw_str_add(&text, json_string_value(t), json_string_length(t)));
    }
    if (json_object_set_new(message, "content", json_stringn(text.p ? text.p : "", text.n)) != 0)
        st = MW_FAIL(MW_ERR_NOMEM, "messages");
fail:
    mw_str_free(&text);
    return st;
}

/* The arguments of earlier calls are JSON in a string; templates want the object. */
static mw_status open_arguments(json_t *message, size_t i, mw_api_error *err) {
    json_t *calls = json_object_get(message, "tool_calls");
    if (json_is_null(calls)) return json_object_del(message, "tool_calls") == 0 ? MW_OK : MW_ERR_INTERNAL;
    for (size_t k = 0; k < json_array_size(calls); k++) {
        json_t *f = json_object_get(json_array_get(calls, k), "function");
        const json_t *args = json_object_get(f, "arguments");
        if (!json_is_string(args)) continue;
        size_t n = json_string_length(args);
        json_t *v = n == 0 ? json_object() : json_loadb(json_string_value(args), n, JSON_DECODE_ANY, NULL);
        if (!v || json_object_set_new(f, "arguments", v) != 0)
            return mw_api_fail(err, 400, "invalid_value", "messages",
                               "messages[%zu].tool_calls[%zu].function.arguments is not JSON", i, k);
    }
    return MW_OK;
}

static mw_status check_message(json_t *m, size_t i, mw_api_error *err) {
    if (!json_is_object(m)) return mw_api_fail(err, 400, "invalid_type", "messages", "messages[%zu]: no object", i);
    if (!json_is_string(json_object_get(m, "role")))
        return mw_api_fail(err, 400, "missing_field", "messages", "messages[%zu].role: expected a string", i);
    const json_t *content = json_object_get(m, "content");
    if (content && !json_is_string(content) && !json_is_array(content) && !json_is_null(content))
        return mw_api_fail(err, 400, "invalid_type", "messages",
                           "messages[%zu].content: expected a string or a list of parts", i);
    if (!content && !json_object_get(m, "tool_calls"))
        return mw_api_fail(err, 400, "missing_field", "messages", "messages[%zu].content is missing", i);
    mw_status st = flatten(m, i, err);
    return st == MW_OK ? open_arguments(m, i, err) : st;
}

static mw_status dump(const json_t *v, char **out) {
    *out = json_dumps(v, JSON_COMPACT);
    return *out ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "request");
}

static mw_status take_messages(mw_call *c, const json_t *o, mw_api_error *err) {
    mw_status st = MW_OK;
    json_t *list = mw_field(o, "messages"), *copy = NULL;
    if (!list) return mw_api_fail(err, 400, "missing_field", "messages", "messages is missing");
    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > MAX_MESSAGES)
        return mw_api_fail(err, 400, "invalid_type", "messages", "messages: expected a list of 1 to %d objects",
                           MAX_MESSAGES);
    copy = json_deep_copy(list);
    if (!copy) return MW_FAIL(MW_ERR_NOMEM, "messages");
    for (size_t i = 0; i < json_array_size(copy); i++) MW_TRY(st, check_message(json_array_get(copy, i), i, err));
    MW_TRY(st, dump(copy, &c->messages));
fail:
    json_decref(copy);
    return st;
}

static mw_status check_tools(const json_t *tools, mw_api_error *err) {
    if (!json_is_array(tools) || json_array_size(tools) > MAX_TOOLS)
        return mw_api_fail(err, 400, "invalid_type", "tools", "tools: expected a list of at most %d tools", MAX_TOOLS);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *t = json_array_get(tools, i), *f = json_object_get(t, "function");
        const char *type = json_string_value(json_object_get(t, "type"));
        const char *name = json_string_value(json_object_get(f, "name"));
        if (!type || strcmp(type, "function") != 0 || !name || !*name)
            return mw_api_fail(err, 400, "invalid_value", "tools",
                               "tools[%zu]: expected {\"type\": \"function\", \"function\": {\"name\": ...}}", i);
    }
    return MW_OK;
}

/* tool_choice required, or a name: the answer must be a call. */
static mw_status force_call(mw_call *c, const json_t *tools, const char *name, mw_api_error *err) {
    bool found;
    if (c->sampling.format != MW_FORMAT_TEXT)
        return mw_api_fail(err, 400, "invalid_value", "tool_choice",
                           "tool_choice and response_format exclude each other");
    mw_status st = mw_tools_schema(tools, name, &c->schema, &found);
    if (st != MW_OK) return st;
    if (!found)
        return mw_api_fail(err, 400, "invalid_value", "tool_choice", "tool_choice: there is no tool '%.60s'",
                           name ? name : "");
    c->sampling.format = MW_FORMAT_JSON_SCHEMA;
    c->sampling.schema = c->schema;
    c->tool_format = name ? MW_TOOLS_NAMED : MW_TOOLS_STYLE;
    c->tool_style = MW_TOOLS_FORCED_STYLE;
    c->tool_name = name;
    return MW_OK;
}

static mw_status take_tools(mw_call *c, const json_t *o, mw_api_error *err) {
    mw_status st = MW_OK;
    const json_t *tools = mw_field(o, "tools"), *choice = mw_field(o, "tool_choice");
    const char *how = json_is_string(choice) ? json_string_value(choice) : choice ? "named" : "auto";
    if (json_array_size(tools) == 0 && (!tools || json_is_array(tools))) {
        if (strcmp(how, "auto") == 0 || strcmp(how, "none") == 0) return MW_OK;
        return mw_api_fail(err, 400, "invalid_value", "tool_choice", "tool_choice needs tools");
    }
    MW_TRY(st, check_tools(tools, err));
    if (strcmp(how, "none") == 0) return MW_OK;
    c->tool_format = c->api->tool_format;
    c->tool_style = c->api->tool_style;
    if (c->tool_format == MW_TOOLS_NONE || c->tool_format == MW_TOOLS_UNKNOWN)
        return mw_api_fail(err, 400, "not_supported", "tools", "tools: the model's chat template %s",
                           c->tool_format == MW_TOOLS_NONE
                               ? "has no place for them"
                               : "lets the model call them in a way that is not understood here");
    MW_TRY(st, dump(tools, &c->tools));
    if (strcmp(how, "required") == 0) return force_call(c, tools, NULL, err);
    if (strcmp(how, "auto") == 0) return MW_OK;
    const char *name = json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    if (!name)
        return mw_api_fail(err, 400, "invalid_value", "tool_choice",
                           "tool_choice: expected none, auto, required or {\"type\": \"function\", \"function\": "
                           "{\"name\": ...}}");
    return force_call(c, tools, name, err);
fail:
    return st;
}

static mw_status chat_prompt(mw_call *c, const json_t *o, mw_api_error *err) {
    mw_status st = MW_OK;
    const char *why;
    if (!mw_engine_can_chat(c->api->engine, &why))
        return mw_api_fail(err, 400, "not_supported", NULL, "chat is not possible: %s", why);
    if (json_is_false(mw_field(o, "add_generation_prompt")) || json_is_true(mw_field(o, "continue_final_message")))
        return mw_api_fail(err, 400, "not_supported", "continue_final_message",
                           "the answer is always a new message: continue_final_message is not supported");
    MW_TRY(st, take_messages(c, o, err));
    MW_TRY(st, take_tools(c, o, err));
    const json_t *vars = mw_field(o, "chat_template_kwargs");
    if (vars && !json_is_object(vars))
        return mw_api_fail(err, 400, "invalid_type", "chat_template_kwargs",
                           "chat_template_kwargs: expected an object");
    if (mw_field(o, "chat_template"))
        return mw_api_fail(err, 400, "not_supported", "chat_template", "the chat template is the model's own");
    if (vars) MW_TRY(st, dump(vars, &c->template_vars));
    MW_TRY(st, make_parts(c, 1, err));
fail:
    return st;
}

mw_status mw_call_prompts(mw_api *a, mw_call *c, const json_t *o, mw_api_error *err) {
    (void)a;
    return c->kind == MW_CALL_CHAT ? chat_prompt(c, o, err) : completion_prompts(c, o, err);
}

/* ---- token ids ---- */

static mw_status tokenize_part(mw_call *c, mw_part *p, const json_t *text) {
    mw_engine *e = c->api->engine;
    size_t n = 0;
    if (c->kind == MW_CALL_CHAT)
        return mw_engine_tokenize_chat(e, c->messages, c->tools, c->template_vars, true, &p->ids.p, &p->ids.n);
    if (json_is_string(text)) {
        bool special = !json_is_false(mw_field(c->body, "add_special_tokens"));
        return mw_engine_tokenize(e, json_string_value(text), json_string_length(text), special, &p->ids.p, &p->ids.n);
    }
    if (!c->echo) return MW_OK;
    char *echo = NULL;
    mw_status st = mw_engine_detokenize(e, p->ids.p, p->ids.n, true, &echo, &n);
    if (st == MW_OK) p->echo = (mw_str){echo, n, n + 1};
    return st;
}

mw_status mw_call_tokenize(mw_call *c, mw_api_error *err) {
    mw_status st = MW_OK;
    const json_t *prompt = mw_field(c->body, "prompt");
    bool list = json_is_array(prompt) && !is_id_list(prompt);
    size_t ctx = (size_t)c->api->info.ctx;
    for (int i = 0; i < c->n_parts; i++) {
        mw_part *p = &c->part[i];
        MW_TRY(st, tokenize_part(c, p, list ? json_array_get(prompt, (size_t)i) : prompt));
        if (p->ids.n + (c->sampling.max_tokens != 0) > ctx)
            return mw_api_fail(
                err, 400, "context_length_exceeded", c->kind == MW_CALL_CHAT ? "messages" : "prompt",
                "This model's maximum context length is %zu tokens, and the prompt has %zu tokens, which "
                "leaves no room for an answer.",
                ctx, p->ids.n);
        if (p->ids.n == 0)
            return mw_api_fail(err, 400, "invalid_value", c->kind == MW_CALL_CHAT ? "messages" : "prompt",
                               "the prompt is empty (no tokens)");
        c->prompt_tokens += p->ids.n;
    }
fail:
    return st;
}
