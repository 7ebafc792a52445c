/* worker/text/constraint_chars.h - sets of characters, and the bytes that spell them inside a JSON string.
 *
 * A set's characters are spelled in one way each: as UTF-8, or, where JSON wants it, by the short escape or \u00XX.
 * mw_chars_any is the rule of a string without further wishes: any character, in any of its spellings. U+0000 and lone
 * surrogates are left out everywhere: too many readers of JSON cannot take them.
 */
#ifndef MW_TEXT_CONSTRAINT_CHARS_H
#define MW_TEXT_CONSTRAINT_CHARS_H
#include "worker/text/constraint_nfa.h"
MW_BEGIN_DECLS

#define MW_CHARS_LAST 0x10FFFFu

typedef struct mw_chars {
    uint32_t *r; /* [2 n] first, last of each range; sorted and apart after mw_chars_sort */
    size_t n, cap;
} mw_chars;

MW_MUST_CHECK mw_status mw_chars_add(mw_chars *s, uint32_t first, uint32_t last);
void mw_chars_sort(mw_chars *s);
/* All characters up to `last` that are not in the (sorted) set. */
MW_MUST_CHECK mw_status mw_chars_negate(mw_chars *s, uint32_t last);
bool mw_chars_equal(const mw_chars *a, const mw_chars *b);
void mw_chars_free(mw_chars *s);

/* A rule for one character of the (sorted) set. raw: only those that need no escape. */
int32_t mw_chars_rule(mw_nfa *g, const mw_chars *s, bool raw);

/* The shared rule for any character of a string. */
int32_t mw_chars_any(mw_nfa *g);

/* A string in quotes of min to max characters (max < 0: no limit). */
void mw_chars_string(mw_nfa *g, int32_t from, int64_t min, int64_t max, int32_t to);

MW_END_DECLS
#endif
