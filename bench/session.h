/* bench/session.h - measuring through engine.h: what the command line and the server use too. */
#ifndef MW_BENCH_SESSION_H
#define MW_BENCH_SESSION_H
#include "bench/device.h"
#include "bench/random.h"
#include "bench/shapes.h"

/* Opens the engine on all ranks, calls fn on rank 0 while the others follow, closes. */
typedef mw_status (*bench_leader)(void *arg, mw_engine *e);
MW_MUST_CHECK mw_status bench_with_engine(const mw_engine_options *opt, bench_leader fn, void *arg);

/* The ceilings of the device that the engine will use, for the model's activation type. dense_m as in
 * bench_ceiling_measure: the model's gate_up matrix. Collective. */
MW_MUST_CHECK mw_status bench_model_ceiling(const bench_opts *o, bench_report *r, const bench_model *m, int64_t dense_m,
                                            bench_ceiling *out);

/* The engine's device, for the report's machine where no bench_dev has said so. */
void bench_describe_engine(bench_report *r, const mw_engine_info *info);

/* A batch of greedy requests, submitted together: n random tokens each, that generate max_tokens and do not stop.
 * id[batch]. */
MW_MUST_CHECK mw_status bench_submit_random(mw_engine *e, uint64_t *seed, int vocab, int batch, int n, int max_tokens,
                                            uint64_t *id);

/* Ends the n requests and waits until they have. */
MW_MUST_CHECK mw_status bench_cancel_all(mw_engine *e, const uint64_t *id, int n);
#endif
