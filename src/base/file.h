/* file.h - files: mapped, read whole under a cap, written beside and renamed.
 * Only regular files are opened: a device, a FIFO or a directory is refused
 * before any read, so nothing hangs and nothing is endless. */
#ifndef PUNA_BASE_FILE_H
#define PUNA_BASE_FILE_H

#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

/* A read-only mapping of a whole regular file. From MEM_HUGE (base/mem.h) on the system is asked to
 * read what is not in memory yet in pieces of 2 MiB, and to map them as pages of that size: a wish,
 * which ext4 (Linux 6.16), XFS and Btrfs grant. What they hold in smaller pieces stays so. */
struct map {
    const uint8_t *p; /* NULL when the file is empty */
    size_t len;
};

int map_open(struct map *m, const char *path, struct err *e) MUST_USE;
void map_close(struct map *m); /* legal on a zeroed struct */
/* The system may begin to read p[0..n) from the file, if it is of one mapping of map_open and as
 * far as that goes; nobody waits for it. Any thread. */
void map_ahead(const void *p, size_t n);
/* The whole pages in p[0..n) leave this process's memory, if they are of one mapping of map_open:
 * who reads them again gets them from the file. Nothing happens to other memory. Any thread. */
void map_forget(const void *p, size_t n);

/* Reads a whole regular file of at most max bytes. *out gets a NUL after the
 * last byte; free() it. */
int file_read(char **out, size_t *len, const char *path, size_t max, struct err *e) MUST_USE;

bool file_exists(const char *path); /* a regular file, links followed */
bool file_is_dir(const char *path);
char *path_join(const char *dir, const char *name);     /* malloc'd "dir/name" */
int dir_make(const char *path, struct err *e) MUST_USE; /* like mkdir -p */

/* A file that appears under its name only when complete: written to
 * NAME.XXXXXX.part in the same folder, synced, renamed. */
struct out_file {
    FILE *f;
    char *tmp;
    char *path;
};

int out_open(struct out_file *o, const char *path, struct err *e) MUST_USE;
/* Flushes, syncs, renames. On failure the temporary file is removed. */
int out_commit(struct out_file *o, struct err *e) MUST_USE;
/* Removes the temporary file; does nothing after a commit. */
void out_abort(struct out_file *o);

/* Reads one line of any length up to max, without its newline, into *b.
 * 1 = a line, 0 = end of file, -1 = error. */
int file_line(struct buf *b, FILE *f, struct err *e) MUST_USE;

#endif
