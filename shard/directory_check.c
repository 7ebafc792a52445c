/* Does the directory of a model.h5 hold exactly the weights its config asks for, each of the right kind and shape? */
#include <stdlib.h>
#include <string.h>

#include "shard/ckpt_internal.h"
#include "shard/roles.h"

typedef struct {
    const mw_ckpt *c;
    const char *path;
    const mw_weight *w;
} ctx;

#define DT(t)    (1u << (t))
#define DT_FLOAT (DT(MW_F16) | DT(MW_BF16) | DT(MW_F32))

/* Dataset `index` of the weight must be there with one of the dtypes and these (whole-tensor) extents. */
static mw_status want(const ctx *x, mw_part part, int index, unsigned dtypes, int64_t rows, int64_t cols) {
    if (index < 0) return MW_FAIL(MW_ERR_FORMAT, "%s: %s/%s is missing", x->path, x->w->name, mw_part_name(part));
    const mw_dataset *d = &x->c->dataset[index];
    if (!(dtypes & DT(d->dtype))) {
        char list[64] = "";
        for (int t = 0; t < MW_DTYPE_COUNT; t++)
            if (dtypes & DT(t)) {
                if (*list) strcat(list, " or ");
                strcat(list, mw_dtype_name((mw_dtype)t));
            }
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: element type %s, expected %s", x->path, d->name, mw_dtype_name(d->dtype),
                       list);
    }
    if (d->full_rows != rows || d->full_cols != cols)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: shape [%lld, %lld], expected [%lld, %lld]", x->path, d->name,
                       (long long)d->full_rows, (long long)d->full_cols, (long long)rows, (long long)cols);
    return MW_OK;
}

static mw_status absent(const ctx *x, mw_part part, int index) {
    if (index < 0) return MW_OK;
    return MW_FAIL(MW_ERR_FORMAT, "%s: %s/%s does not belong to a weight of this kind", x->path, x->w->name,
                   mw_part_name(part));
}

static mw_status check_int4(const ctx *x, const mw_expected *e) {
    mw_status st = MW_OK;
    const mw_weight *w = x->w;
    int64_t k = e->k, n = e->n, g = w->group_size;
    bool tiles = x->c->h.layout == MW_IN_TILES;
    if (!(g == k || g == 32 || g == 64 || g == 128) || g < 1 || k % g || k % MW_TILE_K || n % 2)
        return MW_FAIL(MW_ERR_FORMAT,
                       "%s: %s: K = %lld, N = %lld, group_size = %lld: expected K a multiple of 16 and of the group "
                       "(32, 64, 128 or -1), N even",
                       x->path, w->name, (long long)k, (long long)n, (long long)g);
    if ((strstr(w->name, "self_attn/o_proj") || strstr(w->name, "mlp/down_proj")) && n % MW_TILE_N)
        return MW_FAIL(MW_ERR_UNSUPPORTED,
                       "%s: %s: N = %lld is not a multiple of %d: the residual stream would need padding", x->path,
                       w->name, (long long)n, MW_TILE_N);
    int64_t stored_n = tiles ? mw_round_up(n, MW_TILE_N) : n;
    if (tiles)
        MW_TRY(st, want(x, MW_PART_QWEIGHT, w->qweight, DT(MW_U32), k / MW_TILE_K, 2 * stored_n));
    else
        MW_TRY(st, want(x, MW_PART_QWEIGHT, w->qweight, DT(MW_U8), k, n / 2));
    MW_TRY(st, want(x, MW_PART_SCALES, w->scales, DT_FLOAT, k / g, stored_n));
    if (w->zeros >= 0) MW_TRY(st, want(x, MW_PART_ZEROS, w->zeros, DT(MW_U8), k / g, stored_n));
    if (w->perm >= 0) MW_TRY(st, want(x, MW_PART_PERM, w->perm, DT(MW_I32), 1, k));
    if (w->bias >= 0) MW_TRY(st, want(x, MW_PART_BIAS, w->bias, DT_FLOAT, 1, n));
    MW_TRY(st, absent(x, MW_PART_WEIGHT, w->weight));
    if (w->perm >= 0 && strstr(w->name, "mlp/down_proj"))
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s/perm: down_proj's order belongs into the columns of gate and up", x->path,
                       w->name);
fail:
    return st;
}

static mw_status check_weight(const ctx *x) {
    mw_status st = MW_OK;
    const mw_weight *w = x->w;
    mw_expected e;
    if (!mw_roles_expect(&x->c->h.cfg, w->name, &e))
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: a model of type '%s' has no such weight", x->path, w->name,
                       x->c->h.cfg.model_type);
    if (w->kind == MW_INT4 && e.shape != MW_SHAPE_LINEAR)
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: is int4, expected 16-bit", x->path, w->name);
    if (e.shape == MW_SHAPE_LINEAR && (w->k != e.k || w->n != e.n))
        return MW_FAIL(MW_ERR_FORMAT, "%s: %s: K = %lld, N = %lld, expected %lld and %lld", x->path, w->name,
                       (long long)w->k, (long long)w->n, (long long)e.k, (long long)e.n);
    if (w->kind == MW_INT4) return check_int4(x, &e);
    if (e.shape == MW_SHAPE_VECTOR)
        MW_TRY(st, want(x, MW_PART_WEIGHT, w->weight, DT_FLOAT, 1, e.n));
    else
        MW_TRY(st, want(x, MW_PART_WEIGHT, w->weight, DT_FLOAT, e.n, e.k));
    MW_TRY(st, absent(x, MW_PART_QWEIGHT, w->qweight));
    MW_TRY(st, absent(x, MW_PART_SCALES, w->scales));
    MW_TRY(st, absent(x, MW_PART_ZEROS, w->zeros));
    MW_TRY(st, absent(x, MW_PART_PERM, w->perm));
    if (e.shape != MW_SHAPE_LINEAR)
        MW_TRY(st, absent(x, MW_PART_BIAS, w->bias));
    else if (w->bias >= 0)
        MW_TRY(st, want(x, MW_PART_BIAS, w->bias, DT_FLOAT, 1, e.n));
fail:
    return st;
}

mw_status mw_directory_check(const mw_ckpt *c, const char *path) {
    mw_status st = MW_OK;
    char(*names)[MW_NAME_MAX] = NULL;
    size_t n = 0;
    for (int i = 0; i < c->h.n_weights; i++) {
        ctx x = {c, path, &c->weight[i]};
        MW_TRY(st, check_weight(&x));
    }
    MW_TRY(st, mw_roles_names(&c->h.cfg, &names, &n));
    for (size_t i = 0; i < n; i++)
        if (!mw_ckpt_find(c, names[i])) {
            st = MW_FAIL(MW_ERR_FORMAT, "%s: %s is missing", path, names[i]);
            goto fail;
        }
fail:
    free(names);
    return st;
}
