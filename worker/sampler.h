/* worker/sampler.h - from a row of logits to a token. Pure functions of (logits, history, parameters, seed, position):
 * the same on any number of ranks, in any batch, on any backend, up to the rounding of the logits themselves.
 *
 * Order: log-probabilities are taken from the raw logits; then the mask (a token that it does not allow has no
 * probability); then repetition, presence and frequency penalties; then logit_bias; then temperature; then top_k,
 * top_p, min_p on what is left; then the draw. The draw is Gumbel-max: argmax over tokens t of logit[t]/temperature +
 * G(seed, position, t), which depends on no order of summation and can be taken over any split of the vocabulary. Ties
 * go to the smaller token id. kernels/draw.h has it to the last bit: devices
 * choose the same tokens.
 */
#ifndef MW_WORKER_SAMPLER_H
#define MW_WORKER_SAMPLER_H
#include "kernels/draw.h"
#include "worker/engine.h"
MW_BEGIN_DECLS

/* Scratch of one caller; grows to the vocabulary and is kept. */
typedef struct mw_sampler {
    float *work;     /* [vocab] adjusted logits */
    int32_t *index;  /* [vocab] candidates */
    uint16_t *count; /* [vocab] occurrences in the output, zero between calls */
    int vocab;
} mw_sampler;
MW_MUST_CHECK mw_status mw_sampler_init(mw_sampler *s, int vocab);
void mw_sampler_free(mw_sampler *s);

/* Is every parameter in its range? MW_ERR_USAGE names field, value and range. */
MW_MUST_CHECK mw_status mw_sampling_check(const mw_sampling *p, int vocab);

/* Is mw_sample's token simply the one with the largest logit, and are no log-probabilities wanted with it? Never for a
 * constrained answer: it needs a mask. */
bool mw_sampling_is_argmax(const mw_sampling *p);

/* Needs the choice of a token nothing but its row of logits? No penalties, bias, log-probabilities or grammar. */
bool mw_sampling_on_device(const mw_sampling *p);
/* The same choice, for a device. position: the number of tokens that the sequence has. */
void mw_sampling_draw(const mw_sampling *p, uint64_t seed, uint64_t position, mw_draw *how);

/* history: prompt then output tokens; the first n_prompt are the prompt. The draw depends on (seed, n_history, token)
 * alone, so a sequence that is computed again after preemption draws the same numbers. mask: bit t % 32 of word t / 32
 * is set for the tokens that may be drawn; NULL: all. *token is set on MW_OK. MW_ERR_NUMERIC when a logit is NaN or
 * infinite, or all (that the mask allows) are -infinity. */
MW_MUST_CHECK mw_status mw_sample(mw_sampler *s, const mw_sampling *p, uint64_t seed, const float *logits,
                                  const int32_t *history, size_t n_history, size_t n_prompt, const uint32_t *mask,
                                  int32_t *token);

/* Natural log-probabilities of the raw logits: of `token`, and of the n_top best (descending, ties by id). top: room
 * for n_top entries, or NULL with n_top 0. MW_ERR_NUMERIC as above. */
MW_MUST_CHECK mw_status mw_logprobs(const float *logits, int vocab, int32_t token, mw_token_logprob *chosen,
                                    mw_token_logprob *top, int n_top);

MW_END_DECLS
#endif
