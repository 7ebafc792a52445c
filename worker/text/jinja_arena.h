/* worker/text/jinja_arena.h - memory that is freed all at once: one arena holds a parsed template, one a render.
 * Bounded: a template or a render that wants more than the limit ends in MW_ERR_LIMIT, never in a swapping machine.
 */
#ifndef MW_TEXT_JINJA_ARENA_H
#define MW_TEXT_JINJA_ARENA_H
#include <stdbool.h>
#include <stddef.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

typedef struct mw_jblock mw_jblock;
typedef struct mw_jarena {
    mw_jblock *top; /* newest block; the only one that still gives memory */
    size_t total;   /* bytes of all blocks */
    size_t limit;   /* bytes; set by the owner */
} mw_jarena;

/* Not zeroed, aligned to 16 bytes. n == 0 gives a valid pointer. */
MW_MUST_CHECK mw_status mw_jarena_alloc(mw_jarena *a, size_t n, void **out);
/* count elements of `size` bytes, zeroed; MW_ERR_LIMIT also when the product overflows. */
MW_MUST_CHECK mw_status mw_jarena_zalloc(mw_jarena *a, size_t count, size_t size, void **out);
#define MW_JNEW(a, pp, count) mw_jarena_zalloc((a), (count), sizeof **(pp), (void **)(pp))

/* Bytes without alignment, with room left behind them where a new block is begun: text that will be appended to. */
MW_MUST_CHECK mw_status mw_jarena_text(mw_jarena *a, size_t n, char **out);

/* If p .. p + n is the newest allocation and its block has room, lengthen it by `more` bytes. */
bool mw_jarena_extend(mw_jarena *a, const char *p, size_t n, size_t more);

void mw_jarena_free(mw_jarena *a);

MW_END_DECLS
#endif
