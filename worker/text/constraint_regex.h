/* worker/text/constraint_regex.h - "pattern" of JSON Schema, as a string in quotes.
 *
 * Understood (ECMA-262 spelling): literal characters, . [abc] [^a-z] \d \w \s \D \W \S \t \n \r \f \v \xHH \uHHHH,
 * escaped punctuation, ( ) (?: ) |, * + ? {n} {n,} {n,m} (also with a ? behind), and ^ $ at the two ends of the whole
 * pattern or of its outermost alternatives. As the standard has it, a pattern without ^ or $ may match anywhere in the
 * string. \d, \w and \s are the ASCII ones, and what negates them gives ASCII characters only: so ECMA's, Python's and
 * PCRE's readings all hold. Anything else (look-around, back references, \b, \p) is refused by name.
 */
#ifndef MW_TEXT_CONSTRAINT_REGEX_H
#define MW_TEXT_CONSTRAINT_REGEX_H
#include "worker/text/constraint_nfa.h"
MW_BEGIN_DECLS

/* A string in quotes of min to max characters (max < 0: no limit) that matches. MW_ERR_USAGE: no valid expression;
 * MW_ERR_UNSUPPORTED: see above. Failures of building are left in g->st. */
MW_MUST_CHECK mw_status mw_regex_string(mw_nfa *g, int32_t from, const char *pattern, size_t n, int64_t min,
                                        int64_t max, int32_t to);

MW_END_DECLS
#endif
