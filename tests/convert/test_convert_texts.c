/* The text files of a folder: kept byte by byte, and judged at conversion: a tokenizer that we would misread refuses
 * the model, a chat template that we cannot render costs only the chat. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/convert/truth.h"

static const char *g_dir;

#define TOKENIZER(type, vocab)                                                                                         \
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,"               \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"  \
    "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"     \
    "\"use_regex\":true},\"model\":{\"type\":\"" type "\",\"dropout\":null,\"unk_token\":null,"                        \
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"       \
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":" vocab "},\"merges\":[\"a b\"]}}"

#define TEMPLATE "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"

static int setup(void **state) {
    (void)state;
    static truth t;
    const spec s = {.family = "llama",
                    .format = F_GPTQ,
                    .group = 128,
                    .scale_dtype = MW_F16,
                    .dense_dtype = MW_F16,
                    .norm_dtype = MW_F16,
                    .n_files = 2,
                    .seed = 21};
    g_dir = temp_folder();
    truth_make(&t, &s);
    truth_write(&t, g_dir);
    truth_free(&t);
    return 0;
}

/* The folder's texts become exactly these; NULL: absent. */
static void set_texts(const char *tokenizer, const char *config, const char *jinja) {
    const struct {
        const char *name, *text;
    } list[] = {{"tokenizer.json", tokenizer}, {"tokenizer_config.json", config}, {"chat_template.jinja", jinja}};
    for (int i = 0; i < 3; i++) {
        unlink(path_of(g_dir, list[i].name));
        if (list[i].text) write_text(g_dir, list[i].name, list[i].text);
    }
}

/* Convert; the model file, open. *output: what was said. */
static mw_ckpt *converted(const char **output, const char *flag) {
    char out[512];
    snprintf(out, sizeof out, "%s", path_of(temp_folder(), "m.h5"));
    int rc = convert(output, g_dir, "-o", out, flag, NULL);
    if (rc) fail_msg("exit code %d: %s", rc, *output);
    mw_ckpt *c = NULL;
    if (mw_ckpt_open(&c, out) != MW_OK) fail_msg("%s", mw_error_text());
    return c;
}

static void refused(int code, const char *text) {
    const char *output, *dir = temp_folder();
    int rc = convert(&output, g_dir, "-o", path_of(dir, "m.h5"), NULL);
    if (rc != code || !strstr(output, text)) fail_msg("exit code %d, '%s'; expected %d, '%s'", rc, output, code, text);
    assert_int_equal(count_entries(dir), 0);
}

static void has_text(const mw_ckpt *c, const char *name, const char *want) {
    mw_str s = {0};
    assert_int_equal(mw_ckpt_has_text(c, name), want != NULL);
    if (!want) return;
    assert_int_equal(mw_ckpt_text(c, name, &s), MW_OK);
    assert_string_equal(s.p, want);
    mw_str_free(&s);
}

static void test_kept(void **state) {
    (void)state;
    static const char config[] = "{\"bos_token\":{\"content\":\"<s>\"},\"chat_template\":\"" TEMPLATE "\"}";
    const char *output;
    set_texts(TOKENIZER("BPE", "2"), config, NULL);
    write_text(g_dir, "generation_config.json", "{\"eos_token_id\": [7, 8]}");
    mw_ckpt *c = converted(&output, NULL);
    char *source = read_all(path_of(g_dir, "config.json"), NULL);
    has_text(c, "config.json", source);
    has_text(c, "tokenizer.json", TOKENIZER("BPE", "2"));
    has_text(c, "tokenizer_config.json", config);
    has_text(c, "chat_template", TEMPLATE);
    has_text(c, "generation_config.json", "{\"eos_token_id\": [7, 8]}");
    assert_string_equal(mw_ckpt_attr(c, "chat"), "template");
    assert_string_equal(mw_ckpt_attr(c, "source_format"), "gptq");
    assert_string_equal(mw_ckpt_attr(c, "source_name"), strrchr(g_dir, '/') + 1);
    assert_non_null(strstr(mw_ckpt_attr(c, "creator"), "marlin-convert"));
    assert_int_equal(mw_ckpt_config(c)->n_eos, 2);
    assert_int_equal(mw_ckpt_config(c)->eos_id[1], 8);
    free(source);
    unlink(path_of(g_dir, "generation_config.json"));

    mw_str files = {0};
    assert_int_equal(mw_ckpt_text(c, "source_files.json", &files), MW_OK);
    json_t *list = json_loads(files.p, 0, NULL);
    assert_int_equal(json_array_size(list), 2);
    const json_t *first = json_array_get(list, 0);
    size_t n;
    free(read_all(path_of(g_dir, json_string_value(json_object_get(first, "name"))), &n));
    assert_int_equal(json_integer_value(json_object_get(first, "bytes")), n);
    assert_int_equal(strlen(json_string_value(json_object_get(first, "header_xxh3"))), 16);
    json_decref(list);
    mw_str_free(&files);
    mw_ckpt_close(c);
}

static void test_template_forms(void **state) {
    (void)state;
    const char *output;
    /* the file goes before the config */
    set_texts(TOKENIZER("BPE", "2"), "{\"chat_template\":\"old\"}", TEMPLATE);
    mw_ckpt *c = converted(&output, NULL);
    has_text(c, "chat_template", TEMPLATE);
    mw_ckpt_close(c);
    /* a list: the one named default */
    set_texts(TOKENIZER("BPE", "2"),
              "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},"
              "{\"name\":\"default\",\"template\":\"" TEMPLATE "\"}]}",
              NULL);
    c = converted(&output, NULL);
    has_text(c, "chat_template", TEMPLATE);
    mw_ckpt_close(c);
    set_texts(TOKENIZER("BPE", "2"), "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"no\"}]}", NULL);
    c = converted(&output, NULL);
    has_text(c, "chat_template", NULL);
    assert_string_equal(mw_ckpt_attr(c, "chat"), "none");
    mw_ckpt_close(c);
    set_texts(TOKENIZER("BPE", "2"), NULL, NULL);
    c = converted(&output, NULL);
    assert_string_equal(mw_ckpt_attr(c, "chat"), "none");
    mw_ckpt_close(c);
}

static void test_template_refused(void **state) {
    (void)state;
    const char *output;
    set_texts(TOKENIZER("BPE", "2"), NULL, "{% include 'other' %}");
    mw_ckpt *c = converted(&output, NULL);
    assert_non_null(strstr(output, "warning: chat template not usable ("));
    assert_non_null(strstr(output, "completion works, chat will be refused"));
    assert_int_equal(strncmp(mw_ckpt_attr(c, "chat"), "refused: ", 9), 0);
    has_text(c, "chat_template", "{% include 'other' %}");
    mw_ckpt_close(c);
}

static void test_tokenizers(void **state) {
    (void)state;
    const char *output;
    set_texts(TOKENIZER("WordPiece", "2"), NULL, NULL);
    refused(67, "tokenizer.json: ");
    refused(67, "WordPiece");
    set_texts("{\"model\":", NULL, NULL);
    refused(65, "tokenizer.json: ");
    set_texts(TOKENIZER("BPE", "100000"), NULL, NULL);
    refused(65, "tokenizer.json: has ids up to 100000, but the model's vocab_size is");
    set_texts(TOKENIZER("BPE", "2"), "{", NULL);
    refused(65, "tokenizer_config.json: broken JSON");
    set_texts(NULL, NULL, NULL);
    refused(66, "tokenizer.json: is missing; --no-tokenizer converts without one");
    /* without one, whatever it is */
    set_texts(TOKENIZER("WordPiece", "2"), "{", "{% include 'x' %}");
    mw_ckpt *c = converted(&output, "--no-tokenizer");
    has_text(c, "tokenizer.json", NULL);
    has_text(c, "tokenizer_config.json", NULL);
    has_text(c, "chat_template", NULL);
    assert_string_equal(mw_ckpt_attr(c, "chat"), "none");
    mw_ckpt_close(c);
}

/* What an export writes is read again, texts and all. */
static void test_export_keeps_texts(void **state) {
    (void)state;
    const char *out = temp_folder(), *output;
    char model[512], folder[512];
    snprintf(model, sizeof model, "%s/m.h5", out);
    snprintf(folder, sizeof folder, "%s/st", out);
    set_texts(TOKENIZER("BPE", "2"), "{\"bos_token\":\"<s>\"}", TEMPLATE);
    assert_int_equal(convert(&output, g_dir, "-o", model, NULL), 0);
    assert_int_equal(convert(&output, "--to-safetensors", model, "-o", folder, NULL), 0);
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    for (int i = 0; i < 3; i++) {
        char *a = read_all(path_of(g_dir, names[i]), NULL), *b = read_all(path_of(folder, names[i]), NULL);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    assert_int_equal(convert(&output, folder, "-o", path_of(out, "again.h5"), NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_template_forms),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_template_refused),
        cmocka_unit_test(test_export_keeps_texts),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
