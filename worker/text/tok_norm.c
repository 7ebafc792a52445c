#include "worker/text/tok_norm.h"

#include <string.h>

#include "worker/text/tok_json.h"
#include "worker/text/tok_unicode.h"
#include "worker/text/tok_utf8.h"

static mw_status parse_prepend(mw_tok_norm_step *s, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "prepend", NULL};
    const char *text = NULL;
    size_t n = 0;
    mw_status st;
    s->kind = MW_TOK_PREPEND;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_string(o, where, "prepend", &text, &n));
    MW_TRY(st, mw_str_add(&s->content, text, n));
fail:
    return st;
}

static mw_status parse_replace(mw_tok_norm_step *s, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "pattern", "content", NULL};
    const char *text = NULL;
    size_t n = 0;
    bool regex = false;
    mw_status st;
    s->kind = MW_TOK_REPLACE;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_pattern(o, where, &text, &n, &regex));
    if (regex || n == 0) /* an empty text is found everywhere, as an empty expression is */
        MW_TRY(st, mw_tok_regex_open(&s->regex, text, n, !regex, where));
    else
        MW_TRY(st, mw_str_add(&s->pattern, text, n));
    MW_TRY(st, mw_tok_json_string(o, where, "content", &text, &n));
    MW_TRY(st, mw_str_add(&s->content, text, n));
fail:
    return st;
}

static mw_status parse_strip(mw_tok_norm_step *s, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "strip_left", "strip_right", NULL};
    mw_status st;
    s->kind = MW_TOK_STRIP;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_bool(o, where, "strip_left", &s->left));
    MW_TRY(st, mw_tok_json_bool(o, where, "strip_right", &s->right));
fail:
    return st;
}

static mw_status parse_step(void *arg, const json_t *o, const char *type, const char *where) {
    static const char *const KNOWN[] = {"type", NULL}, *const FORM[] = {"NFC", "NFD", "NFKC", "NFKD"};
    mw_tok_norm *t = arg;
    if (t->n == MW_TOK_MAX_STEPS) return MW_FAIL(MW_ERR_LIMIT, "%s: more than %d steps", where, MW_TOK_MAX_STEPS);
    mw_tok_norm_step *s = &t->step[t->n++];
    for (int i = 0; i < 4; i++)
        if (strcmp(type, FORM[i]) == 0) {
            s->kind = (mw_tok_norm_kind)(MW_TOK_NFC + i);
            return mw_tok_json_fields(o, where, KNOWN);
        }
    mw_status st;
    if (strcmp(type, "Prepend") == 0)
        st = parse_prepend(s, o, where);
    else if (strcmp(type, "Replace") == 0)
        st = parse_replace(s, o, where);
    else if (strcmp(type, "Strip") == 0)
        st = parse_strip(s, o, where);
    else
        st = MW_FAIL(MW_ERR_UNSUPPORTED, "%s: type '%.64s'", where, type);
    if (st == MW_OK && s->content.n) t->late = t->late || mw_unicode_has_late(s->content.p, s->content.n);
    return st;
}

mw_status mw_tok_norm_parse(mw_tok_norm *out, const json_t *json) {
    if (!json || json_is_null(json)) return MW_OK;
    return mw_tok_json_sequence(json, "normalizer", "normalizers", parse_step, out);
}

void mw_tok_norm_free(mw_tok_norm *n) {
    for (int i = 0; i < n->n; i++) {
        mw_str_free(&n->step[i].pattern);
        mw_str_free(&n->step[i].content);
        mw_tok_regex_close(n->step[i].regex);
    }
    *n = (mw_tok_norm){0};
}

bool mw_tok_norm_recomposes(const mw_tok_norm *n) {
    for (int i = 0; i < n->n; i++)
        if (n->step[i].kind <= MW_TOK_NFKD) return true;
    return false;
}

void mw_tok_norm_work_free(mw_tok_norm_work *w) {
    mw_str_free(&w->text[0]);
    mw_str_free(&w->text[1]);
    mw_ids_free(&w->chars);
    mw_ids_free(&w->sorted);
}

/* The new text counts as old where the first character is: it begins where that began. */
static mw_status prepend(const mw_tok_norm_step *s, mw_tok_piece in, mw_str *out, size_t *zero) {
    if (in.n == 0) return MW_OK;
    size_t first = (size_t)mw_utf8_len((unsigned char)in.p[0]);
    *zero = in.zero ? s->content.n + (in.zero > first ? in.zero : first) : 0;
    mw_status st = mw_str_add(out, s->content.p, s->content.n);
    return st == MW_OK ? mw_str_add(out, in.p, in.n) : st;
}

/* One match [b, e) of a Replace; `done` is where the last one ended. */
static mw_status substitute(const mw_tok_norm_step *s, mw_tok_piece in, size_t done, size_t b, size_t e, mw_str *out,
                            size_t *zero) {
    mw_status st = mw_str_add(out, in.p + done, b - done);
    if (st == MW_OK && in.zero > done && b > done) *zero = out->n - (b > in.zero ? b - in.zero : 0);
    if (st == MW_OK) st = mw_str_add(out, s->content.p, s->content.n);
    if (st == MW_OK && in.zero > 0 && e <= in.zero) *zero = out->n;
    return st;
}

static mw_status replace_text(const mw_tok_norm_step *s, mw_tok_piece in, mw_str *out, size_t *zero) {
    size_t done = 0;
    mw_status st;
    for (;;) {
        const char *hit = done < in.n ? memmem(in.p + done, in.n - done, s->pattern.p, s->pattern.n) : NULL;
        size_t at = hit ? (size_t)(hit - in.p) : in.n;
        if (!hit) {
            st = mw_str_add(out, in.p + done, at - done);
            if (in.zero > done) *zero = out->n - (in.n - in.zero);
            return st;
        }
        if ((st = substitute(s, in, done, at, at + s->pattern.n, out, zero)) != MW_OK) return st;
        done = at + s->pattern.n;
    }
}

static mw_status replace_regex(const mw_tok_norm_step *s, mw_tok_matcher *m, bool late, mw_tok_piece in, mw_str *out,
                               size_t *zero) {
    mw_tok_matches it;
    size_t done = 0, b = 0, e = 0;
    bool found = in.n > 0;
    mw_status st;
    MW_TRY(st, mw_tok_matches_begin(&it, s->regex, m, in.p, in.n, late));
    while (found) {
        MW_TRY(st, mw_tok_matches_next(&it, &found, &b, &e));
        if (!found) break;
        MW_TRY(st, substitute(s, in, done, b, e, out, zero));
        done = e;
    }
    MW_TRY(st, mw_str_add(out, in.p + done, in.n - done));
    if (in.zero > done) *zero = out->n - (in.n - in.zero);
fail:
    mw_tok_matches_end(&it);
    return st;
}

static mw_tok_piece strip(const mw_tok_norm_step *s, mw_tok_piece in) {
    const char *p = in.p, *end = in.p + in.n;
    while (s->left && p < end && mw_unicode_is_space(mw_utf8_get(p))) p += mw_utf8_len((unsigned char)*p);
    while (s->right && end > p && mw_unicode_is_space(mw_utf8_get(mw_utf8_prev(end)))) end = mw_utf8_prev(end);
    size_t cut = (size_t)(p - in.p), n = (size_t)(end - p), zero = in.zero > cut ? in.zero - cut : 0;
    return (mw_tok_piece){.p = p, .n = n, .zero = zero < n ? zero : n};
}

mw_status mw_tok_norm_run(const mw_tok_norm *n, mw_tok_norm_work *w, mw_tok_matcher *m, bool late, mw_tok_piece in,
                          mw_tok_piece *out) {
    mw_status st = MW_OK;
    int here = 0; /* which of w->text to write next */
    for (int i = 0; i < n->n && st == MW_OK; i++, here = !here) {
        const mw_tok_norm_step *s = &n->step[i];
        if (s->kind == MW_TOK_STRIP) {
            in = strip(s, in);
            here = !here; /* still in the other */
            continue;
        }
        mw_str *to = &w->text[here];
        size_t zero = 0;
        to->n = 0;
        if ((st = mw_str_reserve(to, in.n)) != MW_OK) break;
        if (s->kind == MW_TOK_PREPEND)
            st = prepend(s, in, to, &zero);
        else if (s->kind == MW_TOK_REPLACE && s->regex)
            st = replace_regex(s, m, late || n->late, in, to, &zero);
        else if (s->kind == MW_TOK_REPLACE)
            st = replace_text(s, in, to, &zero);
        else
            st = mw_tok_nfx(s->kind, in.p, in.n, w, to);
        in = (mw_tok_piece){.p = to->p, .n = to->n, .zero = zero};
    }
    if (st == MW_OK) *out = in;
    return st;
}
