#include "worker/text/constraint_nfa.h"

#include <stdlib.h>
#include <string.h>

void mw_nfa_init(mw_nfa *g, int longest_token) {
    *g = (mw_nfa){.longest_token = longest_token, .any_char = -1};
    (void)mw_nfa_rule_new(g); /* rule 0 and its nodes: what a failed call gives */
}

void mw_nfa_free(mw_nfa *g) {
    free(g->node);
    free(g->edge);
    free(g->rule);
    *g = (mw_nfa){0};
}

/* Room for one more element; false (and the failure noted) if there is none. */
static bool room(mw_nfa *g, void **p, size_t n, size_t *cap, size_t size, size_t most, const char *what) {
    if (g->st != MW_OK) return false;
    if (n >= most) {
        g->st = MW_FAIL(MW_ERR_LIMIT, "the schema needs more than %zu %s", most, what);
        return false;
    }
    if (n < *cap) return true;
    size_t next = *cap ? 2 * *cap : 256;
    void *q = realloc(*p, next * size);
    if (!q) {
        g->st = MW_FAIL(MW_ERR_NOMEM, "schema: %zu %s", next, what);
        return false;
    }
    *p = q;
    *cap = next;
    return true;
}

int32_t mw_nfa_node_new(mw_nfa *g) {
    if (!room(g, (void **)&g->node, g->n_nodes, &g->cap_nodes, sizeof *g->node, MW_NFA_MAX_NODES, "nodes")) return 0;
    int32_t id = (int32_t)g->n_nodes++;
    g->node[id] = (mw_nfa_node){.edge = -1, .same = id, .need = MW_NFA_NEVER};
    return id;
}

int32_t mw_nfa_rule_new(mw_nfa *g) {
    if (!room(g, (void **)&g->rule, g->n_rules, &g->cap_rules, sizeof *g->rule, MW_NFA_MAX_NODES, "rules")) return 0;
    int32_t id = (int32_t)g->n_rules++;
    int32_t start = mw_nfa_node_new(g), end = mw_nfa_node_new(g);
    g->rule[id] = (mw_nfa_rule){start, end};
    if (g->st == MW_OK) g->node[end].end = true;
    return id;
}

static void add_edge(mw_nfa *g, int32_t from, mw_nfa_edge e) {
    size_t most = (size_t)4 * MW_NFA_MAX_NODES;
    if (!room(g, (void **)&g->edge, g->n_edges, &g->cap_edges, sizeof *g->edge, most, "edges")) return;
    e.next = g->node[from].edge;
    g->node[from].edge = (int32_t)g->n_edges;
    g->edge[g->n_edges++] = e;
}

void mw_nfa_bytes(mw_nfa *g, int32_t from, int lo, int hi, int32_t to) {
    add_edge(g, from, (mw_nfa_edge){.kind = MW_NFA_BYTES, .lo = (uint8_t)lo, .hi = (uint8_t)hi, .to = to});
}

void mw_nfa_empty(mw_nfa *g, int32_t from, int32_t to) {
    add_edge(g, from, (mw_nfa_edge){.kind = MW_NFA_EMPTY, .to = to});
}

void mw_nfa_call(mw_nfa *g, int32_t from, int32_t rule, int32_t to) {
    add_edge(g, from, (mw_nfa_edge){.kind = MW_NFA_CALL, .rule = rule, .to = to});
}

void mw_nfa_text(mw_nfa *g, int32_t from, const char *p, size_t n, int32_t to) {
    if (n == 0) mw_nfa_empty(g, from, to);
    for (size_t i = 0; i < n && g->st == MW_OK; i++) {
        int32_t next = i + 1 < n ? mw_nfa_node_new(g) : to;
        mw_nfa_bytes(g, from, (unsigned char)p[i], (unsigned char)p[i], next);
        from = next;
    }
}

void mw_nfa_mark_chain(mw_nfa *g, const int32_t *chain, size_t n, int64_t min, int64_t max) {
    int32_t below = -1, above = -1;
    if (g->st != MW_OK) return;
    for (size_t k = 0; k < n; k++) {
        int64_t i = (int64_t)k;
        if (max >= 0 && max - i <= g->longest_token) continue;
        int32_t *first = i >= min ? &above : min - i > g->longest_token ? &below : NULL;
        if (!first) continue;
        if (*first < 0) *first = chain[k];
        g->node[chain[k]].same = *first;
    }
}

/* ---- need ---- */

/* Knuth's generalisation of Dijkstra's algorithm: nodes leave the buckets in order of their final value, so the larger
 * of a call's two parts is known when the second of them leaves. */
typedef struct {
    mw_nfa *g;
    int32_t *first, *next; /* of each node the edges that wait for it: first[node], then next[2 * edge + part] */
    int32_t *source;       /* [edge] the node it leaves */
    uint8_t *parts;        /* [edge] known so far */
    mw_ids queue[MW_NFA_MAX_DEPTH + 1];
} needs;

static void wait_for(needs *w, int32_t node, size_t edge, int part) {
    w->next[2 * edge + (size_t)part] = w->first[node];
    w->first[node] = (int32_t)(2 * edge + (size_t)part);
}

static mw_status offer(needs *w, int32_t node, int value) {
    if (value > MW_NFA_MAX_DEPTH || w->g->node[node].need <= value) return MW_OK;
    return mw_ids_add(&w->queue[value], node);
}

static mw_status settle_node(needs *w, int32_t node, int value) {
    mw_nfa *g = w->g;
    mw_status st = MW_OK;
    for (int32_t at = w->first[node]; at >= 0 && st == MW_OK; at = w->next[at]) {
        const mw_nfa_edge *e = &g->edge[at / 2];
        if (e->kind != MW_NFA_CALL) {
            st = offer(w, w->source[at / 2], value);
        } else if (++w->parts[at / 2] == 2) {
            int inside = g->node[g->rule[e->rule].start].need + !g->node[e->to].end, after = g->node[e->to].need;
            st = offer(w, w->source[at / 2], inside > after ? inside : after);
        }
    }
    return st;
}

static mw_status run_needs(needs *w) {
    mw_nfa *g = w->g;
    mw_status st = MW_OK;
    for (size_t i = 0; i < g->n_nodes; i++) {
        w->first[i] = -1;
        for (int32_t e = g->node[i].edge; e >= 0; e = g->edge[e].next) w->source[e] = (int32_t)i;
    }
    for (size_t e = 0; e < g->n_edges; e++) {
        wait_for(w, g->edge[e].to, e, 0);
        if (g->edge[e].kind == MW_NFA_CALL) wait_for(w, g->rule[g->edge[e].rule].start, e, 1);
    }
    for (size_t r = 0; r < g->n_rules; r++) MW_TRY(st, offer(w, g->rule[r].end, 0));
    for (int v = 0; v <= MW_NFA_MAX_DEPTH; v++)
        while (w->queue[v].n) {
            int32_t node = w->queue[v].p[--w->queue[v].n];
            if (g->node[node].need <= v) continue;
            g->node[node].need = (uint8_t)v;
            MW_TRY(st, settle_node(w, node, v));
        }
fail:
    return st;
}

static mw_status find_needs(mw_nfa *g) {
    needs w = {.g = g};
    mw_status st;
    MW_TRY(st, MW_CALLOC(&w.first, g->n_nodes, "schema nodes"));
    MW_TRY(st, MW_CALLOC(&w.next, 2 * g->n_edges, "schema edges"));
    MW_TRY(st, MW_CALLOC(&w.source, g->n_edges, "schema edges"));
    MW_TRY(st, MW_CALLOC(&w.parts, g->n_edges, "schema edges"));
    MW_TRY(st, run_needs(&w));
fail:
    free(w.first);
    free(w.next);
    free(w.source);
    free(w.parts);
    for (int v = 0; v <= MW_NFA_MAX_DEPTH; v++) mw_ids_free(&w.queue[v]);
    return st;
}

static void find_classes(mw_nfa *g) {
    bool starts[257] = {true};
    for (size_t i = 0; i < g->n_edges; i++)
        if (g->edge[i].kind == MW_NFA_BYTES) starts[g->edge[i].lo] = starts[g->edge[i].hi + 1] = true;
    g->n_classes = 0;
    for (int b = 0; b < 256; b++) {
        if (starts[b]) g->class_byte[g->n_classes++] = (uint8_t)b;
        g->class_of[b] = (uint8_t)(g->n_classes - 1);
    }
}

mw_status mw_nfa_finish(mw_nfa *g, int32_t root) {
    if (g->st != MW_OK) return g->st;
    mw_status st = find_needs(g);
    if (st != MW_OK) return st;
    find_classes(g);
    g->root = root;
    if (g->node[g->rule[root].start].need == MW_NFA_NEVER)
        return MW_FAIL(MW_ERR_USAGE, "no value with at most %d levels of nesting satisfies the schema",
                       MW_NFA_MAX_DEPTH);
    return MW_OK;
}
