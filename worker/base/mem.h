/* worker/base/mem.h - memory and the two growable things everything needs: a byte string and an i32 list.
 * Sizes are bytes unless a name says otherwise. A failed growth returns MW_ERR_NOMEM and leaves the object as it was.
 */
#ifndef MW_BASE_MEM_H
#define MW_BASE_MEM_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

/* out = a * b; false on overflow. */
static inline bool mw_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* Zeroed memory of n elements; MW_ERR_NOMEM names `what`. n == 0 gives a valid pointer. Free with free(). */
MW_MUST_CHECK mw_status mw_calloc(void **out, size_t n, size_t size, const char *what);
#define MW_CALLOC(pp, n, what) mw_calloc((void **)(pp), (n), sizeof **(pp), (what))

/* Memory aligned to 64 bytes (a cache line, a 512-bit vector), not zeroed. Free with free(). */
MW_MUST_CHECK mw_status mw_alloc64(void **out, size_t bytes, const char *what);

/* Bytes that grow; always followed by a zero byte once anything was added. {0} is empty and valid. */
typedef struct mw_str {
    char *p;
    size_t n, cap;
} mw_str;
MW_MUST_CHECK mw_status mw_str_reserve(mw_str *s, size_t extra);
MW_MUST_CHECK mw_status mw_str_add(mw_str *s, const void *bytes, size_t n);
MW_MUST_CHECK mw_status mw_str_adds(mw_str *s, const char *text);
MW_MUST_CHECK mw_status mw_str_addf(mw_str *s, const char *fmt, ...) MW_PRINTF(2, 3);
void mw_str_free(mw_str *s); /* back to {0} */

/* 32-bit integers that grow: token ids. {0} is empty and valid. */
typedef struct mw_ids {
    int32_t *p;
    size_t n, cap;
} mw_ids;
MW_MUST_CHECK mw_status mw_ids_add(mw_ids *v, int32_t x);
MW_MUST_CHECK mw_status mw_ids_append(mw_ids *v, const int32_t *x, size_t n);
void mw_ids_free(mw_ids *v);

/* "3.6 GB", decimal units, into a caller's buffer of at least 16 bytes; returns it. */
const char *mw_human_bytes(uint64_t bytes, char buf[16]);

MW_END_DECLS
#endif
