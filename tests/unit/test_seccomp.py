"""The system call filter, without a kernel: its numbers, and what it answers to each call."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from fim_eval.sandbox import seccomp
from fim_eval.sandbox.seccomp import DECIDED, MACHINES, REFUSED, ZYGOTES, seccomp_filters

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_ARCHITECTURES = {"i386": 0x40000003, "arm": 0x40000028, "riscv64": 0xC00000F3}

ALLOWED = 0x7FFF0000
KILLED = 0x80000000
EPERM = 0x00050000 | 1
ENOSYS = 0x00050000 | 38

CLONE_THREAD = 0x10000
SIGCHLD = 17


def header_numbers(machine: str) -> dict[str, int]:
    """System calls by name, from the kernel's headers."""
    for path in HEADERS[machine]:
        if Path(path).is_file():
            defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", Path(path).read_text())
            return {name: int(number) for name, number in defined}
    pytest.skip(f"no kernel headers for {machine}: install linux-libc-dev or kernel-headers")


def answer(machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """What a program's process gets for one call: the stricter answer of its two filters."""
    given = (*arguments, *([0] * (6 - len(arguments))))
    called = struct.pack("<IIQ6Q", number, architecture or AUDIT_ARCH[machine], 0, *given)
    answers = [run_filter(code, called) for code in seccomp_filters(machine)]
    # The kernel compares them as signed numbers: the lowest is the strictest.
    return min(answers, key=lambda each: each - (1 << 32) if each >> 31 else each)


def run_filter(code: bytes, called: bytes) -> int:
    """What one filter answers: classic BPF, as the kernel runs it."""
    program = list(struct.iter_unpack("<HBBI", code))
    held = place = 0
    while True:
        operation, if_true, if_false, constant = program[place]
        place += 1
        match operation:
            case 0x20:
                (held,) = struct.unpack_from("<I", called, constant)
            case 0x54:
                held &= constant
            case 0x15:
                place += if_true if held == constant else if_false
            case 0x35:
                place += if_true if held >= constant else if_false
            case 0x45:
                place += if_true if held & constant else if_false
            case 0x06:
                return int(constant)
            case _:
                raise AssertionError(f"unknown operation {operation:#x}")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_zygote_itself_may_make_the_calls_it_needs_and_no_other_refused_one(
    machine: str,
) -> None:
    of_zygote, _ = seccomp_filters(machine)
    for name, numbers in REFUSED.items():
        number = numbers[MACHINES.index(machine)]
        if number is not None:
            called = struct.pack("<IIQ6Q", number, AUDIT_ARCH[machine], 0, *([0] * 6))
            expected = ALLOWED if name in ZYGOTES else EPERM
            assert run_filter(of_zygote, called) == expected, name


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", [*REFUSED, *DECIDED, "clone3"])
def test_a_call_has_the_number_of_the_kernel_headers(machine: str, name: str) -> None:
    numbers = header_numbers(machine)
    ours = {
        "clone3": seccomp._CLONE3,
        **{name: each[MACHINES.index(machine)] for name, each in (REFUSED | DECIDED).items()},
    }[name]
    if ours is not None and ours > max(numbers.values()):
        pytest.skip("the kernel headers here are older than the call")
    assert numbers.get(name) == ours


@pytest.mark.parametrize("machine", MACHINES)
def test_the_refused_calls_are_refused_and_no_others(machine: str) -> None:
    refused = {numbers[MACHINES.index(machine)] for numbers in REFUSED.values()} - {None}
    special = {numbers[MACHINES.index(machine)] for numbers in DECIDED.values()}
    special.add(seccomp._CLONE3)
    answers = {number: answer(machine, number) for number in range(601)}
    assert {number for number, each in answers.items() if each == EPERM} - special == refused
    others = answers.keys() - refused - special
    assert {answers[number] for number in others} == {ALLOWED}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(SIGCHLD, EPERM, id="fork"),
        pytest.param(0x3D0F00, ALLOWED, id="the C library's thread"),
        pytest.param(0x3D0F00 & ~CLONE_THREAD, EPERM, id="a process that shares all but that"),
        pytest.param(CLONE_THREAD << 32, EPERM, id="the bit in the other half"),
        pytest.param(0x10000000 | SIGCHLD, EPERM, id="a user namespace"),
    ],
)
def test_clone_makes_threads_and_no_processes(machine: str, flags: int, expected: int) -> None:
    assert answer(machine, DECIDED["clone"][MACHINES.index(machine)], flags) == expected


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        pytest.param("socketpair", (1, 1), ALLOWED, id="a stream"),
        pytest.param("socketpair", (1, 1 | 0o2004000), ALLOWED, id="a stream, closed on exec"),
        pytest.param("socketpair", (1, 2), EPERM, id="datagrams"),
        pytest.param("socketpair", (1, 3), EPERM, id="raw"),
        pytest.param("socketpair", (1, 5), EPERM, id="packets"),
        pytest.param("prlimit64", (0, 7, 0, 1 << 40), ALLOWED, id="to read one's own limit"),
        pytest.param("prlimit64", (0, 7, 1 << 40, 0), EPERM, id="to set it, upper half"),
        pytest.param("prlimit64", (0, 7, 4096, 0), EPERM, id="to set it, lower half"),
        pytest.param("prlimit64", (1, 7, 0, 1 << 40), EPERM, id="another's limit"),
        pytest.param("fcntl", (3, 3), ALLOWED, id="F_GETFL"),
        pytest.param("fcntl", (3, 1030), ALLOWED, id="F_DUPFD_CLOEXEC"),
        pytest.param("fcntl", (3, 8), EPERM, id="F_SETOWN"),
        pytest.param("fcntl", (3, 10), EPERM, id="F_SETSIG"),
        pytest.param("fcntl", (3, 15), EPERM, id="F_SETOWN_EX"),
        pytest.param("ioctl", (1, 0x5401), ALLOWED, id="TCGETS"),
        pytest.param("ioctl", (1, 0x5451), ALLOWED, id="FIOCLEX"),
        pytest.param("ioctl", (1, 0x8901), EPERM, id="FIOSETOWN"),
        pytest.param("ioctl", (1, 0x5452), EPERM, id="FIOASYNC"),
        pytest.param("ioctl", (1, 0x5412), EPERM, id="TIOCSTI"),
        pytest.param("ioctl", (1, 0x40086602), EPERM, id="FS_IOC_SETFLAGS"),
    ],
)
def test_what_arguments_decide(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    assert answer(machine, DECIDED[name][MACHINES.index(machine)], *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_does_not_exist(machine: str) -> None:
    assert answer(machine, seccomp._CLONE3) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    others = {**AUDIT_ARCH, **OTHER_ARCHITECTURES}
    del others[machine]
    for architecture in others.values():
        assert {answer(machine, n, architecture=architecture) for n in range(601)} == {KILLED}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 39, 0x400001FF, 0xFFFFFFFF])
def test_x32_numbers_end_the_process(machine: str, number: int) -> None:
    assert answer(machine, number) == KILLED
