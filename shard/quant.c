#include "shard/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/log.h"

static size_t line(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

size_t mw_matrix_bytes(int64_t k, int64_t n, int64_t group) {
    size_t sk = (size_t)k, sn = (size_t)n, groups = sk / (size_t)group;
    return line(sk * (sn / 2)) + line(groups * sn * 4) + line(groups * sn) + line(sk * 4) + line(sn * 4);
}

void mw_matrix_place(mw_matrix *m, void *mem) {
    size_t k = (size_t)m->k, n = (size_t)m->n, groups = k / (size_t)m->group;
    uint8_t *p = mem;
    m->q = p;
    p += line(k * (n / 2));
    m->scales = p;
    p += line(groups * n * 4);
    m->zeros = p;
    p += line(groups * n);
    m->perm = (int32_t *)(void *)p;
    p += line(k * 4);
    m->bias = p;
}

mw_status mw_quant_whole(const mw_st_folder *f, const mw_st_tensor *t, void *dst) {
    return mw_st_read(f, t, 0, (size_t)t->bytes, dst);
}

/* ---- nibbles ---------------------------------------------------------------------------------------------------- */

/* Two words to eight bytes: byte i of a row is nibble i of the even column and, above it, of the odd one. Even nibbles
 * of both words lie in the bytes of one 64-bit value, odd ones in another; four column pairs make 4 bytes a row. */
void mw_nibble_rows(const uint32_t *words, int64_t n, uint8_t *const dst[8]) {
    const uint64_t low = 0x0f0f0f0f0f0f0f0full;
    for (int64_t c = 0; c < n / 2; c++) {
        uint64_t x;
        memcpy(&x, words + 2 * c, 8);
        uint64_t e = x & low, o = x >> 4 & low;
        uint32_t even = (uint32_t)e | (uint32_t)(e >> 32) << 4, odd = (uint32_t)o | (uint32_t)(o >> 32) << 4;
        for (size_t i = 0; i < 4; i++) {
            dst[2 * i][c] = (uint8_t)(even >> (8 * i));
            dst[2 * i + 1][c] = (uint8_t)(odd >> (8 * i));
        }
    }
}

/* ---- act-order -------------------------------------------------------------------------------------------------- */

/* perm = stable argsort of g_idx; *real is false (perm untouched) when the groups are in order anyway. */
static mw_status order_of(const mw_st_folder *f, const mw_hf_weight *w, int32_t *perm, bool *real) {
    mw_status st = MW_OK;
    int64_t groups = w->k / w->group;
    int32_t *g = NULL;
    int64_t *next = NULL;
    *real = false;
    if (!w->g_idx) return MW_OK;
    MW_TRY(st, MW_CALLOC(&g, (size_t)w->k, "g_idx"));
    MW_TRY(st, MW_CALLOC(&next, (size_t)groups + 1, "group sizes"));
    MW_TRY(st, mw_quant_whole(f, w->g_idx, g));
    for (int64_t k = 0; k < w->k; k++) {
        if (g[k] < 0 || g[k] >= groups) {
            st = MW_FAIL(MW_ERR_FORMAT, "tensor '%s': group %d at [%lld], expected 0 to %lld", w->g_idx->name, g[k],
                         (long long)k, (long long)groups - 1);
            goto fail;
        }
        next[g[k]]++;
        *real = *real || g[k] != k / w->group;
    }
    for (int64_t i = 0; i < groups; i++) {
        if (next[i] != w->group) {
            st = MW_FAIL(MW_ERR_UNSUPPORTED, "tensor '%s': group %lld has %lld rows, expected %lld", w->g_idx->name,
                         (long long)i, (long long)next[i], (long long)w->group);
            goto fail;
        }
        next[i] = i * w->group;
    }
    if (*real)
        for (int64_t k = 0; k < w->k; k++) perm[next[g[k]]++] = (int32_t)k;
fail:
    free(g);
    free(next);
    return st;
}

typedef struct {
    mw_matrix *m;
    const int32_t *order;
} columns;

/* New column i is old column order[i], one stored row of nibbles at a time. */
static mw_status columns_chunk(const void *arg, int64_t u0, int64_t u1, void *scratch) {
    const columns *c = arg;
    int64_t half = c->m->n / 2;
    uint8_t *wide = scratch;
    for (int64_t k = u0; k < u1; k++) {
        uint8_t *row = c->m->q + k * half;
        for (int64_t i = 0; i < half; i++) {
            wide[2 * i] = row[i] & 15;
            wide[2 * i + 1] = row[i] >> 4;
        }
        for (int64_t i = 0; i < half; i++) row[i] = (uint8_t)(wide[c->order[2 * i]] | wide[c->order[2 * i + 1]] << 4);
    }
    return MW_OK;
}

static void reorder_row(uint8_t *row, size_t elem, int64_t n, const int32_t *order, uint8_t *scratch) {
    memcpy(scratch, row, (size_t)n * elem);
    for (int64_t i = 0; i < n; i++) memcpy(row + (size_t)i * elem, scratch + (size_t)order[i] * elem, elem);
}

static mw_status reorder_columns(mw_matrix *m, const int32_t *order, mw_pool *pool) {
    mw_status st = MW_OK;
    uint8_t *scratch = NULL;
    columns c = {m, order};
    MW_TRY(st, mw_chunks(pool, m->k, 256, (size_t)m->n, columns_chunk, &c));
    MW_TRY(st, mw_alloc64((void **)&scratch, (size_t)m->n * 4, "column order"));
    size_t ssize = mw_dtype_size(m->scale_dtype);
    for (int64_t g = 0; g < m->k / m->group; g++) {
        reorder_row((uint8_t *)m->scales + (size_t)(g * m->n) * ssize, ssize, m->n, order, scratch);
        if (m->zeros) reorder_row(m->zeros + g * m->n, 1, m->n, order, scratch);
    }
    if (m->bias) reorder_row(m->bias, mw_dtype_size(m->bias_dtype), m->n, order, scratch);
fail:
    free(scratch);
    return st;
}

/* The order that gate's and up's columns must take: down_proj's perm; NULL for other weights and without act-order. */
static mw_status order_of_down(const mw_hf_model *model, const mw_hf_weight *w, int32_t **out) {
    mw_status st = MW_OK;
    int layer;
    char down[MW_NAME_MAX];
    int32_t *perm = NULL;
    bool real = false;
    const char *tail = strrchr(w->name, '/');
    if (!tail || (strcmp(tail, "/gate_proj") != 0 && strcmp(tail, "/up_proj") != 0)) return MW_OK;
    if (sscanf(w->name, "layers/%d", &layer) != 1) return MW_OK;
    snprintf(down, sizeof down, "layers/%03d/mlp/down_proj", layer);
    const mw_hf_weight *d = mw_hf_find(model, down);
    if (!d || !d->int4 || !d->g_idx) return MW_OK;
    MW_TRY(st, MW_CALLOC(&perm, (size_t)d->k, "order of down_proj"));
    MW_TRY(st, order_of(model->folder, d, perm, &real));
    if (real) {
        *out = perm;
        perm = NULL;
    }
fail:
    free(perm);
    return st;
}

/* down_proj's order goes into the columns of both others, so both must be matrices whose columns we reorder. */
static mw_status check_can_move(const mw_hf_model *model, const mw_hf_weight *down) {
    static const char *const other[] = {"gate_proj", "up_proj"};
    for (int i = 0; i < 2; i++) {
        char name[MW_NAME_MAX];
        int layer = 0;
        if (sscanf(down->name, "layers/%d", &layer) != 1) return MW_OK;
        snprintf(name, sizeof name, "layers/%03d/mlp/%s", layer, other[i]);
        const mw_hf_weight *w = mw_hf_find(model, name);
        if (!w || !w->int4)
            return MW_FAIL(MW_ERR_UNSUPPORTED, "'%s' is act-order, but its %s is not quantised", down->hf, other[i]);
    }
    return MW_OK;
}

/* ---- bias ------------------------------------------------------------------------------------------------------- */

mw_status mw_quant_bias(const mw_st_folder *f, const mw_hf_weight *w, void *dst, bool *have) {
    mw_status st = MW_OK;
    *have = false;
    if (!w->bias) return MW_OK;
    mw_dtype t = mw_hf_dtype(w->bias);
    MW_TRY(st, mw_quant_whole(f, w->bias, dst));
    MW_TRY(st, mw_check_finite(w->bias->name, dst, t, 0, 1, w->n));
    for (int64_t i = 0; i < w->n && !*have; i++) *have = mw_load_f32(dst, t, (size_t)i) != 0;
    if (!*have)
        mw_debug("%s: is zero everywhere, left out", w->bias->name);
    else if (!w->wants_bias)
        st = MW_FAIL(MW_ERR_FORMAT, "tensor '%s' is not zero, but config.json gives this layer no bias", w->bias->name);
fail:
    return st;
}

/* ---- one matrix ------------------------------------------------------------------------------------------------- */

/* The matrix of a job whose rows are sorted by group: perm and its inverse. */
static mw_status sort_rows(mw_quant_job *j) {
    mw_status st = MW_OK;
    bool real;
    MW_TRY(st, order_of(j->folder, j->w, j->m->perm, &real));
    if (!real) {
        j->m->perm = NULL;
        return MW_OK;
    }
    MW_TRY(st, MW_CALLOC(&j->place, (size_t)j->m->k, "row order"));
    for (int64_t p = 0; p < j->m->k; p++) j->place[j->m->perm[p]] = (int32_t)p;
fail:
    return st;
}

mw_status mw_quant_read(mw_matrix *m, void *mem, const mw_hf_model *model, const mw_hf_weight *w, mw_pool *pool) {
    static mw_status (*const reader[])(mw_quant_job *) = {[MW_HF_GPTQ] = mw_quant_gptq,
                                                          [MW_HF_AWQ] = mw_quant_awq,
                                                          [MW_HF_CT] = mw_quant_ct,
                                                          [MW_HF_MARLIN] = mw_quant_marlin};
    mw_status st = MW_OK;
    int32_t *order = NULL;
    bool biased;
    mw_matrix r = {.k = w->k, .n = w->n, .group = w->group, .scale_dtype = mw_hf_dtype(w->scales)};
    mw_quant_job j = {.folder = model->folder, .w = w, .zero_offset = model->cfg.quant.zero_offset, .m = &r};
    mw_matrix_place(&r, mem);
    if (w->bias) r.bias_dtype = mw_hf_dtype(w->bias);
    MW_TRY(st, sort_rows(&j));
    MW_TRY(st, reader[model->cfg.quant.format](&j));
    MW_TRY(st, mw_check_finite(w->scales->name, r.scales, r.scale_dtype, 0, w->k / w->group, w->n));
    MW_TRY(st, mw_quant_bias(model->folder, w, r.bias, &biased));
    if (!biased) r.bias = NULL;
    MW_TRY(st, mw_chunks(pool, j.units, j.step, j.scratch, j.chunk, &j));
    MW_TRY(st, order_of_down(model, w, &order));
    if (order) MW_TRY(st, reorder_columns(&r, order, pool));
    const char *tail = strrchr(w->name, '/');
    if (r.perm && tail && strcmp(tail, "/down_proj") == 0) {
        MW_TRY(st, check_can_move(model, w));
        r.perm = NULL; /* now in the columns of gate and up */
    }
    *m = r;
fail:
    free(order);
    free(j.place);
    return st;
}
