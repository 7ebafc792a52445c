/* Text in, text out: one prompt, a pipe of prompts, a person at a terminal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/tools/cli.h"

/* A prompt as a request: plain text, or the only message of a chat. *owned is to be freed after submit. */
static mw_status make_request(const cli_opts *o, const char *text, size_t n, mw_request *r, char **owned) {
    mw_status st = MW_OK;
    json_t *messages = NULL;
    *r = (mw_request){.sampling = o->sampling};
    *owned = NULL;
    if (!o->chat) {
        r->text = text;
        r->text_len = n;
        return MW_OK;
    }
    MW_TRY(st, cli_conversation(o, &messages));
    MW_TRY(st, cli_say(messages, "user", text, n));
    MW_TRY(st, cli_messages(messages, owned));
    r->messages_json = *owned;
fail:
    json_decref(messages);
    return st;
}

static mw_status submit(mw_engine *e, const cli_opts *o, const char *text, size_t n, uint64_t *id) {
    mw_request r;
    char *owned = NULL;
    mw_status st = make_request(o, text, n, &r, &owned);
    if (st == MW_OK) st = mw_engine_submit(e, &r, id);
    free(owned);
    return st;
}

/* ---- one answer, as it comes ---- */

typedef struct {
    mw_str text[128]; /* answers after the first wait until it is complete */
    size_t prompt_tokens, output_tokens;
    double ttft_s, total_s;
    bool cancelled;
} answers;

/* Poll until request `id` is over. Answer 0 is written at once; `kept`, when given, gets its text as well. */
static mw_status stream(mw_engine *e, uint64_t id, int n, answers *a, mw_str *kept) {
    mw_status st = MW_OK;
    int open = n;
    while (open > 0) {
        mw_event ev;
        bool got;
        MW_TRY(st, mw_engine_poll(e, 50, &ev, &got));
        if (cli_stopping() && !a->cancelled) {
            a->cancelled = true;
            mw_engine_cancel(e, id);
        }
        if (!got) continue;
        if (ev.id == id && (ev.type == MW_EVENT_TOKEN || ev.type == MW_EVENT_DONE) && ev.text_len > 0) {
            st = ev.index == 0 ? cli_write(ev.text, ev.text_len) : mw_str_add(&a->text[ev.index], ev.text, ev.text_len);
            if (st == MW_OK && kept && ev.index == 0) st = mw_str_add(kept, ev.text, ev.text_len);
        }
        if (ev.id == id && ev.type == MW_EVENT_DONE) {
            open--;
            a->prompt_tokens = ev.prompt_tokens;
            a->output_tokens += ev.output_tokens;
            a->ttft_s = ev.ttft_s;
            a->total_s = ev.total_s;
        }
        if (ev.id == id && ev.type == MW_EVENT_ERROR) st = MW_FAIL(ev.status, "%s", ev.text);
        mw_event_free(&ev);
        if (st != MW_OK) goto fail;
    }
fail:
    return st;
}

mw_status cli_run_prompt(mw_engine *e, const cli_opts *o, const char *text, size_t n) {
    mw_status st = MW_OK;
    uint64_t id;
    answers *a = NULL;
    MW_TRY(st, MW_CALLOC(&a, 1, "answers"));
    MW_TRY(st, submit(e, o, text, n, &id));
    MW_TRY(st, stream(e, id, o->sampling.n, a, NULL));
    MW_TRY(st, cli_write("\n", 1));
    for (int i = 1; i < o->sampling.n; i++) {
        MW_TRY(st, mw_str_adds(&a->text[i], "\n"));
        MW_TRY(st, cli_write(a->text[i].p, a->text[i].n));
    }
    cli_summary(e, o, a->total_s, a->prompt_tokens, a->output_tokens, a->ttft_s);
    if (a->cancelled) st = MW_FAIL(MW_ERR_INTERRUPTED, "interrupted");
fail:
    for (int i = 0; a && i < 128; i++) mw_str_free(&a->text[i]);
    free(a);
    return st;
}

/* Statuses that say something about a request and nothing about the engine. */
static bool this_request_only(mw_status st) {
    return st == MW_ERR_USAGE || st == MW_ERR_LIMIT || st == MW_ERR_UNSUPPORTED || st == MW_ERR_FORMAT ||
           st == MW_ERR_NUMERIC;
}

/* ---- a pipe of prompts ---- */

#define WINDOW 256 /* lines under way at once; their answers leave in input order */

typedef struct {
    uint64_t id;
    bool over;
    mw_str text;
} line_slot;

typedef struct {
    line_slot slot[WINDOW];
    size_t head, tail; /* lines head..tail-1 are under way */
    size_t prompt_tokens, output_tokens;
    double ttft_s; /* of the first line */
    bool cancelled;
    size_t n_failed;
    mw_status failed; /* the first */
} line_queue;

/* A prompt that cannot be answered leaves its line empty, or as far as it had come; the others go on, and the exit code
 * tells of the first. */
static mw_status line_failed(line_queue *q, size_t i, mw_status why, const char *text) {
    mw_warn("prompt %zu: %s", i + 1, text);
    q->slot[i % WINDOW].over = true;
    if (q->n_failed++ == 0) q->failed = why;
    return MW_OK;
}

static mw_status take_lines(mw_engine *e, const cli_opts *o, cli_input *in, line_queue *q) {
    mw_status st = MW_OK;
    const char *line;
    size_t n;
    while (q->tail - q->head < WINDOW && cli_input_line(in, &line, &n)) {
        if (n == 0) continue; /* an empty line is no prompt */
        line_slot *s = &q->slot[q->tail % WINDOW];
        *s = (line_slot){0};
        st = submit(e, o, line, n, &s->id);
        if (this_request_only(st)) st = line_failed(q, q->tail, st, mw_error_text());
        if (st != MW_OK) break;
        q->tail++;
    }
    return st;
}

static mw_status take_event(const mw_event *ev, line_queue *q) {
    mw_status st = MW_OK;
    for (size_t i = q->head; i < q->tail; i++) {
        line_slot *s = &q->slot[i % WINDOW];
        if (s->id != ev->id) continue;
        if (ev->type == MW_EVENT_ERROR) return line_failed(q, i, ev->status, ev->text);
        if (ev->text_len > 0) MW_TRY(st, mw_str_add(&s->text, ev->text, ev->text_len));
        if (ev->type != MW_EVENT_DONE) break;
        s->over = true;
        q->prompt_tokens += ev->prompt_tokens;
        q->output_tokens += ev->output_tokens;
        if (i == 0) q->ttft_s = ev->ttft_s;
        break;
    }
fail:
    return st;
}

static mw_status write_finished(line_queue *q) {
    mw_status st = MW_OK;
    for (; q->head < q->tail && q->slot[q->head % WINDOW].over; q->head++) {
        line_slot *s = &q->slot[q->head % WINDOW];
        MW_TRY(st, mw_str_adds(&s->text, "\n"));
        MW_TRY(st, cli_write(s->text.p, s->text.n));
        mw_str_free(&s->text);
    }
fail:
    return st;
}

mw_status cli_run_lines(mw_engine *e, const cli_opts *o) {
    mw_status st = MW_OK;
    cli_input in = {0};
    line_queue *q = NULL;
    double start = mw_now_s();
    if (o->sampling.n > 1) return MW_FAIL(MW_ERR_USAGE, "--n needs --prompt or --jsonl: a line has one answer here");
    MW_TRY(st, MW_CALLOC(&q, 1, "line queue"));
    for (;;) {
        bool busy = q->head < q->tail;
        if (cli_stopping() && !q->cancelled) {
            q->cancelled = true;
            for (size_t i = q->head; i < q->tail; i++) mw_engine_cancel(e, q->slot[i % WINDOW].id);
        }
        if (!busy && (in.eof || q->cancelled) && (q->cancelled || in.at >= in.buf.n)) break;
        if (!q->cancelled) {
            if (q->tail - q->head < WINDOW) MW_TRY(st, cli_input_fill(&in, busy ? 0 : CLI_IDLE_MS));
            MW_TRY(st, take_lines(e, o, &in, q));
        }
        MW_TRY(st, write_finished(q));
        mw_event ev;
        bool got;
        MW_TRY(st, mw_engine_poll(e, q->head < q->tail ? 50 : 0, &ev, &got));
        if (!got) continue;
        st = take_event(&ev, q);
        mw_event_free(&ev);
        if (st != MW_OK) goto fail;
    }
    cli_summary(e, o, mw_now_s() - start, q->prompt_tokens, q->output_tokens, q->ttft_s);
    if (q->cancelled)
        st = MW_FAIL(MW_ERR_INTERRUPTED, "interrupted");
    else if (q->n_failed > 0)
        st = MW_FAIL(q->failed, "%zu of %zu prompts failed", q->n_failed, q->tail);
fail:
    for (int i = 0; q && i < WINDOW; i++) mw_str_free(&q->slot[i].text);
    free(q);
    cli_input_free(&in);
    return st;
}

/* ---- a person ---- */

static const char k_help[] = "  /reset  forget the conversation\n  /exit   end (also Ctrl-D)\n"
                             "  Ctrl-C  stop an answer; twice: end\n";

/* The next line of a person, or false at the end of input. Ctrl-C once says how to leave, twice leaves. */
static mw_status ask(mw_engine *e, cli_input *in, const char **line, size_t *n, bool *got) {
    *got = false;
    mw_status st = cli_write("> ", 2);
    while (st == MW_OK && !in->eof && !cli_terminated()) {
        if (cli_input_line(in, line, n)) {
            *got = true;
            return MW_OK;
        }
        int before = cli_interrupts();
        st = cli_input_fill(in, CLI_IDLE_MS);
        mw_event late;
        bool is_late = false;
        if (st == MW_OK) st = mw_engine_poll(e, 0, &late, &is_late); /* nothing is asked: a failure, if anything */
        if (is_late) mw_event_free(&late);
        if (st == MW_OK && cli_interrupts() > before) {
            if (before > 0) return MW_OK;
            st = cli_write("\n(Ctrl-C again or /exit to leave)\n> ", 37);
        }
    }
    if (st == MW_OK && in->eof && cli_input_line(in, line, n)) *got = true;
    return st;
}

/* One turn: the person's words, the answer, both kept in the conversation. */
static mw_status turn(mw_engine *e, const cli_opts *o, bool chat, json_t *messages, const char *line, size_t n) {
    mw_status st = MW_OK;
    char *text = NULL;
    mw_str answer = {0};
    answers *a = NULL;
    uint64_t id;
    size_t said = json_array_size(messages);
    mw_request r = {.sampling = o->sampling};
    if (!o->max_tokens_set) r.sampling.max_tokens = chat ? 1024 : 128;
    MW_TRY(st, MW_CALLOC(&a, 1, "answers"));
    if (chat) {
        MW_TRY(st, cli_say(messages, "user", line, n));
        MW_TRY(st, cli_messages(messages, &text));
        r.messages_json = text;
    } else {
        r.text = line;
        r.text_len = n;
    }
    MW_TRY(st, mw_engine_submit(e, &r, &id));
    cli_interrupts_clear();
    MW_TRY(st, stream(e, id, r.sampling.n, a, &answer));
    cli_interrupts_clear();
    MW_TRY(st, cli_write("\n", 1));
    if (chat) MW_TRY(st, cli_say(messages, "assistant", answer.p ? answer.p : "", answer.n));
    cli_summary(e, o, a->total_s, a->prompt_tokens, a->output_tokens, a->ttft_s);
fail:
    /* A turn without an answer did not happen: templates insist that the roles alternate. */
    while (st != MW_OK && json_array_size(messages) > said) json_array_remove(messages, said);
    for (int i = 0; a && i < 128; i++) mw_str_free(&a->text[i]);
    free(a);
    free(text);
    mw_str_free(&answer);
    return st;
}

mw_status cli_run_interactive(mw_engine *e, const cli_opts *o) {
    mw_status st = MW_OK;
    cli_input in = {0};
    json_t *messages = NULL;
    const char *why = "--raw", *line;
    size_t n;
    bool chat = !o->raw && mw_engine_can_chat(e, &why), got;
    if (o->chat && !chat) return MW_FAIL(MW_ERR_UNSUPPORTED, "chat is not possible: %s", why);
    if (o->sampling.n > 1) return MW_FAIL(MW_ERR_USAGE, "--n needs --prompt or --jsonl: a turn has one answer here");
    mw_info("%s; /help for help", chat ? "chat" : "completion (the model cannot chat, or --raw)");
    MW_TRY(st, cli_conversation(o, &messages));
    for (;;) {
        MW_TRY(st, ask(e, &in, &line, &n, &got));
        if (!got) break;
        cli_interrupts_clear();
        if (n == 0) continue;
        if (n == 5 && memcmp(line, "/exit", n) == 0) break;
        if (n == 5 && memcmp(line, "/help", n) == 0) {
            MW_TRY(st, cli_write(k_help, sizeof k_help - 1));
        } else if (n == 6 && memcmp(line, "/reset", n) == 0) {
            json_decref(messages);
            messages = NULL;
            MW_TRY(st, cli_conversation(o, &messages));
        } else {
            st = turn(e, o, chat, messages, line, n);
            if (this_request_only(st)) { /* say why and go on */
                mw_warn("%s", mw_error_text());
                st = MW_OK;
            }
            if (st != MW_OK) goto fail;
        }
    }
    MW_TRY(st, cli_write("\n", 1));
fail:
    json_decref(messages);
    cli_input_free(&in);
    return st;
}
