/* kernels/cuda/blas.c - cuBLASLt: found at run time, and one algorithm looked up per shape.
 *
 * The library is opened with dlopen when a device is: it is hundreds of megabytes, so not linked statically, and a
 * program linked to it would not start on a machine without it, where the CPU backend should run. Its ABI is stable
 * within a major version; that number is part of the name. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "worker/base/mem.h"

#define PLANS 512 /* kept; the oldest makes room */

#define STRING_(x) #x
#define STRING(x)  STRING_(x)
#define SONAME     "libcublasLt.so." STRING(CUBLAS_VER_MAJOR)

/* What makes two products the same problem. */
typedef struct {
    int64_t m, n, k, ldx, ldy;
    int in, out;
} shape;

typedef struct {
    shape s;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
    size_t scratch;
} plan;

struct mw_blas {
    void *lib;
    cublasLtHandle_t handle;
    plan plans[PLANS];
    int n_plans, next;
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*pref_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*pref_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*pref_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t,
                             const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t,
                             void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,
                             cudaStream_t);
    const char *(*status_name)(cublasStatus_t);
};

static mw_status check(const mw_blas *b, cublasStatus_t s, const char *what) {
    if (s == CUBLAS_STATUS_SUCCESS) return MW_OK;
    return MW_FAIL(MW_ERR_INTERNAL, "%s: %s", what, b->status_name(s));
}

/* ---- the library ------------------------------------------------------------------------------------------------ */

static mw_status open_library(mw_blas *b) {
    static const char *const names[] = {
        SONAME,
#ifdef MW_CUDA_LIBRARY_DIR /* of the toolkit that built this */
        MW_CUDA_LIBRARY_DIR "/" SONAME,
#endif
        "/usr/local/cuda/lib64/" SONAME,
    };
    char first[256] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names && !b->lib; i++) {
        b->lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!b->lib && i == 0) snprintf(first, sizeof first, "%s", dlerror());
    }
    if (!b->lib) return MW_FAIL(MW_ERR_UNAVAIL, "cuBLASLt, which the CUDA backend needs: %s", first);
    const struct {
        void *fn;
        const char *name;
    } table[] = {
        {&b->create, "cublasLtCreate"},
        {&b->destroy, "cublasLtDestroy"},
        {&b->desc_create, "cublasLtMatmulDescCreate"},
        {&b->desc_destroy, "cublasLtMatmulDescDestroy"},
        {&b->desc_set, "cublasLtMatmulDescSetAttribute"},
        {&b->layout_create, "cublasLtMatrixLayoutCreate"},
        {&b->layout_destroy, "cublasLtMatrixLayoutDestroy"},
        {&b->pref_create, "cublasLtMatmulPreferenceCreate"},
        {&b->pref_destroy, "cublasLtMatmulPreferenceDestroy"},
        {&b->pref_set, "cublasLtMatmulPreferenceSetAttribute"},
        {&b->heuristic, "cublasLtMatmulAlgoGetHeuristic"},
        {&b->matmul, "cublasLtMatmul"},
        {&b->status_name, "cublasLtGetStatusString"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        void *fn = dlsym(b->lib, table[i].name);
        if (!fn) return MW_FAIL(MW_ERR_UNAVAIL, "%s has no %s", SONAME, table[i].name);
        memcpy(table[i].fn, &fn, sizeof fn); /* ISO C has no cast from an object to a function pointer */
    }
    return MW_OK;
}

static void drop_plan(const mw_blas *b, plan *p) {
    if (p->op) b->desc_destroy(p->op);
    if (p->w) b->layout_destroy(p->w);
    if (p->x) b->layout_destroy(p->x);
    if (p->y) b->layout_destroy(p->y);
    *p = (plan){0};
}

void mw_blas_close(mw_blas *b) {
    if (!b) return;
    for (int i = 0; i < b->n_plans; i++) drop_plan(b, &b->plans[i]);
    if (b->handle) b->destroy(b->handle);
    if (b->lib) dlclose(b->lib);
    free(b);
}

mw_status mw_blas_open(mw_blas **out) {
    mw_status st = MW_OK;
    mw_blas *b = NULL;
    MW_TRY(st, MW_CALLOC(&b, 1, "cuBLASLt"));
    MW_TRY(st, open_library(b));
    MW_TRY(st, check(b, b->create(&b->handle), "cublasLtCreate"));
    *out = b;
    return MW_OK;
fail:
    mw_blas_close(b);
    return st;
}

/* ---- products --------------------------------------------------------------------------------------------------- */

static cudaDataType_t data_type(int t) {
    return t == MW_F16 ? CUDA_R_16F : t == MW_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool aligned(const void *p, int64_t ld, mw_dtype t) {
    return (uintptr_t)p % 16 == 0 && ld * (int64_t)mw_dtype_size(t) % 16 == 0;
}

bool mw_blas_takes(mw_dtype in, mw_dtype out, int64_t k, const void *x, int64_t ldx, const void *w, const void *y,
                   int64_t ldy) {
    return aligned(x, ldx, in) && aligned(w, k, in) && aligned(y, ldy, out);
}

/* Row-major y = x w^T is, in the library's column-major words, y^T [n,m] = (w^T [k,n])^T x^T [k,m]. */
static mw_status make_plan(const mw_blas *b, plan *p, size_t scratch) {
    mw_status st = MW_OK;
    const shape *s = &p->s;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found;
    uint32_t align = 16;
    int n = 0;
    MW_TRY(st, check(b, b->desc_create(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cuBLASLt descriptor"));
    MW_TRY(st, check(b, b->desc_set(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
                     "cuBLASLt descriptor"));
    MW_TRY(st, check(b, b->layout_create(&p->w, data_type(s->in), (uint64_t)s->k, (uint64_t)s->n, s->k),
                     "cuBLASLt layout"));
    MW_TRY(st, check(b, b->layout_create(&p->x, data_type(s->in), (uint64_t)s->k, (uint64_t)s->m, s->ldx),
                     "cuBLASLt layout"));
    MW_TRY(st, check(b, b->layout_create(&p->y, data_type(s->out), (uint64_t)s->n, (uint64_t)s->m, s->ldy),
                     "cuBLASLt layout"));
    MW_TRY(st, check(b, b->pref_create(&pref), "cuBLASLt preference"));
    MW_TRY(st, check(b, b->pref_set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch, sizeof scratch),
                     "cuBLASLt preference"));
    MW_TRY(st, check(b, b->pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align),
                     "cuBLASLt preference"));
    MW_TRY(st, check(b, b->pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align),
                     "cuBLASLt preference"));
    MW_TRY(st, check(b, b->pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align),
                     "cuBLASLt preference"));
    MW_TRY(st, check(b, b->pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align),
                     "cuBLASLt preference"));
    MW_TRY(st, check(b, b->heuristic(b->handle, p->op, p->w, p->x, p->y, p->y, pref, 1, &found, &n),
                     "cuBLASLt's choice of an algorithm"));
    if (n < 1) {
        st = MW_FAIL(MW_ERR_INTERNAL, "cuBLASLt has no algorithm for m=%lld n=%lld k=%lld, %s to %s", (long long)s->m,
                     (long long)s->n, (long long)s->k, mw_dtype_name((mw_dtype)s->in), mw_dtype_name((mw_dtype)s->out));
        goto fail;
    }
    p->algo = found.algo;
    p->scratch = found.workspaceSize;
fail:
    if (pref) b->pref_destroy(pref);
    return st;
}

static mw_status find_plan(mw_blas *b, const shape *s, size_t scratch, plan **out) {
    for (int i = 0; i < b->n_plans; i++)
        if (memcmp(&b->plans[i].s, s, sizeof *s) == 0) {
            *out = &b->plans[i];
            return MW_OK;
        }
    plan p = {.s = *s};
    mw_status st = make_plan(b, &p, scratch);
    if (st != MW_OK) {
        drop_plan(b, &p);
        return st;
    }
    plan *slot = &b->plans[b->next];
    drop_plan(b, slot);
    *slot = p;
    b->next = (b->next + 1) % PLANS;
    if (b->n_plans < PLANS) b->n_plans++;
    *out = slot;
    return MW_OK;
}

mw_status mw_blas_gemm(mw_dev *d, mw_dtype in, mw_dtype out, int64_t m, int64_t n, int64_t k, const void *x,
                       int64_t ldx, const void *w, void *y, int64_t ldy, void *scratch, size_t scratch_bytes) {
    mw_blas *b = d->blas;
    plan *p = NULL;
    shape s;
    memset(&s, 0, sizeof s); /* compared as bytes */
    s.m = m, s.n = n, s.k = k, s.ldx = ldx, s.ldy = ldy, s.in = (int)in, s.out = (int)out;
    mw_status st = mw_cuda_check(cudaSetDevice(d->ordinal), "cuBLASLt");
    if (st == MW_OK) st = find_plan(b, &s, scratch_bytes, &p);
    if (st != MW_OK) return st;
    if (p->scratch > scratch_bytes)
        return MW_FAIL(MW_ERR_INTERNAL, "cuBLASLt wants %zu bytes of scratch, has %zu", p->scratch, scratch_bytes);
    const float one = 1, zero = 0;
    return check(b,
                 b->matmul(b->handle, p->op, &one, w, p->w, x, p->x, &zero, y, p->y, y, p->y, &p->algo, scratch,
                           p->scratch, d->stream),
                 "cuBLASLt product");
}
