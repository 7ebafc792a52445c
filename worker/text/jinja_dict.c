/* The insertion-ordered dict: two parallel arrays, and a hash index once a search would be long. */
#include <string.h>

#include "worker/text/jinja_run.h"

#define SMALL 8 /* entries that are searched one by one */

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static uint64_t hash_str(const char *s, size_t n) {
    uint64_t h = 0x243f6a8885a308d3u ^ n, x;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&x, s, 8);
        h = mix(h, x);
    }
    x = 0;
    memcpy(&x, s, n);
    return mix(h, x);
}

/* Equal values hash alike, so a whole float hashes as its int. `v` is hashable. */
static uint64_t hash(mw_jval v) {
    switch ((mw_jtype)v.type) {
    case MW_J_BOOL:
    case MW_J_INT: return mix(1, (uint64_t)mw_jto_int(v));
    case MW_J_FLOAT: {
        if (v.u.f >= -0x1p63 && v.u.f < 0x1p63 && (double)(int64_t)v.u.f == v.u.f) {
            return mix(1, (uint64_t)(int64_t)v.u.f);
        }
        uint64_t x;
        memcpy(&x, &v.u.f, 8);
        return mix(2, x);
    }
    case MW_J_STR: return hash_str(v.u.s, v.n);
    case MW_J_TUPLE: {
        uint64_t h = v.n;
        for (uint32_t i = 0; i < v.n; i++) h = mix(h, hash(v.u.v[i]));
        return h;
    }
    default: return mix(3, v.type);
    }
}

/* Tuples of tuples are bounded here, so that hash() may recurse. */
static mw_status check_key(mw_jrun *r, mw_jval key) {
    if (key.type != MW_J_TUPLE) {
        if (key.type <= MW_J_STR) return mw_jstep_bytes(r, mw_jis_str(key) ? key.n : 0);
        if (key.type == MW_J_LIST || key.type == MW_J_DICT) {
            return MW_JERROR(r, "a %s cannot be the key of a dict", mw_jtype_name(key));
        }
        return MW_JFAIL(r, MW_ERR_UNSUPPORTED, "a %s as key of a dict is not supported", mw_jtype_name(key));
    }
    mw_status st = mw_jdeeper(r);
    if (st == MW_OK) st = mw_jstep(r, 1);
    for (uint32_t i = 0; i < key.n && st == MW_OK; i++) st = check_key(r, key.u.v[i]);
    r->depth--;
    return st;
}

mw_status mw_jdict_new(mw_jrun *r, size_t room, mw_jdict **out) {
    mw_jdict *d;
    MW_JTRY(MW_JNEW(r->mem, &d, 1));
    if (room > UINT32_MAX / 4) return MW_JFAIL(r, MW_ERR_LIMIT, "a dict of %zu entries", room);
    if (room) {
        MW_JTRY(mw_jvals(r, room, &d->key));
        MW_JTRY(mw_jvals(r, room, &d->val));
        d->cap = (uint32_t)room;
    }
    *out = d;
    return MW_OK;
}

static void index_entry(mw_jdict *d, uint32_t i) {
    uint32_t mask = d->n_slot - 1, at = (uint32_t)hash(d->key[i]) & mask;
    while (d->slot[at]) at = (at + 1) & mask;
    d->slot[at] = i + 1;
}

static mw_status grow(mw_jrun *r, mw_jdict *d) {
    if (d->n == d->cap) {
        uint32_t cap = d->cap ? 2 * d->cap : 4;
        mw_jval *key, *val;
        if (cap > UINT32_MAX / 8) return MW_JFAIL(r, MW_ERR_LIMIT, "a dict of %u entries", cap);
        MW_JTRY(mw_jvals(r, cap, &key));
        MW_JTRY(mw_jvals(r, cap, &val));
        if (d->n) {
            memcpy(key, d->key, d->n * sizeof *key);
            memcpy(val, d->val, d->n * sizeof *val);
        }
        d->key = key;
        d->val = val;
        d->cap = cap;
    }
    if (d->n < SMALL || 2 * (d->n + 1) <= d->n_slot) return MW_OK;
    uint32_t n_slot = d->n_slot ? 2 * d->n_slot : 8 * SMALL;
    while (n_slot < 2 * (d->n + 1)) n_slot *= 2;
    MW_JTRY(mw_jstep(r, n_slot / 4));
    MW_JTRY(MW_JNEW(r->mem, &d->slot, n_slot));
    d->n_slot = n_slot;
    for (uint32_t i = 0; i < d->n; i++) index_entry(d, i);
    return MW_OK;
}

/* *at is the entry, or d->n when there is none. */
static mw_status find(mw_jrun *r, const mw_jdict *d, mw_jval key, uint32_t *at) {
    MW_JTRY(check_key(r, key));
    bool same = false;
    if (!d->slot) {
        for (*at = 0; *at < d->n; ++*at) {
            MW_JTRY(mw_jequal(r, d->key[*at], key, &same));
            if (same) break;
        }
        return MW_OK;
    }
    uint32_t mask = d->n_slot - 1;
    for (uint32_t s = (uint32_t)hash(key) & mask; d->slot[s]; s = (s + 1) & mask) {
        *at = d->slot[s] - 1;
        MW_JTRY(mw_jequal(r, d->key[*at], key, &same));
        if (same) return MW_OK;
    }
    *at = d->n;
    return MW_OK;
}

mw_status mw_jdict_set(mw_jrun *r, mw_jdict *d, mw_jval key, mw_jval val) {
    uint32_t at;
    MW_JTRY(find(r, d, key, &at));
    if (at == d->n) {
        MW_JTRY(grow(r, d));
        d->key[at] = key;
        d->n++;
        if (d->slot) index_entry(d, at);
    }
    d->val[at] = val; /* a key that was there keeps its first spelling, as in Python */
    return MW_OK;
}

mw_status mw_jdict_get(mw_jrun *r, const mw_jdict *d, mw_jval key, mw_jval *out) {
    uint32_t at;
    MW_JTRY(find(r, d, key, &at));
    *out = at < d->n ? d->val[at] : MW_JMISSING;
    return MW_OK;
}
