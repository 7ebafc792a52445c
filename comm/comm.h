/* comm/comm.h - the tensor-parallel group: one process a rank, joined over MPI.
 *
 * "Collective" below means: every rank calls it, in the same order, with equal arguments. A rank that fails on its own
 * between two collectives goes on to the next mw_comm_agree, or calls mw_comm_poison when others already wait for it.
 * Every wait is bounded: a rank whose data has not come within timeout_s is named in MW_ERR_TIMEOUT, a rank of this
 * host whose process has ended in MW_ERR_PEER, at once. Waiting spins briefly, then sleeps: an idle rank uses no core.
 * The first failure of a group reaches all ranks by itself; from then on every call returns it again, only
 * mw_comm_should_report and mw_comm_close do anything, and the process should end with mw_comm_exit.
 * (MW_ERR_USAGE, MW_ERR_NOMEM and MW_ERR_LIMIT leave the group as it was: a rank that alone meets one poisons.)
 * One thread at a time may use a group, the one that created it (MPI_THREAD_FUNNELED).
 *
 * Reported once: after a failure every rank asks mw_comm_should_report, and the one that gets true prints
 * mw_error_text(); then all call mw_comm_close and mw_comm_exit.
 *
 * Counts are ELEMENTS of the dtype, never bytes, unless a name says bytes.
 */
#ifndef MW_COMM_COMM_H
#define MW_COMM_COMM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/dtype.h"
MW_BEGIN_DECLS

typedef struct mw_comm mw_comm;

/* Join the group that the launcher started (mpirun, srun --mpi=pmix, mpiexec); without a launcher a group of one, which
 * does not start MPI. Collective. timeout_s > 0 bounds every later wait for a peer. *out is set only on MW_OK.
 * The calling thread becomes MPI's main thread. A program that has initialised MPI itself must have asked for
 * MPI_THREAD_SERIALIZED or more (MW_ERR_USAGE), and finalises it itself.
 * Tells worker/base/log.h who we are. MPI_Init cannot be given a deadline: if it has not returned within timeout_s (at
 * least 30 s), one line is logged and the process ends with MW_ERR_TIMEOUT. */
MW_MUST_CHECK mw_status mw_comm_open(mw_comm **out, double timeout_s);
/* Before the first mw_comm_open of a process that opens several groups, one after the other and from any thread: MPI
 * then stays up between them and ends in mw_comm_exit. */
void mw_comm_keep_mpi(void);
/* Leaves the group; the last use of MPI in the process, but for mw_comm_keep_mpi. Collective when all is well (waits at
 * most timeout_s for the others to leave too), never blocks after a failure. NULL allowed. */
void mw_comm_close(mw_comm *c);

int mw_comm_rank(const mw_comm *c); /* 0 .. size-1 */
int mw_comm_size(const mw_comm *c);
int mw_comm_local_rank(const mw_comm *c); /* among the ranks of this host */
int mw_comm_local_size(const mw_comm *c);
const char *mw_comm_host(const mw_comm *c);
/* The MPI library, one line: "Open MPI v4.1.4". Legal at any time, also without a group. */
const char *mw_comm_library(void);

/* CPU cores this rank should use: the cores of its affinity mask, divided among the ranks of the host that have the
 * same mask, at least 1. *oversubscribed: more ranks than cores share it. Collective. */
MW_MUST_CHECK mw_status mw_comm_cpu_share(mw_comm *c, int *cores, bool *oversubscribed);

/* Turn this rank's status (and its mw_error_text) into the group's: MW_OK if all ranks came with MW_OK; otherwise every
 * rank gets the status of the lowest failing rank, with an error text that names rank and host (and counts the others).
 * Collective. */
MW_MUST_CHECK mw_status mw_comm_agree(mw_comm *c, mw_status mine);

/* Has the group failed, as far as this rank knows? */
bool mw_comm_has_failed(const mw_comm *c);

/* Has anything gone wrong elsewhere: a rank that said so, or one of this host whose process has ended? For a rank that
 * waits for something else than the group. Does not wait; not collective. */
MW_MUST_CHECK mw_status mw_comm_look(mw_comm *c);

/* Tell all ranks that this one cannot go on (its mw_error_text goes with it): whatever they wait for ends with
 * MW_ERR_PEER and "rank 2 (node07): " in front of that text. Not collective, does not wait for anyone. Only the first
 * failure of a group counts. */
void mw_comm_poison(mw_comm *c, mw_status why);

/* Is it this rank that tells the user about the failure? Ask on every rank, after a call has failed and before
 * mw_comm_close; true on one of them:
 *   - a failed mw_comm_agree: rank 0;
 *   - a failed group: the rank where it began (it poisoned, or was the first to miss somebody). The others wait for its
 *     word, about a second, and if it does not come the lowest living rank gets true: so the call may sleep;
 *   - c == NULL: the last answer for a group; if none came about, rank 0 in the eyes of the launcher, or everybody if
 *     there is no launcher.
 * The others should print nothing at all. mw_comm_exit gives the reporting rank time to print. */
bool mw_comm_should_report(mw_comm *c);

/* bytes of `buf` from root to all. Collective. `idle`: the wait may be long and is not bounded by the timeout (a
 * follower waiting for the next step). */
MW_MUST_CHECK mw_status mw_comm_bcast(mw_comm *c, void *buf, size_t bytes, int root, bool idle);

/* *v = the smallest / largest / sum over ranks. Collective. */
typedef enum { MW_MIN, MW_MAX, MW_SUM } mw_reduce_op;
MW_MUST_CHECK mw_status mw_comm_reduce_u64(mw_comm *c, uint64_t *v, mw_reduce_op op);

/* all[r * bytes ..] = rank r's `mine`, on every rank. For small host data. Collective. */
MW_MUST_CHECK mw_status mw_comm_all_gather_bytes(mw_comm *c, const void *mine, size_t bytes, void *all);

/* ---- step collectives on host memory (the CPU backend) ---- */

/* buf[i] = sum over ranks of buf[i], in place, f32, added in rank order: all ranks hold the same bits, on every run.
 * Collective. */
MW_MUST_CHECK mw_status mw_comm_all_reduce_f32(mw_comm *c, float *buf, size_t n_elems);

/* The same by the MPI library's own MPI_Allreduce, for benchmarks: its waits are not bounded. Collective. */
MW_MUST_CHECK mw_status mw_comm_library_all_reduce_f32(mw_comm *c, float *buf, size_t n_elems);

/* The ranks' blocks [rows, cols[r]] (f32, contiguous) side by side as dst [rows, sum of cols]; on `root`, or on every
 * rank when root < 0. cols: [size], equal on all ranks. dst is not touched on the others and may be NULL there.
 * Collective. */
MW_MUST_CHECK mw_status mw_comm_gather_cols_f32(mw_comm *c, int root, const float *src, size_t rows, const size_t *cols,
                                                float *dst);

/* ---- step collectives on device memory (the CUDA backend, through NCCL) ---- */

/* The NCCL library, one line: "2.28.3 (built with 2.28.9)", or that there is none. Legal at any time. */
const char *mw_comm_device_library(void);

/* Join the ranks' GPUs: this rank's is `device` (CUDA ordinal, current on this thread), named by its 16-byte uuid; the
 * collectives below are enqueued on `stream` (cudaStream_t). Collective, bounded by the timeout. Refused by name: two
 * ranks on one GPU (MW_ERR_LIMIT), no NCCL in the build or on the machine, another major version than built with
 * (MW_ERR_UNAVAIL). A group of one needs no NCCL and always succeeds. */
MW_MUST_CHECK mw_status mw_comm_device_open(mw_comm *c, int device, const unsigned char uuid[16], void *stream);

/* Leaves the device group, before the device is closed. Collective when all is well, never blocks after a failure.
 * Harmless when there is none; mw_comm_close does it too. */
void mw_comm_device_close(mw_comm *c);

/* Device memory for buffers of collectives: NCCL's own allocation (which its transports can map) where it has one,
 * plain otherwise. Belongs to the group, freed with it. Not registered as symmetric windows: with NCCL 2.28 the window
 * kernels gave wrong sums behind kernels that release their successor early (docs/PERF.md). */
MW_MUST_CHECK mw_status mw_comm_device_alloc(mw_comm *c, void **out, size_t bytes, const char *what);

/* buf[i] = sum over ranks of buf[i], in place; f16, bf16 or f32, added as NCCL does: the same bits on all ranks.
 * Enqueued, may be captured into a CUDA graph. Collective. */
MW_MUST_CHECK mw_status mw_comm_device_all_reduce(mw_comm *c, void *buf, size_t n_elems, mw_dtype dtype);

/* The ranks' blocks [rows, cols[r]] side by side as dst [rows, sum of cols], on every rank. `blocks`: scratch of the
 * size of dst. Enqueued, may be captured. Collective. */
MW_MUST_CHECK mw_status mw_comm_device_gather_cols(mw_comm *c, const void *src, size_t rows, const size_t *cols,
                                                   void *blocks, void *dst, mw_dtype dtype);

/* The ranks' blocks of `bytes` one after the other in dst, on every rank. Enqueued, may be captured. Collective. */
MW_MUST_CHECK mw_status mw_comm_device_all_gather(mw_comm *c, const void *src, size_t bytes, void *dst);

/* Until the stream has done all that was enqueued; a rank that died, failed or is silent past the deadline ends the
 * wait with the group's failure, also when a captured graph waits for it on the device. Not collective. */
MW_MUST_CHECK mw_status mw_comm_device_wait(mw_comm *c);
/* The same until done(arg, &yes) says so, which must not wait itself: of a part of what was enqueued. */
MW_MUST_CHECK mw_status mw_comm_device_wait_for(mw_comm *c, mw_status (*done)(void *arg, bool *yes), void *arg);

/* Time this rank spent waiting for others in step collectives since the last call, seconds. */
double mw_comm_wait_s(mw_comm *c);

/* End the process with `code`: quietly when the group is healthy, through MPI_Abort when peers could still wait for us.
 * Closes c, which may be NULL (closed before, or never opened). Ends in bounded time, a stuck MPI included; code 0 of
 * a failed group becomes MW_ERR_PEER. For main() only. */
_Noreturn void mw_comm_exit(mw_comm *c, int code);

MW_END_DECLS
#endif
