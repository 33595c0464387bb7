/* gen.h - one answer on its way to a call: a request of the scheduler whose events arrive on the
 * server's thread. */
#ifndef PUNA_SERVER_GEN_H
#define PUNA_SERVER_GEN_H

#include "server/http.h"

struct gen {
    struct call *call;
    struct gen *next;
    size_t index; /* which of the call's choices */
    uint64_t ticket;
    bool ended, failed;
    size_t n_prompt, cached, n_tokens;
    int32_t *prompt;  /* [n_prompt] when its scores were asked for; owned */
    struct buf text;  /* so far */
    json_t *logprobs; /* the API's own collection; may be NULL; owned */
    enum finish finish;
    int32_t stop_id;
    struct err err;                   /* when failed */
    size_t top, score_top;            /* top_logprobs asked for, of the answer and of the prompt */
    double first_s;                   /* seconds from submission to the first token; 0 = none yet */
    double began, queued_s, token_at; /* token_at: when the last token came */
    uint64_t seed;
    size_t max_new;
    const struct lora *adapter; /* in use until it ends; NULL = none */
    struct finding found;       /* .bad: why a guard cut the answer, or refused the prompt */
    struct watch *watch;        /* its guard; NULL = none; owned */
    void *state;                /* the API's own; freed with state_free */
    void (*state_free)(void *state);
    /* On the server's thread, also when nobody listens any more. ev->text has been added to text.
     */
    void (*on_event)(struct gen *g, const struct sched_event *ev);
};

/* Submits r (its callback is set here) as choice `index` of c. On failure nothing was started. */
int gen_start(struct call *c, const struct sched_request *r, size_t index,
              void (*on_event)(struct gen *g, const struct sched_event *ev), struct gen **out,
              struct err *e) MUST_USE;
/* Cancels all of a call's generations; each still ends with an event. */
void gen_cancel_all(struct call *c);
void gen_free_all(struct call *c);

#endif
