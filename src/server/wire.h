/* wire.h - a strict eye on the bytes of a connection, before libevent reads them. */
#ifndef PUNA_SERVER_WIRE_H
#define PUNA_SERVER_WIRE_H

#include <event2/bufferevent.h>

/* From here on: lines of a head that end in a bare LF, and NUL bytes in a head, become control
 * characters, which the door refuses; empty lines before a request and extensions of chunks go (RFC
 * 9112). */
void wire_watch(struct bufferevent *b);

#endif
