#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

/* Text for a terminal and for JSON, whatever names came from a file. */
static void scrub(char *s)
{
    size_t left = strlen(s), n;

    for (; left; s += n, left -= n) {
        int32_t cp;

        n = utf8_next(s, left, &cp);
        if (cp < 0x20 || cp == 0x7f)
            memset(s, '?', n);
    }
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return -1;
    e->code = code;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    scrub(e->msg);
    return -1;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    char old[sizeof(e->msg)];
    va_list ap;
    int n;

    if (!e)
        return -1;
    memcpy(old, e->msg, sizeof(old));
    va_start(ap, fmt);
    n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n + 2 < sizeof(e->msg)) { /* cuts a message that is too long */
        const size_t at = (size_t)n + 2, room = sizeof(e->msg) - at - 1;
        const size_t len = strnlen(old, room);

        memcpy(e->msg + n, ": ", 2);
        memcpy(e->msg + at, old, len);
        e->msg[at + len] = 0;
    }
    scrub(e->msg);
    return -1;
}

int err_exit_status(enum err_code code)
{
    switch (code) {
    case ERR_NONE:      return 0;
    case ERR_FAIL:      return 1;
    case ERR_USAGE:     return 2;
    case ERR_NOT_FOUND: return 3;
    case ERR_AUTH:      return 4;
    case ERR_NETWORK:   return 5;
    case ERR_MEMORY:    return 6;
    case ERR_HARDWARE:  return 7;
    case ERR_FORMAT:    return 8;
    case ERR_TIMEOUT:   return 9;
    }
    return 1;
}

void bug_at(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "puna: BUG at %s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}
