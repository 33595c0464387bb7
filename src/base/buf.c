#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){ .p = xcalloc(1, 32), .cap = 32, .max = max };
}

void buf_release(struct buf *b)
{
    free(b->p);
    *b = (struct buf){ 0 };
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->full = false;
    b->p[0] = 0;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    if (b->full || n > b->max - b->len) {
        b->full = true;
        return;
    }
    if (n >= b->cap - b->len) {
        size_t cap = b->cap * 2;

        if (cap <= b->len + n)
            cap = b->len + n + 1;
        b->p = xrealloc(b->p, cap);
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->len, p, n);
    b->len += n;
    b->p[b->len] = 0;
}

void buf_addc(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_adds(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
    char stack[256];
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(stack, sizeof(stack), fmt, ap);
    va_end(ap);
    BUG_ON(n < 0);
    if ((size_t)n < sizeof(stack)) {
        buf_add(b, stack, (size_t)n);
    } else {
        char *heap = xmalloc((size_t)n + 1);

        vsnprintf(heap, (size_t)n + 1, fmt, again);
        buf_add(b, heap, (size_t)n);
        free(heap);
    }
    va_end(again);
}

void buf_cut(struct buf *b, size_t len)
{
    BUG_ON(len > b->len);
    b->len = len;
    b->p[len] = 0;
}

void buf_remove(struct buf *b, size_t at, size_t n)
{
    BUG_ON(at > b->len || n > b->len - at);
    memmove(b->p + at, b->p + at + n, b->len - at - n);
    buf_cut(b, b->len - n);
}

char *buf_take(struct buf *b)
{
    char *p = b->p;

    buf_init(b, b->max);
    return p;
}

int buf_check(const struct buf *b, const char *what, struct err *e)
{
    if (b->full)
        return err_set(e, ERR_MEMORY, "%s: longer than the limit of %zu bytes", what, b->max);
    return 0;
}
