/* sandbox.h - a process behind walls of the kernel: bubblewrap's namespaces (no network, a file
 * system of its own, no processes but its own), a seccomp filter against what a kernel offers
 * beyond that, and limits. Where one wall cannot be set up nothing runs (docs/tools.md). */
#ifndef PUNA_TOOLS_SANDBOX_H
#define PUNA_TOOLS_SANDBOX_H

#include <sys/types.h>

#include "base/err.h"

struct sandbox {
    pid_t pid;               /* bubblewrap; killing it kills all that is inside */
    int in, out, err, reply; /* pipes: its standard input, outputs, and descriptor 3 */
};

enum { SANDBOX_REPLY_FD = 3 };

/* Starts argv (a program inside the sandbox, whose root holds /usr read-only, and /box and /tmp in
 * memory). Its standard streams and descriptor 3 are pipes, ours non-blocking. As root the process
 * runs as a user that owns nothing. */
int sandbox_start(struct sandbox *s, const char *const *argv, struct err *e) MUST_USE;
/* Kills whatever runs in it and closes the pipes. *status (may be NULL) as of waitpid. A sandbox
 * that is not running is left alone. */
void sandbox_stop(struct sandbox *s, int *status);
/* Bytes of memory that all processes in it hold (resident, shared pages by their part). */
size_t sandbox_memory(const struct sandbox *s);
/* The filter of system calls as a memory file at its start, for bubblewrap's --seccomp. */
int sandbox_filter(int *fd, struct err *e) MUST_USE;

#endif
