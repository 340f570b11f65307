"""How far long steps are: a bar for each on a terminal, else a line for each every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fim_eval.cli.console import say

LINE_EVERY_S = 10.0
BAR_EVERY_S = 0.2


class Step:
    """One long step: what is done of it, what failed, how fast it goes."""

    def __init__(
        self,
        name: str,
        done_word: str,
        failed_word: str,
        *,
        tell: Callable[[Step], None],
        every_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a step.

        Args:
            name: shown in front; empty where there is one step only.
            done_word: what becomes of an item, as in "asked".
            failed_word: what it is called if nothing comes of it, as in "failed".
            tell: called when there is something new to show.
            every_s: no oftener than so.
            clock_s: monotonic.
        """
        self.name = name
        self.total = self.done = self.failed = self.retries = self.tokens = self.in_flight = 0
        self._words = done_word, failed_word
        self._tell = tell
        self._every_s = every_s
        self._clock_s = clock_s
        self._done_before = 0
        self._started_s = self._told_s = self._now_s = clock_s()

    def start(self, total: int, left: int) -> None:
        """So many items there are, so many are left; rates count from here."""
        self.total = total
        self.done = self._done_before = total - left
        self.tokens = 0
        self._started_s = self._now_s = self._clock_s()
        self._tell(self)

    def advance(self, failed: bool, *, tokens: int = 0, retries: int = 0) -> None:
        """One item more."""
        self.done += 1
        self.failed += failed
        self.tokens += tokens
        self.retries += retries
        self._now_s = self._clock_s()
        if self._now_s - self._told_s >= self._every_s:
            self._told_s = self._now_s
            self._tell(self)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done >= self.total

    def line(self) -> str:
        """Where the step stands, for a log."""
        name = f"{self.name}: " if self.name else ""
        return f"{name}{self.done}/{self.total} {self._words[0]}, {self.detail()}"

    def detail(self) -> str:
        """What failed, how fast it went up to the last item, how long it will take still."""
        seconds = max(self._now_s - self._started_s, 1e-3)
        rate = (self.done - self._done_before) / seconds
        parts = [f"{self.failed} {self._words[1]}", f"{_short(rate)}/s"]
        if self.tokens:
            parts.append(f"{_short(self.tokens / seconds)} tokens/s")
        if self.in_flight and not self.is_done:
            parts.append(f"{self.in_flight} in flight")
        if self.retries:
            parts.append(f"{self.retries} retries")
        if rate > 0 and not self.is_done:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)


def _short(rate: float) -> str:
    """A rate with two digits at least.

    >>> _short(0.42), _short(7.25), _short(1234.5)
    ('0.4', '7.2', '1,234')
    """
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def _duration(seconds: float) -> str:
    """A time to wait, as people say it.

    >>> _duration(42.0), _duration(600.0), _duration(9000.0)
    ('42 s', '10 min', '2 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def steps(done_word: str, failed_word: str) -> Iterator[Callable[[str], Step]]:
    """Show steps, one or several at a time, on standard error.

    Args:
        done_word: as for `Step`.
        failed_word: as for `Step`.

    Yields:
        What begins a step by its name.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
    from rich.table import Column

    console = Console(stderr=True)
    if not console.is_terminal:

        def tell_line(step: Step) -> None:
            if step.done:
                say(step.line())

        def begin_line(name: str) -> Step:
            return Step(name, done_word, failed_word, tell=tell_line, every_s=LINE_EVERY_S)

        yield begin_line
        return

    columns = (
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=36)
        ),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False, style="dim"),
    )
    bars: dict[int, tuple[Step, TaskID]] = {}
    with Progress(*columns, console=console) as shown:

        def tell_bar(step: Step) -> None:
            _, bar = bars[id(step)]
            shown.update(bar, total=step.total, completed=step.done, detail=step.detail())

        def begin_bar(name: str) -> Step:
            step = Step(name, done_word, failed_word, tell=tell_bar, every_s=BAR_EVERY_S)
            bars[id(step)] = step, shown.add_task(name, total=None, detail="")
            return step

        yield begin_bar
        for step, _ in bars.values():
            tell_bar(step)
