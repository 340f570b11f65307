"""Runs programs that a model wrote, and says what it saw of each. Knows no task and no answer.

Covered, by `namespaces` (bubblewrap) and by `landlock`:
    no file can be written, made, removed, or changed in owner, mode or time; no network, no process
    but its own, no signal to any other, no other program started, no environment, no privileges;
    limits on processor time, clock time, address space, descriptors and on what is sent back;
    nothing is left when the next program begins.
Covered by `namespaces` only:
    no file can be seen but the interpreter's and /usr; no process can be seen. Under `landlock`
    names, sizes and times of other files can be asked for, but neither their content nor a listing.
Not covered:
    a fault in the kernel; side channels (timing, caches); what a program learns from the
    interpreter's own memory, in which earlier programs of the same worker have been computed (no
    expected value is ever there); with `none`, everything.
Refused to honest programs too: starting processes, writing files, sockets.
"""

from fim_eval.sandbox.jail import Jail
from fim_eval.sandbox.pool import Examined, Job, run_jobs
from fim_eval.sandbox.probe import find_jail, tiers
from fim_eval.sandbox.worker import Limits

__all__ = ["Examined", "Jail", "Job", "Limits", "find_jail", "run_jobs", "tiers"]
