/* fuzz_chat.c - libFuzzer target: any bytes as a chat template, rendered with one conversation.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined ... tests/fuzz/fuzz_chat.c, linked with mw_text and mw_base
 * Whatever the bytes are, the template is refused or renders within its limits. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "[{\"role\": \"system\", \"content\": \"Be brief.\\n\"},"
    " {\"role\": \"user\", \"content\": \"h\\u00e9llo <b>'w\\\"\\ud83c\\udf89\"},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"type\": \"function\", \"function\":"
    "  {\"name\": \"get\", \"arguments\": {\"x\": 1.5, \"y\": [1, 2]}}}]},"
    " {\"role\": \"tool\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": "
    "\"b\"}]},"
    " {\"role\": \"user\", \"content\": \"<think>\\nhm\\n</think>\\n\\nok\"}]";
static const char tool_list[] = "[{\"type\": \"function\", \"function\": {\"name\": \"get\", \"description\": \"d\","
                                " \"parameters\": {\"type\": \"object\", \"properties\": {}}}}]";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *messages, *tools;
    if (!messages) {
        messages = json_loads(conversation, 0, NULL);
        tools = json_loads(tool_list, 0, NULL);
        if (!messages || !tools) abort(); /* a fault of this file */
    }
    mw_chat *chat;
    if (mw_chat_open(&chat, (const char *)data, size, "<s>", "</s>") != MW_OK) return 0;
    mw_str out = {0};
    for (int i = 0; i < 2; i++) {
        mw_status st = mw_chat_render(chat, messages, i ? tools : NULL, i != 0, NULL, &out);
        if (st == MW_ERR_INTERNAL) abort();
    }
    mw_str_free(&out);
    mw_chat_close(chat);
    return 0;
}
