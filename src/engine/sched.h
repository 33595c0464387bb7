/* sched.h - many answers at once from one engine: continuous batching.
 *
 * One thread owns the engine. Each of its steps is one forward pass over a ragged batch: a row for
 * every answer that is being decoded (a few more with speculation) and pieces of the prompts of
 * those that are not there yet. Whoever wants an answer submits a request and gets events.
 *
 * Promises. A request that can never fit is refused at once, with the numbers; one that was taken
 * ends with exactly one SCHED_DONE or SCHED_FAILED. Its tokens and logprobs do not depend on what
 * runs beside it, on preemption, on the prefix cache or on speculation, to the last bit. When the
 * cache is full the latest arrival of the lowest priority steps back and is computed again later;
 * the first in line always goes on, so nothing waits for ever. */
#ifndef PUNA_ENGINE_SCHED_H
#define PUNA_ENGINE_SCHED_H

#include "engine/session.h"
#include "plan/plan.h"

struct sched;

struct sched_opts {
    size_t kv_tokens;  /* positions of the cache, over all answers; 0 = four of the model's contexts
                          or, on a GPU, 3072 for each answer, or what fits */
    size_t share;      /* then: one of so many schedulers that share what is free; 0 = 1 */
    size_t max_active; /* answers in the batch; 0 = 64, on a GPU 256 to 1024 as its memory allows */
    size_t max_queue;  /* requests that may wait; 0 = 1024 */
    double max_wait_s; /* a request whose first token is not to be expected within is refused; 0 =
                          it may wait as long as it takes */
    size_t speculate;  /* tokens of an answer guessed at most and checked in the same pass: by the
                          engine's drafter, else from the text so far; 0 = off */
    size_t least;      /* and at least, whether it pays or not; for a drafter */
    double step_s;     /* seconds that a pass with both prompts and decoding should take while few
                          prompts wait; up to six times that while many do; 0 = 0.035 */
    bool no_prefix_cache;
};

enum sched_kind {
    SCHED_PROMPT, /* the prompt is in the cache: n_prompt, cached, score, score_top */
    SCHED_TOKEN,  /* one token: id, logprob, top; text = what may now be shown, often empty */
    SCHED_DONE,   /* the answer is over: finish, stop_id; text = the rest */
    SCHED_FAILED, /* err */
};

/* What the model thought of a token of the prompt, from what came before it. */
struct score {
    float logprob;
    int32_t rank; /* 1 = the likeliest */
};

/* What becomes of a prompt's last hidden states. */
enum pooling { POOL_NONE, POOL_MEAN, POOL_LAST };

/* Pointers live as long as the call. */
struct sched_event {
    enum sched_kind kind;
    size_t n_prompt, cached;   /* SCHED_PROMPT */
    double queued_s;           /* SCHED_PROMPT: from submission to a place in the batch */
    const struct score *score; /* SCHED_PROMPT: [n_prompt - 1], of the second token and so on */
    const struct top_logprob *score_top; /* [n_prompt - 1][score_top] */
    const float *embedding;              /* SCHED_DONE: [D] when the request pools */
    bool last;                           /* SCHED_TOKEN: SCHED_DONE follows at once */
    int32_t id;                          /* SCHED_TOKEN */
    float logprob;                       /* when the request asked for it */
    const struct top_logprob *top;       /* [top_logprobs] */
    const float *watched;                /* [n_watch]: log probabilities of gen.watch */
    const char *text;                    /* whole characters */
    size_t n_text;
    enum finish finish;    /* SCHED_DONE */
    int32_t stop_id;       /* the id that ended it, or -1: a stop string or the length did */
    const struct err *err; /* SCHED_FAILED */
};

struct sched_request {
    struct gen_request
        gen;         /* everything it points to is copied; callbacks and cancel are not used */
    int priority;    /* higher goes first */
    uint64_t tenant; /* shares of service are equal among tenants of a priority */
    uint64_t salt;   /* only requests of equal salt and adapter share cached prefixes */
    const struct lora *adapter; /* of the same engine, borrowed; NULL = none */
    double deadline;            /* seconds from now to be answered in, else it fails; 0 = none */
    bool score;        /* log probabilities of the prompt's tokens, which no cached prefix has */
    size_t score_top;  /* alternatives for each; needs score */
    bool prompt_only;  /* no answer: SCHED_DONE follows SCHED_PROMPT */
    enum pooling pool; /* an embedding of the prompt, not scaled; needs prompt_only */
    /* Called on the engine's thread, which it must not hold up. */
    void (*on_event)(void *arg, const struct sched_event *ev);
    void *arg;
};

/* The engine is borrowed and must have a tokenizer; it may not be used otherwise until sched_free.
 */
int sched_new(struct sched **out, struct engine *g, const struct sched_opts *o,
              struct err *e) MUST_USE;
/* Cancels what is left, waits for the thread. Legal on NULL. */
void sched_free(struct sched *s);

/* Any thread. ERR_USAGE: it can never fit (the message has the numbers); ERR_TIMEOUT: the queue is
 * full, its first token would come too late, or the scheduler drains. *ticket names it for
 * sched_cancel. */
int sched_submit(struct sched *s, const struct sched_request *r, uint64_t *ticket,
                 struct err *e) MUST_USE;
/* Any thread. Ends it with SCHED_DONE and FINISH_CANCELLED within a step, unless it has ended. */
void sched_cancel(struct sched *s, uint64_t ticket);
/* No new requests from now on; those taken are finished. */
void sched_drain(struct sched *s);
/* Answers in the batch of a scheduler with these options: never more than a pass has rows. */
size_t sched_active(const struct engine *g, const struct sched_opts *o);
/* Largest prompt + answer of one request, in tokens. */
size_t sched_ctx(const struct sched *s);

/* Counters since the start, and the present. Any thread. */
enum { SCHED_PASS_TIMES = 35 };

/* How long passes took: count[k] of them at most 1e-4 * 1.5^(k + 1) seconds, the last more. */
struct sched_passes {
    uint64_t count[SCHED_PASS_TIMES + 1], total;
    double sum_s;
};

struct sched_stats {
    size_t active, waiting;
    size_t kv_blocks, kv_free, kv_cached; /* free and cached ones can be had */
    uint64_t submitted, finished, cancelled, failed, preempted;
    uint64_t prompt_tokens, cached_tokens, computed_tokens; /* of prompts, again after preemption */
    uint64_t answer_tokens, guessed, guessed_right;
    uint64_t draft_failures; /* passes of the drafter: their guesses are missing, nothing else */
    uint64_t steps;
    struct sched_passes decodes, prompts; /* prompts: with rows of a prompt in them */
    double busy_s;                        /* in passes */
    double wait_s;      /* in which a request that came now could expect its first token */
    double last_step_s; /* how long ago a pass ended or there was nothing to do */
};
void sched_stats(struct sched *s, struct sched_stats *out);
/* What was planned for the engine with s's cache, and what of it has been touched so far; *tokens:
 * positions of the cache that were in use at a time, at most. */
void sched_memory(struct sched *s, struct plan_use *all, struct plan_use *used, size_t *tokens);
/* Waits until nothing is left, then checks the books (kvpool_audit). For tests. */
void sched_settle(struct sched *s);

#endif
