/* worker/text/tok_decode.h - the "decoder" of tokenizer.json: what text each id stands for, worked out when the file is
 * opened. The functions on ids are in tokenizer.h.
 *
 * Two kinds. ByteLevel: a token is bytes, the text is what the bytes of all tokens spell. Otherwise a token is text
 * after Replace or Metaspace; with ByteFallback a run of <0xHH> tokens spells characters if the whole run is valid
 * UTF-8 and is one U+FFFD a token if not; Strip takes characters off the front of it all.
 */
#ifndef MW_TEXT_TOK_DECODE_H
#define MW_TEXT_TOK_DECODE_H
#include "worker/text/tok_added.h"
MW_BEGIN_DECLS

typedef struct mw_tok_replace {
    mw_str pattern, content;
} mw_tok_replace;

enum {                 /* flags of an id */
       MW_TOK_HAS = 1, /* there is such a token */
       MW_TOK_SPECIAL = 2,
       MW_TOK_BYTE = 4,       /* it is a <0xHH> token */
       MW_TOK_FIRST_BYTE = 8, /* the same, as the first token of a text */
};

typedef struct mw_tok_decoder {
    bool byte_level, byte_fallback, fused;
    mw_tok_replace replace[MW_TOK_MAX_STEPS];
    int n_replace;
    bool drop_first; /* Metaspace: in the first token replace[0].pattern becomes nothing, not its content */
    char strip[4];   /* the character, UTF-8, and how often at most */
    int strip_n, strip_max;

    int32_t size;             /* one past the largest id */
    mw_str bytes;             /* of all pieces */
    mw_tok_span *piece;       /* [size] */
    mw_tok_span *first_piece; /* [size] as the first token, where drop_first; else NULL */
    uint8_t *flags;           /* [size] */
} mw_tok_decoder;

/* json: the value of "decoder". *out must be {0}; free it also after an error. */
MW_MUST_CHECK mw_status mw_tok_decoder_parse(mw_tok_decoder *out, const json_t *json);
/* Fills the tables. */
MW_MUST_CHECK mw_status mw_tok_decoder_index(mw_tok_decoder *d, const mw_tok_names *vocab, const mw_tok_added *added);
void mw_tok_decoder_free(mw_tok_decoder *d);

MW_END_DECLS
#endif
