/* proc.h - a helper process of the user's own (no sandbox): started, fed, read and ended within
 * limits. */
#ifndef PUNA_TOOLS_PROC_H
#define PUNA_TOOLS_PROC_H

#include <jansson.h>
#include <sys/types.h>

#include "base/buf.h"

struct proc {
    pid_t pid;        /* leader of a process group of its own; 0 = none */
    int in, out, err; /* pipes, ours non-blocking; -1 = closed */
};

/* argv: a list of texts, the program first, found in PATH. env: an object of texts that are added
 * to our own environment; NULL = none. */
int proc_start(struct proc *p, const json_t *argv, const json_t *env, struct err *e) MUST_USE;
/* Ends the whole group at once and closes the pipes. *status (may be NULL) as of waitpid. */
void proc_stop(struct proc *p, int *status);

enum proc_end { PROC_CLOSED, PROC_DONE, PROC_TIMEOUT, PROC_FLOOD };
/* Sends input[0..n), then closes the input when `last`; reads standard output into out (its limit
 * is the flood's) and the start of standard error into err, until until_(arg, out) says so (NULL =
 * until the output is closed) or `end` (monotonic seconds) has come. */
enum proc_end proc_talk(struct proc *p, const char *input, size_t n, bool last, double end,
                        bool (*until)(void *arg, const struct buf *out), void *arg, struct buf *out,
                        struct buf *err);
/* What a status of waitpid means: "status 3", "signal 9 (Killed)". */
void proc_status(char *text, size_t size, int status);

/* Monotonic seconds. */

#endif
