/* Ids and texts equal those of the Hugging Face tokenizers library: goldens made by
 * tests/data/tokenizer/make_goldens.py. Then what goldens do not reach: streaming, long texts, bad UTF-8. */
#include "tests/text/tok_cases.h"

static uint64_t g_rng = 1;

static unsigned below(unsigned n) {
    g_rng = g_rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((g_rng >> 33) % n);
}

static void test_goldens(void **state) {
    json_t *goldens = load_goldens(), *c;
    const json_t *texts = json_object_get(goldens, "texts");
    size_t i;
    (void)state;
    json_array_foreach(json_object_get(goldens, "cases"), i, c) {
        const char *name = json_string_value(json_object_get(c, "name"));
        const json_t *rows = json_object_get(c, "texts"), *rounds = json_object_get(c, "rounds");
        mw_tokenizer *t = open_case(goldens, name);
        assert_int_equal(json_array_size(rows), json_array_size(texts));
        for (size_t k = 0; k < json_array_size(rows); k++) {
            const json_t *row = json_array_get(rows, k), *text = json_array_get(texts, k),
                         *as_text = json_array_get(row, 1);
            check_encode(t, name, text, ADD | PARSE, json_array_get(row, 0));
            check_encode(t, name, text, ADD, json_is_null(as_text) ? json_array_get(row, 0) : as_text);
            check_decodes(t, name, json_array_get(row, 0), json_array_get(row, 2), json_array_get(row, 3));
        }
        for (size_t k = 0; k < json_array_size(rounds); k++) {
            const json_t *row = json_array_get(rounds, k);
            check_decodes(t, name, json_array_get(row, 0), json_array_get(row, 1), json_array_get(row, 2));
        }
        mw_tokenizer_close(t);
    }
    json_decref(goldens);
}

/* In a long text words come from a cache: the ids are those of the words one by one, where every word is a text of its
 * own and too short for a cache. */
static void test_word_cache(void **state) {
    json_t *goldens = load_goldens();
    mw_tokenizer *t = open_case(goldens, "qwen2");
    mw_str text = {0};
    mw_ids want = {0}, got = {0};
    (void)state;
    for (int i = 0; i < 20000; i++) {
        char word[12] = " ";
        size_t n = 2 + below(3);
        for (size_t k = 1; k < n; k++) word[k] = (char)('a' + below(i % 26 + 1));
        assert_ok(mw_str_add(&text, word, n));
        assert_ok(mw_tokenizer_encode(t, word, n, 0, &want));
    }
    assert_ok(mw_tokenizer_encode(t, text.p, text.n, 0, &got));
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.p, want.p, got.n * sizeof *got.p);
    mw_str_free(&text);
    mw_ids_free(&want);
    mw_ids_free(&got);
    mw_tokenizer_close(t);
    json_decref(goldens);
}

/* Without MW_TOK_ADD_SPECIAL the ids are those in between, and ids already in the list stay. */
static void test_add_special(void **state) {
    json_t *goldens = load_goldens();
    mw_tokenizer *t = open_case(goldens, "metaspace always");
    mw_ids bare = {0}, around = {0};
    (void)state;
    assert_ok(mw_ids_add(&around, 77));
    assert_ok(mw_tokenizer_encode(t, "the rain</s>", 12, PARSE, &bare));
    assert_ok(mw_tokenizer_encode(t, "the rain</s>", 12, ADD | PARSE, &around));
    assert_int_equal(around.n, bare.n + 3);
    assert_int_equal(around.p[0], 77);
    assert_int_equal(around.p[1], mw_tokenizer_id(t, "<s>"));
    assert_memory_equal(around.p + 2, bare.p, bare.n * sizeof *bare.p);
    assert_int_equal(around.p[around.n - 1], mw_tokenizer_id(t, "</s>"));
    assert_int_equal(bare.p[bare.n - 1], mw_tokenizer_id(t, "</s>"));
    mw_ids_free(&bare);
    mw_ids_free(&around);
    mw_tokenizer_close(t);
    json_decref(goldens);
}

static void expect_piece(const mw_tokenizer *t, const char *content, const char *want) {
    mw_str got = {0};
    assert_true(mw_tokenizer_id(t, content) >= 0);
    assert_ok(mw_tokenizer_piece(t, mw_tokenizer_id(t, content), &got));
    assert_string_equal(got.p, want);
    mw_str_free(&got);
}

static void test_lookups(void **state) {
    json_t *goldens = load_goldens();
    mw_tokenizer *byte = open_case(goldens, "llama-3"), *sp = open_case(goldens, "llama-2 legacy");
    mw_str out = {0};
    (void)state;
    int32_t n = mw_tokenizer_size(byte), eot = mw_tokenizer_id(byte, "<|eot_id|>");
    assert_int_equal(eot, n - 1);
    assert_true(mw_tokenizer_is_special(byte, eot));
    assert_false(mw_tokenizer_is_special(byte, 0));
    assert_false(mw_tokenizer_is_special(byte, -1));
    assert_false(mw_tokenizer_is_special(byte, n));
    assert_int_equal(mw_tokenizer_id(byte, "<|eot_id|"), -1);
    assert_int_equal(mw_tokenizer_id(byte, ""), -1);
    expect_piece(byte, "<|eot_id|>", "<|eot_id|>");
    expect_piece(byte, "\xC4\xA0the", " the"); /* U+0120 stands for a space */
    expect_piece(byte, "\xC3\xA9", "\xE9");    /* and U+00E9 for the byte E9, no text by itself */
    expect_piece(sp, "\xE2\x96\x81the", " the");
    expect_piece(sp, "<0x0A>", "\n");
    expect_piece(sp, "<s>", "<s>");
    assert_fails(mw_tokenizer_piece(byte, n, &out), MW_ERR_USAGE, "vocabulary");
    assert_fails(mw_tokenizer_piece(byte, -1, &out), MW_ERR_USAGE, "-1");
    assert_fails(mw_tokenizer_decode(byte, (int32_t[]){eot, 1 << 30}, 2, false, &out), MW_ERR_USAGE, "1073741824");
    assert_int_equal(out.n, 0);
    mw_str_free(&out);
    mw_tokenizer_close(byte);
    mw_tokenizer_close(sp);
    json_decref(goldens);
}

/* A character is shown with its last byte; what can no longer become one is shown at once. */
static void test_stream_timing(void **state) {
    json_t *goldens = load_goldens();
    mw_tokenizer *byte = open_case(goldens, "llama-3"), *sp = open_case(goldens, "llama-2 legacy");
    mw_str out = {0};
    mw_detok d;
    (void)state;
    /* U+1F600 in the alphabet: F0 9F 98 80 are these four characters */
    const char *const part[] = {"\xC3\xB0", "\xC5\x81", "\xC4\xBA", "\xC4\xA2"};
    mw_detok_init(&d, byte, true);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(out.n, 0);
        assert_ok(mw_detok_push(&d, mw_tokenizer_id(byte, part[i]), &out));
    }
    assert_string_equal(out.p, "\xF0\x9F\x98\x80");
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(byte, part[0]), &out));
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(byte, "a"), &out));
    assert_string_equal(out.p, "\xF0\x9F\x98\x80\xEF\xBF\xBD"
                               "a");
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(byte, part[0]), &out));
    assert_ok(mw_detok_flush(&d, &out));
    assert_string_equal(out.p, "\xF0\x9F\x98\x80\xEF\xBF\xBD"
                               "a\xEF\xBF\xBD");

    /* A run of byte tokens is shown when it ends: the last byte spoils the one before it, too. */
    out.n = 0;
    mw_detok_init(&d, sp, true);
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(sp, "<0x41>"), &out));
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(sp, "<0xFF>"), &out));
    assert_int_equal(out.n, 0);
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(sp, "a"), &out));
    assert_string_equal(out.p, "\xEF\xBF\xBD\xEF\xBF\xBD"
                               "a");
    assert_ok(mw_detok_push(&d, mw_tokenizer_id(sp, "<0x41>"), &out)); /* given up: nothing may leak */
    mw_detok_free(&d);
    mw_str_free(&out);
    mw_tokenizer_close(byte);
    mw_tokenizer_close(sp);
    json_decref(goldens);
}

/* Special tokens are left out also where they are "normalized", which tokenizers 0.23 forgets (0.22 does not). */
static void test_skip_normalized_special(void **state) {
    json_t *goldens = load_goldens(), *top = case_json(goldens, find_case(goldens, "llama-2 legacy")), *a;
    mw_tokenizer *t = NULL;
    mw_ids ids = {0};
    size_t i;
    (void)state;
    json_array_foreach(json_object_get(top, "added_tokens"), i, a) json_object_set_new(a, "normalized", json_true());
    assert_ok(open_json(top, &t));
    assert_ok(mw_tokenizer_encode(t, "the </s>", 8, ADD | PARSE, &ids));
    assert_int_equal(ids.p[ids.n - 1], mw_tokenizer_id(t, "</s>"));
    check_decode(t, "normalized specials", &ids, true, "the", 3);
    mw_ids_free(&ids);
    mw_tokenizer_close(t);
    json_decref(top);
    json_decref(goldens);
}

/* Bytes that are no UTF-8 count as U+FFFD, one for each longest part that could have begun a character. */
static void test_bad_utf8(void **state) {
    static const struct {
        const char *bad, *good;
    } table[] = {
        {"a\xFF"
         "b",
         "a\xEF\xBF\xBD"
         "b"},
        {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xE2\x82", "\xEF\xBF\xBD"},
        {"\xE2\x82x", "\xEF\xBF\xBDx"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\xEF\xBF\xBD\xF0\x9F\x98\x80"},
        {"\xF4\x90\x80\x80!", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD!"},
        {"12345678\x80", "12345678\xEF\xBF\xBD"},
    };
    json_t *goldens = load_goldens();
    mw_tokenizer *t = open_case(goldens, "qwen2");
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mw_ids a = {0}, b = {0};
        assert_ok(mw_tokenizer_encode(t, table[i].bad, strlen(table[i].bad), 0, &a));
        assert_ok(mw_tokenizer_encode(t, table[i].good, strlen(table[i].good), 0, &b));
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.p, b.p, a.n * sizeof *a.p);
        mw_ids_free(&a);
        mw_ids_free(&b);
    }
    mw_tokenizer_close(t);
    json_decref(goldens);
}

/* The definition: again and again the pair of lowest rank, leftmost first. */
static size_t merge_by_definition(const json_t *model, const mw_tokenizer *t, int32_t *id, size_t n) {
    const json_t *merges = json_object_get(model, "merges");
    for (;;) {
        size_t rank, at = n;
        for (rank = 0; rank < json_array_size(merges) && at == n; rank++) {
            const json_t *m = json_array_get(merges, rank);
            int32_t l = mw_tokenizer_id(t, json_string_value(json_array_get(m, 0)));
            int32_t r = mw_tokenizer_id(t, json_string_value(json_array_get(m, 1)));
            for (size_t i = 0; i + 1 < n && at == n; i++)
                if (id[i] == l && id[i + 1] == r) at = i;
            if (at == n) continue;
            char both[64];
            snprintf(both, sizeof both, "%s%s", json_string_value(json_array_get(m, 0)),
                     json_string_value(json_array_get(m, 1)));
            id[at] = mw_tokenizer_id(t, both);
        }
        if (at == n) return n;
        n--;
        memmove(id + at + 1, id + at + 2, (n - at - 1) * sizeof *id);
    }
}

/* Long enough for the heap; the vocabulary has merges across words, so the text is one pre-token. */
static void test_merge_definition(void **state) {
    static const char *const unit[] = {"a", "\xE2\x96\x81", "t", "h", "e", "\xE2\x96\x81", "a"};
    json_t *goldens = load_goldens();
    const json_t *model = json_object_get(json_object_get(goldens, "models"), "cross");
    mw_tokenizer *t = open_case(goldens, "crossing, unfused");
    (void)state;
    for (int round = 0; round < 60; round++) {
        size_t n = 1 + below(250);
        int32_t want[256];
        mw_str text = {0};
        mw_ids got = {0};
        for (size_t i = 0; i < n; i++) {
            const char *u = unit[below(7)];
            assert_ok(mw_str_adds(&text, u));
            want[i + 1] = mw_tokenizer_id(t, u);
        }
        want[0] = mw_tokenizer_id(t, "\xE2\x96\x81"); /* by the normalizer */
        n = merge_by_definition(model, t, want, n + 1);
        assert_ok(mw_tokenizer_encode(t, text.p, text.n, 0, &got));
        assert_int_equal(got.n, n);
        assert_memory_equal(got.p, want, n * sizeof *want);
        mw_str_free(&text);
        mw_ids_free(&got);
    }
    mw_tokenizer_close(t);
    json_decref(goldens);
}

/* What one word costs must not grow with the square of its length: 300 kB in one pre-token, and in one run of marks for
 * the normalizer, in a time that a quadratic algorithm misses by far. */
static void test_long(void **state) {
    static const char *const what[] = {"etaoinsh", "\xCC\x81\xCC\xA3\xCC\xB4\xCD\x85", "        ", "\n\n\n\n\n\n\n\n"};
    static const char *const name[] = {"llama-2 legacy", "crossing", "qwen2", "llama-3", "nfd"};
    json_t *goldens = load_goldens();
    (void)state;
    for (size_t k = 0; k < sizeof name / sizeof *name; k++) {
        mw_tokenizer *t = open_case(goldens, name[k]);
        for (size_t w = 0; w < sizeof what / sizeof *what; w++) {
            mw_str text = {0}, back = {0};
            mw_ids ids = {0};
            struct timespec a, b;
            while (text.n < 300000) assert_ok(mw_str_add(&text, what[w] + (size_t)2 * below(4), 2));
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
            assert_ok(mw_tokenizer_encode(t, text.p, text.n, 0, &ids));
            assert_ok(mw_tokenizer_decode(t, ids.p, ids.n, false, &back));
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
            if (w != 1 && k != 1) { /* marks are reordered, and the "crossing" vocabulary has no newline */
                assert_int_equal(back.n, text.n);
                assert_memory_equal(back.p, text.p, text.n);
            }
            assert_true((double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec) < 10);
            mw_str_free(&text);
            mw_str_free(&back);
            mw_ids_free(&ids);
        }
        mw_tokenizer_close(t);
    }
    json_decref(goldens);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),       cmocka_unit_test(test_word_cache),
        cmocka_unit_test(test_add_special),   cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_stream_timing), cmocka_unit_test(test_skip_normalized_special),
        cmocka_unit_test(test_bad_utf8),      cmocka_unit_test(test_merge_definition),
        cmocka_unit_test(test_long),
    };
    g_rng = test_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
