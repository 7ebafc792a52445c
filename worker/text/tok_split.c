#include "worker/text/tok_split.h"

#include "worker/text/tok_utf8.h"

/* Matches and the text between them come one by one, in order and without gaps; a piece that may still grow waits. */
typedef struct {
    mw_tok_split_run *run;
    int step;
    mw_tok_behavior behavior;
    mw_tok_piece whole;
    size_t begin, end; /* the waiting piece */
    bool waits, match; /* match: the last stretch was one */
} fold;

static mw_status from_step(mw_tok_split_run *run, int k, mw_tok_piece piece);

static mw_status emit(const fold *f, size_t b, size_t e) {
    if (b == e) return MW_OK;
    size_t zero = f->whole.zero > b ? f->whole.zero - b : 0;
    mw_tok_piece part = {.p = f->whole.p + b, .n = e - b, .zero = zero < e - b ? zero : e - b};
    return from_step(f->run, f->step + 1, part);
}

static mw_status feed(fold *f, size_t b, size_t e, bool match) {
    bool join = false, before = f->match;
    f->match = match;
    switch (f->behavior) {
    case MW_TOK_ISOLATED: return emit(f, b, e);
    case MW_TOK_REMOVED: return match ? MW_OK : emit(f, b, e);
    case MW_TOK_CONTIGUOUS: join = match == before; break;
    case MW_TOK_WITH_PREVIOUS: join = match && !before; break;
    case MW_TOK_WITH_NEXT: join = before && !match; break;
    }
    if (join && f->waits) {
        f->end = e;
        return MW_OK;
    }
    size_t wb = f->begin, we = f->end;
    bool waited = f->waits;
    f->begin = b;
    f->end = e;
    f->waits = true;
    return waited ? emit(f, wb, we) : MW_OK;
}

static mw_status split(mw_tok_split_run *run, int k, mw_tok_piece piece) {
    const mw_tok_split_step *s = &run->split->step[k];
    fold f = {.run = run, .step = k, .behavior = s->behavior, .whole = piece};
    mw_tok_matches it;
    size_t done = 0, b = 0, e = 0;
    bool found = true;
    mw_status st;
    MW_TRY(st, mw_tok_matches_begin(&it, s->regex, run->matcher, piece.p, piece.n, run->late));
    for (;;) {
        MW_TRY(st, mw_tok_matches_next(&it, &found, &b, &e));
        if (!found) break;
        if (b > done) MW_TRY(st, feed(&f, done, b, s->invert));
        MW_TRY(st, feed(&f, b, e, !s->invert));
        done = e;
    }
    if (done < piece.n) MW_TRY(st, feed(&f, done, piece.n, s->invert));
    if (f.waits) MW_TRY(st, emit(&f, f.begin, f.end));
fail:
    mw_tok_matches_end(&it);
    return st;
}

static mw_status prefix_space(mw_tok_split_run *run, int k, mw_tok_piece piece) {
    if (piece.p[0] == ' ') return from_step(run, k + 1, piece);
    mw_str *t = &run->text[k];
    mw_status st;
    t->n = 0;
    MW_TRY(st, mw_str_add(t, " ", 1));
    MW_TRY(st, mw_str_add(t, piece.p, piece.n));
    st = from_step(run, k + 1, (mw_tok_piece){.p = t->p, .n = t->n, .zero = piece.zero ? piece.zero + 1 : 0});
fail:
    return st;
}

static bool starts_with_mark(const mw_tok_split_step *s, const char *p, size_t n) {
    return n >= (size_t)s->mark_n && memcmp(p, s->mark, (size_t)s->mark_n) == 0;
}

static mw_status metaspace(mw_tok_split_run *run, int k, mw_tok_piece piece) {
    const mw_tok_split_step *s = &run->split->step[k];
    mw_str *t = &run->text[k];
    mw_status st;
    t->n = 0;
    bool marked = piece.p[0] == ' ' || starts_with_mark(s, piece.p, piece.n);
    bool prepend = s->prepend == MW_TOK_PREPEND_ALWAYS || (s->prepend == MW_TOK_PREPEND_FIRST && piece.zero > 0);
    if (prepend && !marked) MW_TRY(st, mw_str_add(t, s->mark, (size_t)s->mark_n));
    for (const char *p = piece.p, *end = p + piece.n; p < end;) {
        const char *space = memchr(p, ' ', (size_t)(end - p));
        MW_TRY(st, mw_str_add(t, p, (size_t)((space ? space : end) - p)));
        if (space) MW_TRY(st, mw_str_add(t, s->mark, (size_t)s->mark_n));
        p = space ? space + 1 : end;
    }
    mw_tok_piece whole = {.p = t->p, .n = t->n, .zero = 0};
    if (!s->split) return from_step(run, k + 1, whole);
    fold f = {.run = run, .step = k, .behavior = MW_TOK_WITH_NEXT, .whole = whole};
    for (size_t done = 0; done < whole.n;) {
        const char *hit = memmem(whole.p + done, whole.n - done, s->mark, (size_t)s->mark_n);
        size_t at = hit ? (size_t)(hit - whole.p) : whole.n;
        if (at > done) MW_TRY(st, feed(&f, done, at, false));
        if (hit) MW_TRY(st, feed(&f, at, at + (size_t)s->mark_n, true));
        done = at + (hit ? (size_t)s->mark_n : 0);
    }
    st = emit(&f, f.begin, f.end);
fail:
    return st;
}

static mw_status from_step(mw_tok_split_run *run, int k, mw_tok_piece piece) {
    if (k == run->split->n) return mw_tok_bpe_encode(run->bpe, run->bpe_work, piece.p, piece.n, run->out);
    switch (run->split->step[k].kind) {
    case MW_TOK_SPLIT: return split(run, k, piece);
    case MW_TOK_PREFIX_SPACE: return prefix_space(run, k, piece);
    case MW_TOK_METASPACE: return metaspace(run, k, piece);
    }
    return MW_FAIL(MW_ERR_INTERNAL, "pre-tokenizer step %d", k);
}

mw_status mw_tok_split_encode(mw_tok_split_run *run, mw_tok_piece piece) {
    return piece.n ? from_step(run, 0, piece) : MW_OK;
}
