/* The tokenizer of ../shared/checkpoints against the ids and texts that its makers recorded. */
#include "tests/text/tok_cases.h"

#define SHARED MW_SOURCE_DIR "/../shared"

static void test_checkpoint(void **state) {
    mw_str text = {0};
    mw_tokenizer *t = NULL;
    size_t i;
    json_t *c;
    (void)state;
    assert_ok(mw_read_file(SHARED "/checkpoints/fp16/tokenizer.json", 64u << 20, &text));
    assert_ok(mw_tokenizer_open(&t, text.p, text.n));
    json_t *golden = load_json(SHARED "/checkpoints/golden.json");
    assert_true(json_array_size(json_object_get(golden, "tokenizer_tests")) > 0);
    json_array_foreach(json_object_get(golden, "tokenizer_tests"), i, c) {
        const json_t *bare = json_object_get(c, "ids_no_special"), *s = json_object_get(c, "text");
        check_encode(t, "checkpoint", s, ADD | PARSE, json_object_get(c, "ids"));
        check_encode(t, "checkpoint", s, PARSE, bare);
        check_decodes(t, "checkpoint", bare, json_object_get(c, "decoded"), json_object_get(c, "decoded_skip_special"));
    }
    json_decref(golden);
    mw_str_free(&text);
    mw_tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_checkpoint)};
    if (!mw_exists(SHARED)) {
        const char *strict = getenv("MW_TEST_NO_SKIP");
        printf("SKIPPED: test_tok_checkpoint: ../shared is absent\n");
        return strict && strcmp(strict, "1") == 0 ? 1 : 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
