/* Which texts a schema lets through, which schemas are refused and in what words, and that hostile ones stay cheap. */
#include <pthread.h>

#include "tests/text/tok_cases.h"
#include "worker/text/constraint.h"

static mw_tokenizer *tokenizer;
static mw_grammar *grammar;

/* Texts are written with ' for ". */
static char *quotes(const char *text) {
    char *s = strdup(text);
    for (char *p = s; *p; p++)
        if (*p == '\'') *p = '"';
    return s;
}

typedef enum { REFUSED, UNFINISHED, WHOLE } verdict;

/* What becomes of a text, read a few bytes at a time. */
static verdict read_text(const char *schema, const char *text) {
    char *s = schema ? quotes(schema) : NULL, *t = quotes(text);
    mw_constraint *c = NULL;
    mw_constraint_state state = {0};
    mw_status st = mw_grammar_compile(grammar, s, &c);
    if (st != MW_OK) fail_msg("%s: %s", schema, mw_error_text());
    assert_ok(mw_constraint_begin(c, &state));
    size_t n = strlen(t), at = 0;
    for (size_t step = 1; at < n && st == MW_OK; at += step, step = step % 5 + 1)
        st = mw_constraint_accept_text(&state, t + at, step < n - at ? step : n - at);
    verdict v = st != MW_OK ? REFUSED : state.complete ? WHOLE : UNFINISHED;
    mw_constraint_free(&state);
    mw_constraint_release(c);
    free(s);
    free(t);
    return v;
}

static void check(const char *schema, const char *const *good, const char *const *bad) {
    for (; *good; good++)
        if (read_text(schema, *good) != WHOLE) fail_msg("%s: should take %s", schema ? schema : "object", *good);
    for (; *bad; bad++)
        if (read_text(schema, *bad) == WHOLE) fail_msg("%s: should not take %s", schema ? schema : "object", *bad);
}
#define TEXTS(...)               ((const char *const[]){__VA_ARGS__, NULL})
#define CHECK(schema, good, bad) check(schema, good, bad)

static void test_json(void **state) {
    (void)state;
    CHECK(NULL,
          TEXTS("{}", "{ }", "{'a':1}", "{'a': [1, 2.5e-3, -0, true, null, {}, [], 'x']}",
                "{\n  'a': 'b',\n  'c': {}\n}", "{'\\u00e9\\n\\\"': '\xC3\xA9\xF0\x9F\x8E\x89\\ud83c\\uDF89'}",
                "{'a':1,'a':2}"),
          TEXTS("", "[]", "1", " {}", "{} ", "{'a'}", "{'a':01}", "{'a':1.}", "{'a':+1}", "{'a':.5}", "{'a':tru}",
                "{'a':1,}", "{,}", "{'a':'\n'}", "{'a':'\x01'}", "{'a':'\xC0\x80'}", "{'a':'\xED\xA0\x80'}",
                "{'a':'\xFF'}", "{'a':'\\ud83c'}", "{'a':'\\ud83cx'}", "{'a':'\\udf89'}", "{'a':'\\u0000'}",
                "{'a':'\\x'}", "{  }", "{'a':  1}", "{'a' :1}", "{'a':1\n\n}", "{'a':1234567890123456789}",
                "{'a':1e100}", "{a:1}", "{}{}"));
}

static void test_types(void **state) {
    (void)state;
    CHECK("{'type':'string'}", TEXTS("''", "'a b'"), TEXTS("1", "null", "'"));
    CHECK("{'type':['integer','null']}", TEXTS("0", "-12", "null"), TEXTS("1.5", "'1'", "01", "--1", "1e3"));
    CHECK("{'type':'number'}", TEXTS("0", "-12.50", "1e+3", "1E-03"), TEXTS("1.", "-", "e3", "1e"));
    CHECK("{'type':'boolean'}", TEXTS("true", "false"), TEXTS("tru", "truefalse", "null"));
    CHECK("true", TEXTS("1", "[]", "{'a':{}}"), TEXTS("x"));
    CHECK("{'title':'t','description':'d','default':3,'examples':[1],'$comment':'c','x-own':1}", TEXTS("'any'", "7"),
          TEXTS("?"));
    CHECK("{'const':{'a':[1,'b',null]}}", TEXTS("{'a':[1,'b',null]}", "{'a': [1, 'b', null]}"),
          TEXTS("{'a':[1,'b']}", "{}"));
    CHECK("{'enum':['red','re','r\\n',1,10,null,true]}", TEXTS("'red'", "'re'", "'r\\n'", "1", "10", "null", "true"),
          TEXTS("'r'", "'redd'", "100", "false"));
    CHECK("{'enum':['a',1,2],'type':'integer'}", TEXTS("1", "2"), TEXTS("'a'"));
    CHECK("{'minimum':3}", TEXTS("3", "4.5"), TEXTS("'x'", "2"));
}

static void test_numbers(void **state) {
    (void)state;
    CHECK("{'type':'integer','minimum':-12,'maximum':105}", TEXTS("-12", "-9", "0", "9", "99", "105"),
          TEXTS("-13", "-20", "106", "110", "1000", "-0", "5.0", "007"));
    CHECK("{'type':'integer','exclusiveMinimum':0,'exclusiveMaximum':10}", TEXTS("1", "9"),
          TEXTS("0", "10", "-1", "00"));
    CHECK("{'type':'integer','minimum':0}", TEXTS("0", "999999999999999999"), TEXTS("-1", "1999999999999999999"));
    CHECK("{'type':'integer','minimum':0.5,'maximum':1.5}", TEXTS("1"), TEXTS("0", "2"));
    CHECK("{'type':'integer','maximum':-7}", TEXTS("-7", "-8", "-70"), TEXTS("-6", "0", "7"));
    CHECK("{'type':'number','minimum':0,'maximum':1}", TEXTS("0", "0.0", "0.5", "1", "1.00"),
          TEXTS("1.01", "-0.1", "2", "1e0", "-0"));
    CHECK("{'type':'number','minimum':-0.25,'exclusiveMaximum':12.5}", TEXTS("-0.25", "-0.1", "12.4999", "12", "3.75"),
          TEXTS("-0.26", "12.5", "12.50", "13", "-1"));
    CHECK("{'type':'number','exclusiveMinimum':0}", TEXTS("0.001", "1", "123.5"), TEXTS("0", "0.0", "0.000"));
    CHECK("{'type':'number','minimum':99.5}", TEXTS("99.5", "99.6", "100", "1000.25"), TEXTS("99.4", "99", "9"));
    CHECK("{'type':'integer','multipleOf':1}", TEXTS("3"), TEXTS("'3'"));
}

static void test_strings(void **state) {
    (void)state;
    CHECK("{'type':'string','minLength':2,'maxLength':4}",
          TEXTS("'ab'", "'abcd'", "'\xF0\x9F\x8E\x89\\ud83c\\udf89'", "'\\n\\u0041\xC3\xA9x'"),
          TEXTS("'a'", "'abcde'", "'\xF0\x9F\x8E\x89'"));
    CHECK("{'type':'string','minLength':3}", TEXTS("'abc'", "'abcdefghij'"), TEXTS("'ab'", "'a'"));
    CHECK("{'type':'string','maxLength':700}", TEXTS("''", "'abc'"), TEXTS("'"));
    CHECK("{'type':'string','pattern':'^[a-c]+x{2,3}$'}", TEXTS("'axx'", "'abcxxx'"),
          TEXTS("'ax'", "'xx'", "'axxxx'", "'axx '"));
    CHECK("{'type':'string','pattern':'^(ab|c)*d?$'}", TEXTS("''", "'ababc'", "'cd'", "'d'"),
          TEXTS("'a'", "'dd'", "'abd '"));
    CHECK("{'type':'string','pattern':'b.d'}", TEXTS("'bad'", "'xxbad\xC3\xA9'", "'b\\\"d'"), TEXTS("'bd'", "'b\\nd'"));
    CHECK("{'type':'string','pattern':'^a|b$'}", TEXTS("'axyz'", "'xyzb'"), TEXTS("'xay'"));
    CHECK("{'type':'string','pattern':'^[^a-z\\\\d\\\\]]$'}", TEXTS("'A'", "' '", "'\\n'"),
          TEXTS("'a'", "'5'", "']'", "'\xC3\xA9'"));
    CHECK("{'type':'string','pattern':'^\\\\d\\\\w\\\\s\\\\S\\\\u00e9\\\\x41\\\\/\\\\.$'}",
          TEXTS("'1_ z\xC3\xA9"
                "A/.'"),
          TEXTS("'1_ z\xC3\xA9"
                "A/x'"));
    CHECK("{'type':'string','pattern':'^[\xC3\xA0-\xE2\x82\xAC]$'}",
          TEXTS("'\xC3\xA9'", "'\xE2\x82\xAC'", "'\xE0\xA0\x80'"), TEXTS("'\xE2\x82\xAD'", "'\xC3\x9F'", "'a'"));
    CHECK("{'type':'string','pattern':'^a*?b+?$','minLength':3,'maxLength':4}", TEXTS("'aab'", "'abbb'"),
          TEXTS("'ab'", "'aaabb'"));
    CHECK("{'type':'string','format':'date'}", TEXTS("'2024-02-28'", "'1999-12-31'"),
          TEXTS("'2024-02-30'", "'2024-13-01'", "'24-01-01'"));
    CHECK("{'type':'string','format':'date-time'}", TEXTS("'2024-02-28T23:59:59Z'", "'2024-02-28T00:00:00.25+01:30'"),
          TEXTS("'2024-02-28'", "'2024-02-28T24:00:00Z'", "'2024-02-28T00:00:00'"));
    CHECK("{'type':'string','format':'uuid'}", TEXTS("'01234567-89ab-CDEF-0123-456789abcdef'"), TEXTS("'0123'"));
    CHECK("{'type':'string','format':'ipv4'}", TEXTS("'255.0.10.1'"), TEXTS("'256.0.0.1'", "'1.2.3'"));
    CHECK("{'type':'string','format':'email'}", TEXTS("'a.b@example.org'"), TEXTS("'a@b'", "'@x.org'"));
    CHECK("{'type':'string','format':'made-up'}", TEXTS("'anything'"), TEXTS("1"));
}

static void test_objects(void **state) {
    (void)state;
    const char *person =
        "{'type':'object','properties':{'name':{'type':'string'},'age':{'type':'integer'},'ok':{'type':'boolean'}},"
        "'required':['name']}";
    CHECK(person,
          TEXTS("{'name':'x'}", "{'name':'x','age':3}", "{'name':'x', 'ok':true}", "{'name':'x','age':3,'ok':false}"),
          TEXTS("{}", "{'age':3}", "{'age':3,'name':'x'}", "{'name':'x','more':1}", "{'name':'x','age':3,}",
                "{'name':'x',}"));
    CHECK("{'type':'object','properties':{'a':{},'b':{}}}", TEXTS("{}", "{'a':1}", "{'b':1}", "{'a':1,'b':[]}"),
          TEXTS("{'b':1,'a':1}", "{,'b':1}"));
    CHECK(
        "{'type':'object','properties':{'ab':{'type':'null'},'a\\u00e9':{}},'additionalProperties':{'type':'integer'}}",
        TEXTS("{}", "{'ab':null}", "{'x':1}", "{'a':1,'abc':2}", "{'ab':null,'':3}", "{'a\xC3\xA8':4}"),
        TEXTS("{'ab':1}", "{'x':null}", "{'x':1,'ab':2}", "{'\\u0061b':1}", "{'x':1,'a\xC3\xA9':2}"));
    CHECK("{'type':'object','additionalProperties':{'type':'integer'}}", TEXTS("{}", "{'a':1,'b':2}", "{'\\n':1}"),
          TEXTS("{'a':''}"));
    CHECK("{'type':'object','required':['x'],'properties':{'y':{'type':'null'}}}",
          TEXTS("{'x':[1]}", "{'y':null,'x':0}"), TEXTS("{}", "{'y':null}"));
    CHECK("{'type':'object','properties':{},'additionalProperties':false}", TEXTS("{}"), TEXTS("{'a':1}"));
    CHECK("{'type':'array','items':{'type':'integer'},'minItems':1,'maxItems':3}", TEXTS("[1]", "[1, 2,\n 3]"),
          TEXTS("[]", "[1,2,3,4]", "['a']", "[1,]"));
    CHECK("{'type':'array','prefixItems':[{'type':'integer'},{'type':'string'}]}", TEXTS("[]", "[1]", "[1,'a']"),
          TEXTS("['a']", "[1,'a',2]"));
    CHECK("{'type':'array','prefixItems':[{'type':'integer'}],'items':{'type':'null'},'minItems':3}",
          TEXTS("[1,null,null]", "[1,null,null,null]"), TEXTS("[1,null]", "[1,2,null]"));
    CHECK("{'type':'array','maxItems':0}", TEXTS("[]"), TEXTS("[1]"));
}

static void test_combinations(void **state) {
    (void)state;
    CHECK("{'anyOf':[{'type':'integer'},{'type':'array','items':{'$ref':'#'}}]}", TEXTS("1", "[[1],[[]]]"),
          TEXTS("'a'", "[null]"));
    CHECK("{'$ref':'#/$defs/list','$defs':{'list':{'type':'object','properties':{'next':{'anyOf':[{'$ref':'#/$defs/"
          "list'},{'type':'null'}]}},"
          "'required':['next']}}}",
          TEXTS("{'next':null}", "{'next':{'next':{'next':null}}}"), TEXTS("{}", "{'next':{}}"));
    CHECK("{'allOf':[{'$ref':'#/definitions/"
          "a~1b%25'},{'properties':{'y':{'maximum':5}},'required':['y']}],'type':'object',"
          "'definitions':{'a/"
          "b%':{'properties':{'x':{'type':'null'},'y':{'type':'integer','minimum':3}},'required':['x']}}}",
          TEXTS("{'y':3,'x':null}", "{'y':5,'x':null}"), TEXTS("{'y':3}", "{'y':6,'x':null}", "{'y':2,'x':null}"));
    CHECK("{'type':'object','properties':{'a':{'type':'integer'},'b':{'type':'integer'}},'anyOf':[{'required':['a']},{'"
          "required':['b']}]}",
          TEXTS("{'a':1}", "{'b':1}", "{'a':1,'b':2}"), TEXTS("{}"));
    CHECK("{'oneOf':[{'const':1},{'const':2}],'description':'d'}", TEXTS("1", "2"), TEXTS("3"));
    CHECK("{'properties':{'a':{'$ref':'#/$defs/"
          "s','description':'beside'}},'required':['a'],'$defs':{'s':{'type':'string','maxLength':2}}}",
          TEXTS("{'a':'xy'}"), TEXTS("{'a':'xyz'}"));
    CHECK("{'type':['string','integer'],'anyOf':[{'type':'number'},{'type':'boolean'}]}", TEXTS("7"),
          TEXTS("true", "'a'", "7.5"));
    CHECK("{'anyOf':[{'$ref':'#'},{'$ref':'#'},{'const':'x'}]}", TEXTS("'x'"), TEXTS("'y'"));
    CHECK("{'anyOf':[{'type':'null'},false]}", TEXTS("null"), TEXTS("1"));
}

static void refuse(const char *schema, mw_status want, const char *word) {
    char *s = quotes(schema);
    mw_constraint *c = NULL;
    mw_status st = mw_grammar_compile(grammar, s, &c);
    if (st != want) fail_msg("%s: %s (%s)", schema, mw_status_name(st), mw_error_text());
    if (!strstr(mw_error_text(), word)) fail_msg("'%s' does not say '%s'", mw_error_text(), word);
    free(s);
}

static void test_refusals(void **state) {
    (void)state;
    refuse("{'type':'object'", MW_ERR_USAGE, "line 1");
    refuse("[]", MW_ERR_USAGE, "expected a schema");
    refuse("{'type':'text'}", MW_ERR_USAGE, "type");
    refuse("{'type':'object','properties':{'a':{'not':{}}}}", MW_ERR_UNSUPPORTED, "#/properties/a: 'not'");
    refuse("{'type':'object','patternProperties':{}}", MW_ERR_UNSUPPORTED, "'patternProperties'");
    refuse("{'type':'object','propertyNames':{}}", MW_ERR_UNSUPPORTED, "'propertyNames'");
    refuse("{'if':{}}", MW_ERR_UNSUPPORTED, "'if'");
    refuse("{'type':'array','uniqueItems':true}", MW_ERR_UNSUPPORTED, "'uniqueItems'");
    refuse("{'type':'array','contains':{}}", MW_ERR_UNSUPPORTED, "'contains'");
    refuse("{'type':'array','items':[{}]}", MW_ERR_UNSUPPORTED, "prefixItems");
    refuse("{'type':'number','multipleOf':0.1}", MW_ERR_UNSUPPORTED, "'multipleOf'");
    refuse("{'type':'number','minimum':1e300}", MW_ERR_UNSUPPORTED, "digits");
    refuse("{'type':'integer','minimum':'1'}", MW_ERR_USAGE, "minimum");
    refuse("{'type':'object','minProperties':1}", MW_ERR_UNSUPPORTED, "'minProperties'");
    refuse("{'enum':['a'],'minLength':1}", MW_ERR_UNSUPPORTED, "'minLength' beside enum");
    refuse("{'$ref':'other.json'}", MW_ERR_UNSUPPORTED, "other.json");
    refuse("{'$ref':'#/$defs/gone'}", MW_ERR_USAGE, "points at nothing");
    refuse("{'$ref':'#'}", MW_ERR_USAGE, "no value");
    refuse("{'type':'object','properties':{'a':{'$ref':'#'}},'required':['a']}", MW_ERR_USAGE, "no value");
    refuse("{'allOf':[{'type':'string'},{'type':'null'}]}", MW_ERR_USAGE, "no value");
    refuse("{'enum':[]}", MW_ERR_USAGE, "no value");
    refuse("{'type':'array','minItems':3,'maxItems':2}", MW_ERR_USAGE, "no value");
    refuse("{'type':'integer','minimum':3,'maximum':2}", MW_ERR_USAGE, "no value");
    refuse("false", MW_ERR_USAGE, "no value");
    refuse("{'allOf':[{'pattern':'a'},{'pattern':'b'}]}", MW_ERR_UNSUPPORTED, "'pattern'");
    refuse("{'allOf':[{'properties':{'a':{}},'additionalProperties':false},{'properties':{'b':{}}}]}",
           MW_ERR_UNSUPPORTED, "'b'");
    refuse("{'type':'string','maxLength':1000000000000}", MW_ERR_LIMIT, "maxLength");
    refuse("{'type':'string','maxLength':-1}", MW_ERR_USAGE, "maxLength");
    refuse("{'type':'array','items':{},'maxItems':500000}", MW_ERR_LIMIT, "maxItems");
    static const char *const patterns[][2] = {{"(?=a)", "group"},  {"\\\\bx", "escape"},   {"(a)\\\\1", "escape"},
                                              {"a^b", "anchor"},   {"\\\\p{L}", "escape"}, {"(^a)", "anchor"},
                                              {"(?<n>a)", "group"}};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char schema[200];
        snprintf(schema, sizeof schema, "{'type':'string','pattern':'%s'}", patterns[i][0]);
        refuse(schema, MW_ERR_UNSUPPORTED, patterns[i][1]);
    }
    refuse("{'type':'string','pattern':'(a'}", MW_ERR_USAGE, "without its )");
    refuse("{'type':'string','pattern':'[z-a]'}", MW_ERR_USAGE, "range");
    refuse("{'type':'string','pattern':'*a'}", MW_ERR_USAGE, "quantifier");
    refuse("{'type':'string','pattern':'a{99999}'}", MW_ERR_LIMIT, "repetition");
}

/* ---- what is meant to hurt ---- */

/* Of this thread: other work on the machine does not count. */
static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void compile_within(const char *what, mw_str *schema, double seconds) {
    mw_constraint *c = NULL;
    mw_constraint_state s = {0};
    uint32_t mask[64];
    double start = cpu_s();
    mw_status st = mw_grammar_compile(grammar, schema->p, &c);
    if (st == MW_OK && (st = mw_constraint_begin(c, &s)) == MW_OK) {
        for (int i = 0; i < 40 && st == MW_OK && !s.exhausted; i++) {
            st = mw_constraint_mask(&s, false, mask);
            int32_t t = -1;
            for (int32_t k = 0; k < 900 && st == MW_OK; k++)
                if (mask[k / 32] >> (k % 32) & 1) t = k;
            if (st == MW_OK) st = mw_constraint_accept(&s, t);
        }
    }
    double took = cpu_s() - start;
    printf("%s: %.3f s, %s\n", what, took, st == MW_OK ? "ok" : mw_error_text());
    if (st != MW_OK && st != MW_ERR_LIMIT && st != MW_ERR_USAGE && st != MW_ERR_UNSUPPORTED)
        fail_msg("%s: %s", what, mw_error_text());
    if (took > seconds) fail_msg("%s took %.1f s, at most %.0f", what, took, seconds);
    mw_constraint_free(&s);
    mw_constraint_release(c);
    mw_str_free(schema);
}

static void test_hostile(void **state) {
    (void)state;
    enum { SECONDS = 20 }; /* under sanitizers; without: none takes half a second */
    mw_str s = {0};
    for (int i = 0; i < 900; i++) assert_ok(mw_str_adds(&s, "{\"type\":\"array\",\"minItems\":1,\"items\":"));
    assert_ok(mw_str_adds(&s, "{}"));
    for (int i = 0; i < 900; i++) assert_ok(mw_str_adds(&s, "}"));
    compile_within("900 levels", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"enum\":["));
    for (int i = 0; i < 40000; i++) assert_ok(mw_str_addf(&s, "%s\"v%d\"", i ? "," : "", i * 7919));
    assert_ok(mw_str_adds(&s, "]}"));
    compile_within("40000 values", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{"));
    for (int i = 0; i < 200; i++)
        assert_ok(mw_str_addf(&s, "\"d%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]},", i,
                              i + 1, i + 1));
    assert_ok(mw_str_adds(&s, "\"d200\":{\"type\":\"string\"}}}"));
    compile_within("2^200 ways of references", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"allOf\":["));
    for (int i = 0; i < 20; i++)
        assert_ok(
            mw_str_addf(&s, "%s{\"anyOf\":[{\"required\":[\"a%d\"]},{\"required\":[\"b%d\"]}]}", i ? "," : "", i, i));
    assert_ok(mw_str_adds(&s, "]}"));
    compile_within("2^20 alternatives", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"type\":\"object\",\"properties\":{"));
    for (int i = 0; i < 3000; i++) assert_ok(mw_str_addf(&s, "%s\"p%d\":{\"type\":\"integer\"}", i ? "," : "", i));
    assert_ok(mw_str_adds(&s, "}}"));
    compile_within("3000 optional properties", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"anyOf\":["));
    for (int i = 0; i < 3000; i++)
        assert_ok(mw_str_addf(&s, "%s{\"type\":\"string\",\"minLength\":%d}", i ? "," : "", i % 50));
    assert_ok(mw_str_adds(&s, "]}"));
    compile_within("3000 strings side by side", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"type\":\"string\",\"pattern\":\"^((((a{1,30}){1,30}){1,30}){1,30})$\"}"));
    compile_within("a pattern of 810000 letters", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"type\":\"string\",\"pattern\":\"(a|b|ab)*(a|b|ab)*(a|b|ab)*c.{500}$\"}"));
    compile_within("an ambiguous pattern", &s, SECONDS);
    assert_ok(mw_str_adds(
        &s, "{\"$defs\":{\"t\":{\"anyOf\":[{\"allOf\":[{\"$ref\":\"#/$defs/t\"},{\"minLength\":1}]},{\"type\":"
            "\"string\"}],\"maxLength\":9}},\"$ref\":\"#/$defs/t\"}"));
    compile_within("merging without end", &s, SECONDS);
}

/* Small documents that ask for much work. */
static void test_much_merging(void **state) {
    (void)state;
    enum { SECONDS = 20 };
    mw_str s = {0};
    assert_ok(mw_str_adds(&s, "{\"$defs\":{\"big\":{\"allOf\":["));
    for (int i = 0; i < 120; i++) assert_ok(mw_str_addf(&s, "%s{\"$ref\":\"#/$defs/p%d\"}", i ? "," : "", i));
    assert_ok(mw_str_adds(&s, "]}"));
    for (int i = 0; i < 120; i++) {
        assert_ok(mw_str_addf(&s, ",\"p%d\":{\"properties\":{", i));
        for (int k = 0; k < 50; k++) assert_ok(mw_str_addf(&s, "%s\"q%d\":{}", k ? "," : "", 50 * i + k));
        assert_ok(mw_str_adds(&s, "}}"));
    }
    assert_ok(mw_str_adds(&s, "},\"type\":\"object\",\"properties\":{"));
    for (int i = 0; i < 5000; i++)
        assert_ok(mw_str_addf(&s, "%s\"r%d\":{\"$ref\":\"#/$defs/big\",\"required\":[\"q%d\"]}", i ? "," : "", i, i));
    assert_ok(mw_str_adds(&s, "}}"));
    compile_within("5000 merges of 120 parts", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"allOf\":["));
    for (int part = 0; part < 2; part++) {
        assert_ok(mw_str_addf(&s, "%s{\"enum\":[", part ? "," : ""));
        for (int i = 0; i < 40000; i++) assert_ok(mw_str_addf(&s, "%s%d", i ? "," : "", 2 * i + part));
        assert_ok(mw_str_adds(&s, "]}"));
    }
    assert_ok(mw_str_adds(&s, "]}"));
    compile_within("two lists of 40000", &s, SECONDS);
    assert_ok(mw_str_adds(&s, "{\"type\":\"object\",\"required\":["));
    for (int i = 0; i < 60000; i++) assert_ok(mw_str_addf(&s, "%s\"r%d\"", i ? "," : "", i));
    assert_ok(mw_str_adds(&s, "]}"));
    compile_within("60000 required names", &s, SECONDS);
}

/* A vocabulary without some byte can come to an end in the middle: the answer fails, in words. */
static void test_missing_bytes(void **state) {
    (void)state;
    json_t *goldens = load_goldens();
    mw_tokenizer *t = open_case(goldens, "metaspace never");
    mw_grammar *g = NULL;
    mw_constraint *c = NULL;
    mw_constraint_state s = {0};
    int32_t size = mw_tokenizer_size(t);
    uint32_t *mask = malloc(mw_mask_words(size) * sizeof *mask);
    assert_ok(mw_grammar_open(&g, t, size, NULL, 0));
    assert_ok(mw_grammar_compile(g, "{\"const\":\"a\\u2603\\uff5e\"}", &c));
    assert_ok(mw_constraint_begin(c, &s));
    assert_ok(mw_constraint_accept_text(&s, "\"a", 2));
    assert_fails(mw_constraint_mask(&s, true, mask), MW_ERR_UNSUPPORTED, "no token");
    assert_fails(mw_constraint_accept(&s, size - 1), MW_ERR_USAGE, "not allow");
    mw_constraint_free(&s);
    mw_constraint_release(c);
    mw_grammar_close(g);
    mw_tokenizer_close(t);
    json_decref(goldens);
    free(mask);
}

/* End tokens: only behind a whole value, only when wanted, and nothing behind them. */
static void test_end(void **state) {
    (void)state;
    mw_constraint *c = NULL, *again = NULL;
    mw_constraint_state s = {0};
    int32_t eos = 899;
    uint32_t mask[64];
    assert_ok(mw_grammar_compile(grammar, "{\"type\":\"integer\"}", &c));
    assert_ok(mw_grammar_compile(grammar, "{\"type\":\"integer\"}", &again));
    assert_ptr_equal(c, again);
    assert_ok(mw_constraint_begin(c, &s));
    assert_ok(mw_constraint_mask(&s, true, mask));
    assert_false(mask[eos / 32] >> (eos % 32) & 1);
    assert_fails(mw_constraint_accept(&s, eos), MW_ERR_USAGE, "inside");
    assert_ok(mw_constraint_accept_text(&s, "12", 2));
    assert_true(s.complete && !s.exhausted);
    assert_ok(mw_constraint_mask(&s, false, mask));
    assert_false(mask[eos / 32] >> (eos % 32) & 1);
    assert_ok(mw_constraint_mask(&s, true, mask));
    assert_true(mask[eos / 32] >> (eos % 32) & 1);
    assert_ok(mw_constraint_accept(&s, eos));
    assert_true(s.ended);
    assert_fails(mw_constraint_accept_text(&s, "3", 1), MW_ERR_USAGE, "not allow");
    mw_constraint_free(&s);
    mw_constraint_release(c);
    mw_constraint_release(again);
    char schema[64];
    for (int i = 0; i < 100; i++) { /* more than are kept */
        snprintf(schema, sizeof schema, "{\"const\":%d}", i);
        assert_ok(mw_grammar_compile(grammar, schema, &c));
        mw_constraint_release(c);
    }
}

/* Threads that compile the same few schemas and walk in them. */
static void *walk(void *arg) {
    uint64_t rng = (uint64_t)(uintptr_t)arg;
    static const char *const schemas[] = {"{}", "{\"type\":\"object\"}", "{\"type\":\"array\",\"minItems\":3}",
                                          "{\"type\":\"string\",\"maxLength\":9}", "{\"type\":\"integer\"}"};
    for (int i = 0; i < 60; i++) {
        mw_constraint *c = NULL;
        mw_constraint_state s = {0};
        uint32_t mask[64];
        rng = rng * UINT64_C(6364136223846793005) + 1;
        if (mw_grammar_compile(grammar, schemas[(rng >> 33) % 5], &c) != MW_OK) return arg;
        if (mw_constraint_begin(c, &s) != MW_OK) return arg;
        mw_constraint_release(c); /* the state has its own */
        for (int k = 0; k < 20 && !s.exhausted; k++) {
            if (mw_constraint_mask(&s, false, mask) != MW_OK) return arg;
            int32_t t = (int32_t)((rng >> 20) % 899);
            while (!(mask[t / 32] >> (t % 32) & 1)) t = (t + 1) % 899;
            if (mw_constraint_accept(&s, t) != MW_OK) return arg;
        }
        mw_constraint_free(&s);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    pthread_t thread[4];
    for (uintptr_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, walk, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(thread[i], &failed);
        assert_null(failed);
    }
}

static int set_up(void **state) {
    (void)state;
    static const int32_t eos[] = {899};
    json_t *goldens = load_goldens();
    tokenizer = open_case(goldens, "qwen2");
    json_decref(goldens);
    return mw_grammar_open(&grammar, tokenizer, 1000, eos, 1) != MW_OK;
}

static int tear_down(void **state) {
    (void)state;
    mw_grammar_close(grammar);
    mw_tokenizer_close(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),          cmocka_unit_test(test_types),   cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_strings),       cmocka_unit_test(test_objects), cmocka_unit_test(test_combinations),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_hostile), cmocka_unit_test(test_much_merging),
        cmocka_unit_test(test_missing_bytes), cmocka_unit_test(test_end),     cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
