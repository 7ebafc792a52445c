/* worker/text/chat.h - chat messages to prompt text, by the model's own Jinja template.
 *
 * The template is parsed and evaluated by an interpreter of the Jinja subset that chat templates use (docs/CHAT.md
 * lists it). Tags, filters, tests and methods that it does not know are refused when the template is opened
 * (MW_ERR_UNSUPPORTED, naming construct, line and column); values that it cannot treat as Python would are refused by
 * the render that meets them. What is rendered is what Jinja2 with trim_blocks and lstrip_blocks renders. A chat object
 * is immutable after open: any number of threads may render with it.
 */
#ifndef MW_TEXT_CHAT_H
#define MW_TEXT_CHAT_H
#include <jansson.h>
#include <stdbool.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

typedef struct mw_chat mw_chat;

/* bos and eos are the texts that the template sees as bos_token and eos_token; NULL: "". Copied.
 * MW_ERR_FORMAT: not a template. MW_ERR_UNSUPPORTED: see above. MW_ERR_LIMIT: larger than 1 MiB, or too deeply nested.
 */
MW_MUST_CHECK mw_status mw_chat_open(mw_chat **out, const char *template_text, size_t n, const char *bos,
                                     const char *eos);
void mw_chat_close(mw_chat *c); /* NULL allowed */

/* messages: array of {"role": ..., "content": ..., ...}; tools: array or NULL; extra: object of further template
 * variables or NULL; these may replace bos_token, eos_token and documents. Borrowed, not changed. The prompt is
 * appended to *out, on success only.
 * MW_ERR_USAGE: the template called raise_exception (its text is the error text) or failed where Python would, messages
 * is not an array of objects, or extra holds a name of ours. MW_ERR_UNSUPPORTED: see above. MW_ERR_LIMIT: more than
 * 4 MiB of output, 256 MiB of memory, 800 nested evaluations or 10^7 evaluation steps. */
MW_MUST_CHECK mw_status mw_chat_render(const mw_chat *c, const json_t *messages, const json_t *tools,
                                       bool add_generation_prompt, const json_t *extra, mw_str *out);

/* Does the template render conversations of the usual shapes (user; system + user; several turns) without an error? A
 * raise_exception is accepted where there is a system message. marlin-convert and marlin-worker call this before they
 * offer chat. MW_OK, or the reason in mw_error_text(). */
MW_MUST_CHECK mw_status mw_chat_probe(const mw_chat *c);

MW_END_DECLS
#endif
