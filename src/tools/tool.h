/* tool.h - what a model may call: the built-in tools of Llama 3.1, by name. */
#ifndef PUNA_TOOLS_TOOL_H
#define PUNA_TOOLS_TOOL_H

#include <pthread.h>

#include "base/buf.h"
#include "base/err.h"
#include "tools/code.h"

/* What tools keep between the calls of one chat. */
struct tool_session {
    pthread_mutex_t lock; /* whoever runs a tool in it holds this */
    struct code *code;    /* NULL until the first code is run */
    struct code_limits code_limits;
    const char *image_dir; /* where plots are saved; NULL = they are dropped */
    size_t images;         /* saved so far */
};

struct tool_result {
    bool failed;     /* the model is told so */
    struct buf text; /* for the model: content, never control tokens */
    double seconds;
    struct buf images; /* paths of saved plots, a line each */
};
void tool_result_init(struct tool_result *r);
void tool_result_release(struct tool_result *r);

/* A row of tool.def. */
struct tool {
    const char *name;
    const char *what; /* one line for help, and for a model that is shown it as a function */
    const char *arg;  /* the name of its one argument: "code", "query" */
    int (*check)(struct err *e); /* 0 = it can be used here; -1 = why not */
    /* Runs it on input (code, or a query). -1 only when it cannot be run at all. */
    int (*run)(struct tool_session *s, const char *input, size_t n, struct tool_result *r,
               struct err *e);
};

const struct tool *tool_by_name(const char *name);
const struct tool *const *tool_all(size_t *n);

void tool_session_init(struct tool_session *s);
void tool_session_release(struct tool_session *s);

#endif
