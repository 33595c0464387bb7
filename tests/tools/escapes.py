"""What code in the sandbox must not be able to do, and what is said when it meets a limit.

Usage: escapes.py PUNA. Every script runs in a sandbox of its own; its result must match. Afterwards the host must be as
before: no file written, no process left, no secret read."""
import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

PUNA = sys.argv[1]
SECRET = "s3cret-of-the-host"
LISTENER = f"puna-escape-{os.getpid()}"
C = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"


def call(number, *args):
    """A system call by number; prints its errno."""
    return C + f"r = libc.syscall({', '.join(map(str, (number, *args)))}); print('errno', ctypes.get_errno() if r < 0 else 0)"


DENIED = r"errno 1\b"  # EPERM
GONE = r"FileNotFoundError"
SCRIPTS = {
    # files of the host
    "write /usr": ("open('/usr/bin/x', 'w')", r"Read-only file system|Permission denied"),
    "write /etc": ("open('/etc/passwd', 'w')", r"Permission denied|Read-only"),
    "write /": ("open('/x', 'w').write('x')", r"Permission denied|Read-only"),
    "read shadow": ("open('/etc/shadow').read()", GONE),
    "read passwd": ("open('/etc/passwd').read()", GONE),
    "homes": ("import os; [os.path.exists(p) for p in ('/root', '/home', '/var', '/run', '/sys', '/mnt', '/srv', '/opt')]",
              r"\[False, False, False, False, False, False, False, False\]"),
    "symlink out": ("import os; os.symlink('/etc/shadow', '/box/x'); open('/box/x').read()", GONE),
    "symlink by proc": ("import os; open('/proc/1/root/etc/shadow').read()", r"Error"),
    "hard link": ("import os; os.link('/usr/bin/env', '/box/p')", r"OSError|PermissionError"),
    "own executable": ("open('/proc/self/exe', 'wb')", r"OSError|PermissionError"),
    "path with NUL": ("open('/etc/pass\\0wd')", r"ValueError"),
    "marker": ("import os\nfor d in ('/tmp', '/box', '/dev/shm'):\n    open(d + '/puna-escape-marker', 'w').write('x')\n'here'", r"'here'"),
    "deep folders": ("import os\nfor _ in range(2000):\n    os.mkdir('d'); os.chdir('d')\n'deep'", r"'deep'"),
    # secrets of the host
    "environment": ("import os; sorted(os.environ)", r"completed"),
    "environment of init": ("open('/proc/1/environ').read()", r"completed|Permission"),
    "environments": ("import glob\nfor p in glob.glob('/proc/[0-9]*/environ'):\n    try:\n        print(open(p).read())\n    except OSError as e:\n        print(e)",
                     r"completed"),
    "descriptors": ("import os\nfor n in range(3, 300):\n    try:\n        os.lseek(n, 0, 0); print(n, os.read(n, 100))\n    except OSError:\n        pass\n'seen'",
                    r"'seen'"),
    "processes": ("import os; len([p for p in os.listdir('/proc') if p.isdigit()])", r"stdout\][1-4]\n"),
    # other processes
    "ptrace": (C + "print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())", r"-1 1\b"),
    "process_vm_readv": (call(310, 1, 0, 0, 0, 0, 0), DENIED),
    "process_vm_writev": (call(311, 1, 0, 0, 0, 0, 0), DENIED),
    "pidfd_getfd": (call(438, 3, 0, 0), DENIED),
    "kcmp": (call(312, 1, 1, 0, 0, 0), DENIED),
    "kill all": ("import os; os.kill(-1, 9); 'alive'", r"failed|'alive'"),
    "kill init": ("import os; os.kill(1, 9); 'alive'", r"'alive'|failed"),
    "abstract socket": (f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0{LISTENER}')", r"ConnectionRefused"),
    # the network
    "inet": ("import socket; socket.socket(socket.AF_INET)", r"PermissionError"),
    "inet6": ("import socket; socket.socket(socket.AF_INET6)", r"PermissionError"),
    "netlink": ("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", r"PermissionError"),
    "raw": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", r"PermissionError"),
    "packet": ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", r"PermissionError"),
    "vsock": ("import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", r"PermissionError"),
    "dns": ("import socket; socket.getaddrinfo('localhost', 80)", r"gaierror|PermissionError|OSError"),
    "http": ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:1/')", r"URLError|PermissionError"),
    # namespaces, mounts, the kernel
    "unshare": (C + "print(libc.unshare(0x10000000), ctypes.get_errno())", r"-1 1\b"),
    "setns": (call(308, 0, 0), DENIED),
    "clone": (call(56, 0x10000011, 0, 0, 0, 0), DENIED),
    "clone3": (call(435, 0, 0), r"errno 38\b"),
    "mount": (call(165, 0, 0, 0, 0, 0), DENIED),
    "umount": (call(166, 0, 0), DENIED),
    "new mount": (call(430, 0, 0), DENIED),
    "pivot_root": (call(155, 0, 0), DENIED),
    "chroot": ("import os; os.chroot('/box')", r"PermissionError"),
    "open_by_handle_at": (call(304, 0, 0, 0), DENIED),
    "bpf": (call(321, 0, 0, 0), DENIED),
    "perf": (call(298, 0, 0, 0, 0, 0), DENIED),
    "keyctl": (call(250, 0, 0), DENIED),
    "add_key": (call(248, 0, 0, 0, 0, 0), DENIED),
    "io_uring": (call(425, 8, 0), DENIED),
    "userfaultfd": (call(323, 0), DENIED),
    "module": (call(175, 0, 0, 0), DENIED),
    "kexec": (call(246, 0, 0, 0, 0), DENIED),
    "reboot": (call(169, 0, 0, 0, 0), DENIED),
    "swapon": (call(167, 0, 0), DENIED),
    "personality": (call(135, 0x400000), DENIED),
    "fanotify": (call(300, 0, 0), DENIED),
    "clock": (call(227, 0, 0), DENIED),
    "hostname": (call(170, 0, 0), DENIED),
    "syslog": (call(103, 0, 0, 0), DENIED),
    "x32": (C + "libc.syscall(0x40000000 | 39)", r"signal 31"),
    "int80": (C + "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
              "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()", r"signal (31|11)"),
    "core pattern": ("open('/proc/sys/kernel/core_pattern', 'w')", r"Read-only|Permission"),
    "sysrq": ("open('/proc/sysrq-trigger', 'w').write('b')", r"Read-only|Permission|FileNotFound"),
    "devices": ("import os; [os.path.exists('/dev/' + d) for d in ('mem', 'kmsg', 'sda', 'vda', 'nvidia0', 'kvm', 'fuse')]",
                r"\[False, False, False, False, False, False, False\]"),
    "cgroup": ("open('/sys/fs/cgroup/release_agent', 'w')", GONE),
    "set-user-ID": ("import os; os.setuid(0)", r"PermissionError|OSError"),
    "su": ("import subprocess; subprocess.run(['/usr/bin/su', '-c', 'id'], capture_output=True).returncode", r"\[stdout\][1-9]"),
    "memfd": ("import os; f = os.memfd_create('x'); os.write(f, open('/usr/bin/id', 'rb').read())\n"
              "import subprocess; print(subprocess.run([f'/proc/self/fd/{f}', '-u'], pass_fds=[f], capture_output=True, text=True).stdout)",
              r"65534"),
    "preload": ("import subprocess; print(subprocess.run(['/usr/bin/id', '-u'], env={'LD_PRELOAD': '/box/x.so'}, capture_output=True, text=True).stdout)",
                r"65534"),
    "terminal": ("import fcntl, os\nfcntl.ioctl(0, 0x5412, b'x')", r"PermissionError|OSError"),
    "tty": ("open('/dev/tty')", r"OSError|FileNotFoundError"),
    # limits
    "fork bomb": ("import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(20); os._exit(0)\n        n += 1\n"
                  "except BlockingIOError:\n    print('stopped below 64' if n < 64 else n)", r"stopped below 64"),
    "threads": ("import threading, time\ntry:\n    for i in range(1000):\n        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
                "except RuntimeError as e:\n    print(e)", r"can't start new thread"),
    "zombies": ("import os\ntry:\n    for i in range(1000):\n        if os.fork() == 0:\n            os._exit(0)\nexcept BlockingIOError as e:\n    print(e)",
                r"temporarily unavailable"),
    "memory": ("x = bytearray(10 << 30)", r"MemoryError"),
    "memory of many": ("import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        x = b'x' * (200 << 20); time.sleep(50)\ntime.sleep(50)",
                       r"more than 512 MiB of memory"),
    "large file": ("f = open('/box/f', 'wb')\nfor _ in range(200):\n    f.write(b'x' * (1 << 20))", r"File too large"),
    "sparse file": ("import os; os.truncate(os.open('/box/f', os.O_CREAT | os.O_RDWR), 1 << 40)", r"File too large"),
    "full disk": ("for i in range(30):\n    open(f'/tmp/{i}', 'wb').write(b'x' * (10 << 20))", r"No space left"),
    "many descriptors": ("f = [open('/dev/null') for _ in range(1000)]", r"Too many open files"),
    "endless output": ("while True:\n    print('x' * 1000)", r"more than 1024 KiB of output"),
    "endless loop": ("while True:\n    pass", r"stopped after 2 s"),
    "sleep": ("import time; time.sleep(1000)", r"stopped after 2 s"),
    "deaf": ("import signal, time\nfor s in range(1, 32):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n    except OSError:\n        pass\ntime.sleep(1000)",
             r"stopped after 2 s"),
    "daemon": ("import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\n'left'", r"'left'"),
    "exit": ("import os; os._exit(5)", r"ended with status 5"),
    "signal": ("import os; os.kill(os.getpid(), 11)", r"signal 11"),
    "recursion": ("def f(): f()\nf()", r"RecursionError"),
    "sys.exit": ("import sys; sys.exit(3)", r"failed"),
    "huge argument": ("import os; os.execv('/usr/bin/env', ['env', 'x' * (3 << 20)])", r"Argument list too long"),
    "input": ("input()", r"EOFError"),
    # what comes back
    "not UTF-8": ("import sys; n = sys.stdout.buffer.write(b'a\\xff\\xfeb\\n')", "a\ufffd\ufffdb"),
    "colours": ("print('\\x1b[31mred\\x1b[0m\\x07\\x9b')", r"\[31mred\[0m\n"),
    "long output": ("print('a' * 200000); print('the end')", r"bytes left out\][\s\S]*the end"),
    "forged reply": ("import os\nfor n in range(3, 20):\n    try:\n        os.write(n, b'\\x04\\0\\0\\0oops')\n    except OSError:\n        pass", r"failed"),
    "forged length": ("import os\nfor n in range(3, 20):\n    try:\n        os.write(n, b'\\xff\\xff\\xff\\x7f{}')\n    except OSError:\n        pass\n"
                      "import time; time.sleep(9)", r"stopped after 2 s"),
}


def run(code, *options, wall="30"):
    r, w = os.pipe()  # a descriptor of ours that could be inherited
    os.write(w, SECRET.encode())
    os.set_inheritable(r, True)
    done = subprocess.run([PUNA, "tools", "exec", "code_interpreter", "-", "--json", "--wall", wall, "--memory", "512", *options],
                          input=code.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=False,
                          env={**os.environ, "PUNA_TEST_SECRET": SECRET}, timeout=600)
    os.close(r)
    os.close(w)
    assert done.returncode in (0, 3), (done.returncode, done.stderr)
    return json.loads(done.stdout)


def anything_left():
    """Whether a process of any sandbox is there still: those whose parents have ended become ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0" + LISTENER)
listener.listen()
bad = []
for name, (code, want) in SCRIPTS.items():
    # what has to meet the limit of time gets a short one, what must not meet it a long one
    got = run(code, wall="2" if "2 s" in want else "30")
    if not re.search(want, got["text"]) or SECRET in got["text"] or "\x1b" in got["text"]:
        bad.append(f"{name}: {got['text'][:500]!r}, want {want!r}")
for folder in ("/tmp", "/box", "/dev/shm", "/"):
    assert not os.path.exists(folder + "/puna-escape-marker"), folder
# killed is not yet gone: the kernel takes them apart one after the other
for _ in range(600):
    if not anything_left():
        break
    time.sleep(0.05)
assert not anything_left(), "a sandbox runs on"

with tempfile.TemporaryDirectory() as folder:
    plot = ("import sys, types\nm = types.ModuleType('matplotlib.pyplot')\nm.get_fignums = lambda: [1, 2]\nm.close = lambda _: None\n"
            "class F:\n    def savefig(self, f, format): f.write(b'\\x89PNG\\r\\n\\x1a\\n' + b'x' * 10)\nm.figure = lambda n: F()\n"
            "sys.modules['matplotlib.pyplot'] = m")
    got = run(plot, "--image-dir", folder)
    assert [os.path.basename(p) for p in got["images"]] == ["plot-1.png", "plot-2.png"], got
    assert open(got["images"][1], "rb").read(18) == b"\x89PNG\r\n\x1a\nxxxxxxxxxx"
print(f"{len(SCRIPTS)} scripts, {len(bad)} bad")
print(*bad, sep="\n")
sys.exit(bool(bad))
