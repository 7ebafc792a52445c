/* tests/kernels/test_cuda_w4_config.c - the CUDA int4 GEMM's choice of a configuration: arithmetic, no device needed.
 * For every chip, shape, group and number of rows the configuration must fit the chip, cover the matrix, and give every
 * block work. */
#include <stdio.h>

#include "kernels/cuda/w4.h"

static int g_checks, g_failed;

static void check(bool good, const char *what, const mw_dev *d, int64_t m, const mw_linear *w, const mw_w4_config *c) {
    char text[320];
    g_checks++;
    if (good || ++g_failed > 20) return;
    printf("FAILED %s: sm_%d, m %lld k %lld n %lld group %lld: %s\n", what, d->sm, (long long)m, (long long)w->k,
           (long long)w->n, (long long)w->w4.group, mw_cuda_w4_print(c, text, sizeof text));
}

/* What holds of the wgmma kernels' configurations alone. */
static void check_wgmma(const mw_dev *d, int64_t m, const mw_linear *w, const mw_w4_config *c) {
    int64_t tiles = (int64_t)c->m_tiles * c->n_tiles;
    check(d->sm == 90 && m > 16, "wgmma", d, m, w, c);
    check(c->kb == 64 && c->x_rows == c->bm && c->bn % 128 == 0 && c->bn / 64 <= 256, "stage", d, m, w, c);
    check(c->fine == (w->w4.group % c->kb != 0) && (c->fine || c->scale_rows == 1), "fine", d, m, w, c);
    check(c->split >= 1 && c->split <= MW_WG_MAX_SPLIT && c->split <= c->k_stages, "split", d, m, w, c);
    int64_t slots = (int64_t)d->n_sm * c->per_sm;
    check(c->per_sm * (c->smem + 1024) <= (int)d->smem_max + 1024, "blocks a multiprocessor", d, m, w, c);
    check(c->blocks == (c->split > 1 ? tiles * c->split : tiles < slots ? tiles : slots), "blocks", d, m, w, c);
    check(c->split == 1 || (int64_t)c->bm * c->bn * 4 <= (int64_t)c->ring * c->stage_bytes, "room for sums", d, m, w,
          c);
}

static void check_one(const mw_dev *d, int64_t m, const mw_linear *w) {
    mw_w4_config c = mw_cuda_w4_choose(d, m, w);
    mw_w4_shape s = mw_cuda_w4_shape(c.variant);
    int64_t tiles = (int64_t)c.m_tiles * c.n_tiles, stages = tiles * c.k_stages;
    int64_t cut = (tiles - (int64_t)c.waves * c.blocks) * c.k_stages;
    check(c.ring >= 2 && c.ring <= MW_W4_MAX_RING, "ring", d, m, w, &c);
    check((size_t)c.smem <= d->smem_max, "shared memory", d, m, w, &c);
    check(d->sm < 90 || mw_w4_is_wgmma(c.variant) || s.blocks_per_sm * (c.smem + 1024) <= (int)d->smem_max + 1024,
          "two blocks", d, m, w, &c);
    check(c.bm == 8 * s.mt * s.wm && c.bn == 64 * s.wn && c.threads >= 32 * s.wm * s.wn * s.wk, "warps", d, m, w, &c);
    check((int64_t)c.m_tiles * c.bm >= m && (int64_t)c.n_tiles * c.bn >= w->n && (int64_t)c.k_stages * c.kb >= w->k,
          "cover", d, m, w, &c);
    check(c.off_x % 1024 == 0 && c.off_s % 128 == 0 && c.off_z % 128 == 0 &&
              c.stage_bytes % (c.variant == MW_W4_LEAN ? 128 : 1024) == 0,
          "alignment", d, m, w, &c);
    if (mw_w4_is_wgmma(c.variant)) {
        check_wgmma(d, m, w, &c);
        return;
    }
    check(c.kb % 64 == 0 && c.kb / 16 % s.wk == 0 && c.kb / 16 <= 256 && c.bn * 2 <= 256 && c.x_rows <= 256, "stage", d,
          m, w, &c);
    check(c.blocks >= 1 && c.blocks <= d->n_sm && c.blocks <= stages, "blocks", d, m, w, &c);
    check(stages < d->n_sm || c.blocks == d->n_sm, "an idle multiprocessor", d, m, w, &c);
    check(cut == 0 || cut >= c.blocks, "a block without work", d, m, w, &c);
    check((int64_t)c.blocks * c.bm * c.bn <= (int64_t)MW_CUDA_COUNTERS, "slots", d, m, w, &c);
}

/* One or two things more in the kernel; and blocks of the two kinds fit a multiprocessor together, two of the first do
 * not (of the second, registers see to that). */
static void check_fused(const mw_dev *d, int64_t m, const mw_linear *w) {
    static const float norm[1];
    for (int i = 0; i < 4; i++) {
        mw_fuse f = {.norm = i & 1 ? norm : NULL, .silu_mul = i & 2};
        mw_w4_config c = mw_cuda_w4_lean(d, m, w, &f);
        int all = (int)d->smem_max + 1024, first = c.smem_first + 1024;
        if (c.ring < 2) continue;
        check(d->sm >= 90 && m <= 8 && (!f.norm || m == 1), "lean", d, m, w, &c);
        check(c.ring % 2 == 0 && c.ring <= MW_W4_MAX_RING - 2, "ring of two teams", d, m, w, &c);
        check(2 * first > all && (f.norm ? c.smem <= c.smem_first : first + c.smem + 1024 <= all), "two kinds", d, m, w,
              &c);
        check((int64_t)c.n_tiles * 64 * c.halves == w->n && c.off_red + MW_W4_LEAN_RED <= c.smem, "tiles", d, m, w, &c);
    }
}

/* Every group of scales that a stage touches is among the rows that it carries. */
static void check_groups(const mw_dev *d, int64_t m, const mw_linear *w) {
    mw_w4_config c = mw_cuda_w4_choose(d, m, w);
    for (int64_t k = 0; k < w->k; k += c.kb) {
        int64_t end = k + c.kb < w->k ? k + c.kb : w->k;
        check((end - 16) / w->w4.group - k / w->w4.group < c.scale_rows, "groups of a stage", d, m, w, &c);
    }
}

int main(void) {
    static const mw_dev chips[] = {{.sm = 80, .n_sm = 108, .smem_max = 166912},
                                   {.sm = 86, .n_sm = 84, .smem_max = 101376},
                                   {.sm = 89, .n_sm = 128, .smem_max = 101376},
                                   {.sm = 90, .n_sm = 132, .smem_max = 232448},
                                   {.sm = 90, .n_sm = 78, .smem_max = 232448}};
    static const int64_t ks[] = {16, 48, 208, 1344, 1728, 2048, 4096, 7296, 14336, 28672};
    static const int64_t ns[] = {64, 128, 448, 2560, 4096, 6144, 57344};
    static const int64_t groups[] = {16, 32, 48, 64, 128, 192, 0};
    static const mw_dtype scales[] = {MW_F16, MW_F32};
    static const uint8_t zeros[1];
    for (size_t chip = 0; chip < sizeof chips / sizeof *chips; chip++)
        for (int64_t m = 1; m <= 5000; m += 1 + m / 7)
            for (size_t k = 0; k < sizeof ks / sizeof *ks; k++)
                for (size_t n = 0; n < sizeof ns / sizeof *ns; n++)
                    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
                        int64_t group = groups[g] ? groups[g] : ks[k];
                        if (ks[k] % group) continue;
                        mw_linear w = {.kind = MW_LINEAR_W4, .k = ks[k], .n = ns[n]};
                        w.w4 = (mw_w4){.group = group, .scale_dtype = scales[m & 1], .zeros = m & 2 ? zeros : NULL};
                        check_one(&chips[chip], m, &w);
                        check_fused(&chips[chip], m, &w);
                        if (n == 0) check_groups(&chips[chip], m, &w);
                    }
    printf("%d checks, %d failed\n", g_checks, g_failed);
    return g_failed != 0;
}
