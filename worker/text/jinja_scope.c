/* Names to variables, by Jinja's rules.
 *
 * Jinja compiles a template to Python functions: one for the template, one for every macro, call and generation block.
 * Their locals are our slots. Inside a function every for, with, filter and set block opens a scope; an `if` does not.
 * Before anything runs, a scope is read from top to bottom to see what it loads and stores, and that decides once and
 * for all where each of its names lives:
 *   - a name of an outer scope is that variable, until this scope stores to it: then it is a copy, made on entry;
 *   - any other name is a variable of this scope. It starts unset if the first thing done with it is an unconditional
 *     store, else with the value the caller of the template gave.
 * So an assignment inside a for block never leaves it, a macro sees the variables around it as they are when it is
 * called, and a variable that is set only inside an `if` falls back to the one of the caller.
 */
#include <string.h>

#include "worker/text/jinja_parse.h"

/* From a 64-bit key to a number; in the arena. */
typedef struct map {
    uint64_t *key; /* key + 1; 0 is free */
    uint32_t *val;
    uint32_t n, cap;
} map;

typedef struct function {
    map slots; /* (level, name) -> slot: scopes side by side share the variables of a name, as Python locals do */
    uint32_t n_slot, depth;
} function;

typedef struct scope {
    struct scope *outer;
    function *fn;
    uint32_t level;
    bool own_slots; /* shares none with its neighbours */
    map names;      /* name -> index of load */
    mw_jload *load;
    uint32_t n, cap;
} scope;

typedef struct resolver {
    mw_jparser *p;
    map global; /* name -> number of the global variable */
    mw_jval *global_name;
    uint32_t n_global, cap_global;
    bool in_defaults; /* of a macro's parameters */
} resolver;

static uint32_t map_slot(const map *m, uint64_t key) {
    uint32_t mask = m->cap - 1, at = (uint32_t)((key + 1) * 0x9e3779b97f4a7c15u >> 40) & mask;
    while (m->key[at] && m->key[at] != key + 1) at = (at + 1) & mask;
    return at;
}

static bool map_get(const map *m, uint64_t key, uint32_t *out) {
    if (!m->n) return false;
    uint32_t at = map_slot(m, key);
    if (!m->key[at]) return false;
    *out = m->val[at];
    return true;
}

static mw_status map_put(resolver *s, map *m, uint64_t key, uint32_t val) {
    if (2 * (m->n + 1) > m->cap) {
        map bigger = {.n = m->n, .cap = m->cap ? 2 * m->cap : 8};
        MW_JTRY(MW_JNEW(s->p->mem, &bigger.key, bigger.cap));
        MW_JTRY(MW_JNEW(s->p->mem, &bigger.val, bigger.cap));
        for (uint32_t i = 0; i < m->cap; i++) {
            if (!m->key[i]) continue;
            uint32_t to = map_slot(&bigger, m->key[i] - 1);
            bigger.key[to] = m->key[i];
            bigger.val[to] = m->val[i];
        }
        *m = bigger;
    }
    uint32_t at = map_slot(m, key);
    m->n += !m->key[at];
    m->key[at] = key + 1;
    m->val[at] = val;
    return MW_OK;
}

/* The variable of `name` as seen from a scope. */
static const mw_jload *find(const scope *from, uint32_t name, const scope **owner) {
    for (; from; from = from->outer) {
        uint32_t i;
        if (!map_get(&from->names, name, &i)) continue;
        *owner = from;
        return &from->load[i];
    }
    return NULL;
}

static mw_status slot_of(resolver *s, const scope *in, uint32_t name, uint32_t *slot) {
    uint64_t key = (uint64_t)in->level << 32 | name;
    if (!in->own_slots && map_get(&in->fn->slots, key, slot)) return MW_OK;
    *slot = in->fn->n_slot++;
    return in->own_slots ? MW_OK : map_put(s, &in->fn->slots, key, *slot);
}

static mw_status define(resolver *s, scope *in, uint32_t name, mw_jload load) {
    uint32_t i;
    MW_JTRY(slot_of(s, in, name, &load.slot));
    if (in->load && map_get(&in->names, name, &i)) {
        in->load[i] = load;
        return MW_OK;
    }
    if (!in->load || in->n == in->cap) {
        mw_jload *more;
        in->cap = in->cap ? 2 * in->cap : 8;
        MW_JTRY(MW_JNEW(s->p->mem, &more, in->cap));
        if (in->load) memcpy(more, in->load, in->n * sizeof *more);
        in->load = more;
    }
    in->load[in->n] = load;
    return map_put(s, &in->names, name, in->n++);
}

static mw_status global(resolver *s, uint32_t name, uint32_t *out) {
    if (map_get(&s->global, name, out)) return MW_OK;
    if (s->n_global == s->cap_global) {
        mw_jval *more;
        s->cap_global = s->cap_global ? 2 * s->cap_global : 8;
        MW_JTRY(MW_JNEW(s->p->mem, &more, s->cap_global));
        if (s->n_global) memcpy(more, s->global_name, s->n_global * sizeof *more);
        s->global_name = more;
    }
    s->global_name[s->n_global] = s->p->name[name];
    *out = s->n_global++;
    return map_put(s, &s->global, name, *out);
}

static mw_status see_param(resolver *s, scope *in, uint32_t name) {
    return define(s, in, name, (mw_jload){.kind = MW_JLOAD_PARAM});
}

static mw_status see_load(resolver *s, scope *in, uint32_t name) {
    const scope *owner;
    mw_jload load = {.kind = MW_JLOAD_GLOBAL};
    if (find(in, name, &owner)) return MW_OK;
    MW_JTRY(global(s, name, &load.from));
    return define(s, in, name, load);
}

static mw_status see_store(resolver *s, scope *in, uint32_t name, bool in_branch) {
    const scope *owner;
    const mw_jload *known = find(in, name, &owner);
    mw_jload load = {.kind = MW_JLOAD_UNSET};
    if (known && owner == in) return MW_OK;
    if (known) {
        load = (mw_jload){
            .kind = MW_JLOAD_OUTER, .hops = (uint16_t)(in->fn->depth - owner->fn->depth), .from = known->slot};
    } else if (in_branch) {
        load.kind = MW_JLOAD_GLOBAL;
        MW_JTRY(global(s, name, &load.from));
    }
    return define(s, in, name, load);
}

/* Every name that an expression loads. */
static mw_status see_expr(resolver *s, scope *in, const mw_jnode *n) {
    if (!n) return MW_OK;
    if (n->kind == MW_JN_NAME) return see_load(s, in, n->name);
    MW_JTRY(see_expr(s, in, n->a));
    MW_JTRY(see_expr(s, in, n->b));
    MW_JTRY(see_expr(s, in, n->c));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(see_expr(s, in, n->v[i]));
    for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(see_expr(s, in, n->w[i]));
    return MW_OK;
}

static mw_status see_target(resolver *s, scope *in, const mw_jnode *n, bool in_branch, bool param) {
    if (n->kind == MW_JN_NSREF) return see_load(s, in, n->name);
    if (n->kind == MW_JN_NAME) return param ? see_param(s, in, n->name) : see_store(s, in, n->name, in_branch);
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(see_target(s, in, n->v[i], in_branch, param));
    return MW_OK;
}

/* What the statements of a scope load and store; the scopes inside are read later, on their own. */
static mw_status see_stmt(resolver *s, scope *in, const mw_jnode *n, bool in_branch) {
    if (!n) return MW_OK;
    switch ((mw_jkind)n->kind) {
    case MW_JN_BODY:
        for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(see_stmt(s, in, n->v[i], in_branch));
        return MW_OK;
    case MW_JN_CALLBLOCK:
    case MW_JN_PRINT: return see_expr(s, in, n->a);
    case MW_JN_IF:
        for (uint32_t i = 0; i < n->nv; i++) {
            bool is_test = i % 2 == 0 && i + 1 < n->nv;
            MW_JTRY(is_test ? see_expr(s, in, n->v[i]) : see_stmt(s, in, n->v[i], true));
        }
        return MW_OK;
    case MW_JN_FOR:
    case MW_JN_FILTERED: return see_expr(s, in, n->b);
    case MW_JN_SET: MW_JTRY(see_expr(s, in, n->b)); return see_target(s, in, n->a, in_branch, false);
    case MW_JN_SETBLOCK:
    case MW_JN_MACRO: return see_target(s, in, n->a, in_branch, false);
    case MW_JN_WITH:
        for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(see_expr(s, in, n->w[i]));
        return MW_OK;
    default: return MW_OK;
    }
}

static mw_status bind(resolver *s, const scope *in, mw_jnode *n) {
    const scope *owner;
    const mw_jload *load = find(in, n->name, &owner);
    if (!load) {
        mw_jval name = s->p->name[n->name];
        return MW_JNODE_FAIL(s->p, MW_ERR_UNSUPPORTED, n, "'%.*s' in the filter of a 'set' block is not supported",
                             (int)name.n, name.u.s);
    }
    n->slot = load->slot;
    n->hops = (uint16_t)(in->fn->depth - owner->fn->depth);
    n->op = load->kind == MW_JLOAD_PARAM && !s->in_defaults;
    return MW_OK;
}

/* Expressions and targets: all names get their variable. */
static mw_status bind_expr(resolver *s, const scope *in, mw_jnode *n) {
    if (!n) return MW_OK;
    if (n->kind == MW_JN_NAME || n->kind == MW_JN_NSREF) return bind(s, in, n);
    MW_JTRY(bind_expr(s, in, n->a));
    MW_JTRY(bind_expr(s, in, n->b));
    MW_JTRY(bind_expr(s, in, n->c));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(bind_expr(s, in, n->v[i]));
    for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(bind_expr(s, in, n->w[i]));
    return MW_OK;
}

static scope inner(scope *outer, function *fn) {
    return (scope){.outer = outer, .fn = fn, .level = outer ? outer->level + 1 : 0};
}

static mw_status bind_stmt(resolver *s, scope *in, mw_jnode *n);

/* Keep what a scope does on entry; `at` is its place among the scopes of the node. */
static mw_status keep(resolver *s, const scope *in, mw_jnode *n, uint32_t at, uint32_t count) {
    if (!n->u.scope) MW_JTRY(MW_JNEW(s->p->mem, &n->u.scope, count));
    n->u.scope[at] = (mw_jscope){in->load, in->n};
    return MW_OK;
}

static bool mentions(const mw_jparser *p, const mw_jnode *n, const char *name) {
    if (!n) return false;
    if (n->kind == MW_JN_NAME && mw_jstr_is(p->name[n->name], name)) return true;
    if (mentions(p, n->a, name) || mentions(p, n->b, name) || mentions(p, n->c, name)) return true;
    for (uint32_t i = 0; i < n->nv; i++) {
        if (mentions(p, n->v[i], name)) return true;
    }
    for (uint32_t i = 0; i < n->nw; i++) {
        if (mentions(p, n->w[i], name)) return true;
    }
    return false;
}

/* A second tree for the same target: the filter of a for block has variables of its own. */
static mw_status copy_target(resolver *s, const mw_jnode *n, mw_jnode **out) {
    MW_JTRY(MW_JNEW(s->p->mem, out, 1));
    **out = *n;
    if (n->kind != MW_JN_TUPLE) return MW_OK;
    MW_JTRY(mw_jnode_room(s->p, n->nv, &(*out)->v));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(copy_target(s, n->v[i], &(*out)->v[i]));
    return MW_OK;
}

static mw_status bind_for(resolver *s, scope *in, mw_jnode *n) {
    scope loop = inner(in, in->fn), other = inner(in, in->fn), filter = inner(in, in->fn);
    MW_JTRY(bind_expr(s, in, n->b));
    n->op = mentions(s->p, n->v[0], "loop");
    if (n->op) {
        uint32_t name;
        MW_JTRY(mw_jintern(s->p, MW_JLITERAL("loop"), &name));
        MW_JTRY(see_param(s, &loop, name));
        n->slot = loop.load[0].slot;
    }
    MW_JTRY(see_target(s, &loop, n->a, false, true));
    MW_JTRY(see_stmt(s, &loop, n->v[0], false));
    MW_JTRY(bind_expr(s, &loop, n->a));
    MW_JTRY(keep(s, &loop, n, 0, 3));
    MW_JTRY(see_stmt(s, &other, n->v[1], false));
    MW_JTRY(keep(s, &other, n, 1, 3));
    if (n->c) {
        filter.own_slots = true;
        MW_JTRY(mw_jnode_room(s->p, 1, &n->w));
        n->nw = 1;
        MW_JTRY(copy_target(s, n->a, &n->w[0]));
        MW_JTRY(see_target(s, &filter, n->w[0], false, true));
        MW_JTRY(see_expr(s, &filter, n->c));
        MW_JTRY(bind_expr(s, &filter, n->w[0]));
        MW_JTRY(bind_expr(s, &filter, n->c));
        MW_JTRY(keep(s, &filter, n, 2, 3));
    }
    MW_JTRY(bind_stmt(s, &loop, n->v[0]));
    return bind_stmt(s, &other, n->v[1]);
}

/* caller, kwargs and varargs are parameters of a function whose body has them. */
static mw_status see_special(resolver *s, scope *own, mw_jnode *n) {
    static const char *const text[] = {"caller", "kwargs", "varargs"};
    for (int i = 0; i < 3; i++) {
        uint32_t name, at;
        if (!mentions(s->p, n->c, text[i])) continue;
        MW_JTRY(mw_jintern(s->p, mw_jstr_wrap(text[i], strlen(text[i])), &name));
        MW_JTRY(see_param(s, own, name));
        if (map_get(&own->names, name, &at)) n->special[i] = own->load[at].slot + 1;
    }
    return MW_OK;
}

/* A macro, a call block, or a generation block, which is one without parameters. */
static mw_status bind_function(resolver *s, scope *in, mw_jnode *n) {
    function fn = {.depth = in->fn->depth + 1};
    scope own = inner(in, &fn);
    if (n->a) MW_JTRY(bind_expr(s, in, n->a));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(see_param(s, &own, n->v[i]->name));
    for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(see_expr(s, &own, n->w[i]));
    MW_JTRY(see_stmt(s, &own, n->c, false));
    MW_JTRY(see_special(s, &own, n));
    MW_JTRY(keep(s, &own, n, 0, 1));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(bind(s, &own, n->v[i]));
    s->in_defaults = true;
    for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(bind_expr(s, &own, n->w[i]));
    s->in_defaults = false;
    MW_JTRY(bind_stmt(s, &own, n->c));
    n->slots = fn.n_slot;
    return MW_OK;
}

static mw_status bind_with(resolver *s, scope *in, mw_jnode *n) {
    scope own = inner(in, in->fn);
    for (uint32_t i = 0; i < n->nw; i++) MW_JTRY(bind_expr(s, in, n->w[i]));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(see_target(s, &own, n->v[i], false, true));
    MW_JTRY(see_stmt(s, &own, n->c, false));
    MW_JTRY(keep(s, &own, n, 0, 1));
    for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(bind_expr(s, &own, n->v[i]));
    return bind_stmt(s, &own, n->c);
}

/* filter and set blocks. The filters of a set block are not read for names, which is a quirk of Jinja's. */
static mw_status bind_captured(resolver *s, scope *in, mw_jnode *n) {
    scope own = inner(in, in->fn);
    if (n->a) MW_JTRY(bind_expr(s, in, n->a));
    MW_JTRY(see_stmt(s, &own, n->c, false));
    if (n->kind == MW_JN_FILTERED) MW_JTRY(see_expr(s, &own, n->b));
    MW_JTRY(keep(s, &own, n, 0, 1));
    MW_JTRY(bind_expr(s, &own, n->b));
    return bind_stmt(s, &own, n->c);
}

static mw_status bind_stmt(resolver *s, scope *in, mw_jnode *n) {
    if (!n) return MW_OK;
    switch ((mw_jkind)n->kind) {
    case MW_JN_BODY:
        for (uint32_t i = 0; i < n->nv; i++) MW_JTRY(bind_stmt(s, in, n->v[i]));
        return MW_OK;
    case MW_JN_PRINT: return bind_expr(s, in, n->a);
    case MW_JN_IF:
        for (uint32_t i = 0; i < n->nv; i++) {
            bool is_test = i % 2 == 0 && i + 1 < n->nv;
            MW_JTRY(is_test ? bind_expr(s, in, n->v[i]) : bind_stmt(s, in, n->v[i]));
        }
        return MW_OK;
    case MW_JN_FOR: return bind_for(s, in, n);
    case MW_JN_SET: MW_JTRY(bind_expr(s, in, n->b)); return bind_expr(s, in, n->a);
    case MW_JN_MACRO:
    case MW_JN_CALLBLOCK:
    case MW_JN_GENERATE: return bind_function(s, in, n);
    case MW_JN_WITH: return bind_with(s, in, n);
    case MW_JN_SETBLOCK:
    case MW_JN_FILTERED: return bind_captured(s, in, n);
    default: return MW_OK;
    }
}

mw_status mw_jscope_resolve(mw_jparser *p, mw_jnode *root, const mw_jval **global_names, uint32_t *n_global) {
    resolver s = {.p = p};
    function fn = {0};
    scope own = inner(NULL, &fn);
    MW_JTRY(see_stmt(&s, &own, root, false));
    MW_JTRY(keep(&s, &own, root, 0, 1));
    MW_JTRY(bind_stmt(&s, &own, root));
    root->slots = fn.n_slot;
    *global_names = s.global_name;
    *n_global = s.n_global;
    return MW_OK;
}
