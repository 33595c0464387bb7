#include "cmd/bench_load.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/samples.h"

enum { LINE_MAX_BYTES = 1 << 20 };

struct run {
    const struct load_opts *o;
    struct event_base *base;
    struct event *due;
    char *host, *path; /* owned */
    int port;
    double began, next; /* next: when the next request of an open loop is due */
    double rate;
    size_t asked, sent, ended;
    struct shot *shots; /* newest first */
};

/* One request. */
struct shot {
    struct shot *next;
    struct run *run;
    struct evhttp_connection *conn;
    double start, end;
    double *times; /* owned: seconds from start to each chunk with text */
    size_t n, cap;
    size_t prompt, tokens;
    struct buf line; /* of the stream, as far as it has come */
    bool over, failed;
    char why[200];
};

static void shoot(struct run *r, double due);

/* ---- what is asked ---- */

static const char *const words[] = {
    "time",  "year",   "people", "way",     "day",    "man",    "thing",  "woman",
    "life",  "child",  "world",  "school",  "state",  "group",  "hand",   "part",
    "place", "case",   "week",   "company", "system", "work",   "point",  "home",
    "water", "room",   "mother", "area",    "money",  "story",  "fact",   "month",
    "right", "study",  "book",   "eye",     "job",    "word",   "side",   "kind",
    "head",  "house",  "friend", "father",  "power",  "hour",   "game",   "line",
    "end",   "law",    "car",    "city",    "name",   "team",   "minute", "idea",
    "body",  "parent", "face",   "level",   "door",   "health", "art",    "war",
};

static void add_prompt(const struct run *r, size_t sent, struct buf *out)
{
    const size_t i = r->o->first + sent;

    if (r->o->n_text) {
        buf_adds(out, r->o->text[i % r->o->n_text]);
        return;
    }
    for (size_t k = 0; k < r->o->words; k++) {
        const uint64_t draw = rng_u64(r->o->seed, i * 1000003 + k);

        buf_addf(out, "%s%s", k ? " " : "", words[draw % ARRAY_LEN(words)]);
    }
}

static char *body_of(const struct run *r, size_t i)
{
    const struct load_opts *o = r->o;
    const json_int_t n = (json_int_t)o->new_tokens;
    struct buf prompt;
    json_t *j;

    buf_init(&prompt, 64 << 20);
    add_prompt(r, i, &prompt);
    if (o->api == LOAD_TGI)
        j = json_pack("{s:s, s:{s:I, s:b}}", "inputs", prompt.p, "parameters", "max_new_tokens", n,
                      "details", 1);
    else
        j = json_pack("{s:s, s:I, s:b, s:{s:b}, s:f, s:b}", "model", o->model, "max_tokens", n,
                      "stream", 1, "stream_options", "include_usage", 1, "temperature",
                      o->temperature, "ignore_eos", 1);
    if (o->api != LOAD_TGI && o->temperature > 0) /* models' own defaults cut it */
        json_object_set_new(j, "top_p", json_integer(1));
    if (o->api == LOAD_TGI && o->temperature > 0)
        json_object_update_new(
            json_object_get(j, "parameters"),
            json_pack("{s:b, s:f}", "do_sample", 1, "temperature", o->temperature));
    if (o->api == LOAD_COMPLETIONS)
        json_object_set_new(j, "prompt", json_string(prompt.p));
    if (o->api == LOAD_CHAT)
        json_object_set_new(j, "messages",
                            json_pack("[{s:s, s:s}]", "role", "user", "content", prompt.p));
    buf_release(&prompt);
    char *text = json_dumps(j, JSON_COMPACT);

    json_decref(j);
    return text;
}

/* ---- what comes back ---- */

static void fail(struct shot *s, const char *why)
{
    if (s->failed)
        return;
    s->failed = true;
    snprintf(s->why, sizeof(s->why), "%.199s", why);
}

static size_t count(const json_t *obj, const char *key, size_t old)
{
    const json_t *v = json_object_get(obj, key);

    return json_is_integer(v) && json_integer_value(v) >= 0 ? (size_t)json_integer_value(v) : old;
}

static bool has_text(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);

    return json_is_string(v) && json_string_length(v) > 0;
}

static void take_event(struct shot *s, const json_t *j)
{
    const json_t *error = json_object_get(j, "error"), *choice, *v;
    bool text = false;
    size_t i;

    if (error && !json_is_null(error)) {
        v = json_is_string(error) ? error : json_object_get(error, "message");
        fail(s, json_is_string(v) ? json_string_value(v) : "an error in the stream");
        return;
    }
    json_array_foreach(json_object_get(j, "choices"), i, choice) text |=
        has_text(choice, "text") || has_text(json_object_get(choice, "delta"), "content");
    v = json_object_get(j, "usage");
    s->prompt = count(v, "prompt_tokens", s->prompt);
    s->tokens = count(v, "completion_tokens", s->tokens);
    text |= has_text(json_object_get(j, "token"), "text"); /* TGI */
    v = json_object_get(j, "details");
    s->prompt = count(v, "input_length", s->prompt);
    s->tokens = count(v, "generated_tokens", s->tokens);
    if (!text)
        return;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->times = xrealloc(s->times, s->cap * sizeof(*s->times));
    }
    s->times[s->n++] = clock_seconds() - s->start;
}

static void take_line(struct shot *s, const char *p, size_t n)
{
    json_t *j;
    struct err e;

    if (n && p[n - 1] == '\r')
        n--;
    if (n < 5 || memcmp(p, "data:", 5) != 0)
        return;
    for (p += 5, n -= 5; n && *p == ' '; p++)
        n--;
    if (n == 6 && memcmp(p, "[DONE]", 6) == 0)
        return;
    if (json_parse(&j, p, n, "event", &e)) {
        fail(s, e.msg);
        return;
    }
    take_event(s, j);
    json_decref(j);
}

static void on_data(struct evhttp_request *req, void *arg)
{
    struct shot *s = arg;
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    const size_t n = evbuffer_get_length(in);
    const char *p = n ? (const char *)evbuffer_pullup(in, -1) : NULL, *eol;
    size_t at = 0;

    if (p)
        buf_add(&s->line, p, n);
    evbuffer_drain(in, n);
    if (evhttp_request_get_response_code(req) != 200)
        return; /* all of it is the message */
    while ((eol = memchr(s->line.p + at, '\n', s->line.len - at))) {
        const size_t end = (size_t)(eol - s->line.p);

        take_line(s, s->line.p + at, end - at);
        at = end + 1;
    }
    buf_remove(&s->line, 0, at);
}

static void end(struct shot *s)
{
    struct run *r = s->run;

    s->over = true;
    s->end = clock_seconds() - s->start;
    buf_release(&s->line);
    r->ended++;
    if (r->rate == 0 && r->sent < r->asked)
        shoot(r, clock_seconds());
    if (r->ended == r->asked)
        event_base_loopexit(r->base, NULL);
}

static void on_end(struct evhttp_request *req, void *arg)
{
    struct shot *s = arg;
    const int status = req ? evhttp_request_get_response_code(req) : 0;
    char why[200];

    if (req && evbuffer_get_length(evhttp_request_get_input_buffer(req)))
        on_data(req, s);
    if (status == 0) {
        fail(s, "no answer: the connection was refused, cut or silent");
    } else if (status != 200) {
        snprintf(why, sizeof(why), "HTTP %d: %.150s", status, s->line.p);
        fail(s, why);
    } else if (s->n == 0) {
        fail(s, "the stream carried no text");
    }
    end(s);
}

static void shoot(struct run *r, double due)
{
    struct shot *s = xcalloc(1, sizeof(*s));
    struct evhttp_request *req = evhttp_request_new(on_end, s);
    char *body = body_of(r, r->sent++), host[300];

    *s = (struct shot){ .next = r->shots, .run = r, .start = due };
    r->shots = s;
    buf_init(&s->line, LINE_MAX_BYTES);
    s->conn = evhttp_connection_base_new(r->base, NULL, r->host, (uint16_t)r->port);
    if (!req || !s->conn || !body)
        BUG("no memory for a request");
    evhttp_connection_set_timeout(s->conn, (int)ceil(r->o->timeout_s));
    evhttp_request_set_chunked_cb(req, on_data);
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);

    snprintf(host, sizeof(host), "%.255s:%d", r->host, r->port);
    evhttp_add_header(h, "Host", host);
    evhttp_add_header(h, "Connection", "close");
    evhttp_add_header(h, "Content-Type", "application/json");
    evhttp_add_header(h, "Accept", "text/event-stream");
    if (r->o->key) {
        char auth[1024];

        snprintf(auth, sizeof(auth), "Bearer %s", r->o->key);
        evhttp_add_header(h, "Authorization", auth);
    }
    evbuffer_add(evhttp_request_get_output_buffer(req), body, strlen(body));
    free(body);
    if (evhttp_make_request(s->conn, req, EVHTTP_REQ_POST, r->path)) {
        fail(s, "the request could not be sent");
        end(s);
    }
}

/* ---- the open loop ---- */

static void on_due(evutil_socket_t fd, short what, void *arg)
{
    struct run *r = arg;

    (void)fd;
    (void)what;
    while (r->sent < r->asked && r->next <= clock_seconds()) {
        const double u = rng_uniform(r->o->seed ^ 0x5EED, r->sent);

        shoot(r, r->next);
        r->next -= log(1 - u) / r->rate;
    }
    if (r->sent < r->asked) {
        const double wait = r->next - clock_seconds();
        const double s = wait > 1e-4 ? wait : 1e-4;
        const struct timeval t = { (time_t)s, (suseconds_t)((s - floor(s)) * 1e6) };

        evtimer_add(r->due, &t);
    }
}

/* ---- sums ---- */

/* Nearest rank. Sorts v. */
static struct load_dist dist(double *v, size_t n)
{
    struct load_dist d = { .n = n };
    const double q[] = { 0.5, 0.9, 0.99 };
    double *const out[] = { &d.p50, &d.p90, &d.p99 };

    if (n == 0)
        return d;
    samples_sort(v, n);
    for (size_t i = 0; i < n; i++)
        d.mean += v[i] / (double)n;
    for (size_t i = 0; i < ARRAY_LEN(q); i++) {
        const double rank = ceil(q[i] * (double)n);

        *out[i] = v[rank < 1 ? 0 : (size_t)rank - 1];
    }
    d.max = v[n - 1];
    return d;
}

static void sum_up(const struct run *r, struct load_result *out)
{
    const struct load_opts *o = r->o;
    size_t n = 0, n_gap = 0, most = 0;

    for (const struct shot *s = r->shots; s; s = s->next)
        most += s->n;
    double *ttft = xcalloc(r->asked, sizeof(double)), *tpot = xcalloc(r->asked, sizeof(double)),
           *e2e = xcalloc(r->asked, sizeof(double)), *gap = xcalloc(most + 1, sizeof(double));
    size_t n_tpot = 0;

    for (const struct shot *s = r->shots; s; s = s->next) {
        if (s->failed) {
            out->failed++; /* the list begins with the last: the first error stays */
            snprintf(out->first_error, sizeof(out->first_error), "%.199s", s->why);
            continue;
        }
        const size_t tokens = s->tokens ? s->tokens : s->n;
        const double each =
            tokens > 1 ? (s->times[s->n - 1] - s->times[0]) / (double)(tokens - 1) : 0;

        out->prompt_tokens += s->prompt;
        out->output_tokens += tokens;
        for (size_t i = 1; i < s->n; i++)
            gap[n_gap++] = s->times[i] - s->times[i - 1];
        if (tokens > 1)
            tpot[n_tpot++] = each;
        out->good += (o->ttft_target == 0 || s->times[0] <= o->ttft_target) &&
                     (o->itl_target == 0 || each <= o->itl_target);
        ttft[n] = s->times[0];
        e2e[n++] = s->end;
    }
    out->ttft = dist(ttft, n);
    out->tpot = dist(tpot, n_tpot);
    out->e2e = dist(e2e, n);
    out->itl = dist(gap, n_gap);
    free(ttft);
    free(tpot);
    free(e2e);
    free(gap);
}

static void run_release(struct run *r)
{
    while (r->shots) {
        struct shot *s = r->shots;

        r->shots = s->next;
        if (s->conn)
            evhttp_connection_free(s->conn);
        free(s->times);
        free(s);
    }
    if (r->due)
        event_free(r->due);
    if (r->base)
        event_base_free(r->base);
    free(r->host);
    free(r->path);
}

/* host, port and path of the API under o->url. */
static int find_server(struct run *r, struct err *e)
{
    static const char *const routes[] = { "/v1/completions", "/v1/chat/completions",
                                          "/generate_stream" };
    const char *url = r->o->url, *route = routes[r->o->api];
    struct evhttp_uri *u = evhttp_uri_parse(url);
    const char *scheme = u ? evhttp_uri_get_scheme(u) : NULL,
               *host = u ? evhttp_uri_get_host(u) : 0;
    int rc = -1;

    if (!scheme || strcmp(scheme, "http") != 0 || !host || !*host) {
        err_set(e, ERR_USAGE, "URL %s: http://HOST[:PORT] is expected", url);
        goto done;
    }
    const char *path = evhttp_uri_get_path(u) ? evhttp_uri_get_path(u) : "";
    size_t n = strlen(path);

    while (n && path[n - 1] == '/')
        n--;
    if (n >= 3 && memcmp(path + n - 3, "/v1", 3) == 0 && r->o->api != LOAD_TGI)
        route += 3;
    struct buf b;

    buf_init(&b, 1 << 16);
    buf_add(&b, path, n);
    buf_adds(&b, route);
    r->path = buf_take(&b);
    buf_release(&b);
    r->host = xstrdup(host);
    r->port = evhttp_uri_get_port(u) > 0 ? evhttp_uri_get_port(u) : 80;
    rc = 0;
done:
    if (u)
        evhttp_uri_free(u);
    return rc;
}

int load_run(const struct load_opts *o, size_t clients, double rate, size_t requests,
             struct load_result *out, struct err *e)
{
    struct run r = { .o = o, .asked = requests, .rate = clients ? 0 : rate };
    int rc = -1;

    *out = (struct load_result){ .clients = (double)clients, .rate = r.rate, .requests = requests };
    if (find_server(&r, e))
        goto done;
    r.base = event_base_new();
    r.due = r.base ? evtimer_new(r.base, on_due, &r) : NULL;
    if (!r.due) {
        err_set(e, ERR_MEMORY, "cannot start an event loop");
        goto done;
    }
    r.began = r.next = clock_seconds();
    if (clients)
        while (r.sent < requests && r.sent < clients)
            shoot(&r, clock_seconds());
    else
        on_due(-1, 0, &r);
    event_base_dispatch(r.base);
    out->wall_s = clock_seconds() - r.began;
    sum_up(&r, out);
    rc = 0;
done:
    run_release(&r);
    return rc;
}
