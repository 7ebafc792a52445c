#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "worker/base/io.h"
#include "worker/server/http.h"

#define MAX_KEYS     1024
#define MAX_KEY_FILE ((size_t)1 << 20)

static mw_status add_key(mw_keys *k, const char *p, size_t n) {
    if (k->n == MAX_KEYS) return MW_FAIL(MW_ERR_LIMIT, "more than %d API keys", MAX_KEYS);
    if (n == 0) return MW_FAIL(MW_ERR_USAGE, "an API key is empty");
    return mw_str_add(&k->key[k->n++], p, n);
}

/* One a line; empty lines and lines that begin with '#' are passed over. */
static mw_status add_file(mw_keys *k, const char *path) {
    mw_status st = MW_OK;
    mw_str text = {0};
    int before = k->n;
    MW_TRY(st, mw_read_file(path, MAX_KEY_FILE, &text));
    for (size_t at = 0; at < text.n;) {
        size_t n = strcspn(text.p + at, "\r\n");
        if (n > 0 && text.p[at] != '#') MW_TRY(st, add_key(k, text.p + at, n));
        at += n + 1;
    }
    if (k->n == before) st = MW_FAIL(MW_ERR_USAGE, "--api-key-file %s has no key in it", path);
fail:
    if (text.p) explicit_bzero(text.p, text.n);
    mw_str_free(&text);
    return st;
}

mw_status mw_keys_load(mw_keys *k, const mw_server_options *opt) {
    mw_status st = MW_OK;
    *k = (mw_keys){0};
    MW_TRY(st, MW_CALLOC(&k->key, MAX_KEYS, "API keys"));
    for (int i = 0; i < opt->n_api_keys; i++) MW_TRY(st, add_key(k, opt->api_keys[i], strlen(opt->api_keys[i])));
    if (opt->api_key_file) MW_TRY(st, add_file(k, opt->api_key_file));
fail:
    return st;
}

void mw_keys_free(mw_keys *k) {
    for (int i = 0; i < k->n; i++) {
        if (k->key[i].p) explicit_bzero(k->key[i].p, k->key[i].n);
        mw_str_free(&k->key[i]);
    }
    free(k->key);
    *k = (mw_keys){0};
}

/* Looks at every byte that was sent, whatever the key is; only the length of what was sent shows in the time. */
static unsigned differs(const mw_str *key, const char *sent, size_t n) {
    unsigned diff = (unsigned)(key->n ^ n) | (unsigned)((key->n ^ n) >> 32);
    for (size_t i = 0; i < n; i++) {
        volatile unsigned char have = (unsigned char)key->p[i % key->n];
        diff |= (unsigned)(have ^ (unsigned char)sent[i]);
    }
    return diff;
}

bool mw_keys_allow(const mw_keys *k, const char *header) {
    if (k->n == 0) return true;
    if (!header || strncasecmp(header, "Bearer ", 7) != 0) return false;
    const char *sent = header + 7;
    while (*sent == ' ') sent++;
    size_t n = strlen(sent);
    unsigned any = 0;
    for (int i = 0; i < k->n; i++) any |= differs(&k->key[i], sent, n) == 0;
    return any != 0;
}
