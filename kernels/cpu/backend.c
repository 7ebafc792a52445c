/* kernels/cpu/backend.c - the CPU device: opening, memory, and the table of functions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"

#define SPIN_US    100       /* the next kernel of a step follows within this, as a rule */
#define HUGE_PAGE  (2 << 20) /* larger blocks are aligned to it and may be backed by such pages: fewer TLB misses */
#define ALONE_SPIN (16 << 10)
#define ALONE_IDLE (64 << 10) /* waking sleeping threads costs tens of microseconds */

void mw_dev_run(mw_dev *d, int64_t work, mw_pool_fn fn, void *arg) {
    if (d->threads == 1 || work < (d->spin ? ALONE_SPIN : ALONE_IDLE))
        fn(arg, 0, 1);
    else
        mw_pool_run(d->pool, fn, arg);
}

static mw_status device_alloc(void **out, size_t bytes, const char *what) {
    if (bytes < HUGE_PAGE) return mw_alloc64(out, bytes, what);
    size_t rounded = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *p = rounded >= bytes ? aligned_alloc(HUGE_PAGE, rounded) : NULL;
    if (!p) return MW_FAIL(MW_ERR_NOMEM, "%s: %zu bytes", what, bytes);
    madvise(p, rounded, MADV_HUGEPAGE); /* advice: a kernel without huge pages changes nothing */
    *out = p;
    return MW_OK;
}

mw_status mw_dev_workspace(mw_dev *d, size_t bytes, void **out) {
    if (bytes > d->workspace_bytes) {
        void *p = NULL;
        mw_status st = device_alloc(&p, bytes, "CPU workspace");
        if (st != MW_OK) return st;
        free(d->workspace);
        d->workspace = p;
        d->workspace_bytes = bytes;
    }
    *out = d->workspace;
    return MW_OK;
}

static const char *cpu_library(void) {
    return "built in";
}

static int cpu_count(void) {
    return 1;
}

static void cpu_close(mw_dev *d) {
    if (!d) return;
    mw_pool_destroy(d->pool);
    free(d->workspace);
    free(d);
}

static mw_status cpu_open(mw_dev **out, const mw_dev_opts *opts) {
    mw_status st = MW_OK;
    mw_dev *d = NULL;
    MW_TRY(st, MW_CALLOC(&d, 1, "CPU device"));
    d->threads = opts->threads;
    d->spin = opts->spin;
    d->int8_act = opts->int8_act;
    MW_TRY(st, mw_isa_pick(&d->isa));
    MW_TRY(st, mw_pool_create(&d->pool, opts->threads, opts->spin ? SPIN_US : 0));
    *out = d;
    return MW_OK;
fail:
    cpu_close(d);
    return st;
}

static mw_status cpu_info(mw_dev *d, mw_dev_info *out) {
    char model[64];
    *out = (mw_dev_info){.act = MW_F32, .host_memory = true};
    mw_cpu_model(model, sizeof model);
    snprintf(out->name, sizeof out->name, "%s, %d thread%s, %s", model, d->threads, d->threads == 1 ? "" : "s",
             d->isa->name);
    snprintf(out->isa, sizeof out->isa, "%s", d->isa->name);
    mw_cpu_memory(&out->mem_total, &out->mem_free);
    return MW_OK;
}

static mw_status cpu_alloc(mw_dev *d, void **out, size_t bytes, const char *what) {
    (void)d;
    return device_alloc(out, bytes, what);
}

static void cpu_free(mw_dev *d, void *p) {
    (void)d;
    free(p);
}

static mw_status cpu_copy(mw_dev *d, void *dst, const void *src, size_t bytes) {
    (void)d;
    if (bytes) memcpy(dst, src, bytes);
    return MW_OK;
}

static mw_status cpu_fetch(mw_dev *d, void *host_dst, const void *src, size_t bytes, int mark) {
    (void)mark;
    return cpu_copy(d, host_dst, src, bytes);
}

static mw_status cpu_fetched(mw_dev *d, int mark, bool *yes) {
    (void)d;
    (void)mark;
    *yes = true;
    return MW_OK;
}

static mw_status cpu_zero(mw_dev *d, void *dst, size_t bytes) {
    (void)d;
    if (bytes) memset(dst, 0, bytes);
    return MW_OK;
}

static mw_status cpu_sync(mw_dev *d) {
    (void)d;
    return MW_OK;
}

static mw_status cpu_linear(mw_dev *d, const mw_linear *w, int64_t m, const void *x, int64_t ldx, void *y, int64_t ldy,
                            bool y_f32) {
    (void)y_f32; /* activations are f32 here */
    switch (w->kind) {
    case MW_LINEAR_W4: return mw_cpu_linear_w4(d, w, m, x, ldx, y, ldy);
    case MW_LINEAR_DENSE: return mw_cpu_linear_dense(d, w, m, x, ldx, y, ldy);
    }
    return MW_FAIL(MW_ERR_INTERNAL, "linear of kind %d", (int)w->kind);
}

static const mw_kernels k_cpu = {
    .name = "cpu",
    .library = cpu_library,
    .count = cpu_count,
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .to_device = cpu_copy,
    .to_host = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .linear = cpu_linear,
    .embed = mw_cpu_embed,
    .add_norm = mw_cpu_add_norm,
    .gather_cols = mw_cpu_gather_cols,
    .take_rows = mw_cpu_take_rows,
    .attention = mw_cpu_attention,
    .silu_mul = mw_cpu_silu_mul,
    .argmax = mw_cpu_argmax,
    .best_of = mw_cpu_best_of,
    .draw = mw_cpu_draw,
    .fetch = cpu_fetch,
    .fetched = cpu_fetched,
    .count_nonfinite = mw_cpu_count_nonfinite,
};

const mw_kernels *mw_kernels_cpu(void) {
    return &k_cpu;
}
