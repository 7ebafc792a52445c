#include "worker/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/engine_internal.h"

#define DEFAULT_QUEUE 4096 /* answers */

/* ---- the engine's thread ---- */

/* Remember how it ended, and wake everybody who waits. */
static void end_phase(mw_engine *e, mw_status st) {
    pthread_mutex_lock(&e->lock);
    e->phase = MW_ENGINE_ENDED;
    e->st = st;
    if (st != MW_OK) memcpy(e->text, mw_error_text(), sizeof e->text);
    pthread_cond_broadcast(&e->to_caller);
    pthread_mutex_unlock(&e->lock);
}

static void await_closing(mw_engine *e) {
    pthread_mutex_lock(&e->lock);
    while (!e->closing) pthread_cond_wait(&e->to_engine, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

static void *engine_main(void *arg) {
    mw_engine *e = arg;
    mw_status st = mw_engine_setup(e);
    if (st == MW_OK) {
        pthread_mutex_lock(&e->lock);
        e->phase = MW_ENGINE_READY;
        pthread_cond_broadcast(&e->to_caller);
        pthread_mutex_unlock(&e->lock);
        if (!e->opt.dry_run) st = e->rank == 0 ? mw_engine_serve(e) : mw_engine_follow_steps(e);
    }
    e->report_here = st != MW_OK && mw_comm_should_report(e->comm);
    mw_engine_teardown(e);
    /* A failed group stays, for mw_engine_exit to end the job with. A sound one is left here, by the thread that joined
     * it, when nobody needs it any more: after a failure that all have agreed on not before its report is out, since
     * the others must not end before that. */
    bool sound = e->comm && !mw_comm_has_failed(e->comm);
    if (st != MW_OK) end_phase(e, st);
    if (st != MW_OK && sound) await_closing(e);
    if (sound) {
        mw_comm_close(e->comm);
        e->comm = NULL;
    }
    if (st == MW_OK) end_phase(e, st);
    return NULL;
}

static mw_status copy_options(mw_engine *e, const mw_engine_options *opt) {
    e->opt = *opt;
    e->opt.model = opt->model ? strdup(opt->model) : NULL;
    if (e->opt.max_queue <= 0) e->opt.max_queue = DEFAULT_QUEUE;
    e->opt.backend = opt->backend ? strdup(opt->backend) : NULL;
    if ((opt->model && !e->opt.model) || (opt->backend && !e->opt.backend)) return MW_FAIL(MW_ERR_NOMEM, "options");
    return MW_OK;
}

mw_status mw_engine_open(mw_engine **out, const mw_engine_options *opt) {
    mw_status st = MW_OK;
    mw_engine *e = NULL;
    *out = NULL;
    MW_TRY(st, MW_CALLOC(&e, 1, "engine"));
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&e->to_engine, &monotonic);
    pthread_cond_init(&e->to_caller, &monotonic);
    pthread_condattr_destroy(&monotonic);
    e->submitted_tail = &e->submitted;
    e->events_tail = &e->events;
    e->fresh_tail = &e->fresh;
    e->next_id = 1;
    *out = e; /* also on failure: whoever must end the job needs the group (mw_engine_exit) */
    MW_TRY(st, copy_options(e, opt));
    int err = pthread_create(&e->thread, NULL, engine_main, e);
    if (err) {
        st = MW_FAIL(MW_ERR_NOMEM, "starting the engine's thread: %s", strerror(err));
        goto fail;
    }
    e->thread_started = true;
    pthread_mutex_lock(&e->lock);
    while (e->phase == MW_ENGINE_OPENING) pthread_cond_wait(&e->to_caller, &e->lock);
    st = e->phase == MW_ENGINE_READY ? MW_OK : e->st;
    pthread_mutex_unlock(&e->lock);
    if (st != MW_OK) mw_error_set_text(e->text);
fail:
    return st;
}

int mw_engine_rank(const mw_engine *e) {
    return e->rank;
}
int mw_engine_size(const mw_engine *e) {
    return e->size;
}

mw_status mw_engine_follow(mw_engine *e) {
    pthread_mutex_lock(&e->lock);
    while (e->phase != MW_ENGINE_ENDED) pthread_cond_wait(&e->to_caller, &e->lock);
    mw_status st = e->st;
    pthread_mutex_unlock(&e->lock);
    if (st != MW_OK) mw_error_set_text(e->text);
    return st;
}

static void free_jobs(mw_job *j) {
    while (j) {
        mw_job *next = j->next;
        mw_job_free(j);
        j = next;
    }
}

static void free_queues(mw_engine *e) {
    free_jobs(e->submitted);
    *e->events_tail = e->fresh;
    while (e->events) {
        mw_event_node *next = e->events->next;
        mw_event_node_free(e->events);
        e->events = next;
    }
    free(e->cancel);
    free(e->stats);
}

mw_status mw_engine_close(mw_engine *e) {
    if (!e) return MW_OK;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->to_engine);
    pthread_mutex_unlock(&e->lock);
    if (e->thread_started) pthread_join(e->thread, NULL);
    mw_status st = e->st;
    if (st != MW_OK) mw_error_set_text(e->text);
    free_queues(e);
    mw_grammar_close(e->grammar);
    mw_tokenizer_close(e->tokenizer);
    mw_chat_close(e->chat);
    mw_str_free(&e->chat_template);
    mw_str_free(&e->report);
    mw_comm_close(e->comm);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->to_engine);
    pthread_cond_destroy(&e->to_caller);
    free((void *)e->opt.model);
    free((void *)e->opt.backend);
    free(e);
    return st;
}

static bool has_failed(mw_engine *e) {
    pthread_mutex_lock(&e->lock);
    bool failed = e->phase == MW_ENGINE_ENDED && e->st != MW_OK;
    pthread_mutex_unlock(&e->lock);
    return failed;
}

bool mw_engine_reports(mw_engine *e) {
    if (!e) return mw_comm_should_report(NULL);
    return has_failed(e) ? e->report_here : e->rank == 0;
}

void mw_engine_exit(mw_engine *e, int code) {
    if (e && has_failed(e) && e->comm && mw_comm_has_failed(e->comm)) mw_comm_exit(e->comm, code);
    (void)mw_engine_close(e); /* its failure has been told, or is the reason for being here */
    mw_comm_exit(NULL, code);
}

/* ---- requests and events ---- */

/* Is there room for n more answers? Under the lock. */
static mw_status check_queue(const mw_engine *e, int64_t n) {
    int most = e->opt.max_queue;
    if (n > most) return MW_FAIL(MW_ERR_LIMIT, "%lld answers asked for, the queue holds %d", (long long)n, most);
    if (e->n_open <= most - n) return MW_OK;
    return MW_FAIL(MW_ERR_BUSY, "%d answers are waiting or under way, the limit is %d: try again later", e->n_open,
                   most);
}

/* Hands a chain of jobs with `answers` answers to the engine's thread, or keeps none of it. */
static mw_status enqueue(mw_engine *e, mw_job *chain, int64_t answers, uint64_t *id) {
    mw_status st = MW_OK;
    pthread_mutex_lock(&e->lock);
    if (e->phase != MW_ENGINE_READY || e->closing)
        st = MW_FAIL(e->st != MW_OK ? e->st : MW_ERR_CANCELLED, "the engine has ended%s%s", e->text[0] ? ": " : "",
                     e->text);
    else
        st = check_queue(e, answers);
    if (st == MW_OK) {
        e->n_open += (int)answers;
        *e->submitted_tail = chain;
        for (mw_job *j = chain; j; j = j->next) {
            *id++ = j->id = e->next_id++;
            e->submitted_tail = &j->next;
        }
        pthread_cond_signal(&e->to_engine);
    }
    pthread_mutex_unlock(&e->lock);
    return st;
}

mw_status mw_engine_submit_all(mw_engine *e, const mw_request *r, int n, uint64_t *id) {
    mw_job *chain = NULL, **tail = &chain;
    int64_t answers = 0;
    if (e->rank != 0) return MW_FAIL(MW_ERR_USAGE, "requests are submitted on rank 0, this is rank %d", e->rank);
    if (e->opt.dry_run) return MW_FAIL(MW_ERR_USAGE, "a dry run takes no requests");
    pthread_mutex_lock(&e->lock);
    /* Before the work of tokenising: a flood is turned away cheaply. */
    mw_status st = e->phase == MW_ENGINE_READY ? check_queue(e, n) : MW_OK;
    pthread_mutex_unlock(&e->lock);
    for (int i = 0; i < n && st == MW_OK; i++) {
        st = mw_job_new(tail, e, &r[i]);
        if (st != MW_OK) break;
        answers += (*tail)->sampling.n;
        tail = &(*tail)->next;
    }
    if (st == MW_OK) st = enqueue(e, chain, answers, id);
    if (st != MW_OK) free_jobs(chain);
    return st;
}

mw_status mw_engine_submit(mw_engine *e, const mw_request *r, uint64_t *id) {
    return mw_engine_submit_all(e, r, 1, id);
}

void mw_engine_cancel(mw_engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    if (e->n_cancel == e->cap_cancel) {
        size_t cap = e->cap_cancel ? 2 * e->cap_cancel : 16;
        uint64_t *p = realloc(e->cancel, cap * sizeof *p);
        if (p) {
            e->cancel = p;
            e->cap_cancel = cap;
        }
    }
    if (e->n_cancel < e->cap_cancel) e->cancel[e->n_cancel++] = id; /* else: it ends by itself, only later */
    pthread_cond_signal(&e->to_engine);
    pthread_mutex_unlock(&e->lock);
}

static void deadline_in(struct timespec *t, int ms) {
    clock_gettime(CLOCK_MONOTONIC, t);
    t->tv_sec += ms / 1000;
    t->tv_nsec += (long)(ms % 1000) * 1000000;
    if (t->tv_nsec >= 1000000000) t->tv_sec++, t->tv_nsec -= 1000000000;
}

mw_status mw_engine_poll(mw_engine *e, int timeout_ms, mw_event *ev, bool *got) {
    struct timespec until;
    mw_status st = MW_OK;
    int err = 0;
    if (timeout_ms > 0) deadline_in(&until, timeout_ms);
    *got = false;
    pthread_mutex_lock(&e->lock);
    while (!e->events && e->phase == MW_ENGINE_READY && timeout_ms != 0 && err != ETIMEDOUT)
        err = timeout_ms < 0 ? pthread_cond_wait(&e->to_caller, &e->lock)
                             : pthread_cond_timedwait(&e->to_caller, &e->lock, &until);
    mw_event_node *node = e->events;
    if (node) {
        e->events = node->next;
        if (!e->events) e->events_tail = &e->events;
    } else if (e->phase == MW_ENGINE_ENDED) {
        st = e->st;
    }
    pthread_mutex_unlock(&e->lock);
    if (node) {
        *ev = node->ev;
        *got = true;
    } else if (st != MW_OK) {
        mw_error_set_text(e->text);
    }
    return st;
}

void mw_event_free(mw_event *ev) {
    mw_event_node_free(ev->owner);
    ev->owner = NULL;
}

/* ---- text ---- */

static mw_status need_tokenizer(const mw_engine *e) {
    if (e->tokenizer) return MW_OK;
    return MW_FAIL(MW_ERR_UNSUPPORTED, "%s has no tokenizer", e->opt.model);
}

mw_status mw_engine_tokenize(mw_engine *e, const char *text, size_t n, bool add_special, int32_t **ids, size_t *n_ids) {
    mw_ids v = {0};
    mw_status st = need_tokenizer(e);
    if (st == MW_OK) st = mw_tokenizer_encode(e->tokenizer, text, n, add_special ? MW_TOK_ADD_SPECIAL : 0, &v);
    if (st != MW_OK) {
        mw_ids_free(&v);
        return st;
    }
    *ids = v.p;
    *n_ids = v.n;
    return MW_OK;
}

mw_status mw_engine_detokenize(mw_engine *e, const int32_t *ids, size_t n, bool skip_special, char **text,
                               size_t *text_len) {
    mw_str s = {0};
    mw_status st = need_tokenizer(e);
    if (st == MW_OK) st = mw_tokenizer_decode(e->tokenizer, ids, n, skip_special, &s);
    if (st == MW_OK) st = mw_str_add(&s, "", 0); /* a string even when nothing was decoded */
    if (st != MW_OK) {
        mw_str_free(&s);
        return st;
    }
    *text = s.p;
    *text_len = s.n;
    return MW_OK;
}

mw_status mw_engine_tokenize_chat(mw_engine *e, const char *messages_json, const char *tools_json,
                                  const char *template_json, bool add_generation_prompt, int32_t **ids, size_t *n_ids) {
    mw_ids v = {0};
    const mw_request r = {.messages_json = messages_json, .tools_json = tools_json, .template_json = template_json};
    mw_status st = need_tokenizer(e);
    if (st == MW_OK) st = mw_chat_ids(e, &r, add_generation_prompt, &v);
    if (st != MW_OK) {
        mw_ids_free(&v);
        return st;
    }
    *ids = v.p;
    *n_ids = v.n;
    return MW_OK;
}

mw_status mw_engine_token_piece(mw_engine *e, int32_t id, char **bytes, size_t *n) {
    mw_str s = {0};
    mw_status st = need_tokenizer(e);
    if (st == MW_OK) st = mw_tokenizer_piece(e->tokenizer, id, &s);
    if (st == MW_OK) st = mw_str_add(&s, "", 0);
    if (st != MW_OK) {
        mw_str_free(&s);
        return st;
    }
    *bytes = s.p;
    *n = s.n;
    return MW_OK;
}

const char *mw_engine_chat_template(mw_engine *e) {
    return e->chat ? e->chat_template.p : NULL;
}

bool mw_engine_can_chat(mw_engine *e, const char **why) {
    *why = e->why_no_chat;
    return e->chat != NULL;
}

/* ---- what is going on ---- */

void mw_engine_describe(mw_engine *e, mw_engine_info *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->info;
    pthread_mutex_unlock(&e->lock);
}

mw_status mw_engine_rank_stats(mw_engine *e, int rank, mw_rank_stats *out) {
    mw_status st = MW_OK;
    pthread_mutex_lock(&e->lock);
    if (!e->stats || rank < 0 || rank >= e->size)
        st =
            MW_FAIL(MW_ERR_USAGE, "figures of rank %d: there are %d ranks, and only rank 0 of a loaded engine has them",
                    rank, e->size);
    else
        *out = e->stats[rank];
    pthread_mutex_unlock(&e->lock);
    return st;
}

mw_status mw_engine_report(mw_engine *e, char **text) {
    *text = strdup(e->report.p ? e->report.p : "");
    return *text ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "report");
}
