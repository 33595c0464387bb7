/* wire.c - libevent's parser takes a bare LF for the end of a line, and a NUL for the end of a
 * value, where a proxy in front may not. A callback of the input buffer sees new bytes before the
 * parser does.
 *
 * It follows requests by their framing alone. Its state is one number, which the callback carries
 * as its argument: an evbuffer tells nobody when it is freed, so a structure could not be. */
#include "server/wire.h"

#include <event2/buffer.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "base/err.h"

enum phase {
    START,   /* of a request */
    FIRST,   /* its first line */
    NAME,    /* the name of a header, or an empty line */
    OTHER,   /* the rest of a header's line */
    LENGTH,  /* the value of Content-Length */
    BODY,    /* n bytes more */
    SIZE,    /* of a chunk, so far n */
    EXT,     /* its extension */
    DATA,    /* n bytes more, CR and LF among them */
    TRAILER, /* a line after the last chunk */
};

struct wire {
    uint32_t n;         /* of a length; bytes left */
    uint8_t phase;      /* enum phase */
    uint8_t at;         /* bytes of the line so far, CR aside; up to MANY */
    uint8_t name;       /* which of names[] the line may begin with; 0 = neither */
    uint8_t coding : 1; /* Transfer-Encoding was there */
    uint8_t cr : 1;     /* the last byte was CR */
};

_Static_assert(sizeof(struct wire) == sizeof(void *), "the state travels as a pointer");

enum { MANY = 31, MOST = 1 << 27 /* more is refused by its length anyway */ };

static const char *const names[] = { "", "content-length:", "transfer-encoding:" };

static void enter(struct wire *w, enum phase p)
{
    w->phase = (uint8_t)p;
    w->at = w->cr = 0;
}

static void line_end(struct wire *w, bool empty)
{
    switch (w->phase) {
    case SIZE:
    case EXT:
        w->n += w->n ? 2 : 0;
        enter(w, w->n ? DATA : TRAILER);
        break;
    case TRAILER:
        enter(w, empty ? START : TRAILER);
        break;
    default:
        if (!empty)
            enter(w, NAME);
        else if (w->coding)
            enter(w, SIZE);
        else
            enter(w, w->n ? BODY : START);
        w->n = w->phase == SIZE ? 0 : w->n;
    }
}

static uint32_t digit(char c)
{
    const char *const all = "0123456789abcdef", *p = c ? strchr(all, c) : NULL;

    return p ? (uint32_t)(p - all) : 16;
}

/* One byte of a line, CR and LF aside. */
static void line_byte(struct wire *w, char c)
{
    const char lower = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    const uint32_t base = w->phase == SIZE ? 16 : 10, d = digit(lower);

    if (w->phase == NAME) {
        if (w->at == 0)
            w->name = lower == 'c' ? 1 : lower == 't' ? 2 : 0;
        if (w->name && (w->at == MANY || names[w->name][w->at] != lower))
            w->name = 0;
        if (c == ':') {
            w->phase = w->name == 1 ? LENGTH : OTHER;
            if (w->name == 2)
                w->coding = 1;
            w->n = w->name == 1 ? 0 : w->n;
        }
    } else if ((w->phase == LENGTH || w->phase == SIZE) && d < base && w->n < MOST) {
        w->n = w->n * base + d;
    }
    if (w->at < MANY)
        w->at++;
}

/* Looks at p[0..n) and changes what is not as it should be; before: the byte in front, NULL = none.
 * Returns how many leading bytes are empty lines before a request. */
static size_t look(struct wire *w, char *p, size_t n, char *before)
{
    size_t drop = 0;

    for (size_t i = 0; i < n; i++) {
        char *last = i ? p + i - 1 : before;

        if (w->phase == BODY || w->phase == DATA) {
            const size_t k = n - i < w->n ? n - i : w->n;

            w->n -= (uint32_t)k;
            i += k - 1;
            if (w->n == 0)
                enter(w, w->phase == DATA ? SIZE : START);
            continue;
        }
        if (w->phase == START) {
            if (w->cr ? p[i] == '\n' : p[i] == '\r') {
                w->cr = !w->cr;
                drop += drop == i;
                continue;
            }
            enter(w, FIRST);
            w->n = w->coding = 0;
        }
        if (p[i] == 0)
            p[i] = 1;
        if (p[i] == ';' && w->phase == SIZE) {
            p[i] = ' '; /* which ends the number for libevent too */
            w->phase = EXT;
        }
        if (p[i] == '\n' && !w->cr)
            *(w->at && last ? last : p + i) = 1;
        if (p[i] == '\n') {
            line_end(w, w->at == 0);
        } else {
            w->cr = p[i] == '\r';
            if (!w->cr)
                line_byte(w, p[i]);
        }
    }
    return drop;
}

static void on_bytes(struct evbuffer *b, const struct evbuffer_cb_info *info, void *arg)
{
    const size_t from = evbuffer_get_length(b) - info->n_added, back = from > 0;
    struct evbuffer_iovec v[8];
    struct evbuffer_ptr at;
    size_t skip = back, left = info->n_added, drop = 0;
    char *before = NULL;
    struct wire w;
    void *next;

    memcpy(&w, &arg, sizeof(w));
    for (size_t done = 0; left;) {
        int n;

        evbuffer_ptr_set(b, &at, from - back + done, EVBUFFER_PTR_SET);
        n = evbuffer_peek(b, (ssize_t)(left + skip), &at, v, ARRAY_LEN(v));
        for (int i = 0; i < n && i < (int)ARRAY_LEN(v) && left; i++) {
            char *p = v[i].iov_base;
            size_t k = v[i].iov_len < left + skip ? v[i].iov_len : left + skip;

            if (k == 0)
                continue;
            done += k;
            if (skip) { /* the byte before the new ones */
                before = p++;
                k--;
                skip = 0;
            }
            const size_t empty = look(&w, p, k, before);

            drop += drop == info->n_added - left ? empty : 0;
            left -= k;
            if (k)
                before = p + k - 1;
        }
        if (n < 1)
            break;
    }
    memcpy(&next, &w, sizeof(next));
    if (next != arg) {
        evbuffer_remove_cb(b, on_bytes, arg);
        evbuffer_add_cb(b, on_bytes, next);
    }
    if (drop && from == 0)
        evbuffer_drain(b, drop);
}

void wire_watch(struct bufferevent *b)
{
    evbuffer_add_cb(bufferevent_get_input(b), on_bytes, NULL);
}
