#include "worker/server/api_tools.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define OPEN  "<tool_call>"
#define CLOSE "</tool_call>"

mw_tool_format mw_tools_of_template(const char *text) {
    if (!text || !strstr(text, "tools")) return MW_TOOLS_NONE;
    if (strstr(text, "<function=")) return MW_TOOLS_UNKNOWN; /* Qwen3-Coder: XML between the same tags */
    if (strstr(text, OPEN)) return MW_TOOLS_TAGS;
    if (strstr(text, "[TOOL_CALLS]")) return MW_TOOLS_JSON;
    if (strstr(text, "\"parameters\"") || strstr(text, "<|python_tag|>")) return MW_TOOLS_JSON;
    return MW_TOOLS_UNKNOWN;
}

/* ---- one call ---- */

static mw_status emit_call(mw_tool_reader *r, const json_t *o, const mw_tool_sink *sink) {
    const json_t *args = json_object_get(o, "arguments");
    if (!args) args = json_object_get(o, "parameters");
    char *text = json_is_string(args) ? strdup(json_string_value(args))
                 : args               ? json_dumps(args, JSON_COMPACT | JSON_ENCODE_ANY)
                                      : strdup("{}");
    if (!text) return MW_FAIL(MW_ERR_NOMEM, "tool call");
    mw_status st = sink->call(sink->arg, r->n_calls, json_string_value(json_object_get(o, "name")), text);
    free(text);
    r->n_calls++;
    return st;
}

static bool is_call(const json_t *o) {
    return json_is_string(json_object_get(o, "name")) &&
           (json_object_get(o, "arguments") || json_object_get(o, "parameters"));
}

/* Everything in p[0..n) is calls, or nothing is sent. */
static mw_status emit_calls(mw_tool_reader *r, const char *p, size_t n, const mw_tool_sink *sink, bool *all) {
    mw_status st = MW_OK;
    json_t *list = json_array();
    size_t at = 0;
    *all = false;
    if (!list) return MW_FAIL(MW_ERR_NOMEM, "tool calls");
    while (at < n) {
        json_error_t err;
        json_t *v = json_loadb(p + at, n - at, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &err);
        if (!v) goto fail;
        at += (size_t)err.position;
        if (json_is_array(v))
            json_array_extend(list, v);
        else
            json_array_append(list, v);
        json_decref(v);
        while (at < n && (isspace((unsigned char)p[at]) || p[at] == ';')) at++;
    }
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!is_call(json_array_get(list, i))) goto fail;
    *all = json_array_size(list) > 0;
    for (size_t i = 0; i < json_array_size(list); i++) MW_TRY(st, emit_call(r, json_array_get(list, i), sink));
fail:
    json_decref(list);
    return st;
}

static mw_status emit_text(const char *p, size_t n, const mw_tool_sink *sink) {
    return n ? sink->text(sink->arg, p, n) : MW_OK;
}

static void drop(mw_tool_reader *r, size_t n) {
    memmove(r->held.p, r->held.p + n, r->held.n - n);
    r->held.n -= n;
}

/* ---- <tool_call> ... </tool_call> ---- */

/* Length of the longest end of the held text that OPEN may begin with. */
static size_t undecided(const mw_tool_reader *r) {
    size_t n = strlen(OPEN) - 1;
    if (n > r->held.n) n = r->held.n;
    for (; n > 0; n--)
        if (memcmp(r->held.p + r->held.n - n, OPEN, n) == 0) return n;
    return 0;
}

/* One tag further. *more: there may be another in what is held. */
static mw_status step_tags(mw_tool_reader *r, bool last, const mw_tool_sink *sink, bool *more) {
    mw_status st = MW_OK;
    const char *tag = r->inside ? CLOSE : OPEN;
    const char *at = r->held.n ? memmem(r->held.p, r->held.n, tag, strlen(tag)) : NULL;
    *more = at != NULL;
    if (!r->inside) {
        size_t n = at ? (size_t)(at - r->held.p) : last ? r->held.n : r->held.n - undecided(r);
        size_t keep = n; /* blanks before a call belong to it */
        while (at && keep > 0 && isspace((unsigned char)r->held.p[keep - 1])) keep--;
        MW_TRY(st, emit_text(r->held.p, keep, sink));
        drop(r, n + (at ? strlen(OPEN) : 0));
        r->inside = at != NULL;
    } else if (at || last) {
        bool all;
        size_t n = at ? (size_t)(at - r->held.p) : r->held.n;
        MW_TRY(st, emit_calls(r, r->held.p, n, sink, &all));
        if (!all) {
            MW_TRY(st, emit_text(OPEN, strlen(OPEN), sink));
            MW_TRY(st, emit_text(r->held.p, n + (at ? strlen(CLOSE) : 0), sink));
        }
        drop(r, n + (at ? strlen(CLOSE) : 0));
        r->inside = false;
        size_t blank = 0;
        while (all && blank < r->held.n && isspace((unsigned char)r->held.p[blank])) blank++;
        drop(r, blank);
    }
fail:
    return st;
}

static mw_status push_tags(mw_tool_reader *r, bool last, const mw_tool_sink *sink) {
    mw_status st = MW_OK;
    for (bool more = true; more && st == MW_OK;) st = step_tags(r, last, sink, &more);
    return st;
}

/* ---- the whole answer ---- */

static mw_status push_json(mw_tool_reader *r, bool last, const mw_tool_sink *sink) {
    mw_status st = MW_OK;
    size_t i = 0;
    while (i < r->held.n && isspace((unsigned char)r->held.p[i])) i++;
    if (!r->begun && i < r->held.n) {
        r->begun = true;
        r->inside = r->held.p[i] == '{' || r->held.p[i] == '[';
    }
    bool all = false;
    if (r->inside && !last) return MW_OK;
    if (r->inside) MW_TRY(st, emit_calls(r, r->held.p + i, r->held.n - i, sink, &all));
    if (!all && (r->begun || last)) MW_TRY(st, emit_text(r->held.p, r->held.n, sink));
    if (all || r->begun) r->held.n = 0;
fail:
    return st;
}

static mw_status push_named(mw_tool_reader *r, bool last, const mw_tool_sink *sink) {
    if (!last) return MW_OK;
    r->n_calls = 1;
    return sink->call(sink->arg, 0, r->name, r->held.p ? r->held.p : "");
}

mw_status mw_tools_push(mw_tool_reader *r, const char *p, size_t n, bool last, const mw_tool_sink *sink) {
    if (r->format == MW_TOOLS_NONE || r->format == MW_TOOLS_UNKNOWN) return emit_text(p, n, sink);
    mw_status st = mw_str_add(&r->held, p, n);
    if (st != MW_OK) return st;
    if (r->format == MW_TOOLS_TAGS) return push_tags(r, last, sink);
    return r->format == MW_TOOLS_JSON ? push_json(r, last, sink) : push_named(r, last, sink);
}

void mw_tools_free(mw_tool_reader *r) {
    mw_str_free(&r->held);
}

/* ---- answers that must be a call ---- */

static const json_t *function_of(const json_t *tool) {
    return json_object_get(tool, "function");
}

mw_status mw_tools_schema(const json_t *tools, const char *name, char **schema, bool *found) {
    json_t *any = json_array();
    *found = false;
    *schema = NULL;
    for (size_t i = 0; any && i < json_array_size(tools); i++) {
        const json_t *f = function_of(json_array_get(tools, i));
        const char *its_name = json_string_value(json_object_get(f, "name"));
        json_t *given = json_object_get(f, "parameters");
        json_t *parameters = json_is_object(given) ? json_incref(given) : json_pack("{s:s}", "type", "object");
        if (name && its_name && strcmp(name, its_name) == 0 && !*found) {
            *found = true;
            *schema = json_dumps(parameters, JSON_COMPACT);
        }
        json_array_append_new(any, json_pack("{s:s, s:{s:{s:s}, s:o}, s:[s,s], s:b}", "type", "object", "properties",
                                             "name", "const", its_name ? its_name : "", "arguments", parameters,
                                             "required", "name", "arguments", "additionalProperties", 0));
    }
    if (!name && json_array_size(any) > 0) {
        json_t *all = json_pack("{s:O}", "anyOf", any);
        *found = true;
        *schema = all ? json_dumps(all, JSON_COMPACT) : NULL;
        json_decref(all);
    }
    json_decref(any);
    return *schema || !*found ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "schema of the tools");
}
