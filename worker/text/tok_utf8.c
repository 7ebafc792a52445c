#include "worker/text/tok_utf8.h"

#include <string.h>

int mw_utf8_put(uint32_t c, char dst[4]) {
    if (c < 0x80) {
        dst[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        dst[0] = (char)(0xC0 | c >> 6);
        dst[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        dst[0] = (char)(0xE0 | c >> 12);
        dst[1] = (char)(0x80 | (c >> 6 & 0x3F));
        dst[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    dst[0] = (char)(0xF0 | c >> 18);
    dst[1] = (char)(0x80 | (c >> 12 & 0x3F));
    dst[2] = (char)(0x80 | (c >> 6 & 0x3F));
    dst[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

mw_utf8_kind mw_utf8_scan(const char *p, size_t n, size_t *len) {
    const unsigned char *b = (const unsigned char *)p;
    *len = 1;
    if (b[0] < 0x80) return MW_UTF8_GOOD;
    if (b[0] < 0xC2 || b[0] > 0xF4) return MW_UTF8_BAD;
    size_t want = (size_t)mw_utf8_len(b[0]);
    /* The second byte's range is what keeps out overlong forms, surrogates and code points past U+10FFFF. */
    unsigned lo = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    unsigned hi = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < want; i++) {
        if (i == n) {
            *len = i;
            return MW_UTF8_CUT;
        }
        if (b[i] < lo || b[i] > hi) {
            *len = i;
            return MW_UTF8_BAD;
        }
        lo = 0x80, hi = 0xBF;
    }
    *len = want;
    return MW_UTF8_GOOD;
}

size_t mw_utf8_valid_prefix(const char *p, size_t n) {
    size_t i = 0, len;
    while (i < n) {
        uint64_t eight;
        while (n - i >= 8 && (memcpy(&eight, p + i, 8), !(eight & 0x8080808080808080u))) i += 8;
        if (i == n || mw_utf8_scan(p + i, n - i, &len) != MW_UTF8_GOOD) break;
        i += len;
    }
    return i;
}

mw_status mw_utf8_add_lossy(mw_str *out, const char *p, size_t n) {
    size_t i = 0, len;
    mw_status st;
    for (;;) {
        size_t good = mw_utf8_valid_prefix(p + i, n - i);
        if ((st = mw_str_add(out, p + i, good)) != MW_OK) return st;
        i += good;
        if (i == n) return MW_OK;
        (void)mw_utf8_scan(p + i, n - i, &len);
        if ((st = mw_str_add(out, MW_UTF8_REPLACEMENT, 3)) != MW_OK) return st;
        i += len;
    }
}
