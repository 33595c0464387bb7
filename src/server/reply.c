/* reply.c - what goes back: whole answers, errors in each dialect, event streams. */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "server/gen.h"
#include "server/http_int.h"
#include "server/metrics.h"
#include "server/patience.h"

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 416:
        return "Range Not Satisfiable";
    case 415:
        return "Unsupported Media Type";
    case 422:
        return "Unprocessable Content";
    case 424:
        return "Failed Dependency";
    case 429:
        return "Too Many Requests";
    case 503:
        return "Service Unavailable";
    default:
        return status < 500 ? "Error" : "Internal Server Error";
    }
}

/* Takes the request away from the call: the reply is on its way. */
static struct evhttp_request *let_go(struct call *c, int status)
{
    struct evhttp_request *req = c->req;

    evhttp_connection_set_closecb(evhttp_request_get_connection(req), NULL, NULL);
    patience_answering(c->s->http->patience, evhttp_request_get_connection(req), false);
    c->req = NULL;
    c->status = status;
    c->s->http->counts.by_class[status / 100 % 6]++;
    return req;
}

/* evhttp takes the end of what a client sends for its leaving, even while an answer is on its way
 * to it. Until that is written (evhttp reads again then) nothing is read, so one that closed its
 * own side gets all of it; one that has left makes writing fail. TLS may have to read to write. */
static void write_only(struct call *c, struct evhttp_connection *conn)
{
    struct bufferevent *b = evhttp_connection_get_bufferevent(conn);

    if (b && !c->s->o.cert)
        bufferevent_disable(b, EV_READ);
}

/* ---- replies ---- */

void reply_text(struct call *c, int status, const char *type, const char *p, size_t n)
{
    if (c->req) {
        struct evbuffer *b = evbuffer_new();
        struct evhttp_connection *conn = evhttp_request_get_connection(c->req);

        common_headers(c);
        if (type)
            call_header(c, "Content-Type", "%s", type);
        if (b && n)
            evbuffer_add(b, p, n);
        evhttp_send_reply(let_go(c, status), status, reason(status), b);
        write_only(c, conn);
        if (b)
            evbuffer_free(b);
    }
    gen_cancel_all(c); /* an error may end a call whose other choices still run */
    call_settle(c);
}

void reply_json(struct call *c, int status, json_t *body)
{
    char *text = json_dumps(body, JSON_COMPACT);

    json_decref(body);
    if (!text)
        BUG("a reply is no JSON");
    reply_text(c, status, "application/json", text, strlen(text));
    free(text);
}

/* The field of the request that a message names with its first word: `request: "n" is 0, ...`,
 * "temperature is 9; ...". */
static const char *blamed(const struct call *c, const char *msg, char name[64])
{
    if (strncmp(msg, "request: ", 9) == 0)
        msg += 9;
    msg += *msg == '"';
    const size_t n = strspn(msg, "abcdefghijklmnopqrstuvwxyz_");

    if (n == 0 || n >= 64)
        return NULL;
    memcpy(name, msg, n);
    name[n] = 0;
    return json_object_get(c->body, name) ? name : NULL;
}

static json_t *error_body(const struct call *c, const char *type, const char *code, const char *msg)
{
    const enum dialect dialect = c->dialect;
    char param[64];
    char *clean = NULL;
    json_t *text = json_string(msg), *j;

    if (!text) { /* a message may quote bytes that are no text */
        clean = xstrdup(msg);
        for (char *p = clean; *p; p++)
            if ((unsigned char)*p >= 0x80)
                *p = '?';
        text = json_string(clean);
        free(clean);
    }
    if (dialect == TGI)
        j = json_pack("{s:o, s:s}", "error", text, "error_type", type);
    else
        j = json_pack("{s:{s:o, s:s, s:s?, s:s?}, s:s}", "error", "message", text, "type", type,
                      "param", blamed(c, msg, param), "code", code, "error_type", type);
    return j;
}

void reply_status(struct call *c, int status, const char *type, const char *code, const char *msg)
{
    if (c->req && (status == 429 || status == 503) &&
        !evhttp_find_header(evhttp_request_get_output_headers(c->req), "Retry-After"))
        call_header(c, "Retry-After", "1");
    reply_json(c, status, error_body(c, type, code, msg));
}

/* How an error is shown: status, type and code. */
static int classify(const struct call *c, const struct err *e, const char **type, const char **code)
{
    const bool tgi = c->dialect == TGI;

    *code = NULL;
    switch (e->code) {
    case ERR_USAGE:
        *type = tgi ? "validation" : "invalid_request_error";
        if (strncmp(e->msg, "this model's maximum context", 28) == 0)
            *code = "context_length_exceeded";
        return tgi ? 422 : 400;
    case ERR_NOT_FOUND:
        *type = tgi ? "validation" : "invalid_request_error";
        *code = strncmp(e->msg, "The model", 9) == 0 ? "model_not_found" : "not_found";
        return 404;
    case ERR_TIMEOUT:
        *type = "overloaded";
        return server_draining(c->s) ? 503 : 429;
    default:
        *type = "generation";
        return tgi ? 424 : 500;
    }
}

void reply_error(struct call *c, const struct err *e)
{
    const char *type, *code;
    const int status = classify(c, e, &type, &code);

    metrics_failed(c->s->metrics, e->code == ERR_USAGE     ? F_VALIDATION
                                  : e->code == ERR_TIMEOUT ? F_OVERLOADED
                                                           : F_GENERATION);
    char msg[sizeof(e->msg) + 64];
    const char *prefix = "";

    if (e->code == ERR_TIMEOUT && c->s->o.max_wait_s > 0) {
        struct sched_stats st;

        sched_stats(c->m->sched, &st);
        call_header(c, "Retry-After", "%.0f", fmax(1, ceil(st.wait_s - c->s->o.max_wait_s)));
    }

    if (c->dialect == TGI)
        prefix = status == 422   ? "Input validation error: "
                 : status == 424 ? "Request failed during generation: "
                                 : "";
    snprintf(msg, sizeof(msg), "%s%s", prefix, e->msg);
    reply_status(c, status, type, code, msg);
}

void reply_refusal(struct call *c, struct err *e)
{
    if (e->code == ERR_FORMAT)
        e->code = ERR_USAGE;
    reply_error(c, e);
}

/* ---- streams ---- */

void stream_raw(struct call *c, const char *text)
{
    if (!c->req)
        return;
    if (!c->streaming) {
        c->streaming = true;
        common_headers(c);
        call_header(c, "Content-Type", "text/event-stream");
        call_header(c, "Cache-Control", "no-cache");
        call_header(c, "X-Accel-Buffering", "no");
        evhttp_send_reply_start(c->req, 200, "OK");
    }
    struct evbuffer *b = evbuffer_new();

    if (!b)
        return;
    evbuffer_add_printf(b, "data: %s\n\n", text);
    evhttp_send_reply_chunk(c->req, b);
    evbuffer_free(b);
}

void stream_data(struct call *c, json_t *data)
{
    char *text = json_dumps(data, JSON_COMPACT);

    json_decref(data);
    if (!text)
        BUG("an event is no JSON");
    stream_raw(c, text);
    free(text);
}

void stream_error(struct call *c, const struct err *e)
{
    const char *type, *code;

    classify(c, e, &type, &code);
    stream_data(c, error_body(c, type, code, e->msg));
}

void stream_end(struct call *c)
{
    if (c->req) {
        if (!c->streaming)
            evhttp_send_reply_start(c->req, 200, "OK");
        evhttp_send_reply_end(let_go(c, 200));
    }
    gen_cancel_all(c);
    call_settle(c);
}
