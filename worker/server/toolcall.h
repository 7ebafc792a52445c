/* worker/server/toolcall.h - tool calls in the text of an answer.
 *
 * Models write calls as text, in the form that their chat template taught them:
 *   "hermes"   <tool_call>{"name": ..., "arguments": {...}}</tool_call>, anywhere, any number (Hermes, Qwen)
 *   "llama3"   {"name": ..., "parameters": {...}} as the whole answer, several with ; or blanks between them, perhaps
 *              behind <|python_tag|> (Llama 3.1, 3.2, 3.3)
 *   "mistral"  [TOOL_CALLS] [{"name": ..., "arguments": {...}, "id": ...}, ...] as the whole answer; the mark is a
 * special token, of which the text may have nothing (Mistral 7B v0.3, Nemo) "json"     as llama3; what
 * mw_tool_choice_schema asks for The parser takes the answer piece by piece and gives on at once what is certainly not
 * part of a call. Text that looks like a call and turns out not to be one is content.
 */
#ifndef MW_SERVER_TOOLCALL_H
#define MW_SERVER_TOOLCALL_H
#include "worker/base/mem.h"
MW_BEGIN_DECLS

typedef struct mw_tool_call {
    char *name;
    char *arguments; /* the text of a JSON object, as the model wrote it */
} mw_tool_call;

typedef struct mw_tool_parser mw_tool_parser;

/* The style a chat template teaches, or NULL: it has no tools, or in a form not known here. */
const char *mw_tool_style(const char *template_text);

/* MW_ERR_UNSUPPORTED: no such style. */
MW_MUST_CHECK mw_status mw_tool_parser_open(mw_tool_parser **out, const char *style);
void mw_tool_parser_close(mw_tool_parser *p); /* NULL allowed */

/* More of the answer. Text for the user is appended to *content. */
MW_MUST_CHECK mw_status mw_tool_parser_push(mw_tool_parser *p, const char *text, size_t n, mw_str *content);
/* The answer is over: what was held back is a call now or content. */
MW_MUST_CHECK mw_status mw_tool_parser_finish(mw_tool_parser *p, mw_str *content);
/* The whole calls so far; *call is good until the next push. */
size_t mw_tool_parser_calls(const mw_tool_parser *p, const mw_tool_call **call);

MW_END_DECLS
#endif
