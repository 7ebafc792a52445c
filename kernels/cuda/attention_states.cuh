/* kernels/cuda/attention_states.cuh - how the states of a decoded row meet: O, maximum and sum of some of its
 * positions.
 *
 * A state is handled in quads: four neighbouring elements of O of one column, with the column's maximum and sum. */
#ifndef MW_KERNELS_CUDA_ATTENTION_STATES_CUH
#define MW_KERNELS_CUDA_ATTENTION_STATES_CUH
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/w4_pipe.cuh"

struct mw_quad {
    float4 o;
    float m, l;
};

static __device__ __forceinline__ mw_quad mw_no_quad() {
    return mw_quad{make_float4(0, 0, 0, 0), -1e30f, 0};
}

/* The first n of N quads, n > 0, in order; read(i) loads one. */
template <int N, typename F> static __device__ __forceinline__ mw_quad mw_merge(int n, F read) {
    mw_quad q[N], sum = mw_no_quad();
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < n) q[i] = read(i);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < n) sum.m = fmaxf(sum.m, q[i].m);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i >= n) continue;
        const float f = mw_exp2(q[i].m - sum.m);
        sum.o.x = fmaf(q[i].o.x, f, sum.o.x);
        sum.o.y = fmaf(q[i].o.y, f, sum.o.y);
        sum.o.z = fmaf(q[i].o.z, f, sum.o.z);
        sum.o.w = fmaf(q[i].o.w, f, sum.o.w);
        sum.l = fmaf(q[i].l, f, sum.l);
    }
    return sum;
}

/* ---- in the workspace -------------------------------------------------------------------------------------------- */

/* A state there, f32: O [cols][head_dim], then maxima [cols], then sums [cols]; 16-byte units. */
static __host__ __device__ __forceinline__ int mw_state_floats(int cols, int hd) {
    return (cols * (hd + 2) + 3) / 4 * 4;
}

static __device__ __forceinline__ void mw_write_state(float *state, int cols, int hd, int col, int d,
                                                      const mw_quad &q) {
    *(float4 *)(state + col * hd + d) = q.o;
    if (d == 0) state[cols * hd + col] = q.m, state[cols * (hd + 1) + col] = q.l;
}

/* Not through L1: other blocks wrote it. */
static __device__ __forceinline__ mw_quad mw_read_state(const float *state, int cols, int hd, int col, int d) {
    return mw_quad{__ldcg((const float4 *)(state + col * hd + d)), __ldcg(state + cols * hd + col),
                   __ldcg(state + cols * (hd + 1) + col)};
}

/* Whether this block is the last of n whose states, written before, are in the workspace. */
static __device__ __forceinline__ bool mw_last_of(uint32_t *counter, int n) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(counter, 1) == (uint32_t)n - 1;
        __threadfence();
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}

/* ---- between the blocks of a cluster (sm_90) --------------------------------------------------------------------- */

/* Every block of a cluster puts together a slice of the quads. The others push theirs into its shared memory, where a
 * barrier counts the bytes: nobody waits for anybody who still computes, and a block that has pushed may end. */

struct mw_mailbox {                   /* in shared memory, at the same place in every block */
    uint32_t barrier, quads, scalars; /* float4 [blocks][slice], then float2 [blocks][slice]: maximum and sum */
    int slice;                        /* quads of a block */
    float inverse;                    /* 1 / slice */
};

#define MW_MAIL_BYTES 24 /* of a quad */

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ uint32_t mw_remote(uint32_t at, int block) {
    uint32_t to;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(at), "r"(block));
    return to;
}

/* One thread, before mw_cluster_arrive. */
static __device__ __forceinline__ void mw_mail_open(const mw_mailbox &box) {
    mw_bar_init(box.barrier, 1);
    mw_bar_publish();
}

/* The same thread, later, be it after the first pushes: this block waits for `quads` quads. */
static __device__ __forceinline__ void mw_mail_expect(const mw_mailbox &box, int quads) {
    mw_bar_expect(box.barrier, (uint32_t)(quads * MW_MAIL_BYTES));
}

/* Relaxed: mw_mail_open has published its barrier, and there is nothing else to be seen. */
static __device__ __forceinline__ void mw_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

/* Every mailbox of the cluster is open. All threads that have arrived. */
static __device__ __forceinline__ void mw_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Quad i of block `from` of the cluster to whom it belongs. */
static __device__ __forceinline__ void mw_mail_push(const mw_mailbox &box, int from, int i, const mw_quad &q) {
    const int to = (int)(((float)i + 0.5f) * box.inverse), at = from * box.slice + i - to * box.slice;
    const uint32_t barrier = mw_remote(box.barrier, to);
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            mw_remote(box.quads + at * 16, to)),
        "f"(q.o.x), "f"(q.o.y), "f"(q.o.z), "f"(q.o.w), "r"(barrier)
        : "memory");
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                     mw_remote(box.scalars + at * 8, to)),
                 "f"(q.m), "f"(q.l), "r"(barrier)
                 : "memory");
}

static __device__ __forceinline__ void mw_mail_wait(const mw_mailbox &box) {
    asm volatile("{\n.reg .pred p;\nagain%=:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0;\n"
                 "@!p bra again%=;\n}" ::"r"(box.barrier)
                 : "memory");
}

/* What block `from` pushed as quad i of this block's slice. */
static __device__ __forceinline__ mw_quad mw_mail_read(const mw_mailbox &box, int from, int i) {
    const uint32_t at = from * box.slice + i;
    mw_quad q;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(q.o.x), "=f"(q.o.y), "=f"(q.o.z), "=f"(q.o.w)
                 : "r"(box.quads + at * 16));
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(q.m), "=f"(q.l) : "r"(box.scalars + at * 8));
    return q;
}
#endif

#endif
