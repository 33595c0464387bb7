/* buf.h - a growing byte buffer with a maximum that cannot be forgotten.
 *
 * It always holds a NUL after len, so p is a C string where the content has no
 * NUL itself. The first append that would pass max sets `full` and drops that
 * append whole; later ones are dropped too, so a caller may check once at the end. */
#ifndef PUNA_BASE_BUF_H
#define PUNA_BASE_BUF_H

#include "base/err.h"

struct buf {
    char *p;     /* owned; never NULL after buf_init */
    size_t len;  /* bytes used, without the NUL */
    size_t cap;
    size_t max;  /* bytes allowed */
    bool full;   /* something was dropped */
};

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b); /* legal on a zeroed struct */
void buf_clear(struct buf *b);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_addc(struct buf *b, char c);
void buf_adds(struct buf *b, const char *s);
void buf_addf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_cut(struct buf *b, size_t len);                /* shortens to len */
void buf_remove(struct buf *b, size_t at, size_t n);    /* removes from the middle */
char *buf_take(struct buf *b);                          /* transfers p; b is empty again */
/* -1 with a message naming `what` when something was dropped. */
int buf_check(const struct buf *b, const char *what, struct err *e) MUST_USE;

#endif
