#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fault.h"

enum { HUGE_PAGE = 2 << 20 };

static _Noreturn void out_of_memory(size_t n)
{
    fprintf(stderr, "puna: out of memory: %zu bytes refused by the system\n", n);
    exit(err_exit_status(ERR_MEMORY));
}

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);

    if (!p)
        out_of_memory(n);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);

    if (!p)
        out_of_memory(n);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);

    if (!q)
        out_of_memory(n);
    return q;
}

char *xstrdup(const char *s)
{
    return xmemdup0(s, strlen(s));
}

char *xmemdup0(const void *p, size_t n)
{
    char *s = xmalloc(n + 1);

    if (n)
        memcpy(s, p, n);
    s[n] = 0;
    return s;
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        out_of_memory(0);
    va_end(ap);
    return s;
}

int mem_new(void **out, size_t n, size_t size, const char *what, struct err *e)
{
    size_t total;
    void *p;

    if (!mul_ok(&total, n, size) || total > PTRDIFF_MAX)
        return err_set(e, ERR_MEMORY, "%s: %zu x %zu bytes cannot be addressed", what, n, size);
    p = fault_hit() ? NULL : calloc(1, total ? total : 1);
    if (!p)
        return err_set(e, ERR_MEMORY, "%s: no memory for %zu bytes", what, total);
    *out = p;
    return 0;
}

/* n bytes from a multiple of 2 MiB on, or MAP_FAILED. Linux before 6.7 puts mappings anywhere, and
 * later ones those whose length is no such multiple: large pages were lost at both ends. */
static void *map_aligned(size_t n)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), len = (n + page - 1) / page * page;
    uint8_t *p = mmap(NULL, len + HUGE_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return p;
    const size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;

    if (before)
        munmap(p, before);
    munmap(p + before + len, HUGE_PAGE - before);
    return p + before;
}

int mem_map(void **out, size_t n, const char *what, struct err *e)
{
    void *p;

    if (n > PTRDIFF_MAX - 2 * HUGE_PAGE)
        return err_set(e, ERR_MEMORY, "%s: %zu bytes cannot be addressed", what, n);
    if (n == 0)
        n = 1;
    p = fault_hit()     ? MAP_FAILED
        : n >= MEM_HUGE ? map_aligned(n)
                        : mmap(NULL, n, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_set(e, ERR_MEMORY, "%s: no memory for %zu bytes: %s", what, n, strerror(errno));
    if (n >= MEM_HUGE)
        (void)madvise(p, n, MADV_HUGEPAGE); /* a wish: refusal costs speed only */
    *out = p;
    return 0;
}

void mem_unmap(void *p, size_t n)
{
    if (p)
        munmap(p, n ? n : 1);
}

void mem_forget(const void *p, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)p;
    const uintptr_t lo = (at + page - 1) / page * page, hi = (at + n) / page * page;

    if (lo < hi)
        (void)madvise((void *)lo, hi - lo, MADV_DONTNEED); /* a wish */
}

/* Bytes of the files that a control group keeps in memory: it gives them up when it needs room. */
static unsigned long long cgroup_files(void)
{
    unsigned long long n, sum = 0;
    char line[128];
    FILE *f = fopen("/sys/fs/cgroup/memory.stat", "re");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "inactive_file %llu", &n) == 1 ||
            sscanf(line, "active_file %llu", &n) == 1)
            sum += n;
    if (f)
        fclose(f);
    return sum;
}

/* A control group's limit minus its use; SIZE_MAX without a limit. */
static size_t cgroup_left(void)
{
    unsigned long long max = 0, now = 0;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");

    if (!f)
        return SIZE_MAX;
    const bool limited = fscanf(f, "%llu", &max) == 1;
    fclose(f);
    if (!limited || !(f = fopen("/sys/fs/cgroup/memory.current", "re")))
        return SIZE_MAX;
    if (fscanf(f, "%llu", &now) != 1)
        now = 0;
    fclose(f);
    const unsigned long long files = cgroup_files();

    now = now > files ? now - files : 0;
    return max > now ? (size_t)(max - now) : 0;
}

size_t mem_available(void)
{
    char line[128];
    unsigned long long kb = 0;
    FILE *f = fopen("/proc/meminfo", "re");

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %llu kB", &kb) == 1)
            break;
    fclose(f);
    const size_t host = (size_t)kb * 1024, group = cgroup_left();
    return host < group ? host : group;
}

/* Not getrusage's ru_maxrss: that one begins with the peak of whoever started the program. */
size_t mem_peak_rss(void)
{
    unsigned long long kb = 0;
    char line[128];
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmHWM: %llu kB", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return (size_t)kb * 1024;
}
