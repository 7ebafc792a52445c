/* worker/server/json_out.h - JSON text, written as it goes. Commas are put in by the writer; the first failure to grow
 * stays in `st`, what follows is ignored, so that a caller checks once at the end.
 *
 *   mw_json_open(&w, '{'); mw_json_key(&w, "n"); mw_json_int(&w, 1); mw_json_close(&w, '}');
 */
#ifndef MW_SERVER_JSON_OUT_H
#define MW_SERVER_JSON_OUT_H
#include <stdbool.h>
#include <stdint.h>

#include "worker/base/mem.h"

typedef struct mw_json_out {
    mw_str s;
    mw_status st;
    bool comma; /* a value stands before */
} mw_json_out;

void mw_json_open(mw_json_out *w, char bracket);  /* '{' or '[' */
void mw_json_close(mw_json_out *w, char bracket); /* '}' or ']' */
void mw_json_key(mw_json_out *w, const char *name);
void mw_json_int(mw_json_out *w, int64_t v);
void mw_json_real(mw_json_out *w, double v); /* finite ones; others become the nearest JSON can say, or null for NaN */
void mw_json_bool(mw_json_out *w, bool v);
void mw_json_null(mw_json_out *w);
void mw_json_raw(mw_json_out *w, const char *json, size_t n); /* a value that is JSON already */
/* Bytes that should be UTF-8; what is not becomes U+FFFD. */
void mw_json_text(mw_json_out *w, const char *p, size_t n);
void mw_json_str(mw_json_out *w, const char *text); /* NULL: null */

/* Outside JSON, in the same buffer. */
void mw_json_plain(mw_json_out *w, const char *text);

/* name: value, in one */
void mw_json_key_int(mw_json_out *w, const char *name, int64_t v);
void mw_json_key_real(mw_json_out *w, const char *name, double v);
void mw_json_key_str(mw_json_out *w, const char *name, const char *text);
void mw_json_key_bool(mw_json_out *w, const char *name, bool v);

/* What was written, moved out: the writer is empty again. MW_ERR_NOMEM if it failed on the way. */
MW_MUST_CHECK mw_status mw_json_take(mw_json_out *w, mw_str *out);
void mw_json_free(mw_json_out *w);

#endif
