/* http_int.h - what the files of the HTTP side share: http.c is the loop (mailbox, time, signals),
 * door.c lets calls in, call.c is their life, reply.c what goes back. */
#ifndef PUNA_SERVER_HTTP_INT_H
#define PUNA_SERVER_HTTP_INT_H

#include <openssl/sha.h>
#include <pthread.h>

#include "server/http.h"

struct post;
struct loading;

/* A client, by its API key. It may send `left` requests now, and more as time goes by. */
struct key {
    uint8_t hash[SHA256_DIGEST_LENGTH];
    double left, at;
};

struct http {
    struct event_base *base;
    struct evhttp *evhttp;
    struct evhttp_bound_socket *sock;
    struct event *wake, *tick, *term, *intr;
    int wake_fd;
    pthread_mutex_t lock; /* the mailbox */
    struct post *first, **last;
    struct call *calls;
    size_t n_calls, n_admitted;
    struct http_counts counts;
    bool draining;
    double drain_until;
    unsigned ticks;
    struct key *keys; /* [n_keys], or one for everybody; owned */
    struct patience *patience;
    struct ssl_ctx_st *tls;  /* NULL = plain; owned */
    size_t n_agents;         /* threads that run tools */
    struct loading *loading; /* a model; NULL = none */
    struct judge *judge;     /* NULL = no guards; owned */
};

/* Makes the request's call and takes it to the door. */
void call_new(struct server *s, struct evhttp_request *req);
/* Frees a call when nothing can come any more. */
void call_settle(struct call *c);
/* The headers of every reply. */
void common_headers(struct call *c);
const char *header_in(const struct call *c, const char *name);
/* s[len] is in the list, whatever the case of its letters. */
bool listed(const char *const *list, size_t n, const char *s, size_t len);

const struct route *route_table(size_t *n);
/* Refuses the call or gives it to its route's handler. */
void door(struct call *c);
void door_open(struct server *s);
void door_close(struct server *s);

#endif
