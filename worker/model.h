/* worker/model.h - one rank's share of the model: weights on the device, KV cache, workspace; and the step over them.
 *
 * Shapes of a step with T rows on this rank (H hidden, Q = q heads here x head_dim, KV likewise, I = MLP columns here):
 *   x [T,H] residual   xn [T,H] normed   qkv [T, qkv.width]   attn [T,Q]   gate_up [T, gate_up.width]   part [T,H]
 * part holds partial sums until the all-reduce. docs/MODEL.md has every tensor and formula.
 */
#ifndef MW_WORKER_MODEL_H
#define MW_WORKER_MODEL_H
#include "comm/comm.h"
#include "kernels/kernels.h"
#include "shard/plan.h"
#include "worker/loader.h"
#include "worker/phases.h"
#include "worker/step.h"
#include "worker/timing.h"
MW_BEGIN_DECLS

#define MW_MAX_PARTS 3

/* Linear layers that read the same normed input (q, k, v or gate, up). They are one GEMM when their storage allows it,
 * otherwise n GEMMs into neighbouring columns of the same rows. */
typedef struct mw_proj {
    int n;
    mw_linear part[MW_MAX_PARTS];
    int64_t col[MW_MAX_PARTS];         /* first output column of part i */
    const int32_t *perm[MW_MAX_PARTS]; /* device [H]: act-order gather of part i's input, or NULL */
    int64_t off[MW_MAX_PARTS];         /* first output column of the i-th logical layer (q, k, v / gate, up) */
    int64_t width;                     /* output columns, padding included */
} mw_proj;

typedef struct mw_layer {
    const float *attn_norm, *mlp_norm; /* [H] */
    mw_proj qkv, gate_up;
    mw_linear o, down;
    const int32_t
        *o_perm; /* act-order o_proj: which column of the attention output of ALL ranks each local row reads */
    mw_attn attn;
    void *k_cache, *v_cache;
} mw_layer;

typedef struct mw_model_opts {
    int ctx, max_step_tokens, max_logits; /* longest sequence, rows of a step, logit rows of one lm_head call */
    int kv_blocks, block_tokens;
    int max_block_table; /* entries of all block tables of a step */
    int max_seqs;        /* sequences of a step */
    bool check_nan;
} mw_model_opts;

typedef struct mw_graphs mw_graphs; /* worker/graphs.c */

/* Steps that may be enqueued before the first of them is finished. */
enum { MW_MODEL_IN_FLIGHT = MW_FETCHES };

/* A step under way. */
typedef struct mw_begun {
    mw_step_choice choose;
    int n_logits;
    bool fetches;       /* its tokens are on their way to the host, nothing else is to be done */
    bool timed;         /* m->timing is to be read when it is over */
    const int32_t *row; /* otherwise: logit rows, device, and what is drawn of them, host */
    const mw_draw *draw;
} mw_begun;

typedef struct mw_model {
    const mw_kernels *k;
    mw_dev *dev;
    mw_comm *comm;
    const mw_model_config *cfg;
    const mw_plan *plan;
    int rank;
    mw_dtype act; /* of activations in device memory */
    mw_model_opts o;
    mw_layer *layer; /* [n_layers] */
    const void *embed;
    mw_dtype embed_dtype;
    const float *norm;
    mw_linear lm_head;
    const int32_t *lm_head_perm;
    size_t *vocab_cols; /* [ranks] logit columns of each rank, padding included */
    size_t vocab_width; /* their sum */
    size_t *q_cols;     /* [ranks] attention output columns of each rank */
    float *rope;
    void *residual; /* the residual stream behind the last layer: x or xn */
    void *x, *xn, *part, *qkv, *attn, *attn_all, *attn_blocks, *o_in, *gate_up, *sel, *logits;
    float *logits_here;   /* host: this rank's logits; the device's own where that is host memory */
    float *logits_all;    /* rank 0, host: [max_logits][vocab_width] */
    int32_t *best_token;  /* device [max_logits] and, behind it, their values as f32: this rank's largest logits */
    int32_t *best_parts;  /* device: those of all ranks; NULL for one rank */
    int32_t *vocab_first; /* device [ranks]: where each rank's vocabulary begins, -1 for none */
    int32_t
        *chosen;   /* device [max_logits]: the tokens that the last step's logit rows chose (of one rank: best_token) */
    mw_draw *draw; /* device [max_logits] */
    float *logits_joined, *logits_blocks; /* device [max_logits][vocab_width], for draws of several ranks */
    mw_begun begun[MW_MODEL_IN_FLIGHT];   /* a ring: n_begun from `oldest` on */
    int oldest, n_begun;
    int32_t *chosen_host[MW_MODEL_IN_FLIGHT]; /* where the tokens of each are fetched to */
    int32_t *batch;                           /* device copy of the step's arrays */
    size_t batch_words;
    bool on_host;      /* device memory is host memory */
    bool devices_join; /* several ranks, collectives on their devices */
    int n_graphs;
    double gemm_s, collective_s; /* since open, of what the host waits for: linear layers, collectives */
    mw_timing timing;            /* of what it does not wait for */
    double warm_up_s;
    mw_graphs *graphs; /* NULL: steps are enqueued kernel by kernel */
    void **owned;      /* every device allocation but those of the group (mw_comm_device_alloc) */
    int n_owned, cap_owned;
    uint64_t weight_bytes, kv_bytes, workspace_bytes;
    mw_load_stats loaded;
} mw_model;

/* Device memory for weights (without KV cache and workspace), read from the file. Rank-local: no collective in here. */
MW_MUST_CHECK mw_status mw_model_load(mw_model **out, const mw_kernels *k, mw_dev *dev, mw_comm *comm,
                                      const mw_plan *plan, int threads, bool verify, bool progress, mw_phases *phases);
/* Workspace bytes that mw_model_prepare would take for these options on a device with activations of `act` (the KV
 * cache not counted). */
uint64_t mw_model_workspace_bytes(const mw_plan *plan, int rank, const mw_model_opts *o, mw_dtype act);
/* Workspace, KV cache, tables. Rank-local. */
MW_MUST_CHECK mw_status mw_model_prepare(mw_model *m, const mw_model_opts *o);
/* A first step of every shape that is replayed later, and its graph. Nothing on devices without graphs. Collective. */
MW_MUST_CHECK mw_status mw_model_warm_up(mw_model *m);
void mw_model_free(mw_model *m); /* NULL and half-built allowed */

/* Device memory that the model owns; freed with it. Counts into *total. */
MW_MUST_CHECK mw_status mw_model_alloc(mw_model *m, void **out, size_t bytes, const char *what, uint64_t *total);

/* What a step gives to rank 0, about rows first .. first+n-1 of its logit list. Valid during the call.
 *   logits   f32 rows on the host, `ld` apart; the first cfg->vocab of each are meant
 *   tokens   where the step says that tokens are chosen on the devices; -1: the row is not finite */
typedef struct mw_step_sink {
    void *arg;
    mw_status (*logits)(void *arg, const float *rows, size_t ld, int first, int n);
    mw_status (*tokens)(void *arg, const int32_t *token, int first, int n);
} mw_step_sink;

/* One step, in lock-step on all ranks. `sink`: rank 0's. Collective. */
MW_MUST_CHECK mw_status mw_model_step(mw_model *m, const mw_step *s, const mw_step_sink *sink);

/* The same in two parts: begin enqueues it (on GPUs it returns at once), finish waits for the oldest step begun and
 * gives its results. At most MW_MODEL_IN_FLIGHT steps may be under way, and another one may only be begun behind a step
 * whose tokens are chosen on the devices, of at most max_logits rows, or that wants no logits. Such a step's arrays may
 * be reused when begin returns, those of another not before finish. MW_TOKEN_FROM_ROW refers to the step begun before,
 * which must be of that kind, too. All ranks begin the same steps in the same order; when they finish them is their own
 * affair. */
MW_MUST_CHECK mw_status mw_model_begin(mw_model *m, const mw_step *s);
MW_MUST_CHECK mw_status mw_model_finish(mw_model *m, const mw_step_sink *sink);

/* ---- forward.c, for graphs.c and results.c ---- */

/* Until the device has done all that was enqueued, with an eye on the other ranks where it waits for them. */
MW_MUST_CHECK mw_status mw_model_wait(mw_model *m);
/* For calls that have finished when they return: adds to *total how long they took, passes st on. */
MW_MUST_CHECK mw_status mw_model_timed(double *total, double start, mw_status st);
/* Final norm and lm_head of n wanted rows (NULL: of all the step's rows, in order): this rank's slice of the
 * vocabulary, and the best token of it; of all of them (m->chosen) where one rank or the devices can tell. */
MW_MUST_CHECK mw_status mw_model_head(mw_model *m, const int32_t *row, int n);

/* Enqueues embedding, layers and, for the rows logit_row [n_logits <= max_logits], lm_head and the best token: all of
 * a step that needs nothing of the host. b and logit_row: device memory; logit_row NULL: all rows, in order. */
MW_MUST_CHECK mw_status mw_model_enqueue(mw_model *m, const mw_batch *b, const int32_t *logit_row, int n_logits);

/* ---- graphs.c ---- */

/* Does a graph fit this step? Then its arrays are uploaded and it is launched. */
MW_MUST_CHECK mw_status mw_graphs_try(mw_model *m, const mw_step *s, bool *launched);
void mw_graphs_free(mw_model *m);

MW_END_DECLS
#endif
