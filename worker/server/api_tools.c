#include "worker/server/api_tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mw_tool_format mw_tools_of_template(const char *text, const char **style) {
    if (!text || !strstr(text, "tools")) return MW_TOOLS_NONE;
    *style = mw_tool_style(text);
    return *style ? MW_TOOLS_STYLE : MW_TOOLS_UNKNOWN;
}

/* ---- calls in an answer ---- */

static mw_status push_styled(mw_tool_reader *r, const char *p, size_t n, bool last, const mw_tool_sink *sink) {
    mw_status st = MW_OK;
    mw_str text = {0};
    const mw_tool_call *call = NULL;
    if (!r->parser) MW_TRY(st, mw_tool_parser_open(&r->parser, r->style));
    MW_TRY(st, mw_tool_parser_push(r->parser, p, n, &text));
    if (last) MW_TRY(st, mw_tool_parser_finish(r->parser, &text));
    if (text.n) MW_TRY(st, sink->text(sink->arg, text.p, text.n));
    size_t calls = mw_tool_parser_calls(r->parser, &call);
    for (; (size_t)r->n_calls < calls; r->n_calls++)
        MW_TRY(st, sink->call(sink->arg, r->n_calls, call[r->n_calls].name, call[r->n_calls].arguments));
fail:
    mw_str_free(&text);
    return st;
}

mw_status mw_tools_push(mw_tool_reader *r, const char *p, size_t n, bool last, const mw_tool_sink *sink) {
    if (r->format == MW_TOOLS_STYLE) return push_styled(r, p, n, last, sink);
    if (r->format != MW_TOOLS_NAMED) return n ? sink->text(sink->arg, p, n) : MW_OK;
    mw_status st = mw_str_add(&r->held, p, n);
    if (st != MW_OK || !last) return st;
    r->n_calls = 1;
    return sink->call(sink->arg, 0, r->name, r->held.p);
}

void mw_tools_free(mw_tool_reader *r) {
    mw_tool_parser_close(r->parser);
    mw_str_free(&r->held);
}

/* ---- answers that must be a call ---- */

/* A tool's parameters move to #/$defs/<at>, so references inside them must point there. The caller bounds the nesting:
 * what jansson has parsed is at most 2048 deep. */
static mw_status move_references(json_t *v, const char *at) {
    mw_status st = MW_OK;
    for (size_t i = 0; i < json_array_size(v); i++) MW_TRY(st, move_references(json_array_get(v, i), at));
    for (void *m = json_object_iter(v); m; m = json_object_iter_next(v, m)) {
        json_t *value = json_object_iter_value(m);
        const char *ref = json_string_value(value);
        if (ref && ref[0] == '#' && strcmp(json_object_iter_key(m), "$ref") == 0) {
            json_t *moved = json_sprintf("#/$defs/%s%s", at, ref + 1);
            if (!moved || json_object_iter_set_new(v, m, moved) != 0) return MW_FAIL(MW_ERR_NOMEM, "tools");
        } else {
            MW_TRY(st, move_references(value, at));
        }
    }
fail:
    return st;
}

static json_t *parameters_of(const json_t *function) {
    const json_t *given = json_object_get(function, "parameters");
    return json_is_object(given) ? json_deep_copy(given) : json_pack("{s:s}", "type", "object");
}

/* One tool as the schema of a call, appended to `calls`; its parameters go into `defs`. */
static mw_status add_call(const json_t *function, json_t *calls, json_t *defs) {
    char at[32], ref[48];
    snprintf(at, sizeof at, "tool%zu", json_array_size(calls));
    snprintf(ref, sizeof ref, "#/$defs/%s", at);
    json_t *parameters = parameters_of(function);
    mw_status st = move_references(parameters, at);
    if (json_object_set_new(defs, at, parameters) != 0 && st == MW_OK) st = MW_FAIL(MW_ERR_NOMEM, "tools");
    json_t *call = json_pack("{s:s, s:{s:{s:O}, s:{s:s}}, s:[s, s], s:b}", "type", "object", "properties", "name",
                             "const", json_object_get(function, "name"), "arguments", "$ref", ref, "required", "name",
                             "arguments", "additionalProperties", 0);
    if (json_array_append_new(calls, call) != 0 && st == MW_OK) st = MW_FAIL(MW_ERR_NOMEM, "tools");
    return st;
}

static mw_status any_call(const json_t *tools, json_t **out) {
    json_t *calls = json_array(), *defs = json_object();
    mw_status st = MW_OK;
    for (size_t i = 0; i < json_array_size(tools); i++)
        MW_TRY(st, add_call(json_object_get(json_array_get(tools, i), "function"), calls, defs));
    *out = json_pack("{s:O, s:O}", "anyOf", calls, "$defs", defs);
fail:
    json_decref(calls);
    json_decref(defs);
    return st;
}

mw_status mw_tools_schema(const json_t *tools, const char *name, char **schema, bool *found) {
    json_t *root = NULL;
    mw_status st = MW_OK;
    *schema = NULL;
    *found = !name && json_array_size(tools) > 0;
    for (size_t i = 0; name && i < json_array_size(tools) && !*found; i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        const char *its_name = json_string_value(json_object_get(function, "name"));
        *found = its_name && strcmp(name, its_name) == 0;
        if (*found) root = parameters_of(function);
    }
    if (!*found) return MW_OK;
    if (!name) MW_TRY(st, any_call(tools, &root));
    *schema = root ? json_dumps(root, JSON_COMPACT) : NULL;
    if (!*schema) st = MW_FAIL(MW_ERR_NOMEM, "schema of the tools");
fail:
    json_decref(root);
    return st;
}
