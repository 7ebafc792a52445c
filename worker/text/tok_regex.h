/* worker/text/tok_regex.h - the regular expressions of tokenizer.json.
 *
 * They are written for Oniguruma (its default syntax); we match with PCRE2, compiled with UTF and UCP. The two agree on
 * most constructs, not on all, so a pattern is translated first: what means the same in both is passed on, what can be
 * said in PCRE2's words is rewritten (\s, \d, \v, ., ^, $, \u....), and the rest is refused by name.
 */
#ifndef MW_TEXT_TOK_REGEX_H
#define MW_TEXT_TOK_REGEX_H
#include <stdbool.h>
#include <stddef.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

typedef struct mw_tok_regex mw_tok_regex; /* immutable: threads may share it */

/* `where` names the place in the file for errors. literal: the pattern is text to find, not an expression.
 * MW_ERR_FORMAT: no valid expression; MW_ERR_UNSUPPORTED: a construct that we do not take over. */
MW_MUST_CHECK mw_status mw_tok_regex_open(mw_tok_regex **out, const char *pattern, size_t n, bool literal,
                                          const char *where);
void mw_tok_regex_close(mw_tok_regex *re); /* NULL allowed */

/* An Oniguruma pattern in PCRE2's syntax, appended to *out (tok_onig.c). */
MW_MUST_CHECK mw_status mw_tok_regex_translate(const char *pattern, size_t n, const char *where, mw_str *out);

#define MW_TOK_MAX_NESTED 20 /* iterations under way at once */

/* Working memory of one thread for any number of regexes; {0} is valid. */
typedef struct mw_tok_matcher {
    void *data, *context, *stack;     /* PCRE2's match data, match context, JIT stack */
    mw_str shadow[MW_TOK_MAX_NESTED]; /* texts with stand-ins, one for each iteration under way */
    unsigned shadows_used;
} mw_tok_matcher;
void mw_tok_matcher_free(mw_tok_matcher *m);

/* The successive matches in valid UTF-8. A match may be empty, but not right behind another match. */
typedef struct mw_tok_matches {
    const mw_tok_regex *re;
    mw_tok_matcher *m;
    const char *p;
    size_t n, pos, last_end;
    bool any, shadowed;
} mw_tok_matches;

/* late: the text may hold code points that need stand-ins (tok_unicode.h). Iterations nest like brackets; each begin
 * needs its end, also after an error. */
MW_MUST_CHECK mw_status mw_tok_matches_begin(mw_tok_matches *it, const mw_tok_regex *re, mw_tok_matcher *m,
                                             const char *p, size_t n, bool late);
/* *found false: there is no further match. MW_ERR_LIMIT: the expression backtracks without end on this text. */
MW_MUST_CHECK mw_status mw_tok_matches_next(mw_tok_matches *it, bool *found, size_t *begin, size_t *end);
void mw_tok_matches_end(mw_tok_matches *it);

MW_END_DECLS
#endif
