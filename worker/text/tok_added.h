/* worker/text/tok_added.h - added tokens: those that are found in the text before BPE sees it.
 *
 * Tokens that are not "normalized" are found in the text as it came; the pieces between them are normalized one by one,
 * and in those the others are found by their normalized content. Of several tokens that begin at one place the longest
 * wins. A token that is found and then passed over (single_word, or a special one while specials are text) still keeps
 * others from beginning inside it; so does the reference.
 */
#ifndef MW_TEXT_TOK_ADDED_H
#define MW_TEXT_TOK_ADDED_H
#include "worker/text/tok_norm.h"
#include "worker/text/tok_vocab.h"
MW_BEGIN_DECLS

typedef struct mw_tok_added_token {
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
    mw_tok_span content; /* in mw_tok_added.bytes */
    mw_tok_span pattern; /* what is looked for, and what decode sees: the normalized content, or the content */
} mw_tok_added_token;

typedef struct mw_tok_trie_node {
    int32_t child, sibling, token; /* -1: none; token: index of the added token that ends here */
    unsigned char byte;
} mw_tok_trie_node;

typedef struct mw_tok_trie {
    mw_tok_trie_node *node;
    size_t n, cap;
    int32_t root[256]; /* node of a first byte, -1: none */
} mw_tok_trie;

typedef struct mw_tok_added {
    mw_tok_added_token *token;
    size_t n;
    mw_str bytes;
    mw_tok_names ids; /* content to id */
    mw_tok_trie raw, normalized;
    mw_tok_regex *word; /* one character of a word; NULL if no token is single_word */
} mw_tok_added;

/* json: the value of "added_tokens", NULL for none. *out must be {0}; free it also after an error. Ids must be those
 * the reference would give: the vocabulary's for a content it has, the next ones behind the vocabulary in file order
 * for others. */
MW_MUST_CHECK mw_status mw_tok_added_parse(mw_tok_added *out, const json_t *json, const mw_tok_names *vocab,
                                           const mw_tok_norm *norm);
void mw_tok_added_free(mw_tok_added *a);

/* What calls back for each stretch of the text, in order: an added token, or (token NULL) text without any. */
typedef mw_status (*mw_tok_added_visit)(void *arg, const mw_tok_added_token *token, mw_tok_piece piece);

/* specials: special tokens count, too; otherwise they are text. */
MW_MUST_CHECK mw_status mw_tok_added_scan(const mw_tok_added *a, bool normalized, bool specials, mw_tok_matcher *m,
                                          mw_tok_piece text, mw_tok_added_visit visit, void *arg);

MW_END_DECLS
#endif
