/* worker/text/jinja_sort.h - the stable sort behind sort, dictsort and sorted JSON keys. */
#ifndef MW_TEXT_JINJA_SORT_H
#define MW_TEXT_JINJA_SORT_H
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* *order is a permutation of 0 .. n-1 (in the arena) by which `key` ascends, or descends; equal keys keep their order
 * either way. Keys without an order are an error. */
MW_MUST_CHECK mw_status mw_jsort_order(mw_jrun *r, const mw_jval *key, uint32_t n, bool reverse, uint32_t **order);

MW_END_DECLS
#endif
