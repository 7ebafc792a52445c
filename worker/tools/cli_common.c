#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/log.h"
#include "worker/tools/cli.h"

#define MAX_INPUT_LINE ((size_t)64 << 20)

mw_status cli_input_fill(cli_input *in, int timeout_ms) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    if (in->eof) return MW_OK;
    int ready = poll(&p, 1, timeout_ms);
    if (ready < 0 && errno != EINTR) return MW_FAIL(MW_ERR_IO, "standard input: %s", strerror(errno));
    if (ready <= 0) return MW_OK;
    if (in->at > 0) { /* what was handed out is done with */
        memmove(in->buf.p, in->buf.p + in->at, in->buf.n - in->at);
        in->buf.n -= in->at;
        in->at = 0;
    }
    if (in->buf.n > MAX_INPUT_LINE)
        return MW_FAIL(MW_ERR_LIMIT, "an input line is longer than %zu bytes", MAX_INPUT_LINE);
    mw_status st = mw_str_reserve(&in->buf, 65536);
    if (st != MW_OK) return st;
    ssize_t n = read(STDIN_FILENO, in->buf.p + in->buf.n, 65536);
    if (n < 0 && errno == EINTR) return MW_OK;
    if (n < 0) return MW_FAIL(MW_ERR_IO, "standard input: %s", strerror(errno));
    in->eof = n == 0;
    in->buf.n += (size_t)n;
    return MW_OK;
}

bool cli_input_line(cli_input *in, const char **line, size_t *n) {
    if (in->at >= in->buf.n) return false;
    const char *p = in->buf.p + in->at, *end = memchr(p, '\n', in->buf.n - in->at);
    if (!end && !in->eof) return false;
    size_t len = end ? (size_t)(end - p) : in->buf.n - in->at;
    in->at += len + (end != NULL);
    if (len > 0 && p[len - 1] == '\r') len--;
    *line = p;
    *n = len;
    return true;
}

void cli_input_free(cli_input *in) {
    mw_str_free(&in->buf);
}

mw_status cli_say(json_t *messages, const char *role, const char *text, size_t n) {
    json_t *m = json_object(), *content = json_stringn(text, n);
    if (!content) {
        json_decref(m);
        return MW_FAIL(MW_ERR_USAGE, "a message is not valid UTF-8");
    }
    if (!m || json_object_set_new(m, "role", json_string(role)) || json_object_set_new(m, "content", content) ||
        json_array_append_new(messages, m))
        return MW_FAIL(MW_ERR_NOMEM, "message");
    return MW_OK;
}

mw_status cli_conversation(const cli_opts *o, json_t **messages) {
    json_t *list = json_array();
    mw_status st = list ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "conversation");
    if (st == MW_OK && o->system) st = cli_say(list, "system", o->system, strlen(o->system));
    if (st == MW_OK)
        *messages = list;
    else
        json_decref(list);
    return st;
}

mw_status cli_messages(const json_t *messages, char **text) {
    *text = json_dumps(messages, JSON_COMPACT);
    return *text ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "conversation");
}

void cli_summary(mw_engine *e, const cli_opts *o, double seconds, size_t prompt_tokens, size_t output_tokens,
                 double ttft_s) {
    mw_engine_info i;
    char w[16], kv[16];
    if (o->quiet) return;
    mw_engine_describe(e, &i);
    double decode = seconds - ttft_s;
    double rate = output_tokens > 1 && decode > 0 ? (double)(output_tokens - 1) / decode : 0;
    mw_info(
        "%zu prompt + %zu new tokens in %.2f s: %.1f tokens/s, TTFT %.0f ms; %d rank%s x %d thread%s (%s), %s weights "
        "+ %s KV cache a rank; loaded in %.2f s",
        prompt_tokens, output_tokens, seconds, rate, ttft_s * 1e3, i.n_ranks, i.n_ranks == 1 ? "" : "s", i.threads,
        i.threads == 1 ? "" : "s", i.backend, mw_human_bytes(i.weight_bytes, w), mw_human_bytes(i.kv_bytes, kv),
        i.load_s);
}

mw_status cli_write(const void *p, size_t n) {
    const char *at = p;
    while (n > 0) {
        ssize_t w = write(STDOUT_FILENO, at, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return MW_FAIL(MW_ERR_IO, "standard output: %s", strerror(errno));
        at += w;
        n -= (size_t)w;
    }
    return MW_OK;
}
