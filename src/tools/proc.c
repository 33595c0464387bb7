#include "tools/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

extern char **environ;

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Our environment with env's texts in front, which win. Owned; only the first *n are. */
static char **environment(const json_t *env, size_t *n)
{
    char **list;
    const char *key;
    json_t *v;
    size_t old = 0, k = 0;

    while (environ[old])
        old++;
    list = xcalloc(old + json_object_size(env) + 1, sizeof(*list));
    json_object_foreach((json_t *)(uintptr_t)env, key, v) if (json_is_string(v)) list[k++] =
        xasprintf("%s=%s", key, json_string_value(v));
    *n = k;
    for (size_t i = 0; i < old; i++) {
        const size_t name = strcspn(environ[i], "=") + 1;
        bool ours = false;

        for (size_t m = 0; m < *n; m++)
            ours |= strncmp(environ[i], list[m], name) == 0;
        if (!ours)
            list[k++] = environ[i];
    }
    return list;
}

static int spawn(pid_t *pid, char **argv, char **env, const int fd[3])
{
    posix_spawn_file_actions_t acts;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int rc;

    sigemptyset(&none);
    sigemptyset(&all);
    sigaddset(&all, SIGPIPE);
    sigaddset(&all, SIGINT);
    posix_spawn_file_actions_init(&acts);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_adddup2(&acts, fd[i], i);
    posix_spawn_file_actions_addclosefrom_np(&acts, 3);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    thread_let_go();
    rc = posix_spawnp(pid, argv[0], &acts, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&acts);
    return rc;
}

int proc_start(struct proc *p, const json_t *argv, const json_t *env, struct err *e)
{
    const size_t n = json_array_size(argv);
    int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 };
    char **args = xcalloc(n + 1, sizeof(*args)), **vars;
    size_t n_own;
    pid_t pid = 0;
    int rc = -1;

    for (size_t i = 0; i < n; i++)
        args[i] = (char *)(uintptr_t)json_string_value(json_array_get(argv, i));
    vars = environment(env, &n_own);
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
        rc = err_set(e, ERR_FAIL, "no pipe for %.100s: %s", args[0], strerror(errno));
    } else {
        const int fd[3] = { in[0], out[1], err[1] };
        const int why = spawn(&pid, args, vars, fd);

        rc = why ? err_set(e, ERR_NOT_FOUND, "%.200s cannot be started: %s", args[0], strerror(why))
                 : 0;
    }
    close_fd(&in[0]);
    close_fd(&out[1]);
    close_fd(&err[1]);
    *p = (struct proc){ .pid = rc ? 0 : pid, .in = in[1], .out = out[0], .err = err[0] };
    for (size_t i = 0; i < n_own; i++)
        free(vars[i]);
    free(vars);
    free(args);
    if (rc) {
        proc_stop(p, NULL);
        return -1;
    }
    fcntl(p->in, F_SETFL, O_NONBLOCK);
    fcntl(p->out, F_SETFL, O_NONBLOCK);
    fcntl(p->err, F_SETFL, O_NONBLOCK);
    return 0;
}

void proc_stop(struct proc *p, int *status)
{
    int s = 0;

    close_fd(&p->in);
    close_fd(&p->out);
    close_fd(&p->err);
    if (p->pid > 0) {
        /* who has closed its output is given a moment to end by itself, so that its status counts
         */
        for (int i = 0; status && i < 100; i++) {
            siginfo_t info = { 0 };

            if (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid)
                break;
            poll(NULL, 0, 2);
        }
        kill(-p->pid, SIGKILL);
        while (waitpid(p->pid, &s, 0) < 0 && errno == EINTR)
            ;
    }
    p->pid = 0;
    if (status)
        *status = s;
}

void proc_status(char *text, size_t size, int status)
{
    if (WIFSIGNALED(status))
        snprintf(text, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(text, size, "status %d", WEXITSTATUS(status));
}

/* What is there; false = the other end is closed. What does not fit into `to` is dropped. */
static bool drain(int fd, struct buf *to)
{
    char part[1 << 14];
    ssize_t n = 1;

    for (int i = 0; i < 16 && n > 0; i++) {
        n = read(fd, part, sizeof(part));
        if (n > 0)
            buf_add(to, part, (size_t)n);
    }
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

enum proc_end proc_talk(struct proc *p, const char *input, size_t n, bool last, double end,
                        bool (*until)(void *arg, const struct buf *out), void *arg, struct buf *out,
                        struct buf *err)
{
    bool open = true;

    for (;;) {
        struct pollfd fd[3] = { { p->out, POLLIN, 0 },
                                { p->err, POLLIN, 0 },
                                { n ? p->in : -1, POLLOUT, 0 } };
        const double left = end - clock_seconds();

        if (n == 0 && last)
            close_fd(&p->in);
        if (out->full)
            return PROC_FLOOD;
        if (until && until(arg, out))
            return PROC_DONE;
        if (!open)
            return PROC_CLOSED;
        if (left <= 0)
            return PROC_TIMEOUT;
        if (poll(fd, 3, left > 0.1 ? 100 : 1 + (int)(left * 1e3)) < 0 && errno != EINTR)
            return PROC_CLOSED;
        if (fd[2].revents) {
            const ssize_t k = write(p->in, input, n);

            if (k > 0) {
                input += k;
                n -= (size_t)k;
            } else if (k < 0 && errno != EAGAIN && errno != EINTR) {
                n = 0; /* it does not want to read all of it */
            }
        }
        if (p->err >= 0 && !drain(p->err, err))
            close_fd(&p->err);
        open = drain(p->out, out);
    }
}
