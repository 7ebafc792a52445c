#include "shard/plan.h"

#include <stdlib.h>
#include <string.h>

#include "shard/roles.h"

static int64_t gcd(int64_t a, int64_t b) {
    return b ? gcd(b, a % b) : a;
}
static int64_t lcm(int64_t a, int64_t b) {
    return a / gcd(a, b) * b; /* NOLINT(clang-analyzer-core.DivideZero): see cut_unit */
}
static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b; /* NOLINT(clang-analyzer-core.DivideZero): see cut_unit */
}
static mw_range range_of_part(int64_t total, int64_t unit, int i, int n) {
    int64_t units = ceil_div(total, unit), lo = units * i / n * unit, hi = units * (i + 1) / n * unit;
    return (mw_range){lo < total ? lo : total, hi < total ? hi : total};
}

/* A cut inside a group keeps the group's scale on both sides, at the cost of smaller groups in that shard; below 32
 * rows no kernel has an instance. */
static const int64_t k_least_group = 32;

/* Rows of K at which a cut of `w` may fall when groups may be halved `level` times: 1, 16, 32, 64 or 128, since a file
 * with other groups does not open (directory_check.c). So all units are positive, and their multiples small. */
static int64_t cut_unit(const mw_weight *w, int level) {
    if (w->kind != MW_INT4) return 1;
    if (w->group_size == w->k) return MW_TILE_K; /* per-channel: only tiles matter */
    int64_t g = w->group_size >> level;
    return g > k_least_group ? g : k_least_group;
}

static bool is_o_proj(const mw_weight *w) {
    return strstr(w->name, "self_attn/o_proj") != NULL;
}
static bool is_down(const mw_weight *w) {
    return strstr(w->name, "mlp/down_proj") != NULL;
}

/* The cuts that suit every layer: heads (o_proj without act-order), sorted rows (o_proj with it), MLP. */
typedef struct {
    int64_t heads_rows, sorted_rows, mlp;
} units;

static units units_at(const mw_ckpt *c, int level) {
    units u = {1, 1, 1};
    for (int i = 0; i < mw_ckpt_n_weights(c); i++) {
        const mw_weight *w = mw_ckpt_weight(c, i);
        if (is_o_proj(w) && w->perm >= 0) u.sorted_rows = lcm(u.sorted_rows, cut_unit(w, level));
        if (is_o_proj(w) && w->perm < 0) u.heads_rows = lcm(u.heads_rows, cut_unit(w, level));
        if (is_down(w)) u.mlp = lcm(u.mlp, lcm(cut_unit(w, 0), level == 0 ? MW_TILE_N : MW_TILE_K));
    }
    return u;
}

/* Heads of every rank, or false when n ranks are too many for cuts at multiples of `align` heads. */
static bool cut_heads(const mw_model_config *c, int n, int64_t align, mw_rank_share *out) {
    int64_t ratio = c->n_heads / c->n_kv_heads, unit = lcm(ratio, align);
    if (n <= ceil_div(c->n_heads, unit)) { /* whole KV heads with all their q heads */
        for (int r = 0; r < n; r++) {
            out[r].q_heads = range_of_part(c->n_heads, unit, r, n);
            out[r].kv_heads = (mw_range){out[r].q_heads.lo / ratio, out[r].q_heads.hi / ratio};
        }
        return true;
    }
    if (n < c->n_kv_heads || ratio % align || n > c->n_kv_heads * (ratio / align)) return false;
    for (int64_t h = 0; h < c->n_kv_heads; h++) { /* the ranks of KV head h share its q heads */
        int first = (int)(h * n / c->n_kv_heads), last = (int)((h + 1) * n / c->n_kv_heads);
        for (int r = first; r < last; r++) {
            mw_range q = range_of_part(ratio, align, r - first, last - first);
            out[r].q_heads = (mw_range){h * ratio + q.lo, h * ratio + q.hi};
            out[r].kv_heads = (mw_range){h, h + 1};
        }
    }
    return true;
}

/* Fill the ranges of all ranks; on refusal *why names what cannot be cut so often. */
static bool cut_all(const mw_ckpt *c, int n, mw_rank_share *out, const char **why) {
    const mw_model_config *m = mw_ckpt_config(c);
    int64_t rows = m->n_heads * m->head_dim;
    bool heads = false, sorted = false, mlp = false;
    for (int level = 0; level < 3 && !(heads && sorted && mlp); level++) {
        units u = units_at(c, level);
        int64_t align = u.heads_rows / gcd(u.heads_rows, m->head_dim);
        if (!heads) heads = cut_heads(m, n, align, out);
        if (!sorted && n <= ceil_div(rows, u.sorted_rows)) {
            sorted = true;
            for (int r = 0; r < n; r++) out[r].o_sorted = range_of_part(rows, u.sorted_rows, r, n);
        }
        if (!mlp && n <= ceil_div(m->intermediate, u.mlp)) {
            mlp = true;
            for (int r = 0; r < n; r++) out[r].mlp = range_of_part(m->intermediate, u.mlp, r, n);
        }
    }
    bool vocab = n <= ceil_div(m->vocab, MW_TILE_N);
    for (int r = 0; r < n && vocab; r++) out[r].vocab = range_of_part(m->vocab, MW_TILE_N, r, n);
    *why = !heads    ? "attention heads (in whole quantisation groups of o_proj)"
           : !sorted ? "quantisation groups of the act-order o_proj"
           : !mlp    ? "quantisation groups of down_proj"
           : !vocab  ? "64-row blocks of the vocabulary"
                     : NULL;
    return *why == NULL;
}

void mw_plan_slice(const mw_plan *p, int rank, const mw_weight *w, mw_range *k, mw_range *n) {
    const mw_rank_share *s = &p->rank[rank];
    int64_t hd = mw_ckpt_config(p->ckpt)->head_dim;
    mw_role role = MW_ROLE_REPLICATED;
    *k = (mw_range){0, w->k};
    *n = (mw_range){0, w->n};
    if (mw_plan_role(w->name, &role) != MW_OK) return; /* cannot be: the directory check knows every name */
    if (role == MW_ROLE_VOCAB)
        *n = s->vocab;
    else if (role == MW_ROLE_ROW && is_down(w))
        *k = s->mlp;
    else if (role == MW_ROLE_ROW)
        *k = w->perm >= 0 ? s->o_sorted : (mw_range){s->q_heads.lo * hd, s->q_heads.hi * hd};
    else if (role == MW_ROLE_COLUMN && strstr(w->name, "mlp/"))
        *n = s->mlp;
    else if (role == MW_ROLE_COLUMN && strstr(w->name, "q_proj"))
        *n = (mw_range){s->q_heads.lo * hd, s->q_heads.hi * hd};
    else if (role == MW_ROLE_COLUMN)
        *n = (mw_range){s->kv_heads.lo * hd, s->kv_heads.hi * hd};
}

int64_t mw_plan_local_group(const mw_weight *w, mw_range k) {
    if (w->group_size == w->k) return mw_range_len(k);
    return gcd(gcd(w->group_size, k.lo), mw_range_len(k));
}

uint64_t mw_plan_kv_bytes(const mw_plan *p, int rank, size_t elem_size) {
    const mw_model_config *m = mw_ckpt_config(p->ckpt);
    return 2 * (uint64_t)(mw_range_len(p->rank[rank].kv_heads) * m->head_dim * m->n_layers) * elem_size;
}

/* Bytes of one slice: in memory (tiles, padding, f32 vectors) and in the file. */
static void slice_bytes(const mw_plan *p, const mw_weight *w, mw_range k, mw_range n, uint64_t *held, uint64_t *read) {
    uint64_t kk = (uint64_t)mw_range_len(k), nn = (uint64_t)mw_range_len(n);
    if (w->kind == MW_INT4) {
        bool tiles = mw_ckpt_layout(p->ckpt) == MW_IN_TILES;
        uint64_t padded = (uint64_t)mw_round_up((int64_t)nn, MW_TILE_N);
        uint64_t stored = tiles ? (uint64_t)(mw_round_up(n.hi, MW_TILE_N) - n.lo / MW_TILE_N * MW_TILE_N) : nn;
        uint64_t row = mw_dtype_size(mw_ckpt_dataset(p->ckpt, w->scales)->dtype) + (w->zeros >= 0);
        *held = kk * padded / 2 + kk / (uint64_t)mw_plan_local_group(w, k) * padded * row;
        *read = kk * stored / 2 + (uint64_t)ceil_div((int64_t)kk, w->group_size) * stored * row;
        if (w->perm >= 0) *held += 4 * (uint64_t)w->k, *read += 4 * (uint64_t)w->k;
    } else {
        uint64_t size = mw_dtype_size(mw_ckpt_dataset(p->ckpt, w->weight)->dtype);
        *read = kk * nn * size;
        *held = w->kind == MW_VECTOR ? nn * 4 : *read;
    }
    if (w->bias >= 0) *held += nn * 4, *read += nn * mw_dtype_size(mw_ckpt_dataset(p->ckpt, w->bias)->dtype);
}

static void sum_bytes(mw_plan *p) {
    for (int r = 0; r < p->n_ranks; r++) {
        mw_rank_share *s = &p->rank[r];
        for (int i = 0; i < mw_ckpt_n_weights(p->ckpt); i++) {
            mw_range k, n;
            uint64_t held, read;
            mw_plan_slice(p, r, mw_ckpt_weight(p->ckpt, i), &k, &n);
            slice_bytes(p, mw_ckpt_weight(p->ckpt, i), k, n, &held, &read);
            s->weight_bytes += held;
            s->file_bytes += read;
        }
        s->kv_bytes_per_token = mw_plan_kv_bytes(p, r, mw_dtype_size(mw_ckpt_config(p->ckpt)->act));
    }
}

int mw_plan_max_ranks(const mw_ckpt *c) {
    int n = 0;
    const char *why;
    int64_t most = mw_ckpt_config(c)->n_heads;
    mw_rank_share *s = calloc((size_t)most + 1, sizeof *s);
    if (!s) return 0;
    while (n < most && cut_all(c, n + 1, s, &why)) n++;
    free(s);
    return n;
}

mw_status mw_plan_make(mw_plan **out, const mw_ckpt *ckpt, int n_ranks) {
    mw_status st = MW_OK;
    mw_plan *p = NULL;
    const char *why = NULL;
    int most = mw_plan_max_ranks(ckpt), file_rank, file_ranks;
    if (n_ranks < 1 || n_ranks > most) {
        mw_rank_share *s = calloc((size_t)most + 2, sizeof *s);
        if (s) cut_all(ckpt, most + 1, s, &why);
        free(s);
        return MW_FAIL(MW_ERR_LIMIT, "%s: cannot be cut into %d ranks, at most %d: more would need more %s",
                       mw_ckpt_path(ckpt), n_ranks, most, why ? why : "attention heads");
    }
    if (mw_ckpt_is_rank_file(ckpt, &file_rank, &file_ranks) && file_ranks != n_ranks)
        return MW_FAIL(MW_ERR_LIMIT, "%s: holds the shard of rank %d of %d, this job has %d ranks", mw_ckpt_path(ckpt),
                       file_rank, file_ranks, n_ranks);
    MW_TRY(st, MW_CALLOC(&p, 1, "shard plan"));
    p->n_ranks = n_ranks;
    p->ckpt = ckpt;
    MW_TRY(st, MW_CALLOC(&p->rank, (size_t)n_ranks, "shard plan"));
    cut_all(ckpt, n_ranks, p->rank, &why);
    sum_bytes(p);
    *out = p;
    return MW_OK;
fail:
    mw_plan_free(p);
    return st;
}

void mw_plan_free(mw_plan *p) {
    if (!p) return;
    free(p->rank);
    free(p);
}

/* ---- for people ---- */

static void print_slice(const mw_plan *p, FILE *f, const mw_weight *w, int rank) {
    mw_range k, n;
    uint64_t held, read;
    char bytes[16], kr[48], nr[48];
    mw_role role = MW_ROLE_REPLICATED;
    mw_status st = mw_plan_role(w->name, &role);
    (void)st;
    mw_plan_slice(p, rank, w, &k, &n);
    slice_bytes(p, w, k, n, &held, &read);
    snprintf(kr, sizeof kr, "%lld:%lld", (long long)k.lo, (long long)k.hi);
    snprintf(nr, sizeof nr, "%lld:%lld", (long long)n.lo, (long long)n.hi);
    char quant[24] = "vector";
    if (w->kind == MW_DENSE16) snprintf(quant, sizeof quant, "dense");
    if (w->kind == MW_INT4 && w->group_size == w->k) snprintf(quant, sizeof quant, "int4 channel");
    if (w->kind == MW_INT4 && w->group_size != w->k)
        snprintf(quant, sizeof quant, "int4 g%lld", (long long)mw_plan_local_group(w, k));
    fprintf(f, "%-38s %-10s %-12s %4d  K %-13s N %-15s %9s\n", w->name, mw_role_name(role), quant, rank, kr, nr,
            mw_human_bytes(held, bytes));
}

void mw_plan_print(const mw_plan *p, FILE *f, bool verbose) {
    uint64_t most = 0, total = 0;
    if (verbose) {
        fprintf(f, "%-38s %-10s %-12s %4s  %-15s %-17s %9s\n", "tensor", "role", "storage", "rank", "K range",
                "N range", "memory");
        for (int i = 0; i < mw_ckpt_n_weights(p->ckpt); i++)
            for (int r = 0; r < p->n_ranks; r++) print_slice(p, f, mw_ckpt_weight(p->ckpt, i), r);
        fputc('\n', f);
    }
    fprintf(f, "%4s  %-11s %-9s %-13s %-15s %9s %9s %12s\n", "rank", "q heads", "kv heads", "mlp columns", "vocab rows",
            "weights", "from file", "KV/token");
    for (int r = 0; r < p->n_ranks; r++) {
        const mw_rank_share *s = &p->rank[r];
        char q[24], kv[24], mlp[24], vocab[24], w[16], b[16], t[16];
        snprintf(q, sizeof q, "%lld:%lld", (long long)s->q_heads.lo, (long long)s->q_heads.hi);
        snprintf(kv, sizeof kv, "%lld:%lld", (long long)s->kv_heads.lo, (long long)s->kv_heads.hi);
        snprintf(mlp, sizeof mlp, "%lld:%lld", (long long)s->mlp.lo, (long long)s->mlp.hi);
        snprintf(vocab, sizeof vocab, "%lld:%lld", (long long)s->vocab.lo, (long long)s->vocab.hi);
        fprintf(f, "%4d  %-11s %-9s %-13s %-15s %9s %9s %12s\n", r, q, kv, mlp, vocab,
                mw_human_bytes(s->weight_bytes, w), mw_human_bytes(s->file_bytes, b),
                mw_human_bytes(s->kv_bytes_per_token, t));
        if (s->weight_bytes > most) most = s->weight_bytes;
        total += s->weight_bytes;
    }
    double mean = (double)total / p->n_ranks;
    fprintf(f, "imbalance %.1f %% (largest rank over the mean), at most %d ranks\n", ((double)most / mean - 1) * 100,
            mw_plan_max_ranks(p->ckpt));
}
