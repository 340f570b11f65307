"""The process inside the jail: stays warm, forks once per program, says what it saw of each.

Standard library only and one file: it runs in an interpreter that sees nothing of this project.
It holds no expected value and has no opinion. It computes the left sides of tests and sends them,
encoded, over a private pipe; whoever started it compares.

Frames on the channel: 4 bytes of length (big-endian), then that many bytes of JSON. In: one
configuration, then one job after the other. Out: one greeting, then for each job a JSON header, a
newline, and the bytes that the program's process wrote on its private pipe. That process writes
lines of JSON: `[test, value]`, `["raised", where, type, message, line]`, `["foreign", test, type]`,
`["large", test]`, and `["done", tests]` at the end. The values are described in `fim_eval.values`,
which reads them.

Everything a program may forge here is what it could have returned as well: see `fim_eval.judge`.
"""

from __future__ import annotations

import collections
import collections.abc
import ctypes
import gc
import json
import marshal
import os
import resource
import select
import signal
import struct
import sys
import time
import types
import warnings
from typing import Any

MODULE = "program"
"""`__name__` of every program: not `__main__`, so that main blocks stay quiet."""

WARM = (
    "bisect", "functools", "heapq", "itertools", "math", "operator", "random", "re", "typing",
)  # fmt: skip
"""Imported once, so that no program pays for them after its fork: what MBPP's and HumanEval's
references use often (`random`, because it is seeded here). Each further module makes every fork
slower, one in C by 0.01 ms: more than it saves if fewer than one program in a hundred uses it."""

MOST_NODES = 100_000
"""Parts of one value. More are no literal that a test holds."""

DEEPEST = 250
"""Nested containers. Python's parser refuses literals deeper than 200: deeper is equal to none."""

COMPILED_HERE = 32_768
"""Characters of a program that is compiled before the fork, which halves its cost; a longer one
could hold up the zygote, so it is compiled in its own process, under its own limits."""

SOON_MS = 5
"""A process that is still there after so many milliseconds is watched: its pipe, its clocks."""

_SMALL = 2**63
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_GET_SECCOMP, _PR_SET_SECCOMP = 1, 4, 21, 22
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 24, 36, 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)
# Declared: a 64-bit argument of a variadic function must not be guessed to be an int.
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.syscall.restype = ctypes.c_long

# What is called for each program: no lock handed over, no errno kept, no arguments converted.
_quick = ctypes.PyDLL(None)
_prctl, _kill, _wait4, _fork = _quick.prctl, _quick.kill, _quick.wait4, _quick.fork
_get_filter = (ctypes.c_int(_PR_GET_SECCOMP), *[ctypes.c_ulong(0)] * 4)


class Foreign(Exception):  # noqa: N818  no error of ours: the value's type has an equality of its own
    """A value whose type compares in a way that the program wrote."""


class Large(Exception):  # noqa: N818  no error of ours: no test holds such a value
    """A value with more parts than any literal."""


# --- values ---------------------------------------------------------------------------------------


def encode(value: object) -> Any:
    """A value as JSON for `fim_eval.values.decode`, so that it compares as the value itself does.

    Subclasses that inherit a built-in equality are sent as that built-in. Values whose equality is
    identity (functions, iterators, plain objects), or a library's that equals no literal, are sent
    as one that equals nothing.

    Raises:
        Foreign: its type, or that of a part, has an equality that the program wrote.
        Large: it has more than `MOST_NODES` parts.
    """
    return _encode(value, [MOST_NODES], 0)


def _encode(value: object, left: list[int], depth: int) -> Any:
    kind = type(value)
    left[0] -= 1
    if left[0] < 0:
        raise Large
    if value is None or kind is bool or kind is float:
        return value
    if kind is str:
        return _string(value)
    if kind is int:
        return _integer(value)
    if depth >= DEEPEST:
        return ["object"]
    write = _WRITERS.get(kind)
    if write is None:
        owner = _owner_of_equality(kind)
        write = _WRITERS.get(owner) or _imported_writer(owner)
        if write is None:
            if type.__dict__["__module__"].__get__(owner) == MODULE:
                raise Foreign(type.__dict__["__name__"].__get__(kind))
            return ["object"]
    return write(value, left, depth + 1)


def _owner_of_equality(kind: type) -> type:
    """The class whose `==` an instance of `kind` uses."""
    for owner in type.__dict__["__mro__"].__get__(kind):
        if "__eq__" in type.__dict__["__dict__"].__get__(owner):
            return owner  # type: ignore[no-any-return]  # an entry of the method resolution order
    return object


def _integer(value: Any) -> Any:
    number = int.__index__(value)
    # In hexadecimal: decimal digits cost quadratic time, and Python refuses more than 4,300.
    return number if -_SMALL <= number < _SMALL else ["int", hex(number)]


def _imported_writer(owner: type) -> Any:
    """For numbers of modules that a program has imported itself, if it has."""
    fractions, decimal = sys.modules.get("fractions"), sys.modules.get("decimal")
    if fractions is not None and owner is fractions.Fraction:
        return lambda value, left, depth: [
            "Fraction",
            _encode(value.numerator, left, depth),
            _encode(value.denominator, left, depth),
        ]
    if decimal is not None and owner is decimal.Decimal:
        return lambda value, _left, _depth: ["Decimal", owner.__str__(value)]
    return None


def _string(value: Any) -> Any:
    text = str.__getitem__(value, slice(None))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # JSON would join two lone surrogates to the one character that they are not.
            return ["str", text.encode("utf-32-le", "surrogatepass").hex()]
    return text


class _Other:
    """Takes note of what it is compared with."""

    met: object = None

    def __eq__(self, other: object) -> bool:
        self.met = other
        return True

    __hash__ = None  # type: ignore[assignment]  # never a key


def _shown(proxy: Any) -> object:
    """What a mapping proxy shows, and compares as: any mapping, and even a text."""
    other = _Other()
    _ = proxy == other
    return other.met


def _sequence(tag: str, iterate: Any) -> Any:
    def write(value: object, left: list[int], depth: int) -> Any:
        return [tag, *[_encode(item, left, depth) for item in iterate(value)]]

    return write


def _mapping(tag: str, items: Any) -> Any:
    def write(value: object, left: list[int], depth: int) -> Any:
        flat = [tag]
        for key, item in items(value):
            flat.append(_encode(key, left, depth))
            flat.append(_encode(item, left, depth))
        return flat

    return write


def _text(convert: Any) -> Any:
    return lambda value, _left, _depth: convert(value)


_WRITERS: dict[type, Any] = {
    object: lambda _value, _left, _depth: ["object"],
    int: lambda value, _left, _depth: _integer(value),
    float: _text(float.__pos__),
    str: _text(_string),
    bytes: _text(lambda value: ["bytes", bytes.hex(value)]),
    bytearray: _text(lambda value: ["bytearray", bytearray.hex(value)]),
    memoryview: _text(lambda value: ["bytes", value.tobytes().hex()]),
    complex: _text(lambda value: ["complex", value.real, value.imag]),
    list: _sequence("list", list.__iter__),
    tuple: _sequence("tuple", tuple.__iter__),
    set: _sequence("set", set.__iter__),
    frozenset: _sequence("frozenset", frozenset.__iter__),
    collections.deque: _sequence("deque", collections.deque.__iter__),
    dict: _mapping("dict", dict.items),
    collections.OrderedDict: _mapping("OrderedDict", collections.OrderedDict.items),
    collections.Counter: _mapping("Counter", dict.items),
    types.MappingProxyType: lambda value, left, depth: _encode(_shown(value), left, depth),
    collections.abc.Mapping: _mapping("dict", collections.abc.Mapping.items),
    collections.abc.Set: _sequence("set", iter),
    collections.UserList: _sequence("list", lambda value: value.data),
    collections.UserString: _text(lambda value: _string(value.data)),
    type({}.keys()): _sequence("keys", iter),
    type({}.items()): lambda value, left, depth: [
        "items",
        *[_encode(part, left, depth) for pair in value for part in pair],
    ],
    range: lambda value, left, depth: [
        "range",
        *[_encode(part, left, depth) for part in (value.start, value.stop, value.step)],
    ],
}
"""By the class that wrote the equality. A `defaultdict` and a named tuple inherit theirs."""


# --- the program's process ------------------------------------------------------------------------


_json = json.encoder.c_make_encoder(  # type: ignore[attr-defined]  # not in the types, in C
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)
"""What `json.dumps` makes anew for each call, which costs a fork 0.2 ms of page faults."""


class _Pipe:
    """Lines out of the program's process."""

    def __init__(self, descriptor: int, most_bytes: int) -> None:
        self._descriptor = descriptor
        self._left = most_bytes

    def value(self, test: int, value: Any) -> None:
        """What one test came to.

        Raises:
            Large: it is over what is left of the limit.
        """
        line = "".join(_json([test, value], 0))
        self._left -= len(line)
        if self._left < 0:
            raise Large
        self._write(line)

    def word(self, *message: Any) -> None:
        """A short line that no limit holds back."""
        self._write("".join(_json(message, 0)))

    def _write(self, line: str) -> None:
        rest = line.encode() + b"\n"
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def run(job: dict[str, Any], program: Any, tests: list[Any], pipe: _Pipe) -> None:
    """Run the program, then its set-up, then its tests in order, up to the first that raises."""
    # Bound before the program runs: it may replace what builtins these names stand for.
    run_code, evaluate, truth, steps = exec, eval, bool, list(enumerate(tests))
    setup = _code("run", job["setup"])
    world = sys.modules[MODULE].__dict__
    where: Any = "compile"
    try:
        if program is None:
            program = compile(job["program"], MODULE, "exec", dont_inherit=True)
        where = "program"
        run_code(program, world)
        where = "setup"
        run_code(setup, world)
        for where, (kind, code) in steps:
            if kind == "run":
                run_code(code, world)
                value: Any = job["marker"]
            elif kind == "truth":
                value = truth(evaluate(code, world))
            else:
                value = encode(evaluate(code, world))
            pipe.value(where, value)
    except Foreign as foreign:
        pipe.word("foreign", where, str(foreign))
    except Large:
        pipe.word("large", where)
    except BaseException as error:
        pipe.word("raised", where, *_described(error))
    else:
        pipe.word("done", len(tests))


def _described(error: BaseException) -> tuple[str, str, int | None]:
    """Type, message and the program's line of an exception."""
    kind = type.__dict__["__name__"].__get__(type(error))
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == MODULE:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        message = str(error)[:200]
    except BaseException:
        message = ""
    return kind, message, line


def _child(job: dict[str, Any], program: Any, tests: list[Any], descriptor: int) -> None:
    """From the fork to the end of the program's process; never returns."""
    try:
        if os.getppid() != 1:
            # Outside of a namespace, which ends with its first process.
            os.setsid()
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"],) * 2)
        if _config["seccomp"]:
            _install_filter()
        _begin(job, program, tests, descriptor)
    finally:
        # Not sys.exit: neither exit handlers nor threads that the program left.
        os._exit(0)


def _begin(job: dict[str, Any], program: Any, tests: list[Any], descriptor: int) -> None:
    gc.enable()
    run(job, program, tests, _Pipe(descriptor, job["output_bytes"]))


def _install_filter() -> None:
    if _prctl(*_config["put_filter"]) != 0:
        os._exit(97)


# --- the zygote -----------------------------------------------------------------------------------

_config: dict[str, Any] = {}
_kept: list[Any] = []
"""What C code points into."""

_soon = select.poll()
_status = ctypes.c_int()
_usage = (ctypes.c_long * 18)()
_to_status, _to_usage = ctypes.byref(_status), ctypes.byref(_usage)
"""`struct rusage`: two times of two numbers each, then the most memory resident, in kilobytes."""

_compiled: dict[tuple[str, str], Any] = {}
"""Tests by kind and source: the same few serve many programs."""


def _read(descriptor: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            os._exit(0)  # whoever started us is gone
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _receive(descriptor: int) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(_frame(descriptor))
    return message


def _frame(descriptor: int) -> bytes:
    # One read for nearly all: nothing more is sent before the answer.
    frame = os.read(descriptor, 65_536)
    if len(frame) < 4:
        frame += _read(descriptor, 4 - len(frame))
    missing = 4 + int.from_bytes(frame[:4], "big") - len(frame)
    return frame[4:] + _read(descriptor, missing)


def _reply(descriptor: int, header: dict[str, Any], output: bytes = b"") -> None:
    _send(descriptor, json.dumps(header).encode() + b"\n" + output)


def _send(descriptor: int, body: bytes) -> None:
    frame = struct.pack(">I", len(body)) + body
    while frame:
        frame = frame[os.write(descriptor, frame) :]


def _code(kind: str, source: str) -> Any:
    """A test or set-up, compiled; whoever sends it has seen that it compiles."""
    code = _compiled.get((kind, source))
    if code is None:
        if len(_compiled) > 10_000:
            _compiled.clear()
        mode = "exec" if kind == "run" else "eval"
        code = _compiled[kind, source] = compile(source, "test", mode, dont_inherit=True)
    return code


def _examine(job: dict[str, Any], jobs: int, replies: int) -> None:
    """Fork one program's process, watch it to its end, sweep, reply."""
    program = None
    source = job["program"]
    # A `finally` inside another's is compiled twice, and again for each level around it.
    plain = len(source) <= COMPILED_HERE and source.count("finally") <= 4
    if plain and not job["careful"]:
        try:
            program = compile(source, MODULE, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            # What Python raises for a text that is no program: NUL, nesting, huge literals.
            line = getattr(error, "lineno", None)
            message = [type(error).__name__, str(error)[:200], line]
            _reply(replies, {"end": "not-compiled", "error": message, "wall_s": 0.0, "cpu_s": 0.0})
            return
    tests = [(kind, _code(kind, source)) for kind, source in job["tests"]]
    _code("run", job["setup"])
    incoming, outgoing = os.pipe()
    # Out of the collector's sight: its first pass in the fork would copy every page they are on.
    gc.freeze()
    started = time.monotonic()
    child = _fork()
    if child == 0:
        os.close(incoming)
        os.close(jobs)
        os.close(replies)
        _child(job, program, tests, outgoing)
    os.close(outgoing)
    end, output = "exited", None
    if not _ends_soon(child, jobs):
        end, output = _watch(child, incoming, jobs, started, job)
        if end != "exited":
            os.kill(child, signal.SIGKILL)
    code, number, cpu_s, peak_bytes = _wait(child)
    wall_s = time.monotonic() - started
    _sweep(child)
    if output is None:
        # All of it: nobody is left to write more, and a pipe holds no more.
        output = os.read(incoming, 65_536)
        if len(output) > job["output_bytes"] + 4096:
            end = "output-limit"
    os.close(incoming)
    # Not json.dumps, which makes an encoder for each call.
    header = (
        f'{{"end":"{end}","exit_code":{code},"signal":{number},'
        f'"wall_s":{wall_s},"cpu_s":{cpu_s},"peak_bytes":{peak_bytes}}}\n'
    )
    _send(replies, header.encode() + output)


def _ends_soon(child: int, jobs: int) -> bool:
    """Whether the process ends within `SOON_MS`, as most do: its pipe is then read once, after it.

    One that fills its pipe waits until that time is over.
    """
    try:
        process = os.pidfd_open(child)
    except OSError:  # a kernel before 5.3, or a container that refuses it
        return False
    _soon.register(process, select.POLLIN)
    _soon.register(jobs, 0)
    ready = _soon.poll(SOON_MS)
    os.close(process)
    return len(ready) == 1 and ready[0][0] == process


def _wait(child: int) -> tuple[int | str, int | str, float, int]:
    """Exit code and signal, one of them `null`; processor time; most memory resident.

    Not os.wait4, which imports a module for each call.
    """
    _wait4(child, _to_status, 0, _to_usage)
    status = _status.value
    seconds, micros, system_seconds, system_micros, kilobytes = _usage[:5]
    cpu_s = seconds + system_seconds + (micros + system_micros) / 1e6
    if os.WIFSIGNALED(status):
        return "null", os.WTERMSIG(status), cpu_s, kilobytes * 1024
    return os.WEXITSTATUS(status), "null", cpu_s, kilobytes * 1024


def _watch(
    child: int, incoming: int, jobs: int, started: float, job: dict[str, Any]
) -> tuple[str, bytes]:
    """Read the private pipe until it closes, a limit is met, or whoever started us is gone.

    The limit is on the processor time of the process; on the clock it has longer, so that a busy
    machine does not turn a right program into a slow one.
    """
    limit_s, most_bytes = job["time_s"], job["output_bytes"]
    # The process's processor clock: clock_getcpuclockid(3) computes its id the same way.
    clock = (~child << 3) | 2
    poll = select.poll()
    poll.register(incoming, select.POLLIN)
    poll.register(jobs, 0)
    parts: list[bytes] = []
    size = 0
    while True:
        wall_left = started + job["clock_s"] - time.monotonic()
        try:
            cpu_left = limit_s - time.clock_gettime(clock)
        except OSError:  # it has ended: what it wrote can be read at once
            cpu_left = limit_s
        if cpu_left <= 0 or wall_left <= 0:
            return "timeout", b"".join(parts)
        events = dict(poll.poll(1000 * max(min(cpu_left, wall_left), 0.001)))
        if jobs in events:
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        if incoming not in events:
            continue
        part = os.read(incoming, 65_536)
        if not part:
            return _after_close(child, parts)
        size += len(part)
        if size > most_bytes + 4096:  # room for the short lines
            return "output-limit", b"".join(parts)
        parts.append(part)


def _after_close(child: int, parts: list[bytes]) -> tuple[str, bytes]:
    """Its pipe is closed: it has ended, ends at once, or closed the pipe and goes on."""
    for look in range(250):
        # Looked at, not reaped: the number stays its own until `wait4`.
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return "exited", b"".join(parts)
        # Most are a few microseconds from their end: a sleep would cost a millisecond each.
        time.sleep(0 if look < 50 else 0.001)
    return "closed", b"".join(parts)


def _sweep(child: int) -> None:
    """End and reap whatever the program left: processes are refused it, so this finds nothing."""
    # Not os.kill: that nobody is left is the rule, and an exception costs more than the call.
    if _kill(-1 if os.getpid() == 1 else -child, signal.SIGKILL) != 0 and _config["seccomp"]:
        return
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                _end_orphans()
                return
        except ChildProcessError:
            return


def _end_orphans() -> None:
    """Kill what was handed to us with a session of its own, where it is no namespace that ends it.

    Only without isolation: elsewhere a program can start no process.
    """
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                os.kill(int(entry), signal.SIGKILL)
                os.waitpid(int(entry), 0)
        except (OSError, ValueError, IndexError):
            continue


def _syscall(number: int, *arguments: int) -> int:
    result: int = _libc.syscall(
        ctypes.c_long(number), *[ctypes.c_ulong(argument) for argument in arguments]
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _restrict_paths(readable: list[str], writable: list[str]) -> None:
    """Landlock: no file but these; no TCP, no signal or abstract socket outside.

    https://docs.kernel.org/userspace-api/landlock.html
    """
    version = _syscall(_LANDLOCK_CREATE_RULESET, 0, 0, 1)
    if version < 3:
        raise OSError(
            "this kernel's Landlock cannot refuse that files are cut short (Linux 6.2 can)"
        )
    # Rights grew with the interface: 15, then one for ioctls of devices.
    handled = (1 << {3: 15, 4: 15}.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attributes = struct.pack("QQQ", handled, network, scoped)
    attributes = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.addressof(buffer), len(attributes), 0)
    read_file, write_file, read_dir = 1 << 2, 1 << 1, 1 << 3
    for paths, in_folder, in_file in (
        (readable, read_file | read_dir, read_file),
        (writable, 0, read_file | write_file),
    ):
        for path in paths:
            try:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            is_folder = os.path.isdir(path)
            rule = struct.pack("=Qi", in_folder if is_folder else in_file, descriptor)
            place = ctypes.create_string_buffer(rule, len(rule))
            _syscall(_LANDLOCK_ADD_RULE, ruleset, 1, ctypes.addressof(place), 0)
            os.close(descriptor)
    _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _drop_privileges(uid: int | None) -> None:
    """Leave root: another user where the interpreter can still be read, else without any power."""
    if os.getuid() == 0:
        for capability in range(64):
            if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break
        os.setgroups([])
        if uid is not None:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        else:
            number = _CAPSET[os.uname().machine]
            header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
            nothing = ctypes.create_string_buffer(24)
            _syscall(number, ctypes.addressof(header), ctypes.addressof(nothing))


def _threads() -> int:
    """Threads of this user that can be seen: none inside a namespace."""
    found = 0
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == os.getuid():
                found += len(os.listdir(f"/proc/{entry}/task"))
        except OSError:
            continue
    return found


def _settle(config: dict[str, Any]) -> None:
    """Give up, before the first program, all that no program needs."""
    threads = _threads()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if config["landlock"] is not None:
        _drop_privileges(config["landlock"]["uid"])
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if config["landlock"] is not None:
        _restrict_paths(config["landlock"]["readable"], config["landlock"]["writable"])
    # Changing the user resets both.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, config["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        # Threads: this user's others may be counted too.
        (resource.RLIMIT_NPROC, threads + 1024),
    ):
        hard = resource.getrlimit(limit)[1]
        lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lowest, lowest))
    if config["seccomp"]:
        own, of_program = map(_filter, config["seccomp"])
        numbers = (ctypes.c_ulong(number) for number in (2, of_program, 0, 0))
        _config["put_filter"] = (ctypes.c_int(_PR_SET_SECCOMP), *numbers)
        if _libc.prctl(_PR_SET_SECCOMP, 2, own, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the system call filter could not be installed")


def _filter(hexadecimal: str) -> int:
    """Where in memory a filter is, as the kernel takes it."""
    code = ctypes.create_string_buffer(bytes.fromhex(hexadecimal))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", (len(code) - 1) // 8, ctypes.addressof(code))
    )
    _kept.extend((code, program))
    return ctypes.addressof(program)


def _warm_up() -> None:
    """Import what programs use, and give every fork the same random numbers."""
    register = os.register_at_fork
    # `random` would seed itself anew in each fork: other verdicts each time, 0.1 ms a program.
    os.register_at_fork = lambda **_hooks: None
    for name in WARM:
        __import__(name)
    os.register_at_fork = register
    sys.modules["random"].seed(0)


def _rehearse() -> None:
    """Run a small program in here, so that what Python writes on first use is written already.

    Each fork would write it for itself: a tenth of its page faults.
    """
    nothing = os.open("/dev/null", os.O_WRONLY)
    text = "def f(n):\n    return [(i, {i: i / 2}, str(i)) for i in n]\n"
    program = compile(text, MODULE, "exec", dont_inherit=True)
    job = {"setup": "", "marker": "", "output_bytes": 1 << 20}
    address_space = resource.getrlimit(resource.RLIMIT_AS)
    # The last one raises.
    for sources in (("f(range(3))", "f([0])"), ("f({1.5})", "f(())", "f(0)")):
        tests = [(kind, _code(kind, one)) for one in sources for kind in ("value", "truth", "run")]
        for _ in range(20):
            sys.modules[MODULE] = types.ModuleType(MODULE)
            os.getppid()
            os.close(os.dup(nothing))
            resource.setrlimit(resource.RLIMIT_AS, address_space)
            _prctl(*_get_filter)
            _begin(job, program, tests, nothing)
    _compiled.clear()
    os.close(nothing)


def main() -> None:
    """Serve jobs from standard input until it closes."""
    jobs, replies = os.dup(0), os.dup(1)
    config = _receive(jobs)
    _warm_up()
    os.chdir("/")
    _config.update(config)
    _settle(config)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _rehearse()
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    # What every program finds is made here: after its fork, each would pay for it.
    for name in (MODULE, "__main__"):
        sys.modules[name] = types.ModuleType(name)
    sys.argv = [MODULE]
    # As deep as a script's own: the frames above are ours, not the program's.
    sys.setrecursionlimit(1000 + 4)
    gc.collect()
    gc.disable()
    _reply(replies, {"ready": True, "python": sys.version.split()[0], "uid": os.getuid()})
    while True:
        _examine(marshal.loads(_frame(jobs)), jobs, replies)  # noqa: S302  from our parent


if __name__ == "__main__":
    main()
