/* The JSON writer: what it writes is JSON, whatever bytes it is given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "worker/server/json_out.h"

static void test_shape(void **state) {
    (void)state;
    mw_json_out w = {0};
    mw_json_open(&w, '{');
    mw_json_key_int(&w, "a", -5);
    mw_json_key(&w, "b");
    mw_json_open(&w, '[');
    mw_json_real(&w, 0.25);
    mw_json_real(&w, -INFINITY);
    mw_json_real(&w, NAN);
    mw_json_bool(&w, true);
    mw_json_null(&w);
    mw_json_raw(&w, "{}", 2);
    mw_json_open(&w, '[');
    mw_json_close(&w, ']');
    mw_json_close(&w, ']');
    mw_json_key_str(&w, "c", NULL);
    mw_json_key_str(&w, "d", "q\"\\\n\x01\x7f/");
    mw_json_close(&w, '}');
    assert_int_equal(w.st, MW_OK);
    assert_string_equal(w.s.p, "{\"a\":-5,\"b\":[0.25,-9999,null,true,null,{},[]],\"c\":null,"
                               "\"d\":\"q\\\"\\\\\\n\\u0001\\u007f/\"}");
    mw_json_free(&w);
}

static void is_written(const char *in, size_t n, const char *want) {
    mw_json_out w = {0};
    mw_json_text(&w, in, n);
    assert_int_equal(w.st, MW_OK);
    assert_string_equal(w.s.p, want);
    mw_json_free(&w);
}

/* One U+FFFD for each longest beginning of a character, as the Unicode standard has it. */
static void test_bad_utf8(void **state) {
    (void)state;
    is_written("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    is_written("a\xff"
               "b",
               3,
               "\"a\xef\xbf\xbd"
               "b\"");
    is_written("\xe2\x82", 2, "\"\xef\xbf\xbd\"");
    is_written("\xe2\x82x", 3, "\"\xef\xbf\xbdx\"");
    is_written("\xf0\x9f\x98", 3, "\"\xef\xbf\xbd\"");
    is_written("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    is_written("\xc0\x80", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    is_written("\xf4\x90\x80\x80", 4, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    is_written("\0", 1, "\"\\u0000\"");
}

static void test_any_bytes(void **state) {
    (void)state;
    unsigned seed;
    assert_int_equal(getrandom(&seed, sizeof seed, 0), sizeof seed);
    printf("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 20000; round++) {
        char in[24];
        size_t n = (size_t)rand() % sizeof in;
        for (size_t i = 0; i < n; i++) in[i] = (char)(rand() % 3 ? 0x80 + rand() % 128 : rand() % 128);
        mw_json_out w = {0};
        mw_json_text(&w, in, n);
        json_t *v = json_loadb(w.s.p, w.s.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_true(json_is_string(v));
        json_decref(v);
        mw_json_free(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shape), cmocka_unit_test(test_bad_utf8),
                                       cmocka_unit_test(test_any_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
