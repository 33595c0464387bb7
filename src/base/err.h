/* err.h - the three kinds of failure.
 *
 *   BUG(...)                 we are wrong: abort with the place
 *   return -1 + struct err   the world is wrong: file, request, memory, option
 *   (die                     lives in cmd/ only: main prints the err and exits)
 *
 * A message names the thing, the field and both numbers, and where it helps
 * what to do next. It is one line, without a trailing full stop or newline. */
#ifndef PUNA_BASE_ERR_H
#define PUNA_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED __attribute__((unused))

enum err_code {
    ERR_NONE = 0,
    ERR_FAIL,       /* anything without a class of its own */
    ERR_USAGE,      /* the command line or a request is malformed */
    ERR_NOT_FOUND,  /* file, model, revision */
    ERR_AUTH,       /* gated, no token, no scope */
    ERR_NETWORK,    /* network or offline */
    ERR_MEMORY,     /* does not fit in memory or on disk */
    ERR_HARDWARE,   /* this machine cannot do it */
    ERR_FORMAT,     /* corrupt, invalid or unsupported model or data */
    ERR_TIMEOUT,    /* cancelled by a limit */
};

struct err {
    enum err_code code;
    char msg[768];
};

/* Fills *e (e may be NULL) and returns -1, so that `return err_set(...)` reads
 * as what it is. Control characters in the message and what is no UTF-8
 * become '?', so hostile names cannot paint the terminal or break JSON. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "context: " before the message that is already in *e; returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The process exit status for a code (docs/exit-codes in `puna help`). */
int err_exit_status(enum err_code code);

_Noreturn void bug_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define BUG(...) bug_at(__FILE__, __LINE__, __VA_ARGS__)
#define BUG_ON(cond)               \
    do {                           \
        if (cond)                  \
            BUG("%s", #cond);      \
    } while (0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
