/* Steps under way, and what they give: tokens chosen on the devices, fetched while the next step is already enqueued;
 * or logits for rank 0. */
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/model.h"

/* ---- choosing --------------------------------------------------------------------------------------------------- */

/* Best tokens of CPU ranks. (Those of devices have met already: mw_model_head.) */
static mw_status join_best_on_hosts(mw_model *m, int n) {
    mw_status st = MW_OK;
    size_t most = (size_t)m->o.max_logits, bytes = 2 * most * sizeof(int32_t);
    double start = mw_now_s();
    st = mw_comm_all_gather_bytes(m->comm, m->best_token, bytes, m->best_parts);
    MW_TRY(st, mw_model_timed(&m->collective_s, start, st));
    st = m->k->best_of(m->dev, m->chosen, m->best_parts, mw_comm_size(m->comm), (int64_t)most, m->vocab_first, n);
fail:
    return st;
}

/* Rank 0 has all logits, draws, and tells. */
static mw_status draw_on_rank0(mw_model *m, int n) {
    mw_status st = MW_OK;
    double start = mw_now_s();
    st = mw_comm_gather_cols_f32(m->comm, 0, m->logits, (size_t)n, m->vocab_cols, m->logits_all);
    MW_TRY(st, mw_model_timed(&m->collective_s, start, st));
    if (m->rank == 0)
        MW_TRY(st, m->k->draw(m->dev, m->chosen, m->draw, m->logits_all, (int64_t)m->vocab_width, n, m->cfg->vocab));
    st = mw_comm_bcast(m->comm, m->chosen, (size_t)n * sizeof *m->chosen, 0, false);
fail:
    return st;
}

static mw_status draw(mw_model *m, const mw_draw *how, int n) {
    mw_status st = MW_OK;
    const float *logits = m->logits;
    MW_TRY(st, m->k->to_device(m->dev, m->draw, how, (size_t)n * sizeof *how));
    if (mw_comm_size(m->comm) > 1 && m->on_host) return draw_on_rank0(m, n);
    if (m->devices_join) { /* every rank draws the same */
        MW_TRY(st, mw_comm_device_gather_cols(m->comm, m->logits, (size_t)n, m->vocab_cols, m->logits_blocks,
                                              m->logits_joined, MW_F32));
        logits = m->logits_joined;
    }
    st = m->k->draw(m->dev, m->chosen, m->draw, logits, (int64_t)m->vocab_width, n, m->cfg->vocab);
fail:
    return st;
}

/* Tokens of n logit rows, from `first` on, into m->chosen. */
static mw_status choose(mw_model *m, mw_step_choice how, const mw_draw *draws, int n) {
    if (how == MW_CHOOSE_DRAW) return draw(m, draws, n);
    return mw_comm_size(m->comm) > 1 && m->on_host ? join_best_on_hosts(m, n) : MW_OK;
}

/* ---- giving ----------------------------------------------------------------------------------------------------- */

/* All logits of n rows: the slices of the vocabulary meet on rank 0. */
static mw_status give_logits(mw_model *m, const mw_step_sink *sink, int first, int n) {
    mw_status st = MW_OK;
    bool many = mw_comm_size(m->comm) > 1;
    MW_TRY(st, mw_model_wait(m));
    if (!m->on_host)
        MW_TRY(st, m->k->to_host(m->dev, m->logits_here, m->logits, (size_t)n * (size_t)m->lm_head.n * sizeof(float)));
    double start = mw_now_s();
    if (many) st = mw_comm_gather_cols_f32(m->comm, 0, m->logits_here, (size_t)n, m->vocab_cols, m->logits_all);
    MW_TRY(st, mw_model_timed(&m->collective_s, start, st));
    if (sink) st = sink->logits(sink->arg, many ? m->logits_all : m->logits_here, m->vocab_width, first, n);
fail:
    return st;
}

typedef struct {
    mw_model *m;
    int mark;
} fetch_of;

static mw_status is_there(void *arg, bool *yes) {
    const fetch_of *f = arg;
    return f->m->k->fetched(f->m->dev, f->mark, yes);
}

/* Until the tokens under `mark` are on the host. One rank: nobody can let it down but its device. */
static mw_status wait_fetched(mw_model *m, int mark) {
    enum { SPIN_NS = 20000000, NAP_NS = 50000 };
    fetch_of f = {m, mark};
    bool there = false;
    if (m->devices_join) return mw_comm_device_wait_for(m->comm, is_there, &f);
    int64_t began = mw_now_ns();
    for (;;) {
        mw_status st = is_there(&f, &there);
        if (st != MW_OK || there) return st;
        if (mw_now_ns() - began > SPIN_NS) mw_sleep_ns(NAP_NS); /* a long prefill need not burn the core */
    }
}

static mw_status fetch(mw_model *m, int slot, int n) {
    return m->k->fetch(m->dev, m->chosen_host[slot], m->chosen, (size_t)n * sizeof *m->chosen, slot);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* The step's arrays on the device. */
static mw_status upload(mw_model *m, const mw_step *s, mw_batch *b, const int32_t **logit_row) {
    size_t words = mw_step_device_words(s);
    if (words > m->batch_words || s->h.n_tokens > m->o.max_step_tokens || s->h.max_ctx > m->o.ctx)
        return MW_FAIL(MW_ERR_INTERNAL, "step of %d rows, context %d, %zu words: prepared for %d, %d and %zu",
                       s->h.n_tokens, s->h.max_ctx, words, m->o.max_step_tokens, m->o.ctx, m->batch_words);
    *b = mw_step_batch(s, m->batch);
    *logit_row = m->batch + (s->logit_row - s->data);
    return m->k->to_device(m->dev, m->batch, s->data, words * sizeof *s->data);
}

static int at_most(const mw_model *m, int rows) {
    return rows < m->o.max_logits ? rows : m->o.max_logits;
}

mw_status mw_model_begin(mw_model *m, const mw_step *s) {
    mw_status st = MW_OK;
    bool launched = false, timed = s->h.report && m->k->stamp != NULL;
    mw_batch b;
    const int32_t *row = NULL;
    int slot = (m->oldest + m->n_begun) % MW_MODEL_IN_FLIGHT;
    const mw_begun *last = &m->begun[(slot + MW_MODEL_IN_FLIGHT - 1) % MW_MODEL_IN_FLIGHT];
    mw_begun *now = &m->begun[slot];
    if (m->n_begun == MW_MODEL_IN_FLIGHT || (m->n_begun > 0 && !last->fetches))
        return MW_FAIL(MW_ERR_INTERNAL, "a step is begun while %d are under way", m->n_begun);
    *now = (mw_begun){.choose = s->h.choose, .n_logits = s->h.n_logits};
    now->fetches = now->n_logits == 0 || (now->choose != MW_CHOOSE_HOST && now->n_logits <= m->o.max_logits);
    if (!timed) MW_TRY(st, mw_graphs_try(m, s, &launched));
    if (!launched) {
        MW_TRY(st, upload(m, s, &b, &row));
        if (timed) MW_TRY(st, mw_timing_start(&m->timing, m->k, m->dev));
        MW_TRY(st, mw_model_enqueue(m, &b, row, at_most(m, now->n_logits)));
        if (timed) MW_TRY(st, mw_timing_stop(&m->timing, m->k, m->dev));
        now->timed = timed;
    }
    if (now->fetches) {
        if (now->n_logits > 0) MW_TRY(st, choose(m, now->choose, s->draw, now->n_logits));
        MW_TRY(st, fetch(m, slot, now->n_logits));
    } else {
        now->row = row;
        now->draw = s->draw;
    }
    m->n_begun++;
fail:
    return st;
}

/* Logits, or tokens of more rows than there is room for: as many rows at a time as there is. */
static mw_status finish_in_parts(mw_model *m, const mw_begun *b, int slot, const mw_step_sink *sink) {
    mw_status st = MW_OK;
    for (int first = 0; first < b->n_logits; first += m->o.max_logits) {
        int n = at_most(m, b->n_logits - first);
        if (first > 0) MW_TRY(st, mw_model_head(m, b->row + first, n));
        if (b->choose == MW_CHOOSE_HOST) {
            MW_TRY(st, give_logits(m, sink, first, n));
            continue;
        }
        MW_TRY(st, choose(m, b->choose, b->draw ? b->draw + first : NULL, n));
        MW_TRY(st, fetch(m, slot, n));
        MW_TRY(st, wait_fetched(m, slot));
        if (sink) MW_TRY(st, sink->tokens(sink->arg, m->chosen_host[slot], first, n));
    }
fail:
    return st;
}

mw_status mw_model_finish(mw_model *m, const mw_step_sink *sink) {
    mw_status st = MW_OK;
    int slot = m->oldest;
    if (m->n_begun == 0) return MW_FAIL(MW_ERR_INTERNAL, "no step is under way");
    const mw_begun b = m->begun[slot];
    m->oldest = (slot + 1) % MW_MODEL_IN_FLIGHT;
    m->n_begun--;
    if (!b.fetches) MW_TRY(st, finish_in_parts(m, &b, slot, sink));
    if (b.fetches) MW_TRY(st, wait_fetched(m, slot));
    if (b.timed) MW_TRY(st, mw_timing_read(&m->timing, m->k, m->dev));
    if (sink && b.fetches && b.n_logits > 0) st = sink->tokens(sink->arg, m->chosen_host[slot], 0, b.n_logits);
fail:
    return st;
}

mw_status mw_model_step(mw_model *m, const mw_step *s, const mw_step_sink *sink) {
    mw_status st = mw_model_begin(m, s);
    return st == MW_OK ? mw_model_finish(m, sink) : st;
}
