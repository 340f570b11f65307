"""How an interpreter is put into each tier of isolation. Starts nothing.

Tier 1, `namespaces`: bubblewrap (https://github.com/containers/bubblewrap). Everything that can be
seen is the interpreter and /usr, read-only. As root, the user is changed inside, after the mounts:
whoever runs the interpreter need not be able to reach its folder outside.
Tier 2, `landlock`: for hosts that refuse namespaces, as Docker does by default. The same process
without them, restricted by Landlock and a system call filter.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fim_eval.sandbox.seccomp import MACHINES, seccomp_filters
from fim_eval.words import Isolation

NOBODY = 65534
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    # Sets of strings iterate in the same order in every execution.
    "PYTHONHASHSEED": "0",
    # One arena: each further one reserves 64 MB of address space for a thread.
    "MALLOC_ARENA_MAX": "1",
    # Calls between libraries are resolved at the start, not in each fork again.
    "LD_BIND_NOW": "1",
    "PATH": "/usr/bin:/bin",
}
"""All that a jailed interpreter knows of ours."""


class NotOfferedError(Exception):
    """This machine does not offer the tier; the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Jail:
    """One tier of isolation, ready to start interpreters in."""

    isolation: Isolation
    enter: tuple[str, ...]
    """Command that runs the interpreter inside; empty where it is restricted from within."""

    config: dict[str, Any]
    """What the zygote is told to give up."""

    detail: str
    """For people: what holds a program, and as whom it runs."""

    def command(self, zygote: int) -> list[str]:
        """The zygote's command line; its compiled code is read from the descriptor `zygote`."""
        start = f"import marshal; exec(marshal.loads(open({zygote}, 'rb').read()))"
        return [*self.enter, interpreter(), "-S", "-s", "-P", "-B", "-c", start]


def interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def namespaces() -> Jail:
    """Tier 1.

    Raises:
        NotOfferedError: bubblewrap is missing, or the machine is one without a filter.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise NotOfferedError(
            "bubblewrap is not installed (apt-get install bubblewrap, dnf install bubblewrap)"
        )
    is_root = os.getuid() == 0
    enter = [
        bubblewrap, "--die-with-parent", "--new-session", "--as-pid-1",
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--hostname", "jail",
    ]  # fmt: skip
    if not is_root:
        enter += ["--unshare-user", "--disable-userns"]
    for folder in readable_folders():
        enter += ["--ro-bind", folder, folder]
    for name in ("bin", "lib", "lib32", "lib64"):
        link = Path("/", name)
        if link.is_symlink():
            enter += ["--symlink", str(link.readlink()), str(link)]
    # Made by hand: bubblewrap would make the folders of single files for their owner alone.
    enter += ["--dir", "/etc", "--dir", "/dev"]
    enter += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        enter += ["--dev-bind", device, device]
    enter += ["--remount-ro", "/", "--chdir", "/"]
    if not is_root:
        return Jail("namespaces", tuple(enter), _config(), f"bubblewrap, user {os.getuid()}")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise NotOfferedError("setpriv, which drops root, is not installed (package util-linux)")
    # The interpreter's user is another before its first instruction; a user namespace would only
    # rename root, whom the limit on processes does not bind.
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        enter += ["--cap-add", capability]
    enter += [
        setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
        "--inh-caps=-all", "--bounding-set=-all",
    ]  # fmt: skip
    return Jail("namespaces", tuple(enter), _config(), f"bubblewrap, user {NOBODY}")


def landlock() -> Jail:
    """Tier 2. Whether the kernel has Landlock shows when it is entered.

    Raises:
        NotOfferedError: there is no system call filter for this kind of machine.
    """
    config = _config()
    is_root = os.getuid() == 0
    # Another user only where that user can still read the standard library.
    uid = NOBODY if is_root and _readable_by_all(Path(interpreter())) else None
    config["landlock"] = {
        "readable": [*readable_folders(), "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"],
        "writable": ["/dev/null", "/dev/zero"],
        "uid": uid,
    }
    runs_as = f"user {NOBODY if uid is not None else os.getuid()}"
    if is_root and uid is None:
        runs_as += " without capabilities: no other user can read the interpreter"
    return Jail("landlock", (), config, f"Landlock and seccomp, {runs_as}")


def unconfined() -> Jail:
    """No isolation: limits on time and memory, and nothing else."""
    config: dict[str, Any] = {"landlock": None, "seccomp": [], "file_bytes": 1 << 20}
    return Jail("none", (), config, f"no isolation, user {os.getuid()}")


def readable_folders() -> list[str]:
    """What a jailed interpreter needs to read: /usr, its own home, and its libraries."""
    folders = {Path("/usr"), Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve()}
    folders |= {path for name in ("lib", "lib64") if (path := Path("/", name)).is_dir()}
    apart = {path for path in folders if not path.is_symlink()}
    return sorted(
        str(path) for path in apart if not any(parent in apart for parent in path.parents)
    )


def _config() -> dict[str, Any]:
    machine = os.uname().machine
    if machine not in MACHINES:
        raise NotOfferedError(
            f"there is no system call filter for {machine}, only for {', '.join(MACHINES)}"
        )
    filters = [code.hex() for code in seccomp_filters(machine)]
    return {"landlock": None, "seccomp": filters, "file_bytes": 0}


def _readable_by_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)
