/* worker/text/jinja_unicode.h - code points, Python's character classes and its case mappings.
 * Text is valid UTF-8 everywhere except in mw_juni_valid, which decides that. Lengths are bytes unless said otherwise.
 */
#ifndef MW_TEXT_JINJA_UNICODE_H
#define MW_TEXT_JINJA_UNICODE_H
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

bool mw_juni_ascii(const char *s, size_t n);
/* Well-formed UTF-8, without surrogates. */
bool mw_juni_valid(const char *s, size_t n);
/* Code points of n bytes. */
size_t mw_juni_length(const char *s, size_t n);

/* The code point at s; *len is its bytes. */
uint32_t mw_juni_at(const char *s, uint32_t *len);
/* The code point that ends before s + n; n > 0. */
uint32_t mw_juni_before(const char *s, size_t n, uint32_t *len);
/* Writes cp (not a surrogate) to out and returns its bytes, 1 to 4. */
uint32_t mw_juni_put(uint32_t cp, char out[4]);

/* Byte offset of code point `index` (0 .. length) of a string value. */
size_t mw_juni_offset(mw_jval str, size_t index);
/* Code points [begin, end) of a string value, as a value that shares its bytes. */
mw_jval mw_juni_slice(mw_jval str, size_t begin, size_t end);

/* str.isspace, which is also the regular expression \s. */
bool mw_juni_space(uint32_t cp);
bool mw_juni_printable(uint32_t cp); /* str.isprintable */
bool mw_juni_alpha(uint32_t cp);
bool mw_juni_digit(uint32_t cp);
bool mw_juni_decimal(uint32_t cp);
bool mw_juni_alnum(uint32_t cp);
bool mw_juni_lower(uint32_t cp);
bool mw_juni_upper(uint32_t cp);
bool mw_juni_title(uint32_t cp);

/* Bytes left of s..s+n after its leading (lead) and trailing (trail) white space is cut; *s is moved. */
void mw_juni_strip(const char **s, size_t *n, bool lead, bool trail);

typedef enum { MW_JCASE_UPPER, MW_JCASE_LOWER, MW_JCASE_TITLE, MW_JCASE_CAPITALIZE } mw_jcase;
/* str.upper, str.lower, str.title, str.capitalize, with the full mappings and the final sigma. */
MW_MUST_CHECK mw_status mw_juni_case(mw_jrun *r, mw_jval str, mw_jcase how, mw_jval *out);

/* Code points that map to more than one: upper and title case, zero-terminated; sorted by `cp`. jinja_casing.c. */
typedef struct mw_jcasing {
    uint16_t cp, upper[3], title[3];
} mw_jcasing;
extern const mw_jcasing mw_jcasing_table[];
extern const size_t mw_jcasing_count;

MW_END_DECLS
#endif
