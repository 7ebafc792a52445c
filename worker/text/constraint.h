/* worker/text/constraint.h - answers that must be JSON: which tokens may come next.
 *
 * A grammar belongs to a tokenizer and keeps the constraints that were asked for lately; a constraint is one compiled
 * schema, a state is where one answer stands in it. A state is small, can be copied, and does not depend on how the
 * tokens before were computed, so it survives preemption.
 *
 * What is accepted is decided byte by byte: valid JSON in valid UTF-8 without control characters, with white space
 * only where it may be and only so much. From every state a complete value can be reached. What of JSON Schema is
 * understood: docs/JSON.md; anything else is refused, never ignored.
 *
 * Thread-safety: any thread may compile; states of one constraint may be used from several threads, one thread a state.
 */
#ifndef MW_TEXT_CONSTRAINT_H
#define MW_TEXT_CONSTRAINT_H
#include "worker/text/tokenizer.h"
MW_BEGIN_DECLS

typedef struct mw_grammar mw_grammar;
typedef struct mw_constraint mw_constraint;

/* t is borrowed and must stay. size: of the model's vocabulary. eos: tokens that end an answer. */
MW_MUST_CHECK mw_status mw_grammar_open(mw_grammar **out, const mw_tokenizer *t, int32_t size, const int32_t *eos,
                                        size_t n_eos);
/* NULL allowed. Constraints must be released before. */
void mw_grammar_close(mw_grammar *g);

/* schema: the text of a JSON Schema, or NULL for any JSON object. The result is shared: release it with
 * mw_constraint_release. MW_ERR_USAGE: not a schema, or no value satisfies it. MW_ERR_UNSUPPORTED names the keyword and
 * its place. MW_ERR_LIMIT: too large. MW_ERR_BUSY: all constraints in use are too large together. */
MW_MUST_CHECK mw_status mw_grammar_compile(mw_grammar *g, const char *schema, mw_constraint **out);
void mw_constraint_release(mw_constraint *c); /* NULL allowed */

typedef struct mw_constraint_state {
    mw_constraint *c; /* a reference of its own; NULL: no constraint */
    mw_ids saved;     /* the state as numbers */
    int32_t state;    /* its number in the constraint's tables, while these have this age */
    uint64_t epoch;
    bool complete;  /* the text is a whole value */
    bool exhausted; /* and nothing may follow it but the end */
    bool ended;     /* an end token was accepted */
} mw_constraint_state;

/* The beginning of an answer. *s must be {0} or freed. */
MW_MUST_CHECK mw_status mw_constraint_begin(mw_constraint *c, mw_constraint_state *s);
MW_MUST_CHECK mw_status mw_constraint_copy(const mw_constraint_state *from, mw_constraint_state *to);
void mw_constraint_free(mw_constraint_state *s); /* back to {0} */

/* Words of a mask for a vocabulary: bit t % 32 of word t / 32 belongs to token t. */
static inline size_t mw_mask_words(int32_t size) {
    return ((size_t)size + 31) / 32;
}
/* The tokens that may come next. may_end: end tokens too, where the value is complete. MW_ERR_UNSUPPORTED: none may (a
 * vocabulary without some byte). MW_ERR_LIMIT: the schema is too ambiguous at this place. */
MW_MUST_CHECK mw_status mw_constraint_mask(mw_constraint_state *s, bool may_end, uint32_t *mask);

/* Goes on by a token. MW_ERR_USAGE: the mask did not allow it; the state is as before. */
MW_MUST_CHECK mw_status mw_constraint_accept(mw_constraint_state *s, int32_t token);
/* The same by text, without tokens. */
MW_MUST_CHECK mw_status mw_constraint_accept_text(mw_constraint_state *s, const char *text, size_t n);

MW_END_DECLS
#endif
