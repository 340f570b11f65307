"""Which tiers of isolation this machine offers: found by entering them and trying to get out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fim_eval.errors import IsolationError
from fim_eval.judge import Check, Examination, rule
from fim_eval.sandbox.jail import Jail, NotOfferedError, landlock, namespaces, unconfined
from fim_eval.sandbox.worker import Limits, SandboxError, Zygote
from fim_eval.words import Isolation, IsolationChoice

ATTEMPTS = """\
import os
import socket


def refused(action):
    try:
        action()
    except OSError:
        return True
    return False


def write():
    for folder in ("/", "/tmp", "/dev/shm", "/var/tmp"):
        if not refused(lambda: open(folder + "/fim-eval-probe", "w")):
            os.unlink(folder + "/fim-eval-probe")
            return False
    return True
"""
"""A program that tries what no judged program may do. It starts nothing that could stay."""

EXAMINATION = Examination(
    problem_id="probe",
    setup="",
    checks=tuple(
        Check("value", source, "==", expected=True)
        for source in (
            "write()",
            "refused(socket.socket)",
            "refused(os.fork)",
            "refused(lambda: os.kill(os.getppid(), 0))",
            "refused(lambda: os.listdir('/root' if os.path.isdir('/root') else '/home'))",
            "refused(lambda: open('/proc/1/environ').read())",
            "os.environ.get('FIM_EVAL_API_KEY') is None",
        )
    ),
    evidence="values",
    tests_sha256="",
)


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier, and whether it is to be had here."""

    isolation: Isolation
    jail: Jail | None
    reason: str
    """Why it is not, or what holds a program if it is."""


def tiers() -> list[Tier]:
    """Every tier that isolates, best first, each tried out: half a second in all."""
    return [_tried("namespaces", namespaces), _tried("landlock", landlock)]


def find_jail(choice: IsolationChoice, notice: Callable[[str], None]) -> Jail:
    """The best tier this machine offers, or the one that was asked for.

    Args:
        choice: `auto` takes the best; `none` has to be asked for by name.
        notice: told when the best tier is not to be had, with what would help.

    Raises:
        IsolationError: it is not offered; the message says why, for each tier.
    """
    if choice == "none":
        notice(
            "isolation none: model-written programs run with all of your rights; "
            "only on a machine that you can throw away"
        )
        return unconfined()
    found: list[Tier] = []
    for isolation, make in (("namespaces", namespaces), ("landlock", landlock)):
        if choice not in ("auto", isolation):
            continue
        tier = _tried(isolation, make)  # type: ignore[arg-type]  # the words of the table above
        if tier.jail is not None:
            for worse in found:
                notice(f"isolation {worse.isolation}: {worse.reason}; using {isolation}")
            return tier.jail
        found.append(tier)
    reasons = "; ".join(f"{tier.isolation}: {tier.reason}" for tier in found)
    raise IsolationError(
        f"programs cannot be isolated here ({reasons}). --isolation none would run model-written "
        "code with all of your rights: only on a machine that you can throw away"
    )


def _tried(isolation: Isolation, make: Callable[[], Jail]) -> Tier:
    try:
        jail = make()
        with Zygote(jail) as zygote:
            execution = zygote.run(
                ATTEMPTS,
                "",
                [(check.kind, check.source) for check in EXAMINATION.checks],
                Limits(time_s=10.0),
                marker="",
                careful=False,
                patience_s=20.0,
                on_slow=lambda: None,
            )
    except (NotOfferedError, SandboxError) as error:
        return Tier(isolation, None, str(error))
    ruling = rule(EXAMINATION, execution)
    if ruling.outcome != "passed":
        failed = f"a test program got out of it or could not run ({ruling.detail})"
        return Tier(isolation, None, failed)
    return Tier(isolation, jail, jail.detail)
