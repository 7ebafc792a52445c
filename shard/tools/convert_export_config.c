#include "shard/tools/convert_export_config.h"

#include <stdlib.h>
#include <string.h>

#include "shard/hf_json.h"

/* Which of the zeros 0 and 16 occur in a dataset of zeros of n columns; a packed file permutes and pads them. */
static mw_status scan_zeros(const mw_ckpt *c, const mw_dataset *d, int64_t n, bool *has0, bool *has16) {
    mw_status st = MW_OK;
    uint8_t *band = NULL;
    bool tiles = mw_ckpt_layout(c) == MW_IN_TILES;
    MW_TRY(st, mw_alloc64((void **)&band, (size_t)(d->cols * d->block_rows), "zeros"));
    for (int64_t r = 0; r < d->rows; r += d->block_rows) {
        int64_t rows = d->rows - r < d->block_rows ? d->rows - r : d->block_rows;
        MW_TRY(st, mw_ckpt_read(c, d, r, rows, 0, d->cols, band, (size_t)d->cols, true));
        for (int64_t i = 0; i < rows * d->cols; i++) {
            int64_t p = i % d->cols, column = tiles ? p / 64 * 64 + p % 64 / 8 + p % 8 * 8 : p;
            *has0 = *has0 || (band[i] == 0 && column < n);
            *has16 = *has16 || band[i] == 16;
        }
    }
fail:
    free(band);
    return st;
}

mw_status mw_export_gptq_shape(const mw_ckpt *c, mw_gptq_shape *out) {
    mw_status st = MW_OK;
    mw_gptq_shape g = {.group_size = -1, .symmetric = true};
    bool has0 = false, has16 = false, any = false;
    int64_t whole = 0; /* K of a layer that is one group */
    for (int i = 0; i < mw_ckpt_n_weights(c); i++) {
        const mw_weight *w = mw_ckpt_weight(c, i);
        if (w->kind != MW_INT4) continue;
        any = true;
        if (w->group_size == w->k)
            whole = w->k;
        else if (g.group_size == -1)
            g.group_size = w->group_size;
        else if (g.group_size != w->group_size)
            return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: group sizes %lld and %lld: GPTQ has one for the whole model",
                           mw_ckpt_path(c), (long long)g.group_size, (long long)w->group_size);
        if (w->zeros >= 0) {
            g.symmetric = false;
            MW_TRY(st, scan_zeros(c, mw_ckpt_dataset(c, w->zeros), w->n, &has0, &has16));
        }
        g.act_order = g.act_order || w->perm >= 0;
        g.lm_head = g.lm_head || strcmp(w->name, "lm_head") == 0;
    }
    if (!any)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: no layer is int4; --dequant writes float weights", mw_ckpt_path(c));
    if (g.group_size != -1 && whole && whole != g.group_size)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: group sizes %lld and -1: GPTQ has one for the whole model",
                       mw_ckpt_path(c), (long long)g.group_size);
    if (has0 && has16)
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: zeros of both 0 and 16: no GPTQ version holds both", mw_ckpt_path(c));
    g.zero_offset = has16;
    *out = g;
fail:
    return st;
}

static json_t *quantization_of(const mw_gptq_shape *g) {
    return json_pack("{s:s, s:i, s:I, s:b, s:b, s:b, s:s, s:s, s:s}", "quant_method", "gptq", "bits", 4, "group_size",
                     (json_int_t)g->group_size, "desc_act", g->act_order, "sym", g->symmetric, "lm_head", g->lm_head,
                     "checkpoint_format", g->zero_offset ? "gptq" : "gptq_v2", "format",
                     g->zero_offset ? "gptq" : "gptq_v2", "pack_dtype", "int32");
}

mw_status mw_export_config_text(const mw_ckpt *c, mw_export_kind kind, mw_dtype act, const mw_gptq_shape *gptq,
                                mw_str *out) {
    mw_status st = MW_OK;
    mw_str text = {0};
    json_t *root = NULL;
    char *dump = NULL;
    const char *dtype = act == MW_F16 ? "float16" : "bfloat16";
    MW_TRY(st, mw_ckpt_text(c, MW_TEXT_CONFIG, &text));
    MW_TRY(st, mw_json_load(&root, MW_TEXT_CONFIG, text.p, text.n));
    json_object_del(root, "quantization_config");
    /* a conversion may have made lm_head a weight of its own */
    json_object_set_new(root, "tie_word_embeddings", json_boolean(mw_ckpt_config(c)->tie_embeddings));
    /* both spellings: which one a reader knows depends on its age */
    json_object_set_new(root, "torch_dtype", json_string(dtype));
    json_object_set_new(root, "dtype", json_string(dtype));
    if (kind == MW_EXPORT_GPTQ) json_object_set_new(root, "quantization_config", quantization_of(gptq));
    dump = json_dumps(root, JSON_INDENT(2));
    if (!dump) {
        st = MW_FAIL(MW_ERR_NOMEM, "config.json");
        goto fail;
    }
    MW_TRY(st, mw_str_adds(out, dump));
    MW_TRY(st, mw_str_adds(out, "\n"));
fail:
    free(dump);
    json_decref(root);
    mw_str_free(&text);
    return st;
}
