/* patience.h - how long a request may take to arrive.
 *
 * evhttp's timeout is between two bytes: a client that sends one now and then holds its connection
 * for ever. Here the clock runs from a request's first byte to its last; each KiB that has come
 * buys a second. Times while an answer is on its way do not count. One thread. */
#ifndef PUNA_SERVER_PATIENCE_H
#define PUNA_SERVER_PATIENCE_H

#include <event2/bufferevent.h>
#include <event2/http.h>
#include <stdbool.h>

struct patience;

/* seconds: for a request to arrive in; 0 = any. tls: no status 408 can be written. */
struct patience *patience_new(double seconds, bool tls);
/* After its connections were freed. Legal on NULL. */
void patience_free(struct patience *p);
/* A new connection, before its first byte. */
void patience_watch(struct patience *p, struct bufferevent *b);
/* A request of c has come whole (true), or has been answered (false). */
void patience_answering(struct patience *p, struct evhttp_connection *c, bool yes);
/* Once in a while: cuts those that are too slow off. */
void patience_tick(struct patience *p);

#endif
