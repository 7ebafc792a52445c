/* The collectives of a step, on host memory. */
#include <string.h>

#include "comm/internal.h"
#include "worker/base/mem.h"

mw_status mw_comm_all_reduce_f32(mw_comm *c, float *buf, size_t n_elems) {
    mw_status st = mw_call_enter(c, MW_CALL_ALL_REDUCE, n_elems);
    return st != MW_OK || n_elems == 0 || !c->transport ? st : c->transport->all_reduce_f32(c, buf, n_elems);
}

mw_status mw_comm_gather_cols_f32(mw_comm *c, int root, const float *src, size_t rows, const size_t *cols, float *dst) {
    size_t width = 0, n = 0, bytes;
    bool fits = true;
    for (int r = 0; r < c->size; r++) fits = fits && !__builtin_add_overflow(width, cols[r], &width);
    fits = fits && mw_mul_size(rows, width, &n) && mw_mul_size(n, sizeof(float), &bytes);
    if (!fits || root >= c->size)
        return MW_FAIL(MW_ERR_USAGE, "gather of %zu rows to rank %d of %d: too large, or no such rank", rows, root,
                       c->size);
    mw_status st = mw_call_enter(c, MW_CALL_GATHER_COLS, n);
    if (st != MW_OK || n == 0) return st;
    if (c->transport) return c->transport->gather_cols_f32(c, root, src, rows, cols, dst);
    if (dst != src) memcpy(dst, src, n * sizeof *dst);
    return MW_OK;
}

double mw_comm_wait_s(mw_comm *c) {
    double s = (double)c->wait_ns * 1e-9;
    c->wait_ns = 0;
    return s;
}
