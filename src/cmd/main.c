/* main.c - chooses the command, prints its error, and sees to it that what was written arrived. */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cmd/help.h"
#include "cmd/opt.h"

/* A closed standard descriptor would be given to the next file that is opened, and what is printed
 * would land in it. Standard output that was closed opens read-only, so writing to it fails. */
static void keep_std_fds(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) {
            const int got = open("/dev/null", fd == 1 ? O_RDONLY : O_RDWR);

            if (got != fd)
                _exit(1);
        }
}

static int fail(const struct err *e)
{
    fprintf(stderr, "error: %s\n", e->msg);
    return err_exit_status(e->code);
}

/* Written text can still be lost: a full disk shows only now. */
static int finish(int status)
{
    const bool failed = ferror(stdout);

    errno = 0;
    if (fflush(stdout) || failed) {
        if (status == 0 || status > 1)
            fprintf(stderr, "error: standard output: %s\n",
                    errno ? strerror(errno) : "write failed");
        return status ? status : 1;
    }
    return status;
}

static int run_cmd(const struct cmd *cmd, int argc, char **argv)
{
    struct err e = { 0 };
    void *cfg = xcalloc(1, cmd->cfg_size ? cmd->cfg_size : 1);
    int rc = opt_parse(cfg, cmd, argc, argv, &e);

    if (rc == 0)
        rc = cmd->run(cfg, &e);
    else if (rc == 1)
        rc = 0; /* --help was printed */
    if (rc < 0)
        rc = (fflush(stdout), fail(&e));
    opt_release(cfg);
    free(cfg);
    return rc;
}

static int dispatch(int argc, char **argv)
{
    struct err e = { 0 };
    const struct cmd *cmd;
    const char *name = argc > 1 ? argv[1] : NULL;

    for (int i = 1; i < argc; i++)
        if (!utf8_valid(argv[i], strlen(argv[i]))) {
            err_set(&e, ERR_USAGE, "argument %d is not valid UTF-8", i);
            return fail(&e);
        }
    if (!name || !strcmp(name, "--help") || !strcmp(name, "-h")) {
        help_commands(stdout);
        return 0;
    }
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        puts("puna " PUNA_VERSION);
        return 0;
    }
    if (argc > 2) { /* `puna bench serve` is bench_serve */
        char *both = xasprintf("%s_%s", name, argv[2]);

        cmd = cmd_find(both);
        free(both);
        if (cmd)
            return run_cmd(cmd, argc - 3, argv + 3);
    }
    cmd = cmd_find(name);
    if (!cmd) {
        help_unknown(name, &e);
        return fail(&e);
    }
    return run_cmd(cmd, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
    static char buffer[1 << 16];

    keep_std_fds();
    if (!isatty(
            STDOUT_FILENO)) /* short output is written once, at the end, where errors are told */
        setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN); /* a reader that left is an error of write, not a death */
    return finish(dispatch(argc, argv));
}
