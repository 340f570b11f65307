"""Programs that do harm, look around or cheat, and what must come of each. Knows no test framework.

The problem is secret arithmetic: `answer(n)` is `n * 7919 + 104729`. No program here computes it,
so none may pass. Each begins with a prelude: names of what there is to be had (files, sockets, the
judge's own process), the helpers `all_refused`, `libc` and `send`, and an `answer` that is wrong.

Run as a program, with a tier as its argument, it prints what was not contained, as JSON; so can a
user who cannot reach the test's own interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from fim_eval.errors import IsolationError
from fim_eval.judge import Examination, Ruling, examination, rule
from fim_eval.records import Execution, Problem
from fim_eval.sandbox import Jail, Job, Limits, find_jail, run_jobs
from fim_eval.sandbox.worker import SOURCE, KilledFromOutsideError, SandboxError, Zygote
from fim_eval.words import Isolation, VerdictOutcome

HONEST = "def answer(n):\n    return n * 7919 + 104729\n"
TESTS = ("assert answer(2) == 120567", "assert answer(11) == 191838")
EXPECTED = ("120567", "191838")

WHOLE = (
    "def check(candidate):\n"
    "    assert candidate(2) == 120567\n"
    "    assert candidate(11) == 191838\n"
    "check(answer)\n",
)
"""The same as one program that cannot be split."""

TRUTHS = ("assert answer(2)", "assert not answer(-1)")
PAIR = ("assert answer(2) == '\N{GRINNING FACE}'",)


def examined(tests: tuple[str, ...]) -> Examination:
    """The examination that these tests are."""
    problem = Problem(
        problem_id="Hostile/1",
        split="test",
        text=None,
        code=HONEST,
        body_offset=None,
        tests=tests,
        challenge_tests=(),
        test_setup="",
    )
    return examination(problem, "standard")


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come of a program."""

    outcomes: tuple[VerdictOutcome, ...]
    """One of these."""

    says: tuple[str, ...] = ("",)
    """The detail holds one of these."""


TIMEOUT = Expected(("timeout",))
EXIT_0 = Expected(("died",), ("exit code 0",))
TOO_MUCH = Expected(("output-limit",))
NO_MEMORY = Expected(("out-of-memory",))
WRONG = Expected(("wrong-answer",), ("'done'", "AssertionError"))
AN_OBJECT = Expected(("wrong-answer",), ("<object>",))
FOREIGN = Expected(("foreign-type",))
FORGED = Expected(("protocol-error",))
REFUSED = Expected(("error",), ("PermissionError: [Errno 1]",))
"""By the system call filter."""

CLOSED = Expected(("error",), ("PermissionError: [Errno 13]",))
"""By Landlock, or by the owner's rights."""

UNSEEN = Expected(("error",), ("FileNotFoundError",))
READ_ONLY = Expected(("error",), ("Read-only file system", "PermissionError: [Errno 13]"))


def raises(*says: str) -> Expected:
    """An exception that ends the program, or one of its tests."""
    return Expected(("error",), says)


IN_NAMESPACES = "in its namespaces there is no such file; Landlock refuses what there is"
ON_READ_ONLY = "in its namespaces everything is mounted read-only; Landlock refuses to write"
FIRST_LIMIT = "the first of two limits that it meets"
BY_VERSION = "versions of Python count nesting differently"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One program."""

    name: str
    program: str
    expected: Expected
    landlock: Expected | None = None
    """Where it differs from `expected`."""

    because: str = ""
    """Why the tiers differ, or why there is more than one outcome."""

    tests: tuple[str, ...] = TESTS
    machines: tuple[str, ...] = ("x86_64", "aarch64")

    def expected_in(self, isolation: Isolation) -> Expected:
        """What must come of it in one tier."""
        if isolation == "landlock" and self.landlock is not None:
            return self.landlock
        return self.expected

    def limits(self, isolation: Isolation) -> Limits:
        """Little time for what is to run into a limit; the others must not meet it."""
        slow = "timeout" in self.expected_in(isolation).outcomes
        return Limits(time_s=0.2 if slow else 5.0, memory_bytes=256 << 20)


PRELUDE = """\
import ctypes, os, resource, signal, struct, sys, time
X86 = os.uname().machine == 'x86_64'
_LIBC = ctypes.CDLL(None, use_errno=True)
def libc(name, *arguments):
    if getattr(_LIBC, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
def all_refused(*actions):
    for action in actions:
        try:
            action()
        except OSError as error:
            refusal = error
        else:
            return
    raise refusal
def send(*lines):
    for descriptor in range(3, 64):
        try:
            for line in lines:
                rest = line.encode() + b'\\n' if isinstance(line, str) else line
                while rest:
                    rest = rest[os.write(descriptor, rest):]
        except OSError:
            pass
def answer(n):
    return 'done'
"""

RESOURCES = [
    Hostile("fork bomb", "while True: os.fork()", REFUSED),
    Hostile(
        "fork bomb that does not mind",
        """\
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        TIMEOUT,
    ),
    Hostile(
        "daemon in a session of its own",
        """\
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600)
""",
        REFUSED,
    ),
    Hostile(
        "zombie maker",
        """\
for _ in range(1000):
    if os.fork() == 0:
        os._exit(0)
""",
        REFUSED,
    ),
    Hostile(
        "threads without end",
        """\
import threading
while True:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
""",
        Expected(("error", "out-of-memory")),
        because="either the thread or its bookkeeping finds no address space",
    ),
    Hostile(
        "thread left running",
        """\
import threading
threading.Thread(target=time.sleep, args=(3600,)).start()
""",
        WRONG,
    ),
    Hostile(
        "memory bomb",
        """\
parts = []
while True:
    parts.append(bytearray(1 << 20))
""",
        NO_MEMORY,
    ),
    Hostile("one huge allocation", "bytearray(1 << 40)", NO_MEMORY),
    Hostile(
        "one huge mapping",
        "import mmap\nmmap.mmap(-1, 1 << 40)",
        raises("Cannot allocate memory"),
    ),
    Hostile("infinite loop", "while True: pass", TIMEOUT),
    Hostile(
        "infinite loop in a test", "def answer(n):\n    while True:\n        n += 1\n", TIMEOUT
    ),
    Hostile(
        "endless arithmetic in one instruction",
        "nine = 9\nnine ** nine ** nine",
        Expected(("timeout", "out-of-memory")),
        because=FIRST_LIMIT,
    ),
    Hostile(
        "catastrophic regular expression",
        "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
        TIMEOUT,
    ),
    Hostile(
        "recursion on the C stack under a raised limit",
        """\
sys.setrecursionlimit(10**9)
class Deep:
    def __repr__(self):
        return repr(self)
repr(Deep())
""",
        Expected(("died", "error", "out-of-memory")),
        because=BY_VERSION,
    ),
    Hostile(
        "recursion in Python under a raised limit",
        "sys.setrecursionlimit(10**9)\ndef deep(n): return deep(n + 1) + 1\ndeep(0)",
        Expected(("timeout", "out-of-memory", "died", "error")),
        because=FIRST_LIMIT,
    ),
    Hostile("parentheses too deep", "(" * 5_000, Expected(("syntax-error",))),
    Hostile("signs too deep", "x = " + "-" * 20_000 + "1", Expected(("syntax-error",))),
    Hostile(
        "attributes too deep",
        "x = None" + ".a" * 10_000,
        Expected(("syntax-error", "error")),
        because=BY_VERSION,
    ),
    Hostile(
        "a long program, nested too deep",
        "x = " + "-" * 60_000 + "1",
        Expected(("out-of-memory", "syntax-error", "error")),
        because=BY_VERSION,
    ),
    Hostile(
        "text nested too deep, evaluated",
        "eval('-' * 100_000 + '1')",
        Expected(("out-of-memory", "error")),
        because=BY_VERSION,
    ),
    Hostile(
        "finally in finally: twice the code with every level",
        "".join(f"{' ' * n}try: pass\n{' ' * n}finally:\n" for n in range(16))
        + " " * 16
        + "pass\n",
        Expected(("timeout", "out-of-memory")),
        because=FIRST_LIMIT,
    ),
    Hostile("flood on standard output", "while True: print('x' * 1000)", TIMEOUT),
    Hostile("flood on standard error", "while True: print('x' * 1000, file=sys.stderr)", TIMEOUT),
    Hostile(
        "flood on every descriptor",
        "while True: send(b'x' * 65536)",
        TOO_MUCH,
    ),
    Hostile("a result of many parts", "def answer(n): return list(range(10**6))", TOO_MUCH),
    Hostile("a result of many characters", "def answer(n): return 'x' * 10**7", TOO_MUCH),
    Hostile("a result of many digits", "def answer(n): return 1 << 10**8", TOO_MUCH),
    Hostile(
        "a result that doubles with every level",
        """\
doubled = []
for _ in range(60):
    doubled = [doubled, doubled]
def answer(n):
    return doubled
""",
        TOO_MUCH,
    ),
    Hostile(
        "a list that holds itself twice",
        "own = []\nown += [own, own]\ndef answer(n): return own",
        TOO_MUCH,
    ),
    Hostile(
        "a list that holds itself",
        "own = []\nown.append(own)\ndef answer(n): return own",
        Expected(("wrong-answer",), ("[[[",)),
    ),
    Hostile(
        "a mapping without end",
        """\
import collections.abc, itertools
class Endless(collections.abc.Mapping):
    def __iter__(self): return itertools.count()
    def __len__(self): return 1
    def __getitem__(self, key): return key
def answer(n):
    return Endless()
""",
        TOO_MUCH,
    ),
    Hostile(
        "fills the folder of temporary files",
        """\
with open('/tmp/' + TOKEN, 'wb') as file:
    while True:
        file.write(bytes(1 << 20))
""",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "fills the shared memory",
        """\
with open('/dev/shm/' + TOKEN, 'wb') as file:
    while True:
        file.write(bytes(1 << 20))
""",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "a hundred thousand descriptors",
        "kept = [os.dup(0) for _ in range(10**5)]",
        raises("Too many open files"),
    ),
    Hostile("sleeps", "time.sleep(3600)", TIMEOUT),
    Hostile("waits for a lock", "import threading\nthreading.Semaphore(0).acquire()", TIMEOUT),
    Hostile("closes every descriptor", "os.closerange(0, 256)", EXIT_0),
    Hostile(
        "closes every descriptor and goes on",
        "os.closerange(0, 256)\ntime.sleep(3600)",
        Expected(("died",), ("closed its descriptors",)),
    ),
    Hostile("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)", REFUSED),
    Hostile("stops its group", "os.killpg(0, signal.SIGSTOP)", REFUSED),
    Hostile("aborts", "os.abort()", Expected(("died",), ("signal",))),
    Hostile("reads address zero", "ctypes.string_at(0)", Expected(("died",), ("signal 11",))),
    Hostile(
        "blocks every signal",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass",
        TIMEOUT,
    ),
    Hostile(
        "ignores the signal of the processor limit",
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        TIMEOUT,
    ),
    Hostile(
        "raises its limits back",
        """\
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
    try:
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        continue
    break
else:
    raise PermissionError('all of them')
""",
        raises("PermissionError: all of them"),
    ),
    Hostile(
        "lowers its limit to be killed for us",
        "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
        Expected(("error", "died")),
        because="either the limit is refused or its end is its own",
    ),
    Hostile(
        "has a timer kill it",
        """\
timer = ctypes.c_void_p()
event = ctypes.create_string_buffer(struct.pack('Qii', 0, signal.SIGKILL, 0), 64)
libc('timer_create', 0, event, ctypes.byref(timer))
libc('timer_settime', timer, 0, struct.pack('qqqq', 0, 0, 0, 1000), None)
time.sleep(1)
""",
        Expected(("error", "died")),
        because="either the timer is refused or its end is its own",
    ),
    Hostile(
        "leaves with the code of a filter that is missing",
        "os._exit(97)",
        Expected(("died",), ("exit code 97",)),
    ),
]

ESCAPES = [
    Hostile("deletes a file", "os.remove(KEPT)", UNSEEN, landlock=CLOSED, because=IN_NAMESPACES),
    Hostile(
        "deletes a folder",
        "import shutil\nshutil.rmtree(FOLDER)",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "overwrites a file",
        "all_refused(*(lambda mode=mode: open(KEPT, mode) for mode in ('w', 'r+', 'a')))",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "cuts a file",
        """\
all_refused(
    lambda: os.truncate(KEPT, 0),
    lambda: os.open(KEPT, os.O_RDONLY | os.O_TRUNC),
)
""",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "moves a file",
        "all_refused(lambda: os.rename(KEPT, KEPT + TOKEN), lambda: os.replace(SECRET, KEPT))",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "links to a file",
        "all_refused(lambda: os.link(SECRET, FOLDER + '/' + TOKEN))",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "swaps the working directory's files for links",
        "all_refused(lambda: os.symlink(SECRET, TOKEN), lambda: os.rename('usr', TOKEN))",
        READ_ONLY,
    ),
    Hostile(
        "leaves a file for the next program",
        """\
all_refused(
    *(lambda path=path: open(os.path.join(path, TOKEN), 'w') for path in PLACES),
    *(lambda path=path: os.mkdir(os.path.join(path, TOKEN)) for path in PLACES),
    *(lambda path=path: os.mkfifo(os.path.join(path, TOKEN)) for path in PLACES),
    *(lambda path=path: os.mknod(os.path.join(path, TOKEN)) for path in PLACES),
    lambda: open('/' + TOKEN, 'w'),
)
""",
        READ_ONLY,
    ),
    Hostile(
        "overwrites the runner",
        "open(RUNNER, 'r+')",
        Expected(("error",), ("FileNotFoundError", *READ_ONLY.says)),
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "overwrites the standard library",
        "all_refused(lambda: open(os.__file__, 'r+'), lambda: os.remove(os.__file__))",
        READ_ONLY,
        landlock=CLOSED,
        because=ON_READ_ONLY,
    ),
    Hostile(
        "reads a secret file", "open(SECRET).read()", UNSEEN, landlock=CLOSED, because=IN_NAMESPACES
    ),
    Hostile(
        "returns a secret file",
        "def answer(n):\n    with open(SECRET) as file:\n        return file.read()\n",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "opens a secret file by its place alone, then again",
        "open('/proc/self/fd/%d' % os.open(SECRET, os.O_PATH))",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "enters a folder to read from there",
        "os.chdir(FOLDER)\nopen('secret')",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile("lists a folder", "os.listdir(FOLDER)", UNSEEN, landlock=CLOSED, because=IN_NAMESPACES),
    Hostile(
        "asks for the size of a secret file",
        "os.stat(SECRET)",
        UNSEEN,
        landlock=WRONG,
        because="Landlock lets names, sizes and times be asked for",
    ),
    Hostile(
        "listens for names in a folder",
        """\
watch = _LIBC.inotify_init1(0)
libc('inotify_add_watch', watch, FOLDER.encode(), 0x100)
""",
        Expected(("error",), ("FileNotFoundError", "PermissionError")),
    ),
    Hostile("changes a mode", "os.chmod(KEPT, 0o777)", REFUSED),
    Hostile(
        "changes a mode by the newest call",
        "libc('syscall', 452, -100, KEPT.encode(), 511, 0)",
        REFUSED,
    ),
    Hostile(
        "changes an owner",
        "all_refused(lambda: os.chown(KEPT, -1, -1), lambda: os.lchown(KEPT, -1, -1))",
        REFUSED,
    ),
    Hostile(
        "changes times",
        """\
all_refused(
    lambda: os.utime(KEPT),
    lambda: os.utime(KEPT, (0, 0), follow_symlinks=False),
)
""",
        REFUSED,
    ),
    Hostile(
        "changes attributes",
        """\
all_refused(
    lambda: os.setxattr(KEPT, 'user.mark', b'x'),
    lambda: os.setxattr(KEPT, 'user.mark', b'x', follow_symlinks=False),
    lambda: os.removexattr(KEPT, 'user.kept'),
)
""",
        REFUSED,
    ),
    Hostile(
        "changes a file that it may read, through its descriptor",
        """\
file = os.open(os.__file__, os.O_RDONLY)
all_refused(
    lambda: os.fchmod(file, 0o777),
    lambda: os.fchown(file, -1, -1),
    lambda: os.utime(file),
    lambda: os.setxattr(file, 'user.mark', b'x'),
)
""",
        REFUSED,
    ),
    Hostile(
        "connects to loopback",
        "import socket\nsocket.create_connection(('127.0.0.1', TCP))",
        REFUSED,
    ),
    Hostile(
        "connects to a metadata address",
        "import socket\nsocket.create_connection(('169.254.169.254', 80))",
        REFUSED,
    ),
    Hostile(
        "sends a datagram",
        """\
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP))
""",
        REFUSED,
    ),
    Hostile("listens", "import socket\nsocket.create_server(('127.0.0.1', 0))", REFUSED),
    Hostile(
        "asks for a name's address",
        "import socket\nsocket.getaddrinfo('example.com', 80)",
        raises("gaierror"),
    ),
    Hostile(
        "connects to a unix socket",
        "import socket\nsocket.socket(socket.AF_UNIX).connect(STREAM)",
        REFUSED,
    ),
    Hostile(
        "connects to an abstract socket",
        "import socket\nsocket.socket(socket.AF_UNIX).connect(ABSTRACT)",
        REFUSED,
    ),
    Hostile(
        "connects one end of a pair elsewhere",
        "import socket\nsocket.socketpair()[0].connect(STREAM)",
        REFUSED,
    ),
    Hostile(
        "sends from one end of a pair to a unix socket",
        """\
import socket
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b'x', DATAGRAM)
""",
        Expected(("error",), ("FileNotFoundError", "PermissionError")),
    ),
    Hostile(
        "sends from one end of a pair to an abstract socket",
        """\
import socket
socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', ABSTRACT_DATAGRAM)
""",
        Expected(("error",), ("ConnectionRefusedError", "PermissionError")),
    ),
    Hostile(
        "reads the environment",
        "def answer(n):\n    return os.environ[SECRET_NAME]\n",
        raises("KeyError"),
    ),
    Hostile(
        "reads the environment in memory",
        """\
import itertools
strings = ctypes.POINTER(ctypes.c_char_p).in_dll(_LIBC, 'environ')
def answer(n):
    return list(itertools.takewhile(bool, (strings[place] for place in range(1000))))
""",
        Expected(("wrong-answer",), ("LANG=C.UTF-8",)),
    ),
    Hostile(
        "reads environments and memories of processes",
        """\
all_refused(*(
    lambda process=process, file=file: open(f'/proc/{process}/{file}', 'rb')
    for process in ('self', 1, os.getppid(), JUDGE)
    for file in ('environ', 'mem', 'maps', 'cmdline')
))
""",
        UNSEEN,
        landlock=CLOSED,
        because=IN_NAMESPACES,
    ),
    Hostile(
        "reads its tests from its descriptors",
        """\
def read(number):
    return os.read(os.open(f'/proc/self/fd/{number}', os.O_RDONLY | os.O_NONBLOCK), 1000)
all_refused(*(lambda number=number: read(number) for number in range(3, 64)))
""",
        UNSEEN,
    ),
    Hostile(
        "counts the descriptors it was given",
        """\
import fcntl
def answer(n):
    found = 0
    for descriptor in range(256):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
            found += 1
        except OSError:
            pass
    return f'{found} descriptors'
""",
        # Three that lead nowhere, and its own pipe.
        Expected(("wrong-answer",), ("'4 descriptors'",)),
    ),
    Hostile(
        "traces its parent",
        """\
all_refused(
    lambda: libc('ptrace', 16, os.getppid(), 0, 0),
    lambda: libc('ptrace', 0, 0, 0, 0),
)
""",
        REFUSED,
    ),
    Hostile(
        "reads and writes its parent's memory",
        """\
place = ctypes.create_string_buffer(8)
vector = struct.pack('QQ', ctypes.addressof(place), 8)
all_refused(
    lambda: libc('process_vm_readv', os.getppid(), vector, 1, vector, 1, 0),
    lambda: libc('process_vm_writev', os.getppid(), vector, 1, vector, 1, 0),
)
""",
        REFUSED,
    ),
    Hostile(
        "kills its parent, the judge and everyone",
        """\
all_refused(
    *(lambda pid=pid: os.kill(pid, signal.SIGKILL) for pid in (os.getppid(), JUDGE, -1, 0, 1)),
    lambda: os.killpg(os.getpgid(0), signal.SIGKILL),
    lambda: libc('sigqueue', os.getppid(), signal.SIGKILL, 0),
    lambda: libc('tgkill', os.getppid(), os.getppid(), signal.SIGKILL),
    lambda: os.pidfd_open(os.getppid()),
    lambda: libc('syscall', 424, 3, signal.SIGKILL, 0, 0),
    lambda: libc('syscall', 438, 3, 0, 0),
)
""",
        REFUSED,
    ),
    Hostile(
        "has a pipe signal its parent",
        """\
import fcntl
reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETOWN, os.getppid())
fcntl.fcntl(reader, 10, signal.SIGKILL)
fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
os.write(writer, b'x')
""",
        REFUSED,
    ),
    Hostile(
        "has a socket signal its parent",
        """\
import fcntl, socket
one, other = socket.socketpair()
fcntl.ioctl(one, 0x8901, struct.pack('i', os.getppid()))
fcntl.ioctl(one, 0x5452, struct.pack('i', 1))
other.send(b'x')
""",
        REFUSED,
    ),
    Hostile(
        "limits its parent",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
        REFUSED,
    ),
    Hostile(
        "slows its parent",
        """\
parent = os.getppid()
all_refused(
    lambda: os.setpriority(os.PRIO_PROCESS, parent, os.getpriority(os.PRIO_PROCESS, parent)),
    lambda: os.sched_setscheduler(parent, os.sched_getscheduler(parent), os.sched_param(0)),
    lambda: os.sched_setaffinity(parent, os.sched_getaffinity(parent)),
    lambda: libc('syscall', 251 if X86 else 30, 1, parent, 0),
)
""",
        REFUSED,
    ),
    Hostile("runs another program", "os.execv('/usr/bin/env', ['env'])", REFUSED),
    Hostile(
        "spawns another program",
        "os.posix_spawn('/usr/bin/env', ['env'], {})",
        REFUSED,
    ),
    Hostile("runs a command", "import subprocess\nsubprocess.run(['env'])", REFUSED),
    Hostile(
        "opens a shell", "if os.system('exit 0') != 0: raise OSError('refused')", raises("refused")
    ),
    Hostile(
        "makes namespaces",
        """\
all_refused(
    *(lambda bit=bit: libc('unshare', 1 << bit) for bit in (17, 25, 26, 27, 28, 29, 30)),
    lambda: libc('setns', 0, 0),
    lambda: libc('syscall', 56 if X86 else 220, 1 << 28 | signal.SIGCHLD, 0, 0, 0, 0),
)
""",
        REFUSED,
    ),
    Hostile(
        "forks by the newest call",
        "libc('syscall', 435, struct.pack('8Q', 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)",
        raises("Function not implemented"),
    ),
    Hostile(
        "mounts",
        """\
all_refused(
    lambda: libc('mount', b'none', b'/usr', b'tmpfs', 0, None),
    lambda: libc('umount2', b'/usr', 2),
    lambda: os.chroot('/usr'),
    lambda: libc('syscall', 155 if X86 else 41, b'/', b'/'),
    lambda: libc('syscall', 428, -100, b'/', 1),
    lambda: libc('syscall', 430, b'tmpfs', 0),
)
""",
        REFUSED,
    ),
    Hostile(
        "sheds what binds it",
        """\
all_refused(
    lambda: libc('prctl', 1, 0, 0, 0, 0),
    lambda: libc('prctl', 4, 1, 0, 0, 0),
    lambda: libc('prctl', 22, 0, 0, 0, 0),
    lambda: libc('syscall', 317 if X86 else 277, 1, 0, None),
    lambda: libc('personality', 0x0040000),
)
""",
        REFUSED,
    ),
    Hostile(
        "asks the kernel for what needs no file",
        """\
all_refused(
    lambda: libc('syscall', 425, 8, ctypes.create_string_buffer(120)),
    lambda: libc('syscall', 321 if X86 else 280, 0, None, 0),
    lambda: libc('syscall', 323 if X86 else 282, 0),
    lambda: libc('syscall', 298 if X86 else 241, None, 0, -1, -1, 0),
    lambda: libc('syscall', 248 if X86 else 217, b'user', b'mark', b'x', 1, -2),
    lambda: libc('syscall', 250 if X86 else 219, 0, -2, 0),
    lambda: libc('fanotify_init', 0, 0),
)
""",
        REFUSED,
    ),
    Hostile(
        "changes the machine",
        """\
import socket
all_refused(
    lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    lambda: socket.sethostname('mine'),
    lambda: libc('reboot', 0),
    lambda: libc('klogctl', 3, None, 0),
    lambda: libc('acct', None),
    lambda: libc('swapoff', b'/'),
)
""",
        REFUSED,
    ),
    Hostile(
        "opens devices",
        """\
names = ('mem', 'kmsg', 'tty', 'fuse', 'kvm')
all_refused(*(lambda name=name: open('/dev/' + name, 'rb') for name in names))
""",
        Expected(("error",), ("FileNotFoundError", "PermissionError", "No such device")),
    ),
    Hostile(
        "keeps memory beyond its end",
        """\
all_refused(
    lambda: os.memfd_create('mark'),
    lambda: libc('syscall', 447, 0),
    lambda: libc('shmget', 0x6D61726B, 4096, 0o1600),
    lambda: libc('shmat', SEGMENT, None, 0),
    lambda: libc('msgget', 0x6D61726B, 0o1600),
    lambda: libc('semget', 0x6D61726B, 1, 0o1600),
    lambda: libc('mq_open', b'/' + TOKEN.encode(), os.O_CREAT | os.O_RDWR, 0o600, None),
)
""",
        REFUSED,
    ),
    Hostile(
        "removes shared memory",
        "libc('shmctl', SEGMENT, 0, None)",
        Expected(("error",), ("Invalid argument", "PermissionError")),
    ),
    Hostile(
        "makes system calls by their x32 numbers",
        "libc('syscall', 0x40000000 + 39)",
        Expected(("died",), ("signal 31",)),
        machines=("x86_64",),
    ),
    Hostile(
        "makes system calls of 32-bit programs",
        """\
import mmap
# mov eax, 20 (getpid); int 0x80; ret
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex('b814000000cd80c3'))
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
""",
        Expected(("died",), ("signal 31",)),
        machines=("x86_64",),
    ),
    Hostile(
        "patches modules for the next program",
        """\
import builtins, collections, fractions
builtins.int = builtins.range = builtins.len = None
collections.Counter = fractions.Fraction = None
sys.modules['json'] = sys.modules['os'] = None
sys.path[:] = ['/tmp']
""",
        Expected(("wrong-answer", "error")),
        because="whatever still uses them",
    ),
]

CHEATS = [
    Hostile("leaves with success", "os._exit(0)", EXIT_0),
    Hostile("leaves with success, by another name", "import posix\nposix._exit(0)", EXIT_0),
    Hostile("leaves through C, at once", "_LIBC._exit(0)", EXIT_0),
    Hostile("leaves through C", "_LIBC.exit(0)", EXIT_0),
    Hostile("leaves during a test", "def answer(n): os._exit(0)", EXIT_0),
    Hostile(
        "leaves when its result is let go",
        """\
class Leaves:
    def __del__(self): os._exit(0)
def answer(n):
    return Leaves()
""",
        EXIT_0,
    ),
    Hostile("sys.exit", "sys.exit()", raises("SystemExit")),
    Hostile("sys.exit during a test", "def answer(n): sys.exit(0)", raises("SystemExit")),
    Hostile("exit", "exit()", raises("SystemExit", "NameError")),
    Hostile("quit", "quit()", raises("SystemExit", "NameError")),
    Hostile("raise SystemExit", "raise SystemExit", raises("SystemExit")),
    Hostile("raise KeyboardInterrupt", "raise KeyboardInterrupt", raises("KeyboardInterrupt")),
    Hostile("raise GeneratorExit", "def answer(n): raise GeneratorExit", raises("GeneratorExit")),
    Hostile("a main block that leaves", "if __name__ == '__main__':\n    sys.exit(0)\n", WRONG),
    Hostile(
        "an object that equals everything",
        "class Equal:\n    def __eq__(self, other): return True\ndef answer(n): return Equal()",
        FOREIGN,
    ),
    Hostile(
        "a list with an object that equals everything",
        """\
class Equal:
    def __eq__(self, other): return True
def answer(n):
    return [Equal()]
""",
        FOREIGN,
    ),
    Hostile(
        "a class that equals everything",
        """\
class Meta(type):
    def __eq__(cls, other): return True
    __hash__ = None
class Equal(metaclass=Meta): pass
def answer(n):
    return Equal
""",
        FOREIGN,
    ),
    Hostile(
        "an integer that equals everything",
        """\
class Equal(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def answer(n):
    return Equal(1)
""",
        FOREIGN,
    ),
    Hostile(
        "an integer that is not what it says",
        """\
class Other(int):
    def __index__(self): return 5
    __int__ = __repr__ = __index__
def answer(n):
    return Other(7)
""",
        Expected(("wrong-answer",), ("7, expected",)),
    ),
    Hostile(
        "a container that equals everything",
        """\
class Equal(dict):
    def __eq__(self, other): return True
def answer(n):
    return {'a': Equal()}
""",
        FOREIGN,
    ),
    Hostile(
        "an object that equals everything and says it is a library's",
        """\
class Equal:
    __module__ = 'collections'
    def __eq__(self, other): return True
def answer(n):
    return Equal()
""",
        AN_OBJECT,
    ),
    Hostile(
        "an object that says it is an integer",
        """\
class Equal:
    __class__ = int
    def __int__(self): return 5
    __index__ = __int__
def answer(n):
    return Equal()
""",
        AN_OBJECT,
    ),
    Hostile(
        "an object that raises when it is looked at",
        """\
class Shy:
    def __getattribute__(self, name): raise RuntimeError(name)
def answer(n):
    return Shy()
""",
        AN_OBJECT,
    ),
    Hostile(
        "unittest.mock.ANY", "from unittest.mock import ANY\ndef answer(n): return ANY", AN_OBJECT
    ),
    Hostile(
        "a stand-in for an object that equals everything",
        """\
import weakref
class Equal:
    def __eq__(self, other): return True
equal = Equal()
def answer(n):
    return weakref.proxy(equal)
""",
        AN_OBJECT,
    ),
    Hostile(
        "an entry point that makes objects that equal everything",
        """\
class answer:
    def __init__(self, n): pass
    def __eq__(self, other): return True
""",
        FOREIGN,
    ),
    Hostile(
        "an entry point that replaces itself",
        """\
def answer(n):
    globals()['answer'] = lambda n: True
    return True
""",
        Expected(("wrong-answer",), ("True",)),
    ),
    Hostile(
        "a return of everything in the frames above",
        """\
def answer(n):
    found, frame = [], sys._getframe()
    while frame is not None:
        found.append(repr((frame.f_locals, frame.f_globals)))
        frame = frame.f_back
    return found
""",
        Expected(("wrong-answer", "output-limit")),
        because="how much there is depends on the version of Python",
    ),
    Hostile(
        "a return of every text that the interpreter holds about the tests",
        """\
import gc
gc.unfreeze()
def answer(n):
    found = []
    for thing in gc.get_objects():
        if type(thing) in (list, tuple, dict):
            text = repr(list(thing.items()) if type(thing) is dict else list(thing))
            if 'answer(2)' in text and len(text) < 5000:
                found.append(text)
    return found
""",
        Expected(("wrong-answer", "output-limit")),
        because="how much there is depends on the version of Python",
    ),
    Hostile(
        "words added to every list in the frames above",
        """\
frame = sys._getframe()
while frame is not None:
    for thing in [*frame.f_locals.values(), *frame.f_globals.values()]:
        if type(thing) is list:
            thing.append('passed')
    frame = frame.f_back
""",
        Expected(("wrong-answer", "error")),
        because="the list of tests may be among them, and a word is no test",
    ),
    Hostile(
        "tests taken out of the frames above",
        """\
frame = sys._getframe()
while frame is not None:
    tests = frame.f_locals.get('tests')
    if type(tests) is list:
        tests.clear()
    frame = frame.f_back
""",
        WRONG,
    ),
    Hostile(
        "an encoder replaced in the frames above",
        """\
frame = sys._getframe()
while frame is not None:
    if 'encode' in frame.f_globals:
        frame.f_globals['encode'] = lambda value: True
    frame = frame.f_back
""",
        Expected(("wrong-answer",), ("True",)),
    ),
    Hostile(
        "an exception hook",
        "sys.excepthook = lambda *_: os._exit(0)\nraise ValueError",
        raises("ValueError"),
    ),
    Hostile(
        "an exit handler",
        "import atexit\natexit.register(send, '[\"done\",2]')",
        WRONG,
    ),
    Hostile(
        "AssertionError replaced", "import builtins\nbuiltins.AssertionError = KeyError", WRONG
    ),
    Hostile(
        "builtins replaced",
        """\
import builtins
builtins.__import__ = builtins.compile = builtins.open = lambda *_, **__: None
builtins.print = builtins.repr = builtins.isinstance = lambda *_, **__: True
""",
        WRONG,
    ),
    Hostile(
        "eval replaced",
        "import builtins\nbuiltins.eval = lambda *_: True",
        Expected(("wrong-answer",)),
    ),
    Hostile(
        "type replaced",
        "import builtins\nbuiltins.type = lambda _: int",
        Expected(("wrong-answer", "error", "died")),
        because="whatever still uses it",
    ),
    Hostile(
        "enumerate replaced",
        "import builtins\nbuiltins.enumerate = lambda _: ()",
        Expected(("protocol-error", "wrong-answer")),
        because="tests are left out, unless the name was looked up before",
    ),
    Hostile(
        "bool replaced",
        "import builtins\nbuiltins.bool = lambda _: True",
        Expected(("wrong-answer",), ("test 2: is true",)),
        tests=TRUTHS,
    ),
    Hostile(
        "modules taken away",
        "for name in list(sys.modules):\n    sys.modules[name] = None",
        Expected(("wrong-answer", "error")),
        because="whatever is imported after them",
    ),
    Hostile(
        "json replaced",
        """\
import json
json.dumps = json.encoder.c_make_encoder = json.encoder.encode_basestring_ascii = lambda *_: '5'
json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *_: '5'
""",
        WRONG,
    ),
    Hostile(
        "the collector turned against us",
        """\
import gc
gc.callbacks.append(lambda *_: os._exit(0))
gc.set_threshold(1)
class Cycle: pass
for _ in range(1000):
    cycle = Cycle()
    cycle.own = cycle
gc.collect()
""",
        EXIT_0,
    ),
    Hostile("os.write replaced", "os.write = lambda _, data: len(data)", EXIT_0),
    Hostile(
        "a trace that leaves",
        """\
def trace(frame, event, argument):
    if event == 'return':
        os._exit(0)
    return trace
sys.settrace(trace)
""",
        EXIT_0,
    ),
    Hostile(
        "a profile that forges",
        "sys.setprofile(lambda *_: send('[\"done\",2]'))",
        FORGED,
    ),
    Hostile(
        "prints what a judge may look for", "print('passed', 'OK', '1.0', 'done', sep='\\n')", WRONG
    ),
    Hostile("reads standard input", "input()", raises("EOFError")),
    Hostile(
        "reads tests from standard input", "sys.stdin.read() or 1 / 0", raises("ZeroDivisionError")
    ),
    Hostile("says at once that it is done", "send('[\"done\",2]')\nos._exit(0)", FORGED),
    Hostile("says that no test is left", "send('[\"done\",0]')\nos._exit(0)", FORGED),
    Hostile(
        "is done after wrong values",
        "send('[0,1]', '[1,1]', '[\"done\",2]')\nos._exit(0)",
        Expected(("wrong-answer",), ("test 1: 1,",)),
    ),
    Hostile(
        "answers one test twice",
        "send('[0,120567]', '[0,120567]', '[\"done\",2]')\nos._exit(0)",
        FORGED,
    ),
    Hostile(
        "answers one test only",
        "send('[0,120567]', '[\"done\",2]')\nos._exit(0)",
        FORGED,
    ),
    Hostile(
        "answers in another order",
        "send('[1,191838]', '[0,120567]', '[\"done\",2]')\nos._exit(0)",
        FORGED,
    ),
    Hostile(
        "sends more after the end",
        "send('[0,120567]', '[1,191838]', '[\"done\",2]', '[\"done\",2]')\nos._exit(0)",
        FORGED,
    ),
    Hostile(
        "sends the end without its newline",
        "send(b'[0,120567]\\n[1,191838]\\n[\"done\",2]')\nos._exit(0)",
        EXIT_0,
    ),
    Hostile(
        "sends right values, then hangs",
        "send('[0,120567]', '[1,191838]', '[\"done\",2]')\nwhile True: pass",
        TIMEOUT,
    ),
    Hostile(
        "sends from a thread for as long as it lives",
        """\
import threading
def go_on():
    while True:
        send('["done",2]')
threading.Thread(target=go_on, daemon=True).start()
time.sleep(0.01)
""",
        FORGED,
    ),
    Hostile("sends one endless line", "send(b'[0,\"' + b'x' * 900_000)\nos._exit(0)", EXIT_0),
    Hostile("sends broken JSON", "send('[0,')\nos._exit(0)", FORGED),
    Hostile("sends what is no text", "send(b'\\xff\\x00\\n')\nos._exit(0)", FORGED),
    Hostile("sends what is no message", "send('{\"done\":2}')\nos._exit(0)", FORGED),
    Hostile("sends nothing but empty lines", "send(b'\\n' * 900_000)\nos._exit(0)", FORGED),
    Hostile("sends JSON nested too deep", "send('[0,' + '[' * 500_000)\nos._exit(0)", FORGED),
    Hostile(
        "sends an integer of many digits", "send('[0,' + '7' * 500_000 + ']')\nos._exit(0)", FORGED
    ),
    Hostile("sends a value of no kind", 'send(\'[0,["os.system","id"]]\')\nos._exit(0)', FORGED),
    Hostile("sends an object", "send('[0,{\"a\":1}]')\nos._exit(0)", FORGED),
    Hostile("sends a set of lists", 'send(\'[0,["set",["list"]]]\')\nos._exit(0)', FORGED),
    Hostile(
        "sends a set of many members",
        "send('[0,[\"set\",' + ','.join(map(str, range(20_000))) + ']]')\nos._exit(0)",
        Expected(("wrong-answer",)),
    ),
    Hostile(
        "sends a set of members that collide",
        """\
members = ','.join(f'["int","{(2**61 - 1) * n + 1:x}"]' for n in range(2_000))
send(f'[0,["set",{members}]]')
os._exit(0)
""",
        Expected(("wrong-answer", "protocol-error")),
        because="a judge may hash them or refuse to",
    ),
    Hostile(
        "sends a fraction whose numerator would fill the memory",
        'send(\'[0,["Fraction","1e2000000"]]\')\nos._exit(0)',
        FORGED,
    ),
    Hostile(
        "sends an exception in a test before the first",
        'send(\'["raised",-9,"AssertionError","",null]\')\nos._exit(0)',
        Expected(("protocol-error", "error")),
        because="a judge may check the number or only show it",
    ),
    Hostile(
        "sends an exception in a test whose number has too many digits",
        "send('[\"raised\",' + '9' * 4300 + ',\"E\",\"\",null]')\nos._exit(0)",
        Expected(("protocol-error", "error")),
        because="a judge may check the number or only show it",
    ),
    Hostile(
        "sends an exception with a long message",
        'send(\'["raised","x","\' + \'E\' * 900_000 + \'","",null]\')\nos._exit(0)',
        Expected(("protocol-error", "error")),
        because="a judge may refuse or shorten it",
    ),
    Hostile(
        "raises with half a character",
        "raise ValueError('\\ud800')",
        raises("ValueError"),
    ),
    Hostile(
        "a result that reduces to a command",
        "class R:\n    def __reduce__(self): return os.system, ('id',)\ndef answer(n): return R()",
        AN_OBJECT,
    ),
    Hostile(
        "a set of members that hash alike and equal everything",
        """\
class Alike:
    def __hash__(self): return 1
    def __eq__(self, other): return True
def answer(n):
    return {Alike(), 5}
""",
        FOREIGN,
    ),
    Hostile(
        "a set that takes long to make",
        """\
class Alike:
    def __hash__(self): return 1
def answer(n):
    return {Alike() for _ in range(10**5)}
""",
        TIMEOUT,
    ),
    Hostile(
        "not a number", "def answer(n): return float('nan')", Expected(("wrong-answer",), ("nan",))
    ),
    Hostile("negative zero", "def answer(n): return -0.0", Expected(("wrong-answer",), ("-0.0",))),
    Hostile("true", "def answer(n): return True", Expected(("wrong-answer",), ("True",))),
    Hostile(
        "infinity", "def answer(n): return float('inf')", Expected(("wrong-answer",), ("inf",))
    ),
    Hostile(
        "ten thousand digits",
        "def answer(n): return 10**10_000",
        Expected(("wrong-answer",), ("<int>",)),
    ),
    Hostile(
        "half a character",
        "def answer(n): return '\\ud800'",
        Expected(("wrong-answer",), ("ud800",)),
    ),
    Hostile(
        "two halves that are no character",
        "def answer(n): return '\\ud83d\\ude00'",
        Expected(("wrong-answer",)),
        tests=PAIR,
    ),
    Hostile(
        "a result without end when it is shown, hashed or compared",
        """\
class Deep:
    def __repr__(self): return repr(self)
    def __str__(self): return str(self)
    def __hash__(self): return hash(self)
    def __bool__(self): return bool(self)
    def __lt__(self, other): return self < other
    def __index__(self): return self.__index__()
    def __iter__(self): return iter(self)
def answer(n):
    return Deep()
""",
        AN_OBJECT,
    ),
    Hostile(
        "a result without end when it is compared",
        """\
class Deep:
    def __eq__(self, other): return self == other
def answer(n):
    return Deep()
""",
        FOREIGN,
    ),
    Hostile(
        "a result whose truth has no end",
        "class Deep:\n    def __bool__(self): return bool(self)\ndef answer(n): return Deep()",
        raises("RecursionError"),
        tests=TRUTHS,
    ),
    Hostile(
        "a result that is always true",
        "class Yes:\n    def __bool__(self): return True\ndef answer(n): return Yes()",
        Expected(("wrong-answer",), ("test 2: is true",)),
        tests=TRUTHS,
    ),
    Hostile(
        "an exception that hangs when it is shown",
        """\
class Slow(Exception):
    def __str__(self):
        while True: pass
raise Slow
""",
        TIMEOUT,
    ),
    Hostile(
        "an exception whose trace has no end",
        """\
class Ring:
    tb_frame = sys._getframe()
    tb_lineno = 1
Ring.tb_next = Ring
class Endless(Exception):
    __traceback__ = Ring
raise Endless
""",
        TIMEOUT,
    ),
    Hostile(
        "an exception that leaves when it is shown",
        "class Leaves(Exception):\n    def __str__(self): os._exit(0)\nraise Leaves",
        EXIT_0,
    ),
    Hostile(
        "an exception that shows more than text",
        """\
class Odd(str):
    def __getitem__(self, place): return {'done': 2}
class Shown(Exception):
    def __str__(self): return Odd('x')
raise Shown
""",
        FORGED,
    ),
    Hostile(
        "an exception under another's name",
        "raise type('done', (BaseException,), {'__module__': 'builtins'})(2)",
        raises("done"),
    ),
    Hostile(
        "an exception whose class has no name",
        """\
class Meta(type):
    @property
    def __name__(cls): raise RuntimeError
class Nameless(Exception, metaclass=Meta): pass
raise Nameless
""",
        raises("Nameless"),
    ),
]

WHOLE_CHEATS = [
    Hostile("whole: leaves with success", "os._exit(0)", EXIT_0, tests=WHOLE),
    Hostile("whole: leaves during the test", "def answer(n): os._exit(0)", EXIT_0, tests=WHOLE),
    Hostile("whole: leaves through C", "def answer(n): _LIBC.exit(0)", EXIT_0, tests=WHOLE),
    Hostile("whole: sys.exit", "sys.exit(0)", raises("SystemExit"), tests=WHOLE),
    Hostile(
        "whole: SystemExit in the test",
        "def answer(n): raise SystemExit(0)",
        raises("SystemExit"),
        tests=WHOLE,
    ),
    Hostile("whole: prints", "print('passed')\nprint('[\"done\",1]')", WRONG, tests=WHOLE),
    Hostile("whole: wrong", "", WRONG, tests=WHOLE),
    Hostile(
        "whole: AssertionError replaced",
        "import builtins\nbuiltins.AssertionError = type('Quiet', (Exception,), {})",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: an exception under the name of AssertionError",
        "def answer(n): raise type('AssertionError', (Exception,), {})",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: an exception hook", "sys.excepthook = lambda *_: os._exit(0)", WRONG, tests=WHOLE
    ),
    Hostile(
        "whole: an exit handler",
        "import atexit\natexit.register(send, '[\"done\",1]')",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: builtins of its own",
        "__builtins__ = {'AssertionError': Exception}",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: a check of its own",
        "def check(candidate): pass\ncheck(answer)",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: eval, compile and __import__ replaced",
        """\
import builtins
builtins.eval = builtins.compile = builtins.__import__ = lambda *_, **__: None
""",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: enumerate replaced",
        "import builtins\nbuiltins.enumerate = lambda _: ()",
        Expected(("protocol-error", "wrong-answer")),
        because="tests are left out, unless the name was looked up before",
        tests=WHOLE,
    ),
    Hostile(
        "whole: exec replaced",
        "import builtins\nbuiltins.exec = lambda *_: None",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "whole: says that it is done", "send('[\"done\",1]')\nos._exit(0)", FORGED, tests=WHOLE
    ),
    Hostile(
        "whole: says that no test was asked for",
        "send('[\"done\",0]')\nos._exit(0)",
        FORGED,
        tests=WHOLE,
    ),
    Hostile(
        "whole: an empty marker",
        "send('[0,\"\"]', '[\"done\",1]')\nos._exit(0)",
        FORGED,
        tests=WHOLE,
    ),
    Hostile(
        "whole: true for a marker",
        "send('[0,true]', '[\"done\",1]')\nos._exit(0)",
        FORGED,
        tests=WHOLE,
    ),
    Hostile(
        "whole: guesses the marker",
        "send('[0,\"' + '0' * 32 + '\"]', '[\"done\",1]')\nos._exit(0)",
        FORGED,
        tests=WHOLE,
    ),
    Hostile(
        "whole: guesses many markers",
        "send(*(f'[0,\"{guess:032x}\"]' for guess in range(10_000)), '[\"done\",1]')\nos._exit(0)",
        FORGED,
        tests=WHOLE,
    ),
    Hostile(
        "whole: forges in a thread",
        """\
import threading
def go_on():
    while True:
        send('["done",1]')
threading.Thread(target=go_on, daemon=True).start()
time.sleep(0.01)
""",
        FORGED,
        tests=WHOLE,
    ),
    Hostile("whole: closes every descriptor", "os.closerange(0, 256)", EXIT_0, tests=WHOLE),
]

CORPUS = (*RESOURCES, *ESCAPES, *CHEATS, *WHOLE_CHEATS)

OPEN_IN_WHOLE_TESTS = (
    Hostile(
        "the marker taken from the frames above",
        """\
frame = sys._getframe()
while frame is not None:
    for thing in list(frame.f_locals.values()):
        if type(thing) is dict and 'marker' in thing:
            marker = thing['marker']
    frame = frame.f_back
send(f'[0,"{marker}"]', '["done",1]')
os._exit(0)
""",
        FORGED,
        tests=WHOLE,
    ),
    Hostile(
        "an object that equals everything",
        "class Equal:\n    def __eq__(self, other): return True\ndef answer(n): return Equal()",
        WRONG,
        tests=WHOLE,
    ),
    Hostile(
        "a trace that replaces the test's own function",
        """\
def trace(frame, event, argument):
    if 'check' in frame.f_globals:
        frame.f_globals['check'] = lambda candidate: None
    return trace
sys.settrace(trace)
""",
        WRONG,
        tests=WHOLE,
    ),
)
"""What a test that cannot be split lets pass: it runs in the program's own process, at its mercy.
Values that are compared outside let none of them pass. See `fim_eval.judge`."""


# --- what there is to be had ----------------------------------------------------------------------

SECRET_NAME = "FIM_EVAL_HOSTILE_SECRET"  # noqa: S105  the name of a variable
PLACES = ("/", "/tmp", "/var/tmp", "/dev/shm", "/run", os.getcwd())  # noqa: S108, PTH109


class Surroundings:
    """Files, sockets and an environment for programs to go for, and what became of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closing = contextlib.ExitStack()
        self._sockets: dict[str, socket.socket] = {}
        self.secret = secrets.token_hex(16)
        self._token = f"hostile-{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        """Make all of it."""
        os.environ[SECRET_NAME] = self.secret
        self._closing.callback(os.environ.pop, SECRET_NAME)
        (self._folder / "secret").write_text(self.secret)
        kept = self._folder / "kept"
        kept.write_text("as it was")
        with contextlib.suppress(OSError):  # not every file system has attributes
            os.setxattr(kept, "user.kept", b"as it was")
        for kind, name, address in (
            (socket.SOCK_STREAM, "stream", str(self._folder / "stream")),
            (socket.SOCK_DGRAM, "datagram", str(self._folder / "datagram")),
            (socket.SOCK_STREAM, "abstract", f"\0{self._token}"),
            (socket.SOCK_DGRAM, "abstract datagram", f"\0{self._token}-datagram"),
        ):
            self._listen(name, socket.AF_UNIX, kind, address)
        self._listen("TCP", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self._listen("UDP", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        for path in (self._folder, *self._folder.iterdir()):
            # Whoever a program runs as: only the jail is in its way.
            path.chmod(0o777)
        self._segment = _LIBC.shmget(0, 4096, 0o600)
        self._closing.callback(_LIBC.shmctl, self._segment, _IPC_RMID, None)
        self._before = self._files()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take all of it away, and what was left elsewhere."""
        self._closing.close()
        for path in self._left():
            path.rmdir() if path.is_dir() else path.unlink()

    def _listen(self, name: str, family: int, kind: int, address: Any) -> None:
        listener = self._closing.enter_context(socket.socket(family, kind))
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        self._sockets[name] = listener

    def prelude(self) -> str:
        """The names of all of it, as the first lines of a program."""
        folder = self._folder
        names = {
            "FOLDER": str(folder),
            "SECRET": str(folder / "secret"),
            "KEPT": str(folder / "kept"),
            "STREAM": str(folder / "stream"),
            "DATAGRAM": str(folder / "datagram"),
            "ABSTRACT": f"\0{self._token}",
            "ABSTRACT_DATAGRAM": f"\0{self._token}-datagram",
            "TCP": self._sockets["TCP"].getsockname()[1],
            "UDP": self._sockets["UDP"].getsockname()[1],
            "SEGMENT": self._segment,
            "SECRET_NAME": SECRET_NAME,
            "TOKEN": self._token,
            "PLACES": PLACES,
            "JUDGE": os.getpid(),
            "RUNNER": str(SOURCE),
        }
        return PRELUDE + "".join(f"{name} = {value!r}\n" for name, value in names.items())

    def changes(self) -> list[str]:
        """What is not as it was."""
        after = self._files()
        found = [
            f"{path}: {self._before.get(path)} has become {after.get(path)}"
            for path in sorted(self._before.keys() | after.keys())
            if self._before.get(path) != after.get(path)
        ]
        found += [f"{path} was left" for path in self._left()]
        reached, _, _ = select.select(list(self._sockets.values()), [], [], 0)
        found += [
            f"something reached the {name} socket"
            for name, listener in self._sockets.items()
            if listener in reached
        ]
        if _LIBC.shmctl(self._segment, _IPC_STAT, ctypes.create_string_buffer(256)) != 0:
            found.append("the shared memory is gone")
        return found

    def _left(self) -> list[Path]:
        return [path for place in PLACES for path in Path(place).glob(f"{self._token}*")]

    def _files(self) -> dict[str, tuple[object, ...]]:
        """Everything about the folder and its files, the runner, and the standard library's own."""
        paths = [*self._folder.parent.glob(self._folder.name), *self._folder.glob("*")]
        return {str(path): _state(path) for path in (*paths, SOURCE, Path(os.__file__))}


_LIBC = ctypes.CDLL(None)
_IPC_RMID, _IPC_STAT = 0, 2


def _state(path: Path) -> tuple[object, ...]:
    seen = path.lstat()
    attributes = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
    content = path.read_bytes() if path.is_file() else b""
    # The time of the last change of anything catches what the rest would not.
    times = (seen.st_mtime_ns, seen.st_ctime_ns)
    return seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink, *times, content, attributes


# --- processes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Whatever our processes leave behind becomes our child, where `descendants` finds it."""
    subreaper = 36
    before = descendants(os.getpid(), dead=True)
    _LIBC.prctl(subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        _LIBC.prctl(subreaper, 0, 0, 0, 0)
        for pid in descendants(os.getpid(), dead=True):
            if pid not in before:
                with contextlib.suppress(ChildProcessError):  # a child's child
                    os.waitpid(pid, os.WNOHANG)


def descendants(pid: int, *, dead: bool = False) -> list[int]:
    """Processes that a process has started, directly or not, parents first; zombies if asked."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, *_ = (
                    (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                )
            except (OSError, ValueError):  # it has ended
                continue
            if dead or state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def left_behind(before: Iterable[int]) -> list[int]:
    """Descendants of ours that are still there; those that are being killed get ten seconds."""
    end = time.monotonic() + 10
    while left := [pid for pid in descendants(os.getpid()) if pid not in set(before)]:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return left


# --- the trial ------------------------------------------------------------------------------------


def contained() -> list[Hostile]:
    """The programs that this machine can run."""
    return [hostile for hostile in CORPUS if os.uname().machine in hostile.machines]


def faults(
    hostile: Hostile, isolation: Isolation, execution: Execution, ruling: Ruling, secret: str
) -> list[str]:
    """What is wrong with what came of a program."""
    expected = hostile.expected_in(isolation)
    found = []
    if ruling.outcome not in expected.outcomes or not any(
        words in ruling.detail for words in expected.says
    ):
        found.append(f"{ruling.outcome} ({ruling.detail[:200]!r}), expected {expected}")
    told = execution.output.decode("utf-8", "replace") + ruling.detail + (execution.error or "")
    if secret in told:
        found.append("a secret came back")
    knows = hostile.tests is WHOLE or any(value in hostile.program for value in EXPECTED)
    if not knows and any(
        value in execution.output.decode("utf-8", "replace") for value in EXPECTED
    ):
        found.append("an expected value came back")
    if len(ruling.detail) > 1_000:
        found.append(f"a detail of {len(ruling.detail)} characters")
    try:
        ruling.detail.encode()
    except UnicodeEncodeError as error:
        found.append(f"a detail that cannot be written: {error}")
    return [f"{hostile.name}: {fault}" for fault in found]


def trial(jail: Jail, surroundings: Surroundings, workers: int) -> list[str]:
    """What went wrong with the whole corpus in a pool, with an honest program after each."""
    hostiles = contained()
    honest = examined(TESTS)
    prelude = surroundings.prelude()
    before = descendants(os.getpid())

    def jobs() -> Iterator[Job[Hostile | int]]:
        for number, hostile in enumerate(hostiles):
            program = prelude + hostile.program
            yield Job(hostile, program, examined(hostile.tests), hostile.limits(jail.isolation))
            yield Job(number, HONEST, honest, Limits(time_s=5.0))

    found = []
    settled = []
    with adopting_orphans():
        for result in run_jobs(jobs(), jail, workers):
            key, ruling = result.job.key, result.ruling
            settled.append(key)
            if isinstance(key, Hostile):
                secret = surroundings.secret
                found += faults(key, jail.isolation, result.execution, ruling, secret)
            elif ruling.outcome != "passed":
                found.append(f"honest program {key}: {ruling}")
        found += [f"process {pid} was left" for pid in left_behind(before)]
    if len(settled) != 2 * len(hostiles):
        found.append(f"{len(settled)} verdicts for {2 * len(hostiles)} programs")
    return found + surroundings.changes()


def alone(jail: Jail, surroundings: Surroundings, hostiles: Iterable[Hostile]) -> list[str]:
    """What went wrong with programs in one zygote, with an honest one after each."""
    found = []
    prelude = surroundings.prelude()
    honest = examined(TESTS)
    before = descendants(os.getpid())
    with adopting_orphans():
        with Zygote(jail) as zygote:
            for hostile in hostiles:
                limits = hostile.limits(jail.isolation)
                try:
                    execution, ruling = _examine(
                        zygote, prelude + hostile.program, examined(hostile.tests), limits
                    )
                    secret = surroundings.secret
                    found += faults(hostile, jail.isolation, execution, ruling, secret)
                    _, ruling = _examine(zygote, HONEST, honest, Limits(time_s=5.0))
                except SandboxError as error:
                    found.append(f"{hostile.name}: the zygote failed: {error}")
                    break
                if ruling.outcome != "passed":
                    found.append(f"honest program after {hostile.name}: {ruling}")
        found += [f"process {pid} was left" for pid in left_behind(before)]
    return found + surroundings.changes()


def _examine(
    zygote: Zygote, program: str, tests: Examination, limits: Limits
) -> tuple[Execution, Ruling]:
    try:
        execution = zygote.run(
            program,
            tests.setup,
            [(check.kind, check.source) for check in tests.checks],
            limits,
            marker=secrets.token_hex(16),
            careful=False,
            patience_s=60.0,
            on_slow=lambda: None,
        )
    except KilledFromOutsideError as error:
        # The pool tries again before it takes this for the program's own doing.
        execution = error.execution
    return execution, rule(tests, execution)


def main() -> None:
    """Run the corpus in the tier that is the first argument; print what was not contained."""
    try:
        jail = find_jail(cast("Isolation", sys.argv[1]), lambda _notice: None)
    except IsolationError as error:
        told: dict[str, Any] = {"not_offered": str(error)}
    else:
        with tempfile.TemporaryDirectory() as folder, Surroundings(Path(folder)) as surroundings:
            found = trial(jail, surroundings, workers=2)
        told = {"uid": os.getuid(), "found": found}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
