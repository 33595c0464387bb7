/* http.c - the server's loop: mailbox, time, signals, opening and closing. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/listener.h>
#include <event2/thread.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "server/adapters.h"
#include "server/gen.h"
#include "server/http_int.h"
#include "server/judge.h"
#include "server/metrics.h"
#include "server/patience.h"
#include "server/tls.h"
#include "server/wire.h"

enum {
    MAX_BODY = 2000000,
    MAX_HEADERS = 16 << 10,
    MAX_CONCURRENT = 128,
    MAX_UNSENT = 1 << 20, /* bytes that a slow reader may leave unread before it is dropped */
    KEEP_ALIVE_S = 15,    /* between comments on a quiet stream */
    IDLE_S = 75,          /* a connection without a request */
};

struct post {
    struct post *next;
    void (*fn)(void *arg);
    void *arg;
};

/* ---- mailbox ---- */

void server_post(struct server *s, void (*fn)(void *arg), void *arg)
{
    struct http *h = s->http;
    struct post *p = xmalloc(sizeof(*p));
    bool first;

    *p = (struct post){ NULL, fn, arg };
    pthread_mutex_lock(&h->lock);
    first = !h->first;
    *h->last = p;
    h->last = &p->next;
    pthread_mutex_unlock(&h->lock);
    if (first)
        eventfd_write(h->wake_fd, 1);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    struct http *h = s->http;
    eventfd_t n;
    struct post *p;

    (void)what;
    eventfd_read((int)fd, &n);
    pthread_mutex_lock(&h->lock);
    p = h->first;
    h->first = NULL;
    h->last = &h->first;
    pthread_mutex_unlock(&h->lock);
    while (p) {
        struct post *next = p->next;

        p->fn(p->arg);
        free(p);
        p = next;
    }
}

static void on_request(struct evhttp_request *req, void *arg)
{
    call_new(arg, req);
}

/* ---- time, signals ---- */

static bool reads_too_slowly(const struct call *c)
{
    struct bufferevent *b =
        evhttp_connection_get_bufferevent(evhttp_request_get_connection(c->req));

    return b && evbuffer_get_length(bufferevent_get_output(b)) > MAX_UNSENT;
}

/* evhttp does not look at a connection before the first bytes of its answer. The end of what the
 * client sends may mean that it has left, or that it waits with one side closed: an interim
 * response, which HTTP/1.1 clients skip, makes the machine of one that has left reset the
 * connection. */
static bool has_left(struct call *c)
{
    static const char probe[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct bufferevent *b =
        evhttp_connection_get_bufferevent(evhttp_request_get_connection(c->req));
    struct pollfd p = { .fd = b ? bufferevent_getfd(b) : -1, .events = POLLRDHUP };

    if (p.fd < 0 || poll(&p, 1, 0) < 1)
        return false;
    if (p.revents & (POLLERR | POLLHUP))
        return true;
    if (c->probed)
        return false;
    if (c->s->o.cert || c->req->major < 1 || (c->req->major == 1 && c->req->minor < 1))
        return true;
    c->probed = true;
    return send(p.fd, probe, sizeof(probe) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    struct http *h = s->http;
    const bool breathe = ++h->ticks % KEEP_ALIVE_S == 0;

    (void)fd;
    (void)what;
    patience_tick(h->patience);
    if (h->sock)
        evconnlistener_enable(evhttp_bound_socket_get_listener(h->sock));
    for (struct call *c = h->calls, *next; c; c = next) {
        next = c->next;
        if (!c->req)
            continue;
        if (c->streaming ? reads_too_slowly(c) : has_left(c)) {
            evhttp_connection_free(evhttp_request_get_connection(c->req)); /* on_gone follows */
        } else if (breathe && c->streaming) {
            struct evbuffer *b = evbuffer_new();

            evbuffer_add(b, ":\n\n", 3);
            evhttp_send_reply_chunk(c->req, b);
            evbuffer_free(b);
        }
    }
    if (h->draining && (h->n_calls == 0 || clock_seconds() > h->drain_until))
        event_base_loopexit(h->base, NULL);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
    struct server *s = arg;
    struct http *h = s->http;

    (void)what;
    if (h->draining) {
        event_base_loopbreak(h->base);
        return;
    }
    if (!s->o.quiet)
        fprintf(stderr, "signal %d: no new requests; %zu are finished first (again to stop now)\n",
                (int)sig, h->n_calls);
    h->draining = true;
    h->drain_until = clock_seconds() + s->o.drain_s;
    evhttp_del_accept_socket(h->evhttp, h->sock);
    h->sock = NULL;
    for (struct served *m = s->models; m; m = m->next)
        sched_drain(m->sched);
    if (h->n_calls == 0)
        event_base_loopexit(h->base, NULL);
}

size_t server_ctx(const struct server *s, const struct served *m)
{
    const size_t ctx = sched_ctx(m->sched), most = s->o.max_total_tokens;

    return most && most < ctx ? most : ctx;
}

bool server_draining(const struct server *s)
{
    return s->http->draining;
}

void server_counts(const struct server *s, struct http_counts *out)
{
    *out = s->http->counts;
    out->calls = s->http->n_calls;
}

/* ---- opening and closing ---- */

/* No descriptor is left: who waits to be accepted waits until the next tick, and we do not spin. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    (void)arg;
    evconnlistener_disable(l);
}

static int listen_on(struct server *s, int *port, struct err *e)
{
    struct http *h = s->http;
    struct sockaddr_storage at;
    socklen_t n = sizeof(at);

    h->sock = evhttp_bind_socket_with_handle(h->evhttp, s->o.host, (uint16_t)s->o.port);
    if (!h->sock)
        return err_set(e, ERR_NETWORK, "cannot listen on %s port %d: %s", s->o.host, s->o.port,
                       strerror(errno));
    /* evhttp's queue of 128 overflows in a burst, and each client left out tries again a second
     * later */
    (void)!listen(evhttp_bound_socket_get_fd(h->sock), SOMAXCONN);
    evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(h->sock), on_accept_error);
    *port = s->o.port;
    if (getsockname(evhttp_bound_socket_get_fd(h->sock), (struct sockaddr *)&at, &n) == 0)
        *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                               : ((struct sockaddr_in *)&at)->sin_port);
    return 0;
}

static struct bufferevent *connection(struct event_base *base, void *arg)
{
    struct bufferevent *b = bufferevent_socket_new(base, -1, 0);

    struct server *s = arg;

    if (b) {
        wire_watch(b);
        patience_watch(s->http->patience, b);
    }
    return b;
}

static int http_open(struct server *s, struct err *e)
{
    struct http *h = s->http;
    const struct timeval second = { 1, 0 };

    evthread_use_pthreads();
    h->last = &h->first;
    pthread_mutex_init(&h->lock, NULL);
    h->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    h->base = event_base_new();
    h->evhttp = h->base ? evhttp_new(h->base) : NULL;
    if (h->wake_fd < 0 || !h->evhttp)
        return err_set(e, ERR_MEMORY, "cannot set up the server: %s", strerror(errno));
    h->wake = event_new(h->base, h->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
    h->tick = event_new(h->base, -1, EV_PERSIST, on_tick, s);
    h->term = evsignal_new(h->base, SIGTERM, on_signal, s);
    h->intr = evsignal_new(h->base, SIGINT, on_signal, s);
    if (!h->wake || !h->tick || !h->term || !h->intr || event_add(h->wake, NULL) ||
        event_add(h->tick, &second) || event_add(h->term, NULL) || event_add(h->intr, NULL))
        return err_set(e, ERR_MEMORY, "cannot set up the server's events");
    evhttp_set_max_body_size(h->evhttp, (ssize_t)(s->o.max_body ? s->o.max_body : MAX_BODY));
    evhttp_set_max_headers_size(h->evhttp, MAX_HEADERS);
    evhttp_set_allowed_methods(h->evhttp, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST |
                                              EVHTTP_REQ_OPTIONS);
    evhttp_set_default_content_type(h->evhttp, "application/json");
    evhttp_set_timeout(h->evhttp, IDLE_S);
    evhttp_set_gencb(h->evhttp, on_request, s);
    evhttp_set_bevcb(h->evhttp, connection, s);
    h->patience = patience_new(s->o.request_s, s->o.cert != NULL);
    if (s->o.cert && tls_open(&h->tls, h->evhttp, s->o.cert, s->o.key, e))
        return -1;
    door_open(s);
    if (s->o.guards)
        h->judge = judge_new(s);
    return 0;
}

static void http_close(struct server *s)
{
    struct http *h = s->http;

    /* connections first: their calls cancel what runs */
    if (h->evhttp)
        evhttp_free(h->evhttp);
    for (int i = 0; h->n_agents || (i < 1000 && h->calls); i++) { /* the engine ends within a step,
                                                                     a tool by its limit */
        on_wake(h->wake_fd, 0, s);
        if (h->n_agents || h->calls)
            usleep(10000);
    }
    judge_free(h->judge);
    patience_free(h->patience);
    struct event *const events[] = { h->wake, h->tick, h->term, h->intr };

    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        if (events[i])
            event_free(events[i]);
    if (h->base)
        event_base_free(h->base);
    if (h->wake_fd >= 0)
        close(h->wake_fd);
    pthread_mutex_destroy(&h->lock);
    door_close(s);
    tls_close(h->tls);
    free(h);
    s->http = NULL;
}

/* A descriptor for each connection: as many as the system lets us have. */
static void allow_files(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

int server_run(struct server *s, void (*on_listen)(void *arg, int port), void *arg, struct err *e)
{
    int port = s->o.port, rc = -1;

    s->http = xcalloc(1, sizeof(*s->http));
    s->started = clock_seconds();
    if (!s->o.max_concurrent)
        s->o.max_concurrent = MAX_CONCURRENT;
    s->metrics = metrics_new(server_ctx(s, s->models));
    if (http_open(s, e) || listen_on(s, &port, e))
        goto done;
    signal(SIGPIPE, SIG_IGN);
    allow_files();
    thread_prompt();
    if (on_listen)
        on_listen(arg, port);
    event_base_dispatch(s->http->base);
    rc = 0;
done:
    served_settle(s);
    http_close(s);
    metrics_free(s->metrics);
    s->metrics = NULL;
    return rc;
}
