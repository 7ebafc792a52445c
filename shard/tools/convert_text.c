#include "shard/tools/convert_text.h"

#include <stdio.h>
#include <string.h>

#include "worker/base/io.h"
#include "worker/base/log.h"
#include "worker/text/chat.h"
#include "worker/text/tokenizer.h"

#define MAX_TEXT (64u << 20)

void mw_texts_free(mw_texts *t) {
    mw_str_free(&t->config);
    mw_str_free(&t->generation);
    mw_str_free(&t->quantize);
    mw_str_free(&t->tokenizer);
    mw_str_free(&t->tokenizer_config);
    mw_str_free(&t->chat_template);
    *t = (mw_texts){0};
}

/* The file appended to *out; an absent one leaves it empty. */
static mw_status read_optional(const char *dir, const char *name, mw_str *out) {
    mw_str path = {0};
    mw_status st = mw_str_addf(&path, "%s/%s", dir, name);
    if (st == MW_OK && mw_exists(path.p)) st = mw_read_regular(path.p, MAX_TEXT, out);
    mw_str_free(&path);
    return st;
}

static mw_status read_required(const char *dir, const char *name, const char *hint, mw_str *out) {
    mw_status st = read_optional(dir, name, out);
    if (st == MW_OK && !out->p) return MW_FAIL(MW_ERR_NOINPUT, "%s/%s: is missing%s", dir, name, hint);
    return st;
}

/* The template inside tokenizer_config.json: a string, or the entry "default" of a list of {name, template}. */
static mw_status template_of_config(mw_texts *t) {
    mw_status st = MW_OK;
    json_t *root = NULL;
    if (!t->tokenizer_config.p) return MW_OK;
    MW_TRY(st, mw_json_load(&root, MW_TEXT_TOKENIZER_CONFIG, t->tokenizer_config.p, t->tokenizer_config.n));
    const json_t *v = json_object_get(root, "chat_template");
    if (json_is_array(v)) {
        const json_t *named = NULL;
        for (size_t i = 0; i < json_array_size(v); i++) {
            const json_t *e = json_array_get(v, i);
            const char *name = json_string_value(json_object_get(e, "name"));
            if (name && strcmp(name, "default") == 0) named = json_object_get(e, "template");
        }
        v = named;
    }
    if (json_is_string(v)) MW_TRY(st, mw_str_add(&t->chat_template, json_string_value(v), json_string_length(v)));
fail:
    json_decref(root);
    return st;
}

mw_status mw_texts_read(mw_texts *t, const char *dir, bool with_tokenizer) {
    static const char *const quantize[] = {"quantize_config.json", "quant_config.json"};
    mw_status st = MW_OK;
    *t = (mw_texts){.quantize_name = quantize[0], .chat = "none"};
    if (!mw_is_dir(dir)) return MW_FAIL(MW_ERR_NOINPUT, "%s: is not a folder", dir);
    MW_TRY(st, read_required(dir, MW_TEXT_CONFIG, "", &t->config));
    MW_TRY(st, read_optional(dir, MW_TEXT_GENERATION_CONFIG, &t->generation));
    for (int i = 0; i < 2 && !t->quantize.p; i++) {
        t->quantize_name = quantize[i];
        MW_TRY(st, read_optional(dir, quantize[i], &t->quantize));
    }
    if (!with_tokenizer) return MW_OK;
    MW_TRY(st, read_required(dir, MW_TEXT_TOKENIZER, "; --no-tokenizer converts without one", &t->tokenizer));
    MW_TRY(st, read_optional(dir, MW_TEXT_TOKENIZER_CONFIG, &t->tokenizer_config));
    MW_TRY(st, read_optional(dir, "chat_template.jinja", &t->chat_template));
    if (!t->chat_template.p) MW_TRY(st, template_of_config(t));
    return MW_OK;
fail:
    mw_texts_free(t);
    return st;
}

mw_status mw_texts_config(const mw_texts *t, const char *dir, mw_hf_config *out) {
    mw_status st =
        mw_hf_config_parse(out, (mw_hf_text){t->config.p, t->config.n}, (mw_hf_text){t->quantize.p, t->quantize.n},
                           t->quantize_name, (mw_hf_text){t->generation.p, t->generation.n});
    if (st != MW_OK) mw_error_prefix("%s", dir);
    return st;
}

static mw_status check_tokenizer(const mw_texts *t, const char *dir, int64_t vocab) {
    mw_tokenizer *tok = NULL;
    mw_status st = mw_tokenizer_open(&tok, t->tokenizer.p, t->tokenizer.n);
    if (st != MW_OK) {
        mw_error_prefix("%s/%s", dir, MW_TEXT_TOKENIZER);
        return st;
    }
    if (mw_tokenizer_size(tok) > vocab)
        st = MW_FAIL(MW_ERR_FORMAT, "%s/%s: has ids up to %d, but the model's vocab_size is %lld", dir,
                     MW_TEXT_TOKENIZER, mw_tokenizer_size(tok) - 1, (long long)vocab);
    mw_tokenizer_close(tok);
    return st;
}

/* bos_token or eos_token: a string, or an object with "content". */
static const char *token_text(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* MW_OK when conversations of the usual shapes render. */
static mw_status check_chat(const mw_texts *t) {
    mw_status st = MW_OK;
    json_t *root = NULL;
    mw_chat *chat = NULL;
    if (t->tokenizer_config.p)
        MW_TRY(st, mw_json_load(&root, MW_TEXT_TOKENIZER_CONFIG, t->tokenizer_config.p, t->tokenizer_config.n));
    MW_TRY(st, mw_chat_open(&chat, t->chat_template.p, t->chat_template.n, token_text(root, "bos_token"),
                            token_text(root, "eos_token")));
    MW_TRY(st, mw_chat_probe(chat));
fail:
    mw_chat_close(chat);
    json_decref(root);
    return st;
}

mw_status mw_texts_check(mw_texts *t, const char *dir, int64_t vocab) {
    if (!t->tokenizer.p) return MW_OK;
    mw_status st = check_tokenizer(t, dir, vocab);
    if (st != MW_OK || !t->chat_template.n) return st;
    if (check_chat(t) == MW_OK) {
        snprintf(t->chat, sizeof t->chat, "template");
        return MW_OK;
    }
    size_t n = (size_t)snprintf(t->chat, sizeof t->chat, "refused: %s", mw_error_text());
    if (n >= sizeof t->chat) { /* cut before the last character: it may be incomplete UTF-8 */
        n = sizeof t->chat - 1;
        while (n > 0 && ((unsigned char)t->chat[n - 1] & 0xc0) == 0x80) n--;
        t->chat[n ? n - 1 : 0] = 0;
    }
    mw_warn("chat template not usable (%s); completion works, chat will be refused", mw_error_text());
    return MW_OK;
}

mw_status mw_texts_write(const mw_texts *t, const mw_st_folder *folder, mw_writer *w) {
    mw_status st = MW_OK;
    mw_str files = {0};
    const struct {
        const char *name;
        const mw_str *text;
    } list[] = {{MW_TEXT_CONFIG, &t->config},
                {MW_TEXT_GENERATION_CONFIG, &t->generation},
                {MW_TEXT_TOKENIZER, &t->tokenizer},
                {MW_TEXT_TOKENIZER_CONFIG, &t->tokenizer_config},
                {MW_TEXT_CHAT_TEMPLATE, &t->chat_template},
                {MW_TEXT_SOURCE_FILES, &files}};
    MW_TRY(st, mw_st_describe_files(folder, &files));
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].text->n) MW_TRY(st, mw_writer_text(w, list[i].name, list[i].text->p, list[i].text->n));
fail:
    mw_str_free(&files);
    return st;
}
