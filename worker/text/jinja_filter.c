#include "worker/text/jinja_filter.h"

#include "worker/text/jinja_attr.h"
#include "worker/text/jinja_unicode.h"

const mw_jfilter *mw_jfilter_find(mw_jval name) {
    const mw_jfilter *const part[] = {mw_jfilters_text, mw_jfilters_seq, mw_jfilters_lazy};
    for (int i = 0; i < 3; i++) {
        for (const mw_jfilter *f = part[i]; f->name; f++) {
            if (mw_jstr_is(name, f->name)) return f;
        }
    }
    return NULL;
}

mw_status mw_jfilter_apply(mw_jrun *r, const mw_jfilter *f, mw_jval in, const mw_jargs *args, mw_jval *out) {
    if (f->raw) return f->raw(r, in, args, out);
    mw_jval a[MW_JFILTER_ARGS];
    MW_JTRY(mw_jbind(r, f->name, f->param, f->n_min, f->n_max, true, args, a));
    return f->fn(r, in, a, out);
}

mw_status mw_jkeyer_make(mw_jrun *r, mw_jval attribute, mw_jval case_sensitive, mw_jkeyer *out) {
    bool exact;
    MW_JTRY(mw_jtruth(r, case_sensitive, &exact));
    out->fold = !exact;
    return mw_jattr_path(r, attribute, &out->path);
}

mw_status mw_jkeyer_key(mw_jrun *r, const mw_jkeyer *k, mw_jval item, mw_jval *out) {
    MW_JTRY(mw_jattr_walk(r, item, k->path, MW_JMISSING, out));
    return k->fold && mw_jis_str(*out) ? mw_juni_case(r, *out, MW_JCASE_LOWER, out) : MW_OK;
}

mw_status mw_jundefined_text(mw_jrun *r, const char *hint, mw_jval *out) {
    mw_jundef *u;
    MW_JTRY(MW_JNEW(r->mem, &u, 1));
    u->hint = hint;
    u->hint_len = (uint32_t)__builtin_strlen(hint);
    *out = mw_jundefined_hint(u);
    return MW_OK;
}
