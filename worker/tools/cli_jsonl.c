/* --jsonl: requests in, answers out, batched together, in input order. A bad line is answered by an error object and
 * harms no other. */
#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/tools/cli_request.h"

#define WINDOW 1024 /* lines under way at once */

typedef struct {
    uint64_t id; /* of the engine; 0: answered without it */
    cli_reply reply;
} slot;

typedef struct {
    mw_engine *e;
    const cli_opts *o;
    slot *ring; /* [WINDOW] */
    size_t head, tail;
    size_t prompt_tokens, output_tokens;
    double ttft_s;
    bool stopped;
} queue;

static mw_status take_line(queue *q, const char *line, size_t n) {
    cli_request rq;
    slot *s = &q->ring[q->tail % WINDOW];
    mw_status parsed = cli_request_parse(q->o, line, n, &rq);
    s->id = 0;
    mw_status st =
        cli_reply_init(&s->reply, json_object_get(rq.object, "id"),
                       parsed == MW_OK && rq.r.sampling.n > 0 && rq.r.sampling.n <= 128 ? rq.r.sampling.n : 1);
    if (st == MW_OK && parsed == MW_OK) parsed = mw_engine_submit(q->e, &rq.r, &s->id);
    if (st == MW_OK && parsed != MW_OK) st = cli_reply_fail(&s->reply, parsed, mw_error_text());
    cli_request_free(&rq);
    if (st == MW_OK) q->tail++;
    return st;
}

static mw_status take_lines(queue *q, cli_input *in) {
    const char *line;
    size_t n;
    mw_status st = MW_OK;
    while (st == MW_OK && q->tail - q->head < WINDOW && cli_input_line(in, &line, &n))
        if (n > 0) st = take_line(q, line, n);
    return st;
}

static mw_status take_event(queue *q, const mw_event *ev) {
    for (size_t i = q->head; i < q->tail; i++) {
        slot *s = &q->ring[i % WINDOW];
        if (s->id == ev->id) return cli_reply_take(&s->reply, ev);
    }
    return MW_OK;
}

static mw_status write_finished(queue *q) {
    mw_status st = MW_OK;
    mw_str out = {0};
    for (; q->head < q->tail && q->ring[q->head % WINDOW].reply.open == 0; q->head++) {
        cli_reply *p = &q->ring[q->head % WINDOW].reply;
        out.n = 0;
        MW_TRY(st, cli_reply_write(p, &out));
        MW_TRY(st, cli_write(out.p, out.n));
        q->prompt_tokens += p->prompt_tokens;
        q->output_tokens += p->output_tokens;
        if (q->ttft_s == 0) q->ttft_s = p->ttft_s;
        cli_reply_free(p);
    }
fail:
    mw_str_free(&out);
    return st;
}

/* Ctrl-C: what is under way ends early and is still answered; no further line is read. */
static void stop(queue *q) {
    q->stopped = true;
    for (size_t i = q->head; i < q->tail; i++)
        if (q->ring[i % WINDOW].id) mw_engine_cancel(q->e, q->ring[i % WINDOW].id);
}

static mw_status run(queue *q, cli_input *in) {
    mw_status st = MW_OK;
    for (;;) {
        if (cli_stopping() && !q->stopped) stop(q);
        bool busy = q->head < q->tail, more = !q->stopped && (!in->eof || in->at < in->buf.n);
        if (!busy && !more) return MW_OK;
        if (more && q->tail - q->head < WINDOW) {
            MW_TRY(st, cli_input_fill(in, busy ? 0 : CLI_IDLE_MS));
            MW_TRY(st, take_lines(q, in));
        }
        MW_TRY(st, write_finished(q));
        mw_event ev;
        bool got = false;
        MW_TRY(st, mw_engine_poll(q->e, q->head < q->tail ? 50 : 0, &ev, &got));
        if (!got) continue;
        st = take_event(q, &ev);
        mw_event_free(&ev);
        if (st != MW_OK) goto fail;
    }
fail:
    return st;
}

mw_status cli_run_jsonl(mw_engine *e, const cli_opts *o) {
    mw_status st = MW_OK;
    cli_input in = {0};
    queue q = {.e = e, .o = o};
    double start = mw_now_s();
    MW_TRY(st, MW_CALLOC(&q.ring, WINDOW, "request window"));
    MW_TRY(st, run(&q, &in));
    cli_summary(e, o, mw_now_s() - start, q.prompt_tokens, q.output_tokens, q.ttft_s);
    if (q.stopped) st = MW_FAIL(MW_ERR_INTERRUPTED, "interrupted");
fail:
    for (; q.ring && q.head < q.tail; q.head++) cli_reply_free(&q.ring[q.head % WINDOW].reply);
    free(q.ring);
    cli_input_free(&in);
    return st;
}
