/* mem.h - memory and checked sizes.
 *
 * Small allocations die when the system has nothing left (x*); anything whose
 * size comes from a file, a request or an option goes through mem_new, which
 * returns an error. Both go through the fault counter of base/fault.h. */
#ifndef PUNA_BASE_MEM_H
#define PUNA_BASE_MEM_H

#include "base/err.h"

void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xmemdup0(const void *p, size_t n); /* copies n bytes and adds a NUL */
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* n * size bytes, zeroed; `what` names the thing in the message. free() it. */
int mem_new(void **out, size_t n, size_t size, const char *what, struct err *e) MUST_USE;

/* Mappings from this size on are offered to the kernel for huge pages. Below, such a page would
 * mostly hold bytes that are never used, and clearing them costs the first token. */
#define MEM_HUGE ((size_t)32 << 20)

/* A large anonymous mapping, zeroed. Pages are not touched: the thread that
 * first writes one decides its NUMA node. Release with mem_unmap(p, n). */
int mem_map(void **out, size_t n, const char *what, struct err *e) MUST_USE;
void mem_unmap(void *p, size_t n);
/* The pages that lie wholly within p .. p+n may go: what they held is not read again, or read from
 * the file that is mapped there. */
void mem_forget(const void *p, size_t n);

/* Checked arithmetic: true and *out set, or false and *out untouched. */
static inline bool mul_ok(size_t *out, size_t a, size_t b)
{
    size_t r;

    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool add_ok(size_t *out, size_t a, size_t b)
{
    size_t r;

    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* Bytes of physical memory that could be used now: MemAvailable, cut by the
 * limit of the control group the process runs in. 0 when unknown. */
size_t mem_available(void);
/* Peak resident set of this process in bytes. */
size_t mem_peak_rss(void);

#endif
