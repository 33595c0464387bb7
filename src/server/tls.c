#include "server/tls.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509err.h>
#include <string.h>
#include <sys/stat.h>

#include "server/wire.h"

int secret_check(const char *path, unsigned others, struct err *e)
{
    struct stat st;

    if (stat(path, &st))
        return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_FAIL, "%s: %s", path,
                       strerror(errno));
    if (st.st_mode & others)
        return err_set(e, ERR_USAGE, "%s: others can read it (mode %03o): chmod %s %s", path,
                       (unsigned)st.st_mode & 0777u, others & 070 ? "600" : "o-rwx", path);
    return 0;
}

/* What OpenSSL says, without its numbers. */
static int ssl_err(struct err *e, const char *what, const char *path)
{
    const char *why = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return err_set(e, ERR_FORMAT, "%s: no %s in PEM form: %s", path, what, why ? why : "unknown");
}

static struct bufferevent *connection(struct event_base *base, void *arg)
{
    SSL *ssl = SSL_new(arg);
    struct bufferevent *b =
        ssl ? bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING,
                                             BEV_OPT_CLOSE_ON_FREE)
            : NULL;

    if (!b) {
        SSL_free(ssl);
        return NULL;
    }
    bufferevent_openssl_set_allow_dirty_shutdown(b, 1); /* clients close without a farewell */
    wire_watch(b);
    return b;
}

int tls_open(SSL_CTX **out, struct evhttp *h, const char *cert, const char *key, struct err *e)
{
    SSL_CTX *t = SSL_CTX_new(TLS_server_method());
    int rc = -1;

    if (!t)
        return err_set(e, ERR_MEMORY, "cannot set up TLS");
    SSL_CTX_set_min_proto_version(t, TLS1_2_VERSION);
    SSL_CTX_set_options(t, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(t, SSL_MODE_RELEASE_BUFFERS); /* an idle connection holds 34 KB less */
    if (secret_check(key, 07, e))
        goto done;
    if (SSL_CTX_use_certificate_chain_file(t, cert) != 1)
        rc = ssl_err(e, "certificate", cert);
    else if (SSL_CTX_use_PrivateKey_file(t, key, SSL_FILETYPE_PEM) == 1)
        rc = 0;
    else if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH)
        rc = err_set(e, ERR_FORMAT, "%s is not the key of %s", key, cert);
    else
        rc = ssl_err(e, "private key", key);
done:
    if (rc) {
        SSL_CTX_free(t);
        return -1;
    }
    evhttp_set_bevcb(h, connection, t);
    *out = t;
    return 0;
}

void tls_close(SSL_CTX *t)
{
    SSL_CTX_free(t);
}
