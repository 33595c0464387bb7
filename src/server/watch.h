/* watch.h - one answer on its way past a guard: its events wait until what they say was judged. */
#ifndef PUNA_SERVER_WATCH_H
#define PUNA_SERVER_WATCH_H

#include "server/gen.h"

struct letter;
struct watch;

/* NULL = the server judges no answers. */
struct watch *watch_new(struct gen *g);
void watch_free(struct watch *w); /* legal on NULL */
/* Takes the letter; it and those after it arrive (gen_arrive) in their order, once they may. A
 * violation ends the answer with FINISH_FILTER, a guard that fails with its error. */
void watch_add(struct watch *w, struct letter *l);

/* ---- gen.c's side ---- */

/* A sched_event that outlives its call: on its way from the engine's thread to the server's. */
struct letter {
    struct gen *gen;
    struct sched_event ev;
    struct err err;
    struct letter *next; /* watch.c's */
    size_t end;          /* watch.c's: bytes of the answer's text with this letter's */
    /* owned copies */
    struct top_logprob *top, *score_top;
    struct score *score;
    float *embedding;
    char *text;
};

/* Hands the letter's event to the API, and frees it. After the last one the generation may be gone.
 */
void gen_arrive(struct letter *l);
void letter_free(struct letter *l);

#endif
