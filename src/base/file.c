#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"

static int errno_set(struct err *e, const char *path)
{
    return err_set(e, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_FAIL, "%s: %s",
                   path, strerror(errno));
}

/* An open descriptor of a regular file, its length in *len; or -1. */
static int open_regular(const char *path, size_t *len, struct err *e)
{
    struct stat st;
    int fd;

    if (fault_hit()) {
        errno = EIO;
        return errno_set(e, path);
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (fd < 0)
        return errno_set(e, path);
    if (fstat(fd, &st)) {
        errno_set(e, path);
        close(fd);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_FORMAT, "%s: not a regular file", path);
    }
    *len = (size_t)st.st_size;
    return fd;
}

/* All mappings there are, for map_ahead and map_forget. */
static struct {
    pthread_mutex_t lock;
    struct map *at;
    size_t n;
} maps = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void maps_add(struct map m)
{
    pthread_mutex_lock(&maps.lock);
    maps.at = xrealloc(maps.at, (maps.n + 1) * sizeof(*maps.at));
    maps.at[maps.n++] = m;
    pthread_mutex_unlock(&maps.lock);
}

static void maps_remove(struct map m)
{
    pthread_mutex_lock(&maps.lock);
    for (size_t i = 0; i < maps.n; i++)
        if (maps.at[i].p == m.p)
            maps.at[i] = maps.at[--maps.n];
    if (maps.n == 0) {
        free(maps.at);
        maps.at = NULL;
    }
    pthread_mutex_unlock(&maps.lock);
}

/* Bytes from p on of the mapping that it is in; 0 = in none. Under the lock. */
static size_t mapped_after(uintptr_t p)
{
    for (size_t i = 0; i < maps.n; i++) {
        const uintptr_t start = (uintptr_t)maps.at[i].p;

        if (p >= start && p - start < maps.at[i].len)
            return maps.at[i].len - (p - start);
    }
    return 0;
}

void map_ahead(const void *p, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p / page * page;

    pthread_mutex_lock(&maps.lock);
    const size_t have = mapped_after((uintptr_t)p);

    n = n < have ? n : have;
    if (n)
        (void)madvise((void *)from, (uintptr_t)p + n - from, MADV_WILLNEED);
    pthread_mutex_unlock(&maps.lock);
}

void map_forget(const void *p, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)p + page - 1) / page * page;
    const uintptr_t to = ((uintptr_t)p + n) / page * page;

    if (from >= to)
        return;
    pthread_mutex_lock(&maps.lock);
    const bool mapped = n <= mapped_after((uintptr_t)p);

    pthread_mutex_unlock(&maps.lock);
    if (mapped) /* and stays so while the caller reads it; several threads may be here */
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

int map_open(struct map *m, const char *path, struct err *e)
{
    size_t len;
    void *p = NULL;
    const int fd = open_regular(path, &len, e);

    if (fd < 0)
        return -1;
    if (len > 0) {
        p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            errno_set(e, path);
            close(fd);
            return -1;
        }
        if (len >= MEM_HUGE)
            (void)madvise(p, len, MADV_HUGEPAGE);
    }
    close(fd);
    *m = (struct map){ .p = p, .len = len };
    if (p)
        maps_add(*m);
    return 0;
}

void map_close(struct map *m)
{
    if (m->p) {
        maps_remove(*m);
        munmap((void *)(uintptr_t)m->p, m->len);
    }
    *m = (struct map){ 0 };
}

int file_read(char **out, size_t *len, const char *path, size_t max, struct err *e)
{
    size_t want, have = 0;
    void *p;
    const int fd = open_regular(path, &want, e);

    if (fd < 0)
        return -1;
    if (want > max) {
        close(fd);
        return err_set(e, ERR_FORMAT, "%s: %zu bytes, more than the limit of %zu", path, want, max);
    }
    if (mem_new(&p, want + 1, 1, path, e)) {
        close(fd);
        return -1;
    }
    while (have < want) {
        const ssize_t n = read(fd, (char *)p + have, want - have);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n < 0)
                errno_set(e, path);
            else
                err_set(e, ERR_FAIL, "%s: shrank while being read", path);
            free(p);
            close(fd);
            return -1;
        }
        have += (size_t)n;
    }
    close(fd);
    *out = p;
    *len = want;
    return 0;
}

bool file_exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool file_is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *dir, const char *name)
{
    const size_t n = strlen(dir);

    return xasprintf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

int dir_make(const char *path, struct err *e)
{
    char *s = xstrdup(path);
    int rc = 0;

    for (char *p = s + 1;; p++) {
        if (*p && *p != '/')
            continue;
        const char c = *p;

        *p = 0;
        if (mkdir(s, 0755) && errno != EEXIST) {
            rc = errno_set(e, s);
            break;
        }
        *p = c;
        if (!c)
            break;
    }
    free(s);
    return rc;
}

int out_open(struct out_file *o, const char *path, struct err *e)
{
    char *tmp = xasprintf("%s.XXXXXX.part", path);
    const int fd = fault_hit() ? (errno = EIO, -1) : mkstemps(tmp, 5);

    if (fd < 0) {
        free(tmp);
        return errno_set(e, path);
    }
    const mode_t mask = umask(0);

    umask(mask);
    (void)fchmod(fd, 0666 & ~mask);
    FILE *f = fdopen(fd, "wb");
    BUG_ON(!f);
    *o = (struct out_file){ .f = f, .tmp = tmp, .path = xstrdup(path) };
    return 0;
}

int out_commit(struct out_file *o, struct err *e)
{
    const bool bad = fault_hit() || ferror(o->f) || fflush(o->f) || fsync(fileno(o->f));
    int rc = 0;

    if (bad) {
        if (!errno)
            errno = EIO;
        rc = errno_set(e, o->path);
        out_abort(o);
        return rc;
    }
    fclose(o->f);
    o->f = NULL;
    if (rename(o->tmp, o->path)) {
        rc = errno_set(e, o->path);
        unlink(o->tmp);
    }
    free(o->tmp);
    free(o->path);
    *o = (struct out_file){ 0 };
    return rc;
}

void out_abort(struct out_file *o)
{
    if (o->f)
        fclose(o->f);
    if (o->tmp)
        unlink(o->tmp);
    free(o->tmp);
    free(o->path);
    *o = (struct out_file){ 0 };
}

int file_line(struct buf *b, FILE *f, struct err *e)
{
    char *line = NULL;
    size_t cap = 0;

    errno = 0;
    const ssize_t n = getline(&line, &cap, f);

    buf_clear(b);
    if (n < 0) {
        free(line);
        if (ferror(f))
            return err_set(e, ERR_FAIL, "standard input: %s", strerror(errno));
        return 0;
    }
    buf_add(b, line, (size_t)n - (n > 0 && line[n - 1] == '\n'));
    free(line);
    return buf_check(b, "line", e) ? -1 : 1;
}
