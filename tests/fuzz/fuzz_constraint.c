/* fuzz_constraint.c - libFuzzer target: up to a zero byte a JSON Schema, behind it an answer.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined ... tests/fuzz/fuzz_constraint.c, linked with mw_text and mw_base
 * Whatever the bytes are, the schema is refused or compiled within its limits, a byte that is not allowed is refused
 * and leaves the state as it was, and what is complete is JSON. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/constraint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char tokenizer_json[] = "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
                                     "\"normalizer\":null,\"pre_tokenizer\":"
                                     "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_"
                                     "regex\":true},\"post_processor\":null,"
                                     "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":"
                                     "true,\"use_regex\":true},\"model\":{"
                                     "\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_"
                                     "prefix\":null,\"end_of_word_suffix\":null,"
                                     "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{\"a\":0,\"\\\"\":1,\"{\":2,"
                                     "\"}\":3,\"{\\\"\":4,\"1\":5,\"},\":6},"
                                     "\"merges\":[]}}";

static void drive(mw_constraint *c, const uint8_t *text, size_t n) {
    mw_constraint_state s = {0};
    mw_str out = {0};
    uint32_t mask[1];
    if (mw_constraint_begin(c, &s) != MW_OK) return;
    for (size_t i = 0; i < n && !s.exhausted; i++) {
        mw_status st = mw_constraint_accept_text(&s, (const char *)text + i, 1);
        if (st == MW_OK) st = mw_str_add(&out, text + i, 1);
        if (st != MW_OK && st != MW_ERR_USAGE) break;
        st = mw_constraint_mask(&s, true, mask);
        if (st != MW_OK && st != MW_ERR_UNSUPPORTED) break;
        for (int32_t t = 0; t < 7 && st == MW_OK; t++) {
            mw_constraint_state copy = {0};
            if (mw_constraint_copy(&s, &copy) != MW_OK) continue;
            bool taken = mw_constraint_accept(&copy, t) == MW_OK;
            if (taken != (mask[0] >> t & 1)) abort();
            mw_constraint_free(&copy);
        }
    }
    json_t *value = s.complete ? json_loadb(out.p, out.n, JSON_DECODE_ANY, NULL) : NULL;
    if (s.complete && !value) abort();
    json_decref(value);
    mw_constraint_free(&s);
    mw_str_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mw_grammar *g;
    static mw_tokenizer *t;
    if (!g && (mw_tokenizer_open(&t, tokenizer_json, sizeof tokenizer_json - 1) != MW_OK ||
               mw_grammar_open(&g, t, 7, NULL, 0) != MW_OK))
        abort(); /* a fault of this file */
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    char *schema = strndup((const char *)data, n);
    mw_constraint *c = NULL;
    mw_status st = schema ? mw_grammar_compile(g, schema, &c) : MW_ERR_NOMEM;
    free(schema);
    if (st == MW_ERR_INTERNAL) abort();
    if (st != MW_OK) return 0;
    if (zero) drive(c, zero + 1, size - n - 1);
    mw_constraint_release(c);
    return 0;
}
