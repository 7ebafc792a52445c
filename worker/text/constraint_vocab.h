/* worker/text/constraint_vocab.h - the bytes of all tokens as one tree, in the order in which a walk meets its nodes.
 * Private to constraint*.c. */
#ifndef MW_TEXT_CONSTRAINT_VOCAB_H
#define MW_TEXT_CONSTRAINT_VOCAB_H
#include "worker/text/tokenizer.h"
MW_BEGIN_DECLS

#define MW_VOCAB_MAX_TOKEN 512 /* bytes; longer tokens are never allowed */

typedef struct mw_vocab_node {
    int32_t skip;   /* the node behind this one's subtree */
    int32_t token;  /* first token that ends here, -1: none */
    uint16_t depth; /* from 1 */
    uint8_t byte;
} mw_vocab_node;

typedef struct mw_vocab {
    mw_vocab_node *node; /* [n] */
    size_t n, cap;
    int32_t *twin; /* [size] the next token with the same bytes, -1: none */
    uint32_t *at;  /* [size + 1] where a token's bytes begin; none for tokens that may not appear */
    mw_str bytes;
    int32_t size; /* the model's vocabulary */
    int longest;  /* bytes */
} mw_vocab;

/* Special tokens, those of `leave_out` and those without a text are not in the tree. */
MW_MUST_CHECK mw_status mw_vocab_init(mw_vocab *v, const mw_tokenizer *t, int32_t size, const int32_t *leave_out,
                                      size_t n_leave_out);
void mw_vocab_free(mw_vocab *v);

MW_END_DECLS
#endif
