/* tls.h - certificates for the server's connections. */
#ifndef PUNA_SERVER_TLS_H
#define PUNA_SERVER_TLS_H

#include "server/http.h"

struct ssl_ctx_st; /* OpenSSL's SSL_CTX */

/* From here on h's connections speak TLS 1.2 or 1.3 with the chain and key of these PEM files. The
 * key's file must not be readable by everybody. *out is freed with tls_close after h. */
int tls_open(struct ssl_ctx_st **out, struct evhttp *h, const char *cert, const char *key,
             struct err *e) MUST_USE;
void tls_close(struct ssl_ctx_st *t);

/* A secret's file: refused when its mode has any bit of `others` (07 = everybody, 077 = the group
 * too). */
int secret_check(const char *path, unsigned others, struct err *e) MUST_USE;

#endif
