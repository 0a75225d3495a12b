"""What a long work reports to: a bar on the terminal, or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Silent:
    """Reports nothing and never asks the work to stop."""

    def step(self, phase: str, done: int, total: int) -> bool:
        return True


@contextlib.contextmanager
def restoring() -> Iterator[None]:
    """Where the block fails, gives the terminal on stderr its cursor and an empty line, as a Bar does when it ends, but
    not in a process that crashed or was killed."""
    try:
        yield
    except BaseException:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.control import Control
            from rich.segment import ControlType

            codes = (ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), ControlType.SHOW_CURSOR)
            Console(stderr=True).control(Control(*codes))
        raise


class Bar:
    """A bar on stderr for each phase that is going on, under a description; nothing where stderr is no terminal.

    A phase that begins while another is going on is drawn below it, indented, and leaves when it is done.

    Example::

        with Bar("engine digits-int8") as progress:
            backend.build(onnx_path, inputs, config, progress)

    Args:
        description: the title. transient: the bars leave the terminal when the block ends. console: where to draw.
    """

    def __init__(self, description: str, *, transient: bool = True, console: Console | None = None) -> None:
        self._description, self._transient, self._console = description, transient, console
        self._open: dict[str, Any] = {}
        self._bars: Any = None

    def __enter__(self) -> Bar:
        if self._console is None and not sys.stderr.isatty():
            return self
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = self._console or Console(stderr=True)
        self._bars = Progress(*columns, console=console, transient=self._transient)
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def step(self, phase: str, done: int, total: int) -> bool:
        """Draws that `done` of `total` steps of a phase are done (total 0: unknown). Always goes on."""
        if self._bars is None:
            return True
        if phase not in self._open:
            title = self._description if not self._open else "  " * len(self._open)
            self._open[phase] = self._bars.add_task(f"{title} {phase}", total=total or None)
        task = self._open[phase]
        self._bars.update(task, completed=done, total=total or None)
        if total and done >= total:
            del self._open[phase]
            if self._open or self._transient:
                self._bars.remove_task(task)
        return True
