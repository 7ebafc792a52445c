/* kernels/cpu/attention.c - cuts a ragged batch into tasks of attention work and hands them to the threads.
 *
 * A part is one KV head (K and V are read once for all its q heads) of one sequence, and either a block of query rows
 * (prefill) or a single one (decode; also a chunk's rows when they are too few to pay for transposing K). When parts
 * are fewer than threads, decode parts are cut along the context as well: their segments are summed up by different
 * threads and merged afterwards in the order in which one thread would have done it, so the bits do not change.
 */
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define PREFILL_MIN 16 /* query rows x heads of a group from which the prefill path pays */

typedef struct {
    int32_t seq, row, rows, kv_head; /* row: first one in the sequence; rows 0: a decode part */
    int64_t seg0, seg1;              /* decode: the segments of this task */
    float *states;                   /* decode, cut: [seg1 - seg0] states; NULL: the task is the whole part */
} task;

typedef struct {
    mw_dev *d;
    const mw_attn *a;
    const mw_batch *b;
    const float *qkv;
    float *out;
    int64_t ld, ldo;
    const void *k_cache, *v_cache;
    int group;
    int64_t pieces; /* tasks that a decode part is cut into, at most */
    task *tasks;    /* NULL while they are only counted */
    int64_t n_tasks, n_states;
    float *states;                        /* of cut parts, [n_states][state_floats] */
    float *scratch;                       /* [threads][scratch_floats] */
    int64_t scratch_floats, state_floats; /* state_floats: of the `group` heads of a part */
    atomic_llong next;
} job;

mw_status mw_attn_check(const mw_attn *a) {
    if (a->head_dim < 8 || a->head_dim > MW_ATTN_HD_MAX || a->head_dim % 8)
        return MW_FAIL(MW_ERR_INTERNAL, "head_dim %d: expected a multiple of 8 up to %d", a->head_dim, MW_ATTN_HD_MAX);
    if (a->n_kv < 1 || a->n_q < 1 || a->n_q % a->n_kv)
        return MW_FAIL(MW_ERR_INTERNAL, "%d q heads over %d kv heads", a->n_q, a->n_kv);
    if (a->block_size < 1 || a->window < 0)
        return MW_FAIL(MW_ERR_INTERNAL, "KV blocks of %d positions, window %d", a->block_size, a->window);
    if (a->kv_dtype != MW_F16 && a->kv_dtype != MW_BF16 && a->kv_dtype != MW_F32)
        return MW_FAIL(MW_ERR_INTERNAL, "KV cache is %s, expected f16, bf16 or f32", mw_dtype_name(a->kv_dtype));
    return MW_OK;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

static int rows_of(const mw_batch *b, int seq) {
    return b->q_start[seq + 1] - b->q_start[seq];
}

static bool is_prefill(const job *j, int rows) {
    return rows > 1 && (int64_t)rows * j->group >= PREFILL_MIN;
}

static int64_t position_of(const mw_batch *b, int seq, int row) {
    return (int64_t)b->ctx_len[seq] - rows_of(b, seq) + row;
}

/* The positions a row sees: [*from, its own]. */
static int64_t window_begin(const mw_attn *a, int64_t pos) {
    return a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

static void add_decode(job *j, task t) {
    int64_t pos = position_of(j->b, t.seq, t.row), first = window_begin(j->a, pos) / MW_ATTN_SEGMENT;
    int64_t n = pos / MW_ATTN_SEGMENT + 1 - first, pieces = n < j->pieces ? n : j->pieces;
    for (int64_t i = 0; i < pieces; i++) {
        t.seg0 = first + n * i / pieces;
        t.seg1 = first + n * (i + 1) / pieces;
        if (pieces > 1) {
            if (j->tasks) t.states = j->states + j->n_states * j->state_floats;
            j->n_states += t.seg1 - t.seg0;
        }
        if (j->tasks) j->tasks[j->n_tasks] = t;
        j->n_tasks++;
    }
}

/* Lists (or, without memory for it, counts) the tasks: prefill blocks first, the costly last rows before the others. */
static void list_tasks(job *j) {
    const mw_batch *b = j->b;
    int block = mw_attn_part_rows(j->group);
    j->n_tasks = j->n_states = 0;
    for (int s = 0; s < b->n_seqs; s++) {
        int rows = rows_of(b, s);
        if (!is_prefill(j, rows)) continue;
        for (int r = (rows - 1) / block * block; r >= 0; r -= block)
            for (int h = 0; h < j->a->n_kv; h++) {
                if (j->tasks)
                    j->tasks[j->n_tasks] =
                        (task){.seq = s, .row = r, .rows = rows - r < block ? rows - r : block, .kv_head = h};
                j->n_tasks++;
            }
    }
    for (int s = 0; s < b->n_seqs; s++) {
        int rows = rows_of(b, s);
        if (is_prefill(j, rows)) continue;
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < j->a->n_kv; h++) add_decode(j, (task){.seq = s, .row = r, .kv_head = h});
    }
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static mw_attn_part part_of(const job *j, const task *t, float *scratch) {
    const mw_batch *b = j->b;
    int64_t row = b->q_start[t->seq] + t->row, head = (int64_t)t->kv_head * j->group * j->a->head_dim;
    return (mw_attn_part){.a = j->a,
                          .blocks = b->block_table + (int64_t)t->seq * b->block_stride,
                          .k_cache = j->k_cache,
                          .v_cache = j->v_cache,
                          .kv_head = t->kv_head,
                          .rows = t->rows,
                          .pos = position_of(b, t->seq, t->row),
                          .q = j->qkv + row * j->ld + j->a->q_off + head,
                          .ldq = j->ld,
                          .out = j->out + row * j->ldo + head,
                          .ldo = j->ldo,
                          .scratch = scratch};
}

/* O / sum of one head. */
static void write_head(const job *j, const float *state, float *out) {
    int64_t hdp = mw_attn_padded(j->a->head_dim);
    float inv = 1 / state[hdp + 1];
    for (int d = 0; d < j->a->head_dim; d++) out[d] = state[d] * inv;
}

static void run_decode(const job *j, const task *t, float *scratch) {
    float *total = scratch + mw_attn_scratch_floats(j->a->head_dim, j->group), *one = total + j->state_floats;
    mw_attn_part p = part_of(j, t, scratch);
    int64_t begin = window_begin(j->a, p.pos);
    p.limit = p.pos + 1 < t->seg1 * MW_ATTN_SEGMENT ? p.pos + 1 : t->seg1 * MW_ATTN_SEGMENT;
    for (int64_t seg = t->seg0; seg < t->seg1; seg++) {
        p.from = seg * MW_ATTN_SEGMENT > begin ? seg * MW_ATTN_SEGMENT : begin;
        p.to = (seg + 1) * MW_ATTN_SEGMENT <= p.pos ? (seg + 1) * MW_ATTN_SEGMENT : p.pos + 1;
        bool first = seg == t->seg0;
        p.state = t->states ? t->states + (seg - t->seg0) * j->state_floats : first ? total : one;
        j->d->isa->vec->attn_decode(&p);
        if (!t->states && !first) j->d->isa->vec->attn_merge(total, one, j->group, j->a->head_dim);
    }
    if (t->states) return;
    for (int g = 0; g < j->group; g++)
        write_head(j, total + g * (j->state_floats / j->group), p.out + (int64_t)g * j->a->head_dim);
}

/* Head g of the cut part that begins at task i: all its segments, left to right, into the first one's state. */
static void merge_head(const job *j, int64_t i, int g) {
    int64_t one = j->state_floats / j->group;
    const task *t = &j->tasks[i];
    mw_attn_part p = part_of(j, t, NULL);
    float *total = t->states + g * one, *end = t->states;
    for (int64_t k = i; k < j->n_tasks && j->tasks[k].seq == t->seq && j->tasks[k].row == t->row &&
                        j->tasks[k].kv_head == t->kv_head && j->tasks[k].states;
         k++)
        end = j->tasks[k].states + (j->tasks[k].seg1 - j->tasks[k].seg0) * j->state_floats;
    for (float *s = t->states + j->state_floats; s < end; s += j->state_floats)
        j->d->isa->vec->attn_merge(total, s + g * one, 1, j->a->head_dim);
    write_head(j, total, p.out + (int64_t)g * j->a->head_dim);
}

static bool starts_cut_part(const job *j, int64_t i) {
    const task *t = &j->tasks[i], *before = t - 1;
    return t->states && (i == 0 || before->seq != t->seq || before->row != t->row || before->kv_head != t->kv_head);
}

static void run(void *arg, int thread, int n_threads) {
    job *j = arg;
    float *scratch = j->scratch + thread * j->scratch_floats;
    for (int64_t i; (i = atomic_fetch_add(&j->next, 1)) < j->n_tasks;) {
        const task *t = &j->tasks[i];
        if (t->rows == 0) {
            run_decode(j, t, scratch);
        } else {
            mw_attn_part p = part_of(j, t, scratch);
            j->d->isa->vec->attn_prefill(&p);
        }
    }
    if (j->n_states == 0) return;
    if (n_threads > 1) mw_pool_barrier(j->d->pool);
    int64_t n = 0;
    for (int64_t i = 0; i < j->n_tasks; i++)
        if (starts_cut_part(j, i))
            for (int g = 0; g < j->group; g++)
                if (n++ % n_threads == thread) merge_head(j, i, g);
}

mw_status mw_cpu_attend(mw_dev *d, const mw_attn *a, const mw_batch *b, const void *qkv, int64_t ld,
                        const void *k_cache, const void *v_cache, void *out, int64_t ld_out) {
    mw_status st = mw_attn_check(a);
    if (st != MW_OK) return st;
    job j = {.d = d,
             .a = a,
             .b = b,
             .qkv = qkv,
             .ld = ld,
             .k_cache = k_cache,
             .v_cache = v_cache,
             .out = out,
             .ldo = ld_out,
             .group = a->n_q / a->n_kv,
             .pieces = 1};
    atomic_init(&j.next, 0);
    j.state_floats = j.group * mw_attn_state_floats(a->head_dim);
    j.scratch_floats = mw_attn_scratch_floats(a->head_dim, j.group) + 2 * j.state_floats;
    list_tasks(&j);
    if (j.n_tasks < 2 * d->threads && d->threads > 1) { /* too few to balance: cut along the context */
        j.pieces = 4 * d->threads / (j.n_tasks > 0 ? j.n_tasks : 1) + 1;
        list_tasks(&j);
    }
    size_t task_bytes = ((size_t)j.n_tasks * sizeof(task) + 63) / 64 * 64;
    void *workspace;
    st = mw_dev_workspace(
        d, task_bytes + (size_t)(d->threads * j.scratch_floats + j.n_states * j.state_floats) * sizeof(float),
        &workspace);
    if (st != MW_OK) return st;
    j.tasks = workspace;
    j.scratch = (float *)((char *)workspace + task_bytes);
    j.states = j.scratch + d->threads * j.scratch_floats;
    list_tasks(&j);
    mw_dev_run(d, (int64_t)b->n_tokens * b->max_ctx * a->n_q * a->head_dim / 8, run, &j);
    return MW_OK;
}

mw_status mw_cpu_attention(mw_dev *d, const mw_attn *a, const mw_batch *b, void *qkv, int64_t ld, void *k_cache,
                           void *v_cache, void *out, int64_t ld_out) {
    mw_status st = mw_cpu_rope_kv(d, a, b, qkv, ld, k_cache, v_cache);
    return st == MW_OK ? mw_cpu_attend(d, a, b, qkv, ld, k_cache, v_cache, out, ld_out) : st;
}
