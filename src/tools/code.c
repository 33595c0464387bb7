#include "tools/code.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "tools/sandbox.h"

enum {
    KEEP = 32 << 10,      /* bytes of the start and of the end of an output */
    REPLY_MAX = 64 << 20, /* bytes of a reply */
    SOURCE_MAX = 16 << 20,
    FILES = 64,
    TICK_MS = 100, /* between looks at the memory in use */
};

/* driver.py as it is in the source tree. */
__asm__(".section .rodata\n"
        "driver_text: .incbin \"src/tools/driver.py\"\n"
        ".byte 0\n"
        ".previous\n");
extern const char driver_text[];

const struct code_limits code_limits_default = { .wall = 30,
                                                 .cpu = 600,
                                                 .memory = (size_t)1 << 30,
                                                 .processes = 64,
                                                 .file = 64 << 20,
                                                 .output = 1 << 20 };

struct code {
    struct code_limits limits;
    struct sandbox box; /* pid 0 = none */
    bool ready;         /* the driver has said that all walls stand */
};

/* The start and the end of what was printed. */
struct capture {
    struct buf first, last;
    size_t total;
};

void code_result_init(struct code_result *r)
{
    *r = (struct code_result){ 0 };
    buf_init(&r->out, 1 << 20);
    buf_init(&r->err, 1 << 20);
    buf_init(&r->value, 1 << 20);
}

void code_result_release(struct code_result *r)
{
    buf_release(&r->out);
    buf_release(&r->err);
    buf_release(&r->value);
    for (size_t i = 0; i < r->n_images; i++)
        buf_release(&r->image[i]);
    r->n_images = 0;
}

struct code *code_new(const struct code_limits *limits)
{
    struct code *c = xcalloc(1, sizeof(*c));

    c->limits = *limits;
    return c;
}

void code_free(struct code *c)
{
    if (!c)
        return;
    sandbox_stop(&c->box, NULL);
    free(c);
}

static int start(struct code *c, struct err *e)
{
    char limits[256];
    const char *const argv[] = { "/usr/bin/python3", "-I", "-B", "-c", driver_text, limits, NULL };

    snprintf(limits, sizeof(limits),
             "{\"cpu\": %zu, \"memory\": %zu, \"processes\": %zu, \"file\": %zu, \"files\": %d}",
             c->limits.cpu, c->limits.memory, c->limits.processes, c->limits.file, FILES);
    c->ready = false;
    return sandbox_start(&c->box, argv, e);
}

/* ---- output ---- */

static void capture_init(struct capture *o)
{
    *o = (struct capture){ 0 };
    buf_init(&o->first, KEEP);
    buf_init(&o->last, 4 * KEEP);
}

static void capture_add(struct capture *o, const char *p, size_t n)
{
    const size_t room = KEEP - o->first.len, head = n < room ? n : room;

    o->total += n;
    buf_add(&o->first, p, head);
    buf_add(&o->last, p + head, n - head);
    if (o->last.len > 2 * KEEP) { /* the tail moves to the front */
        memmove(o->last.p, o->last.p + o->last.len - KEEP, KEEP);
        buf_cut(&o->last, KEEP);
    }
}

/* Appends text that cannot steer a terminal: invalid UTF-8 becomes U+FFFD, control characters go.
 */
static void add_clean(struct buf *b, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        int32_t cp;
        const size_t k = utf8_next(p + i, n - i, &cp);

        if (cp < 0)
            buf_adds(b, "\xEF\xBF\xBD");
        else if (cp == '\n' || cp == '\t' || (cp >= ' ' && cp < 0x7F) || cp >= 0xA0)
            buf_add(b, p + i, k);
        i += k;
    }
}

static void capture_text(struct capture *o, struct buf *out)
{
    const size_t kept = o->last.len < KEEP ? o->last.len : KEEP;
    const size_t cut = o->total - o->first.len - kept;

    add_clean(out, o->first.p, o->first.len);
    if (cut)
        buf_addf(out, "\n[%zu bytes left out]\n", cut);
    add_clean(out, o->last.p + o->last.len - kept, kept);
    buf_release(&o->first);
    buf_release(&o->last);
}

/* ---- one run ---- */

struct exchange {
    const char *request; /* what is left to be sent */
    size_t left;
    struct capture out, err;
    struct buf reply;
    bool closed; /* the reply pipe's other end is gone */
};

/* Reads some of what is there; false = the other end is closed. */
static bool drain(int fd, struct capture *to, struct buf *reply)
{
    char part[1 << 14];
    ssize_t n = 1;

    for (int i = 0; i < 64 && n > 0; i++) { /* then somebody else's turn */
        n = read(fd, part, sizeof(part));
        if (n > 0 && to)
            capture_add(to, part, (size_t)n);
        else if (n > 0)
            buf_add(reply, part, (size_t)n);
    }
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void send_more(struct exchange *x, int fd)
{
    const ssize_t n = write(fd, x->request, x->left);

    if (n > 0) {
        x->request += n;
        x->left -= (size_t)n;
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        x->left = 0; /* nobody reads: the closed reply pipe says so too */
    }
}

static bool complete(struct code *c, struct buf *reply)
{
    uint32_t n;

    if (!c->ready && reply->len && reply->p[0] == '!') {
        buf_remove(reply, 0, 1);
        c->ready = true;
    }
    if (!c->ready || reply->len < 4)
        return false;
    memcpy(&n, reply->p, 4);
    return reply->len - 4 >= n;
}

/* Until the reply is whole, or something ends it. */
static enum code_end exchange(struct code *c, struct exchange *x)
{
    struct sandbox *b = &c->box;
    const double end = clock_seconds() + c->limits.wall;
    double look = clock_seconds();

    while (!complete(c, &x->reply)) {
        struct pollfd p[4] = { { b->out, POLLIN, 0 },
                               { b->err, POLLIN, 0 },
                               { b->reply, POLLIN, 0 },
                               { x->left ? b->in : -1, POLLOUT, 0 } };

        if (x->closed)
            return CODE_DIED;
        if (clock_seconds() > end)
            return CODE_TIMEOUT;
        if (x->out.total + x->err.total > c->limits.output)
            return CODE_OUTPUT;
        if (clock_seconds() > look + TICK_MS * 1e-3) {
            look = clock_seconds();
            if (sandbox_memory(b) > c->limits.memory)
                return CODE_MEMORY;
        }
        if (poll(p, 4, TICK_MS) < 0 && errno != EINTR)
            return CODE_DIED;
        if (p[3].revents)
            send_more(x, b->in);
        drain(b->out, &x->out, NULL);
        drain(b->err, &x->err, NULL);
        x->closed = !drain(b->reply, NULL, &x->reply);
        if (x->reply.len > REPLY_MAX)
            return CODE_OUTPUT;
    }
    drain(b->out, &x->out, NULL); /* printed before the reply, so it is there */
    drain(b->err, &x->err, NULL);
    return CODE_OK;
}

static bool add_base64(struct buf *out, const char *s, size_t n)
{
    unsigned char *bytes = xmalloc(n / 4 * 3 + 4);
    const int got = n < REPLY_MAX ? EVP_DecodeBlock(bytes, (const unsigned char *)s, (int)n) : -1;

    if (got > 0)
        buf_add(out, bytes, (size_t)got); /* up to two zero bytes too many, behind a PNG's end */
    free(bytes);
    return got > 0;
}

static void read_images(struct code_result *r, const json_t *list)
{
    size_t i;
    json_t *v;

    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        struct buf *b = &r->image[r->n_images];

        if (r->n_images == ARRAY_LEN(r->image) || !json_is_string(v))
            break;
        buf_init(b, REPLY_MAX);
        if (add_base64(b, json_string_value(v), json_string_length(v)) && b->len > 8 &&
            memcmp(b->p, "\x89PNG\r\n\x1a\n", 8) == 0)
            r->n_images++;
        else
            buf_release(b);
    }
}

/* False = the reply is not one of the driver's: the code wrote it. */
static bool read_reply(const struct buf *reply, struct code_result *r)
{
    const char *status = NULL;
    struct err e;
    json_t *j;

    if (json_parse(&j, reply->p + 4, reply->len - 4, "reply", &e))
        return false;
    status = json_string_value(json_object_get(j, "status"));
    if (status) {
        const json_t *value = json_object_get(j, "value");

        r->end = strcmp(status, "ok") == 0 ? CODE_OK : CODE_ERROR;
        if (json_is_string(value))
            add_clean(&r->value, json_string_value(value), json_string_length(value));
        read_images(r, json_object_get(j, "images"));
    }
    json_decref(j);
    return status != NULL;
}

static void how_it_died(char *why, size_t size, int status)
{
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;

    if (code > 128)
        snprintf(why, size, "the process was ended by signal %d (%s)", code - 128,
                 strsignal(code - 128));
    else
        snprintf(why, size, "the process ended with status %d", code);
}

static void end_session(struct code *c, struct code_result *r)
{
    int status = 0;

    if (r->end == CODE_DIED) { /* it is ending by itself: its own status tells more */
        siginfo_t info = { 0 };

        for (int i = 0; i < 400 && info.si_pid == 0; i++) {
            if (waitid(P_PID, (id_t)c->box.pid, &info, WEXITED | WNOHANG | WNOWAIT))
                break;
            if (info.si_pid == 0)
                poll(NULL, 0, 5);
        }
        if (info.si_pid)
            status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
        how_it_died(r->why, sizeof(r->why), status);
    } else if (r->end == CODE_TIMEOUT) {
        snprintf(r->why, sizeof(r->why), "stopped after %g s (limit of one run)", c->limits.wall);
    } else if (r->end == CODE_MEMORY) {
        snprintf(r->why, sizeof(r->why), "stopped: more than %zu MiB of memory (limit)",
                 c->limits.memory >> 20);
    } else {
        snprintf(r->why, sizeof(r->why), "stopped: more than %zu KiB of output (limit)",
                 c->limits.output >> 10);
    }
    sandbox_stop(&c->box, NULL);
}

/* The process that should be waiting for code is not there: bubblewrap failed, and said why. */
static int no_sandbox(struct code *c, struct exchange *x, struct err *e)
{
    struct buf why;

    buf_init(&why, 1 << 20);
    capture_text(&x->err, &why);
    for (size_t i = 0; i < why.len; i++)
        why.p[i] = why.p[i] == '\n' ? ' ' : why.p[i];
    err_set(e, ERR_FAIL,
            "the sandbox cannot be set up: %.200s; it needs bubblewrap, python3 and user "
            "namespaces, and "
            "nothing runs without it",
            why.len ? why.p : "bwrap is not there");
    buf_release(&why);
    buf_release(&x->out.first);
    buf_release(&x->out.last);
    sandbox_stop(&c->box, NULL);
    return -1;
}

int code_run(struct code *c, const char *source, size_t n, struct code_result *r, struct err *e)
{
    const double began = clock_seconds();
    const uint32_t len = (uint32_t)n;
    struct exchange x = { 0 };
    struct buf request;

    if (n > SOURCE_MAX)
        return err_set(e, ERR_USAGE, "the code has %zu bytes, at most %d", n, SOURCE_MAX);
    if (c->box.pid == 0 && start(c, e))
        return -1;
    buf_init(&request, SOURCE_MAX + 16);
    buf_add(&request, (const char *)&len, 4);
    buf_add(&request, source, n);
    x.request = request.p;
    x.left = request.len;
    capture_init(&x.out);
    capture_init(&x.err);
    buf_init(&x.reply, REPLY_MAX + (1 << 20));
    const enum code_end end = exchange(c, &x);

    buf_release(&request);
    if (end == CODE_DIED && !c->ready) {
        buf_release(&x.reply);
        return no_sandbox(c, &x, e);
    }
    r->end = end;
    if (end == CODE_OK && !read_reply(&x.reply, r))
        r->end = CODE_DIED;
    capture_text(&x.out, &r->out);
    capture_text(&x.err, &r->err);
    buf_release(&x.reply);
    if (r->end > CODE_ERROR)
        end_session(c, r);
    r->seconds = clock_seconds() - began;
    return 0;
}
