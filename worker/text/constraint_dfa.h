/* worker/text/constraint_dfa.h - the rules of a constraint made deterministic as far as answers need it.
 *
 * A state is a set of places: a node and the stack of nodes to come back to. States, stacks and transitions are found
 * when they are first asked for and kept, so the second walk over the same text is table look-ups. Places from which
 * nothing could end within the depth limit are left out: from every state but DEAD there is a way to a complete value.
 * What has been found can be thrown away at any time (reset); a state outlives that as a list of numbers.
 * Private to constraint*.c; no lock inside.
 */
#ifndef MW_TEXT_CONSTRAINT_DFA_H
#define MW_TEXT_CONSTRAINT_DFA_H
#include "worker/text/constraint_nfa.h"
MW_BEGIN_DECLS

#define MW_DFA_DEAD 0

typedef struct mw_dfa_place {
    int32_t node, stack;
} mw_dfa_place;

typedef struct mw_dfa_frame { /* stack 0 is the empty one */
    int32_t back, below, depth;
} mw_dfa_frame;

typedef struct mw_dfa_state {
    uint32_t first, n; /* places */
    uint32_t hash;
    bool complete;      /* the text so far is a whole value */
    int32_t mask_state; /* the state whose token mask serves this one; -1: not known yet */
} mw_dfa_state;

typedef struct mw_dfa_map { /* open addressing over ids, -1: free */
    int32_t *slot;
    size_t mask;
} mw_dfa_map;

typedef struct mw_dfa {
    const mw_nfa *g;
    mw_dfa_place *place;
    mw_dfa_frame *frame;
    mw_dfa_state *state;
    int32_t *next; /* [n_states][g->n_classes], -1: not known yet */
    size_t n_places, cap_places, n_frames, cap_frames, n_states, cap_states;
    mw_dfa_map frames, states;
    /* one closure */
    mw_dfa_place *work;
    uint32_t *seen_at; /* stamps and keys of a hash set */
    mw_dfa_place *seen;
    uint32_t stamp;
    size_t n_work;
    int32_t start;  /* -1: not known yet */
    uint64_t epoch; /* counts resets; state numbers are good within one */
    size_t spent;   /* places looked at since the user set it to 0: what bounds the time of one call from outside */
} mw_dfa;

MW_MUST_CHECK mw_status mw_dfa_init(mw_dfa *d, const mw_nfa *g);
void mw_dfa_free(mw_dfa *d);
void mw_dfa_reset(mw_dfa *d);
size_t mw_dfa_bytes(const mw_dfa *d);

MW_MUST_CHECK mw_status mw_dfa_start(mw_dfa *d, int32_t *state);
/* MW_ERR_LIMIT: the schema is too ambiguous here: too many places in one state, too many states, or too much spent. */
MW_MUST_CHECK mw_status mw_dfa_find(mw_dfa *d, int32_t state, uint8_t byte, int32_t *next);

static inline mw_status mw_dfa_step(mw_dfa *d, int32_t state, uint8_t byte, int32_t *next) {
    int32_t known = d->next[(size_t)state * (size_t)d->g->n_classes + d->g->class_of[byte]];
    if (known < 0) return mw_dfa_find(d, state, byte, next);
    *next = known;
    return MW_OK;
}

/* The state whose tokens are the same (counters that no token can exhaust make no difference). */
MW_MUST_CHECK mw_status mw_dfa_mask_state(mw_dfa *d, int32_t state, int32_t *out);

/* As numbers, replacing *out; and back. */
MW_MUST_CHECK mw_status mw_dfa_save(const mw_dfa *d, int32_t state, mw_ids *out);
MW_MUST_CHECK mw_status mw_dfa_load(mw_dfa *d, const mw_ids *saved, int32_t *state);

MW_END_DECLS
#endif
