/* work.h - a long output that survives being killed: files written one after another into
 * DST.partial/, with a journal of what is safely on the disk, renamed to DST when complete.
 *
 * The files are one stream: their sizes are known before the first byte, and a place in the stream
 * is a byte count over all of them. Who starts the same work again is told where to go on. */
#ifndef PUNA_BASE_WORK_H
#define PUNA_BASE_WORK_H

#include "base/err.h"

struct work_file {
    const char *name; /* borrowed until work_finish or work_stop */
    size_t bytes;     /* above 0 */
};

struct work {
    char *dst, *dir; /* owned */
    bool folder;     /* DST is the folder itself, else its one file */
    char key[65];
    const struct work_file *file; /* borrowed */
    size_t n;
    size_t total;   /* bytes of all files */
    size_t at;      /* bytes written; after work_open: where to go on, 0 or a place that was
                       marked */
    size_t cur, in; /* the current file and the place in it */
    int fd, lock;   /* -1 = none */
};

/* key: 64 hexadecimal digits that say what is being made; a DST.partial of another key is refused,
 * as is a DST that exists and a DST.partial that another process is writing. Checks that what is
 * left fits on the disk. */
int work_open(struct work *w, const char *dst, bool folder, const char *key,
              const struct work_file *file, size_t n, struct err *e) MUST_USE;
/* The next bytes; they may cross from one file into the next. */
int work_write(struct work *w, const void *p, size_t n, struct err *e) MUST_USE;
/* Makes all that was written safe: an interrupted work goes on from here. */
int work_mark(struct work *w, struct err *e) MUST_USE;
/* A small file of the folder, outside the stream; written whole each time. */
int work_put(struct work *w, const char *name, const void *p, size_t n, struct err *e) MUST_USE;
/* All is written: DST appears. Releases w, also on failure. */
int work_finish(struct work *w, struct err *e) MUST_USE;
/* Leaves DST.partial for another time; legal on a zeroed or finished struct. */
void work_stop(struct work *w);

#endif
