/* The chat template of ../shared/checkpoints against the prompt that its makers recorded. */
#include <jansson.h>

#include "tests/unit/test.h"
#include "worker/base/io.h"
#include "worker/text/chat.h"

#define SHARED MW_SOURCE_DIR "/../shared"

static json_t *load(const char *path) {
    mw_str text = {0};
    assert_ok(mw_read_file(path, 64u << 20, &text));
    json_t *root = json_loadb(text.p, text.n, 0, NULL);
    assert_non_null(root);
    mw_str_free(&text);
    return root;
}

static void test_checkpoint(void **state) {
    json_t *golden = load(SHARED "/checkpoints/golden.json");
    json_t *config = load(SHARED "/checkpoints/fp16/tokenizer_config.json");
    const json_t *want = json_object_get(golden, "chat"), *text = json_object_get(config, "chat_template");
    mw_chat *c = NULL;
    mw_str out = {0};
    (void)state;
    assert_ok(mw_chat_open(&c, json_string_value(text), json_string_length(text),
                           json_string_value(json_object_get(config, "bos_token")),
                           json_string_value(json_object_get(config, "eos_token"))));
    assert_ok(mw_chat_probe(c));
    assert_ok(mw_chat_render(c, json_object_get(want, "messages"), NULL,
                             json_is_true(json_object_get(want, "add_generation_prompt")), NULL, &out));
    assert_string_equal(out.p, json_string_value(json_object_get(want, "text")));
    mw_str_free(&out);
    mw_chat_close(c);
    json_decref(config);
    json_decref(golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_checkpoint)};
    if (!mw_exists(SHARED)) {
        const char *strict = getenv("MW_TEST_NO_SKIP");
        printf("SKIPPED: test_chat_checkpoint: ../shared is absent\n");
        return strict && strcmp(strict, "1") == 0 ? 1 : 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
