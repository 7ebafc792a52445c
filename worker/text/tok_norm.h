/* worker/text/tok_norm.h - the "normalizer" of tokenizer.json: what is done to text before it is split. */
#ifndef MW_TEXT_TOK_NORM_H
#define MW_TEXT_TOK_NORM_H
#include <jansson.h>

#include "worker/text/tok_regex.h"
MW_BEGIN_DECLS

#define MW_TOK_MAX_STEPS 16

/* A stretch of text. `zero`: how many of its bytes at the front stem from the very beginning of the whole text; the
 * Metaspace pre-tokenizer with prepend_scheme "first" asks for it. */
typedef struct mw_tok_piece {
    const char *p;
    size_t n, zero;
} mw_tok_piece;

typedef enum {
    MW_TOK_NFC,
    MW_TOK_NFD,
    MW_TOK_NFKC,
    MW_TOK_NFKD,
    MW_TOK_PREPEND,
    MW_TOK_REPLACE,
    MW_TOK_STRIP
} mw_tok_norm_kind;

typedef struct mw_tok_norm_step {
    mw_tok_norm_kind kind;
    mw_str pattern, content; /* PREPEND: content; REPLACE: pattern (or regex) becomes content */
    mw_tok_regex *regex;
    bool left, right; /* STRIP */
} mw_tok_norm_step;

typedef struct mw_tok_norm {
    mw_tok_norm_step step[MW_TOK_MAX_STEPS];
    int n;
    bool late; /* a replacement brings in code points that regexes need stand-ins for */
} mw_tok_norm;

/* json: the value of "normalizer", null or NULL for none. *out must be {0}; free it also after an error. */
MW_MUST_CHECK mw_status mw_tok_norm_parse(mw_tok_norm *out, const json_t *json);
void mw_tok_norm_free(mw_tok_norm *n);
/* Has it a step whose result does not tell which bytes stem from where? */
bool mw_tok_norm_recomposes(const mw_tok_norm *n);

/* Working memory of one call; {0} is valid. */
typedef struct mw_tok_norm_work {
    mw_str text[2];
    mw_ids chars, sorted;
} mw_tok_norm_work;
void mw_tok_norm_work_free(mw_tok_norm_work *w);

/* *out points into `in` or into w, until the next call. late: see tok_regex.h. */
MW_MUST_CHECK mw_status mw_tok_norm_run(const mw_tok_norm *n, mw_tok_norm_work *w, mw_tok_matcher *m, bool late,
                                        mw_tok_piece in, mw_tok_piece *out);

/* tok_nfx.c: the text in a Unicode normalization form, appended to *out. */
MW_MUST_CHECK mw_status mw_tok_nfx(mw_tok_norm_kind form, const char *p, size_t n, mw_tok_norm_work *w, mw_str *out);

MW_END_DECLS
#endif
