#define PCRE2_CODE_UNIT_WIDTH 8
#include "worker/text/tok_regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/tok_unicode.h"
#include "worker/text/tok_utf8.h"

#define JIT_STACK_MAX ((size_t)8 << 20)
#define MATCH_LIMIT   5000000u /* backtracking steps of one match: well under a second */
#define HEAP_LIMIT    65536u   /* KiB, for matching without JIT */

struct mw_tok_regex {
    pcre2_code *code;
    bool jit;
    char *where;
};

static mw_status compile(mw_tok_regex *re, const mw_str *translated) {
    int error = 0;
    PCRE2_SIZE at = 0;
    PCRE2_UCHAR text[128];
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (!cc) return MW_FAIL(MW_ERR_NOMEM, "%s: regex", re->where);
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF); /* where ^ and $ match, as in Oniguruma */
    re->code = pcre2_compile((PCRE2_SPTR)(translated->p ? translated->p : ""), translated->n, PCRE2_UTF | PCRE2_UCP,
                             &error, &at, cc);
    pcre2_compile_context_free(cc);
    if (!re->code) {
        pcre2_get_error_message(error, text, sizeof text);
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: regex does not compile: %s", re->where, (char *)text);
    }
    re->jit = pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) == 0; /* the same matches, slower, where JIT is barred */
    return MW_OK;
}

static mw_status quote(const char *p, size_t n, mw_str *out) {
    mw_status st = MW_OK;
    for (size_t i = 0; i < n && st == MW_OK; i += (size_t)mw_utf8_len((unsigned char)p[i]))
        st = mw_str_addf(out, "\\x{%x}", mw_utf8_get(p + i));
    return st;
}

mw_status mw_tok_regex_open(mw_tok_regex **out, const char *pattern, size_t n, bool literal, const char *where) {
    mw_str translated = {0};
    mw_tok_regex *re = NULL;
    mw_status st;
    MW_TRY(st, MW_CALLOC(&re, 1, "regex"));
    re->where = strdup(where);
    if (!re->where) {
        st = MW_FAIL(MW_ERR_NOMEM, "regex");
        goto fail;
    }
    MW_TRY(st, literal ? quote(pattern, n, &translated) : mw_tok_regex_translate(pattern, n, where, &translated));
    MW_TRY(st, compile(re, &translated));
fail:
    mw_str_free(&translated);
    if (st != MW_OK) {
        mw_tok_regex_close(re);
        return st;
    }
    *out = re;
    return MW_OK;
}

void mw_tok_regex_close(mw_tok_regex *re) {
    if (!re) return;
    pcre2_code_free(re->code);
    free(re->where);
    free(re);
}

void mw_tok_matcher_free(mw_tok_matcher *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    for (size_t i = 0; i < MW_TOK_MAX_NESTED; i++) mw_str_free(&m->shadow[i]);
    *m = (mw_tok_matcher){0};
}

static mw_status matcher_ready(mw_tok_matcher *m) {
    if (!m->data) m->data = pcre2_match_data_create(1, NULL);
    if (!m->context && (m->context = pcre2_match_context_create(NULL))) pcre2_set_heap_limit(m->context, HEAP_LIMIT);
    return m->data && m->context ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "regex match data");
}

/* The text with every late code point replaced by its stand-in: same bytes count, so same offsets. */
static mw_status make_shadow(mw_str *s, const char *p, size_t n) {
    s->n = 0;
    mw_status st = mw_str_add(s, p, n);
    if (st != MW_OK) return st;
    for (size_t i = 0; i < n; i += (size_t)mw_utf8_len((unsigned char)p[i])) {
        uint32_t c = (unsigned char)p[i] < 0xE0 ? 0 : mw_unicode_stand_in(mw_utf8_get(p + i));
        if (c) (void)mw_utf8_put(c, s->p + i);
    }
    return MW_OK;
}

mw_status mw_tok_matches_begin(mw_tok_matches *it, const mw_tok_regex *re, mw_tok_matcher *m, const char *p, size_t n,
                               bool late) {
    *it = (mw_tok_matches){.re = re, .m = m, .p = p, .n = n};
    mw_status st = matcher_ready(m);
    if (st != MW_OK || !late || !mw_unicode_has_late(p, n)) return st;
    if (m->shadows_used == MW_TOK_MAX_NESTED) return MW_FAIL(MW_ERR_INTERNAL, "%s: regexes nested too deep", re->where);
    mw_str *s = &m->shadow[m->shadows_used];
    if ((st = make_shadow(s, p, n)) != MW_OK) return st;
    it->p = s->p;
    it->shadowed = true;
    m->shadows_used++;
    return MW_OK;
}

void mw_tok_matches_end(mw_tok_matches *it) {
    if (it->shadowed) it->m->shadows_used--;
    it->shadowed = false;
}

static int match_at(const mw_tok_matches *it, size_t pos) {
    mw_tok_matcher *m = it->m;
    PCRE2_SPTR text = (PCRE2_SPTR)it->p;
    size_t per_text = it->n < UINT32_MAX / 8 ? 4 * it->n : UINT32_MAX / 2;
    pcre2_set_match_limit(m->context, MATCH_LIMIT + (uint32_t)per_text);
    if (!it->re->jit) return pcre2_match(it->re->code, text, it->n, pos, PCRE2_NO_UTF_CHECK, m->data, m->context);
    int rc = pcre2_jit_match(it->re->code, text, it->n, pos, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT || m->stack) return rc;
    /* The machine stack that JIT uses by default is 32 KiB; only odd patterns on odd texts need more. */
    m->stack = pcre2_jit_stack_create(32768, JIT_STACK_MAX, NULL);
    if (!m->stack) return PCRE2_ERROR_NOMEMORY;
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return pcre2_jit_match(it->re->code, text, it->n, pos, PCRE2_NO_UTF_CHECK, m->data, m->context);
}

mw_status mw_tok_matches_next(mw_tok_matches *it, bool *found, size_t *begin, size_t *end) {
    for (*found = false; it->pos <= it->n;) {
        int rc = match_at(it, it->pos);
        if (rc == PCRE2_ERROR_NOMATCH) return MW_OK;
        if (rc < 0) {
            PCRE2_UCHAR text[128];
            pcre2_get_error_message(rc, text, sizeof text);
            return MW_FAIL(rc == PCRE2_ERROR_NOMEMORY ? MW_ERR_NOMEM : MW_ERR_LIMIT,
                           "%s: regex at byte %zu of the text: %s", it->re->where, it->pos, (char *)text);
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(it->m->data);
        *begin = v[0];
        *end = v[1];
        if (v[0] == v[1] && it->any && it->last_end == v[1]) { /* empty, right behind the last: look one further */
            it->pos += it->pos < it->n ? (size_t)mw_utf8_len((unsigned char)it->p[it->pos]) : 1;
            continue;
        }
        it->pos = it->last_end = v[1];
        *found = it->any = true;
        return MW_OK;
    }
    return MW_OK;
}
