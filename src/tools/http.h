/* http.h - one HTTP request within limits, over libcurl: certificates are checked, redirects are
 * not followed, and unless it is allowed no address of a private network is connected to, whatever
 * the name resolves to. Any thread. */
#ifndef PUNA_TOOLS_HTTP_H
#define PUNA_TOOLS_HTTP_H

#include <jansson.h>

#include "base/buf.h"

struct http_request {
    const char *url;
    const json_t *headers; /* an object of texts; NULL = none */
    const char *body;      /* NULL = GET, else POST */
    size_t n_body;
    const char *type; /* of the body */
    double seconds;   /* of all of it; 5 of them to connect */
    bool private;     /* loopback and private networks are allowed, and the environment's proxies */
    bool tls;         /* https alone */
    const char *want; /* name of an answer's header to keep; NULL = none */
};

struct http_reply {
    long status;
    struct buf body; /* its limit holds: more is an error */
    char type[128];  /* Content-Type, without parameters */
    char got[256];   /* the header that was wanted; "" = it was not there */
};
void http_reply_init(struct http_reply *r, size_t max);
void http_reply_release(struct http_reply *r);

/* Whatever status it has, an answer is a success. Messages name the host, never the rest of the
 * URL, which may hold a key. */
int http_fetch(const struct http_request *q, struct http_reply *r, struct err *e) MUST_USE;
/* Appends text as a part of a URL's query: bytes but letters, digits and -._~ as %XX. */
void http_escape(struct buf *out, const char *p, size_t n);

#endif
