#include "server/patience.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/http.h"

/* libevent tells nobody when it frees a connection. So a reference to its bufferevent is held, and
 * the next tick sees that its callbacks are gone. */
struct watched {
    struct watched *next;
    struct patience *all;
    struct bufferevent *b; /* a reference */
    double since;          /* of the request that is arriving; 0 = none is */
    size_t got;            /* bytes of it */
    bool answering;
};

struct patience {
    double seconds;
    bool tls;
    struct watched *first;
    struct watched **by_fd; /* [n_fd]; may hold one whose descriptor was closed */
    size_t n_fd;
};

struct patience *patience_new(double seconds, bool tls)
{
    struct patience *p = xcalloc(1, sizeof(*p));

    p->seconds = seconds;
    p->tls = tls;
    return p;
}

static void remember(struct patience *p, struct watched *w)
{
    const int fd = bufferevent_getfd(w->b);

    if (fd < 0)
        return;
    if ((size_t)fd >= p->n_fd) {
        const size_t n = 2 * (size_t)fd + 64;

        p->by_fd = xrealloc(p->by_fd, n * sizeof(struct watched *));
        for (size_t i = p->n_fd; i < n; i++)
            p->by_fd[i] = NULL;
        p->n_fd = n;
    }
    p->by_fd[fd] = w;
}

static void on_bytes(struct evbuffer *b, const struct evbuffer_cb_info *info, void *arg)
{
    struct watched *w = arg;

    (void)b;
    if (info->n_added == 0)
        return;
    if (w->since == 0) {
        w->since = clock_seconds();
        remember(w->all, w);
    }
    w->got += info->n_added;
}

static void forget(struct patience *p, struct watched *w)
{
    const int fd = bufferevent_getfd(w->b);

    if (fd >= 0 && (size_t)fd < p->n_fd && p->by_fd[fd] == w)
        p->by_fd[fd] = NULL;
    evbuffer_remove_cb(bufferevent_get_input(w->b), on_bytes, w);
    bufferevent_decref(w->b);
    free(w);
}

void patience_free(struct patience *p)
{
    if (!p)
        return;
    while (p->first) {
        struct watched *w = p->first;

        p->first = w->next;
        forget(p, w);
    }
    free(p->by_fd);
    free(p);
}

void patience_watch(struct patience *p, struct bufferevent *b)
{
    struct watched *w;

    if (p->seconds <= 0)
        return;
    w = xcalloc(1, sizeof(*w));
    *w = (struct watched){ .next = p->first, .all = p, .b = b };
    p->first = w;
    bufferevent_incref(b);
    evbuffer_add_cb(bufferevent_get_input(b), on_bytes, w);
}

void patience_answering(struct patience *p, struct evhttp_connection *c, bool yes)
{
    struct bufferevent *b = c ? evhttp_connection_get_bufferevent(c) : NULL;
    const int fd = b ? bufferevent_getfd(b) : -1;
    struct watched *w = fd >= 0 && (size_t)fd < p->n_fd ? p->by_fd[fd] : NULL;

    if (!w || w->b != b)
        return;
    /* what has come already is of the next request: its time begins when this one is answered */
    w->answering = yes;
    w->got = evbuffer_get_length(bufferevent_get_input(b));
    w->since = w->got ? clock_seconds() : 0;
}

static bool is_freed(const struct watched *w)
{
    bufferevent_data_cb on_read, on_write;
    bufferevent_event_cb on_event;
    void *arg;

    bufferevent_getcb(w->b, &on_read, &on_write, &on_event, &arg);
    return !on_read && !on_write && !on_event;
}

/* evhttp sees the end of the connection and lets go of it. */
static void cut(const struct patience *p, const struct watched *w)
{
    static const char late[] = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
                               "Content-Length: 0\r\n\r\n";
    const int fd = bufferevent_getfd(w->b);

    if (fd < 0)
        return;
    if (!p->tls)
        (void)!send(fd, late, sizeof(late) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_RDWR);
}

void patience_tick(struct patience *p)
{
    const double now = clock_seconds();

    for (struct watched **at = &p->first, *w; (w = *at);) {
        if (is_freed(w)) {
            *at = w->next;
            forget(p, w);
            continue;
        }
        if (w->since > 0 && !w->answering && now - w->since > p->seconds + (double)w->got / 1024)
            cut(p, w);
        at = &w->next;
    }
}
