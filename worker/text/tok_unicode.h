/* worker/text/tok_unicode.h - facts about code points that must not depend on the machine's libraries.
 *
 * Token ids must equal those of the Hugging Face tokenizers library, whose regex engine knows Unicode 16 and whose
 * normalizers know Unicode 9, whatever version of PCRE2 and utf8proc is installed here.
 */
#ifndef MW_TEXT_TOK_UNICODE_H
#define MW_TEXT_TOK_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

/* The White_Space property. */
bool mw_unicode_is_space(uint32_t c);

/* For a code point that came after Unicode 14: one that every PCRE2 knows, of the same general category, script and
 * number of UTF-8 bytes. A regex that looks at the stand-in finds the matches of a regex that knows the newcomer.
 * 0: c needs none. */
uint32_t mw_unicode_stand_in(uint32_t c);

/* Does valid UTF-8 hold a code point that needs a stand-in? */
bool mw_unicode_has_late(const char *p, size_t n);

/* A code point that Unicode normalization must leave where and as it is, since the reference does not know it. */
bool mw_unicode_is_inert(uint32_t c);

MW_END_DECLS
#endif
