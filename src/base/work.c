#include "base/work.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"

static const char journal[] = "progress"; /* "KEY BYTES\n" */

static int fail(const char *path, struct err *e)
{
    return err_set(e, errno == ENOSPC ? ERR_MEMORY : ERR_FAIL, "%s: %s", path, strerror(errno));
}

static bool hit(void)
{
    if (!fault_hit())
        return false;
    errno = EIO;
    return true;
}

/* ---- where the last run stopped ---- */

/* Removes what a killed work_put left; *empty: nothing else is there. */
static int clean(const struct work *w, bool *empty, struct err *e)
{
    DIR *d = hit() ? NULL : opendir(w->dir);
    const struct dirent *f;

    if (!d)
        return fail(w->dir, e);
    *empty = true;
    while ((f = readdir(d))) {
        const size_t n = strlen(f->d_name);

        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, ".."))
            continue;
        if (n < 5 || strcmp(f->d_name + n - 5, ".part"))
            *empty = false;
        else
            unlinkat(dirfd(d), f->d_name, 0);
    }
    closedir(d);
    return 0;
}

/* What the journal says; 0 in a new folder. */
static int read_journal(const struct work *w, size_t *at, struct err *e)
{
    char *path = path_join(w->dir, journal), *text = NULL;
    bool empty = false;
    size_t n;
    int rc = -1;

    *at = 0;
    if (clean(w, &empty, e))
        goto done;
    if (!file_exists(path)) {
        rc = empty ? 0
                   : err_set(e, ERR_USAGE,
                             "%s exists and holds no unfinished work of puna: remove it, or name "
                             "another destination",
                             w->dir);
        goto done;
    }
    if (file_read(&text, &n, path, 256, e))
        goto done;
    if (n < 66 || memcmp(text, w->key, 64) || text[64] != ' ') {
        err_set(e, ERR_USAGE,
                "%s was left by another conversion (other source, options or version): remove it "
                "first",
                w->dir);
        goto done;
    }
    *at = strtoull(text + 65, NULL, 10);
    rc = 0;
done:
    free(text);
    free(path);
    return rc;
}

static size_t file_size(const struct work *w, size_t i)
{
    char *path = path_join(w->dir, w->file[i].name);
    struct stat st;
    const size_t n = stat(path, &st) || !S_ISREG(st.st_mode) ? 0 : (size_t)st.st_size;

    free(path);
    return n;
}

/* Sets the place to `at`, when the files are as the journal says; else to the start. */
static void find_place(struct work *w, size_t at)
{
    size_t sum = 0;

    w->at = w->cur = w->in = 0;
    if (at == 0 || at > w->total)
        return;
    for (size_t i = 0; i < w->n; i++) {
        const size_t part = at - sum < w->file[i].bytes ? at - sum : w->file[i].bytes;

        if (file_size(w, i) < part)
            return;
        sum += part;
        if (part < w->file[i].bytes || sum == at) {
            w->at = at;
            w->cur = i;
            w->in = part;
            return;
        }
    }
}

/* ---- files ---- */

static int sync_dir(const char *path, struct err *e)
{
    const int fd = hit() ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd)) {
        fail(path, e);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    close(fd);
    return 0;
}

/* The current file, cut to the place where writing goes on. */
static int open_current(struct work *w, struct err *e)
{
    char *path = path_join(w->dir, w->file[w->cur].name);
    int rc = 0;

    w->fd = hit() ? -1 : open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (w->fd < 0 || ftruncate(w->fd, (off_t)w->in) || lseek(w->fd, 0, SEEK_END) < 0)
        rc = fail(path, e);
    free(path);
    return rc;
}

static int sync_current(struct work *w, struct err *e)
{
    return hit() || fdatasync(w->fd) ? fail(w->file[w->cur].name, e) : 0;
}

static int check_space(const struct work *w, struct err *e)
{
    const size_t left = w->total - w->at;
    struct statvfs v;

    if (hit() || statvfs(w->dir, &v))
        return fail(w->dir, e);
    const size_t have = (size_t)v.f_bavail * (size_t)v.f_frsize;

    if (have < left)
        return err_set(e, ERR_MEMORY,
                       "%s: %zu bytes are still to be written, the disk has %zu free: free %zu "
                       "more, or name a place on another disk",
                       w->dst, left, have, left - have);
    return 0;
}

/* ---- the interface ---- */

int work_put(struct work *w, const char *name, const void *p, size_t n, struct err *e)
{
    char *path = path_join(w->dir, name);
    struct out_file o;
    int rc = out_open(&o, path, e);

    if (rc == 0) {
        if (n)
            fwrite(p, 1, n, o.f); /* out_commit asks ferror */
        rc = out_commit(&o, e);
    }
    free(path);
    return rc;
}

static int put_journal(struct work *w, struct err *e)
{
    char line[96];
    const int n = snprintf(line, sizeof(line), "%s %zu\n", w->key, w->at);

    return work_put(w, journal, line, (size_t)n, e);
}

int work_open(struct work *w, const char *dst, bool folder, const char *key,
              const struct work_file *file, size_t n, struct err *e)
{
    size_t at, len = strlen(dst);
    struct stat st;

    while (len > 1 && dst[len - 1] == '/')
        len--;
    *w = (struct work){ .folder = folder, .file = file, .n = n, .fd = -1, .lock = -1 };
    BUG_ON(strlen(key) != 64 || n == 0 || (!folder && n != 1));
    snprintf(w->key, sizeof(w->key), "%s", key);
    w->dst = xmemdup0(dst, len);
    w->dir = xasprintf("%s.partial", w->dst);
    for (size_t i = 0; i < n; i++)
        w->total += file[i].bytes;
    if (!lstat(w->dst, &st)) {
        err_set(e, ERR_USAGE, "%s exists already: remove it, or name another destination", w->dst);
        goto bad;
    }
    if (dir_make(w->dir, e))
        goto bad;
    w->lock = hit() ? -1 : open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->lock < 0) {
        fail(w->dir, e);
        goto bad;
    }
    if (flock(w->lock, LOCK_EX | LOCK_NB)) {
        err_set(e, ERR_FAIL, "%s: another process is writing it", w->dir);
        goto bad;
    }
    if (read_journal(w, &at, e))
        goto bad;
    find_place(w, at);
    if (check_space(w, e) || put_journal(w, e) || open_current(w, e))
        goto bad;
    return 0;
bad:
    work_stop(w);
    return -1;
}

int work_write(struct work *w, const void *p, size_t n, struct err *e)
{
    const char *from = p;

    BUG_ON(n > w->total - w->at);
    while (n > 0) {
        const size_t room = w->file[w->cur].bytes - w->in;
        const size_t want = n < room ? n : room;

        if (want == 0) {
            if (sync_current(w, e))
                return -1;
            close(w->fd);
            w->fd = -1;
            w->cur++;
            w->in = 0;
            if (open_current(w, e))
                return -1;
            continue;
        }
        const ssize_t k = hit() ? -1 : write(w->fd, from, want);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return fail(w->file[w->cur].name, e);
        w->in += (size_t)k;
        w->at += (size_t)k;
        from += k;
        n -= (size_t)k;
    }
    return 0;
}

int work_mark(struct work *w, struct err *e)
{
    return sync_current(w, e) || put_journal(w, e) ? -1 : 0;
}

static int rename_all(struct work *w, struct err *e)
{
    char *from = w->folder ? xstrdup(w->dir) : path_join(w->dir, w->file[0].name);
    char *note = path_join(w->folder ? w->dst : w->dir, journal);
    int rc = 0;

    if (hit() || rename(from, w->dst)) {
        rc = fail(w->dst, e);
    } else {
        unlink(note);
        if (!w->folder)
            rmdir(w->dir);
    }
    free(note);
    free(from);
    return rc;
}

int work_finish(struct work *w, struct err *e)
{
    BUG_ON(w->at != w->total);
    char *slash = strrchr(w->dst, '/');
    char *parent = !slash            ? xstrdup(".")
                   : slash == w->dst ? xstrdup("/")
                                     : xmemdup0(w->dst, (size_t)(slash - w->dst));
    const int rc =
        sync_current(w, e) || sync_dir(w->dir, e) || rename_all(w, e) || sync_dir(parent, e) ? -1
                                                                                             : 0;

    free(parent);
    work_stop(w);
    return rc;
}

void work_stop(struct work *w)
{
    if (!w->dst)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->lock >= 0)
        close(w->lock);
    free(w->dst);
    free(w->dir);
    *w = (struct work){ .fd = -1, .lock = -1 };
}
