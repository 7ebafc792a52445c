#include "worker/text/constraint_regex.h"

#include <stdlib.h>
#include <string.h>

#include "worker/text/constraint_chars.h"
#include "worker/text/tok_utf8.h"

#define MAX_PATTERN 4096  /* bytes */
#define MAX_NESTING 64    /* groups */
#define MAX_REPEAT  1000  /* the number in {n} */
#define MAX_STATES  32768 /* of the automaton over characters */

/* ---- the expression as a tree ---- */

typedef enum { NODE_EMPTY, NODE_SET, NODE_CAT, NODE_ALT, NODE_REPEAT } node_kind;

typedef struct {
    node_kind kind;
    int a, b;     /* children; SET: a is the set */
    int min, max; /* REPEAT; max -1: no limit */
} tree_node;

typedef struct {
    const char *p;
    size_t n, at;
    int nesting;
    tree_node *node;
    size_t n_nodes, cap_nodes;
    mw_chars *set; /* no two equal */
    size_t n_sets, cap_sets;
} parser;

static mw_status bad(const parser *p, const char *what) {
    return MW_FAIL(MW_ERR_USAGE, "pattern: %s at byte %zu of '%.64s'", what, p->at, p->p);
}

static mw_status unsupported(const parser *p, const char *what) {
    return MW_FAIL(MW_ERR_UNSUPPORTED, "pattern: %s at byte %zu of '%.64s' is not supported", what, p->at, p->p);
}

/* The block with room for an element more than n; NULL (p is as it was): no memory, the failure is recorded. */
static void *grown(void *p, size_t n, size_t *cap, size_t size) {
    if (p && n < *cap) return p;
    size_t next = *cap ? 2 * *cap : 32;
    void *q = realloc(p, next * size);
    if (q)
        *cap = next;
    else
        (void)MW_FAIL(MW_ERR_NOMEM, "pattern");
    return q;
}

static mw_status add_node(parser *p, tree_node node, int *out) {
    tree_node *q = grown(p->node, p->n_nodes, &p->cap_nodes, sizeof *q);
    if (!q) return MW_ERR_NOMEM;
    p->node = q;
    *out = (int)p->n_nodes;
    q[p->n_nodes++] = node;
    return MW_OK;
}

/* Takes the set over, whatever happens. */
static mw_status add_set(parser *p, mw_chars *s, int *out) {
    mw_chars_sort(s);
    size_t i = 0;
    while (i < p->n_sets && !mw_chars_equal(&p->set[i], s)) i++;
    if (i < p->n_sets) {
        mw_chars_free(s);
    } else {
        mw_chars *q = grown(p->set, i, &p->cap_sets, sizeof *q);
        if (!q) {
            mw_chars_free(s);
            return MW_ERR_NOMEM;
        }
        p->set = q;
        q[p->n_sets++] = *s;
        *s = (mw_chars){0};
    }
    return add_node(p, (tree_node){.kind = NODE_SET, .a = (int)i}, out);
}

static int peek(const parser *p) {
    return p->at < p->n ? (unsigned char)p->p[p->at] : -1;
}

static bool eat(parser *p, char c) {
    if (peek(p) != (unsigned char)c) return false;
    p->at++;
    return true;
}

static uint32_t next_char(parser *p) {
    uint32_t c = mw_utf8_get(p->p + p->at);
    p->at += (size_t)mw_utf8_len((unsigned char)p->p[p->at]);
    return c;
}

/* ---- escapes and sets ---- */

static mw_status add_class(mw_chars *s, char name) {
    static const uint32_t digits[] = {'0', '9'}, words[] = {'0', '9', 'A', 'Z', '_', '_', 'a', 'z'},
                          spaces[] = {'\t', '\r', ' ', ' '};
    char low = (char)(name | 0x20);
    const uint32_t *r = low == 'd' ? digits : low == 'w' ? words : spaces;
    size_t n = low == 'd' ? 1 : low == 'w' ? 4 : 2;
    mw_chars one = {0};
    mw_status st = MW_OK;
    for (size_t i = 0; i < n; i++) MW_TRY(st, mw_chars_add(&one, r[2 * i], r[2 * i + 1]));
    if (name != low) MW_TRY(st, mw_chars_negate(&one, 0x7F));
    for (size_t i = 0; i < one.n; i++) MW_TRY(st, mw_chars_add(s, one.r[2 * i], one.r[2 * i + 1]));
fail:
    mw_chars_free(&one);
    return st;
}

static mw_status hex_escape(parser *p, int digits, uint32_t *c) {
    *c = 0;
    for (int i = 0; i < digits; i++) {
        int d = peek(p);
        int v = d >= '0' && d <= '9' ? d - '0' : (d | 0x20) >= 'a' && (d | 0x20) <= 'f' ? (d | 0x20) - 'a' + 10 : -1;
        if (d < 0 || v < 0) return bad(p, "an escape with too few hexadecimal digits");
        *c = *c * 16 + (uint32_t)v;
        p->at++;
    }
    return MW_OK;
}

/* Behind a backslash: a class (*c 0, its letter in *name) or a character. */
static mw_status parse_escape(parser *p, char *name, uint32_t *c) {
    static const char plain[] = "^$\\.*+?()[]{}|/-", control[] = "tnrfv", values[] = "\t\n\r\f\v";
    int e = peek(p);
    const char *at;
    *name = 0;
    *c = 0;
    if (e <= 0) return bad(p, "a backslash at the end");
    if (strchr("dDwWsS", e)) {
        *name = (char)e;
    } else if ((at = strchr(control, e))) {
        *c = (uint32_t)values[at - control];
    } else if (e == 'x' || e == 'u') {
        p->at++;
        mw_status st = hex_escape(p, e == 'x' ? 2 : 4, c);
        if (st == MW_OK && *c >= 0xD800 && *c <= 0xDFFF) st = unsupported(p, "a surrogate");
        return st;
    } else if (strchr(plain, e) || (e < 0x80 && !((e | 0x20) >= 'a' && (e | 0x20) <= 'z') && (e < '0' || e > '9'))) {
        *c = (uint32_t)e;
    } else {
        return unsupported(p, "this escape");
    }
    p->at++;
    return MW_OK;
}

/* One entry of [...]: a class, or a character (*single). */
static mw_status set_entry(parser *p, mw_chars *s, bool *classes, bool *single, uint32_t *c) {
    char name = 0;
    *single = true;
    if (!eat(p, '\\')) {
        *c = next_char(p);
        return MW_OK;
    }
    if (peek(p) == 'b') {
        p->at++;
        *c = '\b';
        return MW_OK;
    }
    mw_status st = parse_escape(p, &name, c);
    if (st != MW_OK || !name) return st;
    *single = false;
    *classes = true;
    return add_class(s, name);
}

static mw_status fill_set(parser *p, mw_chars *s) {
    bool negate = eat(p, '^'), classes = false;
    mw_status st = MW_OK;
    while (!eat(p, ']')) {
        uint32_t lo, hi;
        bool single, other;
        if (peek(p) < 0) return bad(p, "a [ without its ]");
        MW_TRY(st, set_entry(p, s, &classes, &single, &lo));
        if (!single) continue;
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->n && p->p[p->at + 1] != ']') {
            p->at++;
            MW_TRY(st, set_entry(p, s, &classes, &other, &hi));
            if (!other || hi < lo) return bad(p, "a range that does not go up");
        }
        MW_TRY(st, mw_chars_add(s, lo, hi));
    }
    mw_chars_sort(s);
    if (negate) MW_TRY(st, mw_chars_negate(s, classes ? 0x7F : MW_CHARS_LAST));
fail:
    return st;
}

static mw_status parse_set(parser *p, int *out) {
    mw_chars s = {0};
    mw_status st = fill_set(p, &s);
    if (st != MW_OK) {
        mw_chars_free(&s);
        return st;
    }
    return add_set(p, &s, out);
}

/* All characters, or what '.' stands for: all but the ends of lines. */
static mw_status any_set(parser *p, bool dot, int *out) {
    mw_chars s = {0};
    mw_status st = MW_OK;
    if (dot) {
        MW_TRY(st, mw_chars_add(&s, '\n', '\n'));
        MW_TRY(st, mw_chars_add(&s, '\r', '\r'));
        MW_TRY(st, mw_chars_add(&s, 0x2028, 0x2029));
    }
    MW_TRY(st, mw_chars_negate(&s, MW_CHARS_LAST));
    return add_set(p, &s, out);
fail:
    mw_chars_free(&s);
    return st;
}

static mw_status one_char(parser *p, uint32_t c, char name, int *out) {
    mw_chars s = {0};
    mw_status st = name ? add_class(&s, name) : mw_chars_add(&s, c, c);
    if (st == MW_OK) return add_set(p, &s, out);
    mw_chars_free(&s);
    return st;
}

/* ---- the grammar of expressions ---- */

static mw_status parse_alternatives(parser *p, int *out);

static mw_status parse_group(parser *p, int *out) {
    if (eat(p, '?') && !eat(p, ':')) return unsupported(p, "this kind of group");
    if (++p->nesting > MAX_NESTING) return MW_FAIL(MW_ERR_LIMIT, "pattern: more than %d nested groups", MAX_NESTING);
    mw_status st = parse_alternatives(p, out);
    p->nesting--;
    if (st == MW_OK && !eat(p, ')')) st = bad(p, "a ( without its )");
    return st;
}

static mw_status parse_atom(parser *p, int *out) {
    uint32_t c = 0;
    char name = 0;
    if (eat(p, '(')) return parse_group(p, out);
    if (eat(p, '[')) return parse_set(p, out);
    if (eat(p, '.')) return any_set(p, true, out);
    if (peek(p) == '^' || peek(p) == '$') return unsupported(p, "an anchor inside the pattern");
    if (peek(p) == '*' || peek(p) == '+' || peek(p) == '?') return bad(p, "a quantifier with nothing before it");
    if (eat(p, '\\')) {
        mw_status st = parse_escape(p, &name, &c);
        return st == MW_OK ? one_char(p, c, name, out) : st;
    }
    return one_char(p, next_char(p), 0, out);
}

static mw_status parse_number(parser *p, int *out) {
    if (peek(p) < '0' || peek(p) > '9') return bad(p, "a { that is no quantifier");
    *out = 0;
    while (peek(p) >= '0' && peek(p) <= '9') {
        *out = *out * 10 + (p->p[p->at++] - '0');
        if (*out > MAX_REPEAT) return MW_FAIL(MW_ERR_LIMIT, "pattern: a repetition above %d", MAX_REPEAT);
    }
    return MW_OK;
}

static mw_status parse_counts(parser *p, int *min, int *max) {
    mw_status st = MW_OK;
    MW_TRY(st, parse_number(p, min));
    *max = *min;
    if (eat(p, ',')) {
        *max = -1;
        if (peek(p) != '}') MW_TRY(st, parse_number(p, max));
    }
    if (!eat(p, '}')) return bad(p, "a { that is no quantifier");
    if (*max >= 0 && *max < *min) return bad(p, "a repetition whose limits are out of order");
fail:
    return st;
}

static mw_status parse_repeat(parser *p, int *out) {
    int atom = 0, min, max;
    mw_status st = MW_OK;
    MW_TRY(st, parse_atom(p, &atom));
    *out = atom;
    if (eat(p, '*'))
        min = 0, max = -1;
    else if (eat(p, '+'))
        min = 1, max = -1;
    else if (eat(p, '?'))
        min = 0, max = 1;
    else if (eat(p, '{'))
        MW_TRY(st, parse_counts(p, &min, &max));
    else
        return MW_OK;
    (void)eat(p, '?'); /* lazy: the same strings */
    MW_TRY(st, add_node(p, (tree_node){.kind = NODE_REPEAT, .a = atom, .min = min, .max = max}, out));
fail:
    return st;
}

static mw_status join(parser *p, node_kind kind, int a, int b, int *out) {
    return add_node(p, (tree_node){.kind = kind, .a = a, .b = b}, out);
}

/* Anything, in front of or behind a pattern that is not tied to that end. */
static mw_status loose_end(parser *p, int *out) {
    int any = 0;
    mw_status st = any_set(p, false, &any);
    return st == MW_OK ? add_node(p, (tree_node){.kind = NODE_REPEAT, .a = any, .max = -1}, out) : st;
}

static mw_status parse_sequence(parser *p, int *out) {
    mw_status st = MW_OK;
    bool outer = p->nesting == 0, tied = false;
    int item = 0;
    MW_TRY(st, add_node(p, (tree_node){.kind = NODE_EMPTY}, out));
    if (outer && !eat(p, '^')) MW_TRY(st, loose_end(p, out));
    while (peek(p) >= 0 && peek(p) != '|' && peek(p) != ')') {
        bool last = p->at + 1 == p->n || p->p[p->at + 1] == '|';
        if (outer && last && eat(p, '$')) {
            tied = true;
            break;
        }
        MW_TRY(st, parse_repeat(p, &item));
        MW_TRY(st, join(p, NODE_CAT, *out, item, out));
    }
    if (outer && !tied) {
        MW_TRY(st, loose_end(p, &item));
        MW_TRY(st, join(p, NODE_CAT, *out, item, out));
    }
fail:
    return st;
}

static mw_status parse_alternatives(parser *p, int *out) {
    mw_status st = parse_sequence(p, out);
    int item = 0;
    while (st == MW_OK && eat(p, '|')) {
        MW_TRY(st, parse_sequence(p, &item));
        MW_TRY(st, join(p, NODE_ALT, *out, item, out));
    }
fail:
    return st;
}

/* ---- the tree as an automaton over characters ---- */

typedef struct {
    int to, set, next; /* set -1: empty */
} char_edge;

typedef struct {
    const parser *p;
    int *state; /* first edge of each, -1: none */
    size_t n_states, cap_states;
    char_edge *edge;
    size_t n_edges, cap_edges;
} char_nfa;

static mw_status new_state(char_nfa *a, int *out) {
    if (a->n_states >= MAX_STATES) return MW_FAIL(MW_ERR_LIMIT, "pattern '%.64s' is too large", a->p->p);
    int *q = grown(a->state, a->n_states, &a->cap_states, sizeof *q);
    if (!q) return MW_ERR_NOMEM;
    a->state = q;
    *out = (int)a->n_states;
    q[a->n_states++] = -1;
    return MW_OK;
}

static mw_status link_states(char_nfa *a, int from, int set, int to) {
    char_edge *q = grown(a->edge, a->n_edges, &a->cap_edges, sizeof *q);
    if (!q) return MW_ERR_NOMEM;
    a->edge = q;
    q[a->n_edges] = (char_edge){.to = to, .set = set, .next = a->state[from]};
    a->state[from] = (int)a->n_edges++;
    return MW_OK;
}

static mw_status expand(char_nfa *a, int node, int from, int *to);

static mw_status expand_repeat(char_nfa *a, const tree_node *t, int from, int *to) {
    mw_status st = MW_OK;
    int end = 0, next = 0;
    for (int i = 0; i < t->min; i++) MW_TRY(st, expand(a, t->a, from, &from));
    if (t->max < 0) { /* the loop has a state of its own, which nothing before it shares */
        MW_TRY(st, new_state(a, &end));
        MW_TRY(st, link_states(a, from, -1, end));
        MW_TRY(st, expand(a, t->a, end, &next));
        MW_TRY(st, link_states(a, next, -1, end));
        *to = end;
        return MW_OK;
    }
    MW_TRY(st, new_state(a, &end));
    MW_TRY(st, link_states(a, from, -1, end));
    for (int i = t->min; i < t->max; i++) {
        MW_TRY(st, expand(a, t->a, from, &from));
        MW_TRY(st, link_states(a, from, -1, end));
    }
    *to = end;
fail:
    return st;
}

/* A sequence is a chain to the left: expanded without recursion along it. */
static mw_status expand_chain(char_nfa *a, int node, int from, int *to) {
    const tree_node *t = a->p->node;
    int n = 0, *items = NULL;
    mw_status st = MW_OK;
    for (int at = node; t[at].kind == NODE_CAT; at = t[at].a) n++;
    MW_TRY(st, MW_CALLOC(&items, (size_t)n + 1, "pattern"));
    for (int i = n; i > 0; i--, node = t[node].a) items[i] = t[node].b;
    items[0] = node;
    for (int i = 0; i <= n; i++) MW_TRY(st, expand(a, items[i], from, &from));
    *to = from;
fail:
    free(items);
    return st;
}

static mw_status expand_either(char_nfa *a, int node, int from, int *to) {
    const tree_node *t = a->p->node;
    int end = 0, got = 0;
    mw_status st = MW_OK;
    MW_TRY(st, new_state(a, &end));
    for (bool more = true; more; node = t[node].a) {
        more = t[node].kind == NODE_ALT;
        MW_TRY(st, expand(a, more ? t[node].b : node, from, &got));
        MW_TRY(st, link_states(a, got, -1, end));
        if (!more) break;
    }
    *to = end;
fail:
    return st;
}

static mw_status expand(char_nfa *a, int node, int from, int *to) {
    const tree_node *t = &a->p->node[node];
    mw_status st = MW_OK;
    switch (t->kind) {
    case NODE_EMPTY: *to = from; return MW_OK;
    case NODE_CAT: return expand_chain(a, node, from, to);
    case NODE_ALT: return expand_either(a, node, from, to);
    case NODE_REPEAT: return expand_repeat(a, t, from, to);
    case NODE_SET: break;
    }
    int next = 0;
    MW_TRY(st, new_state(a, &next));
    MW_TRY(st, link_states(a, from, t->a, next));
    *to = next;
fail:
    return st;
}

/* ---- times the length, and down to bytes ---- */

typedef struct {
    mw_nfa *g;
    const char_nfa *a;
    int32_t *rule;        /* [n_sets] */
    int32_t *at;          /* [n_states * counts] byte node, -1: not reached */
    size_t counts;        /* lengths that are told apart */
    size_t *todo, n_todo; /* [n_states * counts] */
    int64_t min, max;
} lowering;

static int32_t reach(lowering *l, size_t state, size_t count) {
    size_t i = state * l->counts + count;
    if (l->at[i] < 0) {
        l->at[i] = mw_nfa_node_new(l->g);
        l->todo[l->n_todo++] = i;
    }
    return l->at[i];
}

static void lower(lowering *l, size_t end, int32_t from, int32_t to) {
    mw_nfa_bytes(l->g, from, '"', '"', reach(l, 0, 0));
    while (l->n_todo && l->g->st == MW_OK) {
        size_t i = l->todo[--l->n_todo], state = i / l->counts, count = i % l->counts;
        if (state == end && (int64_t)count >= l->min) mw_nfa_bytes(l->g, l->at[i], '"', '"', to);
        for (int e = l->a->state[state]; e >= 0; e = l->a->edge[e].next) {
            const char_edge *edge = &l->a->edge[e];
            size_t next = count + (edge->set >= 0);
            if (next == l->counts) {
                if (l->max >= 0) continue;
                next--; /* enough: counted no further */
            }
            int32_t target = reach(l, (size_t)edge->to, next);
            if (edge->set < 0)
                mw_nfa_empty(l->g, l->at[i], target);
            else
                mw_nfa_call(l->g, l->at[i], l->rule[edge->set], target);
        }
    }
}

static mw_status lower_all(mw_nfa *g, const char_nfa *a, int end, int64_t min, int64_t max, int32_t from, int32_t to) {
    lowering l = {.g = g, .a = a, .min = min, .max = max, .counts = (size_t)(max >= 0 ? max : min) + 1};
    mw_status st = MW_OK;
    if (l.counts > MW_NFA_MAX_NODES / a->n_states)
        return MW_FAIL(MW_ERR_LIMIT, "pattern '%.64s' with lengths up to %zu is too large", a->p->p, l.counts - 1);
    MW_TRY(st, MW_CALLOC(&l.rule, a->p->n_sets, "pattern"));
    MW_TRY(st, MW_CALLOC(&l.at, a->n_states * l.counts, "pattern"));
    MW_TRY(st, MW_CALLOC(&l.todo, a->n_states * l.counts, "pattern"));
    memset(l.at, 0xFF, a->n_states * l.counts * sizeof *l.at);
    for (size_t i = 0; i < a->p->n_sets; i++) l.rule[i] = mw_chars_rule(g, &a->p->set[i], false);
    lower(&l, (size_t)end, from, to);
fail:
    free(l.rule);
    free(l.at);
    free(l.todo);
    return st;
}

mw_status mw_regex_string(mw_nfa *g, int32_t from, const char *pattern, size_t n, int64_t min, int64_t max,
                          int32_t to) {
    parser p = {.p = pattern, .n = n};
    char_nfa a = {.p = &p};
    int tree = 0, start = 0, end = 0;
    mw_status st = MW_OK;
    if (n > MAX_PATTERN) return MW_FAIL(MW_ERR_LIMIT, "pattern of %zu bytes, at most %d", n, MAX_PATTERN);
    if (mw_utf8_valid_prefix(pattern, n) < n) return MW_FAIL(MW_ERR_USAGE, "pattern: not UTF-8");
    MW_TRY(st, parse_alternatives(&p, &tree));
    if (p.at < n) {
        st = bad(&p, "a ) without its (");
        goto fail;
    }
    MW_TRY(st, new_state(&a, &start));
    MW_TRY(st, expand(&a, tree, start, &end));
    MW_TRY(st, lower_all(g, &a, end, min, max, from, to));
fail:
    for (size_t i = 0; i < p.n_sets; i++) mw_chars_free(&p.set[i]);
    free(p.set);
    free(p.node);
    free(a.state);
    free(a.edge);
    return st;
}
