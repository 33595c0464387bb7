#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer.h"

static void reserve(struct ids *v, size_t more)
{
    size_t cap, bytes;

    if (more <= v->cap - v->n)
        return;
    cap = v->cap < 16 ? 32 : v->cap * 2;
    if (cap - v->n < more)
        cap = v->n + more;
    BUG_ON(!mul_ok(&bytes, cap, sizeof(*v->p)));
    v->p = xrealloc(v->p, bytes);
    v->cap = cap;
}

void ids_add(struct ids *v, int32_t id)
{
    reserve(v, 1);
    v->p[v->n++] = id;
}

void ids_append(struct ids *v, const int32_t *p, size_t n)
{
    reserve(v, n);
    if (n)
        memcpy(v->p + v->n, p, n * sizeof(*p));
    v->n += n;
}

void ids_release(struct ids *v)
{
    free(v->p);
    *v = (struct ids){ 0 };
}
