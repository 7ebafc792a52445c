/* Chat templates: goldens that Python's Jinja2 made (tests/data/chat/make_chat.py), what is refused, and the limits. */
#include <jansson.h>
#include <pthread.h>

#include "tests/unit/test.h"
#include "worker/base/io.h"
#include "worker/text/chat.h"
#include "worker/text/jinja.h"

#define DATA MW_SOURCE_DIR "/tests/data/chat/"

static json_t *load(const char *path) {
    mw_str text = {0};
    json_error_t error;
    assert_ok(mw_read_file(path, 16u << 20, &text));
    json_t *root = json_loadb(text.p, text.n, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: line %d: %s", path, error.line, error.text);
    mw_str_free(&text);
    return root;
}

static mw_chat *open_chat(const char *text) {
    mw_chat *c = NULL;
    assert_ok(mw_chat_open(&c, text, strlen(text), "<s>", "</s>"));
    return c;
}

/* Render `text` with one user message and these variables (a JSON text or NULL); the result must be `want`. */
static void check_text(const char *text, const char *extra, const char *want) {
    mw_chat *c = open_chat(text);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "Hi");
    json_t *vars = extra ? json_loads(extra, JSON_ALLOW_NUL, NULL) : NULL;
    mw_str out = {0};
    assert_ok(mw_chat_render(c, messages, NULL, true, vars, &out));
    assert_string_equal(out.n ? out.p : "", want);
    mw_str_free(&out);
    json_decref(vars);
    json_decref(messages);
    mw_chat_close(c);
}

/* Opens, but fails to render with this status and a text that says `word`. */
static void check_fails(const char *text, mw_status status, const char *word) {
    mw_chat *c = open_chat(text);
    json_t *messages = json_array();
    mw_str out = {0};
    assert_ok(mw_str_adds(&out, "kept"));
    assert_fails(mw_chat_render(c, messages, NULL, true, NULL, &out), status, word);
    assert_string_equal(out.p, "kept");
    mw_str_free(&out);
    json_decref(messages);
    mw_chat_close(c);
}

/* A render against a golden: a string, or {"raise": text}, or {"error": "render"}. */
static void check_golden(const char *what, size_t number, mw_status st, bool raised, const mw_str *out,
                         const json_t *want) {
    const json_t *text = json_object_get(want, "raise");
    if (json_is_string(want)) {
        if (st != MW_OK) fail_msg("%s %zu: %s", what, number, mw_error_text());
        if (out->n != json_string_length(want) || (out->n && memcmp(out->p, json_string_value(want), out->n) != 0)) {
            fail_msg("%s %zu:\n%.*s\nexpected\n%s", what, number, (int)out->n, out->p, json_string_value(want));
        }
    } else if (text) {
        if (st != MW_ERR_USAGE || !raised || strcmp(mw_error_text(), json_string_value(text)) != 0) {
            fail_msg("%s %zu: %s '%s', expected to raise '%s'", what, number, mw_status_name(st), mw_error_text(),
                     json_string_value(text));
        }
    } else {
        if (st == MW_OK || raised) fail_msg("%s %zu: no error, but '%.*s'", what, number, (int)out->n, out->p);
    }
}

static void render_golden(const mw_jinja *t, const mw_chat *chat, const char *name, size_t i, const json_t *c,
                          const json_t *golden, const json_t *want) {
    const json_t *messages = json_object_get(c, "messages"), *tools = json_object_get(c, "tools");
    const json_t *extra = json_object_get(c, "extra"), *agp = json_object_get(c, "agp");
    const mw_jinja_var vars[] = {{"messages", messages, NULL},
                                 {"tools", tools, NULL},
                                 {"documents", NULL, NULL},
                                 {"add_generation_prompt", agp, NULL},
                                 {"bos_token", NULL, json_string_value(json_object_get(golden, "bos_token"))},
                                 {"eos_token", NULL, json_string_value(json_object_get(golden, "eos_token"))}};
    mw_str out = {0};
    bool raised;
    mw_status st = mw_jinja_render(t, vars, sizeof vars / sizeof *vars, extra,
                                   json_integer_value(json_object_get(golden, "now_us")), &out, &raised);
    check_golden(name, i, st, raised, &out, want);
    mw_str_free(&out);
    if (!chat) return;
    st = mw_chat_render(chat, messages, tools, json_is_true(agp), extra, &out);
    check_golden(name, i, st, raised, &out, want);
    mw_str_free(&out);
}

static void test_goldens(void **state) {
    json_t *golden = load(DATA "golden.json"), *wants, *c;
    const json_t *conversations = json_object_get(golden, "conversations");
    const char *name;
    size_t i, n = 0;
    (void)state;
    json_object_foreach(json_object_get(golden, "templates"), name, wants) {
        char path[512];
        mw_str text = {0};
        mw_jinja *t = NULL;
        mw_chat *chat = NULL;
        snprintf(path, sizeof path, DATA "templates/%s", name);
        assert_ok(mw_read_file(path, 1u << 20, &text));
        assert_ok(mw_jinja_open(&t, text.p, text.n));
        /* Through the public door as well, where the time is the real one. */
        if (!strstr(text.p, "strftime_now")) assert_ok(mw_chat_open(&chat, text.p, text.n, "<s>", "</s>"));
        assert_int_equal(json_array_size(wants), json_array_size(conversations));
        json_array_foreach(conversations, i, c) {
            render_golden(t, chat, name, i, c, golden, json_array_get(wants, i));
            n++;
        }
        mw_chat_close(chat);
        mw_jinja_close(t);
        mw_str_free(&text);
    }
    assert_true(n >= 300);
    json_decref(golden);
}

static void test_cases(void **state) {
    json_t *all = load(DATA "cases.json"), *c;
    const json_t *vars = json_object_get(all, "vars");
    size_t i;
    (void)state;
    assert_true(json_array_size(json_object_get(all, "cases")) >= 390);
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        const json_t *text = json_array_get(c, 0), *want = json_array_get(c, 1),
                     *error = json_object_get(want, "error");
        const char *what = json_string_value(text);
        mw_jinja *t = NULL;
        mw_str out = {0};
        bool raised = false;
        mw_status st = mw_jinja_open(&t, what, json_string_length(text));
        bool closed = error && strcmp(json_string_value(error), "open") == 0;
        if (closed != (st != MW_OK)) fail_msg("%s: %s", what, st == MW_OK ? "opened" : mw_error_text());
        if (closed) continue;
        st = mw_jinja_render(t, NULL, 0, vars, json_integer_value(json_object_get(all, "now_us")), &out, &raised);
        check_golden(what, i, st, raised, &out, want);
        mw_str_free(&out);
        mw_jinja_close(t);
    }
    json_decref(all);
}

/* What Jinja knows and we do not, each with the words that its refusal must have. */
static void test_refused(void **state) {
    static const char *const table[][2] = {
        {"a\n{% include 'x' %}", "line 2, column 4: 'include' is not supported"},
        {"{% extends 'x' %}", "'extends'"},
        {"{% block x %}{% endblock %}", "'block'"},
        {"{% import 'x' as y %}", "'import'"},
        {"{% from 'x' import y %}", "'from'"},
        {"{% do f() %}", "'do'"},
        {"{% print x %}", "'print'"},
        {"{% autoescape true %}{% endautoescape %}", "'autoescape'"},
        {"{% for x in y recursive %}{% endfor %}", "recursive"},
        {"{{ x | batch(2) }}", "filter 'batch'"},
        {"{{ x | center }}", "filter 'center'"},
        {"{{ x | groupby('a') }}", "filter 'groupby'"},
        {"{% if y %}{{ x | truncate }}{% endif %}", "filter 'truncate'"},
        {"{% filter wordwrap %}{% endfilter %}", "filter 'wordwrap'"},
        {"{{ x is filter }}", "test 'filter'"},
        {"{{ x is sameas y }}", "'sameas'"},
        {"{{ x.encode() }}", "method 'encode'"},
        {"{{ x.center(3) }}", "method 'center'"},
        {"{{ d.fromkeys([1]) }}", "method 'fromkeys'"},
        {"{{ '{:>3}'.format(1) }}", "str.format with ':'"},
        {"{{ x.__class__ }}", "attribute '__class__'"},
        {"{{ f(*x) }}", "by * and **"},
        {"{{ f(**x) }}", "by * and **"},
        {"{{ x | map(y) | list }}", "map with a computed name"},
        {"{{ x | map('nosuch') | list }}", "map with filter 'nosuch'"},
        {"{{ x | select('nosuch') | list }}", "select with test 'nosuch'"},
        {"{{ x | rejectattr('a', 'sameas', 1) | list }}", "rejectattr with test 'sameas'"},
        {"{{ x | int(0, 16) }}", "'int' with a base"},
        {"{{ x | int(base=16) }}", "'int' with a base"},
        {"{{ cycler(1) }}", "'cycler'"},
        {"{{ joiner() }}", "'joiner'"},
        {"{{ lipsum() }}", "'lipsum'"},
        {"{{ self.x() }}", "'self'"},
        {"{% macro f(kwargs) %}{% endmacro %}", "'kwargs' in a macro"},
        {"{% macro f() %}{% set caller = 1 %}{% endmacro %}", "'caller' in a macro"},
        {"{% for x in y %}{% set loop = 1 %}{% endfor %}", "assigning to 'loop'"},
        {"{{ 99999999999999999999 }}", "beyond 64 bits"},
        {"{{ 1e999 }}", "float out of range"},
        {"{{ '\\ud800' }}", "surrogate"},
        {"{{ '\\N{BULLET}' }}", "\\N"},
        {"{{ \xc3\xa9 }}", "outside ASCII"},
        {"{{ x[] }}", "empty subscript"},
        {"{% set x | replace(y, '') %}{% endset %}", "'y' in the filter of a 'set' block"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mw_chat *c = NULL;
        assert_fails(mw_chat_open(&c, table[i][0], strlen(table[i][0]), NULL, NULL), MW_ERR_UNSUPPORTED, table[i][1]);
        assert_null(c);
    }
}

/* What is no template at all. */
static void test_malformed(void **state) {
    static const char *const table[][2] = {
        {"a\nb {{ x", "line 2, column 3: a tag has no end"},
        {"{# x", "a comment has no end"},
        {"{% raw %}x", "'raw' has no end"},
        {"{{ 'x }}", "a string has no end"},
        {"{{ (x] }}", "unexpected ']'"},
        {"{{ x ? }}", "unexpected character '?'"},
        {"{% if x %}", "the template ends inside a block, 'elif' is missing"},
        {"{% for x in y %}{% endif %}", "unknown tag 'endif', looking for else"},
        {"{% nosuch %}", "unknown tag 'nosuch'"},
        {"a\n{{ x | nosuch }}", "line 2, column 8: there is no filter 'nosuch'"},
        {"{% if x %}{% for y in x %}{{ y | no.such }}{% endfor %}{% endif %}", "there is no filter 'no.such'"},
        {"{{ x is nosuch }}", "there is no test 'nosuch'"},
        {"{% call x %}{% endcall %}", "'call' of what is not a call"},
        {"{% if x %}{% break %}{% endif %}", "'break' outside of a 'for'"},
        {"{% set 1 = x %}", "cannot be assigned to"},
        {"{% macro f(a, a) %}{% endmacro %}", "a parameter named twice"},
        {"{{ f(a=1, a=2) }}", "argument 'a' is given twice"},
        {"{{ x y }}", "expected '}}', found 'y'"},
        {"\xff", "not UTF-8"},
        {"{{ '\\x4' }}", "truncated escape"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mw_chat *c = NULL;
        assert_fails(mw_chat_open(&c, table[i][0], strlen(table[i][0]), NULL, NULL), MW_ERR_FORMAT, table[i][1]);
    }
}

/* head, `count` times `piece`, middle, `count` times `close`, tail: opened, and the status is returned. */
static mw_status open_nested(const char *head, const char *piece, size_t count, const char *middle, const char *close_,
                             const char *tail) {
    mw_str text = {0};
    mw_chat *c = NULL;
    assert_ok(mw_str_adds(&text, head));
    for (size_t i = 0; i < count; i++) assert_ok(mw_str_adds(&text, piece));
    assert_ok(mw_str_adds(&text, middle));
    for (size_t i = 0; i < count; i++) assert_ok(mw_str_adds(&text, close_));
    assert_ok(mw_str_adds(&text, tail));
    mw_status st = mw_chat_open(&c, text.p, text.n, NULL, NULL);
    mw_chat_close(c);
    mw_str_free(&text);
    return st;
}

static mw_status open_repeated(const char *head, const char *piece, size_t count, const char *tail) {
    return open_nested(head, piece, count, tail, "", "");
}

static void test_limits_of_templates(void **state) {
    (void)state;
    assert_ok(open_repeated("", "x", 1 << 20, ""));
    assert_fails(open_repeated("", "x", (1 << 20) + 1, ""), MW_ERR_LIMIT, "1048577 bytes, at most 1048576");
    assert_ok(open_repeated("{{ a", " or a", 150, " }}"));
    assert_fails(open_repeated("{{ a", " or a", 200, " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_ok(open_nested("{{ ", "(", 150, "a", ")", " }}"));
    assert_fails(open_nested("{{ ", "(", 250, "a", ")", " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_nested("{{ ", "[", 250, "a", "]", " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_nested("{{ ", "a[", 250, "a", "]", " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_nested("{{ ", "f(", 250, "a", ")", " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_repeated("{{ ", "(", 100000, ""), MW_ERR_LIMIT, "open brackets");
    assert_fails(open_repeated("{{ ", "not ", 100000, "a }}"), MW_ERR_LIMIT, "'not'");
    assert_fails(open_repeated("{{ ", "- ", 100000, "a }}"), MW_ERR_LIMIT, "signs");
    assert_fails(open_repeated("{{ a", "|upper", 100000, " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_repeated("{{ a", ".b", 100000, " }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_repeated("{{ a if ", "b if ", 100000, "c }}"), MW_ERR_LIMIT, "nested more than 190");
    assert_fails(open_repeated("", "{% if a %}", 99, ""), MW_ERR_LIMIT, "98 blocks");
    assert_fails(open_repeated("", "{% for a in b %}", 21, ""), MW_ERR_LIMIT, "20 'for' blocks");
    assert_ok(open_repeated("", "{% set a = a ~ 'x' %}{% if a %}{{ a }}{% endif %}", 20000, ""));
}

static void test_limits_of_renders(void **state) {
    (void)state;
    check_fails("{% for a in range(1000) %}{{ 'x' * 5000 }}{% endfor %}", MW_ERR_LIMIT, "bytes of output");
    check_fails("{% for a in range(5) %}{{ 'x' * 1000000 }}{% endfor %}", MW_ERR_LIMIT, "bytes of output");
    check_fails("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", MW_ERR_LIMIT,
                "10000000 evaluation steps");
    check_fails("{{ 'x' * 100000000 }}", MW_ERR_LIMIT, "a string of 100000000 bytes");
    check_fails("{{ [0] * 1000000000 }}", MW_ERR_LIMIT, "");
    check_fails("{% set n = namespace(x=[0]) %}{% for a in range(30) %}{% set n.x = n.x + n.x %}{% endfor %}",
                MW_ERR_LIMIT, "");
    check_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", MW_ERR_LIMIT, "nested evaluations");
    check_fails("{% set n = namespace() %}{% set n.n = n %}{{ n }}", MW_ERR_LIMIT, "nested evaluations");
    check_fails(
        "{% set n = namespace(x=[]) %}{% for a in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x == [n.x] }}",
        MW_ERR_LIMIT, "nested evaluations");
    check_fails("{% set n = namespace(x=[1]) %}{% for a in range(9999) %}{% set n.x = n.x | select %}{% endfor %}{{ "
                "n.x | first }}",
                MW_ERR_LIMIT, "nested evaluations");
    check_fails("{{ range(100001) }}", MW_ERR_USAGE, "a range of more than 100000");
    check_fails("{{ 2 ** 63 }}", MW_ERR_UNSUPPORTED, "beyond 64 bits");
    check_fails("{{ 1e308 * 10 }}", MW_ERR_UNSUPPORTED, "not finite");
    check_fails("{{ [].append }}{{ messages.items }}{{ [1] | map('upper') }}", MW_ERR_UNSUPPORTED,
                "printing a iterator");
}

/* A string that grows by appending is linear; so is splitting a long text. */
static void test_work_is_linear(void **state) {
    (void)state;
    check_text("{% set n = namespace(x='') %}{% for a in range(100000) %}{% set n.x = n.x + 'ab' ~ '' %}{% endfor %}"
               "{{ n.x | length }}",
               NULL, "200000");
    check_text("{% set t = 'word é\\n' * 200000 %}{{ t.split('\\n') | length }},{{ t.split() | length }},"
               "{{ t.rsplit('\\n') | length }},{{ t.splitlines() | length }},{{ t.replace('\\n', '') | length }}",
               NULL, "200001,400000,200001,200000,1200000");
}

/* Whatever a step does, it is charged for: a thousand operations on 8 MB of text, or one on a value that holds the same
 * part a thousand million times, are beyond the limit. */
static void test_work_is_charged(void **state) {
    static const char *const often[] = {
        "{{ a.startswith(a) }}",
        "{{ a.endswith((b, a)) }}",
        "{% set x = u.removeprefix('a') %}",
        "{% set x = a.removesuffix(b) %}",
        "{% set x = u.partition('a') %}",
        "{{ a == b }}",
        "{{ a in [b] }}",
        "{{ a.find(a) }}",
        "{{ u.count('') }}",
        "{{ a.isalpha() }}",
        "{{ a | int }}",
        "{{ a | float }}",
        "{{ [[]] | map(attribute=a) | list | length }}",
        "{% set x = strftime_now(z) %}",
    };
    static const char *const once[] = {
        "{% set x = {t: 1} %}",
        "{% set x = {e: 1} %}",
        "{% set x = {}[t + ([],)] %}",
        "{% set x = t == t %}",
        "{% set x = [[[[1] * 1000] * 1000] * 1000][0:1] %}",
        "{{ ('y' * 100000).strip('x' * 8000000 ~ 'y') }}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof often / sizeof *often; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{%% set a = 'a' * 8000000 %%}{%% set b = 'a' * 7999999 ~ 'b' %%}{%% set u = a ~ '\u00e9' %%}"
                 "{%% set z = '%%z' * 4000000 %%}{%% for i in range(1000) %%}%s{%% endfor %%}",
                 often[i]);
        check_fails(text, MW_ERR_LIMIT, "evaluation steps");
    }
    for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{%% set t = (1,) * 1000 %%}{%% set t = (t,) * 1000 %%}{%% set t = (t,) * 1000 %%}"
                 "{%% set e = ((),) * 1000 %%}{%% set e = (e,) * 1000 %%}{%% set e = (e,) * 1000 %%}%s",
                 once[i]);
        check_fails(text, MW_ERR_LIMIT, "evaluation steps");
    }
}

/* So are the variables of a scope, each time it is entered. */
static void test_scopes_are_charged(void **state) {
    mw_str text = {0};
    (void)state;
    assert_ok(mw_str_adds(&text, "{% for i in range(10000) %}{% if false %}"));
    for (int i = 0; i < 30000; i++) assert_ok(mw_str_addf(&text, "{%% set a%d = 1 %%}", i));
    assert_ok(mw_str_adds(&text, "{% endif %}{% endfor %}"));
    check_fails(text.p, MW_ERR_LIMIT, "evaluation steps");
    mw_str_free(&text);
}

static void test_errors_name_their_place(void **state) {
    (void)state;
    check_fails("a\n\n{{ messages.nope.deeper }}", MW_ERR_USAGE,
                "chat template, line 3: a list has no attribute 'nope'");
    check_fails("{{ nope.x }}", MW_ERR_USAGE, "'nope' is undefined");
    check_fails("{{ 'a' + none }}", MW_ERR_USAGE, "'+' between a str and a None");
    check_fails("{{ [].append(1) }}", MW_ERR_USAGE, "may not change a list");
    check_fails("{% for x in none %}{% endfor %}", MW_ERR_USAGE, "a None is not iterable");
    check_fails("{{ 1 // 0 }}", MW_ERR_USAGE, "line 1: division by zero");
}

static void test_variables(void **state) {
    (void)state;
    check_text(
        "{{ bos_token }}{{ eos_token }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ messages[0].content }}",
        NULL, "<s></s>NoneNoneTrueHi");
    check_text("{{ bos_token }}{{ documents }}{{ x }}{{ range }}",
               "{\"bos_token\": \"B\", \"documents\": [1], \"x\": 1.50, \"range\": 0}", "B[1]1.50");
    check_text("{{ x }}{{ x | tojson }}",
               "{\"x\": [9223372036854775807, -1, 1e16, 0.1, \"\\u00e9\\u0000'\", {\"\": null}]}",
               "[9223372036854775807, -1, 1e+16, 0.1, \"\u00e9\\x00'\", {'': None}]"
               "[9223372036854775807, -1, 1e+16, 0.1, \"\u00e9\\u0000'\", {\"\": null}]");
    mw_chat *c = NULL;
    mw_str out = {0};
    json_t *none = json_array(), *extra = json_pack("{s:[]}", "messages"), *bad = json_pack("[s]", "x");
    const char text[] = "[{{ bos_token }}{{ eos_token }}{{ bos_token is defined }}]";
    assert_ok(mw_chat_open(&c, text, strlen(text), NULL, NULL));
    assert_ok(mw_str_adds(&out, "before "));
    assert_ok(mw_chat_render(c, none, NULL, false, NULL, &out));
    assert_string_equal(out.p, "before [True]");
    assert_fails(mw_chat_render(c, none, NULL, false, extra, &out), MW_ERR_USAGE, "'messages' cannot be replaced");
    assert_fails(mw_chat_render(c, none, extra, false, NULL, &out), MW_ERR_USAGE, "tools: not an array");
    assert_fails(mw_chat_render(c, none, NULL, false, none, &out), MW_ERR_USAGE, "not an object");
    assert_fails(mw_chat_render(c, extra, NULL, false, NULL, &out), MW_ERR_USAGE, "messages: not an array");
    assert_fails(mw_chat_render(c, NULL, NULL, false, NULL, &out), MW_ERR_USAGE, "messages: not an array");
    assert_fails(mw_chat_render(c, bad, NULL, false, NULL, &out), MW_ERR_USAGE, "messages: element 0 is not an object");
    assert_string_equal(out.p, "before [True]");
    mw_str_free(&out);
    json_decref(bad);
    json_decref(extra);
    json_decref(none);
    mw_chat_close(c);
}

/* JSON nested deeper than a render may go is an error, not a crash. */
static void test_deep_json(void **state) {
    mw_chat *c = open_chat("{{ messages | length }}{{ messages | tojson | length if tools }}");
    json_t *deep = json_array();
    mw_str out = {0};
    (void)state;
    for (int i = 0; i < 5000; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, deep);
        deep = outer;
    }
    json_t *messages = json_pack("[{s:s, s:o}]", "role", "user", "content", deep);
    assert_fails(mw_chat_render(c, messages, NULL, false, NULL, &out), MW_ERR_LIMIT, "nested evaluations");
    /* jansson frees recursively too, so take the list apart. */
    json_t *inner = json_incref(json_object_get(json_array_get(messages, 0), "content"));
    json_decref(messages);
    while (json_array_size(inner)) {
        json_t *next = json_incref(json_array_get(inner, 0));
        json_decref(inner);
        inner = next;
    }
    json_decref(inner);
    mw_str_free(&out);
    mw_chat_close(c);
}

static void test_raise(void **state) {
    char long_text[3000];
    (void)state;
    check_fails("a\n{{ raise_exception('No ' ~ messages | length ~ ' é') }}", MW_ERR_USAGE, "No 0 \u00e9");
    assert_string_equal(mw_error_text(), "No 0 \u00e9");
    snprintf(long_text, sizeof long_text, "{{ raise_exception('x' ~ '\u00e9' * 1000) }}");
    check_fails(long_text, MW_ERR_USAGE, "x\u00e9");
    assert_int_equal(strlen(mw_error_text()), MW_ERROR_TEXT_MAX - 1); /* 1 + 2 * 511 bytes */
    check_fails("{{ raise_exception('%s%n') }}", MW_ERR_USAGE, "%s%n");
}

static void test_clock(void **state) {
    char before[64], after[64];
    mw_chat *c = open_chat("{{ strftime_now('%Y-%m-%d %H:%M') }}");
    json_t *messages = json_array();
    mw_str out = {0};
    struct tm tm;
    time_t now = time(NULL);
    (void)state;
    strftime(before, sizeof before, "%Y-%m-%d %H:%M", localtime_r(&now, &tm));
    assert_ok(mw_chat_render(c, messages, NULL, false, NULL, &out));
    now = time(NULL);
    strftime(after, sizeof after, "%Y-%m-%d %H:%M", localtime_r(&now, &tm));
    if (strcmp(out.p, before) != 0) assert_string_equal(out.p, after);
    mw_str_free(&out);
    json_decref(messages);
    mw_chat_close(c);
}

static void test_probe(void **state) {
    mw_chat *c = open_chat("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}");
    (void)state;
    assert_ok(mw_chat_probe(c));
    mw_chat_close(c);
    /* A template without a system role is one that works; a template that trips over a system message is not. */
    c = open_chat("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}ok");
    assert_ok(mw_chat_probe(c));
    mw_chat_close(c);
    c = open_chat("{% if messages[0].role == 'system' %}{{ nope.x }}{% endif %}ok");
    assert_fails(mw_chat_probe(c), MW_ERR_USAGE, "'nope' is undefined");
    mw_chat_close(c);
    c = open_chat("{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}ok");
    assert_fails(mw_chat_probe(c), MW_ERR_USAGE, "one turn only");
    mw_chat_close(c);
}

/* Every beginning of a template is refused or renders: nothing reads past the end (run under ASan, too). */
static void test_prefixes(void **state) {
    json_t *golden = load(DATA "golden.json"), *wants;
    json_t *messages = json_object_get(json_array_get(json_object_get(golden, "conversations"), 14), "messages");
    const char *name;
    size_t opened = 0;
    (void)state;
    json_object_foreach(json_object_get(golden, "templates"), name, wants) {
        char path[512];
        mw_str text = {0};
        snprintf(path, sizeof path, DATA "templates/%s", name);
        assert_ok(mw_read_file(path, 1u << 20, &text));
        for (size_t n = 0; n < text.n; n++) {
            char *copy = malloc(n ? n : 1); /* of its own, so that a sanitizer sees its end */
            mw_chat *c = NULL;
            mw_str out = {0};
            if (n) memcpy(copy, text.p, n);
            if (mw_chat_open(&c, copy, n, NULL, NULL) == MW_OK) {
                opened++;
                mw_status st = mw_chat_render(c, messages, NULL, true, NULL, &out);
                assert_true(st == MW_OK || st == MW_ERR_USAGE);
            }
            mw_str_free(&out);
            mw_chat_close(c);
            free(copy);
        }
        mw_str_free(&text);
    }
    assert_true(opened > 50);
    json_decref(golden);
}

typedef struct job {
    const mw_chat *chat;
    const json_t *messages;
    const char *want;
    int wrong;
} job;

static void *render_often(void *arg) {
    job *j = arg;
    for (int i = 0; i < 200; i++) {
        mw_str out = {0};
        mw_status st = mw_chat_render(j->chat, j->messages, NULL, true, NULL, &out);
        j->wrong += st != MW_OK || strcmp(out.p, j->want) != 0;
        mw_str_free(&out);
    }
    return NULL;
}

static void test_threads(void **state) {
    mw_chat *c = open_chat("{% macro f(x) %}<{{ x | upper }}>{% endmacro %}{% set ns = namespace(n=0) %}"
                           "{% for m in messages if m.content %}{% set ns.n = ns.n + loop.index %}{{ f(m.content) }}"
                           "{% endfor %}{{ ns.n }}");
    json_t *messages = json_pack("[{s:s}, {s:s}]", "content", "a", "content", "b");
    pthread_t thread[4];
    job j[4];
    (void)state;
    for (int i = 0; i < 4; i++) {
        j[i] = (job){c, messages, "<A><B>3", 0};
        assert_int_equal(pthread_create(&thread[i], NULL, render_often, &j[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(j[i].wrong, 0);
    }
    json_decref(messages);
    mw_chat_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_limits_of_templates),
        cmocka_unit_test(test_limits_of_renders),
        cmocka_unit_test(test_work_is_linear),
        cmocka_unit_test(test_work_is_charged),
        cmocka_unit_test(test_scopes_are_charged),
        cmocka_unit_test(test_errors_name_their_place),
        cmocka_unit_test(test_variables),
        cmocka_unit_test(test_deep_json),
        cmocka_unit_test(test_raise),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_threads),
    };
    setenv("TZ", "UTC", 1); /* the time zone of the goldens */
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
