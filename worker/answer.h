/* worker/answer.h - the text of one answer as its tokens come: detokenised, and cut at the first stop string.
 * Text is released only when it is certain: no incomplete UTF-8, and no beginning of a stop string at its end. */
#ifndef MW_WORKER_ANSWER_H
#define MW_WORKER_ANSWER_H
#include <stdbool.h>

#include "worker/text/tokenizer.h"
MW_BEGIN_DECLS

typedef struct mw_answer {
    mw_detok detok;
    bool has_text; /* false: no tokenizer, tokens only */
    mw_str held;   /* decoded, not released yet */
    char **stop;   /* [n_stop] */
    int n_stop;
    bool stopped; /* a stop string was found; nothing more is released */
} mw_answer;

/* t NULL: no text. stop: copied. */
MW_MUST_CHECK mw_status mw_answer_init(mw_answer *a, const mw_tokenizer *t, const char *const *stop, int n_stop);
void mw_answer_free(mw_answer *a);

/* One more token; certain text is appended to *out. a->stopped tells that a stop string has ended the answer. */
MW_MUST_CHECK mw_status mw_answer_push(mw_answer *a, int32_t token, mw_str *out);
/* No more tokens: the rest of the text (nothing when stopped). */
MW_MUST_CHECK mw_status mw_answer_finish(mw_answer *a, mw_str *out);

MW_END_DECLS
#endif
