#include "worker/text/jinja_lex.h"

#include <string.h>

#include "worker/text/jinja_unicode.h"

/* A lexer in progress. `at` only grows. */
typedef struct lexer {
    mw_jarena *mem;
    mw_jsource src;
    mw_jtoken *tok;
    size_t n, cap;
    uint32_t at;
    uint32_t line, counted; /* `line` is the line of byte `counted` */
    bool line_start;        /* the last thing read ended in a newline, or nothing was read */
} lexer;

#define LFAIL(l, code, pos, ...) MW_JLEX_FAIL(&(l)->src, code, line_of(l, pos), pos, __VA_ARGS__)

uint32_t mw_jlex_column(const mw_jsource *s, uint32_t at) {
    uint32_t from = at > s->n ? s->n : at, end = from;
    while (from > 0 && s->text[from - 1] != '\n') from--;
    return (uint32_t)mw_juni_length(s->text + from, end - from) + 1;
}

static uint32_t line_of(lexer *l, uint32_t at) {
    for (; l->counted < at && l->counted < l->src.n; l->counted++) l->line += l->src.text[l->counted] == '\n';
    return l->line;
}

static mw_status emit(lexer *l, mw_jtok type, uint32_t at, uint32_t n) {
    if (l->n == l->cap) {
        mw_jtoken *more;
        l->cap = l->cap ? 2 * l->cap : 64;
        MW_JTRY(MW_JNEW(l->mem, &more, l->cap));
        if (l->n) memcpy(more, l->tok, l->n * sizeof *more);
        l->tok = more;
    }
    l->tok[l->n++] = (mw_jtoken){(uint8_t)type, line_of(l, at), at, n};
    return MW_OK;
}

static bool is(const lexer *l, uint32_t at, const char *text) {
    size_t n = strlen(text);
    return n <= l->src.n - at && memcmp(l->src.text + at, text, n) == 0;
}

static char byte(const lexer *l, uint32_t at) {
    return at < l->src.n ? l->src.text[at] : 0;
}

static uint32_t skip_space(const lexer *l, uint32_t at) {
    uint32_t len;
    while (at < l->src.n && mw_juni_space(mw_juni_at(l->src.text + at, &len))) at += len;
    return at;
}

/* Bytes of a closing tag at `at`, with the white space or newline it takes along; 0 if there is none. */
static uint32_t closing(const lexer *l, uint32_t at, const char *end, bool newline) {
    if (byte(l, at) == '-' && is(l, at + 1, end)) return skip_space(l, at + 3) - at;
    if (newline && byte(l, at) == '+' && is(l, at + 1, end)) return 3;
    if (!is(l, at, end)) return 0;
    return newline && byte(l, at + 2) == '\n' ? 3 : 2;
}

/* "{% raw %}": the bytes of the tag at `at`, or 0. `word` is raw or endraw. */
static uint32_t raw_tag(const lexer *l, uint32_t at, const char *word, bool newline) {
    uint32_t p = at + 2;
    if (byte(l, p) == '-' || byte(l, p) == '+') p++;
    p = skip_space(l, p);
    if (!is(l, p, word)) return 0;
    p = skip_space(l, p + (uint32_t)strlen(word));
    uint32_t n = closing(l, p, "%}", newline);
    return n ? p + n - at : 0;
}

/* Text [from, to) before a tag with this sign, cut as the sign or the environment's lstrip_blocks wants. */
static mw_status data(lexer *l, uint32_t from, uint32_t to, char sign, bool variable) {
    const char *p = l->src.text + from;
    size_t n = to - from;
    if (sign == '-') {
        mw_juni_strip(&p, &n, false, true);
    } else if (sign != '+' && !variable) {
        size_t line = n;
        while (line > 0 && p[line - 1] != '\n') line--;
        const char *rest = p + line;
        size_t left = n - line;
        mw_juni_strip(&rest, &left, true, false);
        if ((line > 0 || l->line_start) && left == 0) n = line;
    }
    return n ? emit(l, MW_JT_DATA, from, (uint32_t)n) : MW_OK;
}

static void moved(lexer *l, uint32_t to) {
    if (to > l->at) l->line_start = l->src.text[to - 1] == '\n';
    l->at = to;
}

static mw_status raw(lexer *l, uint32_t begin) {
    uint32_t from = l->at;
    for (uint32_t p = from; p < l->src.n; p++) {
        uint32_t n = is(l, p, "{%") ? raw_tag(l, p, "endraw", true) : 0;
        if (!n) continue;
        MW_JTRY(data(l, from, p, byte(l, p + 2), false));
        moved(l, p + n);
        return MW_OK;
    }
    if (from == l->src.n) return MW_OK; /* Jinja misses the end only of something */
    return LFAIL(l, MW_ERR_FORMAT, begin, "'raw' has no end");
}

static mw_status comment(lexer *l, uint32_t begin) {
    for (uint32_t p = l->at; p < l->src.n; p++) {
        uint32_t n = closing(l, p, "#}", true);
        if (!n) continue;
        moved(l, p + n);
        return MW_OK;
    }
    if (l->at == l->src.n) return MW_OK;
    return LFAIL(l, MW_ERR_FORMAT, begin, "a comment has no end");
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

/* Behind the run of digits at p that single underscores may join; p itself when there is none. */
static uint32_t digits(const lexer *l, uint32_t p) {
    if (!digit(byte(l, p))) return p;
    while (digit(byte(l, p)) || (byte(l, p) == '_' && digit(byte(l, p + 1)))) p++;
    return p;
}

/* Behind the float at `at`, or `at`: digits with a fraction, an exponent or both, not right behind a dot. */
static uint32_t float_end(const lexer *l, uint32_t at) {
    uint32_t p = digits(l, at), q;
    if (p == at || (at > 0 && byte(l, at - 1) == '.')) return at;
    uint32_t end = at;
    if (byte(l, p) == '.' && digit(byte(l, p + 1))) end = p = digits(l, p + 1);
    if ((byte(l, p) | 32) == 'e') {
        q = p + 1;
        if (byte(l, q) == '+' || byte(l, q) == '-') q++;
        if (digit(byte(l, q))) end = digits(l, q);
    }
    return end;
}

static bool in_base(char c, char base) {
    if (base == 'b') return c == '0' || c == '1';
    if (base == 'o') return c >= '0' && c <= '7';
    return digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f');
}

static uint32_t int_end(const lexer *l, uint32_t at) {
    char base = (char)(byte(l, at + 1) | 32);
    uint32_t p = at;
    if (byte(l, at) != '0') return digits(l, at);
    if (base == 'b' || base == 'o' || base == 'x') {
        for (p = at + 2; in_base(byte(l, p), base) || (byte(l, p) == '_' && in_base(byte(l, p + 1), base));) p++;
        if (p > at + 2) return p;
        p = at;
    }
    p++;
    while (byte(l, p) == '0' || (byte(l, p) == '_' && byte(l, p + 1) == '0')) p++;
    return p;
}

static uint32_t string_end(const lexer *l, uint32_t at) {
    for (uint32_t p = at + 1; p < l->src.n; p++) {
        if (l->src.text[p] == l->src.text[at]) return p + 1;
        if (l->src.text[p] == '\\') p++;
    }
    return at;
}

static bool name_char(char c) {
    return digit(c) || c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static mw_jtok operator_at(const lexer *l, uint32_t at, uint32_t *n) {
    static const struct {
        char text[3];
        uint8_t type;
    } table[] = {
        {"**", MW_JT_POW},   {"//", MW_JT_FLOORDIV}, {"==", MW_JT_EQ},      {"!=", MW_JT_NE},
        {"<=", MW_JT_LE},    {">=", MW_JT_GE},       {"+", MW_JT_ADD},      {"-", MW_JT_SUB},
        {"*", MW_JT_MUL},    {"/", MW_JT_DIV},       {"%", MW_JT_MOD},      {"~", MW_JT_TILDE},
        {"<", MW_JT_LT},     {">", MW_JT_GT},        {"=", MW_JT_ASSIGN},   {".", MW_JT_DOT},
        {",", MW_JT_COMMA},  {":", MW_JT_COLON},     {"|", MW_JT_PIPE},     {";", MW_JT_SEMICOLON},
        {"(", MW_JT_LPAREN}, {")", MW_JT_RPAREN},    {"[", MW_JT_LBRACKET}, {"]", MW_JT_RBRACKET},
        {"{", MW_JT_LBRACE}, {"}", MW_JT_RBRACE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!is(l, at, table[i].text)) continue;
        *n = (uint32_t)strlen(table[i].text);
        return (mw_jtok)table[i].type;
    }
    *n = 0;
    return MW_JT_EOF;
}

#define BRACKETS_MAX 256

/* Brackets that are open: a tag ends only where none is. */
typedef struct brackets {
    uint8_t closer[BRACKETS_MAX];
    uint32_t n;
} brackets;

static mw_status balance(lexer *l, brackets *b, mw_jtok type) {
    if (type == MW_JT_LPAREN || type == MW_JT_LBRACKET || type == MW_JT_LBRACE) {
        if (b->n == BRACKETS_MAX) return LFAIL(l, MW_ERR_LIMIT, l->at, "more than %d open brackets", BRACKETS_MAX);
        b->closer[b->n++] = (uint8_t)(type + 1);
    } else if (type == MW_JT_RPAREN || type == MW_JT_RBRACKET || type == MW_JT_RBRACE) {
        if (!b->n || b->closer[--b->n] != type) {
            return LFAIL(l, MW_ERR_FORMAT, l->at, "unexpected '%c'", byte(l, l->at));
        }
    }
    return MW_OK;
}

/* One token inside a tag. */
static mw_status token(lexer *l, brackets *b) {
    char c = byte(l, l->at);
    uint32_t n = float_end(l, l->at) - l->at;
    mw_jtok type = MW_JT_FLOAT;
    if (!n && digit(c)) {
        type = MW_JT_INT;
        n = int_end(l, l->at) - l->at;
    } else if (!n && name_char(c)) {
        type = MW_JT_NAME;
        while (name_char(byte(l, l->at + n))) n++;
    } else if (!n && (c == '\'' || c == '"')) {
        type = MW_JT_STRING;
        n = string_end(l, l->at) - l->at;
        if (!n) return LFAIL(l, MW_ERR_FORMAT, l->at, "a string has no end");
    } else if (!n) {
        type = operator_at(l, l->at, &n);
        if ((uint8_t)c >= 0x80) {
            return LFAIL(l, MW_ERR_UNSUPPORTED, l->at, "a character outside ASCII in a tag is not supported");
        }
        if (!n) return LFAIL(l, MW_ERR_FORMAT, l->at, "unexpected character '%c'", c);
        MW_JTRY(balance(l, b, type));
    }
    MW_JTRY(emit(l, type, l->at, n));
    moved(l, l->at + n);
    return MW_OK;
}

/* The inside of {% %} or {{ }}, up to and with its end. */
static mw_status tag(lexer *l, bool variable, uint32_t begin) {
    brackets b = {.n = 0};
    for (;;) {
        uint32_t n = b.n ? 0 : closing(l, l->at, variable ? "}}" : "%}", !variable);
        if (n) {
            MW_JTRY(emit(l, variable ? MW_JT_VAR_END : MW_JT_BLOCK_END, l->at, n));
            moved(l, l->at + n);
            return MW_OK;
        }
        uint32_t space = skip_space(l, l->at);
        if (space > l->at) {
            moved(l, space);
            continue;
        }
        if (l->at >= l->src.n) return LFAIL(l, MW_ERR_FORMAT, begin, "a tag has no end");
        MW_JTRY(token(l, &b));
    }
}

/* Text up to the next tag, and the tag. */
static mw_status step(lexer *l) {
    uint32_t from = l->at, p = from;
    while (p < l->src.n && !is(l, p, "{%") && !is(l, p, "{{") && !is(l, p, "{#")) p++;
    if (p >= l->src.n) {
        if (p > from) MW_JTRY(emit(l, MW_JT_DATA, from, p - from));
        l->at = l->src.n;
        return MW_OK;
    }
    char kind = byte(l, p + 1), sign = byte(l, p + 2);
    bool variable = kind == '{';
    MW_JTRY(data(l, from, p, sign, variable));
    uint32_t n = kind == '%' ? raw_tag(l, p, "raw", false) : 0;
    if (n) {
        moved(l, p + n);
        return raw(l, p);
    }
    n = sign == '-' || sign == '+' ? 3 : 2;
    moved(l, p + n);
    if (kind == '#') return comment(l, p);
    MW_JTRY(emit(l, variable ? MW_JT_VAR_BEGIN : MW_JT_BLOCK_BEGIN, p, n));
    return tag(l, variable, p);
}

mw_status mw_jlex(mw_jarena *mem, const char *text, size_t n, mw_jsource *out) {
    char *copy;
    uint32_t k = 0;
    MW_JTRY(mw_jarena_alloc(mem, n + 1, (void **)&copy));
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') continue;
        copy[k++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (k && copy[k - 1] == '\n') k--;
    lexer l = {.mem = mem, .src = {.text = copy, .n = k}, .line = 1, .line_start = true};
    while (l.at < l.src.n) MW_JTRY(step(&l));
    MW_JTRY(emit(&l, MW_JT_EOF, l.src.n, 0));
    l.src.tok = l.tok;
    *out = l.src;
    return MW_OK;
}
