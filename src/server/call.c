/* call.c - the life of a call: admission, headers, the log line, and its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/gen.h"
#include "server/http_int.h"
#include "server/patience.h"

static void log_call(const struct call *c)
{
    char when[32];
    struct tm tm;
    const time_t t = time(NULL);
    size_t in = 0, out = 0;
    double first = 0;

    if (c->s->o.quiet)
        return;
    for (const struct gen *g = c->gens; g; g = g->next) {
        in += g->n_prompt;
        out += g->n_tokens;
    }
    gmtime_r(&t, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
    for (const struct gen *g = c->gens; g; g = g->next)
        if (g->first_s > 0 && (first == 0 || g->began + g->first_s < first))
            first = g->began + g->first_s;
    fprintf(stderr,
            "{\"time\":\"%s\",\"id\":\"%s\",\"route\":\"%s\",\"status\":%d,\"seconds\":%.6f,"
            "\"first_token_seconds\":%.6f,\"prompt_tokens\":%zu,\"answer_tokens\":%zu%s%.32s%s}\n",
            when, c->id, c->route ? c->route->name : "-", c->status, clock_seconds() - c->began,
            first > 0 ? first - c->began : 0, in, out, *c->trace ? ",\"trace_id\":\"" : "",
            *c->trace ? c->trace + 3 : "", *c->trace ? "\"" : "");
}

void call_settle(struct call *c)
{
    struct http *h = c->s->http;

    if (c->req || c->n_running)
        return;
    log_call(c);
    *(c->prev ? &c->prev->next : &h->calls) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    h->n_calls--;
    h->n_admitted -= c->admitted;
    if (c->state_free)
        c->state_free(c->state);
    gen_free_all(c);
    json_decref(c->body);
    json_decref(c->talk);
    buf_release(&c->ignored);
    served_leave(c);
    free(c);
}

int call_admit(struct call *c, struct err *e)
{
    struct http *h = c->s->http;

    if (h->n_admitted >= c->s->o.max_concurrent)
        return err_set(e, ERR_TIMEOUT, "Model is overloaded: %zu requests are being answered",
                       h->n_admitted);
    h->n_admitted++;
    c->admitted = true;
    return 0;
}

void call_gen_ended(struct call *c)
{
    c->n_running--;
    call_settle(c);
}

/* The client has left, or was dropped. */
static void on_gone(struct evhttp_connection *conn, void *arg)
{
    struct call *c = arg;

    (void)conn;
    /* a client that leaves in the middle of its answer: evhttp has let go of the request, which is
     * then ours to free; otherwise it goes with the connection */
    if (!evhttp_request_get_connection(c->req))
        evhttp_request_free(c->req);
    c->req = NULL;
    c->status = 499;
    gen_cancel_all(c);
    call_settle(c);
}

void call_new(struct server *s, struct evhttp_request *req)
{
    struct http *h = s->http;
    struct call *c = xcalloc(1, sizeof(*c));

    c->s = s;
    c->m = s->models;
    c->m->users++;
    c->req = req;
    c->began = clock_seconds();
    buf_init(&c->ignored, 400);
    c->next = h->calls;
    if (c->next)
        c->next->prev = c;
    h->calls = c;
    h->n_calls++;
    h->counts.requests++;
    evhttp_connection_set_closecb(evhttp_request_get_connection(req), on_gone, c);
    patience_answering(h->patience, evhttp_request_get_connection(req), true);
    door(c);
}

bool call_alive(const struct call *c)
{
    return c->req != NULL;
}

void call_ignore(struct call *c, const char *field)
{
    if (c->ignored.len)
        buf_adds(&c->ignored, ", ");
    for (const char *p = field; *p && p - field < 64; p++)
        buf_addc(&c->ignored, *p > ' ' && *p < 0x7f && *p != ',' ? *p : '?');
}

void call_header(struct call *c, const char *name, const char *fmt, ...)
{
    char value[512];
    va_list ap;

    if (!c->req)
        return;
    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    struct evkeyvalq *out = evhttp_request_get_output_headers(c->req);

    evhttp_remove_header(out, name);
    evhttp_add_header(out, name, value);
}

const char *header_in(const struct call *c, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(c->req), name);
}

bool listed(const char *const *list, size_t n, const char *s, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i]) == len && strncasecmp(list[i], s, len) == 0)
            return true;
    return false;
}

void common_headers(struct call *c)
{
    const char *origin = header_in(c, "Origin");

    call_header(c, "x-request-id", "%s", c->id);
    if (*c->trace)
        call_header(c, "traceparent", "%s", c->trace);
    if (c->ignored.len)
        call_header(c, "x-puna-ignored", "%s", c->ignored.p);
    if (origin && listed(c->s->o.origins, c->s->o.n_origins, origin, strlen(origin))) {
        call_header(c, "Access-Control-Allow-Origin", "%s", origin);
        call_header(c, "Access-Control-Expose-Headers",
                    "x-request-id, x-puna-ignored, retry-after");
        call_header(c, "Vary", "Origin");
    }
}
