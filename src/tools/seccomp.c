/* seccomp.c - the system calls that code in the sandbox is refused: other processes, mounts and
 * namespaces, modules, tracing, keys, sockets. Everything else a program needs to compute stays
 * allowed. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "tools/sandbox.h"

static const char *const refused[] = {
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "name_to_handle_at",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "vhangup",
};

static const unsigned long new_namespace[] = { CLONE_NEWUSER,  CLONE_NEWNS,  CLONE_NEWPID,
                                               CLONE_NEWNET,   CLONE_NEWIPC, CLONE_NEWUTS,
                                               CLONE_NEWCGROUP };

/* Typing into the terminal behind us (CVE-2017-5226). */
static const unsigned long inject[] = { TIOCSTI, TIOCLINUX };

static int fill(scmp_filter_ctx f)
{
    const uint32_t eperm = SCMP_ACT_ERRNO(EPERM);
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        const int nr = seccomp_syscall_resolve_name(refused[i]);

        if (nr != __NR_SCMP_ERROR) /* a call that this libseccomp does not know is not reachable */
            rc |= seccomp_rule_add(f, eperm, nr, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(new_namespace); i++)
        rc |= seccomp_rule_add(f, eperm, SCMP_SYS(clone), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, new_namespace[i], new_namespace[i]));
    for (size_t i = 0; i < ARRAY_LEN(inject); i++)
        rc |= seccomp_rule_add(f, eperm, SCMP_SYS(ioctl), 1,
                               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, inject[i]));
    /* its flags lie in memory, where a filter cannot look: callers fall back to clone */
    rc |= seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    rc |= seccomp_rule_add(f, eperm, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_NE, AF_UNIX));
    return rc;
}

int sandbox_filter(int *fd, struct err *e)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    int out = -1;

    if (!f)
        return err_set(e, ERR_FAIL, "sandbox: the filter of system calls cannot be made");
    /* 32-bit and x32 calls have other numbers: they end the process */
    if (seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) == 0 && fill(f) == 0) {
        out = memfd_create("seccomp", 0);
        if (out >= 0 && (seccomp_export_bpf(f, out) || lseek(out, 0, SEEK_SET))) {
            close(out);
            out = -1;
        }
    }
    seccomp_release(f);
    if (out < 0)
        return err_set(e, ERR_FAIL, "sandbox: the filter of system calls cannot be made");
    *fd = out;
    return 0;
}
