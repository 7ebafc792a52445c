#include "worker/text/constraint_dfa.h"

#include <stdlib.h>
#include <string.h>

#define MAX_WORK   16384             /* places looked at for one state */
#define MAX_SPENT  ((size_t)1 << 18) /* a usual mask takes a few thousand */
#define SEEN       (4 * MAX_WORK)
#define MAX_STATES 200000
#define MAX_PLACES ((size_t)8 << 20)
#define MAX_BYTES  ((size_t)96 << 20)

/* ---- memory ---- */

static mw_status grow(void **p, size_t n, size_t *cap, size_t size, const char *what) {
    if (n <= *cap) return MW_OK;
    size_t next = *cap ? 2 * *cap : 256;
    while (next < n) next *= 2;
    void *q = realloc(*p, next * size);
    if (!q) return MW_FAIL(MW_ERR_NOMEM, "%zu %s of a schema", next, what);
    *p = q;
    *cap = next;
    return MW_OK;
}

mw_status mw_dfa_init(mw_dfa *d, const mw_nfa *g) {
    mw_status st;
    *d = (mw_dfa){.g = g, .start = -1};
    MW_TRY(st, MW_CALLOC(&d->work, MAX_WORK, "schema states"));
    MW_TRY(st, MW_CALLOC(&d->seen, SEEN, "schema states"));
    MW_TRY(st, MW_CALLOC(&d->seen_at, SEEN, "schema states"));
    mw_dfa_reset(d);
fail:
    if (st != MW_OK) mw_dfa_free(d);
    return st;
}

void mw_dfa_reset(mw_dfa *d) {
    free(d->place);
    free(d->frame);
    free(d->state);
    free(d->next);
    free(d->frames.slot);
    free(d->states.slot);
    d->place = NULL, d->frame = NULL, d->state = NULL, d->next = NULL;
    d->frames = d->states = (mw_dfa_map){0};
    d->n_places = d->cap_places = d->n_frames = d->cap_frames = d->n_states = d->cap_states = 0;
    d->start = -1;
    d->epoch++;
}

void mw_dfa_free(mw_dfa *d) {
    mw_dfa_reset(d);
    free(d->work);
    free(d->seen);
    free(d->seen_at);
    *d = (mw_dfa){0};
}

size_t mw_dfa_bytes(const mw_dfa *d) {
    return d->n_states * (sizeof *d->state + (size_t)d->g->n_classes * sizeof *d->next) +
           d->n_places * sizeof *d->place + d->n_frames * sizeof *d->frame;
}

static uint32_t mix(uint32_t h, uint32_t x) {
    h = (h ^ x) * UINT32_C(0x9E3779B1);
    return h ^ h >> 15;
}

/* Room for one more of n entries; `hash` gives an entry's hash again. */
static mw_status map_grow(mw_dfa_map *m, size_t n, uint32_t (*hash)(const mw_dfa *, int32_t), const mw_dfa *d) {
    if (m->slot && 2 * (n + 1) <= m->mask + 1) return MW_OK;
    size_t size = m->slot ? 2 * (m->mask + 1) : 1024;
    int32_t *slot = malloc(size * sizeof *slot);
    if (!slot) return MW_FAIL(MW_ERR_NOMEM, "%zu states of a schema", size);
    memset(slot, 0xFF, size * sizeof *slot);
    for (size_t id = 0; id < n; id++) {
        size_t i = hash(d, (int32_t)id) & (size - 1);
        while (slot[i] >= 0) i = (i + 1) & (size - 1);
        slot[i] = (int32_t)id;
    }
    free(m->slot);
    *m = (mw_dfa_map){slot, size - 1};
    return MW_OK;
}

/* ---- stacks ---- */

static uint32_t frame_hash(const mw_dfa *d, int32_t id) {
    return mix(mix(17, (uint32_t)d->frame[id].back), (uint32_t)d->frame[id].below);
}

static mw_status push_frame(mw_dfa *d, int32_t back, int32_t below, int32_t *out) {
    mw_status st;
    MW_TRY(st, map_grow(&d->frames, d->n_frames, frame_hash, d));
    size_t i = mix(mix(17, (uint32_t)back), (uint32_t)below) & d->frames.mask;
    for (; d->frames.slot[i] >= 0; i = (i + 1) & d->frames.mask) {
        const mw_dfa_frame *f = &d->frame[d->frames.slot[i]];
        if (f->back != back || f->below != below) continue;
        *out = d->frames.slot[i];
        return MW_OK;
    }
    MW_TRY(st, grow((void **)&d->frame, d->n_frames + 1, &d->cap_frames, sizeof *d->frame, "stacks"));
    int32_t depth = d->n_frames ? d->frame[below].depth + 1 : 0; /* the first frame is the empty stack itself */
    d->frame[d->n_frames] = (mw_dfa_frame){back, below, depth};
    *out = d->frames.slot[i] = (int32_t)d->n_frames++;
fail:
    return st;
}

/* ---- closures ---- */

static void begin_work(mw_dfa *d) {
    d->n_work = 0;
    if (++d->stamp == 0) {
        memset(d->seen_at, 0, SEEN * sizeof *d->seen_at);
        d->stamp = 1;
    }
}

/* A place to look at, unless it was there already or nothing can come of it. */
static mw_status add_place(mw_dfa *d, int32_t node, int32_t stack) {
    const mw_nfa_node *n = &d->g->node[node];
    if (n->need == MW_NFA_NEVER || d->frame[stack].depth + n->need > MW_NFA_MAX_DEPTH) return MW_OK;
    size_t i = mix(mix(3, (uint32_t)node), (uint32_t)stack) & (SEEN - 1);
    for (; d->seen_at[i] == d->stamp; i = (i + 1) & (SEEN - 1))
        if (d->seen[i].node == node && d->seen[i].stack == stack) return MW_OK;
    if (d->n_work == MAX_WORK)
        return MW_FAIL(MW_ERR_LIMIT, "the schema is too ambiguous: more than %d ways to go on at one place", MAX_WORK);
    d->seen_at[i] = d->stamp;
    d->seen[i] = d->work[d->n_work++] = (mw_dfa_place){node, stack};
    return MW_OK;
}

static mw_status follow_call(mw_dfa *d, const mw_nfa_edge *e, int32_t stack) {
    const mw_nfa *g = d->g;
    int32_t inner = stack;
    if (!g->node[e->to].end) {
        int need = g->node[e->to].need;
        if (need == MW_NFA_NEVER || d->frame[stack].depth + need > MW_NFA_MAX_DEPTH) return MW_OK;
        if (d->frame[stack].depth == MW_NFA_MAX_DEPTH) return MW_OK;
        mw_status st = push_frame(d, e->to, stack, &inner);
        if (st != MW_OK) return st;
    }
    return add_place(d, g->rule[e->rule].start, inner);
}

/* Follows what needs no byte; leaves in work[] the places that wait for one, and the end. */
static mw_status close_work(mw_dfa *d) {
    const mw_nfa *g = d->g;
    mw_status st = MW_OK;
    size_t kept = 0;
    for (size_t i = 0; i < d->n_work; i++) {
        mw_dfa_place p = d->work[i];
        bool keep = false;
        if (g->node[p.node].end && p.stack == 0) keep = true;
        if (g->node[p.node].end && p.stack != 0)
            MW_TRY(st, add_place(d, d->frame[p.stack].back, d->frame[p.stack].below));
        for (int32_t at = g->node[p.node].edge; at >= 0; at = g->edge[at].next) {
            const mw_nfa_edge *e = &g->edge[at];
            if (e->kind == MW_NFA_BYTES)
                keep |= g->node[e->to].need != MW_NFA_NEVER;
            else
                MW_TRY(st, e->kind == MW_NFA_EMPTY ? add_place(d, e->to, p.stack) : follow_call(d, e, p.stack));
        }
        if (keep) d->work[kept++] = p;
    }
    d->spent += d->n_work;
    if (d->spent > MAX_SPENT)
        return MW_FAIL(MW_ERR_LIMIT, "the schema is too ambiguous: finding the next tokens takes too long");
    d->n_work = kept;
fail:
    return st;
}

/* ---- states ---- */

static uint32_t state_hash(const mw_dfa *d, int32_t id) {
    return d->state[id].hash;
}

static int by_place(const void *x, const void *y) {
    const mw_dfa_place *a = x, *b = y;
    if (a->node != b->node) return a->node < b->node ? -1 : 1;
    return (a->stack > b->stack) - (a->stack < b->stack);
}

/* Place numbers in work[] as a state. */
static mw_status intern(mw_dfa *d, int32_t *out) {
    mw_status st;
    uint32_t hash = (uint32_t)d->n_work;
    bool complete = false;
    if (d->n_work > 1) qsort(d->work, d->n_work, sizeof *d->work, by_place);
    for (size_t i = 0; i < d->n_work; i++) {
        hash = mix(mix(hash, (uint32_t)d->work[i].node), (uint32_t)d->work[i].stack);
        complete |= d->g->node[d->work[i].node].end;
    }
    MW_TRY(st, map_grow(&d->states, d->n_states, state_hash, d));
    size_t i = hash & d->states.mask, classes = (size_t)d->g->n_classes;
    for (; d->states.slot[i] >= 0; i = (i + 1) & d->states.mask) {
        const mw_dfa_state *s = &d->state[d->states.slot[i]];
        if (s->hash != hash || s->n != d->n_work ||
            (s->n && memcmp(d->place + s->first, d->work, s->n * sizeof *d->work) != 0))
            continue;
        *out = d->states.slot[i];
        return MW_OK;
    }
    if (d->n_states >= MAX_STATES || d->n_places + d->n_work > MAX_PLACES || mw_dfa_bytes(d) > MAX_BYTES)
        return MW_FAIL(MW_ERR_LIMIT, "the schema is too ambiguous: it needs too many states");
    size_t cap = d->cap_states;
    MW_TRY(st, grow((void **)&d->place, d->n_places + d->n_work, &d->cap_places, sizeof *d->place, "places"));
    MW_TRY(st, grow((void **)&d->next, d->n_states + 1, &cap, classes * sizeof *d->next, "transitions"));
    MW_TRY(st, grow((void **)&d->state, d->n_states + 1, &d->cap_states, sizeof *d->state, "states"));
    if (d->n_work) memcpy(d->place + d->n_places, d->work, d->n_work * sizeof *d->work);
    memset(d->next + d->n_states * classes, 0xFF, classes * sizeof *d->next);
    d->state[d->n_states] = (mw_dfa_state){(uint32_t)d->n_places, (uint32_t)d->n_work, hash, complete, -1};
    d->n_places += d->n_work;
    *out = d->states.slot[i] = (int32_t)d->n_states++;
fail:
    return st;
}

/* After a reset: the empty stack is frame 0, the empty set state 0. */
static mw_status prepare(mw_dfa *d) {
    int32_t id;
    mw_status st = MW_OK;
    if (d->n_frames == 0) MW_TRY(st, push_frame(d, -1, 0, &id));
    if (d->n_states == 0) {
        begin_work(d);
        MW_TRY(st, intern(d, &id));
    }
fail:
    return st;
}

mw_status mw_dfa_start(mw_dfa *d, int32_t *state) {
    mw_status st = MW_OK;
    if (d->start < 0) {
        MW_TRY(st, prepare(d));
        begin_work(d);
        MW_TRY(st, add_place(d, d->g->rule[d->g->root].start, 0));
        MW_TRY(st, close_work(d));
        MW_TRY(st, intern(d, &d->start));
    }
    *state = d->start;
fail:
    return st;
}

mw_status mw_dfa_find(mw_dfa *d, int32_t state, uint8_t byte, int32_t *next) {
    const mw_nfa *g = d->g;
    int c = g->class_of[byte];
    uint8_t b = g->class_byte[c];
    mw_status st = MW_OK;
    mw_dfa_state s = d->state[state];
    begin_work(d);
    for (uint32_t i = 0; i < s.n; i++) {
        mw_dfa_place p = d->place[s.first + i];
        for (int32_t at = g->node[p.node].edge; at >= 0; at = g->edge[at].next) {
            const mw_nfa_edge *e = &g->edge[at];
            if (e->kind == MW_NFA_BYTES && e->lo <= b && b <= e->hi) MW_TRY(st, add_place(d, e->to, p.stack));
        }
    }
    MW_TRY(st, close_work(d));
    MW_TRY(st, intern(d, next));
    d->next[(size_t)state * (size_t)g->n_classes + (size_t)c] = *next;
fail:
    return st;
}

/* The stack with every node replaced by the one it is the same as. */
static mw_status same_stack(mw_dfa *d, int32_t stack, int32_t *out) {
    int32_t back[MW_NFA_MAX_DEPTH];
    int n = 0;
    mw_status st = MW_OK;
    for (; stack; stack = d->frame[stack].below) back[n++] = d->g->node[d->frame[stack].back].same;
    *out = 0;
    while (n-- > 0) MW_TRY(st, push_frame(d, back[n], *out, out));
fail:
    return st;
}

mw_status mw_dfa_mask_state(mw_dfa *d, int32_t state, int32_t *out) {
    mw_status st = MW_OK;
    mw_dfa_state s = d->state[state];
    if (s.mask_state < 0) {
        begin_work(d);
        for (uint32_t i = 0; i < s.n; i++) {
            mw_dfa_place p = d->place[s.first + i];
            int32_t stack = 0;
            MW_TRY(st, same_stack(d, p.stack, &stack));
            MW_TRY(st, add_place(d, d->g->node[p.node].same, stack));
        }
        MW_TRY(st, intern(d, &s.mask_state));
        d->state[state].mask_state = s.mask_state;
    }
    *out = s.mask_state;
fail:
    return st;
}

/* Per place: node, depth, the nodes to come back to from the top. */
mw_status mw_dfa_save(const mw_dfa *d, int32_t state, mw_ids *out) {
    const mw_dfa_state *s = &d->state[state];
    mw_status st = MW_OK;
    out->n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        mw_dfa_place p = d->place[s->first + i];
        MW_TRY(st, mw_ids_add(out, p.node));
        MW_TRY(st, mw_ids_add(out, d->frame[p.stack].depth));
        for (int32_t at = p.stack; at; at = d->frame[at].below) MW_TRY(st, mw_ids_add(out, d->frame[at].back));
    }
fail:
    return st;
}

mw_status mw_dfa_load(mw_dfa *d, const mw_ids *saved, int32_t *state) {
    mw_status st = MW_OK;
    MW_TRY(st, prepare(d));
    begin_work(d);
    for (size_t i = 0; i < saved->n;) {
        int32_t node = saved->p[i], depth = saved->p[i + 1], stack = 0;
        for (int32_t k = depth; k > 0; k--) MW_TRY(st, push_frame(d, saved->p[i + 1 + (size_t)k], stack, &stack));
        MW_TRY(st, add_place(d, node, stack));
        i += 2 + (size_t)depth;
    }
    MW_TRY(st, intern(d, state));
fail:
    return st;
}
