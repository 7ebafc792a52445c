/* worker/text/tok_utf8.h - the UTF-8 that the tokenizer needs: one character at a time, and the repair of bad bytes.
 *
 * Bad bytes become U+FFFD by the "maximal subpart" rule, one for each longest prefix of a sequence that could have been
 * valid; Python's errors="replace", Rust's from_utf8_lossy and the Unicode standard agree on it.
 */
#ifndef MW_TEXT_TOK_UTF8_H
#define MW_TEXT_TOK_UTF8_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Bytes of the character whose first byte is `lead`; text is known to be valid. */
static inline int mw_utf8_len(unsigned char lead) {
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The character at p; text is known to be valid. */
static inline uint32_t mw_utf8_get(const char *p) {
    const unsigned char *b = (const unsigned char *)p;
    if (b[0] < 0x80) return b[0];
    if (b[0] < 0xE0) return (uint32_t)(b[0] & 0x1F) << 6 | (b[1] & 0x3F);
    if (b[0] < 0xF0) return (uint32_t)(b[0] & 0x0F) << 12 | (uint32_t)(b[1] & 0x3F) << 6 | (b[2] & 0x3F);
    return (uint32_t)(b[0] & 7) << 18 | (uint32_t)(b[1] & 0x3F) << 12 | (uint32_t)(b[2] & 0x3F) << 6 | (b[3] & 0x3F);
}

/* Start of the character that ends before p; there is one. */
static inline const char *mw_utf8_prev(const char *p) {
    do p--;
    while (((unsigned char)*p & 0xC0) == 0x80);
    return p;
}

/* Writes a code point (not a surrogate) to dst; returns its bytes. */
int mw_utf8_put(uint32_t c, char dst[4]);

typedef enum { MW_UTF8_GOOD, MW_UTF8_BAD, MW_UTF8_CUT } mw_utf8_kind;

/* What stands at p (n >= 1 bytes left): a good character, a bad sequence (one U+FFFD), or a sequence that is good as
 * far as it goes but ends with the bytes. *len: how many bytes that is. */
mw_utf8_kind mw_utf8_scan(const char *p, size_t n, size_t *len);

/* Length of the valid text that p[0..n) begins with. */
size_t mw_utf8_valid_prefix(const char *p, size_t n);

/* Appends p[0..n) with every bad sequence, and one cut short at the end, as U+FFFD. */
MW_MUST_CHECK mw_status mw_utf8_add_lossy(mw_str *out, const char *p, size_t n);

MW_END_DECLS
#endif
