/* session.h - a loaded model, and one conversation with it.
 *
 * struct engine = model + tokenizer + context, loaded once. struct session = the tokens
 * evaluated so far with their KV cache; generate() extends it. Results are bit-identical at any
 * thread count and any chunking of the prompt. One thread drives an engine; engines that were
 * opened beside each other compute in turns. */
#ifndef PUNA_ENGINE_SESSION_H
#define PUNA_ENGINE_SESSION_H

#include <signal.h>

#include "backend/cpu/cpu.h"
#include "engine/sample.h"
#include "grammar/grammars.h"
#include "model/llama.h"
#include "model/lora.h"
#include "text/tokenizer.h"

/* Where quantised weights lie on the CPU, as far as its kernels have an order of their own. */
enum engine_weights {
    WEIGHTS_LATER, /* copied into that order, a layer with each pass from the second on */
    WEIGHTS_COPY,  /* copied before engine_open returns */
    WEIGHTS_MAP,   /* read where the file is mapped: shared by processes that do so too */
};

struct engine_opts {
    int threads; /* 0 = all */
    enum compute compute;
    const char *kv;        /* the cache's type: f32, f16, bf16, q8_0 or fp8; NULL = the model's,
                            * or f32 where arithmetic is f32: that is asked for to compare with */
    int isa;               /* CPU flags to allow; -1 = all this machine has */
    size_t chunk;          /* prompt rows per forward pass; 0 = 512, on a GPU 2048 or more */
    bool no_tokenizer;     /* ids only (logits, bench) */
    const char *tokenizer; /* path of another tokenizer; NULL = the model's own */
    enum engine_weights weights;
    const char *device;    /* "cpu", "cuda", "auto"; NULL = cpu */
    bool offload;          /* layers that the GPU has no room for wait in host memory */
    size_t offload_tokens; /* of cache, for which room is left then; 0 = the model's context, at
                            * most 8192 */
    void (*progress)(void *arg, size_t done, size_t total); /* weights to the GPU; may be NULL */
    void *arg;
    const char *adapter; /* folder of a LoRA adapter for every new session; NULL = none */
    /* Computes where this one does, with its threads and scratch: device, compute and isa are its
     * own, and it is closed later. NULL = for itself. */
    struct engine *beside;
};

struct engine {
    struct model *model;
    struct tok *tok;   /* NULL with no_tokenizer */
    struct ctx *ctx;   /* the one's beside which it was opened, or owned */
    struct turn *turn; /* likewise: who drives ctx while others may has it (base/turn.h) */
    bool guest;        /* opened beside another */
    struct acts *acts;
    struct lora *adapter;      /* NULL = none */
    struct grammars *grammars; /* NULL with no_tokenizer */
    size_t chunk;
    int64_t away;   /* layers whose weights wait in host memory */
    unsigned isa;   /* CPU flags in use */
    enum enc kv;    /* the cache's type */
    char note[896]; /* where it computes and why, when that wants to be said; "" = nothing to say */
    struct {
        size_t tokens, rows; /* the most of a sequence, and of a forward pass, so far */
    } peak;
    struct {
        struct engine *g; /* borrowed; NULL = none */
        size_t sequences; /* it guesses for at a time */
    } drafter;            /* memory is planned for both */
    size_t promised;      /* bytes of the machine that others were promised and have not touched */
};

int engine_open(struct engine **out, const char *path, const struct engine_opts *o,
                struct err *e) MUST_USE;
void engine_close(struct engine *g);
/* Copies at once what WEIGHTS_LATER has left. */
void engine_settle(struct engine *g);
/* Opens one more adapter for sessions of g; lora_close it before g is closed. */
int engine_adapter(struct lora **out, struct engine *g, const char *dir, struct err *e) MUST_USE;
/* Lets another engine, opened beside g and borrowed, guess what g says next, for so many sequences
 * at a time (draft.h). ERR_USAGE unless both have the same vocabulary. Before sessions and
 * schedulers. */
int engine_set_drafter(struct engine *g, struct engine *drafter, size_t sequences,
                       struct err *e) MUST_USE;

struct session;
/* A cache for ctx tokens; 0 = the model's context up to 8192, halved while it does not fit in
 * memory. A number that was asked for is never lowered: it is refused, with the numbers, when model
 * and cache cannot fit (memory.h) or ctx exceeds the model's own. */
int session_new(struct session **out, struct engine *g, size_t ctx, struct err *e) MUST_USE;
void session_free(struct session *s);
struct engine *session_engine(const struct session *s);
size_t session_ctx(const struct session *s);
size_t session_len(const struct session *s); /* tokens in the cache */
const int32_t *session_ids(const struct session *s);
/* The adapter from here on (engine_adapter; NULL = none): the cache is forgotten. A new session has
 * the engine's own. */
void session_set_adapter(struct session *s, const struct lora *adapter);
/* RoPE position of the next first token; only while empty (plumbing). */
void session_set_position(struct session *s, int32_t first);
/* Has the engine's drafter guess up to `most` tokens at a time in answers, at least `least`;
 * 0, 0 = off, as in a new session. Answers are the same. */
int session_draft(struct session *s, size_t least, size_t most, struct err *e) MUST_USE;
/* Forgets tokens from position n on. */
void session_cut(struct session *s, size_t n);
/* Makes the cache hold exactly ids[0..n), reusing the longest common prefix. *logits: of the last
 * token [V], owned by the session until its next call. stop (may be NULL) is polled between chunks:
 * when it turns non-zero the call returns 1 and the cache holds what was evaluated. progress may be
 * NULL. */
int session_eval(struct session *s, const int32_t *ids, size_t n, const float **logits,
                 const volatile sig_atomic_t *stop,
                 void (*progress)(void *arg, size_t done, size_t total), void *arg,
                 struct err *e) MUST_USE;
/* Appends ids[0..n) to the cache and gives the logits of rows[0..n_rows) of them (indices into ids,
 * ascending; NULL = all n): out [n_rows, V] (plumbing: logits, perplexity). */
int session_eval_rows(struct session *s, const int32_t *ids, size_t n, const int32_t *rows,
                      size_t n_rows, float *out, struct err *e) MUST_USE;

/* FINISH_FILTER: a guard cut it; nothing here does. */
enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_FILTER, FINISH_CANCELLED };
const char *finish_name(enum finish f); /* "stop", "length", "content_filter", "cancelled" */

struct gen_request {
    const int32_t *prompt; /* borrowed */
    size_t n_prompt;
    struct sampling sampling;
    size_t max_new_tokens;   /* 0 = up to the context */
    size_t min_new_tokens;   /* before these no id of eos is taken; a grammar goes before it */
    const char *const *stop; /* stop strings (bytes), matched across tokens; not part of the text */
    size_t n_stop;
    bool keep_stop;     /* the stop string that was found stays in the text */
    const int32_t *eos; /* ids that end the answer */
    size_t n_eos;
    struct grammar *grammar; /* what the answer must be; borrowed; NULL = any text */
    int32_t aside;        /* an id that may come where the grammar lets the answer end, and stands
                             beside its text (<|python_tag|>); 0 = none */
    bool keep_special;    /* control tokens' text stays in the text (raw tool-call output) */
    bool logprobs;        /* fill gen_result.logprob */
    size_t top_logprobs;  /* alternatives per token; 0 = none; needs logprobs */
    const int32_t *watch; /* ids whose log probability is told with every token; needs logprobs */
    size_t n_watch;
    const volatile sig_atomic_t *cancel; /* may be NULL */
    /* Called with whole characters only, never with text that could still be part of a stop string.
     */
    void (*on_text)(void *arg, const char *p, size_t n);
    /* Each token of the answer, its end too, after the text that it let go; may be NULL. */
    void (*on_token)(void *arg, int32_t id);
    void (*on_progress)(void *arg, size_t done, size_t total); /* prompt; may be NULL */
    void *arg;
};

struct gen_result {
    struct ids ids; /* generated, the stopping id included */
    struct buf text;
    float *logprob;          /* [ids.n] when asked for, else NULL */
    struct top_logprob *top; /* [ids.n * top_logprobs], else NULL */
    float *watched;          /* [ids.n * n_watch], else NULL */
    enum finish finish;
    int32_t stop_id; /* the EOS id that ended it (or would have, where the grammar left only ends),
                        or -1 */
    size_t cached;   /* prompt tokens that were in the cache already */
    size_t guessed, guessed_right; /* by a drafter: tokens that were checked, and that were right */
    double prompt_s, decode_s;
};

int generate(struct session *s, const struct gen_request *r, struct gen_result *out,
             struct err *e) MUST_USE;
void gen_result_release(struct gen_result *r);

#endif
