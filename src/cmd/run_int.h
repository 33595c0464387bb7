/* run_int.h - what the files of `puna run` share: its options, and one conversation with a model.
 */
#ifndef PUNA_CMD_RUN_INT_H
#define PUNA_CMD_RUN_INT_H

#include <jansson.h>

#include "cmd/drafting.h"
#include "cmd/guarding.h"
#include "engine/session.h"
#include "guard/hold.h"
#include "text/chat.h"
#include "tools/loop.h"

struct run_cfg {
    struct opt_list args; /* [MODEL] [PROMPT...] */
    const char *model, *prompt, *system, *template, *date, *adapter;
    const char *grammar, *json_schema; /* a file, or the text itself */
    bool raw, json, greedy, logprobs, verbose, offload;
    double temperature, top_p, min_p;
    double repetition_penalty, frequency_penalty, presence_penalty;
    const char *pin;
    int64_t top_k, seed, max_new_tokens, ctx, threads, batch_size, top_logprobs;
    struct opt_list logit_bias, stop;
    const char *dtype, *kv_dtype, *weights, *isa, *device;
    const char *tools, *approve, *tool_choice, *image_dir;
    int64_t tool_steps, tool_tokens;
    double tool_time;
    DRAFTING_FIELDS;
    GUARDING_FIELDS;
};

/* How answers are made; from the options, then the model's generation config. Borrows from run_cfg.
 */
struct settings {
    struct sampling sampling;
    double warm;             /* the temperature when sampling is on and none was asked for */
    struct logit_bias *bias; /* owned */
    bool seeded;             /* sampling.seed was asked for; else every answer draws a fresh one */
    size_t max_new_tokens;   /* 0 = up to the context */
    const char *const *stop;
    size_t n_stop;
};

/* A loaded model and one conversation with it. */
struct talk {
    struct run_cfg *cfg; /* borrowed; /set changes it */
    char *model;         /* path, owned */
    struct engine *engine;
    struct engine *drafter; /* NULL = none */
    struct session *session;
    const struct chat_format *format; /* NULL with --raw, or (JSON) when none was recognised */
    char *no_format;                  /* why none was, owned; else NULL */
    struct ids eos;                   /* ids that end an answer */
    struct settings set;
    struct grammar *grammar; /* of every answer, a reference; NULL = any text */
    json_t *messages;        /* the conversation; the system message, if any, first */
    struct ids
        past;      /* exact ids of the conversation up to the last answer; empty = render afresh */
    uint64_t turn; /* answers so far */
    uint64_t last_seed;            /* that the last answer drew from */
    size_t last_prompt;            /* tokens that it was asked with */
    volatile sig_atomic_t *cancel; /* may be NULL; copied into requests */
    struct guards *guards;         /* NULL = none; owned */
    struct kit *kit;               /* what the model may call; NULL = nothing; owned */
    struct grammar *must_call; /* of the first turn of an answer, a reference; NULL = as it likes */
};

/* ref: a model reference, NULL = the default model. */
int talk_open(struct talk *t, struct run_cfg *c, const char *ref, struct err *e) MUST_USE;
void talk_close(struct talk *t); /* legal on a zeroed struct */

/* Works out t->set again, after an option has changed. On failure t->set stays. */
int talk_settings(struct talk *t, struct err *e) MUST_USE;
/* A request from t->set and a seed for it: prompt, text callback and logprobs are the caller's. */
void talk_request(const struct talk *t, struct gen_request *r);

/* Replaces the system message; NULL or "" = none. */
void talk_system(struct talk *t, const char *text);
/* Forgets the conversation, not the system message. */
void talk_clear(struct talk *t);
/* Asks text[0..n) (valid UTF-8) and adds question and answer to the conversation. Without a chat
 * format the text is continued as it is. An answer that fails, or is cancelled before its first
 * token, leaves the conversation as it was. The caller releases *out. */
int talk_ask(struct talk *t, const char *text, size_t n,
             void (*on_text)(void *arg, const char *p, size_t n),
             void (*on_progress)(void *arg, size_t done, size_t total), void *arg,
             struct gen_result *out, struct err *e) MUST_USE;
/* One turn after t->messages: its prompt, and what the model writes. r: talk_request's, with the
 * callbacks. */
int talk_turn(struct talk *t, struct gen_request *r, struct gen_result *out,
              struct err *e) MUST_USE;
/* t->messages, the options and the tools as a request of the chat format. */
json_t *talk_chat_request(const struct talk *t, const json_t *messages);

/* ---- talk_guard.c ---- */

/* A turn's text on its way to a reader, past the guard of answers (or straight, without one). */
struct filter {
    struct talk *t;
    const json_t *messages; /* before the turn; borrowed */
    void (*on_text)(void *arg, const char *p, size_t n);
    void (*on_progress)(void *arg, size_t done,
                        size_t total); /* for whoever filters; may be NULL */
    void *arg;
    struct hold hold;
    volatile sig_atomic_t stop; /* where t has nothing that cancels */
    bool failed;                /* the guard could not judge: err */
    struct finding found;
    struct err err;
};
void filter_open(struct filter *f, struct talk *t, const json_t *messages,
                 void (*on_text)(void *arg, const char *p, size_t n), void *arg);
void filter_text(struct filter *f, const char *p, size_t n);
/* What the answer's request has as cancel: the guard ends it that way. */
volatile sig_atomic_t *filter_cancel(struct filter *f);
/* The turn is over: judges the rest. One that was cut gets FINISH_FILTER and loses the text that
 * was not shown. -1 = there was no verdict, so nothing more is shown. */
int filter_end(struct filter *f, struct gen_result *r, struct err *e) MUST_USE;
void filter_close(struct filter *f);
/* Judges the last message, the user's. 1 = it is refused: *out is empty, with FINISH_FILTER. */
int guard_question(struct talk *t, const json_t *messages, struct gen_result *out,
                   struct err *e) MUST_USE;
/* One line on stderr. */
void guard_note(const char *what, const struct finding *f);

/* ---- talk_tools.c ---- */

/* --tools and what belongs to it. */
int talk_tools_open(struct talk *t, struct err *e) MUST_USE;
/* The turns of one answer, with calls run in between. */
struct tool_talk {
    struct talk *t;
    json_t *base; /* a JSON request whose fields hold for every turn; NULL = t's conversation */
    struct gen_request r;   /* of every turn, callbacks included: they get content alone */
    struct gen_result last; /* of the last turn */
    struct loop_result loop;
    json_t *calls; /* [{"name", "arguments", "failed", "result", "seconds"}] */
    bool quiet;    /* calls are not shown on stderr */
    /* inside */
    struct ids prompt; /* of the last turn */
    const json_t *messages;
    struct filter filter; /* of a turn's content */
    struct tool_parser *parser;
    bool first;
};
/* Takes messages through the loop; the caller ends with tool_talk_release in any case. */
int tool_talk(struct tool_talk *w, json_t *messages, struct err *e) MUST_USE;
void tool_talk_release(struct tool_talk *w);

/* Ids of a raw prompt: control-token text becomes control tokens, BOS in front where the model
 * wants it. */
int talk_raw_ids(const struct talk *t, const char *text, size_t n, struct ids *out,
                 struct err *e) MUST_USE;

/* --date-string becomes the request's date_string. */
void talk_date(const struct run_cfg *c, json_t *request);

/* Writes valid UTF-8; to a terminal control characters go as '?', so that no text can steer it. */
void put_text(FILE *f, const char *p, size_t n);

/* Shows an answer's text as it comes. */
struct shower {
    bool newline;                  /* the last byte shown was one */
    volatile sig_atomic_t *cancel; /* set when standard output fails */
};
void show_text(void *arg, const char *p, size_t n); /* arg: struct shower */
void show_progress(void *arg, size_t done, size_t total);
/* What a reader should know after an answer, on stderr: log probabilities, length reached, speed.
 */
void show_notes(const struct talk *t, const struct gen_result *r);
/* One line: model, encoding, device, context. */
void show_banner(const struct talk *t, FILE *f);

int run_json(struct talk *t, struct err *e) MUST_USE; /* JSON lines on stdin; > 0 = a line failed */
int repl(struct talk *t, struct err *e) MUST_USE;

#endif
