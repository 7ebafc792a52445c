/* worker/text/constraint_nfa.h - rules over bytes that call each other: what a schema is compiled to.
 *
 * A rule is a nondeterministic automaton with one start and one end; its edges are byte ranges, empty, or calls of a
 * rule (which push the node to come back to). A call whose return is the end of its own rule pushes nothing, so
 * schemas that only refer to others cost no depth and cannot recurse to the left.
 *
 * Building: the functions below remember the first failure in `st` and do nothing after it; mw_nfa_finish returns it.
 * Loops over sizes that come from a schema look at `st` to stop early.
 */
#ifndef MW_TEXT_CONSTRAINT_NFA_H
#define MW_TEXT_CONSTRAINT_NFA_H
#include "worker/base/mem.h"
MW_BEGIN_DECLS

#define MW_NFA_MAX_DEPTH 64        /* calls under way at once: about the nesting of an answer */
#define MW_NFA_MAX_NODES (1 << 18) /* of one schema */
#define MW_NFA_NEVER     255       /* need of a node from which nothing ends */

typedef enum { MW_NFA_BYTES, MW_NFA_EMPTY, MW_NFA_CALL } mw_nfa_kind;

typedef struct mw_nfa_edge {
    int32_t to;
    int32_t rule; /* CALL */
    int32_t next; /* of the same node, -1: none */
    uint8_t kind, lo, hi;
} mw_nfa_edge;

typedef struct mw_nfa_node {
    int32_t edge; /* first, -1: none */
    int32_t same; /* a node from which tokens (not longer texts) can do the same: its masks serve both */
    uint8_t need; /* calls that must be nested at least to get from here to the end of the rule */
    bool end;
} mw_nfa_node;

typedef struct mw_nfa_rule {
    int32_t start, end;
} mw_nfa_rule;

typedef struct mw_nfa {
    mw_nfa_node *node;
    mw_nfa_edge *edge;
    mw_nfa_rule *rule;
    size_t n_nodes, cap_nodes, n_edges, cap_edges, n_rules, cap_rules;
    int32_t root;            /* rule */
    int longest_token;       /* bytes; set before building */
    int32_t any_char;        /* rules that strings share, -1: not there yet (constraint_string.c) */
    uint8_t class_of[256];   /* bytes that no edge tells apart have one class */
    uint8_t class_byte[256]; /* one byte of each class */
    int n_classes;
    mw_status st;
} mw_nfa;

/* Look at st afterwards: only if it is MW_OK may anything be built. */
void mw_nfa_init(mw_nfa *g, int longest_token);
void mw_nfa_free(mw_nfa *g);

/* All return 0, a valid index, after a failure. */
int32_t mw_nfa_node_new(mw_nfa *g);
int32_t mw_nfa_rule_new(mw_nfa *g);

void mw_nfa_bytes(mw_nfa *g, int32_t from, int lo, int hi, int32_t to);
void mw_nfa_empty(mw_nfa *g, int32_t from, int32_t to);
void mw_nfa_call(mw_nfa *g, int32_t from, int32_t rule, int32_t to);
/* The bytes, one after the other; n 0: an empty edge. */
void mw_nfa_text(mw_nfa *g, int32_t from, const char *p, size_t n, int32_t to);

/* From node i of a chain that counts something (characters, items; each takes at least a byte) how many more are
 * needed (min - i) and possible (max - i; max < 0: no limit) makes no difference to a token when both are beyond the
 * longest token: such nodes are marked the same. chain: [n] nodes, all of one shape. */
void mw_nfa_mark_chain(mw_nfa *g, const int32_t *chain, size_t n, int64_t min, int64_t max);

/* Works out need and the byte classes. MW_ERR_USAGE: no text satisfies the root rule within the depth limit. */
MW_MUST_CHECK mw_status mw_nfa_finish(mw_nfa *g, int32_t root);

MW_END_DECLS
#endif
