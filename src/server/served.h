/* served.h - the models of a server. Each has an engine, a scheduler and adapters of its own; the
 * first is there as long as the server and answers whatever names no model. The others compute
 * beside it, in turns, and come and go: on the command line, by POST /models/load and
 * /models/unload (llama.cpp's). Only the server's thread calls these, unless said otherwise. */
#ifndef PUNA_SERVER_SERVED_H
#define PUNA_SERVER_SERVED_H

#include <jansson.h>

#include "engine/sched.h"
#include "text/chat.h"

struct call;
struct server;

struct served {
    struct served *next;
    char *name, *path;                /* owned */
    struct engine *engine;            /* owned */
    struct engine *drafter;           /* owned; NULL = none */
    struct sched *sched;              /* owned; NULL until it is started */
    const struct chat_format *format; /* NULL: no chat */
    struct ids eos;                   /* ids that end an answer; owned */
    struct adapters *adapters;        /* owned */
    int64_t created;                  /* Unix time */
    size_t users;                     /* calls that it answers */
    bool leaving;                     /* no longer found; goes with its last user */
    struct call *who;                 /* the call that unloads it */
};

/* How models are opened. */
struct served_opts {
    struct engine_opts engine;
    struct sched_opts sched;
    const char *template;         /* chat format in place of the model's own; NULL = its own */
    const char *tokenizer_config; /* a file whose chat template goes before its own; NULL = none */
    const char *const *adapters;  /* as adapters_open takes them */
    size_t n_adapters;
    bool quiet;
};

/* Opens a model under a name of 1 to 256 bytes, without its scheduler. Any thread. */
int served_open(struct served **out, const char *name, const char *path,
                const struct served_opts *o, struct err *e) MUST_USE;
/* Starts it; what models before it may yet take of the memory is `promised`. Any thread. */
int served_start(struct served *m, const struct sched_opts *o, size_t promised,
                 struct err *e) MUST_USE;
/* Ends its answers. Legal on NULL. */
void served_stop(struct served *m);
void served_free(struct served *m); /* legal on NULL */
/* Puts it behind the others. */
void served_add(struct served **list, struct served *m);
/* Memory that the models of a list were promised and have not touched yet. */
size_t served_promised(const struct served *list);
/* Counters of all, summed. */
void served_stats(const struct served *list, struct sched_stats *out);

/* The model of this name, or with an adapter of this name; NULL = none. */
struct served *served_find(const struct served *list, const char *name);
/* Gives c the model that its body's "model" names, else the first. Again when that has changed. */
void served_choose(struct call *c);
/* c ends: its model may go if it has to. */
void served_leave(struct call *c);
/* Waits for models that are being read: their calls are then in the mailbox. */
void served_settle(struct server *s);

#endif
