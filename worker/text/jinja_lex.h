/* worker/text/jinja_lex.h - template text to tokens, with Jinja's white space control done. */
#ifndef MW_TEXT_JINJA_LEX_H
#define MW_TEXT_JINJA_LEX_H
#include <stdint.h>

#include "worker/text/jinja_arena.h"
#include "worker/text/jinja_value.h"
MW_BEGIN_DECLS

typedef enum mw_jtok {
    MW_JT_DATA, /* text between tags, trimmed as its tags ask */
    MW_JT_BLOCK_BEGIN,
    MW_JT_BLOCK_END,
    MW_JT_VAR_BEGIN,
    MW_JT_VAR_END,
    MW_JT_NAME,
    MW_JT_STRING, /* with its quotes */
    MW_JT_INT,
    MW_JT_FLOAT,
    MW_JT_ADD,
    MW_JT_SUB,
    MW_JT_MUL,
    MW_JT_DIV,
    MW_JT_FLOORDIV,
    MW_JT_MOD,
    MW_JT_POW,
    MW_JT_TILDE,
    MW_JT_EQ,
    MW_JT_NE,
    MW_JT_LT,
    MW_JT_LE,
    MW_JT_GT,
    MW_JT_GE,
    MW_JT_ASSIGN,
    MW_JT_DOT,
    MW_JT_COMMA,
    MW_JT_COLON,
    MW_JT_PIPE,
    MW_JT_SEMICOLON,
    MW_JT_LPAREN,
    MW_JT_RPAREN,
    MW_JT_LBRACKET,
    MW_JT_RBRACKET,
    MW_JT_LBRACE,
    MW_JT_RBRACE,
    MW_JT_EOF,
} mw_jtok;

typedef struct mw_jtoken {
    uint8_t type;
    uint32_t line, at, n; /* line from 1; bytes [at, at + n) of the source */
} mw_jtoken;

typedef struct mw_jsource {
    const char *text; /* with \n for every kind of line end, and without the last one */
    uint32_t n;
    const mw_jtoken *tok; /* the last one is MW_JT_EOF */
} mw_jsource;

/* text: UTF-8 of at most 1 MiB (the caller checks both); all results are in the arena. */
MW_MUST_CHECK mw_status mw_jlex(mw_jarena *mem, const char *text, size_t n, mw_jsource *out);

/* Column, in code points from 1, of a byte of the source. */
uint32_t mw_jlex_column(const mw_jsource *s, uint32_t at);
#define MW_JLEX_FAIL(s, code, line, at, fmt, ...)                                                                      \
    ((void)MW_FAIL((code), "chat template, line %u, column %u: " fmt, (line), mw_jlex_column((s), (at)),               \
                   ##__VA_ARGS__),                                                                                     \
     (code))

/* The value of a string, int or float token. */
MW_MUST_CHECK mw_status mw_jlex_value(mw_jarena *mem, const mw_jsource *s, const mw_jtoken *t, mw_jval *out);

MW_END_DECLS
#endif
