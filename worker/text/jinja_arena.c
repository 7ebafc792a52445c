#include "worker/text/jinja_arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/mem.h"

struct mw_jblock {
    mw_jblock *older;
    size_t n, cap; /* bytes used and usable in `bytes` */
    _Alignas(16) char bytes[];
};

/* The code again at the end: see MW_JFAIL. */
#define AFAIL(code, ...) ((void)MW_FAIL((code), __VA_ARGS__), (code))

static mw_status new_block(mw_jarena *a, size_t want) {
    size_t cap = a->total < 8192 ? 8192 : a->total; /* doubles the arena */
    if (cap > (size_t)1 << 20) cap = (size_t)1 << 20;
    if (cap < want) cap = want;
    if (cap > a->limit || a->total > a->limit - cap) {
        return AFAIL(MW_ERR_LIMIT, "chat template: more than %zu bytes of memory", a->limit);
    }
    mw_jblock *b = malloc(sizeof *b + cap);
    if (!b) return AFAIL(MW_ERR_NOMEM, "chat template: %zu bytes", cap);
    b->older = a->top;
    b->n = 0;
    b->cap = cap;
    a->top = b;
    a->total += cap;
    return MW_OK;
}

mw_status mw_jarena_alloc(mw_jarena *a, size_t n, void **out) {
    size_t at = a->top ? (a->top->n + 15) & ~(size_t)15 : 0;
    if (!a->top || at > a->top->cap || n > a->top->cap - at) {
        mw_status st = new_block(a, n);
        if (st != MW_OK) return st;
        at = 0;
    }
    *out = a->top->bytes + at;
    a->top->n = at + n;
    return MW_OK;
}

mw_status mw_jarena_zalloc(mw_jarena *a, size_t count, size_t size, void **out) {
    size_t n;
    if (!mw_mul_size(count, size, &n)) return AFAIL(MW_ERR_LIMIT, "chat template: %zu x %zu bytes", count, size);
    mw_status st = mw_jarena_alloc(a, n, out);
    if (st == MW_OK) memset(*out, 0, n);
    return st;
}

mw_status mw_jarena_text(mw_jarena *a, size_t n, char **out) {
    if (!a->top || n > a->top->cap - a->top->n) {
        mw_status st = new_block(a, n > SIZE_MAX / 2 ? n : 2 * n);
        if (st != MW_OK) return st;
    }
    *out = a->top->bytes + a->top->n;
    a->top->n += n;
    return MW_OK;
}

bool mw_jarena_extend(mw_jarena *a, const char *p, size_t n, size_t more) {
    mw_jblock *b = a->top;
    if (!b || p + n != b->bytes + b->n || more > b->cap - b->n) return false;
    b->n += more;
    return true;
}

void mw_jarena_free(mw_jarena *a) {
    while (a->top) {
        mw_jblock *b = a->top;
        a->top = b->older;
        free(b);
    }
    a->total = 0;
}
