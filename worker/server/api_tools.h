/* worker/server/api_tools.h - tool calls in an answer's text, for the formats that models with tools are trained on:
 *
 *   Hermes, Qwen    text <tool_call>{"name": ..., "arguments": {...}}</tool_call> text ...
 *   Llama 3.1       the answer is {"name": ..., "parameters": {...}}, or several of them with ';' between
 *   Mistral         the answer is [{"name": ..., "arguments": {...}}, ...]
 *
 * (the latter two behind a special token, which is no text). What looks like a call and is none stays text.
 */
#ifndef MW_SERVER_API_TOOLS_H
#define MW_SERVER_API_TOOLS_H
#include <jansson.h>

#include "worker/base/mem.h"

typedef enum {
    MW_TOOLS_NONE,    /* the template knows no tools */
    MW_TOOLS_UNKNOWN, /* it does, but how its model calls them is none of the formats above */
    MW_TOOLS_TAGS,    /* <tool_call> */
    MW_TOOLS_JSON,    /* the answer as a whole */
    MW_TOOLS_NAMED,   /* the answer is the arguments of one function: tool_choice has named it */
} mw_tool_format;

/* By the template's text, NULL: none. */
mw_tool_format mw_tools_of_template(const char *text);

typedef struct mw_tool_reader {
    mw_tool_format format; /* MW_TOOLS_NONE: everything is text */
    const char *name;      /* MW_TOOLS_NAMED */
    bool inside;           /* between <tool_call> and its end; JSON: all of it so far may be calls */
    bool begun;            /* JSON: it is decided what the answer is */
    mw_str held;
    int n_calls;
} mw_tool_reader;

/* What comes out, in order. */
typedef struct mw_tool_sink {
    void *arg;
    mw_status (*text)(void *arg, const char *p, size_t n);
    mw_status (*call)(void *arg, int index, const char *name, const char *arguments);
} mw_tool_sink;

/* More of the answer; last: there is no more. */
MW_MUST_CHECK mw_status mw_tools_push(mw_tool_reader *r, const char *p, size_t n, bool last, const mw_tool_sink *sink);
void mw_tools_free(mw_tool_reader *r);

/* The schema of an answer that must be a call: of `name`, or of any of the tools when NULL; malloc'ed JSON text.
 * *found false: there is no such tool. */
MW_MUST_CHECK mw_status mw_tools_schema(const json_t *tools, const char *name, char **schema, bool *found);

#endif
