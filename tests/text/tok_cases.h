/* tests/text/tok_cases.h - the tokenizers of tests/data/tokenizer/goldens.json, and comparing with goldens. */
#ifndef MW_TESTS_TEXT_TOK_CASES_H
#define MW_TESTS_TEXT_TOK_CASES_H
#include <jansson.h>

#include "tests/unit/test.h"
#include "worker/base/io.h"
#include "worker/text/tok_utf8.h"
#include "worker/text/tokenizer.h"

enum { ADD = MW_TOK_ADD_SPECIAL, PARSE = MW_TOK_PARSE_SPECIAL };

static inline json_t *load_json(const char *path) {
    mw_str text = {0};
    json_error_t error;
    assert_ok(mw_read_file(path, 64u << 20, &text));
    json_t *root = json_loadb(text.p, text.n, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: line %d: %s", path, error.line, error.text);
    mw_str_free(&text);
    return root;
}

static inline json_t *load_goldens(void) {
    return load_json(MW_SOURCE_DIR "/tests/data/tokenizer/goldens.json");
}

static inline const json_t *find_case(const json_t *goldens, const char *name) {
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(goldens, "cases"), i, c) {
        if (strcmp(json_string_value(json_object_get(c, "name")), name) == 0) return c;
    }
    fail_msg("no case '%s'", name);
    return NULL;
}

/* The tokenizer.json of a case: its "top", with "model" put together from the shared model and the case's "flags". */
static inline json_t *case_json(const json_t *goldens, const json_t *c) {
    const char *model_name = json_string_value(json_object_get(c, "model"));
    json_t *model = json_deep_copy(json_object_get(json_object_get(goldens, "models"), model_name));
    json_t *top = json_deep_copy(json_object_get(c, "top"));
    json_object_update(model, json_object_get(c, "flags"));
    json_object_set_new(top, "model", model);
    return top;
}

static inline mw_status open_json(const json_t *top, mw_tokenizer **out) {
    char *text = json_dumps(top, JSON_COMPACT);
    mw_status st = mw_tokenizer_open(out, text, strlen(text));
    free(text);
    return st;
}

static inline mw_tokenizer *open_case(const json_t *goldens, const char *name) {
    json_t *top = case_json(goldens, find_case(goldens, name));
    mw_tokenizer *t = NULL;
    assert_ok(open_json(top, &t));
    json_decref(top);
    return t;
}

static inline mw_ids ids_of(const json_t *array) {
    mw_ids ids = {0};
    for (size_t i = 0; i < json_array_size(array); i++)
        assert_ok(mw_ids_add(&ids, (int32_t)json_integer_value(json_array_get(array, i))));
    return ids;
}

static inline void check_encode(const mw_tokenizer *t, const char *what, const json_t *text, unsigned flags,
                                const json_t *want_json) {
    mw_ids want = ids_of(want_json), got = {0};
    assert_ok(mw_tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, &got));
    if (got.n != want.n || (got.n && memcmp(got.p, want.p, got.n * sizeof *got.p) != 0)) {
        char *shown = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        for (size_t i = 0; i < got.n; i++) fprintf(stderr, " %d", got.p[i]);
        fprintf(stderr, " instead of");
        for (size_t i = 0; i < want.n; i++) fprintf(stderr, " %d", want.p[i]);
        fail_msg("\n%s, flags %u: wrong ids of %s", what, flags, shown);
    }
    mw_ids_free(&want);
    mw_ids_free(&got);
}

/* All at once, and token by token with every push whole UTF-8. */
static inline void check_decode(const mw_tokenizer *t, const char *what, const mw_ids *ids, bool skip, const char *want,
                                size_t want_n) {
    mw_str whole = {0}, stream = {0};
    mw_detok d;
    assert_ok(mw_tokenizer_decode(t, ids->p, ids->n, skip, &whole));
    if (whole.n != want_n || (want_n && memcmp(whole.p, want, want_n) != 0))
        fail_msg("%s: decoded '%s' instead of '%s'", what, whole.p ? whole.p : "", want);
    mw_detok_init(&d, t, skip);
    for (size_t i = 0; i < ids->n; i++) {
        size_t before = stream.n;
        assert_ok(mw_detok_push(&d, ids->p[i], &stream));
        if (stream.n > before)
            assert_int_equal(mw_utf8_valid_prefix(stream.p + before, stream.n - before), stream.n - before);
    }
    assert_ok(mw_detok_flush(&d, &stream));
    assert_int_equal(stream.n, whole.n);
    if (whole.n) assert_memory_equal(stream.p, whole.p, whole.n);
    mw_str_free(&whole);
    mw_str_free(&stream);
}

static inline void check_decodes(const mw_tokenizer *t, const char *what, const json_t *ids_json, const json_t *text,
                                 const json_t *skipped) {
    mw_ids ids = ids_of(ids_json);
    check_decode(t, what, &ids, false, json_string_value(text), json_string_length(text));
    if (json_is_null(skipped)) skipped = text;
    check_decode(t, what, &ids, true, json_string_value(skipped), json_string_length(skipped));
    mw_ids_free(&ids);
}

#endif
