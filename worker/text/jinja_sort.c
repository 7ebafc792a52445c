#include "worker/text/jinja_sort.h"

#include <string.h>

/* Merge the sorted runs [a, m) and [m, z) of `from` into `to`. */
static mw_status merge(mw_jrun *r, const mw_jval *key, bool reverse, const uint32_t *from, uint32_t *to, uint32_t a,
                       uint32_t m, uint32_t z) {
    uint32_t i = a, k = m, at = a;
    while (i < m && k < z) {
        bool later; /* the right one comes first only if it is strictly before the left one */
        MW_JTRY(reverse ? mw_jcompare(r, key[from[i]], key[from[k]], MW_JLT, &later)
                        : mw_jcompare(r, key[from[k]], key[from[i]], MW_JLT, &later));
        to[at++] = later ? from[k++] : from[i++];
    }
    while (i < m) to[at++] = from[i++];
    while (k < z) to[at++] = from[k++];
    return MW_OK;
}

mw_status mw_jsort_order(mw_jrun *r, const mw_jval *key, uint32_t n, bool reverse, uint32_t **order) {
    uint32_t *from, *to;
    MW_JTRY(mw_jstep(r, n));
    MW_JTRY(MW_JNEW(r->mem, &from, n));
    MW_JTRY(MW_JNEW(r->mem, &to, n));
    for (uint32_t i = 0; i < n; i++) from[i] = i;
    for (uint32_t run = 1; run < n; run *= 2) {
        for (uint32_t a = 0; a < n; a += 2 * run) {
            uint32_t m = n - a > run ? a + run : n, z = n - a > 2 * run ? a + 2 * run : n;
            MW_JTRY(merge(r, key, reverse, from, to, a, m, z));
        }
        uint32_t *x = from;
        from = to;
        to = x;
    }
    *order = from;
    return MW_OK;
}
