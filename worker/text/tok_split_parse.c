#include <string.h>

#include "worker/text/tok_json.h"
#include "worker/text/tok_split.h"
#include "worker/text/tok_utf8.h"

/* What ByteLevel with use_regex splits by: the words of GPT-2. */
static const char GPT2_REGEX[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* The next free step, or NULL and *st set. */
static mw_tok_split_step *new_step(mw_tok_split *t, const char *where, mw_tok_split_kind kind, mw_status *st) {
    if (t->n == MW_TOK_MAX_STEPS) {
        *st = MW_FAIL(MW_ERR_LIMIT, "%s: more than %d steps", where, MW_TOK_MAX_STEPS);
        return NULL;
    }
    mw_tok_split_step *s = &t->step[t->n++];
    s->kind = kind;
    return s;
}

static mw_status parse_split(mw_tok_split *t, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "pattern", "behavior", "invert", NULL};
    static const char *const BEHAVIOR[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
    const char *text = NULL, *behavior = NULL;
    size_t n = 0, bn;
    bool regex = false;
    mw_status st = MW_OK;
    mw_tok_split_step *s = new_step(t, where, MW_TOK_SPLIT, &st);
    if (!s) return st;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_pattern(o, where, &text, &n, &regex));
    MW_TRY(st, mw_tok_json_string(o, where, "behavior", &behavior, &bn));
    MW_TRY(st, mw_tok_json_bool(o, where, "invert", &s->invert));
    int b = 0;
    while (b < 5 && strcmp(behavior, BEHAVIOR[b]) != 0) b++;
    if (b == 5) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: behavior '%.64s'", where, behavior);
    s->behavior = (mw_tok_behavior)b;
    MW_TRY(st, mw_tok_regex_open(&s->regex, text, n, !regex, where));
fail:
    return st;
}

static mw_status parse_digits(mw_tok_split *t, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "individual_digits", NULL};
    bool individual = false;
    mw_status st = MW_OK;
    mw_tok_split_step *s = new_step(t, where, MW_TOK_SPLIT, &st);
    if (!s) return st;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_bool(o, where, "individual_digits", &individual));
    s->behavior = individual ? MW_TOK_ISOLATED : MW_TOK_CONTIGUOUS;
    MW_TRY(st, mw_tok_regex_open(&s->regex, "\\p{N}", 5, false, where));
fail:
    return st;
}

static mw_status parse_byte_level(mw_tok_split *t, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    bool space = false, trim = false, regex = true;
    mw_status st = MW_OK;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_bool(o, where, "add_prefix_space", &space));
    MW_TRY(st, mw_tok_json_bool(o, where, "trim_offsets", &trim)); /* about offsets, which we do not make */
    MW_TRY(st, mw_tok_json_bool_opt(o, where, "use_regex", &regex));
    if (space && !new_step(t, where, MW_TOK_PREFIX_SPACE, &st)) return st;
    if (regex) {
        mw_tok_split_step *s = new_step(t, where, MW_TOK_SPLIT, &st);
        if (!s) return st;
        MW_TRY(st, mw_tok_regex_open(&s->regex, GPT2_REGEX, sizeof GPT2_REGEX - 1, false, where));
    }
    t->byte_level = true;
fail:
    return st;
}

/* prepend_scheme, or add_prefix_space of older files: true is "always"; false must not contradict. */
static mw_status parse_prepend_scheme(mw_tok_split_step *s, const json_t *o, const char *where) {
    static const char *const SCHEME[] = {"first", "always", "never"};
    const json_t *old = json_object_get(o, "add_prefix_space");
    const char *text = "always";
    size_t n;
    mw_status st;
    if (json_object_get(o, "prepend_scheme")) MW_TRY(st, mw_tok_json_string(o, where, "prepend_scheme", &text, &n));
    int k = 0;
    while (k < 3 && strcmp(text, SCHEME[k]) != 0) k++;
    if (k == 3) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: prepend_scheme '%.64s'", where, text);
    if (old && !json_is_null(old)) {
        bool add = false;
        MW_TRY(st, mw_tok_json_bool(o, where, "add_prefix_space", &add));
        if (!add && strcmp(text, "never") != 0)
            return MW_FAIL(MW_ERR_FORMAT, "%s: add_prefix_space false contradicts prepend_scheme '%s'", where, text);
    }
    s->prepend = (mw_tok_prepend)k;
    return MW_OK;
fail:
    return st;
}

mw_status mw_tok_metaspace_parse(mw_tok_split_step *s, const json_t *o, const char *where) {
    static const char *const KNOWN[] = {"type",    "replacement", "add_prefix_space", "prepend_scheme", "split",
                                        "str_rep", NULL};
    const json_t *split = json_object_get(o, "split");
    uint32_t mark = 0;
    mw_status st;
    s->kind = MW_TOK_METASPACE;
    s->split = true;
    MW_TRY(st, mw_tok_json_fields(o, where, KNOWN));
    MW_TRY(st, mw_tok_json_char(o, where, "replacement", &mark));
    s->mark_n = mw_utf8_put(mark, s->mark);
    MW_TRY(st, parse_prepend_scheme(s, o, where));
    if (split && !json_is_null(split)) MW_TRY(st, mw_tok_json_bool(o, where, "split", &s->split));
fail:
    return st;
}

static mw_status parse_step(void *arg, const json_t *o, const char *type, const char *where) {
    mw_tok_split *t = arg;
    if (t->byte_level) /* it would see the text in the GPT-2 alphabet */
        return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: type '%.64s' after ByteLevel", where, type);
    if (strcmp(type, "Split") == 0) return parse_split(t, o, where);
    if (strcmp(type, "Digits") == 0) return parse_digits(t, o, where);
    if (strcmp(type, "ByteLevel") == 0) return parse_byte_level(t, o, where);
    if (strcmp(type, "Metaspace") != 0) return MW_FAIL(MW_ERR_UNSUPPORTED, "%s: type '%.64s'", where, type);
    mw_status st = MW_OK;
    mw_tok_split_step *s = new_step(t, where, MW_TOK_METASPACE, &st);
    return s ? mw_tok_metaspace_parse(s, o, where) : st;
}

mw_status mw_tok_split_parse(mw_tok_split *out, const json_t *json) {
    if (!json || json_is_null(json)) return MW_OK;
    mw_status st = mw_tok_json_sequence(json, "pre_tokenizer", "pretokenizers", parse_step, out);
    if (st != MW_OK) return st;
    int n = 0;
    for (int i = 0; i < out->n; i++) n += out->step[i].kind == MW_TOK_METASPACE;
    return n > 1 ? MW_FAIL(MW_ERR_UNSUPPORTED, "pre_tokenizer: %d Metaspace steps", n) : MW_OK;
}

void mw_tok_split_free(mw_tok_split *s) {
    for (int i = 0; i < s->n; i++) mw_tok_regex_close(s->step[i].regex);
    *s = (mw_tok_split){0};
}

bool mw_tok_split_asks_origin(const mw_tok_split *s) {
    for (int i = 0; i < s->n; i++)
        if (s->step[i].kind == MW_TOK_METASPACE && s->step[i].prepend == MW_TOK_PREPEND_FIRST) return true;
    return false;
}
