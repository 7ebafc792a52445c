/* worker/text/tok_private.h - what a tokenizer is made of. For tokenizer.c and tok_decode.c only. */
#ifndef MW_TEXT_TOK_PRIVATE_H
#define MW_TEXT_TOK_PRIVATE_H
#include "worker/text/tok_added.h"
#include "worker/text/tok_bpe.h"
#include "worker/text/tok_decode.h"
#include "worker/text/tok_norm.h"
#include "worker/text/tok_split.h"
#include "worker/text/tokenizer.h"
MW_BEGIN_DECLS

struct mw_tokenizer {
    mw_tok_norm norm;
    mw_tok_split split;
    mw_tok_bpe bpe;
    mw_tok_added added;
    mw_tok_decoder decoder;
    mw_ids before, after; /* what the post-processor puts around a text */
};

/* tok_model.c: the value of "model". b->byte_units must be set. */
MW_MUST_CHECK mw_status mw_tok_model_parse(mw_tok_bpe *b, const json_t *json);

/* tok_post.c: the value of "post_processor", null or NULL for none. */
MW_MUST_CHECK mw_status mw_tok_post_parse(mw_ids *before, mw_ids *after, const json_t *json);

MW_END_DECLS
#endif
