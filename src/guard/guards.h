/* guards.h - the guards of a chat: Llama Guard for the turns of user and assistant, Prompt Guard
 * for the user's texts and what tools bring, on the device of the chat's model. A guard that cannot
 * judge is an error, never a pass.
 */
#ifndef PUNA_GUARD_GUARDS_H
#define PUNA_GUARD_GUARDS_H

#include "guard/llama_guard.h"
#include "guard/prompt_guard.h"

struct guards;

struct guards_opts {
    const char *guard, *prompt_guard; /* paths of the models; NULL = none */
    bool input, output;               /* which turns Llama Guard judges */
    double threshold;                 /* Llama Guard's: below 0 = as it says */
    double attack;                    /* Prompt Guard's: an attack from this probability on */
    size_t ctx;                       /* as for llama_guard_open */
    struct engine *beside; /* the chat's, with which they compute in turns; closed later */
};

struct finding {
    bool bad;
    const char *by;  /* the guard that found it */
    char codes[128]; /* Llama Guard's; "" = none */
    double p;
};

int guards_open(struct guards **out, const struct guards_opts *o, struct err *e) MUST_USE;
void guards_close(struct guards *g); /* legal on NULL */
bool guards_judge_input(const struct guards *g);
bool guards_judge_turns(const struct guards *g); /* of users, by Llama Guard */
bool guards_judge_output(const struct guards *g);
/* Whether there is a Llama Guard, for texts that are no chat's. */
bool guards_llama(const struct guards *g);

/* Of the functions below: any thread. Llama Guard judges many turns at a time, and what it computed
 * for conversations that begin alike is kept. */

/* Llama Guard's verdict on the last turn of messages (OpenAI's form; system messages and results of
 * tools are left out, calls are part of the assistant's turn), or on answer[0..n) as the turn after
 * it; answer NULL = none. Without a Llama Guard nothing is bad. verdict may be NULL. */
int guards_turn(struct guards *g, const json_t *messages, const char *answer, size_t n,
                struct finding *f, struct guard_verdict *verdict, struct err *e) MUST_USE;
/* Prompt Guard's on a text: the user's own, or a third party's. */
int guards_text(struct guards *g, const char *text, size_t n, bool third_party, struct finding *f,
                struct err *e) MUST_USE;
/* What a user has said last: both guards, as far as they judge inputs. */
int guards_user(struct guards *g, const json_t *messages, struct finding *f,
                struct err *e) MUST_USE;
/* "Llama Guard: S10 Hate (probability 0.97)" */
void finding_say(const struct finding *f, struct buf *out);
/* Appends the text of a message's content: a text, or the texts of its parts. */
void guards_content(struct buf *out, const json_t *content);

#endif
