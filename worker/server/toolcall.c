#include "worker/server/toolcall.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define HERMES_OPEN  "<tool_call>"
#define HERMES_CLOSE "</tool_call>"

typedef struct {
    const char *name;
    const char *mark; /* may stand in front of the calls; NULL: Hermes */
    char open;        /* what the calls begin with */
} style;

static const style k_styles[] = {
    {"hermes", NULL, 0},
    {"llama3", "<|python_tag|>", '{'},
    {"mistral", "[TOOL_CALLS]", '['},
};

typedef enum { AT_START, AFTER_CALL, OUTSIDE, INSIDE, PLAIN } parser_mode;

struct mw_tool_parser {
    const style *style;
    parser_mode mode;
    bool marked;
    mw_str held;    /* not decided yet */
    size_t lead;    /* Hermes: blanks in front of the tag */
    size_t scanned; /* of held, by `depth` and the flags: one JSON value being looked along */
    int depth;
    bool in_string, escaped;
    mw_tool_call *call;
    size_t n_calls, cap_calls;
};

const char *mw_tool_style(const char *t) {
    if (!t || !strstr(t, "tools")) return NULL;
    if (strstr(t, "<tool_call>")) return strstr(t, "arguments") && !strstr(t, "<function=") ? "hermes" : NULL;
    if (strstr(t, "[TOOL_CALLS]")) return strstr(t, "[ARGS]") ? NULL : "mistral";
    if (strstr(t, "<|python_tag|>")) return "llama3";
    return strstr(t, "ipython") && strstr(t, "parameters") ? "llama3" : NULL;
}

mw_status mw_tool_parser_open(mw_tool_parser **out, const char *name) {
    for (size_t i = 0; i < sizeof k_styles / sizeof *k_styles; i++) {
        if (strcmp(k_styles[i].name, name) != 0) continue;
        mw_status st = MW_CALLOC(out, 1, "tool calls");
        if (st != MW_OK) return st;
        (*out)->style = &k_styles[i];
        (*out)->mode = k_styles[i].mark ? AT_START : OUTSIDE;
        return MW_OK;
    }
    return MW_FAIL(MW_ERR_UNSUPPORTED, "tool calls in the style '%s'", name);
}

void mw_tool_parser_close(mw_tool_parser *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n_calls; i++) {
        free(p->call[i].name);
        free(p->call[i].arguments);
    }
    free(p->call);
    mw_str_free(&p->held);
    free(p);
}

size_t mw_tool_parser_calls(const mw_tool_parser *p, const mw_tool_call **call) {
    *call = p->call;
    return p->n_calls;
}

/* ---- one call, as JSON ---- */

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Behind the JSON value at p, in text that is known to be JSON. */
static const char *skip_value(const char *p, const char *end) {
    int depth = 0;
    bool string = false;
    for (; p < end; p++) {
        if (string) {
            p += *p == '\\';
            string = p < end && *p != '"';
            if (!string && depth == 0) return p + 1;
            continue;
        }
        if (*p == '"') string = true;
        if (depth == 0 && (*p == ',' || *p == '}' || *p == ']' || is_blank(*p))) return p;
        if (*p == '{' || *p == '[') depth++;
        if ((*p == '}' || *p == ']') && --depth == 0) return p + 1;
    }
    return end;
}

/* The text of a member's value in the text of an object; NULL: there is none. */
static const char *member(const char *p, const char *end, const char *key, size_t *n) {
    for (p++; p < end;) {
        while (p < end && (is_blank(*p) || *p == ',')) p++;
        if (p == end || *p == '}') return NULL;
        const char *name = p + 1, *value = skip_value(p, end);
        bool hit = (size_t)(value - name) == strlen(key) + 1 && memcmp(name, key, strlen(key)) == 0;
        while (value < end && (is_blank(*value) || *value == ':')) value++;
        p = skip_value(value, end);
        if (!hit) continue;
        *n = (size_t)(p - value);
        return value;
    }
    return NULL;
}

static mw_status add_call(mw_tool_parser *p, const char *name, const char *arguments, size_t n) {
    if (p->n_calls == p->cap_calls) {
        size_t cap = p->cap_calls ? 2 * p->cap_calls : 4;
        mw_tool_call *q = realloc(p->call, cap * sizeof *q);
        if (!q) return MW_FAIL(MW_ERR_NOMEM, "tool calls");
        p->call = q;
        p->cap_calls = cap;
    }
    mw_tool_call c = {strdup(name), strndup(arguments, n)};
    if (!c.name || !c.arguments) {
        free(c.name);
        free(c.arguments);
        return MW_FAIL(MW_ERR_NOMEM, "tool calls");
    }
    p->call[p->n_calls++] = c;
    return MW_OK;
}

/* {"name": ..., "arguments" or "parameters": {...}}, perhaps inside "function". *is_call false: something else. */
static mw_status take_object(mw_tool_parser *p, const char *text, size_t n, const json_t *o, bool *is_call) {
    const char *end = text + n, *inner;
    size_t len = 0;
    const json_t *f = json_object_get(o, "function");
    *is_call = false;
    if (json_is_object(f) && (inner = member(text, end, "function", &len)))
        return take_object(p, inner, len, f, is_call);
    const char *name = json_string_value(json_object_get(o, "name"));
    const char *key = json_object_get(o, "arguments") ? "arguments" : "parameters";
    const json_t *args = json_object_get(o, key);
    if (!name || !*name) return MW_OK;
    *is_call = true;
    if (!args || json_is_null(args)) return add_call(p, name, "{}", 2);
    if (json_is_string(args)) { /* some write the object into a string */
        json_t *inside = json_loads(json_string_value(args), 0, NULL);
        bool object = json_is_object(inside);
        json_decref(inside);
        if (object) return add_call(p, name, json_string_value(args), json_string_length(args));
    } else if (json_is_object(args) && (inner = member(text, end, key, &len))) {
        return add_call(p, name, inner, len);
    }
    *is_call = false;
    return MW_OK;
}

/* Text that should be one call or a list of them. Nothing is taken unless all of it is. */
static mw_status take_calls(mw_tool_parser *p, const char *text, size_t n, bool *are_calls) {
    json_t *v = json_loadb(text, n, 0, NULL);
    size_t before = p->n_calls;
    mw_status st = MW_OK;
    *are_calls = false;
    while (n && is_blank(*text)) text++, n--;
    if (json_is_object(v)) st = take_object(p, text, n, v, are_calls);
    const char *at = text + 1, *end = text + n;
    for (size_t i = 0; json_is_array(v) && i < json_array_size(v) && st == MW_OK; i++) {
        while (at < end && (is_blank(*at) || *at == ',')) at++;
        const char *next = skip_value(at, end);
        st = take_object(p, at, (size_t)(next - at), json_array_get(v, i), are_calls);
        if (!*are_calls) break;
        at = next;
    }
    while (!*are_calls && p->n_calls > before) { /* the others were calls, this one was not */
        mw_tool_call *c = &p->call[--p->n_calls];
        free(c->name);
        free(c->arguments);
    }
    json_decref(v);
    return st;
}

/* ---- text that is held back ---- */

static mw_status release(mw_tool_parser *p, size_t n, mw_str *content) {
    mw_status st = n ? mw_str_add(content, p->held.p, n) : MW_OK;
    if (st != MW_OK) return st;
    memmove(p->held.p, p->held.p + n, p->held.n - n);
    p->held.n -= n;
    p->held.p[p->held.n] = 0;
    return MW_OK;
}

static void drop(mw_tool_parser *p, size_t n) {
    memmove(p->held.p, p->held.p + n, p->held.n - n);
    p->held.n -= n;
    p->held.p[p->held.n] = 0;
}

static void drop_blanks(mw_tool_parser *p, const char *others) {
    size_t n = 0;
    while (n < p->held.n && (is_blank(p->held.p[n]) || strchr(others, p->held.p[n]))) n++;
    drop(p, n);
}

/* Does held text begin with `word`, or might it with more text? */
typedef enum { NO, PERHAPS, YES } verdict;

static verdict begins(const char *p, size_t n, const char *word) {
    size_t len = strlen(word);
    if (memcmp(p, word, n < len ? n : len) != 0) return NO;
    return n < len ? PERHAPS : YES;
}

/* Where the JSON value at the front of held text ends; 0: not yet. Goes on where it stopped the last time. */
static size_t value_end(mw_tool_parser *p) {
    for (; p->scanned < p->held.n; p->scanned++) {
        char c = p->held.p[p->scanned];
        if (p->escaped) {
            p->escaped = false;
        } else if (p->in_string) {
            p->escaped = c == '\\';
            p->in_string = c != '"';
        } else if (c == '"') {
            p->in_string = true;
        } else if (c == '{' || c == '[') {
            p->depth++;
        } else if ((c == '}' || c == ']') && --p->depth <= 0) {
            return p->scanned + 1;
        }
    }
    return 0;
}

/* Is the first key of the first object one that calls have? An answer in JSON that is no call is not held back. */
static verdict looks_like_call(const mw_tool_parser *p) {
    static const char *const keys[] = {"\"name\"", "\"type\"", "\"function\"", "\"arguments\"", "\"parameters\"",
                                       "\"id\"",   NULL};
    size_t at = 0;
    verdict best = NO;
    for (const char *c = p->style->open == '[' ? "[{" : "{"; *c; c++, at++) {
        while (at < p->held.n && is_blank(p->held.p[at])) at++;
        if (at == p->held.n) return PERHAPS;
        if (p->held.p[at] != *c) return NO;
    }
    while (at < p->held.n && is_blank(p->held.p[at])) at++;
    for (int i = 0; keys[i]; i++) {
        verdict v = begins(p->held.p + at, p->held.n - at, keys[i]);
        if (v > best) best = v;
    }
    return best;
}

/* ---- answers that are calls as a whole ---- */

static mw_status plain(mw_tool_parser *p, mw_str *content) {
    p->mode = PLAIN;
    return release(p, p->held.n, content);
}

static mw_status step_whole(mw_tool_parser *p, bool last, mw_str *content, bool *again) {
    const char *mark = p->style->mark;
    size_t at = 0, end;
    bool are_calls = false;
    mw_status st = MW_OK;
    if (p->mode == AFTER_CALL) drop_blanks(p, p->style->open == '{' ? ";" : "");
    while (at < p->held.n && is_blank(p->held.p[at])) at++;
    if (at == p->held.n) return last && p->n_calls == 0 ? plain(p, content) : MW_OK;
    verdict v = !p->marked ? begins(p->held.p + at, p->held.n - at, mark) : NO;
    if (v == PERHAPS && !last) return MW_OK;
    if (v == YES) {
        drop(p, at + strlen(mark));
        p->marked = *again = true;
        return MW_OK;
    }
    v = p->marked && p->held.p[at] == p->style->open ? YES : looks_like_call(p);
    if (v == NO || (v == PERHAPS && last)) return plain(p, content);
    if (v == PERHAPS || (end = value_end(p)) == 0) return last ? plain(p, content) : MW_OK;
    MW_TRY(st, take_calls(p, p->held.p, end, &are_calls));
    if (!are_calls) return plain(p, content);
    drop(p, end);
    p->mode = AFTER_CALL;
    p->scanned = 0;
    p->depth = 0;
    *again = true;
fail:
    return st;
}

/* ---- Hermes: calls in tags ---- */

/* Text outside a call: all but what may become the tag, and blanks in front of that. */
static mw_status step_outside(mw_tool_parser *p, bool last, mw_str *content, bool *again) {
    const char *tag = p->held.n ? memmem(p->held.p, p->held.n, HERMES_OPEN, strlen(HERMES_OPEN)) : NULL;
    size_t keep = tag ? (size_t)(tag - p->held.p) : p->held.n;
    if (!tag && !last) {
        size_t n = strlen(HERMES_OPEN) - 1 < p->held.n ? strlen(HERMES_OPEN) - 1 : p->held.n;
        while (n && memcmp(p->held.p + p->held.n - n, HERMES_OPEN, n) != 0) n--;
        keep = p->held.n - n;
    }
    size_t text = keep;
    if (tag || !last || p->n_calls > 0)
        while (text && is_blank(p->held.p[text - 1])) text--;
    mw_status st = release(p, text, content);
    if (st != MW_OK || !tag) return st;
    p->mode = INSIDE;
    p->lead = keep - text;
    p->scanned = p->lead + strlen(HERMES_OPEN);
    *again = true;
    return MW_OK;
}

static mw_status step_inside(mw_tool_parser *p, bool last, mw_str *content, bool *again) {
    size_t open = p->lead + strlen(HERMES_OPEN), close = strlen(HERMES_CLOSE);
    const char *tag = memmem(p->held.p + p->scanned, p->held.n - p->scanned, HERMES_CLOSE, close);
    bool are_calls = false;
    mw_status st = MW_OK;
    if (!tag && !last) {
        if (p->held.n > p->scanned + close) p->scanned = p->held.n - close;
        return MW_OK;
    }
    size_t end = tag ? (size_t)(tag - p->held.p) : p->held.n; /* the model may have stopped before the tag */
    MW_TRY(st, take_calls(p, p->held.p + open, end - open, &are_calls));
    if (are_calls) {
        drop(p, tag ? end + close : end);
        p->mode = OUTSIDE;
        *again = true;
    } else if (tag) { /* perhaps a tag inside a string */
        p->scanned = end + close;
        *again = true;
    } else {
        return plain(p, content);
    }
fail:
    return st;
}

/* ---- the parser ---- */

static mw_status run(mw_tool_parser *p, bool last, mw_str *content) {
    mw_status st = MW_OK;
    bool again = true;
    while (again && st == MW_OK) {
        again = false;
        if (p->mode == PLAIN)
            st = release(p, p->held.n, content);
        else if (p->mode == OUTSIDE)
            st = step_outside(p, last, content, &again);
        else if (p->mode == INSIDE)
            st = step_inside(p, last, content, &again);
        else
            st = step_whole(p, last, content, &again);
    }
    return st;
}

mw_status mw_tool_parser_push(mw_tool_parser *p, const char *text, size_t n, mw_str *content) {
    mw_status st = mw_str_add(&p->held, text, n);
    return st == MW_OK ? run(p, false, content) : st;
}

mw_status mw_tool_parser_finish(mw_tool_parser *p, mw_str *content) {
    mw_status st = mw_str_add(&p->held, "", 0);
    return st == MW_OK ? run(p, true, content) : st;
}
