"""Which system calls a judged program is refused, as a classic BPF program. Pure; Linux only.

A refused call fails with `EPERM`: a program sees an ordinary `PermissionError`. A few calls are
decided by their arguments: threads are allowed, processes are not, so a `clone` needs
`CLONE_THREAD`. `clone3`, whose flags no filter can see, is answered `ENOSYS`: the C library then
uses `clone`.

Numbers: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
Filters: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence, Set

MACHINES = ("x86_64", "aarch64")
"""As `os.uname().machine` names them."""

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_X32 = 0x40000000

# name: (x86_64, aarch64); None where the architecture has no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Processes and other programs.
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    # Signals to anyone, ourselves included: nothing honest in here sends one.
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    # A timer may send any signal, and to whom it likes.
    "timer_create": (222, 107),
    # Other processes' memory and state.
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "setrlimit": (160, 164),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    # The network. A socketpair is allowed: asyncio wakes itself with one.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    # Limits and privileges.
    "prctl": (157, 167), "seccomp": (317, 277), "personality": (135, 92),
    "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None),
    "bpf": (321, 280), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    # Namespaces and mounts.
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # What Landlock does not cover: owners, modes, times and attributes of files.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
    # Memory that outlives the process or that no limit counts.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "shmdt": (67, 197), "msgget": (68, 186), "msgctl": (71, 187),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "semget": (64, 190), "semctl": (66, 191),
    "semop": (65, 193), "semtimedop": (220, 192), "mq_open": (240, 180), "mq_unlink": (241, 181),
    # What happens in folders that may not be listed.
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "fanotify_mark": (301, 263),
    # The machine.
    "reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "syslog": (103, 116),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18), "vhangup": (153, 58),
}  # fmt: skip

# The same, of calls that their arguments decide.
DECIDED: dict[str, tuple[int, int]] = {
    "clone": (56, 220),
    "socketpair": (53, 199),
    "prlimit64": (302, 261),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050001, 0x00050026
_NUMBER, _ARCH = 0, 4

_SOCK_STREAM, _TYPE_BITS = 1, 0xF
_OWNER_COMMANDS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: whom a descriptor's events signal, and how."""

_PLAIN_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what Python itself asks."""

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, constant: as `struct sock_filter` has them."""


ZYGOTES = frozenset({"clone", "fork", "vfork", "kill", "pidfd_open", "prctl", "prlimit64"})
"""Calls that the zygote needs itself."""


def seccomp_filters(machine: str) -> tuple[bytes, bytes]:
    """Two filters for one of `MACHINES`, each an array of `struct sock_filter`.

    The zygote takes the first for itself, and with it for all its processes. Each of these adds the
    second: what the zygote itself needs. The kernel compiles that one anew for every program, so it
    is small: one filter of all would cost 0.1 ms a program.
    """
    names = REFUSED.keys() | DECIDED.keys()
    return _filter(machine, names - ZYGOTES), _filter(machine, names & ZYGOTES)


def _filter(machine: str, names: Set[str]) -> bytes:
    column = MACHINES.index(machine)
    refused = sorted(
        number
        for name, numbers in REFUSED.items()
        if name in names and (number := numbers[column]) is not None
    )
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # The x32 calls of x86_64 are the same calls under other numbers.
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    for name, look in _looks().items():
        if name in names:
            program += [(_EQUAL, 0, len(look), DECIDED[name][column]), *look]
    program += _search(refused)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _looks() -> dict[str, list[Instruction]]:
    """How the arguments of each call in `DECIDED` decide; each ends in a return."""
    refuse, allow = (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)
    return {
        # Threads only.
        "clone": [_argument(0), (_ANY_BIT, 1, 0, _CLONE_THREAD), refuse, allow],
        # Streams, which send to nobody but their other end.
        "socketpair": [
            _argument(1), (_AND, 0, 0, _TYPE_BITS), (_EQUAL, 1, 0, _SOCK_STREAM), refuse, allow,
        ],
        # One's own limits, to read them.
        "prlimit64": [
            _argument(0), (_EQUAL, 1, 0, 0), refuse,
            _argument(2), (_EQUAL, 1, 0, 0), refuse,
            _argument(2, upper=True), (_EQUAL, 1, 0, 0), refuse,
            allow,
        ],
        "fcntl": [_argument(1), *_any_of(_OWNER_COMMANDS, refuse), allow],
        "ioctl": [_argument(1), *_any_of(_PLAIN_IOCTLS, allow), refuse],
    }  # fmt: skip


def _argument(place: int, *, upper: bool = False) -> Instruction:
    """Load half of an argument: both machines have the lower one first."""
    return (_LOAD, 0, 0, 16 + 8 * place + (4 if upper else 0))


def _any_of(values: Sequence[int], then: Instruction) -> list[Instruction]:
    return [part for value in values for part in ((_EQUAL, 0, 1, value), then)]


def _search(refused: Sequence[int]) -> list[Instruction]:
    """Binary search: the kernel runs the filter for each call that exists when it is installed."""
    if len(refused) <= 3:
        return [
            *((_EQUAL, len(refused) - place, 0, number) for place, number in enumerate(refused)),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _EPERM),
        ]
    middle = len(refused) // 2
    below = _search(refused[:middle])
    return [(_AT_LEAST, len(below), 0, refused[middle]), *below, *_search(refused[middle:])]
