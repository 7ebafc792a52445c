/* worker/text/tok_bpe.h - byte pair encoding: one pre-token to ids.
 *
 * A pre-token begins as units (bytes, or characters) that each are a token; then the adjacent pair of lowest rank,
 * leftmost first among equals, becomes one token until no pair has a merge. Short pre-tokens scan for the best pair,
 * long ones keep a heap, so n units cost O(n log n).
 */
#ifndef MW_TEXT_TOK_BPE_H
#define MW_TEXT_TOK_BPE_H
#include "worker/text/tok_vocab.h"
MW_BEGIN_DECLS

/* The GPT-2 alphabet: a printable character for every byte, the byte's own where it is printable in Latin-1. */
static inline uint32_t mw_tok_byte_char(unsigned char b) {
    if (b <= 0x20) return 0x100u + b;
    if (b >= 0x7F && b <= 0xA0) return 0x100u + 33 + (b - 0x7Fu);
    return b == 0xAD ? 0x100 + 67 : b;
}
/* The byte of a character of the alphabet, or -1. */
static inline int mw_tok_char_byte(uint32_t c) {
    if (c < 0x100) return mw_tok_byte_char((unsigned char)c) == c ? (int)c : -1;
    if (c <= 0x120) return (int)c - 0x100;
    return c <= 0x120 + 34 ? (int)c - 0x121 + 0x7F : c == 0x100 + 67 ? 0xAD : -1;
}

/* Filled by tok_model.c, then mw_tok_bpe_ready; immutable after. */
typedef struct mw_tok_bpe {
    mw_tok_names vocab;
    mw_tok_merges merges;
    bool byte_units;    /* units are bytes in the GPT-2 alphabet; otherwise characters */
    bool byte_fallback; /* an unknown character becomes its bytes' <0xHH> tokens, if all exist */
    bool fuse_unk, ignore_merges;
    int32_t unk;           /* -1: unknown units vanish, as in the reference */
    int32_t unit[256];     /* byte units: the byte's token; else the ASCII character's; -1: none */
    int32_t fallback[256]; /* <0xHH>, -1: none */
    char alphabet[256][2]; /* UTF-8 of mw_tok_byte_char */
    uint8_t alphabet_n[256];
    bool cut_at_space; /* no merge joins another character with a U+2581 behind it: words may be merged one by one */
} mw_tok_bpe;

void mw_tok_bpe_free(mw_tok_bpe *b);

/* After vocab, merges and flags are set: fills the rest. unk_token NULL: none. MW_ERR_FORMAT: unk_token is unknown and
 * some unit may need it. */
MW_MUST_CHECK mw_status mw_tok_bpe_ready(mw_tok_bpe *b, const char *unk_token, size_t unk_n);

/* Working memory of one call; {0} is valid. */
typedef struct mw_tok_bpe_work {
    int32_t *id; /* [cap] units, then tokens */
    uint32_t *prev, *next;
    size_t cap;
    struct mw_tok_heap_item *heap;
    size_t heap_n, heap_cap;
    struct mw_tok_cached *cache; /* [cache_mask + 1], or NULL */
    uint32_t cache_mask;
    mw_str mapped;
} mw_tok_bpe_work;
void mw_tok_bpe_work_free(mw_tok_bpe_work *w);

/* A cache of words for a text of n bytes. Without it everything works, slower. */
MW_MUST_CHECK mw_status mw_tok_bpe_work_cache(mw_tok_bpe_work *w, size_t n);

/* Ids of one pre-token (valid UTF-8) appended to *out, which one text's calls share: the cache points into it. */
MW_MUST_CHECK mw_status mw_tok_bpe_encode(const mw_tok_bpe *b, mw_tok_bpe_work *w, const char *p, size_t n,
                                          mw_ids *out);

MW_END_DECLS
#endif
