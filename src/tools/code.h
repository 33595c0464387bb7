/* code.h - the code interpreter: Python behind the sandbox's walls, one process per session, which
 * keeps its names and files from one run to the next. */
#ifndef PUNA_TOOLS_CODE_H
#define PUNA_TOOLS_CODE_H

#include "base/buf.h"
#include "base/err.h"

struct code_limits {
    double wall;      /* seconds of one run */
    size_t cpu;       /* seconds of a session, each process */
    size_t memory;    /* bytes: of a process's addresses, and of all processes' memory together */
    size_t processes; /* threads count */
    size_t file;      /* bytes of one file */
    size_t output;    /* bytes a run may print before it is ended */
};
extern const struct code_limits code_limits_default; /* 30 s, 600 s, 1 GiB, 64, 64 MiB, 1 MiB */

enum code_end {
    CODE_OK,
    CODE_ERROR,   /* an exception, or sys.exit of another value than 0 */
    CODE_TIMEOUT, /* this and what follows ended the session: the next run starts a fresh one */
    CODE_MEMORY,
    CODE_OUTPUT,
    CODE_DIED,
};

struct code_result {
    enum code_end end;
    struct buf out, err; /* what it printed: valid UTF-8, no control characters but tab and line
                            end; of long output the first and the last 32 KiB */
    struct buf value;    /* repr of the last expression; "" = none */
    struct buf image[8]; /* PNGs of what matplotlib drew */
    size_t n_images;
    char why[160]; /* of an end that ended the session: which limit, or how it died */
    double seconds;
};
void code_result_init(struct code_result *r);
void code_result_release(struct code_result *r);

struct code;
/* Starts nothing yet. */
struct code *code_new(const struct code_limits *limits);
void code_free(struct code *c);
/* Runs source[0..n). -1 only where the sandbox cannot be set up; whatever the code does is a
 * result. */
int code_run(struct code *c, const char *source, size_t n, struct code_result *r,
             struct err *e) MUST_USE;

#endif
