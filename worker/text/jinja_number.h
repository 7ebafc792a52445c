/* worker/text/jinja_number.h - Python's numbers: arithmetic, float repr, int() and float() of text, round(). */
#ifndef MW_TEXT_JINJA_NUMBER_H
#define MW_TEXT_JINJA_NUMBER_H
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* repr(f) of a finite number: the shortest digits that read back as f. Returns the length, at most 24. */
int mw_jnum_repr(double f, char out[32]);

/* Reads "digits", whatever the locale, as 1.5e3 with optional parts; s is ASCII of at most 400 bytes. */
double mw_jnum_strtod(const char *s, size_t n);

typedef enum { MW_JNUM_OK, MW_JNUM_BAD, MW_JNUM_RANGE, MW_JNUM_DIGITS } mw_jnum_read;
/* int(text) and float(text). BAD: ValueError. RANGE: beyond 64 bits, or not finite. DIGITS: decimal digits outside
 * ASCII, which Python reads and this does not. */
mw_jnum_read mw_jnum_read_int(mw_jval text, int64_t *out);
mw_jnum_read mw_jnum_read_float(mw_jval text, double *out);

typedef enum { MW_JADD, MW_JSUB, MW_JMUL, MW_JDIV, MW_JFLOORDIV, MW_JMOD, MW_JPOW } mw_jarith;
/* Of two numbers. Results beyond 64 bits or not finite are refused. */
MW_MUST_CHECK mw_status mw_jnum_arith(mw_jrun *r, mw_jarith op, mw_jval a, mw_jval b, mw_jval *out);

/* round(v, digits). */
MW_MUST_CHECK mw_status mw_jnum_round(mw_jrun *r, mw_jval v, int64_t digits, mw_jval *out);
/* int(f), by truncation. */
MW_MUST_CHECK mw_status mw_jnum_trunc(mw_jrun *r, double f, mw_jval *out);

MW_END_DECLS
#endif
