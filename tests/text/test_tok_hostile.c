/* Files that are broken, hostile or beyond what we take over are refused, each with its status and a text that names
 * the culprit; nothing leaks and nothing takes long (run under ASan, too). */
#include "tests/text/tok_cases.h"

/* A small file that opens; every row of the table below spoils one place of it. */
static const char BASE[] =
    "{'version':'1.0','truncation':null,'padding':null,"
    "'added_tokens':[{'id':6,'content':'<s>','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,"
    "'special':true}],"
    "'normalizer':{'type':'Sequence','normalizers':[{'type':'NFC'},{'type':'Replace','pattern':{'String':'x'},"
    "'content':'a'}]},"
    "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'Regex':'\\\\p{L}+'},"
    "'behavior':'Isolated','invert':false},{'type':'ByteLevel','add_prefix_space':false,'trim_offsets':true,"
    "'use_regex':false}]},"
    "'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>','type_id':0}},{'Sequence':"
    "{'id':'A','type_id':0}}],'pair':[],'special_tokens':{'<s>':{'id':'<s>','ids':[6],'tokens':['<s>']}}},"
    "'decoder':{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true,'use_regex':true},"
    "'model':{'type':'BPE','dropout':null,'unk_token':null,'continuing_subword_prefix':null,'end_of_word_suffix':'',"
    "'fuse_unk':false,'byte_fallback':false,'ignore_merges':false,'vocab':{'a':0,'b':1,'c':2,'ab':3,'abc':4,'bc':5},"
    "'merges':['a b','ab c',['b','c']]}}";
#define MERGES "'merges':['a b','ab c','b c']"

/* BASE, mended to be valid (its merges are of two kinds), with `from` become `to`; quotes are written '. */
static mw_str spoiled(const char *from, const char *to) {
    mw_str s = {0}, out = {0};
    const char *at = strstr(BASE, "'merges'");
    assert_ok(mw_str_add(&s, BASE, (size_t)(at - BASE)));
    assert_ok(mw_str_adds(&s, MERGES "}}"));
    if (from) {
        at = strstr(s.p, from);
        if (!at) fail_msg("no '%s' to spoil", from);
        assert_ok(mw_str_add(&out, s.p, (size_t)(at - s.p)));
        assert_ok(mw_str_adds(&out, to));
        assert_ok(mw_str_adds(&out, at + strlen(from)));
        mw_str_free(&s);
        s = out;
    }
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '\'') s.p[i] = '"';
    return s;
}

static void check_refused(const char *from, const char *to, mw_status status, const char *word) {
    mw_str s = spoiled(from, to);
    mw_tokenizer *t = NULL;
    mw_status st = mw_tokenizer_open(&t, s.p, s.n);
    if (st != status)
        fail_msg("%s -> %s: %s (%s), expected %s", from, to, mw_status_name(st), mw_error_text(),
                 mw_status_name(status));
    if (!strstr(mw_error_text(), word)) fail_msg("%s -> %s: '%s' does not say '%s'", from, to, mw_error_text(), word);
    if (!strstr(mw_error_text(), "tokenizer.json")) fail_msg("'%s' does not name the file", mw_error_text());
    assert_null(t);
    mw_str_free(&s);
}

static void test_base_opens(void **state) {
    mw_str s = spoiled(NULL, NULL);
    mw_tokenizer *t = NULL;
    mw_ids ids = {0};
    (void)state;
    assert_ok(mw_tokenizer_open(&t, s.p, s.n));
    assert_ok(mw_tokenizer_encode(t, "abcbc<s>x1", 10, ADD | PARSE, &ids));
    const int32_t want[] = {6, 4, 5, 6, 0}; /* the 1 is no token and vanishes, as in the reference */
    assert_int_equal(ids.n, 5);
    assert_memory_equal(ids.p, want, sizeof want);
    mw_ids_free(&ids);
    mw_tokenizer_close(t);
    mw_str_free(&s);
}

static void test_refused(void **state) {
    static const struct {
        const char *from, *to;
        mw_status status;
        const char *word;
    } row[] = {
        /* JSON */
        {"{'version'", "{{'version'", MW_ERR_FORMAT, "line 1"},
        {"}}", "}", MW_ERR_FORMAT, "line 1"},
        {"'1.0'", "'1.0','version':'1.0'", MW_ERR_FORMAT, "duplicate"},
        {"'a':0", "'a':99999999999999999999999", MW_ERR_FORMAT, "integer"},
        {"{'version':'1.0'", "[{'version':'1.0'", MW_ERR_FORMAT, "line 1"},
        /* the whole */
        {"'1.0'", "'2.0'", MW_ERR_UNSUPPORTED, "version"},
        {"'truncation':null", "'truncation':{'max_length':5}", MW_ERR_UNSUPPORTED, "truncation"},
        {"'padding':null", "'padding':{}", MW_ERR_UNSUPPORTED, "padding"},
        {"'version'", "'verse':1,'version'", MW_ERR_UNSUPPORTED, "verse"},
        {"'model':", "'model':null,'decoder2':", MW_ERR_UNSUPPORTED, "decoder2"},
        /* model */
        {"'type':'BPE'", "'type':'Unigram'", MW_ERR_UNSUPPORTED, "Unigram"},
        {"'dropout':null", "'dropout':0.1", MW_ERR_UNSUPPORTED, "dropout"},
        {"'continuing_subword_prefix':null", "'continuing_subword_prefix':'##'", MW_ERR_UNSUPPORTED,
         "continuing_subword"},
        {"'end_of_word_suffix':''", "'end_of_word_suffix':'</w>'", MW_ERR_UNSUPPORTED, "end_of_word_suffix"},
        {"'ignore_merges':false", "'ignore_merges':1", MW_ERR_FORMAT, "ignore_merges"},
        {"'ignore_merges':false", "'ignore_merge':false", MW_ERR_UNSUPPORTED, "'ignore_merge'"},
        {"'unk_token':null", "'unk_token':'<unk>'", MW_ERR_FORMAT, "<unk>"},
        {"'unk_token':null", "'unk_token':7", MW_ERR_FORMAT, "unk_token"},
        {"'byte_fallback':false", "'byte_fallback':true", MW_ERR_UNSUPPORTED, "byte_fallback"},
        {"'vocab':{", "'vocab':[],'v':{", MW_ERR_UNSUPPORTED, "'v'"},
        {"'a':0", "'a':'0'", MW_ERR_FORMAT, "'a'"},
        {"'a':0", "'a':-1", MW_ERR_LIMIT, "-1"},
        {"'a':0", "'a':16777217", MW_ERR_LIMIT, "16777217"},
        {"'a':0", "'a':9223372036854775807", MW_ERR_LIMIT, "9223372036854775807"},
        {"'a':0", "'a':0.5", MW_ERR_FORMAT, "'a'"},
        {"'b':1", "'b':0", MW_ERR_FORMAT, "two tokens"},
        {"'b':1", "'b':1,'':7", MW_ERR_FORMAT, "empty"},
        {MERGES, "'merges':{}", MW_ERR_FORMAT, "merges"},
        {MERGES, "'merges':[3]", MW_ERR_FORMAT, "merges[0]"},
        {MERGES, "'merges':['a b',['b','c']]", MW_ERR_FORMAT, "merges[1]"},
        {MERGES, "'merges':['a b','abc']", MW_ERR_FORMAT, "'abc'"},
        {MERGES, "'merges':['a b c']", MW_ERR_FORMAT, "two tokens"},
        {MERGES, "'merges':[['a']]", MW_ERR_FORMAT, "merges[0]"},
        {MERGES, "'merges':[['a',1]]", MW_ERR_FORMAT, "merges[0]"},
        {MERGES, "'merges':['a z']", MW_ERR_FORMAT, "'z'"},
        {MERGES, "'merges':['c a']", MW_ERR_FORMAT, "'ca'"},
        {"," MERGES, "", MW_ERR_FORMAT, "merges"},
        /* added tokens */
        {"'id':6", "'id':7", MW_ERR_FORMAT, "'<s>' has id 7"},
        {"'id':6", "'id':16777217", MW_ERR_LIMIT, "16777217"},
        {"'id':6", "'id':'6'", MW_ERR_FORMAT, "'id'"},
        {"'content':'<s>'", "'content':'ab'", MW_ERR_FORMAT, "vocabulary makes it 3"},
        {"'special':true", "'special':null", MW_ERR_FORMAT, "special"},
        {"'special':true", "'special':true,'more':1", MW_ERR_UNSUPPORTED, "more"},
        {"'lstrip':false,", "", MW_ERR_FORMAT, "lstrip"},
        {"'added_tokens':[", "'added_tokens':[[],", MW_ERR_FORMAT, "added_tokens[0]"},
        {"'added_tokens':[{",
         "'added_tokens':[{'id':6,'content':'<s>','single_word':false,'lstrip':false,'rstrip':false,"
         "'normalized':false,'special':true},{",
         MW_ERR_FORMAT, "id 6"},
        /* normalizer */
        {"'type':'NFC'", "'type':'Precompiled'", MW_ERR_UNSUPPORTED, "normalizer[0]: type 'Precompiled'"},
        {"'type':'NFC'", "'type':'Lowercase'", MW_ERR_UNSUPPORTED, "Lowercase"},
        {"'type':'NFC'", "'type':3", MW_ERR_FORMAT, "type"},
        {"{'String':'x'}", "'x'", MW_ERR_FORMAT, "pattern"},
        {"{'String':'x'}", "{'Glob':'x'}", MW_ERR_FORMAT, "String"},
        {"'content':'a'}", "'content':null}", MW_ERR_FORMAT, "content"},
        {"'normalizers':[", "'normalizers':5,'n':[", MW_ERR_UNSUPPORTED, "'n'"},
        /* pre-tokenizer */
        {"'type':'Split'", "'type':'BertPreTokenizer'", MW_ERR_UNSUPPORTED, "BertPreTokenizer"},
        {"'type':'Split'", "'type':'Whitespace'", MW_ERR_UNSUPPORTED, "Whitespace"},
        {"'Isolated'", "'Shuffled'", MW_ERR_UNSUPPORTED, "Shuffled"},
        {"'invert':false", "'invert':0", MW_ERR_FORMAT, "invert"},
        {"'use_regex':false}]", "'use_regex':false},{'type':'Digits','individual_digits':true}]", MW_ERR_UNSUPPORTED,
         "after ByteLevel"},
        {"'add_prefix_space':false,", "", MW_ERR_FORMAT, "add_prefix_space"},
        {"{'type':'Split'", "{'type':'Metaspace','replacement':'_','prepend_scheme':'first'},{'type':'Split'",
         MW_ERR_UNSUPPORTED, "first"},
        {"{'type':'Split'", "{'type':'Metaspace','replacement':'_','prepend_scheme':'last'},{'type':'Split'",
         MW_ERR_UNSUPPORTED, "last"},
        {"{'type':'Split'", "{'type':'Metaspace','replacement':'__'},{'type':'Split'", MW_ERR_FORMAT, "one character"},
        {"{'type':'Split'", "{'type':'Metaspace','replacement':'_','add_prefix_space':false},{'type':'Split'",
         MW_ERR_FORMAT, "contradicts"},
        /* post-processor */
        {"'TemplateProcessing'", "'Mystery'", MW_ERR_UNSUPPORTED, "Mystery"},
        {"'ids':[6]", "'ids':[5000000]", MW_ERR_FORMAT, "id"},
        {"'ids':[6]", "'ids':[7]", MW_ERR_FORMAT, "id 7"},
        {"'id':'A'", "'id':'B'", MW_ERR_UNSUPPORTED, "'B'"},
        {",{'Sequence':{'id':'A','type_id':0}}", "", MW_ERR_UNSUPPORTED, "0 times"},
        {"'special_tokens':{'<s>'", "'special_tokens':{'<t>'", MW_ERR_FORMAT, "'<s>'"},
        /* decoder */
        {"'decoder':{'type':'ByteLevel'", "'decoder':{'type':'WordPiece'", MW_ERR_UNSUPPORTED, "WordPiece"},
        {"'decoder':{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true,'use_regex':true}",
         "'decoder':null", MW_ERR_UNSUPPORTED, "decoder"},
        {"'decoder':{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true,'use_regex':true}",
         "'decoder':{'type':'Sequence','decoders':[{'type':'ByteFallback'},{'type':'Replace','pattern':{'String':'_'},'"
         "content':' '}]}",
         MW_ERR_UNSUPPORTED, "decoder[1]: type 'Replace'"},
        {"'decoder':{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true,'use_regex':true}",
         "'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Strip','content':' ','start':0,'stop':1}]}",
         MW_ERR_UNSUPPORTED, "stop 1"},
        {"'decoder':{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true,'use_regex':true}",
         "'decoder':{'type':'Strip','content':' ','start':1,'stop':0}", MW_ERR_UNSUPPORTED, "Strip"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        check_refused(row[i].from, row[i].to, row[i].status, row[i].word);
}

static void test_refused_regex(void **state) {
    static const struct {
        const char *regex; /* as JSON */
        mw_status status;
        const char *word;
    } row[] = {
        {"(", MW_ERR_FORMAT, "( without )"},
        {"a)", MW_ERR_FORMAT, ") without ("},
        {"[a", MW_ERR_FORMAT, "[ without ]"},
        {"[b-a]", MW_ERR_FORMAT, "empty range"},
        {"a\\\\", MW_ERR_FORMAT, "backslash"},
        {"\\\\p{L", MW_ERR_FORMAT, "without }"},
        {"\\\\x{110000}", MW_ERR_FORMAT, "no character"},
        {"\\\\u12", MW_ERR_FORMAT, "digits"},
        {"*a", MW_ERR_UNSUPPORTED, "nothing to repeat"},
        {"a**", MW_ERR_UNSUPPORTED, "nothing to repeat"},
        {"(?=a)+", MW_ERR_UNSUPPORTED, "nothing to repeat"},
        {"a{2}?", MW_ERR_UNSUPPORTED, "interval"},
        {"a{1,3}+", MW_ERR_UNSUPPORTED, "interval"},
        {"a{3,1}", MW_ERR_UNSUPPORTED, "n > m"},
        {"a{1001}", MW_ERR_LIMIT, "1000"},
        {"(?:(?:a{1000}){1000}){1000}", MW_ERR_UNSUPPORTED, "too large"},
        {"(?<n>a)", MW_ERR_UNSUPPORTED, "group"},
        {"(?m:a)", MW_ERR_UNSUPPORTED, "group"},
        {"(?i)a", MW_ERR_UNSUPPORTED, "group"},
        {"(a)\\\\1", MW_ERR_UNSUPPORTED, "\\1"},
        {"\\\\w+", MW_ERR_UNSUPPORTED, "\\w"},
        {"\\\\bfoo", MW_ERR_UNSUPPORTED, "\\b"},
        {"\\\\h", MW_ERR_UNSUPPORTED, "\\h"},
        {"\\\\xE9", MW_ERR_UNSUPPORTED, "single byte"},
        {"\\\\pL", MW_ERR_UNSUPPORTED, "\\p without {"},
        {"\\\\p{Emoji}", MW_ERR_UNSUPPORTED, "Emoji"},
        {"\\\\p{Cn}", MW_ERR_UNSUPPORTED, "Cn"},
        {"[[a]]", MW_ERR_UNSUPPORTED, "class inside a class"},
        {"[a&&b]", MW_ERR_UNSUPPORTED, "&&"},
        {"[]a]", MW_ERR_UNSUPPORTED, "begins with ]"},
        {"[a-\\\\d]", MW_ERR_UNSUPPORTED, "range to a set"},
        {"(?i:\\u00e9)", MW_ERR_UNSUPPORTED, "non-ASCII"},
        {"(?i:[\\u00e9])", MW_ERR_UNSUPPORTED, "non-ASCII"},
        {"(?i:miss)", MW_ERR_UNSUPPORTED, "folds into one"},
        {"(?i:\\\\p{Lu})", MW_ERR_UNSUPPORTED, "letter case"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        check_refused("\\\\p{L}+", row[i].regex, row[i].status, row[i].word);
    mw_str deep = {0};
    for (int i = 0; i < 60; i++) assert_ok(mw_str_adds(&deep, "(a"));
    check_refused("\\\\p{L}+", deep.p, MW_ERR_LIMIT, "nested");
    while (deep.n < 70000) assert_ok(mw_str_adds(&deep, "abcdefgh"));
    check_refused("\\\\p{L}+", deep.p, MW_ERR_LIMIT, "65536");
    mw_str_free(&deep);
}

/* Thousands of brackets, Sequences in Sequences, and a list with too many steps. */
static void test_deep(void **state) {
    mw_str s = {0};
    (void)state;
    for (int i = 0; i < 5000; i++) assert_ok(mw_str_adds(&s, "[{'a':"));
    check_refused("{'type':'NFC'}", s.p, MW_ERR_FORMAT, "depth");
    s.n = 0;
    for (int i = 0; i < 12; i++) assert_ok(mw_str_adds(&s, "{'type':'Sequence','normalizers':["));
    assert_ok(mw_str_adds(&s, "{'type':'NFC'}"));
    for (int i = 0; i < 12; i++) assert_ok(mw_str_adds(&s, "]}"));
    check_refused("{'type':'NFC'}", s.p, MW_ERR_LIMIT, "nested over 8");
    s.n = 0;
    for (int i = 0; i < 40; i++) assert_ok(mw_str_adds(&s, "{'type':'NFC'},"));
    assert_ok(mw_str_adds(&s, "{'type':'NFC'}"));
    check_refused("{'type':'NFC'}", s.p, MW_ERR_LIMIT, "more than 16");
    mw_str_free(&s);
}

/* An expression that backtracks without end gives up, and the output is as it was. */
static void test_backtracking(void **state) {
    static const char *const regex[] = {"(?:a+)+[bc]", "(?:a|a|a)*[bc]", "(?:\\\\p{L}+\\\\p{L}+)+[bc]"};
    char text[2000];
    (void)state;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'd';
    for (size_t i = 0; i < sizeof regex / sizeof *regex; i++) {
        mw_str s = spoiled("\\\\p{L}+", regex[i]);
        mw_tokenizer *t = NULL;
        mw_ids ids = {0};
        assert_ok(mw_tokenizer_open(&t, s.p, s.n));
        assert_ok(mw_ids_add(&ids, 5));
        assert_fails(mw_tokenizer_encode(t, text, sizeof text, ADD, &ids), MW_ERR_LIMIT, "pre_tokenizer[0]: regex");
        assert_int_equal(ids.n, 1);
        mw_ids_free(&ids);
        mw_tokenizer_close(t);
        mw_str_free(&s);
    }
}

/* Every beginning of the file, and random damage: refused or usable, never more than that. */
static void test_damage(void **state) {
    mw_str s = spoiled(NULL, NULL);
    uint64_t rng = 1;
    int opened = 0;
    (void)state;
    for (size_t n = 0; n < s.n; n++) {
        mw_tokenizer *t = NULL;
        assert_int_equal(mw_tokenizer_open(&t, s.p, n), MW_ERR_FORMAT);
    }
    for (int round = 0; round < 4000; round++) {
        char *copy = malloc(s.n);
        mw_tokenizer *t = NULL;
        mw_ids ids = {0};
        mw_str text = {0};
        memcpy(copy, s.p, s.n);
        for (int k = round % 3; k >= 0; k--) {
            rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            copy[(rng >> 33) % s.n] = s.p[(rng >> 13) % s.n];
        }
        if (mw_tokenizer_open(&t, copy, s.n) == MW_OK) {
            opened++;
            if (mw_tokenizer_encode(t, "abc x<s>\xFF 12 bcbc", 17, ADD | PARSE, &ids) == MW_OK)
                assert_ok(mw_tokenizer_decode(t, ids.p, ids.n, false, &text));
        }
        mw_tokenizer_close(t);
        mw_ids_free(&ids);
        mw_str_free(&text);
        free(copy);
    }
    assert_true(opened > 10); /* the damage is small enough to reach the inside */
    mw_str_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_opens), cmocka_unit_test(test_refused),      cmocka_unit_test(test_refused_regex),
        cmocka_unit_test(test_deep),       cmocka_unit_test(test_backtracking), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
