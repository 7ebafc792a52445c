/* worker/text/constraint_number.h - numbers of JSON, digit by digit, within bounds.
 *
 * Every number is bounded in length, so that a model cannot go on with digits for ever: at most 18 digits before the
 * point (so an integer fits 64 bits), 15 behind it, 2 in the exponent. Numbers with a bound have no exponent, and only
 * so many digits behind the point that a reader with doubles sees the same side of the bound.
 */
#ifndef MW_TEXT_CONSTRAINT_NUMBER_H
#define MW_TEXT_CONSTRAINT_NUMBER_H
#include <jansson.h>

#include "worker/text/constraint_nfa.h"
MW_BEGIN_DECLS

typedef struct mw_number_bound {
    const json_t *value; /* a number, or NULL: no bound */
    bool open;           /* the bound itself is not allowed */
} mw_number_bound;

/* MW_ERR_UNSUPPORTED: a bound that is too large or too fine for the digits above. */
MW_MUST_CHECK mw_status mw_number(mw_nfa *g, int32_t from, bool integer, mw_number_bound low, mw_number_bound high,
                                  int32_t to);

MW_END_DECLS
#endif
