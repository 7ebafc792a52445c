/* worker/server/api_tools.h - tools in requests and answers: which way of calling them a model's template teaches,
 * calls in an answer's text (toolcall.h), and answers that must be a call.
 */
#ifndef MW_SERVER_API_TOOLS_H
#define MW_SERVER_API_TOOLS_H
#include <jansson.h>

#include "worker/server/toolcall.h"

typedef enum {
    MW_TOOLS_NONE,    /* the template knows no tools */
    MW_TOOLS_UNKNOWN, /* it does, but how its model calls them is none of the styles of toolcall.h */
    MW_TOOLS_STYLE,   /* as mw_tool_reader.style says */
    MW_TOOLS_NAMED,   /* the answer is the arguments of one function: tool_choice has named it */
} mw_tool_format;

/* The style of answers that mw_tools_schema asks for without a name. */
#define MW_TOOLS_FORCED_STYLE "llama3"

/* By the template's text, NULL: none. *style: for MW_TOOLS_STYLE, static. */
mw_tool_format mw_tools_of_template(const char *text, const char **style);

typedef struct mw_tool_reader {
    mw_tool_format format; /* MW_TOOLS_NONE: everything is text */
    const char *style;     /* MW_TOOLS_STYLE */
    const char *name;      /* MW_TOOLS_NAMED */
    mw_tool_parser *parser;
    mw_str held; /* MW_TOOLS_NAMED: the answer so far */
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

/* The schema of an answer that must be the arguments of `name`, or a call of any of the tools when NULL; malloc'ed JSON
 * text. *found false: there is no such tool. */
MW_MUST_CHECK mw_status mw_tools_schema(const json_t *tools, const char *name, char **schema, bool *found);

#endif
