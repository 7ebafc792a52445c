/* Tool calls in answers, whole and in every way of cutting them; and the schemas of answers that must be calls. */
#include "tests/unit/test.h"
#include "worker/base/io.h"
#include "worker/server/api_tools.h"

static uint64_t seed;
static uint32_t below(uint32_t n) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % n);
}

static char *quotes(const char *text) { /* written with ' for " */
    char *s = strdup(text);
    for (char *p = s; *p; p++)
        if (*p == '\'') *p = '"';
    return s;
}

/* What came out: text as it is, calls as <name|arguments>. */
typedef struct {
    mw_str text, calls;
} result;

static mw_status on_text(void *arg, const char *p, size_t n) {
    return mw_str_add(&((result *)arg)->text, p, n);
}

static mw_status on_call(void *arg, int index, const char *name, const char *arguments) {
    (void)index;
    return mw_str_addf(&((result *)arg)->calls, "<%s|%s>", name, arguments);
}

/* step 0: pieces of random length. */
static result read_answer(mw_tool_format format, const char *style, const char *name, const char *text, size_t step) {
    mw_tool_reader r = {.format = format, .style = style, .name = name};
    result out = {0};
    const mw_tool_sink sink = {&out, on_text, on_call};
    size_t n = strlen(text);
    assert_ok(mw_str_adds(&out.text, ""));
    assert_ok(mw_str_adds(&out.calls, ""));
    for (size_t at = 0; at < n;) {
        size_t len = step ? step : 1 + below(12);
        if (len > n - at) len = n - at;
        assert_ok(mw_tools_push(&r, text + at, len, false, &sink));
        at += len;
    }
    assert_ok(mw_tools_push(&r, "", 0, true, &sink));
    mw_tools_free(&r);
    return out;
}

static void check(const char *style, const char *text, const char *want_text, const char *want_calls) {
    char *t = quotes(text), *wt = quotes(want_text), *wc = quotes(want_calls);
    for (size_t step = 0; step < 8; step++) {
        result got = read_answer(MW_TOOLS_STYLE, style, NULL, t, step == 7 ? 10000 : step);
        if (strcmp(got.text.p, wt) != 0 || strcmp(got.calls.p, wc) != 0)
            fail_msg("%s: %s: pieces of %zu: got '%s' and '%s'", style, t, step, got.text.p, got.calls.p);
        mw_str_free(&got.text);
        mw_str_free(&got.calls);
    }
    free(t);
    free(wt);
    free(wc);
}

static void test_hermes(void **state) {
    (void)state;
    const char *h = "hermes";
    check(h, "Hello.", "Hello.", "");
    check(h, "", "", "");
    check(h, "<tool_call>\n{'name': 'f', 'arguments': {'x': 0.1}}\n</tool_call>", "", "<f|{'x': 0.1}>");
    check(h, "Let me see.\n\n<tool_call>{'name':'f','arguments':{}}</tool_call>\n<tool_call>{'name':'g'}</tool_call>\n",
          "Let me see.", "<f|{}><g|{}>");
    check(h, "<tool_call>{'name':'f','arguments':{'s':'</tool_call>'}}</tool_call> done", " done",
          "<f|{'s':'</tool_call>'}>");
    check(h, "<tool_call>{'name':'f','arguments':{'a':[1,{'b':'}'}]}}", "", "<f|{'a':[1,{'b':'}'}]}>"); /* no end tag */
    check(h, "<tool_call>not JSON</tool_call> x", "<tool_call>not JSON</tool_call> x", "");
    check(h, "<tool_call>{'name':", "<tool_call>{'name':", "");
    check(h, "a <tool_ b <tool_call", "a <tool_ b <tool_call", "");
    check(h, "1 < 2\n", "1 < 2\n", "");
    check(h, "<tool_call>{'name':'f','arguments':'{\\'x\\':1}'}</tool_call>", "", "<f|{'x':1}>");
}

static void test_llama(void **state) {
    (void)state;
    const char *l = "llama3";
    check(l, "{'name': 'f', 'parameters': {'x': 'y'}}", "", "<f|{'x': 'y'}>");
    check(l, "<|python_tag|>{'name': 'f', 'parameters': {}}", "", "<f|{}>");
    check(l, "{'name':'f','parameters':{'a':1}}; {'name':'g','arguments':{}}\n", "", "<f|{'a':1}><g|{}>");
    check(l, " {'type':'function','function':{'name':'f','parameters':{'q':[1, 2.50]}}}", "", "<f|{'q':[1, 2.50]}>");
    check(l, "{'type': 'function', 'name': 'f', 'parameters': null}", "", "<f|{}>");
    check(l, "{'answer': 42}", "{'answer': 42}", "");
    check(l, "{'name': 'Bob', 'age': 3}", "", "<Bob|{}>"); /* cannot be told from a call without arguments */
    check(l, "{'name': 'f', 'parameters': [1]}", "{'name': 'f', 'parameters': [1]}", "");
    check(l, "{'name': 'f', 'param", "{'name': 'f', 'param", "");
    check(l, "Plain {'name':'f','parameters':{}}", "Plain {'name':'f','parameters':{}}", "");
    check(l, "{'name':'f','parameters':{}} and so on", "and so on", "<f|{}>");
    check(l, "{", "{", "");
    check(l, " \n", " \n", "");
}

static void test_mistral(void **state) {
    (void)state;
    const char *m = "mistral";
    check(m, "[TOOL_CALLS] [{'name': 'f', 'arguments': {'x': 1}, 'id': 'abcdefghi'}]", "", "<f|{'x': 1}>");
    check(m, "[{'name': 'f', 'arguments': {}}, {'name': 'g', 'arguments': {'s': ']'}}]", "", "<f|{}><g|{'s': ']'}>");
    check(m, "[1, 2]", "[1, 2]", "");
    check(m, "[TOOL", "[TOOL", "");
    check(m, "[{'name':'f','arguments':{}}, 3]", "[{'name':'f','arguments':{}}, 3]", "");
    check(m, "[]", "[]", "");
    check(m, "See [1].", "See [1].", "");
}

/* Text that cannot become a call does not wait for the end; a whole call does not either. */
static void test_promptness(void **state) {
    (void)state;
    static const struct {
        const char *style, *text, *out, *calls;
    } cases[] = {
        {"hermes", "Hello, wor", "Hello, wor", ""},
        {"hermes", "a <tool_c", "a", ""},
        {"hermes", "a <tool_x", "a <tool_x", ""},
        {"hermes", "<tool_call>{\"name\":\"f\"}</tool_call>", "", "<f|{}>"},
        {"llama3", "{\"n", "", ""},
        {"llama3", "{\"answer\": 4", "{\"answer\": 4", ""},
        {"llama3", "Hi", "Hi", ""},
        {"llama3", "{\"name\":\"f\",\"parameters\":{}}", "", "<f|{}>"},
        {"mistral", "[1", "[1", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mw_tool_reader r = {.format = MW_TOOLS_STYLE, .style = cases[i].style};
        result out = {0};
        const mw_tool_sink sink = {&out, on_text, on_call};
        assert_ok(mw_str_adds(&out.text, ""));
        assert_ok(mw_str_adds(&out.calls, ""));
        assert_ok(mw_tools_push(&r, cases[i].text, strlen(cases[i].text), false, &sink));
        assert_string_equal(out.text.p, cases[i].out);
        assert_string_equal(out.calls.p, cases[i].calls);
        mw_tools_free(&r);
        mw_str_free(&out.text);
        mw_str_free(&out.calls);
    }
}

/* Any text at all: nothing is lost but what went into calls and the blanks around them. */
static void test_random(void **state) {
    (void)state;
    static const char *const parts[] = {"<tool_call>",
                                        "</tool_call>",
                                        "{\"name\":\"f\"",
                                        ",\"arguments\":",
                                        "{}",
                                        "}",
                                        "[",
                                        "]",
                                        "[TOOL_CALLS]",
                                        "\"",
                                        "\\",
                                        " ",
                                        "text",
                                        "<|python_tag|>",
                                        ";",
                                        "{"};
    static const char *const styles[] = {"hermes", "llama3", "mistral"};
    for (int i = 0; i < 3000; i++) {
        mw_str text = {0};
        assert_ok(mw_str_adds(&text, ""));
        for (uint32_t n = below(14); n > 0; n--) assert_ok(mw_str_adds(&text, parts[below(16)]));
        const char *style = styles[i % 3];
        result whole = read_answer(MW_TOOLS_STYLE, style, NULL, text.p, 100000),
               cut = read_answer(MW_TOOLS_STYLE, style, NULL, text.p, 0);
        if (strcmp(whole.text.p, cut.text.p) != 0 || strcmp(whole.calls.p, cut.calls.p) != 0)
            fail_msg("%s: '%s' gives '%s' '%s', in pieces '%s' '%s'", style, text.p, whole.text.p, whole.calls.p,
                     cut.text.p, cut.calls.p);
        const char *begin = text.p + strspn(text.p, " "), *mark = i % 3 == 1 ? "<|python_tag|>" : "[TOOL_CALLS]";
        bool marked = i % 3 > 0 && strncmp(begin, mark, strlen(mark)) == 0; /* a mark goes, whatever follows */
        if (cut.calls.n == 0) assert_string_equal(cut.text.p, marked ? begin + strlen(mark) : text.p);
        mw_str_free(&whole.text);
        mw_str_free(&whole.calls);
        mw_str_free(&cut.text);
        mw_str_free(&cut.calls);
        mw_str_free(&text);
    }
}

static void test_templates(void **state) {
    (void)state;
    static const struct {
        const char *file;
        mw_tool_format format;
        const char *style;
    } cases[] = {
        {"chatml", MW_TOOLS_NONE, NULL},          {"llama2", MW_TOOLS_NONE, NULL},
        {"qwen_tools", MW_TOOLS_STYLE, "hermes"}, {"llama3_tools", MW_TOOLS_STYLE, "llama3"},
        {"nemo", MW_TOOLS_STYLE, "mistral"},      {"mistral_v3", MW_TOOLS_STYLE, "mistral"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        mw_str text = {0};
        const char *style = NULL;
        snprintf(path, sizeof path, MW_SOURCE_DIR "/tests/data/chat/templates/%s.jinja", cases[i].file);
        assert_ok(mw_read_file(path, 1 << 20, &text));
        mw_tool_format f = mw_tools_of_template(text.p, &style);
        if (f != cases[i].format || (style != NULL) != (cases[i].style != NULL) ||
            (style && strcmp(style, cases[i].style) != 0))
            fail_msg("%s: %d, %s", cases[i].file, f, style ? style : "-");
        mw_str_free(&text);
    }
    const char *style = NULL;
    assert_int_equal(mw_tools_of_template("{% if tools %}<tool_call><function=f>{% endif %}", &style),
                     MW_TOOLS_UNKNOWN);
    assert_int_equal(mw_tools_of_template("{{ tools }} <call>", &style), MW_TOOLS_UNKNOWN);
    assert_int_equal(mw_tools_of_template(NULL, &style), MW_TOOLS_NONE);
    mw_tool_parser *p;
    assert_fails(mw_tool_parser_open(&p, "other"), MW_ERR_UNSUPPORTED, "other");
}

static void test_schema(void **state) {
    (void)state;
    char *text = quotes(
             "[{'type':'function','function':{'name':'f','parameters':{'type':'object','properties':{'t':{'$ref':'#/"
             "$defs/t'},"
             "'$ref':{'$ref':'#'}},'$defs':{'t':{'type':'null'}}}}},{'type':'function','function':{'name':'g'}}]"),
         *schema = NULL;
    json_t *tools = json_loads(text, 0, NULL);
    bool found;
    assert_ok(mw_tools_schema(tools, "f", &schema, &found));
    json_t *s = json_loads(schema, 0, NULL);
    assert_true(found &&
                json_equal(s, json_object_get(json_object_get(json_array_get(tools, 0), "function"), "parameters")));
    json_decref(s);
    free(schema);
    assert_ok(mw_tools_schema(tools, NULL, &schema, &found));
    s = json_loads(schema, 0, NULL);
    const json_t *p = json_object_get(json_object_get(json_object_get(s, "$defs"), "tool0"), "properties");
    assert_string_equal(json_string_value(json_object_get(json_object_get(p, "t"), "$ref")), "#/$defs/tool0/$defs/t");
    assert_string_equal(json_string_value(json_object_get(json_object_get(p, "$ref"), "$ref")), "#/$defs/tool0");
    assert_int_equal(json_array_size(json_object_get(s, "anyOf")), 2);
    json_decref(s);
    free(schema);
    assert_ok(mw_tools_schema(tools, "h", &schema, &found));
    assert_false(found);
    json_decref(tools);
    free(text);
    result r = read_answer(MW_TOOLS_NAMED, NULL, "f", "{\"t\": null}", 3);
    assert_string_equal(r.calls.p, "<f|{\"t\": null}>");
    mw_str_free(&r.text);
    mw_str_free(&r.calls);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hermes),     cmocka_unit_test(test_llama),  cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_promptness), cmocka_unit_test(test_random), cmocka_unit_test(test_templates),
        cmocka_unit_test(test_schema),
    };
    seed = test_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
