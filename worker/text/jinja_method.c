/* Methods of str, list, tuple, dict and loop: which parameters they take, and the ones that are not str's. */
#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_call.h"
#include "worker/text/jinja_iter.h"
#include "worker/text/jinja_str.h"
#include "worker/text/jinja_text.h"

typedef struct spec {
    const char *name, *param[3];
    uint8_t n_min, n_max;
    bool by_name; /* Python allows keyword arguments */
} spec;

static const spec specs[] = {
    [MW_JM_CAPITALIZE] = {"capitalize", {0}, 0, 0, false},
    [MW_JM_COPY] = {"copy", {0}, 0, 0, false},
    [MW_JM_COUNT] = {"count", {"sub", "start", "end"}, 1, 3, false},
    [MW_JM_ENDSWITH] = {"endswith", {"suffix", "start", "end"}, 1, 3, false},
    [MW_JM_FIND] = {"find", {"sub", "start", "end"}, 1, 3, false},
    [MW_JM_GET] = {"get", {"key", "default"}, 1, 2, false},
    [MW_JM_INDEX] = {"index", {"sub", "start", "end"}, 1, 3, false},
    [MW_JM_ISALNUM] = {"isalnum", {0}, 0, 0, false},
    [MW_JM_ISALPHA] = {"isalpha", {0}, 0, 0, false},
    [MW_JM_ISASCII] = {"isascii", {0}, 0, 0, false},
    [MW_JM_ISDECIMAL] = {"isdecimal", {0}, 0, 0, false},
    [MW_JM_ISDIGIT] = {"isdigit", {0}, 0, 0, false},
    [MW_JM_ISLOWER] = {"islower", {0}, 0, 0, false},
    [MW_JM_ISSPACE] = {"isspace", {0}, 0, 0, false},
    [MW_JM_ISUPPER] = {"isupper", {0}, 0, 0, false},
    [MW_JM_ITEMS] = {"items", {0}, 0, 0, false},
    [MW_JM_JOIN] = {"join", {"iterable"}, 1, 1, false},
    [MW_JM_KEYS] = {"keys", {0}, 0, 0, false},
    [MW_JM_LOWER] = {"lower", {0}, 0, 0, false},
    [MW_JM_LSTRIP] = {"lstrip", {"chars"}, 0, 1, false},
    [MW_JM_PARTITION] = {"partition", {"sep"}, 1, 1, false},
    [MW_JM_REMOVEPREFIX] = {"removeprefix", {"prefix"}, 1, 1, false},
    [MW_JM_REMOVESUFFIX] = {"removesuffix", {"suffix"}, 1, 1, false},
    [MW_JM_REPLACE] = {"replace", {"old", "new", "count"}, 2, 3, false},
    [MW_JM_RFIND] = {"rfind", {"sub", "start", "end"}, 1, 3, false},
    [MW_JM_RINDEX] = {"rindex", {"sub", "start", "end"}, 1, 3, false},
    [MW_JM_RPARTITION] = {"rpartition", {"sep"}, 1, 1, false},
    [MW_JM_RSPLIT] = {"rsplit", {"sep", "maxsplit"}, 0, 2, true},
    [MW_JM_RSTRIP] = {"rstrip", {"chars"}, 0, 1, false},
    [MW_JM_SPLIT] = {"split", {"sep", "maxsplit"}, 0, 2, true},
    [MW_JM_SPLITLINES] = {"splitlines", {"keepends"}, 0, 1, true},
    [MW_JM_STARTSWITH] = {"startswith", {"prefix", "start", "end"}, 1, 3, false},
    [MW_JM_STRIP] = {"strip", {"chars"}, 0, 1, false},
    [MW_JM_TITLE] = {"title", {0}, 0, 0, false},
    [MW_JM_UPPER] = {"upper", {0}, 0, 0, false},
    [MW_JM_VALUES] = {"values", {0}, 0, 0, false},
};

static mw_status seq_count(mw_jrun *r, mw_jval self, mw_jval what, mw_jval *out) {
    int64_t n = 0;
    for (uint32_t i = 0; i < self.n; i++) {
        bool same;
        MW_JTRY(mw_jequal(r, self.u.v[i], what, &same));
        n += same;
    }
    *out = MW_JINT(n);
    return MW_OK;
}

static mw_status seq_index(mw_jrun *r, mw_jval self, const mw_jval *a, mw_jval *out) {
    int64_t bound[2] = {0, self.n};
    for (int i = 0; i < 2; i++) {
        if (a[1 + i].type == MW_J_MISSING) continue;
        MW_JTRY(mw_jarg_int(r, "a bound", a[1 + i], &bound[i]));
        if (bound[i] < 0) bound[i] += self.n;
        if (bound[i] < 0) bound[i] = 0;
    }
    for (int64_t i = bound[0]; i < bound[1] && i < self.n; i++) {
        bool same;
        MW_JTRY(mw_jequal(r, self.u.v[i], a[0], &same));
        if (same) {
            *out = MW_JINT(i);
            return MW_OK;
        }
    }
    return MW_JERROR(r, "index of what is not in the %s", mw_jtype_name(self));
}

static mw_status dict_method(mw_jrun *r, mw_jmethod m, mw_jval self, const mw_jval *a, mw_jval *out) {
    switch (m) {
    case MW_JM_GET:
        MW_JTRY(mw_jdict_get(r, self.u.dict, a[0], out));
        if (out->type == MW_J_MISSING) *out = a[1].type == MW_J_MISSING ? MW_JNONE : a[1];
        return MW_OK;
    case MW_JM_COPY: *out = self; return MW_OK; /* nothing changes a dict, so a copy is the dict */
    default: break;
    }
    mw_jview view = m == MW_JM_KEYS ? MW_JV_KEYS : m == MW_JM_VALUES ? MW_JV_VALUES : MW_JV_ITEMS;
    *out = (mw_jval){.type = MW_J_VIEW, .sub = (uint8_t)view, .u.dict = self.u.dict};
    return MW_OK;
}

/* loop.cycle(a, b, ...) and loop.changed(a, ...): any number of positional arguments. */
static mw_status loop_method(mw_jrun *r, mw_jmethod m, mw_jloop *l, const mw_jargs *args, mw_jval *out) {
    if (args->n_kw) return MW_JERROR(r, "a method of 'loop' takes no keyword arguments");
    if (m == MW_JM_CYCLE) {
        if (!args->n_pos) return MW_JERROR(r, "loop.cycle without arguments");
        *out = args->pos[l->index0 % args->n_pos];
        return MW_OK;
    }
    mw_jval *v, now;
    bool same = false;
    MW_JTRY(mw_jvals(r, args->n_pos, &v));
    for (uint32_t i = 0; i < args->n_pos; i++) v[i] = args->pos[i];
    now = mw_jtuple(v, args->n_pos);
    if (l->changed.type != MW_J_MISSING) MW_JTRY(mw_jequal(r, l->changed, now, &same));
    if (!same) l->changed = now;
    *out = MW_JBOOL(!same);
    return MW_OK;
}

/* Markup's methods escape the text they insert, and what they return is Markup too. */
static mw_status markup_method(mw_jrun *r, mw_jmethod m, mw_jval self, mw_jval *a, mw_jval *out) {
    if (m == MW_JM_JOIN) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "'join' of safe text is not supported");
    if (m == MW_JM_REPLACE) {
        MW_JTRY(mw_jtext_value(r, a[1], &a[1]));
        MW_JTRY(mw_jstr_escape(r, a[1], &a[1]));
    }
    MW_JTRY(mw_jstr_method(r, m, self, a, out));
    if (mw_jis_str(*out)) out->markup = 1;
    if (!mw_jis_seq(*out)) return MW_OK;
    mw_jval *v;
    MW_JTRY(mw_jvals(r, out->n, &v));
    for (uint32_t i = 0; i < out->n; i++) {
        v[i] = out->u.v[i];
        v[i].markup = 1;
    }
    out->u.v = v;
    return MW_OK;
}

mw_status mw_jcall_method(mw_jrun *r, mw_jval method, const mw_jargs *args, mw_jval *out) {
    mw_jmethod m = (mw_jmethod)method.sub;
    mw_jval self = *method.u.v, a[3] = {MW_JMISSING, MW_JMISSING, MW_JMISSING};
    if (m == MW_JM_OPAQUE) {
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a method of %s that is not supported", mw_jtype_name(self));
    }
    if (self.type == MW_J_LOOP) return loop_method(r, m, self.u.loop, args, out);
    if (m == MW_JM_FORMAT) {
        if (self.markup) return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "'format' of safe text is not supported");
        return mw_jtext_format(r, self, args, out);
    }
    const spec *s = &specs[m];
    /* count of a list has no bounds, count and index of a str do */
    uint8_t n_max = m == MW_JM_COUNT && !mw_jis_str(self) ? 1 : s->n_max;
    MW_JTRY(mw_jbind(r, s->name, s->param, s->n_min, n_max, s->by_name, args, a));
    if (mw_jis_str(self)) return self.markup ? markup_method(r, m, self, a, out) : mw_jstr_method(r, m, self, a, out);
    if (self.type == MW_J_DICT) return dict_method(r, m, self, a, out);
    if (m == MW_JM_COUNT) return seq_count(r, self, a[0], out);
    if (m == MW_JM_INDEX) return seq_index(r, self, a, out);
    *out = self; /* copy */
    return MW_OK;
}
