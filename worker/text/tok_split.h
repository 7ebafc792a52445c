/* worker/text/tok_split.h - the "pre_tokenizer" of tokenizer.json: text into the pre-tokens that BPE merges inside. */
#ifndef MW_TEXT_TOK_SPLIT_H
#define MW_TEXT_TOK_SPLIT_H
#include "worker/text/tok_bpe.h"
#include "worker/text/tok_norm.h"
MW_BEGIN_DECLS

/* What becomes of a match: a piece of its own, nothing, or part of a neighbour. */
typedef enum {
    MW_TOK_ISOLATED,
    MW_TOK_REMOVED,
    MW_TOK_CONTIGUOUS,
    MW_TOK_WITH_PREVIOUS,
    MW_TOK_WITH_NEXT
} mw_tok_behavior;

typedef enum { MW_TOK_SPLIT, MW_TOK_PREFIX_SPACE, MW_TOK_METASPACE } mw_tok_split_kind;
typedef enum { MW_TOK_PREPEND_FIRST, MW_TOK_PREPEND_ALWAYS, MW_TOK_PREPEND_NEVER } mw_tok_prepend;

typedef struct mw_tok_split_step {
    mw_tok_split_kind kind;
    mw_tok_regex *regex; /* SPLIT */
    mw_tok_behavior behavior;
    bool invert;
    char mark[4]; /* METASPACE: the character that stands for a space, UTF-8 */
    int mark_n;
    mw_tok_prepend prepend;
    bool split; /* METASPACE: also cut before every mark */
} mw_tok_split_step;

typedef struct mw_tok_split {
    mw_tok_split_step step[MW_TOK_MAX_STEPS];
    int n;
    bool byte_level; /* pre-tokens are bytes in the GPT-2 alphabet */
} mw_tok_split;

/* json: the value of "pre_tokenizer", null or NULL for none. *out must be {0}; free it also after an error. */
MW_MUST_CHECK mw_status mw_tok_split_parse(mw_tok_split *out, const json_t *json);
void mw_tok_split_free(mw_tok_split *s);
/* One Metaspace object, which decoders have as well. */
MW_MUST_CHECK mw_status mw_tok_metaspace_parse(mw_tok_split_step *s, const json_t *o, const char *where);
/* Has it a Metaspace with prepend_scheme "first"? */
bool mw_tok_split_asks_origin(const mw_tok_split *s);

/* What one call needs on the way from a piece of text to ids. */
typedef struct mw_tok_split_run {
    const mw_tok_split *split;
    const mw_tok_bpe *bpe;
    mw_tok_bpe_work *bpe_work;
    mw_tok_matcher *matcher;
    bool late; /* see tok_regex.h */
    mw_ids *out;
    mw_str text[MW_TOK_MAX_STEPS]; /* what a step made of its piece */
} mw_tok_split_run;

/* Ids of a normalized piece, appended to run->out. The caller frees run->text. */
MW_MUST_CHECK mw_status mw_tok_split_encode(mw_tok_split_run *run, mw_tok_piece piece);

MW_END_DECLS
#endif
