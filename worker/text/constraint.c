#include "worker/text/constraint.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/constraint_dfa.h"
#include "worker/text/constraint_schema.h"
#include "worker/text/constraint_vocab.h"

#define KEPT        16                  /* constraints that nobody uses any more */
#define RULE_BYTES  ((size_t)1 << 30)   /* of all constraints together */
#define TABLE_BYTES ((size_t)4 << 20)   /* of one constraint, before they are thrown away */
#define MASK_BYTES  ((size_t)8 << 20)   /* of one constraint */
#define ALL_MASKS   ((size_t)512 << 20) /* bytes, of all constraints but for a few masks each */
#define FEW_MASKS   4
#define MAX_MASKS   1024

typedef struct {
    int32_t state; /* of the tables' present age, -1: free */
    uint64_t used;
    uint32_t *bits;
} mask_slot;

struct mw_constraint {
    mw_grammar *g;
    char *schema; /* NULL: any object */
    int refs;     /* under g->lock */
    uint64_t used;
    mw_constraint *next;
    mw_nfa nfa;
    pthread_mutex_t lock; /* for all below */
    mw_dfa dfa;
    mask_slot *mask;
    size_t n_masks, max_masks;
    uint64_t tick, mask_epoch;
};

struct mw_grammar {
    const mw_tokenizer *tokenizer;
    int32_t *eos;
    size_t n_eos;
    int32_t size;
    pthread_mutex_t lock;
    mw_vocab vocab; /* built when it is first needed */
    bool has_vocab;
    mw_constraint *list; /* all there are */
    size_t rule_bytes;   /* of them */
    atomic_size_t mask_bytes;
    uint64_t tick;
};

/* ---- grammars and their constraints ---- */

mw_status mw_grammar_open(mw_grammar **out, const mw_tokenizer *t, int32_t size, const int32_t *eos, size_t n_eos) {
    mw_grammar *g = NULL;
    mw_status st = MW_CALLOC(&g, 1, "grammar");
    if (st != MW_OK) return st;
    pthread_mutex_init(&g->lock, NULL);
    g->tokenizer = t;
    g->size = size;
    MW_TRY(st, MW_CALLOC(&g->eos, n_eos, "grammar"));
    if (n_eos) memcpy(g->eos, eos, n_eos * sizeof *eos);
    g->n_eos = n_eos;
    *out = g;
    return MW_OK;
fail:
    mw_grammar_close(g);
    return st;
}

static size_t rule_bytes(const mw_constraint *c) {
    const mw_nfa *n = &c->nfa;
    return n->cap_nodes * sizeof *n->node + n->cap_edges * sizeof *n->edge + n->cap_rules * sizeof *n->rule;
}

static void destroy(mw_constraint *c) {
    if (!c) return;
    atomic_fetch_sub(&c->g->mask_bytes, c->n_masks * mw_mask_words(c->g->size) * sizeof(uint32_t));
    for (size_t i = 0; i < c->n_masks; i++) free(c->mask[i].bits);
    free(c->mask);
    mw_dfa_free(&c->dfa);
    mw_nfa_free(&c->nfa);
    pthread_mutex_destroy(&c->lock);
    free(c->schema);
    free(c);
}

void mw_grammar_close(mw_grammar *g) {
    if (!g) return;
    while (g->list) {
        mw_constraint *next = g->list->next;
        destroy(g->list);
        g->list = next;
    }
    if (g->has_vocab) mw_vocab_free(&g->vocab);
    pthread_mutex_destroy(&g->lock);
    free(g->eos);
    free(g);
}

static mw_constraint *find(mw_grammar *g, const char *schema) {
    for (mw_constraint *c = g->list; c; c = c->next)
        if (schema ? c->schema && strcmp(c->schema, schema) == 0 : !c->schema) return c;
    return NULL;
}

/* Of those that nobody uses, the least recently used go: when they are many, or all are large. */
static void trim(mw_grammar *g) {
    for (;;) {
        mw_constraint **oldest = NULL;
        int idle = 0;
        for (mw_constraint **at = &g->list; *at; at = &(*at)->next) {
            if ((*at)->refs > 0) continue;
            idle++;
            if (!oldest || (*at)->used < (*oldest)->used) oldest = at;
        }
        if (idle == 0 || (idle <= KEPT && g->rule_bytes <= RULE_BYTES / 2)) return;
        mw_constraint *c = *oldest;
        *oldest = c->next;
        g->rule_bytes -= rule_bytes(c);
        destroy(c);
    }
}

static mw_status make(mw_grammar *g, const char *schema, mw_constraint **out) {
    mw_constraint *c = NULL;
    mw_status st = MW_CALLOC(&c, 1, "constraint");
    if (st != MW_OK) return st;
    pthread_mutex_init(&c->lock, NULL);
    c->g = g;
    mw_nfa_init(&c->nfa, g->vocab.longest);
    MW_TRY(st, c->nfa.st);
    if (schema && !(c->schema = strdup(schema))) {
        st = MW_FAIL(MW_ERR_NOMEM, "schema");
        goto fail;
    }
    MW_TRY(st, mw_schema_compile(&c->nfa, schema, schema ? strlen(schema) : 0));
    MW_TRY(st, mw_dfa_init(&c->dfa, &c->nfa));
    c->max_masks = MASK_BYTES / (mw_mask_words(g->size) * sizeof(uint32_t));
    if (c->max_masks < 8) c->max_masks = 8;
    if (c->max_masks > MAX_MASKS) c->max_masks = MAX_MASKS;
    MW_TRY(st, MW_CALLOC(&c->mask, c->max_masks, "token masks"));
    *out = c;
    return MW_OK;
fail:
    destroy(c);
    return st;
}

/* The vocabulary's tree takes a fraction of a second: only who asks for a constraint waits for it, once. */
static mw_status need_vocab(mw_grammar *g) {
    mw_status st = MW_OK;
    pthread_mutex_lock(&g->lock);
    if (!g->has_vocab) st = mw_vocab_init(&g->vocab, g->tokenizer, g->size, g->eos, g->n_eos);
    g->has_vocab = st == MW_OK;
    pthread_mutex_unlock(&g->lock);
    return st;
}

/* A reference to the constraint of that text, which may be NULL. Under the lock. */
static mw_constraint *take(mw_grammar *g, const char *schema) {
    mw_constraint *c = find(g, schema);
    if (c) c->refs++, c->used = ++g->tick;
    return c;
}

mw_status mw_grammar_compile(mw_grammar *g, const char *schema, mw_constraint **out) {
    mw_constraint *fresh = NULL;
    mw_status st = need_vocab(g);
    if (st != MW_OK) return st;
    pthread_mutex_lock(&g->lock);
    mw_constraint *c = take(g, schema);
    pthread_mutex_unlock(&g->lock);
    if (!c) { /* others go on meanwhile; two may compile the same, one of them is kept */
        if ((st = make(g, schema, &fresh)) != MW_OK) return st;
        pthread_mutex_lock(&g->lock);
        c = take(g, schema);
        if (!c && fresh && g->rule_bytes + rule_bytes(fresh) <= RULE_BYTES) {
            g->rule_bytes += rule_bytes(fresh);
            fresh->next = g->list;
            g->list = fresh;
            fresh = NULL;
            c = take(g, schema);
            trim(g);
        }
        pthread_mutex_unlock(&g->lock);
        destroy(fresh);
    }
    if (!c) return MW_FAIL(MW_ERR_BUSY, "the schemas of all requests together are too large");
    *out = c;
    return MW_OK;
}

void mw_constraint_release(mw_constraint *c) {
    if (!c) return;
    mw_grammar *g = c->g;
    pthread_mutex_lock(&g->lock);
    c->refs--;
    trim(g);
    pthread_mutex_unlock(&g->lock);
}

/* ---- states ---- */

/* The state's number in the tables as they are now; tables that have grown large are thrown away first. */
static mw_status enter(mw_constraint_state *s) {
    mw_constraint *c = s->c;
    if (mw_dfa_bytes(&c->dfa) > TABLE_BYTES) mw_dfa_reset(&c->dfa);
    c->dfa.spent = 0;
    if (s->epoch == c->dfa.epoch) return MW_OK;
    mw_status st = mw_dfa_load(&c->dfa, &s->saved, &s->state);
    if (st == MW_OK) s->epoch = c->dfa.epoch;
    return st;
}

static mw_status settle(mw_constraint_state *s, int32_t state) {
    const mw_dfa *d = &s->c->dfa;
    mw_ids saved = {0};
    mw_status st = mw_dfa_save(d, state, &saved);
    if (st != MW_OK) {
        mw_ids_free(&saved);
        return st;
    }
    mw_ids_free(&s->saved);
    s->saved = saved;
    s->state = state;
    s->complete = d->state[state].complete;
    s->exhausted = s->complete && d->state[state].n == 1; /* the only place is the end */
    return MW_OK;
}

mw_status mw_constraint_begin(mw_constraint *c, mw_constraint_state *s) {
    int32_t start = 0;
    mw_status st;
    *s = (mw_constraint_state){.c = c};
    pthread_mutex_lock(&c->g->lock);
    c->refs++;
    pthread_mutex_unlock(&c->g->lock);
    pthread_mutex_lock(&c->lock);
    c->dfa.spent = 0;
    MW_TRY(st, mw_dfa_start(&c->dfa, &start));
    MW_TRY(st, settle(s, start));
    s->epoch = c->dfa.epoch;
fail:
    pthread_mutex_unlock(&c->lock);
    if (st != MW_OK) mw_constraint_free(s);
    return st;
}

mw_status mw_constraint_copy(const mw_constraint_state *from, mw_constraint_state *to) {
    mw_ids saved = {0};
    mw_status st = mw_ids_append(&saved, from->saved.p, from->saved.n);
    if (st != MW_OK) return st;
    *to = *from;
    to->saved = saved;
    if (!to->c) return MW_OK;
    pthread_mutex_lock(&to->c->g->lock);
    to->c->refs++;
    pthread_mutex_unlock(&to->c->g->lock);
    return MW_OK;
}

void mw_constraint_free(mw_constraint_state *s) {
    mw_ids_free(&s->saved);
    mw_constraint_release(s->c);
    *s = (mw_constraint_state){0};
}

/* ---- masks ---- */

static void allow(uint32_t *mask, int32_t token) {
    mask[token / 32] |= UINT32_C(1) << (token % 32);
}

/* All tokens whose bytes the automaton can go along from `state`. */
static mw_status fill_mask(mw_constraint *c, int32_t state, uint32_t *mask) {
    const mw_vocab *v = &c->g->vocab;
    int32_t at[MW_VOCAB_MAX_TOKEN + 1];
    mw_status st = MW_OK;
    at[0] = state;
    memset(mask, 0, mw_mask_words(v->size) * sizeof *mask);
    for (size_t i = 0; i < v->n;) {
        mw_vocab_node n = v->node[i];
        int32_t *next = &at[n.depth];
        MW_TRY(st, mw_dfa_step(&c->dfa, at[n.depth - 1], n.byte, next));
        if (*next == MW_DFA_DEAD) {
            i = (size_t)n.skip;
            continue;
        }
        for (int32_t t = n.token; t >= 0; t = v->twin[t]) allow(mask, t);
        i++;
    }
fail:
    return st;
}

/* May the constraint keep one mask more? */
static bool may_grow(const mw_constraint *c) {
    if (c->n_masks < FEW_MASKS) return true;
    return c->n_masks < c->max_masks && atomic_load(&c->g->mask_bytes) < ALL_MASKS;
}

static mw_status find_mask(mw_constraint *c, int32_t state, mask_slot **out) {
    mask_slot *oldest = NULL;
    if (c->mask_epoch != c->dfa.epoch) {
        for (size_t i = 0; i < c->n_masks; i++) c->mask[i].state = -1, c->mask[i].used = 0;
        c->mask_epoch = c->dfa.epoch;
    }
    for (size_t i = 0; i < c->n_masks; i++) {
        mask_slot *m = &c->mask[i];
        if (m->state == state) {
            m->used = ++c->tick;
            *out = m;
            return MW_OK;
        }
        if (!oldest || m->used < oldest->used) oldest = m;
    }
    if (!oldest || (oldest->state >= 0 && may_grow(c))) {
        uint32_t *bits = NULL;
        mw_status st = MW_CALLOC(&bits, mw_mask_words(c->g->size), "token mask");
        if (st != MW_OK) return st;
        atomic_fetch_add(&c->g->mask_bytes, mw_mask_words(c->g->size) * sizeof *bits);
        oldest = &c->mask[c->n_masks++];
        *oldest = (mask_slot){.bits = bits};
    }
    oldest->state = -1; /* until it is filled */
    mw_status st = fill_mask(c, state, oldest->bits);
    if (st != MW_OK) return st;
    oldest->state = state;
    oldest->used = ++c->tick;
    *out = oldest;
    return MW_OK;
}

mw_status mw_constraint_mask(mw_constraint_state *s, bool may_end, uint32_t *mask) {
    mw_constraint *c = s->c;
    size_t words = mw_mask_words(c->g->size);
    int32_t state = 0;
    mask_slot *m = NULL;
    uint32_t any = 0;
    mw_status st;
    pthread_mutex_lock(&c->lock);
    MW_TRY(st, enter(s));
    MW_TRY(st, mw_dfa_mask_state(&c->dfa, s->state, &state));
    MW_TRY(st, find_mask(c, state, &m));
    memcpy(mask, m->bits, words * sizeof *mask);
fail:
    pthread_mutex_unlock(&c->lock);
    if (st != MW_OK) return st;
    if (s->ended) memset(mask, 0, words * sizeof *mask);
    for (size_t i = 0; i < c->g->n_eos && may_end && s->complete; i++)
        if (c->g->eos[i] >= 0 && c->g->eos[i] < c->g->size) allow(mask, c->g->eos[i]);
    for (size_t i = 0; i < words; i++) any |= mask[i];
    if (any) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "no token of the vocabulary can go on with the JSON text");
}

/* ---- going on ---- */

mw_status mw_constraint_accept_text(mw_constraint_state *s, const char *text, size_t n) {
    mw_constraint *c = s->c;
    mw_status st;
    pthread_mutex_lock(&c->lock);
    MW_TRY(st, enter(s));
    int32_t state = s->state;
    for (size_t i = 0; i < n && state != MW_DFA_DEAD; i++)
        MW_TRY(st, mw_dfa_step(&c->dfa, state, (uint8_t)text[i], &state));
    if (state == MW_DFA_DEAD || s->ended)
        st = MW_FAIL(MW_ERR_USAGE, "text that the constraint does not allow here");
    else
        st = settle(s, state);
fail:
    pthread_mutex_unlock(&c->lock);
    return st;
}

mw_status mw_constraint_accept(mw_constraint_state *s, int32_t token) {
    const mw_grammar *g = s->c->g;
    const mw_vocab *v = &g->vocab;
    for (size_t i = 0; i < g->n_eos; i++) {
        if (g->eos[i] != token) continue;
        if (!s->complete) return MW_FAIL(MW_ERR_USAGE, "an end token %d inside a JSON value", token);
        s->ended = true;
        return MW_OK;
    }
    if (token < 0 || token >= v->size || v->at[token] == v->at[token + 1])
        return MW_FAIL(MW_ERR_USAGE, "token %d has no text that an answer may have", token);
    return mw_constraint_accept_text(s, v->bytes.p + v->at[token], v->at[token + 1] - v->at[token]);
}
