#include "worker/server/json_out.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void put(mw_json_out *w, const char *p, size_t n) {
    if (w->st == MW_OK) w->st = mw_str_add(&w->s, p, n);
}

static void begin_value(mw_json_out *w) {
    if (w->comma) put(w, ",", 1);
    w->comma = true;
}

void mw_json_open(mw_json_out *w, char bracket) {
    begin_value(w);
    put(w, &bracket, 1);
    w->comma = false;
}

void mw_json_close(mw_json_out *w, char bracket) {
    put(w, &bracket, 1);
    w->comma = true;
}

void mw_json_key(mw_json_out *w, const char *name) {
    mw_json_str(w, name);
    put(w, ":", 1);
    w->comma = false;
}

void mw_json_raw(mw_json_out *w, const char *json, size_t n) {
    begin_value(w);
    put(w, json, n);
}

void mw_json_int(mw_json_out *w, int64_t v) {
    char buf[24];
    mw_json_raw(w, buf, (size_t)snprintf(buf, sizeof buf, "%lld", (long long)v));
}

void mw_json_real(mw_json_out *w, double v) {
    char buf[40];
    if (isnan(v)) {
        mw_json_null(w);
        return;
    }
    if (isinf(v)) v = v < 0 ? -9999.0 : 9999.0; /* what others write for a log-probability of minus infinity */
    mw_json_raw(w, buf, (size_t)snprintf(buf, sizeof buf, "%.9g", v));
}

void mw_json_bool(mw_json_out *w, bool v) {
    mw_json_raw(w, v ? "true" : "false", v ? 4 : 5);
}

void mw_json_null(mw_json_out *w) {
    mw_json_raw(w, "null", 4);
}

/* Length of the UTF-8 character at p, 0 where there is none. *bad: bytes to replace by one U+FFFD. */
static size_t utf8_length(const unsigned char *p, size_t n, size_t *bad) {
    static const unsigned char low[] = {0x80, 0xA0, 0x80, 0x90, 0x80}, high[] = {0xBF, 0xBF, 0x9F, 0xBF, 0x8F};
    *bad = 1;
    if (p[0] < 0x80) return 1;
    size_t len = p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    if (len == 0) return 0;
    int second = p[0] == 0xE0 ? 1 : p[0] == 0xED ? 2 : p[0] == 0xF0 ? 3 : p[0] == 0xF4 ? 4 : 0;
    for (size_t i = 1; i < len; i++) {
        unsigned char lo = i == 1 ? low[second] : 0x80, hi = i == 1 ? high[second] : 0xBF;
        if (i >= n || p[i] < lo || p[i] > hi) return 0;
        *bad = i + 1;
    }
    return len;
}

/* One byte that cannot stand for itself. */
static void put_escaped(mw_json_out *w, unsigned char c) {
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *at = strchr(from, c);
    char buf[8];
    if (at && c)
        put(w, buf, (size_t)snprintf(buf, sizeof buf, "\\%c", to[at - from]));
    else
        put(w, buf, (size_t)snprintf(buf, sizeof buf, "\\u%04x", c));
}

void mw_json_text(mw_json_out *w, const char *p, size_t n) {
    const unsigned char *b = (const unsigned char *)p;
    size_t from = 0, at = 0;
    begin_value(w);
    put(w, "\"", 1);
    while (at < n) {
        size_t bad, len = utf8_length(b + at, n - at, &bad);
        if (len > 0 && b[at] >= 0x20 && b[at] != '"' && b[at] != '\\' && b[at] != 0x7F) {
            at += len;
            continue;
        }
        if (at > from) put(w, p + from, at - from);
        if (len == 0)
            put(w, "\xEF\xBF\xBD", 3);
        else
            put_escaped(w, b[at]);
        at += len == 0 ? bad : 1;
        from = at;
    }
    if (at > from) put(w, p + from, at - from);
    put(w, "\"", 1);
}

void mw_json_str(mw_json_out *w, const char *text) {
    if (text)
        mw_json_text(w, text, strlen(text));
    else
        mw_json_null(w);
}

void mw_json_plain(mw_json_out *w, const char *text) {
    put(w, text, strlen(text));
    w->comma = false;
}

void mw_json_key_int(mw_json_out *w, const char *name, int64_t v) {
    mw_json_key(w, name);
    mw_json_int(w, v);
}
void mw_json_key_real(mw_json_out *w, const char *name, double v) {
    mw_json_key(w, name);
    mw_json_real(w, v);
}
void mw_json_key_str(mw_json_out *w, const char *name, const char *text) {
    mw_json_key(w, name);
    mw_json_str(w, text);
}
void mw_json_key_bool(mw_json_out *w, const char *name, bool v) {
    mw_json_key(w, name);
    mw_json_bool(w, v);
}

mw_status mw_json_take(mw_json_out *w, mw_str *out) {
    mw_status st = w->st;
    if (st == MW_OK) {
        *out = w->s;
        w->s = (mw_str){0};
    }
    mw_json_free(w);
    return st;
}

void mw_json_free(mw_json_out *w) {
    mw_str_free(&w->s);
    *w = (mw_json_out){0};
}
