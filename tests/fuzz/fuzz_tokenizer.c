/* libFuzzer target: a tokenizer.json, a byte FF (which no JSON holds), and a text.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. tests/fuzz/fuzz_tokenizer.c worker/base/mem.c \
 *     worker/base/status.c worker/base/log.c worker/base/env.c worker/text/tok*.c -ljansson -lpcre2-8 -lutf8proc
 *
 * Besides what the sanitizers see: every id that encode gives can be decoded, and streaming gives the text that
 * decoding at once gives.
 */
#include <stdlib.h>
#include <string.h>

#include "worker/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok) {
    if (!ok) __builtin_trap();
}

static void check_decode(const mw_tokenizer *t, const mw_ids *ids, bool skip) {
    mw_str whole = {0}, stream = {0};
    mw_detok d;
    check(mw_tokenizer_decode(t, ids->p, ids->n, skip, &whole) == MW_OK);
    mw_detok_init(&d, t, skip);
    for (size_t i = 0; i < ids->n; i++) check(mw_detok_push(&d, ids->p[i], &stream) == MW_OK);
    check(mw_detok_flush(&d, &stream) == MW_OK);
    check(stream.n == whole.n && (whole.n == 0 || memcmp(stream.p, whole.p, whole.n) == 0));
    mw_str_free(&whole);
    mw_str_free(&stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *cut = size ? memchr(data, 0xFF, size) : NULL;
    size_t json_n = cut ? (size_t)(cut - data) : size;
    const char *text = cut ? (const char *)cut + 1 : "the <s> a\xCC\x81 12";
    size_t text_n = cut ? size - json_n - 1 : strlen(text);
    mw_tokenizer *t = NULL;
    if (mw_tokenizer_open(&t, (const char *)data, json_n) != MW_OK) return 0;
    for (unsigned flags = 0; flags < 4; flags++) {
        mw_ids ids = {0};
        if (mw_tokenizer_encode(t, text, text_n, flags, &ids) == MW_OK) {
            check_decode(t, &ids, false);
            check_decode(t, &ids, true);
        }
        mw_ids_free(&ids);
    }
    mw_ids all = {0};
    for (int32_t id = 0; id < mw_tokenizer_size(t) && id < 4096; id++) {
        mw_str piece = {0};
        if (mw_tokenizer_piece(t, id, &piece) == MW_OK) check(mw_ids_add(&all, id) == MW_OK);
        mw_str_free(&piece);
    }
    check_decode(t, &all, false);
    mw_ids_free(&all);
    mw_tokenizer_close(t);
    return 0;
}
