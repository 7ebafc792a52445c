/* bench/shapes.h - what of a model a rank multiplies and reads, from the same plan as the engine's. */
#ifndef MW_BENCH_SHAPES_H
#define MW_BENCH_SHAPES_H
#include "bench/bench.h"
#include "shard/plan.h"

typedef struct bench_shape {
    char layer[16]; /* "qkv", "o", "gate_up", "down"; "" for a shape given by the user */
    int64_t k, n;   /* of rank 0's shard, padding included */
    int64_t group;
} bench_shape;

typedef struct bench_model {
    char name[96];
    mw_ckpt *ckpt;
    const mw_model_config *cfg;
} bench_model;

/* A file, or a synthetic:... name. Only metadata is read. */
MW_MUST_CHECK mw_status bench_model_open(bench_model *m, const char *path);
void bench_model_close(bench_model *m);

/* The int4 layers of rank 0 of tp. */
MW_MUST_CHECK mw_status bench_model_shapes(const bench_model *m, int tp, bench_shape out[4], int *n);

/* What a decode step over `rows` sequences of context `ctx` must read, at least, on the rank with most of it, and the
 * FLOPs of a prefill of `tokens` on all ranks together. docs/BENCH.md has the formulas. */
typedef struct bench_cost {
    double weight_bytes; /* of the layers and the head; of the embedding only the rows used */
    double kv_bytes;     /* per token of context */
    double linear_flops; /* per token, layers only */
    double head_flops;   /* per row of logits */
    double attn_flops;   /* per token and token of context */
} bench_cost;
MW_MUST_CHECK mw_status bench_model_cost(const bench_model *m, int tp, bench_cost *out);
#endif
