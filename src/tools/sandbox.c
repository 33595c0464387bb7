#include "tools/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/thread.h"

enum { FILTER_FD = 4, MAX_ARGS = 96, FIRST_UID = 0x60000000 };

/* The walls; the program and its arguments follow. Sizes are bytes of files in memory. */
static const char walls[] =
    "bwrap --unshare-all --unshare-user --disable-userns --die-with-parent --new-session"
    " --cap-drop ALL --uid 65534 --gid 65534 --hostname box"
    " --clearenv --setenv PATH /usr/bin:/bin --setenv HOME /box --setenv LANG C.UTF-8"
    " --setenv PYTHONDONTWRITEBYTECODE 1 --setenv MPLBACKEND Agg --setenv MPLCONFIGDIR /tmp"
    " --setenv OPENBLAS_NUM_THREADS 4"
    " --ro-bind /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin"
    " --ro-bind-try /etc/alternatives /etc/alternatives --proc /proc --dev /dev"
    " --size 67108864 --tmpfs /tmp --size 268435456 --tmpfs /box --chdir /box --remount-ro /"
    " --seccomp 4 --";

/* ---- the child ---- */

/* Never as root: root's processes are not counted against a limit, and own what is mounted. */
static bool leave_root(void)
{
    const uid_t nobody = FIRST_UID + (uid_t)getpid(); /* alone, so that the count is its own */

    return geteuid() != 0 || (setgroups(0, NULL) == 0 && setresgid(nobody, nobody, nobody) == 0 &&
                              setresuid(nobody, nobody, nobody) == 0);
}

/* Puts from[i] at descriptor i, whatever the numbers are, and closes all others. */
static bool place(const int *from, int n)
{
    int high[8];

    for (int i = 0; i < n; i++) {
        high[i] = fcntl(from[i], F_DUPFD, 16);
        if (high[i] < 0)
            return false;
    }
    for (int i = 0; i < n; i++)
        if (dup2(high[i], i) < 0)
            return false;
    return close_range((unsigned)n, ~0u, 0) == 0;
}

_Noreturn static void child(const int *fds, char *const *args, pid_t parent)
{
    sigset_t none;

    sigemptyset(&none); /* a thread of ours may block all (base/thread.h) */
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
        _exit(126);
    /* leaving root forgets the signal of the parent's death */
    if (!leave_root() || !place(fds, FILTER_FD + 1) || prctl(PR_SET_PDEATHSIG, SIGKILL))
        _exit(126);
    /* an empty environment: bubblewrap is the sandbox's process 1, whose environment code can read
     */
    execve("/usr/bin/bwrap", args, (char *[]){ NULL });
    _exit(127);
}

/* ---- the parent ---- */

static void close_all(int *fd, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
        fd[i] = -1;
    }
}

int sandbox_start(struct sandbox *s, const char *const *argv, struct err *e)
{
    int ours[4] = { -1, -1, -1, -1 }, theirs[5] = { -1, -1, -1, -1, -1 };
    char words[sizeof(walls)], *args[MAX_ARGS], *rest = NULL;
    const pid_t self = getpid();
    size_t n = 0;
    pid_t pid;

    memcpy(words, walls, sizeof(walls));
    for (char *w = strtok_r(words, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
        args[n++] = w;
    for (size_t i = 0; argv[i] && n + 1 < MAX_ARGS; i++)
        args[n++] = (char *)(uintptr_t)argv[i];
    args[n] = NULL;

    for (int i = 0; i < 4; i++) {
        int p[2];

        if (pipe2(p, O_CLOEXEC)) {
            err_set(e, ERR_FAIL, "sandbox: no pipe: %s", strerror(errno));
            goto failed;
        }
        ours[i] = i == 0 ? p[1] : p[0];
        theirs[i] = i == 0 ? p[0] : p[1];
        fcntl(ours[i], F_SETFL, O_NONBLOCK);
    }
    if (sandbox_filter(&theirs[FILTER_FD], e))
        goto failed;
    thread_let_go();
    pid = fork();
    if (pid == 0)
        child(theirs, args, self);
    if (pid < 0) {
        err_set(e, ERR_FAIL, "sandbox: no process: %s", strerror(errno));
        goto failed;
    }
    close_all(theirs, ARRAY_LEN(theirs));
    *s = (struct sandbox){
        .pid = pid, .in = ours[0], .out = ours[1], .err = ours[2], .reply = ours[3]
    };
    return 0;
failed:
    close_all(ours, ARRAY_LEN(ours));
    close_all(theirs, ARRAY_LEN(theirs));
    return -1;
}

void sandbox_stop(struct sandbox *s, int *status)
{
    int got = 0;

    if (s->pid <= 0)
        return;
    kill(s->pid, SIGKILL);
    while (waitpid(s->pid, &got, 0) < 0 && errno == EINTR)
        ;
    if (status)
        *status = got;
    close_all((int[]){ s->in, s->out, s->err, s->reply }, 4);
    *s = (struct sandbox){ 0 };
}

/* ---- memory ---- */

/* The process that pid started first, or 0. */
static pid_t child_of(pid_t pid)
{
    char path[64];
    FILE *f;
    int got = 0;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    f = fopen(path, "re");
    if (f && fscanf(f, "%d", &got) != 1)
        got = 0;
    if (f)
        fclose(f);
    return got;
}

static bool same_namespace(const char *pid, const char *want)
{
    char path[64], got[64];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%.16s/ns/pid", pid);
    n = readlink(path, got, sizeof(got) - 1);
    if (n <= 0)
        return false;
    got[n] = 0;
    return strcmp(got, want) == 0;
}

static size_t resident(const char *pid)
{
    char path[64], line[256];
    size_t kib = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%.16s/status", pid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        size_t part;

        if (sscanf(line, "RssAnon: %zu kB", &part) == 1 ||
            sscanf(line, "RssShmem: %zu kB", &part) == 1)
            kib += part;
    }
    if (f)
        fclose(f);
    return kib << 10;
}

size_t sandbox_memory(const struct sandbox *s)
{
    char path[64], want[64];
    const pid_t init = child_of(s->pid); /* bubblewrap's own, in the new namespace */
    struct dirent *d;
    size_t sum = 0;
    ssize_t n;
    DIR *proc;

    snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)init);
    n = init ? readlink(path, want, sizeof(want) - 1) : -1;
    proc = n > 0 ? opendir("/proc") : NULL;
    if (!proc)
        return 0;
    want[n] = 0;
    while ((d = readdir(proc)))
        if (*d->d_name >= '0' && *d->d_name <= '9' && same_namespace(d->d_name, want))
            sum += resident(d->d_name);
    closedir(proc);
    return sum;
}
