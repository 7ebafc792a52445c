/* worker/text/tokenizer.h - text to token ids and back, from a Hugging Face tokenizer.json.
 *
 * Two kinds: byte-level BPE (GPT-2 alphabet; the split regex comes from the file) and sentencepiece-style BPE with byte
 * fallback (Llama-2, Mistral). Anything else in the file is refused by name (MW_ERR_UNSUPPORTED), never approximated.
 * A tokenizer is immutable after open: any number of threads may encode and decode with it.
 * Text is UTF-8. Invalid UTF-8 in a prompt is replaced by U+FFFD, as Python's errors="replace" does.
 * Source of the format: the tokenizers library's own serialisation (docs/FORMAT.md names the fields we read).
 */
#ifndef MW_TEXT_TOKENIZER_H
#define MW_TEXT_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

typedef struct mw_tokenizer mw_tokenizer;

/* json: the bytes of tokenizer.json (not kept). MW_ERR_FORMAT: broken JSON or fields; MW_ERR_UNSUPPORTED names the
 * part. */
MW_MUST_CHECK mw_status mw_tokenizer_open(mw_tokenizer **out, const char *json, size_t n);
void mw_tokenizer_close(mw_tokenizer *t); /* NULL allowed */

enum {
    MW_TOK_ADD_SPECIAL = 1,   /* what the post-processor adds around a single sequence (Llama: BOS) */
    MW_TOK_PARSE_SPECIAL = 2, /* special added tokens written in the text become their ids; without it they are text.
                                 Non-special added tokens are always matched. */
};
/* Ids appended to *out. */
MW_MUST_CHECK mw_status mw_tokenizer_encode(const mw_tokenizer *t, const char *text, size_t n, unsigned flags,
                                            mw_ids *out);

/* Text of the ids appended to *out, incomplete UTF-8 at the end as U+FFFD. skip_special drops special tokens.
 * An id outside the vocabulary is MW_ERR_USAGE. */
MW_MUST_CHECK mw_status mw_tokenizer_decode(const mw_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                                            mw_str *out);

/* One past the largest id that has a text (may be smaller than the model's padded vocabulary). */
int32_t mw_tokenizer_size(const mw_tokenizer *t);
/* Id of a token's exact content ("<|eot_id|>"), or -1. Looks at added tokens first, then at the vocabulary. */
int32_t mw_tokenizer_id(const mw_tokenizer *t, const char *content);
bool mw_tokenizer_is_special(const mw_tokenizer *t, int32_t id);
/* The raw bytes one token stands for inside a text (special tokens: their content), appended to *out. For logprobs
 * and for constrained decoding. */
MW_MUST_CHECK mw_status mw_tokenizer_piece(const mw_tokenizer *t, int32_t id, mw_str *out);

/* Streaming: ids in, text out as soon as it is certain. Holds back incomplete UTF-8 and, for byte fallback, a run of
 * <0xHH> tokens until it ends, since only the whole run tells whether it is text. The concatenation of all pushes and
 * the final flush is mw_tokenizer_decode of all ids. */
typedef struct mw_detok {
    const mw_tokenizer *t;
    bool skip_special;
    bool started;          /* a token has been pushed */
    int to_strip;          /* characters that the decoder may still take off the front of the text */
    unsigned char held[8]; /* an incomplete UTF-8 sequence */
    int n_held;
    mw_str run; /* bytes of the <0xHH> tokens in a row */
} mw_detok;
void mw_detok_init(mw_detok *d, const mw_tokenizer *t, bool skip_special);
MW_MUST_CHECK mw_status mw_detok_push(mw_detok *d, int32_t id, mw_str *out);
/* What was held back; the object is then as after init, with nothing to free. */
MW_MUST_CHECK mw_status mw_detok_flush(mw_detok *d, mw_str *out);
/* For a stream that is given up without flush. */
void mw_detok_free(mw_detok *d);

MW_END_DECLS
#endif
