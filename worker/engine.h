/* worker/engine.h - the one door to the inference engine: open, submit, poll, cancel, close.
 *
 * The command line, the HTTP server, the benchmark and programs that embed the engine all use this and nothing else;
 * no tensor, rank or device is visible above it. Every rank of an MPI job calls mw_engine_open with equal options (all
 * but the ones marked "rank 0"); afterwards rank 0 submits and polls, the other ranks call mw_engine_follow, which
 * returns when rank 0 closes. The engine starts a thread that owns MPI and the device; the caller's threads never touch
 * either. MPI is initialised by the engine unless the caller has done so with MPI_THREAD_MULTIPLE.
 *
 * Thread-safety: submit, poll, cancel and the text functions may be called from any thread; open and close from one.
 * Functions that return mw_status leave the reason in mw_error_text() of the calling thread.
 * Strings are UTF-8. Inputs are borrowed for the call and copied where they are kept.
 */
#ifndef MW_WORKER_ENGINE_H
#define MW_WORKER_ENGINE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/status.h"

MW_BEGIN_DECLS

typedef struct mw_engine mw_engine;

/* ---- open ------------------------------------------------------------------------------------------------------- */

typedef struct mw_engine_options {
    const char *model;   /* model.h5; or "synthetic:llama-3.1-8b": random weights (shard/synthetic.h) */
    const char *backend; /* "auto", "cpu", "cuda"; NULL: auto */
    int threads;         /* CPU threads of this rank; 0: its share of the host's cores */
    int ctx;             /* longest context of a sequence, tokens; 0: the model's, at most 8192 */
    int max_seqs;        /* sequences in a step; 0: 16 on the CPU backend, 256 on CUDA */
    int max_step_tokens; /* rows of a step (prefill chunk); 0: 256 on the CPU backend, 2048 on CUDA */
    uint64_t kv_bytes;   /* KV cache memory of this rank; 0: enough for max_seqs x ctx, within free memory */
    double gpu_memory;   /* CUDA: part of the GPU's memory that may be used, 0 to 1; 0: 0.9 */
    bool int8_act;       /* CPU: int8 instead of int16 activations: faster prefill, coarser (docs/NUMERICS.md) */
    bool no_verify;      /* do not check the file's checksums while loading */
    bool dry_run;        /* plan and memory only: nothing is loaded, only mw_engine_describe and close are legal */
    double timeout_s;    /* how long a silent rank is waited for; 0: 60 */
    bool progress;       /* rank 0: progress bar on a terminal's stderr */
    int max_queue;       /* rank 0: answers waiting and running at once; beyond it MW_ERR_BUSY; 0: 4096 */
    int overlap; /* rank 0: plan and enqueue a step while the one before it runs; 0: on GPUs; 1: always; -1: never */
    bool no_prefix_cache; /* rank 0: do not look for blocks that earlier requests with the same beginning left */
} mw_engine_options;

/* Collective. On failure every rank gets the same status and the text names the failing rank; *out is set all the same,
 * only mw_engine_reports, mw_engine_exit and mw_engine_close are legal on it. */
MW_API MW_MUST_CHECK mw_status mw_engine_open(mw_engine **out, const mw_engine_options *opt);

MW_API int mw_engine_rank(const mw_engine *e);
MW_API int mw_engine_size(const mw_engine *e);

/* Ranks other than 0: serve until rank 0 closes or the group fails. */
MW_API MW_MUST_CHECK mw_status mw_engine_follow(mw_engine *e);

/* Ends all requests and the group. NULL allowed. Collective in effect: followers return from mw_engine_follow and then
 * close too. Returns the first failure of the group, MW_OK for an orderly end. */
MW_API mw_status mw_engine_close(mw_engine *e);

/* After a failure: is this the one rank of the group that should tell the user? e may be NULL. */
MW_API bool mw_engine_reports(mw_engine *e);

/* Instead of close, for the main() of a program that is its own job: ends the process with `code` in bounded time, and
 * with it the job, also where other ranks are stuck or dead. e may be NULL. */
#if defined(__GNUC__)
__attribute__((noreturn))
#endif
MW_API void
mw_engine_exit(mw_engine *e, int code);

/* ---- requests --------------------------------------------------------------------------------------------------- */

typedef struct mw_token_bias {
    int32_t token;
    float bias; /* added to the logit; -100 and below bans in practice */
} mw_token_bias;

/* What the answer's text must be. A constrained answer is a complete JSON value unless it ends with "length". */
typedef enum { MW_FORMAT_TEXT, MW_FORMAT_JSON_OBJECT, MW_FORMAT_JSON_SCHEMA } mw_answer_format;

/* How to choose tokens. mw_sampling_default() gives greedy decoding of up to 128 tokens. */
typedef struct mw_sampling {
    int max_tokens; /* new tokens at most; 0: only the prompt is run (for prompt_logprobs); -1: to the context's end */
    double temperature;                         /* 0: greedy */
    int top_k;                                  /* 0: off */
    double top_p;                               /* 1: off */
    double min_p;                               /* 0: off; tokens below min_p x the best probability are dropped */
    double repetition_penalty;                  /* 1: off; over prompt and output */
    double presence_penalty, frequency_penalty; /* 0: off; over output */
    uint64_t seed;
    bool has_seed; /* false: a fresh random seed */
    bool ignore_eos;
    int n;                   /* answers to the same prompt; answer i uses seed + i */
    int logprobs;            /* -1: none; 0: chosen token only; k: and the k best */
    int prompt_logprobs;     /* the same for every prompt position after the first */
    const char *const *stop; /* [n_stop] strings; the text ends before the first that appears */
    int n_stop;
    const int32_t *stop_ids; /* [n_stop_ids] */
    int n_stop_ids;
    const mw_token_bias *bias; /* [n_bias] */
    int n_bias;
    mw_answer_format format;
    const char
        *schema; /* JSON Schema text for MW_FORMAT_JSON_SCHEMA; what of the standard is understood: docs/JSON.md */
} mw_sampling;
MW_API mw_sampling mw_sampling_default(void);

/* Exactly one of text, ids, messages_json. */
typedef struct mw_request {
    const char *text; /* tokenised with the model's special tokens in front */
    size_t text_len;
    const int32_t *ids; /* taken as they are */
    size_t n_ids;
    const char *messages_json; /* [{"role":..., "content":...}, ...], rendered by the model's chat template */
    const char *tools_json;    /* [{"type":"function", ...}, ...] for the chat template, with messages_json; or NULL */
    const char *template_json; /* {"name": value, ...}: further variables of the chat template; or NULL */
    mw_sampling sampling;
    double deadline_s; /* since submit; 0: none. Past it the request ends with an ERROR event, MW_ERR_TIMEOUT */
    uint64_t client;   /* who asks: waiting requests of different clients take turns */
    void *user;        /* given back in every event of this request */
} mw_request;

/* *id names the request in events. MW_ERR_USAGE: a parameter is out of range (named); MW_ERR_LIMIT: the prompt does not
 * fit the context; MW_ERR_UNSUPPORTED: messages without a usable chat template; MW_ERR_BUSY: max_queue. Rank 0. */
MW_API MW_MUST_CHECK mw_status mw_engine_submit(mw_engine *e, const mw_request *r, uint64_t *id);

/* The n requests r[], which no step comes between: they start together as far as a step's rows and the KV cache allow.
 * id[n] ascending. All of them or, on an error, none. */
MW_API MW_MUST_CHECK mw_status mw_engine_submit_all(mw_engine *e, const mw_request *r, int n, uint64_t *id);

/* Ends a request early; its DONE event follows with reason "cancelled". Unknown or finished ids are ignored. */
MW_API void mw_engine_cancel(mw_engine *e, uint64_t id);

/* ---- events ----------------------------------------------------------------------------------------------------- */

typedef struct mw_token_logprob {
    int32_t token;
    float logprob; /* natural log of the model's probability, before penalties, bias and truncation */
} mw_token_logprob;

typedef struct mw_position_logprobs {
    mw_token_logprob chosen;
    const mw_token_logprob *top; /* [n_top], best first */
    int n_top;
} mw_position_logprobs;

typedef enum { MW_EVENT_PROMPT, MW_EVENT_TOKEN, MW_EVENT_DONE, MW_EVENT_ERROR } mw_event_type;

typedef struct mw_event {
    mw_event_type type;
    uint64_t id;
    void *user;       /* of the request */
    int index;        /* which of the n answers */
    const char *text; /* TOKEN, DONE: text that became certain (may be empty); ERROR: what went wrong */
    size_t text_len;
    int32_t token;                        /* TOKEN */
    const mw_position_logprobs *logprobs; /* TOKEN: of this token, when asked. PROMPT: [n_positions] */
    size_t n_positions;                   /* PROMPT: prompt tokens - 1 */
    const char *finish_reason;            /* DONE: "stop", "length", "cancelled" */
    mw_status status;                     /* ERROR */
    size_t prompt_tokens, output_tokens;  /* DONE */
    size_t cached_tokens;                 /* DONE: prompt tokens that were in the KV cache already */
    double ttft_s, total_s;               /* DONE: since submit */
    double queue_s;                       /* DONE: submit to the first step */
    double made_s;                        /* when it came about, seconds of CLOCK_MONOTONIC; polled later */
    void *owner;                          /* private */
} mw_event;

/* The next event of any request, within timeout_ms (0: at once, -1: wait). *got false: none. Free with mw_event_free.
 * Per answer: TOKEN events in order, then one DONE; PROMPT (when asked) before them; ERROR ends the whole request.
 * MW_ERR_PEER, MW_ERR_TIMEOUT, ...: the group has failed, nothing more will come. Rank 0. */
MW_API MW_MUST_CHECK mw_status mw_engine_poll(mw_engine *e, int timeout_ms, mw_event *ev, bool *got);
MW_API void mw_event_free(mw_event *ev);

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* Rank 0. The result is malloc'ed; free() it. add_special: what the tokenizer puts around a text (BOS). */
MW_API MW_MUST_CHECK mw_status mw_engine_tokenize(mw_engine *e, const char *text, size_t n, bool add_special,
                                                  int32_t **ids, size_t *n_ids);
MW_API MW_MUST_CHECK mw_status mw_engine_detokenize(mw_engine *e, const int32_t *ids, size_t n, bool skip_special,
                                                    char **text, size_t *text_len);
/* The ids that a submit of these messages would run. tools_json and template_json may be NULL; add_generation_prompt
 * false: the conversation alone, without the beginning of an answer. */
MW_API MW_MUST_CHECK mw_status mw_engine_tokenize_chat(mw_engine *e, const char *messages_json, const char *tools_json,
                                                       const char *template_json, bool add_generation_prompt,
                                                       int32_t **ids, size_t *n_ids);
/* The bytes that one token stands for inside a text, which need not be whole UTF-8 characters; malloc'ed, with a zero
 * behind. */
MW_API MW_MUST_CHECK mw_status mw_engine_token_piece(mw_engine *e, int32_t id, char **bytes, size_t *n);
/* The model's chat template as it is in the file, static until close; NULL: none, or chat is not possible. */
MW_API const char *mw_engine_chat_template(mw_engine *e);
/* true when the model's chat template works; otherwise *why (static until close) says why not. */
MW_API bool mw_engine_can_chat(mw_engine *e, const char **why);

/* ---- what is going on ------------------------------------------------------------------------------------------- */

typedef struct mw_engine_info {
    char backend[16], device[96], model_type[32];
    int n_ranks, threads;
    int ctx, max_seqs, max_step_tokens, vocab;
    int kv_block_tokens, kv_blocks, kv_blocks_free;
    uint64_t weight_bytes, kv_bytes, workspace_bytes; /* of this rank */
    double load_s;                                    /* open to ready */
    double load_gbps;                                 /* file bytes of this rank / reading time, 10^9 B/s */
    uint64_t steps, prompt_tokens, output_tokens;     /* since open */
    double step_s, wait_s; /* in steps; of that, waiting for other ranks in host collectives */
    int running, waiting;  /* sequences */
    int kv_blocks_cached;  /* of the free blocks, those that hold a prefix that may be used again */
    uint64_t preemptions, prefix_query_tokens, prefix_hit_tokens;
} mw_engine_info;
MW_API void mw_engine_describe(mw_engine *e, mw_engine_info *out);

/* One rank's memory and time. */
typedef struct mw_rank_stats {
    char device[96];
    uint64_t weight_bytes, kv_bytes, workspace_bytes;
    uint64_t steps;
    double step_s;       /* in steps since open; of that: */
    double gemm_s;       /* linear layers; CUDA: from the proportions of a step that is timed once a second */
    double collective_s; /* all-reduce and gather, waiting included; CUDA: likewise */
} mw_rank_stats;
/* rank 0; at most about a second old while steps run. MW_ERR_USAGE: no such rank. */
MW_API MW_MUST_CHECK mw_status mw_engine_rank_stats(mw_engine *e, int rank, mw_rank_stats *out);

/* The plan and memory table for people (dry run, --report). Rank 0; malloc'ed text. */
MW_API MW_MUST_CHECK mw_status mw_engine_report(mw_engine *e, char **text);

/* "marlin-worker 0.1.0 (git id), backends cpu, MPI ..., HDF5 ..." ; static. */
MW_API const char *mw_engine_version(void);

MW_END_DECLS
#endif
