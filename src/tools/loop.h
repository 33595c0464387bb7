/* loop.h - a model's turns and the calls in them, until it ends its own: who answers is the
 * caller's. */
#ifndef PUNA_TOOLS_LOOP_H
#define PUNA_TOOLS_LOOP_H

#include <signal.h>

#include "text/toolcall.h"
#include "tools/kit.h"

struct loop_limits {
    size_t steps;   /* turns of the model that call tools */
    double seconds; /* of everything */
    size_t tokens;  /* that the model writes, over all turns */
};
extern const struct loop_limits loop_limits_default; /* 8, 600 s, 16384 */

enum loop_end {
    LOOP_ANSWER, /* the model has ended its turn; the other ends are limits */
    LOOP_STEPS,
    LOOP_TIME,
    LOOP_TOKENS,
    LOOP_CANCELLED,
};

struct loop {
    struct kit *kit;
    struct tool_session *session; /* of built-in tools; NULL = the kit's own */
    struct loop_limits limits;
    const volatile sig_atomic_t *cancel; /* looked at between turns and calls; may be NULL */
    void *arg;
    /* The model's next turn after messages, read with the kit's tools declared (loop_parser). It
     * fills *out, which is fresh, and *tokens. 1 = stop here: *out is all there is. */
    int (*answer)(void *arg, json_t *messages, struct tool_answer *out, size_t *tokens,
                  struct err *e);
    /* Why a call may not run, as the model is told (it lives until the next question); NULL = it
     * may. NULL instead of the function: all may. */
    const char *(*refuse)(void *arg, const struct tool_call *c);
    /* What came back, before the model sees it: it may be changed. NULL = goes on as it is. */
    int (*check)(void *arg, const struct tool_call *c, struct tool_result *r, struct err *e);
    /* For show, on the caller's thread; may be NULL. n calls of one turn are begun together. */
    void (*begun)(void *arg, const struct tool_call *c, size_t n);
    void (*ended)(void *arg, const struct tool_call *c, const struct tool_result *r);
};

struct loop_result {
    enum loop_end end;
    size_t steps, calls, tokens;
    struct buf text; /* the model's last turn */
    enum tool_stop stop;
};
void loop_result_init(struct loop_result *r);
void loop_result_release(struct loop_result *r);

/* Takes messages (OpenAI's form, the last one the user's) through as many turns as it needs and
 * appends them: answers, calls and results. A turn that reads like a call and is none is answered
 * with what is wrong, once; the second time it is an error. So is an answer() that fails. */
int tool_loop(const struct loop *l, json_t *messages, struct loop_result *out,
              struct err *e) MUST_USE;
/* Why it ended, for a reader; NULL for LOOP_ANSWER. The caller frees it. */
char *loop_note(const struct loop *l, const struct loop_result *r);

/* A parser of a turn that may call the kit's tools; free it with tool_parser_free. request: what
 * kit_declare filled, which must outlive it; exact: see tool_options. */
struct tool_parser *loop_parser(const json_t *request, bool exact, uint64_t seed,
                                const struct tool_events *ev);

#endif
