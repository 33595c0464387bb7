/* http.h - the HTTP side of the server: connections, routes, replies and event streams.
 *
 * libevent's evhttp on one thread. A request becomes a `struct call`; its handler either
 * replies at once or starts generations (gen.h), whose events come back to this thread through the
 * server's mailbox. A call lives until it has been answered, or its client has left, and all its
 * generations have ended. Nothing here waits, and only this thread touches a call. */
#ifndef PUNA_SERVER_HTTP_H
#define PUNA_SERVER_HTTP_H

#include <event2/http.h>
#include <jansson.h>

#include "base/buf.h"
#include "engine/sched.h"
#include "guard/guards.h"
#include "server/served.h"
#include "text/chat.h"

struct known_model {
    const char *name, *path;
};

struct server_opts {
    const char *host; /* address to bind */
    int port;         /* 0 = any free one */
    /* further paths of /health and /vertex, NULL = none: Vertex AI chooses them */
    const char *health_route, *predict_route;
    const char *const *keys; /* API keys; none = open */
    size_t n_keys;
    const char *cert, *key;   /* PEM files: TLS; NULL = none */
    size_t per_minute;        /* requests of a key in a minute; 0 = any number */
    const char *const *hosts; /* further names that a Host header may carry */
    size_t n_hosts;
    const char *const *origins; /* allowed cross-origin callers */
    size_t n_origins;
    size_t max_body;       /* bytes; 0 = 2,000,000, as TGI */
    size_t max_concurrent; /* generation requests at a time before 429; 0 = 128 */
    size_t max_best_of, max_stop_sequences, max_top_n_tokens, max_client_batch_size; /* as TGI */
    size_t max_input_tokens, max_total_tokens; /* 0 = the context */
    enum pooling pooling;                      /* of /v1/embeddings */
    double request_s;                          /* for a request to arrive in; 0 = any */
    double drain_s;                            /* longest wait for running answers after SIGTERM */
    double max_wait_s;                         /* the scheduler's, for Retry-After; 0 = any */
    bool no_grammar;                           /* answers are bound to no form */
    bool strict;                               /* unknown fields and models are errors */
    bool compat_tgi;                           /* /v1 as TGI answers it, oddities included */
    bool quiet;                                /* no log lines */
    bool runtime_adapters;                     /* clients may load and unload adapters */
    bool runtime_models;                       /* and models: */
    size_t max_models;                         /* at a time */
    const struct known_model *known;           /* that they may load beside the cache's */
    size_t n_known;
    const struct served_opts *opening; /* how; borrowed */
    struct guards *guards;             /* borrowed; NULL = none */
    struct kit *kit;                   /* what the server runs; borrowed; NULL = nothing */
};

struct server {
    struct server_opts o;
    struct served *models;   /* at least one; the caller's, before and after server_run */
    struct metrics *metrics; /* server_run's own */
    struct http *http;       /* http.c's own */
    double started;
};

/* Serves until SIGTERM or SIGINT, then drains. on_listen (may be NULL) gets the port. */
int server_run(struct server *s, void (*on_listen)(void *arg, int port), void *arg,
               struct err *e) MUST_USE;

enum dialect { OPENAI, TGI }; /* the shape of errors */

struct gen;

struct call {
    struct server *s;
    struct served *m;           /* the model that answers */
    struct evhttp_request *req; /* NULL once it is answered or its client has left */
    const struct route *route;
    enum dialect dialect; /* the route's, unless its handler chose */
    size_t key;           /* which of the API keys; 0 without keys */
    char id[129];         /* the client's, or hexadecimal; in x-request-id and the log */
    bool odd_id;          /* the client sent one that cannot be echoed */
    bool strict;          /* unknown fields are errors: the server's, or the caller's wish */
    char trace[56];       /* OpenTelemetry's traceparent as it came; empty = none */
    double began;
    bool streaming;
    bool probed; /* its client sends no more; whether it still reads will show */
    int status;
    bool admitted;            /* counts as one of max_concurrent */
    size_t n_gens, n_running; /* generations, and those that have not ended */
    struct gen *gens;         /* list, newest first */
    void *state;              /* the handler's; state_free frees it */
    void (*state_free)(void *state);
    json_t *body;             /* of a POST; owned */
    json_t *talk;             /* what guards of answers read before them; NULL = no guards; owned */
    struct finding refusal;   /* .bad: a guard refuses the input, and every answer is empty */
    struct buf ignored;       /* names of fields that were not used: x-puna-ignored */
    struct call *next, *prev; /* all calls */
};

typedef void handler(struct call *c);

struct route {
    const char *name; /* "METHOD PATH" */
    handler *fn;
    enum dialect dialect;
    bool open;       /* needs no key */
    unsigned fields; /* of the body: sets of field.h */
    const char *help;
};

/* Replies, each ending the call. A client that has left is no error. */
void reply_json(struct call *c, int status, json_t *body /* taken */);
void reply_text(struct call *c, int status, const char *type, const char *p, size_t n);
/* By the error's code and the route's dialect. */
void reply_error(struct call *c, const struct err *e);
/* The same for what was wrong with the request: no error in it is the model's. */
void reply_refusal(struct call *c, struct err *e);
void reply_status(struct call *c, int status, const char *type, const char *code, const char *msg);

/* Event stream: the first stream_data opens it. */
void stream_data(struct call *c, json_t *data /* taken */);
void stream_raw(struct call *c, const char *text); /* one event: "data: TEXT" */
void stream_error(struct call *c, const struct err *e);
void stream_end(struct call *c);

void call_header(struct call *c, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* What a route's star stands for, decoded; to be freed. */
char *call_tail(const struct call *c);
/* Remembers a field that is accepted and not used. */
void call_ignore(struct call *c, const char *field);
/* True while somebody listens. */
bool call_alive(const struct call *c);

/* For gen.c: fn(arg) on the server's thread, from any thread. */
void server_post(struct server *s, void (*fn)(void *arg), void *arg);
/* For gen.c: c is about to have its first generation. ERR_TIMEOUT: too many calls have. */
int call_admit(struct call *c, struct err *e) MUST_USE;
/* For gen.c: one of c's generations has ended. */
void call_gen_ended(struct call *c);

/* Largest prompt + answer of one request to m, in tokens. */
size_t server_ctx(const struct server *s, const struct served *m);

/* For metrics.c. */
struct http_counts {
    uint64_t requests, by_class[6]; /* [status / 100] */
    size_t calls;                   /* now */
};
void server_counts(const struct server *s, struct http_counts *out);
bool server_draining(const struct server *s);

#endif
